// The engine's flags (ABSL_FLAG, in flags.cc) as a Config. Nothing else reads them.
#ifndef CTACCT_ENGINE_FLAGS_H_
#define CTACCT_ENGINE_FLAGS_H_

#include "absl/status/statusor.h"
#include "engine/config.h"
#include "engine/system/command_line.h"

namespace ctacct {

// After ParseCommandLine. Touches nothing; every error is one of usage.
[[nodiscard]] absl::StatusOr<Config> ConfigFromFlags(const CommandLine& line);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_FLAGS_H_
