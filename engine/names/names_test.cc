// The program itself: what it writes and says, and that nothing of it is lost or torn.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/spool/names_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/conditions.h"
#include "tests/support/files.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

class NamesTest : public ::testing::Test {
 protected:
  NamesTest() : temporary_("names"), folder_(temporary_.path()) {
    // Where the test is root, the program is somebody else.
    chmod(folder_.c_str(), 0777);
  }

  std::string spool() const { return folder_ + "/spool"; }
  std::string list() const { return folder_ + "/list.csv"; }
  void WriteList(const std::string& text) {
    // Replaced, as a careful program does.
    WriteFile(list() + ".new", text);
    chmod((list() + ".new").c_str(), 0644);
    std::filesystem::rename(list() + ".new", list());
  }

  std::vector<std::string> Command(const std::vector<std::string>& flags) const {
    return Joined({{DataPath("engine/names/names"), "-output=" + spool(), "-gateway=gw1"}, flags});
  }
  Finished Run(const std::vector<std::string>& flags) {
    auto done = RunProcess(Command(flags), kPatience);
    EXPECT_TRUE(done.ok()) << done.status();
    return done.value_or(Finished());
  }
  void Start(const std::vector<std::string>& flags) {
    auto started = Subprocess::Start(Command(flags));
    ASSERT_TRUE(started.ok()) << started.status();
    names_ = *std::move(started);
  }
  void Stop() {
    ASSERT_TRUE(names_->Signal(SIGTERM).ok());
    const auto exit = names_->Wait(kPatience);
    ASSERT_TRUE(exit.ok()) << exit.status();
    EXPECT_TRUE(exit->ok()) << exit->ToString() << names_->Stderr();
  }

  static NamesSnapshot Read(const std::string& path) {
    const absl::StatusOr<NamesSnapshot> snapshot = ParseNames(ReadFile(path), path);
    EXPECT_TRUE(snapshot.ok()) << snapshot.status();
    return snapshot.value_or(NamesSnapshot());
  }
  // In the order of writing.
  std::vector<NamesSnapshot> Snapshots() const {
    std::vector<NamesSnapshot> snapshots;
    for (const std::string& name : VisibleNamesIn(spool())) {
      if (name == kCurrentNamesFile) continue;
      snapshots.push_back(Read(spool() + "/" + name));
      EXPECT_EQ(name, NamesFileName(snapshots.back().writer, snapshots.back().sequence));
    }
    return snapshots;
  }
  // "network name" of the newest snapshot.
  std::vector<std::string> Current() const {
    if (!std::filesystem::exists(spool() + "/current.names")) return {};
    std::vector<std::string> lines;
    for (const NamesEntry& entry : Read(spool() + "/current.names").entries) {
      lines.push_back(absl::StrCat(NetworkText(entry.network), " ", entry.name));
    }
    return lines;
  }

 private:
  const TestFolder temporary_;

 protected:
  const std::string folder_;
  std::unique_ptr<Subprocess> names_;
};

TEST_F(NamesTest, OnceWritesOneSnapshot) {
  WriteList("10.60.1.0/24,team 1\n10.60.2.0/24,\"<script>\"\"2\"\"\"\n");
  const Finished done = Run({"-file=" + list(), "-once"});
  EXPECT_TRUE(done.exit.ok()) << done.err;
  EXPECT_EQ(done.err, "");
  const std::vector<NamesSnapshot> snapshots = Snapshots();
  ASSERT_THAT(snapshots, SizeIs(1));
  EXPECT_EQ(snapshots[0].gateway, "gw1");
  EXPECT_EQ(snapshots[0].sequence, 1u);
  EXPECT_THAT(Current(), ElementsAre("10.60.1.0/24 team 1", "10.60.2.0/24 <script>\"2\""));
  EXPECT_EQ(Read(spool() + "/current.names"), snapshots[0]);
  EXPECT_THAT(NamesIn(spool()), SizeIs(2));  // No hidden file.
}

TEST_F(NamesTest, ABadFlagIsOneLineAndStatus2) {
  for (const std::vector<std::string>& flags :
       std::vector<std::vector<std::string>>{{},
                                             {"-file=a", "-interval=0"},
                                             {"-file=a,,b"},
                                             {"-file=a", "-file=b"},
                                             {"-wireguard-names=a", "-file=a"},
                                             {"-wireguard-config=a", "-file=a"},
                                             {"-wireguard=sixteencharacter"},
                                             {"-file=a", "-user=nobody-of-that-name"},
                                             {"-file=a", "more"},
                                             {"-no-such-flag"}}) {
    const Finished done = Run(flags);
    EXPECT_EQ(done.exit.code, 2) << done.err;
    EXPECT_EQ(CountLines(done.err), 1u) << done.err;
    EXPECT_FALSE(std::filesystem::exists(spool()));
  }
  EXPECT_EQ(RunProcess({DataPath("engine/names/names"), "-file=a"}, kPatience)->exit.code, 2);
}

