// importer: files of traffic rows into PostgreSQL, each exactly once (contract, section 4).
//
// The order of things makes it safe to be killed at any moment: look at the file, load it and its
// ledger row in one transaction, only then move or delete it. Whatever was interrupted is done
// again, and the ledger knows.
#include <fcntl.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/gateway_name.h"
#include "engine/spool/spool_backlog.h"
#include "engine/spool/spool_header.h"
#include "engine/system/command_line.h"
#include "engine/system/durable_file.h"
#include "engine/system/monotonic_clock.h"
#include "engine/system/prometheus_text.h"
#include "engine/system/service_manager.h"
#include "engine/system/unique_fd.h"
#include "importer/files/disposal.h"
#include "importer/files/log.h"
#include "importer/files/spool_queue.h"
#include "importer/files/traffic_file.h"
#include "importer/metrics.h"
#include "importer/postgres/connection_flags.h"
#include "importer/postgres/pg_connection.h"
#include "importer/tables/load.h"
#include "importer/tables/partitions.h"
#include "importer/tables/versions.h"

ABSL_FLAG(std::string, watch, "", "spool folder to drain: what is there, then what appears");
ABSL_FLAG(std::string, move, "", "folder for files done; without it they are deleted");
ABSL_FLAG(bool, once, false, "with -watch: drain, then exit");
ABSL_FLAG(std::string, gateway, "", "name of the gateway for rows of CSV files, which have none");

ABSL_FLAG(std::string, adopt, "",
          "take over the rows of a table made by the reference's importer (vpn_traffic itself is "
          "renamed to vpn_traffic_reference), in the name of -gateway; then exit");
ABSL_FLAG(std::string, metrics_file, "",
          "file that tells how the importer does, in Prometheus' text format; replaced as a whole "
          "every few seconds, and last with how it ended; everybody may read it");
ABSL_FLAG(
    int, retention_rows, 0,
    "days after which rows of vpn_traffic are dropped, a day's partition at a time; 0: never");
ABSL_FLAG(int, retention_fine, 0, "the same for rollups of intervals and minutes; 0: never");
ABSL_FLAG(int, retention_10m, 0, "the same for rollups of ten minutes; 0: never");
ABSL_FLAG(int, retention_1h, 0, "the same for rollups of hours; 0: never");

ABSL_FLAG(int, transaction_files, 240,
          "at most so many files of a backlog in one transaction (and about four million rows)");

namespace ctacct {
namespace {

constexpr char kProgram[] = "importer";
constexpr char kUsage[] =
    "usage: importer [FLAGS] [FILE...]\n"
    "Loads spool and CSV files into PostgreSQL, each exactly once: the files named, then what is "
    "in\n"
    "the -watch folder and what appears there.\n"
    "Files are deleted once their rows are durable in the database, unless -move names a folder.\n"
    "Without -host, -db, -user, -pass and -conninfo libpq's own settings apply: PGHOST,\n"
    "PGDATABASE, PGSERVICE, ~/.pgpass.";

constexpr absl::Duration kBackOffFirst = absl::Milliseconds(250);
constexpr absl::Duration kBackOffMax = absl::Seconds(30);
// A run that somebody waits for gives up after 250 ms + 500 ms + ... + 16 s: half a minute, in
// which a server restarts.
constexpr int kOnceRetriesMax = 7;
// A file that could not be disposed of, opened or read gets another chance after so long.
constexpr absl::Duration kDeferral = absl::Seconds(30);
// One that is still being written to is sooner done.
constexpr absl::Duration kDeferralWriter = absl::Seconds(1);
// A transaction of a backlog: enough that most steps of the rollups are written once and not again
// for each file. Each file holds a descriptor; rows, so that a stop or a lost connection throws
// away no more than some seconds' work.
constexpr int kTransactionFilesMax = 500;  // The flag's default is an hour at the default interval.
constexpr uint64_t kTransactionRowsEnough = 4'000'000;
// Counted for each file, so an hour of files of one day is within it.
constexpr size_t kTransactionDaysEnough = 250;
// Partitions are a day wide or wider: made a day ahead, and dropped when nobody would miss an hour.
constexpr absl::Duration kMaintenancePeriod = absl::Hours(1);
// So fresh the metrics file is kept while there is nothing but waiting, for a database or for
// files.
constexpr absl::Duration kMetricsPeriod = absl::Seconds(5);
// Shorter backlogs are done before anybody has read the line.
constexpr size_t kProgressFilesMin = 20;
constexpr absl::Duration kProgressPeriod = absl::Milliseconds(200);

struct Options {
  PgOptions database;
  std::string watch;
  std::string move;
  std::string gateway;
  bool once = false;
  size_t transaction_files = 1;
  std::string adopt;
  std::vector<std::pair<std::string, int>> retention;  // Tier and days, of those that have an end.
  std::vector<std::string> files;
};

std::string WithThousands(uint64_t number) {
  const std::string digits = absl::StrCat(number);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i != 0 && (digits.size() - i) % 3 == 0) text.push_back(',');
    text.push_back(digits[i]);
  }
  return text;
}

