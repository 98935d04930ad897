#include "engine/system/check.h"

#include "gtest/gtest.h"

namespace {

TEST(CheckTest, AConditionThatHoldsIsEvaluatedOnce) {
  int evaluations = 0;
  CTACCT_CHECK(++evaluations == 1);
  EXPECT_EQ(evaluations, 1);
}

TEST(CheckDeathTest, AbortsWithFileLineAndCondition) {
  const int rows = 2;
  EXPECT_DEATH(CTACCT_CHECK(rows == 3), "check_test.cc:[0-9]+: check failed: rows == 3");
}

}  // namespace
