// A stretch of time in which something may have moved that no row tells. A plain value;
// thread-compatible.
#ifndef CTACCT_ENGINE_GAP_H_
#define CTACCT_ENGINE_GAP_H_

#include <cstdint>

#include "engine/traffic_row.h"

namespace ctacct {

// Numbers of the spool format.
enum class GapCause : uint8_t {
  kOverrun = 1,     // The kernel dropped events: a receive buffer was full.
  kAllocation = 2,  // The kernel had no memory for events, and does not know how many it lost.
  kRestart = 3,     // No engine ran.
};

struct Gap {
  // Since the Unix epoch. The last moment before which nothing can have been lost, and the first
  // one after which nothing was.
  int64_t began_ns = 0;
  int64_t ended_ns = 0;
  GapCause cause = GapCause::kOverrun;
  Completeness completeness = Completeness::kPartial;  // Never kComplete.
  uint64_t events_dropped = 0;  // By the kernel, exact; 0 also where it is not known.
  // Flows known to have lived before and not to live after, whose last traffic nobody told.
  uint64_t flows_lost = 0;

  friend bool operator==(const Gap&, const Gap&) = default;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_GAP_H_
