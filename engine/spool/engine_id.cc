#include "engine/spool/engine_id.h"

#include <sys/random.h>

#include <cerrno>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/system/clock.h"

namespace ctacct {

absl::StatusOr<EngineId> NewEngineId() {
  EngineId id;
  // So few bytes come whole or not at all (getrandom(2)).
  if (getrandom(id.data(), id.size(), 0) != static_cast<ssize_t>(id.size())) {
    return absl::ErrnoToStatus(errno, "cannot get random bytes for an engine id");
  }
  const auto now_ms = static_cast<uint64_t>(WallClockNs()) / 1'000'000;
  for (size_t i = 0; i < 6; ++i) id[i] = static_cast<uint8_t>(now_ms >> (8 * (5 - i)));
  id[6] = static_cast<uint8_t>(0x70 | (id[6] & 0x0f));  // Version 7.
  id[8] = static_cast<uint8_t>(0x80 | (id[8] & 0x3f));  // Variant of the RFC.
  return id;
}

std::string EngineIdText(const EngineId& id) {
  const std::string hex = absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(id.data()), id.size()));
  return absl::StrCat(hex.substr(0, 8), "-", hex.substr(8, 4), "-", hex.substr(12, 4), "-",
                      hex.substr(16, 4), "-", hex.substr(20));
}

}  // namespace ctacct
