// The doctor passes a sound gateway, and finds faults that were really planted: each by its name,
// with the right exit status and with a remedy that, typed as printed, fixes it.
#include <poll.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "engine/system/privileges.h"
#include "engine/system/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/gateway.h"
#include "tests/support/private_postgres.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

namespace fs = std::filesystem;

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

constexpr absl::Duration kAtMost = absl::Seconds(60);
constexpr char kUser[] = "daemon";  // Exists on every Debian; the engine's user here.
constexpr char kStranger[] = "nobody";
constexpr char kImporterRole[] = "adds_rows";

struct Found {
  std::string verdict;
  std::string text;
  std::vector<std::string> remedies;
};

struct Diagnosis {
  int exit_code = -1;
  std::map<std::string, Found> findings;

  // Those that are not ok, except what no test machine can have.
  std::map<std::string, std::string> Troubles() const {
    std::map<std::string, std::string> troubles;
    for (const auto& [name, found] : findings) {
      if (found.verdict != "ok" && name != "clock" && name != "reboot") {
        troubles[name] = absl::StrCat(found.verdict, ": ", found.text);
      }
    }
    return troubles;
  }
};

class DoctorTest : public testing::Test {
 protected:
  // One gateway and one server for all tests: each test plants its fault and removes it.
  static void TearDownTestSuite() {
    delete gateway;
    delete postgres;
    gateway = nullptr;
    postgres = nullptr;
  }

  void SetUp() override {
    RequireRootOrSkip();
    if (IsSkipped() || HasFatalFailure()) return;
    if (gateway == nullptr) {
      auto up = Gateway::Up();
      ASSERT_TRUE(up.ok()) << up.status();
      gateway = up->release();
    }
    if (postgres == nullptr) {
      auto started = PrivatePostgres::Start();
      ASSERT_TRUE(started.ok()) << started.status();
      postgres = started->release();
    }
    Sysctl("acct", 1);
    Sysctl("timestamp", 1);
    Sysctl("events", 1);
    std::string pattern = "/tmp/ctacct-doctor-test.XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    fs::permissions(folder_, fs::perms(0755));
    fs::create_directory(spool());
    Give(spool(), kUser);
    static int number = 0;
    database_ = absl::StrCat("doctor", ++number);
    ASSERT_TRUE(postgres->MakeDatabase(database_).ok());
    fs::create_directory(folder_ + "/empty");
    WriteFlags(EngineFlags(), ImporterFlags());
  }
  void TearDown() override {
    if (folder_.empty()) return;
    umount2(spool().c_str(), MNT_DETACH);
    fs::remove_all(folder_);
  }

  // By the real importer.
  void Migrate() {
    const auto migrated = RunProcessOrError(
        {DataPath("importer/importer"), "-conninfo=" + postgres->Conninfo(database_),
         "-watch=" + folder_ + "/empty", "-once"},
        kAtMost);
    ASSERT_TRUE(migrated.ok()) << migrated.status();
  }

  std::string spool() const { return folder_ + "/spool"; }

  static void Give(const std::string& path, const char* user) {
    const auto account = FindUserAccount(user);
    ASSERT_TRUE(account.ok()) << account.status();
    ASSERT_EQ(chown(path.c_str(), account->uid, account->gid), 0);
  }

  std::string Sql(const std::string& sql) {
    const auto text = postgres->Sql(database_, sql);
    EXPECT_TRUE(text.ok()) << text.status();
    return text.value_or("");
  }

  // In the gateway, as an operator's shell would.
  static std::string Type(const std::string& command) {
    const auto typed = gateway->Run({"sh", "-c", command}, kAtMost);
    EXPECT_TRUE(typed.ok()) << command << ": " << typed.status();
    return typed.value_or("");
  }
  static void Sysctl(const std::string& name, int value) {
    Type(absl::StrCat("sysctl -qw net.netfilter.nf_conntrack_", name, "=", value));
  }

  void WriteFlags(const std::string& engine, const std::string& importer) {
    std::ofstream(folder_ + "/engine.flags") << engine;
    std::ofstream(folder_ + "/importer.flags") << importer;
  }
  std::string EngineFlags() const {
    return absl::StrCat("# As configured.\noutput=", spool(), "\nuser=", kUser,
                        "\nreceive-buffer=8388608\nworkers=2\n");
  }
  std::string ImporterFlags() const {
    return absl::StrCat("conninfo=", postgres->Conninfo(database_), "\nwatch=", spool(), "\n");
  }

  std::vector<std::string> Command(const std::vector<std::string>& more) const {
    std::vector<std::string> argv = {DataPath("importer/doctor/doctor"),
                                     "-engine=" + DataPath("engine/engine"),
                                     "-engine-flags=" + folder_ + "/engine.flags",
                                     "-importer-flags=" + folder_ + "/importer.flags"};
    // No flag may be given twice: a test's own takes the place of ours.
    std::erase_if(argv, [&more](const std::string& flag) {
      const std::string name = flag.substr(0, flag.find('=') + 1);
      return std::any_of(more.begin(), more.end(), [&name](const std::string& other) {
        return !name.empty() && other.rfind(name, 0) == 0;
      });
    });
    argv.insert(argv.end(), more.begin(), more.end());
    return argv;
  }

