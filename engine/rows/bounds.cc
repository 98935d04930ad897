#include "engine/rows/bounds.h"

#include "absl/strings/str_cat.h"

namespace ctacct {
namespace {

// Cuts a counter to what is left of its sum.
bool FitCounter(uint64_t most, uint64_t* counter, uint64_t* sum) {
  const uint64_t fits = std::min({*counter, most, kSumMax - *sum});
  const bool cut = fits != *counter;
  *counter = fits;
  *sum += fits;
  return cut;
}

}  // namespace

void FitCovered(int64_t end_ns, int64_t* covered_from_ns, int64_t* covered_to_ns) {
  *covered_from_ns = FitTime(*covered_from_ns);
  *covered_to_ns = std::max(FitTime(*covered_to_ns), *covered_from_ns);
  if (!IsNearEnough(*covered_from_ns, end_ns) || !IsNearEnough(*covered_to_ns, end_ns)) {
    *covered_from_ns = *covered_to_ns;
  }
}

std::string RowProblem(const TrafficRow& row) {
  if (!IsTime(row.time_ns)) return "a row's time is before 1970 or after 2199";
  if (row.family != AddressFamily::kIpv4 && row.family != AddressFamily::kIpv6) {
    return "a row's address family is unknown";
  }
  if (row.port < kPortNotListed || row.port > kPortMax) return "a row's port is out of range";
  for (const RowCounter& counter : kRowCounters) {
    if (row.*counter.value > counter.most) [[unlikely]] {
      return absl::StrCat("a row's ", counter.name, " is more than ", counter.most);
    }
  }
  if (row.unanswered_count > row.flow_count) {
    return "a row's unanswered_count is more than its flow_count";
  }
  return "";
}

std::string GapProblem(const Gap& gap) {
  if (!IsTime(gap.began_ns)) return "a gap's beginning is before 1970 or after 2199";
  if (!IsTime(gap.ended_ns)) return "a gap's end is before 1970 or after 2199";
  if (gap.ended_ns < gap.began_ns) return "a gap ends before it began";
  if (GapCauseName(gap.cause) == nullptr) return "a gap has no known cause";
  if (gap.completeness == Completeness::kComplete ||
      CompletenessName(gap.completeness) == nullptr) {
    return "a gap is neither resynced nor partial";
  }
  if (gap.events_dropped > kSumMax) {
    return absl::StrCat("a gap's events dropped are more than ", kSumMax);
  }
  if (gap.flows_lost > kSumMax) return absl::StrCat("a gap's flows lost are more than ", kSumMax);
  return "";
}

std::string GapSumsProblem(absl::Span<const Gap> gaps) {
  uint64_t events = 0;
  uint64_t flows = 0;
  for (const Gap& gap : gaps) {
    events += gap.events_dropped;
    flows += gap.flows_lost;
    if (events > kSumMax)
      return absl::StrCat("the gaps' events dropped add up to more than ", kSumMax);
    if (flows > kSumMax) return absl::StrCat("the gaps' flows lost add up to more than ", kSumMax);
  }
  return "";
}

std::string RowSums::Problem(const RowCounter& counter) {
  return absl::StrCat("the rows' ", counter.name, " add up to more than ", kSumMax);
}

bool FitRows(absl::Span<TrafficRow> rows) {
  std::array<uint64_t, kRowCounters.size()> sums{};
  bool cut = false;
  for (TrafficRow& row : rows) {
    for (size_t i = 0; i < kRowCounters.size(); ++i) {
      const RowCounter& counter = kRowCounters[i];
      // What it is part of comes before it, and may have been cut.
      const uint64_t most = counter.value == &TrafficRow::unanswered_count
                                ? std::min(counter.most, row.flow_count)
                                : counter.most;
      const bool was_cut = FitCounter(most, &(row.*counter.value), &sums[i]);
      cut |= was_cut && counter.value != &TrafficRow::connection_time_ms;
    }
  }
  return cut;
}

void FitGaps(absl::Span<Gap> gaps) {
  uint64_t events = 0;
  uint64_t flows = 0;
  for (Gap& gap : gaps) {
    gap.began_ns = FitTime(gap.began_ns);
    gap.ended_ns = FitTime(gap.ended_ns);
    FitCounter(kSumMax, &gap.events_dropped, &events);
    FitCounter(kSumMax, &gap.flows_lost, &flows);
  }
}

}  // namespace ctacct
