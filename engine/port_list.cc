#include "engine/port_list.h"

#include <errno.h>
#include <string.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "engine/protocol_names.h"

namespace ctacct {
namespace {

// 65,536 ports of a few protocols fit many times over; a file larger than this is no port list.
constexpr std::streamsize kFileBytesMax = 8 << 20;

}  // namespace

absl::StatusOr<std::unique_ptr<const PortList>> PortList::Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const std::streamsize bytes = file ? static_cast<std::streamsize>(file.tellg()) : -1;
  if (!file || bytes < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("port list ", path));
  }
  if (bytes > kFileBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("port list ", path, ": larger than ", kFileBytesMax, " bytes"));
  }
  file.seekg(0);
  std::string text(static_cast<size_t>(bytes), '\0');
  if (!file.read(text.data(), bytes)) {
    return absl::UnavailableError(absl::StrCat("port list ", path, ": ", strerror(errno)));
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