  // Faults other than those of the probe are looked for without it, which is faster.
  Diagnosis Examine(const std::vector<std::string>& more = {"-probe=false"},
                    const std::vector<std::string>& before = {}) {
    std::vector<std::string> argv = before;
    for (const std::string& argument : Command(more)) argv.push_back(argument);
    argv.push_back("-json");
    Diagnosis diagnosis;
    const auto doctor = gateway->Start(argv);
    EXPECT_TRUE(doctor.ok()) << doctor.status();
    if (!doctor.ok()) return diagnosis;
    const auto exit = (*doctor)->Wait(kAtMost);
    EXPECT_TRUE(exit.ok()) << exit.status();
    EXPECT_EQ((*doctor)->Stderr(), "");
    if (!exit.ok()) return diagnosis;
    EXPECT_EQ(exit->signal, 0);
    diagnosis.exit_code = exit->code;
    const auto report = nlohmann::json::parse((*doctor)->Stdout(), nullptr, false);
    EXPECT_FALSE(report.is_discarded()) << (*doctor)->Stdout();
    if (report.is_discarded()) return diagnosis;
    for (const auto& finding : report["findings"]) {
      diagnosis.findings[finding["name"]] = {finding["verdict"], finding["text"],
                                             finding["remedies"]};
    }
    return diagnosis;
  }

  // That finding alone, and the exit status that goes with it.
  void ExpectOnly(const Diagnosis& diagnosis, const std::string& name, const std::string& verdict,
                  const std::string& text) {
    std::map<std::string, std::string> troubles = diagnosis.Troubles();
    troubles.erase("probe");
    ASSERT_EQ(troubles.size(), 1u) << testing::PrintToString(troubles);
    ASSERT_EQ(troubles.begin()->first, name);
    EXPECT_THAT(troubles[name], StartsWith(verdict + ": "));
    EXPECT_THAT(troubles[name], HasSubstr(text));
    EXPECT_EQ(diagnosis.exit_code, verdict == "fail" ? 1 : 0);
  }

  // Finds it, types the first remedy as it stands, and finds nothing.
  void ExpectFoundAndMended(const std::string& name, const std::string& verdict,
                            const std::string& text) {
    const Diagnosis ill = Examine();
    ExpectOnly(ill, name, verdict, text);
    if (HasFatalFailure()) return;
    const Found& found = ill.findings.at(name);
    ASSERT_FALSE(found.remedies.empty());
    Type(found.remedies[0]);
    const Diagnosis well = Examine();
    std::map<std::string, std::string> troubles = well.Troubles();
    troubles.erase("probe");
    EXPECT_THAT(troubles, IsEmpty()) << "after " << found.remedies[0];
    EXPECT_EQ(well.exit_code, 0);
  }

  static inline Gateway* gateway = nullptr;
  static inline PrivatePostgres* postgres = nullptr;
  std::string folder_, database_;
};

// Of the whole machine; put back at the end. No other gateway is up: see the target's tags.
class MachineLimit {
 public:
  MachineLimit(const std::string& name, uint64_t value) : path_(kFolder + name) {
    std::ifstream(path_) >> old_;
    std::ofstream(path_) << value << std::endl;
  }
  ~MachineLimit() { std::ofstream(path_) << old_ << std::endl; }

 private:
  static inline const std::string kFolder = "/proc/sys/net/netfilter/";
  const std::string path_;
  uint64_t old_ = 0;
};

TEST_F(DoctorTest, ASoundMachinePassesAndStaysAsItWas) {
  Migrate();
  const auto all = [&] {
    return Type(
               "sysctl -a 2>/dev/null | grep -v nf_conntrack_count | grep net.netfilter; "
               "nft list ruleset; ip link; ls /run/netns") +
           Sql("SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class");
  };
  const std::string before = all();
  const Diagnosis diagnosis = Examine({});
  EXPECT_THAT(diagnosis.Troubles(), IsEmpty());
  EXPECT_EQ(diagnosis.exit_code, 0);
  EXPECT_THAT(diagnosis.findings.at("probe").text,
              AllOf(HasSubstr("IPv4 and IPv6, "), HasSubstr("sent = conntrack = spool row")));
  EXPECT_EQ(all(), before);
  EXPECT_TRUE(fs::is_empty(spool()));
  EXPECT_THAT(diagnosis.findings.at("disk").text, HasSubstr(" free, growth not known"));

  // And on one screen.
  const auto screen = gateway->Start(Command({}));
  ASSERT_TRUE(screen.ok()) << screen.status();
  ASSERT_TRUE((*screen)->Wait(kAtMost).ok());
  std::vector<std::string> lines = absl::StrSplit((*screen)->Stdout(), '\n');
  EXPECT_EQ(lines.back(), "");
  lines.pop_back();
  // Long paths of a test, and perhaps the remedies of clock and reboot.
  EXPECT_LE(lines.size(), 31u) << (*screen)->Stdout();
  for (const std::string& line : lines) EXPECT_LE(line.size(), 80u) << line;
}

TEST_F(DoctorTest, AcctOff) {
  Migrate();
  Sysctl("acct", 0);
  ExpectFoundAndMended("acct", "fail", "nf_conntrack_acct is 0");
}

TEST_F(DoctorTest, TimestampOff) {
  Migrate();
  Sysctl("timestamp", 0);
  ExpectOnly(Examine({"-probe=false", "-mode=light"}), "timestamp", "fail", "is 0");
  ExpectFoundAndMended("timestamp", "warn", "nf_conntrack_timestamp is 0");
}

