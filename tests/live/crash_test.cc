// Engine and importer killed at random moments while traffic flows, on the real thing: a kernel
// gateway in network namespaces, PostgreSQL. The oracle is the generator's own count.
//
// Every test prints its seed; CTACCT_SEED=N plays it again (the moments are then the same, what the
// programs do at them is not). CTACCT_KILLS=N: so many kills.
#include <signal.h>

#include <cstdint>
#include <filesystem>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/gap.h"
#include "gtest/gtest.h"
#include "tests/support/engine_output.h"
#include "tests/support/engine_test.h"
#include "tests/support/imported.h"

namespace ctacct {
namespace {

class CrashTest : public EngineTest {
 protected:
  CrashTest() : EngineTest("crash") {
    const uint64_t seed = NumberFromEnvironment("CTACCT_SEED", std::random_device()());
    std::cout << "seed " << seed << std::endl;
    random_.seed(seed);
  }

  uint64_t Below(uint64_t n) { return random_() % n; }

  // Does not wait: it may be killed within its start.
  void StartEngine(const std::vector<std::string>& flags = {}) {
    LaunchEngine(Joined({{DataPath("engine/engine"), "-src=10.32.0.0/11", "-dst=10.32.0.0/11",
                          "-interval=1", "-output=" + spool()},
                         kGroupFlags,
                         flags}));
  }
  // What may differ from one start to the next.
  std::vector<std::string> AnyFlags() {
    std::vector<std::string> flags = {absl::StrCat("-workers=", 1 + Below(3))};
    if (Below(3) == 0) flags.push_back("-mode=light");
    if (Below(3) == 0) flags.push_back("-track-open");
    if (Below(4) == 0) flags.push_back("-reliable");
    return flags;
  }
  // Until the engine has a checkpoint to go on from: then a kill costs nothing that lives.
  void WaitForCheckpoint() {
    ASSERT_TRUE(Eventually([&] { return !Checkpoints().empty(); })) << engine_->Stderr();
  }
  std::vector<std::string> Checkpoints() const {
    std::vector<std::string> names = NamesIn(spool() + "/.ctacct");
    std::erase_if(names, [](const std::string& name) { return name != "checkpoint"; });
    return names;
  }

  Traffic SentByGroup() const { return Group(Sent(), kGrouped); }
  void EndPlay(Subprocess& generator) {
    WriteFile(folder_ + "/stop", "");
    WaitForPlay(generator);
  }

