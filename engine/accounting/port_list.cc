#include "engine/accounting/port_list.h"

#include <iterator>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "engine/rows/protocol_names.h"
#include "xxhash.h"

namespace ctacct {

absl::StatusOr<std::shared_ptr<const PortList>> PortList::Parse(const std::string& text,
                                                                const std::string& path) {
  auto list = std::make_shared<PortList>();
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
  list->checksum_ = list->MakeChecksum();
  return std::shared_ptr<const PortList>(std::move(list));
}

uint64_t PortList::MakeChecksum() const {
  std::vector<uint32_t> entries;
  entries.reserve(size_);
  for (uint32_t protocol = 0; protocol < std::size(protocols_); ++protocol) {
    const Ports* const ports = protocols_[protocol].get();
    for (uint32_t port = 0; ports != nullptr && port < ports->size(); ++port) {
      if (ports->test(port)) entries.push_back(protocol << 16 | port);
    }
  }
  const uint64_t checksum = XXH3_64bits(entries.data(), entries.size() * sizeof(entries[0]));
  return checksum == 0 ? 1 : checksum;  // 0 stands for no list.
}

}  // namespace ctacct
