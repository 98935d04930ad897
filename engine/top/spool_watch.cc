#include "engine/top/spool_watch.h"

#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/rows/bounds.h"
#include "engine/rows/csv.h"
#include "engine/rows/gap.h"
#include "engine/spool/spool_backlog.h"
#include "engine/spool/spool_reader.h"
#include "engine/system/durable_file.h"

namespace ctacct {
namespace {

constexpr size_t kCsvBufferBytes = 64 * 1024;
// Names of bad files are remembered so that each is reported once: inotify reports most files twice
// (renamed, then closed).
constexpr size_t kBadNamesMax = 10'000;

absl::Status TooManyRows(const std::string& path) {
  return absl::DataLossError(absl::StrCat(path, ": more than ", kTopRowsMax, " rows"));
}

// The rows of the latest time in the file: an archive may have many.
absl::StatusOr<TopInterval> ReadCsv(int fd, const std::string& path) {
  TopInterval interval;
  RowSums sums;
  std::string buffer;
  int64_t number = 0;
  for (bool ended = false; !ended;) {
    const size_t rest = buffer.size();
    buffer.resize(rest + kCsvBufferBytes);
    const ssize_t got = read(fd, buffer.data() + rest, kCsvBufferBytes);
    if (got < 0 && errno != EINTR) return FileError("read", path, errno);
    buffer.resize(rest + static_cast<size_t>(std::max<ssize_t>(got, 0)));
    ended = got == 0;
    absl::string_view text = buffer;
    for (size_t end; (end = text.find('\n')) != absl::string_view::npos;
         text.remove_prefix(end + 1)) {
      ++number;
      TrafficRow row;
      bool has_open = false;
      if (const absl::Status status = ParseCsvLine(text.substr(0, end), &row, &has_open);
          !status.ok()) {
        return absl::DataLossError(
            absl::StrCat(path, ": corrupt in line ", number, ": ", status.message()));
      }
      if (row.time_ns < interval.end_ns) continue;
      if (row.time_ns > interval.end_ns) {
        interval.rows.clear();
        sums = RowSums();
      }
      if (const RowCounter* const beyond = sums.Add(row); beyond != nullptr) {
        return absl::DataLossError(
            absl::StrCat(path, ": corrupt in line ", number, ": ", RowSums::Problem(*beyond)));
      }
      interval.end_ns = row.time_ns;
      interval.track_open |= has_open;
      interval.rows.push_back(row);
      if (interval.rows.size() > kTopRowsMax) break;
    }
    buffer.erase(0, buffer.size() - text.size());
    if (interval.rows.size() > kTopRowsMax || buffer.size() > kCsvBufferBytes) {
      return absl::DataLossError(
          absl::StrCat(path, ": more than ", kTopRowsMax, " rows, or a line that is none"));
    }
  }
  if (!buffer.empty()) {
    return absl::DataLossError(absl::StrCat(path, ": torn: its last line has no end"));
  }
  if (interval.rows.empty()) return absl::DataLossError(absl::StrCat(path, ": empty"));
  return interval;
}

}  // namespace

absl::StatusOr<TopFolder> TopFolder::Open(const std::string& folder, int64_t csv_length_ns) {
  TopFolder opened(folder, csv_length_ns);
  if (const absl::StatusOr<bool> changed = opened.OpenAndScan(); !changed.ok()) {
    return changed.status();
  }
  return opened;
}

absl::StatusOr<bool> TopFolder::OpenAndScan() {
  absl::StatusOr<UniqueFd> folder_fd = OpenFolder(folder_);
  if (!folder_fd.ok()) return folder_fd.status();
  folder_fd_ = *std::move(folder_fd);
  // Before the first look, so that nothing falls between the two. A rename or a link publishes a
  // file; others write them in place.
  inotify_fd_ = UniqueFd(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (!inotify_fd_.valid() ||
      inotify_add_watch(inotify_fd_.get(), folder_.c_str(),
                        IN_MOVED_TO | IN_CREATE | IN_CLOSE_WRITE | IN_DELETE_SELF | IN_MOVE_SELF |
                            IN_ONLYDIR) < 0) {
    inotify_fd_ = UniqueFd();
  }
  return Scan();
}

absl::StatusOr<bool> TopFolder::Update() {
  if (!folder_fd_.valid() || !IsFolderAt(folder_fd_.get(), folder_)) return OpenAndScan();
  if (!inotify_fd_.valid()) return Scan();
  bool changed = false;
  bool overflow = false;
  alignas(inotify_event) char events[16 * (sizeof(inotify_event) + NAME_MAX + 1)];
  ssize_t got;
  while ((got = read(inotify_fd_.get(), events, sizeof(events))) > 0) {
    for (const char* at = events; at < events + got;) {
      inotify_event event;
      std::memcpy(&event, at, sizeof(event));
      const std::string name =
          event.len == 0 ? "" : std::string(at + sizeof(event));  // Filled up with zeros.
      at += sizeof(event) + event.len;
      overflow |= (event.mask & IN_Q_OVERFLOW) != 0;
      // One that is only being created may be half written; it will be closed.
      const bool sure = (event.mask & IN_CREATE) == 0;
      if (IsRowsFileName(name) && (sure || !IsCsvRowsFileName(name))) {
        changed |= TakeFile(name, sure);
      }
    }
  }
  if (!overflow) return changed;
  const absl::StatusOr<bool> more = Scan();
  if (!more.ok()) return more.status();
  return changed || *more;
}

absl::StatusOr<bool> TopFolder::Scan() {
  // Names sort in the order of writing: take the last file of each engine (whose id begins the
  // name), and the last of all CSV files. Also the one before it: the last may be damaged, and two
  // CSV files may be of one interval.
  std::map<std::string, std::pair<std::string, std::string>> last;
  const auto note = [&last](const std::string& name) {
    if (!IsRowsFileName(name)) return true;
    auto& [newest, before] = last[IsCsvRowsFileName(name) ? "" : name.substr(0, name.rfind('-'))];
    if (name > newest) {
      before = std::exchange(newest, name);
    } else if (name > before) {
      before = name;
    }
    return true;
  };
  if (absl::Status status = ForEachName(folder_fd_.get(), folder_, note); !status.ok()) {
    return status;
  }
  bool changed = false;
  for (const auto& [engine, names] : last) {
    if (!names.second.empty()) changed |= TakeFile(names.second, true);
    changed |= TakeFile(names.first, true);
  }
  return changed;
}

bool TopFolder::TakeFile(const std::string& name, bool sure) {
  for (const auto& [gateway, newest] : newest_) {
    const std::vector<std::string>& files = newest.interval->files;
    if (std::find(files.begin(), files.end(), name) != files.end()) return false;
  }
  const std::string path = absl::StrCat(folder_, "/", name);
  const absl::StatusOr<UniqueFd> fd = OpenRegularFile(folder_fd_.get(), name, path);
  if (absl::IsNotFound(fd.status())) {
    missed_ += sure && NoteBad(name) ? 1 : 0;
    return false;
  }
  const absl::StatusOr<bool> taken = !fd.ok()                  ? fd.status()
                                     : IsCsvRowsFileName(name) ? TakeCsv(fd->get(), path, name)
                                                               : TakeSpool(fd->get(), path, name);
  if (!taken.ok() && sure) Skip(name, taken.status().message());
  return taken.ok() && *taken;
}

absl::StatusOr<bool> TopFolder::TakeSpool(int fd, const std::string& path,
                                          const std::string& name) {
  absl::StatusOr<SpoolReader> reader = SpoolReader::FromFd(fd, path);
  if (!reader.ok()) return reader.status();
  const SpoolHeader& header = reader->header();
  if (!Wanted(header.gateway, header.engine_id, header.sequence, header.interval_end_ns)) {
    return false;
  }
  TopInterval interval;
  interval.gateway = header.gateway;
  interval.end_ns = header.interval_end_ns;
  interval.length_ns = header.interval_length_ns;
  interval.covered_ns = header.covered_to_ns - header.covered_from_ns;
  interval.completeness = header.completeness;
  interval.events_dropped = header.events_dropped;
  interval.track_open = header.track_open;
  interval.masks = {header.src_mask, header.dst_mask, header.src_mask6, header.dst_mask6};
  interval.files = {name};
  std::vector<TrafficRow> block;
  while (true) {
    const absl::StatusOr<bool> more = reader->ReadBlock(&block);
    if (!more.ok()) return more.status();
    if (!*more) break;
    if (interval.rows.size() + block.size() > kTopRowsMax) return TooManyRows(path);
    interval.rows.insert(interval.rows.end(), block.begin(), block.end());
  }
  interval.gaps = reader->gaps();
  return TakeInterval(std::move(interval), path, header.engine_id, header.sequence);
}

absl::StatusOr<bool> TopFolder::TakeCsv(int fd, const std::string& path, const std::string& name) {
  absl::StatusOr<TopInterval> interval = ReadCsv(fd, path);
  if (!interval.ok()) return interval.status();
  interval->length_ns = csv_length_ns_;
  interval->files = {name};
  if (!Wanted("", {}, 0, interval->end_ns)) return false;
  return TakeInterval(*std::move(interval), path, {}, 0);
}

bool TopFolder::Wanted(const std::string& gateway, const EngineId& engine_id, uint64_t sequence,
                       int64_t end_ns) const {
  const auto found = newest_.find(gateway);
  if (found == newest_.end()) return true;
  const Newest& newest = found->second;
  // Within a run, the sequence says which file is newer even if the clock was set back.
  if (sequence != 0 && engine_id == newest.engine_id) return sequence > newest.sequence;
  return end_ns >= newest.interval->end_ns;
}

absl::StatusOr<bool> TopFolder::TakeInterval(TopInterval interval, const std::string& path,
                                             const EngineId& engine_id, uint64_t sequence) {
  Newest& newest = newest_[interval.gateway];
  if (newest.interval != nullptr && newest.interval->masks.has_value()) {
    interval.masks_changed = interval.masks.has_value() && interval.masks != newest.interval->masks;
  }
  if (newest.interval != nullptr && newest.interval->end_ns == interval.end_ns) {
    // More of the same interval.
    const TopInterval& part = *newest.interval;
    if (interval.rows.size() + part.rows.size() > kTopRowsMax) return TooManyRows(path);
    interval.length_ns = std::max(interval.length_ns, part.length_ns);
    interval.covered_ns += part.covered_ns;
    interval.completeness = std::max(interval.completeness, part.completeness);
    interval.events_dropped += part.events_dropped;
    interval.track_open |= part.track_open;
    interval.masks_changed |= part.masks_changed;
    if (interval.masks != part.masks) interval.masks.reset();
    interval.gaps.insert(interval.gaps.end(), part.gaps.begin(), part.gaps.end());
    interval.rows.insert(interval.rows.end(), part.rows.begin(), part.rows.end());
    interval.files.insert(interval.files.end(), part.files.begin(), part.files.end());
  }
  newest = {std::make_shared<const TopInterval>(std::move(interval)), engine_id, sequence};
  return true;
}

void TopFolder::Skip(const std::string& name, absl::string_view why) {
  if (!NoteBad(name)) return;
  ++skipped_;
  skipped_why_ = std::string(why);
}

bool TopFolder::NoteBad(const std::string& name) {
  if (bad_.size() >= kBadNamesMax) bad_.clear();
  return bad_.insert(name).second;
}

std::vector<std::shared_ptr<const TopInterval>> TopFolder::intervals() const {
  std::vector<std::shared_ptr<const TopInterval>> intervals;
  intervals.reserve(newest_.size());
  for (const auto& [gateway, newest] : newest_) intervals.push_back(newest.interval);
  return intervals;
}

}  // namespace ctacct