// What became of one file. An error instead of it ends the run.
enum class FileOutcome {
  kInDatabase,  // By this run or before.
  kGone,        // Another importer was faster.
  kLeft,        // Not in the database, and left where it is; the log says why.
  kLeftForNow,  // The same, but worth another try.
  kLeftWriter,  // The same, and soon.
  kQuarantined,
  kNotDisposed,  // In the database, and left where it is; worth another try.
};

// Found to be sound, not loaded yet.
struct ReadyFile {
  FilePlace place;
  std::string path;
  TrafficFile file;
  FileSummary summary;
};

// Of such an error one file of a transaction is the cause.
bool IsFilesFault(const absl::Status& status) {
  return absl::IsAlreadyExists(status) || absl::IsInvalidArgument(status) ||
         absl::IsAborted(status) || absl::IsDataLoss(status) || absl::IsUnimplemented(status);
}

bool IsQuarantinedName(absl::string_view name) {
  return !absl::StartsWith(name, ".") && !absl::EndsWith(name, kReasonSuffix);
}

class Importer {
 public:
  // `manager` must outlive it.
  Importer(Options options, int stop_fd, ServiceManager* manager,
           std::optional<MetricsFile> metrics_file, const ImporterMetrics& metrics)
      : options_(std::move(options)),
        stop_fd_(stop_fd),
        manager_(manager),
        metrics_(metrics),
        metrics_file_(std::move(metrics_file)),
        backlog_(options_.watch),
        quarantine_(absl::StrCat(options_.watch, "/", kFailedFolder), IsQuarantinedName) {}

  // Returns once stop was asked for (OK), or the run cannot go on.
  absl::Status Watch();
  // Everything in the watched folder, once.
  absl::Status Drain();
  // The files of the command line.
  absl::Status ImportFiles();
  // Another importer's table.
  absl::Status Adopt();

  // All that was found is in the database, and out of the way.
  [[nodiscard]] bool AllDone() const { return not_imported_.empty() && not_disposed_.empty(); }
  void LogSummary() const;
  // Tells monitoring how things are; `last`: and stay.
  void Tell(bool last = false);

 private:
  // The same, if it was not done just now. To be called wherever time passes.
  void TellNowAndThen();
  // All that waits in the folder now. *found is whether anything did.
  absl::Status DrainOnce(SpoolQueue& queue, bool* found);
  // Looks at one file. Nothing if it is ready to be loaded, and then it is at the end of `ready`.
  std::optional<FileOutcome> Look(const FilePlace& place, const std::string& path,
                                  std::vector<ReadyFile>* ready);
  // Loads these, in one transaction if that works, and disposes of them. An outcome for each.
  absl::StatusOr<std::vector<FileOutcome>> Import(absl::Span<const ReadyFile> files);
  absl::StatusOr<FileOutcome> AfterLoad(const ReadyFile& file,
                                        const absl::StatusOr<ImportOutcome>& outcome);
  // Keeps the books.
  void Note(FileOutcome outcome, const FilePlace& place, const std::string& path);
  absl::StatusOr<FileSummary> Examine(TrafficFile& file, const std::string& path);
  absl::StatusOr<FileOutcome> Dispose(const FilePlace& place, const TrafficFile& file,
                                      const std::string& path);
  // Loads until it is done or it is known that it will not do; waits out an absent database.
  absl::StatusOr<std::vector<ImportOutcome>> Load(absl::Span<const ReadyFile> files);
  absl::Status ConnectIfNeeded();
  absl::StatusOr<PgConnection> Connect();
  // Whether the database was there when it was needed.
  void NoteDatabase(bool up);
  // Partitions made ahead and old ones dropped, once in kMaintenancePeriod. What fails waits for
  // the next time: no file does.
  void Maintain();
  // After `status` (Unavailable): OK after a pause, when it is time to try again.
  absl::Status PauseAfter(const absl::Status& status);
  void NoteDatabaseBack();
  void NoteTransaction(absl::Duration took);
  FileOutcome Reject(const FilePlace& place, const TrafficFile& file, absl::string_view reason);
  [[nodiscard]] bool StopAsked(absl::Duration wait) const;
  [[nodiscard]] bool StopAskedDuring(absl::Duration pause);
  void Progress(size_t done, size_t total);
  // For whoever asks the service manager how it goes.
  void TellStatus(size_t files_waiting);

