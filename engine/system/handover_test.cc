#include "engine/system/handover.h"

#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using enum NeededPath::Kind;

class HandOverTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) {
      const char* ci = std::getenv("CI");
      if (ci != nullptr && std::string(ci) == "true") FAIL() << "CI=true, but this is not root";
      GTEST_SKIP() << "only root has anything to hand over";
    }
    const auto nobody = FindUserAccount("nobody");
    ASSERT_TRUE(nobody.ok()) << nobody.status();
    nobody_ = *nobody;
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    std::filesystem::permissions(folder_, std::filesystem::perms(0755));
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  std::string In(const std::string& name) const { return folder_ + "/" + name; }
  void MakeFolder(const std::string& name, mode_t mode) const {
    std::filesystem::create_directory(In(name));
    std::filesystem::permissions(In(name), std::filesystem::perms(mode));
  }
  // "UID:GID MODE" of what is there, or "nothing".
  std::string Found(const std::string& name) const {
    struct stat info {};
    if (lstat(In(name).c_str(), &info) != 0) return "nothing";
    return absl::StrCat(info.st_uid, ":", info.st_gid, " ", absl::Hex(info.st_mode & 07777));
  }
  std::string OfNobody(mode_t mode) const {
    return absl::StrCat(nobody_.uid, ":", nobody_.gid, " ", absl::Hex(mode));
  }

  std::string folder_ = "/tmp/ctacct-handover.XXXXXX";
  UserAccount nobody_;
};

TEST_F(HandOverTest, WhatIsMissingIsMadeForTheUser) {
  const absl::Status status = HandOver(nobody_, {{"output folder", In("out"), kFolder, 0750},
                                                 {"state folder", In("out/state"), kFolder, 0700},
                                                 {"pipe", In("fifo"), kFifo, 0640},
                                                 {"port list", "", kInput}});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Found("out"), OfNobody(0750));
  EXPECT_EQ(Found("out/state"), "nothing");  // The user can make it.
  EXPECT_EQ(Found("fifo"), OfNobody(0640));
  EXPECT_TRUE(std::filesystem::is_fifo(In("fifo")));
  // Root is root again, with root's groups.
  EXPECT_EQ(geteuid(), 0u);
  EXPECT_EQ(access("/root", W_OK), 0);
  std::vector<gid_t> groups(64);
  const int count = getgroups(64, groups.data());
  for (int i = 0; i < count; ++i) EXPECT_NE(groups[static_cast<size_t>(i)], nobody_.gid);
}

TEST_F(HandOverTest, WhatTheUserCanMakeIsLeftToIt) {
  MakeFolder("open", 0777);
  const absl::Status status =
      HandOver(nobody_, {{"output folder", In("open/out"), kFolder, 0750},
                         {"state folder", In("open/out/state"), kFolder, 0700}});
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(Found("open/out"), "nothing");
}

TEST_F(HandOverTest, WhatRootHasMadeForItIsGiven) {
  for (const mode_t mode : {0700, 0755}) {
    const std::string name = absl::StrCat("out", absl::Hex(mode));
    MakeFolder(name, mode);
    ASSERT_EQ(mkfifo(In(name + ".fifo").c_str(), 0640), 0);
    const absl::Status status =
        HandOver(nobody_, {{"output folder", In(name) + "/", kFolder, 0750},
                           {"state folder", In(name + "/.ctacct"), kFolder, 0700},
                           {"pipe", In(name + ".fifo"), kFifo, 0640}});
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(Found(name), OfNobody(mode));
    EXPECT_EQ(Found(name + ".fifo"), OfNobody(0640));
    const std::string state = Found(name + "/.ctacct");
    EXPECT_TRUE(state == "nothing" || state == OfNobody(0700)) << state;
  }
}

TEST_F(HandOverTest, WhatIsOutOfReachIsNamedWithTheRemedyAndNothingIsMade) {
  MakeFolder("roots", 0755);
  std::ofstream(In("roots/file")) << "not made for the engine";
  MakeFolder("closed", 0700);
  MakeFolder("closed/open", 0777);
  std::ofstream(In("ports")) << "tcp:1\n";
  std::filesystem::permissions(In("ports"), std::filesystem::perms(0600));
  ASSERT_EQ(mkfifo(In("fifo").c_str(), 0640), 0);
  ASSERT_EQ(chown(In("fifo").c_str(), 1, 1), 0);
  struct Case {
    NeededPath needed;
    std::string remedy;
  };
  const Case cases[] = {
      {{"output folder", In("roots"), kFolder, 0750}, "chown -R nobody " + In("roots")},
      {{"output folder", In("closed/open"), kFolder, 0750}, "may not enter " + In("closed") + ";"},
      {{"output folder", In("closed/new"), kFolder, 0750}, "may not enter " + In("closed") + ";"},
      {{"port list", In("ports"), kInput}, "chmod o+r " + In("ports")},
      {{"pipe", In("fifo"), kFifo, 0640}, "chown -R nobody " + In("fifo")},
  };
  for (const Case& one : cases) {
    const absl::Status status =
        HandOver(nobody_, {{"state folder", In("new"), kFolder, 0700}, one.needed});
    EXPECT_TRUE(absl::IsPermissionDenied(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(absl::StrCat(one.needed.what, " ", one.needed.path,
                                             ": Permission denied: user nobody")),
                      HasSubstr(one.remedy), HasSubstr("-user")));
    EXPECT_EQ(Found("new"), "nothing") << one.needed.path;
  }
}

// A file where a FIFO should be is no reason to give the file away.
TEST_F(HandOverTest, WhatIsOfAnotherTypeIsLeftToWhoOpensIt) {
  std::ofstream(In("file")) << "precious";
  std::filesystem::permissions(In("file"), std::filesystem::perms(0600));
  const absl::Status status = HandOver(
      nobody_, {{"pipe", In("file"), kFifo, 0640}, {"output folder", In("file"), kFolder, 0750}});
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(Found("file"), "0:0 180");
}

// A relative path needs no more than the way from here, even below /root.
TEST_F(HandOverTest, RelativePathsBeginHere) {
  MakeFolder("closed", 0700);
  MakeFolder("closed/clone", 0755);
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(In("closed/clone"));
  const absl::Status status = HandOver(
      nobody_, {{"output folder", "./spool", kFolder, 0750}, {"pipe", "fifo", kFifo, 0640}});
  std::filesystem::current_path(before);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Found("closed/clone/spool"), OfNobody(0750));
  EXPECT_EQ(Found("closed/clone/fifo"), OfNobody(0640));
}

TEST_F(HandOverTest, WhatCannotBeMadeIsSaid) {
  const absl::Status status = HandOver(nobody_, {{"state folder", In("new"), kFolder, 0700},
                                                 {"output folder", In("no/out"), kFolder, 0750}});
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("there is no folder " + In("no")));
  EXPECT_EQ(Found("new"), "nothing");
}

}  // namespace
}  // namespace ctacct
