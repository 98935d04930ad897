// One worker: conntrack datagrams in, sums per masked pair out. The door by which both the kernel's
// sockets and a replay enter; it knows neither. Live and replay differ only in who calls.
//
// Thread-compatible: one thread owns it. Only the hand-over and the port list are shared with the
// flusher's thread. A second worker takes a second object: nothing here is global.
#ifndef CTACCT_ENGINE_WORKER_H_
#define CTACCT_ENGINE_WORKER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>

#include "engine/accounting_table.h"
#include "engine/flow_table.h"
#include "engine/interval_clock.h"
#include "engine/port_list.h"
#include "engine/table_handoff.h"
#include "netlink/ctnetlink_parser.h"
#include "netlink/flow_event.h"
#include "netlink/ipv4.h"

namespace ctacct {

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

using AccountingHandoff = TableHandoff<AccountingTable>;

// How intervals end: see IntervalClock.
enum class IntervalEnd { kByDump, kByPacket };

class Worker {
 public:
  // `handoff` and `ports` must outlive the worker. `sealed` is called after each table handed over,
  // to wake the flusher. `wait_for_spare`: if the flusher is behind, wait for it (a replay), rather
  // than go on adding (live).
  struct Options {
    AccountingRules rules;
    IntervalEnd interval_end = IntervalEnd::kByDump;
    bool wait_for_spare = false;
    std::function<void()> sealed;
  };
  Worker(Options options, AccountingHandoff* handoff, PortListFile* ports);

  // Applies a datagram, received at `now_ns` since the Unix epoch. Ends intervals where they end.
  void OnDatagram(const uint8_t* data, size_t bytes, int64_t now_ns);

  // A dump that began will not end (an error, or silence). What came of it stands. The open
  // interval ends, if its boundary has passed.
  void OnDumpFailed(int64_t now_ns);

  // Seals what is open, whatever the time; the end of a replay or of the program. Waits for the
  // spare table.
  void Finish();

  // The end of the open interval, nanoseconds since the Unix epoch; 0 before the first datagram.
  int64_t open_end_ns() const { return clock_.open_end_ns(); }
  bool dump_running() const { return dump_running_; }
  bool needs_resync() const { return flows_.needs_resync(); }
  // False if an interval could not be handed over now: no dump should be begun for the next one.
  bool CanSeal() const { return handoff_->HasSpare(); }
  size_t flows() const { return flows_.size(); }
  const WorkerCounts& counts() const { return counts_; }

 private:
  void OnFlow(const FlowEvent& event, int64_t now_ns);
  // The kernel dropped `events` (0 if it could not allocate, and does not know).
  void OnOverrun(uint64_t events);
  void EndDump(bool complete);
  void SealSilentIntervals(int64_t now_ns);
  void Seal();
  AccountingKey KeyOf(const FlowIdentity& identity) const;
  void AddOpenChange(const FlowIdentity& identity, int change);

  const Options options_;
  AccountingHandoff* const handoff_;
  PortListFile* const ports_;
  const PortList* port_list_ = nullptr;  // As of the present datagram.
  WorkerCounts counts_;
  FlowTable flows_;
  IntervalClock clock_;
  bool dump_running_ = false;
  std::optional<uint32_t> other_dump_;  // Sequence of a dump that is none of conntrack's.
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_WORKER_H_
