// The engine under a service manager that keeps its sockets: the test plays the manager, on a real
// gateway, and restarts the engine.
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/system/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_output.h"
#include "tests/support/engine_test.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

ino_t Inode(int fd) {
  struct stat info {};
  return fstat(fd, &info) == 0 ? info.st_ino : 0;
}

// Inodes of the sockets that a process has.
std::set<ino_t> Sockets(pid_t pid) {
  std::set<ino_t> sockets;
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/fd"))) {
    struct stat info {};
    if (stat(entry.path().c_str(), &info) == 0 && S_ISSOCK(info.st_mode)) {
      sockets.insert(info.st_ino);
    }
  }
  return sockets;
}

uint32_t MemInfo(int socket, size_t which) {
  std::array<uint32_t, SK_MEMINFO_VARS> info{};
  socklen_t bytes = sizeof(info);
  EXPECT_EQ(getsockopt(socket, SOL_SOCKET, SO_MEMINFO, info.data(), &bytes), 0);
  return info[which];
}

// The number before `what` in the engine's last log lines; 0 if they do not contain it.
uint64_t Counted(const std::string& log, const std::string& what) {
  const size_t end = log.rfind(" " + what);
  if (end == std::string::npos) return 0;
  const size_t begin = log.find_last_not_of("0123456789", end - 1) + 1;
  uint64_t number = 0;
  EXPECT_TRUE(absl::SimpleAtoi(log.substr(begin, end - begin), &number)) << log;
  return number;
}

// What systemd provides: a socket for notifications of services, and a store for the descriptors
// that they hand over.
class Manager {
 public:
  explicit Manager(const std::string& path)
      : path_(path), socket_(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    EXPECT_LT(path.size(), sizeof(address.sun_path));
    memcpy(address.sun_path, path.data(), path.size());
    EXPECT_EQ(bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0)
        << strerror(errno);
    EXPECT_EQ(chmod(path.c_str(), 0777), 0);  // As systemd's: services have users of their own.
  }

  const std::string& path() const { return path_; }

  // Nothing more can be sent until something is read.
  void FillTheQueue() const {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, path_.data(), path_.size());
    const UniqueFd sender(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    while (sendto(sender.get(), "X=1", 3, 0, reinterpret_cast<const sockaddr*>(&address),
                  sizeof(address)) > 0) {
    }
    EXPECT_EQ(errno, EAGAIN) << strerror(errno);
  }

  // Reads all notifications so far.
  void Take() {
    for (;;) {
      char text[4096];
      iovec vector = {text, sizeof(text)};
      alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 16)];
      msghdr header{};
      header.msg_iov = &vector;
      header.msg_iovlen = 1;
      header.msg_control = control;
      header.msg_controllen = sizeof(control);
      const ssize_t bytes = recvmsg(socket_.get(), &header, MSG_CMSG_CLOEXEC);
      if (bytes < 0) return;
      Obey(std::string(text, static_cast<size_t>(bytes)), &header);
    }
  }

  bool WaitFor(const std::string& line) {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (absl::Now() < deadline) {
      Take();
      if (std::count(told.begin(), told.end(), line) > 0) return true;
      pollfd fd = {socket_.get(), POLLIN, 0};
      poll(&fd, 1, 100);
    }
    return false;
  }

  // Until the line has not come for as long as `period`; false if it keeps coming.
  bool WaitForSilence(const std::string& line, absl::Duration period) {
    const absl::Time give_up = absl::Now() + kPatience;
    for (absl::Time last = absl::Now(); absl::Now() - last < period;) {
      if (absl::Now() > give_up) return false;
      told.clear();
      pollfd fd = {socket_.get(), POLLIN, 0};
      poll(&fd, 1, 100);
      Take();
      if (std::count(told.begin(), told.end(), line) > 0) last = absl::Now();
    }
    return true;
  }

  std::set<ino_t> StoredInodes() const {
    std::set<ino_t> inodes;
    for (const auto& [name, fd] : store) inodes.insert(Inode(fd.get()));
    return inodes;
  }

  std::vector<std::string> told;
  std::vector<std::pair<std::string, UniqueFd>> store;

 private:
  void Obey(const std::string& message, msghdr* header) {
    std::map<std::string, std::string> values;
    for (const std::string& line : std::vector<std::string>(absl::StrSplit(message, '\n'))) {
      told.push_back(line);
      const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits('=', 1));
      if (parts.size() == 2) values[parts[0]] = parts[1];
    }
    for (cmsghdr* part = CMSG_FIRSTHDR(header); part != nullptr; part = CMSG_NXTHDR(header, part)) {
      int fd = -1;
      memcpy(&fd, CMSG_DATA(part), sizeof(fd));
      UniqueFd received(fd);
      EXPECT_EQ(values["FDSTORE"], "1");
      // systemd lets go of a watched socket once it reports an error, such as an overrun.
      EXPECT_EQ(values["FDPOLL"], "0");
      store.emplace_back(values["FDNAME"], std::move(received));
    }
    if (values["FDSTOREREMOVE"] == "1") {
      std::erase_if(store, [&](const auto& entry) { return entry.first == values["FDNAME"]; });
    }
  }

  const std::string path_;
  const UniqueFd socket_;
};

