#include "engine/rows/gap.h"

#include <cstdint>
#include <limits>
#include <vector>

#include "gtest/gtest.h"

namespace ctacct {
namespace {

using Gaps = std::vector<Gap>;

constexpr size_t kAtMost = 100;

Gap Overrun(int64_t began_ns, int64_t ended_ns, uint64_t dropped = 0,
            Completeness completeness = Completeness::kResynced) {
  return {began_ns, ended_ns, GapCause::kOverrun, completeness, dropped, 1};
}

Gaps Joined(Gaps gaps, size_t at_most = kAtMost) {
  JoinGaps(at_most, &gaps);
  return gaps;
}

TEST(GapTest, OverlappingOnesOfACauseAreOne) {
  const Gap joined = {10, 50, GapCause::kOverrun, Completeness::kPartial, 6, 3};
  EXPECT_EQ(
      Joined({Overrun(40, 50, 3), Overrun(10, 30, 1), Overrun(20, 40, 2, Completeness::kPartial)}),
      Gaps{joined});
  // One within the other, and one behind both that the first one still reaches.
  EXPECT_EQ(
      Joined({Overrun(10, 50, 1, Completeness::kPartial), Overrun(20, 30, 2), Overrun(45, 48, 3)}),
      Gaps{joined});
}

TEST(GapTest, OthersStayApart) {
  Gap restart = Overrun(12, 15);
  restart.cause = GapCause::kRestart;
  const Gaps gaps = {Overrun(10, 20, 1), restart, Overrun(21, 30, 2)};
  EXPECT_EQ(Joined({gaps[2], gaps[1], gaps[0]}), gaps);
  EXPECT_EQ(Joined({}), Gaps{});
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  const Gaps far = {Overrun(kMin, kMin), Overrun(kMax, kMax)};
  EXPECT_EQ(Joined(far), far);
}

TEST(GapTest, AClockThatWasSetBackWithinOne) {
  EXPECT_EQ(Joined({Overrun(30, 10, 5)}), Gaps{Overrun(10, 30, 5)});
}

TEST(GapTest, TooManyBecomeOneOfEachCause) {
  Gaps gaps;
  for (int64_t i = 0; i < 1000; ++i) {
    gaps.push_back(Overrun(10 * i, 10 * i + 1, 2));
    gaps.push_back({10 * i + 5, 10 * i + 6, GapCause::kAllocation, Completeness::kPartial, 0, 1});
  }
  EXPECT_EQ(Joined(gaps, 2000).size(), 2000u);
  const Gaps joined = {{0, 9991, GapCause::kOverrun, Completeness::kResynced, 2000, 1000},
                       {5, 9996, GapCause::kAllocation, Completeness::kPartial, 0, 1000}};
  EXPECT_EQ(Joined(gaps, 1999), joined);
}

TEST(GapTest, WhatIsNoCauseHasNoName) {
  EXPECT_STREQ(GapCauseName(GapCause::kOverrun), "overrun");
  EXPECT_STREQ(GapCauseName(GapCause::kAllocation), "allocation");
  EXPECT_STREQ(GapCauseName(GapCause::kRestart), "restart");
  EXPECT_EQ(GapCauseName(static_cast<GapCause>(0)), nullptr);
  EXPECT_EQ(GapCauseName(static_cast<GapCause>(kGapCauses + 1)), nullptr);
  EXPECT_STREQ(CompletenessName(Completeness::kComplete), "complete");
  EXPECT_STREQ(CompletenessName(Completeness::kResynced), "resynced");
  EXPECT_STREQ(CompletenessName(Completeness::kPartial), "partial");
  EXPECT_EQ(CompletenessName(static_cast<Completeness>(3)), nullptr);
}

}  // namespace
}  // namespace ctacct
