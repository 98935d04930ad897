#include "importer/tables/versions.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "importer/tables/schema_rights.h"

namespace ctacct {
namespace {

constexpr const char* kSteps[] = {
#include "importer/tables/schema_steps.inc"
};

// Two importers must not make tables at the same time. The number is "ctacct" in ASCII.
constexpr char kLock[] = "SELECT pg_advisory_xact_lock(109351501259636)";

// Without IF NOT EXISTS this would fail if another importer has made it while we waited: this
// session's catalogue cache does not know yet.
constexpr char kMakeVersionTable[] =
    "CREATE TABLE IF NOT EXISTS ctacct_schema "
    "(version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())";

// What the steps make lies in one schema. Temporary tables come last: views must not be made of
// them.
constexpr char kSetPath[] =
    "SELECT set_config('search_path', format('%I, pg_temp', current_schema()), true), "
    "quote_ident(current_schema())";

// In a step: the schema, for functions, which do not search for what they use.
constexpr char kSchemaPlace[] = "@extschema@";
// As for PostgreSQL's extensions: the steps have it within strings of format().
constexpr char kUnquotableBytes[] = "\"$'\\%";

constexpr char kLockLedger[] = "LOCK TABLE import_ledger IN SHARE ROW EXCLUSIVE MODE";

constexpr char kSqlstateDuplicateTable[] = "SQLSTATE 42P07";  // How its message begins.

// From table ctacct_schema, which must exist.
absl::StatusOr<int> ReadVersion(PgConnection& connection) {
  const absl::StatusOr<PgResult> result =
      connection.Query("SELECT coalesce(max(version), 0) FROM ctacct_schema", {});
  if (!result.ok()) return result.status();
  int version = 0;
  if (!absl::SimpleAtoi(PQgetvalue(result->get(), 0, 0), &version)) {
    return absl::FailedPreconditionError("table ctacct_schema contains no version");
  }
  return version;
}

absl::Status CheckNotNewer(int version, SchemaSteps steps) {
  if (version <= static_cast<int>(steps.size())) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the database's schema is of version ", version,
                                                    ", this importer knows versions up to ",
                                                    steps.size()));
}

// The schema of our tables, as SQL writes it. Sets the path.
absl::StatusOr<std::string> EnterSchema(PgConnection& connection) {
  const absl::StatusOr<PgResult> result = connection.Query(kSetPath, {});
  if (!result.ok()) return result.status();
  std::string schema = PQgetvalue(result->get(), 0, 1);
  const absl::string_view bare =
      absl::StripSuffix(absl::StripPrefix(schema, "\""), "\"");  // "my-schema"
  if (bare.empty() || bare.find_first_of(kUnquotableBytes) != absl::string_view::npos) {
    return absl::FailedPreconditionError(
        "search_path names no schema that is there and whose name has none of \" $ ' \\ %");
  }
  return schema;
}

absl::Status ApplyStep(PgConnection& connection, const std::string& schema, int version,
                       const char* step) {
  absl::Status status =
      connection.Execute(absl::StrReplaceAll(step, {{kSchemaPlace, schema}}).c_str());
  if (status.ok()) {
    status = connection
                 .Query("INSERT INTO ctacct_schema (version) VALUES ($1)",
                        {std::to_string(version).c_str()})
                 .status();
  }
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat("schema version ", version, ": ", status.message(),
                                   absl::StartsWith(status.message(), kSqlstateDuplicateTable)
                                       ? " (not made by ctacct: rename it, ctacct makes its own; "
                                         "-adopt takes over the Go tool's)"
                                       : ""));
}

}  // namespace

SchemaSteps OurSteps() { return kSteps; }

absl::StatusOr<SchemaVersions> ReadSchemaVersions(PgConnection& connection, SchemaSteps steps) {
  SchemaVersions versions;
  versions.newest = static_cast<int>(steps.size());
  const absl::StatusOr<PgResult> table =
      connection.Query("SELECT to_regclass('ctacct_schema')", {});
  if (!table.ok()) return table.status();
  if (PQgetisnull(table->get(), 0, 0) != 0) return versions;
  const absl::StatusOr<int> found = ReadVersion(connection);
  if (!found.ok()) return found.status();
  versions.found = *found;
  return versions;
}

absl::Status CheckEncoding(const PgConnection& connection) {
  const std::string encoding = connection.ServerEncoding();
  if (encoding.empty() || encoding == "UTF8" || encoding == "SQL_ASCII") return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the database's encoding is ", encoding,
                   ", which cannot store every gateway's name: make another database with "
                   "createdb --encoding=UTF8 --template=template0"));
}

absl::Status EnsureSchema(PgConnection& connection, SchemaSteps steps) {
  if (absl::Status status = CheckEncoding(connection); !status.ok()) return status;
  if (absl::Status status = CheckSchemaRights(connection); !status.ok()) return status;
  const absl::StatusOr<SchemaVersions> versions = ReadSchemaVersions(connection, steps);
  if (!versions.ok() || versions->found == versions->newest) return versions.status();
  if (absl::Status status = CheckNotNewer(versions->found, steps); !status.ok()) return status;
  return InLongTransaction(connection, [&] { return ApplySteps(connection, steps); });
}

absl::Status ApplySteps(PgConnection& connection, SchemaSteps steps) {
  for (const char* const statement : {kLock, kMakeVersionTable}) {
    if (absl::Status status = connection.Execute(statement); !status.ok()) return status;
  }
  const absl::StatusOr<std::string> schema = EnterSchema(connection);
  if (!schema.ok()) return schema.status();
  const absl::StatusOr<int> version = ReadVersion(connection);
  if (!version.ok()) return version.status();
  if (absl::Status status = CheckNotNewer(*version, steps); !status.ok()) return status;
  const SchemaSteps missing = steps.subspan(*version);
  if (*version > 0 && !missing.empty()) {
    if (absl::Status status = connection.Execute(kLockLedger); !status.ok()) return status;
  }
  int next = *version;
  for (const char* const step : missing) {
    if (absl::Status status = ApplyStep(connection, *schema, ++next, step); !status.ok())
      return status;
  }
  return absl::OkStatus();
}

absl::Status CheckVersion(PgConnection& connection, SchemaSteps steps) {
  const absl::StatusOr<int> version = ReadVersion(connection);
  return version.ok() ? CheckNotNewer(*version, steps) : version.status();
}

absl::Status InTransaction(PgConnection& connection, absl::FunctionRef<absl::Status()> work) {
  absl::Status status = connection.Begin();
  if (status.ok()) status = work();
  return status.ok() ? connection.Commit() : status;
}

absl::Status InLongTransaction(PgConnection& connection, absl::FunctionRef<absl::Status()> work) {
  connection.set_answer_timeout(absl::Hours(24));
  absl::Status status = connection.Begin(/*statement_timeout=*/absl::ZeroDuration());
  if (status.ok()) status = work();
  if (status.ok()) status = connection.Commit();
  connection.set_answer_timeout(kAnswerTimeoutDefault);
  return status;
}

}  // namespace ctacct
