// The report's command line, as a plain value: nothing behind it asks for a flag.
#ifndef CTACCT_IMPORTER_REPORT_FLAGS_H_
#define CTACCT_IMPORTER_REPORT_FLAGS_H_

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
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

enum class Format { kPage, kCsv, kJson };

inline constexpr char kRowsTable[] = "rows";  // The rows themselves, not sums.

struct ReportConfig {
  PgOptions database;
  std::string output;          // Path, or "-" for standard output.
  std::optional<mode_t> mode;  // Of that file; none: the usual one.
  std::optional<Bound> from;
  std::optional<Bound> to;
  // Array literals of SQL; none: everything.
  std::optional<std::string> gateways, srcs, dsts, protos, ports, src_names, dst_names;
  // Days and months, and how times are shown and read.
  absl::TimeZone zone;
  bool names = false;  // Who it was, instead of addresses alone.
  int top = 0;
  Format format = Format::kPage;
  std::string table;   // As CSV or JSON, only this one; empty: all.
  int64_t over = -1;   // Only origins of more bytes.
  bool check = false;  // Only whether anything is missing.
};

// Of -table.
[[nodiscard]] bool IsTable(absl::string_view name);
[[nodiscard]] std::string TableNames();

// InvalidArgument: one line for the user.
[[nodiscard]] absl::StatusOr<ReportConfig> ReportConfigFromFlags(const CommandLine& line);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_REPORT_FLAGS_H_
