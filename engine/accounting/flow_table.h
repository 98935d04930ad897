// The living flows of one family and how much of each was already accounted: events and dump
// entries in, growth out.
//
// Thread-compatible: one owner, no lock. Deterministic: the same events in the same order give the
// same growth. The only clock is the `now_ns` of each call, used where the kernel gives no time.
//
// The life of a flow. One identity (tuple, zone, id) may live several times. The kernel's start
// time distinguishes these incarnations; dumps and DESTROY carry it if nf_conntrack_timestamp is
// on, NEW and UPDATE never do.
//
//  - It begins with its NEW, or with the first dump that shows it. A NEW of a flow that is known
//    changes nothing, unless it shows a close: the kernel may deliver it any number of times, with
//    the present state (another listener that asked for reliable delivery, and does not read, is
//    enough). An entry made by NEW has a guessed start until a dump or DESTROY gives the exact one.
//  - It counts from zero if it began after the second to last whole dump did: two dumps would have
//    shown an older flow. An older flow that is not known counts only from its present counters on.
//    While the first dump runs, such flows are older than the engine; after that, something is
//    missing, and TakeLoss says so.
//  - It ends with its DESTROY, or when a later incarnation is shown, or unreported: when two whole
//    dumps in a row, requested after its birth, do not show it (at the end of a run, one: see
//    EndRun). A whole dump makes the kernel report the flows that have expired, so only lost or
//    suppressed events leave such flows (an overrun, a rule `ct event set new`,
//    nf_conntrack_events=2). They are forgotten, TakeLoss counts them, and ForgottenMemory knows
//    what was accounted of the last ones, in case they are shown again.
//  - Counters that fall are a new start: somebody zeroed them, or an end was missed. TakeLoss says
//    so.
//  - A dump and the events come by different sockets, so a dump may show a flow after its DESTROY.
//    Each destroyed incarnation is remembered as long as it could count from zero (or until
//    DestroyedMemory::kMax others were destroyed) and never counted again.
//
// After an overrun, a whole dump requested since (resync) shows which flows live. The loss is
// explained if every dropped event was the NEW of a flow that began within it or the UPDATE of a
// close, and if no known flow is missing (its DESTROY would have been lost).
//
// Closes. An UPDATE, or a repeated NEW, dates a close to the millisecond. Where neither comes
// (mode=light, or a rule masks them), a dump or the DESTROY shows that there was a close, and the
// kernel's timeouts give its time: see ClosedBefore.
//
// Ends. Every accounted DESTROY, of any protocol, counts as one flow that ended. Not counted: a
// repeated DESTROY, that of a flow older than the engine that no dump has shown, and an unreported
// end.
//
// Every call is short, however many flows there are: tables grow in parts, and SweepSome clears
// destroyed_ and looks up the flows that dumps did not show, also in parts.
//
// Restarts. What was accounted of each flow can be copied at one moment (BeginSnapshot) and given
// to another table later (Restore). The copy is made in parts: a part that is about to change is
// copied first. A flow that is not in the copy counts from zero if it began after the last dump
// did. The copy also lists the flows that have begun since then and ended.
//
// The wall clock may be set back. Flows that start afterwards have earlier start times than their
// previous incarnations and than the engine (NoteClockSetBack).
//
// Invariant: of every incarnation the sum of all growths is at most its counters. Once its DESTROY
// was applied it equals them, unless TakeLoss or flows_lost has reported a loss. If the incarnation
// is older than the engine, both exclude what its counters were when the engine first saw it.
#ifndef CTACCT_ENGINE_ACCOUNTING_FLOW_TABLE_H_
#define CTACCT_ENGINE_ACCOUNTING_FLOW_TABLE_H_

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "engine/accounting/accounting_table.h"
#include "engine/accounting/destroyed_memory.h"
#include "engine/accounting/flow_snapshot.h"
#include "engine/accounting/forgotten_memory.h"
#include "engine/accounting/staggered_map.h"
#include "netlink/flow_event.h"
#include "netlink/tcp_timeouts.h"

