// Who has to act on an error, with a real server: nobody (a bad file is moved to failed/, and the
// importer continues with the next one; a passing error is waited for and nothing is touched), or
// an operator (the importer ends and nothing is touched). Also: what the importer leaves behind in
// a server that it shares with other programs.
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/spool/spool_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/importer_fixture.h"
#include "tests/support/private_postgres.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class ServerFaultTest : public ImporterTest {
 protected:
  // Every file's transaction now ends with this error of the server.
  void RaiseOnImport(const std::string& sqlstate) {
    Sql(absl::StrCat(
        "CREATE OR REPLACE FUNCTION raise() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE "
        "EXCEPTION 'as if' USING ERRCODE = '",
        sqlstate,
        "'; END$$; CREATE OR REPLACE TRIGGER raise BEFORE INSERT ON import_ledger FOR EACH ROW "
        "EXECUTE FUNCTION raise()"));
  }
  void StopRaising() { Sql("DROP TRIGGER raise ON import_ledger"); }
  void ExpectEndsWell(Subprocess& importer) {
    ASSERT_TRUE(importer.Signal(SIGTERM).ok());
    const absl::StatusOr<ExitStatus> exit = importer.Wait(kAtMost);
    ASSERT_TRUE(exit.ok()) << exit.status();
    EXPECT_TRUE(exit->ok()) << importer.Stderr();
  }
  // Memory of a process that has not ended, at its peak.
  static uint64_t PeakKilobytes(pid_t pid) {
    const std::string status = Contents(absl::StrCat("/proc/", pid, "/status"));
    const size_t at = status.find("VmHWM:");
    uint64_t kilobytes = 0;
    if (at == std::string::npos) return 0;
    const std::string rest(absl::StripLeadingAsciiWhitespace(status.substr(at + 6)));
    EXPECT_TRUE(absl::SimpleAtoi(rest.substr(0, rest.find(' ')), &kilobytes)) << rest;
    return kilobytes;
  }
};

TEST_F(ServerFaultTest, WhatPassesIsWaitedFor) {
  EXPECT_TRUE(Drain().exit.ok());  // Makes the tables.
  const auto importer = StartImporter({"-watch=" + watch_});
  uint64_t sequence = 0;
  for (const char* const sqlstate : {"08006", "53100", "53300", "57014", "58030", "40001", "40P01",
                                     "55P03", "25006", "72000", "XX000"}) {
    RaiseOnImport(sqlstate);
    const std::string name = WriteSpool(++sequence, 10);
    const absl::Status said =
        importer->WaitForOutput(absl::StrCat("SQLSTATE ", sqlstate, ": as if"), kAtMost);
    ASSERT_TRUE(said.ok()) << said;
    EXPECT_THAT(Names(watch_), ElementsAre(name));
    StopRaising();
    ASSERT_TRUE(Eventually([&] { return fs::is_empty(watch_); })) << importer->Stderr();
  }
  ExpectEndsWell(*importer);
  ExpectSums();
}

TEST_F(ServerFaultTest, ErrorsThatNeedAnOperatorTouchNothing) {
  EXPECT_TRUE(Drain().exit.ok());
  const std::string name = WriteSpool(1, 10);
  for (const char* const sqlstate : {"22003", "22021", "22P02", "22P05", "23505", "23514", "25P02",
                                     "42501", "42P01", "P0001", "XX001"}) {
    RaiseOnImport(sqlstate);
    const Finished run = Run({"-watch=" + watch_});
    EXPECT_EQ(run.exit.ToString(), "exit status 1") << sqlstate;
    EXPECT_THAT(run.err, HasSubstr(absl::StrCat("SQLSTATE ", sqlstate)));
    EXPECT_EQ(Lines(run.err), 1u) << run.err;
    EXPECT_THAT(Names(watch_), ElementsAre(name)) << sqlstate;
    StopRaising();
  }
  EXPECT_TRUE(Drain().exit.ok());
  ExpectSums();
}

