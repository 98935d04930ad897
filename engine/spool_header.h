// What a spool file says about all its rows. A plain value; thread-compatible.
#ifndef CTACCT_ENGINE_SPOOL_HEADER_H_
#define CTACCT_ENGINE_SPOOL_HEADER_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/engine_id.h"
#include "engine/traffic_row.h"

namespace ctacct {

struct SpoolHeader {
  EngineId engine_id{};
  uint64_t sequence = 0;  // From 1 in each run of the engine; never used twice for other rows.
  int64_t interval_end_ns = 0;     // Since the Unix epoch; equals time_ns of every row.
  int64_t interval_length_ns = 0;  // Greater than 0.
  int64_t created_ns = 0;          // Since the Unix epoch.
  uint64_t events_dropped = 0;     // Within the interval.
  Completeness completeness = Completeness::kComplete;
  bool track_open = false;
  std::string gateway;  // As CheckGatewayName wants it.

  friend bool operator==(const SpoolHeader&, const SpoolHeader&) = default;
};

// A gateway's name goes into files, logs and text columns: at most spool_format::kGatewayBytesMax
// bytes of UTF-8, no control characters; empty is fine. InvalidArgument says what is wrong. Meant
// for flags, before any work is done: a name that WriteSpoolFile or the database refuses later
// refuses every file.
[[nodiscard]] absl::Status CheckGatewayName(absl::string_view name);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SPOOL_HEADER_H_
