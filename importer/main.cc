// importer: files of traffic rows into PostgreSQL, each exactly once.
#include <sys/signalfd.h>

#include <cerrno>
#include <csignal>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/system/command_line.h"
#include "engine/system/durable_file.h"
#include "engine/system/unique_fd.h"
#include "importer/flags.h"
#include "importer/importer.h"
#include "importer/postgres/connection_flags.h"

namespace ctacct {
namespace {

constexpr char kProgram[] = "importer";

// Signals are read where the importer waits, and nowhere else: no code runs in a handler. The
// descriptor is never read, so it stays readable and every later wait ends at once.
UniqueFd StopSignals() {
  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGTERM);
  sigaddset(&stop_signals, SIGINT);
  sigprocmask(SIG_BLOCK, &stop_signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);  // A log that nobody reads any more must not end an import.
  std::signal(SIGIO, SIG_IGN);    // A writer may open a file while we hold a lease on it.
  return UniqueFd(signalfd(-1, &stop_signals, SFD_CLOEXEC));
}

int Main(int argc, char** argv) {
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  HideSecrets(argc, argv);
  if (!line.ok()) {
    PrintError(kProgram, line.status());
    return kExitUsageError;
  }
  if (line->help) {
    return WriteToStdout(FlagsHelp(kImporterUsage)).ok() ? kExitOk : kExitOperatingError;
  }
  absl::StatusOr<ImporterConfig> config = ImporterConfigFromFlags(*line);
  if (!config.ok()) {
    PrintError(kProgram, config.status());
    return kExitUsageError;
  }
  if (config->check_only) return kExitOk;
  const UniqueFd stop_fd = StopSignals();
  if (!stop_fd.valid()) {
    PrintError(kProgram, FileError("open", "signalfd", errno));
    return kExitOperatingError;
  }
  Importer importer(*std::move(config), stop_fd.get());
  if (const absl::Status status = importer.Open(); !status.ok()) {
    PrintError(kProgram, status);
    return absl::IsInvalidArgument(status) ? kExitUsageError : kExitOperatingError;
  }
  return importer.Finish(importer.Run()) ? kExitOk : kExitOperatingError;
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::Main(argc, argv); }
