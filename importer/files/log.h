// The importer's log: lines on standard error. Single-threaded.
#ifndef CTACCT_IMPORTER_FILES_LOG_H_
#define CTACCT_IMPORTER_FILES_LOG_H_

#include "absl/strings/string_view.h"

namespace ctacct {

// "importer: MESSAGE", with control characters escaped.
void LogLine(absl::string_view message);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_FILES_LOG_H_
