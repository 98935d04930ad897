#include "engine/accounting/row_limit.h"

#include <algorithm>
#include <cstdint>

#include "engine/accounting/worker.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

AccountingKey Key(uint32_t number) {
  AccountingKey key;
  key.src = Ipv4Address::FromHostOrder(0x0a000000u + number);
  key.dst = Ipv4Address::FromHostOrder(0x0b000000u);
  key.protocol = kProtocolUdp;
  key.port = 53;
  return key;
}

TrafficSums Sums(uint64_t bytes) {
  TrafficSums sums;
  sums.original = {1, bytes};
  sums.reply = {2, bytes / 2};
  sums.connection_count = 3;
  sums.connection_time_us = 4;
  return sums;
}

void Add(const AccountingKey& key, uint64_t bytes, RowLimit* limit, AccountingTable* table) {
  const size_t hash = table->rows.Hash(key);
  table->rows.FindOrAdd(key, hash).Add(Sums(bytes));
  if (limit->IsOver(*table)) limit->FoldShardOf(hash, table);
}

TrafficSums Total(const AccountingTable& table) {
  TrafficSums total = table.other;
  table.folded.ForEach([&](const auto& origin) { total.Add(origin.second); });
  table.rows.ForEach([&](const auto& row) { total.Add(row.second); });
  return total;
}

bool SameSums(const TrafficSums& a, const TrafficSums& b) {
  return a.original.packets == b.original.packets && a.original.bytes == b.original.bytes &&
         a.reply.packets == b.reply.packets && a.reply.bytes == b.reply.bytes &&
         a.connection_count == b.connection_count && a.connection_time_us == b.connection_time_us;
}

TEST(RowLimitTest, NothingIsFoldedUpToTheLimit) {
  constexpr uint32_t kRows = 100'000;
  RowLimit limit(kRows);
  AccountingTable table;
  for (uint32_t i = 0; i < kRows; ++i) Add(Key(i), i, &limit, &table);
  EXPECT_EQ(table.rows.size(), kRows);
  EXPECT_EQ(table.rows_folded, 0u);
  EXPECT_TRUE(table.folded.empty());
  EXPECT_TRUE(table.other.IsZero());
}

TEST(RowLimitTest, AScanStaysItsOrigins) {
  constexpr uint32_t kPairs = 500'000;
  RowLimit limit(1000);
  AccountingTable table;
  const auto flow = [&](const AccountingKey& key, uint32_t unanswered) {
    TrafficSums sums = Sums(60);
    sums.flow_count = 1;
    sums.unanswered_count = unanswered;
    const size_t hash = table.rows.Hash(key);
    table.rows.FindOrAdd(key, hash).Add(sums);
    if (limit.IsOver(table)) limit.FoldShardOf(hash, &table);
  };
  // Among as many others as keep their sums.
  const auto others = static_cast<uint32_t>(limit.OriginsMax()) - 1;
  AccountingKey scanned = Key(1 << 20);
  for (uint32_t i = 0; i < kPairs; ++i) {
    scanned.dst = Ipv4Address::FromHostOrder(0x0c000000u + i);
    flow(scanned, 1);
    if (i < others) flow(Key(i), 0);
  }
  EXPECT_TRUE(table.other.IsZero());
  TrafficSums total;
  const auto add = [&](const auto& entry) {
    if (entry.first.src == scanned.src) total.Add(entry.second);
  };
  table.rows.ForEach(add);
  table.folded.ForEach(add);
  EXPECT_EQ(total.original.packets, kPairs);
  EXPECT_EQ(total.flow_count, kPairs);
  EXPECT_EQ(total.unanswered_count, kPairs);
}

