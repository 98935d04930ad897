#include "engine/rows/protocol_names.h"

#include <array>
#include <charconv>
#include <string>
#include <system_error>

namespace ctacct {
namespace {

struct NamedProtocol {
  uint8_t number;
  absl::string_view name;
};

constexpr NamedProtocol kNamed[] = {
    {1, "icmp"},       {2, "igmp"},  {6, "tcp"},    {17, "udp"},   {33, "dccp"},     {47, "gre"},
    {58, "ipv6-icmp"}, {94, "ipip"}, {115, "l2tp"}, {132, "sctp"}, {136, "udplite"},
};

const std::array<std::string, 256>& Names() {
  static const auto* const names = [] {
    auto* table = new std::array<std::string, 256>;
    for (size_t i = 0; i < table->size(); ++i) (*table)[i] = std::to_string(i);
    for (const NamedProtocol& named : kNamed) (*table)[named.number] = std::string(named.name);
    return table;
  }();
  return *names;
}

}  // namespace

absl::string_view ProtocolName(uint8_t protocol) { return Names()[protocol]; }

std::optional<uint8_t> ParseProtocol(absl::string_view text) {
  for (const NamedProtocol& named : kNamed) {
    if (text == named.name) return named.number;
  }
  if (text.size() > 1 && text[0] == '0') return std::nullopt;
  uint8_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stopped != end) return std::nullopt;
  return number;
}

}  // namespace ctacct
