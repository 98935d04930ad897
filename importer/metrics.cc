#include "importer/metrics.h"

#include <algorithm>

#include "engine/system/prometheus_text.h"

namespace ctacct {

std::string MetricsText(const ImporterMetrics& metrics) {
  PrometheusText text("ctacct_importer_", metrics.gateway);
  text.Gauge("start_timestamp_seconds", "Time when this importer started.",
             SecondsText(metrics.started_ns));
  text.Gauge("updated_timestamp_seconds",
             "Time when this file was written; every few seconds while the importer runs.",
             SecondsText(metrics.written_ns));
  text.Gauge("watching", "1 if it runs until it is stopped; 0 with -once or for named files.",
             metrics.watching ? 1 : 0);

  text.Counter("metrics_write_failures_total", "Failed attempts to write this file.",
               metrics.metrics_write_failures);
  text.Counter("files_total", "Files imported.", metrics.files);
  text.Counter("rows_total", "Rows imported.", metrics.rows);
  text.Counter("names_snapshots_total", "Names files imported.", metrics.names_snapshots);
  text.Counter("files_done_before_total", "Files that were already in the database.",
               metrics.files_done_before);
  text.Counter("files_quarantined_total", "Bad files moved to failed/.", metrics.files_quarantined);
  text.Counter("transactions_total", "Transactions that imported files.", metrics.transactions);
  text.Counter("import_seconds_total", "Duration of all transactions that imported files.",
               SecondsText(metrics.import_ns));
  text.Gauge("last_import_seconds", "Duration of the last transaction that imported files.",
             SecondsText(metrics.last_import_ns));
  text.Gauge("last_import_timestamp_seconds",
             "Time when the last transaction that imported files ended; 0: none yet.",
             SecondsText(metrics.last_import_at_ns));
  text.Gauge("newest_interval_end_timestamp_seconds",
             "End of the newest interval imported from a spool file; 0: none yet.",
             SecondsText(metrics.newest_interval_end_ns));
  text.Counter("partitions_dropped_total", "Partitions dropped by retention.",
               metrics.partitions_dropped);

  text.Gauge("database_up", "1 if the database was reachable when it was last needed.",
             metrics.database_up ? 1 : 0);
  text.Counter("database_retries_total", "Retries because the database was unavailable.",
               metrics.database_retries);

  const SpoolBacklog& waiting = metrics.waiting;
  const int64_t lag_ns = waiting.oldest_ns == 0 ? 0 : metrics.written_ns - waiting.oldest_ns;
  text.Gauge("lag_seconds", "Age of the oldest waiting file; 0: none waits.",
             SecondsText(std::max<int64_t>(0, lag_ns)));
  text.Gauge("waiting_files", "Files of rows or names in the watched folder, counted up to 100000.",
             waiting.files);
  text.Gauge("waiting_bytes", "Size of the files of rows or names in the watched folder.",
             waiting.bytes);
  text.Gauge("not_imported_files",
             "Files found that are not in the database: still waiting, or the log says why.",
             metrics.not_imported);
  text.Gauge("not_removed_files", "Files in the database that could not be moved or deleted.",
             metrics.not_removed);
  text.Gauge("quarantine_files", "Files in failed/ now.", metrics.in_quarantine);
  return text.Take();
}

}  // namespace ctacct