// A trigger of somebody else that adds up earlier files may overflow at any file: that is not this
// file's fault.
TEST_F(ServerFaultTest, WhatATriggerAddsUpIsNoFilesFault) {
  EXPECT_TRUE(Drain().exit.ok());
  Sql("CREATE TABLE public.total (packets int4); INSERT INTO public.total VALUES (2147483000); "
      "CREATE FUNCTION add_up() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN UPDATE public.total SET "
      "packets = packets + NEW.row_count::int4; RETURN NEW; END$$; CREATE TRIGGER add_up BEFORE "
      "INSERT ON import_ledger FOR EACH ROW EXECUTE FUNCTION add_up()");
  const std::string first = WriteSpool(1, 600);
  const std::string second = WriteSpool(2, 600);
  const Finished run = Run({"-watch=" + watch_, "-once", "-transaction-files=1"});
  EXPECT_EQ(run.exit.code, 1);
  EXPECT_THAT(run.err, HasSubstr("SQLSTATE 22003"));
  EXPECT_THAT(Names(watch_), ElementsAre(second));
  Sql("UPDATE public.total SET packets = 0");
  EXPECT_TRUE(Drain().exit.ok());
  ExpectSums();
}

// Each just beyond one bound, with right checksums: what everybody asks for has the same answer as
// before.
TEST_F(ServerFaultTest, HostileFilesChangeNoAnswer) {
  for (uint64_t i = 1; i <= 6; ++i) WriteSpool(i);
  EXPECT_TRUE(Drain().exit.ok());
  const auto answers = [&] {
    std::string text;
    for (const std::string& sql :
         {std::string("SELECT * FROM traffic('1970-01-01', '2199-12-31') ORDER BY 1"),
          std::string("SELECT * FROM traffic('2020-09-13 12:00', '2020-09-13 13:00', '1 min', "
                      "'{src,dst}') ORDER BY 1, 3, 4"),
          std::string("SELECT * FROM traffic('2020-09-13', '2020-09-14', '1 h', "
                      "'{gateway,proto,port}') ORDER BY 1, 2, 5, 6"),
          std::string("SELECT * FROM traffic_open_connections('2020-09-13', '2020-09-14', '1 h') "
                      "ORDER BY 1"),
          std::string("SELECT * FROM traffic_intervals ORDER BY 1, 2"),
          std::string("SELECT * FROM traffic_gap_regions ORDER BY 1, 2, 3, 4"),
          std::string(kSumsSql)}) {
      absl::StrAppend(&text, Sql(sql), "\n\n");
    }
    return text;
  };
  const std::string before = answers();
  EXPECT_GT(before.size(), 1000u);
  std::set<std::string> hostile;
  for (const char* const corpus : {"spool_reader_fuzz", "csv_fuzz"}) {
    for (const auto& entry :
         fs::directory_iterator(DataPath(absl::StrCat("tests/fuzz/corpus/", corpus)))) {
      std::string name = entry.path().filename();
      std::string contents = Contents(entry.path());
      if (entry.path().extension() != ".spool") {
        name = "traffic_" + name + ".csv";
        contents += "\n";
      }
      WriteFile(watch_ + "/" + name, contents);
      hostile.insert(name);
    }
  }
  EXPECT_GT(hostile.size(), 80u);
  const Finished run = Drain();
  EXPECT_EQ(run.exit.code, 1);
  for (const std::string& name : hostile) {
    EXPECT_FALSE(Contents(watch_ + "/failed/" + name + ".reason").empty()) << name << run.err;
  }
  EXPECT_EQ(answers(), before);
}

