// What the kernel, other programs or the clock may do to a live engine, done for real: overruns,
// zeroed counters, dumps that fail, a full table, a clock that is set. The oracle is the
// generator's own count.
#include <linux/if_ether.h>
#include <signal.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/gap.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_output.h"
#include "tests/support/engine_test.h"
#include "tests/support/lowered_table_limit.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kIntervalNs = 1'000'000'000;
constexpr char kFakeClock[] = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

constexpr char kDeafListener[] =
    "import socket, time\n"
    "listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)\n"
    "listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)\n"
    "listener.setsockopt(270, 4, 1)\n"  // SOL_NETLINK, NETLINK_BROADCAST_ERROR
    "listener.bind((0, 7))\n"           // NEW, UPDATE, DESTROY
    "print('listening', flush=True)\n"
    "time.sleep(120)\n";

class KernelFaultTest : public EngineTest {
 protected:
  KernelFaultTest() : EngineTest("fault") {}

  void StartEngine(const std::vector<std::string>& flags, const SubprocessOptions& options = {}) {
    EngineTest::StartEngine(Joined({{DataPath("engine/engine"), "-src=10.32.0.0/11",
                                     "-dst=10.32.0.0/11", "-interval=1", "-output=" + spool()},
                                    flags}),
                            options);
  }
  // Until the kernel has as many flows, and rows are written of all that it counted of them: dumps
  // have shown them.
  void WaitForAllAccounted(uint64_t flows_expected) const {
    uint64_t flows = 0;
    TrafficTotals counted, written;
    const bool equal = Eventually([&] {
      const auto kernel = gateway_->KernelCounters(&flows);
      EXPECT_TRUE(kernel.ok()) << kernel.status();
      counted = Total(WithoutConnections(kernel.value_or(Traffic())));
      written = Total(WithoutConnections(ReadSpool(spool()).traffic));
      return flows == flows_expected && written == counted;
    });
    ASSERT_TRUE(equal) << flows << " flows; written " << written.ToString() << " of "
                       << counted.ToString();
  }
  // Until rows are written of all that was sent, while its connections are open.
  void WaitForAllSent() const {
    const Traffic sent = WhileOpen(Sent());
    ASSERT_TRUE(Eventually([&] { return ReadSpool(spool()).traffic == sent; }))
        << Difference(sent, ReadSpool(spool()).traffic) << engine_->Stderr();
  }

  // "packets" or "bytes" that left the gateway.
  uint64_t Forwarded(const std::string& what) const {
    uint64_t sum = 0;
    for (const char* interface : {"to-client", "to-server"}) {
      const auto text = gateway_->Run(
          {"cat", absl::StrCat("/sys/class/net/", interface, "/statistics/tx_", what)});
      uint64_t count = 0;
      EXPECT_TRUE(text.ok() && absl::SimpleAtoi(*text, &count)) << text.status();
      sum += count;
    }
    return sum;
  }

  // All gaps are partial, have the cause `unreported` and lost `flows` in total; later intervals
  // are complete.
  void ExpectUnreported(uint64_t flows) const {
    const auto lost = [&] {
      uint64_t all = 0;
      for (const Gap& gap : ReadSpool(spool()).gaps) all += gap.flows_lost;
      return all;
    };
    EXPECT_TRUE(Eventually([&] { return lost() == flows; })) << lost();
    EXPECT_TRUE(Eventually(
        [&] { return ReadSpool(spool()).headers.back().completeness == Completeness::kComplete; }));
    for (const Gap& gap : ReadSpool(spool()).gaps) {
      EXPECT_EQ(gap.cause, GapCause::kUnreported);
      EXPECT_EQ(gap.completeness, Completeness::kPartial);
      EXPECT_LT(gap.began_ns, gap.ended_ns);
    }
  }

  // What the kernel itself says that it dropped for the netlink listeners in the gateway.
  uint64_t DropsOfTheKernel() const {
    const auto text = gateway_->Run({"cat", "/proc/net/netlink"});
    EXPECT_TRUE(text.ok()) << text.status();
    uint64_t drops = 0;
    for (absl::string_view line : absl::StrSplit(text.value_or(""), '\n')) {
      // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
      const std::vector<std::string> columns = absl::StrSplit(line, ' ', absl::SkipEmpty());
      uint64_t number = 0;
      if (columns.size() == 10 && columns[1] == "12" && absl::SimpleAtoi(columns[8], &number)) {
        drops += number;
      }
    }
    return drops;
  }
};

