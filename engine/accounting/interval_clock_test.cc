#include "engine/accounting/interval_clock.h"

#include "gtest/gtest.h"

namespace ctacct {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

TEST(IntervalClockTest, TheFirstTimeOpensTheFirstInterval) {
  IntervalClock clock(15 * kSecond);
  EXPECT_EQ(clock.open_end_ns(), 0);
  EXPECT_FALSE(clock.IsPast(1));
  clock.Observe(31 * kSecond);
  clock.Observe(99 * kSecond);  // Only the first counts.
  EXPECT_EQ(clock.open_end_ns(), 45 * kSecond);
}

// Another run begins: the interval is that of the clock, whatever an earlier run has ended.
TEST(IntervalClockTest, RestartsDoNotPushTimeAhead) {
  for (int64_t second = 31; second <= 60; ++second) {
    IntervalClock clock(15 * kSecond);
    clock.Observe(second * kSecond);
    EXPECT_EQ(clock.open_end_ns(), second <= 45 ? 45 * kSecond : 60 * kSecond);
  }
}

TEST(IntervalClockTest, ATimeOnTheBoundaryBelongsToTheIntervalItEnds) {
  IntervalClock clock(15 * kSecond);
  clock.Observe(30 * kSecond);
  EXPECT_EQ(clock.open_end_ns(), 30 * kSecond);
  EXPECT_FALSE(clock.IsPast(30 * kSecond));
  EXPECT_TRUE(clock.IsPast(30 * kSecond + 1));
}

TEST(IntervalClockTest, OnlyADumpBegunAtOrAfterTheBoundaryEndsIt) {
  IntervalClock clock(15 * kSecond);
  clock.Observe(1 * kSecond);
  clock.DumpBegins(15 * kSecond - 1);
  EXPECT_FALSE(clock.DumpEndsInterval());
  clock.DumpBegins(15 * kSecond);
  EXPECT_TRUE(clock.DumpEndsInterval());
  clock.OpenAfterDump();
  EXPECT_EQ(clock.open_end_ns(), 30 * kSecond);
}

TEST(IntervalClockTest, SeveralBoundariesMayPassAtOnce) {
  IntervalClock by_dump(15 * kSecond);
  by_dump.Observe(1 * kSecond);
  by_dump.DumpBegins(61 * kSecond);
  EXPECT_TRUE(by_dump.DumpEndsInterval());
  by_dump.OpenAfterDump();
  EXPECT_EQ(by_dump.open_end_ns(), 75 * kSecond);

  IntervalClock by_packet(15 * kSecond);
  by_packet.Observe(1 * kSecond);
  EXPECT_TRUE(by_packet.IsPast(100 * kSecond));
  by_packet.OpenAfterPacket(100 * kSecond);
  EXPECT_EQ(by_packet.open_end_ns(), 105 * kSecond);
}

// Fault 23.
TEST(IntervalClockTest, SetBackByADayItContinuesWhereTheClockIs) {
  constexpr int64_t kDay = 86400 * kSecond;
  IntervalClock clock(15 * kSecond);
  clock.Observe(kDay + 100 * kSecond);
  EXPECT_FALSE(clock.IsSetBack(kDay + 80 * kSecond));  // A little: it waits.
  EXPECT_FALSE(clock.DumpWouldEndInterval(kDay + 80 * kSecond));
  EXPECT_TRUE(clock.IsSetBack(100 * kSecond));
  clock.DumpBegins(100 * kSecond);
  EXPECT_TRUE(clock.DumpEndsInterval());
  clock.OpenAfterDump();
  EXPECT_EQ(clock.open_end_ns(), 105 * kSecond);
  EXPECT_FALSE(clock.IsSetBack(101 * kSecond));
}

TEST(IntervalClockTest, PatienceIsCountedFromTheBeginningOfTheInterval) {
  IntervalClock clock(15 * kSecond);
  clock.Observe(1000 * kSecond);
  ASSERT_EQ(clock.open_end_ns(), 1005 * kSecond);
  const int64_t patient_ns = 990 * kSecond - IntervalClock::kPatienceNs;
  EXPECT_FALSE(clock.IsSetBack(patient_ns));
  EXPECT_TRUE(clock.IsSetBack(patient_ns - 1));
}

// No interval was passed over, so none is skipped when the clock returns to one that was sealed.
TEST(IntervalClockTest, SetBackByAnIntervalWithoutALeap) {
  constexpr int64_t kHour = 3600 * kSecond;
  IntervalClock clock(kHour);
  clock.Observe(kHour / 2);
  clock.DumpBegins(kHour);
  EXPECT_TRUE(clock.DumpEndsInterval());
  clock.OpenAfterDump();
  EXPECT_EQ(clock.open_end_ns(), 2 * kHour);
  clock.DumpBegins(1000 * kSecond);
  EXPECT_TRUE(clock.DumpEndsInterval());
  clock.OpenAfterDump();
  EXPECT_EQ(clock.open_end_ns(), kHour);
}

TEST(IntervalClockTest, ForwardAndBackAgainIsNotTheSameIntervalTwice) {
  constexpr int64_t kDay = 86400 * kSecond;
  IntervalClock clock(15 * kSecond);
  clock.Observe(100 * kSecond);
  clock.DumpBegins(kDay + 101 * kSecond);
  EXPECT_TRUE(clock.DumpEndsInterval());  // 105
  clock.OpenAfterDump();
  EXPECT_EQ(clock.open_end_ns(), kDay + 105 * kSecond);
  clock.DumpBegins(102 * kSecond);
  EXPECT_TRUE(clock.DumpEndsInterval());
  clock.OpenAfterDump();
  EXPECT_EQ(clock.open_end_ns(), 120 * kSecond);
}

}  // namespace
}  // namespace ctacct
