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

// A worker whose keys are all in one shard of its table folds some, although the interval has few
// rows: they must be in the sums of their origins.
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
  EXPECT_LE(interval->rows.size(), kRowsMax);
  EXPECT_GT(std::count_if(interval->rows.begin(), interval->rows.end(), IsOtherRow), 1);
  EXPECT_EQ(merge.rows_folded(), folded);
}

AccountingKey PairKey(uint32_t origin, uint32_t destination) {
  AccountingKey key = Key(origin);
  key.dst = Ipv4Address::FromHostOrder(0x0b000000u + destination);
  return key;
}

TrafficSums Unanswered(uint32_t flows) {
  TrafficSums sums = Bytes(uint64_t{40} * flows);
  sums.flow_count = sums.unanswered_count = flows;
  return sums;
}

// A scan among ordinary rows: the scanning host stays known, with exact numbers.
TEST_F(IntervalMergeTest, WhatIsFoldedOfAnOriginStaysItsOwn) {
  constexpr uint32_t kRowsMax = 20;
  IntervalMerge merge(false, kRowsMax, kIntervalNs, nullptr);
  for (uint32_t i = 0; i < 1000; ++i) {
    workers_[i % 2].live().rows[PairKey(1, i)] = Unanswered(1);
  }
  // One worker has folded 500 more itself.
  workers_[0].live().folded[FoldedKey(Key(1).src)] = Unanswered(500);
  workers_[0].live().rows_folded = 500;
  // These have one row each.
  for (uint32_t i = 0; i < 10; ++i) workers_[0].live().rows[PairKey(100 + i, 1)] = Bytes(1000 + i);
  Seal(0, 1);
  Seal(1, 1);
  const std::optional<IntervalRows> interval = TakeAndNext(&merge);
  ASSERT_TRUE(interval.has_value());
  EXPECT_LE(interval->rows.size(), kRowsMax);
  uint64_t flows = 0;
  uint64_t unanswered = 0;
  size_t origins = 0;
  size_t others = 0;
  for (const TrafficRow& row : interval->rows) {
    if (row.src[3] == 1) {
      flows += row.flow_count;
      unanswered += row.unanswered_count;
      others += static_cast<size_t>(IsOtherRow(row));
    }
    origins += static_cast<size_t>(row.src[3] >= 100 && !IsOtherRow(row));
  }
  EXPECT_EQ(flows, 1500u);
  EXPECT_EQ(unanswered, 1500u);
  EXPECT_EQ(others, 1u);
  EXPECT_EQ(origins, 10u);
  // Everything has an origin: no row is without one.
  for (const TrafficRow& row : interval->rows) EXPECT_NE(row.src[3], 0);
}

