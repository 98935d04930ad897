#include "bench/google_main.h"

#include <iostream>
#include <string>

#include "absl/status/statusor.h"
#include "engine/system/command_line.h"

namespace ctacct {
namespace {

bool failed = false;

}  // namespace

void Fail(benchmark::State& state, const char* why) {
  failed = true;
  state.SkipWithError(why);
}

int GoogleMain(int argc, char** argv, const char* program,
               const std::function<absl::Status()>& prepare) {
  benchmark::Initialize(&argc, argv);
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  if (!line.ok()) {
    PrintError(program, line.status());
    return kExitUsageError;
  }
  if (line->help) {
    std::cout << FlagsHelp(std::string("usage: ") + program +
                           " [FLAGS OF GOOGLE BENCHMARK] [FLAGS]");
    return kExitOk;
  }
  if (const absl::Status status = prepare(); !status.ok()) {
    PrintError(program, status);
    return status.code() == absl::StatusCode::kOutOfRange ? kExitUsageError : kExitOperatingError;
  }
  if (benchmark::RunSpecifiedBenchmarks() == 0) failed = true;  // The filter matched none.
  benchmark::Shutdown();
  return failed ? kExitOperatingError : kExitOk;
}

}  // namespace ctacct
