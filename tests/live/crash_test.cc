// Engine and importer killed at random moments while traffic flows, on the real thing: a kernel
// gateway in network namespaces, PostgreSQL. The oracle is the generator's own count.
//
// Every test prints its seed; CTACCT_SEED=N plays it again (the moments are then the same, what the
// programs do at them is not). CTACCT_KILLS=N: so many kills.
#include <signal.h>
#include <stdlib.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/gap.h"
#include "gtest/gtest.h"
#include "tests/support/gateway.h"
#include "tests/support/private_postgres.h"
#include "tests/support/spool_rows.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

constexpr uint32_t kMask = 0xffefff00;  // 255.239.255.0
const GroupOptions kGrouped = {.src_mask = kMask, .dst_mask = kMask, .ports = {}};

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  uint64_t value = 0;
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : otherwise;
}

class CrashTest : public testing::Test {
 protected:
  void SetUp() override {
    RequireRootOrSkip();
    if (IsSkipped() || HasFatalFailure()) return;
    std::string folder = "/tmp/ctacct-crash.XXXXXX";
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    std::filesystem::create_directory(spool());
    const uint64_t seed = FromEnvironment("CTACCT_SEED", std::random_device()());
    std::cout << "seed " << seed << std::endl;
    random_.seed(seed);
    auto gateway = Gateway::Up();
    ASSERT_TRUE(gateway.ok()) << gateway.status();
    gateway_ = *std::move(gateway);
  }
  void TearDown() override {
    engine_.reset();
    importer_.reset();
    gateway_.reset();
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }

  std::string spool() const { return folder_ + "/spool"; }
  std::string sent() const { return folder_ + "/sent.csv"; }
  uint64_t Below(uint64_t n) { return random_() % n; }

  void StartEngine(const std::vector<std::string>& flags = {}) {
    std::vector<std::string> argv = {DataPath("engine/engine"),
                                     "-src=10.32.0.0/11",
                                     "-dst=10.32.0.0/11",
                                     "-src-group-mask=255.239.255.0",
                                     "-dst-group-mask=255.239.255.0",
                                     "-interval=1",
                                     "-output=" + spool()};
    argv.insert(argv.end(), flags.begin(), flags.end());
    auto engine = gateway_->Start(argv);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }
  // What may differ from one start to the next.
  std::vector<std::string> AnyFlags() {
    std::vector<std::string> flags = {absl::StrCat("-workers=", 1 + Below(3))};
    if (Below(3) == 0) flags.push_back("-mode=light");
    if (Below(3) == 0) flags.push_back("-track-open");
    if (Below(4) == 0) flags.push_back("-reliable");
    return flags;
  }
  void KillEngine() {
    ASSERT_TRUE(engine_->Running()) << engine_->Stderr();
    ASSERT_TRUE(engine_->Signal(SIGKILL).ok());
    const auto exit = engine_->Wait(absl::Seconds(10));
    ASSERT_TRUE(exit.ok() && exit->signal == SIGKILL) << engine_->Stderr();
  }
  void StopEngine() {
    ASSERT_TRUE(engine_->Running()) << engine_->Stderr();
    ASSERT_TRUE(engine_->Signal(SIGTERM).ok());
    const auto exit = engine_->Wait(absl::Seconds(30));
    ASSERT_TRUE(exit.ok()) << exit.status();
    EXPECT_TRUE(exit->ok()) << exit->ToString() << engine_->Stderr();
  }
  // Until the engine has a checkpoint to go on from: then a kill costs nothing that lives.
  void WaitForCheckpoint() {
    for (int i = 0; i < 100; ++i) {
      if (std::filesystem::exists(spool() + "/.ctacct")) {
        for (const auto& entry : std::filesystem::directory_iterator(spool() + "/.ctacct")) {
          if (entry.path().extension() == ".checkpoint") return;
        }
      }
      absl::SleepFor(absl::Milliseconds(50));
    }
    FAIL() << "no checkpoint: " << engine_->Stderr();
  }

  SpoolRows Spooled() const {
    const auto rows = ReadSpool(spool());
    EXPECT_TRUE(rows.ok()) << rows.status();
    return rows.ok() ? *rows : SpoolRows();
  }

