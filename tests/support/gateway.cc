#include "tests/support/gateway.h"

#include <arpa/inet.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/support/conditions.h"

namespace ctacct {
namespace {

// Up takes a second until the links are up; two cores may be busy.
constexpr absl::Duration kScriptMax = absl::Seconds(60);
// `conntrack -L` of two million flows takes some eight seconds.
constexpr absl::Duration kListMax = absl::Seconds(60);
// Names are "ctt<pid>x<number>": the process is the owner, and a gateway whose owner has ended is
// removed.
constexpr const char* kNamePrefix = "ctt";
// A difference has more lines than anybody reads.
constexpr int kDifferencesShown = 5;

std::vector<std::string> Script(const std::string& action, const std::string& name) {
  return {DataPath("tests/support/gateway.sh"), action, name};
}

// Takes down gateways whose process is gone. Best effort: a failure shows when a name or a limit is
// in the way.
void RemoveLeftovers() {
  std::set<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/run/netns", error)) {
    const std::string name = entry.path().filename();
    int pid = 0, number = 0;
    if (!absl::StartsWith(name, kNamePrefix) ||
        std::sscanf(name.c_str() + std::strlen(kNamePrefix), "%dx%d-", &pid, &number) != 2) {
      continue;
    }
    if (kill(pid, 0) == 0 || errno != ESRCH) continue;
    names.insert(name.substr(0, name.find('-')));
  }
  for (const std::string& name : names) {
    RunProcessOrError(Script("down", name), kScriptMax).IgnoreError();
  }
}

// Value of the `n`th "NAME=VALUE" in a line of conntrack, n from 0.
std::string Field(const std::string& line, const std::string& name, int n) {
  const std::string wanted = absl::StrCat(" ", name, "=");
  size_t position = 0;
  for (int i = 0; i <= n; ++i) {
    position = line.find(wanted, position);
    if (position == std::string::npos) return "";
    position += wanted.size();
  }
  return line.substr(position, line.find(' ', position) - position);
}

absl::Status BadLine(const std::string& what, const std::string& line) {
  return absl::InvalidArgumentError(absl::StrCat(what, ": cannot be read: ", line));
}

std::vector<std::string> Inside(const std::string& network_namespace,
                                const std::vector<std::string>& argv) {
  std::vector<std::string> inside = {"ip", "netns", "exec", network_namespace};
  inside.insert(inside.end(), argv.begin(), argv.end());
  return inside;
}

// Bazel's PATH for tests does not include the folders of conntrack and nft.
SubprocessOptions WithAdministratorsPath(SubprocessOptions options) {
  const char* path = std::getenv("PATH");
  options.environment.try_emplace(
      "PATH", absl::StrCat(path != nullptr ? path : "/usr/bin:/bin", ":/usr/sbin:/sbin"));
  return options;
}

// How many tuples a run with these flags takes, at most.
uint64_t FlowsAskedFor(const std::vector<std::string>& flags) {
  uint64_t flows = 0;
  for (const std::string& flag : flags) {
    const std::vector<std::string> parts = absl::StrSplit(flag, '=');
    for (const char* name : {"--tcp", "--udp", "--icmp", "--open-tcp"}) {
      uint64_t value = 0;
      if (parts.size() == 2 && parts[0] == name && absl::SimpleAtoi(parts[1], &value))
        flows += value;
    }
  }
  return flows;
}

std::string WhyNoGateway() {
  const auto finished = RunProcess({DataPath("tests/support/gateway.sh"), "check"}, kScriptMax);
  if (!finished.ok()) return std::string(finished.status().message());
  if (finished->exit.ok()) return "";
  return std::string(absl::StripAsciiWhitespace(finished->err));
}

}  // namespace

std::string AddressText(uint32_t address) {
  return absl::StrCat(address >> 24, ".", address >> 16 & 255, ".", address >> 8 & 255, ".",
                      address & 255);
}

absl::StatusOr<uint32_t> ParseAddress(const std::string& text) {
  in_addr address;
  if (inet_pton(AF_INET, text.c_str(), &address) != 1) return BadLine("address", text);
  return ntohl(address.s_addr);
}

std::string TrafficKey::ToString() const {
  return absl::StrCat(protocol, " ", AddressText(src), " ", AddressText(dst), " ", port);
}

TrafficTotals& TrafficTotals::operator+=(const TrafficTotals& other) {
  packets_src += other.packets_src;
  packets_dst += other.packets_dst;
  bytes_src += other.bytes_src;
  bytes_dst += other.bytes_dst;
  connection_count += other.connection_count;
  open_connections += other.open_connections;
  return *this;
}