// Fault 19: 100,000 connections, a receive buffer of 64 KiB, and 60,000 that die at once.
TEST_F(KernelFaultTest, OverrunByForce) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-receive-buffer=65536", "-workers=1"}));
  const auto living =
      StartPlay({"--open-tcp=40000", "--rounds=2", absl::StrCat("--round-seconds=", 14 * kSlowness),
                 "--close-open=false", "--udp=60000"});
  ASSERT_NE(living, nullptr);
  ASSERT_NO_FATAL_FAILURE(WaitForAllAccounted(100'000));
  const uint64_t drops_before = DropsOfTheKernel();
  const size_t gaps_before = ReadSpool(spool()).gaps.size();
  const int64_t deleting_ns = absl::GetCurrentTimeNanos();
  const auto deleted = gateway_->Run({"conntrack", "-D", "-p", "udp"}, kPatience);
  ASSERT_TRUE(deleted.ok()) << deleted.status();
  const int64_t deleted_ns = absl::GetCurrentTimeNanos();
  ASSERT_NO_FATAL_FAILURE(WaitForPlay(*living));
  ASSERT_NO_FATAL_FAILURE(WaitForAllSent());
  const uint64_t drops = DropsOfTheKernel();
  EXPECT_GT(drops, drops_before + 1000);
  // To the unit, in the headers and in the gaps. All that was dropped since were DESTROYs of flows
  // that were known, and each one missed is a flow lost.
  SpoolRows rows;
  uint64_t reported = 0, dropped_since = 0, lost_since = 0;
  const auto reported_all = [&] {
    rows = ReadSpool(spool());
    reported = dropped_since = lost_since = 0;
    for (size_t i = 0; i < rows.gaps.size(); ++i) {
      reported += rows.gaps[i].events_dropped;
      if (i < gaps_before) continue;
      dropped_since += rows.gaps[i].events_dropped;
      lost_since += rows.gaps[i].flows_lost;
    }
    return rows.events_dropped == drops && reported == drops &&
           dropped_since == drops - drops_before && lost_since == dropped_since;
  };
  EXPECT_TRUE(Eventually(reported_all))
      << "the kernel dropped " << drops << ", of these before " << drops_before << "; headers "
      << rows.events_dropped << ", gaps " << reported << ", since " << dropped_since << ", lost "
      << lost_since;
  StopEngine();
  EXPECT_TRUE(reported_all());
  EXPECT_EQ(Difference(WhileOpen(Sent()), rows.traffic), "") << engine_->Stderr();
  for (const Gap& gap : rows.gaps) {
    EXPECT_EQ(gap.cause, GapCause::kOverrun) << GapsText({gap});
    EXPECT_LT(gap.began_ns, gap.ended_ns);
  }
  // The gap is when it happened.
  ASSERT_GT(rows.gaps.size(), gaps_before);
  EXPECT_LE(rows.gaps[gaps_before].began_ns, deleted_ns);
  EXPECT_GT(rows.gaps[gaps_before].began_ns, deleting_ns - kIntervalNs);
  EXPECT_GT(rows.gaps.back().ended_ns, deleting_ns);
}

// Fault 22, caused by the program that does it in practice.
TEST_F(KernelFaultTest, AnotherProgramZeroesTheCounters) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({}));
  const auto flows =
      StartPlay({"--open-tcp=5000", "--rounds=3", absl::StrCat("--round-seconds=", 6 * kSlowness),
                 "--close-open=false"});
  ASSERT_NE(flows, nullptr);
  TrafficTotals zeroed;
  for (int i = 0; i < 2; ++i) {
    // Between two rounds, when all was accounted: what is zeroed before is anybody's guess.
    TrafficTotals counted, seen;
    for (const absl::Time deadline = absl::Now() + kPatience;;) {
      ASSERT_LT(absl::Now(), deadline)
          << "accounted " << seen.ToString() << " of " << counted.ToString();
      absl::SleepFor(absl::Milliseconds(300) * kSlowness);
      const auto kernel = gateway_->KernelCounters();
      ASSERT_TRUE(kernel.ok()) << kernel.status();
      TrafficTotals now = Total(WithoutConnections(*kernel));
      now += zeroed;
      const bool quiet = now == std::exchange(counted, now) && !(now == zeroed);
      seen = Total(WithoutConnections(ReadSpool(spool()).traffic));
      if (quiet && seen == counted) break;
    }
    ASSERT_TRUE(gateway_->Run({"conntrack", "-L", "-z"}).ok());
    zeroed = counted;
  }
  ASSERT_NO_FATAL_FAILURE(WaitForPlay(*flows));
  StopEngine();
  EXPECT_EQ(Difference(WhileOpen(Sent()), ReadSpool(spool()).traffic), "");
  EXPECT_THAT(engine_->Stderr(), HasSubstr(" counter falls"));
}

