#include "importer/files/spool_queue.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <set>

#include "absl/strings/str_cat.h"
#include "engine/spool/spool_backlog.h"
#include "engine/system/durable_file.h"
#include "engine/system/monotonic_clock.h"
#include "importer/files/log.h"

namespace ctacct {
namespace {

struct FolderCloser {
  void operator()(DIR* folder) const { closedir(folder); }
};

}  // namespace

SpoolQueue::Fingerprint SpoolQueue::FingerprintOf(const struct stat& info) {
  return {info.st_ino, info.st_size,
          int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec, info.st_mode};
}

absl::StatusOr<SpoolQueue> SpoolQueue::Open(const std::string& folder) {
  absl::StatusOr<UniqueFd> folder_fd = OpenFolder(folder);
  if (!folder_fd.ok()) return folder_fd.status();
  // Watched before the first scan, so that nothing falls between the two.
  UniqueFd inotify_fd(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (!inotify_fd.valid() || inotify_add_watch(inotify_fd.get(), folder.c_str(),
                                               IN_CLOSE_WRITE | IN_MOVED_TO | IN_DELETE_SELF |
                                                   IN_MOVE_SELF | IN_ONLYDIR) < 0) {
    LogLine(absl::StrCat("no inotify for ", folder, ": looking every ",
                         absl::FormatDuration(kRescanPeriod), " instead"));
    inotify_fd = UniqueFd();
  }
  return SpoolQueue(folder, *std::move(folder_fd), std::move(inotify_fd));
}

absl::StatusOr<std::vector<std::string>> SpoolQueue::Scan() {
  struct stat opened;
  struct stat named;
  if (fstat(folder_fd_.get(), &opened) != 0 || stat(folder_.c_str(), &named) != 0 ||
      opened.st_dev != named.st_dev || opened.st_ino != named.st_ino) {
    return absl::FailedPreconditionError(
        absl::StrCat("folder ", folder_, " has been removed or replaced"));
  }
  // A descriptor of its own: reading a folder moves the offset.
  const int scan_fd = openat(folder_fd_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (scan_fd < 0) return FileError("open folder", folder_, errno);
  const std::unique_ptr<DIR, FolderCloser> entries(fdopendir(scan_fd));
  if (entries == nullptr) {
    const int error = errno;
    close(scan_fd);
    return FileError("read folder", folder_, error);
  }
  const absl::Duration now = MonotonicNow();
  absl::flat_hash_map<std::string, Held> still_held;
  std::set<std::pair<bool, std::string>> first;  // false (CSV) sorts before true (spool).
  while (true) {
    errno = 0;
    const dirent* const entry = readdir(entries.get());
    if (entry == nullptr) {
      if (errno != 0) return FileError("read folder", folder_, errno);
      break;
    }
    const std::string name = entry->d_name;
    if (!IsRowsFileName(name)) continue;
    struct stat info;
    if (fstatat(folder_fd_.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
    const Fingerprint fingerprint = FingerprintOf(info);
    if (const auto held = held_.find(name); held != held_.end() &&
                                            held->second.fingerprint == fingerprint &&
                                            now < held->second.deadline) {
      still_held.insert(*held);
      continue;
    }
    const char* const why = !S_ISREG(info.st_mode) ? "not a regular file"
                            : info.st_size == 0    ? "empty"
                                                   : nullptr;
    if (why != nullptr) {
      LogLine(absl::StrCat("ignoring ", folder_, "/", name, ": ", why));
      still_held.insert({name, {fingerprint, absl::InfiniteDuration()}});
      continue;
    }
    first.emplace(!IsCsvRowsFileName(name), name);
    if (first.size() > kScanFilesMax) first.erase(std::prev(first.end()));
  }
  held_ = std::move(still_held);
  std::vector<std::string> names;
  names.reserve(first.size());
  for (const auto& [is_spool, name] : first) names.push_back(name);
  return names;
}

void SpoolQueue::Hold(const std::string& name, absl::Duration deadline) {
  struct stat info;
  if (fstatat(folder_fd_.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) return;
  held_[name] = {FingerprintOf(info), deadline};
}

void SpoolQueue::Wait(int stop_fd) const {
  // poll skips descriptors below 0.
  pollfd fds[2] = {{inotify_fd_.get(), POLLIN, 0}, {stop_fd, POLLIN, 0}};
  if (poll(fds, 2, static_cast<int>(absl::ToInt64Milliseconds(kRescanPeriod))) <= 0) return;
  if (fds[0].revents == 0) return;
  // What happened does not matter, that it happened does.
  alignas(inotify_event) char events[16 * 1024];
  while (read(inotify_fd_.get(), events, sizeof(events)) > 0) {
  }
}

}  // namespace ctacct
