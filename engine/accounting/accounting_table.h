// The sums of one interval (or of the part of it since the last hand-over), and what is known of
// its completeness.
//
// Thread-compatible: one owner at a time, no lock; TableHandoff passes it between worker and
// flusher. Invariant: a key's sums only grow until Clear.
#ifndef CTACCT_ENGINE_ACCOUNTING_ACCOUNTING_TABLE_H_
#define CTACCT_ENGINE_ACCOUNTING_ACCOUNTING_TABLE_H_

#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "engine/accounting/accounting_key.h"
#include "engine/accounting/staggered_map.h"
#include "engine/accounting/table_handoff.h"
#include "engine/rows/gap.h"
#include "engine/rows/traffic_row.h"
#include "netlink/flow_event.h"

namespace ctacct {

struct TrafficSums {
  FlowCounters original;
  FlowCounters reply;
  uint64_t connection_count = 0;  // Closed.
  // Sum of their durations. Nanoseconds would wrap: 43,000 connections of five days may end at
  // once.
  uint64_t connection_time_us = 0;
  uint32_t flow_count = 0;        // Flows of any protocol whose end was reported.
  uint32_t unanswered_count = 0;  // Of these, those without a reply packet.

  // Saturates: a hostile capture must not make a large sum small.
  void Add(const TrafficSums& other) {
    AddTo(&original.packets, other.original.packets);
    AddTo(&original.bytes, other.original.bytes);
    AddTo(&reply.packets, other.reply.packets);
    AddTo(&reply.bytes, other.reply.bytes);
    connection_count += other.connection_count;
    AddConnectionTime(other.connection_time_us);
    AddTo(&flow_count, other.flow_count);
    AddTo(&unanswered_count, other.unanswered_count);
  }
  bool IsZero() const {
    return (original.packets | original.bytes | reply.packets | reply.bytes | connection_count |
            connection_time_us | flow_count) == 0;
  }
  // Saturates.
  void AddConnectionTime(uint64_t us) { AddTo(&connection_time_us, us); }

 private:
  template <typename Unsigned>
  static void AddTo(Unsigned* sum, Unsigned value) {
    if (__builtin_add_overflow(*sum, value, sum)) [[unlikely]] {
      *sum = std::numeric_limits<Unsigned>::max();
    }
  }
};

// Counts of things that operators must be able to see, since the start of the engine.
struct WorkerCounts {
  uint64_t events_new = 0;
  uint64_t events_update = 0;
  uint64_t events_destroy = 0;
  uint64_t dump_entries = 0;
  uint64_t filtered = 0;        // Outside src and dst, from or to exclude-ip, ICMP unless wanted.
  uint64_t filtered_local = 0;  // Flows that begin or end on the gateway itself (local=skip).
  uint64_t malformed = 0;       // Messages, or the rest of a datagram.
  // DESTROYs and dump entries without counters (nf_conntrack_acct was off).
  uint64_t without_counters = 0;
  uint64_t duplicate_destroys = 0;
  uint64_t stale_dump_entries = 0;  // A dump showed a flow whose DESTROY had come already.
  uint64_t counter_falls = 0;       // Treated as a new start of the flow.
  uint64_t unknown_destroys = 0;    // Of flows older than the engine, which no dump had shown.
  uint64_t overruns = 0;
  uint64_t events_dropped = 0;   // By the kernel, exact (SO_MEMINFO).
  uint64_t forgotten_flows = 0;  // Shown by no dump for long; their DESTROY was lost.
  uint64_t resyncs = 0;          // Dumps that made totals right after a loss.

  void Add(const WorkerCounts& other) {
    for (const auto count :
         {&WorkerCounts::events_new, &WorkerCounts::events_update, &WorkerCounts::events_destroy,
          &WorkerCounts::dump_entries, &WorkerCounts::filtered, &WorkerCounts::filtered_local,
          &WorkerCounts::malformed, &WorkerCounts::without_counters,
          &WorkerCounts::duplicate_destroys, &WorkerCounts::stale_dump_entries,
          &WorkerCounts::counter_falls, &WorkerCounts::unknown_destroys, &WorkerCounts::overruns,
          &WorkerCounts::events_dropped, &WorkerCounts::forgotten_flows, &WorkerCounts::resyncs}) {
      this->*count += other.*count;
    }
  }
};

// The sums of one family.
template <typename Address>
struct FamilyRows {
  using Key = BasicAccountingKey<Address>;

  StaggeredMap<Key, TrafficSums> rows;
  // What was folded out of `rows`, because there were too many of them (see RowLimit): by origin,
  // and of the smallest origins.
  StaggeredMap<Key, TrafficSums, 128> folded;
  TrafficSums other;
  uint64_t rows_folded = 0;
  // With track-open: how the number of open connections changed. Keyed by the unlisted port: a
  // connection may outlive a port list.
  StaggeredMap<Key, int64_t, 64> open_changes;

  void Clear() {
    rows.Clear();
    folded.Clear();
    other = TrafficSums();
    rows_folded = 0;
    open_changes.Clear();
  }
};

struct AccountingTable : FamilyRows<Ipv4Address> {
  FamilyRows<Ipv6Address> ipv6;
  int64_t interval_end_ns = 0;  // Set when the table is sealed.
  uint64_t seal = 0;  // Set with it: how many intervals had ended then, this one included.
  // Set with it, since the Unix epoch: the table contains what moved between these moments.
  int64_t covered_from_ns = 0;
  int64_t covered_to_ns = 0;
  Completeness completeness = Completeness::kComplete;
  uint64_t events_dropped = 0;
  // Of the events dropped in the resynced gaps, the number whose contents are unknown. It is
  // negative if this worker can explain events that another one counts. If the sum over all workers
  // is not zero, these gaps are partial.
  int64_t events_unexplained = 0;
  std::vector<Gap> gaps;  // Those that touch this interval.
  // The worker's when it sealed the table; the flusher may not look at the worker itself.
  WorkerCounts counts;
  uint64_t flows = 0;

  template <typename Address>
  FamilyRows<Address>& Of() {
    if constexpr (std::is_same_v<Address, Ipv4Address>) {
      return *this;
    } else {
      return ipv6;
    }
  }
  template <typename Address>
  const FamilyRows<Address>& Of() const {
    return const_cast<AccountingTable*>(this)->Of<Address>();
  }

  void Clear() {
    FamilyRows<Ipv4Address>::Clear();
    ipv6.Clear();
    interval_end_ns = 0;
    seal = 0;
    covered_from_ns = covered_to_ns = 0;
    completeness = Completeness::kComplete;
    events_dropped = 0;
    events_unexplained = 0;
    gaps.clear();
  }
};

using AccountingHandoff = TableHandoff<AccountingTable>;

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_ACCOUNTING_TABLE_H_
