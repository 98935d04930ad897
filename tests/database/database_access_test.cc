// What configs/postgres/roles.sql promises: an importer that may only add, a reader that changes
// nothing; and that a connection with sslmode=verify-full is to the server it means.
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/importer_fixture.h"
#include "tests/support/private_postgres.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;

class DatabaseAccessTest : public ImporterTest {
 protected:
  void SetUp() override {
    ImporterTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    // As roles.sql says it is done, and twice, as after an upgrade.
    const Finished run = Run({"-watch=" + done_, "-once"});
    ASSERT_TRUE(run.exit.ok()) << run.err;
    const std::string roles = Contents(DataPath("configs/postgres/roles.sql"));
    Sql(roles);
    Sql(roles);
  }
  Finished DrainAsImporter(const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {
        "-conninfo=" + postgres->Conninfo(database_, "ctacct_importer"), "-watch=" + watch_,
        "-once"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    absl::StatusOr<Finished> finished = RunProcess(Command(arguments, /*connect=*/false), kAtMost);
    EXPECT_TRUE(finished.ok()) << finished.status();
    return finished.value_or(Finished{});
  }
  // The statements' results as psql prints them, or the error. Each in a transaction of its own.
  std::string As(const std::string& role, const std::vector<std::string>& statements) {
    std::vector<std::string> argv = {"psql",
                                     "-X",
                                     "-A",
                                     "-t",
                                     "-q",
                                     "-v",
                                     "ON_ERROR_STOP=1",
                                     "-d",
                                     postgres->Conninfo(database_, role)};
    for (const std::string& sql : statements) argv.insert(argv.end(), {"-c", sql});
    const absl::StatusOr<Finished> finished = RunProcess(argv, kAtMost);
    EXPECT_TRUE(finished.ok()) << finished.status();
    return finished->exit.ok() ? finished->out : finished->err;
  }
  // All rights to tables, views and partitions, but SELECT if all have that; then those to the
  // functions that have the owner's rights; then whether anything may be made.
  std::string RightsOf(const std::string& role) {
    return Sql(absl::StrReplaceAll(
        "WITH tables AS (SELECT * FROM pg_class WHERE relkind IN ('r', 'p', 'v') AND "
        "relnamespace = 'public'::regnamespace) "
        "SELECT right_held || ' ' || string_agg(relname, ' ' ORDER BY relname) FROM "
        "(SELECT CASE WHEN right_held = 'SELECT' AND (SELECT bool_and(has_table_privilege('ROLE', "
        "oid, 'SELECT')) FROM tables) THEN 'everything' ELSE relname END AS relname, right_held "
        "FROM tables, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) "
        "AS right_held WHERE has_table_privilege('ROLE', oid, right_held) OR (right_held IN "
        "('SELECT', 'INSERT', 'UPDATE', 'REFERENCES') AND has_any_column_privilege('ROLE', oid, "
        "right_held)) GROUP BY 1, 2) AS rights GROUP BY right_held "
        "UNION ALL SELECT 'EXECUTE ' || string_agg(proname, ' ' ORDER BY proname) FROM pg_proc "
        "WHERE prosecdef AND has_function_privilege('ROLE', oid, 'EXECUTE') HAVING count(*) > 0 "
        "UNION ALL SELECT 'CREATE' WHERE has_schema_privilege('ROLE', 'public', 'CREATE') OR "
        "has_database_privilege('ROLE', current_database(), 'CREATE') ORDER BY 1",
        {{"ROLE", role}}));
  }
};

constexpr char kDenied[] = "permission denied";

TEST_F(DatabaseAccessTest, TheImportersRoleLoadsAndCanDoNothingElse) {
  WriteSpool(1);
  WriteSpool(3);      // With gaps.
  WriteSpool(9'000);  // Of another day.
  WriteFile(watch_ + "/traffic_1.csv", CsvText(5, /*track_open=*/true));
  Finished run = DrainAsImporter();
  EXPECT_TRUE(run.exit.ok()) << run.err;
  ExpectSums();
  EXPECT_EQ(Sql("SELECT count(*) FROM traffic_check('-infinity', 'infinity')"), "0");
  // What is there already is seen to be so.
  WriteSpool(3, 100, /*expect=*/false);
  run = DrainAsImporter();
  EXPECT_TRUE(run.exit.ok()) << run.err;
  ExpectSums();

  EXPECT_EQ(RightsOf("ctacct_importer"),
            "EXECUTE traffic_add traffic_add_covered traffic_make_partitions\n"
            "INSERT import_ledger traffic_gaps vpn_traffic\n"
            "SELECT ctacct_schema import_ledger");
  for (const char* const sql :
       {"SELECT count(*) FROM vpn_traffic", "UPDATE vpn_traffic SET src_bytes = 0",
        "DELETE FROM import_ledger", "TRUNCATE vpn_traffic",
        "INSERT INTO traffic_total SELECT * FROM traffic_total",
        "SELECT * FROM traffic_drop_partition('rows', 'infinity')",
        "UPDATE traffic_covered SET covered = '0'", "SELECT traffic_roll_up('vpn_traffic')",
        "CREATE TABLE mine ()"}) {
    EXPECT_THAT(As("ctacct_importer", {sql}), HasSubstr(kDenied)) << sql;
  }
  ExpectSums();
}

TEST_F(DatabaseAccessTest, TheImportersRoleDropsWhatIsOldOnlyIfGranted) {
  WriteSpool(1);
  Finished run = DrainAsImporter({"-retention-rows=1"});
  EXPECT_THAT(run.err, HasSubstr(kDenied));
  ExpectSums();
  // The line that roles.sql has as a comment.
  const std::string roles = Contents(DataPath("configs/postgres/roles.sql"));
  const std::string grant = "GRANT EXECUTE ON FUNCTION traffic_drop_partition TO ctacct_importer;";
  ASSERT_THAT(roles, HasSubstr("-- " + grant));
  Sql(grant);
  run = DrainAsImporter({"-retention-rows=1"});
  EXPECT_TRUE(run.exit.ok()) << run.err;
  EXPECT_EQ(Sql("SELECT count(*) FROM vpn_traffic"), "0");
  EXPECT_EQ(Sql("SELECT sum(row_count) FROM traffic_total"), "100");
}

// The functions that write have the owner's rights and do what the catalogue says: it must be ours.
TEST_F(DatabaseAccessTest, ATemporaryTableDeceivesNoFunction) {
  const std::string add_nothing =
      "SELECT traffic_add('total', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', "
      "'{}', '{}', '{}', '{}')";
  EXPECT_EQ(As("ctacct_importer", {add_nothing}), "0\n");
  EXPECT_EQ(As("ctacct_importer",
               {"CREATE TEMP TABLE traffic_rollups (name text, grouping_columns text[])",
                "INSERT INTO traffic_rollups VALUES ('total', "
                "'{\"src_packets) SELECT now(), 1 / 0 -- \"}')",
                add_nothing}),
            "0\n");
  EXPECT_EQ(As("ctacct_importer",
               {"CREATE TEMP TABLE traffic_partitions (name text, parent text, lower timestamptz, "
                "upper timestamptz)",
                "SELECT traffic_make_partitions('{2021-01-01}')"}),
            "\n");
  EXPECT_EQ(Sql("SELECT count(*) > 5 FROM traffic_partitions"), "t");
}

TEST_F(DatabaseAccessTest, TheReaderReadsEverythingAndChangesNothing) {
  WriteSpool(1);
  ASSERT_TRUE(DrainAsImporter().exit.ok());  // Its partitions are younger than the reader.
  EXPECT_EQ(As("ctacct_reader", {"SHOW default_transaction_read_only"}), "on\n");
  EXPECT_EQ(As("ctacct_reader", {"SHOW statement_timeout"}), "30s\n");
  EXPECT_EQ(As("ctacct_reader", {"SHOW idle_in_transaction_session_timeout"}), "30s\n");
  EXPECT_EQ(As("ctacct_reader", {"SELECT count(*) FROM traffic('2020-01-01', '2021-01-01')"}),
            "1\n");
  EXPECT_THAT(As("ctacct_reader", {"DELETE FROM vpn_traffic"}), HasSubstr("read-only transaction"));
  EXPECT_EQ(RightsOf("ctacct_reader"), "SELECT everything");
  // Also without the setting that is its own to change.
  for (const char* const sql :
       {"INSERT INTO vpn_traffic SELECT * FROM vpn_traffic", "UPDATE vpn_traffic SET src_bytes = 0",
        "DELETE FROM import_ledger", "TRUNCATE traffic_total",
        "SELECT traffic_make_partitions('{2021-01-01}')",
        "SELECT * FROM traffic_drop_partition('rows', 'infinity')",
        "SELECT traffic_roll_up('vpn_traffic')", "CREATE TABLE mine ()"}) {
    EXPECT_THAT(As("ctacct_reader", {"SET default_transaction_read_only = off", sql}),
                HasSubstr(kDenied))
        << sql;
  }
  ExpectSums();
}

TEST_F(DatabaseAccessTest, VerifyFullRefusesAnotherServerThanItMeans) {
  // An address of the loopback network that nobody else listens at.
  const std::string address = absl::StrCat("127.", 1 + getpid() / 65'536 % 250, ".",
                                           getpid() / 256 % 256, ".", 1 + getpid() % 254);
  const std::string& folder = postgres->folder();
  const absl::StatusOr<std::string> made = RunProcessOrError(
      {"sh", "-ec",
       "cd \"$1\"\n"
       "for ca in ours other; do\n"
       "  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj \"/CN=$ca\" -keyout $ca.key "
       "-out $ca.crt\n"
       "done\n"
       "openssl req -newkey rsa:2048 -nodes -subj /CN=db -keyout server.key -out server.csr\n"
       "echo subjectAltName=DNS:db.example.org > names\n"
       "openssl x509 -req -in server.csr -CA ours.crt -CAkey ours.key -CAcreateserial -days 2 "
       "-extfile names -out server.crt\n"
       "chmod 600 server.key\n"
       "chown --reference=\"$1\" server.key server.crt",
       "sh", folder},
      kAtMost);
  ASSERT_TRUE(made.ok()) << made.status();
  Sql("ALTER SYSTEM SET listen_addresses = '" + address + "'");
  Sql("ALTER SYSTEM SET ssl_cert_file = '" + folder + "/server.crt'");
  Sql("ALTER SYSTEM SET ssl_key_file = '" + folder + "/server.key'");
  Sql("ALTER SYSTEM SET ssl = on");
  ASSERT_TRUE(postgres->StopImmediately().ok());
  ASSERT_TRUE(postgres->Restart().ok());

  const auto drain = [&](const std::string& host, const std::string& ca) {
    return Run({absl::StrCat("-conninfo=host=", host, " hostaddr=", address, " dbname=", database_,
                             " user=ctacct_importer sslmode=verify-full sslrootcert=", folder, "/",
                             ca, ".crt"),
                "-watch=" + watch_, "-once"},
               /*connect=*/false);
  };
  WriteSpool(1);
  Finished run = drain("db.example.org", "ours");
  EXPECT_TRUE(run.exit.ok()) << run.err;
  ExpectSums();

  const std::string file = watch_ + "/" + WriteSpool(2, 100, /*expect=*/false);
  run = drain("other.example.org", "ours");
  EXPECT_EQ(run.exit.ToString(), "exit status 1");
  EXPECT_THAT(run.err, HasSubstr("does not match host name \"other.example.org\""));
  run = drain("db.example.org", "other");
  EXPECT_EQ(run.exit.ToString(), "exit status 1");
  EXPECT_THAT(run.err, HasSubstr("certificate verify failed"));
  EXPECT_TRUE(std::filesystem::exists(file));
  ExpectSums();
}

}  // namespace
}  // namespace ctacct