// One hostile gateway, or years of them: the sums are at their maximum, and stay there.
TEST_F(ServerFaultTest, SumsThatAreFullRefuseNoFile) {
  WriteSpool(1, 100);
  EXPECT_TRUE(Drain().exit.ok());
  for (const char* const rollup : {"total", "origin_1h", "pair_1h", "pair_port_1h", "port_fine"}) {
    Sql(absl::StrCat("UPDATE traffic_", rollup, " SET src_bytes = 9223372036854775807"));
  }
  WriteSpool(2, 100);
  engine_id_ = NewEngineId().value();
  WriteSpool(1, 50);  // Of the same interval.
  const Finished run = Drain();
  EXPECT_TRUE(run.exit.ok()) << run.err;
  EXPECT_EQ(Sql(kSumsSql), expected_.ToString());
  EXPECT_EQ(Sql("SELECT max(src_bytes) FROM traffic_total"), "9223372036854775807");
  EXPECT_EQ(Sql("SELECT max(src_bytes) FROM traffic_pair_port_1h"), "9223372036854775807");
  EXPECT_EQ(Sql("SELECT sum(row_count) FROM traffic_total"), "250");
  EXPECT_EQ(Sql("SELECT count(*) FROM traffic('2020-09-13', '2020-09-14')"), "1");
  // Retention distinguishes a saturated sum from one with missing rows.
  EXPECT_EQ(
      Sql("BEGIN; UPDATE vpn_traffic SET src_bytes = 9223372036854775807; UPDATE traffic_total "
          "SET src_bytes = 9223372036854775807; SELECT dropped "
          "FROM traffic_drop_partition('rows', now())"),
      "t");
  // Also when a table is taken over.
  Sql("CREATE TABLE old AS SELECT time, src_packets, src_bytes, dst_packets, dst_bytes, "
      "connection_times, connection_count, open_connections, port, src, dst, proto "
      "FROM vpn_traffic");
  const Finished adopted = Run({"-adopt=old", "-gateway=gw1"});
  EXPECT_TRUE(adopted.exit.ok()) << adopted.err;
  EXPECT_EQ(Sql("SELECT max(src_bytes) FROM traffic_total"), "9223372036854775807");
  EXPECT_EQ(Sql("SELECT sum(row_count) FROM traffic_total"), "500");
}

TEST_F(ServerFaultTest, AnUnsuitableEncodingIsReportedBeforeAFileIsTouched) {
  Sql("CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
      "postgres");
  const std::string name = WriteSpool(1, 10);
  const std::string conninfo = "-conninfo=" + postgres->Conninfo("latin");
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{conninfo, "-watch=" + watch_},
        std::vector<std::string>{conninfo, "-watch=" + watch_, "-once"}}) {
    const Finished run = Run(arguments, /*connect=*/false);
    ExpectFails(run, 1, "the database's encoding is LATIN1");
    EXPECT_THAT(run.err, HasSubstr("--encoding=UTF8"));
    EXPECT_THAT(Names(watch_), ElementsAre(name));
  }
  EXPECT_EQ(Sql("SELECT to_regclass('vpn_traffic')", "latin"), "");
  Sql("DROP DATABASE latin", "postgres");
}

TEST_F(ServerFaultTest, AConnectionThatWasClosedWhileIdleIsNoNews) {
  EXPECT_TRUE(Drain().exit.ok());
  // Of a cluster the coordinator only: its own sessions with the workers are not the importer's.
  const std::string here = postgres->IsCluster() ? "SET citus.enable_ddl_propagation = off; " : "";
  Sql(here + "ALTER DATABASE " + database_ + " SET idle_session_timeout = '500ms'");
  const auto importer = StartImporter({"-watch=" + watch_});
  const auto sessions = [&] {
    return Sql(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ctacct-importer' "
        "AND datname = '" +
            database_ + "'",
        "postgres");
  };
  for (uint64_t sequence = 1; sequence <= 3; ++sequence) {
    WriteSpool(sequence, 10);
    ASSERT_TRUE(Eventually([&] { return fs::is_empty(watch_); })) << importer->Stderr();
    ASSERT_TRUE(Eventually([&] { return sessions() == "0"; }));
  }
  ExpectEndsWell(*importer);
  EXPECT_THAT(importer->Stderr(), Not(HasSubstr("unavailable")));
  EXPECT_EQ(Lines(importer->Stderr()), 1u) << importer->Stderr();
  // Not for the test's own sessions on a busy machine.
  Sql(here + "ALTER DATABASE " + database_ + " RESET idle_session_timeout", "postgres");
  ExpectSums();
}

// Whatever it is doing then: the file is loaded again at once, on another connection.
TEST_F(ServerFaultTest, AConnectionThatIsClosedWhenItIsUsedAgainIsNoNews) {
  const auto importer = StartImporter({"-watch=" + watch_});
  WriteSpool(1, 10);
  ASSERT_TRUE(Eventually([&] { return fs::is_empty(watch_); })) << importer->Stderr();
  const auto lock = Subprocess::Start(
      {"psql", "-qAtX", postgres->Conninfo(database_), "-c",
       "BEGIN; LOCK TABLE import_ledger IN EXCLUSIVE MODE; SELECT pg_sleep(100)"});
  ASSERT_TRUE(lock.ok()) << lock.status();
  ASSERT_TRUE(Eventually([&] {
    return Sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1";
  }));
  WriteSpool(2, 10);
  const std::string waits = "FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
  ASSERT_TRUE(Eventually([&] { return Sql("SELECT count(*) " + waits) == "1"; }));
  Sql("SELECT pg_terminate_backend(pid) " + waits);
  Sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
  ASSERT_TRUE(Eventually([&] { return fs::is_empty(watch_); })) << importer->Stderr();
  ExpectEndsWell(*importer);
  EXPECT_EQ(Lines(importer->Stderr()), 1u) << importer->Stderr();
  ExpectSums();
}

