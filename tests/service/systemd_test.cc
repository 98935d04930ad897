// The services that we ship: what they leave open by systemd's own reckoning, and that both
// programs work within what is left, under a real systemd, with real traffic and a real PostgreSQL.
#include <signal.h>
#include <sys/stat.h>

#include <filesystem>
#include <iostream>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/service/systemd_container.h"
#include "tests/support/engine_test.h"
#include "tests/support/private_postgres.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kEngine[] = "ctacct-engine.service";
constexpr char kImporter[] = "ctacct-importer.service";
constexpr char kNames[] = "ctacct-names.service";
constexpr char kPassword[] = "hunter2hunter2";
// In tenths: 0 is fully confined, 100 is root.
constexpr int kExposureMax = 13;

// Also makes the folders above it.
void WriteFileBelow(const std::string& path, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  WriteFile(path, text);
}

TEST(SystemdUnitTest, LittleIsLeftOpen) {
  for (const char* unit : {kEngine, kImporter, kNames}) {
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

// Packets, bytes and connections, in the same form for both.
std::string SumsOf(const TrafficTotals& total) {
  return absl::StrCat(total.packets_src, "|", total.packets_dst, "|", total.bytes_src, "|",
                      total.bytes_dst, "|", total.connection_count);
}
std::string RowSums(const PrivatePostgres& postgres) {
  const auto sums =
      postgres.Sql("traffic",
                   "SELECT sum(src_packets), sum(dst_packets), sum(src_bytes), sum(dst_bytes),"
                   " sum(connection_count) FROM vpn_traffic");
  return sums.ok() ? std::string(absl::StripAsciiWhitespace(*sums)) : sums.status().ToString();
}

class SystemdTest : public EngineTest {
 protected:
  SystemdTest() : EngineTest("systemd") {}

  void SetUp() override {
    EngineTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    // As configs/sysctl.d leaves it; the engine cannot change it as a service.
    ASSERT_TRUE(
        gateway_->Run({"sysctl", "-q", "-p", DataPath("configs/sysctl.d/ctacct.conf")}).ok());
    // What we ship, and what a test wants besides.
    AddFlags("engine", "interval=1\nsrc=10.32.0.0/11\ninclude-icmp=true\nworkers=2\n");
    for (const char* unit : {kEngine, kImporter}) {
      // A system call that is missing in the unit's list kills, where a user's system only refuses
      // it.
      WriteFileBelow(absl::StrCat(files(), "/etc/systemd/system/", unit, ".d/test.conf"),
                     "[Service]\nSystemCallErrorNumber=kill\n");
    }
    WantUnits({kEngine});
  }
  std::string files() const { return folder_ + "/files"; }

  void AddFlags(const std::string& program, const std::string& flags) {
    const std::string name = program + ".flags";
    // In place of those that the file has in force: none may be given twice.
    std::string text;
    const std::string shipped = ReadFile(DataPath("configs/" + name));
    for (std::string line : std::vector<std::string>(absl::StrSplit(shipped, '\n'))) {
      // What is shipped for metrics works as it stands.
      if (absl::StartsWith(line, "#metrics-file=")) line.erase(0, 1);
      const std::string flag = line.substr(0, line.find('=') + 1);
      if (flag.empty() || ("\n" + flags).find("\n" + flag) == std::string::npos) {
        absl::StrAppend(&text, line, "\n");
      }
    }
    WriteFileBelow(files() + "/etc/ctacct/" + name, text + flags);
  }

  // With a role that has a password; both programs' services know of it.
  absl::StatusOr<std::unique_ptr<PrivatePostgres>> StartDatabase() {
    auto postgres = PrivatePostgres::Start();
    if (!postgres.ok()) return postgres.status();
    std::filesystem::permissions((*postgres)->folder(), std::filesystem::perms(0755));
    for (const std::string& sql :
         {absl::StrCat("CREATE ROLE ctacct LOGIN PASSWORD '", kPassword, "'"),
          std::string("CREATE DATABASE traffic OWNER ctacct")}) {
      if (const auto done = (*postgres)->Sql("postgres", sql); !done.ok()) return done.status();
    }
    const std::string access = (*postgres)->folder() + "/data/pg_hba.conf";
    const std::string rules = ReadFile(access);
    WriteFile(access, "local all ctacct scram-sha-256\n" + rules);
    const auto reloaded = (*postgres)->Sql("postgres", "SELECT pg_reload_conf()");
    if (!reloaded.ok()) return reloaded.status();
    AddFlags("importer", "conninfo=host=/run/database dbname=traffic user=ctacct\n");
    const std::string passwords = files() + "/etc/ctacct/pgpass";
    WriteFileBelow(passwords, absl::StrCat("*:*:traffic:ctacct:", kPassword, "\n"));
    std::filesystem::permissions(passwords, std::filesystem::perms(0600));
    return postgres;
  }

  void WantUnits(const std::vector<std::string>& units) {
    std::string target = "[Unit]\nRequires=sysinit.target\nAfter=sysinit.target\n";
    for (const std::string& unit : units) absl::StrAppend(&target, "Wants=", unit, "\n");
    WriteFileBelow(files() + "/etc/systemd/system/ctacct-test.target", target);
  }
};

TEST_F(SystemdTest, NamesReachTheSpool) {
  AddFlags("names", "file=/etc/ctacct/teams.csv\nwireguard=all\n");
  WriteFileBelow(files() + "/etc/ctacct/teams.csv", "10.32.1.0/24,team 1\n");
  WriteFileBelow(absl::StrCat(files(), "/etc/systemd/system/", kNames, ".d/test.conf"),
                 "[Service]\nSystemCallErrorNumber=kill\n");
  WantUnits({kNames});
  auto booted = SystemdContainer::Boot(*gateway_, {.files = files()});
  ASSERT_TRUE(booted.ok()) << booted.status();
  const SystemdContainer& system = **booted;
  ASSERT_EQ(system.Property(kNames, "ActiveState"), "active") << system.Journal(kNames);
  const std::string status = ReadFile(absl::StrCat("/proc/", system.MainPid(kNames), "/status"));
  EXPECT_THAT(status, HasSubstr("CapEff:\t0000000000001000"));
  EXPECT_THAT(status, HasSubstr("CapBnd:\t0000000000001000"));
  const auto names = system.RunOrError({"cat", "/var/spool/ctacct/current.names"});
  ASSERT_TRUE(names.ok()) << names.status();
  EXPECT_THAT(*names, HasSubstr("\n10.32.1.0/24\tteam 1\tfile\t\t\n"));
  const auto owner =
      system.RunOrError({"stat", "-c", "%U %G %a", "/var/spool/ctacct/current.names"});
  ASSERT_TRUE(owner.ok()) << owner.status();
  EXPECT_EQ(*owner, "ctacct-names ctacct 640\n");
  ASSERT_TRUE(system.RunOrError({"systemctl", "stop", kNames}).ok());
  EXPECT_EQ(system.Property(kNames, "Result"), "success") << system.Journal(kNames);
}

TEST_F(SystemdTest, BothServicesDoTheirWork) {
  ASSERT_TRUE(gateway_->Run({"sysctl", "-q", "-p", DataPath("configs/sysctl.d/ctacct.conf")}).ok());
  auto postgres = StartDatabase();
  ASSERT_TRUE(postgres.ok()) << postgres.status();
  WantUnits({kEngine, kImporter});

  auto booted = SystemdContainer::Boot(
      *gateway_, {.files = files(), .bind = {(*postgres)->folder() + ":/run/database"}});
  ASSERT_TRUE(booted.ok()) << booted.status();
  const SystemdContainer& system = **booted;
  const auto verified = system.Run({"systemd-analyze", "verify", kEngine, kImporter, kNames});
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

  const Traffic sent = Play({"--tcp=5000", "--udp=5000", "--icmp=100"});
  FlushConntrack();
  // Its state is no business of the importer's, which may rename anything in the spool folder.
  const std::string state = system.Inside("/var/lib/ctacct");
  // With its first interval.
  EXPECT_TRUE(Eventually([&] { return std::filesystem::exists(state + "/checkpoint"); }));
  EXPECT_THAT(NamesIn(state), testing::IsSupersetOf({"checkpoint", "lock"}));
  EXPECT_EQ(static_cast<int>(std::filesystem::status(state).permissions()) & 07777, 0700);
  for (const char* const name : {"", "/lock", "/checkpoint"}) {
    const auto read = system.Run({"setpriv", "--reuid=ctacct-importer", "--regid=ctacct-importer",
                                  "--init-groups", "mv", "/var/lib/ctacct" + std::string(name),
                                  "/var/spool/ctacct/moved"});
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_FALSE(read->exit.ok()) << name;
  }
  EXPECT_THAT(NamesIn(system.Inside("/var/spool/ctacct")),
              testing::Not(testing::Contains(".ctacct")));
  // Both have their metrics files where the shipped flag files say, for everybody to read; neither
  // can take the other's away.
  for (const auto& [name, other] :
       {std::pair("engine", "ctacct-importer"), {"importer", "ctacct"}}) {
    const std::string file = absl::StrCat("/run/ctacct-metrics/", name, ".prom");
    EXPECT_TRUE(Eventually([&] { return std::filesystem::exists(system.Inside(file)); }))
        << system.Journal(absl::StrCat("ctacct-", name, ".service"));
    const auto read = system.RunOrError(
        {"setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "cat", file});
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_THAT(*read, HasSubstr("_start_timestamp_seconds{gateway="));
    const auto moved = system.Run({"setpriv", absl::StrCat("--reuid=", other), "--regid=ctacct",
                                   "--clear-groups", "mv", file, "/run/ctacct-metrics/moved"});
    ASSERT_TRUE(moved.ok()) << moved.status();
    EXPECT_FALSE(moved->exit.ok()) << other;
  }
  // Its last interval is in the spool, and the importer finds it.
  const auto stopped = system.RunOrError({"systemctl", "stop", kEngine});
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  EXPECT_EQ(system.Property(kEngine, "Result"), "success") << system.Journal(kEngine);
  EXPECT_EQ(system.Property(kEngine, "NRestarts"), "0") << system.Journal(kEngine);
  const std::string spool = system.Inside("/var/spool/ctacct");
  EXPECT_TRUE(Eventually([&] { return VisibleNamesIn(spool).empty(); }))
      << system.Journal(kImporter);
  EXPECT_EQ(system.Property(kImporter, "NRestarts"), "0") << system.Journal(kImporter);
  ASSERT_TRUE(system.RunOrError({"systemctl", "stop", kImporter}).ok());
  EXPECT_EQ(system.Property(kImporter, "Result"), "success") << system.Journal(kImporter);
  for (const char* unit : {kEngine, kImporter}) {
    EXPECT_THAT(system.Journal(unit), Not(HasSubstr(kPassword)));
    EXPECT_THAT(system.Journal(unit), Not(HasSubstr("10.32.")));
  }

  EXPECT_EQ(RowSums(**postgres), SumsOf(Total(sent)))
      << system.Journal(kEngine) << system.Journal(kImporter);
  std::cout << system.Journal(kEngine) << system.Journal(kImporter);
}

// What hangs is killed and started again, and nothing is missing or doubled then. To wait is not to
// hang.
TEST_F(SystemdTest, HungServicesAreStartedAgain) {
  ASSERT_TRUE(gateway_->Run({"sysctl", "-q", "-p", DataPath("configs/sysctl.d/ctacct.conf")}).ok());
  auto postgres = StartDatabase();
  ASSERT_TRUE(postgres.ok()) << postgres.status();
  for (const char* unit : {kEngine, kImporter}) {
    WriteFileBelow(absl::StrCat(files(), "/etc/systemd/system/", unit, ".d/watchdog.conf"),
                   "[Service]\nWatchdogSec=8\nRestartSec=0\n");
  }
  WantUnits({kEngine, kImporter});
  auto booted = SystemdContainer::Boot(
      *gateway_, {.files = files(), .bind = {(*postgres)->folder() + ":/run/database"}});
  ASSERT_TRUE(booted.ok()) << booted.status();
  const SystemdContainer& system = **booted;
  const auto log = [&] { return system.Journal(kEngine) + system.Journal(kImporter); };

  // Longer than a watchdog's patience the database does not answer, and the engine is idle.
  const Traffic sent = Play({"--tcp=1000", "--udp=1000"});
  ASSERT_TRUE((*postgres)
                  ->Sql("traffic",
                        "BEGIN; LOCK TABLE import_ledger IN ACCESS EXCLUSIVE MODE; "
                        "SELECT pg_sleep(10); COMMIT")
                  .ok());
  Traffic all = sent;
  ASSERT_TRUE(Eventually([&] { return RowSums(**postgres) == SumsOf(Total(all)); }))
      << RowSums(**postgres) << log();
  for (const char* unit : {kEngine, kImporter}) {
    EXPECT_EQ(system.Property(unit, "NRestarts"), "0") << log();
  }
  EXPECT_THAT(system.Property(kEngine, "StatusText"), HasSubstr(" rows written, 0 wait"));
  EXPECT_THAT(system.Property(kImporter, "StatusText"), HasSubstr(" rows imported; 0 files wait"));

  // The engine first: what it does not read waits in its sockets.
  for (const char* unit : {kEngine, kImporter}) {
    const pid_t pid = system.MainPid(unit);
    ASSERT_GT(pid, 0) << log();
    ASSERT_EQ(kill(pid, SIGSTOP), 0);
    const Traffic more = Play({"--tcp=1000", "--udp=1000"});
    all += more;
    FlushConntrack();
    EXPECT_TRUE(Eventually([&] {
      return system.Property(unit, "NRestarts") != "0" &&
             system.Property(unit, "ActiveState") == "active";
    })) << system.Property(unit, "ActiveState")
        << log();
  }
  EXPECT_TRUE(Eventually([&] { return RowSums(**postgres) == SumsOf(Total(all)); }))
      << RowSums(**postgres) << " instead of " << SumsOf(Total(all)) << log();
  // And no more comes of it.
  ASSERT_TRUE(system.RunOrError({"systemctl", "stop", kEngine}).ok());
  EXPECT_TRUE(
      Eventually([&] { return VisibleNamesIn(system.Inside("/var/spool/ctacct")).empty(); }));
  ASSERT_TRUE(system.RunOrError({"systemctl", "stop", kImporter}).ok());
  EXPECT_EQ(RowSums(**postgres), SumsOf(Total(all))) << log();
}

// A unit is active if it works, or waits for something that needs no operator.
TEST_F(SystemdTest, TheImporterIsReadyOnceNoOperatorIsNeeded) {
  auto postgres = StartDatabase();
  ASSERT_TRUE(postgres.ok()) << postgres.status();
  WriteFileBelow(files() + "/etc/ctacct/pgpass", "*:*:traffic:ctacct:wrong\n");
  WantUnits({});
  auto booted = SystemdContainer::Boot(
      *gateway_, {.files = files(), .bind = {(*postgres)->folder() + ":/run/database"}});
  ASSERT_TRUE(booted.ok()) << booted.status();
  const SystemdContainer& system = **booted;
  const auto start = [&] {
    const auto run = system.Run({"systemctl", "start", kImporter});
    return run.ok() && run->exit.ok();
  };
  EXPECT_FALSE(start()) << system.Journal(kImporter);
  ASSERT_TRUE(system.RunOrError({"systemctl", "stop", kImporter}).ok());
  ASSERT_TRUE(system
                  .RunOrError({"sh", "-c",
                               absl::StrCat("echo '*:*:traffic:ctacct:", kPassword,
                                            "' > /etc/ctacct/pgpass")})
                  .ok());
  EXPECT_TRUE(start()) << system.Journal(kImporter);
  EXPECT_EQ(system.Property(kImporter, "ActiveState"), "active");
  EXPECT_THAT(system.Property(kImporter, "StatusText"), HasSubstr("files wait"));
  ASSERT_TRUE(system.RunOrError({"systemctl", "stop", kImporter}).ok());

  ASSERT_TRUE((*postgres)->StopImmediately().ok());
  EXPECT_TRUE(start()) << system.Journal(kImporter);
  EXPECT_THAT(system.Property(kImporter, "StatusText"), HasSubstr("database unavailable since"));
  ASSERT_TRUE(system.RunOrError({"systemctl", "stop", kImporter}).ok());
}

// systemd keeps the event sockets over a restart, a crash and an overrun: what conntrack reports
// meanwhile is in the rows.
TEST_F(SystemdTest, EventsSurviveARestart) {
  ASSERT_TRUE(gateway_->Run({"sysctl", "-q", "-p", DataPath("configs/sysctl.d/ctacct.conf")}).ok());
  // Too little for a burst that nobody reads.
  AddFlags("engine", "interval=1\nworkers=2\nreceive-buffer=131072\n");
  auto booted = SystemdContainer::Boot(*gateway_, {.files = files()});
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
  const auto played = gateway_->Play({"--udp=5000"});
  ASSERT_EQ(kill(pid, SIGCONT), 0);
  ASSERT_TRUE(played.ok()) << played.status();
  EXPECT_TRUE(Eventually([&] { return absl::StrContains(system.Journal(kEngine), "overrun"); }))
      << system.Journal(kEngine);
  EXPECT_EQ(system.Property(kEngine, "NFileDescriptorStore"), "2");

  ASSERT_EQ(kill(pid, SIGKILL), 0);
  EXPECT_TRUE(Eventually([&] {
    return system.Property(kEngine, "NRestarts") == "1" &&
           system.Property(kEngine, "ActiveState") == "active";
  })) << system.Journal(kEngine);
  pid = system.MainPid(kEngine);
  EXPECT_GE(kept_after(Sockets(pid)), 2u) << system.Journal(kEngine);

  // Once stopped, the kernel builds no events for nobody.
  ASSERT_TRUE(system.RunOrError({"systemctl", "stop", kEngine}).ok());
  EXPECT_EQ(system.Property(kEngine, "NFileDescriptorStore"), "0");
  std::cout << system.Journal(kEngine);
}

}  // namespace
}  // namespace ctacct
