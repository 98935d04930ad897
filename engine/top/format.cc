#include "engine/top/format.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/system/clock.h"

namespace ctacct {
namespace {

// Three digits of a number below 1,000, or a fourth where it rounds up to it.
std::string ThreeDigits(double value) {
  if (value < 0.005) return value == 0 ? "0" : "0.01";  // Something is not nothing.
  return value < 9.995   ? absl::StrFormat("%.2f", value)
         : value < 99.95 ? absl::StrFormat("%.1f", value)
                         : absl::StrFormat("%.0f", value);
}

}  // namespace

std::string ShortRate(double value) {
  constexpr absl::string_view kUnits = " kMGTPEZY";
  size_t unit = 0;
  while (value >= 999.5 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  std::string text = ThreeDigits(value);
  if (unit != 0) text.push_back(kUnits[unit]);
  return text;
}

std::string ShortCount(uint64_t value) {
  return value < 1000 ? absl::StrCat(value) : ShortRate(static_cast<double>(value));
}

std::string ShortSeconds(double seconds) {
  if (seconds == 0) return "0";
  if (seconds < 0.9995) return absl::StrFormat("%.0fms", std::max(1.0, seconds * 1000));
  if (seconds < 99.95) return ThreeDigits(seconds) + "s";
  if (seconds < 99.95 * 60) return ThreeDigits(seconds / 60) + "m";
  if (seconds < 99.95 * 3600) return ThreeDigits(seconds / 3600) + "h";
  return ShortCount(static_cast<uint64_t>(seconds / 86400)) + "d";
}

std::string Duration(int64_t ns) {
  const int64_t seconds = std::max<int64_t>(0, ns) / kNanosPerSecond;
  if (seconds < 120) return absl::StrCat(seconds, " s");
  if (seconds < 120 * 60) return absl::StrCat(seconds / 60, " min");
  if (seconds < 48 * 3600) return absl::StrCat(seconds / 3600, " h");
  return absl::StrCat(seconds / 86400, " days");
}

std::string Printable(absl::string_view text) {
  std::string printable;
  for (const unsigned char c : text) {
    if (c >= 0x20 && c < 0x7f) {
      printable.push_back(static_cast<char>(c));
    } else if ((c & 0xc0) != 0x80) {  // Not within a character of UTF-8.
      printable.push_back('?');
    }
  }
  return printable;
}

std::string Left(absl::string_view text, size_t width) {
  if (text.size() > width) {
    return width == 0 ? "" : absl::StrCat(text.substr(0, width - 1), "~");
  }
  return absl::StrCat(text, std::string(width - text.size(), ' '));
}

std::string Right(absl::string_view text, size_t width) {
  return text.size() >= width ? Left(text, width)
                              : absl::StrCat(std::string(width - text.size(), ' '), text);
}

}  // namespace ctacct
