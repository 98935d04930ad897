// What goes wrong around the importer, done for real: a server that is gone, frozen or a standby,
// damaged files, odd names, other users. What counts is what is in the database afterwards. Fault
// numbers are those of the project's list of faults; importer_test.cc has the other ones.
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/gateway_name.h"
#include "engine/spool/spool_writer.h"
#include "engine/system/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/importer_fixture.h"
#include "tests/support/private_postgres.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class ImporterFaultTest : public ImporterTest {
 protected:
  void SetUp() override {
    ImporterTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    // Thousands of files, each synced by who writes and who removes it: a disk would make this a
    // test of the disk.
    std::string pattern = "/dev/shm/ctacct-importer.XXXXXX";
    if (mkdtemp(pattern.data()) == nullptr) return;
    memory_ = pattern;
    watch_ = memory_ + "/watch";
    done_ = memory_ + "/done";
    fs::create_directory(watch_);
    fs::create_directory(done_);
  }
  void TearDown() override {
    ImporterTest::TearDown();
    if (!memory_.empty()) fs::remove_all(memory_);
  }

  // The most memory that a process has had.
  static uint64_t PeakKilobytes(pid_t pid) {
    std::ifstream status(absl::StrCat("/proc/", pid, "/status"));
    for (std::string line; std::getline(status, line);) {
      uint64_t kilobytes = 0;
      if (!absl::StartsWith(line, "VmHWM:")) continue;
      const size_t from = line.find_first_of("0123456789");
      if (absl::SimpleAtoi(line.substr(from, line.find(' ', from) - from), &kilobytes)) {
        return kilobytes;
      }
    }
    ADD_FAILURE() << "no VmHWM of process " << pid;
    return 0;
  }
  static bool EventuallyWithin(absl::Duration at_most, const std::function<bool()>& is_so) {
    for (const absl::Time deadline = absl::Now() + at_most; absl::Now() < deadline;) {
      if (is_so()) return true;
      absl::SleepFor(absl::Milliseconds(20));
    }
    return false;
  }
  void ExpectEnds(Subprocess& importer, int signal_number = SIGTERM) {
    ASSERT_TRUE(importer.Signal(signal_number).ok());
    const absl::StatusOr<ExitStatus> exit = importer.Wait(kAtMost);
    ASSERT_TRUE(exit.ok());
    EXPECT_TRUE(exit->ok()) << importer.Stderr();
  }

  std::string memory_;
};

// Stops all processes of the test's server; the destructor lets them continue.
class FrozenServer {
 public:
  FrozenServer() {
    const std::string data = fs::canonical(postgres->folder()).string() + "/data";
    for (const auto& entry : fs::directory_iterator("/proc")) {
      int pid = 0;
      std::error_code gone;
      if (!absl::SimpleAtoi(entry.path().filename().string(), &pid)) continue;
      if (fs::read_symlink(entry.path() / "cwd", gone) == data) pids_.push_back(pid);
    }
    EXPECT_FALSE(pids_.empty());
    // The postmaster, which is the oldest, first: it must not wonder about its children.
    std::sort(pids_.begin(), pids_.end());
    for (const int pid : pids_) kill(pid, SIGSTOP);
  }
  ~FrozenServer() { Thaw(); }
  void Thaw() {
    for (const int pid : pids_) kill(pid, SIGCONT);
    pids_.clear();
  }

 private:
  std::vector<int> pids_;
};

// Fault 15.
TEST_F(ImporterFaultTest, TenThousandFilesWaitForADatabaseThatIsDown) {
  constexpr uint64_t kFew = 500;  // Enough for the largest transaction.
  constexpr uint64_t kMany = 10'000;
  constexpr size_t kRows = 20;
  uint64_t sequence = 0;
  const auto run = [&](uint64_t files) -> uint64_t {
    const auto importer = StartImporter({"-watch=" + watch_});
    WriteSpool(++sequence, kRows);
    EXPECT_TRUE(Eventually([&] { return fs::is_empty(watch_); }));
    EXPECT_TRUE(postgres->StopImmediately().ok());
    for (uint64_t i = 0; i < files; ++i) WriteSpool(++sequence, kRows);
    EXPECT_TRUE(importer->WaitForOutput("trying again", kAtMost).ok());
    EXPECT_EQ(Names(watch_).size(), files);
    EXPECT_TRUE(postgres->Restart().ok());
    EXPECT_TRUE(EventuallyWithin(absl::Minutes(4), [&] { return fs::is_empty(watch_); }))
        << Names(watch_).size() << " files left\n"
        << importer->Stderr();
    const uint64_t peak_kilobytes = PeakKilobytes(importer->pid());
    ExpectEnds(*importer);
    return peak_kilobytes;
  };
  const uint64_t few_kilobytes = run(kFew);
  const uint64_t many_kilobytes = run(kMany);
  std::cout << "VmHWM with " << kFew << " files waiting: " << few_kilobytes << " kB, with " << kMany
            << ": " << many_kilobytes << " kB\n"
            << expected_.ToString() << " expected\n"
            << Sql(kSumsSql) << " in PostgreSQL\n";
  ExpectSums();
  EXPECT_EQ(Sql("SELECT count(*) FROM import_ledger"), absl::StrCat(sequence));
  // Files of one transaction share a moment.
  EXPECT_EQ(Sql("SELECT count(*) FROM (SELECT sequence - lag(sequence) OVER (ORDER BY imported_at, "
                "sequence) AS step FROM import_ledger) AS steps WHERE step <> 1"),
            "0");
  // What grows is the list of names, some hundred bytes each.
#if !defined(__SANITIZE_ADDRESS__)  // It keeps what was freed.
  EXPECT_LT(many_kilobytes, few_kilobytes + 8 * 1024);
#endif
}

