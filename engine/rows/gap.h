// A stretch of time in which something may have moved that no row tells. A plain value;
// thread-compatible.
#ifndef CTACCT_ENGINE_ROWS_GAP_H_
#define CTACCT_ENGINE_ROWS_GAP_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/rows/traffic_row.h"

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

// As files, database and messages call them: one word; nullptr for a number that is none of them.
[[nodiscard]] const char* GapCauseName(GapCause cause);
[[nodiscard]] const char* CompletenessName(Completeness completeness);

// What several workers tell of one interval, told once: gaps of the same cause that overlap or
// touch become one that has the union of their times, the sums of their counts and the worse
// completeness. Sorted by beginning afterwards. A gap in which the clock was set back, so that it
// ends before it began, holds both moments then. Should more than `at_most` (3 or more) be left,
// those of each cause become one: a longer gap is still a true one, no gap would not be.
void JoinGaps(size_t at_most, std::vector<Gap>* gaps);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ROWS_GAP_H_
