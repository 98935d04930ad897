// The whole way with real parts: a kernel gateway in network namespaces, the engine, spool files,
// FIFO, a recording and its replay, the importer, PostgreSQL. The expected counts are the
// generator's own.
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_output.h"
#include "tests/support/engine_test.h"
#include "tests/support/imported.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class LiveTest : public EngineTest {
 protected:
  LiveTest() : EngineTest("live") {}

  std::string recording() const { return folder_ + "/recording.pcap"; }

  static std::vector<std::string> EngineArgv(const std::vector<std::string>& flags) {
    return Joined(
        {{DataPath("engine/engine"), "-src=10.32.0.0/11", "-dst=10.32.0.0/11", "-include-icmp"},
         kGroupFlags,
         flags});
  }
  void StartEngine(const std::vector<std::string>& flags) {
    EngineTest::StartEngine(Joined({EngineArgv(flags), {"-output=" + spool()}}));
  }
  // One that writes to standard output, to compare with.
  std::unique_ptr<Subprocess> StartSecondEngine(const std::vector<std::string>& flags) {
    auto engine = gateway_->Start(EngineArgv(flags));
    EXPECT_TRUE(engine.ok()) << engine.status();
    if (!engine.ok()) return nullptr;
    const absl::Status live = (*engine)->WaitForOutput("accounting live", kPatience);
    EXPECT_TRUE(live.ok()) << live;
    return *std::move(engine);
  }

  Rows Written() const { return ReadCsv(Spooldump(spool())); }
  Rows Replayed(const std::string& interval) const {
    const auto csv = RunProcessOrError(
        EngineArgv({"-replay=" + recording(), interval, "-track-open"}), kPatience);
    EXPECT_TRUE(csv.ok()) << csv.status();
    return ReadCsv(csv.value_or(""));
  }

  // An overrun is in the files; the last interval with a gap is this complete.
  void ExpectOverrun(Completeness last) const {
    const SpoolRows rows = ReadSpool(spool());
    EXPECT_GT(rows.events_dropped, 0u);
    Completeness found = Completeness::kComplete;
    for (const SpoolHeader& header : rows.headers) {
      if (header.completeness != Completeness::kComplete) found = header.completeness;
    }
    EXPECT_EQ(found, last) << GapsText(rows.gaps) << engine_->Stderr();
  }

  // Each interval has a file, and begins to observe where the one before it ended.
  void ExpectCoveredWithoutHoles() const {
    const std::vector<SpoolHeader> headers = ReadSpool(spool()).headers;
    ASSERT_FALSE(headers.empty());
    for (size_t i = 1; i < headers.size(); ++i) {
      EXPECT_EQ(headers[i].sequence, headers[i - 1].sequence + 1);
      EXPECT_EQ(headers[i].covered_from_ns, headers[i - 1].covered_to_ns) << i;
      EXPECT_EQ(headers[i].src_mask, headers[0].src_mask);
    }
    // Dumps begin a little after their boundary.
    for (const SpoolHeader& header : headers) {
      EXPECT_NEAR(static_cast<double>(header.covered_to_ns - header.interval_end_ns), 0,
                  2.1e9 * kSlowness);
    }
  }

  // Plays, destroys all flows at once, and compares every output of the engine with what was sent.
  void PlayAndCompareEverything(const std::vector<std::string>& play) {
    auto gateway = Gateway::Up();
    ASSERT_TRUE(gateway.ok()) << gateway.status();
    const std::string fifo = folder_ + "/fifo";
    const std::string interval = absl::StrCat("-interval=", 2 * kSlowness);
    StartEngine({interval, "-track-open", "-record=" + recording(), "-pipe=" + fifo});
    auto reader = Subprocess::Start({"cat", fifo});
    ASSERT_TRUE(reader.ok()) << reader.status();
    const Traffic sent = Play(play);
    FlushConntrack();
    StopEngine();
    ASSERT_TRUE((*reader)->Wait(absl::Seconds(10)).ok());
    EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("overrun")));

    ExpectCoveredWithoutHoles();
    const Traffic expected = AllClosed(Group(sent, kGrouped));
    const Rows from_spool = Written();
    const Rows from_replay = Replayed(interval);
    EXPECT_EQ(Difference(expected, from_spool.traffic), "");
    EXPECT_EQ(Difference(expected, ReadCsv((*reader)->Stdout()).traffic), "");
    EXPECT_EQ(Difference(expected, from_replay.traffic), "");
    EXPECT_EQ(from_spool.open_connections, from_replay.open_connections);
    auto postgres = PrivatePostgres::Start();
    ASSERT_TRUE(postgres.ok()) << postgres.status();
    ASSERT_NO_FATAL_FAILURE(Import(**postgres, spool()));
    EXPECT_EQ(Difference(expected, ImportedTraffic(**postgres)), "");
    std::cout << "sent " << Total(expected).ToString() << " under " << expected.size()
              << " keys: equal in spool, FIFO, replay and PostgreSQL\n"
              << engine_->Stderr();
  }
};

