#include "engine/output/flusher.h"

#include <arpa/inet.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/spool/spool_reader.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

AccountingKey Key(uint8_t host, int32_t port = 80) {
  AccountingKey key;
  key.src = Ipv4Address::FromHostOrder(0x0a000000u + host);
  key.dst = Ipv4Address::FromHostOrder(0x0b000000u);
  key.protocol = kProtocolTcp;
  key.port = port;
  return key;
}

TrafficSums Sums(uint64_t packets) {
  TrafficSums sums;
  sums.original.packets = packets;
  sums.connection_count = 1;
  sums.connection_time_us = 1'999;
  return sums;
}

class FlusherTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/spool";
    std::filesystem::create_directory(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  struct Keep : RowSink {
    bool Takes(const IntervalRows&) const override { return true; }
    absl::Status Write(const IntervalRows& interval, const std::string&) override {
      if (status.ok()) rows.push_back(interval);
      return status;
    }
    absl::Status status;
    std::vector<IntervalRows> rows;
  };
  Flusher::Options Options() {
    Flusher::Options options;
    options.sink = &keep_;
    return options;
  }
  void Seal(int64_t end_ns) {
    handoff_.live().interval_end_ns = end_ns;
    handoff_.live().seal = ++seal_;
    ASSERT_TRUE(handoff_.Publish());
  }
  std::vector<std::string> Files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      names.push_back(entry.path().filename());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  std::string folder_;
  TableHandoff<AccountingTable> handoff_;
  uint64_t seal_ = 0;
  Keep keep_;
  const std::vector<IntervalRows>& kept_ = keep_.rows;
};

