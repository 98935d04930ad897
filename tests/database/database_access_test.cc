// What configs/postgres/roles.sql promises: an importer that may only add, a reader that changes
// nothing; and that a connection with sslmode=verify-full is to the server it means.
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/importer_fixture.h"
#include "tests/support/private_postgres.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::testing::Contains;
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
        "relnamespace = 'public'::regnamespace AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = "
        "'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e')) "  // Not of extensions.
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
            "EXECUTE traffic_add traffic_add_covered traffic_growth traffic_load_names "
            "traffic_make_partitions traffic_summarize traffic_worth_sending\n"
            "INSERT import_ledger traffic_gaps traffic_names_arriving vpn_traffic\n"
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
      "'{}', '{}', '{}', '{}', '{}', '{}')";
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

// Makes functions and operators in a schema (SCHEMA) with the names that our functions and views
// use. Each fits some arguments better than PostgreSQL's own, and says as whom it runs. In place of
// every type that PostgreSQL's takes, polymorphic or not, comes each of those that our tables have.
constexpr char kPlant[] = R"sql(
DO $plant$
DECLARE
    types constant text[] := '{timestamptz,interval,text,bigint,integer,inet,float8,timestamptz[],text[],bigint[],'
                             'integer[],inet[]}';
    each record;
    left_type text;
    right_type text;
    kind text;
    body constant text := $$LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''PLANTED by AUTHOR runs as %'', current_user; END'$$;
    polymorphic constant text[] := '{any,anyelement,anyarray,anynonarray,anycompatible,anycompatiblearray,'
                                   'anycompatiblenonarray}';
BEGIN
    FOR each IN
        WITH texts AS (
            SELECT pg_get_functiondef(oid) AS text FROM pg_proc
            WHERE pronamespace = 'public'::regnamespace AND proname LIKE 'traffic%'
            UNION ALL
            SELECT pg_get_viewdef(oid) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'v'
        ), names AS (
            SELECT DISTINCT (regexp_matches(text, '\y([a-z0-9_]+)\(', 'g'))[1] AS name FROM texts
        ), variants AS (
            SELECT proname, (SELECT array_agg(CASE
                       WHEN format_type(argument, NULL) = ANY (polymorphic) OR substituted = place THEN type
                       ELSE format_type(argument, NULL) END ORDER BY place)
                   FROM unnest(proargtypes::oid[]) WITH ORDINALITY AS arguments (argument, place)) AS arguments,
                   CASE WHEN format_type(prorettype, NULL) LIKE 'any%array' THEN rtrim(type, '[]') || '[]'
                        WHEN format_type(prorettype, NULL) = ANY (polymorphic) THEN rtrim(type, '[]')
                        WHEN prorettype = 'internal'::regtype THEN 'text'
                        ELSE format_type(prorettype, NULL) END AS result, proretset
            FROM names JOIN pg_proc ON proname = name AND pronamespace = 'pg_catalog'::regnamespace
            CROSS JOIN unnest(types) AS type CROSS JOIN generate_series(0, least(pronargs, 4)) AS substituted
            WHERE pronargs > 0 AND provariadic = 0
            UNION ALL
            -- Ours, under other arguments than they have; and format(), concat() and others with any.
            SELECT name, array_fill(type, ARRAY[count]), 'text', false
            FROM names CROSS JOIN unnest(types) AS type CROSS JOIN generate_series(1, 15) AS count
            WHERE name LIKE 'traffic%' OR name IN ('format', 'concat')
        )
        -- Not unnest(anymultirange), which returns a type that no function of anybody's own may; nor unnest(tsvector), a
        -- record, in place of unnest(anyarray).
        SELECT DISTINCT ON (proname, arguments) * FROM variants
        WHERE result NOT LIKE 'any%' AND result <> 'record' AND NOT arguments && '{internal,cstring,record,\"\"char\"\"}' AND array_length(arguments, 1) > 0
    LOOP
        BEGIN
            EXECUTE format('CREATE FUNCTION SCHEMA.%I(%s) RETURNS %s%s %s', each.proname, array_to_string(each.arguments, ', '),
                           CASE WHEN each.proretset THEN 'SETOF ' ELSE '' END, each.result, body);
        EXCEPTION WHEN invalid_function_definition OR undefined_object OR feature_not_supported OR syntax_error
                       OR duplicate_function THEN
            -- A type that only PostgreSQL's own functions may take; or the array of an array.
        END;
    END LOOP;
    FOR left_type, right_type IN SELECT one, other FROM unnest(types) AS one CROSS JOIN unnest(types) AS other LOOP
        FOREACH kind IN ARRAY '{boolean,interval,timestamptz,text,text[]}'::text[] LOOP
            EXECUTE format('CREATE FUNCTION SCHEMA.%I(%s, %s) RETURNS %s %s', 'planted_' || kind, left_type, right_type, kind, body);
        END LOOP;
        FOR each IN
            SELECT name FROM unnest('{=,<>,<,>,<=,>=,+,-,*,/,||,@>,<@,&&,<<=,~~}'::text[]) AS name
            WHERE to_regoperator(format('pg_catalog.%s(%s,%s)', name, left_type, right_type)) IS NULL
        LOOP
            EXECUTE format('CREATE OPERATOR SCHEMA.%s (FUNCTION = SCHEMA.%I, LEFTARG = %s, RIGHTARG = %s)', each.name,
                           'planted_' || CASE WHEN each.name = '||' THEN CASE WHEN left_type || right_type LIKE '%[]%'
                                                                              THEN 'text[]' ELSE 'text' END
                                              WHEN each.name IN ('+', '-', '*', '/') THEN
                                                  CASE WHEN left_type = 'timestamptz' THEN 'timestamptz' ELSE 'interval' END
                                              ELSE 'boolean' END, left_type, right_type);
        END LOOP;
    END LOOP;
