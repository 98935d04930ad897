// What an operator's monitoring must see of an importer, as text for its metrics file. Dashboards
// and alerts rely on the names: they stay.
//
// A plain value, thread-compatible.
#ifndef CTACCT_IMPORTER_METRICS_H_
#define CTACCT_IMPORTER_METRICS_H_

#include <cstdint>
#include <string>

#include "engine/spool/spool_backlog.h"

namespace ctacct {

struct ImporterMetrics {
  std::string gateway;  // The label of every metric: -gateway, else the host's name.
  uint64_t metrics_write_failures = 0;
  int64_t started_ns = 0;  // Times: since the Unix epoch; 0: not yet.
  int64_t written_ns = 0;  // When these values were taken.
  bool watching = false;   // It runs until it is stopped: without -once, and not only named files.
  // By this run.
  uint64_t files = 0;
  uint64_t rows = 0;
  uint64_t names_snapshots = 0;
  uint64_t files_done_before = 0;
  uint64_t files_quarantined = 0;
  uint64_t transactions = 0;
  int64_t import_ns = 0;  // Of all transactions, and of the last one.
  int64_t last_import_ns = 0;
  int64_t last_import_at_ns = 0;
  int64_t newest_interval_end_ns = 0;
  uint64_t partitions_dropped = 0;
  // Of the database.
  bool database_up = false;
  uint64_t database_retries = 0;
  // Of the files, now.
  uint64_t not_imported = 0;
  uint64_t not_removed = 0;
  SpoolBacklog waiting;  // In the watched folder.
  uint64_t in_quarantine = 0;
};

[[nodiscard]] std::string MetricsText(const ImporterMetrics& metrics);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_METRICS_H_
