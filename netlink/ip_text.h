// Addresses, networks and masks of either family as people write them. Pure functions; thread-safe.
#ifndef CTACCT_NETLINK_IP_TEXT_H_
#define CTACCT_NETLINK_IP_TEXT_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "netlink/ipv4.h"
#include "netlink/ipv6.h"

namespace ctacct {

// "fd00::1"
[[nodiscard]] std::optional<Ipv6Address> ParseIpv6Address(const std::string& text);

// "fd00::/8", or an address alone (/128). Bits below the prefix are cleared.
[[nodiscard]] std::optional<Ipv6Cidr> ParseIpv6Cidr(const std::string& text);

// "ffff:ffff::", which need not be contiguous, or a prefix length ("/64").
[[nodiscard]] std::optional<Ipv6Address> ParseIpv6Mask(const std::string& text);

// As RFC 5952 says.
[[nodiscard]] std::string Ipv6Text(const Ipv6Address& address);

// What a list names, by family.
struct NetworkLists {
  std::vector<Ipv4Cidr> ipv4;
  std::vector<Ipv6Cidr> ipv6;
};

// "10.32.0.0/11,fd00::/8": at most kNetworksMax. InvalidArgument, with the reason for people: it is
// not such a list; or a network has bits below its prefix, and then the message names the network
// that was meant.
[[nodiscard]] absl::StatusOr<NetworkLists> ParseNetworkLists(const std::string& text);

// "10.0.0.1,fd00::1"
struct AddressLists {
  std::vector<Ipv4Address> ipv4;
  std::vector<Ipv6Address> ipv6;
};
[[nodiscard]] absl::StatusOr<AddressLists> ParseAddressLists(const std::string& text);

}  // namespace ctacct

#endif  // CTACCT_NETLINK_IP_TEXT_H_