namespace ctacct {

// What one event changed, to be added to the accounting table under the flow's key.
struct FlowChange {
  TrafficSums growth;
  int open_change = 0;  // Of the number of open connections: -1, 0 or 1.
};

// What the kernel has not reported, or not counted, although no event is known to be lost.
struct FlowLoss {
  bool unreported = false;  // Flows ended unreported, or were missed; counters were zeroed.
  bool uncounted = false;   // Flows without counters or start times: settings were off.
  uint64_t flows = 0;       // That ended unreported.
  int64_t since_ns = 0;     // Since the Unix epoch; only if unreported: nothing is missing before.
};

// What an UPDATE to this state reports is the connection's close.
inline bool ClosesConnection(TcpState state) {
  return state == TcpState::kCloseWait || state == TcpState::kLastAck || state == TcpState::kClose;
}

// The connection is past its close, whenever that was.
template <typename Address>
bool HasClosed(const BasicFlowEvent<Address>& event) {
  return event.has_tcp_state &&
         (ClosesConnection(event.tcp_state) || event.tcp_state == TcpState::kTimeWait);
}

template <typename Address>
class BasicFlowTable {
 public:
  // Of this family.
  using FlowIdentity = BasicFlowIdentity<Address>;
  using FlowEvent = BasicFlowEvent<Address>;
  using FlowRecord = BasicFlowRecord<Address>;

  // `counts` is where losses and oddities are counted; it must outlive the table.
  explicit BasicFlowTable(WorkerCounts* counts, const TcpTimeouts& timeouts = {})
      : counts_(counts), timeouts_(timeouts) {}

  BasicFlowTable(const BasicFlowTable&) = delete;
  BasicFlowTable& operator=(const BasicFlowTable&) = delete;

  // Accounting begins: flows that start later count from zero. `timestamps_on`: they have start
  // times, so that one without is older. Only the first call has an effect.
  void Start(int64_t now_ns, bool timestamps_on);

  // After Start, before all else: what another run knew when it took a snapshot. Flows that are not
  // among those restored and started since `known_since_ns` count from zero. `events_kept`: no
  // event was lost since then; else it was as after an overrun.
  void BeginRestore(int64_t known_since_ns, bool events_kept);
  // After Start: events that are read first have waited since before it. A NEW among them is no
  // repeated one, and its flow did not start when it was read.
  void NoteEventsKept() { events_kept_ = true; }
  // True if it counts as an open connection.
  bool Restore(const FlowRecord& record);

  // False: the event changes nothing in this table (an UPDATE that closes nothing) and need not be
  // applied.
  static bool NeedsLookup(const FlowEvent& event) {
    return event.kind != FlowEventKind::kUpdate ||
           (event.has_tcp_state && ClosesConnection(event.tcp_state));
  }

  // False: it brings no growth (a birth).
  static bool BringsGrowth(const FlowEvent& event) {
    return event.kind != FlowEventKind::kNew || HasClosed(event);
  }

  // For batches: hash all events; Prefetch all; PrefetchEntry all; Apply all, in order. At a
  // million flows this is several times as fast as one by one, and at any size not slower.
  static size_t Hash(const FlowIdentity& identity);
  void Prefetch(const FlowEvent& event, size_t hash) const;
  void PrefetchEntry(const FlowEvent& event, size_t hash) const;

  // The flow is in the table: it is accounted.
  bool Contains(const FlowIdentity& identity) const {
    return flows_.FindEntry(identity, Hash(identity)) != nullptr;
  }

  // Applies an event, after Start. `hash`: of its identity. `now_ns`: when its datagram was
  // received, since the Unix epoch.
  FlowChange Apply(const FlowEvent& event, size_t hash, int64_t now_ns);
  FlowChange Apply(const FlowEvent& event, int64_t now_ns) {
    return Apply(event, Hash(event.identity), now_ns);
  }

