#include "engine/system/durable_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/system/write_all.h"

namespace ctacct {
namespace {

// More would mean that somebody removes files as fast as we make them.
constexpr int kCreateAttemptsMax = 3;

// ".0123456789abcdef.tmp". Of its own in each attempt: two writers of one name must not write into
// each other's file. Short: the visible name may be as long as a name can be.
constexpr size_t kHiddenDigits = 16;
constexpr absl::string_view kHiddenEnd = ".tmp";

absl::StatusOr<std::string> NewHiddenName() {
  uint64_t random = 0;
  if (getrandom(&random, sizeof(random), 0) != sizeof(random)) {
    return absl::ErrnoToStatus(errno, "random bytes");
  }
  return absl::StrCat(".", absl::Hex(random, absl::kZeroPad16), kHiddenEnd);
}

bool IsHiddenName(absl::string_view name) {
  return absl::ConsumePrefix(&name, ".") && absl::ConsumeSuffix(&name, kHiddenEnd) &&
         name.size() == kHiddenDigits &&
         name.find_first_not_of("0123456789abcdef") == absl::string_view::npos;
}

struct FolderCloser {
  void operator()(DIR* folder) const { closedir(folder); }
};

}  // namespace

absl::Status FileError(absl::string_view what, absl::string_view path, int error) {
  return absl::ErrnoToStatus(error, absl::StrCat("cannot ", what, " ", path));
}

absl::StatusOr<UniqueFd> OpenFolder(const std::string& folder) {
  UniqueFd fd(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return FileError("open folder", folder, errno);
  return fd;
}

bool IsFolderAt(int folder_fd, const std::string& path) {
  struct stat opened {};
  struct stat named {};
  return fstat(folder_fd, &opened) == 0 && stat(path.c_str(), &named) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

absl::Status ForEachName(int folder_fd, const std::string& path,
                         absl::FunctionRef<bool(const char* name)> take) {
  // A descriptor of its own: reading a folder moves the offset.
  UniqueFd scan_fd(openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!scan_fd.valid()) return FileError("open folder", path, errno);
  const std::unique_ptr<DIR, FolderCloser> entries(fdopendir(scan_fd.get()));
  if (entries == nullptr) return FileError("read folder", path, errno);
  (void)scan_fd.Release();  // `entries` owns it.
  while (true) {
    errno = 0;
    const dirent* const entry = readdir(entries.get());
    if (entry == nullptr && errno != 0) return FileError("read folder", path, errno);
    if (entry == nullptr || !take(entry->d_name)) return absl::OkStatus();
  }
}

absl::StatusOr<UniqueFd> OpenRegularFile(int folder_fd, const std::string& name,
                                         const std::string& path) {
  // O_NONBLOCK: a FIFO without a writer must not hold us up before we see that it is one.
  UniqueFd fd(openat(folder_fd, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd.valid()) {
    if (errno == ELOOP) {
      return absl::FailedPreconditionError(
          absl::StrCat(path, ": a symbolic link, not a regular file"));
    }
    if (errno != ENXIO) return FileError("open", path, errno);  // A socket.
  }
  struct stat info {};
  if (fd.valid() && fstat(fd.get(), &info) != 0) return FileError("examine", path, errno);
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": not a regular file"));
  }
  return fd;
}

int RenameNoReplace(int from_folder_fd, const char* from, int to_folder_fd, const char* to) {
  if (renameat2(from_folder_fd, from, to_folder_fd, to, RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return -1;
  if (linkat(from_folder_fd, from, to_folder_fd, to, 0) != 0) return -1;
  return unlinkat(from_folder_fd, from, 0);
}

namespace {

// Gives a durable hidden file its name. After an error it is hidden, as before.
absl::Status Publish(int folder_fd, const std::string& folder, const std::string& hidden_name,
                     const std::string& name) {
  if (RenameNoReplace(folder_fd, hidden_name.c_str(), folder_fd, name.c_str()) != 0) {
    const int error = errno;
    // Where renaming is linking and unlinking, an earlier attempt may have ended in between.
    struct stat hidden {};
    struct stat visible {};
    if (error != EEXIST ||
        fstatat(folder_fd, hidden_name.c_str(), &hidden, AT_SYMLINK_NOFOLLOW) != 0 ||
        fstatat(folder_fd, name.c_str(), &visible, AT_SYMLINK_NOFOLLOW) != 0 ||
        hidden.st_dev != visible.st_dev || hidden.st_ino != visible.st_ino ||
        unlinkat(folder_fd, hidden_name.c_str(), 0) != 0) {
      return FileError("name", absl::StrCat(folder, "/", name), error);
    }
  }
  if (fsync(folder_fd) == 0) return absl::OkStatus();
  const int error = errno;
  renameat(folder_fd, name.c_str(), folder_fd, hidden_name.c_str());
  return FileError("sync folder", folder, error);
}

}  // namespace

DurableFile::DurableFile(std::string folder, std::string name, std::string hidden_name,
                         UniqueFd folder_fd, UniqueFd fd)
    : folder_(std::move(folder)),
      name_(std::move(name)),
      hidden_name_(std::move(hidden_name)),
      folder_fd_(std::move(folder_fd)),
      fd_(std::move(fd)) {}

DurableFile::~DurableFile() {
  if (fd_.valid()) unlinkat(folder_fd_.get(), hidden_name_.c_str(), 0);
}

absl::Status DurableFile::Error(absl::string_view what, int error) const {
  return FileError(what, absl::StrCat(folder_, "/", name_), error);
}

absl::StatusOr<DurableFile> DurableFile::Create(const std::string& folder,
                                                const std::string& name) {
  if (name.empty() || name[0] == '.' || name.find('/') != std::string::npos) {
    return absl::InvalidArgumentError("a file name must be one visible path component");
  }
  absl::StatusOr<UniqueFd> folder_fd = OpenFolder(folder);
  if (!folder_fd.ok()) return folder_fd.status();
  for (int attempt = 0; attempt < kCreateAttemptsMax; ++attempt) {
    absl::StatusOr<std::string> hidden = NewHiddenName();
    if (!hidden.ok()) return hidden.status();
    constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    UniqueFd fd(openat(folder_fd->get(), hidden->c_str(), kFlags, kDurableFileMode));
    if (!fd.valid()) return FileError("create", absl::StrCat(folder, "/", *hidden), errno);
    // Shows RemoveAbandonedFiles that somebody still writes. It may have come in between.
    flock(fd.get(), LOCK_EX | LOCK_NB);
    struct stat info;
    if (fstat(fd.get(), &info) == 0 && info.st_nlink == 0) continue;
    return DurableFile(folder, name, *std::move(hidden), *std::move(folder_fd), std::move(fd));
  }
  return absl::UnavailableError(absl::StrCat("cannot create a file in ", folder));
}

void RemoveAbandonedFiles(const std::string& folder) {
  const absl::StatusOr<UniqueFd> folder_fd = OpenFolder(folder);
  if (!folder_fd.ok()) return;
  ForEachName(folder_fd->get(), folder, [&folder_fd](const char* name) {
    if (!IsHiddenName(name)) return true;
    const absl::StatusOr<UniqueFd> fd = OpenRegularFile(folder_fd->get(), name, name);
    if (fd.ok() && flock(fd->get(), LOCK_EX | LOCK_NB) == 0) unlinkat(folder_fd->get(), name, 0);
    return true;
  }).IgnoreError();
}

absl::Status DurableFile::SetMode(mode_t mode) {
  return fchmod(fd_.get(), mode) == 0 ? absl::OkStatus() : Error("set the mode of", errno);
}

absl::Status DurableFile::Append(absl::string_view bytes) {
  const int error = WriteAll(fd_.get(), bytes);
  return error == 0 ? absl::OkStatus() : Error("write", error);
}

absl::Status DurableFile::Prepare(const std::string& hidden_name) {
  if (fsync(fd_.get()) != 0) return Error("sync", errno);
  if (renameat(folder_fd_.get(), hidden_name_.c_str(), folder_fd_.get(), hidden_name.c_str()) !=
      0) {
    return Error("name", errno);
  }
  fd_ = UniqueFd();
  return absl::OkStatus();
}

absl::Status RevealPreparedFile(const std::string& folder, const std::string& hidden_name,
                                const std::string& name) {
  const absl::StatusOr<UniqueFd> folder_fd = OpenFolder(folder);
  if (!folder_fd.ok()) return folder_fd.status();
  return Publish(folder_fd->get(), folder, hidden_name, name);
}

absl::Status DurableFile::Commit() {
  if (fsync(fd_.get()) != 0) return Error("sync", errno);
  absl::Status status = Publish(folder_fd_.get(), folder_, hidden_name_, name_);
  if (status.ok()) fd_ = UniqueFd();  // There is no hidden file to remove any more.
  return status;
}

absl::Status DurableFile::Replace() {
  if (absl::Status status = Prepare(name_); !status.ok()) return status;
  if (fsync(folder_fd_.get()) != 0) return FileError("sync folder", folder_, errno);
  return absl::OkStatus();
}

absl::Status WriteDurably(const std::string& folder, const std::string& name,
                          absl::string_view contents) {
  absl::StatusOr<DurableFile> file = DurableFile::Create(folder, name);
  if (!file.ok()) return file.status();
  if (absl::Status status = file->Append(contents); !status.ok()) return status;
  return file->Commit();
}

}  // namespace ctacct