// A server whose disk is full refuses new connections, since it cannot write a file of its own.
class FullDiskTest : public ServerFaultTest {
 protected:
  void SetUp() override {
    ServerFaultTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    if (geteuid() != 0) return CannotRun("a file system of limited size needs root");
    std::string pattern = "/tmp/ctacct_full.XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    disk_ = pattern;
    ASSERT_EQ(mount("tmpfs", disk_.c_str(), "tmpfs", 0, "size=160m,mode=755"), 0);
    mounted_ = true;
    ASSERT_TRUE(Script({"start", disk_, "--no-fsync"}));
    ASSERT_TRUE(Script({"database", disk_, "full"}));
  }
  void TearDown() override {
    if (disk_.empty()) return;
    if (mounted_) {
      Script({"stop", disk_, "--immediate"});
      EXPECT_EQ(umount2(disk_.c_str(), MNT_DETACH), 0);
    }
    fs::remove_all(disk_);
  }
  static bool Script(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), DataPath("tests/support/private_postgres.sh"));
    const absl::StatusOr<std::string> out = RunProcessOrError(arguments, absl::Minutes(2));
    EXPECT_TRUE(out.ok()) << out.status();
    return out.ok();
  }
  void Fill() const {
    (void)RunProcess({"dd", "if=/dev/zero", "of=" + disk_ + "/filler", "bs=64k"}, kAtMost);
  }
  [[nodiscard]] std::string Conninfo() const {
    return "-conninfo=host=" + disk_ + " user=postgres dbname=full";
  }

  std::string disk_;
  bool mounted_ = false;
};

TEST_F(FullDiskTest, AServerThatCannotWriteWhenOneConnectsIsWaitedFor) {
  EXPECT_TRUE(Run({Conninfo(), "-watch=" + watch_, "-once"}, false).exit.ok());
  const std::string name = WriteSpool(1, 10);
  // A new session writes these files again if they are missing.
  for (const auto& entry : fs::recursive_directory_iterator(disk_ + "/data")) {
    if (entry.path().filename() == "pg_internal.init") fs::remove(entry.path());
  }
  Fill();
  const auto importer = StartImporter({Conninfo(), "-watch=" + watch_}, false);
  const absl::Status said = importer->WaitForOutput("database unavailable: ", kAtMost);
  ASSERT_TRUE(said.ok()) << said;
  EXPECT_THAT(importer->Stderr(), HasSubstr("could not write init file"));
  EXPECT_THAT(Names(watch_), ElementsAre(name));
  fs::remove(disk_ + "/filler");
  ASSERT_TRUE(Eventually([&] { return fs::is_empty(watch_); })) << importer->Stderr();
  ExpectEndsWell(*importer);
}

