// What a running engine may still do, and who may read what it writes: on a real gateway, as root
// and as another user.
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "engine/system/privileges.h"
#include "engine/system/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_output.h"
#include "tests/support/engine_test.h"

namespace ctacct {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// Users of every Debian. The engine's, and a stranger.
constexpr char kUser[] = "daemon";
constexpr char kStranger[] = "nobody";
constexpr char kNone[] = "0000000000000000";
constexpr char kNetAdmin[] = "0000000000001000";

// "Name: value" lines of each thread's status, by thread id; blanks made single.
std::map<std::string, std::map<std::string, std::string>> ThreadStatus(pid_t pid) {
  std::map<std::string, std::map<std::string, std::string>> threads;
  for (const auto& task :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/task"))) {
    std::istringstream lines(ReadFile(task.path() / "status"));
    for (std::string line; std::getline(lines, line);) {
      std::istringstream words(line);
      std::string name, value;
      words >> name;
      for (std::string word; words >> word;)
        absl::StrAppend(&value, value.empty() ? "" : " ", word);
      threads[task.path().filename()][name] = value;
    }
  }
  return threads;
}

// The netlink sockets of a process, duplicated into this one; by their inode.
std::map<std::string, UniqueFd> NetlinkSockets(pid_t pid) {
  std::map<std::string, UniqueFd> sockets;
  const UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/fd"))) {
    std::error_code ignored;
    const std::string target = std::filesystem::read_symlink(entry.path(), ignored);
    int number = 0;
    if (!absl::StartsWith(target, "socket:") ||
        !absl::SimpleAtoi(entry.path().filename().string(), &number)) {
      continue;
    }
    UniqueFd copy(static_cast<int>(syscall(SYS_pidfd_getfd, process.get(), number, 0)));
    int domain = 0;
    socklen_t bytes = sizeof(domain);
    if (getsockopt(copy.get(), SOL_SOCKET, SO_DOMAIN, &domain, &bytes) == 0 &&
        domain == AF_NETLINK) {
      sockets[target] = std::move(copy);
    }
  }
  return sockets;
}

// An event socket is one that has a filter; the dump socket has none.
bool HasFilter(int socket) {
  socklen_t instructions = 0;
  return getsockopt(socket, SOL_SOCKET, SO_GET_FILTER, nullptr, &instructions) == 0 &&
         instructions > 0;
}

class PrivilegeTest : public EngineTest {
 protected:
  PrivilegeTest() : EngineTest("privilege") {}

  void SetUp() override { RequireRootOrSkip(); }

  static void Give(const std::string& path, const char* user) {
    const auto account = FindUserAccount(user);
    ASSERT_TRUE(account.ok()) << user << account.status();
    ASSERT_EQ(chown(path.c_str(), account->uid, account->gid), 0);
  }

  static std::vector<std::string> As(const char* user, const std::vector<std::string>& argv) {
    return Joined({{"setpriv", absl::StrCat("--reuid=", user), "--init-groups",
                    absl::StrCat("--regid=", FindUserAccount(user)->gid)},
                   argv});
  }

  std::vector<std::string> EngineArgv(const std::vector<std::string>& flags) const {
    return Joined({{DataPath("engine/engine"), "-src=10.32.0.0/11", "-dst=10.32.0.0/11",
                    "-output-format=csv", "-output=" + spool()},
                   flags});
  }

  void ExpectUnreadableByStranger(const std::string& path) {
    const auto read = RunProcess(As(kStranger, {"timeout", "5", "cat", path}), absl::Seconds(10));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_FALSE(read->exit.ok()) << path << " can be read by " << kStranger;
    EXPECT_THAT(read->err, HasSubstr("Permission denied")) << path;
    struct stat info {};
    ASSERT_EQ(stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07, 0u) << path;
    EXPECT_EQ(info.st_mode & 020, 0u) << path << ": the group may write";
  }

  // Makes the next dump fail: an error that bears its number waits in its socket already.
  void BreakNextDump() {
    for (const auto& [inode, socket] : NetlinkSockets(engine_->pid())) {
      if (HasFilter(socket.get())) continue;
      for (uint32_t sequence = 1; sequence <= 60; ++sequence) {
        struct {
          nlmsghdr header;
          nfgenmsg family;
        } request{};
        request.header.nlmsg_len = sizeof(request);
        request.header.nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET;
        request.header.nlmsg_flags = NLM_F_REQUEST;  // Of one entry, and it does not say of which.
        request.header.nlmsg_seq = sequence;
        request.family.nfgen_family = AF_INET;
        request.family.version = NFNETLINK_V0;
        sockaddr_nl kernel{};
        kernel.nl_family = AF_NETLINK;
        EXPECT_EQ(sendto(socket.get(), &request, sizeof(request), 0,
                         reinterpret_cast<const sockaddr*>(&kernel), sizeof(kernel)),
                  static_cast<ssize_t>(sizeof(request)));
      }
    }
  }