  const Options options_;
  const int stop_fd_;
  ServiceManager* const manager_;
  const absl::Duration started_ = MonotonicNow();
  std::optional<PgConnection> connection_;
  std::set<int32_t> known_days_;  // For which the database has partitions.
  absl::Duration maintained_ = -absl::InfiniteDuration();
  bool connected_before_ = false;
  bool draining_ = false;  // The watched folder, where bad files are set aside; else named files.
  int failures_in_a_row_ = 0;
  std::string last_failure_;  // What was said of the last one.
  absl::Duration progress_shown_ = -absl::InfiniteDuration();
  ImporterMetrics metrics_;
  std::optional<MetricsFile> metrics_file_;
  absl::Duration told_ = -absl::InfiniteDuration();
  SpoolBacklogMeter backlog_;
  SpoolBacklogMeter quarantine_;
  // Paths. What was found and is not in the database; grows by every bad file, and a run with many
  // of those has other worries.
  std::set<std::string> not_imported_;
  std::set<std::string> not_disposed_;  // In the database, but still where it was.
  // Files that may have a writer: since when they look as they do.
  struct Seen {
    FileIdentity identity;
    absl::Duration since;
  };
  std::map<std::string, Seen> unsettled_;
};

bool Importer::StopAsked(absl::Duration wait) const {
  pollfd fd = {stop_fd_, POLLIN, 0};
  for (int64_t left = absl::ToInt64Milliseconds(wait);; left -= ServiceManager::kAlivePollMillis) {
    manager_->TellAlive();
    const int64_t slice = std::min<int64_t>(left, ServiceManager::kAlivePollMillis);
    if (poll(&fd, 1, static_cast<int>(slice)) > 0) return true;
    if (slice == left) return false;
  }
}

void Importer::TellStatus(size_t files_waiting) {
  std::string status =
      absl::StrCat(WithThousands(metrics_.files), " files, ", WithThousands(metrics_.rows),
                   " rows imported; ", WithThousands(files_waiting), " files wait");
  if (metrics_.last_import_at_ns != 0) {
    absl::StrAppend(
        &status, "; last at ",
        absl::FormatTime("%H:%M:%S UTC", absl::FromUnixNanos(metrics_.last_import_at_ns),
                         absl::UTCTimeZone()));
  }
  if (!AllDone() && files_waiting == 0) {
    absl::StrAppend(&status, "; some could not be imported or removed (see the log)");
  }
  manager_->TellStatus(status);
}

bool Importer::StopAskedDuring(absl::Duration pause) {
  const absl::Duration end = MonotonicNow() + pause;
  for (absl::Duration left = pause; left > absl::ZeroDuration(); left = end - MonotonicNow()) {
    TellNowAndThen();
    if (StopAsked(std::min(left, kMetricsPeriod))) return true;
  }
  return StopAsked(absl::ZeroDuration());
}

void Importer::TellNowAndThen() {
  if (MonotonicNow() - told_ >= kMetricsPeriod) Tell();
}

void Importer::Tell(bool last) {
  if (!metrics_file_.has_value()) return;
  told_ = MonotonicNow();
  metrics_.told_ns = absl::ToUnixNanos(absl::Now());
  metrics_.not_imported = not_imported_.size();
  metrics_.not_removed = not_disposed_.size();
  if (!options_.watch.empty()) {
    const SpoolBacklog& waiting = backlog_.Measure(/*now=*/last);
    metrics_.waiting_files = waiting.files;
    metrics_.waiting_bytes = waiting.bytes;
    metrics_.oldest_waiting_ns = waiting.oldest_ns;
    metrics_.in_quarantine = quarantine_.Measure(/*now=*/last).files;
  }
  metrics_file_->Refresh(MetricsText(metrics_), [](const std::string& line) { LogLine(line); });
}

void Importer::NoteDatabase(bool up) {
  if (std::exchange(metrics_.database_up, up) != up) Tell();
}

absl::Status Importer::PauseAfter(const absl::Status& status) {
  connection_.reset();
  NoteDatabase(false);
  const bool patient = !options_.watch.empty() && !options_.once;
  // A person who waits would rather hear at once that the address is wrong.
  if (!patient && (!connected_before_ || failures_in_a_row_ >= kOnceRetriesMax)) return status;
  // A server that is down, then starts, then is a standby: each is said, once.
  if (failures_in_a_row_++ == 0 || status.message() != last_failure_) {
    LogLine(absl::StrCat("database unavailable: ", status.message(), "; trying again"));
    manager_->TellStatus(
        absl::StrCat("database unavailable since ",
                     absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", absl::Now(), absl::UTCTimeZone()),
                     " (see the log); files wait"));
    last_failure_ = std::string(status.message());
  }
  const absl::Duration pause =
      std::min(kBackOffMax, kBackOffFirst * (1 << std::min(failures_in_a_row_ - 1, 10)));
  ++metrics_.database_retries;
  return StopAskedDuring(pause) ? absl::CancelledError("stop was asked for") : absl::OkStatus();
}

void Importer::NoteDatabaseBack() {
  if (failures_in_a_row_ != 0) LogLine("database is back");
  failures_in_a_row_ = 0;
}

void Importer::NoteTransaction(absl::Duration took) {
  ++metrics_.transactions;
  metrics_.last_import_ns = absl::ToInt64Nanoseconds(took);
  metrics_.import_ns += metrics_.last_import_ns;
  metrics_.last_import_at_ns = absl::ToUnixNanos(absl::Now());
}

