// Numbers, times and lines as top's screen has them: few characters, always fitting their column.
// Pure functions and plain values; thread-safe.
#ifndef CTACCT_ENGINE_TOP_FORMAT_H_
#define CTACCT_ENGINE_TOP_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace ctacct {

// Rates, at most five characters: "0", "7.25", "26.0", "999", "1.02k", "123M". Not negative.
[[nodiscard]] std::string ShortRate(double value);
// The same for what is counted: "7", "26", "1.02k".
[[nodiscard]] std::string ShortCount(uint64_t value);
// At most five characters: "0", "25ms", "1.25s", "59.9s", "12.5m", "3.20h", "140d".
[[nodiscard]] std::string ShortSeconds(double seconds);
// "7 s", "3 min", "5 h", "4 days": how long ago something was. A negative duration is "0 s".
[[nodiscard]] std::string Duration(int64_t ns);
// "12:26:45"
[[nodiscard]] std::string ClockText(int64_t ns, const absl::TimeZone& zone);
// The same, after the date if that is not the date of `now_ns`.
[[nodiscard]] std::string MomentText(int64_t ns, int64_t now_ns, const absl::TimeZone& zone);
// For a terminal of any character set: each character that is not printable ASCII becomes '?'.
[[nodiscard]] std::string Printable(absl::string_view text);
// Exactly `width` characters: cut, with '~' at the end, or padded with blanks.
[[nodiscard]] std::string Left(absl::string_view text, size_t width);
[[nodiscard]] std::string Right(absl::string_view text, size_t width);

enum class TextStyle { kPlain, kBold, kDim, kReverse, kAlarm };

struct Span {
  std::string text;
  TextStyle style = TextStyle::kPlain;
};
using ScreenLine = std::vector<Span>;

// The line, cut to `width`.
[[nodiscard]] ScreenLine Fit(ScreenLine line, size_t width);
// The line, with `right` at the right edge if there is room for it.
[[nodiscard]] ScreenLine Spread(ScreenLine line, const std::string& right, size_t width,
                                TextStyle style = TextStyle::kPlain);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_TOP_FORMAT_H_
