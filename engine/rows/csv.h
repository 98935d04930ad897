// CSV lines of rows (docs/formats.md): eleven columns, twelve with open connections, no header,
// '\n'. Pure functions; thread-safe.
#ifndef CTACCT_ENGINE_ROWS_CSV_H_
#define CTACCT_ENGINE_ROWS_CSV_H_

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/rows/traffic_row.h"

namespace ctacct {

// AppendCsvLine writes at most 262 bytes; a longer line than this is not a row.
inline constexpr size_t kCsvLineBytesMax = 512;

// False if the row only says that flows ended, which CSV has no columns for.
[[nodiscard]] bool HasCsvLine(const TrafficRow& row);

// Appends one line with its '\n', if the row has one.
void AppendCsvLine(const TrafficRow& row, bool track_open, std::string* out);

// Parses one line, without its '\n'. Protocols by name or number, numbers in decimal, no blanks, no
// signs but the port's -1, all within the bounds of bounds.h. *has_open says whether there was a
// twelfth column. InvalidArgument names the column but never its contents, which say who talked to
// whom. On an error *row is unspecified.
[[nodiscard]] absl::Status ParseCsvLine(absl::string_view line, TrafficRow* row, bool* has_open);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ROWS_CSV_H_
