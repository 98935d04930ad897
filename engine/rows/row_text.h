// Parts of a row's line of text, for the encoders: each function writes at `at`, without a NUL, and
// returns the position after it. The caller makes sure that there is room. Pure; thread-safe.
#ifndef CTACCT_ENGINE_ROWS_ROW_TEXT_H_
#define CTACCT_ENGINE_ROWS_ROW_TEXT_H_

#include <arpa/inet.h>

#include <charconv>
#include <cstddef>
#include <cstring>

#include "absl/strings/string_view.h"
#include "engine/rows/traffic_row.h"

namespace ctacct {

inline constexpr size_t kIntegerBytesMax = 20;  // Of 64 bits, with a sign.

template <typename Integer>
char* PutInteger(char* at, Integer value) {
  return std::to_chars(at, at + kIntegerBytesMax, value).ptr;
}

inline char* PutText(char* at, absl::string_view text) {
  std::memcpy(at, text.data(), text.size());
  return at + text.size();
}

// Needs INET6_ADDRSTRLEN bytes.
inline char* PutAddress(char* at, AddressFamily family, const AddressBytes& address) {
  if (family == AddressFamily::kIpv6) {
    inet_ntop(AF_INET6, address.data(), at, INET6_ADDRSTRLEN);
    return at + std::strlen(at);
  }
  for (size_t i = 0; i < 4; ++i) {
    if (i != 0) *at++ = '.';
    at = PutInteger(at, address[i]);
  }
  return at;
}

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ROWS_ROW_TEXT_H_
