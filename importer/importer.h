// The importer: takes files out of a spool folder, or those named, and puts them into the database.
//
// It can be killed at any moment because of the order of its steps: read the file, load it with its
// ledger row in one transaction, only then move or delete it. A step that was interrupted is done
// again, and the ledger says what is in the database.
//
// Not thread-safe: one thread does everything.
#ifndef CTACCT_IMPORTER_IMPORTER_H_
#define CTACCT_IMPORTER_IMPORTER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/spool/spool_backlog.h"
#include "engine/system/clock.h"
#include "engine/system/prometheus_text.h"
#include "engine/system/service_manager.h"
#include "importer/files/spool_queue.h"
#include "importer/files/traffic_file.h"
#include "importer/flags.h"
#include "importer/metrics.h"
#include "importer/postgres/pg_connection.h"
#include "importer/tables/load.h"
#include "importer/tables/load_names.h"

namespace ctacct {

class Importer {
 public:
  // All waiting ends once `stop_fd` is readable.
  Importer(ImporterConfig config, int stop_fd);

  // Before anything is imported: checks that folders and the metrics file can be written to.
  [[nodiscard]] absl::Status Open();
  // Cancelled if it was asked to stop, which is how watching ends.
  [[nodiscard]] absl::Status Run();
  // Logs the summary and writes the last metrics. `ended` is what Run returned. True if it did all
  // that was asked for.
  [[nodiscard]] bool Finish(const absl::Status& ended);

 private:
  // What became of one file.
  enum class FileOutcome {
    kInDatabase,  // By this run or before.
    kGone,        // Another importer was faster.
    kLeft,        // Not in the database, and left where it is; the log says why.
    kLeftForNow,  // As kLeft, but worth another try.
    kLeftWriter,  // As kLeft, but worth another try soon: it may still be written to.
    kQuarantined,
    kNotDisposed,  // In the database, and left where it is; worth another try.
  };
  // Read once and sound, not loaded yet.
  struct ReadyFile {
    TrafficFile file;
    FileSummary summary;
  };
  // The files of the next transaction.
  struct Batch {
    std::vector<ReadyFile> files;
    uint64_t rows = 0;
    size_t days = 0;  // Counted for each file.
  };
  // A file that may have a writer: since when it looks as it does.
  struct Unsettled {
    FileIdentity identity;
    absl::Duration since;
  };

  // ---- which files ----
  [[nodiscard]] absl::Status Watch();
  [[nodiscard]] absl::Status Drain();  // Until the watched folder is empty.
  // Imports what waits in the watched folder now. False: nothing did.
  [[nodiscard]] absl::StatusOr<bool> DrainOnce();
  [[nodiscard]] absl::Status ImportNamedFiles();
  // Takes over another importer's table.
  [[nodiscard]] absl::Status Adopt();

  // ---- a file ----
  // On an error the outcome is noted.
  [[nodiscard]] absl::StatusOr<TrafficFile> OpenFile(const FilePlace& place);
  // Reads it once. A sound file is added to the batch; the outcome of all others is noted.
  void Examine(const FilePlace& place, Batch* batch);
  // The outcome of a file that could not be read.
  FileOutcome Refuse(const TrafficFile& file, const absl::Status& status);
  [[nodiscard]] absl::StatusOr<FileSummary> ReadThrough(TrafficFile& file);
  // Loads these, in one transaction if that works, and disposes of them.
  [[nodiscard]] absl::Status Import(absl::Span<const ReadyFile> files);
  FileOutcome AfterLoad(const ReadyFile& ready, ImportOutcome outcome);
  FileOutcome Dispose(const TrafficFile& file);
  FileOutcome Reject(const TrafficFile& file, absl::string_view reason);
  // Records the outcome, and when the file is worth another try.
  void Note(FileOutcome outcome, const FilePlace& place);

  // Loads a names file, in a transaction of its own, and disposes of it.
  [[nodiscard]] absl::Status ImportNamesFile(const FilePlace& place);
  // The outcome of one that is in the database.
  FileOutcome AfterNames(const TrafficFile& file, const NamesSnapshot& snapshot,
                         const NamesOutcome& loaded);

  // ---- the database ----
  [[nodiscard]] absl::StatusOr<PgConnection> Connect();
  [[nodiscard]] absl::Status ConnectIfNeeded();
  // Returns once they are loaded, or it is known that they cannot be; waits for an absent database.
  [[nodiscard]] absl::StatusOr<std::vector<ImportOutcome>> Load(absl::Span<const ReadyFile> files);
  // Runs `load` on a connection, and again after each pause for an absent database. Other errors of
  // `load` are returned.
  [[nodiscard]] absl::Status WithDatabase(absl::FunctionRef<absl::Status(PgConnection&)> load);
  // After they are loaded; no file depends on it.
  void Summarize(absl::Span<const ReadyFile> files);
  // After `status` (Unavailable): OK after a pause, when it is time to try again.
  [[nodiscard]] absl::Status PauseAfter(const absl::Status& status);
  void NoteDatabaseBack();
  // Makes partitions ahead and drops old ones, once in kMaintenancePeriod. If it fails it waits for
  // the next time: no file depends on it.
  void Maintain();

  // ---- waiting, metrics, messages ----
  // Whether it was asked to stop, within `wait`. Meanwhile the watchdog is fed and the metrics stay
  // fresh.
  [[nodiscard]] bool StopAsked(absl::Duration wait = absl::ZeroDuration());
  void WriteMetrics(bool last = false);
  void WriteMetricsIfDue();
  // One line for the service manager.
  void ReportStatus(size_t files_waiting);
  void LogSummary() const;
  // Everything that was found is in the database, and out of the way.
  [[nodiscard]] bool AllDone() const { return not_imported_.empty() && not_disposed_.empty(); }

  const ImporterConfig config_;
  const int stop_fd_;
  ServiceManager manager_;
  // The watched folder, whose bad files are set aside; none while named files are imported, which
  // stay where they are.
  std::optional<SpoolQueue> queue_;

  std::optional<PgConnection> connection_;
  std::set<int32_t> known_days_;  // For which the database has partitions.
  absl::Duration maintained_ = -absl::InfiniteDuration();
  bool connected_before_ = false;
  int failures_in_a_row_ = 0;
  std::string last_failure_;  // As logged.

  // Paths. Found, and not in the database. Not bounded: each bad file is an entry.
  std::set<std::string> not_imported_;
  std::set<std::string> not_disposed_;  // In the database, but still where they were.
  std::map<std::string, Unsettled> unsettled_;

  ImporterMetrics metrics_;
  std::optional<MetricsFile> metrics_file_;
  absl::Duration metrics_written_ = -absl::InfiniteDuration();
  SpoolBacklogMeter backlog_;
  SpoolBacklogMeter quarantine_;
};

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_IMPORTER_H_