  std::mt19937_64 random_;
  std::unique_ptr<Subprocess> importer_;
};

// Flows that live all the time, and carry data all the time.
TEST_F(CrashTest, EngineKilledAtRandomMoments) {  // Fault 1
  const uint64_t kills = NumberFromEnvironment("CTACCT_KILLS", 200);
  // A restart takes longer on a machine that does other things, too: the generator plays on for as
  // long as there are kills to come.
  constexpr int kRounds = 10'000;
  StartEngine({"-workers=2"});
  WaitForCheckpoint();
  const auto generator =
      StartPlay({"--open-tcp=2000", absl::StrCat("--rounds=", kRounds), "--round-seconds=0.05",
                 "--close-open=false", "--stop-file=" + folder_ + "/stop"});
  ASSERT_NE(generator, nullptr);
  for (uint64_t i = 0; i < kills; ++i) {
    // From within the start to long after the first interval's end.
    absl::SleepFor(absl::Milliseconds(Below(8) == 0 ? 1000 + Below(700) : Below(400)));
    KillEngine();
    if (HasFatalFailure()) return;
    if (Below(4) == 0) absl::SleepFor(absl::Milliseconds(Below(300)));
    StartEngine({absl::StrCat("-workers=", 1 + Below(3))});
    if (HasFatalFailure()) return;
  }
  ASSERT_NO_FATAL_FAILURE(EndPlay(*generator));
  WaitForEngine("accounting live");
  // All live, so no connection has closed yet. Then all do.
  EXPECT_EQ(Total(ReadSpool(spool()).traffic).connection_count, 0u);
  FlushConntrack();
  StopEngine();
  const SpoolRows rows = ReadSpool(spool());
  std::cout << kills << " kills, " << Total(rows.traffic).packets_src << " packets, "
            << rows.gaps.size() << " gaps\n";
  EXPECT_EQ(Difference(AllClosed(SentByGroup()), rows.traffic), "") << engine_->Stderr();
  EXPECT_FALSE(rows.gaps.empty());
  for (const Gap& gap : rows.gaps) {
    EXPECT_EQ(gap.cause, GapCause::kRestart);
    EXPECT_EQ(gap.completeness, Completeness::kPartial);
    EXPECT_EQ(gap.flows_lost, 0u);
    EXPECT_LT(gap.began_ns, gap.ended_ns);
  }
}

// What dies while no engine runs is a gap that says how many flows it was, and no more than them is
// lost.
TEST_F(CrashTest, WhatDiesMeanwhileIsARecordedGap) {  // Fault 1
  StartEngine();
  WaitForCheckpoint();
  const Traffic dying = Play({"--udp=3000"});
  const Traffic living = Play({"--open-tcp=2000", "--close-open=false"});
  Traffic expected = Group(dying, kGrouped);
  expected += Group(living, kGrouped);
  // A file gets its name after the checkpoint with what it accounts has got its own.
  ASSERT_TRUE(Eventually([&] { return ReadSpool(spool()).traffic == WhileOpen(expected); }));
  KillEngine();
  ASSERT_TRUE(gateway_->Run({"conntrack", "-D", "-p", "udp"}).ok());
  const Traffic unseen = Play({"--tcp=500"});  // Nobody will know.
  ASSERT_TRUE(gateway_->Run({"conntrack", "-D", "-p", "tcp", "--state", "TIME_WAIT"}).ok());
  StartEngine();
  ASSERT_TRUE(Eventually([&] { return !ReadSpool(spool()).gaps.empty(); })) << engine_->Stderr();
  StopEngine();
  const SpoolRows rows = ReadSpool(spool());
  Traffic at_most = expected;
  at_most += Group(unseen, kGrouped);
  for (const auto& [key, sums] : expected) {
    ASSERT_TRUE(rows.traffic.contains(key)) << key.ToString();
    const TrafficTotals& row = rows.traffic.at(key);
    EXPECT_GE(row.packets_src, sums.packets_src) << key.ToString();
    EXPECT_LE(row.packets_src, at_most.at(key).packets_src) << key.ToString();
    EXPECT_LE(row.bytes_dst, at_most.at(key).bytes_dst) << key.ToString();
    // Those that live are open.
    EXPECT_LE(row.connection_count, at_most.at(key).connection_count) << key.ToString();
  }
  ASSERT_EQ(rows.gaps.size(), 1u);
  EXPECT_EQ(rows.gaps[0].cause, GapCause::kRestart);
  EXPECT_EQ(rows.gaps[0].flows_lost, 3000u);
}

// Everything at once, for as long as CTACCT_CRASH_SECONDS says: flows carry data, new ones are born
// all the time, also while no engine runs; engine and importer are killed or stopped; files go on
// to PostgreSQL. No flow dies, so all must be there, to the byte.
TEST_F(CrashTest, EngineAndImporterKilledAtRandom) {
  const uint64_t seconds = NumberFromEnvironment("CTACCT_CRASH_SECONDS", 60);
  auto postgres = PrivatePostgres::Start();
  ASSERT_TRUE(postgres.ok()) << postgres.status();
  const auto start_importer = [&] {
    auto importer = Subprocess::Start(ImporterArgv(**postgres, spool()));
    ASSERT_TRUE(importer.ok()) << importer.status();
    importer_ = *std::move(importer);
  };
  StartEngine({"-workers=2"});
  WaitForCheckpoint();
  start_importer();
  const auto generator =
      StartPlay({"--open-tcp=1000", "--udp=100000", "--rate=300", "--rounds=10000",
                 "--round-seconds=0.05", "--close-open=false", "--stop-file=" + folder_ + "/stop"});
  ASSERT_NE(generator, nullptr);
  const absl::Time end = absl::Now() + absl::Seconds(static_cast<int64_t>(seconds));
  int engine_kills = 0;
  int importer_kills = 0;
  int clean_stops = 0;
  while (absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(Below(500)));
    switch (Below(5)) {
      case 0:
      case 1:
        KillEngine();
        if (HasFatalFailure()) return;
        ++engine_kills;
        StartEngine(AnyFlags());
        break;
      case 2:
        if (!engine_->WaitForOutput("accounting live", kPatience).ok()) break;
        StopEngine();
        ++clean_stops;
        StartEngine(AnyFlags());
        break;
      default:
        (void)importer_->Signal(SIGKILL);
        ASSERT_TRUE(importer_->Wait(absl::Seconds(10)).ok());
        ++importer_kills;
        start_importer();
        break;
    }
    if (HasFatalFailure()) return;
  }
  ASSERT_NO_FATAL_FAILURE(EndPlay(*generator));
  WaitForEngine("accounting live");
  FlushConntrack();
  StopEngine();
  (void)importer_->Signal(SIGTERM);
  ASSERT_TRUE(importer_->Wait(absl::Seconds(30)).ok());
  // Nothing is left, and no folder of failed files is there.
  ASSERT_NO_FATAL_FAILURE(Import(**postgres, spool()));
  std::cout << engine_kills << " kills and " << clean_stops << " stops of the engine, "
            << importer_kills << " kills of the importer\n";
  EXPECT_EQ(Difference(AllClosed(SentByGroup()), ImportedTraffic(**postgres)), "")
      << engine_->Stderr();
  const auto gaps = (*postgres)->Sql(
      "postgres", "SELECT count(*) > 0, coalesce(sum(flows_lost), 0) FROM traffic_gaps");
  ASSERT_TRUE(gaps.ok()) << gaps.status();
  EXPECT_EQ(*gaps, "t|0");
}

}  // namespace
}  // namespace ctacct
