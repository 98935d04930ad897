#include "engine/flags.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <string>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/rows/bounds.h"
#include "engine/rows/gateway_name.h"
#include "engine/rows/influx_line.h"
#include "netlink/ipv4_text.h"

namespace ctacct {
namespace {

constexpr int kIntervalSecondsMax = static_cast<int>(kIntervalLengthMaxNs / kIntervalUnitNs);
// SO_RCVBUFFORCE takes an int and the kernel doubles it.
constexpr int kReceiveBufferBytesMax = 1 << 30;

// Flag values of our own types are checked where they stand: on the command line or in a line of a
// flag file.
struct Network {
  std::string text;  // Empty: every address.
  Ipv4Cidr cidr = kIpv4Everything;
};
bool AbslParseFlag(absl::string_view text, Network* network, std::string* why) {
  network->text = std::string(text);
  if (text.empty()) return true;
  const std::optional<Ipv4Cidr> cidr = ParseIpv4Cidr(network->text);
  if (cidr.has_value()) network->cidr = *cidr;
  *why = "not a network like 10.32.0.0/11";
  return cidr.has_value();
}
std::string AbslUnparseFlag(const Network& network) { return network.text; }

struct Mask {
  std::string text = "255.255.255.255";
  Ipv4Address mask = kIpv4MaskAll;
};
bool AbslParseFlag(absl::string_view text, Mask* mask, std::string* why) {
  mask->text = std::string(text);
  const std::optional<Ipv4Address> parsed = ParseIpv4Mask(mask->text);
  if (parsed.has_value()) mask->mask = *parsed;
  *why = "not a mask like 255.255.255.0 or /24";
  return parsed.has_value();
}
std::string AbslUnparseFlag(const Mask& mask) { return mask.text; }

struct Address {
  std::string text;  // Empty: none.
  std::optional<Ipv4Address> address;
};
bool AbslParseFlag(absl::string_view text, Address* address, std::string* why) {
  address->text = std::string(text);
  address->address = ParseIpv4Address(address->text);
  *why = "not an IPv4 address";
  return text.empty() || address->address.has_value();
}
std::string AbslUnparseFlag(const Address& address) { return address.text; }

template <int kMin, int kMax>
struct Bounded {
  int value = 0;
};
template <int kMin, int kMax>
bool AbslParseFlag(absl::string_view text, Bounded<kMin, kMax>* number, std::string* why) {
  *why = absl::StrCat("must be ", kMin, " to ", kMax);
  return absl::SimpleAtoi(text, &number->value) && number->value >= kMin && number->value <= kMax;
}
template <int kMin, int kMax>
std::string AbslUnparseFlag(const Bounded<kMin, kMax>& number) {
  return absl::StrCat(number.value);
}
using IntervalSeconds = Bounded<1, kIntervalSecondsMax>;
using MaxRows = Bounded<1, static_cast<int>(RowLimit::kMax)>;
using Workers = Bounded<1, static_cast<int>(kWorkersMax)>;
using ReceiveBufferBytes = Bounded<1, kReceiveBufferBytesMax>;

// A flag that takes one of two words; false: the first.
struct OutputFormat {
  static constexpr const char* kWords[] = {"spool", "csv"};
  bool second = false;
};
struct PipeFormat {
  static constexpr const char* kWords[] = {"csv", "influx"};
  bool second = false;
};
struct Mode {
  static constexpr const char* kWords[] = {"precise", "light"};
  bool second = false;
};
template <typename Choice, const char* const* = Choice::kWords>
bool AbslParseFlag(absl::string_view text, Choice* choice, std::string* why) {
  choice->second = text == Choice::kWords[1];
  *why = absl::StrCat("must be ", Choice::kWords[0], " or ", Choice::kWords[1]);
  return choice->second || text == Choice::kWords[0];
}
template <typename Choice, const char* const* = Choice::kWords>
std::string AbslUnparseFlag(const Choice& choice) {
  return Choice::kWords[choice.second ? 1 : 0];
}

// More workers than this gain nothing on gateways that we know, and each costs the packet path a
// little: every event meets each socket's filter.
constexpr int kDefaultWorkersMax = 4;

int DefaultWorkers() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 1;
  return std::clamp(CPU_COUNT(&allowed), 1, kDefaultWorkersMax);
}

struct Gateway {
  std::string name;  // Empty: the host's.
};
bool AbslParseFlag(absl::string_view text, Gateway* gateway, std::string* why) {
  gateway->name = std::string(text);
  const absl::Status status = CheckGatewayName(text);
  *why = std::string(status.message());
  return status.ok();
}
std::string AbslUnparseFlag(const Gateway& gateway) { return gateway.name; }

struct User {
  std::string name;  // Empty: see FillUser.
  UserAccount account;
};
bool AbslParseFlag(absl::string_view text, User* user, std::string* why) {
  user->name = std::string(text);
  if (text.empty()) return true;
  const absl::StatusOr<UserAccount> account = FindUserAccount(user->name);
  *why = std::string(account.status().message());
  if (account.ok()) user->account = *account;
  return account.ok();
}
std::string AbslUnparseFlag(const User& user) { return user.name; }

}  // namespace
}  // namespace ctacct