// Accepts connections, and that is all it does.
class SilentServer {
 public:
  SilentServer() : listening_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    if (bind(listening_.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        listen(listening_.get(), 8) != 0 ||
        getsockname(listening_.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      ADD_FAILURE() << "no listening socket on loopback";
    }
    port_ = ntohs(address.sin_port);
  }
  int port() const { return port_; }
  // When the next connection came in.
  absl::Time Accept() {
    pollfd ready = {listening_.get(), POLLIN, 0};
    EXPECT_EQ(poll(&ready, 1, static_cast<int>(absl::ToInt64Milliseconds(kAtMost))), 1);
    connections_.emplace_back(accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_TRUE(connections_.back().valid());
    return absl::Now();
  }

 private:
  UniqueFd listening_;
  std::vector<UniqueFd> connections_;
  int port_ = 0;
};

// Fault 16. Only lower bounds, and generous ones: if this test accepts a connection late, the next
// pause looks shorter.
TEST_F(ImporterFaultTest, AServerThatAcceptsAndIsSilentIsAskedMoreAndMoreSeldom) {
  SilentServer server;
  const std::string name = WriteSpool(1, 10, false);
  const auto importer = StartImporter(
      {absl::StrCat("-conninfo=host=127.0.0.1 dbname=x user=x connect_timeout=1 port=",
                    server.port()),
       "-watch=" + watch_},
      false);
  absl::Time last = server.Accept();
  for (absl::Duration pause = absl::Milliseconds(250); pause <= absl::Seconds(2); pause *= 2) {
    const absl::Time next = server.Accept();
    EXPECT_GT(next - last, absl::Seconds(1) + pause / 2);
    last = next;
  }
  ExpectEnds(*importer);
  EXPECT_THAT(Names(watch_), testing::ElementsAre(name));
}

// Fault 16: the real server stands still, first for new connections, then for existing ones.
TEST_F(ImporterFaultTest, AServerThatFreezesIsLeftAndFoundAgain) {
  SlowDownCommits();
  WriteSpool(1);
  {
    FrozenServer frozen;
    const auto importer = StartImporter(
        {"-conninfo=" + postgres->Conninfo(database_) + " connect_timeout=1", "-watch=" + watch_},
        false);
    const absl::Status waited = importer->WaitForOutput("not answered within 1s", kAtMost);
    EXPECT_TRUE(waited.ok()) << waited;
    frozen.Thaw();
    EXPECT_TRUE(Eventually([&] { return fs::is_empty(watch_); })) << importer->Stderr();
    ExpectSums();
    for (uint64_t i = 2; i <= 5; ++i) WriteSpool(i);
    EXPECT_TRUE(WaitForCommit());
    // Within a file's transaction: it may be committed when the server continues, and the importer
    // gets no answer.
    FrozenServer again;
    const absl::Status given_up = importer->WaitForOutput("not answered for 1m", absl::Minutes(2));
    EXPECT_TRUE(given_up.ok()) << given_up;
    again.Thaw();
    EXPECT_TRUE(EventuallyWithin(absl::Minutes(2), [&] { return fs::is_empty(watch_); }))
        << importer->Stderr();
    ExpectEnds(*importer);
  }
  ExpectSums();
  EXPECT_EQ(Sql("SELECT count(*) FROM import_ledger"), "5");
}

// Fault 17: the server comes back as a standby, as after a fail-over, and is promoted later.
TEST_F(ImporterFaultTest, AServerThatBecomesAStandbyIsWaitedFor) {
  WriteSpool(1);
  const auto importer = StartImporter({"-watch=" + watch_});
  ASSERT_TRUE(Eventually([&] { return fs::is_empty(watch_); })) << importer->Stderr();
  ASSERT_TRUE(postgres->StopImmediately().ok());
  // Readable by the server's user as it is: an empty file, only its presence counts.
  WriteFile(postgres->folder() + "/data/standby.signal", "");
  struct stat data;
  ASSERT_EQ(stat((postgres->folder() + "/data").c_str(), &data), 0);
  if (getuid() == 0) {
    ASSERT_EQ(
        chown((postgres->folder() + "/data/standby.signal").c_str(), data.st_uid, data.st_gid), 0);
  }
  const absl::Status restarted = postgres->Restart();
  ASSERT_TRUE(restarted.ok()) << restarted;
  EXPECT_EQ(Sql("SELECT pg_is_in_recovery()"), "t");
  for (uint64_t i = 2; i <= 20; ++i) WriteSpool(i);
  const absl::Status waited = importer->WaitForOutput("SQLSTATE 25006", kAtMost);
  EXPECT_TRUE(waited.ok()) << waited;
  EXPECT_EQ(Names(watch_).size(), 19u);
  EXPECT_EQ(Sql("SELECT pg_promote()"), "t");
  EXPECT_TRUE(Eventually([&] { return fs::is_empty(watch_); })) << importer->Stderr();
  EXPECT_THAT(importer->Stderr(), HasSubstr("database is back"));
  ExpectEnds(*importer);
  ExpectSums();
  EXPECT_EQ(Sql("SELECT count(*) FROM import_ledger"), "20");
  EXPECT_FALSE(fs::exists(watch_ + "/failed"));
}

// Faults 8 and 9: a bit of every byte of a file, and a cut at every eighth, gaps and all.
TEST_F(ImporterFaultTest, DamageAnywhereIsQuarantinedWithItsReason) {
  const uint64_t seed = NumberFromEnvironment("CTACCT_SEED", std::random_device()());
  std::cout << "CTACCT_SEED=" << seed << std::endl;
  std::mt19937_64 random(seed);
  const std::string name = WriteSpool(3, 2, false);
  const std::string sound = Contents(watch_ + "/" + name);
  fs::remove(watch_ + "/" + name);
  ASSERT_GT(sound.size(), 408u + 2 * 72 + 40 + 64);
  const std::string engine_text = name.substr(0, 36);
  size_t damaged = 0;
  // A damaged file's name sorts between those of two sound ones.
  const auto write = [&](const std::string& bytes) {
    WriteFile(absl::StrCat(watch_, "/", engine_text, "-", absl::Dec(++damaged + 10'000), ".spool"),
              bytes);
  };
  for (size_t at = 0; at < sound.size(); ++at) {
    std::string bytes = sound;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << (random() % 8)));
    write(bytes);
  }
  const size_t flipped = damaged;
  for (size_t size = 8; size < sound.size(); size += 8) write(sound.substr(0, size));
  for (uint64_t i : {1, 3, 99}) WriteSpool(i);
  const absl::StatusOr<Finished> run =
      RunProcess(Command({"-watch=" + watch_, "-once"}), absl::Minutes(4));
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->exit.code, 1);
  EXPECT_THAT(run->err, HasSubstr("importer: 3 files, 300 rows in "));
  ExpectSums();
  EXPECT_EQ(Sql("SELECT count(*) FROM import_ledger"), "3");
  const std::set<std::string> failed = Names(watch_ + "/failed");
  EXPECT_EQ(failed.size(), 2 * damaged);
  EXPECT_EQ(Names(watch_).size(), 1u);
  for (size_t i = 1; i <= damaged; ++i) {
    const std::string reason = Contents(
        absl::StrCat(watch_, "/failed/", engine_text, "-", absl::Dec(i + 10'000), ".spool.reason"));
    if (i <= flipped) {
      ASSERT_THAT(reason,
                  AnyOf(HasSubstr(": corrupt at byte "), HasSubstr(": torn: ends at byte ")))
          << "byte " << i - 1;
    } else {
      ASSERT_THAT(reason, HasSubstr(absl::StrCat(": torn: ends at byte ", (i - flipped) * 8, ",")));
    }
  }
  EXPECT_TRUE(Drain().exit.ok());
}

// Like files that load, files that do not load survive kills: each is set aside once, with its
// reason.
TEST_F(ImporterFaultTest, KilledWhileSettingAside) {
  const uint64_t kills_wanted = NumberFromEnvironment("CTACCT_KILLS", 20);
  const uint64_t seed = NumberFromEnvironment("CTACCT_SEED", std::random_device()());
  std::cout << "CTACCT_SEED=" << seed << " CTACCT_KILLS=" << kills_wanted << std::endl;
  std::mt19937_64 random(seed);
  EXPECT_TRUE(Drain().exit.ok());  // Makes the tables.
  uint64_t sequence = 0;
  std::set<std::string> bad;
  const auto write_more = [&] {
    for (int i = 0; i < 100; ++i) {
      const std::string name = WriteSpool(++sequence, 2, false);
      fs::resize_file(watch_ + "/" + name, 400);
      bad.insert(name);
    }
  };
  for (uint64_t kills = 0; kills < kills_wanted;) {
    if (Names(watch_).size() <= 1) write_more();
    const size_t files = Names(watch_).size();
    const size_t until = files - std::min<size_t>(files - 1, random() % 8);
    const auto importer = StartImporter({"-watch=" + watch_, "-once"});
    EXPECT_TRUE(Eventually([&] { return !importer->Running() || Names(watch_).size() <= until; }));
    absl::SleepFor(absl::Microseconds(random() % 300));
    if (!importer->Signal(SIGKILL).ok()) continue;
    const absl::StatusOr<ExitStatus> exit = importer->Wait(kAtMost);
    ASSERT_TRUE(exit.ok());
    if (exit->signal != SIGKILL) continue;
    ++kills;
    if (!fs::exists(watch_ + "/failed")) continue;
    // Also at this very moment.
    for (const std::string& name : Names(watch_ + "/failed")) {
      if (bad.count(name) == 0) continue;
      EXPECT_THAT(Contents(watch_ + "/failed/" + name + ".reason"), HasSubstr(": torn: "));
    }
  }
  WriteSpool(++sequence);
  WriteSpool(++sequence, 2, false);
  fs::resize_file(watch_ + "/" + SpoolFileName(engine_id_, sequence), 400);
  bad.insert(SpoolFileName(engine_id_, sequence));
  EXPECT_EQ(Run({"-watch=" + watch_, "-once"}).exit.code, 1);
  ExpectSums();
  std::set<std::string> expected;
  for (const std::string& name : bad) {
    expected.insert(name);
    expected.insert(name + ".reason");
  }
  EXPECT_EQ(Names(watch_ + "/failed"), expected);
  EXPECT_THAT(Names(watch_), testing::ElementsAre("failed"));
}

// Fault 14, with nobody between: the server's processes are killed. Nothing here asks for a trigger
// on a table that may be distributed.
TEST_F(ImporterFaultTest, AServerKilledAroundACommit) {
  uint64_t sequence = 0;
  WriteSpool(++sequence);
  EXPECT_TRUE(Drain().exit.ok());  // Makes the tables, and the day's partitions.
  const std::string here = " AND datname = current_database()";
  // All rows are in, their sums are not yet.
  const std::string adding =
      "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT traffic_add%' AND "
      "wait_event_type = 'Lock'" +
      here;
  const std::string committing =
      "SELECT count(*) FROM pg_stat_activity WHERE query = 'COMMIT' AND state = 'active'" + here;
  for (const std::string& moment : {adding, committing, std::string()}) {
    std::unique_ptr<Subprocess> locker;  // Ends with the server.
    if (moment == adding) {
      auto started =
          Subprocess::Start({"psql", "-X", "-q", "-d", postgres->Conninfo(database_), "-c",
                             "BEGIN; LOCK TABLE traffic_port_fine IN SHARE MODE; "
                             "SELECT pg_sleep(60)"});
      ASSERT_TRUE(started.ok()) << started.status();
      locker = *std::move(started);
      ASSERT_TRUE(Eventually([&] {
        return Sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'" + here) ==
               "1";
      }));
    } else if (moment == committing) {
      Sql("CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
          "'BEGIN PERFORM pg_sleep(1); RETURN NULL; END'; "
          "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON import_ledger DEFERRABLE INITIALLY "
          "DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()");
    }
    const std::string before = Sql("SELECT count(*) FROM import_ledger");
    for (int i = 0; i < 3; ++i) WriteSpool(++sequence);
    const auto importer = StartImporter({"-watch=" + watch_});
    EXPECT_TRUE(Eventually([&] {
      return moment.empty() ? Sql("SELECT count(*) FROM import_ledger") != before
                            : Sql(moment) == "1";
    }));
    ASSERT_TRUE(postgres->StopImmediately().ok());
    const absl::Status restarted = postgres->Restart();
    ASSERT_TRUE(restarted.ok()) << restarted;
    EXPECT_TRUE(Eventually([&] { return fs::is_empty(watch_); })) << importer->Stderr();
    ExpectEnds(*importer);
    ExpectSums();
    EXPECT_EQ(Sql("SELECT count(*) FROM import_ledger"), absl::StrCat(sequence));
    if (moment == committing) Sql("DROP TRIGGER slow ON import_ledger");
  }
}

std::vector<std::string> OddNames() {
  return {"it's",
          "\"quoted\"",
          "a\nb\tc\r",
          "\\N\\.",
          "%s%n%x",
          "\xff\xfe not UTF-8 \x9b",
          "-rf --no-preserve-root",
          "'; DROP TABLE vpn_traffic; --",
          "$(touch pwned)`touch pwned`",
          "..",
          " ",
          "\x1b[31mred",
          "G\u00fcrtel",
          "G\u00fcrtel\u202e",
          "a\u009b2Jb\u0085c"};
}

// Fault 14 once more: kill -9 of a server that is taking rows at that moment, of a cluster a
// worker.
TEST_F(ImporterFaultTest, AServerKilledDuringACopyIsWaitedFor) {
  constexpr uint64_t kFiles = 40;
  for (uint64_t i = 1; i <= kFiles; ++i) WriteSpool(i, 12'000);
  const auto importer = StartImporter({"-watch=" + watch_, "-once", "-transaction-files=1"});
  const auto says = [&](const std::string& text, size_t times) {
    return Eventually([&] {
      size_t found = 0;
      const std::string log = importer->Stderr();
      for (size_t at = 0; (at = log.find(text, at)) != std::string::npos; ++at) ++found;
      return found >= times;
    });
  };
  size_t kills = 0;
  for (const int loaded : {0, 8, 16}) {
    const std::vector<std::string> stores = postgres->Stores();
    const std::string& killed = stores[kills++ % stores.size()];
    // As to the server that is killed, which of a cluster is not the one that is asked.
    ASSERT_TRUE(Eventually([&] {
      return TrySql(absl::StrCat("SELECT count(*) >= ", loaded, " FROM import_ledger")) == "t" &&
             PrivatePostgres::SqlOf(killed, database_,
                                    "SELECT count(*) > 0 FROM pg_stat_activity WHERE state = "
                                    "'active' AND query LIKE 'COPY %vpn_traffic%'")
                     .value_or("") == "t";
    })) << importer->Stderr();
    const absl::Status status = PrivatePostgres::Kill(killed);
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_TRUE(says("database unavailable: ", kills)) << importer->Stderr();
    const absl::Status restarted = postgres->Restart();
    ASSERT_TRUE(restarted.ok()) << restarted;
    ASSERT_TRUE(says("database is back", kills)) << importer->Stderr();
  }
  const absl::StatusOr<ExitStatus> exit = importer->Wait(kAtMost);
  ASSERT_TRUE(exit.ok()) << exit.status() << importer->Stderr();
  EXPECT_TRUE(exit->ok()) << importer->Stderr();
  EXPECT_TRUE(fs::is_empty(watch_)) << importer->Stderr();
  EXPECT_EQ(Sql("SELECT count(*) FROM import_ledger"), absl::StrCat(kFiles));
  // On a cluster, what was committed just then shows when the coordinator has asked again.
  EXPECT_TRUE(Eventually([&] { return TrySql(kSumsSql) == expected_.ToString(); }));
  ExpectSums();
}

// Fault 29.
TEST_F(ImporterFaultTest, OddFileNamesAreNamesAndNothingElse) {
  constexpr size_t kNameBytesMax = 255;
  std::vector<std::string> names;
  for (const std::string& odd : OddNames()) names.push_back("traffic_" + odd + ".csv");
  names.push_back("traffic_" + std::string(kNameBytesMax - 12, 'x') + ".csv");
  uint64_t seed = 0;
  const auto write = [&](const std::string& folder) {
    for (const std::string& name : names) {
      WriteFile(folder + "/" + name, CsvText(++seed, true, 10));
    }
  };
  // What is done is moved under its name; the second of a name gets a number, however long it is.
  for (int round = 0; round < 2; ++round) {
    write(watch_);
    const Finished run = Run({"-watch=" + watch_, "-once", "-move=" + done_});
    EXPECT_TRUE(run.exit.ok()) << run.err;
    EXPECT_TRUE(fs::is_empty(watch_));
    ExpectSums();
  }
  const std::set<std::string> done = Names(done_);
  EXPECT_EQ(done.size(), 2 * names.size());
  for (const std::string& name : names) {
    EXPECT_EQ(done.count(name), 1u) << name;
    EXPECT_EQ(done.count(name.substr(0, kNameBytesMax - 2) + ".1"), 1u) << name;
  }
  // Named on the command line, by way of a parent folder.
  write(memory_);
  std::vector<std::string> arguments;
  for (const std::string& name : names) arguments.push_back(watch_ + "/../" + name);
  const Finished named = Run(arguments);
  EXPECT_TRUE(named.exit.ok()) << named.err;
  ExpectSums();
  // Bad ones, twice, are set aside with the reason, and in a log they stay one line each.
  for (int round = 0; round < 2; ++round) {
    for (const std::string& name : names) WriteFile(watch_ + "/" + name, "x\n");
    const Finished run = Drain();
    EXPECT_EQ(run.exit.code, 1);
    EXPECT_EQ(Lines(run.err), names.size() + 1) << run.err;
    for (const char* const raw : {"\x1b", "\u009b", "\u0085", "\u202e", "\xff", "\x9b"}) {
      EXPECT_THAT(run.err, Not(HasSubstr(raw)));
    }
    EXPECT_THAT(run.err, HasSubstr("a\\xc2\\x9b2Jb\\xc2\\x85c"));
  }
  EXPECT_THAT(Names(watch_), testing::ElementsAre("failed"));
  const std::set<std::string> failed = Names(watch_ + "/failed");
  EXPECT_EQ(failed.size(), 4 * names.size());
  for (const std::string& name : names) {
    constexpr size_t kRoom = kNameBytesMax - 7;  // For the reason's name.
    for (const std::string& each : {name.substr(0, kRoom), name.substr(0, kRoom - 2) + ".1"}) {
      EXPECT_EQ(Contents(watch_ + "/failed/" + each), "x\n");
      const std::string reason = Contents(watch_ + "/failed/" + each + ".reason");
      EXPECT_THAT(reason, HasSubstr("line 1 at byte 0"));
      for (const char* const raw : {"\x1b", "\u009b", "\u0085", "\u202e", "\xff", "\x9b"}) {
        EXPECT_THAT(reason, Not(HasSubstr(raw)));
      }
    }
  }
  ExpectSums();
  EXPECT_EQ(Sql("SELECT count(*) FROM import_ledger WHERE source_file ~ '[^ -~]'"), "0");
  for (const std::string& folder : {memory_, watch_, done_, folder_}) {
    EXPECT_FALSE(fs::exists(folder + "/pwned"));
  }
  EXPECT_FALSE(fs::exists("pwned"));
}

// Fault 29.
TEST_F(ImporterFaultTest, OddGatewayNamesArriveAsTheyAre) {
  std::vector<std::string> gateways = {"../../etc/passwd", std::string(255, 'g'), "{\"a\",NULL}",
                                       "NULL", ""};
  for (const std::string& odd : OddNames()) {
    if (CheckGatewayName(odd).ok()) gateways.push_back(odd);
  }
  uint64_t sequence = 0;
  for (const std::string& gateway : gateways) {
    SpoolHeader header = MakeHeader(++sequence);
    header.completeness = Completeness::kPartial;
    header.gateway = gateway;
    const std::vector<TrafficRow> rows = MakeRows(sequence, 10);
    const std::vector<Gap> gaps = MakeGaps(3);
    ASSERT_TRUE(WriteSpoolFile(watch_, header, rows, gaps).ok());
    for (const TrafficRow& row : rows) expected_.Add(row);
    for (const Gap& gap : gaps) expected_.Add(gap);
    const std::string csv = CsvText(1'000 + sequence, true, 10);
    WriteFile(folder_ + "/traffic_a.csv", csv);
    const Finished run = Run({"-gateway", gateway, folder_ + "/traffic_a.csv"});
    EXPECT_TRUE(run.exit.ok()) << run.err;
  }
  EXPECT_TRUE(Drain().exit.ok());
  ExpectSums();
  const std::string found =
      Sql("SELECT encode(convert_to(gateway, 'UTF8'), 'hex'), rows, gaps FROM "
          "(SELECT gateway, count(*) AS rows FROM vpn_traffic GROUP BY 1) AS traffic JOIN "
          "(SELECT gateway, count(*) AS gaps FROM traffic_gaps GROUP BY 1) AS gap USING (gateway)");
  for (const std::string& gateway : gateways) {
    EXPECT_THAT("\n" + found + "\n",
                HasSubstr(absl::StrCat("\n", absl::BytesToHexString(gateway), "|20|4\n")))
        << gateway;
  }
  // Such as no name may be.
  for (const std::string& bad :
       {std::string(100'000, 'g'), std::string("a\nb"), std::string("\xff"),
        std::string("a\x1b[31m"), std::string("a\u009b31m"), std::string("a\u0085"),
        std::string("a\u202e")}) {
    const Finished run = Run({"-watch=" + watch_, "-once", "-gateway", bad});
    ExpectFails(run, 2, "flag -gateway: ");
    EXPECT_LT(run.err.size(), 1'000u);
  }
}

// Fault 29: a field of a megabyte, and others that want to be more than a field.
TEST_F(ImporterFaultTest, OddFieldsOfACsvFileAreItsOwnFault) {
  const std::string row =
      "1600000005000000000,tcp,10.32.251.0,10.32.250.0,443,16,13,3220,1884,1,65021";
  std::vector<std::string> fields = {std::string(1 << 20, 'A'),
                                     std::string(1 << 20, '9'),
                                     "../../../etc/passwd",
                                     "\\N",
                                     "\\.",
                                     "'",
                                     "\"",
                                     "$1",
                                     "NULL",
                                     std::string("6\0", 2),
                                     "-9223372036854775809",
                                     "1e3",
                                     "0x10",
                                     " 6",
                                     "\xff",
                                     "10.0.0.1/8"};
  size_t files = 0;
  for (size_t column = 0; column < 11; ++column) {
    for (const std::string& field : fields) {
      size_t from = 0;
      for (size_t i = 0; i < column; ++i) from = row.find(',', from) + 1;
      const size_t to = std::min(row.find(',', from), row.size());
      WriteFile(absl::StrCat(watch_, "/traffic_", ++files, ".csv"),
                row + "\n" + row.substr(0, from) + field + row.substr(to) + "\n");
    }
  }
  WriteSpool(1);
  const Finished run = Drain();
  EXPECT_EQ(run.exit.code, 1);
  EXPECT_THAT(run.err, HasSubstr("importer: 1 files, 100 rows in "));
  EXPECT_THAT(run.err, HasSubstr(absl::StrCat(", ", files, " NOT imported")));
  EXPECT_EQ(Lines(run.err), files + 1);
  EXPECT_LT(run.err.size(), files * 300);
  EXPECT_THAT(run.err, Not(HasSubstr("10.32.")));
  EXPECT_THAT(run.err, Not(HasSubstr("passwd")));
  ExpectSums();
  EXPECT_EQ(Names(watch_ + "/failed").size(), 2 * files);
}

// Fault 29: settings out of the environment.
TEST_F(ImporterFaultTest, AnOddEnvironmentIsOneLineOrDoesNotMatter) {
  const auto run = [&](const std::map<std::string, std::string>& environment) {
    SubprocessOptions options;
    options.environment = environment;
    options.environment.insert({"PGHOST", postgres->folder()});
    options.environment.insert({"PGUSER", "postgres"});
    options.environment.insert({"PGDATABASE", database_});
    const absl::StatusOr<Finished> finished =
        RunProcess(Command({"-watch=" + watch_, "-once"}, false), kAtMost, options);
    EXPECT_TRUE(finished.ok()) << finished.status();
    return finished.value_or(Finished{});
  };
  const std::string name = WriteSpool(1);
  for (const auto& [variable, value] :
       std::map<std::string, std::string>{{"PGPORT", "'; DROP"},
                                          {"PGDATABASE", "x' y\"z"},
                                          {"PGUSER", "nobody'; --"},
                                          {"PGSSLMODE", "perhaps"},
                                          {"PGSERVICE", "../../etc/passwd"},
                                          {"PGHOST", "/" + std::string(100'000, 'h')},
                                          {"PGOPTIONS", "-c no_such_setting=1"}}) {
    const Finished bad = run({{variable, value}});
    // 2 where the value itself is wrong.
    EXPECT_TRUE(bad.exit.signal == 0 && (bad.exit.code == 1 || bad.exit.code == 2))
        << variable << ": " << bad.err;
    EXPECT_EQ(Lines(bad.err), 1u) << variable << ": " << bad.err;
    EXPECT_LT(bad.err.size(), 2'000u) << variable;
    EXPECT_THAT(Names(watch_), testing::ElementsAre(name));
  }
  const Finished good = run({{"PGCLIENTENCODING", "no such"},
                             {"PGDATESTYLE", "German"},
                             {"PGTZ", "Asia/Kathmandu"},
                             {"PGOPTIONS",
                              "-c synchronous_commit=off -c statement_timeout=50 "
                              "-c default_transaction_isolation=serializable"}});
  EXPECT_TRUE(good.exit.ok()) << good.err;
  ExpectSums();
}

// Fault 30: with a server that asks for a password, right and wrong, by every way to give one.
TEST_F(ImporterFaultTest, PasswordsAreInNoProcessListAndNoLog) {
  const std::string role = "keeper_" + database_;
  Sql("CREATE ROLE " + role + " LOGIN PASSWORD 'hush-hush-right'; GRANT ALL ON SCHEMA public TO " +
      role);
  const std::string rules = postgres->folder() + "/data/pg_hba.conf";
  const std::string before = Contents(rules);
  {
    std::ofstream file(rules);
    file << "local all " << role << " scram-sha-256\n" << before;
  }
  Sql("SELECT pg_reload_conf()");
  const std::string pass_file = folder_ + "/pgpass";
  WriteFile(pass_file, "*:*:*:*:hush-hush-right\n");
  fs::permissions(pass_file, fs::perms(0600));
  const std::vector<std::string> where = {"-host=" + postgres->folder(), "-db=" + database_,
                                          "-user=" + role};
  struct Way {
    std::vector<std::string> arguments;
    std::map<std::string, std::string> environment;
  };
  const std::string uri = "-conninfo=postgresql://" + role + ":hush-hush-right@/" + database_;
  const std::vector<Way> right = {{{"-pass=hush-hush-right"}, {}},
                                  {{"--pass", "hush-hush-right"}, {}},
                                  {{"-conninfo=password=hush-hush-right"}, {}},
                                  {{uri}, {}},
                                  {{}, {{"PGPASSWORD", "hush-hush-right"}}},
                                  {{}, {{"PGPASSFILE", pass_file}}}};
  // pg_reload_conf only asks for it.
  EXPECT_TRUE(Eventually([&] {
    auto arguments = where;
    arguments.push_back("-pass=hush-hush-wrong");
    arguments.insert(arguments.end(), {"-watch=" + done_, "-once"});
    return !Run(arguments, false).exit.ok();
  }));
  uint64_t sequence = 0;
  for (const Way& way : right) {
    auto arguments = where;
    arguments.insert(arguments.end(), way.arguments.begin(), way.arguments.end());
    arguments.push_back("-watch=" + watch_);
    SubprocessOptions options;
    options.environment = way.environment;
    const auto importer = Subprocess::Start(Command(arguments, false), options);
    ASSERT_TRUE(importer.ok()) << importer.status();
    WriteSpool(++sequence);
    ASSERT_TRUE(Eventually([&] { return fs::is_empty(watch_); })) << (*importer)->Stderr();
    const std::string process = absl::StrCat("/proc/", (*importer)->pid());
    EXPECT_THAT(Contents(process + "/cmdline"), HasSubstr("-watch"));
    EXPECT_THAT(Contents(process + "/cmdline"), Not(HasSubstr("hush")));
    EXPECT_EQ(Sql("SELECT count(*) FROM pg_stat_activity WHERE pg_stat_activity::text LIKE "
                  "'%hush' || '-hush%' AND pid <> pg_backend_pid()"),
              "0");
    ExpectEnds(**importer);
    EXPECT_THAT((*importer)->Stderr(), Not(HasSubstr("hush")));
  }
  ExpectSums();
  for (Way way : right) {
    auto arguments = where;
    for (std::string& argument : way.arguments) {
      const size_t at = argument.find("right");
      if (at != std::string::npos) argument.replace(at, 5, "wrong");
    }
    for (auto& [variable, value] : way.environment) {
      if (variable == "PGPASSWORD") value = "hush-hush-wrong";
    }
    WriteFile(pass_file, "*:*:*:*:hush-hush-wrong\n");
    arguments.insert(arguments.end(), way.arguments.begin(), way.arguments.end());
    arguments.push_back("-watch=" + watch_);
    SubprocessOptions options;
    options.environment = way.environment;
    const absl::StatusOr<Finished> run = RunProcess(Command(arguments, false), kAtMost, options);
    ASSERT_TRUE(run.ok()) << run.status();
    ExpectFails(*run, 1, "password authentication failed");
    EXPECT_THAT(run->err, Not(HasSubstr("hush")));
  }
  WriteFile(rules, before);
  Sql("SELECT pg_reload_conf()");
  // Citus' own work on the tables may lock them in another order: a deadlock is tried again.
  EXPECT_TRUE(Eventually([&] {
    return postgres->Sql(database_, "DROP OWNED BY " + role + " CASCADE; DROP ROLE " + role).ok();
  }));
}

// Fault 30.
TEST_F(ImporterFaultTest, OthersSeeNothingOfWhatIsSetAsideOrMoved) {
  if (getuid() != 0) {
    if (InCi()) FAIL() << "takes root to be two users";
    GTEST_SKIP() << "takes root to be two users";
  }
  const std::string bad = WriteSpool(1, 10, false);
  fs::resize_file(watch_ + "/" + bad, 400);
  const std::string good = WriteSpool(2, 10);
  // To another file system, so that the file is a copy.
  const std::string elsewhere = folder_ + "/elsewhere";
  fs::create_directory(elsewhere);
  for (const std::string& folder : {memory_, watch_, folder_, elsewhere}) {
    fs::permissions(folder, fs::perms(0755));
  }
  EXPECT_EQ(Run({"-watch=" + watch_, "-once", "-move=" + elsewhere}).exit.code, 1);
  ExpectSums();
  for (const std::string& path :
       {elsewhere + "/" + good, watch_ + "/failed/" + bad, watch_ + "/failed/" + bad + ".reason"}) {
    ASSERT_NE(Contents(path), "");
    const absl::StatusOr<Finished> read = RunProcess(
        {"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", "cat", path},
        kAtMost);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->exit.code, 1);
    EXPECT_THAT(read->err, HasSubstr("Permission denied"));
  }
}

}  // namespace
}  // namespace ctacct