END $plant$;
)sql";

// What the tables' owner, the importer and a dashboard ask, each leaving everything as it was. None
// of them searches.
constexpr const char* kAsked[] = {
    "SELECT * FROM public.traffic(timestamptz '2020-09-13 12:00Z', timestamptz '2020-09-13 14:00Z', "
    "interval '1 min', '{src,gateway}'::text[]) ORDER BY 1, 2, 3",
    "SELECT * FROM public.traffic(timestamptz '2020-09-13 12:00Z', timestamptz '2020-09-13 14:00Z', "
    "NULL::interval, '{dst}'::text[], '{gw1}'::text[], '{10.32.1.0}'::inet[], NULL::inet[], "
    "'{tcp}'::text[], '{80,443}'::integer[]) ORDER BY 3",
    "SELECT * FROM public.traffic_open_connections(timestamptz '2020-09-13 12:00Z', timestamptz "
    "'2020-09-13 14:00Z', interval '1 h', '{proto,port}'::text[]) ORDER BY 1, 5, 6",
    "SELECT * FROM public.traffic_check(timestamptz '2020-01-01Z', timestamptz '2021-01-01Z')",
    "SELECT * FROM public.traffic_intervals ORDER BY time",
    "SELECT * FROM public.traffic_gap_regions ORDER BY began",
    "BEGIN; SELECT public.traffic_make_partitions('{2031-01-01Z}'::timestamptz[]); ROLLBACK",
    "BEGIN; SELECT public.traffic_add('total', '{2020-09-13 12:27Z}'::timestamptz[], "
    "'{gw1}'::text[], '{}'::inet[], '{}'::inet[], '{}'::text[], '{}'::integer[], '{1}'::bigint[], "
    "'{1}'::bigint[], '{1}'::bigint[], '{1}'::bigint[], '{1}'::bigint[], '{1}'::bigint[], "
    "'{1}'::bigint[], '{1}'::bigint[], '{1}'::bigint[], '{1}'::bigint[]); ROLLBACK",
    "BEGIN; SELECT public.traffic_worth_sending('destination_1h'::text, "
    "'{2020-09-13 13:00Z}'::timestamptz[], '{gw1}'::text[], '{5}'::bigint[]); UPDATE public.traffic_rollups SET "
    "room = 1; SELECT public.traffic_add('destination_port_1h', '{2020-09-13 13:00Z,2020-09-13 "
    "13:00Z,2020-09-13 13:00Z}'::timestamptz[], '{gw1,gw1,gw1}'::text[], '{}'::inet[], "
    "'{1.1.1.1,1.1.1.2,::1}'::inet[], '{tcp,tcp,udp}'::text[], '{1,2,3}'::integer[], "
    "'{1,1,1}'::bigint[], '{1,2,3}'::bigint[], '{1,1,1}'::bigint[], '{1,1,1}'::bigint[], "
    "'{1,1,1}'::bigint[], '{1,1,1}'::bigint[], '{1,1,1}'::bigint[], '{1,1,1}'::bigint[], "
    "'{1,1,1}'::bigint[], '{1,1,1}'::bigint[], '{0,0,0}'::bigint[]); ROLLBACK",
    "BEGIN; SELECT public.traffic_add_covered('{2020-09-13 12:30Z}'::timestamptz[], "
    "'{gw1}'::text[], '{-1}'::bigint[]); ROLLBACK",
    "BEGIN; SELECT * FROM public.traffic_drop_partition('rows'::text, timestamptz '2021-01-01Z'); "
    "SELECT * FROM public.traffic_drop_partition('1h'::text, timestamptz '2021-01-01Z'); ROLLBACK",
    "BEGIN; SELECT public.traffic_roll_up('public.vpn_traffic'::regclass); ROLLBACK",
    "BEGIN; SELECT public.traffic_adopt('public.vpn_traffic'::regclass, 'gw9'::text); ROLLBACK"};