TEST_F(DoctorTest, EventsNotAlways) {
  Migrate();
  Sysctl("events", 2);
  ExpectOnly(Examine({"-probe=false", "-mode=light"}), "events", "fail", "is 2");
  ExpectFoundAndMended("events", "warn", "nf_conntrack_events is 2");
  Sysctl("events", 0);
  ExpectFoundAndMended("events", "fail", "nf_conntrack_events is 0");
}

TEST_F(DoctorTest, ATunnelThatIsCountedTwice) {
  Migrate();
  const auto added = gateway->Run({"ip", "tuntap", "add", "dev", "tun7", "mode", "tun"});
  ASSERT_TRUE(added.ok()) << added.status();
  ExpectFoundAndMended("tunnels", "warn", "tun7 is counted twice");
  ASSERT_TRUE(gateway->Run({"ip", "link", "del", "tun7"}).ok());
}

TEST_F(DoctorTest, TableNearlyFull) {
  Migrate();
  ASSERT_TRUE(gateway->FlushConntrack().ok());
  const auto played = gateway->Play({"--udp=950"});
  ASSERT_TRUE(played.ok()) << played.status();
  const MachineLimit limit("nf_conntrack_max", 1000);
  const Diagnosis ill = Examine();
  ExpectOnly(ill, "table", "fail", "950 of at most 1000 flows (95 %)");
  if (HasFatalFailure()) return;
  // In the first namespace, where the limit is.
  const auto typed = RunProcess(
      {"sh", "-c", "PATH=$PATH:/usr/sbin:/sbin; " + ill.findings.at("table").remedies.at(0)},
      kAtMost);
  ASSERT_TRUE(typed.ok() && typed->exit.ok());
  EXPECT_THAT(Examine().findings.at("table").text, HasSubstr("950 of at most 2000"));
  EXPECT_EQ(Examine().findings.at("table").verdict, "ok");
  ASSERT_TRUE(gateway->FlushConntrack().ok());
}

TEST_F(DoctorTest, FewBuckets) {
  Migrate();
  uint64_t buckets = 0;
  std::ifstream("/proc/sys/net/netfilter/nf_conntrack_buckets") >> buckets;
  const MachineLimit limit("nf_conntrack_max", buckets * 5);
  ExpectOnly(Examine(), "buckets", "warn", "long chains");
}

TEST_F(DoctorTest, NoRuleTurnsConntrackOn) {
  Migrate();
  const std::string rules = folder_ + "/rules";
  Type("nft list ruleset > " + rules + "; nft flush ruleset; conntrack -F");
  ExpectFoundAndMended("conntrack on", "fail", "conntrack is off in this network namespace");
  Type("nft flush ruleset; nft -f " + rules);
}

TEST_F(DoctorTest, RuleThatDoesNotTrack) {
  Migrate();
  Type(
      "nft 'table ip raw { chain pre { type filter hook prerouting priority raw; "
      "udp dport 53 notrack; }; }'");
  ExpectFoundAndMended("untracked", "warn", "ip raw pre: udp dport 53 notrack");
  Type("nft delete table ip raw");
}

TEST_F(DoctorTest, RuleThatMasksTheEndsOfFlows) {
  Migrate();
  Type(
      "nft 'table ip masking { chain pre { type filter hook prerouting priority -150; "
      "ct event set new; }; }'");
  ExpectFoundAndMended("event masks", "fail", "ip masking pre: ct event set new");
  Type("nft delete table ip masking");
}

