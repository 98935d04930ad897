// The flags by which all our programs find their database: -conninfo, or -host, -db, -user and
// -pass, else libpq's own settings. Not thread-safe: for main.
#ifndef CTACCT_IMPORTER_POSTGRES_CONNECTION_FLAGS_H_
#define CTACCT_IMPORTER_POSTGRES_CONNECTION_FLAGS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "importer/postgres/pg_connection.h"

namespace ctacct {

// What the flags say, once the command line is parsed. InvalidArgument, fit for the command line's
// error, if libpq could not use it.
[[nodiscard]] absl::StatusOr<PgOptions> ConnectionOptionsFromFlags();

// InvalidArgument, without a word of what was given, if libpq could not use these settings, or if
// part of a password has probably become the host, the port or the database: libpq and the server
// repeat those in their messages. ConnectionOptionsFromFlags has checked its own.
[[nodiscard]] absl::Status CheckConnection(const PgOptions& options);

// InvalidArgument if an argument that is no flag is a connection string, which messages about files
// and unexpected arguments would repeat.
[[nodiscard]] absl::Status CheckArguments(const std::vector<std::string>& arguments);

// Overwrites passwords and connection strings in argv: secrets have no place in a process list.
// They stay visible for the moment until this runs; the help says so. From here on there is no core
// dump of this process either.
void HideSecrets(int argc, char** argv);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_POSTGRES_CONNECTION_FLAGS_H_