// PgBouncer hands one server process to one transaction after the other, of whatever program.
class PoolerTest : public ServerFaultTest {
 protected:
  void SetUp() override {
    ServerFaultTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    RequireProgramOrSkip("/usr/sbin/pgbouncer", "--version", "pgbouncer");
    if (IsSkipped() || HasFatalFailure()) return;
    std::string pattern = "/tmp/ctacct_pooler.XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    pooler_folder_ = pattern;
    fs::permissions(pooler_folder_, fs::perms(0777));
    WriteFile(pooler_folder_ + "/pgbouncer.ini",
              absl::StrCat("[databases]\n* = host=", postgres->folder(),
                           " user=postgres\n[pgbouncer]\nunix_socket_dir = ", pooler_folder_,
                           "\nlisten_port = 6432\nauth_type = any\npool_mode = transaction\n"
                           "default_pool_size = 1\n"));
    std::vector<std::string> command = {"/usr/sbin/pgbouncer", "-q",
                                        pooler_folder_ + "/pgbouncer.ini"};
    // It refuses to run as root, and the server's folder is open to its user only.
    struct stat server;
    ASSERT_EQ(stat(postgres->folder().c_str(), &server), 0);
    if (geteuid() == 0) {
      const std::string uid = absl::StrCat(server.st_uid);
      command.insert(command.begin(),
                     {"setpriv", "--reuid=" + uid, "--regid=" + uid, "--clear-groups", "--"});
    }
    absl::StatusOr<std::unique_ptr<Subprocess>> started = Subprocess::Start(command);
    ASSERT_TRUE(started.ok()) << started.status();
    pooler_ = *std::move(started);
    ASSERT_TRUE(Eventually([&] { return Other("SELECT 1") == "1\n" || !pooler_->Running(); }));
    ASSERT_TRUE(pooler_->Running()) << pooler_->Stderr();
  }
  void TearDown() override {
    pooler_.reset();
    if (!pooler_folder_.empty()) fs::remove_all(pooler_folder_);
  }
  [[nodiscard]] std::string Conninfo() const {
    return absl::StrCat("host=", pooler_folder_, " port=6432 user=postgres dbname=", database_);
  }
  // Another program that uses the same pool.
  [[nodiscard]] std::string Other(const std::string& sql) const {
    const absl::StatusOr<Finished> run =
        RunProcess({"psql", "-AtX", "-c", sql, Conninfo()}, kAtMost);
    return run.ok() ? run->out : std::string(run.status().message());
  }

  std::string pooler_folder_;
  std::unique_ptr<Subprocess> pooler_;
};

TEST_F(PoolerTest, NoSettingOfOursStaysInASharedSession) {
  // What another program finds in the one session of the pool.
  const std::string settings =
      "SELECT pg_backend_pid(), string_agg(name || '=' || setting, ' ' ORDER BY name) "
      "FROM pg_settings WHERE source = 'session' OR name IN ('statement_timeout', "
      "'synchronous_commit', 'idle_in_transaction_session_timeout', 'lock_timeout', "
      "'default_transaction_read_only', 'search_path', 'jit', 'work_mem')";
  const std::string before = Other(settings);
  for (uint64_t i = 1; i <= 5; ++i) WriteSpool(i);
  const Finished run =
      Run({"-conninfo=" + Conninfo(), "-watch=" + watch_, "-once", "-retention-rows=1"}, false);
  EXPECT_TRUE(run.exit.ok()) << run.err;
  EXPECT_EQ(Other(settings), before);
  const absl::StatusOr<Finished> report = RunProcess(
      {DataPath("importer/report/report"), "-conninfo=" + Conninfo(), "-output=-"}, kAtMost);
  ASSERT_TRUE(report.ok() && report->exit.ok()) << report->err;
  EXPECT_EQ(Other(settings), before);
  const absl::StatusOr<Finished> doctor =
      RunProcess({DataPath("importer/doctor/doctor"), "-conninfo=" + Conninfo()}, kAtMost);
  ASSERT_TRUE(doctor.ok()) << doctor.status();
  EXPECT_THAT(doctor->out, HasSubstr("PostgreSQL")) << doctor->err;
  EXPECT_EQ(Other(settings), before);
  EXPECT_EQ(Sql("SELECT count(*) FROM import_ledger"), "5");
}

// A server that loses its power must not forget a file that was deleted: each transaction asks for
// that itself, whatever the server's default is.
TEST_F(ServerFaultTest, EveryFilesTransactionIsDurable) {
  EXPECT_TRUE(Drain().exit.ok());
  Sql("ALTER DATABASE " + database_ + " SET synchronous_commit = off");
  Sql("CREATE TABLE seen (setting text, isolation text); "
      "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO seen VALUES "
      "(current_setting('synchronous_commit'), current_setting('transaction_isolation')); RETURN "
      "NULL; END$$; CREATE CONSTRAINT TRIGGER see AFTER INSERT ON import_ledger DEFERRABLE "
      "INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION see()");
  WriteSpool(1, 10);
  WriteFile(watch_ + "/traffic_a.csv", CsvText(2, true, 10));
  EXPECT_TRUE(Drain().exit.ok());
  EXPECT_EQ(Sql("SELECT DISTINCT setting, isolation, count(*) OVER () FROM seen"),
            "on|read committed|2");
  ExpectSums();
}

