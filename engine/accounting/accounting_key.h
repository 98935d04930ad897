// What traffic is summed under: masked source, masked destination, protocol, port.
//
// A plain value; thread-compatible. No padding, so that it is hashed and compared as bytes.
#ifndef CTACCT_ENGINE_ACCOUNTING_ACCOUNTING_KEY_H_
#define CTACCT_ENGINE_ACCOUNTING_ACCOUNTING_KEY_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "netlink/ipv4.h"
#include "netlink/ipv6.h"

namespace ctacct {

template <typename Address>
struct BasicAccountingKey {
  Address src;       // Masked.
  Address dst;       // Masked.
  int32_t port = 0;  // Host byte order; kPortNotListed, or 0 where the protocol has none.
  uint32_t protocol = 0;

  // Written as the words that AbslHashValue reads: a CPU waits for its cache when it reads as one
  // what it has just written as two.
  static BasicAccountingKey Of(const Address& src, const Address& dst, int32_t port,
                               uint32_t protocol) {
    BasicAccountingKey key;
    char* const bytes = reinterpret_cast<char*>(&key);
    if constexpr (sizeof(Address) == sizeof(uint32_t)) {
      const uint64_t addresses = src.network_order | uint64_t{dst.network_order} << 32;
      std::memcpy(bytes, &addresses, sizeof(addresses));
    } else {
      key.src = src;
      key.dst = dst;
    }
    const uint64_t rest = static_cast<uint32_t>(port) | uint64_t{protocol} << 32;
    std::memcpy(bytes + offsetof(BasicAccountingKey, port), &rest, sizeof(rest));
    return key;
  }

  friend bool operator==(const BasicAccountingKey&, const BasicAccountingKey&) = default;

  template <typename H>
  friend H AbslHashValue(H state, const BasicAccountingKey& key) {
    uint64_t words[sizeof(key) / sizeof(uint64_t)];
    static_assert(sizeof(words) == sizeof(key));
    std::memcpy(words, &key, sizeof(words));
    if constexpr (sizeof(Address) == sizeof(uint32_t)) {
      return H::combine(std::move(state), words[0], words[1]);
    } else {
      return H::combine(std::move(state), words[0], words[1], words[2], words[3], words[4]);
    }
  }
};
using AccountingKey = BasicAccountingKey<Ipv4Address>;
using Ipv6AccountingKey = BasicAccountingKey<Ipv6Address>;
static_assert(std::has_unique_object_representations_v<AccountingKey>);
static_assert(std::has_unique_object_representations_v<Ipv6AccountingKey>);

// IANA numbers of the protocols that need special treatment.
inline constexpr uint8_t kProtocolIcmp = 1;
inline constexpr uint8_t kProtocolIcmpv6 = 58;
inline constexpr uint8_t kProtocolTcp = 6;
inline constexpr uint8_t kProtocolUdp = 17;
inline constexpr uint8_t kProtocolDccp = 33;
inline constexpr uint8_t kProtocolSctp = 132;
inline constexpr uint8_t kProtocolUdpLite = 136;

// Protocols whose tuples contain ports. (For GRE, conntrack puts the keys there; those are not
// ports.)
constexpr bool HasPorts(uint8_t protocol) {
  return protocol == kProtocolTcp || protocol == kProtocolUdp || protocol == kProtocolDccp ||
         protocol == kProtocolSctp || protocol == kProtocolUdpLite;
}

// Protocols whose flows are counted as connections.
constexpr bool HasConnections(uint8_t protocol) {
  return protocol == kProtocolTcp || protocol == kProtocolDccp || protocol == kProtocolSctp;
}

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_ACCOUNTING_KEY_H_
