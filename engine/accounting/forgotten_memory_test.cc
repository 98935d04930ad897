#include "engine/accounting/forgotten_memory.h"

#include <cstdint>

#include "gtest/gtest.h"

namespace ctacct {
namespace {

ForgottenMemory::Flow Flow(uint64_t number) {
  ForgottenMemory::Flow flow;
  flow.start_ns = static_cast<int64_t>(number);
  flow.latest_start_ns = flow.start_ns + 1;
  return flow;
}

TEST(ForgottenMemoryTest, KeepsTheLastOnesAndSaysWhenSomeAreLost) {
  constexpr uint64_t kKept = ForgottenMemory::kKept;
  ForgottenMemory memory;
  EXPECT_TRUE(memory.empty());
  for (uint64_t number = 1; number <= 2 * kKept; ++number) memory.Add(number, Flow(number));
  EXPECT_FALSE(memory.lost_some());
  // The first is in the older half; once taken, it is not there any more.
  ASSERT_TRUE(memory.Take(1).has_value());
  EXPECT_FALSE(memory.Take(1).has_value());
  memory.Add(2 * kKept + 1, Flow(2 * kKept + 1));
  EXPECT_TRUE(memory.lost_some());
  EXPECT_EQ(memory.lost_until_ns(), static_cast<int64_t>(kKept) + 1);
  memory.NoteClockSetBack(5);
  EXPECT_EQ(memory.lost_until_ns(), 5);
  EXPECT_FALSE(memory.Take(2).has_value());
  for (uint64_t number = kKept + 1; number <= 2 * kKept + 1; ++number) {
    const auto flow = memory.Take(number);
    ASSERT_TRUE(flow.has_value()) << number;
    EXPECT_EQ(flow->start_ns, static_cast<int64_t>(number));
  }
  EXPECT_TRUE(memory.empty());
}

}  // namespace
}  // namespace ctacct
