#include "importer/files/log.h"

#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/system/text.h"

namespace ctacct {

void LogLine(absl::string_view message) {
  const std::string line = absl::StrCat("importer: ", EscapeControls(message), "\n");
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace ctacct
