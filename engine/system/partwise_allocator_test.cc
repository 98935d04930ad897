#include "engine/system/partwise_allocator.h"

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <utility>

#include "gtest/gtest.h"

namespace ctacct {
namespace {

// Vectors of every size around pages and parts: what is beside them must not be given back.
TEST(PartwiseAllocatorTest, GivesBackNothingOfOthers) {
  for (const size_t size : {1ul, 8191ul, 8192ul, 8193ul, 131'071ul, 131'073ul, 1'000'000ul}) {
    PartwiseVector<uint64_t> before(size);
    PartwiseVector<uint64_t> middle(size);
    PartwiseVector<uint64_t> after(size);
    std::iota(before.begin(), before.end(), 1);
    std::iota(after.begin(), after.end(), 1);
    middle = PartwiseVector<uint64_t>();
    for (size_t i = 0; i < size; ++i) {
      ASSERT_EQ(before[i], i + 1) << size;
      ASSERT_EQ(after[i], i + 1) << size;
    }
  }
}

TEST(PartwiseAllocatorTest, GrowsLikeAnyVector) {
  PartwiseVector<uint64_t> grown;
  for (uint64_t i = 0; i < 1'000'000; ++i) grown.push_back(i);
  const PartwiseVector<uint64_t> moved = std::move(grown);
  for (uint64_t i = 0; i < moved.size(); ++i) ASSERT_EQ(moved[i], i);
}

}  // namespace
}  // namespace ctacct
