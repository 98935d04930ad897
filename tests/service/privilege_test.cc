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

// "Name: value" lines of each thread's status, by thread id; blanks made single. Not of a thread
// that ends meanwhile.
std::map<std::string, std::map<std::string, std::string>> ThreadStatus(pid_t pid) {
  std::map<std::string, std::map<std::string, std::string>> threads;
  for (const auto& task :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/task"))) {
    std::ifstream lines(task.path() / "status");
    for (std::string line; std::getline(lines, line);) {
      std::istringstream words(line);
      std::string name, value;
      words >> name;
      for (std::string word; words >> word;)
        absl::StrAppend(&value, value.empty() ? "" : " ", word);
      threads[task.path().filename()][name] = value;
    }
  }
  EXPECT_FALSE(threads.empty());
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

  // Makes the next dump fail: an error with its sequence number is already queued in its socket.
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

  // An engine that becomes this user (nullptr: the one that it chooses without the flag), in a
  // folder of root's: it makes what it needs there.
  void StartEngineAs(const char* user, const std::string& fifo, const std::string& ports) {
    std::filesystem::remove(spool());
    std::filesystem::permissions(folder_, std::filesystem::perms(0755));
    ASSERT_NO_FATAL_FAILURE(BringUp());
    // Off, as the kernel has it: CAP_NET_ADMIN alone turns it on.
    ASSERT_TRUE(gateway_->Run({"sysctl", "-q", "net.netfilter.nf_conntrack_acct=0"}).ok());
    std::ofstream(ports) << "tcp:1\n";
    std::vector<std::string> flags = {"-interval=1", "-workers=3", "-pipe=" + fifo,
                                      "-ports=" + ports};
    if (user != nullptr) flags.push_back(absl::StrCat("-user=", user));
    ASSERT_NO_FATAL_FAILURE(StartEngine(EngineArgv(flags)));
  }

  // Each thread has CAP_NET_ADMIN and no other, can get none back, and is that user. A user that
  // the engine has become has that user's group alone.
  void ExpectNetAdminAlone(const UserAccount& account) {
    const auto four = [](auto id) { return absl::StrCat(id, " ", id, " ", id, " ", id); };
    const auto threads = ThreadStatus(engine_->pid());
    EXPECT_GE(threads.size(), 6u);  // Main, dumps, pipe, three workers.
    for (const auto& [thread, status] : threads) {
      EXPECT_EQ(status.at("CapEff:"), kNetAdmin) << status.at("Name:");
      EXPECT_EQ(status.at("CapPrm:"), kNetAdmin);
      EXPECT_EQ(status.at("CapInh:"), kNone);
      EXPECT_EQ(status.at("CapBnd:"), kNone);
      EXPECT_EQ(status.at("CapAmb:"), kNone);
      EXPECT_EQ(status.at("NoNewPrivs:"), "1");
      EXPECT_EQ(status.at("Uid:"), four(account.uid));
      EXPECT_EQ(status.at("Gid:"), four(account.gid));
      if (account.uid == 0) continue;
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

  // After a dump that fails the engine opens another socket, with the same rights.
  void ReplaceDumpSocket() {
    const std::set<std::string> before = NetlinkInodes();
    BreakNextDump();
    ASSERT_NO_FATAL_FAILURE(WaitForEngine("conntrack dump: Invalid argument"));
    // It says so before it opens the next one.
    std::set<std::string> after;
    EXPECT_TRUE(Eventually([&] {
      after = NetlinkInodes();
      return after != before && after.size() == before.size();
    })) << before.size()
        << " sockets, then " << after.size();
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
    const auto account = user != nullptr ? FindUserAccount(user) : UnprivilegedUser();
    ASSERT_TRUE(account.ok()) << account.status();
    const std::string fifo = folder_ + "/fifo";
    const std::string ports = folder_ + "/ports";
    ASSERT_NO_FATAL_FAILURE(StartEngineAs(user, fifo, ports));
    Traffic sent = Play({"--tcp=3000", "--udp=3000", "--open-tcp=500"});
    EXPECT_THAT(engine_->Stderr(), HasSubstr("nf_conntrack_acct was 0, set to 1"));
    ExpectNetAdminAlone(*account);
    ExpectFiltersLocked();
    ASSERT_NO_FATAL_FAILURE(ReplaceDumpSocket());

    // Files are opened again with what rights are left: a list out of reach is said to be so.
    if (account->uid != 0) {
      std::filesystem::permissions(ports, std::filesystem::perms(0600));
      ASSERT_TRUE(engine_->Signal(SIGHUP).ok());
      WaitForEngine(absl::StrCat("Permission denied (the program is user ", account->name));
    }
    auto reader = Subprocess::Start({"cat", fifo});
    ASSERT_TRUE(reader.ok()) << reader.status();
    sent += Play({"--tcp=2000", "--udp=2000"});
    ASSERT_TRUE((*reader)->WaitForOutput("tcp", absl::Seconds(10)).ok());
    FlushConntrack();

    // Files made before the engine became the user, and those made since, belong to the user.
    for (const auto& [path, mode] :
         {std::pair(fifo, 0640u), {spool(), 0750u}, {spool() + "/.ctacct", 0700u}}) {
      struct stat info {};
      ASSERT_EQ(stat(path.c_str(), &info), 0) << path;
      EXPECT_EQ(info.st_uid, account->uid) << path;
      EXPECT_EQ(info.st_gid, account->gid) << path;
      EXPECT_EQ(info.st_mode & 07777, mode) << path;
    }
    int files = 0;
    for (const std::string& file : VisibleFilesIn(spool())) {
      ++files;
      struct stat info {};
      ASSERT_EQ(stat(file.c_str(), &info), 0);
      EXPECT_EQ(info.st_uid, account->uid);
      EXPECT_EQ(info.st_gid, account->gid);
      EXPECT_EQ(info.st_mode & 0777, 0640u);
    }
    EXPECT_GT(files, 0);
    if (account->name != kStranger) {
      ExpectUnreadableByStranger(fifo);
      ExpectUnreadableByStranger(VisibleFilesIn(spool()).at(0));
    }
    StopEngine();
    EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("CAP_NET_ADMIN")));
    // The log contains no addresses: only rows show whose traffic it was.
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

TEST_F(PrivilegeTest, RootDoesNotStayRoot) {
  const auto user = UnprivilegedUser();
  ASSERT_TRUE(user.ok()) << user.status();
  ASSERT_NE(user->uid, 0u);
  LiveAs(nullptr);
}

TEST_F(PrivilegeTest, RootThatIsAskedToStayKeepsOnlyNetAdmin) { LiveAs("root"); }

TEST_F(PrivilegeTest, AnotherUserWithNetAdminAlone) { LiveAs(kUser); }

// A recording holds every address.
TEST_F(PrivilegeTest, StrangersReadNoRecording) {
  std::filesystem::permissions(folder_, std::filesystem::perms(0755));
  const std::string recording = folder_ + "/recording.pcap";
  ASSERT_NO_FATAL_FAILURE(BringUp());
  StartEngine(EngineArgv({"-interval=1", "-record=" + recording, "-user=daemon"}));
  Play({"--tcp=100"});
  ExpectUnreadableByStranger(recording);
  StopEngine();
  struct stat info {};
  ASSERT_EQ(stat(recording.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(info.st_uid, 0u);  // Root's, who recorded it, and who replays it.
  const auto replayed =
      RunProcessOrError({DataPath("engine/engine"), "-replay=" + recording}, absl::Seconds(30));
  EXPECT_TRUE(replayed.ok()) << replayed.status();
}

// What its user cannot use is refused before anything is touched, with the remedy, because root
// expects to be able to use it.
TEST_F(PrivilegeTest, WhatIsOutOfReachIsRefusedWithTheRemedy) {
  ASSERT_NO_FATAL_FAILURE(BringUp());
  ASSERT_TRUE(gateway_->Run({"sysctl", "-q", "net.netfilter.nf_conntrack_acct=0"}).ok());
  const std::string closed = folder_ + "/closed";
  std::filesystem::create_directory(closed);
  std::filesystem::permissions(closed, std::filesystem::perms(0700));
  const std::string roots = folder_ + "/roots";
  std::filesystem::create_directory(roots);
  std::ofstream(roots + "/file") << "not made for the engine\n";
  const std::string ports = folder_ + "/ports";
  std::ofstream(ports) << "tcp:1\n";
  std::filesystem::permissions(ports, std::filesystem::perms(0600));
  const std::string engine = DataPath("engine/engine");
  const std::string me = UnprivilegedUser()->name;
  struct Case {
    std::vector<std::string> flags;
    std::string what, user, remedy;
  };
  const Case cases[] = {
      {{"-output=" + roots}, "output folder " + roots, me, "chown -R " + me + " " + roots},
      {{"-output=" + closed + "/spool"},
       "output folder " + closed + "/spool",
       me,
       "may not enter " + closed},
      {{"-output=" + roots, "-user=daemon"}, "output folder " + roots, "daemon", "chown -R daemon"},
      {{"-output=" + folder_ + "/new", "-state=" + roots}, "state folder " + roots, me, "chown"},
      {{"-output=" + folder_ + "/new", "-ports=" + ports}, "port list " + ports, me, "chmod o+r"},
      {{"-output=" + folder_ + "/new", "-pipe=" + closed + "/fifo"},
       "pipe " + closed + "/fifo",
       me,
       "may not enter " + closed},
  };
  for (const Case& one : cases) {
    const auto run = gateway_->Start(Joined({{engine}, one.flags}));
    ASSERT_TRUE(run.ok()) << run.status();
    const auto exit = (*run)->Wait(kPatience);
    ASSERT_TRUE(exit.ok()) << exit.status();
    EXPECT_EQ(exit->code, 1);
    EXPECT_THAT((*run)->Stderr(),
                AllOf(HasSubstr(one.what + ": Permission denied: user " + one.user + " may not"),
                      HasSubstr(one.remedy)));
    EXPECT_EQ(CountLines((*run)->Stderr()), 1u) << (*run)->Stderr();
    EXPECT_FALSE(std::filesystem::exists(folder_ + "/new"));
    const auto acct = gateway_->Run({"sysctl", "-n", "net.netfilter.nf_conntrack_acct"});
    ASSERT_TRUE(acct.ok()) << acct.status();
    EXPECT_EQ(*acct, "0\n");
  }
  // Root that stays has no override either.
  ASSERT_NO_FATAL_FAILURE(Give(closed, kUser));
  const auto refused = gateway_->Run(EngineArgv({"-user=root", "-state=" + closed}));
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("exit status 1: engine: cannot open state folder"));
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("has given up root's override"));
  const auto acct = gateway_->Run({"sysctl", "-n", "net.netfilter.nf_conntrack_acct"});
  ASSERT_TRUE(acct.ok()) << acct.status();
  EXPECT_EQ(*acct, "0\n");
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

// A replay needs no privilege: it runs without any capability, and as another user.
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

// An '@' or a '/' in a URI's password makes libpq take the rest for the server, whose name it
// repeats. No program prints any of it, whatever else is wrong.
TEST_F(PrivilegeTest, NoPartOfAPasswordIsPrinted) {
  const std::vector<std::string> programs[] = {
      {DataPath("importer/importer"), "-watch=" + spool(), "-once"},
      {DataPath("importer/report/report"), "-output=-"},
      {DataPath("importer/doctor/doctor"), "-probe=false", "-engine-flags=", "-importer-flags="}};
  const auto expect = [&](const std::string& flag, int code) {
    for (const std::vector<std::string>& program : programs) {
      const auto run = RunProcess(Joined({program, {flag}}), kPatience);
      ASSERT_TRUE(run.ok()) << run.status();
      EXPECT_EQ(run->exit.code, code) << program[0] << " " << flag << "\n" << run->out << run->err;
      EXPECT_THAT(run->out + run->err, Not(HasSubstr("hush"))) << program[0] << " " << flag;
    }
  };
  for (const char* const conninfo :
       {"postgresql://joe:p@hush@host/x", "postgresql://joe:p/hush@host/x",
        "postgresql://joe:hush/x", "postgresql://joe:p%zzhush@host/x",
        "postgresql://joe@host/x?password=p@hush", "postgresql://joe@host/x?password=p&hush",
        "postgresqls://joe:p@hush@host/x", "host=joe:p@hush dbname=x",
        "host=db,joe:p@hush dbname=x", "host=db password=p hush",
        "dbname=postgresql://joe:p@hush@host/x"}) {
    expect(absl::StrCat("-conninfo=", conninfo), 2);
  }
  for (const char* const flag :
       {"-host=joe:p@hush", "-host=postgresql://joe:hush/x", "-db=postgresql://joe:p@hush@host/x",
        "postgresql://joe:p@hush@host/x", "--postgresql://joe:p@hush@host/x"}) {
    expect(flag, 2);
  }
  // The right way: nobody listens there, and the reason has no password in it.
  expect("-conninfo=postgresql://joe:p%40hush%2Fhush@127.0.0.1:1/x", 1);
}

// What knows a password leaves no core, neither as a file nor to a core handler: its files in /proc
// are root's, as those of all that may not be dumped.
TEST_F(PrivilegeTest, ProgramsWithPasswordsLeaveNoCore) {
  const std::string importer = folder_ + "/importer";
  std::filesystem::copy_file(DataPath("importer/importer"), importer);
  std::filesystem::permissions(importer, std::filesystem::perms(0755));
  const auto owner_of_memory = [](pid_t pid) {
    struct stat info {};
    EXPECT_EQ(stat(absl::StrCat("/proc/", pid, "/mem").c_str(), &info), 0);
    return info.st_uid;
  };
  const auto dumped = Subprocess::Start(As(kUser, {"sh", "-c", "echo here; exec sleep 1000"}));
  ASSERT_TRUE(dumped.ok()) << dumped.status();
  ASSERT_TRUE((*dumped)->WaitForOutput("here", kPatience).ok());
  EXPECT_TRUE(
      Eventually([&] { return owner_of_memory((*dumped)->pid()) == FindUserAccount(kUser)->uid; }));
  const auto process = Subprocess::Start(
      As(kUser, {importer, "-host=" + folder_ + "/no-server", "-db=x", "-watch=" + spool()}));
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE((*process)->WaitForOutput("no-server", kPatience).ok());
  EXPECT_EQ(owner_of_memory((*process)->pid()), 0u);
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
