// Text for people (log lines, screens, error messages) and of people (lists). Pure functions;
// thread-safe.
#ifndef CTACCT_ENGINE_SYSTEM_TEXT_H_
#define CTACCT_ENGINE_SYSTEM_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace ctacct {

// Bytes of the character that `text` begins with, if that is valid UTF-8 and safe to print: no
// control character (U+0000 to U+001F, U+007F to U+009F), no line or paragraph separator (U+2028,
// U+2029), no bidirectional control (U+061C, U+200E, U+200F, U+202A to U+202E, U+2066 to U+2069).
// Otherwise, and for an empty text, 0.
[[nodiscard]] size_t PrintableCharacterBytes(absl::string_view text);

// All other bytes as \xHH, so that a hostile file name or flag cannot forge a log line or write to
// a terminal.
[[nodiscard]] std::string EscapeControls(absl::string_view text);

// "1,234,567"
[[nodiscard]] std::string WithThousands(uint64_t value);

// The fields of a CSV line: blanks around fields do not count, a field in double quotes may contain
// commas, and "" for a quote. Nothing: a quote that is not closed, or not around the whole field.
[[nodiscard]] std::optional<std::vector<std::string>> SplitCsv(absl::string_view line);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SYSTEM_TEXT_H_
