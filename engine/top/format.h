// Numbers and times as top's screen has them: few characters, always fitting their column. Pure
// functions; thread-safe.
#ifndef CTACCT_ENGINE_TOP_FORMAT_H_
#define CTACCT_ENGINE_TOP_FORMAT_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace ctacct {

// Rates, at most five characters: "0", "7.25", "26.0", "999", "1.02k", "123M". Not negative.
[[nodiscard]] std::string ShortRate(double value);
// The same for what is counted: "7", "26", "1.02k".
[[nodiscard]] std::string ShortCount(uint64_t value);
// At most five characters: "0", "25ms", "1.25s", "59.9s", "12.5m", "3.20h", "140d".
[[nodiscard]] std::string ShortSeconds(double seconds);
// "7 s", "3 min", "5 h", "4 days": how long ago something was, and the like. Not negative.
[[nodiscard]] std::string Duration(int64_t ns);
// For a terminal of any character set: what is not printable ASCII becomes '?', one for each
// character.
[[nodiscard]] std::string Printable(absl::string_view text);
// Exactly so many characters: cut, with '~' at the end, or filled up with blanks.
[[nodiscard]] std::string Left(absl::string_view text, size_t width);
[[nodiscard]] std::string Right(absl::string_view text, size_t width);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_TOP_FORMAT_H_
