#include "importer/metrics.h"

#include <algorithm>

#include "engine/system/prometheus_text.h"

namespace ctacct {

std::string MetricsText(const ImporterMetrics& metrics) {
  PrometheusText text("ctacct_importer_");
  text.Gauge("start_timestamp_seconds", "When this importer started.",
             SecondsText(metrics.started_ns));
  text.Gauge("updated_timestamp_seconds",
             "When this was written; while it runs at least every few seconds.",
             SecondsText(metrics.told_ns));
  text.Gauge("watching", "1: it runs until it is stopped; 0: with -once, or for files named.",
             metrics.watching ? 1 : 0);

  text.Counter("files_total", "Files imported.", metrics.files);
  text.Counter("rows_total", "Their rows.", metrics.rows);
  text.Counter("files_done_before_total", "Files that the database had already.",
               metrics.files_done_before);
  text.Counter("files_quarantined_total", "Bad files that were set aside, in failed/.",
               metrics.files_quarantined);
  text.Counter("transactions_total", "Transactions that have brought files into the database.",
               metrics.transactions);
  text.Counter("import_seconds_total", "How long they took.", SecondsText(metrics.import_ns));
  text.Gauge("last_import_seconds", "How long the last one took.",
             SecondsText(metrics.last_import_ns));
  text.Gauge("last_import_timestamp_seconds", "When it was over; 0: not yet.",
             SecondsText(metrics.last_import_at_ns));
  text.Gauge("newest_interval_end_timestamp_seconds",
             "The end of the newest interval imported, by its spool file; 0: none yet.",
             SecondsText(metrics.newest_interval_end_ns));
  text.Counter("partitions_dropped_total", "Partitions dropped because they were too old.",
               metrics.partitions_dropped);

  text.Gauge("database_up", "1 if the database was there when it was last needed.",
             metrics.database_up ? 1 : 0);
  text.Counter("database_retries_total", "Attempts that failed because it was not, and waited.",
               metrics.database_retries);

  text.Gauge("lag_seconds", "Age of the oldest file that waits; 0: none waits.",
             SecondsText(metrics.oldest_waiting_ns == 0
                             ? 0
                             : std::max<int64_t>(0, metrics.told_ns - metrics.oldest_waiting_ns)));
  text.Gauge("waiting_files", "Files of rows in the watched folder; counted up to 100000.",
             metrics.waiting_files);
  text.Gauge("waiting_bytes", "Their size.", metrics.waiting_bytes);
  text.Gauge("not_imported_files",
             "Files that were found and are not in the database: their turn comes, or the log says "
             "why.",
             metrics.not_imported);
  text.Gauge("not_removed_files", "Files in the database that could not be moved or deleted.",
             metrics.not_removed);
  text.Gauge("quarantine_files", "Files in failed/ now.", metrics.in_quarantine);
  return text.Take();
}

}  // namespace ctacct
