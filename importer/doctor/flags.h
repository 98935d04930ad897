// The doctor's command line, and the flag files of the programs that it looks at, as a plain value.
#ifndef CTACCT_IMPORTER_DOCTOR_FLAGS_H_
#define CTACCT_IMPORTER_DOCTOR_FLAGS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/system/command_line.h"
#include "engine/system/privileges.h"
#include "importer/postgres/pg_connection.h"

namespace ctacct {

extern const char kDoctorUsage[];

// The settings that the engine and the importer have, or will have, and what to look at.
struct DoctorOptions {
  std::string engine_flags;    // Path; empty: none.
  std::string importer_flags;  // Path; empty: none.
  std::string unread_flags;    // Why a flag file that is there could not be read; empty: it could.
  std::string doctor_program;
  std::string engine_program;    // Empty: not found.
  std::string importer_program;  // Empty: not found.
  std::string output;            // The spool folder; empty: none.
  std::string state;             // As the engine's flag file names it; empty: it does not.
  std::string engine_metrics;    // Metrics files; empty: none.
  std::string importer_metrics;
  std::optional<UserAccount> engine_user;  // None: the engine runs as the caller.
  bool light = false;
  bool skips_local = false;  // -local=skip, or -src, which leaves out a tunnel's own packets.
  size_t workers = 0;        // 0: the engine's own choice.
  size_t receive_buffer_bytes = 0;
  size_t interval_seconds = 0;
  bool has_database = false;
  PgOptions database;
  std::map<std::string, int> retention_days;  // By tier; those of which nothing is dropped: none.
  bool probe = true;
  bool json = false;  // How findings are shown.
};

// InvalidArgument: one line for the user. Sets PGPASSFILE if the service's importer has a password.
[[nodiscard]] absl::StatusOr<DoctorOptions> DoctorOptionsFromFlags(const CommandLine& line);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_DOCTOR_FLAGS_H_