TEST_F(DoctorTest, AnotherListener) {
  Migrate();
  const auto listens = [] {
    const std::string sockets = Type("cat /proc/net/netlink");
    return absl::StrContains(sockets, " 00000007 ");
  };
  const auto wait_until_heard = [&] {
    for (int tries = 0; tries < 1000 && !listens(); ++tries) usleep(10'000);
    ASSERT_TRUE(listens());
  };
  {
    auto engine = gateway->Start({DataPath("engine/engine"), "-output=" + folder_ + "/listener"});
    ASSERT_TRUE(engine.ok()) << engine.status();
    wait_until_heard();
    const Diagnosis well = Examine();
    EXPECT_EQ(well.findings.at("listeners").verdict, "ok");
    EXPECT_THAT(well.findings.at("listeners").text, HasSubstr("the engine alone, with"));
    auto second = gateway->Start({DataPath("engine/engine"), "-output=" + folder_ + "/second"});
    ASSERT_TRUE(second.ok()) << second.status();
    bool is_seen = false;
    for (int tries = 0; tries < 100 && !is_seen; ++tries) {
      is_seen = absl::StrContains(Examine().findings.at("listeners").text, "2 engines run here");
    }
    EXPECT_TRUE(is_seen);
  }
  auto other = gateway->Start({"conntrack", "-E"});
  ASSERT_TRUE(other.ok()) << other.status();
  wait_until_heard();
  ExpectFoundAndMended("listeners", "warn",
                       absl::StrCat("conntrack (", (*other)->pid(), ") to NEW, UPDATE, DESTROY"));
}

TEST_F(DoctorTest, NoCapability) {
  Migrate();
  // Root, but without the capability, as in a container.
  const Diagnosis ill =
      Examine({}, {"setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"});
  EXPECT_EQ(ill.exit_code, 1);
  EXPECT_EQ(ill.findings.at("capability").verdict, "fail");
  EXPECT_THAT(ill.findings.at("capability").text, HasSubstr("no CAP_NET_ADMIN"));
  EXPECT_EQ(ill.findings.at("receive buffer").verdict, "fail");
  EXPECT_THAT(ill.findings.at("receive buffer").text, HasSubstr("8 MiB asked for, "));
  EXPECT_THAT(ill.findings.at("receive buffer").text, HasSubstr("rmem_max caps it"));
  EXPECT_EQ(ill.findings.at("probe").verdict, "skipped");
  EXPECT_EQ(ill.findings.at("flowtables").verdict, "skipped");
}

// It does what it can, and says what it could not see.
TEST_F(DoctorTest, WithoutRoot) {
  Migrate();
  const std::string engine = folder_ + "/ctacct-engine";
  for (const char* const program :
       {"importer/doctor/doctor", "engine/engine", "importer/importer"}) {
    const std::string copy = folder_ + "/ctacct-" + fs::path(program).filename().string();
    fs::copy_file(DataPath(program), copy);
    fs::permissions(copy, fs::perms(0755));
  }
  const auto examine = [&](const std::string& user) {
    std::vector<std::string> argv = {
        "setpriv",        "--reuid=" + user,          "--regid=65534",
        "--clear-groups", folder_ + "/ctacct-doctor", "-engine=" + engine};
    // The database's socket is not for everybody.
    const std::vector<std::string> flags = Command({"-json", "-importer-flags="});
    argv.insert(argv.end(), flags.begin() + 2, flags.end());
    const auto doctor = gateway->Start(argv);
    EXPECT_TRUE(doctor.ok());
    const auto exit = (*doctor)->Wait(kAtMost);
    EXPECT_EQ((*doctor)->Stderr(), "");
    Diagnosis diagnosis;
    diagnosis.exit_code = exit.value_or(ExitStatus{-1, 0}).code;
    const auto report = nlohmann::json::parse((*doctor)->Stdout(), nullptr, false);
    for (const auto& finding : report["findings"]) {
      diagnosis.findings[finding["name"]] = {finding["verdict"], finding["text"],
                                             finding["remedies"]};
    }
    return diagnosis;
  };
  // Not the user of the engine: nothing is wrong, but much is skipped.
  Diagnosis stranger = examine(kStranger);
  EXPECT_EQ(stranger.exit_code, 0) << testing::PrintToString(stranger.Troubles());
  for (const char* const name :
       {"capability", "receive buffer", "untracked", "event masks", "spool", "probe"}) {
    EXPECT_EQ(stranger.findings.at(name).verdict, "skipped") << name;
  }
  EXPECT_EQ(stranger.findings.at("acct").verdict, "ok");
  EXPECT_EQ(stranger.findings.at("flag files").verdict, "ok");
  // As the user of the engine: an engine that this user starts receives no events.
  const Diagnosis ill = examine(kUser);
  EXPECT_EQ(ill.exit_code, 1);
  EXPECT_EQ(ill.findings.at("capability").verdict, "fail");
  EXPECT_EQ(ill.findings.at("spool").verdict, "ok");
  ASSERT_EQ(ill.findings.at("capability").remedies.size(), 2u);
  EXPECT_EQ(ill.findings.at("capability").remedies[0], "sudo " + folder_ + "/ctacct-doctor");
  Type(ill.findings.at("capability").remedies[1]);
  const Diagnosis well = examine(kUser);
  EXPECT_EQ(well.findings.at("capability").verdict, "ok");
  EXPECT_EQ(well.exit_code, 0) << testing::PrintToString(well.Troubles());
}

TEST_F(DoctorTest, SpoolMissing) {
  Migrate();
  fs::remove(spool());
  const Diagnosis ill = Examine();
  EXPECT_EQ(ill.exit_code, 1);
  EXPECT_EQ(ill.findings.at("spool").verdict, "fail");
  EXPECT_THAT(ill.findings.at("spool").text, HasSubstr("there is no such folder"));
  Type(ill.findings.at("spool").remedies.at(0));
  EXPECT_THAT(Examine().Troubles().erase("probe"), 1u);
  EXPECT_EQ(Examine().exit_code, 0);
}

TEST_F(DoctorTest, SpoolNotWritable) {
  Migrate();
  ASSERT_EQ(chown(spool().c_str(), 0, 0), 0);
  ExpectFoundAndMended("spool", "fail", "user daemon may not write there");
  // Root's engine does not stay root.
  WriteFlags("output=" + spool() + "\n", ImporterFlags());
  const auto user = UnprivilegedUser();
  ASSERT_TRUE(user.ok()) << user.status();
  ExpectFoundAndMended("spool", "fail", "user " + user->name + " may not write there");
  WriteFlags("output=" + spool() + "\nuser=root\n", ImporterFlags());
  ExpectFoundAndMended("spool", "fail", "user root may not write there");
}

TEST_F(DoctorTest, SpoolFull) {
  Migrate();
  ASSERT_EQ(mount("ctacct", spool().c_str(), "tmpfs", 0, "size=1m,uid=1,gid=1"), 0);
  ExpectOnly(Examine(), "space", "fail", "free: files cannot be written for long");
  ASSERT_EQ(umount(spool().c_str()), 0);
  ASSERT_EQ(mount("ctacct", spool().c_str(), "tmpfs", 0, "size=100m,nr_inodes=50,uid=1,gid=1"), 0);
  ExpectOnly(Examine(), "space", "fail", "inodes free: files cannot be written for long");
}

TEST_F(DoctorTest, FilesThatNobodyTakes) {
  Migrate();
  std::ofstream(spool() + "/1.spool") << "x";
  EXPECT_EQ(Examine().findings.at("backlog").verdict, "ok");
  fs::last_write_time(spool() + "/1.spool",
                      fs::file_time_type::clock::now() - std::chrono::hours(1));
  ExpectOnly(Examine(), "backlog", "warn", "1 file, 1 bytes, the oldest 1h");
  fs::create_directory(spool() + "/failed");
  std::ofstream(spool() + "/failed/2.spool.reason") << "torn\n";
  const Diagnosis ill = Examine();
  ExpectOnly(ill, "backlog", "warn", "1 file in ");
  EXPECT_EQ(Type(ill.findings.at("backlog").remedies.at(0)), "torn\n");
}

// Where nothing sets them they are as the kernel begins: off.
TEST_F(DoctorTest, SettingsThatARebootLoses) {
  Migrate();
  const std::string hide =
      "for folder in /etc/sysctl.d /run/sysctl.d /usr/local/lib/sysctl.d /usr/lib/sysctl.d; do "
      "if [ -d $folder ]; then mount -t tmpfs none $folder; fi; done; mkdir -p /run/sysctl.d; ";
  const auto examine = [&](const std::string& prepare) {
    return Examine({"-probe=false"},
                   {"unshare", "-m", "sh", "-c", hide + prepare + "exec \"$@\"", "sh"});
  };
  const Diagnosis ill = examine("");
  EXPECT_EQ(ill.exit_code, 0);
  EXPECT_EQ(ill.findings.at("reboot").verdict, "warn");
  EXPECT_THAT(ill.findings.at("reboot").text, HasSubstr("nf_conntrack_acct"));
  const std::string remedy = ill.findings.at("reboot").remedies.at(0);
  EXPECT_EQ(examine("mkdir -p /etc/sysctl.d; " + remedy + "; ").findings.at("reboot").verdict,
            "ok");
}

TEST_F(DoctorTest, AnotherEnginesStateInTheFolder) {
  Migrate();
  WriteFlags(EngineFlags() + "state=" + folder_ + "/state\n", ImporterFlags());
  fs::create_directory(spool() + "/.ctacct");
  ExpectFoundAndMended("spool", "warn", "another engine's state");
}

TEST_F(DoctorTest, MetricsFilesOfOneName) {
  Migrate();
  const std::string metrics = "metrics-file=" + folder_ + "/metrics/ctacct.prom\n";
  WriteFlags(EngineFlags() + metrics, ImporterFlags());
  ExpectFoundAndMended("metrics files", "warn", "there is no such folder");
  WriteFlags(EngineFlags() + metrics, ImporterFlags() + metrics);
  ExpectOnly(Examine(), "metrics files", "fail", "engine and importer both write ");
}

TEST_F(DoctorTest, ADatabaseOfAnUnsuitableEncoding) {
  const auto made = postgres->Sql(
      "postgres",
      "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
  ASSERT_TRUE(made.ok()) << made.status();
  const Diagnosis ill = Examine({"-probe=false", "-db=latin"});
  EXPECT_EQ(ill.exit_code, 1);
  EXPECT_EQ(ill.findings.at("database").verdict, "fail");
  EXPECT_THAT(ill.findings.at("database").text, HasSubstr("its encoding is LATIN1"));
  EXPECT_THAT(ill.findings.at("database").remedies.at(0), HasSubstr("--encoding=UTF8"));
}

TEST_F(DoctorTest, ADatabaseThatTakesNoRows) {
  Migrate();
  Sql("ALTER DATABASE " + database_ + " SET default_transaction_read_only = on");
  const Diagnosis ill = Examine();
  EXPECT_EQ(ill.exit_code, 1);
  EXPECT_EQ(ill.findings.at("database").verdict, "fail");
  EXPECT_THAT(ill.findings.at("database").text, HasSubstr("read-only"));
}

TEST_F(DoctorTest, BadFlagFile) {
  Migrate();
  WriteFlags(EngineFlags() + "intervall=15\n", ImporterFlags());
  ExpectOnly(Examine(), "flag files", "fail", "/engine.flags:6: unknown flag '-intervall'");
  WriteFlags(EngineFlags(), ImporterFlags() + "once=perhaps\n");
  ExpectOnly(Examine(), "flag files", "fail", "/importer.flags:3: flag -once: bad value 'perhaps'");
}

// What it would only say when it is started.
TEST_F(DoctorTest, FlagFilesThatTheProgramsRefuse) {
  Migrate();
  const std::string file = folder_ + "/file";
  std::ofstream(file) << "tcp:80\nrubbish\n";
  const std::string mine = folder_ + "/mine";
  fs::create_directory(mine);
  fs::permissions(mine, fs::perms(0700));
  for (const auto& [flags, text] : std::vector<std::pair<std::string, std::string>>{
           {"ports=" + folder_ + "/nowhere", "/nowhere: No such file or directory"},
           {"ports=" + file, "/file:2: "},
           {"ports=" + mine + "/ports", "Permission denied"},
           {"state=" + file, "/file: Not a directory"},
           {"state=" + mine, "/mine: Permission denied"},
           {"pipe=" + file, "/file: is there and is no FIFO"},
           {"pipe-format=influx", "flag -pipe-format: has no effect without -pipe"}}) {
    SCOPED_TRACE(flags);
    WriteFlags(EngineFlags() + flags + "\n", ImporterFlags());
    const Diagnosis ill = Examine();
    ExpectOnly(ill, "flag files", "fail", text);
    EXPECT_THAT(ill.findings.at("flag files").remedies,
                testing::ElementsAre("sensible-editor " + (absl::StrContains(text, "/file:2: ")
                                                               ? file
                                                               : folder_ + "/engine.flags")));
  }
  // What is not there yet the engine makes, and the doctor does not.
  WriteFlags(absl::StrCat(EngineFlags(), "state=", spool(), "/state\npipe=", spool(), "/pipe\n"),
             ImporterFlags());
  EXPECT_EQ(Examine().findings.at("flag files").verdict, "ok");
  EXPECT_TRUE(fs::is_empty(spool()));
  WriteFlags(EngineFlags(), ImporterFlags() + "retention-fine=3\n");
  ExpectOnly(Examine(), "flag files", "fail", "flag -retention-fine: must not be shorter");
}

TEST_F(DoctorTest, DatabaseUnreachable) {
  Migrate();
  const Diagnosis ill = Examine({"-probe=false", "-host=" + folder_});
  EXPECT_EQ(ill.exit_code, 1);
  EXPECT_EQ(ill.findings.at("database").verdict, "fail");
  EXPECT_THAT(ill.findings.at("database").text, HasSubstr("No such file or directory"));
  EXPECT_EQ(ill.findings.at("schema").verdict, "skipped");
  EXPECT_EQ(ill.findings.at("role").verdict, "skipped");
  const Diagnosis other = Examine({"-probe=false", "-db=nowhere"});
  EXPECT_EQ(other.exit_code, 1);
  EXPECT_THAT(other.findings.at("database").text, HasSubstr("nowhere"));
}

TEST_F(DoctorTest, SchemaMissingOrNewer) {
  // The importer would make it.
  Diagnosis ill = Examine();
  EXPECT_EQ(ill.exit_code, 0);
  EXPECT_EQ(ill.findings.at("schema").verdict, "warn");
  EXPECT_EQ(Sql("SELECT to_regclass('ctacct_schema') IS NULL"), "t");  // It did not.
  // A role that may not.
  Sql(absl::StrCat("DO $$ BEGIN CREATE ROLE ", kImporterRole,
                   " LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$"));
  ill = Examine({"-probe=false", absl::StrCat("-user=", kImporterRole)});
  EXPECT_EQ(ill.exit_code, 1);
  EXPECT_EQ(ill.findings.at("schema").verdict, "fail");
  EXPECT_THAT(ill.findings.at("schema").text, HasSubstr("none of ctacct's tables"));
  Type(ill.findings.at("schema").remedies.at(0));
  EXPECT_THAT(Examine().findings.at("schema").text, HasSubstr(", the newest"));
  Sql("INSERT INTO ctacct_schema VALUES (99)");
  ExpectOnly(Examine(), "schema", "fail", "version 99, and this ctacct knows up to");
}

TEST_F(DoctorTest, OthersMayMakeFunctionsWhereOurQueriesLook) {
  Migrate();
  Sql("GRANT CREATE ON SCHEMA public TO PUBLIC");
  const Diagnosis ill = Examine({"-probe=false"});
  EXPECT_EQ(ill.exit_code, 1);
  EXPECT_EQ(ill.findings.at("database").verdict, "fail");
  EXPECT_THAT(ill.findings.at("database").text,
              HasSubstr("roles other than the owner may create objects in schema public"));
  EXPECT_THAT(ill.findings.at("database").remedies.at(0),
              HasSubstr("-c 'REVOKE CREATE ON SCHEMA public FROM PUBLIC'"));
  Sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC");
  EXPECT_EQ(Examine({"-probe=false"}).exit_code, 0);
}

TEST_F(DoctorTest, RoleThatMayNotAdd) {
  Migrate();
  Sql(absl::StrCat("DO $$ BEGIN CREATE ROLE ", kImporterRole,
                   " LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$; "
                   "GRANT SELECT ON ctacct_schema TO ",
                   kImporterRole));
  const Diagnosis stranger = Examine({"-probe=false", absl::StrCat("-user=", kImporterRole)});
  EXPECT_EQ(stranger.findings.at("disk").verdict, "skipped");
  EXPECT_THAT(stranger.findings.at("disk").text, HasSubstr("may not call traffic_growth()"));
  Sql(absl::StrCat("GRANT EXECUTE ON FUNCTION traffic_growth TO ", kImporterRole));
  WriteFlags(EngineFlags(), absl::StrCat("conninfo=", postgres->Conninfo(database_, kImporterRole),
                                         "\nwatch=", spool(), "\nretention-rows=30\n"));
  ExpectFoundAndMended("role", "fail",
                       "adds_rows has no EXECUTE on traffic_add, EXECUTE on traffic_add_covered, "
                       "EXECUTE on traffic_drop_partition");
  Sql(absl::StrCat("REVOKE SELECT ON ctacct_schema FROM ", kImporterRole));
  const Diagnosis ill = Examine();
  EXPECT_EQ(ill.exit_code, 1);
  EXPECT_THAT(ill.findings.at("role").text, HasSubstr("adds_rows has no SELECT on ctacct_schema"));
}

// A server of its own, on a disk of limited size.
class DoctorDiskTest : public DoctorTest {
 protected:
  void SetUp() override {
    DoctorTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    disk_ = folder_ + "/disk";
    fs::create_directory(disk_);
    ASSERT_EQ(mount("ctacct", disk_.c_str(), "tmpfs", 0, "size=300m,mode=755"), 0);
    ASSERT_TRUE(Script({"start", disk_, "--no-fsync"}));
    ASSERT_TRUE(Script({"database", disk_, "limited"}));
    Flags("");
    ASSERT_TRUE(RunProcessOrError({DataPath("importer/importer"), "-migrate",
                                   "-flagfile=" + folder_ + "/importer.flags"},
                                  kAtMost)
                    .ok());
  }
  void TearDown() override {
    if (!disk_.empty()) {
      Script({"stop", disk_, "--immediate"});
      EXPECT_EQ(umount2(disk_.c_str(), MNT_DETACH), 0);
    }
    DoctorTest::TearDown();
  }
  static bool Script(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), DataPath("tests/support/private_postgres.sh"));
    const auto out = RunProcessOrError(arguments, absl::Minutes(2));
    EXPECT_TRUE(out.ok()) << out.status();
    return out.ok();
  }
  void Flags(const std::string& importer) {
    WriteFlags(EngineFlags(), "conninfo=host=" + disk_ + " user=postgres dbname=limited\nwatch=" +
                                  spool() + "\n" + importer);
  }
  std::string Ask(const std::string& sql) {
    const auto text = PrivatePostgres::SqlOf(disk_, "limited", sql);
    EXPECT_TRUE(text.ok()) << text.status();
    return text.value_or("");
  }
  // About 6 MiB of rows for each of these days, which are counted back from now.
  void AddDays(int first, int last) {
    for (int day = first; day <= last; ++day) {
      Ask(absl::StrReplaceAll(
          "SELECT traffic_make_partitions(ARRAY[MOMENT]); "
          "INSERT INTO vpn_traffic SELECT MOMENT, 1, 1, 1, 1, 1, 1, 1, 1, 1, 80, '10.0.0.1', "
          "'10.0.0.2', 'tcp', 'gw' FROM generate_series(1, 50000); "
          "INSERT INTO traffic_covered VALUES (MOMENT, '30 min', 'gw')",
          {{"MOMENT", absl::StrCat("(now() - interval '", day, " days')")}}));
    }
  }
  void LeaveFree(uint64_t mebibytes) {
    Ask("CHECKPOINT");
    const fs::space_info space = fs::space(disk_);
    const std::string size = absl::StrCat("size=", space.capacity - space.free + (mebibytes << 20));
    ASSERT_EQ(mount("ctacct", disk_.c_str(), "tmpfs", MS_REMOUNT, size.c_str()), 0);
  }
  Found Disk() { return Examine().findings.at("disk"); }

  std::string disk_;
};