TEST_F(LiveTest, MassDestroyOf100000TcpConnections) {
  PlayAndCompareEverything({"--tcp=100000", "--icmp=1000"});
}

TEST_F(LiveTest, MassDestroyOf200000UdpFlows) { PlayAndCompareEverything({"--udp=200000"}); }

// Each worker has its own socket, filter and tables; together they are one engine.
TEST_F(LiveTest, MassDestroyUnderThreeWorkers) {
  StartEngine({"-interval=1", "-workers=3", "-track-open"});
  const Traffic sent =
      Play({"--tcp=60000", "--udp=60000", "--icmp=1000", "--open-tcp=2000", "--rounds=3"});
  FlushConntrack();
  StopEngine();
  EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("overrun")));
  const std::string csv = Spooldump(spool());
  EXPECT_EQ(Difference(AllClosed(Group(sent, kGrouped)), ReadCsv(csv).traffic), "");
  std::set<std::string> keys;
  for (absl::string_view line : absl::StrSplit(csv, '\n', absl::SkipEmpty())) {
    const std::vector<absl::string_view> fields = absl::StrSplit(line, ',');
    const std::string key = absl::StrJoin(fields.begin(), fields.begin() + 5, ",");
    EXPECT_TRUE(keys.insert(key).second) << key << " twice in an interval";
  }
}

// The same packets, bytes and connections; durations to the second.
TEST_F(LiveTest, LightIsAsExactAsPrecise) {
  for (const Timeouts timeouts : {Timeouts::kLong, Timeouts::kShort}) {
    ASSERT_NO_FATAL_FAILURE(BringUp({.nat = false, .timeouts = timeouts}));
    StartEngine({"-interval=1", "-mode=light", "-track-open"});
    const auto precise = StartSecondEngine({"-interval=1", "-track-open"});
    ASSERT_NE(precise, nullptr);
    const Traffic sent = Play({"--tcp=5000", "--udp=5000", "--icmp=500", "--open-tcp=1000",
                               "--rounds=6", "--round-seconds=1", "--tcp-refused-percent=5"});
    // What was closed last is seen so by a dump, or expires.
    absl::SleepFor(absl::Seconds(4));
    FlushConntrack();
    StopEngine();
    Stop(*precise);
    const Rows light = Written();
    const Rows exact = ReadCsv(precise->Stdout());
    const Traffic expected = AllClosed(Group(sent, kGrouped));
    EXPECT_EQ(Difference(expected, exact.traffic), "");
    EXPECT_EQ(Difference(expected, light.traffic), "");
    const uint64_t connections = Total(expected).connection_count;
    EXPECT_LE(light.connection_time_ms, exact.connection_time_ms + connections * 1000);
    EXPECT_LE(exact.connection_time_ms, light.connection_time_ms + connections * 1000);
    // A thousand were open for six seconds.
    uint64_t most_open = 0;
    for (const auto& [time_ns, open] : light.open_connections) {
      most_open = std::max(most_open, open);
    }
    EXPECT_GE(most_open, 1000u);
    EXPECT_EQ(light.open_connections.rbegin()->second, 0u);
    std::cout << connections << " connections, " << exact.connection_time_ms << " ms precise, "
              << light.connection_time_ms << " ms light\n";
    std::filesystem::remove_all(spool());  // The next engine makes it again, for its user.
  }
}

