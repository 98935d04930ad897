// IPv6 addresses and masks, in network byte order like those of IPv4 (ipv4.h). Plain values;
// thread-compatible. No padding.
#ifndef CTACCT_NETLINK_IPV6_H_
#define CTACCT_NETLINK_IPV6_H_

#include <compare>
#include <cstdint>
#include <cstring>

#include "netlink/ipv4.h"

namespace ctacct {

struct Ipv6Address {
  uint32_t words[4] = {};  // Each in network byte order.

  static Ipv6Address FromBytes(const uint8_t* bytes) {
    Ipv6Address address;
    std::memcpy(address.words, bytes, sizeof(address.words));
    return address;
  }

  friend constexpr Ipv6Address operator&(const Ipv6Address& a, const Ipv6Address& b) {
    Ipv6Address result;
    for (int i = 0; i < 4; ++i) result.words[i] = a.words[i] & b.words[i];
    return result;
  }
  friend constexpr bool operator==(const Ipv6Address&, const Ipv6Address&) = default;
  // The order of the addresses as numbers.
  friend constexpr std::strong_ordering operator<=>(const Ipv6Address& a, const Ipv6Address& b) {
    for (int i = 0; i < 4; ++i) {
      if (a.words[i] != b.words[i]) {
        return __builtin_bswap32(a.words[i]) <=> __builtin_bswap32(b.words[i]);
      }
    }
    return std::strong_ordering::equal;
  }
};
static_assert(sizeof(Ipv6Address) == 16);

using Ipv6Cidr = Cidr<Ipv6Address>;

inline constexpr Ipv6Address kIpv6MaskAll = {{~0u, ~0u, ~0u, ~0u}};

}  // namespace ctacct

#endif  // CTACCT_NETLINK_IPV6_H_
