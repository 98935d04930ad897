// The doctor's checks of the database. They may not write.
#include <libpq-fe.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "importer/doctor/checks.h"
#include "importer/tables/schema_rights.h"
#include "importer/tables/versions.h"

namespace ctacct {
namespace {

constexpr double kClockSecondsWarn = 1;
constexpr double kDiskDaysWarn = 14;
constexpr double kDiskDaysFail = 2;
// What grows so slowly that it is full later will have changed until then.
constexpr double kDiskDaysMax = 3650;

// The rights of a role that may only add rows (configs/postgres/roles.sql) that the present role
// does not have: privilege and object. $1: whether it also drops partitions.
constexpr char kMissingRights[] =
    "SELECT privilege, 'TABLE ' || name AS object FROM (VALUES ('SELECT', 'ctacct_schema'), "
    "('SELECT', 'import_ledger'), ('INSERT', 'import_ledger'), ('INSERT', 'vpn_traffic'), "
    "('INSERT', 'traffic_gaps'), ('INSERT', 'traffic_names_arriving')) AS wanted (privilege, name) "
    "WHERE to_regclass(name) IS NULL OR NOT has_table_privilege(to_regclass(name), privilege) "
    "UNION ALL "
    "SELECT 'EXECUTE', 'FUNCTION ' || proname FROM pg_proc "
    "WHERE pronamespace = current_schema()::regnamespace AND (proname IN "
    "('traffic_make_partitions', 'traffic_summarize', 'traffic_worth_sending', 'traffic_add', "
    "'traffic_add_covered', 'traffic_load_names') OR "
    "(proname = 'traffic_drop_partition' AND $1)) "
    "AND NOT has_function_privilege(oid, 'EXECUTE') ORDER BY 1, 2";

std::string Value(const absl::StatusOr<PgResult>& result, int row, int column) {
  return PQgetvalue(result->get(), row, column);
}

// Where the database is, as arguments of psql and pg_isready. Never with a password.
struct Place {
  std::string host, port, database, user;

  std::string Arguments(const std::string& as_user) const {
    std::string text;
    const std::pair<const char*, const std::string&> options[] = {
        {" -h ", host}, {" -p ", port}, {" -d ", database}, {" -U ", as_user}};
    for (const auto& [option, value] : options) {
      if (!value.empty()) absl::StrAppend(&text, option, ShellQuoted(value));
    }
    return text;
  }
};

Place PlaceOf(const PgOptions& options) {
  Place place;
  PQconninfoOption* const parsed = PQconninfoParse(options.conninfo.c_str(), nullptr);
  for (const PQconninfoOption* option = parsed; option != nullptr && option->keyword != nullptr;
       ++option) {
    if (option->val == nullptr) continue;
    const std::string keyword = option->keyword;
    if (keyword == "host") place.host = option->val;
    if (keyword == "port") place.port = option->val;
    if (keyword == "dbname") place.database = option->val;
    if (keyword == "user") place.user = option->val;
  }
  PQconninfoFree(parsed);
  if (!options.host.empty()) place.host = options.host;
  if (!options.database.empty()) place.database = options.database;
  if (!options.user.empty()) place.user = options.user;
  return place;
}

std::string MigrationCommand(const DoctorOptions& options) {
  const std::string program =
      options.importer_program.empty() ? "ctacct-importer" : options.importer_program;
  std::string text = ShellQuoted(program);
  if (!options.importer_flags.empty()) {
    absl::StrAppend(&text, " -flagfile=", ShellQuoted(options.importer_flags));
  }
  // As given: with a password in it, it is not repeated.
  if (const std::string& conninfo = options.database.conninfo;
      options.importer_flags.empty() && !conninfo.empty()) {
    absl::StrAppend(&text, " -conninfo=",
                    absl::StrContains(conninfo, "pass") || absl::StrContains(conninfo, "://")
                        ? "..."
                        : ShellQuoted(conninfo));
  }
  const std::pair<const char*, const std::string&> flags[] = {{" -host=", options.database.host},
                                                              {" -db=", options.database.database},
                                                              {" -user=", options.database.user}};
  for (const auto& [flag, value] : flags) {
    if (options.importer_flags.empty() && !value.empty()) {
      absl::StrAppend(&text, flag, ShellQuoted(value));
    }
  }
  return absl::StrCat(text, " -migrate");
}

constexpr char kNoConnection[] = "no connection";

// The transaction of a check: read-only, and rolled back at its end, so that no setting stays in a
// session that a pooler shares.
class Reading {
 public:
  explicit Reading(Examination& examination)
      : connection_(examination.connection.has_value() ? &*examination.connection : nullptr) {
    if (connection_ != nullptr && !connection_->Execute("BEGIN READ ONLY").ok()) {
      connection_ = nullptr;
    }
  }
  Reading(const Reading&) = delete;
  Reading& operator=(const Reading&) = delete;
  ~Reading() {
    if (connection_ != nullptr) (void)connection_->Execute("ROLLBACK");
  }
  [[nodiscard]] PgConnection* connection() const { return connection_; }

