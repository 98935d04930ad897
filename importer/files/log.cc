#include "importer/files/log.h"

#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"

namespace ctacct {
std::string EscapedForLog(absl::string_view text) {
  std::string line;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppend(&line, "\\x", absl::Hex(byte, absl::kZeroPad2));
    } else {
      line.push_back(c);
    }
  }
  return line;
}

void LogLine(absl::string_view message) {
  const std::string line = absl::StrCat("importer: ", EscapedForLog(message), "\n");
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace ctacct