// More origins than half of the rows: the largest keep their sums.
TEST_F(IntervalMergeTest, TheLargestOriginsKeepTheirSums) {
  constexpr uint32_t kRowsMax = 20;
  IntervalMerge merge(false, kRowsMax, kIntervalNs, nullptr);
  uint64_t bytes = 0;
  for (uint32_t origin = 1; origin <= 100; ++origin) {
    for (uint32_t i = 0; i < (origin == 50 ? 1000u : 2u); ++i) {
      workers_[i % 2].live().rows[PairKey(origin, i)] = Bytes(40);
      bytes += 40;
    }
  }
  Seal(0, 1);
  Seal(1, 1);
  const std::optional<IntervalRows> interval = TakeAndNext(&merge);
  ASSERT_TRUE(interval.has_value());
  EXPECT_EQ(interval->rows.size(), kRowsMax);
  EXPECT_EQ(TotalOf(*interval).bytes, bytes);
  uint64_t of_largest = 0;
  size_t without_origin = 0;
  for (const TrafficRow& row : interval->rows) {
    if (row.src[3] == 50) of_largest += row.bytes_src;
    without_origin += static_cast<size_t>(row.src == AddressBytes());
  }
  EXPECT_EQ(of_largest, 40'000u);
  EXPECT_EQ(without_origin, 1u);
}

Ipv6AccountingKey Key6(uint32_t host) {
  Ipv6AccountingKey key;
  key.src.words[0] = 0x000000fd;
  key.src.words[3] = __builtin_bswap32(host);
  key.dst.words[0] = 0x000000fe;
  key.protocol = kProtocolUdp;
  key.port = 53;
  return key;
}

TEST_F(IntervalMergeTest, BothFamiliesAreRows) {
  IntervalMerge merge(true, 100, kIntervalNs, nullptr);
  workers_[0].live().rows[Key(1)] = Bytes(5);
  workers_[0].live().ipv6.rows[Key6(1)] = Bytes(7);
  workers_[1].live().ipv6.rows[Key6(1)] = Bytes(8);
  workers_[1].live().ipv6.open_changes[Key6(2)] = 3;
  Seal(0, 1);
  Seal(1, 1);
  const std::optional<IntervalRows> interval = TakeAndNext(&merge);
  ASSERT_TRUE(interval.has_value());
  ASSERT_EQ(interval->rows.size(), 3u);
  for (const TrafficRow& row : interval->rows) {
    if (row.family == AddressFamily::kIpv4) {
      EXPECT_EQ(row.bytes_src, 5u);
      continue;
    }
    EXPECT_EQ(row.src[0], 0xfd);
    EXPECT_EQ(row.dst[0], 0xfe);
    EXPECT_EQ(row.bytes_src, row.src[15] == 1 ? 15u : 0u);
    EXPECT_EQ(row.open_connections, row.src[15] == 1 ? 0u : 3u);
  }
}

// Each family may have half of the rows, and what the other does not need.
TEST_F(IntervalMergeTest, FamiliesShareTheLimit) {
  constexpr uint32_t kRowsMax = 40;
  for (const uint32_t ipv6 : {5u, 100u}) {
    IntervalMerge merge(false, kRowsMax, kIntervalNs, nullptr);
    for (uint32_t i = 0; i < 100; ++i) workers_[0].live().rows[Key(i)] = Bytes(100 + i);
    for (uint32_t i = 0; i < ipv6; ++i) workers_[1].live().ipv6.rows[Key6(i)] = Bytes(100 + i);
    Seal(0, 1);
    Seal(1, 1);
    const std::optional<IntervalRows> interval = TakeAndNext(&merge);
    ASSERT_TRUE(interval.has_value());
    EXPECT_EQ(interval->rows.size(), kRowsMax);
    const auto of_ipv6 =
        std::count_if(interval->rows.begin(), interval->rows.end(),
                      [](const TrafficRow& row) { return row.family == AddressFamily::kIpv6; });
    EXPECT_EQ(of_ipv6, ipv6 == 5 ? 5 : 20);
    EXPECT_EQ(TotalOf(*interval).packets, 100u + ipv6);
    if (ipv6 == 5) continue;
    // What is without an origin is `::`.
    EXPECT_EQ(std::count_if(interval->rows.begin(), interval->rows.end(),
                            [](const TrafficRow& row) {
                              return row.family == AddressFamily::kIpv6 && IsOtherRow(row) &&
                                     row.src == AddressBytes() && row.dst == AddressBytes();
                            }),
              1);
  }
}

// A row is of one family: where both have traffic there are at least two.
TEST_F(IntervalMergeTest, EachFamilyHasARow) {
  for (const uint32_t rows_max : {1U, 2U, 3U}) {
    IntervalMerge merge(false, rows_max, kIntervalNs, nullptr);
    for (uint32_t i = 0; i < 10; ++i) workers_[0].live().rows[Key(i)] = Bytes(100 + i);
    for (uint32_t i = 0; i < 10; ++i) workers_[1].live().ipv6.rows[Key6(i)] = Bytes(100 + i);
    Seal(0, 1);
    Seal(1, 1);
    const std::optional<IntervalRows> interval = TakeAndNext(&merge);
    ASSERT_TRUE(interval.has_value());
    EXPECT_EQ(interval->rows.size(), 2U);
    EXPECT_EQ(TotalOf(*interval).packets, 20U);
  }
}

// Both workers folded, and what is left is still too much: one other row has all of it.
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

// One worker counts the dropped events, and each explains some of them: only the sum shows whether
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
