// What the files of a spool folder tell, for tests: sums of all rows, and the gaps.
#ifndef CTACCT_TESTS_SUPPORT_SPOOL_ROWS_H_
#define CTACCT_TESTS_SUPPORT_SPOOL_ROWS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/rows/gap.h"
#include "engine/spool/spool_header.h"
#include "tests/support/gateway.h"

namespace ctacct {

struct SpoolRows {
  Traffic traffic;
  std::vector<Gap> gaps;
  std::vector<SpoolHeader> headers;  // Of all files, in the order of their names.
  uint64_t events_dropped = 0;       // By the headers.
};

// Of the visible spool files in `folder`; a bad one is an error.
[[nodiscard]] absl::StatusOr<SpoolRows> ReadSpool(const std::string& folder);

// But for what begins with a dot: that is the engine's own.
[[nodiscard]] bool NothingVisible(const std::string& folder);

// Packets and bytes alone, for what closed while nobody looked.
[[nodiscard]] Traffic WithoutConnections(Traffic traffic);

}  // namespace ctacct

#endif  // CTACCT_TESTS_SUPPORT_SPOOL_ROWS_H_
