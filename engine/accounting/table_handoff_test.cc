#include "engine/accounting/table_handoff.h"

#include <atomic>
#include <cstdint>
#include <random>
#include <thread>

#include "absl/container/flat_hash_map.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

struct Table {
  absl::flat_hash_map<uint32_t, uint64_t> sums;
  void Clear() { sums.clear(); }
};

TEST(TableHandoffTest, PublishNeedsASpare) {
  TableHandoff<Table> handoff;
  EXPECT_EQ(handoff.Take(), nullptr);
  handoff.live().sums[1] = 10;
  ASSERT_TRUE(handoff.Publish());
  EXPECT_FALSE(handoff.HasSpare());
  handoff.live().sums[1] = 5;
  EXPECT_FALSE(handoff.Publish());  // The flusher is behind: the rows stay.
  Table* taken = handoff.Take();
  ASSERT_NE(taken, nullptr);
  EXPECT_EQ(taken->sums[1], 10u);
  EXPECT_FALSE(handoff.Publish());
  handoff.GiveBack(taken);
  EXPECT_TRUE(handoff.HasSpare());
  ASSERT_TRUE(handoff.Publish());
  EXPECT_EQ(handoff.Take()->sums[1], 5u);
  EXPECT_TRUE(handoff.live().sums.empty());
}

// For every key: flushed + sealed + live = produced. Run under the thread sanitizer by `./dev
// check`.
TEST(TableHandoffTest, NothingIsLostOrDoubledUnderThreads) {
  constexpr uint32_t kKeys = 64;
  constexpr int kEvents = 400'000;
  TableHandoff<Table> handoff;
  std::atomic<bool> done{false};
  std::atomic<int> published{0};
  uint64_t produced[kKeys] = {};
  uint64_t flushed[kKeys] = {};

  std::thread worker([&] {
    std::minstd_rand random(1);
    for (int i = 0; i < kEvents; ++i) {
      const auto key = static_cast<uint32_t>(random() % kKeys);
      handoff.live().sums[key] += i;
      produced[key] += i;
      if (random() % 100 != 0) continue;
      // Callers do either: wait for a spare, or continue adding if there is none.
      if (random() % 4 == 0) handoff.WaitForSpare();
      published += handoff.Publish();
    }
    done.store(true);
  });
  int taken = 0;
  for (;;) {
    const bool last = done.load();
    if (Table* table = handoff.Take(); table != nullptr) {
      ++taken;
      for (const auto& [key, sum] : table->sums) flushed[key] += sum;
      handoff.GiveBack(table);
    } else if (last) {
      break;
    }
  }
  worker.join();
  EXPECT_EQ(taken, published.load());
  EXPECT_GT(taken, 100);
  for (uint32_t key = 0; key < kKeys; ++key) {
    EXPECT_EQ(flushed[key] + handoff.live().sums[key], produced[key]);
  }
}

}  // namespace
}  // namespace ctacct
