#include "engine/output/interval_merge.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/accounting/row_limit.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

constexpr int64_t kIntervalNs = 15'000'000'000;

AccountingKey Key(uint32_t host) {
  AccountingKey key;
  key.src = Ipv4Address::FromHostOrder(0x0a000000u + host);
  key.dst = Ipv4Address::FromHostOrder(0x0b000000u);
  key.protocol = kProtocolTcp;
  key.port = 80;
  return key;
}

TrafficSums Bytes(uint64_t bytes) {
  TrafficSums sums;
  sums.original = {1, bytes};
  return sums;
}

struct Totals {
  uint64_t packets = 0;
  uint64_t bytes = 0;
};
Totals TotalOf(const IntervalRows& interval) {
  Totals totals;
  for (const TrafficRow& row : interval.rows) {
    totals.packets += row.packets_src;
    totals.bytes += row.bytes_src;
  }
  return totals;
}

class IntervalMergeTest : public testing::Test {
 protected:
  void Seal(size_t worker, uint64_t seal) {
    workers_[worker].live().seal = seal;
    workers_[worker].live().interval_end_ns = static_cast<int64_t>(seal) * 10;
    ASSERT_TRUE(workers_[worker].Publish());
  }
  std::optional<IntervalRows> TakeAndNext(IntervalMerge* merge) {
    merge->Take({&workers_[0], &workers_[1]});
    return merge->Next();
  }
  AccountingHandoff workers_[2];
};

TEST_F(IntervalMergeTest, AnIntervalIsCompleteOnceEachWorkerHasSealedItOrALaterOne) {
  IntervalMerge merge(false, 100, kIntervalNs, nullptr);
  workers_[0].live().rows[Key(1)] = Bytes(5);
  Seal(0, 1);
  EXPECT_FALSE(TakeAndNext(&merge).has_value());
  EXPECT_EQ(merge.sealed_by_all(), 0u);
  // The other worker found no spare table at the first end.
  workers_[1].live().rows[Key(1)] = Bytes(7);
  Seal(1, 2);
  const std::optional<IntervalRows> first = TakeAndNext(&merge);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->seal, 1u);
  EXPECT_EQ(first->end_ns, 10);
  EXPECT_EQ(TotalOf(*first).bytes, 5u);
  EXPECT_EQ(merge.sealed_by_all(), 1u);
  EXPECT_FALSE(merge.Next().has_value());
  Seal(0, 2);
  const std::optional<IntervalRows> second = TakeAndNext(&merge);
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->seal, 2u);
  EXPECT_EQ(TotalOf(*second).bytes, 7u);
}

TEST_F(IntervalMergeTest, WhatEachWorkerReportsIsKeptPerWorker) {
  IntervalMerge merge(false, 100, kIntervalNs, nullptr);
  workers_[0].live().counts.events_new = 3;
  workers_[0].live().flows = 4;
  Seal(0, 1);
  workers_[1].live().counts.events_new = 5;
  workers_[1].live().flows = 6;
  Seal(1, 1);
  ASSERT_TRUE(TakeAndNext(&merge).has_value());
  // A worker that has sealed nothing since has not changed.
  workers_[1].live().counts.events_new = 8;
  Seal(1, 2);
  EXPECT_FALSE(TakeAndNext(&merge).has_value());
  EXPECT_EQ(merge.worker_counts()[0].events_new, 3u);
  EXPECT_EQ(merge.worker_counts()[1].events_new, 8u);
  EXPECT_EQ(merge.worker_flows()[0], 4u);
}

