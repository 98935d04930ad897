// What every reader of rows has to hold to (engine/rows/bounds.h), checked without the functions
// that the readers use. Aborts where a reader accepted more.
#ifndef CTACCT_TESTS_FUZZ_BOUNDS_H_
#define CTACCT_TESTS_FUZZ_BOUNDS_H_

#include <cstdint>
#include <cstdlib>
#include <string>

#include "engine/rows/bounds.h"
#include "engine/rows/gap.h"
#include "engine/rows/traffic_row.h"

namespace ctacct {

inline void Expect(bool holds) {
  if (!holds) std::abort();
}

// Sums in 128 bits, which nothing overflows.
struct ExactSums {
  unsigned __int128 of[kRowCounters.size()] = {};

  void Add(const TrafficRow& row) {
    size_t i = 0;
    for (const RowCounter& counter : kRowCounters) of[i++] += row.*counter.value;
  }
  void ExpectWithinBounds() const {
    for (const unsigned __int128 sum : of) Expect(sum <= kSumMax);
  }
};

inline void ExpectWithinBounds(const TrafficRow& row) {
  Expect(row.time_ns >= 0 && row.time_ns < kTimeEndNs);
  Expect(row.family == AddressFamily::kIpv4 || row.family == AddressFamily::kIpv6);
  Expect(row.port >= -1 && row.port <= kPortMax);
  Expect(row.packets_src <= kSumMax && row.packets_dst <= kSumMax);
  Expect(row.bytes_src <= kSumMax && row.bytes_dst <= kSumMax);
  Expect(row.connection_time_ms <= kSumMax);
  Expect(row.connection_count <= kCountMax && row.open_connections <= kCountMax);
  Expect(row.flow_count <= kCountMax && row.unanswered_count <= row.flow_count);
}

inline void ExpectWithinBounds(const Gap& gap) {
  Expect(gap.began_ns >= 0 && gap.began_ns <= gap.ended_ns && gap.ended_ns < kTimeEndNs);
  Expect(gap.events_dropped <= kSumMax && gap.flows_lost <= kSumMax);
  Expect(static_cast<size_t>(gap.cause) >= 1 && static_cast<size_t>(gap.cause) <= kGapCauses);
  Expect(gap.completeness == Completeness::kResynced || gap.completeness == Completeness::kPartial);
}

}  // namespace ctacct

#endif  // CTACCT_TESTS_FUZZ_BOUNDS_H_