// In a flood with forged sources the smallest rows are folded, and memory is bounded.
TEST(RowLimitTest, TheSmallestOriginsAreSummedAsOne) {
  constexpr uint32_t kOrigins = 1'000'000;
  RowLimit limit(1000);
  AccountingTable table;
  TrafficSums expected;
  const auto add = [&](uint32_t origin, uint64_t bytes) {
    Add(Key(origin), bytes, &limit, &table);
    expected.Add(Sums(bytes));
  };
  for (uint32_t i = 0; i < 100; ++i) {
    AccountingKey key = Key(kOrigins + 1);
    key.port = static_cast<int32_t>(i);
    Add(key, 1000, &limit, &table);
    expected.Add(Sums(1000));
  }
  for (uint32_t i = 0; i < kOrigins; ++i) add(i, 60);
  EXPECT_LE(table.folded.size(), limit.OriginsMax() * 3 / 2);
  EXPECT_GE(table.folded.size(), limit.OriginsMax());
  EXPECT_FALSE(table.other.IsZero());
  EXPECT_TRUE(SameSums(Total(table), expected));
  TrafficSums large;
  const auto add_large = [&](const auto& entry) {
    if (entry.first.src == Key(kOrigins + 1).src) large.Add(entry.second);
  };
  table.rows.ForEach(add_large);
  table.folded.ForEach(add_large);
  EXPECT_EQ(large.original.bytes, 100'000u);
}

TEST(RowLimitTest, AScanKeepsTotalsAndLargeRowsInBoundedMemory) {
  constexpr uint32_t kRowsMax = 100'000;
  constexpr uint32_t kPairs = 2'000'000;
  RowLimit limit(kRowsMax);
  AccountingTable table;
  TrafficSums expected;
  size_t most = 0;
  for (uint32_t i = 0; i < kPairs; ++i) {
    // One in a thousand is large, and all others are alike.
    const uint64_t bytes = i % 1000 == 0 ? 1'000'000 + i : 60;
    Add(Key(i), bytes, &limit, &table);
    expected.Add(Sums(bytes));
    most = std::max(most, table.rows.size());
  }
  EXPECT_LE(most, kRowsMax * 3 / 2);
  EXPECT_GE(table.rows.size(), kRowsMax);
  // Beside the entries: free places, tags, and the shard that is being moved.
  EXPECT_LE(table.rows.MemoryBytes(), 3 * kRowsMax * sizeof(decltype(table.rows)::Entry));
  EXPECT_TRUE(SameSums(Total(table), expected));
  EXPECT_EQ(table.rows_folded + table.rows.size(), kPairs);
  for (uint32_t i = 0; i < kPairs; i += 1000) {
    const TrafficSums* sums = table.rows.Find(Key(i));
    ASSERT_NE(sums, nullptr) << i;
    EXPECT_TRUE(SameSums(*sums, Sums(1'000'000 + i)));
  }
  table.Clear();
  EXPECT_EQ(table.rows_folded, 0u);
  EXPECT_TRUE(table.other.IsZero());
}

// An UPDATE reports the close; the DESTROY reports the bytes much later.
TEST(RowLimitTest, AConnectionThatClosedIsKeptForItsBytes) {
  RowLimit limit(1);
  AccountingTable table;
  const AccountingKey key = Key(1'000'000);
  table.rows[key].connection_count = 1;
  for (uint32_t i = 0; i < 200'000; ++i) {
    const size_t hash = table.rows.Hash(Key(i));
    table.rows.FindOrAdd(Key(i), hash).original = {1, 60};
    limit.FoldShardOf(hash, &table);
  }
  ASSERT_NE(table.rows.Find(key), nullptr);
  EXPECT_GT(table.rows_folded, 100'000u);
}

TEST(RowLimitTest, AFoldedRowThatGrowsStartsAtZero) {
  RowLimit limit(1);
  AccountingTable table;
  for (uint32_t i = 0; i < 200'000; ++i) Add(Key(i), 60, &limit, &table);
  uint32_t folded = 0;
  while (table.rows.Find(Key(folded)) != nullptr) ++folded;
  const TrafficSums before = Total(table);
  Add(Key(folded), 5'000, &limit, &table);
  ASSERT_NE(table.rows.Find(Key(folded)), nullptr);
  EXPECT_TRUE(SameSums(*table.rows.Find(Key(folded)), Sums(5'000)));
  TrafficSums expected = before;
  expected.Add(Sums(5'000));
  EXPECT_TRUE(SameSums(Total(table), expected));
}

// Connections that were opened and closed within the interval leave nothing in memory.
TEST(RowLimitTest, OpenChangesAreKeptWhereTheyAreNotZero) {
  constexpr uint32_t kRowsMax = 1000;
  RowLimit limit(kRowsMax);
  AccountingTable table;
  size_t most = 0;
  uint32_t open = 0;
  for (uint32_t i = 0; i < 1'000'000; ++i) {
    table.open_changes[Key(i)] += 1;
    limit.NoteOpenChange(&table);
    if (i % 100 == 0) {
      ++open;
    } else {
      table.open_changes[Key(i)] -= 1;
      limit.NoteOpenChange(&table);
    }
    most = std::max(most, table.open_changes.size());
  }
  EXPECT_LE(most, 3 * open);
  uint32_t found = 0;
  table.open_changes.ForEach([&](const auto& change) { found += change.second == 1; });
  EXPECT_EQ(found, open);
}

// Of DESTROYs as the kernel sends them, in batches.
TEST(RowLimitTest, AWorkerFoldsWhatItsEventsAdd) {
  constexpr uint32_t kRowsMax = 50'000;
  constexpr uint32_t kPairs = 400'000;
  AccountingHandoff handoff;
  CurrentPortList ports;
  Worker::Options options;
  options.rules.interval_ns = 1'000'000'000;
  options.rows_max = kRowsMax;
  Worker worker(options, &handoff, &ports);
  worker.Start(1, false);
  const auto play = [&](FlowEventKind kind, uint32_t number) {
    FlowEvent event;
    event.kind = kind;
    event.identity.src = Ipv4Address::FromHostOrder(0x0a000000u + number);
    event.identity.dst = Ipv4Address::FromHostOrder(0x0b000000u);
    event.identity.protocol = kProtocolUdp;
    event.identity.dst_port = 53;
    event.identity.id = number;
    if (kind == FlowEventKind::kDestroy) {
      event.has_counters = true;
      event.original = {1, 60};
      event.reply = {1, 40};
    }
    worker.OnFlow(event, 2);
  };
  for (uint32_t i = 0; i < kPairs; ++i) {
    play(FlowEventKind::kNew, i);
    play(FlowEventKind::kDestroy, i);
  }
  worker.ApplyPending();
  const AccountingTable& table = handoff.live();
  EXPECT_LE(table.rows.size(), kRowsMax * 3 / 2 + 64);
  EXPECT_EQ(table.rows.size() + table.rows_folded, kPairs);
  const TrafficSums total = Total(table);
  EXPECT_EQ(total.original.packets, kPairs);
  EXPECT_EQ(total.original.bytes, kPairs * uint64_t{60});
  EXPECT_EQ(total.reply.bytes, kPairs * uint64_t{40});
}

}  // namespace
}  // namespace ctacct
