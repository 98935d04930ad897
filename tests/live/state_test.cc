// The engine's state, on a real gateway: its folder, its lock, the gateway's name, and many
// restarts. CTACCT_RESTARTS=N: the number of restarts, 30 by default.
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/gap.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_output.h"
#include "tests/support/engine_test.h"

namespace ctacct {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class StateTest : public EngineTest {
 protected:
  StateTest() : EngineTest("state") {}

  std::vector<std::string> EngineArgv(const std::vector<std::string>& flags) const {
    return Joined({{DataPath("engine/engine"), "-src=10.32.0.0/11", "-dst=10.32.0.0/11",
                    "-output=" + spool()},
                   kGroupFlags,
                   flags});
  }
  void StartEngine(const std::vector<std::string>& flags) {
    EngineTest::StartEngine(EngineArgv(flags));
  }
  // Plays flows; their sums belong to what is expected from then on.
  void Play(const std::vector<std::string>& flags) {
    sent_ += Group(EngineTest::Play(flags), kGrouped);
  }
  void ExpectAllWritten(const Traffic& expected) const {
    EXPECT_TRUE(Eventually([&] { return ReadSpool(spool()).traffic == expected; }))
        << Difference(expected, ReadSpool(spool()).traffic) << engine_->Stderr();
  }
  std::vector<std::string> HiddenNames() const {
    std::vector<std::string> names = NamesIn(spool());
    std::erase_if(names, [](const std::string& name) { return name[0] != '.'; });
    return names;
  }

  Traffic sent_;
};

// Somebody removes the state folder, and another engine starts in its place. The first engine has
// the same events in its sockets; it must reveal nothing more.
TEST_F(StateTest, AnEngineWithoutItsLockEnds) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-interval=1"}));
  Play({"--tcp=100", "--udp=100"});
  ASSERT_NO_FATAL_FAILURE(FlushConntrack());
  sent_ = AllClosed(sent_);
  ASSERT_NO_FATAL_FAILURE(ExpectAllWritten(sent_));
  const std::vector<std::string> before = SpoolFilesIn(spool());
  ASSERT_TRUE(engine_->Signal(SIGSTOP).ok());
  const std::unique_ptr<Subprocess> first = std::move(engine_);
  std::filesystem::remove_all(spool() + "/.ctacct");

  ASSERT_NO_FATAL_FAILURE(StartEngine({"-interval=1"}));
  Play({"--tcp=100", "--udp=100"});
  ASSERT_NO_FATAL_FAILURE(FlushConntrack());
  sent_ = AllClosed(sent_);
  ASSERT_NO_FATAL_FAILURE(ExpectAllWritten(sent_));
  ASSERT_TRUE(first->Signal(SIGCONT).ok());
  const auto exit = first->Wait(kPatience);
  ASSERT_TRUE(exit.ok()) << exit.status() << first->Stderr();
  EXPECT_EQ(*exit, (ExitStatus{.code = 1}));
  const std::string said = first->Stderr();
  const std::string why = "state folder " + spool() + "/.ctacct: its lock was removed or replaced";
  EXPECT_THAT(said, HasSubstr(why));
  EXPECT_EQ(said.find(why), said.rfind(why)) << said;
  EXPECT_EQ(said.substr(0, said.size() - 1).rfind('\n'), said.find("engine: " + why) - 1) << said;

  ASSERT_NO_FATAL_FAILURE(StopEngine());
  EXPECT_EQ(Difference(sent_, ReadSpool(spool()).traffic), "");
  // None of the first one's, whose id is the beginning of their names.
  std::set<std::string> engines;
  for (const SpoolHeader& header : ReadSpool(spool()).headers) {
    engines.insert(EngineIdText(header.engine_id));
  }
  EXPECT_EQ(engines.size(), 2u);
  const auto of_first = [&](const std::vector<std::string>& files) {
    return std::count_if(files.begin(), files.end(), [&](const std::string& file) {
      return std::filesystem::path(file).filename().string().rfind(*engines.begin(), 0) == 0;
    });
  };
  EXPECT_EQ(of_first(SpoolFilesIn(spool())), of_first(before));
  EXPECT_EQ(HiddenNames(), std::vector<std::string>{".ctacct"});
}

