#include "engine/output/interval_totals.h"

#include <array>

#include "gtest/gtest.h"

namespace ctacct {
namespace {

Gap GapOf(GapCause cause, int64_t began_ns, int64_t ended_ns) {
  Gap gap;
  gap.cause = cause;
  gap.began_ns = began_ns;
  gap.ended_ns = ended_ns;
  return gap;
}

TEST(IntervalTotalsTest, AGapOverSeveralIntervalsIsOne) {
  IntervalTotals totals;
  const auto& overruns = totals.by_cause[static_cast<size_t>(GapCause::kOverrun)];
  totals.Note(10, Completeness::kPartial, {GapOf(GapCause::kOverrun, 8, 10)});
  // The same gap, continued: reported with its original start, or from the boundary on.
  totals.Note(20, Completeness::kPartial, {GapOf(GapCause::kOverrun, 8, 20)});
  totals.Note(30, Completeness::kResynced, {GapOf(GapCause::kOverrun, 20, 23)});
  EXPECT_EQ(overruns.count, 1u);
  EXPECT_EQ(overruns.duration_ns, 15);
  totals.Note(40, Completeness::kResynced,
              {GapOf(GapCause::kOverrun, 31, 32), GapOf(GapCause::kOverrun, 35, 39),
               GapOf(GapCause::kRestart, 31, 33)});
  EXPECT_EQ(overruns.count, 3u);
  EXPECT_EQ(overruns.duration_ns, 20);
  EXPECT_EQ(totals.by_cause[static_cast<size_t>(GapCause::kRestart)].count, 1u);
  // The clock was set back.
  totals.Note(50, Completeness::kResynced, {GapOf(GapCause::kOverrun, 1, 2)});
  EXPECT_EQ(overruns.count, 4u);
  EXPECT_EQ(overruns.duration_ns, 21);
  EXPECT_EQ(totals.by_completeness, (std::array<uint64_t, 3>{0, 3, 2}));
  EXPECT_EQ(totals.last_end_ns, 50);
}

}  // namespace
}  // namespace ctacct
