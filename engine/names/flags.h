// The command line of `names`, as a plain value: nothing behind it asks for a flag.
#ifndef CTACCT_ENGINE_NAMES_FLAGS_H_
#define CTACCT_ENGINE_NAMES_FLAGS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/names/sources.h"
#include "engine/spool/names_file.h"
#include "engine/system/command_line.h"
#include "engine/system/privileges.h"

namespace ctacct {

extern const char kNamesUsage[];

struct NamesConfig {
  std::string output;
  std::string gateway;
  // The one that wins first.
  std::vector<NameSource> order;
  std::vector<std::string> files;
  std::vector<std::string> openvpn_status;
  bool wireguard = false;
  WireguardOptions wireguard_options;
  int64_t interval_ns = 0;
  bool once = false;
  std::optional<UserAccount> user;  // To become; nothing: stays who it is.
};

// InvalidArgument: one line for the user. Changes nothing.
[[nodiscard]] absl::StatusOr<NamesConfig> NamesConfigFromFlags(const CommandLine& line);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_NAMES_FLAGS_H_
