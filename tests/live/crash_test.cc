// Kills the engine, names and the importer at random moments while traffic flows, with a kernel
// gateway in network namespaces and a real PostgreSQL. The expected counts are the generator's own.
//
// Every test prints its seed; CTACCT_SEED=N repeats it (the moments are then the same, what the
// programs do at them is not). CTACCT_KILLS=N sets the number of kills.
#include <signal.h>

#include <cstdint>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/gap.h"
#include "engine/spool/names_file.h"
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
  // Waits until the engine has a checkpoint to resume from: then a kill loses nothing of a living
  // flow.
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
  std::unique_ptr<Subprocess> names_;
  std::unique_ptr<Subprocess> importer_;
};

// All flows live, and carry data, the whole time.
TEST_F(CrashTest, EngineKilledAtRandomMoments) {  // Fault 1
  const uint64_t kills = NumberFromEnvironment("CTACCT_KILLS", 200);
  // A restart takes longer on a busy machine: the generator runs until the last kill.
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

// Flows that end while no engine runs are a gap with their number, and nothing else is lost.
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
  const Traffic unseen = Play({"--tcp=500"});  // No engine sees these.
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
    // The living ones are open.
    EXPECT_LE(row.connection_count, at_most.at(key).connection_count) << key.ToString();
  }
  ASSERT_EQ(rows.gaps.size(), 1u);
  EXPECT_EQ(rows.gaps[0].cause, GapCause::kRestart);
  EXPECT_EQ(rows.gaps[0].flows_lost, 3000u);
}

