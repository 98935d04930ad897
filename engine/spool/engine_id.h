// Identifies one run of the engine. With a sequence number it identifies a spool file, and its row
// in the ledger.
//
// A UUID of version 7 (RFC 9562): 48 bits of milliseconds since the epoch, then 74 random ones; so
// ids of later runs sort after those of earlier ones, as text and as bytes. Thread-safe.
#ifndef CTACCT_ENGINE_SPOOL_ENGINE_ID_H_
#define CTACCT_ENGINE_SPOOL_ENGINE_ID_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace ctacct {

using EngineId = std::array<uint8_t, 16>;  // Network byte order, as UUIDs are written.

// Fails only if the kernel returns no random bytes.
[[nodiscard]] absl::StatusOr<EngineId> NewEngineId();

// "0190a2b4-6c1e-7d3f-8a5b-0123456789ab"
[[nodiscard]] std::string EngineIdText(const EngineId& id);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SPOOL_ENGINE_ID_H_