// Another program that asked for reliable delivery (NETLINK_BROADCAST_ERROR) and does not read: the
// kernel delivers what it could not deliver there again with each packet of the flow, to everybody.
TEST_F(KernelFaultTest, AnotherListenerThatDoesNotRead) {
  auto listener = gateway_->Start({"python3", "-c", kDeafListener});
  ASSERT_TRUE(listener.ok()) << listener.status();
  ASSERT_TRUE((*listener)->WaitForOutput("listening", absl::Seconds(20)).ok());
  ASSERT_NO_FATAL_FAILURE(StartEngine({}));
  // The first fill its receive buffer.
  const auto flows = StartPlay({"--udp=300", "--open-tcp=200", "--rounds=8", "--round-seconds=1"});
  ASSERT_NE(flows, nullptr);
  ASSERT_NO_FATAL_FAILURE(WaitForPlay(*flows));
  ASSERT_TRUE((*listener)->Signal(SIGKILL).ok());
  FlushConntrack();
  StopEngine();
  const SpoolRows rows = ReadSpool(spool());
  EXPECT_EQ(Difference(AllClosed(Sent()), rows.traffic), "") << engine_->Stderr();
  EXPECT_TRUE(rows.gaps.empty()) << GapsText(rows.gaps) << engine_->Stderr();
}

// The same with connections that close.
TEST_F(KernelFaultTest, AnotherListenerThatDoesNotReadAndConnectionsThatClose) {
  auto listener = gateway_->Start({"python3", "-c", kDeafListener});
  ASSERT_TRUE(listener.ok()) << listener.status();
  ASSERT_TRUE((*listener)->WaitForOutput("listening", absl::Seconds(20)).ok());
  ASSERT_NO_FATAL_FAILURE(StartEngine({}));
  Play({"--udp=300", "--rate=10000"});  // They fill its receive buffer.
  const auto flows = StartPlay({"--tcp=300", "--rate=100"});
  ASSERT_NE(flows, nullptr);
  ASSERT_NO_FATAL_FAILURE(WaitForPlay(*flows));
  ASSERT_TRUE((*listener)->Signal(SIGKILL).ok());
  FlushConntrack();
  StopEngine();
  Traffic rows = ReadSpool(spool()).traffic;
  std::erase_if(rows, [](const auto& row) { return row.first.protocol != "tcp"; });
  EXPECT_EQ(Difference(AllClosed(Sent()), rows), "") << engine_->Stderr();
}

// Somebody switches counters off while the engine runs.
TEST_F(KernelFaultTest, CountersAreSwitchedOff) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({}));
  ASSERT_TRUE(gateway_->Run({"sysctl", "-q", "net.netfilter.nf_conntrack_acct=0"}).ok());
  Play({"--udp=50", "--rate=1000"});
  ASSERT_NO_FATAL_FAILURE(WaitForEngine("somebody has set nf_conntrack_acct to 0"));
  const auto value = gateway_->Run({"cat", "/proc/sys/net/netfilter/nf_conntrack_acct"});
  EXPECT_EQ(value.value_or(""), "1\n");
  FlushConntrack();
  // These flows are counted again.
  const Traffic sent = Play({"--udp=50", "--rate=1000"});
  EXPECT_TRUE(Eventually([&] {
    const Traffic rows = ReadSpool(spool()).traffic;
    return std::all_of(sent.begin(), sent.end(),
                       [&](const auto& flow) { return rows.count(flow.first) != 0; });
  }));
  StopEngine();
  const SpoolRows rows = ReadSpool(spool());
  ASSERT_FALSE(rows.gaps.empty());
  for (const Gap& gap : rows.gaps) EXPECT_EQ(gap.cause, GapCause::kSettings);
  for (const SpoolHeader& header : rows.headers) {
    EXPECT_NE(header.completeness, Completeness::kResynced);
  }
}

