#include "importer/disposal.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/durable_file.h"
#include "engine/unique_fd.h"
#include "importer/log.h"

namespace ctacct {
namespace {

// Others may look, only the owner adds.
constexpr mode_t kFailedFolderMode = 0750;
// So many files of one name are a mistake somewhere, not a spool.
constexpr int kNameSuffixMax = 10'000;
constexpr char kReasonSuffix[] = ".reason";
constexpr size_t kMoveBufferBytes = 256 * 1024;

std::string PathOf(const FilePlace& place) { return absl::StrCat(place.folder, "/", place.name); }

enum class Found { kGone, kChanged, kAsItWas };

// kGone also if the name means another file by now.
Found Find(const FilePlace& place, const FileIdentity& identity) {
  struct stat info;
  if (fstatat(place.folder_fd, place.name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
    return Found::kGone;
  }
  const FileIdentity now = FileIdentity::Of(info);
  if (!now.SameFile(identity)) return Found::kGone;
  return now == identity ? Found::kAsItWas : Found::kChanged;
}

absl::Status Changed(const FilePlace& place) {
  return absl::AbortedError(absl::StrCat(PathOf(place), ": changed since it was read"));
}

absl::Status SyncFolder(int folder_fd, absl::string_view folder) {
  if (fsync(folder_fd) != 0) return FileError("sync folder", folder, errno);
  return absl::OkStatus();
}

// At most `bytes_max` long: of a long name the end makes room for the number.
std::string WithNumber(const std::string& name, int number, size_t bytes_max) {
  const std::string suffix = number == 0 ? "" : absl::StrCat(".", number);
  return absl::StrCat(name.substr(0, bytes_max - suffix.size()), suffix);
}

absl::Status CopyTo(const FilePlace& place, const std::string& to_folder,
                    const std::string& to_name) {
  const std::string path = PathOf(place);
  absl::StatusOr<UniqueFd> from = OpenRegularFile(place.folder_fd, place.name, path);
  if (!from.ok()) return from.status();
  struct stat info;
  if (fstat(from->get(), &info) != 0) return FileError("examine", path, errno);
  absl::StatusOr<DurableFile> to = DurableFile::Create(to_folder, to_name);
  if (!to.ok()) return to.status();
  std::vector<char> buffer(kMoveBufferBytes);
  while (true) {
    const ssize_t got = read(from->get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FileError("read", path, errno);
    if (got == 0) {
      // The caller removes the original.
      if (Find(place, FileIdentity::Of(info)) == Found::kChanged) return Changed(place);
      return to->Commit();
    }
    absl::Status status = to->Append(absl::string_view(buffer.data(), static_cast<size_t>(got)));
    if (!status.ok()) return status;
  }
}

// Moves to the first free name of at most `name_bytes_max`; which one it was is *moved_to.
absl::Status MoveToFreeName(const FilePlace& place, int to_folder_fd, const std::string& to_folder,
                            size_t name_bytes_max, std::string* moved_to) {
  for (int number = 0; number < kNameSuffixMax; ++number) {
    *moved_to = WithNumber(place.name, number, name_bytes_max);
    if (RenameNoReplace(place.folder_fd, place.name.c_str(), to_folder_fd, moved_to->c_str()) ==
        0) {
      return absl::OkStatus();
    }
    if (errno == EEXIST) continue;
    if (errno != EXDEV) {
      return FileError(absl::StrCat("move ", PathOf(place), " to"), to_folder, errno);
    }
    const absl::Status status = CopyTo(place, to_folder, *moved_to);
    if (absl::IsAlreadyExists(status)) continue;
    if (!status.ok()) return status;
    if (unlinkat(place.folder_fd, place.name.c_str(), 0) != 0 && errno != ENOENT) {
      return FileError("remove", PathOf(place), errno);
    }
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(
      absl::StrCat(to_folder, ": ", kNameSuffixMax, " files have the name of ", place.name));
}

absl::Status MoveInto(const FilePlace& place, const std::string& to_folder, size_t name_bytes_max,
                      std::string* moved_to) {
  moved_to->clear();
  const absl::StatusOr<UniqueFd> to_folder_fd = OpenFolder(to_folder);
  if (!to_folder_fd.ok()) return to_folder_fd.status();
  const absl::Status status =
      MoveToFreeName(place, to_folder_fd->get(), to_folder, name_bytes_max, moved_to);
  if (absl::IsNotFound(status)) {
    moved_to->clear();
    return absl::OkStatus();
  }
  if (!status.ok()) return status;
  // The new name first: after a crash the file may be in both folders, but never in none.
  if (absl::Status sync = SyncFolder(to_folder_fd->get(), to_folder); !sync.ok()) return sync;
  return SyncFolder(place.folder_fd, place.folder);
}

}  // namespace

absl::Status RemoveFile(const FilePlace& place, const FileIdentity& identity) {
  const Found found = Find(place, identity);
  if (found == Found::kGone) return absl::OkStatus();
  if (found == Found::kChanged) return Changed(place);
  if (unlinkat(place.folder_fd, place.name.c_str(), 0) != 0) {
    return errno == ENOENT ? absl::OkStatus() : FileError("remove", PathOf(place), errno);
  }
  return SyncFolder(place.folder_fd, place.folder);
}

absl::Status MoveFile(const FilePlace& place, const FileIdentity& identity,
                      const std::string& to_folder) {
  const Found found = Find(place, identity);
  if (found == Found::kGone) return absl::OkStatus();
  if (found == Found::kChanged) return Changed(place);
  std::string moved_to;
  return MoveInto(place, to_folder, NAME_MAX, &moved_to);
}

absl::Status QuarantineFile(const FilePlace& place, const FileIdentity& identity,
                            absl::string_view reason) {
  if (Find(place, identity) == Found::kGone) return absl::OkStatus();
  const std::string failed = absl::StrCat(place.folder, "/", kFailedFolder);
  if (mkdirat(place.folder_fd, kFailedFolder, kFailedFolderMode) != 0 && errno != EEXIST) {
    return FileError("make folder", failed, errno);
  }
  std::string moved_to;
  // The reason goes by the file's name, so that needs room.
  constexpr size_t kRoom = sizeof(kReasonSuffix) - 1;
  absl::Status status = MoveInto(place, failed, NAME_MAX - kRoom, &moved_to);
  if (!status.ok() || moved_to.empty()) return status;
  status = WriteDurably(failed, absl::StrCat(moved_to, kReasonSuffix),
                        absl::StrCat(EscapedForLog(reason), "\n"));
  return absl::IsAlreadyExists(status) ? absl::OkStatus() : status;
}

}  // namespace ctacct