const std::string kCsvFiles = "-output-format=csv";  // Unless a test asks for the others.
const std::string kSpoolFiles = "-output-format=spool";

class ServiceManagerTest : public EngineTest {
 protected:
  ServiceManagerTest() : EngineTest("manager"), manager_(folder_ + "/notify") {}

  // With what is in the store, as systemd hands it back.
  void StartEngine(const std::vector<std::string>& flags) {
    manager_.told.clear();
    std::vector<std::string> names;
    // In a mount namespace of its own, by `ip netns exec`.
    std::string script =
        settings_are_fixed_
            ? "mount -o bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec"
            : "exec";
    std::vector<UniqueFd> inherited;
    for (const auto& [name, fd] : manager_.store) {
      // Inherited by the shell under some high number, and by the engine under the right one.
      inherited.emplace_back(fcntl(fd.get(), F_DUPFD, 100));
      absl::StrAppend(&script, " ", 3 + names.size(), "<&", inherited.back().get(), " ",
                      inherited.back().get(), "<&-");
      names.push_back(name);
    }
    SubprocessOptions options;
    options.environment["NOTIFY_SOCKET"] = manager_.path();
    if (!names.empty()) {
      options.environment["LISTEN_FDS"] = absl::StrCat(names.size());
      options.environment["LISTEN_FDNAMES"] = absl::StrJoin(names, ":");
    }
    if (watchdog_us_ != 0) options.environment["WATCHDOG_USEC"] = absl::StrCat(watchdog_us_);
    absl::StrAppend(&script, "; export LISTEN_PID=$$; exec \"$@\"");
    const bool spool_files = std::ranges::count(flags, kSpoolFiles) != 0;
    ASSERT_NO_FATAL_FAILURE(EngineTest::StartEngine(
        Joined({{"bash", "-c", script, "bash", DataPath("engine/engine"), "-src=10.32.0.0/11",
                 "-dst=10.32.0.0/11", "-interval=1", "-output=" + spool()},
                spool_files ? std::vector<std::string>() : std::vector{kCsvFiles},
                flags}),
        options));
    ASSERT_TRUE(manager_.WaitFor("READY=1")) << engine_->Stderr();
  }

  void StopEngine() {
    manager_.Take();  // Makes room for what the engine says at its end.
    ASSERT_NO_FATAL_FAILURE(EngineTest::StopEngine());
    EXPECT_TRUE(manager_.WaitFor("STOPPING=1"));
    // Its last writes may take longer than a watchdog waits.
    EXPECT_TRUE(manager_.WaitFor("WATCHDOG_USEC=0"));
  }

  uint64_t Queued() const {
    uint64_t bytes = 0;
    for (const auto& [name, fd] : manager_.store) {
      bytes += MemInfo(fd.get(), SK_MEMINFO_RMEM_ALLOC);
    }
    return bytes;
  }

  Traffic Written() const { return ReadCsvFolder(spool()).traffic; }

  bool settings_are_fixed_ = false;  // The engine cannot change those of the kernel.
  int watchdog_us_ = 0;              // 0: none.
  Manager manager_;
};

constexpr char kKept[] = "events were kept since an earlier engine";