// With a schema in which everybody may create objects, as PostgreSQL 14 has it and an operator may
// make it at any time; and in each session's own temporary one.
TEST_F(DatabaseAccessTest, NobodysFunctionRunsWithTheRightsOfOthers) {
  WriteSpool(1);
  WriteSpool(3);
  ASSERT_TRUE(DrainAsImporter().exit.ok());
  const std::vector<std::string> roles = {"postgres", "ctacct_importer", "ctacct_reader"};
  const auto ask = [&](const std::string& role, const std::string& sql) {
    return As(role,
              {"SET search_path = pg_catalog", "SET default_transaction_read_only = off", sql});
  };
  std::vector<std::string> expected;
  for (const std::string& role : roles) {
    for (const char* const sql : kAsked) expected.push_back(ask(role, sql));
  }
  EXPECT_THAT(expected, Contains(HasSubstr("gw1|10.32.")));
  const auto plant = [](const std::string& author, const std::string& schema) {
    return std::vector<std::string>{
        "SET search_path = pg_catalog", "SET default_transaction_read_only = off",
        "SET statement_timeout = 0",
        absl::StrReplaceAll(kPlant, {{"AUTHOR", author}, {"SCHEMA", schema}})};
  };
  EXPECT_THAT(As("ctacct_reader", plant("ctacct_reader", "public")),
              HasSubstr("permission denied for schema public"));

  WriteSpool(4);
  for (const std::string author : {"ctacct_importer", "ctacct_reader"}) {
    // The setting is one for convenience; a session's own does not reach a cluster's workers.
    Sql("GRANT CREATE ON SCHEMA public TO PUBLIC; ALTER ROLE " + author +
        " RESET default_transaction_read_only");
    ASSERT_EQ(As(author, plant(author, "public")), "");
    // That what was planted would run.
    Sql("CREATE OR REPLACE FUNCTION of_the_owner(times timestamptz[]) RETURNS bigint LANGUAGE "
        "plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS 'BEGIN RETURN (SELECT count(*) "
        "FROM unnest(times)); END'");
    Sql("CREATE OR REPLACE FUNCTION of_the_owner(n bigint) RETURNS interval LANGUAGE plpgsql "
        "SECURITY DEFINER SET search_path FROM CURRENT AS 'BEGIN RETURN n * interval ''1 us''; END'");
    for (const char* const sql : {"SELECT public.of_the_owner('{2020-01-01Z}'::timestamptz[])",
                                  "SELECT public.of_the_owner(3::bigint)"}) {
      EXPECT_THAT(ask("postgres", sql), HasSubstr("PLANTED by " + author + " runs as postgres"));
    }
    size_t next = 0;
    for (const std::string& role : roles) {
      for (const char* const sql : kAsked) EXPECT_EQ(ask(role, sql), expected[next++]) << sql;
    }

    // Our programs ask without names of schemas. They refuse, and name the remedy.
    const std::set<std::string> files = Names(watch_);
    const auto refused = [&](const std::string& message) {
      ExpectFails(DrainAsImporter(), 1, message);
      ExpectFails(Drain(), 1, message);
      ExpectFails(Run({"-adopt=no_such_table"}), 1, message);
    };
    refused(
        "roles other than the owner may create objects in schema public: REVOKE CREATE ON "
        "SCHEMA public FROM PUBLIC\n");
    Sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    refused(absl::StrCat("role ", author,
                         " made a function or operator in schema public, where "
                         "queries of others would run it: DROP "));
    EXPECT_EQ(Names(watch_), files);
    Sql("DROP FUNCTION of_the_owner(timestamptz[]), of_the_owner(bigint)");
    Sql("DROP OWNED BY " + author);
    Sql(Contents(DataPath("configs/postgres/roles.sql")));
    EXPECT_TRUE(Run({"-watch=" + done_, "-once"}).exit.ok());

    // In the author's own temporary schema, which nobody else sees.
    std::vector<std::string> statements = plant(author, "pg_temp");
    statements.push_back(
        "DO $$ DECLARE name text; BEGIN FOR name IN SELECT relname FROM pg_class WHERE relnamespace "
        "= 'public'::regnamespace AND relkind IN ('r', 'p', 'v') AND NOT relispartition LOOP "
        "EXECUTE format('CREATE TEMP TABLE %I (planted integer)', name); END LOOP; END $$");
    std::string answers;
    const size_t first = std::size(kAsked) * (author == "ctacct_importer" ? 1 : 2);
    for (size_t i = 0; i < std::size(kAsked); ++i) {
      if (absl::StrContains(expected[first + i], "ERROR")) continue;  // Not its right.
      statements.push_back(kAsked[i]);
      absl::StrAppend(&answers, expected[first + i]);
    }
    EXPECT_EQ(As(author, statements), answers);
  }
  EXPECT_TRUE(DrainAsImporter().exit.ok());
  ExpectSums();
}

