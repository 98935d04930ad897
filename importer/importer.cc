#include "importer/importer.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "engine/rows/gateway_name.h"
#include "engine/system/durable_file.h"
#include "engine/system/text.h"
#include "engine/system/unique_fd.h"
#include "importer/files/disposal.h"
#include "importer/files/log.h"
#include "importer/tables/partitions.h"
#include "importer/tables/schema_rights.h"
#include "importer/tables/versions.h"

namespace ctacct {
namespace {

constexpr absl::Duration kBackOffFirst = absl::Milliseconds(250);
constexpr absl::Duration kBackOffMax = absl::Seconds(30);
// A run that does not watch gives up after 250 ms + 500 ms + ... + 16 s: half a minute, in
// which a server restarts.
constexpr int kOnceRetriesMax = 7;
// Until a file that could not be disposed of, opened or read gets another chance.
constexpr absl::Duration kDeferral = absl::Seconds(30);
// Until a file that was being written to gets one: it is likely to be finished soon.
constexpr absl::Duration kDeferralWriter = absl::Seconds(1);
// A transaction of a backlog ends here: most steps of the rollups are written once and not again
// for each file, and a stop or a lost connection throws away no more than some seconds' work.
constexpr uint64_t kTransactionRowsEnough = 4'000'000;
// Counted for each file, so an hour of files of one day is within it.
constexpr size_t kTransactionDaysEnough = 250;
// Partitions are a day wide or wider: made a day ahead, and dropped when nobody would miss an hour.
constexpr absl::Duration kMaintenancePeriod = absl::Hours(1);
// How old the metrics file gets while the importer waits for a database or for files.
constexpr absl::Duration kMetricsPeriod = absl::Seconds(5);
// Rows are for the user and its group, like the engine's own files.
constexpr mode_t kMoveFolderMode = 0750;

absl::Status StopError() { return absl::CancelledError("stop was asked for"); }

// Whether one of a transaction's files is the cause.
bool IsFilesFault(const absl::Status& status) {
  return absl::IsAlreadyExists(status) || absl::IsAborted(status) || absl::IsDataLoss(status) ||
         absl::IsUnimplemented(status);
}

bool IsQuarantinedName(absl::string_view name) {
  return !absl::StartsWith(name, ".") && !absl::EndsWith(name, kReasonSuffix);
}

// Also of folders that are not there yet.
bool IsSameFolder(const std::filesystem::path& a, const std::filesystem::path& b) {
  std::error_code error;
  if (std::filesystem::equivalent(a, b, error)) return true;
  // With and without a slash at the end.
  const auto whole = [](const std::filesystem::path& path) {
    std::error_code ignored;
    return std::filesystem::weakly_canonical(path / "", ignored) / "";
  };
  return whole(a) == whole(b);
}

// Named before anything is touched, not when the first file is done: that they cannot be written to
// would show only once rows are in the database and the file cannot be disposed of.
absl::Status CheckFolders(const std::string& watch, const std::string& move) {
  if (!watch.empty() && !move.empty()) {
    if (IsSameFolder(move, watch)) {
      return absl::InvalidArgumentError("flag -move: names the watched folder");
    }
    if (IsSameFolder(move, absl::StrCat(watch, "/", kFailedFolder))) {
      return absl::InvalidArgumentError("flag -move: names the folder of files that failed");
    }
  }
  for (const std::string& folder : {watch, move}) {
    if (folder.empty()) continue;
    if (folder == move && mkdir(folder.c_str(), kMoveFolderMode) != 0 && errno != EEXIST) {
      return FileError("make folder", folder, errno);
    }
    const absl::StatusOr<UniqueFd> fd = OpenFolder(folder);
    if (!fd.ok()) return fd.status();
    if (faccessat(fd->get(), ".", W_OK | X_OK, AT_EACCESS) != 0) {
      return FileError("add and remove files in folder", folder, errno);
    }
  }
  return absl::OkStatus();
}

}  // namespace

Importer::Importer(ImporterConfig config, int stop_fd)
    : config_(std::move(config)),
      stop_fd_(stop_fd),
      backlog_(config_.watch, IsImportedName),
      quarantine_(absl::StrCat(config_.watch, "/", kFailedFolder), IsQuarantinedName) {
  metrics_.started_ns = metrics_.written_ns = absl::ToUnixNanos(absl::Now());
  metrics_.watching = config_.watching();
  metrics_.gateway =
      config_.gateway.empty() ? HostGatewayName().value_or("unknown") : config_.gateway;
}

absl::Status Importer::Open() {
  if (config_.migrate) return absl::OkStatus();
  if (absl::Status status = CheckFolders(config_.watch, config_.move); !status.ok()) return status;
  if (!config_.metrics_file.empty()) {
    metrics_file_.emplace(config_.metrics_file);
    WriteMetrics();
  }
  // Left by runs that were killed.
  if (!config_.move.empty()) RemoveAbandonedFiles(config_.move);
  if (!config_.watch.empty()) {
    RemoveAbandonedFiles(absl::StrCat(config_.watch, "/", kFailedFolder));
  }
  return absl::OkStatus();
}

absl::Status Importer::Run() {
  if (config_.migrate) return ConnectIfNeeded();
  if (!config_.adopt.empty()) return Adopt();
  if (!config_.files.empty()) {
    if (absl::Status status = ImportNamedFiles(); !status.ok()) return status;
  }
  if (config_.watch.empty()) return absl::OkStatus();
  absl::StatusOr<SpoolQueue> queue = SpoolQueue::Open(config_.watch);
  if (!queue.ok()) return queue.status();
  queue_.emplace(*std::move(queue));
  return config_.watching() ? Watch() : Drain();
}

bool Importer::Finish(const absl::Status& ended) {
  manager_.TellStopping();
  const bool stopped = absl::IsCancelled(ended);
  if (!ended.ok() && !stopped) LogLine(ended.message());
  // A watcher ends in no other way; whether it has left something out is in its summary.
  if (stopped && !config_.watching()) LogLine("stopped before all was imported");
  if ((ended.ok() || stopped) && config_.adopt.empty() && !config_.migrate) LogSummary();
  WriteMetrics(/*last=*/true);
  return (ended.ok() || (stopped && config_.watching())) && AllDone();
}

// ---- which files ----

absl::Status Importer::Watch() {
  // Connect before the first file appears, so that a wrong password is reported at once.
  absl::Status status = ConnectIfNeeded();
  // Ready unless an operator has to act. If the database is away for now, waiting for it is the
  // work, and no reason to hold up the start of other services.
  if (status.ok() || absl::IsUnavailable(status)) manager_.TellReady();
  for (; absl::IsUnavailable(status); status = ConnectIfNeeded()) {
    if (absl::Status pause = PauseAfter(status); !pause.ok()) return pause;
  }
  if (!status.ok()) return status;
  NoteDatabaseBack();
  LogLine(absl::StrCat("connected to the database; loading files from ", config_.watch));
  ReportStatus(0);
  while (true) {
    const absl::StatusOr<bool> found = DrainOnce();
    if (!found.ok()) return found.status();
    if (*found) {
      WriteMetrics();
    } else {
      Maintain();
      WriteMetricsIfDue();
      queue_->Wait(stop_fd_);
    }
    if (StopAsked()) return StopError();
  }
}

absl::Status Importer::Drain() {
  // Connect even if there is nothing to load, so that a wrong address is reported.
  if (absl::Status status = ConnectIfNeeded(); !status.ok()) return status;
  for (absl::StatusOr<bool> found = true; *found;) {
    found = DrainOnce();
    if (!found.ok()) return found.status();
  }
  Maintain();
  return absl::OkStatus();
}

absl::StatusOr<bool> Importer::DrainOnce() {
  const absl::StatusOr<std::vector<std::string>> names = queue_->Scan();
  if (!names.ok()) return names.status();
  std::vector<FilePlace> places;
  places.reserve(names->size());
  for (const std::string& name : *names) {
    places.push_back(
        {queue_->folder_fd(), queue_->folder(), name, absl::StrCat(queue_->folder(), "/", name)});
    if (not_disposed_.count(places.back().path) == 0) not_imported_.insert(places.back().path);
  }
  Batch batch;
  for (size_t i = 0; i < places.size(); ++i) {
    if (StopAsked()) return StopError();
    if (IsNamesFileName(places[i].name)) {
      if (absl::Status status = ImportNamesFile(places[i]); !status.ok()) return status;
    } else {
      Examine(places[i], &batch);
    }
    if (i + 1 < places.size() && batch.files.size() < config_.transaction_files &&
        batch.rows < kTransactionRowsEnough && batch.days < kTransactionDaysEnough) {
      continue;
    }
    if (absl::Status status = Import(batch.files); !status.ok()) return status;
    ReportStatus(places.size() - i - 1);
    batch = {};
  }
  return !places.empty();
}

absl::Status Importer::ImportNamedFiles() {
  if (absl::Status status = ConnectIfNeeded(); !status.ok()) return status;
  not_imported_.insert(config_.files.begin(), config_.files.end());
  for (const std::string& path : config_.files) {
    if (StopAsked()) return StopError();
    const std::filesystem::path parts(path);
    const std::string folder = parts.has_parent_path() ? parts.parent_path().string() : ".";
    const absl::StatusOr<UniqueFd> folder_fd = OpenFolder(folder);
    if (!folder_fd.ok()) {
      LogLine(folder_fd.status().message());
      continue;
    }
    // "FOLDER/" names no file in it.
    const std::string name = parts.has_filename() ? parts.filename().string() : ".";
    const FilePlace place = {folder_fd->get(), folder, name, path};
    if (IsNamesFileName(place.name)) {
      if (absl::Status status = ImportNamesFile(place); !status.ok()) return status;
      continue;
    }
    Batch batch;
    Examine(place, &batch);
    if (absl::Status status = Import(batch.files); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Importer::Adopt() {
  absl::StatusOr<PgConnection> connection = Connect();
  if (!connection.ok()) return connection.status();
  metrics_.database_up = true;
  const absl::StatusOr<uint64_t> rows = AdoptTable(*connection, config_.adopt, config_.gateway);
  if (absl::IsAlreadyExists(rows.status())) {
    LogLine(rows.status().message());
    return absl::OkStatus();
  }
  if (!rows.ok()) return rows.status();
  LogLine(absl::StrCat("table ", config_.adopt, ": ", WithThousands(*rows), " rows taken over"));
  return absl::OkStatus();
}

// ---- a file ----

absl::StatusOr<TrafficFile> Importer::OpenFile(const FilePlace& place) {
  absl::StatusOr<TrafficFile> file = TrafficFile::Open(place, config_.gateway);
  if (file.ok()) return file;
  const bool gone = absl::IsNotFound(file.status()) && queue_.has_value();
  if (!gone) LogLine(file.status().message());
  Note(gone ? FileOutcome::kGone
       // No regular file; waiting does not make it one.
       : absl::IsFailedPrecondition(file.status()) ? FileOutcome::kLeft
                                                   : FileOutcome::kLeftForNow,
       place);
  return file;
}

void Importer::Examine(const FilePlace& place, Batch* batch) {
  absl::StatusOr<TrafficFile> file = OpenFile(place);
  if (!file.ok()) return;
  absl::StatusOr<FileSummary> summary = ReadThrough(*file);
  if (!summary.ok()) return Note(Refuse(*file, summary.status()), place);
  batch->rows += summary->row_count;
  batch->days += summary->days.size();
  batch->files.push_back({*std::move(file), *std::move(summary)});
}

absl::StatusOr<FileSummary> Importer::ReadThrough(TrafficFile& file) {
  const absl::Duration now = MonotonicNow();
  if (const auto seen = unsettled_.find(file.place().path); seen != unsettled_.end()) {
    if (seen->second.identity != file.identity()) {
      unsettled_.erase(seen);
    } else if (now - seen->second.since >= kQuietTime) {
      file.AssumeAtRest();
    }
  }
  absl::StatusOr<FileSummary> summary =
      file.Read([](absl::Span<const TrafficRow>) { return absl::OkStatus(); });
  if (absl::IsAborted(summary.status())) {
    unsettled_.insert({file.place().path, {file.identity(), MonotonicNow()}});
  }
  return summary;
}

Importer::FileOutcome Importer::Refuse(const TrafficFile& file, const absl::Status& status) {
  if (absl::IsDataLoss(status)) return Reject(file, status.message());
  if (absl::IsUnimplemented(status)) {
    LogLine(absl::StrCat(status.message(), "; left for a newer importer"));
    return FileOutcome::kLeft;
  }
  if (absl::IsAborted(status) && queue_.has_value() && config_.watching()) {
    return FileOutcome::kLeftWriter;  // Nothing unusual.
  }
  LogLine(status.message());
  return FileOutcome::kLeftForNow;
}

absl::Status Importer::Import(absl::Span<const ReadyFile> files) {
  if (files.empty()) return absl::OkStatus();
  const absl::StatusOr<std::vector<ImportOutcome>> loaded = Load(files);
  if (loaded.ok()) {
    for (size_t i = 0; i < files.size(); ++i) {
      Note(AfterLoad(files[i], (*loaded)[i]), files[i].file.place());
    }
    return absl::OkStatus();
  }
  const absl::Status& error = loaded.status();
  const TrafficFile& file = files[0].file;
  const FilePlace& place = file.place();
  if (IsFilesFault(error) && files.size() > 1) {
    // One of them is bad: importing each alone shows which one.
    for (const ReadyFile& ready : files) {
      if (absl::Status status = Import({&ready, 1}); !status.ok()) return status;
    }
    return absl::OkStatus();
  }
  if (absl::IsAlreadyExists(error)) {
    Note(Reject(file, absl::StrCat(place.path, ": ", error.message())), place);
    return absl::OkStatus();
  }
  if (IsFilesFault(error)) {
    // The first pass found it sound, so it was changed since. The next try finds out to what.
    LogLine(absl::StrCat(place.path, ": changed while it was read"));
    Note(FileOutcome::kLeftWriter, place);
    return absl::OkStatus();
  }
  if (absl::IsCancelled(error)) return error;
  const std::string others =
      files.size() == 1 ? "" : absl::StrCat(" and ", files.size() - 1, " more");
  return absl::Status(error.code(),
                      absl::StrCat("while importing ", place.path, others, ": ", error.message()));
}

absl::Status Importer::ImportNamesFile(const FilePlace& place) {
  const absl::StatusOr<TrafficFile> file = OpenFile(place);
  if (!file.ok()) return absl::OkStatus();
  const absl::StatusOr<NamesSnapshot> snapshot = file->ReadNames();
  if (!snapshot.ok()) {
    Note(Refuse(*file, snapshot.status()), place);
    return absl::OkStatus();
  }
  NamesOutcome loaded;
  const absl::Status status = WithDatabase([&](PgConnection& connection) {
    const absl::StatusOr<NamesOutcome> outcome = LoadNames(connection, *snapshot, file->name());
    if (outcome.ok()) loaded = *outcome;
    return outcome.status();
  });
  if (absl::IsAlreadyExists(status)) {
    Note(Reject(*file, absl::StrCat(place.path, ": ", status.message())), place);
    return absl::OkStatus();
  }
  if (absl::IsCancelled(status)) return status;
  if (!status.ok()) {
    return absl::Status(status.code(),
                        absl::StrCat("while importing ", place.path, ": ", status.message()));
  }
  Note(AfterNames(*file, *snapshot, loaded), place);
  return absl::OkStatus();
}

Importer::FileOutcome Importer::AfterNames(const TrafficFile& file, const NamesSnapshot& snapshot,
                                           const NamesOutcome& loaded) {
  if (loaded.outcome == ImportOutcome::kImported) {
    ++metrics_.files;
    ++metrics_.names_snapshots;
    LogLine(absl::StrCat(
        "names of gateway ", snapshot.gateway, ", ",
        absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", absl::FromUnixNanos(snapshot.time_ns),
                         absl::UTCTimeZone()),
        ": ", WithThousands(snapshot.entries.size()), " entries, ", WithThousands(loaded.changed),
        " changes",
        loaded.newest ? "" : "; a newer snapshot is in the database: this one applies until then"));
  } else if (not_disposed_.count(file.place().path) == 0) {
    ++metrics_.files_done_before;
  }
  return Dispose(file);
}

Importer::FileOutcome Importer::AfterLoad(const ReadyFile& ready, ImportOutcome outcome) {
  const FileSummary& summary = ready.summary;
  if (outcome == ImportOutcome::kSameAsAnother) {
    LogLine(absl::StrCat(ready.file.place().path,
                         ": equal to a CSV file that was imported before: a copy, or the file of "
                         "another gateway. Not imported; give -gateway=NAME, or remove the file"));
    return FileOutcome::kLeft;
  }
  if (outcome == ImportOutcome::kImported) {
    ++metrics_.files;
    metrics_.rows += summary.row_count;
  } else if (not_disposed_.count(ready.file.place().path) == 0) {
    ++metrics_.files_done_before;
  }
  if (summary.spool.has_value()) {
    metrics_.newest_interval_end_ns =
        std::max(metrics_.newest_interval_end_ns, summary.spool->interval_end_ns);
  }
  return Dispose(ready.file);
}

Importer::FileOutcome Importer::Dispose(const TrafficFile& file) {
  const absl::Status disposed =
      config_.move.empty() ? RemoveFile(file) : MoveFile(file, config_.move);
  if (disposed.ok()) return FileOutcome::kInDatabase;
  if (!absl::IsAborted(disposed)) {
    LogLine(absl::StrCat(disposed.message(), " (its rows are in the database)"));
    return FileOutcome::kNotDisposed;
  }
  const std::string changed = absl::StrCat(file.place().path, ": its first ", file.identity().size,
                                           " bytes are in the database, and it has changed since");
  if (!file.is_csv()) {
    // The ledger knows it by its sequence: another look does no harm, and shows what it is now.
    LogLine(changed);
    return FileOutcome::kLeftWriter;
  }
  return Reject(file, absl::StrCat(changed, "; imported again as it is, those count twice"));
}

Importer::FileOutcome Importer::Reject(const TrafficFile& file, absl::string_view reason) {
  LogLine(reason);
  if (!queue_.has_value()) return FileOutcome::kLeft;  // The user has named the file, and decides.
  if (absl::Status status = QuarantineFile(file, reason); !status.ok()) {
    LogLine(status.message());
    return FileOutcome::kLeftForNow;
  }
  return FileOutcome::kQuarantined;
}

void Importer::Note(FileOutcome outcome, const FilePlace& place) {
  const auto hold = [&](absl::Duration deadline) {
    if (queue_.has_value()) queue_->Hold(place.name, deadline);
  };
  bool in_database = false;
  switch (outcome) {
    case FileOutcome::kGone:
      // Another importer may have been faster to find it bad.
      in_database = faccessat(place.folder_fd, absl::StrCat(kFailedFolder, "/", place.name).c_str(),
                              F_OK, AT_SYMLINK_NOFOLLOW) != 0;
      not_disposed_.erase(place.path);
      break;
    case FileOutcome::kInDatabase:
      in_database = true;
      not_disposed_.erase(place.path);
      break;
    case FileOutcome::kNotDisposed:
      in_database = true;
      not_disposed_.insert(place.path);
      hold(MonotonicNow() + kDeferral);
      break;
    case FileOutcome::kQuarantined:
      ++metrics_.files_quarantined;
      break;
    case FileOutcome::kLeft:
      hold(absl::InfiniteDuration());
      break;
    case FileOutcome::kLeftForNow:
      hold(MonotonicNow() + kDeferral);
      break;
    case FileOutcome::kLeftWriter:
      hold(MonotonicNow() + kDeferralWriter);
      break;
  }
  if (in_database) not_imported_.erase(place.path);
  if (outcome != FileOutcome::kLeftWriter) unsettled_.erase(place.path);
}

// ---- the database ----

absl::StatusOr<PgConnection> Importer::Connect() {
  PgOptions options = config_.database;
  options.stop_fd = stop_fd_;
  options.while_waiting = [this] {
    manager_.TellAlive();
    WriteMetricsIfDue();
  };
  return PgConnection::Open(options);
}

absl::Status Importer::ConnectIfNeeded() {
  // The server may have closed it between two files (idle_session_timeout, a restart). Nothing is
  // lost by that, so it is not reported if the next connection succeeds.
  if (connection_.has_value() && !connection_->Lost()) return absl::OkStatus();
  connection_.reset();
  absl::StatusOr<PgConnection> connection = Connect();
  if (!connection.ok()) return connection.status();
  if (absl::Status status = EnsureSchema(*connection); !status.ok()) return status;
  connection_ = *std::move(connection);
  connected_before_ = true;
  if (!std::exchange(metrics_.database_up, true)) WriteMetrics();
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ImportOutcome>> Importer::Load(absl::Span<const ReadyFile> files) {
  std::vector<FileToImport> to_import;
  to_import.reserve(files.size());
  for (const ReadyFile& ready : files) to_import.push_back({&ready.file, &ready.summary});
  std::vector<ImportOutcome> loaded;
  const absl::Status status = WithDatabase([&](PgConnection& connection) {
    absl::StatusOr<std::vector<ImportOutcome>> outcomes =
        ImportTogether(connection, to_import, &known_days_);
    if (!outcomes.ok()) return outcomes.status();
    loaded = *std::move(outcomes);
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  Summarize(files);
  return loaded;
}

absl::Status Importer::WithDatabase(absl::FunctionRef<absl::Status(PgConnection&)> load) {
  while (true) {
    const bool idle_before = connection_.has_value();
    absl::Status status = ConnectIfNeeded();
    if (status.ok()) {
      const absl::Duration begun = MonotonicNow();
      status = load(*connection_);
      if (status.ok()) {
        ++metrics_.transactions;
        metrics_.last_import_ns = absl::ToInt64Nanoseconds(MonotonicNow() - begun);
        metrics_.import_ns += metrics_.last_import_ns;
        metrics_.last_import_at_ns = absl::ToUnixNanos(absl::Now());
      }
      if (status.ok() || absl::IsAlreadyExists(status)) {
        NoteDatabaseBack();
        return status;
      }
      // The server may also close an idle connection at the very moment that it is used again.
      const bool closed = idle_before && absl::IsUnavailable(status) && connection_->Lost();
      // Within a transaction, perhaps within a COPY: closing the connection rolls back.
      connection_.reset();
      known_days_.clear();  // Citus does not say if a missing partition was the cause.
      if (closed) {
        ++metrics_.database_retries;
        continue;
      }
    }
    if (!absl::IsUnavailable(status)) return status;
    if (absl::Status pause = PauseAfter(status); !pause.ok()) return pause;
  }
}

void Importer::Summarize(absl::Span<const ReadyFile> files) {
  std::set<int32_t> days;
  for (const ReadyFile& ready : files) {
    days.insert(ready.summary.days.begin(), ready.summary.days.end());
  }
  const absl::Status status = SummarizePartitions(*connection_, days);
  if (status.ok()) return;
  connection_.reset();
  // The rows are in the database all the same. If it has gone away, the next file waits for it.
  if (absl::IsUnavailable(status) || absl::IsCancelled(status)) return;
  LogLine(absl::StrCat("index of vpn_traffic: ", status.message(),
                       "; queries of the newest rows are slow until vacuum has updated it"));
}

absl::Status Importer::PauseAfter(const absl::Status& status) {
  connection_.reset();
  if (std::exchange(metrics_.database_up, false)) WriteMetrics();
  // A user who waits is better served by an immediate error: the address may be wrong.
  if (!config_.watching() && (!connected_before_ || failures_in_a_row_ >= kOnceRetriesMax)) {
    return status;
  }
  // A server may be down, then start, then be a standby: each state is logged once.
  if (failures_in_a_row_++ == 0 || status.message() != last_failure_) {
    LogLine(absl::StrCat("database unavailable: ", status.message(), "; trying again"));
    manager_.TellStatus(
        absl::StrCat("database unavailable since ",
                     absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", absl::Now(), absl::UTCTimeZone()),
                     " (see the log); files wait"));
    last_failure_ = std::string(status.message());
  }
  ++metrics_.database_retries;
  const absl::Duration pause =
      std::min(kBackOffMax, kBackOffFirst * (1 << std::min(failures_in_a_row_ - 1, 10)));
  return StopAsked(pause) ? StopError() : absl::OkStatus();
}

void Importer::NoteDatabaseBack() {
  if (std::exchange(failures_in_a_row_, 0) != 0) LogLine("database is back");
}

void Importer::Maintain() {
  if (MonotonicNow() - maintained_ < kMaintenancePeriod || !connection_.has_value()) return;
  if (!ConnectIfNeeded().ok()) return;  // The next file waits for it.
  maintained_ = MonotonicNow();
  const auto today = static_cast<int32_t>(absl::ToUnixSeconds(absl::Now()) / 86'400);
  absl::Status status = CheckSchemaRights(*connection_);  // Rights change.
  if (status.ok()) status = MakePartitions(*connection_, {today, today + 1}, &known_days_);
  for (const auto& [tier, days] : config_.retention) {
    if (!status.ok()) break;
    status = DropOldPartitions(*connection_, tier, days, &metrics_.partitions_dropped);
  }
  // What was dropped may have to be made again for the next file of its day.
  if (!config_.retention.empty()) known_days_.clear();
  if (status.ok()) return;
  connection_.reset();
  if (!absl::IsCancelled(status)) {
    LogLine(absl::StrCat("partitions: ", status.message(), "; trying again in an hour"));
  }
}

// ---- waiting, metrics, messages ----

bool Importer::StopAsked(absl::Duration wait) {
  constexpr absl::Duration kSlice = absl::Milliseconds(ServiceManager::kAlivePollMillis);
  pollfd fd = {stop_fd_, POLLIN, 0};
  for (const absl::Duration end = MonotonicNow() + wait;;) {
    manager_.TellAlive();
    WriteMetricsIfDue();
    const absl::Duration left = std::clamp(end - MonotonicNow(), absl::ZeroDuration(), kSlice);
    // Rounded up, so that the last slice is not split into many of zero length.
    const int64_t millis = absl::ToInt64Milliseconds(absl::Ceil(left, absl::Milliseconds(1)));
    if (poll(&fd, 1, static_cast<int>(millis)) > 0) return true;
    if (left == absl::ZeroDuration()) return false;
  }
}

void Importer::WriteMetricsIfDue() {
  if (MonotonicNow() - metrics_written_ >= kMetricsPeriod) WriteMetrics();
}

void Importer::WriteMetrics(bool last) {
  if (!metrics_file_.has_value()) return;
  metrics_written_ = MonotonicNow();
  metrics_.written_ns = absl::ToUnixNanos(absl::Now());
  metrics_.not_imported = not_imported_.size();
  metrics_.not_removed = not_disposed_.size();
  if (!config_.watch.empty()) {
    metrics_.waiting = backlog_.Measure(/*now=*/last);
    metrics_.in_quarantine = quarantine_.Measure(/*now=*/last).files;
  }
  metrics_.metrics_write_failures = metrics_file_->failures();
  metrics_file_->Refresh(MetricsText(metrics_), [](const absl::Status& status) {
    LogLine(status.ok() ? "the metrics file can be written again"
                        : absl::StrCat(status.message(), "; importing continues without it"));
  });
}

void Importer::ReportStatus(size_t files_waiting) {
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
  manager_.TellStatus(status);
}

void Importer::LogSummary() const {
  // Not the time in which it waited for files.
  const double seconds = static_cast<double>(metrics_.import_ns) / 1e9;
  const double rate = static_cast<double>(metrics_.rows) / std::max(seconds, 1e-3);
  std::string line =
      absl::StrCat(WithThousands(metrics_.files), " files, ", WithThousands(metrics_.rows),
                   " rows in ", absl::StrFormat("%.2f", seconds), " s (",
                   WithThousands(static_cast<uint64_t>(rate)), " rows/s)");
  const std::pair<uint64_t, const char*> parts[] = {
      {metrics_.files_done_before, " done before"},
      {not_imported_.size(), " NOT imported"},
      {not_disposed_.size(), " in the database but still in place"}};
  for (const auto& [count, what] : parts) {
    if (count != 0) absl::StrAppend(&line, ", ", WithThousands(count), what);
  }
  LogLine(line);
}

}  // namespace ctacct
