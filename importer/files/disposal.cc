#include "importer/files/disposal.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/system/durable_file.h"
#include "engine/system/text.h"
#include "engine/system/unique_fd.h"

namespace ctacct {
namespace {

// Others may look, only the owner adds.
constexpr mode_t kFailedFolderMode = 0750;
// More files of one name are a mistake somewhere, not a spool.
constexpr int kNameSuffixMax = 10'000;
constexpr size_t kMoveBufferBytes = 256 * 1024;

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
  return absl::AbortedError(absl::StrCat(place.path, ": changed since it was read"));
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
  absl::StatusOr<UniqueFd> from = OpenRegularFile(place.folder_fd, place.name, place.path);
  if (!from.ok()) return from.status();
  struct stat info;
  if (fstat(from->get(), &info) != 0) return FileError("examine", place.path, errno);
  absl::StatusOr<DurableFile> to = DurableFile::Create(to_folder, to_name);
  if (!to.ok()) return to.status();
  std::vector<char> buffer(kMoveBufferBytes);
  while (true) {
    const ssize_t got = read(from->get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FileError("read", place.path, errno);
    if (got == 0) {
      // The caller removes the original.
      if (Find(place, FileIdentity::Of(info)) == Found::kChanged) return Changed(place);
      return to->Commit();
    }
    absl::Status status = to->Append(absl::string_view(buffer.data(), static_cast<size_t>(got)));
    if (!status.ok()) return status;
  }
}

// AlreadyExists: the name is taken. NotFound: there is no such file any more.
absl::Status MoveToName(const FilePlace& place, int to_folder_fd, const std::string& to_folder,
                        const std::string& to_name) {
  if (RenameNoReplace(place.folder_fd, place.name.c_str(), to_folder_fd, to_name.c_str()) == 0) {
    return absl::OkStatus();
  }
  if (errno != EXDEV) {
    return FileError(absl::StrCat("move ", place.path, " to"), to_folder, errno);
  }
  if (absl::Status status = CopyTo(place, to_folder, to_name); !status.ok()) return status;
  if (unlinkat(place.folder_fd, place.name.c_str(), 0) != 0 && errno != ENOENT) {
    return FileError("remove", place.path, errno);
  }
  return absl::OkStatus();
}

absl::Status TooManyOfTheName(const FilePlace& place, const std::string& to_folder) {
  return absl::ResourceExhaustedError(
      absl::StrCat(to_folder, ": ", kNameSuffixMax, " files have the name of ", place.name));
}

// The new name first: after a crash the file may be in both folders, but never in none.
absl::Status SyncBoth(const FilePlace& place, int to_folder_fd, const std::string& to_folder) {
  if (absl::Status sync = SyncFolder(to_folder_fd, to_folder); !sync.ok()) return sync;
  return SyncFolder(place.folder_fd, place.folder);
}

bool Exists(int folder_fd, const std::string& name) {
  return faccessat(folder_fd, name.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

}  // namespace

absl::Status RemoveFile(const TrafficFile& file) {
  const FilePlace& place = file.place();
  const Found found = Find(place, file.identity());
  if (found == Found::kGone) return absl::OkStatus();
  if (found == Found::kChanged) return Changed(place);
  if (unlinkat(place.folder_fd, place.name.c_str(), 0) != 0) {
    return errno == ENOENT ? absl::OkStatus() : FileError("remove", place.path, errno);
  }
  return SyncFolder(place.folder_fd, place.folder);
}

absl::Status MoveFile(const TrafficFile& file, const std::string& to_folder) {
  const FilePlace& place = file.place();
  const Found found = Find(place, file.identity());
  if (found == Found::kGone) return absl::OkStatus();
  if (found == Found::kChanged) return Changed(place);
  const absl::StatusOr<UniqueFd> to_folder_fd = OpenFolder(to_folder);
  if (!to_folder_fd.ok()) return to_folder_fd.status();
  for (int number = 0; number < kNameSuffixMax; ++number) {
    const absl::Status status =
        MoveToName(place, to_folder_fd->get(), to_folder, WithNumber(place.name, number, NAME_MAX));
    if (absl::IsAlreadyExists(status)) continue;
    if (absl::IsNotFound(status)) return absl::OkStatus();
    if (!status.ok()) return status;
    return SyncBoth(place, to_folder_fd->get(), to_folder);
  }
  return TooManyOfTheName(place, to_folder);
}

// The reason is written before the file is moved, so that a kill between the two leaves no file
// without a reason. It may leave a reason without a file, which the next attempt replaces. If two
// importers quarantine one file at once, each step that comes second does nothing.
absl::Status QuarantineFile(const TrafficFile& file, absl::string_view reason) {
  const FilePlace& place = file.place();
  if (Find(place, file.identity()) == Found::kGone) return absl::OkStatus();
  const std::string failed = absl::StrCat(place.folder, "/", kFailedFolder);
  if (mkdirat(place.folder_fd, kFailedFolder, kFailedFolderMode) != 0 && errno != EEXIST) {
    return FileError("make folder", failed, errno);
  }
  const absl::StatusOr<UniqueFd> failed_fd = OpenFolder(failed);
  if (!failed_fd.ok()) return failed_fd.status();
  constexpr size_t kNameBytesMax = NAME_MAX - (sizeof(kReasonSuffix) - 1);
  for (int number = 0; number < kNameSuffixMax; ++number) {
    const std::string name = WithNumber(place.name, number, kNameBytesMax);
    if (Exists(failed_fd->get(), name)) continue;
    const std::string reason_name = absl::StrCat(name, kReasonSuffix);
    unlinkat(failed_fd->get(), reason_name.c_str(), 0);
    absl::Status status =
        WriteDurably(failed, reason_name, absl::StrCat(EscapeControls(reason), "\n"));
    if (!status.ok() && !absl::IsAlreadyExists(status)) return status;
    status = MoveToName(place, failed_fd->get(), failed, name);
    if (absl::IsAlreadyExists(status)) continue;
    if (!status.ok() && !Exists(failed_fd->get(), name)) {
      unlinkat(failed_fd->get(), reason_name.c_str(), 0);
    }
    if (absl::IsNotFound(status)) return absl::OkStatus();
    if (!status.ok()) return status;
    return SyncBoth(place, failed_fd->get(), failed);
  }
  return TooManyOfTheName(place, failed);
}

}  // namespace ctacct