// Everything at once, for CTACCT_CRASH_SECONDS: flows carry data, new ones are born, also while no
// engine runs; addresses change their holders; engine, names and importer are killed or stopped;
// the importer loads files into PostgreSQL. No flow dies, so all traffic must be there, to the
// byte, and each snapshot of names once.
TEST_F(CrashTest, EngineNamesAndImporterKilledAtRandom) {
  const uint64_t seconds = NumberFromEnvironment("CTACCT_CRASH_SECONDS", 60);
  auto postgres = PrivatePostgres::Start();
  ASSERT_TRUE(postgres.ok()) << postgres.status();
  const std::string list = folder_ + "/list.csv", done = folder_ + "/done";
  std::filesystem::create_directory(done);
  const std::vector<std::string> importer_argv =
      Joined({ImporterArgv(**postgres, spool()), {"-move=" + done}});
  const auto start = [](const std::vector<std::string>& argv, std::unique_ptr<Subprocess>* made) {
    auto started = Subprocess::Start(argv);
    ASSERT_TRUE(started.ok()) << started.status();
    *made = *std::move(started);
  };
  const auto kill_hard = [](Subprocess& program) {
    (void)program.Signal(SIGKILL);
    ASSERT_TRUE(program.Wait(absl::Seconds(10)).ok());
  };
  const auto start_importer = [&] { start(importer_argv, &importer_); };
  const auto start_names = [&] {
    start({DataPath("engine/names/names"), "-file=" + list, "-output=" + spool()}, &names_);
  };
  const auto hand_on = [&] {
    std::string text;
    for (int i = 0; i < 100; ++i) {
      absl::StrAppend(&text, "10.32.", i, ".0/24,holder ", Below(20), "\n");
    }
    WriteFile(list + ".new", text);
    std::filesystem::permissions(list + ".new", std::filesystem::perms(0644));
    std::filesystem::rename(list + ".new", list);
    return text;
  };
  StartEngine({"-workers=2"});
  WaitForCheckpoint();
  hand_on();
  start_names();
  start_importer();
  const auto generator =
      StartPlay({"--open-tcp=1000", "--udp=100000", "--rate=300", "--rounds=10000",
                 "--round-seconds=0.05", "--close-open=false", "--stop-file=" + folder_ + "/stop"});
  ASSERT_NE(generator, nullptr);
  const absl::Time end = absl::Now() + absl::Seconds(static_cast<int64_t>(seconds));
  int engine_kills = 0, names_kills = 0, importer_kills = 0, clean_stops = 0;
  while (absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(Below(500)));
    hand_on();
    switch (Below(7)) {
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
      case 3:
      case 4:
        kill_hard(*names_);
        ++names_kills;
        start_names();
        break;
      default:
        kill_hard(*importer_);
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
  const std::string last = hand_on();
  NamesSnapshot newest;
  EXPECT_TRUE(Eventually([&] {
    const std::string path = spool() + "/current.names";
    newest = ParseNames(ReadFile(path), path).value_or(NamesSnapshot());
    std::string text;
    for (const NamesEntry& entry : newest.entries) {
      absl::StrAppend(&text, NetworkText(entry.network), ",", entry.name, "\n");
    }
    return text == last;
  })) << names_->Stderr();
  ASSERT_NO_FATAL_FAILURE(Stop(*names_));
  (void)importer_->Signal(SIGTERM);
  ASSERT_TRUE(importer_->Wait(absl::Seconds(30)).ok());
  // Nothing is left, and no folder of failed files is there.
  const auto rest = RunProcessOrError(Joined({importer_argv, {"-once"}}), kPatience);
  ASSERT_TRUE(rest.ok()) << rest.status();
  EXPECT_EQ(VisibleNamesIn(spool()), std::vector<std::string>{"current.names"});
  std::cout << engine_kills << " kills and " << clean_stops << " stops of the engine, "
            << names_kills << " kills of names, " << importer_kills << " kills of the importer\n";
  EXPECT_EQ(Difference(AllClosed(SentByGroup()), ImportedTraffic(**postgres)), "")
      << engine_->Stderr();
  const auto sql = [&](const std::string& database, const std::string& text) {
    const auto out = (*postgres)->Sql(database, text);
    EXPECT_TRUE(out.ok()) << out.status();
    return out.value_or("");
  };
  EXPECT_EQ(sql("postgres", "SELECT count(*) > 0, coalesce(sum(flows_lost), 0) FROM traffic_gaps"),
            "t|0");

  // Each run of names counts from 1 without a hole, and each of its snapshots is loaded once: what
  // the database has is what it gets of the same files in one go.
  std::map<EngineId, uint64_t> sequences;
  uint64_t snapshots = 0;
  std::filesystem::create_directory(folder_ + "/again");
  for (const std::string& name : VisibleNamesIn(done)) {
    if (!absl::EndsWith(name, kNamesFileEnd)) continue;
    const std::string path = done + "/" + name;
    const auto snapshot = ParseNames(ReadFile(path), path);
    ASSERT_TRUE(snapshot.ok()) << snapshot.status();
    EXPECT_EQ(snapshot->sequence, ++sequences[snapshot->writer]);
    ++snapshots;
    std::filesystem::copy(path, folder_ + "/again/" + name);
  }
  std::cout << snapshots << " snapshots of " << sequences.size() << " runs of names\n";
  EXPECT_GE(sequences.size(), 2u);
  EXPECT_EQ(sql("postgres", "SELECT count(*) FROM import_ledger WHERE names_time IS NOT NULL"),
            absl::StrCat(snapshots));
  ASSERT_TRUE((*postgres)->MakeDatabase("again").ok());
  const auto again = RunProcessOrError(
      {DataPath("importer/importer"), "-conninfo=" + (*postgres)->Conninfo("again"),
       "-watch=" + folder_ + "/again", "-once"},
      kPatience);
  ASSERT_TRUE(again.ok()) << again.status();
  const std::string held =
      "SELECT gateway, network, name, source, valid FROM traffic_names ORDER BY 1, 2, 5";
  EXPECT_EQ(sql("postgres", held), sql("again", held));
  EXPECT_EQ(sql("postgres",
                "SELECT network || ',' || name FROM traffic_names WHERE "
                "upper_inf(valid) ORDER BY network") +
                "\n",
            last);
}

}  // namespace
}  // namespace ctacct