TEST_F(FlusherTest, RowsSayWhatTheTableSays) {
  Flusher flusher(Options());
  handoff_.live().rows[Key(1, -1)] = Sums(5);
  handoff_.live().events_dropped = 3;
  handoff_.live().completeness = Completeness::kResynced;
  Seal(15'000'000'000);
  ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  ASSERT_EQ(kept_.size(), 1u);
  EXPECT_EQ(kept_[0].events_dropped, 3u);
  EXPECT_EQ(kept_[0].completeness, Completeness::kResynced);
  ASSERT_EQ(kept_[0].rows.size(), 1u);
  const TrafficRow& row = kept_[0].rows[0];
  EXPECT_EQ(row.time_ns, 15'000'000'000);
  EXPECT_EQ(row.src, (AddressBytes{10, 0, 0, 1}));
  EXPECT_EQ(row.dst, (AddressBytes{11}));
  EXPECT_EQ(row.port, -1);
  EXPECT_EQ(row.packets_src, 5u);
  EXPECT_EQ(row.connection_time_ms, 1u);
  EXPECT_EQ(flusher.rows_written(), 1u);
}

// The machine stood still, or a dump took longer than an interval.
TEST_F(FlusherTest, IntervalsPassedOverAreWrittenWithoutRows) {
  Flusher::Options options = Options();
  options.interval_ns = kIntervalUnitNs;
  options.passed_over = true;
  Flusher flusher(options);
  const auto seal = [&](int64_t end_s, int64_t from_s) {
    handoff_.live().rows[Key(1)] = Sums(5);
    handoff_.live().covered_from_ns = from_s * kIntervalUnitNs;
    handoff_.live().covered_to_ns = end_s * kIntervalUnitNs;
    Seal(end_s * kIntervalUnitNs);
    ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  };
  seal(100, 99);
  seal(101, 100);
  EXPECT_EQ(kept_.size(), 2u);
  seal(105, 104);
  ASSERT_EQ(kept_.size(), 6u);
  for (size_t i = 0; i < kept_.size(); ++i) {
    EXPECT_EQ(kept_[i].end_ns, static_cast<int64_t>(100 + i) * kIntervalUnitNs);
    EXPECT_EQ(kept_[i].sequence, i + 1);
    const bool passed_over = i >= 2 && i <= 4;
    EXPECT_EQ(kept_[i].rows.size(), passed_over ? 0u : 1u);
    if (!passed_over) continue;
    EXPECT_EQ(kept_[i].covered_from_ns, 104 * kIntervalUnitNs);
    EXPECT_EQ(kept_[i].covered_to_ns, 104 * kIntervalUnitNs);
    EXPECT_EQ(kept_[i].completeness, Completeness::kComplete);
  }
  // The clock was set, by years or back.
  seal(105 + 2 * Flusher::kPassedOverMax, 105);
  seal(50, 49);
  EXPECT_EQ(kept_.size(), 8u);
}

// A worker's tables keep their memory from one interval to the next.
TEST_F(FlusherTest, TablesComeBackWithTheirMemory) {
  Flusher flusher(Options());
  for (int interval = 1; interval <= 4; ++interval) {
    // The two tables and the one that the flusher keeps rotate.
    if (interval == 4) {
      EXPECT_GT(handoff_.live().rows.MemoryBytes(), 100'000u * sizeof(TrafficSums));
    }
    for (uint32_t i = 0; i < 100'000; ++i) {
      AccountingKey key = Key(1);
      key.src = Ipv4Address::FromHostOrder(i);
      handoff_.live().rows[key] = Sums(1);
    }
    Seal(interval);
    ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
    EXPECT_TRUE(handoff_.live().rows.empty());
  }
}

// An interval is complete once every worker has sealed it, or has sealed a later one because it had
// no spare table.
TEST_F(FlusherTest, WorkersAreMerged) {
  Flusher::Options options = Options();
  options.track_open = true;
  Flusher flusher(options);
  AccountingHandoff other;
  const std::vector<AccountingHandoff*> both = {&handoff_, &other};
  const auto seal_other = [&](int64_t end_ns) {
    other.live().interval_end_ns = end_ns;
    other.live().seal = static_cast<uint64_t>(end_ns);
    ASSERT_TRUE(other.Publish());
  };
  handoff_.live().rows[Key(1)] = Sums(5);
  handoff_.live().open_changes[Key(1)] = 1;
  Seal(1);
  ASSERT_TRUE(flusher.Flush(both, false).ok());
  EXPECT_TRUE(kept_.empty());
  other.live().rows[Key(1)] = Sums(7);
  other.live().rows[Key(2)] = Sums(1);
  other.live().open_changes[Key(1)] = 2;
  other.live().events_dropped = 3;
  other.live().completeness = Completeness::kPartial;
  seal_other(1);
  ASSERT_TRUE(flusher.Flush(both, false).ok());
  ASSERT_EQ(kept_.size(), 1u);
  ASSERT_EQ(kept_[0].rows.size(), 2u);
  EXPECT_EQ(kept_[0].events_dropped, 3u);
  EXPECT_EQ(kept_[0].completeness, Completeness::kPartial);
  for (const TrafficRow& row : kept_[0].rows) {
    EXPECT_EQ(row.packets_src, row.src[3] == 1 ? 12u : 1u);
    EXPECT_EQ(row.open_connections, row.src[3] == 1 ? 3u : 0u);
  }
  // The other worker could not seal the second interval, so its part comes with the third.
  Seal(2);
  ASSERT_TRUE(flusher.Flush(both, false).ok());
  EXPECT_EQ(kept_.size(), 1u);
  Seal(3);
  other.live().rows[Key(2)] = Sums(1);
  seal_other(3);
  ASSERT_TRUE(flusher.Flush(both, false).ok());
  ASSERT_EQ(kept_.size(), 3u);
  EXPECT_EQ(kept_[1].end_ns, 2);
  EXPECT_EQ(kept_[1].rows.size(), 1u);
  EXPECT_EQ(kept_[2].rows.size(), 2u);
}

Gap MakeGap(int64_t began_ns, int64_t ended_ns, uint64_t dropped, GapCause cause) {
  return {began_ns, ended_ns, cause, Completeness::kResynced, dropped, 1};
}

TEST_F(FlusherTest, GapsOfAllWorkersAreJoined) {
  Flusher flusher(Options());
  AccountingHandoff other;
  handoff_.live().gaps = {MakeGap(10, 30, 1, GapCause::kOverrun)};
  Seal(100);
  other.live().gaps = {MakeGap(20, 40, 2, GapCause::kOverrun),
                       MakeGap(5, 60, 0, GapCause::kRestart)};
  other.live().gaps[1].completeness = Completeness::kPartial;
  other.live().interval_end_ns = 100;
  other.live().seal = seal_;
  ASSERT_TRUE(other.Publish());
  ASSERT_TRUE(flusher.Flush({&handoff_, &other}, false).ok());
  ASSERT_EQ(kept_.size(), 1u);
  EXPECT_TRUE(kept_[0].rows.empty());
  Gap restart = MakeGap(5, 60, 0, GapCause::kRestart);
  restart.completeness = Completeness::kPartial;
  Gap overrun = MakeGap(10, 40, 3, GapCause::kOverrun);
  overrun.flows_lost = 2;
  EXPECT_EQ(kept_[0].gaps, (std::vector<Gap>{restart, overrun}));
  EXPECT_EQ(kept_[0].completeness, Completeness::kPartial);
  // The next interval is not affected.
  handoff_.live().rows[Key(1)] = Sums(1);
  Seal(200);
  other.live().interval_end_ns = 200;
  other.live().seal = seal_;
  ASSERT_TRUE(other.Publish());
  ASSERT_TRUE(flusher.Flush({&handoff_, &other}, false).ok());
  ASSERT_EQ(kept_.size(), 2u);
  EXPECT_TRUE(kept_[1].gaps.empty());
  EXPECT_EQ(kept_[1].completeness, Completeness::kComplete);
}

// A silent gateway must not look like one whose engine does not run.
TEST_F(FlusherTest, AnIntervalWithoutRowsIsASpoolFile) {
  SpoolHeader header;
  header.engine_id = {1, 2, 3};
  header.interval_length_ns = 1'000'000'000;
  SpoolSink sink(folder_, header);
  CurrentPortList ports;
  Flusher::Options options;
  options.sink = &sink;
  options.ports = &ports;
  Flusher flusher(options);
  handoff_.live().covered_from_ns = 400'000'000;
  handoff_.live().covered_to_ns = 1'000'000'001;
  Seal(1'000'000'000);
  ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  ports.Replace(PortList::Parse("tcp:80\n", "f").value());
  handoff_.live().covered_from_ns = 1'000'000'001;
  handoff_.live().covered_to_ns = 2'000'000'000;
  Seal(2'000'000'000);
  ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  EXPECT_EQ(flusher.intervals_written(), 2u);
  ASSERT_EQ(Files().size(), 2u);
  auto first = SpoolReader::Open(folder_ + "/" + Files()[0]);
  auto second = SpoolReader::Open(folder_ + "/" + Files()[1]);
  ASSERT_TRUE(first.ok() && second.ok()) << first.status() << second.status();
  EXPECT_EQ(first->header().sequence, 1u);
  EXPECT_EQ(first->header().covered_from_ns, 400'000'000);
  EXPECT_EQ(first->header().covered_to_ns, 1'000'000'001);
  EXPECT_EQ(first->header().ports_checksum, 0u);
  EXPECT_EQ(second->header().sequence, 2u);
  EXPECT_EQ(second->header().covered_from_ns, 1'000'000'001);
  EXPECT_EQ(second->header().ports_checksum, ports.Get()->checksum());
}

// However many and however odd gaps are, they must never prevent rows from being written.
TEST_F(FlusherTest, GapsGoIntoTheSpoolFile) {
  SpoolHeader header;
  header.engine_id = {1, 2, 3};
  header.interval_length_ns = 1'000'000'000;
  SpoolSink sink(folder_, header);
  Flusher::Options options;
  options.sink = &sink;
  Flusher flusher(options);
  handoff_.live().gaps = {MakeGap(30, 10, 1, GapCause::kOverrun)};
  Seal(1'000'000'000);
  ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  for (int64_t i = 0; i < 20'000; ++i) {
    handoff_.live().gaps.push_back(MakeGap(10 * i, 10 * i + 1, 2, GapCause::kOverrun));
  }
  Seal(2'000'000'000);
  ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  const Gap expected[] = {MakeGap(10, 30, 1, GapCause::kOverrun),
                          MakeGap(0, 199'991, 40'000, GapCause::kOverrun)};
  ASSERT_EQ(Files().size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    auto reader = SpoolReader::Open(folder_ + "/" + Files()[i]);
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_EQ(reader->header().completeness, Completeness::kResynced);
    std::vector<TrafficRow> rows;
    const absl::StatusOr<bool> more = reader->ReadBlock(&rows);
    ASSERT_TRUE(more.ok()) << more.status();
    EXPECT_FALSE(*more);
    ASSERT_EQ(reader->gaps().size(), 1u);
    EXPECT_EQ(reader->gaps()[0].began_ns, expected[i].began_ns);
    EXPECT_EQ(reader->gaps()[0].ended_ns, expected[i].ended_ns);
    EXPECT_EQ(reader->gaps()[0].events_dropped, expected[i].events_dropped);
  }
}

// Whatever the clock shows and the kernel claims, the file is written, and the reader accepts it. A
// refused file would hold up all later ones.
TEST_F(FlusherTest, TheMostExtremeIntervalIsAFileThatItsReaderTakes) {
  constexpr int64_t kInterval = 15'000'000'000;
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  constexpr uint64_t kAll = std::numeric_limits<uint64_t>::max();
  constexpr int64_t kYear2250 = 8'836'171'200'000'000'000;
  constexpr int64_t kNow = 1'600'000'005'000'000'000;
  struct Clock {
    int64_t end_ns;
    int64_t from_ns;
    int64_t to_ns;
    int64_t expected_end_ns;
  };
  const Clock clocks[] = {
      {0, 0, 0, 0},
      {-kInterval, -kInterval, -5, 0},    // Before 1970.
      {kInterval, 5, kNow, kInterval},    // Set right after it was 1970.
      {kNow, kNow - kInterval, 5, kNow},  // Set back to 1970.
      {kYear2250, kYear2250 - 9, kYear2250, 7'258'118'385'000'000'000},
      {kMost / kInterval * kInterval, 0, kMost, 7'258'118'385'000'000'000},
  };
  SpoolHeader header;
  header.engine_id = {1, 2, 3};
  header.interval_length_ns = kInterval;
  header.gateway = std::string(255, 'g');
  header.track_open = true;
  SpoolSink sink(folder_, header);
  Flusher::Options options;
  options.sink = &sink;
  options.interval_ns = kInterval;
  options.track_open = true;
  Flusher flusher(options);
  for (size_t i = 0; i < std::size(clocks); ++i) {
    AccountingTable& table = handoff_.live();
    table.covered_from_ns = clocks[i].from_ns;
    table.covered_to_ns = clocks[i].to_ns;
    table.events_dropped = kAll;
    for (uint32_t key = 1; key <= 3; ++key) {
      TrafficSums sums;
      sums.original = sums.reply = {kAll, kAll};
      sums.connection_count = kAll;
      sums.connection_time_us = kAll;
      table.rows[Key(key)].Add(sums);
      table.rows[Key(key)].Add(sums);
      table.open_changes[Key(key)] = int64_t{1} << 40;
    }
    table.gaps = {MakeGap(-kMost, kMost, kAll, GapCause::kOverrun),
                  MakeGap(-kMost, -1, kAll, GapCause::kAllocation),
                  MakeGap(kMost - 1, kMost, kAll, GapCause::kRestart)};
    for (Gap& gap : table.gaps) gap.flows_lost = kAll;
    Seal(clocks[i].end_ns);
    ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok()) << i;
    ASSERT_EQ(Files().size(), i + 1);
    auto reader = SpoolReader::Open(folder_ + "/" + Files()[i]);
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_EQ(reader->header().interval_end_ns, clocks[i].expected_end_ns);
    EXPECT_EQ(reader->header().completeness, Completeness::kPartial);
    std::vector<TrafficRow> rows;
    absl::StatusOr<bool> more = reader->ReadBlock(&rows);
    ASSERT_TRUE(more.ok()) << more.status();
    ASSERT_EQ(rows.size(), 3u);
    uint64_t bytes = 0;
    uint64_t milliseconds = 0;
    for (const TrafficRow& row : rows) {
      bytes += row.bytes_src;
      milliseconds += row.connection_time_ms;
      EXPECT_EQ(row.connection_count, 2'147'483'647u);
      EXPECT_EQ(row.open_connections, 2'147'483'647u);
    }
    EXPECT_EQ(bytes, uint64_t{1} << 53);
    EXPECT_EQ(milliseconds, uint64_t{1} << 53);
    more = reader->ReadBlock(&rows);
    ASSERT_TRUE(more.ok()) << more.status();
    EXPECT_EQ(reader->gaps().size(), 3u);
  }
}

// The connection time may saturate: no traffic is missing for that.
TEST_F(FlusherTest, ASaturatedConnectionTimeLeavesAnIntervalComplete) {
  Flusher flusher(Options());
  TrafficSums sums;
  sums.original = {1, 100};
  sums.connection_count = 1;
  sums.connection_time_us = std::numeric_limits<uint64_t>::max();
  handoff_.live().rows[Key(1)] = sums;
  Seal(1);
  ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  ASSERT_EQ(kept_.size(), 1u);
  EXPECT_EQ(kept_[0].completeness, Completeness::kComplete);
  ASSERT_EQ(kept_[0].rows.size(), 1u);
  EXPECT_EQ(kept_[0].rows[0].connection_time_ms, uint64_t{1} << 53);
}

TEST_F(FlusherTest, OpenConnectionsLastOverIntervals) {
  Flusher::Options options = Options();
  options.track_open = true;
  Flusher flusher(options);
  handoff_.live().open_changes[Key(1)] = 2;
  handoff_.live().rows[Key(2)] = Sums(1);
  Seal(1);
  ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  Seal(2);
  ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  handoff_.live().open_changes[Key(1)] = -2;
  handoff_.live().rows[Key(1)] = Sums(1);
  Seal(3);
  ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  ASSERT_EQ(kept_.size(), 3u);
  EXPECT_EQ(kept_[0].rows.size(), 2u);
  ASSERT_EQ(kept_[1].rows.size(), 1u);
  EXPECT_EQ(kept_[1].rows[0].open_connections, 2u);
  ASSERT_EQ(kept_[2].rows.size(), 1u);
  EXPECT_EQ(kept_[2].rows[0].open_connections, 0u);
}

// -max-rows: the largest stay, all others are one row.
TEST_F(FlusherTest, TheSmallestRowsBecomeOne) {
  Flusher::Options options = Options();
  options.track_open = true;
  options.rows_max = 4;
  Flusher flusher(options);
  AccountingHandoff other_worker;
  const auto sums = [](uint64_t bytes) {
    TrafficSums sums = Sums(1);
    sums.original.bytes = bytes;
    sums.reply = {1, bytes};
    return sums;
  };
  // Of bytes 10, 20, 30, 80, 81: the second and third are what two workers have seen.
  handoff_.live().rows[Key(1)] = sums(10);
  handoff_.live().rows[Key(2)] = sums(10);
  handoff_.live().rows[Key(3)] = sums(15);
  handoff_.live().rows[Key(4)] = sums(80);
  other_worker.live().rows[Key(2)] = sums(10);
  other_worker.live().rows[Key(3)] = sums(15);
  other_worker.live().rows[Key(5)] = sums(81);
  // What this worker has folded itself.
  other_worker.live().other = sums(100);
  other_worker.live().rows_folded = 7;
  handoff_.live().open_changes[Key(1)] = 2;
  handoff_.live().open_changes[Key(4)] = 3;
  other_worker.live().open_changes[Key(6)] = 4;
  Seal(1);
  other_worker.live().interval_end_ns = 1;
  other_worker.live().seal = seal_;
  ASSERT_TRUE(other_worker.Publish());
  ASSERT_TRUE(flusher.Flush({&handoff_, &other_worker}, false).ok());
  ASSERT_EQ(kept_.size(), 1u);
  ASSERT_EQ(kept_[0].rows.size(), 4u);
  EXPECT_EQ(flusher.rows_folded(), 7u + 3u);  // Two rows, and one of open connections only.
  int others = 0;
  for (const TrafficRow& row : kept_[0].rows) {
    if (IsOtherRow(row)) {
      ++others;
      EXPECT_EQ(row.src, AddressBytes());
      EXPECT_EQ(row.dst, AddressBytes());
      EXPECT_EQ(row.bytes_src, 100u + 10u + 20u);
      EXPECT_EQ(row.bytes_dst, 100u + 10u + 20u);
      EXPECT_EQ(row.packets_src, 4u);
      EXPECT_EQ(row.packets_dst, 4u);
      EXPECT_EQ(row.connection_count, 4u);
      EXPECT_EQ(row.open_connections, 2u + 4u);
    } else {
      EXPECT_GE(row.src[3], 3);
      EXPECT_EQ(row.open_connections, row.src[3] == 4 ? 3u : 0u);
    }
  }
  EXPECT_EQ(others, 1);
  // Open connections are not forgotten when their rows are folded: when they end, nothing is left.
  handoff_.live().open_changes[Key(1)] = -2;
  handoff_.live().open_changes[Key(4)] = -3;
  handoff_.live().open_changes[Key(6)] = -4;
  Seal(2);
  other_worker.live().interval_end_ns = 2;
  other_worker.live().seal = seal_;
  ASSERT_TRUE(other_worker.Publish());
  ASSERT_TRUE(flusher.Flush({&handoff_, &other_worker}, false).ok());
  EXPECT_EQ(flusher.intervals_written(), 2u);
  ASSERT_EQ(kept_.size(), 2u);
  EXPECT_TRUE(kept_[1].rows.empty());
}

TEST_F(FlusherTest, AsManyRowsAsAllowedAreLeftAlone) {
  Flusher::Options options = Options();
  options.track_open = true;
  options.rows_max = 3;
  Flusher flusher(options);
  handoff_.live().rows[Key(1)] = Sums(5);
  handoff_.live().rows[Key(2)] = Sums(6);
  handoff_.live().open_changes[Key(3)] = 4;
  Seal(1);
  ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  ASSERT_EQ(kept_.size(), 1u);
  EXPECT_EQ(kept_[0].rows.size(), 3u);
  for (const TrafficRow& row : kept_[0].rows) EXPECT_FALSE(IsOtherRow(row));
  EXPECT_EQ(flusher.rows_folded(), 0u);
}

// Which of equally large rows are kept depends neither on the process nor on the number of workers.
TEST_F(FlusherTest, OfEquallySmallRowsTheKeysDecide) {
  Flusher::Options options = Options();
  options.rows_max = 11;
  Flusher flusher(options);
  for (uint8_t host = 200; host > 0; --host) handoff_.live().rows[Key(host)] = Sums(1);
  Seal(1);
  ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  ASSERT_EQ(kept_[0].rows.size(), 11u);
  for (const TrafficRow& row : kept_[0].rows) {
    EXPECT_TRUE(IsOtherRow(row) || row.src[3] <= 10) << int{row.src[3]};
    if (IsOtherRow(row)) {
      EXPECT_EQ(row.packets_src, 190u);
    }
  }
}

TEST_F(FlusherTest, OpenConnectionsFollowANewPortList) {
  CurrentPortList ports;
  ports.Replace(PortList::Parse("tcp:80\n", "ports").value());
  Flusher::Options options = Options();
  options.track_open = true;
  options.ports = &ports;
  Flusher flusher(options);
  handoff_.live().open_changes[Key(1, 80)] = 1;
  handoff_.live().open_changes[Key(1, 81)] = 1;
  handoff_.live().open_changes[Key(1, 82)] = 1;
  Seal(1);
  ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  ports.Replace(PortList::Parse("udp:1\n", "ports").value());
  Seal(2);
  ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  ASSERT_EQ(kept_[0].rows.size(), 2u);
  ASSERT_EQ(kept_[1].rows.size(), 1u);
  EXPECT_EQ(kept_[1].rows[0].port, -1);
  EXPECT_EQ(kept_[1].rows[0].open_connections, 3u);
}

TEST_F(FlusherTest, RowsWaitWhileTheyCannotBeWritten) {
  Flusher flusher(Options());
  keep_.status = absl::ResourceExhaustedError("disk full");
  for (int interval = 1; interval <= 3; ++interval) {
    handoff_.live().rows[Key(1)] = Sums(1);
    Seal(interval);
    EXPECT_FALSE(flusher.Flush({&handoff_}, false).ok());
  }
  EXPECT_EQ(flusher.rows_waiting(), 3u);
  keep_.status = absl::OkStatus();
  ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  EXPECT_EQ(flusher.rows_waiting(), 0u);
  ASSERT_EQ(kept_.size(), 3u);
  for (int interval = 1; interval <= 3; ++interval) EXPECT_EQ(kept_[interval - 1].end_ns, interval);
}

// A disk that stays full over a quiet week must not fill the memory.
TEST_F(FlusherTest, ABacklogOfIntervalsWithoutRowsIsBounded) {
  Flusher::Options options = Options();
  options.waiting_intervals_max = 2;
  Flusher flusher(options);
  keep_.status = absl::UnavailableError("full");
  for (int interval = 1; interval <= 3; ++interval) {
    Seal(interval);
    EXPECT_FALSE(flusher.Flush({&handoff_}, false).ok());
  }
  // The third stays in the hand-over: the worker continues with its current table.
  EXPECT_FALSE(handoff_.Publish());
  keep_.status = absl::OkStatus();
  ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  EXPECT_EQ(kept_.size(), 2u);
  ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  EXPECT_EQ(kept_.size(), 3u);
}

TEST_F(FlusherTest, SpoolFilesAreNumberedAndAFailedAttemptUsesNoNumber) {
  SpoolHeader header;
  header.engine_id = {1, 2, 3};
  header.interval_length_ns = 1'000'000'000;
  header.gateway = "gw";
  SpoolSink sink(folder_, header);
  Flusher::Options options;
  options.sink = &sink;
  Flusher flusher(options);
  for (int interval = 1; interval <= 2; ++interval) {
    handoff_.live().rows[Key(1)] = Sums(7);
    Seal(interval * 1'000'000'000);
    if (interval == 2) {
      std::filesystem::rename(folder_, folder_ + ".gone");
      EXPECT_FALSE(flusher.Flush({&handoff_}, false).ok());
      std::filesystem::rename(folder_ + ".gone", folder_);
    }
    ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  }
  EXPECT_THAT(Files(), ElementsAre(HasSubstr("-0000000001.spool"), HasSubstr("-0000000002.spool")));
  auto reader = SpoolReader::Open(folder_ + "/" + Files()[1]);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(reader->header().sequence, 2u);
  EXPECT_EQ(reader->header().interval_end_ns, 2'000'000'000);
  EXPECT_EQ(reader->header().gateway, "gw");
}

TEST_F(FlusherTest, CsvFilesNeverReplaceEachOther) {
  CsvSink sink(folder_, false);
  Flusher::Options options;
  options.sink = &sink;
  Flusher flusher(options);
  for (int i = 0; i < 2; ++i) {
    handoff_.live().rows[Key(1)] = Sums(static_cast<uint64_t>(i) + 1);
    Seal(1'600'000'005'000'000'000);
    ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  }
  Seal(1'600'000'020'000'000'000);  // Nothing happened: no file.
  ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  EXPECT_THAT(Files(),
              ElementsAre("traffic_2020-09-13T12_26_45.csv", "traffic_2020-09-13T12_26_45_1.csv"));
  std::ifstream file(folder_ + "/" + Files()[1]);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  EXPECT_EQ(text, "1600000005000000000,tcp,10.0.0.1,11.0.0.0,80,2,0,0,0,1,1\n");
}

// ---- With a checkpoint ----

class CheckpointedFlusherTest : public FlusherTest {
 protected:
  void SetUp() override {
    FlusherTest::SetUp();
    std::filesystem::remove_all(state_);
  }
  // As a run of the engine would: what it finds goes to recovered_ and records_.
  void Begin(uint8_t id, size_t waiting_rows_max = Flusher::kWaitingRowsMax) {
    checkpoint_.reset();
    absl::StatusOr<std::unique_ptr<Checkpoint>> opened = Checkpoint::Open(state_, folder_);
    ASSERT_TRUE(opened.ok()) << opened.status();
    checkpoint_ = *std::move(opened);
    recovered_.reset();
    records_.clear();
    const absl::Status status = checkpoint_->Recover(
        [&](const CheckpointInfo& info) {
          recovered_ = info;
          return true;
        },
        [&](const FlowRecord& record) { records_.push_back(record); });
    EXPECT_TRUE(status.ok()) << status;
    CheckpointInfo info;
    info.engine_id = {id};
    checkpoint_->Start(info, 1);
    SpoolHeader header;
    header.engine_id = info.engine_id;
    header.interval_length_ns = 1'000'000'000;
    sink_.emplace(folder_, header);
    Flusher::Options options;
    options.sink = &*sink_;
    options.checkpoint = checkpoint_.get();
    stream_ = std::make_unique<SnapshotStream>();
    options.snapshots = {stream_.get()};
    options.waiting_rows_max = waiting_rows_max;
    options.log = [this](const std::string& line) { log_ += line; };
    flusher_.emplace(std::move(options));
    seal_ = 0;
  }
  // But for the time, which makes a gap.
  void ExpectNothingKnown() const {
    ASSERT_TRUE(recovered_.has_value());
    EXPECT_FALSE(recovered_->flows_known);
    EXPECT_GT(recovered_->taken_ns, 0);
    EXPECT_TRUE(records_.empty());
  }
  void Interval(uint64_t packets) {
    handoff_.live().rows[Key(1)] = Sums(packets);
    Seal(static_cast<int64_t>(seal_ + 1) * 1'000'000'000);
  }
  // One flow, known by how much was accounted of it.
  void Snapshot(uint64_t packets, bool last = true) { SnapshotOf(seal_, packets, last); }
  void SnapshotOf(uint64_t seal, uint64_t packets, bool last = true) {
    SnapshotChunk chunk;
    chunk.seal = seal;
    chunk.last = last;
    chunk.taken_ns = static_cast<int64_t>(seal);
    chunk.records.resize(1);
    chunk.records[0].original.packets = packets;
    stream_->Push(std::move(chunk));
  }
  std::vector<std::string> Visible() const {
    std::vector<std::string> names = Files();
    std::erase_if(names, [](const std::string& name) { return name.starts_with("."); });
    return names;
  }
  size_t Prepared() const { return Files().size() - Visible().size(); }
  absl::Status Flush() { return flusher_->Flush({&handoff_}, false); }

  const std::string state_ = testing::TempDir() + "/flusher_state";
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<SnapshotStream> stream_;
  std::optional<SpoolSink> sink_;
  std::optional<Flusher> flusher_;
  std::optional<CheckpointInfo> recovered_;
  std::vector<FlowRecord> records_;
  std::string log_;
};

TEST_F(CheckpointedFlusherTest, RowsAreSeenWithTheSnapshotThatBelongsToThem) {
  Begin(1);
  EXPECT_FALSE(recovered_.has_value());
  Interval(5);
  ASSERT_TRUE(Flush().ok());
  EXPECT_TRUE(Visible().empty());
  Snapshot(5, false);
  ASSERT_TRUE(Flush().ok());
  EXPECT_TRUE(Visible().empty());
  Snapshot(6);
  ASSERT_TRUE(Flush().ok());
  EXPECT_EQ(Visible().size(), 1u);
  EXPECT_EQ(flusher_->rows_waiting(), 0u);
  Begin(2);
  ASSERT_TRUE(recovered_.has_value());
  EXPECT_EQ(recovered_->last_sequence, 1u);
  EXPECT_EQ(recovered_->taken_ns, 1);
  EXPECT_FALSE(recovered_->clean);
  ASSERT_EQ(records_.size(), 2u);
  EXPECT_EQ(records_[0].original.packets, 5u);
  EXPECT_EQ(records_[1].original.packets, 6u);
}

// Killed after rows were prepared, before the checkpoint: their traffic will be accounted again.
TEST_F(CheckpointedFlusherTest, RowsAfterTheCheckpointAreRemovedAtARestart) {
  Begin(1);
  Interval(5);
  Snapshot(5);
  ASSERT_TRUE(Flush().ok());
  Interval(7);
  ASSERT_TRUE(Flush().ok());
  EXPECT_EQ(Prepared(), 1u);
  Begin(2);
  EXPECT_EQ(recovered_->last_sequence, 1u);
  EXPECT_EQ(records_[0].original.packets, 5u);
  EXPECT_EQ(Visible().size(), 1u);
  EXPECT_EQ(Prepared(), 0u);
}

// Two intervals wait when the first one's copy is complete: the commit covers the first only.
TEST_F(CheckpointedFlusherTest, ACommitCoversTheRowsUpToItsCopy) {
  Begin(1);
  Interval(5);
  ASSERT_TRUE(Flush().ok());
  Interval(7);
  ASSERT_TRUE(Flush().ok());
  EXPECT_TRUE(Visible().empty());
  SnapshotOf(1, 5);
  ASSERT_TRUE(Flush().ok());
  EXPECT_EQ(Visible().size(), 1u);
  EXPECT_EQ(flusher_->rows_waiting(), 1u);
  Begin(2);
  EXPECT_EQ(recovered_->last_sequence, 1u);
  EXPECT_EQ(records_[0].original.packets, 5u);
  EXPECT_EQ(Visible().size(), 1u);  // The second will be accounted again.
}

// Killed after the checkpoint, before the rows got their name.
TEST_F(CheckpointedFlusherTest, RowsOfTheCheckpointAreSeenAfterARestart) {
  Begin(1);
  Interval(5);
  Snapshot(5);
  ASSERT_TRUE(Flush().ok());
  const std::string name = Visible()[0];
  std::filesystem::rename(folder_ + "/" + name, folder_ + "/" + checkpoint_->HiddenName(1, name));
  Begin(2);
  EXPECT_THAT(Visible(), ElementsAre(name));
  // An engine that dies before its first checkpoint leaves the one before in force.
  Interval(9);
  ASSERT_TRUE(Flush().ok());
  Begin(3);
  EXPECT_EQ(records_[0].original.packets, 5u);
  EXPECT_THAT(Visible(), ElementsAre(name));
}

TEST_F(CheckpointedFlusherTest, WithoutACheckpointAllPreparedRowsAreSeen) {
  Begin(1);
  Interval(5);
  ASSERT_TRUE(Flush().ok());
  EXPECT_TRUE(Visible().empty());
  Begin(2);
  ExpectNothingKnown();
  EXPECT_EQ(Visible().size(), 1u);
}

TEST_F(CheckpointedFlusherTest, ADamagedCheckpointIsNotUsed) {
  Begin(1);
  Interval(5);
  Snapshot(5);
  ASSERT_TRUE(Flush().ok());
  std::fstream file(state_ + "/checkpoint", std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-3, std::ios::end);
  file.put('x');
  file.close();
  Begin(2);
  ExpectNothingKnown();
}

TEST_F(CheckpointedFlusherTest, ASnapshotLeftOutMakesRowsWaitForTheNext) {
  Begin(1);
  Interval(5);
  SnapshotChunk none;
  none.seal = seal_;
  none.last = true;
  none.whole = false;
  stream_->Push(std::move(none));
  ASSERT_TRUE(Flush().ok());
  EXPECT_TRUE(Visible().empty());
  Interval(6);
  Snapshot(11);
  ASSERT_TRUE(Flush().ok());
  EXPECT_EQ(Visible().size(), 2u);
}

// The engine ends: if only one can be written, rows are more important than the checkpoint.
TEST_F(CheckpointedFlusherTest, WithoutALastSnapshotRowsAreSeenAndTheCheckpointIsGone) {
  Begin(1);
  Interval(5);
  Snapshot(5);
  ASSERT_TRUE(Flush().ok());
  Interval(6);
  ASSERT_TRUE(flusher_->Finish({&handoff_}, true).ok());
  EXPECT_EQ(Visible().size(), 2u);
  Begin(2);
  ExpectNothingKnown();
}

TEST_F(CheckpointedFlusherTest, TheNextRunKnowsOfACleanEnd) {
  Begin(1);
  Interval(6);
  Snapshot(6);
  ASSERT_TRUE(flusher_->Finish({&handoff_}, true).ok());
  Begin(2);
  ASSERT_TRUE(recovered_.has_value());
  EXPECT_TRUE(recovered_->clean);
}

// Fault 6, at its worst moment.
TEST_F(CheckpointedFlusherTest, PreparedRowsThatVanishAreWrittenAgain) {
  Begin(1);
  Interval(5);
  ASSERT_TRUE(Flush().ok());
  std::filesystem::remove_all(folder_);
  Snapshot(5);
  EXPECT_FALSE(Flush().ok());
  std::filesystem::create_directory(folder_);
  while (!Flush().ok()) {
  }
  EXPECT_EQ(Visible().size(), 1u);
  EXPECT_EQ(flusher_->rows_waiting(), 0u);
}

// An outage: the backlog is full, and a snapshot comes whose table is still to be taken.
TEST_F(CheckpointedFlusherTest, AFullBacklogIsWrittenOnceThereIsRoom) {
  Begin(1, 1);
  std::filesystem::rename(folder_, folder_ + ".gone");
  std::ofstream(folder_) << "in its place";
  Interval(5);
  Snapshot(5);
  EXPECT_FALSE(Flush().ok());
  Interval(6);
  Snapshot(6);
  EXPECT_FALSE(Flush().ok());
  std::filesystem::remove(folder_);
  std::filesystem::rename(folder_ + ".gone", folder_);
  for (int i = 0; i < 5; ++i) (void)Flush();
  EXPECT_EQ(Visible().size(), 2u);
  EXPECT_EQ(flusher_->rows_waiting(), 0u);
}

// An engine that does not resume the flows makes the checkpoint void: the next engine must not
// resume them either.
TEST_F(CheckpointedFlusherTest, WhatIsNotTakenOverIsVoid) {
  Begin(1);
  Interval(5);
  Snapshot(5);
  ASSERT_TRUE(Flush().ok());
  checkpoint_.reset();
  auto recording = Checkpoint::Open(state_, folder_);
  ASSERT_TRUE(recording.ok());
  ASSERT_TRUE((*recording)
                  ->Recover([](const CheckpointInfo&) { return false; }, [](const FlowRecord&) {})
                  .ok());
  recording->reset();
  Begin(2);
  ExpectNothingKnown();
}

// Where a rename is a link and an unlink, and a kill came between.
TEST_F(CheckpointedFlusherTest, ARowFileThatHasBothItsNames) {
  Begin(1);
  Interval(5);
  Snapshot(5);
  ASSERT_TRUE(Flush().ok());
  const std::string name = Visible()[0];
  std::filesystem::create_hard_link(folder_ + "/" + name,
                                    folder_ + "/" + checkpoint_->HiddenName(1, name));
  Begin(2);
  EXPECT_THAT(Visible(), ElementsAre(name));
  EXPECT_EQ(Prepared(), 0u);
}

// The state folder is moved away while rows that are committed still wait for their name. They
// stay: an engine that resumes from that checkpoint does not account them again.
TEST_F(CheckpointedFlusherTest, WithoutItsStateCommittedRowsStayForTheNext) {
  Begin(1);
  Interval(5);
  ASSERT_TRUE(Flush().ok());
  ASSERT_EQ(Prepared(), 1u);
  PreparedName prepared;
  ASSERT_TRUE(prepared.Parse(Files()[0]));
  const std::string name = prepared.name;
  std::ofstream(folder_ + "/" + name) << "in its place";
  Snapshot(5);
  EXPECT_FALSE(Flush().ok());
  EXPECT_FALSE(flusher_->lost_state());
  std::filesystem::rename(state_, state_ + ".moved");
  EXPECT_FALSE(Flush().ok());
  EXPECT_TRUE(flusher_->lost_state());
  EXPECT_EQ(Prepared(), 1u);
  std::filesystem::remove(folder_ + "/" + name);
  std::filesystem::rename(state_ + ".moved", state_);
  Begin(2);
  EXPECT_THAT(Visible(), ElementsAre(name));
  EXPECT_EQ(Prepared(), 0u);
}

// Prepared rows that were not committed vanish with their state: another engine may account the
// same traffic from here on. Rows that still wait are no longer prepared.
TEST_F(CheckpointedFlusherTest, WithoutItsStateNothingMoreIsRevealed) {
  for (const bool last : {false, true}) {
    SCOPED_TRACE(last);
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directory(folder_);
    Begin(1);
    Interval(5);
    Snapshot(5);
    ASSERT_TRUE(Flush().ok());
    Interval(6);
    ASSERT_TRUE(Flush().ok());
    EXPECT_EQ(Visible().size(), 1u);
    EXPECT_EQ(Prepared(), 1u);
    EXPECT_FALSE(flusher_->lost_state());
    std::filesystem::remove_all(state_);
    if (!last) Snapshot(6);
    Interval(7);
    const absl::Status status = last ? flusher_->Finish({&handoff_}, true) : Flush();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_TRUE(flusher_->lost_state());
    EXPECT_EQ(Visible().size(), 1u);
    EXPECT_EQ(Prepared(), 0u);
    EXPECT_FALSE(std::filesystem::exists(state_));
    EXPECT_EQ(Flush(), status);
    EXPECT_EQ(Visible().size(), 1u);
    checkpoint_.reset();
  }
}

}  // namespace
}  // namespace ctacct
