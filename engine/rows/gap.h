// A stretch of time in which some traffic may not be recorded. A plain value; thread-compatible.
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
  kUnreported = 4,  // Flows ended and the kernel did not report it, or a dump did not show all.
  kSettings = 5,    // The kernel did not count or report everything: acct, events or timestamps.
  kRenamed = 6,     // The gateway was given another name.
};
inline constexpr size_t kGapCauses = 6;

struct Gap {
  // Since the Unix epoch. Nothing was lost before the first moment, or after the second.
  int64_t began_ns = 0;
  int64_t ended_ns = 0;
  GapCause cause = GapCause::kOverrun;
  Completeness completeness = Completeness::kPartial;  // Never kComplete.
  uint64_t events_dropped = 0;  // By the kernel, exact; 0 also if the number is unknown.
  // Flows that ended within the gap, and whose last traffic was not reported. A lower bound: of a
  // flow that began and ended within it, nothing may be known.
  uint64_t flows_lost = 0;

  friend bool operator==(const Gap&, const Gap&) = default;
};

// As files, database and messages call them: one word; nullptr for a number outside the enum.
[[nodiscard]] const char* GapCauseName(GapCause cause);
[[nodiscard]] const char* CompletenessName(Completeness completeness);

// Joins the gaps that several workers report of one interval: gaps of the same cause that overlap
// or touch become one, with the union of their times, the sums of their counts and the worse
// completeness. The result is sorted by beginning. If the clock was set back within a gap, so that
// it ends before it began, the two moments are swapped. If more than `at_most` (kGapCauses or more)
// gaps are left, those of each cause become one: that gap is longer than necessary, but none is
// missing.
void JoinGaps(size_t at_most, std::vector<Gap>* gaps);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ROWS_GAP_H_