ABSL_FLAG(ctacct::Network, src, {},
          "account only flows whose original source is in this network (CIDR)");
ABSL_FLAG(ctacct::Network, dst, {},
          "account only flows whose original destination is in this network (CIDR)");
ABSL_FLAG(ctacct::Mask, src_group_mask, {},
          "mask for sources: dotted, also non-contiguous, or /24");
ABSL_FLAG(ctacct::Mask, dst_group_mask, {},
          "mask for destinations: dotted, also non-contiguous, or /24");
ABSL_FLAG(ctacct::Address, exclude_ip, {}, "leave out flows from or to this address");
ABSL_FLAG(bool, include_icmp, false, "account ICMP too");
ABSL_FLAG(std::string, ports, "",
          "file of protocol:port lines; other ports are summed as -1; re-read when it changes");
ABSL_FLAG(ctacct::IntervalSeconds, interval, {15},
          "seconds for which traffic is summed, aligned to the epoch");
ABSL_FLAG(bool, track_open, false, "tell the number of connections open at each interval's end");
ABSL_FLAG(ctacct::MaxRows, max_rows, {static_cast<int>(ctacct::RowLimit::kDefault)},
          "rows of an interval; of more, as in a scan, the smallest are summed as one: 0.0.0.0 to "
          "0.0.0.0, protocol 0, port -1");
ABSL_FLAG(std::string, pipe, "", "FIFO to make and write rows to, a line each (for Telegraf)");
ABSL_FLAG(ctacct::PipeFormat, pipe_format, {},
          "lines of the FIFO: csv, or influx (line protocol, with -gateway as a tag)");
ABSL_FLAG(std::string, output, "",
          "folder for files; without it and -pipe, CSV goes to standard output");
ABSL_FLAG(std::string, state, "",
          "folder of the checkpoint and the lock, for one engine at a time; with -output, live "
          "(default: $STATE_DIRECTORY, which a service has, else .ctacct in the output folder)");
ABSL_FLAG(ctacct::OutputFormat, output_format, {}, "files in the output folder: spool or csv");
ABSL_FLAG(ctacct::Mode, mode, {},
          "precise: births, closes and ends of flows; closes to the millisecond. light: ends and "
          "dumps only, the kernel builds almost no events; closes to the second");
ABSL_FLAG(ctacct::Workers, workers, {ctacct::DefaultWorkers()},
          "threads that account, each its share of the flows; default: CPUs, at most 4; with "
          "-record: 1");
ABSL_FLAG(ctacct::Gateway, gateway, {},
          "name of this gateway in the database; empty: the host name");
ABSL_FLAG(ctacct::User, user, {},
          "user to become, for good, with that user's groups; root: stay root (default: live and "
          "started as root, ctacct, or nobody if there is no ctacct; else the caller). Live, any "
          "user keeps CAP_NET_ADMIN only. Missing folders are made for the user, and root's empty "
          "folders and FIFOs given to it; it must be able to use all others");
ABSL_FLAG(std::string, replay, "", "capture to account instead of the kernel; needs no root");
ABSL_FLAG(std::string, record, "",
          "capture to write of all that is read from the kernel (of events: what -src, -dst and "
          "-include-icmp ask for)");
ABSL_FLAG(
    std::string, metrics_file, "",
    "file for Prometheus metrics (text format), replaced as a whole at each interval's end and "
    "when an alarm changes; everybody may read it. If it cannot be written, that is logged, "
    "and accounting goes on");
ABSL_FLAG(ctacct::ReceiveBufferBytes, receive_buffer, {128 << 20},
          "bytes of kernel memory for bursts of events, about 640 each, shared out among the "
          "workers; the kernel doubles it");

ABSL_FLAG(
    bool, reliable, false,
    "no event is lost for want of receive buffer: the kernel keeps it and sends it again. The "
    "price: flows whose end cannot be delivered stay in conntrack's table, and a full table "
    "drops new connections; so the mode is left while the table is more than 85 % full. "
    "Other listeners may get events twice");

