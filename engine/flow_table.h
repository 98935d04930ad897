// The living flows and what was already accounted of each: events and dump entries in, growth out.
//
// Thread-compatible: one owner, no lock. Deterministic: the same events in the same order give the
// same growth; the only clock is the `now_ns` of each call, which stands in for times that the
// kernel did not tell.
//
// Incarnations. One identity (tuple, zone, id) may live several times. What tells its lives apart
// is the kernel's start time, which dumps and DESTROY carry if nf_conntrack_timestamp is on, and
// NEW does not. So:
//   - An entry that NEW made has a start of its own guess until a dump or DESTROY tells the exact
//   one.
//   - A dump and the events come by different sockets, so a dump may show a flow after its DESTROY
//   was taken: each
//     incarnation destroyed is remembered for at least one whole interval, and never counted again.
//   - A counter that falls is a new start (somebody zeroed it, or an end was missed).
//   - Absence from a dump is not death: a DESTROY is. Only where none can be hoped for, flows that
//     two whole dumps in a row did not show are forgotten: after an overrun, and those older than
//     the engine, to which the kernel may have attached no events (nf_conntrack_events=2).
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

  // A dump's first and last datagram, after Start. `complete`: it ended without an error. Flows
  // that are given up after an overrun are returned: open connections among them are open no
  // longer.
  void BeginDump(int64_t now_ns);
  [[nodiscard]] std::vector<FlowIdentity> EndDump(bool complete);

  // Events were lost. Flows that dumps from now on do not show will be forgotten.
  void NoteOverrun();

  // Ages the memory of destroyed incarnations. Call at the end of each interval.
  void EndInterval();

  // True until the dump that follows an overrun is complete.
  bool needs_resync() const { return needs_resync_; }
  size_t size() const { return flows_.size(); }

 private:
  struct IdentityHash {
    size_t operator()(const FlowIdentity& identity) const;
  };

  struct Flow {
    FlowCounters original;  // Accounted so far.
    FlowCounters reply;
    int64_t start_ns =
        0;  // Exact if start_exact; else when NEW happened or the flow was first seen.
    uint32_t last_seen = 0;  // complete_dumps_ when a dump showed it last, or when it was born.
    bool start_exact : 1 = false;
    bool seen_new : 1 = false;
    bool closed : 1 = false;  // Its close was counted, or happened before the engine saw it.
  };
  using Flows = absl::flat_hash_map<FlowIdentity, Flow, IdentityHash>;

  FlowChange ApplyNew(const FlowEvent& event, int64_t now_ns);
  FlowChange ApplyUpdate(const FlowEvent& event, int64_t now_ns);
  FlowChange ApplyDump(const FlowEvent& event, int64_t now_ns);
  FlowChange ApplyDestroy(const FlowEvent& event, int64_t now_ns);

  // Adds what the event's counters exceed the flow's by, and remembers them as accounted.
  void Account(const FlowEvent& event, Flow* flow, TrafficSums* growth);
  void Close(int64_t end_ns, Flow* flow, FlowChange* change);
  // Whether a flow first seen now counts from zero, or from its present counters.
  bool BornUnderOurEyes(const FlowEvent& event, bool otherwise) const;

  // Takes a flow out without a DESTROY.
  void Forget(Flows::iterator it, std::vector<FlowIdentity>* were_open);

  bool WasDestroyed(uint64_t fingerprint) const;
  // False if it was marked before.
  bool MarkDestroyed(uint64_t fingerprint);

  WorkerCounts* const counts_;
  Flows flows_;
  // Fingerprints of incarnations destroyed in this interval and in the one before.
  absl::flat_hash_set<uint64_t> destroyed_;
  absl::flat_hash_set<uint64_t> destroyed_before_;
  // Flows older than the engine that a dump has shown.
  std::vector<FlowIdentity> older_;
  bool started_ = false;
  bool timestamps_on_ = false;  // Flows born since the start have start times.
  // Flows that started before this are known, or their present counters are where accounting
  // begins.
  int64_t known_since_ns_ = 0;
  uint32_t complete_dumps_ = 0;
  bool dump_running_ = false;
  // After an overrun:
  bool needs_resync_ = false;
  bool resync_began_ = false;  // A dump has begun since.
  int dumps_until_removal_ =
      0;                      // Complete ones, before flows that they did not show are forgotten.
  uint32_t resync_mark_ = 0;  // complete_dumps_ when the first of them began.
  int64_t resync_began_ns_ = 0;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_FLOW_TABLE_H_
