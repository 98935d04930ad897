// The living flows and how much of each was already accounted: events and dump entries in, growth
// out.
//
// Thread-compatible: one owner, no lock. Deterministic: the same events in the same order give the
// same growth. The only clock is the `now_ns` of each call, used where the kernel gives no time.
//
// Incarnations. One identity (tuple, zone, id) may live several times. The kernel's start time
// tells its incarnations apart; dumps and DESTROY carry it if nf_conntrack_timestamp is on, NEW
// never does. So:
//
//  - An entry made by NEW has a guessed start until a dump or DESTROY gives the exact one.
//  - A NEW of a flow that is known already changes nothing: the kernel may deliver it any number of
//    times (another listener that asked for reliable delivery, and does not read, is enough).
//  - A dump and the events come by different sockets, so a dump may show a flow after its DESTROY.
//    Each destroyed incarnation is remembered for at least one whole interval (or
//    DestroyedMemory::kMax others) and never counted again.
//  - A counter that falls is a new start: somebody zeroed it, or an end was missed.
//  - A flow that a dump does not show is not dead; only a DESTROY ends it. Where its DESTROY may
//    never come, the flow is a suspect: after an overrun, and if the flow is older than the engine,
//    since the kernel may have attached no events to it. A suspect that two complete dumps in a row
//    did not show no longer counts as open. What was accounted of it is kept for
//    kForgottenAfterDumps, in case it is shown again.
//
// Closes. An UPDATE dates a close to the millisecond. Where no UPDATE comes (mode=light, and flows
// whose NEW was not seen), a dump or the DESTROY shows that there was a close, and the kernel's
// timeouts give its time: see ClosedBefore.
//
// Every call is short, however many flows there are: tables grow by parts, destroyed_ is cleared by
// parts, and the flows that a dump did not show are looked up by parts (SweepSome).
//
// Restarts. What was accounted of each flow can be copied at one moment (BeginSnapshot) and given
// to another table later (Restore). The copy is made by parts: a part that is about to change is
// copied first.
//
// The wall clock may be set back. Flows that start then have start times before those of their
// forerunners, and before the engine's own start (NoteClockSetBack).
//
// Invariant: of every incarnation the sum of all growths is at most its counters, and equals them
// once its DESTROY was applied. If the incarnation is older than the engine, both exclude what its
// counters were when the engine first saw it.
#ifndef CTACCT_ENGINE_ACCOUNTING_FLOW_TABLE_H_
#define CTACCT_ENGINE_ACCOUNTING_FLOW_TABLE_H_

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "engine/accounting/accounting_table.h"
#include "engine/accounting/destroyed_memory.h"
#include "engine/accounting/flow_snapshot.h"
#include "engine/accounting/staggered_map.h"
#include "netlink/flow_event.h"
#include "netlink/tcp_timeouts.h"

namespace ctacct {

// What one event changed, to be added to the accounting table under the flow's key.
struct FlowChange {
  TrafficSums growth;
  int open_change = 0;  // Of the number of open connections: -1, 0 or 1.
};

class FlowTable {
 public:
  // `counts` is where losses and oddities are counted; it must outlive the table.
  explicit FlowTable(WorkerCounts* counts, const TcpTimeouts& timeouts = {})
      : counts_(counts), timeouts_(timeouts) {}

  FlowTable(const FlowTable&) = delete;
  FlowTable& operator=(const FlowTable&) = delete;

  // Accounting begins: flows that start later count from zero. `timestamps_on`: they have start
  // times, so that one without is older. Only the first call has an effect.
  void Start(int64_t now_ns, bool timestamps_on);

  // After Start, before all else: what another run knew when it took a snapshot. Flows that are not
  // among those restored and started since `known_since_ns` count from zero. `events_kept`: no
  // event was lost since then; else it was as after an overrun.
  void BeginRestore(int64_t known_since_ns, bool events_kept);
  // True if it counts as an open connection.
  bool Restore(const FlowRecord& record);

  // False: the event says nothing to this table (an UPDATE that closes nothing), and need not be
  // applied.
  static bool NeedsLookup(const FlowEvent& event);

  // For batches: hash all events; Prefetch all; PrefetchEntry all; Apply all, in order. At a
  // million flows this is several times as fast as one by one, and at any size not slower.
  static size_t Hash(const FlowIdentity& identity);
  void Prefetch(const FlowEvent& event, size_t hash) const;
  void PrefetchEntry(const FlowEvent& event, size_t hash) const;

