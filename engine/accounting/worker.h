// One worker: conntrack datagrams in, sums per masked pair out. The door by which both the kernel's
// sockets and a replay enter; it knows neither. When dumps and intervals end it is told: see
// Dispatcher.
//
// Messages are parsed and looked up in batches: a flow's place in the tables is fetched from memory
// while the messages before it are accounted. Whoever feeds it calls ApplyPending before it waits
// for more.
//
// Thread-compatible: one thread owns it. Only the hand-over and the port list are shared with the
// flusher's thread. Of several workers each has its share of the flows and its own tables: nothing
// here is global.
#ifndef CTACCT_ENGINE_ACCOUNTING_WORKER_H_
#define CTACCT_ENGINE_ACCOUNTING_WORKER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "engine/accounting/accounting_table.h"
#include "engine/accounting/flow_table.h"
#include "engine/accounting/frame_queue.h"
#include "engine/accounting/port_list.h"
#include "engine/accounting/row_limit.h"
#include "netlink/flow_event.h"
#include "netlink/ipv4.h"

namespace ctacct {

// A limit on the threads of one engine. Each may map some 4,000 pieces of memory for its tables, of
// the 65,530 that a process gets (vm.max_map_count).
inline constexpr size_t kWorkersMax = 12;

// What is accounted, and under which key.
struct AccountingRules {
  Ipv4Cidr src = kIpv4Everything;
  Ipv4Cidr dst = kIpv4Everything;
  Ipv4Address src_group_mask = kIpv4MaskAll;
  Ipv4Address dst_group_mask = kIpv4MaskAll;
  std::optional<Ipv4Address> exclude;
  bool include_icmp = false;
  bool track_open = false;
  int64_t interval_ns = 0;

  bool Matches(const FlowIdentity& identity) const {
    return src.Contains(identity.src) && dst.Contains(identity.dst) &&
           (include_icmp || identity.protocol != kProtocolIcmp) &&
           !(exclude.has_value() && (*exclude == identity.src || *exclude == identity.dst));
  }
};

class Worker {
 public:
  // `handoff` and `ports` must outlive the worker.
  struct Options {
    AccountingRules rules;
    TcpTimeouts tcp_timeouts;
    // Where a snapshot of the flows goes whenever a table is handed over; nullptr: nowhere.
    SnapshotStream* snapshots = nullptr;
    // If the flusher is behind, wait for it (a replay), rather than go on adding (live).
    bool wait_for_spare = false;
    size_t rows_max = RowLimit::kDefault;  // Of an interval.
    std::function<void()> sealed;  // Called after each table or snapshot, to wake the flusher.
  };
  Worker(Options options, AccountingHandoff* handoff, const CurrentPortList* ports);

  // Accounting begins: flows that start later count from zero. Before anything else; only the first
  // call has an effect.
  // `timestamps_on`: these flows have start times.
  void Start(int64_t now_ns, bool timestamps_on);

  // After Start: goes on where another run ended. See FlowTable.
  // `taken_ns`: what moved up to then was accounted.
  void BeginRestore(int64_t known_since_ns, int64_t taken_ns, bool events_kept);
  void NoteEventsKept() { flows_.NoteEventsKept(); }
  void Restore(const FlowRecord& record);
  // Between these moments no engine ran, or the gateway got another name (`cause`).
  void NoteDowntime(int64_t began_ns, int64_t ended_ns, GapCause cause = GapCause::kRestart);

  // Takes a datagram's messages, received at `now_ns` since the Unix epoch. Marks in it, such as a
  // dump's end, are passed over. `data` may be gone when it returns.
  void OnDatagram(const uint8_t* data, size_t bytes, int64_t now_ns);

  // The same for a message that is parsed already.
  void OnFlow(const FlowEvent& event, int64_t now_ns);

  // Does what a dispatcher says; `data`: of the frame. False after kFinish.
  bool OnFrame(const Frame& frame, const uint8_t* data);