namespace ctacct {
namespace {

// The host's name, if none was given.
absl::StatusOr<std::string> GatewayName() {
  std::string gateway = absl::GetFlag(FLAGS_gateway).name;
  if (!gateway.empty()) return gateway;
  const absl::StatusOr<std::string> host = HostGatewayName();
  if (host.ok()) return host;
  return absl::InvalidArgumentError(
      absl::StrCat("flag -gateway: not given, and the host's name cannot be used: ",
                   std::string(host.status().message())));
}

// Root without capabilities still owns the machine's files, so a live engine does not stay root
// unless -user=root asks for it. A replay needs no special rights, and reads the caller's files: it
// keeps the caller's user.
absl::Status FillUser(Config* config) {
  const User asked = absl::GetFlag(FLAGS_user);
  if (!asked.name.empty()) {
    config->user = asked.account;
    return absl::OkStatus();
  }
  if (!config->live() || geteuid() != 0) return absl::OkStatus();
  const absl::StatusOr<UserAccount> account = UnprivilegedUser();
  if (!account.ok()) {
    return absl::InvalidArgumentError(
        "flag -user: not given, and there is neither a user ctacct nor nobody to become; name one "
        "(root stays root)");
  }
  config->user = *account;
  return absl::OkStatus();
}

std::string StateFolder(const std::string& output) {
  const std::string given = absl::GetFlag(FLAGS_state);
  if (!given.empty()) return given;
  // systemd's; a service with several gets all of them, with colons.
  const char* const of_service = getenv("STATE_DIRECTORY");
  const std::string first =
      of_service == nullptr ? "" : std::string(of_service, strcspn(of_service, ":"));
  return first.empty() ? absl::StrCat(output, "/.ctacct") : first;
}

}  // namespace

absl::StatusOr<Config> ConfigFromFlags(const CommandLine& line) {
  if (!line.arguments.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("unexpected argument ", QuotedForLog(line.arguments[0])));
  }
  Config config;
  AccountingRules& rules = config.rules;
  rules.src = absl::GetFlag(FLAGS_src).cidr;
  rules.dst = absl::GetFlag(FLAGS_dst).cidr;
  rules.src_group_mask = absl::GetFlag(FLAGS_src_group_mask).mask;
  rules.dst_group_mask = absl::GetFlag(FLAGS_dst_group_mask).mask;
  rules.exclude = absl::GetFlag(FLAGS_exclude_ip).address;
  rules.interval_ns = absl::GetFlag(FLAGS_interval).value * kIntervalUnitNs;
  rules.include_icmp = absl::GetFlag(FLAGS_include_icmp);
  rules.track_open = absl::GetFlag(FLAGS_track_open);
  config.rows_max = static_cast<size_t>(absl::GetFlag(FLAGS_max_rows).value);
  config.light = absl::GetFlag(FLAGS_mode).second;
  config.reliable = absl::GetFlag(FLAGS_reliable);
  config.receive_buffer_bytes = static_cast<size_t>(absl::GetFlag(FLAGS_receive_buffer).value);
  config.ports = absl::GetFlag(FLAGS_ports);
  config.output = absl::GetFlag(FLAGS_output);
  if (!config.output.empty()) config.state = StateFolder(config.output);
  config.pipe = absl::GetFlag(FLAGS_pipe);
  config.metrics_file = absl::GetFlag(FLAGS_metrics_file);
  config.replay = absl::GetFlag(FLAGS_replay);
  config.record = absl::GetFlag(FLAGS_record);
  config.csv_files = absl::GetFlag(FLAGS_output_format).second;
  config.influx_lines = absl::GetFlag(FLAGS_pipe_format).second;
  if (absl::Status status = FillUser(&config); !status.ok()) return status;
  if (!config.live() && !config.record.empty()) {
    return absl::InvalidArgumentError("flag -record: a replay is a capture already");
  }
  // A recording has one order of what was read.
  if (config.record.empty())
    config.workers = static_cast<size_t>(absl::GetFlag(FLAGS_workers).value);
  const absl::StatusOr<std::string> gateway = GatewayName();
  if (!gateway.ok()) return gateway.status();
  config.gateway = *gateway;
  if (config.influx_lines) {
    if (absl::Status status = CheckInfluxGateway(config.gateway); !status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("flag -gateway: with -pipe-format=influx, ", std::string(status.message())));
    }
  }
  return config;
}

}  // namespace ctacct
