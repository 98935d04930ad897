#include "engine/system/followed_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/system/clock.h"
#include "engine/system/durable_file.h"
#include "engine/system/unique_fd.h"

namespace ctacct {

FollowedFile::Stamp FollowedFile::StampOf(const struct stat& info) {
  return {info.st_ino, info.st_size, TimespecNs(info.st_mtim), TimespecNs(info.st_ctim)};
}

absl::StatusOr<std::optional<std::string>> FollowedFile::ReadIfChanged() {
  is_settling_ = false;
  // O_NONBLOCK: a FIFO must not hold us up.
  const UniqueFd fd(open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  struct stat info {};
  if (!fd.valid() || fstat(fd.get(), &info) != 0) {
    const int error = errno;
    stamp_.reset();
    return FileError("read", path_, error);
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path_, ": not a regular file"));
  }
  if (info.st_size != 0) empty_since_ns_ = 0;
  const Stamp stamp = StampOf(info);
  if (stamp == stamp_) return std::optional<std::string>();
  // A time in the future is of a clock that was set back.
  const int64_t age_ns = WallClockNs() - stamp.changed_ns;
  if (age_ns >= 0 && age_ns < kSettleNs) {
    is_settling_ = true;
    return std::optional<std::string>();
  }
  // A file that is cut has no bytes for a moment before it has another time.
  if (info.st_size == 0) {
    if (empty_since_ns_ == 0) empty_since_ns_ = MonotonicNs();
    if (MonotonicNs() - empty_since_ns_ < kSettleNs) {
      is_settling_ = true;
      return std::optional<std::string>();
    }
    if (!may_be_empty_) return absl::FailedPreconditionError(absl::StrCat(path_, ": empty"));
  }
  std::string text;
  std::vector<char> buffer(size_t{1} << 16);
  for (;;) {
    const ssize_t got = read(fd.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FileError("read", path_, errno);
    if (got == 0) break;
    text.append(buffer.data(), static_cast<size_t>(got));
    if (text.size() > kBytesMax) {
      stamp_ = stamp;
      return absl::InvalidArgumentError(absl::StrCat(path_, ": larger than ", kBytesMax, " bytes"));
    }
  }
  if (fstat(fd.get(), &info) != 0 || StampOf(info) != stamp) {
    is_settling_ = true;
    return std::optional<std::string>();
  }
  stamp_ = stamp;
  return std::optional<std::string>(std::move(text));
}

}  // namespace ctacct
