// How names files get into traffic_names, each exactly once.
//
// A transaction has the ledger row of one file and what its snapshot changes. Errors as in load.h.
// Thread-compatible.
#ifndef CTACCT_IMPORTER_TABLES_LOAD_NAMES_H_
#define CTACCT_IMPORTER_TABLES_LOAD_NAMES_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "engine/spool/names_file.h"
#include "importer/postgres/pg_connection.h"
#include "importer/tables/load.h"

namespace ctacct {

struct NamesOutcome {
  ImportOutcome outcome = ImportOutcome::kDoneBefore;
  uint64_t changed = 0;  // Rows of traffic_names.
  bool newest = true;    // No newer snapshot of the gateway was loaded before.
};

// `file_name` is for the ledger. AlreadyExists: the ledger has a file of this writer and sequence
// with other contents.
[[nodiscard]] absl::StatusOr<NamesOutcome> LoadNames(PgConnection& connection,
                                                     const NamesSnapshot& snapshot,
                                                     const std::string& file_name);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_TABLES_LOAD_NAMES_H_
