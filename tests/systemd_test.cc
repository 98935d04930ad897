// The services that we ship: what they leave open by systemd's own reckoning, and that both
// programs work within what is left, under a real systemd, with real traffic and a real PostgreSQL.
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/gateway.h"
#include "tests/private_postgres.h"
#include "tests/spool_rows.h"
#include "tests/subprocess.h"
#include "tests/systemd_container.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kEngine[] = "ctacct-engine.service";
constexpr char kImporter[] = "ctacct-importer.service";
constexpr char kPassword[] = "hunter2hunter2";
// Tenths: 0 is closed in a box, 100 is root.
constexpr int kExposureMax = 15;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void WriteFile(const std::string& path, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path) << text;
}

TEST(SystemdUnitTest, LittleIsLeftOpen) {
  for (const char* unit : {kEngine, kImporter}) {
    const auto run = RunProcess({"systemd-analyze", "security", "--no-pager", "--offline=true",
                                 absl::StrCat("--threshold=", kExposureMax),
                                 DataPath(absl::StrCat("configs/systemd/", unit))},
                                absl::Seconds(30));
    ASSERT_TRUE(run.ok()) << run.status();
    EXPECT_TRUE(run->exit.ok()) << run->out << run->err;
    EXPECT_THAT(run->out, HasSubstr("Overall exposure level"));
    std::cout << run->out.substr(run->out.find("Overall"));
  }
}

// The inodes of a process's sockets.
std::set<ino_t> Sockets(pid_t pid) {
  std::set<ino_t> sockets;
  std::error_code ignored;
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/fd"), ignored)) {
    struct stat info {};
    if (stat(entry.path().c_str(), &info) == 0 && S_ISSOCK(info.st_mode)) {
      sockets.insert(info.st_ino);
    }
  }
  return sockets;
}

class SystemdTest : public testing::Test {
 protected:
  void SetUp() override {
    RequireRootOrSkip();
    if (IsSkipped() || HasFatalFailure()) return;
    std::string folder = "/tmp/ctacct-systemd.XXXXXX";
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    std::filesystem::permissions(folder_, std::filesystem::perms(0755));
    // What we ship, and what a test wants besides.
    AddFlags("engine", "interval=1\nsrc=10.32.0.0/11\ninclude-icmp=true\nworkers=2\n");
    for (const char* unit : {kEngine, kImporter}) {
      // A system call that is missing in the unit's list kills, where a user's system only refuses
      // it.
      WriteFile(absl::StrCat(files(), "/etc/systemd/system/", unit, ".d/test.conf"),
                "[Service]\nSystemCallErrorNumber=kill\n");
    }
    WantUnits({kEngine});
  }
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }

  std::string files() const { return folder_ + "/files"; }

  void AddFlags(const std::string& program, const std::string& flags) {
    const std::string name = program + ".flags";
    WriteFile(files() + "/etc/ctacct/" + name, ReadFile(DataPath("configs/" + name)) + flags);
  }

  void WantUnits(const std::vector<std::string>& units) {
    std::string target = "[Unit]\nRequires=sysinit.target\nAfter=sysinit.target\n";
    for (const std::string& unit : units) absl::StrAppend(&target, "Wants=", unit, "\n");
    WriteFile(files() + "/etc/systemd/system/ctacct-test.target", target);
  }

  std::string folder_;
};