TEST_F(DoctorDiskTest, HowLongTheDatabasesDiskWillLast) {
  EXPECT_THAT(Disk().text, HasSubstr("B free, growth not known in the first three hours"));
  AddDays(400, 401);  // An archive.
  const Found archive = Disk();
  EXPECT_EQ(archive.verdict, "ok");
  EXPECT_THAT(archive.text, StartsWith("lasts for years ("));
  AddDays(1, 8);
  // Days of the window, over the time since the first of them.
  const double grows = std::stod(
      Ask("SELECT sum(pg_total_relation_size(name::regclass)) / 7.0 FROM traffic_partitions "
          "WHERE parent = 'vpn_traffic' AND lower > now() - interval '8 days'"));
  EXPECT_GT(grows, 6e6);
  for (const int days : {30, 9}) {
    LeaveFree(static_cast<uint64_t>(grows * days / (1 << 20)));
    const Found found = Disk();
    EXPECT_EQ(found.verdict, days == 30 ? "ok" : "warn");
    // Empty partitions of rollups count too: on a day on which many of these begin, up to 5 %.
    int lasts = 0;
    ASSERT_EQ(std::sscanf(found.text.c_str(), "lasts about %d days (", &lasts), 1) << found.text;
    EXPECT_LE(lasts, days);
    EXPECT_GE(lasts, static_cast<int>(days * 0.95));
    EXPECT_THAT(found.text, AllOf(HasSubstr("iB free, grows "), HasSubstr(" a day)")));
  }
  EXPECT_THAT(Type(Disk().remedies.at(0)), HasSubstr(disk_));
  LeaveFree(static_cast<uint64_t>(grows * 1.5 / (1 << 20)));
  const Diagnosis ill = Examine();
  EXPECT_EQ(ill.exit_code, 1);
  EXPECT_EQ(ill.findings.at("disk").verdict, "fail");
  EXPECT_THAT(ill.findings.at("disk").text, ContainsRegex("lasts about 3[0-9] hours"));
  // Retention that is not yet at its end, and one that is.
  Flags("retention-rows=30\n");
  EXPECT_EQ(Disk().verdict, "fail");
  Flags("retention-rows=7\n");
  EXPECT_EQ(Disk().verdict, "ok") << Disk().text;
}

