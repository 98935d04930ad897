// The flags by which all our programs find their database: -conninfo, or -host, -db, -user and
// -pass, else libpq's own settings. Not thread-safe: for main.
#ifndef CTACCT_IMPORTER_POSTGRES_CONNECTION_FLAGS_H_
#define CTACCT_IMPORTER_POSTGRES_CONNECTION_FLAGS_H_

#include "absl/status/statusor.h"
#include "importer/postgres/pg_connection.h"

namespace ctacct {

// What the flags say, once the command line is parsed. InvalidArgument, fit for the command line's
// error, if libpq could not use it.
[[nodiscard]] absl::StatusOr<PgOptions> ConnectionOptionsFromFlags();

// Overwrites passwords and connection strings in argv: secrets have no place in a process list.
// They stay visible for the moment until this runs; the help says so.
void HideSecrets(int argc, char** argv);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_POSTGRES_CONNECTION_FLAGS_H_