  // An engine whose folders belong to its user: that of the flag, or root without it (nullptr).
  void StartEngineAs(const char* user, const std::string& fifo, const std::string& ports) {
    const char* const name = user != nullptr ? user : "root";
    ASSERT_NO_FATAL_FAILURE(Give(folder_, name));
    ASSERT_NO_FATAL_FAILURE(Give(spool(), name));
    ASSERT_NO_FATAL_FAILURE(BringUp());
    std::ofstream(ports) << "tcp:1\n";
    std::vector<std::string> flags = {"-interval=1", "-workers=3", "-pipe=" + fifo,
                                      "-ports=" + ports};
    if (user != nullptr) flags.push_back(absl::StrCat("-user=", user));
    ASSERT_NO_FATAL_FAILURE(StartEngine(EngineArgv(flags)));
  }

  // Each thread has CAP_NET_ADMIN and no other, can get none back, and is that user. A user that
  // the engine has become has that user's group alone.
  void ExpectNetAdminAlone(const UserAccount& account, bool became_it) {
    const std::string uid = absl::StrCat(account.uid);
    const std::string ids = absl::StrCat(uid, " ", uid, " ", uid, " ", uid);
    const auto threads = ThreadStatus(engine_->pid());
    EXPECT_GE(threads.size(), 6u);  // Main, dumps, pipe, three workers.
    for (const auto& [thread, status] : threads) {
      EXPECT_EQ(status.at("CapEff:"), kNetAdmin) << status.at("Name:");
      EXPECT_EQ(status.at("CapPrm:"), kNetAdmin);
      EXPECT_EQ(status.at("CapInh:"), kNone);
      EXPECT_EQ(status.at("CapBnd:"), kNone);
      EXPECT_EQ(status.at("CapAmb:"), kNone);
      EXPECT_EQ(status.at("NoNewPrivs:"), "1");
      EXPECT_EQ(status.at("Uid:"), ids);
      if (!became_it) continue;
      EXPECT_EQ(status.at("Groups:"), absl::StrCat(account.gid));
    }
  }