  // A dump's first and last datagram, after Start. `now_ns`: when it was requested, if that is
  // known: what is born later need not be in it. `asked_since_overrun`: false if it may have been
  // made before an overrun was over, and does not show what lives since. `whole`: it ended without
  // an error and the kernel did not cut it short.
  void BeginDump(int64_t now_ns, bool asked_since_overrun = true);
  void FinishDump(bool whole);
  // A dump was requested at this time before the events that follow were received, and BeginDump
  // may come after them. It need not show the flows that begin with them.
  void NoteDumpRequested(int64_t requested_ns) { dump_requested_ns_ = requested_ns; }
  // The run ends, and all events that the kernel sent before the last dump's end were applied: a
  // flow that lived before that dump, and that it does not show, has ended unreported. SweepSome
  // looks for them.
  void EndRun();
  // After FinishDump: looks at some of the flows that have ended unreported, at most about
  // kSweepSlots, forgets them and appends those that were open connections. Then clears some of the
  // memory of destroyed incarnations that EndInterval no longer needs. True if there is more to do.
  // Between two calls events may be applied: a flow still to be looked at is looked at before its
  // event is applied, so the sums are the same whenever this is called, as long as ForgottenMemory
  // remembers all that are forgotten.
  [[nodiscard]] bool SweepSome(std::vector<FlowIdentity>* no_longer_open);

  // Events were lost between these moments, since the Unix epoch: DESTROYs of any flow may have
  // been among them.
  void NoteOverrun(int64_t began_ns, int64_t ended_ns);

  // What is missing since the last call.
  [[nodiscard]] FlowLoss TakeLoss() { return std::exchange(loss_, {}); }

  // Copies the table as it is now, during the calls of SnapshotSome that follow; all other calls
  // may come between them. `seal` identifies the snapshot. If the previous one is not taken yet,
  // this one is left out, and the stream says so.
  void BeginSnapshot(uint64_t seal, SnapshotStream* out) {
    FinishSnapshot();
    BeginSnapshot(seal, out, out->IsTaken());
  }
  // The same for one of several tables that share a snapshot; none of their snapshots may be
  // running. `taken`: the previous one is taken.
  void BeginSnapshot(uint64_t seal, SnapshotStream* out, bool taken);
  // No snapshot is made for `seal`, and the stream says so.
  void LeaveOutSnapshot(uint64_t seal, SnapshotStream* out);
  // Copies at most about kSweepSlots. False if that was all, or the stream is full.
  bool SnapshotSome();
  // Copies all that is left, however much waits in the stream.
  void FinishSnapshot();
  bool snapshot_running() const { return snapshot_ != nullptr; }

  // The clock shows `now_ns`, and has shown a later time before.
  void NoteClockSetBack(int64_t now_ns);

  // Ages the memory of destroyed incarnations. Call at the end of each interval.
  void EndInterval();

  // True until a whole dump that follows an overrun has ended.
  bool needs_resync() const { return needs_resync_; }
  // After that: the number of flows that are missing, whose DESTROYs must have been among the lost
  // events, and the number of lost events whose contents are known.
  size_t flows_lost() const { return flows_lost_; }
  size_t events_explained() const { return events_explained_; }
  size_t size() const { return flows_.size(); }
  size_t MemoryBytes() const {
    return flows_.MemoryBytes() + destroyed_.MemoryBytes() + superseded_.MemoryBytes() +
           early_closes_.MemoryBytes() + forgotten_.MemoryBytes();
  }

  // Flows that close while the first dump runs, before it shows them; that dump takes seconds. If
  // there are more, the others are taken for closed before the engine began.
  static constexpr size_t kEarlyClosesMax = 1 << 20;

  // Flows followed by another of the same tuple and id whose DESTROY is still to come: few, unless
  // very many DESTROYs were lost. If there are more, the others are taken for destroyed.
  static constexpr size_t kSupersededMax = 1 << 20;

  // A tenth of a millisecond.
  static constexpr size_t kSweepSlots = 8192;

  // Flows that begin after a dump has begun and end before a snapshot. If there are more, a flow
  // that began before one of those left out does not count from zero after a restart.
  static constexpr size_t kEndedMax = 1 << 14;

 private:
  // Of IPv4 a cache line. It begins with the FlowIdentity, with flags in the byte that is zero
  // there.
  struct Flow {
    Address src;
    Address dst;
    uint16_t src_port = 0;
    uint16_t dst_port = 0;
    uint16_t zone = 0;
    uint8_t protocol = 0;
    bool start_exact : 1 = false;
    bool seen_new : 1 = false;
    bool shown : 1 = false;   // By a dump.
    bool closed : 1 = false;  // Its close was counted, or happened before the engine saw it.
    bool open : 1 = false;    // Counts as an open connection.
    bool restored : 1 = false;
    bool skipped : 1 = false;   // The last dump's entry may have been its forerunner's.
    bool explains : 1 = false;  // Its NEW is counted in events_explained_.
    uint32_t id = 0;
    // dump_index_ when a dump showed it last, or when it was born; then, after a loss and while no
    // dump was begun since, that of the next dump.
    uint32_t last_seen = 0;
    // Exact if start_exact; else when NEW happened or it was first seen. If its NEW waited from
    // before a restart, the complement of when it was read: that says nothing of its duration.
    int64_t start_ns = 0;
    FlowCounters original;  // Accounted so far.
    FlowCounters reply;