TEST_F(DoctorDiskTest, FreeSpaceThatCannotBeSeen) {
  AddDays(1, 1);
  fs::create_directory(disk_ + "/space");
  ASSERT_EQ(chmod((disk_ + "/space").c_str(), 0777), 0);
  Type("chown --reference=" + disk_ + "/data " + disk_ + "/space");
  // A user who may not look at the server's processes, nor perhaps into the folder of this build.
  const std::string engine = folder_ + "/ctacct-engine";
  fs::copy_file(DataPath("engine/engine"), engine);
  const Diagnosis stranger =
      Examine({"-probe=false", "-engine=" + engine, "-engine-flags=", "-importer-flags=",
               "-conninfo=host=" + disk_ + " user=postgres dbname=limited"},
              {"setpriv", "--reuid=nobody", "--regid=65534", "--clear-groups"});
  EXPECT_EQ(stranger.findings.at("disk").verdict, "ok");
  EXPECT_THAT(stranger.findings.at("disk").text,
              ContainsRegex("^grows .* a day; only root can see the server's free space"));
  // No transaction block around it.
  ASSERT_TRUE(PrivatePostgres::SqlOf(disk_, "limited",
                                     "CREATE TABLESPACE other LOCATION '" + disk_ + "/space'")
                  .ok());
  Ask("CREATE TABLE elsewhere () TABLESPACE other");
  EXPECT_THAT(Disk().text, HasSubstr("; tables are in tablespace other: look at the free space"));
}