  // The events that the workers share out among them stay shared out: each one's filter can be
  // neither removed nor replaced.
  void ExpectFiltersLocked() {
    int filtered = 0;
    for (const auto& [inode, socket] : NetlinkSockets(engine_->pid())) {
      if (!HasFilter(socket.get())) continue;
      ++filtered;
      const int none = 0;
      EXPECT_EQ(setsockopt(socket.get(), SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof(none)), -1);
      EXPECT_EQ(errno, EPERM);
      sock_filter everything = BPF_STMT(BPF_RET | BPF_K, 0xffffffff);
      const sock_fprog program = {1, &everything};
      EXPECT_EQ(setsockopt(socket.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)),
                -1);
      EXPECT_EQ(errno, EPERM);
    }
    EXPECT_EQ(filtered, 3);
  }

  std::set<std::string> NetlinkInodes() const {
    std::set<std::string> inodes;
    for (const auto& [inode, socket] : NetlinkSockets(engine_->pid())) inodes.insert(inode);
    return inodes;
  }

  // After a dump that fails the engine opens another socket, which is as good as the first.
  void ReplaceDumpSocket() {
    const std::set<std::string> before = NetlinkInodes();
    BreakNextDump();
    ASSERT_NO_FATAL_FAILURE(WaitForEngine("conntrack dump: Invalid argument"));
    const std::set<std::string> after = NetlinkInodes();
    EXPECT_EQ(after.size(), before.size());
    EXPECT_NE(after, before);
  }

  void ExpectRowsOf(const Traffic& sent) {
    const GroupOptions listed = {.src_mask = 0xffffffff,
                                 .dst_mask = 0xffffffff,
                                 .ports = std::set<std::pair<std::string, int32_t>>{{"tcp", 1}},
                                 .include_icmp = false};
    EXPECT_EQ(Difference(AllClosed(Group(sent, listed)), ReadCsvFolder(spool()).traffic), "");
  }

  // The whole life of an engine that has given up all but CAP_NET_ADMIN.
  void LiveAs(const char* user) {
    const auto account = FindUserAccount(user != nullptr ? user : "root");
    ASSERT_TRUE(account.ok()) << account.status();
    const std::string fifo = folder_ + "/fifo";
    const std::string ports = folder_ + "/ports";
    ASSERT_NO_FATAL_FAILURE(StartEngineAs(user, fifo, ports));
    Traffic sent = Play({"--tcp=3000", "--udp=3000", "--open-tcp=500"});
    ExpectNetAdminAlone(*account, /*became_it=*/user != nullptr);
    ExpectFiltersLocked();
    ASSERT_NO_FATAL_FAILURE(ReplaceDumpSocket());

    // Files are opened again with what rights are left: a list out of reach is said to be so.
    if (user != nullptr) {
      std::filesystem::permissions(ports, std::filesystem::perms(0600));
      ASSERT_TRUE(engine_->Signal(SIGHUP).ok());
      WaitForEngine(absl::StrCat("Permission denied (the engine is user ", user));
    }
    auto reader = Subprocess::Start({"cat", fifo});
    ASSERT_TRUE(reader.ok()) << reader.status();
    sent += Play({"--tcp=2000", "--udp=2000"});
    ASSERT_TRUE((*reader)->WaitForOutput("tcp", absl::Seconds(10)).ok());
    FlushConntrack();

    ExpectUnreadableByStranger(fifo);
    int files = 0;
    for (const std::string& file : VisibleFilesIn(spool())) {
      ++files;
      ExpectUnreadableByStranger(file);
      struct stat info {};
      ASSERT_EQ(stat(file.c_str(), &info), 0);
      EXPECT_EQ(info.st_uid, account->uid);
      EXPECT_EQ(info.st_gid, account->gid);
    }
    EXPECT_GT(files, 0);
    StopEngine();
    EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("CAP_NET_ADMIN")));
    // Whose traffic it was is nobody's business but the rows'.
    EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("10.32.")));
    ExpectRowsOf(sent);
  }

  // What a command that must fail says, in one line.
  void ExpectFails(const std::vector<std::string>& argv, int exit_code,
                   const testing::Matcher<std::string>& says) {
    const auto run = RunProcess(argv, absl::Seconds(20));
    ASSERT_TRUE(run.ok()) << run.status();
    EXPECT_EQ(run->exit.code, exit_code) << run->err;
    EXPECT_THAT(run->err, says);
    EXPECT_EQ(CountLines(run->err), 1u) << run->err;
  }
};

TEST_F(PrivilegeTest, RootKeepsNetAdminAlone) { LiveAs(nullptr); }

TEST_F(PrivilegeTest, AnotherUserWithNetAdminAlone) { LiveAs(kUser); }

