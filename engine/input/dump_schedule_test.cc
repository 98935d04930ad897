#include "engine/input/dump_schedule.h"

#include "gtest/gtest.h"

namespace ctacct {
namespace {

constexpr int64_t kSecond = kNanosPerSecond;
constexpr DumpSchedule::Need kIdle = {.caught_up = true, .can_seal = true};

TEST(DumpScheduleTest, TheBaselineIsDueAtOnceAndOnce) {
  DumpSchedule dumps;
  EXPECT_TRUE(dumps.IsDue(kIdle, 0));
  dumps.Requested(1 * kSecond);
  EXPECT_TRUE(dumps.running());
  EXPECT_FALSE(dumps.any_ended());
  EXPECT_FALSE(dumps.IsDue(kIdle, 1 * kSecond));
  dumps.Ended(3 * kSecond);
  EXPECT_FALSE(dumps.running());
  EXPECT_TRUE(dumps.any_ended());
  EXPECT_FALSE(dumps.IsDue(kIdle, 3 * kSecond));
}

TEST(DumpScheduleTest, AnIntervalsEndAndALossEachNeedOne) {
  DumpSchedule dumps;
  dumps.Requested(0);
  dumps.Ended(0);
  DumpSchedule::Need need = kIdle;
  need.interval_is_over = true;
  EXPECT_TRUE(dumps.IsDue(need, 0));
  need = kIdle;
  need.resync = true;
  EXPECT_TRUE(dumps.IsDue(need, 0));
  // Not while workers are behind, nor while the rows of an interval could not be handed over.
  need.caught_up = false;
  EXPECT_FALSE(dumps.IsDue(need, 0));
  need.caught_up = true;
  need.can_seal = false;
  EXPECT_FALSE(dumps.IsDue(need, 0));
}

TEST(DumpScheduleTest, AFailedOneIsTriedAgainAfterAWhile) {
  DumpSchedule dumps;
  dumps.Requested(5 * kSecond);
  dumps.Failed(6 * kSecond);
  EXPECT_FALSE(dumps.any_ended());
  EXPECT_FALSE(dumps.IsDue(kIdle, 6 * kSecond + DumpSchedule::kRetryNs - 1));
  EXPECT_TRUE(dumps.IsDue(kIdle, 6 * kSecond + DumpSchedule::kRetryNs));
}

TEST(DumpScheduleTest, SilenceIsCountedFromTheLastSignOfLife) {
  DumpSchedule dumps;
  dumps.Requested(100 * kSecond);
  EXPECT_FALSE(dumps.IsSilent(100 * kSecond + DumpSchedule::kSilenceMaxNs));
  EXPECT_TRUE(dumps.IsSilent(100 * kSecond + DumpSchedule::kSilenceMaxNs + 1));
  dumps.Progress(105 * kSecond);
  EXPECT_FALSE(dumps.IsSilent(105 * kSecond + DumpSchedule::kSilenceMaxNs));
  EXPECT_TRUE(dumps.IsSilent(105 * kSecond + DumpSchedule::kSilenceMaxNs + 1));
}

TEST(DumpScheduleTest, CountsDumpsAndTheirTimes) {
  DumpSchedule dumps;
  dumps.Requested(0);
  dumps.Ended(3 * kSecond);
  dumps.Requested(10 * kSecond);
  dumps.Failed(11 * kSecond);
  EXPECT_EQ(dumps.counts().dumps, 2u);
  EXPECT_EQ(dumps.counts().failed, 1u);
  EXPECT_EQ(dumps.counts().all_ns, 4 * kSecond);
  EXPECT_EQ(dumps.counts().last_ns, 1 * kSecond);
}

TEST(DumpScheduleTest, WaitsForTheIntervalsEndButNotForLong) {
  EXPECT_EQ(DumpSchedule::WaitMillis(false, 60 * kSecond), DumpSchedule::kCatchUpMillis);
  EXPECT_EQ(DumpSchedule::WaitMillis(true, 0), DumpSchedule::kBlockedMillis);
  EXPECT_EQ(DumpSchedule::WaitMillis(true, -1), DumpSchedule::kBlockedMillis);
  EXPECT_EQ(DumpSchedule::WaitMillis(true, 1), 1);  // Never a busy loop.
  EXPECT_EQ(DumpSchedule::WaitMillis(true, 250'000'000), 251);
  EXPECT_EQ(DumpSchedule::WaitMillis(true, 60 * kSecond), DumpSchedule::kWaitMillisMax);
}

}  // namespace
}  // namespace ctacct