std::string TrafficTotals::ToString() const {
  return absl::StrCat("packets ", packets_src, "/", packets_dst, " bytes ", bytes_src, "/",
                      bytes_dst, " closed ", connection_count, " open ", open_connections);
}

std::string Difference(const Traffic& expected, const Traffic& actual) {
  int differences = 0;
  std::string shown;
  const auto add = [&](const TrafficKey& key, const std::string& wanted, const std::string& got) {
    if (++differences > kDifferencesShown) return;
    absl::StrAppend(&shown, "\n  ", key.ToString(), ": expected ", wanted, ", got ", got);
  };
  for (const auto& [key, sums] : expected) {
    const auto found = actual.find(key);
    if (found == actual.end()) {
      add(key, sums.ToString(), "nothing");
    } else if (found->second != sums) {
      add(key, sums.ToString(), found->second.ToString());
    }
  }
  for (const auto& [key, sums] : actual) {
    if (!expected.contains(key)) add(key, "nothing", sums.ToString());
  }
  if (differences == 0) return "";
  return absl::StrCat(differences, " keys differ; all in all expected ", Total(expected).ToString(),
                      ", got ", Total(actual).ToString(), shown);
}

TrafficTotals Total(const Traffic& traffic) {
  TrafficTotals total;
  for (const auto& [key, sums] : traffic) total += sums;
  return total;
}

Traffic& operator+=(Traffic& traffic, const Traffic& more) {
  for (const auto& [key, sums] : more) traffic[key] += sums;
  return traffic;
}

Traffic WhileOpen(Traffic traffic) {
  for (auto& [key, sums] : traffic) sums.open_connections = 0;
  return traffic;
}

Traffic AllClosed(Traffic traffic) {
  for (auto& [key, sums] : traffic) sums.connection_count += sums.open_connections;
  return WhileOpen(std::move(traffic));
}

Traffic WithoutConnections(Traffic traffic) {
  for (auto& [key, sums] : traffic) sums.connection_count = sums.open_connections = 0;
  return traffic;
}

Traffic Group(const Traffic& traffic, const GroupOptions& options) {
  Traffic grouped;
  for (const auto& [key, sums] : traffic) {
    const bool icmp = key.protocol == "icmp" || key.protocol == "ipv6-icmp6";
    if (icmp && !options.include_icmp) continue;
    TrafficKey group = key;
    group.src &= options.src_mask;
    group.dst &= options.dst_mask;
    if (options.ports.has_value() && !icmp && !options.ports->contains({key.protocol, key.port})) {
      group.port = -1;
    }
    grouped[group] += sums;
  }
  return grouped;
}

absl::StatusOr<Traffic> ReadExpectation(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  Traffic traffic;
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> fields = absl::StrSplit(line, ',');
    if (fields.size() != 10) return BadLine(path, line);
    const auto src = ParseAddress(fields[1]);
    const auto dst = ParseAddress(fields[2]);
    int32_t port;
    TrafficTotals sums;
    if (!src.ok() || !dst.ok() || !absl::SimpleAtoi(fields[3], &port) ||
        !absl::SimpleAtoi(fields[4], &sums.packets_src) ||
        !absl::SimpleAtoi(fields[5], &sums.packets_dst) ||
        !absl::SimpleAtoi(fields[6], &sums.bytes_src) ||
        !absl::SimpleAtoi(fields[7], &sums.bytes_dst) ||
        !absl::SimpleAtoi(fields[8], &sums.connection_count) ||
        !absl::SimpleAtoi(fields[9], &sums.open_connections)) {
      return BadLine(path, line);
    }
    traffic[{fields[0], *src, *dst, port}] += sums;
  }
  return traffic;
}

absl::StatusOr<Traffic> ParseConntrackOutput(const std::string& text, uint64_t* flows) {
  Traffic traffic;
  std::istringstream lines(text);
  uint64_t count = 0;
  for (std::string line; std::getline(lines, line);) {
    TrafficKey key;
    for (const char* protocol : {"tcp", "udp", "icmp"}) {
      // The name is followed by blanks and its number; " [DESTROY] " or the family may come before.
      if (absl::StrContains(absl::StrCat(" ", line), absl::StrCat(" ", protocol, " "))) {
        key.protocol = protocol;
        break;
      }
    }
    const auto src = ParseAddress(Field(line, "src", 0));
    const auto dst = ParseAddress(Field(line, "dst", 0));
    TrafficTotals sums;
    if (key.protocol.empty() || !src.ok() || !dst.ok() ||
        (key.protocol != "icmp" && !absl::SimpleAtoi(Field(line, "dport", 0), &key.port)) ||
        !absl::SimpleAtoi(Field(line, "packets", 0), &sums.packets_src) ||
        !absl::SimpleAtoi(Field(line, "packets", 1), &sums.packets_dst) ||
        !absl::SimpleAtoi(Field(line, "bytes", 0), &sums.bytes_src) ||
        !absl::SimpleAtoi(Field(line, "bytes", 1), &sums.bytes_dst)) {
      return BadLine("conntrack", line);
    }
    key.src = *src;
    key.dst = *dst;
    sums.connection_count = key.protocol == "tcp" ? 1 : 0;
    traffic[key] += sums;
    ++count;
  }
  if (flows != nullptr) *flows = count;
  return traffic;
}