  // The kernel dropped `events` (0 if it could not allocate, and does not know), after `began_ns`
  // and not after `ended_ns`. A dump that was not asked for after `over_monotonic_ns` may show the
  // table as it was before; 0 in a replay.
  void OnOverrun(uint64_t events, int64_t began_ns, int64_t ended_ns,
                 int64_t over_monotonic_ns = 0);
  // The kernel drops events, and has not done so before `began_ns`: OnOverrun follows.
  void OnOverrunBegins(int64_t began_ns);
  // Some of the events dropped may have been this worker's; another one counts them.
  void OnOverrunElsewhere(uint64_t events, int64_t began_ns, int64_t ended_ns);
  // Between these moments the kernel did not count or report everything.
  void OnSettingsOff(int64_t began_ns, int64_t ended_ns);
  // The clock shows `now_ns`, and has shown a later time before.
  void NoteClockSetBack(int64_t now_ns);

  // Applies what OnDatagram has taken.
  void ApplyPending();

  // Part of the work that the end of a dump or an interval leaves: see FlowTable. To be called
  // between batches, as long as it returns true; the rest is done before the next dump.
  bool SweepSome();
  // The same for the snapshot that a hand-over begins; the rest is done before the next. False also
  // while the flusher has much to take: see snapshot_running.
  bool SnapshotSome();
  bool snapshot_running() const { return flows_.snapshot_running(); }

  // `requested_ns`: CLOCK_MONOTONIC; 0 in a replay.
  void BeginDump(int64_t now_ns, int64_t requested_ns = 0);
  void EndDump(bool whole);
  bool dump_running() const { return dump_running_; }
  // Hands the table over. Without a spare one, the rows go on with the next interval's.
  // `covered_to_ns`: it contains what moved up to then.
  void Seal(int64_t interval_end_ns, int64_t covered_to_ns);
  void Seal(int64_t interval_end_ns) { Seal(interval_end_ns, interval_end_ns); }

  // How many intervals have ended.
  uint64_t seal() const { return seal_; }
  bool needs_resync() const { return flows_.needs_resync(); }
  size_t flows() const { return flows_.size(); }
  const WorkerCounts& counts() const { return counts_; }

 private:
  // Enough to hide the memory's latency; few enough to stay in the first cache.
  static constexpr size_t kPendingMax = 64;

  struct Pending {
    FlowEvent event;
    int64_t now_ns;
    size_t flow_hash;
    AccountingKey key;
    size_t key_hash;
  };

  // Looks at the event in the next pending place; it stays there if it is to be applied.
  void Admit(int64_t now_ns);
  void Finish(int64_t interval_end_ns, int64_t covered_to_ns);
  void FinishSnapshot();
  // A gap whose cost the next whole dump shows.
  void OpenGap(const Gap& gap);
  void CloseGaps();
  // Something is missing, whatever dumps show later.
  void AddPartialGap(GapCause cause, int64_t began_ns, int64_t ended_ns, uint64_t flows_lost = 0);
  // What the flow table has noticed.
  void AddLosses(int64_t until_ns);
  AccountingKey KeyOf(const FlowIdentity& identity) const;
  // Of the pending ones' shards.
  void FoldSmallRows();
  void AddOpenChange(const FlowIdentity& identity, int change);

  const Options options_;
  AccountingHandoff* const handoff_;
  CurrentPortList::Reader ports_;
  const PortList* port_list_ = nullptr;  // As of the present batch.
  WorkerCounts counts_;
  FlowTable flows_;
  bool started_ = false;
  bool dump_running_ = false;
  int64_t overrun_over_ns_ = 0;  // CLOCK_MONOTONIC: when the last one was; 0 in a replay.
  uint64_t seal_ = 0;
  int64_t covered_from_ns_ = 0;     // Of the live table.
  std::vector<Gap> open_gaps_;      // No whole dump has followed them.
  int64_t events_unexplained_ = 0;  // That were dropped in them.
  bool last_dump_whole_ = true;     // Or there was none.
  size_t pending_count_ = 0;
  Pending pending_[kPendingMax];
  std::vector<FlowIdentity> no_longer_open_;  // Kept for its memory.
  RowLimit row_limit_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_WORKER_H_
