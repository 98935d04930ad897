#include "engine/spool/spool_backlog.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "absl/strings/match.h"
#include "engine/system/clock.h"
#include "engine/system/durable_file.h"

namespace ctacct {
namespace {

constexpr int64_t kTimeShare = 100;

SpoolBacklog Look(const std::string& path, SpoolBacklogMeter::Counts counts) {
  SpoolBacklog backlog;
  const absl::StatusOr<UniqueFd> folder = OpenFolder(path);
  if (!folder.ok()) return backlog;
  ForEachName(folder->get(), path, [&](const char* name) {
    struct stat info {};
    if (!counts(name) || fstatat(folder->get(), name, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
        !S_ISREG(info.st_mode) || info.st_size == 0) {
      return true;
    }
    ++backlog.files;
    backlog.bytes += static_cast<uint64_t>(info.st_size);
    const int64_t written_ns = TimespecNs(info.st_mtim);
    if (backlog.oldest_ns == 0 || written_ns < backlog.oldest_ns) backlog.oldest_ns = written_ns;
    return backlog.files < SpoolBacklogMeter::kFilesMax;
  }).IgnoreError();
  return backlog;
}

}  // namespace

bool IsCsvRowsFileName(absl::string_view name) {
  return absl::StartsWith(name, "traffic_") && absl::EndsWith(name, ".csv");
}

bool IsRowsFileName(absl::string_view name) {
  return !absl::StartsWith(name, ".") &&
         (IsCsvRowsFileName(name) || absl::EndsWith(name, ".spool"));
}

const SpoolBacklog& SpoolBacklogMeter::Measure(bool now) {
  const int64_t begun_ns = MonotonicNs();
  if (!now && begun_ns < next_ns_) return backlog_;
  backlog_ = Look(folder_, counts_);
  const int64_t done_ns = MonotonicNs();
  next_ns_ = done_ns + (done_ns - begun_ns) * kTimeShare;
  return backlog_;
}

}  // namespace ctacct