// A worker whose keys fall into one shard of its table folds some, though the interval has few
// rows: what it folded must come out as the other row.
TEST_F(IntervalMergeTest, WhatASkewedShardFoldedIsNotLost) {
  constexpr uint32_t kRowsMax = 100;
  IntervalMerge merge(false, kRowsMax, kIntervalNs, nullptr);
  RowLimit limit(kRowsMax);
  AccountingTable& table = workers_[0].live();
  uint64_t bytes = 0;
  uint64_t packets = 0;
  for (uint32_t host = 0; table.rows_folded == 0; ++host) {
    ASSERT_LT(host, 10'000'000u);
    const size_t hash = table.rows.Hash(Key(host));
    if (table.rows.ShardOf(hash) != 0) continue;
    table.rows.FindOrAdd(Key(host), hash).Add(Bytes(100 + host));
    bytes += 100 + host;
    ++packets;
    if (limit.IsOver(table)) limit.FoldShardOf(hash, &table);
  }
  const uint64_t folded = table.rows_folded;
  const size_t left = table.rows.size();
  ASSERT_LT(left, kRowsMax);
  Seal(0, 1);
  Seal(1, 1);
  const std::optional<IntervalRows> interval = TakeAndNext(&merge);
  ASSERT_TRUE(interval.has_value());
  EXPECT_EQ(TotalOf(*interval).bytes, bytes);
  EXPECT_EQ(TotalOf(*interval).packets, packets);
  EXPECT_EQ(interval->rows.size(), left + 1);
  EXPECT_EQ(std::count_if(interval->rows.begin(), interval->rows.end(), IsOtherRow), 1);
  EXPECT_EQ(merge.rows_folded(), folded);
}

// Both workers folded, and both of what is left is too many: one other row has all of it.
TEST_F(IntervalMergeTest, WhatWorkersFoldedAndWhatIsFoldedHereIsOneRow) {
  IntervalMerge merge(false, 3, kIntervalNs, nullptr);
  for (size_t worker = 0; worker < 2; ++worker) {
    workers_[worker].live().other = Bytes(1000);
    workers_[worker].live().rows_folded = 2;
    workers_[worker].live().rows[Key(1)] = Bytes(50);
    workers_[worker].live().rows[Key(2)] = Bytes(60);
    workers_[worker].live().rows[Key(static_cast<uint32_t>(3 + worker))] = Bytes(1);
    Seal(worker, 1);
  }
  const std::optional<IntervalRows> interval = TakeAndNext(&merge);
  ASSERT_TRUE(interval.has_value());
  ASSERT_EQ(interval->rows.size(), 3u);
  for (const TrafficRow& row : interval->rows) {
    EXPECT_EQ(row.bytes_src, IsOtherRow(row) ? 2002u : row.src[3] == 1 ? 100u : 120u);
  }
  EXPECT_EQ(merge.rows_folded(), 2u + 2u + 2u);
}

// Opened through one worker's flow and closed through another's, in different intervals.
TEST_F(IntervalMergeTest, OpenConnectionsAreSummedOverWorkersAndIntervals) {
  IntervalMerge merge(true, 100, kIntervalNs, nullptr);
  workers_[0].live().open_changes[Key(1)] = 2;
  workers_[1].live().open_changes[Key(1)] = 1;
  Seal(0, 1);
  Seal(1, 1);
  std::optional<IntervalRows> interval = TakeAndNext(&merge);
  ASSERT_TRUE(interval.has_value());
  ASSERT_EQ(interval->rows.size(), 1u);
  EXPECT_EQ(interval->rows[0].open_connections, 3u);
  workers_[1].live().open_changes[Key(1)] = -3;
  workers_[0].live().rows[Key(1)] = Bytes(9);
  Seal(0, 2);
  Seal(1, 2);
  interval = TakeAndNext(&merge);
  ASSERT_TRUE(interval.has_value());
  ASSERT_EQ(interval->rows.size(), 1u);
  EXPECT_EQ(interval->rows[0].open_connections, 0u);
  Seal(0, 3);
  Seal(1, 3);
  interval = TakeAndNext(&merge);
  ASSERT_TRUE(interval.has_value());
  EXPECT_TRUE(interval->rows.empty());
}

