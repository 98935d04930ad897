// What the kernel, other programs or the clock may do to a live engine, done for real: overruns,
// zeroed counters, dumps that fail, a clock that is set. The oracle is the generator's own count.
#include <signal.h>
#include <stdlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/gap.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/gateway.h"
#include "tests/support/spool_rows.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kFakeClock[] = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

class KernelFaultTest : public testing::Test {
 protected:
  void SetUp() override {
    RequireRootOrSkip();
    if (IsSkipped() || HasFatalFailure()) return;
    std::string folder = "/tmp/ctacct-fault.XXXXXX";
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    std::filesystem::create_directory(spool());
    auto gateway = Gateway::Up();
    ASSERT_TRUE(gateway.ok()) << gateway.status();
    gateway_ = *std::move(gateway);
  }
  void TearDown() override {
    engine_.reset();
    gateway_.reset();
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }

  std::string spool() const { return folder_ + "/spool"; }
  std::string sent() const { return folder_ + "/sent.csv"; }

  void StartEngine(const std::vector<std::string>& flags, const SubprocessOptions& options = {}) {
    std::vector<std::string> argv = {DataPath("engine/engine"), "-src=10.32.0.0/11",
                                     "-dst=10.32.0.0/11", "-interval=1", "-output=" + spool()};
    argv.insert(argv.end(), flags.begin(), flags.end());
    auto engine = gateway_->Start(argv, options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
    const absl::Status started = engine_->WaitForOutput("accounting live", absl::Seconds(10));
    ASSERT_TRUE(started.ok()) << started;
  }
  void StopEngine() {
    ASSERT_TRUE(engine_->Running()) << engine_->Stderr();
    ASSERT_TRUE(engine_->Signal(SIGTERM).ok());
    const auto exit = engine_->Wait(absl::Seconds(30));
    ASSERT_TRUE(exit.ok()) << exit.status();
    EXPECT_TRUE(exit->ok()) << exit->ToString() << engine_->Stderr();
  }
  SpoolRows Spooled() const {
    const auto rows = ReadSpool(spool());
    EXPECT_TRUE(rows.ok()) << rows.status();
    return rows.ok() ? *rows : SpoolRows();
  }
  Traffic Sent() const {
    const auto traffic = ReadExpectation(sent());
    EXPECT_TRUE(traffic.ok()) << traffic.status();
    return traffic.ok() ? *traffic : Traffic();
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

  std::string folder_;
  std::unique_ptr<Gateway> gateway_;
  std::unique_ptr<Subprocess> engine_;
};

// Fault 19: 100,000 connections, a receive buffer of 64 KiB, and 60,000 that die at once.
TEST_F(KernelFaultTest, OverrunByForce) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-receive-buffer=65536", "-workers=1"}));
  auto living = gateway_->StartPlay(
      {"--open-tcp=40000", "--rounds=2", "--round-seconds=14", "--close-open=false", "--udp=60000"},
      sent());
  ASSERT_TRUE(living.ok()) << living.status();
  absl::SleepFor(absl::Seconds(9));  // All are there, and dumps have shown them.
  const uint64_t drops_before = DropsOfTheKernel();
  const size_t gaps_before = Spooled().gaps.size();
  ASSERT_TRUE(gateway_->Run({"conntrack", "-D", "-p", "udp"}).ok());
  const auto exit = (*living)->Wait(absl::Seconds(60));
  ASSERT_TRUE(exit.ok() && exit->ok()) << (*living)->Stderr();
  absl::SleepFor(absl::Seconds(2));
  const uint64_t drops = DropsOfTheKernel();
  StopEngine();

  const SpoolRows rows = Spooled();
  EXPECT_EQ(Difference(WithoutConnections(Sent()), WithoutConnections(rows.traffic)), "")
      << engine_->Stderr();
  // To the unit, in the headers and in the gaps.
  EXPECT_GT(drops, drops_before + 1000);
  EXPECT_EQ(rows.events_dropped, drops);
  uint64_t told = 0;
  uint64_t lost = 0;
  uint64_t dropped_since = 0;
  for (size_t i = 0; i < rows.gaps.size(); ++i) {
    const Gap& gap = rows.gaps[i];
    EXPECT_EQ(gap.cause, GapCause::kOverrun);
    EXPECT_LE(gap.began_ns, gap.ended_ns);
    told += gap.events_dropped;
    if (i < gaps_before) continue;
    lost += gap.flows_lost;
    dropped_since += gap.events_dropped;
  }
  EXPECT_EQ(told, drops);
  // All of these were DESTROYs of flows that were known, and each one missed is a flow lost.
  EXPECT_EQ(dropped_since, drops - drops_before);
  EXPECT_EQ(lost, dropped_since);
}

// Fault 22, by the program that does it in the wild.
TEST_F(KernelFaultTest, AnotherProgramZeroesTheCounters) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({}));
  auto flows = gateway_->StartPlay(
      {"--open-tcp=5000", "--rounds=3", "--round-seconds=6", "--close-open=false"}, sent());
  ASSERT_TRUE(flows.ok()) << flows.status();
  TrafficTotals zeroed;
  for (int i = 0; i < 2; ++i) {
    // Between two rounds, when all was accounted: what is zeroed before is anybody's guess.
    TrafficTotals counted, seen;
    for (const absl::Time deadline = absl::Now() + absl::Seconds(30);;) {
      ASSERT_LT(absl::Now(), deadline)
          << "accounted " << seen.ToString() << " of " << counted.ToString();
      absl::SleepFor(absl::Milliseconds(300));
      const auto kernel = gateway_->KernelCounters();
      ASSERT_TRUE(kernel.ok()) << kernel.status();
      TrafficTotals now = Total(WithoutConnections(*kernel));
      now += zeroed;
      const bool quiet = now == std::exchange(counted, now) && !(now == zeroed);
      seen = Total(WithoutConnections(Spooled().traffic));
      if (quiet && seen == counted) break;
    }
    ASSERT_TRUE(gateway_->Run({"conntrack", "-L", "-z"}).ok());
    zeroed = counted;
  }
  const auto exit = (*flows)->Wait(absl::Seconds(60));
  ASSERT_TRUE(exit.ok() && exit->ok()) << (*flows)->Stderr();
  StopEngine();
  EXPECT_EQ(Difference(WithoutConnections(Sent()), WithoutConnections(Spooled().traffic)), "");
  EXPECT_THAT(engine_->Stderr(), HasSubstr(" counter falls"));
}

