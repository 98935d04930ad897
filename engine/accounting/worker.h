// One worker: conntrack datagrams in, sums per masked pair out. The kernel's sockets and a replay
// both feed it, and it knows neither. The caller reports when dumps and intervals end: see
// Dispatcher.
//
// Messages are parsed and looked up in batches: a flow's place in the tables is fetched from memory
// while the messages before it are accounted. The caller calls ApplyPending before it waits
// for more.
//
// Thread-compatible: one thread owns it. Only the hand-over and the port list are shared with the
// flusher's thread. Each worker has its share of the flows and its own tables: nothing here is
// global.
#ifndef CTACCT_ENGINE_ACCOUNTING_WORKER_H_
#define CTACCT_ENGINE_ACCOUNTING_WORKER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <type_traits>
#include <vector>

#include "engine/accounting/accounting_table.h"
#include "engine/accounting/flow_table.h"
#include "engine/accounting/frame_queue.h"
#include "engine/accounting/port_list.h"
#include "engine/accounting/row_limit.h"
#include "netlink/ctnetlink_parser.h"
#include "netlink/flow_event.h"
#include "netlink/local_addresses.h"
#include "netlink/networks.h"

namespace ctacct {

// A limit on the threads of one engine. Each may map some 7,000 pieces of memory for its tables, of
// the 65,530 that a process gets (vm.max_map_count).
inline constexpr size_t kWorkersMax = 8;

// What is accounted of a family, and under which key.
template <typename Address>
struct FamilyRules : AddressRules<Address> {
  Address src_group_mask;
  Address dst_group_mask;
};

struct AccountingRules {
  FamilyRules<Ipv4Address> ipv4 = {{}, kIpv4MaskAll, kIpv4MaskAll};
  FamilyRules<Ipv6Address> ipv6 = {{}, kIpv6MaskAll, kIpv6MaskAll};
  bool include_icmp = false;
  bool track_open = false;
  bool skip_local = false;  // Not the flows that begin or end on the gateway itself.
  int64_t interval_ns = 0;

  template <typename Address>
  const FamilyRules<Address>& Of() const {
    if constexpr (std::is_same_v<Address, Ipv4Address>) {
      return ipv4;
    } else {
      return ipv6;
    }
  }
  template <typename Address>
  bool Matches(const BasicFlowIdentity<Address>& identity) const {
    constexpr uint8_t kIcmp =
        std::is_same_v<Address, Ipv4Address> ? kProtocolIcmp : kProtocolIcmpv6;
    return Of<Address>().Matches(identity.src, identity.dst) &&
           (include_icmp || identity.protocol != kIcmp);
  }
};

class Worker {
 public:
  static constexpr size_t kFlowTables = 2;  // One for each family.

  // `handoff` and `ports` must outlive the worker.
  struct Options {
    AccountingRules rules;
    TcpTimeouts tcp_timeouts;
    // Where a snapshot of the flows goes whenever a table is handed over; nullptr: nowhere. Of
    // kFlowTables.
    SnapshotStream* snapshots = nullptr;
    // If the flusher is behind, wait for it (a replay), instead of adding to the live table (live).
    bool wait_for_spare = false;
    size_t rows_max = RowLimit::kDefault;  // Of an interval.
    // With skip_local: the gateway's own addresses. Must outlive the worker.
    const Current<LocalAddresses>* local = nullptr;
    std::function<void()> sealed;  // Called after each table or snapshot, to wake the flusher.
  };
  Worker(Options options, AccountingHandoff* handoff, const CurrentPortList* ports);

  // Accounting begins: flows that start later count from zero. Before anything else; only the first
  // call has an effect.
  // `timestamps_on`: these flows have start times.
  void Start(int64_t now_ns, bool timestamps_on);

  // After Start: continues where another run ended. See FlowTable.
  // `taken_ns`: what moved up to then was accounted.
  void BeginRestore(int64_t known_since_ns, int64_t taken_ns, bool events_kept);
  void NoteEventsKept() {
    ipv4_.flows.NoteEventsKept();
    ipv6_.flows.NoteEventsKept();
  }
  template <typename Address>
  void Restore(const BasicFlowRecord<Address>& record) {
    if (options_.rules.Matches(record.identity) && Of<Address>().flows.Restore(record)) {
      AddOpenChange(record.identity, 1);
    }
  }
  // Between these moments no engine ran, or the gateway got another name (`cause`).
  void NoteDowntime(int64_t began_ns, int64_t ended_ns, GapCause cause = GapCause::kRestart);

  // Takes a datagram's messages, received at `now_ns` since the Unix epoch. Marks in it, such as a
  // dump's end, are ignored. `data` need not stay valid afterwards.
  void OnDatagram(const uint8_t* data, size_t bytes, int64_t now_ns);

  // The same for a message that is parsed already.
  template <typename Address>
  void OnFlow(const BasicFlowEvent<Address>& event, int64_t now_ns) {
    Family<Address>& family = Of<Address>();
    family.pending[family.pending_count].event = event;
    Admit(now_ns, /*local=*/false, &family);
  }

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
  // A dump was requested at this time before the events that follow were received: BeginDump may
  // come later.
  void NoteDumpRequested(int64_t requested_ns) {
    ForBoth([=](auto* family) { family->flows.NoteDumpRequested(requested_ns); });
  }

