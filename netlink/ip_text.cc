#include "netlink/ip_text.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include <charconv>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "netlink/ipv4_text.h"
#include "netlink/networks.h"

namespace ctacct {
namespace {

constexpr int kIpv6Bits = 128;

// "/64" -> 64.
std::optional<int> ParsePrefixLength(const std::string& text) {
  if (text.size() < 2 || text.size() > 4 || text[0] != '/') return std::nullopt;
  int length = 0;
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data() + 1, end, length);
  if (error != std::errc() || stopped != end || length < 0 || length > kIpv6Bits) {
    return std::nullopt;
  }
  return length;
}

Ipv6Address MaskOfLength(int length) {
  uint8_t bytes[16];
  for (int& left = length; uint8_t & byte : bytes) {
    byte = left >= 8 ? 0xff : static_cast<uint8_t>(left <= 0 ? 0 : 0xff << (8 - left));
    left -= 8;
  }
  return Ipv6Address::FromBytes(bytes);
}

std::string AddressText(const Ipv4Address& address) {
  char text[INET_ADDRSTRLEN];
  inet_ntop(AF_INET, &address, text, sizeof(text));
  return text;
}
std::string AddressText(const Ipv6Address& address) { return Ipv6Text(address); }

// `address`: what stands before the slash.
template <typename Address>
absl::Status AddNetwork(const std::string& text, const std::optional<Address>& address,
                        const std::optional<Cidr<Address>>& network,
                        std::vector<Cidr<Address>>* networks) {
  if (!address.has_value() || !network.has_value()) {
    return absl::InvalidArgumentError("not a network like 10.32.0.0/11 or fd00::/8");
  }
  if (network->network != *address) {
    return absl::InvalidArgumentError(
        absl::StrCat(text, " has bits set below its prefix; the network is ",
                     AddressText(network->network), text.substr(text.find('/'))));
  }
  networks->push_back(*network);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> Split(const std::string& text) {
  std::vector<std::string> parts;
  if (!text.empty()) parts = absl::StrSplit(text, ',');
  if (parts.size() <= kNetworksMax) return parts;
  return absl::InvalidArgumentError(absl::StrCat("more than ", kNetworksMax, " in the list"));
}

bool IsIpv6(const std::string& text) { return text.find(':') != std::string::npos; }

// ::ffff:10.0.0.1, which no packet has: it would match nothing, without a word.
absl::Status CheckNotMapped(const std::string& text, const Ipv6Address& address) {
  if (address.words[0] != 0 || address.words[1] != 0 ||
      address.words[2] != __builtin_bswap32(0xffff)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(text, " is an IPv4 address; write it as such, like 10.32.0.1"));
}

}  // namespace

std::optional<Ipv6Address> ParseIpv6Address(const std::string& text) {
  Ipv6Address address;
  if (inet_pton(AF_INET6, text.c_str(), address.words) != 1) return std::nullopt;
  return address;
}

std::optional<Ipv6Cidr> ParseIpv6Cidr(const std::string& text) {
  const size_t slash = text.find('/');
  const std::optional<Ipv6Address> address = ParseIpv6Address(text.substr(0, slash));
  const std::optional<int> length =
      slash == std::string::npos ? kIpv6Bits : ParsePrefixLength(text.substr(slash));
  if (!address.has_value() || !length.has_value()) return std::nullopt;
  const Ipv6Address mask = MaskOfLength(*length);
  return Ipv6Cidr{*address & mask, mask};
}

std::optional<Ipv6Address> ParseIpv6Mask(const std::string& text) {
  if (text.empty() || text[0] != '/') return ParseIpv6Address(text);
  const std::optional<int> length = ParsePrefixLength(text);
  if (!length.has_value()) return std::nullopt;
  return MaskOfLength(*length);
}

std::string Ipv6Text(const Ipv6Address& address) {
  char text[INET6_ADDRSTRLEN];
  inet_ntop(AF_INET6, address.words, text, sizeof(text));
  return text;
}

absl::StatusOr<NetworkLists> ParseNetworkLists(const std::string& text) {
  const absl::StatusOr<std::vector<std::string>> parts = Split(text);
  if (!parts.ok()) return parts.status();
  NetworkLists lists;
  for (const std::string& part : *parts) {
    const std::string address = part.substr(0, part.find('/'));
    absl::Status status = CheckNotMapped(part, ParseIpv6Address(address).value_or(Ipv6Address()));
    if (!status.ok()) return status;
    status = IsIpv6(part)
                 ? AddNetwork(part, ParseIpv6Address(address), ParseIpv6Cidr(part), &lists.ipv6)
                 : AddNetwork(part, ParseIpv4Address(address), ParseIpv4Cidr(part), &lists.ipv4);
    if (!status.ok()) return status;
  }
  return lists;
}

absl::StatusOr<AddressLists> ParseAddressLists(const std::string& text) {
  const absl::StatusOr<std::vector<std::string>> parts = Split(text);
  if (!parts.ok()) return parts.status();
  AddressLists lists;
  for (const std::string& part : *parts) {
    const std::optional<Ipv4Address> ipv4 = ParseIpv4Address(part);
    const std::optional<Ipv6Address> ipv6 = ParseIpv6Address(part);
    if (ipv4.has_value()) {
      lists.ipv4.push_back(*ipv4);
    } else if (ipv6.has_value()) {
      if (absl::Status status = CheckNotMapped(part, *ipv6); !status.ok()) return status;
      lists.ipv6.push_back(*ipv6);
    } else {
      return absl::InvalidArgumentError("not an address like 10.32.0.1 or fd00::1");
    }
  }
  return lists;
}

}  // namespace ctacct