TEST_F(SystemdTest, BothServicesDoTheirWork) {
  auto gateway = Gateway::Up();
  ASSERT_TRUE(gateway.ok()) << gateway.status();
  // As the settings of configs/sysctl.d leave it; the engine cannot change it as a service.
  ASSERT_TRUE(
      (*gateway)->Run({"sysctl", "-q", "-p", DataPath("configs/sysctl.d/ctacct.conf")}).ok());
  auto postgres = PrivatePostgres::Start();
  ASSERT_TRUE(postgres.ok()) << postgres.status();
  std::filesystem::permissions((*postgres)->folder(), std::filesystem::perms(0755));
  for (const std::string& sql :
       {absl::StrCat("CREATE ROLE ctacct LOGIN PASSWORD '", kPassword, "'"),
        std::string("CREATE DATABASE traffic OWNER ctacct")}) {
    const auto done = (*postgres)->Sql("postgres", sql);
    ASSERT_TRUE(done.ok()) << done.status();
  }
  const std::string access = (*postgres)->folder() + "/data/pg_hba.conf";
  const std::string rules = ReadFile(access);
  std::ofstream(access) << "local all ctacct scram-sha-256\n" << rules;
  ASSERT_TRUE((*postgres)->Sql("postgres", "SELECT pg_reload_conf()").ok());
  AddFlags("importer", "conninfo=host=/run/database dbname=traffic user=ctacct\n");
  const std::string passwords = files() + "/etc/ctacct/pgpass";
  WriteFile(passwords, absl::StrCat("*:*:traffic:ctacct:", kPassword, "\n"));
  std::filesystem::permissions(passwords, std::filesystem::perms(0600));
  WantUnits({kEngine, kImporter});

  auto booted = SystemdContainer::Boot(
      **gateway, {.files = files(), .bind = {(*postgres)->folder() + ":/run/database"}});
  ASSERT_TRUE(booted.ok()) << booted.status();
  const SystemdContainer& system = **booted;
  const auto verified =
      system.Run({"systemd-analyze", "verify", absl::StrCat("/etc/systemd/system/", kEngine),
                  absl::StrCat("/etc/systemd/system/", kImporter)});
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_TRUE(verified->exit.ok());
  EXPECT_EQ(verified->out + verified->err, "");

  for (const char* unit : {kEngine, kImporter}) {
    ASSERT_EQ(system.Property(unit, "ActiveState"), "active") << system.Journal(unit);
    const pid_t pid = system.MainPid(unit);
    ASSERT_GT(pid, 0) << system.Journal(unit);
    const std::string process = absl::StrCat("/proc/", pid);
    const std::string status = ReadFile(process + "/status");
    const std::string rights = unit == std::string(kEngine) ? "1000" : "0000";
    EXPECT_THAT(status, HasSubstr("CapEff:\t000000000000" + rights));
    EXPECT_THAT(status, HasSubstr("CapPrm:\t000000000000" + rights));
    EXPECT_THAT(status, HasSubstr("CapBnd:\t000000000000" + rights));
    EXPECT_THAT(status, HasSubstr("CapInh:\t0000000000000000"));
    EXPECT_THAT(status, HasSubstr("CapAmb:\t0000000000000000"));
    EXPECT_THAT(status, HasSubstr("NoNewPrivs:\t1"));
    EXPECT_THAT(status, HasSubstr("Seccomp:\t2"));
    EXPECT_THAT(status, Not(HasSubstr("Uid:\t0")));
    EXPECT_THAT(ReadFile(process + "/cmdline"), Not(HasSubstr(kPassword)));
    EXPECT_THAT(ReadFile(process + "/environ"), Not(HasSubstr(kPassword)));
  }

  const auto sent = (*gateway)->Play({"--tcp=5000", "--udp=5000", "--icmp=100"});
  ASSERT_TRUE(sent.ok()) << sent.status();
  ASSERT_TRUE((*gateway)->FlushConntrack().ok());
  // Its last interval is in the spool, and the importer finds it.
  const auto stopped = system.RunOrError({"systemctl", "stop", kEngine});
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  EXPECT_EQ(system.Property(kEngine, "Result"), "success") << system.Journal(kEngine);
  EXPECT_EQ(system.Property(kEngine, "NRestarts"), "0") << system.Journal(kEngine);
  const std::string spool = system.Inside("/var/spool/ctacct");
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  while (!NothingVisible(spool) && absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(50));
  }
  EXPECT_TRUE(NothingVisible(spool)) << system.Journal(kImporter);
  EXPECT_EQ(system.Property(kImporter, "NRestarts"), "0") << system.Journal(kImporter);
  ASSERT_TRUE(system.RunOrError({"systemctl", "stop", kImporter}).ok());
  EXPECT_EQ(system.Property(kImporter, "Result"), "success") << system.Journal(kImporter);
  for (const char* unit : {kEngine, kImporter}) {
    EXPECT_THAT(system.Journal(unit), Not(HasSubstr(kPassword)));
    EXPECT_THAT(system.Journal(unit), Not(HasSubstr("10.32.")));
  }

  const auto sums =
      (*postgres)->Sql("traffic",
                       "SELECT sum(src_packets), sum(dst_packets), sum(src_bytes), sum(dst_bytes),"
                       " sum(connection_count) FROM vpn_traffic");
  ASSERT_TRUE(sums.ok()) << sums.status();
  const TrafficTotals total = Total(*sent);
  EXPECT_EQ(absl::StripAsciiWhitespace(*sums),
            absl::StrCat(total.packets_src, "|", total.packets_dst, "|", total.bytes_src, "|",
                         total.bytes_dst, "|", total.connection_count))
      << system.Journal(kEngine) << system.Journal(kImporter);
  std::cout << system.Journal(kEngine) << system.Journal(kImporter);
}

