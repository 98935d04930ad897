#include "engine/accounting/port_list.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "engine/rows/protocol_names.h"
#include "engine/system/unique_fd.h"

namespace ctacct {
namespace {

// 65,536 ports of a few protocols fit many times over; a file larger than this is no port list.
constexpr size_t kFileBytesMax = 8 << 20;

}  // namespace

absl::StatusOr<std::unique_ptr<const PortList>> PortList::Read(const std::string& path) {
  const auto error = [&](absl::string_view why) {
    return absl::UnavailableError(absl::StrCat("port list ", path, ": ", why));
  };
  // O_NONBLOCK: a FIFO must not hold up the thread that writes rows and takes signals.
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
    if (got == 0) break;
    text.append(buffer, static_cast<size_t>(got));
    if (text.size() > kFileBytesMax) {
      return error(absl::StrCat("larger than ", kFileBytesMax, " bytes"));
    }
  }
  return Parse(text, path);
}

absl::StatusOr<std::unique_ptr<const PortList>> PortList::Parse(const std::string& text,
                                                                const std::string& path) {
  auto list = std::make_unique<PortList>();
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    const size_t colon = line.find(':');
    std::optional<uint8_t> protocol;
    uint32_t port = 0;
    if (colon != absl::string_view::npos) {
      protocol = ParseProtocol(absl::StripAsciiWhitespace(line.substr(0, colon)));
    }
    if (!protocol.has_value() || !absl::SimpleAtoi(line.substr(colon + 1), &port) || port > 65535) {
      return absl::InvalidArgumentError(
          absl::StrCat("port list ", path, ":", number, ": not 'protocol:port'"));
    }
    auto& ports = list->protocols_[*protocol];
    if (ports == nullptr) ports = std::make_unique<Ports>();
    list->size_ += !ports->test(port);
    ports->set(port);
  }
  return std::unique_ptr<const PortList>(std::move(list));
}

absl::Status PortListFile::Load() {
  if (path_.empty()) return absl::OkStatus();
  // Taken before reading: a change meanwhile is seen by the next look.
  stamp_ = StampNow();
  absl::StatusOr<std::unique_ptr<const PortList>> list = PortList::Read(path_);
  if (!list.ok()) return list.status();
  lists_.push_back(*std::move(list));
  published_.store(lists_.back().get());
  std::erase_if(lists_, [&](const std::unique_ptr<const PortList>& old) {
    return old != lists_.back() &&
           std::none_of(in_use_.begin(), in_use_.end(),
                        [&](const InUse& in_use) { return in_use.list.load() == old.get(); });
  });
  return absl::OkStatus();
}

absl::StatusOr<bool> PortListFile::ReloadIfChanged() {
  if (path_.empty() || StampNow() == stamp_) return false;
  if (absl::Status status = Load(); !status.ok()) return status;
  return true;
}

PortListFile::Stamp PortListFile::StampNow() const {
  Stamp stamp;
  struct stat info;
  if (stat(path_.c_str(), &info) != 0) return stamp;
  stamp.exists = true;
  stamp.inode = info.st_ino;
  stamp.bytes = info.st_size;
  stamp.changed = info.st_mtim;
  return stamp;
}

}  // namespace ctacct
