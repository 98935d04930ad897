// The versions of our schema, and the steps that lead from each to the next.
//
// In the steps @extschema@ is the schema of the tables. Step 1 makes the baseline: the files
// rows.sql to questions.sql of importer/tables/schema. Each later step is one more file there,
// which never changes once it is released. Missing steps are applied in one transaction under an
// advisory lock, so of several importers that start at once one applies them and the others find
// them done. Before a step the ledger is locked: files that are being loaded are committed first,
// and an importer of an older version, which does not know the step, commits none after it
// (CheckVersion).
//
// Errors as in pg_connection.h; FailedPrecondition if the database is of a newer version than the
// steps. Thread-compatible.
#ifndef CTACCT_IMPORTER_TABLES_VERSIONS_H_
#define CTACCT_IMPORTER_TABLES_VERSIONS_H_

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "importer/postgres/pg_connection.h"

namespace ctacct {

// SQL; the first makes version 1. Tests pass more steps than this program has.
using SchemaSteps = absl::Span<const char* const>;
[[nodiscard]] SchemaSteps OurSteps();

struct SchemaVersions {
  int found = 0;   // In the database; 0: it has none of our tables.
  int newest = 0;  // To which the steps lead.
};
// Changes nothing.
[[nodiscard]] absl::StatusOr<SchemaVersions> ReadSchemaVersions(PgConnection& connection,
                                                                SchemaSteps steps = OurSteps());

// Checks the encoding and the rights (schema_rights.h), and brings the database to the newest
// version. If it is, this needs no right but to read ctacct_schema.
[[nodiscard]] absl::Status EnsureSchema(PgConnection& connection, SchemaSteps steps = OurSteps());

// The same within the caller's transaction, without checking the rights.
[[nodiscard]] absl::Status ApplySteps(PgConnection& connection, SchemaSteps steps = OurSteps());

// For a transaction that has written to import_ledger, before its COMMIT: fails if a newer importer
// has applied a step since EnsureSchema.
[[nodiscard]] absl::Status CheckVersion(PgConnection& connection, SchemaSteps steps = OurSteps());

// FailedPrecondition if the database's encoding cannot store every name: it must be UTF-8, or none.
[[nodiscard]] absl::Status CheckEncoding(const PgConnection& connection);

// Runs `work` and COMMIT in a transaction.
[[nodiscard]] absl::Status InTransaction(PgConnection& connection,
                                         absl::FunctionRef<absl::Status()> work);
// The same without the usual limits of time: `work` may read or write the rows of a whole season.
[[nodiscard]] absl::Status InLongTransaction(PgConnection& connection,
                                             absl::FunctionRef<absl::Status()> work);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_TABLES_VERSIONS_H_
