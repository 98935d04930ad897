#include "importer/traffic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/csv.h"
#include "engine/durable_file.h"
#include "engine/spool_reader.h"
#include "xxhash.h"

namespace ctacct {
namespace {

constexpr size_t kCsvReadBytes = 256 * 1024;
constexpr size_t kCsvBlockRows = 4096;  // As a spool file's blocks have.

struct HashStateDeleter {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

// The kernel grants a read lease only while nobody has the file open for writing. Where we may not
// ask (another user's file without CAP_LEASE, a network file system) the answer is no.
bool HasWriter(int fd) {
  if (fcntl(fd, F_SETLEASE, F_RDLCK) != 0) return errno == EAGAIN;
  fcntl(fd, F_SETLEASE, F_UNLCK);
  return false;
}

EngineId KeyOfContents(const XXH128_hash_t& hash) {
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

absl::StatusOr<TrafficFile> TrafficFile::Open(int folder_fd, const std::string& name,
                                              const std::string& path) {
  absl::StatusOr<UniqueFd> fd = OpenRegularFile(folder_fd, name, path);
  if (!fd.ok()) return fd.status();
  TrafficFile file;
  file.fd_ = *std::move(fd);
  file.name_ = name;
  file.path_ = path;
  file.csv_ = absl::EndsWith(name, ".csv");
  struct stat info;
  if (fstat(file.fd_.get(), &info) != 0) return FileError("examine", path, errno);
  file.identity_ = {info.st_dev, info.st_ino};
  return file;
}

absl::StatusOr<FileSummary> TrafficFile::Read(TakeRows take) const {
  return csv_ ? ReadCsv(take) : ReadSpool(take);
}

absl::StatusOr<FileSummary> TrafficFile::ReadSpool(TakeRows take) const {
  absl::StatusOr<SpoolReader> reader = SpoolReader::FromFd(fd_.get(), path_);
  if (!reader.ok()) return reader.status();
  std::vector<TrafficRow> rows;
  while (true) {
    const absl::StatusOr<bool> more = reader->ReadBlock(&rows);
    if (!more.ok()) return more.status();
    if (!*more) break;
    if (absl::Status status = take(rows); !status.ok()) return status;
  }
  return FileSummary{reader->header().engine_id, reader->header().sequence,
                     reader->totals().file_checksum, reader->totals().row_count, reader->header()};
}

absl::StatusOr<FileSummary> TrafficFile::ReadCsv(TakeRows take) const {
  // The reference writes its files in place.
  if (HasWriter(fd_.get())) {
    return absl::AbortedError(absl::StrCat(path_, ": somebody still writes to it"));
  }
  const std::unique_ptr<XXH3_state_t, HashStateDeleter> hash(XXH3_createState());
  XXH3_128bits_reset(hash.get());
  FileSummary summary;
  std::vector<char> buffer(kCsvReadBytes);
  size_t held = 0;         // Bytes of an unfinished line, at the buffer's beginning.
  int64_t line_start = 0;  // Of that line, within the file.
  uint64_t line = 1;
  std::vector<TrafficRow> rows;
  rows.reserve(kCsvBlockRows);
  const auto bad_line = [&](absl::string_view why) {
    return absl::DataLossError(
        absl::StrCat(path_, ": line ", line, " at byte ", line_start, ": ", why));
  };
  while (true) {
    const ssize_t got = pread(fd_.get(), buffer.data() + held, buffer.size() - held,
                              line_start + static_cast<int64_t>(held));
    if (got < 0) {
      if (errno == EINTR) continue;
      return FileError("read", path_, errno);
    }
    if (got == 0) break;
    XXH3_128bits_update(hash.get(), buffer.data() + held, static_cast<size_t>(got));
    absl::string_view rest(buffer.data(), held + static_cast<size_t>(got));
    for (size_t end; (end = rest.find('\n')) != absl::string_view::npos; ++line) {
      TrafficRow row;
      bool has_open;
      if (absl::Status status = ParseCsvLine(rest.substr(0, end), &row, &has_open); !status.ok()) {
        return bad_line(absl::string_view(status.message()));
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
  if (!rows.empty()) {
    if (absl::Status status = take(rows); !status.ok()) return status;
  }
  const XXH128_hash_t digest = XXH3_128bits_digest(hash.get());
  summary.engine_id = KeyOfContents(digest);
  summary.checksum = digest.low64;
  return summary;
}

}  // namespace ctacct