// Where the tables do not exist yet.
TEST_F(DatabaseAccessTest, TablesAreMadeOnlyWhereNobodyElseMayCreate) {
  const std::string fresh = database_ + "_fresh";
  ASSERT_TRUE(postgres->MakeDatabase(fresh).ok());
  const auto drain = [&] {
    return Run({"-conninfo=" + postgres->Conninfo(fresh), "-watch=" + watch_, "-once"},
               /*connect=*/false);
  };
  Sql("GRANT CREATE ON SCHEMA public TO PUBLIC, ctacct_reader", fresh);
  ExpectFails(drain(), 1,
              "roles other than the owner may create objects in schema public: REVOKE CREATE ON "
              "SCHEMA public FROM PUBLIC; REVOKE CREATE ON SCHEMA public FROM ctacct_reader\n");
  EXPECT_EQ(Sql("SELECT to_regclass('ctacct_schema')", fresh), "");
  // A schema of our own does not help while public is in the path as well: it does without.
  // Citus 12.1 forgets a schema's quotes where it repeats a REVOKE on its workers.
  const std::string schema = postgres->IsCluster() ? "my_traffic" : "\"my-traffic\"";
  const std::string set_path = "ALTER DATABASE " + fresh + " SET search_path = " + schema;
  Sql("CREATE SCHEMA " + schema + "; " + set_path + ", public", fresh);
  ExpectFails(drain(), 1, "in schema public: REVOKE");
  Sql(set_path, fresh);
  Finished run = drain();
  EXPECT_TRUE(run.exit.ok()) << run.err;
  EXPECT_EQ(Sql("SELECT '" + schema + ".vpn_traffic'::regclass", fresh), "vpn_traffic");
  EXPECT_EQ(Sql("SELECT count(*) FROM traffic_check('-infinity', 'infinity')", fresh), "0");
  Sql("GRANT CREATE ON SCHEMA " + schema + " TO ctacct_reader", fresh);
  ExpectFails(drain(), 1, "FROM ctacct_reader");
  Sql("REVOKE CREATE ON SCHEMA " + schema + " FROM ctacct_reader", fresh);
  Sql("ALTER SCHEMA " + schema + " OWNER TO ctacct_reader", fresh);
  ExpectFails(
      drain(), 1,
      absl::StrReplaceAll("ALTER SCHEMA " + schema + " OWNER TO postgres\n", {{"\"", "\\\""}}));
  Sql("ALTER SCHEMA " + schema + " OWNER TO postgres", fresh);
  // A table by the name of ours that somebody made while everybody could.
  Sql("ALTER TABLE " + schema + ".ctacct_schema OWNER TO ctacct_reader", fresh);
  ExpectFails(drain(), 1, "role ctacct_reader has made table ctacct_schema and may not create");
  // A cluster's own sessions stay in it.
  Sql("DROP DATABASE " + fresh + " WITH (FORCE)", "postgres");
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