// A file is read twice: before anything is sent to the database, and to load it. The loaded
// contents must be those that were checked and whose checksum is in the ledger, even if the file's
// size and time are unchanged.
TEST_F(ServerFaultTest, AFileRewrittenBetweenItsTwoReadingsIsNotLoaded) {
  EXPECT_TRUE(Drain().exit.ok());
  const std::string path = watch_ + "/traffic_a.csv";
  const std::string text = CsvText(1, true, 10, /*expect=*/false);
  WriteFile(path, text);
  const fs::file_time_type time = fs::last_write_time(path);
  absl::StatusOr<std::unique_ptr<Subprocess>> lock = Subprocess::Start(
      {"psql", "-qAtX", postgres->Conninfo(database_), "-c",
       "BEGIN; LOCK TABLE import_ledger IN EXCLUSIVE MODE; SELECT pg_sleep(100)"});
  ASSERT_TRUE(lock.ok()) << lock.status();
  const auto sessions = [&](const std::string& condition) {
    return Sql("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND " +
               condition);
  };
  ASSERT_TRUE(Eventually([&] { return sessions("wait_event = 'PgSleep'") == "1"; }));
  const auto importer = StartImporter({"-watch=" + watch_, "-once"});
  ASSERT_TRUE(Eventually([&] { return sessions("wait_event_type = 'Lock'") == "1"; }));
  std::string altered = text;
  char& digit = altered[altered.size() - 2];  // Of the last row's open connections.
  digit = digit == '1' ? '2' : '1';
  std::ofstream(path, std::ios::in | std::ios::out) << altered;
  fs::last_write_time(path, time);
  Sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
  ASSERT_TRUE(importer->WaitForOutput("changed while it was read", kAtMost).ok());
  // The next try finds it sound as it is now.
  const absl::StatusOr<ExitStatus> exit = importer->Wait(kAtMost);
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_TRUE(Drain().exit.ok());
  EXPECT_EQ(Sql("SELECT count(*) FROM import_ledger"), "1");
  EXPECT_EQ(Sql("SELECT count(*) FROM vpn_traffic"), "10");
  ExpectRollupsEqualRows();
}

// The keys of an address scan: none comes twice.
TEST_F(ServerFaultTest, MemoryIsBoundedWhateverAFileHolds) {
  constexpr size_t kRows = 200'000;
  std::vector<TrafficRow> rows(kRows);
  for (size_t i = 0; i < kRows; ++i) {
    rows[i].time_ns = kFirstEndNs + kIntervalNs;
    rows[i].protocol = 6;
    rows[i].port = static_cast<int32_t>(1 + i % 1000);
    rows[i].src = {10, 32, 1, 0};
    rows[i].dst = {11, static_cast<uint8_t>(i >> 16), static_cast<uint8_t>(i >> 8),
                   static_cast<uint8_t>(i)};
    rows[i].packets_src = 1;
    rows[i].bytes_src = 60 + i;
    expected_.Add(rows[i]);
  }
  EXPECT_TRUE(Drain().exit.ok());
  // A distributed table takes no trigger.
  const bool counts_flushes = !postgres->IsCluster();
  if (counts_flushes) {
    Sql("CREATE TABLE flushes (); CREATE FUNCTION flushed() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN INSERT INTO public.flushes DEFAULT VALUES; RETURN NULL; END$$; CREATE TRIGGER flushed AFTER "
        "INSERT ON traffic_total FOR EACH STATEMENT EXECUTE FUNCTION flushed(); "
        "GRANT ALL ON flushes TO PUBLIC");
  }
  const absl::StatusOr<std::string> written = WriteSpoolFile(watch_, MakeHeader(1), rows, {});
  ASSERT_TRUE(written.ok()) << written.status();
  const auto importer = StartImporter({"-watch=" + watch_});
  ASSERT_TRUE(ctacct::Eventually([&] { return fs::is_empty(watch_); }, 10 * kAtMost));
#ifndef __SANITIZE_ADDRESS__  // It keeps what was freed.
  EXPECT_LT(PeakKilobytes(importer->pid()), 200'000u);
#endif
  ExpectEndsWell(*importer);
  ExpectSums();
  EXPECT_EQ(Sql("SELECT sum(row_count) FROM traffic_destination_1h"), absl::StrCat(kRows));
  // Sums went out before the file was read to its end.
  EXPECT_EQ(counts_flushes ? Sql("SELECT count(*) FROM flushes") : "2", "2");
}

}  // namespace
}  // namespace ctacct
