// How rows get into the tables: files, each exactly once, and the Go tool's table.
//
// A transaction has the ledger rows, gaps and rows (COPY) of some files, and what these rows add to
// the rollups. The ledger's primary key lets one of several importers through, and the others wait
// for it. If the answer to a COMMIT was lost, the ledger shows at the next try whether it happened.
//
// Errors as in pg_connection.h; after any error but AlreadyExists throw the connection away: it may
// be within a transaction. Thread-compatible.
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
#include "importer/tables/versions.h"

namespace ctacct {

enum class ImportOutcome {
  kImported,
  kDoneBefore,  // The ledger has this file; nothing was changed.
  // The ledger has another CSV file with these contents, and neither names its gateway. This one
  // may be a copy, or the file of another gateway. Nothing was changed.
  kSameAsAnother,
};

struct FileToImport {
  const TrafficFile* file;
  const FileSummary* summary;  // From a first pass over the file.
};

// All files in one transaction; outcomes in their order. `known_days` are the days (since the
// epoch) that have partitions, as far as the caller's connection has seen: empty at first.
// Errors, after which none of the files is in the database:
//  - AlreadyExists: the ledger has a file of this engine and sequence with other contents
//  - Aborted: a file no longer matches its summary
//  - others: of TrafficFile::Read, CheckVersion, or of the connection
// The first two do not name the file: of several, try each alone.
[[nodiscard]] absl::StatusOr<std::vector<ImportOutcome>> ImportTogether(
    PgConnection& connection, absl::Span<const FileToImport> files, std::set<int32_t>* known_days,
    SchemaSteps steps = OurSteps());

// Copies the rows of a table with the columns of the Go tool's vpn_traffic, under the name of
// `gateway`, in one transaction; makes the schema if there is none. If the table is itself called
// vpn_traffic it is renamed to vpn_traffic_reference. Nothing is deleted. Returns the number of
// rows; AlreadyExists if that was done before.
[[nodiscard]] absl::StatusOr<uint64_t> AdoptTable(PgConnection& connection,
                                                  const std::string& table,
                                                  const std::string& gateway);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_TABLES_LOAD_H_