TEST_F(NamesTest, ABadListAtTheStartIsOneLineAndStatus1) {
  WriteList("10.60.1.0/24,team 1\nsecret-host,secret-name\n");
  Finished done = Run({"-file=" + list()});
  EXPECT_EQ(done.exit.code, 1);
  EXPECT_EQ(done.err, absl::StrCat("names: ", list(), ":2: not a network\n"));
  done = Run({"-file=" + folder_ + "/none"});
  EXPECT_EQ(done.exit.code, 1);
  EXPECT_THAT(done.err, HasSubstr("/none: No such file"));
  EXPECT_THAT(Snapshots(), SizeIs(0));
}

TEST_F(NamesTest, AChangedListIsANewSnapshot) {
  WriteList("10.60.1.1,alice\n");
  Start({"-file=" + list()});
  ASSERT_TRUE(
      Eventually([&] { return Current() == std::vector<std::string>{"10.60.1.1/32 alice"}; }));
  WriteList("10.60.1.1,bob\n");
  ASSERT_TRUE(
      Eventually([&] { return Current() == std::vector<std::string>{"10.60.1.1/32 bob"}; }));
  // Bad lines are named, without what they say, and change nothing.
  std::string bad = "10.60.1.1,carol\n";
  for (int i = 0; i < 7; ++i) absl::StrAppend(&bad, "secret\n");
  WriteList(bad);
  ASSERT_TRUE(names_->WaitForOutput("; the last good list stays", kPatience).ok());
  EXPECT_THAT(names_->Stderr(), HasSubstr("names: started; networks named: 1; "));
  EXPECT_THAT(names_->Stderr(), HasSubstr(list() + ":2: not network,name[,from[,to]]; "));
  EXPECT_THAT(names_->Stderr(), HasSubstr("; and 2 more lines; the last good list stays\n"));
  EXPECT_THAT(names_->Stderr(), Not(HasSubstr("secret")));
  EXPECT_THAT(Current(), ElementsAre("10.60.1.1/32 bob"));
  WriteList("10.60.1.1,carol\n");
  ASSERT_TRUE(
      Eventually([&] { return Current() == std::vector<std::string>{"10.60.1.1/32 carol"}; }));
  ASSERT_TRUE(names_->WaitForOutput(list() + ": good again", kPatience).ok());
  // The same names in another order are no change.
  const size_t written = Snapshots().size();
  EXPECT_EQ(written, 3u);
  WriteList("# nothing new\n10.60.1.1,carol\n");
  WriteList("# nothing new\n10.60.1.1/32,carol\n");
  std::filesystem::remove(list());
  ASSERT_TRUE(names_->WaitForOutput("No such file or directory", kPatience).ok());
  Stop();
  EXPECT_THAT(Snapshots(), SizeIs(written));
  const std::vector<NamesSnapshot> snapshots = Snapshots();
  for (size_t i = 0; i < snapshots.size(); ++i) {
    EXPECT_EQ(snapshots[i].sequence, i + 1);
    EXPECT_EQ(snapshots[i].writer, snapshots[0].writer);
    // Never faster than once a second.
    if (i == 0) continue;
    EXPECT_GE(snapshots[i].time_ns - snapshots[i - 1].time_ns, 900'000'000);
  }
}

