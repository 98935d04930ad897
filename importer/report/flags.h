// The report's command line, as a plain value: nothing behind it asks for a flag.
#ifndef CTACCT_IMPORTER_REPORT_FLAGS_H_
#define CTACCT_IMPORTER_REPORT_FLAGS_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/system/command_line.h"
#include "importer/postgres/pg_connection.h"

namespace ctacct {

extern const char kReportUsage[];

// timestamptz goes further, but a range of more than a million days is too long for traffic(): the
// end of the year 2999.
inline constexpr absl::Time kReportTimeMax = absl::FromUnixSeconds(32'503'679'999);

// A moment, or a distance from one.
struct Bound {
  std::optional<absl::Time> time;
  absl::Duration before;
};

struct ReportConfig {
  PgOptions database;
  std::string output;  // Path, or "-" for standard output.
  std::optional<Bound> from;
  std::optional<Bound> to;
  // Array literals of SQL; none: everything.
  std::optional<std::string> gateways, srcs, dsts, protos, ports;
  int top = 0;
};

// InvalidArgument: one line for the user.
[[nodiscard]] absl::StatusOr<ReportConfig> ReportConfigFromFlags(const CommandLine& line);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_REPORT_FLAGS_H_