  // Applies an event, after Start. `hash`: of its identity. `now_ns`: when its datagram was
  // received, since the Unix epoch.
  FlowChange Apply(const FlowEvent& event, size_t hash, int64_t now_ns);
  FlowChange Apply(const FlowEvent& event, int64_t now_ns) {
    return Apply(event, Hash(event.identity), now_ns);
  }

  // A dump's first and last datagram, after Start. `asked_since_overrun`: false if it may have been
  // made before an overrun was over, and does not tell what lives since. `complete`: it ended
  // without an error.
  void BeginDump(int64_t now_ns, bool asked_since_overrun = true);
  void FinishDump(bool complete);
  // After FinishDump: looks at some of the flows that the dump may have declared dead, at most
  // about kSweepSlots, and appends the connections that are no longer believed open. True if there
  // is more to look at. Between two calls events may be applied: a flow still to be looked at is
  // looked at before its event is applied, so the sums are the same whenever this is called.
  [[nodiscard]] bool SweepSome(std::vector<FlowIdentity>* no_longer_open);

  // Events were lost: DESTROYs of any flow may have been among them.
  void NoteOverrun();

  // Copies the table as it is now, over the calls of SnapshotSome that follow; all other calls may
  // come between them. `seal` names it. Left out, which the stream says, if the one before is not
  // taken yet.
  void BeginSnapshot(uint64_t seal, SnapshotStream* out);
  // None is taken for `seal`, and the stream says so.
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

  // True until the dump that follows an overrun is complete.
  bool needs_resync() const { return needs_resync_; }
  // After that: how many flows are missing whose DESTROY must have been among the events lost.
  size_t lost_deaths() const { return lost_deaths_; }
  size_t size() const { return flows_.size(); }

  // An hour at the default interval. Should a flow be shown again later, its counters then are
  // where accounting begins anew.
  static constexpr uint32_t kForgottenAfterDumps = 240;

  // Flows that close while the very first dump runs, before it shows them. That dump takes seconds.
  // Further ones are taken for closed before the engine began.
  static constexpr size_t kEarlyClosesMax = 1 << 20;

  // Flows followed by another of the same tuple and id whose DESTROY is still to come: few, unless
  // very many DESTROYs were lost. Further ones are taken for destroyed.
  static constexpr size_t kSupersededMax = 1 << 20;

  // A tenth of a millisecond.
  static constexpr size_t kSweepSlots = 8192;

 private:
  // A cache line. Its first 20 bytes are the FlowIdentity, with flags in the byte that is zero
  // there.
  struct Flow {
    Ipv4Address src;
    Ipv4Address dst;
    uint16_t src_port = 0;
    uint16_t dst_port = 0;
    uint16_t zone = 0;
    uint8_t protocol = 0;
    bool start_exact : 1 = false;
    bool seen_new : 1 = false;
    bool shown : 1 = false;    // By a dump.
    bool closed : 1 = false;   // Its close was counted, or happened before the engine saw it.
    bool open : 1 = false;     // Told as an open connection.
    bool suspect : 1 = false;  // Its DESTROY may never come.
    uint32_t id = 0;
    // dump_index_ when a dump showed it last, or when it was born; then, while events may have been
    // lost and no dump was begun since, that of the next dump: it was not lost with them.
    uint32_t last_seen = 0;
    int64_t start_ns = 0;   // Exact if start_exact; else when NEW happened or it was first seen.
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
  static_assert(sizeof(Flow) == 64);
  struct FlowTraits {
    using Key = FlowIdentity;
    using Entry = Flow;
    static size_t Hash(const FlowIdentity& identity) { return FlowTable::Hash(identity); }
    static size_t HashOf(const Flow& flow) { return FlowTable::Hash(flow.Identity()); }
    static bool Matches(const Flow& flow, const FlowIdentity& identity);
    static void Construct(Flow* flow, const FlowIdentity& identity) { new (flow) Flow(identity); }
  };
  // Of 16 M flows, 8,192 may move when one is added. With more shards, 50,000 flows, which is much
  // for one gateway, would lie on more pages than a TLB holds.
  using Flows = StaggeredTable<FlowTraits, 2048>;

