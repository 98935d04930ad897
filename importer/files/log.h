// The importer's log: single lines on standard error, control characters escaped, so that a hostile
// file name cannot forge one. Single-threaded.
#ifndef CTACCT_IMPORTER_FILES_LOG_H_
#define CTACCT_IMPORTER_FILES_LOG_H_

#include <string>

#include "absl/strings/string_view.h"

namespace ctacct {

// Control characters as \xHH.
[[nodiscard]] std::string EscapedForLog(absl::string_view text);

// "importer: MESSAGE".
void LogLine(absl::string_view message);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_FILES_LOG_H_