// A recording holds every address.
TEST_F(PrivilegeTest, StrangersReadNoRecording) {
  ASSERT_NO_FATAL_FAILURE(Give(folder_, kUser));
  ASSERT_NO_FATAL_FAILURE(Give(spool(), kUser));
  const std::string recording = folder_ + "/recording.pcap";
  ASSERT_NO_FATAL_FAILURE(BringUp());
  StartEngine(EngineArgv({"-interval=1", "-record=" + recording, "-user=daemon"}));
  Play({"--tcp=100"});
  ExpectUnreadableByStranger(recording);
  StopEngine();
  struct stat info {};
  ASSERT_EQ(stat(recording.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(info.st_uid, FindUserAccount(kUser)->uid);
}

// Files it cannot open later are refused at once, with the reason: root is not used to that.
TEST_F(PrivilegeTest, FoldersOfOthersAreOutOfReachAndItIsSaid) {
  std::filesystem::permissions(spool(), std::filesystem::perms(0750));
  ASSERT_NO_FATAL_FAILURE(Give(spool(), kUser));
  const auto said = AllOf(HasSubstr("output folder " + spool() + ": Permission denied"),
                          HasSubstr("has given up root's override"));
  ExpectFails(EngineArgv({}), 1, said);
  // A folder that root may enter and not write to.
  std::filesystem::permissions(spool(), std::filesystem::perms(0755));
  ExpectFails(EngineArgv({}), 1, said);
  ASSERT_EQ(chown(spool().c_str(), 0, 0), 0);
  ExpectFails(EngineArgv({"-user=daemon"}), 1,
              AllOf(HasSubstr("output folder " + spool() + ": Permission denied"),
                    HasSubstr("the engine is user daemon now")));
  const std::string ports = folder_ + "/ports";
  std::ofstream(ports) << "tcp:1\n";
  std::filesystem::permissions(ports, std::filesystem::perms(0600));
  ASSERT_NO_FATAL_FAILURE(Give(spool(), kUser));
  ExpectFails(EngineArgv({"-user=daemon", "-ports=" + ports}), 1,
              AllOf(HasSubstr("port list " + ports + ": Permission denied"),
                    HasSubstr("the engine is user daemon now")));
  ASSERT_NO_FATAL_FAILURE(BringUp());
  const auto refused =
      gateway_->Run(EngineArgv({"-user=daemon", "-record=/ctacct-recording.pcap"}));
  EXPECT_THAT(std::string(refused.status().message()),
              AllOf(HasSubstr("capture /ctacct-recording.pcap: Permission denied"),
                    HasSubstr("the engine is user daemon now")));
}

TEST_F(PrivilegeTest, UsersThatItCannotBecome) {
  ExpectFails(EngineArgv({"-user=no-such-user"}), 2,
              AllOf(HasSubstr("-user"), HasSubstr("no such user")));
  // Not in Bazel's folders, where another user may not look.
  const std::string engine = folder_ + "/engine";
  std::filesystem::copy_file(DataPath("engine/engine"), engine);
  std::filesystem::permissions(engine, std::filesystem::perms(0755));
  ExpectFails(As(kStranger, {engine, "-user=daemon", "-output=" + spool()}), 1,
              HasSubstr("user daemon: cannot become it"));
}

// A replay has no use for anything: it is done with no capability at all, as another user too.
TEST_F(PrivilegeTest, ReplayNeedsNothing) {
  const std::string capture = folder_ + "/gateway.pcap";
  std::filesystem::copy_file(DataPath("tests/captures/gateway.pcap"), capture);
  std::filesystem::permissions(capture, std::filesystem::perms(0644));
  const std::vector<std::string> argv = {DataPath("engine/engine"), "-replay=" + capture};
  const auto expected = RunProcessOrError(argv, absl::Seconds(30));
  ASSERT_TRUE(expected.ok()) << expected.status();
  const auto actual = RunProcessOrError(Joined({argv, {"-user=daemon"}}), absl::Seconds(30));
  ASSERT_TRUE(actual.ok()) << actual.status();
  EXPECT_EQ(Difference(ReadCsv(*expected).traffic, ReadCsv(*actual).traffic), "");
  // While it waits for somebody to take its rows, it can be looked at.
  const std::string fifo = folder_ + "/rows";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  const UniqueFd reader(open(fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  auto waiting = Subprocess::Start(argv, {.stdout_path = fifo});
  ASSERT_TRUE(waiting.ok()) << waiting.status();
  char byte = 0;
  ASSERT_TRUE(
      Eventually([&] { return read(reader.get(), &byte, 1) == 1 || !(*waiting)->Running(); }));
  ASSERT_TRUE((*waiting)->Running()) << "the capture is too small to fill a pipe";
  for (const auto& [thread, status] : ThreadStatus((*waiting)->pid())) {
    for (const char* set : {"CapEff:", "CapPrm:", "CapInh:", "CapBnd:", "CapAmb:"}) {
      EXPECT_EQ(status.at(set), kNone);
    }
    EXPECT_EQ(status.at("NoNewPrivs:"), "1");
  }
}

// A password from a flag file stands in no process list, and in no log when the server is away.
TEST_F(PrivilegeTest, PasswordsAreNowhereToBeSeen) {
  const std::string flags = folder_ + "/importer.flags";
  std::ofstream(flags) << "conninfo=host=" << folder_
                       << "/no-server dbname=traffic password=hunter2hunter2\n";
  std::filesystem::permissions(flags, std::filesystem::perms(0600));
  auto importer =
      Subprocess::Start({DataPath("importer/importer"), "-flagfile=" + flags, "-watch=" + spool()});
  ASSERT_TRUE(importer.ok()) << importer.status();
  std::filesystem::copy_file(DataPath("tests/captures/gateway.sent.csv"),
                             spool() + "/traffic_2020-01-01T00_00_00.csv");
  ASSERT_TRUE((*importer)->WaitForOutput("no-server", absl::Seconds(20)).ok());
  for (const char* file : {"cmdline", "environ"}) {
    EXPECT_THAT(ReadFile(absl::StrCat("/proc/", (*importer)->pid(), "/", file)),
                Not(HasSubstr("hunter2")));
  }
  ASSERT_TRUE((*importer)->Signal(SIGTERM).ok());
  ASSERT_TRUE((*importer)->Wait(absl::Seconds(20)).ok());
  EXPECT_THAT((*importer)->Stderr() + (*importer)->Stdout(), Not(HasSubstr("hunter2")));
}

}  // namespace
}  // namespace ctacct
