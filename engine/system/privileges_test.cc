#include "engine/system/privileges.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;

constexpr char kNone[] = "0000000000000000";
constexpr char kNetAdmin[] = "0000000000001000";  // Bit 12.

// Dropped privileges cannot be regained: each case has its own process. Returns what `run` returned
// there.
std::string InChild(const std::function<std::string()>& run) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return "no pipe";
  const pid_t child = fork();
  if (child == 0) {
    const std::string text = run();
    const ssize_t written = write(ends[1], text.data(), text.size());
    _exit(written == static_cast<ssize_t>(text.size()) ? 0 : 1);
  }
  close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n = 0; (n = read(ends[0], buffer, sizeof(buffer))) > 0;) {
    text.append(buffer, static_cast<size_t>(n));
  }
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return status == 0 ? text : absl::StrCat("child failed: ", status);
}

// The value of a line of this thread's status, with blanks made single.
std::string Line(const std::string& name) {
  std::ifstream file("/proc/thread-self/status");
  for (std::string line; std::getline(file, line);) {
    if (!absl::StartsWith(line, name + ":")) continue;
    std::istringstream words(line.substr(name.size() + 1));
    std::string all;
    for (std::string word; words >> word;) absl::StrAppend(&all, all.empty() ? "" : " ", word);
    return all;
  }
  return "no such line";
}

std::string Rights() {
  return absl::StrCat("prm ", Line("CapPrm"), " eff ", Line("CapEff"), " inh ", Line("CapInh"),
                      " bnd ", Line("CapBnd"), " amb ", Line("CapAmb"), " nnp ",
                      Line("NoNewPrivs"));
}

std::string RightsText(const char* kept) {
  return absl::StrCat("prm ", kept, " eff ", kept, " inh ", kNone, " bnd ", kNone, " amb ", kNone,
                      " nnp 1");
}

std::string Dropped(const Privileges::Options& options, const std::function<std::string()>& then) {
  return InChild([&] {
    const auto privileges = Privileges::Drop(options);
    return privileges.ok() ? then() : privileges.status().ToString();
  });
}

class PrivilegesTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() == 0) {
      const auto nobody = FindUserAccount("nobody");
      ASSERT_TRUE(nobody.ok()) << nobody.status();
      nobody_ = *nobody;
      return;
    }
    const char* ci = std::getenv("CI");
    if (ci != nullptr && std::string(ci) == "true") FAIL() << "CI=true, but this is not root";
    GTEST_SKIP() << "only root has privileges to give up";
  }

  UserAccount nobody_;
};

TEST_F(PrivilegesTest, LiveKeepsNetAdminAlone) {
  EXPECT_EQ(Dropped({.keep_net_admin = true}, Rights), RightsText(kNetAdmin));
}

TEST_F(PrivilegesTest, ReplayKeepsNothing) {
  EXPECT_EQ(Dropped({.keep_net_admin = false}, Rights), RightsText(kNone));
}

TEST_F(PrivilegesTest, LaterThreadsHaveNoMore) {
  EXPECT_EQ(Dropped({.keep_net_admin = true},
                    [] {
                      std::string rights;
                      std::thread([&] { rights = Rights(); }).join();
                      return rights;
                    }),
            RightsText(kNetAdmin));
}

TEST_F(PrivilegesTest, BecomesAUserWithTheUsersGroups) {
  for (const char* name : {"nobody", "daemon", "postgres", "man"}) {
    const auto user = FindUserAccount(name);
    if (!user.ok()) continue;  // Not every system has each of them.
    std::vector<gid_t> groups(64);
    int count = static_cast<int>(groups.size());
    ASSERT_GE(getgrouplist(name, user->gid, groups.data(), &count), 0);
    const std::set<gid_t> expected(groups.begin(), groups.begin() + count);
    const std::string ids = Dropped({.keep_net_admin = true, .user = &*user}, [] {
      return absl::StrCat(Line("Uid"), "/", Line("Gid"), "/", Line("Groups"));
    });
    const std::vector<std::string> parts = absl::StrSplit(ids, '/');
    ASSERT_EQ(parts.size(), 3u) << ids;
    EXPECT_EQ(parts[0], absl::StrCat(user->uid, " ", user->uid, " ", user->uid, " ", user->uid));
    EXPECT_EQ(parts[1], absl::StrCat(user->gid, " ", user->gid, " ", user->gid, " ", user->gid));
    std::set<gid_t> actual;
    for (const std::string& group : std::vector<std::string>(absl::StrSplit(parts[2], ' '))) {
      actual.insert(static_cast<gid_t>(std::stoul(group)));
    }
    EXPECT_EQ(actual, expected) << name;
    EXPECT_EQ(Dropped({.keep_net_admin = true, .user = &*user}, Rights), RightsText(kNetAdmin));
    EXPECT_EQ(Dropped({.keep_net_admin = false, .user = &*user}, Rights), RightsText(kNone));
  }
}