absl::StatusOr<PgConnection> Importer::Connect() {
  PgOptions options = options_.database;
  options.while_waiting = [this] {
    manager_->TellAlive();
    TellNowAndThen();
  };
  return PgConnection::Open(options);
}

absl::Status Importer::ConnectIfNeeded() {
  if (connection_.has_value()) return absl::OkStatus();
  absl::StatusOr<PgConnection> connection = Connect();
  if (!connection.ok()) return connection.status();
  if (absl::Status status = EnsureSchema(*connection); !status.ok()) return status;
  connection_ = *std::move(connection);
  connected_before_ = true;
  NoteDatabase(true);
  return absl::OkStatus();
}

void Importer::Maintain() {
  if (MonotonicNow() - maintained_ < kMaintenancePeriod || !connection_.has_value()) return;
  maintained_ = MonotonicNow();
  const auto today = static_cast<int32_t>(absl::ToUnixSeconds(absl::Now()) / 86'400);
  absl::Status status = MakePartitions(*connection_, {today, today + 1}, &known_days_);
  for (const auto& [tier, days] : options_.retention) {
    if (status.ok())
      status = DropOldPartitions(*connection_, tier, days, &metrics_.partitions_dropped);
  }
  // Whatever was dropped need not be there for the next file of its day.
  if (!options_.retention.empty()) known_days_.clear();
  if (status.ok()) return;
  connection_.reset();
  if (!absl::IsCancelled(status)) {
    LogLine(absl::StrCat("partitions: ", status.message(), "; trying again in an hour"));
  }
}

absl::Status Importer::Adopt() {
  absl::StatusOr<PgConnection> connection = Connect();
  if (!connection.ok()) return connection.status();
  NoteDatabase(true);
  const absl::StatusOr<uint64_t> rows = AdoptTable(*connection, options_.adopt, options_.gateway);
  if (absl::IsAlreadyExists(rows.status())) {
    LogLine(rows.status().message());
    return absl::OkStatus();
  }
  if (!rows.ok()) return rows.status();
  LogLine(absl::StrCat("table ", options_.adopt, ": ", WithThousands(*rows), " rows taken over"));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ImportOutcome>> Importer::Load(absl::Span<const ReadyFile> files) {
  std::vector<FileToImport> to_import;
  for (const ReadyFile& file : files) to_import.push_back({&file.file, &file.summary});
  while (true) {
    absl::Status status = ConnectIfNeeded();
    if (status.ok()) {
      const absl::Duration begun = MonotonicNow();
      absl::StatusOr<std::vector<ImportOutcome>> outcomes =
          ImportTogether(*connection_, to_import, &known_days_);
      if (outcomes.ok()) NoteTransaction(MonotonicNow() - begun);
      if (outcomes.ok() || absl::IsAlreadyExists(outcomes.status())) {
        NoteDatabaseBack();
        return outcomes;
      }
      // Within a transaction, perhaps within a COPY: closing the connection rolls back.
      status = outcomes.status();
      connection_.reset();
    }
    if (!absl::IsUnavailable(status)) return status;
    if (absl::Status pause = PauseAfter(status); !pause.ok()) return pause;
  }
}

FileOutcome Importer::Reject(const FilePlace& place, const TrafficFile& file,
                             absl::string_view reason) {
  LogLine(reason);
  if (!draining_) return FileOutcome::kLeft;  // A file that somebody named: they decide.
  if (absl::Status status = QuarantineFile(place, file.identity(), reason); !status.ok()) {
    LogLine(status.message());
    return FileOutcome::kLeftForNow;
  }
  return FileOutcome::kQuarantined;
}

void Importer::Note(FileOutcome outcome, const FilePlace& place, const std::string& path) {
  if (outcome == FileOutcome::kNotDisposed) not_disposed_.insert(path);
  if (outcome == FileOutcome::kQuarantined) ++metrics_.files_quarantined;
  if (outcome == FileOutcome::kInDatabase || outcome == FileOutcome::kGone) {
    not_disposed_.erase(path);
  }
  // Another importer may have been faster to find it bad.
  const bool failed_elsewhere =
      outcome == FileOutcome::kGone &&
      faccessat(place.folder_fd, absl::StrCat(kFailedFolder, "/", place.name).c_str(), F_OK,
                AT_SYMLINK_NOFOLLOW) == 0;
  if (outcome == FileOutcome::kInDatabase || outcome == FileOutcome::kNotDisposed ||
      (outcome == FileOutcome::kGone && !failed_elsewhere)) {
    not_imported_.erase(path);
  }
  if (outcome != FileOutcome::kLeftWriter) unsettled_.erase(path);
}

absl::StatusOr<FileSummary> Importer::Examine(TrafficFile& file, const std::string& path) {
  auto seen = unsettled_.find(path);
  if (seen != unsettled_.end() && seen->second.identity != file.identity()) {
    unsettled_.erase(seen);
    seen = unsettled_.end();
  }
  if (seen != unsettled_.end() && MonotonicNow() - seen->second.since >= kQuietTime) {
    file.AssumeAtRest();
  }
  absl::StatusOr<FileSummary> summary =
      file.Read([](absl::Span<const TrafficRow>) { return absl::OkStatus(); });
  if (absl::IsAborted(summary.status())) {
    unsettled_.insert({path, {file.identity(), MonotonicNow()}});
  }
  return summary;
}

absl::StatusOr<FileOutcome> Importer::Dispose(const FilePlace& place, const TrafficFile& file,
                                              const std::string& path) {
  const absl::Status disposed = options_.move.empty()
                                    ? RemoveFile(place, file.identity())
                                    : MoveFile(place, file.identity(), options_.move);
  if (disposed.ok()) return FileOutcome::kInDatabase;
  if (!absl::IsAborted(disposed)) {
    LogLine(absl::StrCat(disposed.message(), " (its rows are in the database)"));
    return FileOutcome::kNotDisposed;
  }
  const std::string until = absl::StrCat(" its first ", file.identity().size, " bytes are in the ",
                                         "database, and it has changed since");
  if (!file.is_csv()) {
    // The ledger knows it by its sequence: another look does no harm, and tells what it is now.
    LogLine(absl::StrCat(path, ":", until));
    return FileOutcome::kLeftWriter;
  }
  return Reject(place, file,
                absl::StrCat(path, ":", until, "; imported again as it is, those count twice"));
}

std::optional<FileOutcome> Importer::Look(const FilePlace& place, const std::string& path,
                                          std::vector<ReadyFile>* ready) {
  absl::StatusOr<TrafficFile> file =
      TrafficFile::Open(place.folder_fd, place.name, path, options_.gateway);
  if (absl::IsNotFound(file.status()) && draining_) return FileOutcome::kGone;
  if (!file.ok()) {
    LogLine(file.status().message());
    return FileOutcome::kLeftForNow;
  }
  absl::StatusOr<FileSummary> summary = Examine(*file, path);
  if (absl::IsDataLoss(summary.status())) {
    return Reject(place, *file, summary.status().message());
  }
  if (!summary.ok()) {
    if (absl::IsAborted(summary.status()) && draining_ && !options_.once) {
      return FileOutcome::kLeftWriter;  // Nothing unusual.
    }
    LogLine(absl::IsUnimplemented(summary.status())
                ? absl::StrCat(summary.status().message(), "; left for a newer importer")
                : std::string(summary.status().message()));
    return absl::IsUnimplemented(summary.status()) ? FileOutcome::kLeft : FileOutcome::kLeftForNow;
  }
  ready->push_back({place, path, *std::move(file), *std::move(summary)});
  return std::nullopt;
}

absl::StatusOr<std::vector<FileOutcome>> Importer::Import(absl::Span<const ReadyFile> files) {
  std::vector<FileOutcome> outcomes;
  if (files.empty()) return outcomes;
  const absl::StatusOr<std::vector<ImportOutcome>> loaded = Load(files);
  if (!loaded.ok() && IsFilesFault(loaded.status()) && files.size() > 1) {
    // One of them is bad: which one shows when each is alone.
    for (const ReadyFile& file : files) {
      const absl::StatusOr<std::vector<FileOutcome>> outcome = Import({&file, 1});
      if (!outcome.ok()) return outcome.status();
      outcomes.push_back(outcome->front());
    }
    return outcomes;
  }
  for (size_t i = 0; i < files.size(); ++i) {
    const absl::StatusOr<FileOutcome> outcome = AfterLoad(
        files[i], loaded.ok() ? (*loaded)[i] : absl::StatusOr<ImportOutcome>(loaded.status()));
    if (!outcome.ok()) {
      // Who has to mend it wants to know where it showed.
      return absl::IsCancelled(outcome.status())
                 ? outcome.status()
                 : absl::Status(outcome.status().code(),
                                absl::StrCat("while importing ", files[0].path,
                                             files.size() == 1
                                                 ? ""
                                                 : absl::StrCat(" and ", files.size() - 1, " more"),
                                             ": ", outcome.status().message()));
    }
    Note(*outcome, files[i].place, files[i].path);
    outcomes.push_back(*outcome);
  }
  return outcomes;
}

absl::StatusOr<FileOutcome> Importer::AfterLoad(const ReadyFile& file,
                                                const absl::StatusOr<ImportOutcome>& outcome) {
  if (absl::IsAlreadyExists(outcome.status()) || absl::IsInvalidArgument(outcome.status())) {
    return Reject(file.place, file.file, absl::StrCat(file.path, ": ", outcome.status().message()));
  }
  if (IsFilesFault(outcome.status())) {
    // The first pass said otherwise: somebody has changed it. Whatever it is now is for the next
    // try to say.
    LogLine(absl::StrCat(file.path, ": changed while it was read"));
    return FileOutcome::kLeftWriter;
  }
  if (!outcome.ok()) return outcome.status();
  if (*outcome == ImportOutcome::kImported) {
    ++metrics_.files;
    metrics_.rows += file.summary.row_count;
  } else if (not_disposed_.count(file.path) == 0) {
    ++metrics_.files_done_before;
  }
  if (file.summary.spool.has_value()) {
    metrics_.newest_interval_end_ns =
        std::max(metrics_.newest_interval_end_ns, file.summary.spool->interval_end_ns);
  }
  return Dispose(file.place, file.file, file.path);
}

absl::Status Importer::DrainOnce(SpoolQueue& queue, bool* found) {
  const absl::StatusOr<std::vector<std::string>> names = queue.Scan();
  if (!names.ok()) return names.status();
  *found = !names->empty();
  // Until the contrary is the case.
  for (const std::string& name : *names) {
    const std::string path = absl::StrCat(queue.folder(), "/", name);
    if (not_disposed_.count(path) == 0) not_imported_.insert(path);
  }
  const auto hold = [&queue](FileOutcome outcome, const std::string& name) {
    switch (outcome) {
      case FileOutcome::kInDatabase:
      case FileOutcome::kGone:
      case FileOutcome::kQuarantined:
        break;
      case FileOutcome::kLeft:
        queue.Hold(name, absl::InfiniteDuration());
        break;
      case FileOutcome::kLeftForNow:
      case FileOutcome::kNotDisposed:
        queue.Hold(name, MonotonicNow() + kDeferral);
        break;
      case FileOutcome::kLeftWriter:
        queue.Hold(name, MonotonicNow() + kDeferralWriter);
        break;
    }
  };
  std::vector<ReadyFile> ready;
  uint64_t ready_rows = 0;
  size_t ready_days = 0;
  for (size_t i = 0; i < names->size(); ++i) {
    if (StopAsked(absl::ZeroDuration())) return absl::CancelledError("stop was asked for");
    Progress(i, names->size());
    TellNowAndThen();
    const std::string& name = (*names)[i];
    const FilePlace place = {queue.folder_fd(), queue.folder(), name};
    const std::string path = absl::StrCat(queue.folder(), "/", name);
    if (const std::optional<FileOutcome> outcome = Look(place, path, &ready)) {
      Note(*outcome, place, path);
      hold(*outcome, name);
    } else {
      ready_rows += ready.back().summary.row_count;
      ready_days += ready.back().summary.days.size();
    }
    if (i + 1 < names->size() && ready.size() < options_.transaction_files &&
        ready_rows < kTransactionRowsEnough && ready_days < kTransactionDaysEnough) {
      continue;
    }
    const absl::StatusOr<std::vector<FileOutcome>> outcomes = Import(ready);
    if (!outcomes.ok()) return outcomes.status();
    for (size_t j = 0; j < ready.size(); ++j) hold((*outcomes)[j], ready[j].place.name);
    TellStatus(names->size() - i - 1);
    ready.clear();
    ready_rows = 0;
    ready_days = 0;
  }
  ShowProgress("");
  return absl::OkStatus();
}

absl::Status Importer::Drain() {
  absl::StatusOr<SpoolQueue> queue = SpoolQueue::Open(options_.watch);
  if (!queue.ok()) return queue.status();
  draining_ = true;
  // Also with nothing to do: an address that is wrong should be heard of now.
  if (absl::Status status = ConnectIfNeeded(); !status.ok()) return status;
  bool found = true;
  while (found) {
    if (absl::Status status = DrainOnce(*queue, &found); !status.ok()) return status;
  }
  Maintain();
  return absl::OkStatus();
}

absl::Status Importer::Watch() {
  absl::StatusOr<SpoolQueue> queue = SpoolQueue::Open(options_.watch);
  if (!queue.ok()) return queue.status();
  draining_ = true;
  // Before the first file comes: a password that is wrong should be heard of now.
  absl::Status status = ConnectIfNeeded();
  // Ready once nothing stands in the way that somebody has to mend. If the database is away for
  // now, to wait for it is the work, and no reason to hold up whoever starts services.
  if (status.ok() || absl::IsUnavailable(status)) manager_->TellReady();
  for (; absl::IsUnavailable(status); status = ConnectIfNeeded()) {
    if (absl::Status pause = PauseAfter(status); !pause.ok()) return pause;
  }
  if (!status.ok()) return status;
  NoteDatabaseBack();
  TellStatus(0);
  while (true) {
    bool found = false;
    if (absl::Status status = DrainOnce(*queue, &found); !status.ok()) return status;
    // What has come of the files; and that it lives.
    if (found) Tell();
    if (!found) {
      Maintain();
      TellNowAndThen();
      queue->Wait(stop_fd_);
    }
    if (StopAsked(absl::ZeroDuration())) return absl::CancelledError("stop was asked for");
  }
}

absl::Status Importer::ImportFiles() {
  if (absl::Status status = ConnectIfNeeded(); !status.ok()) return status;
  not_imported_.insert(options_.files.begin(), options_.files.end());
  for (size_t i = 0; i < options_.files.size(); ++i) {
    if (StopAsked(absl::ZeroDuration())) return absl::CancelledError("stop was asked for");
    Progress(i, options_.files.size());
    TellNowAndThen();
    const std::string& path = options_.files[i];
    const size_t slash = path.rfind('/');
    FilePlace place;
    place.folder = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
    place.name = slash == std::string::npos ? path : path.substr(slash + 1);
    const absl::StatusOr<UniqueFd> folder_fd = OpenFolder(place.folder);
    if (!folder_fd.ok()) {
      LogLine(folder_fd.status().message());
      continue;
    }
    place.folder_fd = folder_fd->get();
    std::vector<ReadyFile> ready;
    if (const std::optional<FileOutcome> outcome = Look(place, path, &ready)) {
      Note(*outcome, place, path);
    } else if (absl::Status status = Import(ready).status(); !status.ok()) {
      return status;
    }
  }
  ShowProgress("");
  return absl::OkStatus();
}

void Importer::Progress(size_t done, size_t total) {
  if (total < kProgressFilesMin || isatty(STDERR_FILENO) == 0) return;
  const absl::Duration now = MonotonicNow();
  if (now - progress_shown_ < kProgressPeriod) return;
  progress_shown_ = now;
  const double seconds = std::max(1e-3, absl::ToDoubleSeconds(now - started_));
  std::string line = absl::StrCat(
      WithThousands(done), " of ", WithThousands(total), " files, ",
      WithThousands(static_cast<uint64_t>(static_cast<double>(metrics_.rows) / seconds)),
      " rows/s");
  if (done > 0) {
    const double left = seconds / static_cast<double>(done) * static_cast<double>(total - done);
    absl::StrAppend(&line, ", ", absl::FormatDuration(absl::Seconds(static_cast<int64_t>(left))),
                    " left");
  }
  ShowProgress(line);
}

void Importer::LogSummary() const {
  const double seconds = absl::ToDoubleSeconds(MonotonicNow() - started_);
  std::string line =
      absl::StrCat(WithThousands(metrics_.files), " files, ", WithThousands(metrics_.rows),
                   " rows in ", absl::StrFormat("%.2f", seconds), " s (",
                   WithThousands(static_cast<uint64_t>(static_cast<double>(metrics_.rows) /
                                                       std::max(seconds, 1e-3))),
                   " rows/s)");
  if (metrics_.files_done_before != 0) {
    absl::StrAppend(&line, ", ", WithThousands(metrics_.files_done_before), " done before");
  }
  if (!not_imported_.empty()) {
    absl::StrAppend(&line, ", ", WithThousands(not_imported_.size()), " NOT imported");
  }
  if (!not_disposed_.empty()) {
    absl::StrAppend(&line, ", ", WithThousands(not_disposed_.size()),
                    " in the database but still in place");
  }
  LogLine(line);
}

absl::StatusOr<Options> MakeOptions(const CommandLine& line) {
  Options options;
  options.watch = absl::GetFlag(FLAGS_watch);
  options.move = absl::GetFlag(FLAGS_move);
  options.gateway = absl::GetFlag(FLAGS_gateway);
  options.once = absl::GetFlag(FLAGS_once);
  options.files = line.arguments;
  options.adopt = absl::GetFlag(FLAGS_adopt);
  const int transaction_files = absl::GetFlag(FLAGS_transaction_files);
  if (transaction_files < 1 || transaction_files > kTransactionFilesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("flag -transaction-files: from 1 to ", kTransactionFilesMax));
  }
  options.transaction_files = static_cast<size_t>(transaction_files);
  // From fine to coarse: what a coarser one is checked against and falls back on must be there.
  const std::tuple<const char*, const char*, int> tiers[] = {
      {"rows", "-retention-rows", absl::GetFlag(FLAGS_retention_rows)},
      {"fine", "-retention-fine", absl::GetFlag(FLAGS_retention_fine)},
      {"10m", "-retention-10m", absl::GetFlag(FLAGS_retention_10m)},
      {"1h", "-retention-1h", absl::GetFlag(FLAGS_retention_1h)}};
  int finer_days = 0;
  const char* finer_flag = nullptr;
  for (const auto& [tier, flag, days] : tiers) {
    if (days < 0) return absl::InvalidArgumentError(absl::StrCat("flag ", flag, ": days, or 0"));
    if (days != 0) {
      if (finer_flag != nullptr && (finer_days == 0 || days < finer_days)) {
        return absl::InvalidArgumentError(
            absl::StrCat("flag ", flag, ": not shorter than ", finer_flag));
      }
      options.retention.emplace_back(tier, days);
    }
    finer_days = days;
    finer_flag = flag;
  }
  if (!options.adopt.empty() && (!options.watch.empty() || !options.files.empty())) {
    return absl::InvalidArgumentError("flag -adopt: by itself, without files or -watch");
  }
  if (options.watch.empty() && options.files.empty() && options.adopt.empty()) {
    return absl::InvalidArgumentError(
        "nothing to import: give -watch=FOLDER or files; --help says more");
  }
  absl::StatusOr<PgOptions> database = ConnectionOptionsFromFlags();
  if (!database.ok()) return database.status();
  options.database = *std::move(database);
  if (absl::Status status = CheckGatewayName(options.gateway); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("flag -gateway: ", status.message()));
  }
  return options;
}