    Flow() = default;
    explicit Flow(const FlowIdentity& identity)
        : src(identity.src),
          dst(identity.dst),
          src_port(identity.src_port),
          dst_port(identity.dst_port),
          zone(identity.zone),
          protocol(identity.protocol),
          id(identity.id) {}
    FlowIdentity Identity() const { return {src, dst, src_port, dst_port, zone, protocol, 0, id}; }
  };
  static_assert(sizeof(Flow) == 56 + 2 * sizeof(Address));
  struct FlowTraits {
    using Key = FlowIdentity;
    using Entry = Flow;
    static size_t Hash(const FlowIdentity& identity) { return BasicFlowTable::Hash(identity); }
    static size_t HashOf(const Flow& flow) { return BasicFlowTable::Hash(flow.Identity()); }
    static bool Matches(const Flow& flow, const FlowIdentity& identity);
    static void Construct(Flow* flow, const FlowIdentity& identity) { new (flow) Flow(identity); }
  };
  // Of 16 M flows, 8,192 may move when one is added. With more shards, 50,000 flows, which is much
  // for one gateway, would lie on more pages than a TLB holds. Of IPv6 half as many: see
  // kWorkersMax. Its entries are larger, and grow by an eighth to be packed more tightly.
  using Flows = StaggeredTable<FlowTraits, sizeof(Address) == 4 ? 2048 : 1024,
                               sizeof(Address) == 4 ? 50 : 12>;

  // Flows that were last seen at one dump index, or at several.
  struct SeenAtDump {
    size_t flows = 0;
    int64_t began_ns = 0;  // Since the Unix epoch: when that dump began, or the first of them.
  };

  struct EarlyClose {
    FlowIdentity identity;
    int64_t closed_ns;
  };
  struct EarlyCloseTraits {
    using Key = FlowIdentity;
    using Entry = EarlyClose;
    static size_t Hash(const FlowIdentity& identity) { return BasicFlowTable::Hash(identity); }
    static size_t HashOf(const EarlyClose& close) { return BasicFlowTable::Hash(close.identity); }
    static bool Matches(const EarlyClose& close, const FlowIdentity& identity) {
      return close.identity == identity;
    }
    static void Construct(EarlyClose* close, const FlowIdentity& identity) {
      *close = {identity, 0};
    }
  };
  using EarlyCloses = StaggeredTable<EarlyCloseTraits, 256>;
  using Superseded = StaggeredMap<uint64_t, Flow, 256>;

  FlowChange ApplyNew(const FlowEvent& event, size_t hash, int64_t now_ns);
  FlowChange ApplyUpdate(const FlowEvent& event, size_t hash, int64_t now_ns);
  FlowChange ApplyDump(const FlowEvent& event, size_t hash, int64_t now_ns);
  FlowChange ApplyDestroy(const FlowEvent& event, size_t hash, int64_t now_ns);

  void ForgetEarlyClose(const FlowIdentity& identity, size_t hash);
  // The flow, swept; nullptr if there is none.
  Flow* Find(const FlowIdentity& identity, size_t hash, FlowChange* change);
  void Erase(Flow* flow, size_t hash);
  // last_seen and its tally. Untally before last_seen changes or the flow is erased.
  void SetLastSeen(uint32_t dump_index, Flow* flow);
  void Untally(const Flow& flow);
  // Takes flows last seen before `dump_index` out of the tally. They are reported as lost; told_
  // counts them until they are erased or shown again.
  SeenAtDump TakeSeenBefore(uint32_t dump_index);
  // Something is missing since a moment. `flows`: that ended unreported.
  void NoteUnreported(size_t flows, int64_t since_ns);