// What conntrack reports while no engine runs is read by the next engine, from the same sockets.
TEST_F(ServiceManagerTest, EventsWaitWhileNoEngineRuns) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=3"}));
  EXPECT_THAT(engine_->Stderr(), Not(HasSubstr(kKept)));
  ASSERT_EQ(manager_.store.size(), 3u);
  const std::set<ino_t> sockets = manager_.StoredInodes();
  ASSERT_EQ(sockets.size(), 3u);
  EXPECT_TRUE(std::ranges::includes(Sockets(engine_->pid()), sockets));
  const Traffic first = Play({"--tcp=500", "--udp=3000"});
  StopEngine();
  EXPECT_EQ(manager_.StoredInodes(), sockets);
  EXPECT_EQ(Queued(), 0u);

  // Flows die that the first engine has accounted; others live and die meanwhile.
  const Traffic second = Play({"--tcp=500", "--udp=1000"});
  FlushConntrack();
  EXPECT_GT(Queued(), 0u);
  for (const auto& [name, fd] : manager_.store) {
    EXPECT_EQ(MemInfo(fd.get(), SK_MEMINFO_DROPS), 0u);
  }

  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=3"}));
  EXPECT_THAT(engine_->Stderr(), HasSubstr(kKept));
  EXPECT_TRUE(std::ranges::includes(Sockets(engine_->pid()), sockets));
  // Stored once, and not again.
  EXPECT_EQ(manager_.store.size(), 3u);
  EXPECT_EQ(std::count(manager_.told.begin(), manager_.told.end(), "FDSTORE=1"), 0);
  StopEngine();
  const std::string said = engine_->Stderr();
  EXPECT_EQ(Counted(said, "new,"), 1500u) << said;
  EXPECT_EQ(Counted(said, "destroy;"), 5000u) << said;
  EXPECT_EQ(Counted(said, "older than the engine"), 0u) << said;
  Traffic sent = first;
  sent += second;
  EXPECT_EQ(Difference(sent, Written()), "") << said;
}

// Nothing is lost between a clean end and the next start, whatever happened meanwhile: no gap.
TEST_F(ServiceManagerTest, ARestartMissesNothing) {
  const std::vector<std::string> flags = {"-workers=2", kSpoolFiles};
  ASSERT_NO_FATAL_FAILURE(StartEngine(flags));
  Traffic sent;
  const auto play = [&] {
    const Traffic more = Play({"--tcp=500", "--udp=1000"});
    sent += more;
  };
  for (int i = 0; i < 3; ++i) {
    ASSERT_NO_FATAL_FAILURE(play());
    StopEngine();
    ASSERT_NO_FATAL_FAILURE(play());
    if (i == 1) {
      FlushConntrack();
    }
    ASSERT_NO_FATAL_FAILURE(StartEngine(flags));
    EXPECT_THAT(engine_->Stderr(), HasSubstr("no event was missed"));
  }
  FlushConntrack();
  StopEngine();
  const SpoolRows rows = ReadSpool(spool());
  EXPECT_EQ(Difference(sent, rows.traffic), "") << engine_->Stderr();
  EXPECT_TRUE(rows.gaps.empty());
  for (const SpoolHeader& header : rows.headers) {
    EXPECT_EQ(header.completeness, Completeness::kComplete);
  }
}

// A manager that does not read (it is busy, or hangs) stops neither accounting nor the end.
TEST_F(ServiceManagerTest, AManagerThatDoesNotReadStopsNothing) {
  watchdog_us_ = 1'000'000;
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=2"}));
  manager_.FillTheQueue();
  Traffic sent;
  for (int i = 0; i < 2; ++i) {
    const Traffic more = Play({"--udp=100"});
    sent += more;
    EXPECT_TRUE(Eventually([&] { return Written() == sent; }, absl::Seconds(20)))
        << Difference(sent, Written());
  }
  ASSERT_NO_FATAL_FAILURE(EngineTest::StopEngine());
}

// If the engine is killed, the events that it has read since the last checkpoint are lost, and a
// gap says so.
TEST_F(ServiceManagerTest, AKillIsAGapAllTheSame) {
  const std::vector<std::string> flags = {"-workers=2", kSpoolFiles};
  ASSERT_NO_FATAL_FAILURE(StartEngine(flags));
  const Traffic sent = Play({"--open-tcp=500", "--close-open=false"});
  // Until a checkpoint has all of it.
  ASSERT_TRUE(Eventually([&] { return ReadSpool(spool()).traffic == WhileOpen(sent); }));
  KillEngine();
  ASSERT_NO_FATAL_FAILURE(StartEngine(flags));
  StopEngine();
  const SpoolRows rows = ReadSpool(spool());
  EXPECT_EQ(Difference(WhileOpen(sent), rows.traffic), "");
  ASSERT_EQ(rows.gaps.size(), 1u);
  EXPECT_EQ(rows.gaps[0].cause, GapCause::kRestart);
  EXPECT_EQ(rows.gaps[0].flows_lost, 0u);
}