// A rule masks the ends of all flows, and they expire.
TEST_F(KernelFaultTest, ARuleMasksTheEnds) {
  ASSERT_TRUE(gateway_
                  ->Run({"sysctl", "-q", "net.netfilter.nf_conntrack_udp_timeout=2",
                         "net.netfilter.nf_conntrack_udp_timeout_stream=2"})
                  .ok());
  ASSERT_TRUE(gateway_
                  ->Run({"nft",
                         "add table ip masking; add chain ip masking before { type "
                         "filter hook prerouting priority -150; }; add rule ip masking "
                         "before ct event set new"})
                  .ok());
  ASSERT_NO_FATAL_FAILURE(
      StartEngine({"-gateway=gw", "-metrics-file=" + folder_ + "/engine.prom"}));
  Play({"--udp=5000", "--rate=5000"});
  ExpectUnreported(5000);
  // What is remembered follows what the kernel has.
  EXPECT_TRUE(Eventually([&] {
    return absl::StrContains(ReadFile(folder_ + "/engine.prom"),
                             "\nctacct_flows{gateway=\"gw\"} 0\n");
  }));
  StopEngine();
}

// Born while nobody listened: the kernel never reports their ends.
TEST_F(KernelFaultTest, FlowsOlderThanTheEngineEndUnreported) {
  // Not by 2, the default: then a listener in any network namespace of the machine would do.
  ASSERT_TRUE(gateway_->Run({"sysctl", "-q", "net.netfilter.nf_conntrack_events=0"}).ok());
  Play({"--udp=200", "--rate=10000"});
  ASSERT_NO_FATAL_FAILURE(StartEngine({}));
  // A dump has shown them.
  ASSERT_TRUE(Eventually([&] { return !ReadSpool(spool()).headers.empty(); }));
  FlushConntrack();
  ExpectUnreported(200);
  StopEngine();
}

// Stopped while flows come and go in mode=light: of events dropped, none can be explained.
TEST_F(KernelFaultTest, StoppedWhileFlowsComeAndGo) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-mode=light", "-receive-buffer=65536", "-workers=1"}));
  ASSERT_TRUE(Eventually([&] { return ReadSpool(spool()).headers.size() > 1; }));
  ASSERT_TRUE(engine_->Signal(SIGSTOP).ok());
  Play({"--udp=20000", "--rate=20000"});
  FlushConntrack();
  absl::SleepFor(absl::Seconds(3));
  ASSERT_TRUE(engine_->Signal(SIGCONT).ok());
  ASSERT_NO_FATAL_FAILURE(WaitForEngine("netlink overrun"));
  EXPECT_TRUE(Eventually([&] { return !ReadSpool(spool()).gaps.empty(); }));
  StopEngine();
  const SpoolRows rows = ReadSpool(spool());
  ASSERT_FALSE(rows.gaps.empty());
  for (const Gap& gap : rows.gaps) EXPECT_EQ(gap.completeness, Completeness::kPartial);
  std::set<int64_t> ends;
  for (const SpoolHeader& header : rows.headers) {
    EXPECT_NE(header.completeness, Completeness::kResynced);
    ends.insert(header.interval_end_ns);
  }
  // Also the intervals of that pause have files: if one were missing, no engine ran.
  EXPECT_EQ((*ends.rbegin() - *ends.begin()) / absl::ToInt64Nanoseconds(absl::Seconds(1)),
            static_cast<int64_t>(ends.size()) - 1);
}

// Fault 24: entries of an incomplete dump are used, and no flow is declared dead. An interval whose
// dump failed is partial: the missing traffic is in the next one.
TEST_F(KernelFaultTest, DumpsThatFailOrNeverEnd) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-track-open"}));
  const auto flows =
      StartPlay({"--open-tcp=20000", "--rounds=20", "--round-seconds=1", "--close-open=false"});
  ASSERT_NE(flows, nullptr);
  ASSERT_TRUE(Eventually([&] { return ReadSpool(spool()).traffic.size() > 1000; }));
  const std::string pid = absl::StrCat(engine_->pid());
  // Every seventh answer is an error; then there is none for longer than the engine waits.
  for (const std::string fault : {"error=EIO:when=7+7", "error=EAGAIN:when=60+"}) {
    auto tracer = Subprocess::Start({"strace", "-f", "-q", "-o", "/dev/null", "-p", pid, "-e",
                                     "trace=recvmsg", "-e", "inject=recvmsg:" + fault});
    ASSERT_TRUE(tracer.ok()) << tracer.status();
    const std::string said = fault.find("EIO") != std::string::npos
                                 ? "conntrack dump: Input/output error"
                                 : "the kernel fell silent before its end";
    const absl::Status waited = engine_->WaitForOutput(said, absl::Seconds(30));
    EXPECT_TRUE(waited.ok()) << waited;
    ASSERT_TRUE((*tracer)->Signal(SIGTERM).ok());
    ASSERT_TRUE((*tracer)->Wait(absl::Seconds(10)).ok());
  }
  ASSERT_NO_FATAL_FAILURE(WaitForPlay(*flows));
  ASSERT_NO_FATAL_FAILURE(WaitForAllSent());
  StopEngine();
  const SpoolRows rows = ReadSpool(spool());
  EXPECT_EQ(Difference(WhileOpen(Sent()), rows.traffic), "") << engine_->Stderr();
  EXPECT_FALSE(rows.gaps.empty());
  for (const Gap& gap : rows.gaps) {
    EXPECT_EQ(gap.cause, GapCause::kUnreported);
    EXPECT_EQ(gap.completeness, Completeness::kPartial);
    EXPECT_EQ(gap.flows_lost, 0u);
  }
  EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("whose end was not reported")));
}

