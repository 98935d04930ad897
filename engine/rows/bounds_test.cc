#include "engine/rows/bounds.h"

#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace ctacct {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kYear2200 = 7'258'118'400 * kSecond;
constexpr uint64_t kMost = uint64_t{1} << 53;

// Whether a reader takes them.
bool AreSound(const std::vector<TrafficRow>& rows) {
  RowSums sums;
  for (const TrafficRow& row : rows) {
    if (!RowProblem(row).empty() || sums.Add(row) != nullptr) return false;
  }
  return true;
}

TEST(BoundsTest, TimesAreFrom1970To2199) {
  EXPECT_TRUE(IsTime(0) && IsTime(kYear2200 - 1));
  EXPECT_FALSE(IsTime(-1) || IsTime(kYear2200));
  EXPECT_EQ(FitTime(-1), 0);
  EXPECT_EQ(FitTime(kYear2200), kYear2200 - 1);
  EXPECT_EQ(FitTime(5), 5);
  EXPECT_EQ(FitIntervalEnd(45 * kSecond, 15 * kSecond), 45 * kSecond);
  EXPECT_EQ(FitIntervalEnd(-15 * kSecond, 15 * kSecond), 0);
  const int64_t last = FitIntervalEnd(std::numeric_limits<int64_t>::max(), 7 * kSecond);
  EXPECT_TRUE(IsTime(last) && !IsTime(last + 7 * kSecond));
  EXPECT_EQ(last % (7 * kSecond), 0);
}

TEST(BoundsTest, WhatWasCoveredIsNearTheIntervalOrOfUnknownLength) {
  constexpr int64_t kEnd = 1'600'000'005 * kSecond;
  constexpr int64_t kFar = 2 * 86'400 * kSecond;
  struct Case {
    int64_t from;
    int64_t to;
    int64_t fit_from;
    int64_t fit_to;
  };
  for (const Case& each : std::vector<Case>{
           {kEnd - 15 * kSecond, kEnd, kEnd - 15 * kSecond, kEnd},
           {kEnd - kFar, kEnd + kFar, kEnd - kFar, kEnd + kFar},
           // The clock showed 1970 when the engine started, or was set back by years.
           {5, kEnd, kEnd, kEnd},
           {kEnd - kFar - 1, kEnd, kEnd, kEnd},
           {kEnd, kEnd + kFar + 1, kEnd + kFar + 1, kEnd + kFar + 1},
           {5, 5, 5, 5},
           {-7, -5, 0, 0},
           {kYear2200 + 5, kYear2200 + 9, kYear2200 - 1, kYear2200 - 1},
           {kEnd, kEnd - 1, kEnd, kEnd},
       }) {
    int64_t from = each.from;
    int64_t to = each.to;
    FitCovered(kEnd, &from, &to);
    EXPECT_EQ(from, each.fit_from) << each.from << " " << each.to;
    EXPECT_EQ(to, each.fit_to) << each.from << " " << each.to;
  }
}

TEST(BoundsTest, RowsWithinTheBoundsAreLeftAsTheyAre) {
  TrafficRow row;
  for (const RowCounter& counter : kRowCounters) row.*counter.value = counter.most / 3;
  const std::vector<TrafficRow> rows(3, row);
  std::vector<TrafficRow> fit = rows;
  EXPECT_FALSE(FitRows(absl::MakeSpan(fit)));
  EXPECT_EQ(fit, rows);
}

TEST(BoundsTest, EachCounterIsCutToItsBoundAndItsSum) {
  for (const RowCounter& counter : kRowCounters) {
    SCOPED_TRACE(counter.name);
    std::vector<TrafficRow> rows(3);
    for (TrafficRow& row : rows) row.flow_count = 5;
    if (counter.value == &TrafficRow::unanswered_count) rows[0].flow_count = kCountMax;
    rows[0].*counter.value = counter.most + 1;
    rows[2].*counter.value = 5;
    const bool sums = counter.most == kMost;
    // The connection time saturates; its rows are still complete.
    EXPECT_EQ(FitRows(absl::MakeSpan(rows)), counter.value != &TrafficRow::connection_time_ms);
    EXPECT_TRUE(AreSound(rows));
    EXPECT_EQ(rows[0].*counter.value, counter.most);
    EXPECT_EQ(rows[2].*counter.value, sums ? 0u : 5u);
  }
}

TEST(BoundsTest, WhateverTheEngineSumsUpItsReadersTake) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 1000; ++round) {
    std::vector<TrafficRow> rows(random() % 20);
    for (TrafficRow& row : rows) {
      for (const RowCounter& counter : kRowCounters) {
        row.*counter.value = random() >> (random() % 64);
      }
    }
    (void)FitRows(absl::MakeSpan(rows));
    ASSERT_TRUE(AreSound(rows)) << round;
    std::vector<Gap> gaps(random() % 20);
    for (Gap& gap : gaps) {
      gap.began_ns = static_cast<int64_t>(random());
      gap.ended_ns = std::max(gap.began_ns, static_cast<int64_t>(random()));
      gap.events_dropped = random() >> (random() % 64);
      gap.flows_lost = random() >> (random() % 64);
    }
    FitGaps(absl::MakeSpan(gaps));
    for (const Gap& gap : gaps) ASSERT_EQ(GapProblem(gap), "");
    ASSERT_EQ(GapSumsProblem(gaps), "");
  }
}

}  // namespace
}  // namespace ctacct
