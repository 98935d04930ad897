#include "engine/rows/network.h"

#include <arpa/inet.h>

#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/rows/row_text.h"

namespace ctacct {
namespace {

// inet_pton needs a NUL; the longest network has fewer bytes.
constexpr size_t kNetworkBytesMax = 64;

}  // namespace

AddressBytes MaskedTo(const AddressBytes& address, uint8_t prefix_length) {
  AddressBytes masked{};
  for (size_t i = 0; i < masked.size() && i * 8 < prefix_length; ++i) {
    const size_t bits = prefix_length - i * 8;
    masked[i] = bits >= 8 ? address[i] : static_cast<uint8_t>(address[i] & (0xff00u >> bits));
  }
  return masked;
}

bool Network::Contains(AddressFamily of_family, const AddressBytes& of) const {
  return family == of_family && MaskedTo(of, prefix_length) == address;
}

absl::StatusOr<Network> ParseNetwork(absl::string_view text) {
  const auto error = [](const char* why) { return absl::InvalidArgumentError(why); };
  if (text.size() > kNetworkBytesMax) return error("not a network");
  const size_t slash = text.find('/');
  const std::string address(text.substr(0, slash));
  if (address.find('\0') != std::string::npos) return error("not a network");
  Network network;
  network.family = address.find(':') == std::string::npos ? AddressFamily::kIpv4  //
                                                          : AddressFamily::kIpv6;
  const int family = network.family == AddressFamily::kIpv4 ? AF_INET : AF_INET6;
  if (inet_pton(family, address.c_str(), network.address.data()) != 1) {
    return error("not a network");
  }
  network.prefix_length = AddressBits(network.family);
  if (slash != absl::string_view::npos) {
    const absl::string_view length = text.substr(slash + 1);
    int bits = 0;
    if (length.empty() || length.size() > 3 ||
        length.find_first_not_of("0123456789") != absl::string_view::npos ||
        !absl::SimpleAtoi(length, &bits) || bits > network.prefix_length) {
      return error("not a network: impossible length of the prefix");
    }
    network.prefix_length = static_cast<uint8_t>(bits);
  }
  if (MaskedTo(network.address, network.prefix_length) != network.address) {
    return error("not a network: it has bits below its prefix");
  }
  return network;
}

std::string NetworkText(const Network& network) {
  char text[INET6_ADDRSTRLEN];
  const char* const end = PutAddress(text, network.family, network.address);
  return absl::StrCat(absl::string_view(text, static_cast<size_t>(end - text)), "/",
                      network.prefix_length);
}

}  // namespace ctacct