  Traffic Sent() const {
    const auto traffic = ReadExpectation(sent());
    EXPECT_TRUE(traffic.ok()) << traffic.status();
    return traffic.ok() ? Group(*traffic, kGrouped) : Traffic();
  }

  std::string folder_;
  std::mt19937_64 random_;
  std::unique_ptr<Gateway> gateway_;
  std::unique_ptr<Subprocess> engine_;
  std::unique_ptr<Subprocess> importer_;
};

// Flows that live all the time, and carry data all the time.
TEST_F(CrashTest, EngineKilledAtRandomMoments) {  // Fault 1
  const uint64_t kills = FromEnvironment("CTACCT_KILLS", 200);
  // A restart takes longer on a machine that does other things, too: the generator plays on for as
  // long as there are kills to come.
  constexpr int kRounds = 10'000;
  StartEngine({"-workers=2"});
  WaitForCheckpoint();
  auto generator = gateway_->StartPlay(
      {"--open-tcp=2000", absl::StrCat("--rounds=", kRounds), "--round-seconds=0.05",
       "--close-open=false", "--stop-file=" + folder_ + "/stop"},
      sent());
  ASSERT_TRUE(generator.ok()) << generator.status();
  for (uint64_t i = 0; i < kills; ++i) {
    // From within the start to long after the first interval's end.
    absl::SleepFor(absl::Milliseconds(Below(8) == 0 ? 1000 + Below(700) : Below(400)));
    KillEngine();
    if (HasFatalFailure()) return;
    if (Below(4) == 0) absl::SleepFor(absl::Milliseconds(Below(300)));
    StartEngine({absl::StrCat("-workers=", 1 + Below(3))});
    if (HasFatalFailure()) return;
  }
  std::ofstream(folder_ + "/stop").close();
  const auto played = (*generator)->Wait(absl::Seconds(60));
  ASSERT_TRUE(played.ok() && played->ok()) << (*generator)->Stderr();
  ASSERT_TRUE(engine_->WaitForOutput("accounting live", absl::Seconds(10)).ok());
  StopEngine();
  const auto [rows, gaps, headers, dropped] = Spooled();
  std::cout << kills << " kills, " << Total(rows).packets_src << " packets, " << gaps.size()
            << " gaps told\n";
  EXPECT_EQ(Difference(WithoutConnections(Sent()), WithoutConnections(rows)), "")
      << engine_->Stderr();
  EXPECT_FALSE(gaps.empty());
  for (const Gap& gap : gaps) {
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
  const auto dying = gateway_->Play({"--udp=3000"});
  ASSERT_TRUE(dying.ok()) << dying.status();
  const auto living = gateway_->Play({"--open-tcp=2000", "--close-open=false"});
  ASSERT_TRUE(living.ok()) << living.status();
  absl::SleepFor(absl::Seconds(3));  // All of it is in a checkpoint now.
  KillEngine();
  ASSERT_TRUE(gateway_->Run({"conntrack", "-D", "-p", "udp"}).ok());
  const auto unseen = gateway_->Play({"--tcp=500"});  // Nobody will know.
  ASSERT_TRUE(unseen.ok()) << unseen.status();
  ASSERT_TRUE(gateway_->Run({"conntrack", "-D", "-p", "tcp", "--state", "TIME_WAIT"}).ok());
  StartEngine();
  ASSERT_TRUE(engine_->WaitForOutput("accounting live", absl::Seconds(10)).ok());
  absl::SleepFor(absl::Seconds(2));
  StopEngine();
  const auto [rows, gaps, headers, dropped] = Spooled();
  Traffic expected = Group(*dying, kGrouped);
  for (const auto& [key, sums] : Group(*living, kGrouped)) expected[key] += sums;
  Traffic at_most = expected;
  for (const auto& [key, sums] : Group(*unseen, kGrouped)) at_most[key] += sums;
  for (const auto& [key, sums] : expected) {
    ASSERT_TRUE(rows.count(key) != 0) << key.ToString();
    const TrafficTotals& row = rows.at(key);
    EXPECT_GE(row.packets_src, sums.packets_src) << key.ToString();
    EXPECT_LE(row.packets_src, at_most.at(key).packets_src) << key.ToString();
    EXPECT_LE(row.bytes_dst, at_most.at(key).bytes_dst) << key.ToString();
  }
  ASSERT_EQ(gaps.size(), 1u);
  EXPECT_EQ(gaps[0].cause, GapCause::kRestart);
  EXPECT_EQ(gaps[0].flows_lost, 3000u);
}

// Everything at once, for as long as CTACCT_CRASH_SECONDS says: flows carry data, new ones are born
// all the time, also while no engine runs; engine and importer are killed or stopped; files go on
// to PostgreSQL. No flow dies, so all must be there, to the byte.
TEST_F(CrashTest, EngineAndImporterKilledAtRandom) {
  const uint64_t seconds = FromEnvironment("CTACCT_CRASH_SECONDS", 60);
  auto postgres = PrivatePostgres::Start();
  ASSERT_TRUE(postgres.ok()) << postgres.status();
  const std::vector<std::string> importer_argv = {
      DataPath("importer/importer"), "-conninfo=" + (*postgres)->Conninfo(), "-watch=" + spool()};
  const auto start_importer = [&] {
    auto importer = Subprocess::Start(importer_argv);
    ASSERT_TRUE(importer.ok()) << importer.status();
    importer_ = *std::move(importer);
  };
  StartEngine({"-workers=2"});
  WaitForCheckpoint();
  start_importer();
  auto generator = gateway_->StartPlay(
      {"--open-tcp=1000", "--udp=100000", "--rate=300", "--rounds=10000", "--round-seconds=0.05",
       "--close-open=false", "--stop-file=" + folder_ + "/stop"},
      sent());
  ASSERT_TRUE(generator.ok()) << generator.status();
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
        if (!engine_->WaitForOutput("accounting live", absl::Seconds(10)).ok()) break;
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
  std::ofstream(folder_ + "/stop").close();
  const auto played = (*generator)->Wait(absl::Seconds(60));
  ASSERT_TRUE(played.ok() && played->ok()) << (*generator)->Stderr();
  ASSERT_TRUE(engine_->WaitForOutput("accounting live", absl::Seconds(10)).ok());
  StopEngine();
  (void)importer_->Signal(SIGTERM);
  ASSERT_TRUE(importer_->Wait(absl::Seconds(30)).ok());
  std::vector<std::string> drain = importer_argv;
  drain.push_back("-once");
  const auto drained = RunProcessOrError(drain, absl::Seconds(60));
  ASSERT_TRUE(drained.ok()) << drained.status();
  std::cout << engine_kills << " kills and " << clean_stops << " stops of the engine, "
            << importer_kills << " kills of the importer\n";
  EXPECT_TRUE(Spooled().headers.empty());
  EXPECT_FALSE(std::filesystem::exists(spool() + "/failed"));
  Traffic rows;
  const auto text = (*postgres)->Sql(
      "postgres",
      "SELECT proto, host(src), host(dst), port, sum(src_packets), sum(dst_packets), "
      "sum(src_bytes), sum(dst_bytes) FROM vpn_traffic GROUP BY 1, 2, 3, 4");
  ASSERT_TRUE(text.ok()) << text.status();
  for (absl::string_view line : absl::StrSplit(*text, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> columns = absl::StrSplit(line, '|');
    ASSERT_EQ(columns.size(), 8u) << line;
    const auto number = [&](size_t i) {
      uint64_t value = 0;
      EXPECT_TRUE(absl::SimpleAtoi(columns[i], &value)) << line;
      return value;
    };
    TrafficTotals& sums = rows[{columns[0], *ParseAddress(columns[1]), *ParseAddress(columns[2]),
                                static_cast<int32_t>(number(3))}];
    sums.packets_src = number(4);
    sums.packets_dst = number(5);
    sums.bytes_src = number(6);
    sums.bytes_dst = number(7);
  }
  EXPECT_EQ(Difference(WithoutConnections(Sent()), rows), "") << engine_->Stderr();
  const auto gaps = (*postgres)->Sql(
      "postgres", "SELECT count(*) > 0, coalesce(sum(flows_lost), 0) FROM traffic_gaps");
  ASSERT_TRUE(gaps.ok()) << gaps.status();
  EXPECT_EQ(*gaps, "t|0");
}

}  // namespace
}  // namespace ctacct