// Named before anything is touched, not when the first file is done.
absl::Status CheckFolders(const Options& options) {
  struct stat infos[2] = {};
  int found = 0;
  for (const std::string& folder : {options.watch, options.move}) {
    if (folder.empty()) continue;
    const absl::StatusOr<UniqueFd> fd = OpenFolder(folder);
    if (!fd.ok()) return fd.status();
    if (fstat(fd->get(), &infos[found]) != 0) return FileError("examine folder", folder, errno);
    // Else it would show only once rows are in the database and the file cannot be disposed of.
    if (faccessat(fd->get(), ".", W_OK | X_OK, AT_EACCESS) != 0) {
      return FileError("add and remove files in folder", folder, errno);
    }
    ++found;
  }
  if (found == 2 && infos[0].st_dev == infos[1].st_dev && infos[0].st_ino == infos[1].st_ino) {
    return absl::FailedPreconditionError("-move names the watched folder itself");
  }
  // Of runs that were killed.
  if (!options.move.empty()) RemoveAbandonedFiles(options.move);
  if (!options.watch.empty()) {
    RemoveAbandonedFiles(absl::StrCat(options.watch, "/", kFailedFolder));
  }
  return absl::OkStatus();
}

// Proves that it can be written, before anything is done.
absl::StatusOr<std::optional<MetricsFile>> MakeMetricsFile(const ImporterMetrics& metrics) {
  const std::string path = absl::GetFlag(FLAGS_metrics_file);
  if (path.empty()) return std::optional<MetricsFile>();
  absl::StatusOr<MetricsFile> file = MetricsFile::Open(path);
  if (!file.ok()) return file.status();
  if (absl::Status status = file->Write(MetricsText(metrics)); !status.ok()) return status;
  return std::optional<MetricsFile>(*std::move(file));
}

