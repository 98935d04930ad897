// The sums of one interval (or of the part of it since the last hand-over), and what is known of
// its completeness.
//
// Thread-compatible: one owner at a time, no lock; TableHandoff passes it between worker and
// flusher. Invariant: a key's sums only grow until Clear.
#ifndef CTACCT_ENGINE_ACCOUNTING_ACCOUNTING_TABLE_H_
#define CTACCT_ENGINE_ACCOUNTING_ACCOUNTING_TABLE_H_

#include <cstdint>
#include <limits>
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

  // Saturates: a hostile capture must not make a large sum small.
  void Add(const TrafficSums& other) {
    AddTo(&original.packets, other.original.packets);
    AddTo(&original.bytes, other.original.bytes);
    AddTo(&reply.packets, other.reply.packets);
    AddTo(&reply.bytes, other.reply.bytes);
    connection_count += other.connection_count;
    AddConnectionTime(other.connection_time_us);
  }
  bool IsZero() const {
    return (original.packets | original.bytes | reply.packets | reply.bytes | connection_count |
            connection_time_us) == 0;
  }
  // Saturates.
  void AddConnectionTime(uint64_t us) { AddTo(&connection_time_us, us); }

 private:
  static void AddTo(uint64_t* sum, uint64_t value) {
    if (__builtin_add_overflow(*sum, value, sum)) [[unlikely]] {
      *sum = std::numeric_limits<uint64_t>::max();
    }
  }
};

// Counts of things that operators must be able to see, since the start of the engine.
struct WorkerCounts {
  uint64_t events_new = 0;
  uint64_t events_update = 0;
  uint64_t events_destroy = 0;
  uint64_t dump_entries = 0;
  uint64_t skipped_ipv6 = 0;
  uint64_t filtered = 0;   // Outside src and dst, from or to exclude-ip, ICMP unless wanted.
  uint64_t malformed = 0;  // Messages, or the rest of a datagram.
  // DESTROYs and dump entries that told no counters (nf_conntrack_acct was off).
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
          &WorkerCounts::dump_entries, &WorkerCounts::skipped_ipv6, &WorkerCounts::filtered,
          &WorkerCounts::malformed, &WorkerCounts::without_counters,
          &WorkerCounts::duplicate_destroys, &WorkerCounts::stale_dump_entries,
          &WorkerCounts::counter_falls, &WorkerCounts::unknown_destroys, &WorkerCounts::overruns,
          &WorkerCounts::events_dropped, &WorkerCounts::forgotten_flows, &WorkerCounts::resyncs}) {
      this->*count += other.*count;
    }
  }
};

struct AccountingTable {
  StaggeredMap<AccountingKey, TrafficSums> rows;
  // What was folded out of `rows`, because there were too many of them (see RowLimit).
  TrafficSums other;
  uint64_t rows_folded = 0;
  // With track-open: how the number of open connections changed. Keyed by the unlisted port: a
  // connection may outlive a port list.
  StaggeredMap<AccountingKey, int64_t, 64> open_changes;
  int64_t interval_end_ns = 0;  // Set when the table is sealed.
  uint64_t seal = 0;  // Set with it: how many intervals had ended then, this one included.
  // Set with it, since the Unix epoch: the table contains what moved between these moments.
  int64_t covered_from_ns = 0;
  int64_t covered_to_ns = 0;
  Completeness completeness = Completeness::kComplete;
  uint64_t events_dropped = 0;
  // In the resynced gaps, the events dropped of which it is not known what they said; less than
  // zero where another worker counts those that this one can explain. If the sum over all workers
  // is not zero, these gaps are partial.
  int64_t events_unexplained = 0;
  std::vector<Gap> gaps;  // Those that touch this interval.
  // The worker's when it sealed the table; the flusher may not look at the worker itself.
  WorkerCounts counts;
  uint64_t flows = 0;

  void Clear() {
    rows.Clear();
    other = TrafficSums();
    rows_folded = 0;
    open_changes.Clear();
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
