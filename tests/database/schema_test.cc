// The schema's versions and its functions, on a real PostgreSQL. The importer has one version; the
// tests add a step of their own.
#include <fcntl.h>

#include <future>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "importer/files/traffic_file.h"
#include "importer/postgres/pg_connection.h"
#include "importer/tables/load.h"
#include "importer/tables/versions.h"
#include "tests/support/importer_fixture.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

constexpr char kRefused[] =
    "the database's schema is of version 2, this importer knows versions up to 1";

class SchemaTest : public ImporterTest {
 protected:
  PgConnection Connect() {
    PgOptions options;
    options.conninfo = postgres->Conninfo(database_);
    absl::StatusOr<PgConnection> connection = PgConnection::Open(options);
    EXPECT_TRUE(connection.ok()) << connection.status();
    return *std::move(connection);
  }
  // The importer's steps and one more.
  static std::vector<const char*> StepsWith(const char* next) {
    std::vector<const char*> steps(OurSteps().begin(), OurSteps().end());
    steps.push_back(next);
    return steps;
  }
  absl::Status Ensure(SchemaSteps steps) {
    PgConnection connection = Connect();
    return EnsureSchema(connection, steps);
  }
  // Does what an importer of the version after `steps` does with a file.
  absl::Status Load(PgConnection& connection, const std::string& name, SchemaSteps steps) {
    const UniqueFd folder(open(watch_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const absl::StatusOr<TrafficFile> file = TrafficFile::Open({folder.get(), watch_, name, name});
    if (!file.ok()) return file.status();
    const absl::StatusOr<FileSummary> summary =
        file->Read([](absl::Span<const TrafficRow>) { return absl::OkStatus(); });
    if (!summary.ok()) return summary.status();
    std::set<int32_t> known_days;
    return ImportTogether(connection, {{&*file, &*summary}}, &known_days, steps).status();
  }
  std::string Versions() { return Sql("SELECT version FROM ctacct_schema ORDER BY 1"); }
};

TEST_F(SchemaTest, TwoImportersMakeTheTablesOfAnEmptyDatabase) {
  for (uint64_t i = 1; i <= 6; ++i) WriteSpool(i);
  const auto one = StartImporter({"-watch=" + watch_, "-once"});
  const auto two = StartImporter({"-watch=" + watch_, "-once"});
  ExpectBothEnd(one.get(), two.get());
  EXPECT_EQ(Versions(), "1");
  ExpectSums();
  // Everything that \d+ lists has a comment.
  EXPECT_EQ(Sql("SELECT count(*), count(obj_description(oid, 'pg_class')) FROM pg_class "
                "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'p') AND "
                "NOT relispartition AND NOT EXISTS (SELECT FROM pg_depend "
                "WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e')"),
            "40|40");
}

TEST_F(SchemaTest, AStepIsAppliedToADatabaseAtTheBaseline) {
  const std::vector<const char*> steps =
      StepsWith("ALTER TABLE vpn_traffic ADD COLUMN new_count bigint NOT NULL DEFAULT 7");
  for (uint64_t i = 1; i <= 3; ++i) WriteSpool(i);
  EXPECT_TRUE(Drain().exit.ok());
  PgConnection connection = Connect();
  absl::StatusOr<SchemaVersions> versions = ReadSchemaVersions(connection, steps);
  ASSERT_TRUE(versions.ok()) << versions.status();
  EXPECT_EQ(versions->found, 1);
  EXPECT_EQ(versions->newest, 2);
  for (int again = 0; again < 2; ++again) {
    const absl::Status ensured = EnsureSchema(connection, steps);
    EXPECT_TRUE(ensured.ok()) << ensured;
  }
  EXPECT_EQ(Versions(), "1\n2");
  EXPECT_EQ(Sql("SELECT DISTINCT new_count FROM vpn_traffic"), "7");
  const absl::Status loaded = Load(connection, WriteSpool(4), steps);
  EXPECT_TRUE(loaded.ok()) << loaded;
  ExpectSums();
}

TEST_F(SchemaTest, AnEmptyDatabaseGetsEveryStep) {
  EXPECT_TRUE(Ensure(StepsWith("CREATE TABLE next_step ()")).ok());
  EXPECT_EQ(Versions(), "1\n2");
  EXPECT_EQ(Sql("SELECT to_regclass('next_step')"), "next_step");
}

TEST_F(SchemaTest, OfTwoImportersOneAppliesAStepAndBothContinue) {
  // Slow, so that the other importer arrives meanwhile. It would fail if it were applied twice.
  const std::vector<const char*> steps =
      StepsWith("SELECT pg_sleep(1); CREATE TABLE next_step AS SELECT 1");
  EXPECT_TRUE(Drain().exit.ok());  // Makes the tables.
  std::vector<std::future<absl::Status>> importers;
  for (uint64_t i = 1; i <= 2; ++i) {
    importers.push_back(std::async(std::launch::async, [&, name = WriteSpool(i)] {
      PgConnection connection = Connect();
      absl::Status status = EnsureSchema(connection, steps);
      return status.ok() ? Load(connection, name, steps) : status;
    }));
  }
  EXPECT_TRUE(Eventually([&] {
    return Sql("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "
               "wait_event = 'advisory'") == "1";
  }));
  for (std::future<absl::Status>& importer : importers) {
    const absl::Status status = importer.get();
    EXPECT_TRUE(status.ok()) << status;
  }
  EXPECT_EQ(Versions(), "1\n2");
  EXPECT_EQ(Sql("SELECT count(*) FROM import_ledger"), "2");
  ExpectSums();
}

TEST_F(SchemaTest, AStepThatFailsChangesNothing) {
  WriteSpool(1);
  EXPECT_TRUE(Drain().exit.ok());
  const absl::Status failed = Ensure(StepsWith("CREATE TABLE half (); DROP TABLE no_such_table"));
  EXPECT_TRUE(absl::IsFailedPrecondition(failed)) << failed;
  EXPECT_THAT(failed.message(), HasSubstr("schema version 2: SQLSTATE 42P01"));
  EXPECT_EQ(Sql("SELECT to_regclass('half')"), "");
  EXPECT_EQ(Versions(), "1");
  WriteSpool(2);
  EXPECT_TRUE(Drain().exit.ok());
  ExpectSums();
}

// A file whose COMMIT is under way is loaded before the step; after it an importer of the older
// version, which does not know what the step changed, loads nothing and touches no file.
TEST_F(SchemaTest, AnImporterOlderThanTheDatabaseRefuses) {
  SlowDownCommits();
  const auto importer = StartImporter({"-watch=" + watch_});
  WriteSpool(1);
  ASSERT_TRUE(WaitForCommit());
  const absl::Status ensured =
      Ensure(StepsWith("CREATE TABLE next_step AS SELECT count(*) FROM import_ledger"));
  EXPECT_TRUE(ensured.ok()) << ensured;
  EXPECT_EQ(Sql("SELECT * FROM next_step"), "1");
  // The one that was running when the step was applied.
  ASSERT_TRUE(Eventually([&] { return fs::is_empty(watch_); }));
  const std::string name = WriteSpool(2, 100, false);
  const absl::StatusOr<ExitStatus> exit = importer->Wait(kAtMost);
  ASSERT_TRUE(exit.ok());
  EXPECT_EQ(exit->code, 1);
  EXPECT_THAT(importer->Stderr(), HasSubstr(kRefused));
  // One that starts afterwards.
  ExpectFails(Run({"-watch=" + watch_}), 1, kRefused);
  EXPECT_THAT(Names(watch_), UnorderedElementsAre(name));
  ExpectSums();
}

// What a function answers does not depend on the session, and a Citus coordinator sends times to
// its workers as text: without these settings in the session's style. Nor does a function search
// (rows.sql).
TEST_F(SchemaTest, EveryFunctionHasItsSettings) {
  EXPECT_TRUE(Drain().exit.ok());  // Makes the tables.
  EXPECT_EQ(Sql("SELECT count(*) >= 11 FROM pg_proc WHERE pronamespace = 'public'::regnamespace"),
            "t");
  EXPECT_EQ(
      Sql("SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'public'::regnamespace "
          "AND prolang <> (SELECT oid FROM pg_language WHERE lanname = 'internal') "  // Of types.
          "AND (proconfig @> ARRAY['search_path=pg_catalog, pg_temp', 'TimeZone=UTC', "
          "'DateStyle=ISO', 'IntervalStyle=postgres']) IS NOT TRUE"),
      "");
}

// Functions in SQL are checked by PostgreSQL when they are created, those in PL/pgSQL only as far
// as they run.
TEST_F(SchemaTest, PlpgsqlCheckFindsNothing) {
  if (Sql("SELECT count(*) FROM pg_available_extensions WHERE name = 'plpgsql_check'") == "0") {
    if (InCi()) FAIL() << "plpgsql_check is not installed (./dev setup)";
    GTEST_SKIP() << "plpgsql_check is not installed (./dev setup)";
  }
  EXPECT_TRUE(Drain().exit.ok());  // Makes the tables.
  Sql("CREATE SCHEMA lint; CREATE EXTENSION plpgsql_check SCHEMA lint");
  EXPECT_EQ(
      Sql("SELECT lanname, count(*) FROM pg_proc JOIN pg_language ON pg_language.oid = prolang "
          "WHERE pronamespace = 'public'::regnamespace AND lanname <> 'internal' GROUP BY 1 ORDER BY 1"),
      "plpgsql|21\nsql|7");
  // traffic_adopt() makes this view before it reads it.
  const std::string lint =
      "CREATE TEMPORARY VIEW traffic_adopted AS SELECT * FROM vpn_traffic; "
      "SELECT pg_proc.oid::regproc, lineno, level, message, detail "
      "FROM pg_proc JOIN pg_language ON pg_language.oid = prolang "
      "CROSS JOIN lint.plpgsql_check_function_tb(pg_proc.oid, fatal_errors => false, "
      "  all_warnings => true) "
      "WHERE pronamespace = 'public'::regnamespace AND lanname = 'plpgsql' "
      // It cannot look into the text of a dynamic query, and says so for each result column.
      "AND coalesce(detail, '') NOT LIKE '%determine%dynamic SQL%' "
      // These queries are put together from lists of columns, which are constants or the owner's
      // tables; whatever a caller gives goes in by USING or %L. It warns of each variable.
      "AND NOT (message IN ('text type variable is not sanitized', 'the expression is not SQL "
      "injection safe') AND proname IN ('traffic', "
      "  'traffic_open_connections', 'traffic_plan_names', 'traffic_addresses', "
      "  'traffic_forget', 'traffic_rename_gateway', 'traffic_add', 'traffic_roll_up'))";
  EXPECT_EQ(Sql(lint), "");
  Sql("CREATE FUNCTION wrong() RETURNS void LANGUAGE plpgsql AS "
      "'DECLARE unused text; BEGIN PERFORM no_such_column FROM vpn_traffic; END'");
  EXPECT_THAT(Sql(lint), HasSubstr("column \"no_such_column\" does not exist"));
}

}  // namespace
}  // namespace ctacct
