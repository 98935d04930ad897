// A network of either family, as names are given to it: an address and the length of its prefix.
//
// A plain value; thread-compatible. The functions are pure.
#ifndef CTACCT_ENGINE_ROWS_NETWORK_H_
#define CTACCT_ENGINE_ROWS_NETWORK_H_

#include <compare>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/rows/traffic_row.h"

namespace ctacct {

struct Network {
  AddressFamily family = AddressFamily::kIpv4;
  AddressBytes address{};  // No bits below the prefix.
  uint8_t prefix_length = 0;

  [[nodiscard]] bool Contains(AddressFamily of_family, const AddressBytes& of) const;
  // By family, address, length: a network comes before those within it.
  friend auto operator<=>(const Network&, const Network&) = default;
};

// "10.0.0.0/8", "2001:db8::/32", or an address alone, which is a network of one. InvalidArgument
// says what is wrong, without the text: bits below the prefix are.
[[nodiscard]] absl::StatusOr<Network> ParseNetwork(absl::string_view text);

// Always with its length; IPv6 as RFC 5952 says. ParseNetwork reads it again.
[[nodiscard]] std::string NetworkText(const Network& network);

// 32 or 128.
[[nodiscard]] constexpr uint8_t AddressBits(AddressFamily family) {
  return family == AddressFamily::kIpv4 ? 32 : 128;
}

// The address without the bits below `prefix_length`.
[[nodiscard]] AddressBytes MaskedTo(const AddressBytes& address, uint8_t prefix_length);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ROWS_NETWORK_H_