// Fault 23: the engine's clock jumps a day forward, and back. (The kernel's clock stays: setting it
// would disturb other programs on this machine. In replays the kernel's own times also jump.)
TEST_F(KernelFaultTest, TheClockIsSet) {
  ASSERT_TRUE(std::filesystem::exists(kFakeClock)) << "needs the package libfaketime";
  const std::string clock = folder_ + "/clock";
  const auto set_clock = [&](const std::string& offset) {
    std::ofstream(clock + ".new") << offset << "\n";
    std::filesystem::rename(clock + ".new", clock);
  };
  set_clock("+0");
  SubprocessOptions options;
  options.environment = {{"LD_PRELOAD", kFakeClock},
                         {"FAKETIME_TIMESTAMP_FILE", clock},
                         {"FAKETIME_NO_CACHE", "1"},
                         {"FAKETIME_DONT_FAKE_MONOTONIC", "1"}};
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=2"}, options));
  const int64_t began_ns = absl::GetCurrentTimeNanos();
  // -1: yesterday's intervals, 0 today's, 1 tomorrow's.
  const auto day_of = [&](const SpoolHeader& header) {
    const int64_t hours = (header.interval_end_ns - began_ns) / 3'600'000'000'000;
    return hours < -12 ? -1 : hours > 12 ? 1 : 0;
  };
  const auto intervals = [&](int day) {
    const std::vector<SpoolHeader> headers = ReadSpool(spool()).headers;
    return std::count_if(headers.begin(), headers.end(),
                         [&](const SpoolHeader& header) { return day_of(header) == day; });
  };
  const auto flows =
      StartPlay({"--open-tcp=2000", "--udp=100000", "--rate=200", "--rounds=10000",
                 "--round-seconds=0.1", "--close-open=false", "--stop-file=" + folder_ + "/stop"});
  ASSERT_NE(flows, nullptr);
  for (const auto& [offset, day] :
       {std::pair("+0", 0), {"+86400", 1}, {"+0", 0}, {"-86400", -1}, {"+0", 0}}) {
    set_clock(offset);
    const auto before = intervals(day);
    ASSERT_TRUE(Eventually([&, day = day] { return intervals(day) >= before + 3; })) << offset;
  }
  WriteFile(folder_ + "/stop", "");
  ASSERT_NO_FATAL_FAILURE(WaitForPlay(*flows));
  ASSERT_NO_FATAL_FAILURE(WaitForAllSent());
  FlushConntrack();
  StopEngine();
  const SpoolRows rows = ReadSpool(spool());
  EXPECT_EQ(Difference(AllClosed(Sent()), rows.traffic), "") << engine_->Stderr();
  EXPECT_TRUE(rows.gaps.empty());
  std::set<int64_t> ends;
  for (size_t i = 0; i < rows.headers.size(); ++i) {
    EXPECT_EQ(rows.headers[i].sequence, i + 1);
    EXPECT_EQ(rows.headers[i].interval_end_ns % kIntervalNs, 0);
    EXPECT_TRUE(ends.insert(rows.headers[i].interval_end_ns).second) << "one interval twice";
  }
}

