// The doctor's checks, each of one thing, in the order of an event's way: from the kernel's
// settings to the database. None changes anything; what they read once, they share.
//
// Not thread-safe: one thread examines.
#ifndef CTACCT_IMPORTER_DOCTOR_CHECKS_H_
#define CTACCT_IMPORTER_DOCTOR_CHECKS_H_

#include <sys/types.h>

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/system/privileges.h"
#include "importer/doctor/findings.h"
#include "importer/doctor/ruleset.h"
#include "importer/postgres/pg_connection.h"

namespace ctacct {

// What engine and importer are, or will be, told. Files are read into `engine` and `importer`.
struct DoctorOptions {
  std::string engine_flags;    // Path; empty: none.
  std::string importer_flags;  // Likewise.
  std::string unread_flags;    // Why a flag file that is there could not be read; empty: it could.
  std::string doctor_program;
  std::string engine_program;              // Empty: not found.
  std::string importer_program;            // Likewise.
  std::string output;                      // The spool folder; empty: none.
  std::optional<UserAccount> engine_user;  // Whom the engine runs as; none: the caller.
  bool light = false;
  size_t workers = 0;  // 0: the engine's own choice.
  size_t receive_buffer_bytes = 0;
  int64_t interval_seconds = 0;
  bool has_database = false;
  PgOptions database;
  bool importer_drops_partitions = false;
  bool probe = true;
};

struct Examination {
  DoctorOptions options;

  // Filled by the first check that needs them.
  struct Rules {
    RulesetFindings findings;
    std::string hooks;   // nft's list of all hooks; empty where the kernel does not tell.
    std::string unseen;  // What could not be listed, and why; empty: nothing.
  };
  std::optional<Rules> rules;
  std::optional<absl::StatusOr<PgConnection>> connection;
};

// ---- kernel ----
[[nodiscard]] Finding CheckKernel(Examination& examination);
[[nodiscard]] Finding CheckAcct(Examination& examination);
[[nodiscard]] Finding CheckTimestamp(Examination& examination);
[[nodiscard]] Finding CheckEvents(Examination& examination);
[[nodiscard]] Finding CheckTable(Examination& examination);
[[nodiscard]] Finding CheckBuckets(Examination& examination);
[[nodiscard]] Finding CheckCapability(Examination& examination);
[[nodiscard]] Finding CheckReceiveBuffer(Examination& examination);
[[nodiscard]] Finding CheckTracking(Examination& examination);
[[nodiscard]] Finding CheckUntracked(Examination& examination);
[[nodiscard]] Finding CheckFlowtables(Examination& examination);
[[nodiscard]] Finding CheckListeners(Examination& examination);
[[nodiscard]] Finding CheckClock(Examination& examination);

// ---- files ----
[[nodiscard]] Finding CheckFlagFiles(Examination& examination);
[[nodiscard]] Finding CheckSpool(Examination& examination);
[[nodiscard]] Finding CheckSpace(Examination& examination);
[[nodiscard]] Finding CheckBacklog(Examination& examination);

// ---- database ----
[[nodiscard]] Finding CheckDatabase(Examination& examination);
[[nodiscard]] Finding CheckSchema(Examination& examination);
[[nodiscard]] Finding CheckRole(Examination& examination);
[[nodiscard]] Finding CheckDatabaseClock(Examination& examination);

// ---- all of it ----
[[nodiscard]] Finding CheckProbe(Examination& examination);

// Whether this process has it in force now. `capability`: CAP_*.
[[nodiscard]] bool HasCapability(unsigned int capability);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_DOCTOR_CHECKS_H_
