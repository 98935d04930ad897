// IPv4 addresses, networks and masks as people write them. Pure functions; thread-safe.
#ifndef CTACCT_NETLINK_IPV4_TEXT_H_
#define CTACCT_NETLINK_IPV4_TEXT_H_

#include <optional>
#include <string>

#include "netlink/ipv4.h"

namespace ctacct {

// "10.32.250.1"
[[nodiscard]] std::optional<Ipv4Address> ParseIpv4Address(const std::string& text);

// "10.32.0.0/11", or an address alone (/32). Bits below the prefix are cleared.
[[nodiscard]] std::optional<Ipv4Cidr> ParseIpv4Cidr(const std::string& text);

// A dotted mask, which need not be contiguous ("255.239.255.0"), or a prefix length ("/24").
[[nodiscard]] std::optional<Ipv4Address> ParseIpv4Mask(const std::string& text);

}  // namespace ctacct

#endif  // CTACCT_NETLINK_IPV4_TEXT_H_