  // Applies what OnDatagram has taken.
  void ApplyPending();

  // Part of the work that the end of a dump or an interval leaves: see FlowTable. To be called
  // between batches, as long as it returns true; the rest is done before the next dump.
  bool SweepSome();
  // The same for the snapshot that a hand-over begins; the rest is done before the next. False also
  // while the flusher has much to take: see snapshot_running.
  bool SnapshotSome();
  bool snapshot_running() const {
    return ipv4_.flows.snapshot_running() || ipv6_.flows.snapshot_running();
  }

  // `requested_ns`: CLOCK_MONOTONIC; 0 in a replay.
  void BeginDump(int64_t now_ns, int64_t requested_ns = 0);
  // `ipv4_only`, `of_part`: that is what was asked for.
  void EndDump(bool whole, bool ipv4_only = false, bool of_part = false);
  bool dump_running() const { return dump_running_; }
  // Hands the table over. Without a spare one, the rows join the next interval's.
  // `covered_to_ns`: it contains what moved up to then.
  void Seal(int64_t interval_end_ns, int64_t covered_to_ns);
  void Seal(int64_t interval_end_ns) { Seal(interval_end_ns, interval_end_ns); }

  // How many intervals have ended.
  uint64_t seal() const { return seal_; }
  bool needs_resync() const { return ipv4_.flows.needs_resync() || ipv6_.flows.needs_resync(); }
  size_t flows() const { return ipv4_.flows.size() + ipv6_.flows.size(); }
  const WorkerCounts& counts() const { return counts_; }

 private:
  // Enough to hide the memory's latency; few enough to stay in the first cache.
  static constexpr size_t kPendingMax = 64;

  template <typename Address>
  struct Pending {
    BasicFlowEvent<Address> event;
    int64_t now_ns;
    size_t flow_hash;
    BasicAccountingKey<Address> key;
    size_t key_hash;
  };

  // What there is of each family. The families' events need no order among each other.
  template <typename Address>
  struct Family {
    Family(WorkerCounts* counts, const Options& options)
        : flows(counts, options.tcp_timeouts), row_limit(options.rows_max) {}

    BasicFlowTable<Address> flows;
    size_t pending_count = 0;
    Pending<Address> pending[kPendingMax];
    std::vector<BasicFlowIdentity<Address>> no_longer_open;  // Kept for its memory.
    RowLimit row_limit;
  };
  template <typename Address>
  Family<Address>& Of() {
    if constexpr (std::is_same_v<Address, Ipv4Address>) {
      return ipv4_;
    } else {
      return ipv6_;
    }
  }
  template <typename Function>
  void ForBoth(const Function& function) {
    function(&ipv4_);
    function(&ipv6_);
  }

  // Looks at the event in the next pending place; it stays there if it is to be applied. `local`:
  // its flow is to be skipped.
  template <typename Address>
  void Admit(int64_t now_ns, bool local, Family<Address>* family);
  // Whether the event in the next pending place is of a flow that begins or ends on the gateway
  // itself. One that is accounted already, because the address was not known, stays so.
  template <typename Address>
  bool IsLocal(const NetlinkMessage& message, int64_t now_ns, const Family<Address>& family);
  template <typename Address>
  void ApplyPendingOf(Family<Address>* family);
  void Finish(int64_t interval_end_ns, int64_t covered_to_ns);
  void FinishSnapshot();
  // A gap whose cost the next whole dump shows.
  void OpenGap(const Gap& gap);
  void CloseGaps();
  // Something is missing, whatever dumps show later.
  void AddPartialGap(GapCause cause, int64_t began_ns, int64_t ended_ns, uint64_t flows_lost = 0);
  // What the flow table has noticed.
  void AddLosses(int64_t until_ns);
  template <typename Address>
  BasicAccountingKey<Address> KeyOf(const BasicFlowIdentity<Address>& identity) const;
  // Of the pending ones' shards.
  template <typename Address>
  void FoldSmallRows(Family<Address>* family);
  template <typename Address>
  void AddOpenChange(const BasicFlowIdentity<Address>& identity, int change);

  const Options options_;
  AccountingHandoff* const handoff_;
  CurrentPortList::Reader ports_;
  std::optional<Current<LocalAddresses>::Reader> local_;
  const PortList* port_list_ = nullptr;  // As of the present batch.
  WorkerCounts counts_;
  Family<Ipv4Address> ipv4_;
  Family<Ipv6Address> ipv6_;
  bool started_ = false;
  bool dump_running_ = false;
  int64_t overrun_over_ns_ = 0;  // CLOCK_MONOTONIC: when the last one was; 0 in a replay.
  uint64_t seal_ = 0;
  int64_t covered_from_ns_ = 0;     // Of the live table.
  std::vector<Gap> open_gaps_;      // No whole dump has followed them.
  int64_t events_unexplained_ = 0;  // That were dropped in them.
  bool last_dump_whole_ = true;     // Or there was none.
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_WORKER_H_
