// A VPN gateway as providers have it: WireGuard and OpenVPN, real programs that talk over TCP and
// UDP both ways, translation to the world. The rows are what conntrack counted; and what conntrack
// counted is compared with the tunnel's own counters and the interface's, with each difference
// explained. Also what our own machine's kernel does not have: flowtables, nlmon, older iptables.
// Runs in a machine of vm.sh, under Debian's stock kernels.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <iostream>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/spool/names_file.h"
#include "engine/system/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/conditions.h"
#include "tests/support/engine_output.h"
#include "tests/support/files.h"
#include "tests/support/gateway.h"
#include "tests/support/imported.h"
#include "tests/support/private_postgres.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

constexpr absl::Duration kScriptMax = absl::Seconds(120);
constexpr int64_t kIntervalNs = 1'000'000'000;
// IPv4 and UDP; IPv4 and TCP with time stamps.
constexpr uint64_t kUdpHeaderBytes = 28;
constexpr uint64_t kTcpHeaderBytes = 52;
constexpr uint64_t kMtu = 1500;
// All that ctacct-names has to say.
constexpr const char* kNamesStarted = "names: started; networks named: [0-9]+; [^\n]*\n";

// Answers each datagram; and a client that waits for each answer.
constexpr const char* kUdpEcho =
    "import socket\n"
    "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "s.bind(('0.0.0.0', 7000))\n"
    "print('listening', flush=True)\n"
    "while True:\n"
    "  data, peer = s.recvfrom(2000)\n"
    "  s.sendto(data, peer)\n";
constexpr const char* kUdpClient =
    "import socket, sys\n"
    "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "s.settimeout(20)\n"
    "for i in range(100):\n"
    "  s.sendto(b'x' * (10 * i), (sys.argv[1], 7000))\n"
    "  s.recvfrom(2000)\n";

// Packets and bytes one way.
struct Count {
  uint64_t packets = 0;
  uint64_t bytes = 0;

  Count& operator+=(const Count& other) {
    packets += other.packets;
    bytes += other.bytes;
    return *this;
  }
  std::string ToString() const { return absl::StrCat(packets, " packets ", bytes, " bytes"); }
};

Count Original(const TrafficTotals& totals) { return {totals.packets_src, totals.bytes_src}; }
Count Reply(const TrafficTotals& totals) { return {totals.packets_dst, totals.bytes_dst}; }

class SiteTest : public testing::Test {
 protected:
  SiteTest() : temporary_("site"), folder_(temporary_.path()) {}

  void SetUp() override {
    RequireRootOrSkip();
    std::filesystem::create_directory(spool());
    std::filesystem::permissions(folder_, std::filesystem::perms(0777));
    std::filesystem::permissions(spool(), std::filesystem::perms(0777));
  }
  void TearDown() override {
    engine_.reset();
    names_.reset();
    programs_.clear();
    RunProcessOrError({DataPath("tests/kernels/site.sh"), "down"}, kScriptMax).IgnoreError();
  }

  std::string spool() const { return folder_ + "/spool"; }

  static void Site(const std::vector<std::string>& arguments) {
    const auto done =
        RunProcessOrError(Joined({{DataPath("tests/kernels/site.sh")}, arguments}), kScriptMax);
    ASSERT_TRUE(done.ok()) << done.status();
  }

  static void UpDirect() {
    ASSERT_NO_FATAL_FAILURE(Site({"up"}));
    ASSERT_NO_FATAL_FAILURE(Site({"direct"}));
  }

  static std::vector<std::string> In(const std::string& name,
                                     const std::vector<std::string>& argv) {
    return Joined({{"ip", "netns", "exec", "ctacct-site-" + name}, argv});
  }
  // To its end, and its output; a failure is the test's.
  static std::string Run(const std::string& name, const std::vector<std::string>& argv) {
    const auto out = RunProcessOrError(In(name, argv), kScriptMax);
    EXPECT_TRUE(out.ok()) << out.status();
    return out.value_or("");
  }
  // Until the end of the test, once it says that it is ready.
  void Serve(const std::string& name, const std::vector<std::string>& argv,
             const std::string& ready) {
    auto program = Subprocess::Start(In(name, argv));
    ASSERT_TRUE(program.ok()) << program.status();
    const absl::Status said = (*program)->WaitForOutput(ready, kPatience);
    ASSERT_TRUE(said.ok()) << said;
    programs_.push_back(*std::move(program));
  }

  void StartEngine(const std::vector<std::string>& flags = {}, int64_t interval_s = 1) {
    auto engine = Subprocess::Start(
        In("gw", Joined({{DataPath("engine/engine"), absl::StrCat("-interval=", interval_s),
                          "-gateway=gw", "-output=" + spool()},
                         flags})));
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
    const absl::Status live = engine_->WaitForOutput("accounting live", kPatience);
    ASSERT_TRUE(live.ok()) << live;
  }
  void StopEngine() {
    ASSERT_TRUE(engine_->Signal(SIGTERM).ok());
    const auto exit = engine_->Wait(kPatience);
    ASSERT_TRUE(exit.ok() && exit->ok()) << engine_->Stderr();
  }

  void StartNames(const std::vector<std::string>& flags) {
    auto names = Subprocess::Start(
        In("gw",
           Joined({{DataPath("engine/names/names"), "-gateway=gw", "-output=" + spool()}, flags})));
    ASSERT_TRUE(names.ok()) << names.status();
    names_ = *std::move(names);
  }
  // The holders become these: "10.32.0.11/32 one".
  void ExpectHolders(const std::vector<std::string>& expected) const {
    std::vector<std::string> now;
    EXPECT_TRUE(Eventually([&] {
      now.clear();
      const std::string path = spool() + "/current.names";
      const absl::StatusOr<NamesSnapshot> snapshot =
          ParseNames(std::filesystem::exists(path) ? ReadFile(path) : "", path);
      for (const NamesEntry& entry : snapshot.value_or(NamesSnapshot()).entries) {
        now.push_back(absl::StrCat(NetworkText(entry.network), " ", entry.name));
      }
      return now == expected;
    })) << absl::StrJoin(now, "\n")
        << "\n"
        << names_->Stderr();
  }
  // Of the spool, in the order of writing: whole, and without a hole.
  std::vector<NamesSnapshot> StopNames() {
    EXPECT_TRUE(names_->Signal(SIGTERM).ok());
    const auto exit = names_->Wait(kPatience);
    EXPECT_TRUE(exit.ok() && exit->ok()) << names_->Stderr();
    std::vector<NamesSnapshot> snapshots;
    for (const std::string& path : VisibleFilesIn(spool())) {
      if (!absl::EndsWith(path, kNamesFileEnd) || absl::EndsWith(path, kCurrentNamesFile)) continue;
      const absl::StatusOr<NamesSnapshot> snapshot = ParseNames(ReadFile(path), path);
      EXPECT_TRUE(snapshot.ok()) << snapshot.status();
      snapshots.push_back(snapshot.value_or(NamesSnapshot()));
      EXPECT_EQ(snapshots.back().sequence, snapshots.size());
    }
    return snapshots;
  }

