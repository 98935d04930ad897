// Partitions of vpn_traffic and of the rollups: made before the rows of their day come, dropped
// whole by retention.
//
// Errors as in pg_connection.h; after any error throw the connection away. Thread-compatible.
#ifndef CTACCT_IMPORTER_TABLES_PARTITIONS_H_
#define CTACCT_IMPORTER_TABLES_PARTITIONS_H_

#include <cstdint>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "importer/postgres/pg_connection.h"

namespace ctacct {

// Makes the partitions of those `days` (since the epoch) that are not in `known_days`, and adds
// them there.
[[nodiscard]] absl::Status MakePartitions(PgConnection& connection, const std::set<int32_t>& days,
                                          std::set<int32_t>* known_days);

// Lets the index of vpn_traffic know the new pages of these days, so that queries do not read them
// all. Waits for nobody, so some may be left to the next call or to vacuum.
[[nodiscard]] absl::Status SummarizePartitions(PgConnection& connection,
                                               const std::set<int32_t>& days);

// Drops partitions that end more than `days` ago, one transaction each: of vpn_traffic ("rows";
// partitions whose rows are not all in the rollups stay) or of a tier of rollups ("fine", "10m",
// "1h"). The log names each partition and whether it was dropped; `*dropped` counts the dropped
// ones. Unavailable also if a long query held the lock.
[[nodiscard]] absl::Status DropOldPartitions(PgConnection& connection, const std::string& tier,
                                             int days, uint64_t* dropped);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_TABLES_PARTITIONS_H_