TEST_F(DoctorTest, AnEngineThatFailsOrLosesRows) {
  Migrate();
  const std::vector<std::string> flags = {"-engine-flags=", "-output=" + spool(),
                                          absl::StrCat("-engine-user=", kUser)};
  std::vector<std::string> more = flags;
  more.push_back("-engine=/bin/false");
  Diagnosis ill = Examine(more);
  EXPECT_EQ(ill.exit_code, 1);
  EXPECT_EQ(ill.findings.at("probe").verdict, "fail");
  EXPECT_THAT(ill.findings.at("probe").text, HasSubstr("the engine ended with status 1"));
  EXPECT_THAT(ill.Troubles(), SizeIs(1));

  const std::string deaf = folder_ + "/deaf";
  std::ofstream(deaf) << "#!/bin/sh\necho accounting live >&2\ntrap 'exit 0' TERM\n"
                         "while :; do sleep 0.1; done\n";
  fs::permissions(deaf, fs::perms(0755));
  more.back() = "-engine=" + deaf;
  ill = Examine(more);
  EXPECT_EQ(ill.exit_code, 1);
  EXPECT_THAT(
      ill.findings.at("probe").text,
      HasSubstr("udp over IPv4: conntrack has 7+3 packets, 896+3084 bytes; the spool 0+0 packets"));
}