 private:
  PgConnection* connection_;  // Null: there is none.
};

// What a table grows by each day, and for how long: then retention drops as much as is added.
struct Growth {
  double bytes_per_day;
  double days;
};

double BytesAfter(const std::vector<Growth>& tables, double days) {
  double bytes = 0;
  for (const Growth& table : tables) bytes += table.bytes_per_day * std::min(days, table.days);
  return bytes;
}

// At most kDiskDaysMax.
double DaysUntilFull(const std::vector<Growth>& tables, uint64_t free_bytes) {
  double fits = 0, too_long = kDiskDaysMax;
  if (BytesAfter(tables, too_long) <= static_cast<double>(free_bytes)) return too_long;
  while (too_long - fits > 0.01) {
    const double middle = (fits + too_long) / 2;
    (BytesAfter(tables, middle) <= static_cast<double>(free_bytes) ? fits : too_long) = middle;
  }
  return fits;
}

// None, with an OK status: the first traffic is too young.
absl::StatusOr<std::optional<std::vector<Growth>>> AskGrowth(
    PgConnection& connection, const std::map<std::string, int>& retention_days) {
  std::vector<std::string> kept;
  for (const char* const tier : {"rows", "fine", "10m", "1h"}) {
    const auto days = retention_days.find(tier);
    kept.push_back(days == retention_days.end() ? "0" : absl::StrCat(days->second));
  }
  // What is older than it is kept is dropped within the hour. Then nothing is dropped until the
  // next one is as old.
  const absl::StatusOr<PgResult> answer = connection.Query(
      "SELECT bytes_per_day, extract(epoch FROM (SELECT min(ends) FROM unnest(partition_ends) AS "
      "ends WHERE ends > now() - kept) + kept - now()) / 86400 FROM traffic_growth() LEFT JOIN "
      "(SELECT tier, nullif(days, 0) * interval '1 day' AS kept FROM (VALUES ('rows', $1::integer), "
      "('fine', $2::integer), ('10m', $3::integer), ('1h', $4::integer)) AS flags (tier, days)) AS "
      "retention USING (tier)",
      {kept[0].c_str(), kept[1].c_str(), kept[2].c_str(), kept[3].c_str()});
  if (!answer.ok()) return answer.status();
  std::vector<Growth> tables;
  for (int row = 0; row < PQntuples(answer->get()); ++row) {
    Growth growth = {0, std::numeric_limits<double>::infinity()};
    if (!absl::SimpleAtod(Value(answer, row, 0), &growth.bytes_per_day)) return std::nullopt;
    if (PQgetisnull(answer->get(), row, 1) == 0 &&
        !absl::SimpleAtod(Value(answer, row, 1), &growth.days)) {
      return absl::InternalError("a number of days is none");
    }
    tables.push_back(growth);
  }
  return tables;
}

// The server's folder for new tables, if the server is on this machine and this process may look:
// a server's process works in its data directory, which says whose it is.
absl::StatusOr<std::string> DataFolder(PgConnection& connection) {
  const absl::StatusOr<PgResult> answer = connection.Query(
      "SELECT pg_backend_pid(), (SELECT system_identifier FROM pg_control_system()), CASE "
      "dattablespace WHEN 1663 THEN 'base' ELSE 'pg_tblspc/' || dattablespace END "
      "FROM pg_database WHERE datname = current_database()",
      {});
  if (!answer.ok()) return answer.status();
  const std::string link = absl::StrCat("/proc/", Value(answer, 0, 0), "/cwd");
  std::error_code error;
  const std::string data = std::filesystem::read_symlink(link, error);
  if (error) return absl::NotFoundError(error.message());
  // By the link, which leads there also out of a container.
  uint64_t identifier = 0;
  std::ifstream control(link + "/global/pg_control", std::ios::binary);
  control.read(reinterpret_cast<char*>(&identifier), sizeof(identifier));
  if (!control || absl::StrCat(identifier) != Value(answer, 0, 1)) {
    return absl::NotFoundError("another server's process");
  }
  return absl::StrCat(link, "/", Value(answer, 0, 2));
}

}  // namespace

Finding CheckDatabase(Examination& examination) {
  const DoctorOptions& options = examination.options;
  if (!options.has_database) {
    return Skip("none named; -conninfo, -host or -db, or -importer-flags=FILE");
  }
  const Place place = PlaceOf(options.database);
  absl::StatusOr<PgConnection> connection = PgConnection::Open(options.database);
  if (!connection.ok()) {
    // Without libpq's guess: the remedies are better.
    const std::string whole(connection.status().message());
    const std::string message = whole.substr(0, whole.find("; Is the server running"));
    if (absl::StrContains(message, "no password supplied")) {
      return Fail(
          message,
          {absl::StrCat(options.importer_flags.empty() ? "sensible-editor ~/.pgpass"
                                                       : "sensible-editor /etc/ctacct/pgpass",
                        "   # a line HOST:PORT:DATABASE:USER:PASSWORD, mode 0600")});
    }
    return Fail(message, {absl::StrCat("pg_isready", place.Arguments(place.user)),
                          absl::StrCat("psql", place.Arguments(place.user), " -c 'SELECT 1'")});
  }
  // Before anything else is asked: our queries would run what others have put there.
  if (absl::Status status = CheckSchemaRights(*connection); !status.ok()) {
    const std::vector<std::string> parts = absl::StrSplit(status.message(), ": ");
    if (!absl::IsFailedPrecondition(status) || parts.size() != 2) {
      return Fail(std::string(status.message()), {});
    }
    return Fail(parts[0], {absl::StrCat("psql", place.Arguments(""), " -c ", ShellQuoted(parts[1]),
                                        "   # as a superuser")});
  }
  const absl::StatusOr<PgResult> about = connection->Query(
      "SELECT current_setting('server_version'), current_database(), current_user, "
      "pg_is_in_recovery(), current_setting('default_transaction_read_only')",
      {});
  if (!about.ok()) return Fail(std::string(about.status().message()), {});
  examination.connection = *std::move(connection);
  const std::string version = Value(about, 0, 0);
  const std::string shown =
      absl::StrCat("PostgreSQL ", version.substr(0, version.find(' ')), ", database ",
                   Value(about, 0, 1), " as ", Value(about, 0, 2));
  if (absl::Status encoding = CheckEncoding(*examination.connection); !encoding.ok()) {
    return Fail(absl::StrCat(shown, ": its encoding is ", examination.connection->ServerEncoding(),
                             ", which cannot store every gateway's name"),
                {absl::StrCat("createdb --encoding=UTF8 --template=template0",
                              Place{place.host, place.port, "", place.user}.Arguments(place.user),
                              " NEW_NAME")});
  }
  if (Value(about, 0, 3) == "t") {
    return Fail(absl::StrCat(shown, ": a standby, which takes no rows"),
                {absl::StrCat("psql", place.Arguments(place.user),
                              " -Atc 'SHOW primary_conninfo'   # where its primary is")});
  }
  if (Value(about, 0, 4) == "on") {
    return Fail(
        absl::StrCat(shown, ": read-only (default_transaction_read_only), so it takes no rows"),
        {absl::StrCat("psql", place.Arguments(place.user),
                      " -c 'SELECT setting, source FROM pg_settings WHERE name = "
                      "$$default_transaction_read_only$$'")});
  }
  return Ok(shown);
}

Finding CheckSchema(Examination& examination) {
  const Reading reading(examination);
  PgConnection* const connection = reading.connection();
  if (connection == nullptr) return Skip(kNoConnection);
  const absl::StatusOr<PgResult> hidden = connection->Query(
      "SELECT has_table_privilege(to_regclass('ctacct_schema'), 'SELECT') = false", {});
  if (!hidden.ok()) return Fail(std::string(hidden.status().message()), {});
  if (Value(hidden, 0, 0) == "t") return Skip("this role may not read its version, see role");
  const absl::StatusOr<SchemaVersions> versions = ReadSchemaVersions(*connection);
  if (!versions.ok()) return Fail(std::string(versions.status().message()), {});
  if (versions->found > versions->newest) {
    return Fail(absl::StrCat("version ", versions->found, ", and this ctacct knows up to ",
                             versions->newest, ": a newer one has been here"),
                {"apt-get install --only-upgrade ctacct   # or build the newer release"});
  }
  if (versions->found == versions->newest) {
    return Ok(absl::StrCat("version ", versions->found, ", the newest"));
  }
  const std::string shown = versions->found == 0 ? "none of ctacct's tables are there"
                                                 : absl::StrCat("version ", versions->found,
                                                                ", to become ", versions->newest);
  const absl::StatusOr<PgResult> may = connection->Query(
      "SELECT coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AND "
      "coalesce((SELECT pg_has_role(relowner, 'USAGE') FROM pg_class "
      "WHERE oid = to_regclass('ctacct_schema')), true)",
      {});
  if (may.ok() && Value(may, 0, 0) == "t") {
    return Warn(absl::StrCat(shown, "; the importer makes them when it starts"),
                {MigrationCommand(examination.options)});
  }
  return Fail(absl::StrCat(shown, ", and this role may not make them; as one who may:"),
              {MigrationCommand(examination.options)});
}

Finding CheckRole(Examination& examination) {
  const Reading reading(examination);
  PgConnection* const connection = reading.connection();
  if (connection == nullptr) return Skip(kNoConnection);
  const absl::StatusOr<PgResult> missing =
      connection->Query(kMissingRights, {examination.options.retention_days.empty() ? "f" : "t"});
  if (!missing.ok()) return Fail(std::string(missing.status().message()), {});
  const absl::StatusOr<PgResult> names = connection->Query(
      "SELECT quote_ident(current_user), current_database(), (SELECT relowner::regrole::text "
      "FROM pg_class WHERE oid = to_regclass('ctacct_schema'))",
      {});
  if (!names.ok()) return Fail(std::string(names.status().message()), {});
  if (PQgetisnull(names->get(), 0, 2) != 0) return Skip("no tables yet");
  const std::string role = Value(names, 0, 0);
  if (PQntuples(missing->get()) == 0) return Ok(absl::StrCat(role, " may add rows"));
  std::vector<std::string> lacks, grants;
  for (int i = 0; i < PQntuples(missing->get()); ++i) {
    const std::string privilege = Value(missing, i, 0);
    const std::string object = Value(missing, i, 1);
    lacks.push_back(absl::StrCat(privilege, " on ", object.substr(object.find(' ') + 1)));
    grants.push_back(absl::StrCat("GRANT ", privilege, " ON ", object, " TO ", role));
  }
  Place place = PlaceOf(examination.options.database);
  place.database = Value(names, 0, 1);
  return Fail(absl::StrCat(role, " has no ", absl::StrJoin(lacks, ", ")),
              {absl::StrCat("psql", place.Arguments(Value(names, 0, 2)), " -c ",
                            ShellQuoted(absl::StrJoin(grants, "; ")))});
}

Finding CheckDatabaseClock(Examination& examination) {
  const Reading reading(examination);
  PgConnection* const connection = reading.connection();
  if (connection == nullptr) return Skip(kNoConnection);
  const absl::Time asked = absl::Now();
  const absl::StatusOr<PgResult> answer =
      connection->Query("SELECT extract(epoch FROM clock_timestamp())", {});
  const absl::Time answered = absl::Now();
  double there = 0;
  if (!answer.ok() || !absl::SimpleAtod(Value(answer, 0, 0), &there)) {
    return Skip("the database does not say what time it is");
  }
  const double here = absl::ToDoubleSeconds(asked + (answered - asked) / 2 - absl::UnixEpoch());
  const double error = absl::ToDoubleSeconds(answered - asked) / 2;
  const double difference = there - here;
  const std::string shown =
      absl::StrFormat("the database's is %.3f s %s (to %.3f s)", std::abs(difference),
                      difference < 0 ? "behind" : "ahead", error);
  if (std::abs(difference) - error < kClockSecondsWarn) return Ok(shown);
  return Warn(absl::StrCat(shown, ": `now()` in queries is not this machine's"),
              {"timedatectl set-ntp true   # on both"});
}

Finding CheckDisk(Examination& examination) {
  const DoctorOptions& options = examination.options;
  const Reading reading(examination);
  PgConnection* const connection = reading.connection();
  if (connection == nullptr) return Skip(kNoConnection);
  // Not of another version's tables. A partition has the tablespace that was set when it was made.
  const absl::StatusOr<PgResult> about = connection->Query(
      "SELECT function IS NULL, coalesce(has_function_privilege(function, 'EXECUTE'), false), "
      "EXISTS (SELECT FROM pg_extension WHERE extname = 'citus'), "
      "(SELECT string_agg(DISTINCT spcname, ', ') FROM pg_class JOIN pg_tablespace ON "
      "pg_tablespace.oid = reltablespace WHERE relnamespace = current_schema()::regnamespace "
      "AND relkind = 'r') FROM to_regproc('traffic_growth') AS function",
      {});
  if (!about.ok()) return Fail(std::string(about.status().message()), {});
  if (Value(about, 0, 0) == "t") return Skip("no tables yet");
  if (Value(about, 0, 1) != "t") {
    return Skip("this role may not call traffic_growth(); roles.sql grants it");
  }
  if (Value(about, 0, 2) == "t") {
    return Skip("the rows are on other machines (Citus): look at the free space there");
  }
  const absl::StatusOr<std::optional<std::vector<Growth>>> tables =
      AskGrowth(*connection, options.retention_days);
  if (!tables.ok()) return Fail(std::string(tables.status().message()), {});
  double grows = 0;
  for (const Growth& table : tables->value_or(std::vector<Growth>())) {
    if (table.days > 0) grows += table.bytes_per_day;
  }
  const std::string growth =
      !tables->has_value() ? "growth not known in the first three hours"
      : grows < 1          ? "does not grow"
                  : absl::StrCat("grows ", BytesText(static_cast<uint64_t>(grows)), " a day");
  if (const std::string elsewhere = Value(about, 0, 3); !elsewhere.empty()) {
    return Ok(absl::StrCat(growth, "; tables are in tablespace ", elsewhere,
                           ": look at the free space there"));
  }
  const absl::StatusOr<std::string> folder = DataFolder(*connection);
  struct statvfs space {};
  if (!folder.ok() || statvfs(folder->c_str(), &space) != 0) {
    return Ok(absl::StrCat(growth, geteuid() == 0
                                       ? "; look at the free space on the server's machine"
                                       : "; only root can see the server's free space"));
  }
  const uint64_t free_bytes = uint64_t{space.f_bavail} * space.f_frsize;
  const std::string shown = absl::StrCat(BytesText(free_bytes), " free, ", growth);
  if (!tables->has_value() || grows < 1) return Ok(shown);
  const double days = DaysUntilFull(**tables, free_bytes);
  if (days >= kDiskDaysMax) return Ok(absl::StrCat("lasts for years (", shown, ")"));
  const std::string lasts =
      absl::StrCat("lasts about ",
                   days < kDiskDaysFail ? CountText(static_cast<uint64_t>(days * 24), "hour")
                                        : CountText(static_cast<uint64_t>(days), "day"),
                   " (", shown, ")");
  if (days >= kDiskDaysWarn) return Ok(lasts);
  std::error_code ignored;
  std::vector<std::string> remedies = {
      absl::StrCat("df -h ", ShellQuoted(std::filesystem::canonical(*folder, ignored).string()))};
  if (!options.importer_flags.empty()) {
    remedies.push_back(absl::StrCat("sensible-editor ", ShellQuoted(options.importer_flags),
                                    "   # keep less: -retention-rows and the flags below it"));
  }
  return days < kDiskDaysFail ? Fail(lasts, remedies) : Warn(lasts, remedies);
}

}  // namespace ctacct