  // Which incarnation an event belongs to: one after that of `flow`, that one itself, or one before
  // it. If the entry was made by a NEW, it is only known when that was read: the flow began before,
  // by any time if the engine was held. No DESTROY of a forerunner is read after it unless it was
  // read already, so that what began recently enough to be known (BeganKnown) is the flow itself.
  // If none of the three is true, it cannot be known.
  bool IsFollower(const FlowEvent& event, const Flow& flow) const;
  bool IsOwn(const FlowEvent& event, const Flow& flow) const;
  bool IsForerunner(const FlowEvent& event, const Flow& flow) const;
  // What began then and is not known has not been accounted.
  bool BeganKnown(int64_t start_ns) const;
  // When the NEW was read that made an entry: of its start_ns.
  static int64_t ReadNs(int64_t start_ns) { return start_ns < 0 ? ~start_ns : start_ns; }
  // Of an incarnation laid aside: one that no dump has shown has no start time yet.
  static uint64_t LifeFingerprint(const Flow& flow, size_t hash);
  // The same for superseded_: of several of a tuple that no dump has shown, the first has it, and
  // the others have one by when their NEW was read.
  uint64_t SupersededFingerprint(const Flow& flow, size_t hash) const;
  // True if the incarnation was known: another followed it, or it was forgotten. `flow` gets what
  // is accounted so far.
  bool TakeKnown(const FlowEvent& event, size_t hash, Flow* flow);
  bool AnyLaidAside() const { return !superseded_.empty() || !forgotten_.empty(); }
  // Where accounting of a flow that is not in flows_ begins. `flow` gets what is accounted so far:
  // nothing, what was accounted before (TakeKnown), or its present counters.
  enum class Beginning { kZero, kKnown, kPresent };
  Beginning BeginAccounting(const FlowEvent& event, size_t hash, int64_t now_ns,
                            bool if_start_unknown, Flow* flow);
  // A DESTROY of such a flow, or of one that the last whole dump did not show, may come after the
  // dump that followed its end. Then what it reports belongs to an earlier interval.
  void NoteLate(const FlowEvent& event, int64_t now_ns, Beginning beginning);
  // A NEW or UPDATE of this moment was not read. True if it was lost in the overrun.
  bool NoteExplained(int64_t happened_ns);
  // A NEW of this moment was not read, and should have been read by now. If it was not lost, a rule
  // hides such events. Then nothing explains a loss any more: what a rule hides within one looks
  // the same.
  void NoteHidden(int64_t happened_ns);

  // If start times were switched off for a while, some events have none. It cannot be known which
  // incarnation they belong to.
  void NoteNoStart(const FlowEvent& event);
  // Counts an event that should have counters and has none.
  void NoteCounters(const FlowEvent& event);
  // Adds what the event's counters exceed the flow's by, and remembers them as accounted.
  void Account(const FlowEvent& event, Flow* flow, TrafficSums* growth);
  static void Close(int64_t end_ns, Flow* flow, FlowChange* change);
  static void SetOpen(bool open, Flow* flow, FlowChange* change);
  // Keeps an incarnation that another one has followed, because its DESTROY may still come.
  void Supersede(Flow* flow, size_t hash, FlowChange* change);
  // A DESTROY of an incarnation before the one in the table, which is `follower`.
  void ApplyLateDestroy(const FlowEvent& event, size_t hash, int64_t now_ns, Flow* follower,
                        FlowChange* change);
  // What a DESTROY adds to `flow`, known or not.
  void End(const FlowEvent& event, int64_t now_ns, Flow* flow, FlowChange* change);
  // When a connection closed that is now past its close. Its last packet came `in_state_ns` ago,
  // and stands for the close. The result is neither before its start nor before a dump showed it
  // open.
  int64_t ClosedBefore(int64_t now_ns, int64_t in_state_ns, const Flow& flow) const;
  int64_t TimeoutNs(TcpState state) const;
  // True if a flow first seen now counts from zero, false if from its present counters.
  bool CountsFromZero(const FlowEvent& event, int64_t now_ns, bool if_start_unknown) const;

  // `event`: a DESTROY that was accounted.
  void NoteEnded(const FlowEvent& event);

  // Before a part changes while a snapshot is made.
  void CopyShard(size_t shard);
  void CopyFlow(const Flow& flow, uint32_t flags);
  void CopyRecord(const FlowRecord& record);
  void PushChunk();
  void CopySome(size_t slots_max);
  // Flows older than the engine are known, as far as they ever will be.
  bool KnowsOlder() const { return restored_ || last_whole_ != 0; }

