// The living flows and what was already accounted of each: events and dump entries in, growth out.
//
// Thread-compatible: one owner, no lock. Deterministic: the same events in the same order give the
// same growth; the only clock is the `now_ns` of each call, which stands in for times that the
// kernel did not tell.
//
// Incarnations. One identity (tuple, zone, id) may live several times. What tells its lives apart
// is the kernel's start time, which dumps and DESTROY carry if nf_conntrack_timestamp is on, and
// NEW does not. So:
//
//  - An entry that NEW made has a start of its own guess until a dump or DESTROY tells the exact.
//  - A dump and the events come by different sockets, so a dump may show a flow after its DESTROY.
//    Each incarnation destroyed is remembered for at least one whole interval (or kDestroyedMax
//    others), and never counted again.
//  - A counter that falls is a new start (somebody zeroed it, or an end was missed).
//  - Absence from a dump is not death: a DESTROY is. Where none can be hoped for (after an overrun,
//    and for flows older than the engine, to which the kernel may have attached no events), a flow
//    that two whole dumps in a row did not show no longer counts as open. What was accounted of it
//    is kept for kForgottenAfterDumps, for when it is shown again.
//
// Invariant: of every incarnation the sum of all growths is at most its counters, and equals them
// once its DESTROY was applied, less what it had when the engine first saw it if it is older than
// the engine.
#ifndef CTACCT_ENGINE_FLOW_TABLE_H_
#define CTACCT_ENGINE_FLOW_TABLE_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "engine/accounting_table.h"
#include "netlink/flow_event.h"

namespace ctacct {

// What one event changed, to be added to the accounting table under the flow's key.
struct FlowChange {
  TrafficSums growth;
  int open_change = 0;  // Of the number of open connections: -1, 0 or 1.
};

class FlowTable {
 public:
  // `counts` is where losses and oddities are counted; it must outlive the table.
  explicit FlowTable(WorkerCounts* counts) : counts_(counts) {}

  FlowTable(const FlowTable&) = delete;
  FlowTable& operator=(const FlowTable&) = delete;

  // Accounting begins: flows that start later count from zero. Only the first call has an effect.
  void Start(int64_t now_ns);

  // Applies an event, after Start. `now_ns`: when its datagram was received, since the Unix epoch.
  FlowChange Apply(const FlowEvent& event, int64_t now_ns);

  // A dump's first and last datagram, after Start. `complete`: it ended without an error. Returns
  // the connections that are no longer believed open.
  void BeginDump(int64_t now_ns);
  [[nodiscard]] std::vector<FlowIdentity> EndDump(bool complete);

  // Events were lost: DESTROYs of any flow may have been among them.
  void NoteOverrun();

  // Ages the memory of destroyed incarnations. Call at the end of each interval.
  void EndInterval();

  // True until the dump that follows an overrun is complete.
  bool needs_resync() const { return needs_resync_; }
  // After that: whether flows are missing whose DESTROY must have been among the events lost.
  bool lost_deaths() const { return lost_deaths_; }
  size_t size() const { return flows_.size(); }

  // An hour at the default interval. Should a flow be shown again later, its counters then are
  // where accounting begins anew.
  static constexpr uint32_t kForgottenAfterDumps = 240;

  // About 80 MB. A day's interval on a busy gateway has more deaths; the memory of them is then
  // shorter than an interval, and still far longer than a dump takes.
  static constexpr size_t kDestroyedMax = 4 << 20;

 private:
  struct IdentityHash {
    size_t operator()(const FlowIdentity& identity) const;
  };

  struct Flow {
    FlowCounters original;  // Accounted so far.
    FlowCounters reply;
    int64_t start_ns = 0;    // Exact if start_exact; else when NEW happened or it was first seen.
    uint32_t last_seen = 0;  // dump_index_ when a dump showed it last, or when it was born.
    bool start_exact : 1 = false;
    bool seen_new : 1 = false;
    bool closed : 1 = false;   // Its close was counted, or happened before the engine saw it.
    bool open : 1 = false;     // Told as an open connection.
    bool suspect : 1 = false;  // Among suspects_.
  };
  using Flows = absl::flat_hash_map<FlowIdentity, Flow, IdentityHash>;

  FlowChange ApplyNew(const FlowEvent& event, int64_t now_ns);
  FlowChange ApplyUpdate(const FlowEvent& event, int64_t now_ns);
  FlowChange ApplyDump(const FlowEvent& event, int64_t now_ns);
  FlowChange ApplyDestroy(const FlowEvent& event, int64_t now_ns);

  // Adds what the event's counters exceed the flow's by, and remembers them as accounted.
  void Account(const FlowEvent& event, Flow* flow, TrafficSums* growth);
  static void Close(int64_t end_ns, Flow* flow, FlowChange* change);
  static void SetOpen(bool open, Flow* flow, FlowChange* change);
  // Lays aside an incarnation that another one has followed, for its DESTROY that may yet come.
  void Supersede(Flows::iterator it, FlowChange* change);
  // A DESTROY of an incarnation before the one in the table, which is `follower`.
  FlowChange ApplyLateDestroy(const FlowEvent& event, int64_t now_ns, Flow* follower);
  // What a DESTROY adds to `flow`, known or not.
  void End(const FlowEvent& event, int64_t now_ns, Flow* flow, FlowChange* change);
  // Whether a flow first seen now counts from zero, or from its present counters.
  bool BornUnderOurEyes(const FlowEvent& event, bool otherwise) const;

  bool WasDestroyed(uint64_t fingerprint) const;
  // False if it was marked before.
  bool MarkDestroyed(uint64_t fingerprint);

  WorkerCounts* const counts_;
  Flows flows_;
  // Fingerprints of incarnations destroyed in this interval and in the one before; at most
  // kDestroyedMax each.
  absl::flat_hash_set<uint64_t> destroyed_;
  absl::flat_hash_set<uint64_t> destroyed_before_;
  // Incarnations that a dump has shown to be followed by another before their DESTROY was taken, by
  // StartFingerprint. Kept over two dumps.
  absl::flat_hash_map<uint64_t, Flow> superseded_;
  // Closes told of flows that the first dump has not shown yet, and when.
  absl::flat_hash_map<FlowIdentity, int64_t, IdentityHash> early_closes_;
  // Flows whose DESTROY may never come.
  std::vector<FlowIdentity> suspects_;
  bool started_ = false;
  bool timestamps_on_ = false;  // Flows born since the start have start times.
  // Flows that started before this are known, or their present counters are where accounting
  // begins.
  int64_t known_since_ns_ = 0;
  uint32_t dump_index_ = 0;  // Dumps begun so far.
  bool dump_running_ = false;
  uint32_t last_complete_ = 0;  // Indices of dumps; 0: none.
  uint32_t complete_before_ = 0;
  // After an overrun, until a dump begun since is complete:
  bool needs_resync_ = false;
  bool lost_deaths_ = false;
  uint32_t complete_at_overrun_ = 0;  // last_complete_ when the first event was lost.
  uint32_t resync_index_ = 0;         // The first dump begun since; 0: none yet.
  int64_t resync_began_ns_ = 0;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_FLOW_TABLE_H_
