// The files in a spool folder that wait for import: named *.spool, traffic_*.csv or *.names (but
// for current.names), whatever they are.
//
// Every scan reads the folder itself; inotify only says when to read it again. So no file is missed
// when inotify's queue overflows, on file systems without it (the slow timer remains), or across a
// restart.
//
// A file that is left in the folder on purpose (a newer version, a symbolic link) is held: it is
// not handed out again until it changes. Memory: at most kScanFilesMax names, and one entry for
// each file that is left. Thread-compatible.
#ifndef CTACCT_IMPORTER_FILES_SPOOL_QUEUE_H_
#define CTACCT_IMPORTER_FILES_SPOOL_QUEUE_H_

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/system/unique_fd.h"

namespace ctacct {

// Names handed out by one scan, the first ones in order: 42 hours of files at the default interval,
// about 1 MB. The next scan hands out more.
inline constexpr size_t kScanFilesMax = 10'000;
// Finds files that inotify did not report, and deferred ones.
inline constexpr absl::Duration kRescanPeriod = absl::Seconds(5);

// Whether a file of this name is for import.
[[nodiscard]] bool IsImportedName(absl::string_view name);

class SpoolQueue {
 public:
  [[nodiscard]] static absl::StatusOr<SpoolQueue> Open(const std::string& folder);
  SpoolQueue(SpoolQueue&&) = default;

  // What waits now: CSV files first (they are archives, older than the spool), then spool and
  // names files, all by name, which is the order of writing. FailedPrecondition if the folder has
  // been removed or replaced.
  [[nodiscard]] absl::StatusOr<std::vector<std::string>> Scan();

  // Not to be handed out again before `deadline` (of MonotonicNow), unless it changes.
  void Hold(const std::string& name, absl::Duration deadline);

  // Returns once something may have changed in the folder, `stop_fd` is readable, or kRescanPeriod
  // is over.
  void Wait(int stop_fd) const;

  [[nodiscard]] int folder_fd() const { return folder_fd_.get(); }
  [[nodiscard]] const std::string& folder() const { return folder_; }

 private:
  // A change of any of these is a change of the file.
  struct Fingerprint {
    ino_t inode;
    off_t size;
    int64_t modified_ns;
    mode_t mode;

    friend bool operator==(const Fingerprint&, const Fingerprint&) = default;
  };
  struct Held {
    Fingerprint fingerprint;
    absl::Duration deadline;
  };

  SpoolQueue(std::string folder, UniqueFd folder_fd, UniqueFd inotify_fd)
      : folder_(std::move(folder)),
        folder_fd_(std::move(folder_fd)),
        inotify_fd_(std::move(inotify_fd)) {}
  static Fingerprint FingerprintOf(const struct stat& info);

  std::string folder_;
  UniqueFd folder_fd_;
  UniqueFd inotify_fd_;  // Invalid where there is no inotify.
  absl::flat_hash_map<std::string, Held> held_;
};

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_FILES_SPOOL_QUEUE_H_