  bool sweeping() const { return sweep_next_ != kSweepEnd; }
  // True if the flow has ended unreported and is to be erased: it is forgotten.
  bool Sweep(const Flow& flow, FlowChange* change);

  WorkerCounts* const counts_;
  const TcpTimeouts timeouts_;
  Flows flows_;
  DestroyedMemory destroyed_;
  // Incarnations that a dump has shown to be followed by another before their DESTROY was taken, by
  // SupersededFingerprint. Kept over two dumps.
  Superseded superseded_;
  // Closes reported of flows that the first dump has not shown yet.
  EarlyCloses early_closes_;
  ForgottenMemory forgotten_;
  // For a snapshot: the flows that began at ended_since_ns_ or later and have ended, at most
  // kEndedMax.
  struct Ended {
    FlowIdentity identity;
    int64_t start_ns = 0;
  };
  std::vector<Ended> ended_;
  int64_t ended_since_ns_ = std::numeric_limits<int64_t>::max();
  // The flows, those of superseded_ too, that were last seen at each dump index from tally_floor_
  // to that of the next dump.
  std::vector<SeenAtDump> tally_{2};
  uint32_t tally_floor_ = 0;
  size_t told_ = 0;  // Flows last seen before: reported as lost already.
  FlowLoss loss_;
  // The shard to sweep next: those of flows_, then those of superseded_.
  static constexpr size_t kSweepEnd = Flows::shards() + Superseded::shards();
  size_t sweep_next_ = kSweepEnd;
  SnapshotStream* snapshot_ = nullptr;  // Where the snapshot that is being made goes.
  SnapshotChunk chunk_;
  std::bitset<Flows::shards()> copied_;
  size_t copy_next_ = 0;
  uint32_t copy_seen_since_ = 0;  // Flows last seen before have ended unreported.
  bool started_ = false;
  int64_t started_ns_ = 0;
  bool restored_ = false;
  bool restored_with_events_ = false;
  bool events_kept_ = false;
  bool clock_was_set_back_ = false;  // Start times may fall from one incarnation to the next.
  bool timestamps_on_ = false;       // Flows born since the start have start times.
  // Flows that started before this are known, or their present counters are where accounting
  // begins.
  int64_t known_since_ns_ = 0;
  // The least that the clock was set back to since a restart, until two whole dumps have ended:
  // what ended before the restart may be reported again, and is not remembered.
  int64_t set_back_to_ns_ = std::numeric_limits<int64_t>::max();
  uint32_t dump_index_ = 0;  // Dumps begun so far.
  bool dump_running_ = false;
  int64_t dump_began_ns_ = 0;
  int64_t dump_before_began_ns_ = 0;
  int64_t dump_requested_ns_ = 0;  // Not dump_began_ns_: it has not begun here yet. 0: unknown.
  uint32_t last_whole_ = 0;        // Indices of dumps; 0: none.
  uint32_t aged_at_dump_ = 0;      // dump_index_ when a generation of destroyed_ last ended.
  uint32_t whole_before_ = 0;
  int64_t whole_began_ns_ = 0;  // The last whole one, also of the run before.
  // The dump of the last NEW that may be of the flow known or of the next: two flows may end
  // unreported, and there is one entry. 0: two whole dumps ago, or never.
  uint32_t unclear_index_ = 0;
  uint32_t forget_before_ = 0;  // Flows last seen before have ended, and are reported as lost.
  bool run_ends_ = false;       // Or are reported when they are looked at.
  // After an overrun, until a whole dump begun since has ended:
  bool needs_resync_ = false;
  size_t flows_lost_ = 0;
  size_t events_explained_ = 0;
  bool events_hidden_ = false;  // By a rule: some births are not reported.
  int64_t overrun_began_ns_ = 0;
  int64_t overrun_ended_ns_ = 0;
  uint32_t resync_index_ = 0;  // The first dump begun since; 0: none yet.
};

extern template class BasicFlowTable<Ipv4Address>;
extern template class BasicFlowTable<Ipv6Address>;
using FlowTable = BasicFlowTable<Ipv4Address>;

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_FLOW_TABLE_H_
