// The doctor's checks, each of one thing, in the order of an event's way: from the kernel's
// settings to the database. None changes anything. What one has read, later ones share.
//
// Not thread-safe: one thread examines.
#ifndef CTACCT_IMPORTER_DOCTOR_CHECKS_H_
#define CTACCT_IMPORTER_DOCTOR_CHECKS_H_

#include <optional>
#include <string>

#include "importer/doctor/findings.h"
#include "importer/doctor/flags.h"
#include "importer/doctor/ruleset.h"
#include "importer/postgres/pg_connection.h"

namespace ctacct {

struct Examination {
  DoctorOptions options;

  // Filled by the first check that needs them.
  struct Rules {
    RulesetFindings findings;
    std::string hooks;   // nft's list of all hooks; empty if the kernel has none.
    std::string unseen;  // What could not be listed, and why; empty: nothing.
  };
  std::optional<Rules> rules;
  std::optional<PgConnection> connection;
};

// ---- kernel ----
[[nodiscard]] Finding CheckKernel(Examination& examination);
[[nodiscard]] Finding CheckAcct(Examination& examination);
[[nodiscard]] Finding CheckTimestamp(Examination& examination);
[[nodiscard]] Finding CheckEvents(Examination& examination);
[[nodiscard]] Finding CheckReboot(Examination& examination);
[[nodiscard]] Finding CheckTable(Examination& examination);
[[nodiscard]] Finding CheckBuckets(Examination& examination);
[[nodiscard]] Finding CheckCapability(Examination& examination);
[[nodiscard]] Finding CheckReceiveBuffer(Examination& examination);
[[nodiscard]] Finding CheckTracking(Examination& examination);
[[nodiscard]] Finding CheckUntracked(Examination& examination);
[[nodiscard]] Finding CheckMaskedEnds(Examination& examination);
[[nodiscard]] Finding CheckFlowtables(Examination& examination);
[[nodiscard]] Finding CheckTunnels(Examination& examination);
[[nodiscard]] Finding CheckListeners(Examination& examination);
[[nodiscard]] Finding CheckClock(Examination& examination);

// ---- files ----
[[nodiscard]] Finding CheckFlagFiles(Examination& examination);
[[nodiscard]] Finding CheckMetricsFiles(Examination& examination);
[[nodiscard]] Finding CheckSpool(Examination& examination);
[[nodiscard]] Finding CheckSpace(Examination& examination);
[[nodiscard]] Finding CheckBacklog(Examination& examination);

// ---- database ----
[[nodiscard]] Finding CheckDatabase(Examination& examination);
[[nodiscard]] Finding CheckSchema(Examination& examination);
[[nodiscard]] Finding CheckRole(Examination& examination);
[[nodiscard]] Finding CheckDatabaseClock(Examination& examination);
[[nodiscard]] Finding CheckDisk(Examination& examination);

// ---- all of it ----
[[nodiscard]] Finding CheckProbe(Examination& examination);

// Whether this process has it in effect. `capability`: CAP_*.
[[nodiscard]] bool HasCapability(unsigned int capability);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_DOCTOR_CHECKS_H_