  struct EarlyClose {
    FlowIdentity identity;
    int64_t closed_ns;
  };
  struct EarlyCloseTraits {
    using Key = FlowIdentity;
    using Entry = EarlyClose;
    static size_t Hash(const FlowIdentity& identity) { return FlowTable::Hash(identity); }
    static size_t HashOf(const EarlyClose& close) { return FlowTable::Hash(close.identity); }
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
  void SetSuspect(bool suspect, Flow* flow);

  // Adds what the event's counters exceed the flow's by, and remembers them as accounted.
  void Account(const FlowEvent& event, Flow* flow, TrafficSums* growth);
  static void Close(int64_t end_ns, Flow* flow, FlowChange* change);
  static void SetOpen(bool open, Flow* flow, FlowChange* change);
  // Lays aside an incarnation that another one has followed, for its DESTROY that may yet come.
  void Supersede(Flow* flow, size_t hash, FlowChange* change);
  // A DESTROY of an incarnation before the one in the table, which is `follower`.
  void ApplyLateDestroy(const FlowEvent& event, size_t hash, int64_t now_ns, Flow* follower,
                        FlowChange* change);
  // What a DESTROY adds to `flow`, known or not.
  void End(const FlowEvent& event, int64_t now_ns, Flow* flow, FlowChange* change);
  // When a connection closed that is seen now to be past its close: it had its last packet, as good
  // as the close itself, `in_state_ns` ago. Not before its start, nor before a dump showed it open.
  int64_t ClosedBefore(int64_t now_ns, int64_t in_state_ns, const Flow& flow) const;
  int64_t TimeoutNs(TcpState state) const;
  // True if a flow first seen now counts from zero, false if from its present counters.
  bool CountsFromZero(const FlowEvent& event, int64_t now_ns, bool if_start_unknown) const;

  // Before a part changes while a snapshot is made.
  void CopyShard(size_t shard);
  void CopyFlow(const Flow& flow, uint32_t flags);
  void PushChunk();
  void CopySome(size_t slots_max);
  // Flows older than the engine are known, as far as they ever will be.
  bool KnowsOlder() const { return restored_ || last_complete_ != 0; }

  bool sweeping() const { return sweep_next_ != kSweepEnd; }
  // Judges one flow by the last dump: it may no longer count as open. True if it is to be erased.
  bool Sweep(Flow* flow, FlowChange* change);

  WorkerCounts* const counts_;
  const TcpTimeouts timeouts_;
  Flows flows_;
  DestroyedMemory destroyed_;
  // Incarnations that a dump has shown to be followed by another before their DESTROY was taken, by
  // Fingerprint. Kept over two dumps.
  Superseded superseded_;
  // Closes told of flows that the first dump has not shown yet.
  EarlyCloses early_closes_;
  size_t suspects_ = 0;
  // How many flows were last seen at each dump index from tally_floor_ to that of the next dump.
  std::vector<size_t> tally_{0, 0};
  uint32_t tally_floor_ = 0;
  // The shard to sweep next: those of flows_, then those of superseded_.
  static constexpr size_t kSweepEnd = Flows::shards() + Superseded::shards();
  size_t sweep_next_ = kSweepEnd;
  uint32_t sweep_unseen_before_ = 0;    // Flows that no dump has shown since then become suspects.
  SnapshotStream* snapshot_ = nullptr;  // Where the snapshot that is being made goes.
  SnapshotChunk chunk_;
  std::bitset<Flows::shards()> copied_;
  size_t copy_next_ = 0;
  bool started_ = false;
  bool restored_ = false;
  bool restored_with_events_ = false;
  bool clock_was_set_back_ = false;  // Start times may fall from one incarnation to the next.
  bool timestamps_on_ = false;       // Flows born since the start have start times.
  // Flows that started before this are known, or their present counters are where accounting
  // begins.
  int64_t known_since_ns_ = 0;
  uint32_t dump_index_ = 0;  // Dumps begun so far.
  bool dump_running_ = false;
  int64_t dump_began_ns_ = 0;
  int64_t dump_before_began_ns_ = 0;
  uint32_t last_complete_ = 0;  // Indices of dumps; 0: none.
  uint32_t complete_before_ = 0;
  // After an overrun, until a dump begun since is complete:
  bool needs_resync_ = false;
  size_t lost_deaths_ = 0;
  uint32_t complete_at_overrun_ = 0;  // last_complete_ when the first event was lost.
  uint32_t resync_index_ = 0;         // The first dump begun since; 0: none yet.
  int64_t resync_began_ns_ = 0;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_FLOW_TABLE_H_
