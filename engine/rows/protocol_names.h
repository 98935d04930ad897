// Names of the IP protocols that rows carry (docs/formats.md). A protocol without a name of
// ours is its decimal number. Stateless; thread-safe.
#ifndef CTACCT_ENGINE_ROWS_PROTOCOL_NAMES_H_
#define CTACCT_ENGINE_ROWS_PROTOCOL_NAMES_H_

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"

namespace ctacct {

// "tcp", or "99". Points to static storage.
[[nodiscard]] absl::string_view ProtocolName(uint8_t protocol);

// A name (lower case) or a decimal number without leading zeros, also of a protocol that has a
// name.
[[nodiscard]] std::optional<uint8_t> ParseProtocol(absl::string_view text);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ROWS_PROTOCOL_NAMES_H_