TEST_F(LiveTest, ConnectionsOpenOverFiveIntervals) {
  StartEngine({"-interval=1", "-track-open", "-record=" + recording()});
  const Traffic sent = Play({"--open-tcp=3000", "--tcp=500", "--rounds=9", "--round-seconds=1"});
  StopEngine();
  const Traffic expected = AllClosed(Group(sent, kGrouped));
  const Rows rows = Written();
  EXPECT_EQ(Difference(expected, rows.traffic), "");
  int intervals_with_all_open = 0;
  for (const auto& [time_ns, open] : rows.open_connections) intervals_with_all_open += open == 3000;
  EXPECT_GE(intervals_with_all_open, 5);
  EXPECT_EQ(rows.open_connections.rbegin()->second, 0u);
  EXPECT_EQ(Difference(expected, Replayed("-interval=1").traffic), "");
}

TEST_F(LiveTest, TranslatedFlowsAreTheirOpeners) {
  ASSERT_NO_FATAL_FAILURE(BringUp({.nat = true}));
  StartEngine({"-interval=1"});
  const Traffic sent = Play({"--tcp=2000", "--udp=2000", "--icmp=200"});
  StopEngine();
  EXPECT_EQ(Difference(AllClosed(Group(sent, kGrouped)), Written().traffic), "");
}

// Of flows older than the engine only the growth counts, and no closed connection twice.
TEST_F(LiveTest, FlowsOlderThanTheEngineAreBaselined) {
  const auto play =
      StartPlay({"--tcp=500", "--open-tcp=2000", "--rounds=4",
                 absl::StrCat("--round-seconds=", 3 * kSlowness), "--close-open=true"});
  ASSERT_NE(play, nullptr);
  // The first round is over when the counters rest.
  Traffic before;
  ASSERT_TRUE(Eventually([&] {
    absl::SleepFor(absl::Milliseconds(200) * kSlowness);
    uint64_t flows = 0;
    const auto now = gateway_->KernelCounters(&flows);
    EXPECT_TRUE(now.ok()) << now.status();
    return flows == 2500 && *now == std::exchange(before, *now);
  }));
  StartEngine({"-interval=1"});
  ASSERT_NO_FATAL_FAILURE(WaitForPlay(*play));
  const auto after = gateway_->KernelCounters();
  ASSERT_TRUE(after.ok()) << after.status();
  StopEngine();
  Traffic grown;
  for (const auto& [key, sums] : *after) {
    const TrafficTotals& old = before[key];
    TrafficTotals growth;
    growth.packets_src = sums.packets_src - old.packets_src;
    growth.packets_dst = sums.packets_dst - old.packets_dst;
    growth.bytes_src = sums.bytes_src - old.bytes_src;
    growth.bytes_dst = sums.bytes_dst - old.bytes_dst;
    if (growth != TrafficTotals()) grown[key] = growth;
  }
  Traffic actual = Written().traffic;
  EXPECT_EQ(Total(actual).connection_count, 2000u);
  actual = WithoutConnections(actual);
  EXPECT_GT(Total(grown).packets_src, 4000u);
  EXPECT_EQ(Difference(Group(grown, kGrouped), actual), "");
}