TEST_F(NamesTest, RangesBeginAndEndByThemselves) {
  const int64_t now_s = absl::ToUnixSeconds(absl::Now());
  WriteList(absl::StrCat("10.60.1.1,alice,,", now_s + 3, "\n10.60.1.1,bob,", now_s + 3, "\n"));
  Start({"-file=" + list()});
  ASSERT_TRUE(
      Eventually([&] { return Current() == std::vector<std::string>{"10.60.1.1/32 alice"}; }));
  ASSERT_TRUE(
      Eventually([&] { return Current() == std::vector<std::string>{"10.60.1.1/32 bob"}; }));
  Stop();
  const NamesSnapshot last = Snapshots().back();
  EXPECT_EQ(last.entries[0].from_ns, (now_s + 3) * 1'000'000'000);
  EXPECT_GE(last.time_ns, (now_s + 3) * 1'000'000'000);
}

TEST_F(NamesTest, OpenvpnAndAFile) {
  const std::string status = folder_ + "/status";
  WriteList("10.8.0.3,team of bob\n");
  Start({"-file=" + list(), "-openvpn-status=" + status});
  // The server may start later.
  ASSERT_TRUE(names_->WaitForOutput("; it gives no names yet", kPatience).ok());
  WriteFile(status, ReadFile(DataPath("engine/names/testdata/openvpn_3.status")));
  chmod(status.c_str(), 0644);
  ASSERT_TRUE(Eventually([&] { return Current().size() > 7; }));
  EXPECT_THAT(Current(), Contains("10.8.0.2/32 alice"));
  // The first one on the command line counts.
  EXPECT_THAT(Current(), Contains("10.8.0.3/32 team of bob"));
  EXPECT_THAT(names_->Stderr(), HasSubstr("entries that an earlier source overrules: 1"));
  // Half a file is none.
  WriteFile(status, ReadFile(status).substr(0, 700));
  ASSERT_TRUE(names_->WaitForOutput("not whole; the last good list stays", kPatience).ok());
  EXPECT_THAT(Current(), Contains("10.8.0.2/32 alice"));
  Stop();
}

// On any machine: a device that is missing is said, and does not keep the other sources from
// working.
TEST_F(NamesTest, ADeviceMayBeMissing) {
  WriteList("10.60.1.1,alice\n");
  const Finished done = Run({"-file=" + list(), "-wireguard=no-such-device", "-once"});
  if (absl::StrContains(done.err, "CAP_NET_ADMIN")) return CannotRun("needs CAP_NET_ADMIN");
  EXPECT_TRUE(done.exit.ok()) << done.err;
  EXPECT_THAT(done.err, HasSubstr("names: WireGuard"));
  EXPECT_EQ(CountLines(done.err), 1u) << done.err;
  EXPECT_THAT(Current(), ElementsAre("10.60.1.1/32 alice"));
}

TEST_F(NamesTest, OneWritesIntoAFolder) {
  WriteList("10.60.1.1,alice\n");
  Start({"-file=" + list()});
  ASSERT_TRUE(Eventually([&] { return !Current().empty(); }));
  const Finished second = Run({"-file=" + list(), "-once"});
  EXPECT_EQ(second.exit.code, 1);
  EXPECT_THAT(second.err, HasSubstr("another names writes there"));
  Stop();
  EXPECT_TRUE(Run({"-file=" + list(), "-once"}).exit.ok());
}

TEST_F(NamesTest, AFolderThatCannotBeWrittenIsTriedAgain) {
  WriteList("10.60.1.1,alice\n");
  Start({"-file=" + list()});
  ASSERT_TRUE(Eventually([&] { return !Current().empty(); }));
  std::filesystem::rename(spool(), folder_ + "/elsewhere");
  WriteList("10.60.1.1,bob\n");
  ASSERT_TRUE(names_->WaitForOutput("trying again", kPatience).ok());
  std::filesystem::rename(folder_ + "/elsewhere", spool());
  ASSERT_TRUE(
      Eventually([&] { return Current() == std::vector<std::string>{"10.60.1.1/32 bob"}; }));
  ASSERT_TRUE(names_->WaitForOutput("can be written again", kPatience).ok());
  Stop();
}

// Killed at any moment, while the list changes all the time: each file is whole, each run counts
// from 1 without a hole, and the newest names are the list's once it rests.
TEST_F(NamesTest, KilledAtAnyMoment) {
  const uint64_t seed = NumberFromEnvironment("CTACCT_SEED", std::random_device()());
  SCOPED_TRACE(absl::StrCat("CTACCT_SEED=", seed));
  std::mt19937_64 random(seed);
  const uint64_t kills = NumberFromEnvironment("CTACCT_KILLS", 20);
  std::string text;
  for (uint64_t kill = 0; kill < kills; ++kill) {
    text.clear();
    for (uint64_t i = 0; i < 2000; ++i) {
      absl::StrAppend(&text, "10.60.", i / 250, ".", i % 250, ",holder ", random() % 1000, "\n");
    }
    WriteList(text);
    Start({"-file=" + list()});
    const absl::Time until = absl::Now() + absl::Milliseconds(200 + random() % 150);
    while (absl::Now() < until) absl::SleepFor(absl::Milliseconds(1));
    ASSERT_TRUE(names_->Signal(SIGKILL).ok());
    ASSERT_TRUE(names_->Wait(kPatience).ok());
  }
  const Finished last = Run({"-file=" + list(), "-once"});
  EXPECT_TRUE(last.exit.ok()) << last.err;
  std::map<EngineId, uint64_t> sequences;
  for (const NamesSnapshot& snapshot : Snapshots()) {
    EXPECT_EQ(snapshot.sequence, ++sequences[snapshot.writer]);
    EXPECT_THAT(snapshot.entries, SizeIs(2000));
  }
  std::cout << sequences.size() << " runs wrote a snapshot\n";
  EXPECT_GE(sequences.size(), 2u);
  EXPECT_EQ(Read(spool() + "/current.names"), Snapshots().back());
  for (const std::string& name : NamesIn(spool())) {
    EXPECT_TRUE(absl::EndsWith(name, ".names")) << name;
  }
}

}  // namespace
}  // namespace ctacct