// The kernel drops packets of flows that find no room, and flows to make room. What it let through
// is accounted.
TEST_F(KernelFaultTest, TheTableIsFull) {
  constexpr uint64_t kFlowsMax = 3000;
  ASSERT_NO_FATAL_FAILURE(StartEngine({}));
  {
    const LoweredTableLimit limit(kFlowsMax);
    // The generator says that packets were lost.
    EXPECT_FALSE(gateway_->Play({"--udp=10000", "--rate=10000"}).ok());
    uint64_t flows = 0;
    ASSERT_TRUE(gateway_->KernelCounters(&flows).ok());
    EXPECT_GT(flows, kFlowsMax / 2);
    EXPECT_LE(flows, kFlowsMax);
    FlushConntrack();
  }
  // With room again nothing is lost.
  const Traffic sent = Play({"--udp=10000", "--rate=10000"});
  FlushConntrack();
  StopEngine();
  const SpoolRows rows = ReadSpool(spool());
  const TrafficTotals total = Total(rows.traffic);
  EXPECT_GT(total.packets_src, Total(sent).packets_src);
  // An answer whose flow had to make room begins a flow of its own: only the sums are the same.
  const uint64_t packets = total.packets_src + total.packets_dst;
  EXPECT_EQ(packets, Forwarded("packets"));
  EXPECT_EQ(total.bytes_src + total.bytes_dst, Forwarded("bytes") - packets * ETH_HLEN);
  EXPECT_TRUE(rows.gaps.empty());
}

// The network namespace loses its name, as when a container is removed; it lives as long as the
// engine does.
TEST_F(KernelFaultTest, ItsNamespaceIsRemoved) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({}));
  const Traffic sent = Play({"--tcp=1000", "--udp=1000", "--open-tcp=100"});
  ASSERT_TRUE(
      RunProcessOrError({"ip", "netns", "delete", gateway_->gateway_namespace()}, kPatience).ok());
  const size_t intervals = ReadSpool(spool()).headers.size();
  EXPECT_TRUE(Eventually([&] { return ReadSpool(spool()).headers.size() >= intervals + 2; }));
  StopEngine();
  const SpoolRows rows = ReadSpool(spool());
  EXPECT_EQ(Difference(WithoutConnections(sent), WithoutConnections(rows.traffic)), "");
  EXPECT_TRUE(rows.gaps.empty());
}

// Two hours of the kernel's own timeouts in a minute: flows expire while they are silent, and their
// later packets are new flows that conntrack picks up in the middle.
TEST_F(KernelFaultTest, FlowsExpireAndAreSeenAgain) {
  constexpr uint64_t kCompression = 120;
  constexpr int kRounds = 4;
  constexpr uint64_t kOpen = 200;
  ASSERT_NO_FATAL_FAILURE(BringUp({.timeouts = Timeouts::kKernel}));
  const auto settings = gateway_->Run({"sysctl", "-a", "-r", "nf_conntrack_.*_timeout"});
  ASSERT_TRUE(settings.ok()) << settings.status();
  int compressed = 0;
  for (absl::string_view line : absl::StrSplit(*settings, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> parts = absl::StrSplit(line, " = ");
    uint64_t seconds = 0;
    ASSERT_TRUE(parts.size() == 2 && absl::SimpleAtoi(parts[1], &seconds)) << line;
    // Five days of silence are not possible here: established connections time out after two
    // seconds.
    seconds = parts[0].find("tcp_timeout_established") != std::string::npos
                  ? 2
                  : std::max<uint64_t>(seconds / kCompression, 1);
    ASSERT_TRUE(gateway_->Run({"sysctl", "-q", absl::StrCat(parts[0], "=", seconds)}).ok());
    ++compressed;
  }
  ASSERT_GT(compressed, 10);
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-include-icmp"}));
  const auto flows =
      StartPlay({"--tcp=2000", "--udp=2000", "--icmp=500", absl::StrCat("--open-tcp=", kOpen),
                 absl::StrCat("--rounds=", kRounds), "--round-seconds=6", "--close-open=false"});
  ASSERT_NE(flows, nullptr);
  ASSERT_NO_FATAL_FAILURE(WaitForPlay(*flows));
  ASSERT_TRUE(Eventually([&] {
    uint64_t left = 0;
    return gateway_->KernelCounters(&left).ok() && left == 0;
  }));
  StopEngine();
  const SpoolRows rows = ReadSpool(spool());
  EXPECT_EQ(Difference(WithoutConnections(Sent()), WithoutConnections(rows.traffic)), "")
      << engine_->Stderr();
  // Each silence ended the connections that were open.
  EXPECT_EQ(Total(rows.traffic).connection_count, 2000 + kOpen * kRounds);
  EXPECT_TRUE(rows.gaps.empty());
}

}  // namespace
}  // namespace ctacct
