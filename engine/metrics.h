// What an operator's monitoring must see of an engine, as text for its metrics file
// (prometheus_text.h). Names and labels are relied on by dashboards, alarms and people's own
// programs: they stay.
//
// Plain values, thread-compatible.
#ifndef CTACCT_ENGINE_METRICS_H_
#define CTACCT_ENGINE_METRICS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "engine/accounting/accounting_table.h"
#include "engine/output/interval_totals.h"
#include "engine/spool/spool_backlog.h"

namespace ctacct {

// Of an engine that listens to the kernel; a replay has none of it. As of the end of the last dump.
struct LiveMetrics {
  uint64_t dumps = 0;
  uint64_t dumps_failed = 0;  // Of these.
  int64_t dump_ns = 0;        // From asking for it to its end; of all dumps, and of the last one.
  int64_t last_dump_ns = 0;
  // Of all workers: rounds of looking at what waits, and how many of these were followed by a nap,
  // in which events pile up to be read together. Without one a worker has no time left.
  uint64_t wakeups = 0;
  uint64_t naps = 0;
  uint64_t receive_buffer_bytes = 0;  // Granted.
  // The largest share of its receive buffer that a worker found filled during the last interval.
  double receive_buffer_peak = 0;
  uint64_t times_reliable_left = 0;
  // Of this network namespace. A maximum of 0: there is none, or conntrack does not tell.
  uint64_t conntrack_entries = 0;
  uint64_t conntrack_entries_max = 0;
};

struct EngineMetrics {
  std::string gateway;
  int64_t interval_ns = 0;
  int64_t started_ns = 0;  // Times: since the Unix epoch.
  // As of the end of each worker's last interval.
  WorkerCounts counts;
  uint64_t flows = 0;
  IntervalTotals intervals;
  uint64_t intervals_written = 0;
  uint64_t rows_written = 0;
  uint64_t last_interval_rows = 0;
  uint64_t rows_waiting = 0;
  uint64_t rows_folded = 0;
  uint64_t write_failures = 0;  // Since the last success; not 0: rows wait for their output.
  int64_t last_write_ns = 0;    // 0: nothing was written yet.
  int64_t flush_ns = 0;  // Spent on merging and writing tables; in all, and for the last interval.
  int64_t last_flush_ns = 0;
  std::optional<SpoolBacklog> spool;  // Nothing: no -output.
  bool has_pipe = false;
  uint64_t pipe_lines_written = 0;
  uint64_t pipe_lines_dropped = 0;
  uint64_t port_list_errors = 0;
  bool port_list_failing = false;  // The file is bad now; an older list is in force.
  std::optional<LiveMetrics> live;
};

[[nodiscard]] std::string MetricsText(const EngineMetrics& metrics);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_METRICS_H_
