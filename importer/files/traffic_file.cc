#include "importer/files/traffic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/bounds.h"
#include "engine/rows/csv.h"
#include "engine/spool/spool_reader.h"
#include "engine/system/clock.h"
#include "engine/system/durable_file.h"
#include "xxhash.h"

namespace ctacct {
namespace {

constexpr int64_t kNanosPerDay = 86'400'000'000'000;
constexpr size_t kCsvReadBytes = 256 * 1024;
constexpr size_t kCsvBlockRows = 4096;  // As a spool file's blocks have.

struct HashStateDeleter {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

enum class Writer { kNone, kOpen, kUnknown };

// The kernel grants a read lease only while no process has the file open for writing. It refuses
// the question for another user's file without CAP_LEASE, and on network file systems.
Writer WriterOf(int fd) {
  if (fcntl(fd, F_SETLEASE, F_RDLCK) != 0) {
    return errno == EAGAIN ? Writer::kOpen : Writer::kUnknown;
  }
  fcntl(fd, F_SETLEASE, F_UNLCK);
  return Writer::kNone;
}

EngineId KeyOfHash(const XXH128_hash_t& hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  EngineId id;
  std::memcpy(id.data(), canonical.digest, id.size());
  id[6] =
      static_cast<uint8_t>(0x80 | (id[6] & 0x0f));  // Version 8: of the application's own making.
  id[8] = static_cast<uint8_t>(0x80 | (id[8] & 0x3f));
  return id;
}

}  // namespace

bool IsNamesFileName(absl::string_view name) {
  return !absl::StartsWith(name, ".") && absl::EndsWith(name, kNamesFileEnd) &&
         name != kCurrentNamesFile;
}

FileIdentity FileIdentity::Of(const struct stat& info) {
  return {info.st_dev, info.st_ino, info.st_size, TimespecNs(info.st_mtim)};
}

absl::StatusOr<TrafficFile> TrafficFile::Open(const FilePlace& place,
                                              const std::string& csv_gateway) {
  absl::StatusOr<UniqueFd> fd = OpenRegularFile(place.folder_fd, place.name, place.path);
  if (!fd.ok()) return fd.status();
  TrafficFile file;
  file.fd_ = *std::move(fd);
  file.place_ = place;
  file.csv_gateway_ = csv_gateway;
  file.csv_ = absl::EndsWith(place.name, ".csv");
  struct stat info;
  if (fstat(file.fd_.get(), &info) != 0) return FileError("examine", place.path, errno);
  file.identity_ = FileIdentity::Of(info);
  return file;
}

absl::StatusOr<FileSummary> TrafficFile::Read(TakeRows take) const {
  // The Go tool writes its files in place: one that ends with a line may still be half of it.
  if (csv_) {
    if (absl::Status status = CheckWriter(); !status.ok()) return status;
  }
  std::set<int32_t> days;
  int64_t last_day = -1;
  const auto note_days = [&](absl::Span<const TrafficRow> rows) -> absl::Status {
    for (const TrafficRow& row : rows) {
      const int64_t day = row.time_ns / kNanosPerDay;
      if (day == last_day) continue;
      last_day = day;
      days.insert(static_cast<int32_t>(day));
      if (days.size() > kDaysMax) {
        return absl::DataLossError(
            absl::StrCat(place_.path, ": rows of more than ", kDaysMax, " days in one file"));
      }
    }
    return take(rows);
  };
  absl::StatusOr<FileSummary> summary = csv_ ? ReadCsv(note_days) : ReadSpool(note_days);
  if (summary.ok()) summary->days.assign(days.begin(), days.end());
  if (summary.ok() || absl::IsDataLoss(summary.status())) {
    // A torn file may be a copy that is still being made. A sound spool file is complete.
    if (csv_ || !summary.ok()) {
      if (absl::Status status = CheckWriter(); !status.ok()) return status;
    }
  }
  return summary;
}

absl::StatusOr<NamesSnapshot> TrafficFile::ReadNames() const {
  absl::StatusOr<NamesSnapshot> snapshot = ReadNamesFile(fd_.get(), place_.path);
  // As for spool files: a torn file may be a copy that is still being made.
  if (absl::IsDataLoss(snapshot.status())) {
    if (absl::Status status = CheckWriter(); !status.ok()) return status;
  }
  return snapshot;
}

absl::Status TrafficFile::CheckWriter() const {
  const Writer writer = WriterOf(fd_.get());
  if (writer == Writer::kOpen) {
    return absl::AbortedError(absl::StrCat(place_.path, ": somebody still writes to it"));
  }
  // After the question above, so that the changes of a writer that has just closed it are seen.
  struct stat info;
  if (fstat(fd_.get(), &info) != 0) return FileError("examine", place_.path, errno);
  if (FileIdentity::Of(info) != identity_) {
    return absl::AbortedError(absl::StrCat(place_.path, ": changed while it was read"));
  }
  if (writer == Writer::kUnknown && !at_rest_ &&
      absl::Now() - absl::FromUnixNanos(identity_.modified_ns) < kQuietTime) {
    return absl::AbortedError(absl::StrCat(place_.path, ": may still be written to; only after ",
                                           absl::FormatDuration(kQuietTime),
                                           " without a change it is known to be whole"));
  }
  return absl::OkStatus();
}

absl::StatusOr<FileSummary> TrafficFile::ReadSpool(TakeRows take) const {
  absl::StatusOr<SpoolReader> reader = SpoolReader::FromFd(fd_.get(), place_.path);
  if (!reader.ok()) return reader.status();
  std::vector<TrafficRow> rows;
  while (true) {
    const absl::StatusOr<bool> more = reader->ReadBlock(&rows);
    if (!more.ok()) return more.status();
    if (!*more) break;
    if (absl::Status status = take(rows); !status.ok()) return status;
  }
  return FileSummary{reader->header().engine_id,
                     reader->header().sequence,
                     reader->totals().file_checksum,
                     reader->totals().row_count,
                     reader->header(),
                     reader->gaps(),
                     {}};
}

absl::StatusOr<FileSummary> TrafficFile::ReadCsv(TakeRows take) const {
  const std::unique_ptr<XXH3_state_t, HashStateDeleter> hash(XXH3_createState());
  XXH3_128bits_reset(hash.get());
  // With its NUL, which no line has: no name runs into the contents.
  if (!csv_gateway_.empty()) {
    XXH3_128bits_update(hash.get(), csv_gateway_.c_str(), csv_gateway_.size() + 1);
  }
  FileSummary summary;
  std::vector<char> buffer(kCsvReadBytes);
  size_t held = 0;         // Bytes of an unfinished line, at the buffer's beginning.
  int64_t line_start = 0;  // Of that line, within the file.
  uint64_t line = 1;
  std::vector<TrafficRow> rows;
  rows.reserve(kCsvBlockRows);
  std::map<int64_t, RowSums> sums_by_day;  // `take` bounds the number of days.
  const auto bad_line = [&](absl::string_view why) {
    return absl::DataLossError(
        absl::StrCat(place_.path, ": line ", line, " at byte ", line_start, ": ", why));
  };
  while (true) {
    const ssize_t got = pread(fd_.get(), buffer.data() + held, buffer.size() - held,
                              line_start + static_cast<int64_t>(held));
    if (got < 0) {
      if (errno == EINTR) continue;
      return FileError("read", place_.path, errno);
    }
    if (got == 0) break;
    XXH3_128bits_update(hash.get(), buffer.data() + held, static_cast<size_t>(got));
    absl::string_view rest(buffer.data(), held + static_cast<size_t>(got));
    for (size_t end; (end = rest.find('\n')) != absl::string_view::npos; ++line) {
      TrafficRow row;
      bool has_open;
      absl::string_view text = rest.substr(0, end);
      absl::ConsumeSuffix(&text, "\r");  // Editors and file transfers of other systems.
      if (absl::Status status = ParseCsvLine(text, &row, &has_open); !status.ok()) {
        return bad_line(absl::string_view(status.message()));
      }
      if (const RowCounter* const beyond = sums_by_day[row.time_ns / kNanosPerDay].Add(row);
          beyond != nullptr) {
        return bad_line(absl::StrCat(RowSums::Problem(*beyond), " in a day"));
      }
      rows.push_back(row);
      ++summary.row_count;
      rest.remove_prefix(end + 1);
      line_start += static_cast<int64_t>(end + 1);
      if (rows.size() == kCsvBlockRows) {
        if (absl::Status status = take(rows); !status.ok()) return status;
        rows.clear();
      }
    }
    if (rest.size() > kCsvLineBytesMax) return bad_line("longer than any row");
    held = rest.size();
    std::memmove(buffer.data(), rest.data(), held);
  }
  if (held != 0) return bad_line("torn: the file ends before the line does");
  // Of a full disk, or of a copy that never began: nobody writes a file to say that it has no rows.
  if (summary.row_count == 0) return absl::DataLossError(absl::StrCat(place_.path, ": empty"));
  if (!rows.empty()) {
    if (absl::Status status = take(rows); !status.ok()) return status;
  }
  const XXH128_hash_t digest = XXH3_128bits_digest(hash.get());
  summary.engine_id = KeyOfHash(digest);
  summary.checksum = digest.low64;
  return summary;
}

}  // namespace ctacct