// Even if the engine is killed: nobody closes the sockets.
TEST_F(ServiceManagerTest, EventsSurviveAKilledEngine) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=2"}));
  const std::set<ino_t> sockets = manager_.StoredInodes();
  KillEngine();
  const Traffic sent = Play({"--tcp=1000", "--udp=1000"});
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=2"}));
  EXPECT_THAT(engine_->Stderr(), HasSubstr(kKept));
  EXPECT_TRUE(std::ranges::includes(Sockets(engine_->pid()), sockets));
  FlushConntrack();
  StopEngine();
  // It was killed before its first checkpoint. Before 6.14 the kernel does not date a NEW, so these
  // flows may be older than the killed engine: they count from their present counters.
  utsname kernel{};
  int major = 0, minor = 0;
  ASSERT_EQ(uname(&kernel), 0);
  ASSERT_EQ(sscanf(kernel.release, "%d.%d", &major, &minor), 2);
  if (std::pair(major, minor) >= std::pair(6, 14)) {
    EXPECT_EQ(Difference(sent, Written()), "") << engine_->Stderr();
  }
}

// Sockets of other settings are removed, so that the kernel does not continue to fill them.
TEST_F(ServiceManagerTest, SocketsOfOtherSettingsAreRemoved) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=2"}));
  std::set<ino_t> before = manager_.StoredInodes();
  StopEngine();
  const std::vector<std::vector<std::string>> others = {
      {"-workers=3"},
      {"-workers=3", "-include-icmp"},
      {"-workers=3", "-include-icmp", "-mode=light"},
      {"-workers=3", "-include-icmp", "-mode=light", "-receive-buffer=1000000"},
      {"-workers=1"}};
  for (const std::vector<std::string>& flags : others) {
    ASSERT_NO_FATAL_FAILURE(StartEngine(flags));
    EXPECT_THAT(engine_->Stderr(), Not(HasSubstr(kKept))) << flags.back();
    EXPECT_THAT(engine_->Stderr(), HasSubstr("of no use")) << flags.back();
    const std::set<ino_t> now = manager_.StoredInodes();
    EXPECT_EQ(now.size(), flags[0] == "-workers=3" ? 3u : 1u) << flags.back();
    for (const ino_t socket : before) EXPECT_FALSE(now.contains(socket));
    const std::set<ino_t> engines = Sockets(engine_->pid());
    for (const ino_t socket : before) EXPECT_FALSE(engines.contains(socket));
    before = now;
    StopEngine();
  }
}

// One of several is gone: some flows would be known and others not. So all sockets are new.
TEST_F(ServiceManagerTest, AllOrNone) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=3"}));
  StopEngine();
  const std::set<ino_t> before = manager_.StoredInodes();
  manager_.store.erase(manager_.store.begin() + 1);
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=3"}));
  EXPECT_THAT(engine_->Stderr(), Not(HasSubstr(kKept)));
  EXPECT_EQ(manager_.store.size(), 3u);
  for (const ino_t socket : manager_.StoredInodes()) EXPECT_FALSE(before.contains(socket));
  StopEngine();
}

// A name is not enough: what is no such socket, or of another gateway, is not read.
TEST_F(ServiceManagerTest, ImpostorsAreRefused) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=1"}));
  StopEngine();
  ASSERT_EQ(manager_.store.size(), 1u);
  const std::string name = manager_.store[0].first;
  std::unique_ptr<Gateway> own = std::move(gateway_);
  ASSERT_NO_FATAL_FAILURE(BringUp());
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=1"}));
  EXPECT_THAT(engine_->Stderr(), HasSubstr("of another network namespace"));
  StopEngine();
  gateway_ = std::move(own);
  const std::pair<int, const char*> impostors[] = {
      {open("/dev/null", O_RDWR | O_CLOEXEC), "not a netlink socket"},
      {socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "not a netfilter socket"},
      {socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), "not a netfilter socket"}};
  for (const auto& [fd, why] : impostors) {
    manager_.store.clear();
    manager_.store.emplace_back(name, UniqueFd(fd));
    const ino_t impostor = Inode(fd);
    ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=1"}));
    EXPECT_THAT(engine_->Stderr(), HasSubstr(why));
    EXPECT_THAT(engine_->Stderr(), Not(HasSubstr(kKept)));
    ASSERT_EQ(manager_.store.size(), 1u);
    EXPECT_NE(Inode(manager_.store[0].second.get()), impostor);
    StopEngine();
  }
}