int Main(int argc, char** argv) {
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  HideSecrets(argc, argv);
  if (!line.ok()) {
    PrintError(kProgram, line.status());
    return kExitUsageError;
  }
  if (line->help) {
    const std::string help = FlagsHelp(kUsage);
    return write(STDOUT_FILENO, help.data(), help.size()) == static_cast<ssize_t>(help.size())
               ? kExitOk
               : kExitOperatingError;
  }
  absl::StatusOr<Options> options = MakeOptions(*line);
  if (!options.ok()) {
    PrintError(kProgram, options.status());
    return kExitUsageError;
  }
  const bool watching = !options->watch.empty() && !options->once;

  // Signals are read where we wait, and nowhere else: no code runs in a handler. SIGPIPE: a log
  // that nobody reads any more must not end an import. SIGIO: a writer may open a file while we
  // hold a lease on it (traffic_file.cc).
  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGTERM);
  sigaddset(&stop_signals, SIGINT);
  sigprocmask(SIG_BLOCK, &stop_signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGIO, SIG_IGN);
  // Never read, so it stays readable: whoever waits next sees it too.
  const UniqueFd stop_fd(signalfd(-1, &stop_signals, SFD_CLOEXEC));
  if (!stop_fd.valid()) {
    PrintError(kProgram, FileError("open", "signalfd", errno));
    return kExitOperatingError;
  }
  options->database.stop_fd = stop_fd.get();
  ImporterMetrics metrics;
  metrics.started_ns = metrics.told_ns = absl::ToUnixNanos(absl::Now());
  metrics.watching = watching;
  absl::StatusOr<std::optional<MetricsFile>> metrics_file = MakeMetricsFile(metrics);
  if (!metrics_file.ok()) {
    PrintError(kProgram, metrics_file.status());
    return kExitOperatingError;
  }
  ServiceManager manager;
  if (const absl::Status status = CheckFolders(*options); !status.ok()) {
    PrintError(kProgram, status);
    return kExitOperatingError;
  }

  const bool once_folder = !options->watch.empty() && options->once;
  const bool files = !options->files.empty();
  const bool adopt = !options->adopt.empty();
  Importer importer(*std::move(options), stop_fd.get(), &manager, *std::move(metrics_file),
                    metrics);
  absl::Status status;
  if (adopt) status = importer.Adopt();
  if (files) status = importer.ImportFiles();
  if (status.ok() && (watching || once_folder)) {
    status = watching ? importer.Watch() : importer.Drain();
  }
  ShowProgress("");
  manager.TellStopping();
  const bool stopped = absl::IsCancelled(status);
  if (!status.ok() && !stopped) LogLine(status.message());
  // A watcher has no other end; whether it has left something out is in its summary.
  if (stopped && !watching) LogLine("stopped before all was imported");
  if ((status.ok() || stopped) && !adopt) importer.LogSummary();
  importer.Tell(/*last=*/true);
  const bool ended_well = status.ok() || (stopped && watching);
  return ended_well && importer.AllDone() ? kExitOk : kExitOperatingError;
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::Main(argc, argv); }
