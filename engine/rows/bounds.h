// What the numbers in a file of rows may be, spool or CSV. A checksum shows damage, not nonsense: a
// file beyond these bounds is the work of a program that went wrong, and sums in a database would
// suffer from it. The engine keeps within them (the Fit functions), readers refuse a file that does
// not, and the fuzzers check both. docs/formats.md has them as a table.
//
// Pure functions and plain values; thread-compatible.
#ifndef CTACCT_ENGINE_ROWS_BOUNDS_H_
#define CTACCT_ENGINE_ROWS_BOUNDS_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>

#include "absl/types/span.h"
#include "engine/rows/gap.h"
#include "engine/rows/traffic_row.h"

namespace ctacct {

// Every time: from 1970 up to the beginning of 2200.
inline constexpr int64_t kTimeEndNs = 7'258'118'400'000'000'000;
constexpr bool IsTime(int64_t ns) { return ns >= 0 && ns < kTimeEndNs; }
constexpr int64_t FitTime(int64_t ns) { return std::clamp<int64_t>(ns, 0, kTimeEndNs - 1); }

// Lengths of intervals: whole seconds, up to a day. An interval ends at a multiple of its length.
inline constexpr int64_t kIntervalUnitNs = 1'000'000'000;
inline constexpr int64_t kIntervalLengthMaxNs = 86'400 * kIntervalUnitNs;
// The end of an interval that the clock can show; otherwise the nearest one.
constexpr int64_t FitIntervalEnd(int64_t end_ns, int64_t length_ns) {
  return IsTime(end_ns) ? end_ns : FitTime(end_ns) / length_ns * length_ns;
}

// What an interval covers is this close to its end: its own length, and a pause of the whole
// machine. Rates are over it, so nonsense would make everybody's small. If both moments are the
// same, the length is not known (the clock was set), and they may be any time.
inline constexpr int64_t kCoveredDistanceMaxNs = 2 * kIntervalLengthMaxNs;
constexpr bool IsNearEnough(int64_t covered_ns, int64_t end_ns) {
  return covered_ns >= end_ns - kCoveredDistanceMaxNs &&
         covered_ns <= end_ns + kCoveredDistanceMaxNs;
}
// `end_ns`: within the bounds.
void FitCovered(int64_t end_ns, int64_t* covered_from_ns, int64_t* covered_to_ns);

// The largest bigint of PostgreSQL.
inline constexpr uint64_t kSequenceMax = std::numeric_limits<int64_t>::max();
// Connections and flows of a row: the largest integer of PostgreSQL.
inline constexpr uint64_t kCountMax = std::numeric_limits<int32_t>::max();
// Of each counter, the sum over a file's rows or gaps: 9 petabytes, or 285,000 years of
// connections. A gateway of 800 Gb/s needs a day to reach it. A double holds it exactly.
inline constexpr uint64_t kSumMax = uint64_t{1} << 53;
inline constexpr int32_t kPortMax = 65535;
// Of a spool file: the largest -max-rows.
inline constexpr uint64_t kSpoolRowsMax = 10'000'000;

// A counter of a row: its name in CSV and messages, and its bound in one row. In one file the sum
// is at most kSumMax.
struct RowCounter {
  const char* name;
  uint64_t TrafficRow::*value;
  uint64_t most;
};
inline constexpr std::array<RowCounter, 9> kRowCounters = {{
    {"packets_src", &TrafficRow::packets_src, kSumMax},
    {"packets_dst", &TrafficRow::packets_dst, kSumMax},
    {"bytes_src", &TrafficRow::bytes_src, kSumMax},
    {"bytes_dst", &TrafficRow::bytes_dst, kSumMax},
    {"connection_count", &TrafficRow::connection_count, kCountMax},
    {"connection_time", &TrafficRow::connection_time_ms, kSumMax},
    {"open_connections", &TrafficRow::open_connections, kCountMax},
    {"flow_count", &TrafficRow::flow_count, kCountMax},
    {"unanswered_count", &TrafficRow::unanswered_count, kCountMax},
}};

// What is wrong with a row or a gap: "a row's port is out of range". Empty if nothing is.
[[nodiscard]] std::string RowProblem(const TrafficRow& row);
[[nodiscard]] std::string GapProblem(const Gap& gap);

// The sums of a file's rows so far.
class RowSums {
 public:
  // Adds a row that has no RowProblem. The counter whose sum is larger than kSumMax now; nullptr if
  // none is, otherwise no more is to be added.
  [[nodiscard]] const RowCounter* Add(const TrafficRow& row) {
    const RowCounter* beyond = nullptr;
    for (size_t i = 0; i < kRowCounters.size(); ++i) {
      sums_[i] += row.*kRowCounters[i].value;
      if (sums_[i] > kSumMax) [[unlikely]]
        beyond = &kRowCounters[i];
    }
    return beyond;
  }
  // What to say then.
  static std::string Problem(const RowCounter& counter);

 private:
  std::array<uint64_t, kRowCounters.size()> sums_{};
};

// The same of its gaps. Two counts: events dropped and flows lost.
[[nodiscard]] std::string GapSumsProblem(absl::Span<const Gap> gaps);

// For the engine, whatever the kernel or a capture claims: counters are cut to their bounds, times
// to theirs. True if counters were cut other than the connection time, which may saturate: then the
// rows do not say everything.
[[nodiscard]] bool FitRows(absl::Span<TrafficRow> rows);
void FitGaps(absl::Span<Gap> gaps);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ROWS_BOUNDS_H_
