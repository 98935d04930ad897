// What the importer does in the database: its tables, and one file's rows, exactly once.
//
// A file is one transaction: its ledger row, its gaps, its rows by COPY, COMMIT. The ledger's
// primary key lets one of several importers through and makes the others wait for it. Whether a
// COMMIT whose answer was lost has happened is what the ledger says at the next try.
//
// Errors as in pg_connection.h; after any but AlreadyExists throw the connection away: it may be
// within a transaction. Thread-compatible.
#ifndef CTACCT_IMPORTER_DATABASE_H_
#define CTACCT_IMPORTER_DATABASE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "importer/pg_connection.h"
#include "importer/traffic_file.h"

namespace ctacct {

// Makes the tables where they are missing. FailedPrecondition if a newer importer has made them.
[[nodiscard]] absl::Status EnsureSchema(PgConnection& connection);

enum class ImportOutcome {
  kImported,
  kDoneBefore,  // The ledger has this file; nothing was changed.
};

// `summary` is what a pass over the file has returned before. Errors:
//  - AlreadyExists: the ledger has a file of this engine and sequence with other contents; nothing
//    was changed
//  - InvalidArgument: the database or a column's range refuses the file's values
//  - Aborted: the file is no more what `summary` says
//  - others: of TrafficFile::Read, or of the connection
[[nodiscard]] absl::StatusOr<ImportOutcome> ImportFile(PgConnection& connection,
                                                       const TrafficFile& file,
                                                       const FileSummary& summary);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_DATABASE_H_