// The right name and kind, but without its filter: flows would count for every worker.
TEST_F(ServiceManagerTest, ASocketWithoutTheFilterIsRefused) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=2"}));
  StopEngine();
  ASSERT_EQ(manager_.store.size(), 2u);
  // Each has the other's.
  std::swap(manager_.store[0].second, manager_.store[1].second);
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=2"}));
  EXPECT_THAT(engine_->Stderr(), HasSubstr("filtered by another program"));
  StopEngine();
}

// Nobody reads, the buffer is full, and the kernel drops events: the next engine counts each of
// them once.
TEST_F(ServiceManagerTest, DropsWhileNoEngineRanAreCounted) {
  const std::vector<std::string> flags = {"-workers=1", "-receive-buffer=65536"};
  ASSERT_NO_FATAL_FAILURE(StartEngine(flags));
  Play({"--udp=5000", "--rate=2000"});
  const auto counters = gateway_->KernelCounters();
  ASSERT_TRUE(counters.ok()) << counters.status();
  StopEngine();
  const std::string first = engine_->Stderr();
  FlushConntrack();
  ASSERT_EQ(manager_.store.size(), 1u);
  const uint64_t dropped = MemInfo(manager_.store[0].second.get(), SK_MEMINFO_DROPS);
  const uint64_t told_before = Counted(first, "events dropped by the kernel");
  EXPECT_GT(dropped, told_before);
  ASSERT_NO_FATAL_FAILURE(StartEngine(flags));
  EXPECT_THAT(engine_->Stderr(), HasSubstr(kKept));
  ASSERT_NO_FATAL_FAILURE(WaitForEngine("netlink overrun"));
  StopEngine();
  const std::string second = engine_->Stderr();
  EXPECT_EQ(Counted(second, "events dropped by the kernel"), dropped - told_before) << second;
  EXPECT_EQ(Counted(second, "destroy;") + dropped - told_before, 5000u) << second;
  // And not a second time.
  ASSERT_NO_FATAL_FAILURE(StartEngine(flags));
  EXPECT_THAT(engine_->Stderr(), HasSubstr(kKept));
  StopEngine();
  EXPECT_EQ(Counted(engine_->Stderr(), "events dropped by the kernel"), 0u) << engine_->Stderr();
  EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("overrun")));
}

// Without start times an old flow's end looks like that of a flow that came and went meanwhile.
TEST_F(ServiceManagerTest, WithoutStartTimesNothingIsCountedTwice) {
  const std::string folder = "/proc/sys/net/netfilter/";
  ASSERT_TRUE(gateway_
                  ->Run({"sh", "-c",
                         "echo 0 > " + folder + "nf_conntrack_timestamp && echo 1 > " + folder +
                             "nf_conntrack_events"})
                  .ok());
  settings_are_fixed_ = true;
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=1"}));
  const Traffic sent = Play({"--udp=1000"});
  StopEngine();
  FlushConntrack();
  EXPECT_GT(Queued(), 0u);
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=1"}));
  EXPECT_THAT(engine_->Stderr(), HasSubstr("without nf_conntrack_timestamp"));
  StopEngine();
  EXPECT_EQ(Difference(sent, Written()), "") << engine_->Stderr();
}

// Reliable delivery to a socket that nobody reads would fill conntrack's table: the engine stores
// such sockets only when it stops, after leaving the mode.
TEST_F(ServiceManagerTest, ReliableSocketsAreKeptAtAGoodEndOnly) {
  const std::vector<std::string> flags = {"-workers=2", "-reliable", "-receive-buffer=65536"};
  ASSERT_NO_FATAL_FAILURE(StartEngine(flags));
  EXPECT_TRUE(manager_.store.empty());
  StopEngine();
  manager_.Take();
  ASSERT_EQ(manager_.store.size(), 2u);
  for (const auto& [name, fd] : manager_.store) {
    for (const int option : {NETLINK_BROADCAST_ERROR, NETLINK_NO_ENOBUFS}) {
      int on = 1;
      socklen_t bytes = sizeof(on);
      ASSERT_EQ(getsockopt(fd.get(), SOL_NETLINK, option, &on, &bytes), 0);
      EXPECT_EQ(on, 0);
    }
  }
  // Far more than the sockets hold: ended flows do not stay in the table.
  Play({"--udp=5000"});
  FlushConntrack();
  const auto flows = gateway_->Run({"cat", "/proc/sys/net/netfilter/nf_conntrack_count"});
  ASSERT_TRUE(flows.ok()) << flows.status();
  EXPECT_EQ(*flows, "0\n");
  ASSERT_NO_FATAL_FAILURE(StartEngine(flags));
  EXPECT_THAT(engine_->Stderr(), HasSubstr(kKept));
  EXPECT_TRUE(manager_.store.empty());
  ASSERT_NO_FATAL_FAILURE(WaitForEngine("netlink overrun"));
  const Traffic sent = Play({"--tcp=5000"});
  KillEngine();
  manager_.Take();
  EXPECT_TRUE(manager_.store.empty());
}