absl::StatusOr<std::unique_ptr<Gateway>> Gateway::Up(const GatewayOptions& options) {
  static std::atomic<int> number = 0;
  RemoveLeftovers();
  const std::string name = absl::StrCat(kNamePrefix, getpid(), "x", number++);
  std::vector<std::string> argv = Script("up", name);
  if (options.nat) argv.push_back("--nat");
  if (options.ipv6) argv.push_back("--ipv6");
  argv.push_back(options.timeouts == Timeouts::kLong    ? "--timeouts=long"
                 : options.timeouts == Timeouts::kShort ? "--timeouts=short"
                                                        : "--timeouts=kernel");
  const auto done = RunProcessOrError(argv, kScriptMax);
  if (!done.ok()) return done.status();
  return std::unique_ptr<Gateway>(new Gateway(name, options.nat));
}

absl::Status Gateway::Down() {
  if (!up_) return absl::OkStatus();
  up_ = false;
  return RunProcessOrError(Script("down", name_), kScriptMax).status();
}

Gateway::~Gateway() {
  if (const absl::Status status = Down(); !status.ok()) {
    std::fprintf(stderr, "gateway %s: %s\n", name_.c_str(), std::string(status.message()).c_str());
  }
}

absl::StatusOr<std::unique_ptr<Subprocess>> Gateway::Start(const std::vector<std::string>& argv,
                                                           const SubprocessOptions& options) const {
  return Subprocess::Start(Inside(gateway_namespace(), argv), WithAdministratorsPath(options));
}

absl::StatusOr<std::string> Gateway::Run(const std::vector<std::string>& argv,
                                         absl::Duration at_most) const {
  return RunProcessOrError(Inside(gateway_namespace(), argv), at_most, WithAdministratorsPath({}));
}

absl::StatusOr<std::unique_ptr<Subprocess>> Gateway::StartPlay(
    const std::vector<std::string>& flags, const std::string& expectation_path) {
  std::vector<std::string> argv = {
      DataPath("tests/support/traffic_generator"), absl::StrCat("--gateway=", name_),
      absl::StrCat("--nat=", nat_ ? "true" : "false"), absl::StrCat("--expect=", expectation_path)};
  // A test may ask for tuples that were played before.
  if (std::none_of(flags.begin(), flags.end(),
                   [](const std::string& flag) { return flag.rfind("--first-flow=", 0) == 0; })) {
    argv.push_back(absl::StrCat("--first-flow=", flows_played_));
  }
  argv.insert(argv.end(), flags.begin(), flags.end());
  flows_played_ += FlowsAskedFor(flags);
  return Subprocess::Start(argv);
}

absl::StatusOr<Traffic> Gateway::Play(const std::vector<std::string>& flags,
                                      absl::Duration at_most) {
  const char* folder = std::getenv("TEST_TMPDIR");
  const std::string path =
      absl::StrCat(folder != nullptr ? folder : "/tmp", "/", name_, "-expectation.csv");
  auto generator = StartPlay(flags, path);
  if (!generator.ok()) return generator.status();
  const auto exit = (*generator)->Wait(at_most);
  absl::StatusOr<Traffic> traffic;
  if (!exit.ok()) {
    traffic = exit.status();
  } else if (!exit->ok()) {
    traffic = absl::InternalError(absl::StrCat(exit->ToString(), ": ", (*generator)->Stderr()));
  } else {
    traffic = ReadExpectation(path);
  }
  std::error_code ignored;
  std::filesystem::remove(path, ignored);
  return traffic;
}

absl::StatusOr<Traffic> Gateway::KernelCounters(uint64_t* flows) const {
  const auto text = Run({"conntrack", "-L"}, kListMax);
  if (!text.ok()) return text.status();
  return ParseConntrackOutput(*text, flows);
}

absl::Status Gateway::FlushConntrack() const { return Run({"conntrack", "-F"}).status(); }

void RequireRootOrSkip() {
  const std::string why = WhyNoGateway();
  if (why.empty()) return;
  CannotRun("no gateway can be made here: " + why);
}

}  // namespace ctacct
