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
[[nodiscard]] absl::StatusOr<std::string> AskDatabase(const ReportConfig& config);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_REPORT_QUERIES_H_