// Fault 24: what came of a dump is used, and nothing is declared dead.
TEST_F(KernelFaultTest, DumpsThatFailOrNeverEnd) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-track-open"}));
  auto flows = gateway_->StartPlay(
      {"--open-tcp=20000", "--rounds=20", "--round-seconds=1", "--close-open=false"}, sent());
  ASSERT_TRUE(flows.ok()) << flows.status();
  absl::SleepFor(absl::Seconds(2));
  const std::string pid = absl::StrCat(engine_->pid());
  // Every seventh answer is an error; then none comes at all, for longer than the engine waits.
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
  const auto exit = (*flows)->Wait(absl::Seconds(60));
  ASSERT_TRUE(exit.ok() && exit->ok()) << (*flows)->Stderr();
  absl::SleepFor(absl::Seconds(3));
  StopEngine();
  const SpoolRows rows = Spooled();
  EXPECT_EQ(Difference(WithoutConnections(Sent()), WithoutConnections(rows.traffic)), "")
      << engine_->Stderr();
  EXPECT_TRUE(rows.gaps.empty());
  EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("whose end was lost")));
}

// Fault 23: the engine's clock jumps a day forward, and back. (The kernel's stays: a test that sets
// the machine's clock would be no good neighbour. Replays have the kernel's own times jump, too.)
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
  auto flows = gateway_->StartPlay({"--open-tcp=2000", "--udp=2000", "--rate=200", "--rounds=150",
                                    "--round-seconds=0.1", "--close-open=false"},
                                   sent());
  ASSERT_TRUE(flows.ok()) << flows.status();
  for (const char* offset : {"+86400", "+0", "-86400", "+0"}) {
    absl::SleepFor(absl::Seconds(3.5));
    set_clock(offset);
  }
  const auto exit = (*flows)->Wait(absl::Seconds(60));
  ASSERT_TRUE(exit.ok() && exit->ok()) << (*flows)->Stderr();
  absl::SleepFor(absl::Seconds(2));
  ASSERT_TRUE(gateway_->FlushConntrack().ok());
  StopEngine();
  const SpoolRows rows = Spooled();
  Traffic expected = Sent();
  for (auto& [key, sums] : expected) {
    sums.connection_count += sums.open_connections;
    sums.open_connections = 0;
  }
  EXPECT_EQ(Difference(expected, rows.traffic), "") << engine_->Stderr();
  EXPECT_TRUE(rows.gaps.empty());
  std::set<int64_t> ends;
  int yesterday = 0;
  int today = 0;
  int tomorrow = 0;
  for (size_t i = 0; i < rows.headers.size(); ++i) {
    EXPECT_EQ(rows.headers[i].sequence, i + 1);
    EXPECT_EQ(rows.headers[i].interval_end_ns % 1'000'000'000, 0);
    EXPECT_TRUE(ends.insert(rows.headers[i].interval_end_ns).second) << "one interval twice";
    const int64_t hours = (rows.headers[i].interval_end_ns - began_ns) / 3'600'000'000'000;
    ++(hours < -12 ? yesterday : hours > 12 ? tomorrow : today);
  }
  // About as many as there were seconds.
  EXPECT_GE(yesterday, 2);
  EXPECT_GE(tomorrow, 2);
  EXPECT_GE(today, 6);
}

}  // namespace
}  // namespace ctacct
