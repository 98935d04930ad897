// doctor: checks whether this machine counts correctly, and prints a remedy for each problem.
// Changes nothing: what it tries, it tries in a network namespace of its own.
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/system/command_line.h"
#include "importer/doctor/checks.h"
#include "importer/doctor/findings.h"
#include "importer/doctor/flags.h"
#include "importer/postgres/connection_flags.h"

namespace ctacct {
namespace {

constexpr char kProgram[] = "doctor";

struct Check {
  const char* name;
  Finding (*look)(Examination& examination);
};

// In the order of an event's way.
constexpr Check kChecks[] = {
    {"kernel", CheckKernel},
    {"acct", CheckAcct},
    {"timestamp", CheckTimestamp},
    {"events", CheckEvents},
    {"reboot", CheckReboot},
    {"table", CheckTable},
    {"buckets", CheckBuckets},
    {"conntrack on", CheckTracking},
    {"untracked", CheckUntracked},
    {"event masks", CheckMaskedEnds},
    {"flowtables", CheckFlowtables},
    {"tunnels", CheckTunnels},
    {"listeners", CheckListeners},
    {"capability", CheckCapability},
    {"receive buffer", CheckReceiveBuffer},
    {"clock", CheckClock},
    {"flag files", CheckFlagFiles},
    {"metrics files", CheckMetricsFiles},
    {"spool", CheckSpool},
    {"space", CheckSpace},
    {"backlog", CheckBacklog},
    {"database", CheckDatabase},
    {"schema", CheckSchema},
    {"role", CheckRole},
    {"database clock", CheckDatabaseClock},
    {"disk", CheckDisk},
    {"probe", CheckProbe},
};

bool WantsColour() {
  const char* const terminal = std::getenv("TERM");
  return isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr && terminal != nullptr &&
         absl::string_view(terminal) != "dumb";
}

int Main(int argc, char** argv) {
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  if (!line.ok()) {
    PrintError(kProgram, line.status());
    return kExitUsageError;
  }
  if (line->help) {
    return WriteToStdout(FlagsHelp(kDoctorUsage)).ok() ? kExitOk : kExitOperatingError;
  }
  absl::StatusOr<DoctorOptions> options = DoctorOptionsFromFlags(*line);
  if (!options.ok()) {
    PrintError(kProgram, options.status());
    return kExitUsageError;
  }
  HideSecrets(argc, argv);
  signal(SIGPIPE, SIG_IGN);
  Examination examination;
  examination.options = *std::move(options);
  std::vector<Finding> findings;
  for (const Check& check : kChecks) {
    findings.push_back(check.look(examination));
    findings.back().name = check.name;
  }
  const std::string report =
      examination.options.json ? ReportJson(findings) : ReportText(findings, WantsColour());
  if (const absl::Status status = WriteToStdout(report); !status.ok()) {
    PrintError(kProgram, status);
    return kExitOperatingError;
  }
  return AnyFailed(findings) ? kExitOperatingError : kExitOk;
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::Main(argc, argv); }