TEST_F(PrivilegesTest, ThereIsNoWayBack) {
  const std::string said = Dropped({.keep_net_admin = true, .user = &nobody_}, [] {
    const int uid = setresuid(0, 0, 0) == 0 ? 0 : errno;
    const int gid = setresgid(0, 0, 0) == 0 ? 0 : errno;
    const int groups = setgroups(0, nullptr) == 0 ? 0 : errno;
    return absl::StrCat(uid, " ", gid, " ", groups);
  });
  EXPECT_EQ(said, absl::StrCat(EPERM, " ", EPERM, " ", EPERM));
}

TEST_F(PrivilegesTest, RootLosesItsOverrideAndTheErrorSaysSo) {
  std::string folder = "/tmp/ctacct-privileges.XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string file = folder + "/secret";
  ASSERT_EQ(close(open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600)), 0);
  ASSERT_EQ(chown(file.c_str(), nobody_.uid, nobody_.gid), 0);
  const std::string said = InChild([&] {
    const auto privileges = Privileges::Drop({.keep_net_admin = true});
    if (!privileges.ok()) return privileges.status().ToString();
    if (open(file.c_str(), O_RDONLY | O_CLOEXEC) >= 0) return std::string("opened");
    return absl::StrCat(privileges->Explain(absl::ErrnoToStatus(errno, "file")).ToString(), "|",
                        privileges->Explain(absl::NotFoundError("nothing")).ToString());
  });
  unlink(file.c_str());
  rmdir(folder.c_str());
  EXPECT_THAT(said, HasSubstr("file: Permission denied (the program has given up root's override"));
  EXPECT_THAT(said, HasSubstr("|NOT_FOUND: nothing"));
}

TEST_F(PrivilegesTest, MayNotBecomeAnybodyWithoutTheRight) {
  const auto daemon = FindUserAccount("daemon");
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const std::string said = InChild([&] {
    if (setgroups(0, nullptr) != 0 || setresgid(nobody_.gid, nobody_.gid, nobody_.gid) != 0 ||
        setresuid(nobody_.uid, nobody_.uid, nobody_.uid) != 0) {
      return std::string("no nobody");
    }
    return Privileges::Drop({.keep_net_admin = true, .user = &*daemon}).status().ToString();
  });
  EXPECT_THAT(said, HasSubstr("PERMISSION_DENIED: user daemon: cannot become it"));
}

// As under a service manager that has done it all before.
TEST_F(PrivilegesTest, WhoIsTheUserAlreadyNeedsNoRightToBecomeIt) {
  const std::string said = InChild([&] {
    if (setgroups(0, nullptr) != 0 || setresgid(nobody_.gid, nobody_.gid, nobody_.gid) != 0 ||
        setresuid(nobody_.uid, nobody_.uid, nobody_.uid) != 0) {
      return std::string("no nobody");
    }
    const auto privileges = Privileges::Drop({.keep_net_admin = true, .user = &nobody_});
    if (!privileges.ok()) return privileges.status().ToString();
    return absl::StrCat(Line("Uid"), " eff ", Line("CapEff"), " nnp ", Line("NoNewPrivs"));
  });
  EXPECT_EQ(said, absl::StrCat(nobody_.uid, " ", nobody_.uid, " ", nobody_.uid, " ", nobody_.uid,
                               " eff ", kNone, " nnp 1"));
}

TEST(UserAccountTest, UnknownUserIsNotFound) {
  EXPECT_EQ(FindUserAccount("no-such-user-here").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(FindUserAccount("root")->uid, 0u);
}

}  // namespace
}  // namespace ctacct
