// What the page shows, asked of the database (queries/*.sql). The database makes the JSON, in one
// read-only transaction, so that all figures are of the same moment. Everything is summed by
// traffic(), which answers from rollups.
#ifndef CTACCT_IMPORTER_REPORT_QUERIES_H_
#define CTACCT_IMPORTER_REPORT_QUERIES_H_

#include <string>

#include "absl/status/statusor.h"
#include "importer/report/flags.h"

namespace ctacct {

// JSON that can stand in a page's script: nothing in it ends the element that holds it.
[[nodiscard]] absl::StatusOr<std::string> AskPage(const ReportConfig& config);

struct Answer {
  std::string text;    // Whole lines.
  bool found = false;  // What was looked for: the exit status.
};

// A table, or all of them, as CSV or JSON; with config.over only the origins that are over it.
[[nodiscard]] absl::StatusOr<Answer> AskTables(const ReportConfig& config);

// Whether intervals are missing or incomplete, where, and since when.
[[nodiscard]] absl::StatusOr<Answer> AskCheck(const ReportConfig& config);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_REPORT_QUERIES_H_