  // The customer's OpenVPN connects again.
  static void HangUp(const std::string& folder, const std::string& name) {
    int pid = 0;
    ASSERT_TRUE(absl::SimpleAtoi(
        absl::StripAsciiWhitespace(ReadFile(absl::StrCat(folder, "/", name, ".pid"))), &pid));
    ASSERT_EQ(kill(pid, SIGHUP), 0) << name;
  }

  void StartServers() {
    WriteFile(folder_ + "/page", std::string(500'000, 'p'));
    ASSERT_NO_FATAL_FAILURE(
        Serve("world", {"python3", "-u", "-m", "http.server", "8000", "--directory", folder_},
              "Serving HTTP"));
    // It goes into the background when it listens, out of reach of Run.
    for (const char* name : {"one", "two"}) {
      Run(name, {"setsid", "--wait", "busybox", "httpd", "-p", "8000", "-h", folder_});
    }
    ASSERT_NO_FATAL_FAILURE(Serve("world", {"python3", "-c", kUdpEcho}, "listening"));
    ASSERT_NO_FATAL_FAILURE(
        Serve("world", {"iperf3", "--server", "--forceflush"}, "Server listening"));
  }
  static void Fetch(const std::string& name, const std::string& url) {
    EXPECT_EQ(Run(name, {"curl", "-sS", "--max-time", "100", "-o", "/dev/null", "-w",
                         "%{size_download}", url}),
              "500000");
  }
  static void PlayPrograms(const std::string& address_of_two) {
    for (const char* name : {"one", "two"}) {
      Fetch(name, "http://198.51.100.2:8000/page");
      Run(name, {"python3", "-c", kUdpClient, "198.51.100.2"});
    }
    Run("one", {"iperf3", "-c", "198.51.100.2", "-n", "1M"});
    Run("two", {"iperf3", "-c", "198.51.100.2", "-n", "1M", "--reverse"});
    Run("two", {"iperf3", "-c", "198.51.100.2", "-n", "200K", "-u", "-b", "4M"});
    Fetch("one", absl::StrCat("http://", address_of_two, ":8000/page"));
  }

  // The engine runs before the tunnel is there, whose interface and addresses come later.
  void PlayTunnel(const std::string& kind, const std::vector<std::string>& engine_flags = {}) {
    ASSERT_NO_FATAL_FAILURE(Site({"up"}));
    ASSERT_NO_FATAL_FAILURE(StartEngine(engine_flags));
    ASSERT_NO_FATAL_FAILURE(Site({kind, folder_}));
    ASSERT_NO_FATAL_FAILURE(StartServers());
    PlayPrograms("10.32.0.12");
    Fetch("world", "http://198.51.100.1:8080/page");
  }

  // Without the flows that begin or end on the gateway: what moves in the tunnel.
  static Traffic Inner(Traffic kernel) {
    const uint32_t locals[] = {*ParseAddress("192.168.1.1"), *ParseAddress("192.168.2.1"),
                               *ParseAddress("198.51.100.1"), *ParseAddress("10.32.0.1")};
    const auto is_local = [&locals](uint32_t address) {
      return std::find(std::begin(locals), std::end(locals), address) != std::end(locals);
    };
    std::erase_if(kernel, [&](const auto& flow) {
      const auto& key = flow.first;
      const bool is_translated = key.protocol == "tcp" && key.port == 8080;
      return is_local(key.src) || (is_local(key.dst) && !is_translated);
    });
    return kernel;
  }
  void ExpectRowsAreInnerOnly(const std::string& tunnel) {
    ASSERT_NO_FATAL_FAILURE(PlayTunnel(tunnel, {"-local=skip"}));
    Traffic kernel, inner;
    EXPECT_TRUE(Eventually([&] {
      kernel = Kernel();
      inner = Inner(kernel);
      return Written() == inner;
    })) << Difference(inner, Written());
    StopEngine();
    // There was something to skip, and the translated flows are not among it.
    EXPECT_LT(inner.size(), kernel.size());
    EXPECT_GT(Total(inner).bytes_dst, 2'500'000u);
    EXPECT_EQ(Written(), inner);
  }

  // What conntrack has counted since the gateway came up: no flow has ended.
  Traffic Kernel() const {
    const auto traffic = ParseConntrackOutput(Run("gw", {"conntrack", "-L"}));
    EXPECT_TRUE(traffic.ok()) << traffic.status();
    return WithoutConnections(traffic.value_or(Traffic()));
  }
  Traffic Written() const { return WithoutConnections(ReadSpool(spool()).traffic); }

  // The rows become what the kernel has counted, and all of it. A tunnel is never silent for long.
  Traffic ExpectRowsBecomeKernels() {
    Traffic kernel;
    EXPECT_TRUE(Eventually([&] {
      kernel = Kernel();
      return Written() == kernel;
    })) << Difference(kernel, Written());
    return kernel;
  }
  // The same, and nothing has happened to doubt it.
  Traffic ExpectRowsEqualKernel() {
    const Traffic kernel = ExpectRowsBecomeKernels();
    for (const SpoolHeader& header : ReadSpool(spool()).headers) {
      EXPECT_EQ(header.completeness, Completeness::kComplete);
    }
    return kernel;
  }

  static Count Interface(const std::string& name, const std::string& direction) {
    Count count;
    const std::string path = absl::StrCat("/sys/class/net/", name, "/statistics/", direction);
    // /sys shows the interfaces of the namespace of the process that mounted it: `ip netns exec`
    // does.
    for (const auto& [what, number] :
         {std::pair{"_packets", &count.packets}, std::pair{"_bytes", &count.bytes}}) {
      EXPECT_TRUE(absl::SimpleAtoi(
          absl::StripAsciiWhitespace(Run("gw", {"cat", absl::StrCat(path, what)})), number));
    }
    return count;
  }

  // Datagrams that the socket of this port had no room for: the last column of /proc/net/udp.
  static uint64_t UdpDrops(const std::string& name, uint16_t port) {
    uint64_t drops = 0;
    for (absl::string_view line :
         absl::StrSplit(Run(name, {"cat", "/proc/self/net/udp"}), '\n', absl::SkipEmpty())) {
      const std::vector<absl::string_view> fields =
          absl::StrSplit(line, ' ', absl::SkipWhitespace());
      uint64_t number = 0;
      if (absl::EndsWith(fields[1], absl::StrFormat(":%04X", port)) &&
          absl::SimpleAtoi(fields.back(), &number)) {
        drops += number;
      }
    }
    return drops;
  }

  // What flows through a tunnel's interface are by conntrack: into the gateway, and out of it.
  static std::pair<Count, Count> Inside(const Traffic& kernel) {
    Count in, out;
    const uint32_t network = 0xffffff00, tunnel = *ParseAddress("10.32.0.0");
    for (const auto& [key, totals] : kernel) {
      // One that the world opened to the customer to whom it is translated.
      const bool to_customer =
          (key.dst & network) == tunnel || (key.protocol == "tcp" && key.port == 8080);
      if ((key.src & network) == tunnel) {
        in += Original(totals);
        out += Reply(totals);
      }
      if (to_customer) {
        out += Original(totals);
        in += Reply(totals);
      }
    }
    return {in, out};
  }

  // Offloads merge packets of a TCP stream before conntrack counts them: each that is merged away
  // has its headers once less. On the interface a packet is larger by what the tunnel adds to it.
  static void ExpectMergedOnly(const std::string& what, const Count& on_interface,
                               const Count& counted, uint64_t added_min, uint64_t added_max) {
    std::cout << what << ": interface " << on_interface.ToString() << ", conntrack "
              << counted.ToString() << "\n";
    EXPECT_GE(on_interface.packets, counted.packets) << what;
    const uint64_t merged = kTcpHeaderBytes * (on_interface.packets - counted.packets);
    EXPECT_GE(on_interface.bytes, counted.bytes + merged + added_min * on_interface.packets)
        << what;
    EXPECT_LE(on_interface.bytes, counted.bytes + merged + added_max * on_interface.packets)
        << what;
  }
  void CompareInterface(const std::string& name, uint64_t added_min, uint64_t added_max) const {
    const auto [in, out] = Inside(Kernel());
    ExpectMergedOnly(name + " received", Interface(name, "rx"), in, added_min, added_max);
    ExpectMergedOnly(name + " sent", Interface(name, "tx"), out, added_min, added_max);
  }

  // Of rows up to a time: by protocol, addresses and port, the sums of their counters. Without
  // durations, which are to the millisecond only where the kernel has timed the close.
  using Sums = std::map<std::string, std::array<uint64_t, 5>>;
  static Sums SumsUntil(const std::string& csv, int64_t until_ns) {
    Sums sums;
    for (absl::string_view line : absl::StrSplit(csv, '\n', absl::SkipEmpty())) {
      const std::vector<std::string> fields = absl::StrSplit(line, ',');
      int64_t time_ns = 0;
      EXPECT_TRUE(fields.size() > 9 && absl::SimpleAtoi(fields[0], &time_ns)) << line;
      if (fields.size() <= 9 || time_ns > until_ns) continue;
      auto& counters = sums[absl::StrJoin(fields.begin() + 1, fields.begin() + 5, ",")];
      for (size_t i = 0; i < counters.size(); ++i) {
        uint64_t value = 0;
        EXPECT_TRUE(absl::SimpleAtoi(fields[5 + i], &value)) << line;
        counters[i] += value;
      }
    }
    return sums;
  }
  static bool NoneIsMore(const Sums& some, const Sums& all) {
    return std::all_of(some.begin(), some.end(), [&](const auto& entry) {
      const auto found = all.find(entry.first);
      for (size_t i = 0; i < entry.second.size(); ++i) {
        if (entry.second[i] > (found == all.end() ? 0 : found->second[i])) return false;
      }
      return true;
    });
  }
  // The same rows; but an event that came while a dump ended may be an interval later in a replay
  // of what nlmon saw: the engine reads events and dumps by two sockets, and events first.
  static bool IsReplayOf(const std::string& live, const std::string& replayed) {
    std::set<int64_t> ends;
    for (absl::string_view line : absl::StrSplit(live, '\n', absl::SkipEmpty())) {
      int64_t time_ns = 0;
      EXPECT_TRUE(absl::SimpleAtoi(line.substr(0, line.find(',')), &time_ns)) << line;
      ends.insert(time_ns);
    }
    constexpr int64_t kForEver = std::numeric_limits<int64_t>::max();
    return SumsUntil(live, kForEver) == SumsUntil(replayed, kForEver) &&
           std::all_of(ends.begin(), ends.end(), [&](int64_t end_ns) {
             const Sums sums = SumsUntil(live, end_ns);
             return NoneIsMore(SumsUntil(replayed, end_ns), sums) &&
                    NoneIsMore(sums, SumsUntil(replayed, end_ns + kIntervalNs));
           });
  }

  // A page through a flowtable of these flags; its rows are what conntrack counted.
  TrafficTotals FetchByFlowtable(const std::string& flags) {
    UpDirect();
    Run("gw", {"nft", absl::StrCat("table ip fast { flowtable f { hook ingress priority 0; ",
                                   "devices = { to-one, to-world }; ", flags,
                                   " }; chain forward { type filter hook forward priority 1; ",
                                   "ip protocol tcp flow add @f; }; }")});
    StartEngine();
    StartServers();
    Fetch("one", "http://198.51.100.2:8000/page");
    const TrafficTotals all = Total(ExpectRowsEqualKernel());
    StopEngine();
    std::cout << "conntrack " << Original(all).ToString() << ", " << Reply(all).ToString() << "\n";
    return all;
  }

  // In the gateway: what it says of the rules that are there.
  std::string Doctor() const {
    WriteFile(folder_ + "/engine.flags", "output=" + spool() + "\n");
    // It may find other things on a machine that was never set up: the exit status says nothing.
    const auto said =
        RunProcess(In("gw", {DataPath("importer/doctor/doctor"), "-probe=false",
                             "-engine=" + DataPath("engine/engine"),
                             "-engine-flags=" + folder_ + "/engine.flags", "-importer-flags="}),
                   kScriptMax);
    EXPECT_TRUE(said.ok()) << said.status();
    return said.ok() ? said->out + said->err : "";
  }

 private:
  const TestFolder temporary_;

 protected:
  const std::string folder_;
  std::unique_ptr<Subprocess> engine_;
  std::unique_ptr<Subprocess> names_;
  std::vector<std::unique_ptr<Subprocess>> programs_;
};

// WireGuard counts what is in its datagrams: conntrack's bytes of the tunnel's own flow, less the
// headers of IP and UDP.
TEST_F(SiteTest, WireGuard) {
  ASSERT_NO_FATAL_FAILURE(PlayTunnel("wireguard"));
  ExpectRowsEqualKernel();
  // wg0 counts what is encrypted: 32 bytes more for each packet, and up to 15 that fill it up.
  CompareInterface("wg0", 32, 47);
  for (const std::string name : {"one", "two"}) {
    const std::string key(absl::StripAsciiWhitespace(ReadFile(folder_ + "/" + name + ".pub")));
    const uint32_t customer = *ParseAddress(name == "one" ? "192.168.1.2" : "192.168.2.2");
    const uint32_t gateway = *ParseAddress(name == "one" ? "192.168.1.1" : "192.168.2.1");
    uint64_t received = 0, sent = 0;
    TrafficTotals flow;
    // A keepalive may come between the two.
    const bool equal = Eventually(
        [&] {
          flow = Kernel()[{"udp", customer, gateway, 51820}];
          for (absl::string_view line :
               absl::StrSplit(Run("gw", {"wg", "show", "wg0", "transfer"}), '\n')) {
            const std::vector<std::string> fields = absl::StrSplit(line, '\t');
            if (fields.size() != 3 || fields[0] != key) continue;
            EXPECT_TRUE(absl::SimpleAtoi(fields[1], &received));
            EXPECT_TRUE(absl::SimpleAtoi(fields[2], &sent));
          }
          return received == flow.bytes_src - kUdpHeaderBytes * flow.packets_src &&
                 sent == flow.bytes_dst - kUdpHeaderBytes * flow.packets_dst;
        },
        absl::Seconds(20));
    std::cout << name << ": wg show transfer received " << received << " sent " << sent
              << "; conntrack " << Original(flow).ToString() << ", " << Reply(flow).ToString()
              << "\n";
    EXPECT_TRUE(equal) << name;
  }
  StopEngine();
}

// Who holds which address, by the kernel's WireGuard: while two peers exchange their addresses,
// and with a peer whose networks fill several messages.
TEST_F(SiteTest, NamesOfWireGuard) {
  ASSERT_NO_FATAL_FAILURE(Site({"up"}));
  ASSERT_NO_FATAL_FAILURE(Site({"wireguard", folder_}));
  const auto key = [this](const std::string& name) {
    return std::string(absl::StripAsciiWhitespace(ReadFile(folder_ + "/" + name + ".pub")));
  };
  WriteFile(folder_ + "/peers.csv", absl::StrCat("publickey,name\n", key("one"), ",one\n"));
  std::filesystem::permissions(folder_ + "/peers.csv", std::filesystem::perms(0644));
  ASSERT_NO_FATAL_FAILURE(
      StartNames({"-wireguard=all", "-wireguard-names=" + folder_ + "/peers.csv"}));
  const std::string two = key("two").substr(0, 8);
  ExpectHolders({"10.32.0.11/32 one", "10.32.0.12/32 " + two});
  Run("gw", {"wg", "set", "wg0", "peer", key("one"), "allowed-ips", "10.32.0.12/32", "peer",
             key("two"), "allowed-ips", "10.32.0.11/32"});
  ExpectHolders({"10.32.0.11/32 " + two, "10.32.0.12/32 one"});
  WriteFile(folder_ + "/peers.csv", absl::StrCat(key("one"), ",one\n", key("two"), ",two\n"));
  ExpectHolders({"10.32.0.11/32 two", "10.32.0.12/32 one"});
  std::vector<std::string> many, expected = {"10.32.0.11/32 two"};
  for (int i = 0; i < 3000; ++i) {
    many.push_back(absl::StrCat("10.40.", i / 250, ".", i % 250, "/32"));
    expected.push_back(many.back() + " one");
  }
  Run("gw", {"wg", "set", "wg0", "peer", key("one"), "allowed-ips", absl::StrJoin(many, ",")});
  ExpectHolders(expected);
  Run("gw", {"wg", "set", "wg0", "peer", key("one"), "remove"});
  ExpectHolders({"10.32.0.11/32 two"});
  EXPECT_THAT(names_->Stderr(), MatchesRegex(kNamesStarted));
  EXPECT_EQ(StopNames().size(), 5u);
}

// OpenVPN's device counts IP packets. Its status counts what is in its datagrams, like WireGuard. A
// datagram that found its socket's buffer full, on a slow machine, was counted by conntrack and
// never seen by OpenVPN: the kernel says how many.
TEST_F(SiteTest, OpenVpn) {
  ASSERT_NO_FATAL_FAILURE(PlayTunnel("openvpn"));
  ExpectRowsEqualKernel();
  CompareInterface("tun0", 0, 0);
  for (const std::string name : {"one", "two"}) {
    const uint32_t customer = *ParseAddress(name == "one" ? "192.168.1.2" : "192.168.2.2");
    const uint32_t gateway = *ParseAddress(name == "one" ? "192.168.1.1" : "192.168.2.1");
    const TrafficTotals flow = Kernel()[{"udp", customer, gateway, 1194}];
    const uint64_t in = flow.bytes_src - kUdpHeaderBytes * flow.packets_src;
    const uint64_t out = flow.bytes_dst - kUdpHeaderBytes * flow.packets_dst;
    uint64_t received = 0, sent = 0, dropped = 0;
    // The first datagram each way is in neither: the server answers it before it knows a client.
    const bool agrees = Eventually(
        [&] {
          dropped = UdpDrops("gw", 1194);
          for (absl::string_view line : absl::StrSplit(ReadFile(folder_ + "/status"), '\n')) {
            const std::vector<std::string> fields = absl::StrSplit(line, ',');
            if (fields.size() < 7 || fields[0] != "CLIENT_LIST" || fields[1] != name) continue;
            EXPECT_TRUE(absl::SimpleAtoi(fields[5], &received));
            EXPECT_TRUE(absl::SimpleAtoi(fields[6], &sent));
          }
          return received < in && received + 100 + kMtu * dropped > in && sent < out &&
                 sent + 100 > out;
        },
        absl::Seconds(20));
    std::cout << name << ": OpenVPN's status received " << received << " sent " << sent
              << "; conntrack without headers " << in << ", " << out << "; " << dropped
              << " datagrams dropped for want of buffer\n";
    EXPECT_TRUE(agrees) << name;
  }
  StopEngine();
}

// Who holds which address, by the status file that OpenVPN writes: while two clients exchange their
// addresses.
TEST_F(SiteTest, NamesOfOpenVpn) {
  ASSERT_NO_FATAL_FAILURE(Site({"up"}));
  ASSERT_NO_FATAL_FAILURE(Site({"openvpn", folder_}));
  // OpenVPN's file is root's alone.
  ASSERT_NO_FATAL_FAILURE(StartNames({"-openvpn-status=" + folder_ + "/status", "-user=root"}));
  ExpectHolders({"10.32.0.11/32 one", "10.32.0.12/32 two"});
  std::filesystem::rename(folder_ + "/clients/one", folder_ + "/clients/other");
  std::filesystem::rename(folder_ + "/clients/two", folder_ + "/clients/one");
  std::filesystem::rename(folder_ + "/clients/other", folder_ + "/clients/two");
  const int64_t exchanged_ns = absl::ToUnixNanos(absl::Now());
  ASSERT_NO_FATAL_FAILURE(HangUp(folder_, "one"));
  ASSERT_NO_FATAL_FAILURE(HangUp(folder_, "two"));
  ExpectHolders({"10.32.0.11/32 two", "10.32.0.12/32 one"});
  const std::vector<NamesSnapshot> snapshots = StopNames();
  ASSERT_GE(snapshots.size(), 2u);
  // From the second in which they came back.
  for (const NamesEntry& entry : snapshots.back().entries) {
    ASSERT_TRUE(entry.from_ns.has_value());
    EXPECT_GE(*entry.from_ns, exchanged_ns - 1'000'000'000);
    EXPECT_LE(*entry.from_ns, snapshots.back().time_ns);
  }
}

// Three peers of WireGuard and three clients of OpenVPN send to each other and to the world, while
// their addresses are handed on: each gets that of the next one. Who sent what is known here, by
// interval and address; the database says by name what it was.
class NamesUnderTrafficTest : public SiteTest {
 protected:
  static constexpr int64_t kIntervalS = 20;
  // Within an interval: long after the dump of the one before has begun, and long before its own.
  static constexpr absl::Duration kPlaysFrom = absl::Seconds(1);
  static constexpr absl::Duration kPlaysTo = absl::Seconds(16);
  static constexpr uint16_t kPort = 7000;

  struct Customer {
    std::string name;
    std::string address;
    bool is_up = true;
    UniqueFd client = {};  // Bound to the address.
    UniqueFd server = {};  // Port kPort.
  };
  // An address changes hands at some moment between the two.
  struct Change {
    std::string address;
    std::string to;
    absl::Time begun;
    absl::Time done;
  };
  using Key =
      std::tuple<int64_t, std::string, std::string>;  // Interval's end in seconds, src, dst.

  static int64_t IntervalEnd(absl::Time time) {
    return (absl::ToUnixSeconds(time) / kIntervalS + 1) * kIntervalS;
  }
  static absl::Duration SinceIntervalBegan(absl::Time time) {
    return time - absl::FromUnixSeconds(IntervalEnd(time) - kIntervalS);
  }

  static sockaddr_in SocketAddress(const std::string& address, uint16_t port) {
    sockaddr_in made = {};
    made.sin_family = AF_INET;
    made.sin_port = htons(port);
    made.sin_addr.s_addr = htonl(*ParseAddress(address));
    return made;
  }
  // A UDP socket in a namespace: it stays where it was made.
  static UniqueFd Socket(const std::string& name, const std::string& address, uint16_t port) {
    UniqueFd made;
    std::thread([&] {
      const UniqueFd space(open(("/run/netns/ctacct-site-" + name).c_str(), O_RDONLY | O_CLOEXEC));
      if (setns(space.get(), CLONE_NEWNET) == 0) {
        made = UniqueFd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
      }
    }).join();
    const timeval patience = {20, 0};
    const sockaddr_in own = SocketAddress(address, port);
    EXPECT_EQ(setsockopt(made.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
    EXPECT_EQ(bind(made.get(), reinterpret_cast<const sockaddr*>(&own), sizeof(own)), 0)
        << name << " " << address;
    return made;
  }

  // One datagram there, and an answer of half its size.
  void Exchange(const Customer& from, const Customer& to) {
    static constexpr size_t kHeaders = 28;
    const absl::Time began = absl::Now();
    const std::string data(100 + 10 * (sent_.size() % 50), 'd');
    const sockaddr_in there = SocketAddress(to.address, kPort);
    char received[2000];
    sockaddr_in peer = {};
    socklen_t peer_size = sizeof(peer);
    const auto size = static_cast<ssize_t>(data.size());
    ASSERT_EQ(sendto(from.client.get(), data.data(), data.size(), 0,
                     reinterpret_cast<const sockaddr*>(&there), sizeof(there)),
              size);
    ASSERT_EQ(recvfrom(to.server.get(), received, sizeof(received), 0,
                       reinterpret_cast<sockaddr*>(&peer), &peer_size),
              size)
        << from.name << " to " << to.name;
    ASSERT_EQ(sendto(to.server.get(), received, data.size() / 2, 0,
                     reinterpret_cast<const sockaddr*>(&peer), peer_size),
              size / 2);
    ASSERT_EQ(recv(from.client.get(), received, sizeof(received), 0), size / 2)
        << to.name << " back to " << from.name;
    ASSERT_EQ(IntervalEnd(began), IntervalEnd(absl::Now())) << "the machine stood still";
    TrafficTotals& totals = sent_[{IntervalEnd(began), from.address, to.address}];
    totals += {.packets_src = 1,
               .packets_dst = 1,
               .bytes_src = data.size() + kHeaders,
               .bytes_dst = data.size() / 2 + kHeaders};
    senders_[{IntervalEnd(began), from.address}].insert(from.name);
  }
  // All who are up: with the world, and then each with the next one. In the middle of intervals.
  void PlayUntil(const std::function<bool()>& is_enough) {
    while (!is_enough()) {
      absl::SleepFor(absl::Milliseconds(50));
      const absl::Duration now = SinceIntervalBegan(absl::Now());
      if (now < kPlaysFrom || now > kPlaysTo) continue;
      std::vector<const Customer*> up;
      for (const Customer& customer : customers_) {
        if (customer.is_up) up.push_back(&customer);
      }
      for (const Customer* customer : up) {
        ASSERT_NO_FATAL_FAILURE(Exchange(*customer, world_));
      }
      for (size_t i = 0; i < up.size(); ++i) {
        ASSERT_NO_FATAL_FAILURE(Exchange(*up[i], *up[(i + 1) % up.size()]));
      }
    }
  }
  // To this place within the next interval.
  void PlayToNext(absl::Duration place) {
    const int64_t end = IntervalEnd(absl::Now());
    ASSERT_NO_FATAL_FAILURE(PlayUntil([&] {
      return IntervalEnd(absl::Now()) != end && SinceIntervalBegan(absl::Now()) >= place;
    }));
  }

  std::string Key64(const std::string& name) const {
    return std::string(absl::StripAsciiWhitespace(ReadFile(folder_ + "/" + name + ".pub")));
  }
  std::string ClientLog(const std::string& name) const {
    return ReadFile(folder_ + "/openvpn/" + name + ".log");
  }
  static size_t TimesUp(const std::string& log) {
    return std::vector<std::string>(absl::StrSplit(log, "Initialization Sequence Completed"))
        .size();
  }

  // Each gets the address of the one after it: of customers [begin, begin + 3).
  std::vector<std::string> Rotated(size_t begin) const {
    std::vector<std::string> addresses;
    for (size_t i = 0; i < 3; ++i) addresses.push_back(customers_[begin + (i + 1) % 3].address);
    return addresses;
  }
  void HandOnWireGuard() {
    const std::vector<std::string> addresses = Rotated(0);
    std::vector<std::string> command = {"wg", "set", "wg0"};
    for (size_t i = 0; i < 3; ++i) {
      command = Joined(
          {command, {"peer", Key64(customers_[i].name), "allowed-ips", addresses[i] + "/32"}});
    }
    const absl::Time begun = absl::Now();
    Run("gw", command);
    const absl::Time done = absl::Now();
    for (size_t i = 0; i < 3; ++i) {
      Customer& customer = customers_[i];
      const std::string batch = folder_ + "/" + customer.name + ".batch";
      WriteFile(batch, absl::StrCat("address del ", customer.address, "/24 dev wg0\naddress add ",
                                    addresses[i], "/24 dev wg0\nroute replace default dev wg0\n"));
      const auto changed = RunProcessOrError(
          {"ip", "-n", "ctacct-site-" + customer.name, "-batch", batch}, kScriptMax);
      ASSERT_TRUE(changed.ok()) << changed.status();
      TakeAddress(&customer, addresses[i], begun, done);
    }
  }
  // The clients connect again; meanwhile WireGuard's peers exchange their addresses, and send.
  void HandOn() {
    const std::vector<std::string> addresses = Rotated(3);
    std::map<std::string, size_t> ups;
    const absl::Time begun = absl::Now();
    for (size_t i = 0; i < 3; ++i) {
      Customer& customer = customers_[3 + i];
      WriteFile(folder_ + "/openvpn/clients/" + customer.name,
                "ifconfig-push " + addresses[i] + " 255.255.255.0\n");
      ups[customer.name] = TimesUp(ClientLog(customer.name));
      customer.is_up = false;
    }
    for (size_t i = 3; i < 6; ++i) {
      ASSERT_NO_FATAL_FAILURE(HangUp(folder_ + "/openvpn", customers_[i].name));
    }
    ASSERT_NO_FATAL_FAILURE(HandOnWireGuard());
    const absl::Time until = begun + kPatience;
    ASSERT_NO_FATAL_FAILURE(PlayUntil([&] {
      bool all = true;
      for (size_t i = 0; i < 3; ++i) {
        Customer& customer = customers_[3 + i];
        if (!customer.is_up && TimesUp(ClientLog(customer.name)) > ups[customer.name]) {
          const absl::Time done = absl::Now();
          Run(customer.name, {"ip", "route", "replace", "default", "dev", "tun0"});
          TakeAddress(&customer, addresses[i], begun, done);
        }
        all = all && customer.is_up;
      }
      return all || absl::Now() > until;
    }));
    ASSERT_LT(absl::Now(), until) << "a client does not come back";
  }
  void TakeAddress(Customer* customer, const std::string& address, absl::Time begun,
                   absl::Time done) {
    customer->address = address;
    customer->client = Socket(customer->name, address, 0);
    customer->is_up = true;
    changes_.push_back({address, customer->name, begun, done});
  }

  // Who may hold an address at an interval's end; only if it changes hands right then, more than
  // one.
  std::set<std::string> Holders(const std::string& address, int64_t end_s) const {
    // `names` looks once a second.
    static constexpr absl::Duration kSeen = absl::Seconds(2);
    const absl::Time end = absl::FromUnixSeconds(end_s);
    std::set<std::string> holders;
    for (const Change& change : changes_) {
      if (change.address != address || change.begun >= end) continue;
      if (change.done + kSeen <= end) {
        holders = {change.to};
      } else {
        holders.insert({change.to, address});
      }
    }
    return holders;
  }
  std::string Sql(const std::string& sql) const {
    const auto out = postgres_->Sql("postgres", sql);
    EXPECT_TRUE(out.ok()) << sql << "\n" << out.status();
    return out.value_or("");
  }

  std::vector<Customer> customers_;
  Customer world_;
  std::vector<Change> changes_;
  std::map<Key, TrafficTotals> sent_;
  // Who sent from an address in an interval: two, if it changed hands.
  std::map<std::pair<int64_t, std::string>, std::set<std::string>> senders_;
  std::unique_ptr<PrivatePostgres> postgres_;
};

TEST_F(NamesUnderTrafficTest, EveryByteGoesToWhoHeldTheAddress) {
  auto postgres = PrivatePostgres::Start();
  ASSERT_TRUE(postgres.ok()) << postgres.status();
  postgres_ = *std::move(postgres);
  auto importer = Subprocess::Start(ImporterArgv(*postgres_, spool()));
  ASSERT_TRUE(importer.ok()) << importer.status();

  ASSERT_NO_FATAL_FAILURE(Site({"up", "6"}));
  ASSERT_NO_FATAL_FAILURE(Site({"wireguard", folder_, "10.32.0", "one", "two", "three"}));
  // A status file that is there keeps its rights: `names` is not root.
  std::filesystem::create_directory(folder_ + "/openvpn");
  WriteFile(folder_ + "/openvpn/status", "");
  ASSERT_NO_FATAL_FAILURE(
      Site({"openvpn", folder_ + "/openvpn", "10.33.0", "four", "five", "six"}));
  std::string peers = "publickey,name\n";
  for (const char* name : {"one", "two", "three"}) {
    absl::StrAppend(&peers, Key64(name), ",", name, "\n");
  }
  WriteFile(folder_ + "/peers.csv", peers);
  WriteFile(folder_ + "/places.csv", "198.51.100.2,world\n");
  ASSERT_NO_FATAL_FAILURE(StartNames({"-file=" + folder_ + "/places.csv", "-wireguard=all",
                                      "-wireguard-names=" + folder_ + "/peers.csv",
                                      "-openvpn-status=" + folder_ + "/openvpn/status"}));
  ASSERT_NO_FATAL_FAILURE(ExpectHolders(
      {"10.32.0.11/32 one", "10.32.0.12/32 two", "10.32.0.13/32 three", "10.33.0.14/32 four",
       "10.33.0.15/32 five", "10.33.0.16/32 six", "198.51.100.2/32 world"}));
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-local=skip"}, kIntervalS));

  world_ = {"world", "198.51.100.2"};
  world_.server = Socket("world", "0.0.0.0", kPort);
  // They have held their addresses for a while.
  const absl::Time start = absl::Now() - absl::Seconds(kIntervalS);
  changes_.push_back({world_.address, "world", start, start});
  for (const char* name : {"one", "two", "three", "four", "five", "six"}) {
    const size_t number = customers_.size() + 1;
    customers_.push_back({name, ""});
    customers_.back().server = Socket(name, "0.0.0.0", kPort);
    TakeAddress(&customers_.back(), absl::StrCat(number > 3 ? "10.33.0.1" : "10.32.0.1", number),
                start, start);
  }
  const int64_t first = IntervalEnd(start);
  for (int round = 0; round < 2; ++round) {
    // A whole interval, and some of the next one: what the address's old holder sends in it is the
    // new one's.
    ASSERT_NO_FATAL_FAILURE(PlayToNext(kPlaysTo));
    ASSERT_NO_FATAL_FAILURE(PlayToNext(kPlaysFrom + absl::Seconds(1)));
    ASSERT_NO_FATAL_FAILURE(HandOn());
  }
  ASSERT_NO_FATAL_FAILURE(PlayToNext(kPlaysTo));
  const int64_t last = IntervalEnd(absl::Now());
  ASSERT_TRUE(Eventually([&] {
    return Sql("SELECT to_regclass('import_ledger') IS NOT NULL") == "t" &&
           Sql(absl::StrCat("SELECT max(interval_end) >= to_timestamp(", last,
                            ") FROM import_ledger")) == "t";
  })) << (*importer)->Stderr();
  StopEngine();
  ASSERT_TRUE(names_->Signal(SIGTERM).ok());
  ASSERT_TRUE(names_->Wait(kPatience).ok());
  EXPECT_THAT(names_->Stderr(), MatchesRegex(kNamesStarted));
  ASSERT_TRUE((*importer)->Signal(SIGTERM).ok());
  ASSERT_TRUE((*importer)->Wait(kPatience).ok());
  const auto rest =
      RunProcessOrError(Joined({ImporterArgv(*postgres_, spool()), {"-once"}}), kPatience);
  ASSERT_TRUE(rest.ok()) << rest.status();
  EXPECT_EQ(VisibleNamesIn(spool()), std::vector<std::string>{std::string(kCurrentNamesFile)});
  EXPECT_EQ(Sql("SELECT count(*) FROM traffic_gaps"), "0");

  // By interval and name of either side, and by both in all: what was sent, each time by who held
  // the address at the interval's end.
  std::map<std::string, std::map<std::string, TrafficTotals>> expected;
  std::map<std::pair<int64_t, std::string>, std::string> holders;
  size_t undecided = 0, inherited = 0;
  for (const auto& [key, totals] : sent_) {
    const auto& [end, src, dst] = key;
    for (const std::string& address : {src, dst}) {
      std::string& name = holders[{end, address}];
      if (!name.empty()) continue;
      name = Sql(absl::StrCat("SELECT coalesce(traffic_name('gw', '", address, "', to_timestamp(",
                              end, ")), '", address, "')"));
      const std::set<std::string> may = Holders(address, end);
      EXPECT_TRUE(may.contains(name)) << address << " at " << end << ": " << name;
      if (may.size() > 1) ++undecided;
      const std::set<std::string>& senders = senders_[{end, address}];
      if (may.size() == 1 && !senders.empty() && senders != may) ++inherited;
    }
    const std::string src_name = holders[{end, src}], dst_name = holders[{end, dst}];
    expected["time, src_name"][absl::StrCat(end, "|", src_name)] += totals;
    expected["time, dst_name"][absl::StrCat(end, "|", dst_name)] += totals;
    expected["src_name, dst_name"][absl::StrCat(src_name, "|", dst_name)] += totals;
    expected["src_name"][src_name] += totals;
  }
  const std::string range =
      absl::StrCat("to_timestamp(", first - kIntervalS, "), to_timestamp(", last + kIntervalS, ")");
  for (const auto& [by, sums] : expected) {
    SCOPED_TRACE(by);
    std::string lines;
    for (const auto& [key, totals] : sums) {
      absl::StrAppend(&lines, lines.empty() ? "" : "\n", key, "|", totals.packets_src, "|",
                      totals.packets_dst, "|", totals.bytes_src, "|", totals.bytes_dst);
    }
    const bool in_time = absl::StrContains(by, "time");
    EXPECT_EQ(
        Sql(absl::StrCat("SELECT ", by,
                         ", src_packets, dst_packets, src_bytes, dst_bytes FROM (SELECT "
                         "extract(epoch FROM time)::bigint AS time, src_name, dst_name, "
                         "src_packets, dst_packets, src_bytes, dst_bytes FROM traffic(",
                         range, ", ", in_time ? absl::StrCat("'", kIntervalS, " s'") : "NULL",
                         ", '{", in_time ? by.substr(6) : by, "}')) AS answer ORDER BY ", by)),
        lines);
  }
  for (const Customer& customer : customers_) {
    EXPECT_EQ(Sql(absl::StrCat("SELECT sum(src_bytes)::bigint FROM traffic(", range,
                               ", NULL, '{dst_name}', src_names => '{", customer.name, "}')")),
              absl::StrCat(expected["src_name"][customer.name].bytes_src));
  }
  std::cout << sent_.size() << " sums of interval, source and destination; " << inherited
            << " addresses went to who held them at an interval's end, and others had sent; "
            << undecided << " changed hands at an interval's end\n";
  // WireGuard's always.
  EXPECT_GE(inherited, 6u);
}

// With -local=skip and no -src the tunnel's own datagrams, which carry the same bytes again, are in
// no row; nor is what the gateway itself says.
TEST_F(SiteTest, WireGuardWithoutItsOwnFlows) { ExpectRowsAreInnerOnly("wireguard"); }
TEST_F(SiteTest, OpenVpnWithoutItsOwnFlows) { ExpectRowsAreInnerOnly("openvpn"); }

// What goes by a flowtable is counted if it has `counter`, and else it is in no counter that the
// kernel shows: the doctor says so.
TEST_F(SiteTest, FlowtableWithCounter) {
  const Count returned = Reply(FetchByFlowtable("counter;"));
  EXPECT_GT(returned.bytes, 500'000u);
  EXPECT_THAT(Doctor(), Not(HasSubstr("add flowtable")));
}
TEST_F(SiteTest, FlowtableWithoutCounter) {
  const Count returned = Reply(FetchByFlowtable(""));
  EXPECT_LT(returned.bytes, 400'000u);
  EXPECT_THAT(Doctor(), HasSubstr("add flowtable ip fast f"));
}

// Untracked packets are in no row. The doctor names the rule, whether of iptables (either kind) or
// nftables, and what removes it.
TEST_F(SiteTest, RulesThatDoNotTrack) {
  ASSERT_NO_FATAL_FAILURE(UpDirect());
  ASSERT_NO_FATAL_FAILURE(StartEngine());
  ASSERT_NO_FATAL_FAILURE(Serve("two", {"python3", "-c", kUdpEcho}, "listening"));
  EXPECT_THAT(Doctor(), Not(HasSubstr("notrack")));
  struct {
    const char* what;
    std::vector<std::string> rule, remedy_of;
  } kRules[] = {
      {"nftables",
       {"nft",
        "table ip own { chain before { type filter hook prerouting priority raw; udp dport "
        "7000 notrack; udp sport 7000 notrack; }; }"},
       {"nft", "flush table ip own"}},
      {"iptables-legacy",
       {"iptables-legacy", "-t", "raw", "-A", "PREROUTING", "-p", "udp", "-j", "CT", "--notrack"},
       {"iptables-legacy", "-t", "raw", "-D", "PREROUTING", "-p", "udp", "-j", "CT", "--notrack"}},
      {"iptables-nft",
       {"iptables-nft", "-t", "raw", "-A", "PREROUTING", "-p", "udp", "-j", "CT", "--notrack"},
       {"iptables-nft", "-t", "raw", "-F"}},
  };
  for (const auto& rules : kRules) {
    SCOPED_TRACE(rules.what);
    Run("gw", rules.rule);
    EXPECT_THAT(Doctor(), ContainsRegex("notrack|CT"));
    Run("one", {"python3", "-c", kUdpClient, "192.168.2.2"});
    EXPECT_EQ(Kernel(), Traffic());
    Run("gw", rules.remedy_of);
    EXPECT_THAT(Doctor(), Not(HasSubstr("notrack")));
  }
  StopEngine();
  EXPECT_EQ(ReadSpool(spool()).traffic, Traffic());
}

// What tcpdump writes of a live run replays to its rows.
TEST_F(SiteTest, CaptureOfNlmon) {
  ASSERT_NO_FATAL_FAILURE(UpDirect());
  RunProcessOrError({"modprobe", "nlmon"}, kScriptMax).IgnoreError();
  Run("gw", {"ip", "link", "add", "nlmon0", "type", "nlmon"});
  Run("gw", {"ip", "link", "set", "nlmon0", "up"});
  const std::string capture = folder_ + "/nlmon.pcap";
  auto tcpdump = Subprocess::Start(
      In("gw", {"tcpdump", "-i", "nlmon0", "-Z", "root", "-B", "16384", "-U", "-w", capture}));
  ASSERT_TRUE(tcpdump.ok()) << tcpdump.status();
  const absl::Status listens = (*tcpdump)->WaitForOutput("listening on", kPatience);
  ASSERT_TRUE(listens.ok()) << listens;
  ASSERT_NO_FATAL_FAILURE(StartEngine());
  ASSERT_NO_FATAL_FAILURE(StartServers());
  PlayPrograms("192.168.2.2");
  Run("gw", {"conntrack", "-F"});
  StopEngine();
  const std::string live = Spooldump(spool());
  EXPECT_GT(std::count(live.begin(), live.end(), '\n'), 5);
  // tcpdump writes what it has within a second or two, and not what it still has when it is ended.
  std::string rows;
  EXPECT_TRUE(Eventually([&] {
    const auto replayed = RunProcessOrError(
        {DataPath("engine/engine"), "-replay=" + capture, "-interval=1"}, kPatience);
    rows = replayed.value_or("");
    return IsReplayOf(live, rows);
  })) << rows
      << "\nlive:\n"
      << live;
  ASSERT_TRUE((*tcpdump)->Signal(SIGINT).ok());
  ASSERT_TRUE((*tcpdump)->Wait(kPatience).ok());
  EXPECT_THAT((*tcpdump)->Stderr(), HasSubstr("\n0 packets dropped by kernel"));
}

// Dumps that the kernel cuts short or restarts declare no flow dead and lose nothing.
TEST_F(SiteTest, TableIsResizedDuringDumps) {
  ASSERT_NO_FATAL_FAILURE(UpDirect());
  ASSERT_NO_FATAL_FAILURE(StartEngine());
  ASSERT_NO_FATAL_FAILURE(StartServers());
  std::atomic<bool> done{false};
  uint64_t resized = 0;
  std::thread resizer([&] {
    while (!done.load()) {
      for (const char* buckets : {"1024", "65536"}) {
        WriteFile("/proc/sys/net/netfilter/nf_conntrack_buckets", buckets);
        ++resized;
        absl::SleepFor(absl::Milliseconds(20));
      }
    }
  });
  PlayPrograms("192.168.2.2");
  done.store(true);
  resizer.join();
  EXPECT_GT(resized, 10u);
  ExpectRowsBecomeKernels();
  StopEngine();
}

// The kernel's reports come from a module that can be removed while the engine runs. The next dump
// loads it again, and living flows are complete.
TEST_F(SiteTest, ModuleIsRemoved) {
  ASSERT_NO_FATAL_FAILURE(UpDirect());
  ASSERT_NO_FATAL_FAILURE(StartEngine());
  ASSERT_NO_FATAL_FAILURE(StartServers());
  Fetch("one", "http://198.51.100.2:8000/page");
  ExpectRowsEqualKernel();
  for (int i = 0; i < 3; ++i) {
    // While a dump runs it is in use.
    ASSERT_TRUE(Eventually([] {
      return RunProcessOrError({"modprobe", "-r", "nf_conntrack_netlink"}, kScriptMax).ok();
    }));
    Fetch("one", "http://198.51.100.2:8000/page");
  }
  ExpectRowsBecomeKernels();
  StopEngine();
}

// An engine that is started before conntrack is loaded, as at boot, accounts from the first flow
// on.
TEST_F(SiteTest, ConntrackIsLoadedAfterTheEngine) {
  ASSERT_NO_FATAL_FAILURE(UpDirect());
  Run("gw", {"nft", "flush", "ruleset"});
  // A namespace that was removed a moment ago may still use them.
  ASSERT_TRUE(Eventually([] {
    RunProcessOrError({"modprobe", "-r", "nf_conntrack_netlink", "nft_ct", "nft_masq", "nft_nat",
                       "nft_chain_nat", "nf_nat", "nf_conntrack"},
                      kScriptMax)
        .IgnoreError();
    return !std::filesystem::exists("/sys/module/nf_conntrack");
  }));
  ASSERT_NO_FATAL_FAILURE(StartEngine());
  ASSERT_NO_FATAL_FAILURE(Site({"rules"}));
  ASSERT_NO_FATAL_FAILURE(StartServers());
  PlayPrograms("192.168.2.2");
  ExpectRowsBecomeKernels();
  StopEngine();
}

}  // namespace
}  // namespace ctacct
