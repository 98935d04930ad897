#include "engine/accounting/destroyed_memory.h"

#include <cstdint>

#include "gtest/gtest.h"

namespace ctacct {
namespace {

// What the memory of destroyed flows forgets and keeps, with several lives in each part.
TEST(DestroyedMemoryTest, KeepsThisIntervalAndTheOneBefore) {
  constexpr uint64_t kMarks = 50'000;
  const auto mark = [](uint64_t interval, uint64_t i) {
    return (interval * kMarks + i) * 0x9e3779b97f4a7c15;
  };
  DestroyedMemory memory;
  for (uint64_t interval = 0; interval < 6; ++interval) {
    for (uint64_t i = 0; i < kMarks; ++i) {
      ASSERT_TRUE(memory.Add(mark(interval, i)));
      ASSERT_FALSE(memory.Add(mark(interval, i)));
      ASSERT_TRUE(memory.Contains(mark(interval, i)));
      if (interval >= 1) {
        ASSERT_TRUE(memory.Contains(mark(interval - 1, i)));
      }
      if (interval >= 2) {
        ASSERT_FALSE(memory.Contains(mark(interval - 2, i)));
      }
    }
    memory.EndGeneration();
  }
  memory.EndGeneration();
  // Nothing was added since: no memory is kept, although nothing has cleared it.
  for (uint64_t i = 0; i < kMarks; ++i) ASSERT_FALSE(memory.Contains(mark(5, i)));
  ASSERT_TRUE(memory.Add(mark(5, 1)));
}

TEST(DestroyedMemoryTest, ForgetsTheOldestBeyondItsMaximum) {
  DestroyedMemory memory;
  const auto mark = [](uint64_t i) { return i * 0x9e3779b97f4a7c15; };
  for (uint64_t i = 0; i < 2 * DestroyedMemory::kMax + 1; ++i) ASSERT_TRUE(memory.Add(mark(i)));
  EXPECT_FALSE(memory.Contains(mark(0)));
  EXPECT_FALSE(memory.Contains(mark(DestroyedMemory::kMax - 1)));
  EXPECT_TRUE(memory.Contains(mark(DestroyedMemory::kMax)));
}

uint64_t Mark(uint64_t i) { return i * 0x9e3779b97f4a7c15; }

void EndIfLarge(DestroyedMemory* memory) {
  if (memory->IsLarge()) memory->EndGeneration();
  while (memory->ForgetSome()) {
  }
}

// Many flows destroyed at once are remembered for one generation more; after that they need no
// memory.
TEST(DestroyedMemoryTest, WhatABurstTookIsGivenBack) {
  constexpr uint64_t kBurst = 10 * DestroyedMemory::kKept;
  DestroyedMemory memory;
  for (uint64_t i = 0; i < kBurst; ++i) ASSERT_TRUE(memory.Add(Mark(i)));
  const size_t full = memory.MemoryBytes();
  EXPECT_GT(full, kBurst * sizeof(uint64_t));
  EndIfLarge(&memory);
  for (uint64_t i = 0; i < kBurst; ++i) ASSERT_TRUE(memory.Contains(Mark(i)));
  EndIfLarge(&memory);
  EXPECT_FALSE(memory.Contains(Mark(1)));
  EXPECT_LT(memory.MemoryBytes(), full / 100);
  // If each generation has as many, its memory is kept.
  for (uint64_t interval = 1; interval < 4; ++interval) {
    for (uint64_t i = 0; i < kBurst; ++i) ASSERT_TRUE(memory.Add(Mark(interval * kBurst + i)));
    if (interval > 1) {
      EXPECT_GE(memory.MemoryBytes(), 3 * full / 2);
    }
    EndIfLarge(&memory);
  }
  EXPECT_GE(memory.MemoryBytes(), 3 * full / 2);
}

// ForgetSome clears only what no longer counts, whenever it is called.
TEST(DestroyedMemoryTest, ForgetsWhileMoreIsAdded) {
  constexpr uint64_t kMarks = 2 * DestroyedMemory::kKept;
  DestroyedMemory memory;
  for (uint64_t interval = 0; interval < 6; ++interval) {
    for (uint64_t i = 0; i < kMarks; ++i) {
      ASSERT_TRUE(memory.Add(Mark(interval * kMarks + i)));
      if (i % 1000 == 0) memory.ForgetSome();
      if (interval != 0) {
        ASSERT_TRUE(memory.Contains(Mark((interval - 1) * kMarks + i)));
      }
      ASSERT_TRUE(memory.Contains(Mark(interval * kMarks + i / 2)));
    }
    ASSERT_TRUE(memory.IsLarge());
    memory.EndGeneration();
  }
}

// A repeated DESTROY may be repeated again: it is remembered from its last repetition on.
TEST(DestroyedMemoryTest, ARepeatedOneIsRememberedFromItsRepetition) {
  DestroyedMemory memory;
  ASSERT_TRUE(memory.Add(7));
  for (int interval = 0; interval < 5; ++interval) {
    memory.EndGeneration();
    EXPECT_FALSE(memory.Add(7));
  }
  memory.EndGeneration();
  memory.EndGeneration();
  EXPECT_FALSE(memory.Contains(7));
}

}  // namespace
}  // namespace ctacct
