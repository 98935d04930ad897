#include "engine/port_list_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/system/clock.h"
#include "engine/system/unique_fd.h"

namespace ctacct {
namespace {

// All 65,536 ports of several protocols fit; a larger file is not a port list.
constexpr size_t kFileBytesMax = 8 << 20;

absl::StatusOr<std::string> ReadText(const std::string& path) {
  const auto error = [&](absl::string_view why) {
    return absl::UnavailableError(absl::StrCat("port list ", path, ": ", why));
  };
  // O_NONBLOCK: a FIFO must not block the thread that writes rows and takes signals.
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  struct stat info {};
  if (!fd.valid() || fstat(fd.get(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("port list ", path));
  }
  if (S_ISFIFO(info.st_mode)) return error("is a FIFO");
  std::string text;
  char buffer[65536];
  for (;;) {
    const ssize_t got = read(fd.get(), buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return error(strerror(errno));
    if (got == 0) return text;
    text.append(buffer, static_cast<size_t>(got));
    if (text.size() > kFileBytesMax) {
      return error(absl::StrCat("larger than ", kFileBytesMax, " bytes"));
    }
  }
}

}  // namespace

absl::Status PortListFile::Load() {
  if (path_.empty()) return absl::OkStatus();
  // Before reading: a change in between is seen by the next look.
  stamp_ = StampNow();
  const absl::StatusOr<std::string> text = ReadText(path_);
  if (!text.ok()) return text.status();
  absl::StatusOr<std::shared_ptr<const PortList>> list = PortList::Parse(*text, path_);
  if (!list.ok()) return list.status();
  current_.Replace(*std::move(list));
  return absl::OkStatus();
}

absl::StatusOr<bool> PortListFile::ReloadIfChanged() {
  if (path_.empty() || StampNow() == stamp_) return false;
  if (absl::Status status = Load(); !status.ok()) return status;
  return true;
}

PortListFile::Stamp PortListFile::StampNow() const {
  struct stat info;
  if (stat(path_.c_str(), &info) != 0) return Stamp();
  return {true, info.st_ino, info.st_size, TimespecNs(info.st_mtim)};
}

}  // namespace ctacct
