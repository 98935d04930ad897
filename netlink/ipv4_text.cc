#include "netlink/ipv4_text.h"

#include <arpa/inet.h>

namespace ctacct {
namespace {

// "/24" -> 24.
std::optional<int> ParsePrefixLength(const std::string& text) {
  if (text.size() < 2 || text.size() > 3 || text[0] != '/') return std::nullopt;
  int length = 0;
  for (const char digit : text.substr(1)) {
    if (digit < '0' || digit > '9') return std::nullopt;
    length = length * 10 + (digit - '0');
  }
  return length <= 32 ? std::optional<int>(length) : std::nullopt;
}

Ipv4Address MaskOfLength(int length) {
  return Ipv4Address::FromHostOrder(
      static_cast<uint32_t>(length == 0 ? 0 : ~uint64_t{0} << (32 - length)));
}

}  // namespace

std::optional<Ipv4Address> ParseIpv4Address(const std::string& text) {
  Ipv4Address address;
  // Unlike inet_aton, takes four decimal numbers and nothing else.
  if (inet_pton(AF_INET, text.c_str(), &address.network_order) != 1) return std::nullopt;
  return address;
}

std::optional<Ipv4Cidr> ParseIpv4Cidr(const std::string& text) {
  const size_t slash = text.find('/');
  const std::optional<Ipv4Address> address = ParseIpv4Address(text.substr(0, slash));
  const std::optional<int> length =
      slash == std::string::npos ? 32 : ParsePrefixLength(text.substr(slash));
  if (!address.has_value() || !length.has_value()) return std::nullopt;
  const Ipv4Address mask = MaskOfLength(*length);
  return Ipv4Cidr{*address & mask, mask};
}

std::optional<Ipv4Address> ParseIpv4Mask(const std::string& text) {
  if (text.empty() || text[0] != '/') return ParseIpv4Address(text);
  const std::optional<int> length = ParsePrefixLength(text);
  if (!length.has_value()) return std::nullopt;
  return MaskOfLength(*length);
}

}  // namespace ctacct