// While it waits for a server that takes connections and never answers.
TEST_F(DoctorTest, SecretsAreInNoProcessList) {
  const std::string folder = folder_ + "/empty";
  const UniqueFd silent(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  (folder + "/.s.PGSQL.5432").copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(silent.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(silent.get(), 8), 0);
  auto doctor = Subprocess::Start({DataPath("importer/doctor/doctor"), "-probe=false",
                                   "-engine-flags=", "-importer-flags=", "-host=" + folder,
                                   "-pass=hush-hush"});
  ASSERT_TRUE(doctor.ok()) << doctor.status();
  pollfd connects = {silent.get(), POLLIN, 0};
  ASSERT_EQ(poll(&connects, 1, static_cast<int>(absl::ToInt64Milliseconds(kAtMost))), 1);
  std::ifstream file(absl::StrCat("/proc/", (*doctor)->pid(), "/cmdline"), std::ios::binary);
  std::stringstream command_line;
  command_line << file.rdbuf();
  EXPECT_THAT(command_line.str(), HasSubstr("-host="));
  EXPECT_THAT(command_line.str(), Not(HasSubstr("hush")));
  ASSERT_TRUE((*doctor)->Signal(SIGKILL).ok());
}

TEST_F(DoctorTest, BadUsageIsOneLineAndStatus2) {
  for (const std::vector<std::string>& flags :
       std::vector<std::vector<std::string>>{{"-no-such-flag"},
                                             {"argument"},
                                             {"-mode=fast"},
                                             {"-workers=-1"},
                                             {"-workers=9"},
                                             {"-engine=/nowhere"},
                                             {"-engine-user=nobody-of-that-name"},
                                             {"-engine-flags=/nowhere"},
                                             {"-conninfo=x y z"}}) {
    const auto doctor = RunProcess(Command(flags), kAtMost);
    ASSERT_TRUE(doctor.ok()) << doctor.status();
    EXPECT_EQ(doctor->exit.code, 2) << flags[0];
    EXPECT_THAT(doctor->err, StartsWith("doctor: "));
    EXPECT_EQ(std::count(doctor->err.begin(), doctor->err.end(), '\n'), 1) << doctor->err;
    EXPECT_EQ(doctor->out, "");
  }
}

}  // namespace
}  // namespace ctacct
