// Totals over all intervals: how many were complete, and which gaps they had.
//
// Plain values, thread-compatible.
#ifndef CTACCT_ENGINE_OUTPUT_INTERVAL_TOTALS_H_
#define CTACCT_ENGINE_OUTPUT_INTERVAL_TOTALS_H_

#include <array>
#include <cstdint>
#include <vector>

#include "engine/rows/gap.h"
#include "engine/rows/traffic_row.h"

namespace ctacct {

// Of all intervals that have ended.
struct IntervalTotals {
  struct Gaps {
    uint64_t count = 0;
    int64_t duration_ns = 0;
    // The last one. Each interval that a gap touches reports it, so a long gap comes again.
    int64_t began_ns = 0;
    int64_t ended_ns = 0;
  };

  std::array<uint64_t, 3> by_completeness{};    // By its number.
  std::array<Gaps, kGapCauses + 1> by_cause{};  // By its number, from 1.
  int64_t last_end_ns = 0;                      // Since the Unix epoch; 0: none has ended.

  void Note(int64_t end_ns, Completeness completeness, const std::vector<Gap>& gaps);
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_OUTPUT_INTERVAL_TOTALS_H_
