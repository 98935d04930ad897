// The name of a gateway, as rows carry it. Thread-safe.
#ifndef CTACCT_ENGINE_ROWS_GATEWAY_NAME_H_
#define CTACCT_ENGINE_ROWS_GATEWAY_NAME_H_

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ctacct {

inline constexpr size_t kGatewayBytesMax = 255;

// A gateway's name goes into files, logs and text columns: at most kGatewayBytesMax bytes of UTF-8,
// each character printable (PrintableCharacterBytes); empty is fine. InvalidArgument says what is
// wrong. For flags, before any work is done: a name that WriteSpoolFile or the database refuses
// would fail every file.
[[nodiscard]] absl::Status CheckGatewayName(absl::string_view name);

// The host's name, if it can be a gateway's.
[[nodiscard]] absl::StatusOr<std::string> HostGatewayName();

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ROWS_GATEWAY_NAME_H_