TEST_F(StateTest, TwoEnginesNeedAStateEach) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-interval=1"}));
  auto second = gateway_->Start(EngineArgv({"-interval=1", "-gateway=other"}));
  ASSERT_TRUE(second.ok()) << second.status();
  const auto exit = (*second)->Wait(kPatience);
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(*exit, (ExitStatus{.code = 1}));
  EXPECT_EQ(
      (*second)->Stderr(),
      "engine: another engine uses the state folder " + spool() +
          "/.ctacct: stop it. Only an engine of another network namespace may run beside it, with its own -state\n");
  // With separate states both account the same, each under its own name, and leave each other's
  // files alone.
  const std::unique_ptr<Subprocess> first = std::move(engine_);
  ASSERT_NO_FATAL_FAILURE(
      StartEngine({"-interval=1", "-gateway=other", "-state=" + folder_ + "/other"}));
  Play({"--tcp=50", "--udp=50"});
  ASSERT_NO_FATAL_FAILURE(FlushConntrack());
  ASSERT_NO_FATAL_FAILURE(Stop(*first));
  ASSERT_NO_FATAL_FAILURE(StopEngine());
  Traffic twice = AllClosed(sent_);
  twice += AllClosed(sent_);
  EXPECT_EQ(Difference(twice, ReadSpool(spool()).traffic), "");
  EXPECT_EQ(HiddenNames(), std::vector<std::string>{".ctacct"});
}

