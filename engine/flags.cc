#include "engine/flags.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/rows/bounds.h"
#include "engine/rows/gateway_name.h"
#include "engine/rows/influx_line.h"
#include "netlink/ip_text.h"
#include "netlink/ipv4_text.h"

namespace ctacct {
namespace {

constexpr int kIntervalSecondsMax = static_cast<int>(kIntervalLengthMaxNs / kIntervalUnitNs);
// SO_RCVBUFFORCE takes an int and the kernel doubles it.
constexpr int kReceiveBufferBytesMax = 1 << 30;

// Flag values of our own types are checked where they stand: on the command line or in a line of a
// flag file.
struct Networks {
  std::string text;  // Empty: every address.
  NetworkLists lists;
};
bool AbslParseFlag(absl::string_view text, Networks* networks, std::string* why) {
  networks->text = std::string(text);
  absl::StatusOr<NetworkLists> lists = ParseNetworkLists(networks->text);
  *why = std::string(lists.status().message());
  if (!lists.ok()) return false;
  networks->lists = *std::move(lists);
  return true;
}
std::string AbslUnparseFlag(const Networks& networks) { return networks.text; }

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

struct Mask6 {
  std::string text = "/128";
  Ipv6Address mask = kIpv6MaskAll;
};
bool AbslParseFlag(absl::string_view text, Mask6* mask, std::string* why) {
  mask->text = std::string(text);
  const std::optional<Ipv6Address> parsed = ParseIpv6Mask(mask->text);
  if (parsed.has_value()) mask->mask = *parsed;
  *why = "not a mask like /64 or ffff:ffff::";
  return parsed.has_value();
}
std::string AbslUnparseFlag(const Mask6& mask) { return mask.text; }

struct Addresses {
  std::string text;  // Empty: none.
  AddressLists lists;
};
bool AbslParseFlag(absl::string_view text, Addresses* addresses, std::string* why) {
  addresses->text = std::string(text);
  absl::StatusOr<AddressLists> lists = ParseAddressLists(addresses->text);
  *why = std::string(lists.status().message());
  if (!lists.ok()) return false;
  addresses->lists = *std::move(lists);
  return true;
}
std::string AbslUnparseFlag(const Addresses& addresses) { return addresses.text; }

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
struct Local {
  static constexpr const char* kWords[] = {"count", "skip"};
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

ABSL_FLAG(ctacct::Networks, src, {},
          "account only flows whose original source is in these networks: at most 16, separated by "
          "commas; a list of IPv4 networks leaves out IPv6, and the reverse (default: all)");
ABSL_FLAG(ctacct::Networks, dst, {},
          "account only flows whose original destination is in these networks; like -src");
ABSL_FLAG(ctacct::Mask, src_group_mask, {},
          "group mask for IPv4 sources: /24, or dotted, also non-contiguous");
ABSL_FLAG(ctacct::Mask, dst_group_mask, {},
          "group mask for IPv4 destinations: /24, or dotted, also non-contiguous");
ABSL_FLAG(ctacct::Mask6, src_group_mask6, {},
          "group mask for IPv6 sources: /64, or like ffff:ffff::, also non-contiguous");
ABSL_FLAG(ctacct::Mask6, dst_group_mask6, {},
          "group mask for IPv6 destinations: /64, or like ffff:ffff::, also non-contiguous");
ABSL_FLAG(ctacct::Addresses, exclude_ip, {},
          "leave out flows from or to these addresses: at most 16, separated by commas");
ABSL_FLAG(ctacct::Local, local, {},
          "skip: leave out flows that begin or end on the gateway, such as a tunnel's own packets; "
          "forwarded and translated flows stay; count: account all");
ABSL_FLAG(bool, include_icmp, false, "account ICMP and ICMPv6");
ABSL_FLAG(
    std::string, ports, "",
    "port list: a file of protocol:port lines; other ports become -1; read again when it changes");
ABSL_FLAG(ctacct::IntervalSeconds, interval, {15},
          "length of an interval in seconds, aligned to the epoch");
ABSL_FLAG(bool, track_open, false,
          "add the number of connections open at each interval's end to the rows");
ABSL_FLAG(
    ctacct::MaxRows, max_rows, {static_cast<int>(ctacct::RowLimit::kDefault)},
    "largest number of rows of an interval; of more rows (a scan), the smallest are summed by "
    "origin: destination 0.0.0.0, protocol 0, port -1");
ABSL_FLAG(std::string, pipe, "",
          "FIFO to create and write rows to, one line per row (for Telegraf)");
ABSL_FLAG(ctacct::PipeFormat, pipe_format, {},
          "format of the FIFO's lines: csv, or influx (line protocol, with -gateway as a tag)");
ABSL_FLAG(std::string, output, "",
          "folder for files of rows (default: CSV on standard output, unless -pipe is given)");
ABSL_FLAG(
    std::string, state, "",
    "folder of the checkpoint and the lock of a live engine with -output; one engine at a time "
    "(default: $STATE_DIRECTORY, set for a service; otherwise .ctacct in the output folder)");
ABSL_FLAG(ctacct::OutputFormat, output_format, {},
          "format of the files in the output folder: spool or csv");
ABSL_FLAG(
    ctacct::Mode, mode, {},
    "precise: listen to births, closes and ends of flows; closes exact to the millisecond. light: "
    "listen to ends only, which costs the kernel less; closes exact to the second");
ABSL_FLAG(
    ctacct::Workers, workers, {ctacct::DefaultWorkers()},
    "number of accounting threads, which share the flows (default: one per CPU, at most 4; with "
    "-record: 1)");
ABSL_FLAG(ctacct::Gateway, gateway, {},
          "name of this gateway in the database (default: the host name)");
ABSL_FLAG(
    ctacct::User, user, {},
    "drop privileges to this user and its groups; root: stay root (default: for a live engine "
    "started as root, ctacct if it exists, otherwise nobody; otherwise keep the current user). "
    "A live engine keeps only CAP_NET_ADMIN. Missing folders are created for the user, and "
    "root's empty folders and FIFOs are given to it; it must be able to use all others");
ABSL_FLAG(std::string, replay, "",
          "capture to account instead of the kernel's traffic; needs no root");
ABSL_FLAG(
    std::string, record, "",
    "capture to write with everything read from the kernel (only the events that -src, -dst and "
    "-include-icmp select)");
ABSL_FLAG(
    std::string, metrics_file, "",
    "file for Prometheus metrics (text format), replaced at each interval's end and when an alert "
    "changes; readable by everybody. If it cannot be written, the engine logs that and continues");
ABSL_FLAG(bool, check_flags, false,
          "check the flags, the port list, and the state folder and FIFO if they are there; change "
          "nothing, and exit");
ABSL_FLAG(ctacct::ReceiveBufferBytes, receive_buffer, {128 << 20},
          "kernel memory for bursts of events, in bytes, divided among the workers; an event takes "
          "about 640; the kernel doubles this value");

ABSL_FLAG(
    bool, reliable, false,
    "let the kernel keep events that find no room in the receive buffer and send them again. The "
    "price: flows whose end is not delivered stay in conntrack's table, and a full table drops "
    "new connections; so this is off while the table is more than 85 % full. Other listeners may "
    "get events twice");

namespace ctacct {
namespace {

// -mode and -gateway are written into spool files, also those of a replay.
constexpr FlagRule kFlagRules[] = {
    {"state output-format", FlagRule::Kind::kNeeds, "output"},
    {"pipe-format", FlagRule::Kind::kNeeds, "pipe"},
    // Of the kernel's events, and of a restart.
    {"record reliable receive-buffer state", FlagRule::Kind::kRefuses, "replay"},
};

// The host's name, if none was given.
absl::StatusOr<std::string> GatewayName() {
  std::string gateway = absl::GetFlag(FLAGS_gateway).name;
  if (!gateway.empty()) return gateway;
  const absl::StatusOr<std::string> host = HostGatewayName();
  if (host.ok()) return host;
  return absl::InvalidArgumentError(
      absl::StrCat("flag -gateway: not given, and the host name cannot be used: ",
                   std::string(host.status().message())));
}

// If a list names networks, a family of which it names none is left out.
template <typename Address>
CidrList<Address> CidrsOf(const std::vector<Cidr<Address>>& networks, const NetworkLists& all) {
  const bool is_given = !all.ipv4.empty() || !all.ipv6.empty();
  return is_given ? CidrList<Address>(networks) : CidrList<Address>();
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
        "flag -user: not given, and neither user ctacct nor user nobody exists; name a user (root: "
        "stay root)");
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
  if (absl::Status status = CheckFlagRules(kFlagRules); !status.ok()) return status;
  Config config;
  config.check_only = absl::GetFlag(FLAGS_check_flags);
  AccountingRules& rules = config.rules;
  const NetworkLists src = absl::GetFlag(FLAGS_src).lists;
  const NetworkLists dst = absl::GetFlag(FLAGS_dst).lists;
  rules.ipv4.src = CidrsOf(src.ipv4, src);
  rules.ipv6.src = CidrsOf(src.ipv6, src);
  rules.ipv4.dst = CidrsOf(dst.ipv4, dst);
  rules.ipv6.dst = CidrsOf(dst.ipv6, dst);
  rules.ipv4.src_group_mask = absl::GetFlag(FLAGS_src_group_mask).mask;
  rules.ipv4.dst_group_mask = absl::GetFlag(FLAGS_dst_group_mask).mask;
  rules.ipv6.src_group_mask = absl::GetFlag(FLAGS_src_group_mask6).mask;
  rules.ipv6.dst_group_mask = absl::GetFlag(FLAGS_dst_group_mask6).mask;
  const AddressLists exclude = absl::GetFlag(FLAGS_exclude_ip).lists;
  rules.ipv4.exclude = AddressList<Ipv4Address>(exclude.ipv4);
  rules.ipv6.exclude = AddressList<Ipv6Address>(exclude.ipv6);
  rules.interval_ns = absl::GetFlag(FLAGS_interval).value * kIntervalUnitNs;
  rules.skip_local = absl::GetFlag(FLAGS_local).second;
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
  if (!config.live() && rules.skip_local) {
    return absl::InvalidArgumentError(
        "flag -local=skip: a capture does not contain the gateway's addresses; use -exclude-ip");
  }
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
