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
#include "engine/input/live_metrics.h"
#include "engine/output/interval_totals.h"
#include "engine/spool/spool_backlog.h"

namespace ctacct {

struct EngineMetrics {
  std::string gateway;
  uint64_t metrics_write_failures = 0;
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
