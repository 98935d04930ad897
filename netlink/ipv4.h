// IPv4 addresses and masks whose byte order is in the type: network byte order, as in packets.
//
// Plain values; thread-compatible. AND with a mask works bytewise, so no conversion is ever needed
// on the hot path.
#ifndef CTACCT_NETLINK_IPV4_H_
#define CTACCT_NETLINK_IPV4_H_

#include <array>
#include <bit>
#include <compare>
#include <cstdint>
#include <cstring>

namespace ctacct {

static_assert(std::endian::native == std::endian::little, "loads below assume little endian");

struct Ipv4Address {
  uint32_t network_order = 0;

  static constexpr Ipv4Address FromHostOrder(uint32_t value) {
    return Ipv4Address{__builtin_bswap32(value)};
  }
  static Ipv4Address FromBytes(const uint8_t* bytes) {
    Ipv4Address address;
    std::memcpy(&address.network_order, bytes, sizeof(address.network_order));
    return address;
  }
  constexpr uint32_t ToHostOrder() const { return __builtin_bswap32(network_order); }

  friend constexpr Ipv4Address operator&(Ipv4Address a, Ipv4Address b) {
    return Ipv4Address{a.network_order & b.network_order};
  }
  friend constexpr bool operator==(Ipv4Address, Ipv4Address) = default;
  // The order of the addresses as numbers.
  friend constexpr std::strong_ordering operator<=>(Ipv4Address a, Ipv4Address b) {
    return a.ToHostOrder() <=> b.ToHostOrder();
  }
};

// A network: every address with (address & mask) == network. As it is made: everything.
template <typename Address>
struct Cidr {
  Address network;
  Address mask;

  constexpr bool Contains(const Address& address) const { return (address & mask) == network; }
  friend constexpr bool operator==(const Cidr&, const Cidr&) = default;
};
using Ipv4Cidr = Cidr<Ipv4Address>;

inline constexpr Ipv4Address kIpv4MaskAll = Ipv4Address::FromHostOrder(0xffffffff);
inline constexpr Ipv4Cidr kIpv4Everything{};

}  // namespace ctacct

#endif  // CTACCT_NETLINK_IPV4_H_
