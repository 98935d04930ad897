// The header of a spool file: what is common to all its rows. A plain value; thread-compatible.
#ifndef CTACCT_ENGINE_SPOOL_SPOOL_HEADER_H_
#define CTACCT_ENGINE_SPOOL_SPOOL_HEADER_H_

#include <cstdint>
#include <string>

#include "engine/rows/traffic_row.h"
#include "engine/spool/engine_id.h"

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
  std::string gateway;  // A name that CheckGatewayName accepts.

  friend bool operator==(const SpoolHeader&, const SpoolHeader&) = default;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SPOOL_SPOOL_HEADER_H_
