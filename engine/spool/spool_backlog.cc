#include "engine/spool/spool_backlog.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

#include <algorithm>
#include <memory>

#include "absl/strings/match.h"

namespace ctacct {
namespace {

constexpr int64_t kNanosPerSecond = 1'000'000'000;
constexpr int64_t kTimeShare = 100;

int64_t Nanos(const timespec& time) { return time.tv_sec * kNanosPerSecond + time.tv_nsec; }

int64_t MonotonicNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return Nanos(now);
}

struct FolderCloser {
  void operator()(DIR* folder) const { closedir(folder); }
};

SpoolBacklog Look(const std::string& path, SpoolBacklogMeter::Counts counts) {
  SpoolBacklog backlog;
  const std::unique_ptr<DIR, FolderCloser> folder(opendir(path.c_str()));
  if (folder == nullptr) return backlog;
  while (const dirent* const entry = readdir(folder.get())) {
    if (!counts(entry->d_name)) continue;
    struct stat info {};
    if (fstatat(dirfd(folder.get()), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (!S_ISREG(info.st_mode) || info.st_size == 0) continue;
    ++backlog.files;
    backlog.bytes += static_cast<uint64_t>(info.st_size);
    const int64_t written_ns = Nanos(info.st_mtim);
    if (backlog.oldest_ns == 0 || written_ns < backlog.oldest_ns) backlog.oldest_ns = written_ns;
    if (backlog.files == SpoolBacklogMeter::kFilesMax) break;
  }
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