// Tuples that come back at once, each with its old id (a SYN that takes over a connection in
// TIME_WAIT), while dumps run all the time. The engine is stopped repeatedly, so that it is far
// behind the kernel. It is compared with a second engine that is not stopped: for some packets only
// the kernel knows whether it counted them to a connection.
TEST_F(LiveTest, RecreatedTuplesUnderAnEngineThatIsBehind) {
  StartEngine({"-interval=1", "-receive-buffer=1073741824"});
  const auto calm = StartSecondEngine({"-interval=1", "-receive-buffer=1073741824"});
  ASSERT_NE(calm, nullptr);

  // Many flows make long dumps.
  Play({"--udp=60000"});
  Play({"--tcp=30000", "--first-flow=1000000"});
  std::atomic<bool> done{false};
  std::thread starver([&, pid = engine_->pid()] {
    while (!done.load()) {
      kill(pid, SIGSTOP);
      absl::SleepFor(absl::Milliseconds(150));
      kill(pid, SIGCONT);
      absl::SleepFor(absl::Milliseconds(30));
    }
  });
  for (const char* payload : {"--payload-max=1400", "--payload-max=64"}) {
    const auto played = gateway_->Play({"--tcp=30000", "--first-flow=1000000", payload});
    EXPECT_TRUE(played.ok()) << played.status();
  }
  absl::SleepFor(absl::Seconds(1));
  done.store(true);
  starver.join();
  FlushConntrack();
  StopEngine();
  Stop(*calm);
  EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("overrun")));
  const Traffic expected = ReadCsv(calm->Stdout()).traffic;
  EXPECT_GT(Total(expected).connection_count, 60000u);
  EXPECT_EQ(Difference(expected, Written().traffic), "") << engine_->Stderr() << calm->Stderr();
}

// A receive buffer far too small: the kernel drops most events. A dump makes the totals of living
// flows right again, and the rows say what was lost.
TEST_F(LiveTest, OverrunIsCountedAndResynced) {
  StartEngine({"-interval=2", "-receive-buffer=32768"});
  const Traffic sent = Play({"--udp=50000", "--open-tcp=1000", "--close-open=false"});
  StopEngine();
  EXPECT_THAT(engine_->Stderr(), HasSubstr("overrun"));
  // Nothing died, so once a dump has followed the totals are right.
  ExpectOverrun(Completeness::kResynced);
  EXPECT_EQ(Difference(WhileOpen(Group(sent, kGrouped)), Written().traffic), "")
      << engine_->Stderr();
}

// All flows die while the buffer is too small: what died unseen is lost and said so; the engine
// lives, forgets the dead, and what comes later is exact.
TEST_F(LiveTest, OverrunAtMassDestroyIsSurvived) {
  StartEngine({"-interval=1", "-receive-buffer=32768", "-track-open"});
  Play({"--udp=30000", "--open-tcp=10000", "--close-open=false"});
  FlushConntrack();
  // Flows that the kernel no longer has are forgotten after two dumps.
  WaitForEngine("overrun");
  absl::SleepFor(absl::Seconds(4));
  ASSERT_TRUE(engine_->Running());
  // What they moved last is not known.
  ExpectOverrun(Completeness::kPartial);
  for (const std::string& file : VisibleFilesIn(spool())) std::filesystem::remove(file);
  const Traffic sent = Play({"--udp=500", "--tcp=100", "--rate=500"});
  StopEngine();
  const Rows rows = Written();
  EXPECT_EQ(Difference(AllClosed(Group(sent, kGrouped)), rows.traffic), "");
  EXPECT_EQ(rows.open_connections.rbegin()->second, 0u);
}

// The shipped capture: the rows are what its generator sent when it was recorded.
TEST(ShippedCaptureTest, ReplayEqualsWhatWasSent) {
  const auto sent = ReadExpectation(DataPath("tests/captures/gateway.sent.csv"));
  ASSERT_TRUE(sent.ok()) << sent.status();
  const auto csv = RunProcessOrError(
      Joined({{DataPath("engine/engine"), "-replay=" + DataPath("tests/captures/gateway.pcap"),
               "-include-icmp", "-interval=5"},
              kGroupFlags}),
      kPatience);
  ASSERT_TRUE(csv.ok()) << csv.status();
  const Rows rows = ReadCsv(*csv);
  EXPECT_GE(rows.open_connections.size(), 4u);  // Intervals.
  EXPECT_EQ(Difference(AllClosed(Group(*sent, kGrouped)), rows.traffic), "");
}

}  // namespace
}  // namespace ctacct
