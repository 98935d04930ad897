// The importer's command line, as a plain value: nothing behind it asks for a flag.
#ifndef CTACCT_IMPORTER_FLAGS_H_
#define CTACCT_IMPORTER_FLAGS_H_

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/system/command_line.h"
#include "importer/postgres/pg_connection.h"

namespace ctacct {

extern const char kImporterUsage[];

struct ImporterConfig {
  bool check_only = false;  // Of the flags.
  PgOptions database;
  std::vector<std::string> files;  // Named on the command line.
  std::string watch;               // Folder; empty: none.
  std::string move;                // Folder; empty: files are deleted.
  std::string gateway;
  bool once = false;
  size_t transaction_files = 1;
  std::string metrics_file;                            // Empty: none.
  std::string adopt;                                   // Table; empty: none.
  bool migrate = false;                                // Only create or upgrade the tables.
  std::vector<std::pair<std::string, int>> retention;  // Tier and days, of those that have an end.

  // Until it is stopped, and so with patience for a database that is away.
  [[nodiscard]] bool watching() const { return !watch.empty() && !once; }
};

// InvalidArgument: one line for the user. Changes nothing.
[[nodiscard]] absl::StatusOr<ImporterConfig> ImporterConfigFromFlags(const CommandLine& line);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_FLAGS_H_