// The importer's user may rename anything in the spool folder. The state is not there.
TEST_F(StateTest, TheStateIsOutOfTheImportersReach) {
  const std::vector<std::string> flags = {"-interval=1", "-state=" + folder_ + "/state"};
  ASSERT_NO_FATAL_FAILURE(StartEngine(flags));
  const auto generator = StartPlay({"--open-tcp=200", "--rounds=10000", "--round-seconds=0.05",
                                    "--close-open=false", "--stop-file=" + folder_ + "/stop"});
  ASSERT_NE(generator, nullptr);
  const std::string stolen = folder_ + "/stolen";
  std::filesystem::create_directory(stolen);
  int thefts = 0;
  for (const absl::Time end = absl::Now() + absl::Seconds(5); absl::Now() < end;) {
    for (const std::string& name : HiddenNames()) {
      std::error_code gone;
      std::filesystem::rename(spool() + "/" + name, absl::StrCat(stolen, "/", thefts), gone);
      thefts += !gone;
    }
  }
  EXPECT_GT(thefts, 0);
  // Until it has written rows again: those of all that was sent when it is killed, or before.
  const size_t files = SpoolFilesIn(spool()).size();
  ASSERT_TRUE(Eventually([&] { return SpoolFilesIn(spool()).size() > files + 1; }));
  ASSERT_NO_FATAL_FAILURE(KillEngine());
  ASSERT_NO_FATAL_FAILURE(StartEngine(flags));
  EXPECT_THAT(engine_->Stderr(), HasSubstr("200 flows continued"));
  WriteFile(folder_ + "/stop", "");
  ASSERT_NO_FATAL_FAILURE(WaitForPlay(*generator));
  ASSERT_NO_FATAL_FAILURE(FlushConntrack());
  ASSERT_NO_FATAL_FAILURE(StopEngine());
  EXPECT_EQ(Difference(AllClosed(Group(Sent(), kGrouped)), ReadSpool(spool()).traffic), "")
      << engine_->Stderr();
  EXPECT_THAT(HiddenNames(), IsEmpty());
  struct stat info {};
  ASSERT_EQ(stat((folder_ + "/state").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
}

// A state folder of the service manager's.
TEST_F(StateTest, StateDirectoryIsTheDefaultOfAService) {
  std::filesystem::create_directory(folder_ + "/service");
  std::filesystem::permissions(folder_ + "/service", std::filesystem::perms(0777));
  SubprocessOptions options;
  options.environment["STATE_DIRECTORY"] = folder_ + "/service:/nowhere";
  ASSERT_NO_FATAL_FAILURE(EngineTest::StartEngine(EngineArgv({"-interval=1"}), options));
  ASSERT_NO_FATAL_FAILURE(StopEngine());
  EXPECT_THAT(NamesIn(folder_ + "/service"), Contains("checkpoint"));
  EXPECT_THAT(HiddenNames(), IsEmpty());
}

TEST_F(StateTest, AnotherNameIsAGap) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-interval=1", "-gateway=old"}));
  Play({"--open-tcp=200", "--close-open=false", "--udp=100"});
  ASSERT_NO_FATAL_FAILURE(ExpectAllWritten(WhileOpen(sent_)));
  ASSERT_NO_FATAL_FAILURE(StopEngine());
  Play({"--udp=100"});
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-interval=1", "-gateway=new"}));
  EXPECT_THAT(engine_->Stderr(),
              HasSubstr("flows continued; the gateway was called 'old' and is called 'new' now"));
  ASSERT_NO_FATAL_FAILURE(FlushConntrack());
  ASSERT_NO_FATAL_FAILURE(StopEngine());
  const SpoolRows rows = ReadSpool(spool());
  EXPECT_EQ(Difference(AllClosed(sent_), rows.traffic), "");
  ASSERT_EQ(rows.gaps.size(), 1u);
  EXPECT_EQ(rows.gaps[0].cause, GapCause::kRenamed);
  EXPECT_EQ(rows.gaps[0].completeness, Completeness::kPartial);
  EXPECT_LT(rows.gaps[0].began_ns, rows.gaps[0].ended_ns);
  for (const SpoolHeader& header : rows.headers) {
    if (header.completeness == Completeness::kComplete) continue;
    EXPECT_EQ(header.gateway, "new");
    EXPECT_EQ(header.completeness, Completeness::kPartial);
  }
  // Again under that name: no gap of that cause.
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-interval=1", "-gateway=new"}));
  EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("called")));
  ASSERT_NO_FATAL_FAILURE(StopEngine());
}

TEST_F(StateTest, QuickRestartsDoNotPushTimeAhead) {
  const uint64_t restarts = NumberFromEnvironment("CTACCT_RESTARTS", 30);
  ASSERT_GT(restarts, 0u);
  constexpr int64_t kIntervalNs = 15'000'000'000;
  for (uint64_t i = 0; i < restarts; ++i) {
    ASSERT_NO_FATAL_FAILURE(StartEngine({"-interval=15"}));
    if (i % 10 == 0) Play({"--open-tcp=50", "--close-open=false"});
    if (i == restarts - 1) {
      ASSERT_NO_FATAL_FAILURE(FlushConntrack());
    }
    ASSERT_NO_FATAL_FAILURE(StopEngine());
  }
  const int64_t now_ns = absl::ToUnixNanos(absl::Now());
  const int64_t open_end_ns = (now_ns + kIntervalNs - 1) / kIntervalNs * kIntervalNs;
  const SpoolRows rows = ReadSpool(spool());
  EXPECT_EQ(Difference(AllClosed(sent_), rows.traffic), "");
  int64_t newest_ns = 0;
  for (const SpoolHeader& header : rows.headers) {
    newest_ns = std::max(newest_ns, header.interval_end_ns);
  }
  std::cout << restarts << " restarts, " << rows.headers.size() << " files, "
            << Total(rows.traffic).packets_src << " packets\n";
  EXPECT_LE(newest_ns, open_end_ns);
  EXPECT_GE(newest_ns, open_end_ns - kIntervalNs);
}

}  // namespace
}  // namespace ctacct