// systemd keeps the event sockets over a restart, a crash, and an overrun: what conntrack tells
// meanwhile is in the rows.
TEST_F(SystemdTest, EventsSurviveARestart) {
  auto gateway = Gateway::Up();
  ASSERT_TRUE(gateway.ok()) << gateway.status();
  ASSERT_TRUE(
      (*gateway)->Run({"sysctl", "-q", "-p", DataPath("configs/sysctl.d/ctacct.conf")}).ok());
  // Too little for a burst that nobody reads.
  AddFlags("engine", "interval=1\nworkers=2\nreceive-buffer=131072\n");
  auto booted = SystemdContainer::Boot(**gateway, {.files = files()});
  ASSERT_TRUE(booted.ok()) << booted.status();
  const SystemdContainer& system = **booted;
  ASSERT_EQ(system.Property(kEngine, "ActiveState"), "active") << system.Journal(kEngine);
  EXPECT_EQ(system.Property(kEngine, "NFileDescriptorStore"), "2");
  const std::set<ino_t> first = Sockets(system.MainPid(kEngine));
  const auto kept_after = [&](const std::set<ino_t>& now) {
    size_t kept = 0;
    for (const ino_t socket : first) kept += now.count(socket);
    return kept;
  };

  const auto restarted = system.RunOrError({"systemctl", "restart", kEngine});
  ASSERT_TRUE(restarted.ok()) << restarted.status() << system.Journal(kEngine);
  EXPECT_THAT(system.Journal(kEngine), HasSubstr("events were kept"));
  EXPECT_GE(kept_after(Sockets(system.MainPid(kEngine))), 2u);

  // Overrun: the sockets report an error, as long as nobody reads.
  pid_t pid = system.MainPid(kEngine);
  ASSERT_GT(pid, 0);
  ASSERT_EQ(kill(pid, SIGSTOP), 0);
  const auto played = (*gateway)->Play({"--udp=5000"});
  ASSERT_EQ(kill(pid, SIGCONT), 0);
  ASSERT_TRUE(played.ok()) << played.status();
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (system.Journal(kEngine).find("overrun") == std::string::npos && absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(50));
  }
  EXPECT_THAT(system.Journal(kEngine), HasSubstr("overrun"));
  EXPECT_EQ(system.Property(kEngine, "NFileDescriptorStore"), "2");

  ASSERT_EQ(kill(pid, SIGKILL), 0);
  while ((system.Property(kEngine, "NRestarts") != "1" ||
          system.Property(kEngine, "ActiveState") != "active") &&
         absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(50));
  }
  EXPECT_EQ(system.Property(kEngine, "NRestarts"), "1") << system.Journal(kEngine);
  pid = system.MainPid(kEngine);
  EXPECT_GE(kept_after(Sockets(pid)), 2u) << system.Journal(kEngine);

  // Once stopped, the kernel builds no events for nobody.
  ASSERT_TRUE(system.RunOrError({"systemctl", "stop", kEngine}).ok());
  EXPECT_EQ(system.Property(kEngine, "NFileDescriptorStore"), "0");
  std::cout << system.Journal(kEngine);
}

}  // namespace
}  // namespace ctacct
