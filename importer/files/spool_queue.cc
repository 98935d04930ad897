#include "importer/files/spool_queue.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <iterator>
#include <set>

#include "absl/strings/str_cat.h"
#include "engine/spool/spool_backlog.h"
#include "engine/system/clock.h"
#include "engine/system/durable_file.h"
#include "importer/files/log.h"
#include "importer/files/traffic_file.h"

namespace ctacct {

bool IsImportedName(absl::string_view name) {
  return IsRowsFileName(name) || IsNamesFileName(name);
}

SpoolQueue::Fingerprint SpoolQueue::FingerprintOf(const struct stat& info) {
  return {info.st_ino, info.st_size, TimespecNs(info.st_mtim), info.st_mode};
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
  if (!IsFolderAt(folder_fd_.get(), folder_)) {
    return absl::FailedPreconditionError(
        absl::StrCat("folder ", folder_, " has been removed or replaced"));
  }
  const absl::Duration now = MonotonicNow();
  absl::flat_hash_map<std::string, Held> still_held;
  std::set<std::pair<bool, std::string>> first;  // false (CSV) sorts before true (spool).
  const absl::Status scanned = ForEachName(folder_fd_.get(), folder_, [&](const char* name) {
    struct stat info {};
    if (!IsImportedName(name) || fstatat(folder_fd_.get(), name, &info, AT_SYMLINK_NOFOLLOW) != 0) {
      return true;
    }
    const Fingerprint fingerprint = FingerprintOf(info);
    if (const auto held = held_.find(name); held != held_.end() &&
                                            held->second.fingerprint == fingerprint &&
                                            now < held->second.deadline) {
      still_held.insert(*held);
    } else {
      first.emplace(!IsCsvRowsFileName(name), name);
      if (first.size() > kScanFilesMax) first.erase(std::prev(first.end()));
    }
    return true;
  });
  if (!scanned.ok()) return scanned;
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
  // It only matters that something happened.
  alignas(inotify_event) char events[16 * 1024];
  while (read(inotify_fd_.get(), events, sizeof(events)) > 0) {
  }
}

}  // namespace ctacct
