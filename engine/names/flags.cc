#include "engine/names/flags.h"

#include <unistd.h>

#include <algorithm>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/rows/gateway_name.h"
#include "engine/system/clock.h"

ABSL_FLAG(std::string, output, "",
          "spool folder to write to: the engine's -output, from which the importer loads");
ABSL_FLAG(std::string, gateway, "",
          "name of this gateway, as the engine has it (default: the host's name)");
ABSL_FLAG(std::string, file, "",
          "CSV files of network,name[,from[,to]], separated by commas; times are RFC 3339 or "
          "seconds since the epoch");
ABSL_FLAG(std::string, wireguard, "",
          "WireGuard devices whose peers to record, separated by commas; all: every device");
ABSL_FLAG(
    std::string, wireguard_names, "",
    "CSV file of publickey,name; other peers are named by the first 8 characters of their key");
ABSL_FLAG(std::string, wireguard_config, "",
          "files of wg-quick, separated by commas, in which comments name the peers: # Name = x, "
          "# friendly_name = x, ### begin x ###");
ABSL_FLAG(std::string, openvpn_status, "",
          "status files of OpenVPN servers (version 1, 2 or 3), separated by commas");
ABSL_FLAG(int, interval, 1, "seconds between two readings of the sources");
ABSL_FLAG(bool, once, false, "write one snapshot and exit");
ABSL_FLAG(std::string, user, "",
          "drop privileges to this user (default: if started as root, ctacct or nobody; otherwise "
          "keep the current user)");

namespace ctacct {

// clang-format off
const char kNamesUsage[] =
    "usage: names [FLAGS]\n"
    "Records who holds which network on this gateway, and writes each change into the spool folder. If\n"
    "two sources name one network, the first on the command line wins. Files are read again when they\n"
    "change. SIGTERM stops it. -wireguard needs CAP_NET_ADMIN.";
// clang-format on

namespace {

constexpr int kIntervalSecondsMax = 3600;
constexpr size_t kPathsMax = 100;
constexpr size_t kDeviceBytesMax = 15;  // IFNAMSIZ without its NUL.

constexpr FlagRule kFlagRules[] = {
    {"wireguard-names wireguard-config", FlagRule::Kind::kNeeds, "wireguard"},
    {"interval", FlagRule::Kind::kRefuses, "once"},
};

absl::Status BadFlag(absl::string_view flag, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("flag -", flag, ": ", why));
}

// Not empty, if the flag is not.
absl::StatusOr<std::vector<std::string>> ListOf(absl::string_view flag, const std::string& value) {
  if (value.empty()) return std::vector<std::string>();
  std::vector<std::string> parts = absl::StrSplit(value, ',');
  if (std::find(parts.begin(), parts.end(), "") != parts.end()) {
    return BadFlag(flag, "an empty name in the list");
  }
  if (parts.size() > kPathsMax) {
    return BadFlag(flag, absl::StrCat("more than ", kPathsMax, " names in the list"));
  }
  return parts;
}

absl::Status FillWireguard(NamesConfig* config) {
  const std::string devices = absl::GetFlag(FLAGS_wireguard);
  WireguardOptions& options = config->wireguard_options;
  config->wireguard = !devices.empty();
  if (devices != "all") {
    absl::StatusOr<std::vector<std::string>> list = ListOf("wireguard", devices);
    if (!list.ok()) return list.status();
    for (const std::string& device : *list) {
      if (device.size() > kDeviceBytesMax) return BadFlag("wireguard", "not a device's name");
    }
    options.devices = *std::move(list);
  }
  options.names = absl::GetFlag(FLAGS_wireguard_names);
  absl::StatusOr<std::vector<std::string>> configs =
      ListOf("wireguard-config", absl::GetFlag(FLAGS_wireguard_config));
  if (!configs.ok()) return configs.status();
  options.configs = *std::move(configs);
  return absl::OkStatus();
}

absl::Status FillUser(NamesConfig* config) {
  const std::string name = absl::GetFlag(FLAGS_user);
  if (name.empty() && geteuid() != 0) return absl::OkStatus();
  const absl::StatusOr<UserAccount> user =
      name.empty() ? UnprivilegedUser() : FindUserAccount(name);
  if (!user.ok()) {
    return BadFlag("user", name.empty() ? "not given, and there is neither a user ctacct nor "
                                          "nobody to become; name one (root stays root)"
                                        : "no such user");
  }
  config->user = *user;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<NamesConfig> NamesConfigFromFlags(const CommandLine& line) {
  if (!line.arguments.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "unexpected argument ", QuotedForLog(line.arguments[0]), "; --help says more"));
  }
  if (absl::Status rules = CheckFlagRules(kFlagRules); !rules.ok()) return rules;
  NamesConfig config;
  config.output = absl::GetFlag(FLAGS_output);
  if (config.output.empty()) return BadFlag("output", "name the spool folder");
  config.gateway = absl::GetFlag(FLAGS_gateway);
  absl::Status status = CheckGatewayName(config.gateway);
  if (status.ok() && config.gateway.empty()) {
    const absl::StatusOr<std::string> host = HostGatewayName();
    status = host.status();
    if (host.ok()) config.gateway = *host;
  }
  if (status.ok() && config.gateway.empty()) {
    status = absl::InvalidArgumentError("not given, and the host has no name");
  }
  if (!status.ok()) return BadFlag("gateway", status.message());

  absl::StatusOr<std::vector<std::string>> files = ListOf("file", absl::GetFlag(FLAGS_file));
  if (!files.ok()) return files.status();
  config.files = *std::move(files);
  absl::StatusOr<std::vector<std::string>> openvpn =
      ListOf("openvpn-status", absl::GetFlag(FLAGS_openvpn_status));
  if (!openvpn.ok()) return openvpn.status();
  config.openvpn_status = *std::move(openvpn);
  if (status = FillWireguard(&config); !status.ok()) return status;
  for (const std::string& flag : line.flags_set) {
    if (flag == "file" && !config.files.empty()) config.order.push_back(NameSource::kFile);
    if (flag == "wireguard" && config.wireguard) config.order.push_back(NameSource::kWireguard);
    if (flag == "openvpn_status" && !config.openvpn_status.empty()) {
      config.order.push_back(NameSource::kOpenvpn);
    }
  }
  if (config.order.empty()) {
    return absl::InvalidArgumentError(
        "nothing to read names from: give -file, -wireguard or -openvpn-status; --help says more");
  }
  const int interval = absl::GetFlag(FLAGS_interval);
  if (interval < 1 || interval > kIntervalSecondsMax) {
    return BadFlag("interval", absl::StrCat("from 1 to ", kIntervalSecondsMax));
  }
  config.interval_ns = interval * kNanosPerSecond;
  config.once = absl::GetFlag(FLAGS_once);
  if (status = FillUser(&config); !status.ok()) return status;
  return config;
}

}  // namespace ctacct
