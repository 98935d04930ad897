// What the importer does in the database: its tables, and files' rows, exactly once.
//
// A transaction is some files' ledger rows, gaps, rows by COPY, and what all these rows add to the
// rollups, then COMMIT. The ledger's primary key lets one of several importers through and makes
// the others wait for it. Whether a COMMIT whose answer was lost has happened is what the ledger
// says at the next try.
//
// Errors as in pg_connection.h; after any but AlreadyExists throw the connection away: it may be
// within a transaction. Thread-compatible.
#ifndef CTACCT_IMPORTER_TABLES_LOAD_H_
#define CTACCT_IMPORTER_TABLES_LOAD_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "importer/files/traffic_file.h"
#include "importer/postgres/pg_connection.h"

namespace ctacct {

struct SchemaVersions {
  int found = 0;   // In the database; 0: none of our tables.
  int newest = 0;  // That this program knows.
};
// Changes nothing.
[[nodiscard]] absl::StatusOr<SchemaVersions> ReadSchemaVersions(PgConnection& connection);

// Makes the tables where they are missing. FailedPrecondition if a newer importer has made them.
[[nodiscard]] absl::Status EnsureSchema(PgConnection& connection);

enum class ImportOutcome {
  kImported,
  kDoneBefore,  // The ledger has this file; nothing was changed.
};

struct FileToImport {
  const TrafficFile* file;
  const FileSummary* summary;  // What a pass over the file has returned before.
};

// All of them in one transaction; outcomes in their order. `known_days` are those (since the epoch)
// for which there are partitions, as far as the caller's connection to this database has seen:
// empty at first. Errors, after which none of the files is in the database:
//  - AlreadyExists: the ledger has a file of this engine and sequence with other contents
//  - InvalidArgument: the database or a column's range refuses a file's values
//  - Aborted: a file is no more what its summary says
//  - others: of TrafficFile::Read, or of the connection
// The first three do not say which file it was: with several, try each by itself.
[[nodiscard]] absl::StatusOr<std::vector<ImportOutcome>> ImportTogether(
    PgConnection& connection, absl::Span<const FileToImport> files, std::set<int32_t>* known_days);

// Makes the partitions of these days, where the caller does not know of them.
[[nodiscard]] absl::Status MakePartitions(PgConnection& connection, const std::set<int32_t>& days,
                                          std::set<int32_t>* known_days);

// Drops partitions that end more than `days` ago, one transaction each: of vpn_traffic ("rows";
// those whose rows are not all in the rollups stay) or of a tier of rollups ("fine", "10m", "1h").
// What was done or not is in the log; `*dropped` grows by what was. Unavailable also where a long
// query was in the way.
[[nodiscard]] absl::Status DropOldPartitions(PgConnection& connection, const std::string& tier,
                                             int days, uint64_t* dropped);

// Takes over the rows of a table with the columns of the reference's vpn_traffic, in the name of
// `gateway`, in one transaction; makes the schema if there is none. If the table is itself called
// vpn_traffic it is renamed to vpn_traffic_reference. Nothing is deleted. Returns the number of
// rows; AlreadyExists if that was done before.
[[nodiscard]] absl::StatusOr<uint64_t> AdoptTable(PgConnection& connection,
                                                  const std::string& table,
                                                  const std::string& gateway);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_TABLES_LOAD_H_