// A thread of another process that does not run while this lives.
class StoppedThread {
 public:
  explicit StoppedThread(pid_t thread) : thread_(thread) {
    EXPECT_EQ(ptrace(PTRACE_SEIZE, thread_, nullptr, nullptr), 0) << strerror(errno);
    EXPECT_EQ(ptrace(PTRACE_INTERRUPT, thread_, nullptr, nullptr), 0) << strerror(errno);
    EXPECT_EQ(waitpid(thread_, nullptr, __WALL), thread_);
  }
  ~StoppedThread() { EXPECT_EQ(ptrace(PTRACE_DETACH, thread_, nullptr, nullptr), 0); }

  StoppedThread(const StoppedThread&) = delete;
  StoppedThread& operator=(const StoppedThread&) = delete;

 private:
  const pid_t thread_;
};

// Signs of life come while nothing happens, and while a disk holds up the writing thread. They stop
// as soon as a thread that reads stands still.
TEST_F(ServiceManagerTest, AHungReaderIsSeen) {
  constexpr char kAlive[] = "WATCHDOG=1";
  watchdog_us_ = 2'000'000;
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=2"}));
  ASSERT_TRUE(manager_.WaitFor(kAlive));
  std::vector<pid_t> readers;
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", engine_->pid(), "/task"))) {
    pid_t thread = 0;
    ASSERT_TRUE(absl::SimpleAtoi(entry.path().filename().string(), &thread));
    if (thread != engine_->pid()) readers.push_back(thread);
  }
  ASSERT_EQ(readers.size(), 3u);  // Of dumps, and two of events.
  {
    const StoppedThread writer(engine_->pid());
    for (int i = 0; i < 3; ++i) {
      manager_.Take();
      manager_.told.clear();
      EXPECT_TRUE(manager_.WaitFor(kAlive));
    }
  }
  for (const pid_t reader : readers) {
    {
      const StoppedThread stopped(reader);
      EXPECT_TRUE(manager_.WaitForSilence(kAlive, absl::Microseconds(watchdog_us_)));
    }
    EXPECT_TRUE(manager_.WaitFor(kAlive));
  }
  StopEngine();
}

TEST_F(ServiceManagerTest, TheStatusReportsTheLastInterval) {
  // The spool folder must not take the state with it when it goes.
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=2", "-state=" + folder_ + "/state"}));
  Play({"--udp=100"});
  const auto status = [&] {
    manager_.Take();
    for (auto line = manager_.told.rbegin(); line != manager_.told.rend(); ++line) {
      if (line->starts_with("STATUS=")) return *line;
    }
    return std::string();
  };
  const auto becomes = [&](const std::string& text) {
    return Eventually([&] { return absl::StrContains(status(), text); });
  };
  EXPECT_TRUE(becomes("; 100 rows written, 0 wait; 100 flows")) << status();
  EXPECT_THAT(status(), HasSubstr("last interval ended "));

  // It cannot write any more, and continues.
  std::filesystem::rename(spool(), spool() + ".away");
  Play({"--udp=100"});
  EXPECT_TRUE(becomes("rows cannot be written")) << status();
  std::filesystem::rename(spool() + ".away", spool());
  StopEngine();
}

// Nobody takes notifications or hands sockets back.
TEST_F(ServiceManagerTest, WithoutAManagerNothingIsDifferent) {
  ASSERT_NO_FATAL_FAILURE(EngineTest::StartEngine({DataPath("engine/engine"), "-interval=1"}));
  ASSERT_NO_FATAL_FAILURE(EngineTest::StopEngine());
  EXPECT_THAT(engine_->Stderr(), Not(HasSubstr(kKept)));
}

}  // namespace
}  // namespace ctacct
