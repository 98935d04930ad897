// Text for people: log lines, screens, error messages. Pure functions; thread-safe.
#ifndef CTACCT_ENGINE_SYSTEM_TEXT_H_
#define CTACCT_ENGINE_SYSTEM_TEXT_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace ctacct {

// Control characters as \xHH, so that a hostile file name or flag cannot forge a log line or write
// to a terminal.
[[nodiscard]] std::string EscapeControls(absl::string_view text);

// "1,234,567"
[[nodiscard]] std::string WithThousands(uint64_t value);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SYSTEM_TEXT_H_
