// Files that are there whole or not at all, also after kill -9 or power loss.
//
// A file is written under a hidden name, `.RANDOM.tmp`, synced, renamed without replacing
// anything, and its folder is synced. On any error the hidden file is gone and the status names the
// path. After a failed fsync the kernel may have dropped the dirty pages, so that a second fsync
// would lie: nothing here tries again, the caller writes a new file.
//
// Thread safety: distinct objects may be used by distinct threads.
#ifndef CTACCT_ENGINE_SYSTEM_DURABLE_FILE_H_
#define CTACCT_ENGINE_SYSTEM_DURABLE_FILE_H_

#include <sys/types.h>

#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/system/unique_fd.h"

namespace ctacct {

// Owner reads and writes, group reads: rows show who talked to whom.
inline constexpr mode_t kDurableFileMode = 0640;

class DurableFile {
 public:
  // Opens the hidden file. `name` is one path component.
  [[nodiscard]] static absl::StatusOr<DurableFile> Create(const std::string& folder,
                                                          const std::string& name);
  DurableFile(DurableFile&&) noexcept = default;
  DurableFile& operator=(DurableFile&&) = delete;
  ~DurableFile();  // Without a Commit() that went well, removes the hidden file.

  [[nodiscard]] absl::Status Append(absl::string_view bytes);

  // Instead of kDurableFileMode, and whatever the umask is.
  [[nodiscard]] absl::Status SetMode(mode_t mode);

  // Makes the file durable, but gives it another name, out of sight, under which it outlives this
  // object: RevealPreparedFile makes it visible.
  [[nodiscard]] absl::Status Prepare(const std::string& hidden_name);

  // Makes the file durable and visible. AlreadyExists: another file has the name, and keeps it. If
  // the folder cannot be synced the new name is taken away again, so that a caller that writes the
  // same contents once more does not fail on it.
  [[nodiscard]] absl::Status Commit();

  // As Commit, but takes the place of a file that has the name.
  [[nodiscard]] absl::Status Replace();

 private:
  DurableFile(std::string folder, std::string name, std::string hidden_name, UniqueFd folder_fd,
              UniqueFd fd);
  [[nodiscard]] absl::Status Error(absl::string_view what, int error) const;

  std::string folder_;
  std::string name_;
  std::string hidden_name_;
  UniqueFd folder_fd_;
  UniqueFd fd_;  // Invalid once committed or moved from.
};

// Gives a prepared file its name, which must be free: AlreadyExists. If the folder cannot be synced
// it is hidden again.
[[nodiscard]] absl::Status RevealPreparedFile(const std::string& folder,
                                              const std::string& hidden_name,
                                              const std::string& name);

// Removes those of our hidden files in `folder` that nobody writes any more: what kill -9 left.
// Best effort.
void RemoveAbandonedFiles(const std::string& folder);

// Create, Append, Commit.
[[nodiscard]] absl::Status WriteDurably(const std::string& folder, const std::string& name,
                                        absl::string_view contents);

// Opens a folder for the *at() calls and for fsync. The last component may be a symbolic link.
[[nodiscard]] absl::StatusOr<UniqueFd> OpenFolder(const std::string& folder);

// Whether `path` still names the folder that `folder_fd` has open.
[[nodiscard]] bool IsFolderAt(int folder_fd, const std::string& path);

// Calls `take` for each name in an open folder, `.` and `..` too, in no order, until it returns
// false. `path` is what errors call the folder.
[[nodiscard]] absl::Status ForEachName(int folder_fd, const std::string& path,
                                       absl::FunctionRef<bool(const char* name)> take);

// Opens a regular file for reading, relative to `folder_fd` (AT_FDCWD: the working folder).
// Symbolic links, FIFOs, devices and folders are FailedPrecondition; a missing file is NotFound.
// `path` is what errors call it.
[[nodiscard]] absl::StatusOr<UniqueFd> OpenRegularFile(int folder_fd, const std::string& name,
                                                       const std::string& path);

// rename(2) that never replaces: 0, or -1 with errno (EEXIST: the new name is taken). File systems
// without RENAME_NOREPLACE get link and unlink.
[[nodiscard]] int RenameNoReplace(int from_folder_fd, const char* from, int to_folder_fd,
                                  const char* to);

// "WHAT PATH: strerror", with the code that fits errno.
[[nodiscard]] absl::Status FileError(absl::string_view what, absl::string_view path, int error);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SYSTEM_DURABLE_FILE_H_
