// engine: accounts conntrack's traffic, live or from a capture. See README.md and `--help`.

#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/flags.h"
#include "engine/system/command_line.h"

namespace ctacct {
namespace {

constexpr char kProgram[] = "engine";
// clang-format off
constexpr char kUsage[] =
    "usage: engine [FLAGS]\n"
    "Accounts conntrack's traffic by masked pair, protocol and port, for each interval. SIGTERM stops\n"
    "it without loss; SIGHUP reads the port list again. Live accounting needs CAP_NET_ADMIN.";
// clang-format on

// Opens closed standard descriptors on /dev/null; otherwise the first files to be opened would take
// their place. False if standard output was closed.
bool OpenStandardDescriptors() {
  const bool has_output = fcntl(STDOUT_FILENO, F_GETFD) >= 0;
  int fd = open("/dev/null", O_RDWR);
  while (fd >= 0 && fd <= STDERR_FILENO) fd = open("/dev/null", O_RDWR);
  if (fd >= 0) close(fd);
  return has_output;
}

// Gives the memory of an unusually large interval back to the kernel when the interval is written.
// By default glibc raises both thresholds to what was freed once, and then keeps tens of megabytes.
void GiveFreedMemoryBack() {
  constexpr int kThresholdBytes = 128 << 10;
  mallopt(M_MMAP_THRESHOLD, kThresholdBytes);
  mallopt(M_TRIM_THRESHOLD, kThresholdBytes);
}

absl::Status RunEngine(const Config& config, bool has_output) {
  if (!has_output && config.writes_standard_output()) {
    return absl::FailedPreconditionError("standard output is closed; give -output or -pipe");
  }
  const absl::StatusOr<std::unique_ptr<Engine>> engine = Engine::Open(config);
  if (!engine.ok()) return engine.status();
  (*engine)->Run();
  return (*engine)->Finish();
}

int Main(int argc, char** argv) {
  const bool has_output = OpenStandardDescriptors();
  GiveFreedMemoryBack();
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  if (line.ok() && line->help) {
    std::fputs(FlagsHelp(kUsage).c_str(), stdout);
    return kExitOk;
  }
  const absl::StatusOr<Config> config = line.ok() ? ConfigFromFlags(*line) : line.status();
  if (!config.ok()) {
    PrintError(kProgram, config.status());
    return kExitUsageError;
  }
  const absl::Status status =
      config->check_only ? Engine::Check(*config) : RunEngine(*config, has_output);
  if (status.ok()) return kExitOk;
  PrintError(kProgram, status);
  return kExitOperatingError;
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::Main(argc, argv); }