// Several intervals may be complete at once; the worst of the workers decides on each.
TEST_F(IntervalMergeTest, IntervalsComeInOrderEachWithItsOwnGaps) {
  IntervalMerge merge(false, 100, kIntervalNs, nullptr);
  Gap gap;
  gap.began_ns = 3;
  gap.ended_ns = 7;
  gap.cause = GapCause::kOverrun;
  gap.completeness = Completeness::kPartial;
  for (uint64_t seal = 1; seal <= 3; ++seal) {
    if (seal == 2) workers_[0].live().gaps = {gap};
    Seal(0, seal);
    EXPECT_FALSE(TakeAndNext(&merge).has_value());
  }
  workers_[1].live().completeness = Completeness::kResynced;
  workers_[1].live().events_dropped = 4;
  Seal(1, 3);
  std::optional<IntervalRows> interval = TakeAndNext(&merge);
  const Completeness expected[] = {Completeness::kComplete, Completeness::kPartial,
                                   Completeness::kResynced};
  for (uint64_t seal = 1; seal <= 3; ++seal) {
    ASSERT_TRUE(interval.has_value());
    EXPECT_EQ(interval->seal, seal);
    EXPECT_EQ(interval->completeness, expected[seal - 1]);
    EXPECT_EQ(interval->gaps.size(), seal == 2 ? 1u : 0u);
    EXPECT_EQ(interval->events_dropped, seal == 3 ? 4u : 0u);
    interval = merge.Next();
  }
  EXPECT_FALSE(interval.has_value());
}

// One worker counts the events dropped, and each explains some of them: only the sum says whether
// all are explained.
TEST_F(IntervalMergeTest, AGapIsResyncedIfAllWorkersTogetherExplainIt) {
  IntervalMerge merge(false, 100, kIntervalNs, nullptr);
  const Gap gap = {.began_ns = 3, .ended_ns = 7, .completeness = Completeness::kResynced};
  for (const int64_t explained_elsewhere : {2, 1}) {
    const uint64_t seal = explained_elsewhere == 2 ? 1 : 2;
    for (size_t worker = 0; worker < 2; ++worker) {
      workers_[worker].live().gaps = {gap};
      workers_[worker].live().completeness = Completeness::kResynced;
      workers_[worker].live().events_unexplained = worker == 0 ? 2 : -explained_elsewhere;
      Seal(worker, seal);
    }
    const std::optional<IntervalRows> interval = TakeAndNext(&merge);
    ASSERT_TRUE(interval.has_value());
    EXPECT_EQ(interval->completeness,
              explained_elsewhere == 2 ? Completeness::kResynced : Completeness::kPartial);
    ASSERT_EQ(interval->gaps.size(), 1u);
    EXPECT_EQ(interval->gaps[0].completeness, interval->completeness);
  }
}

TEST_F(IntervalMergeTest, AnIntervalCoversWhatAnyWorkerCovers) {
  IntervalMerge merge(false, 100, kIntervalNs, nullptr);
  for (const size_t earlier : {0, 1}) {
    for (size_t worker = 0; worker < 2; ++worker) {
      workers_[worker].live().covered_from_ns = worker == earlier ? 3 : 4;
      workers_[worker].live().covered_to_ns = worker == earlier ? 9 : 10;
      Seal(worker, earlier + 1);
    }
    const std::optional<IntervalRows> interval = TakeAndNext(&merge);
    ASSERT_TRUE(interval.has_value());
    EXPECT_EQ(interval->covered_from_ns, 3);
    EXPECT_EQ(interval->covered_to_ns, 10);
  }
}

TEST_F(IntervalMergeTest, ATableThatComesTwiceIsAnError) {
  IntervalMerge merge(false, 100, kIntervalNs, nullptr);
  Seal(0, 1);
  merge.Take({&workers_[0], &workers_[1]});
  Seal(0, 1);
  EXPECT_DEATH(merge.Take({&workers_[0], &workers_[1]}), "check failed: table->seal");
}

}  // namespace
}  // namespace ctacct
