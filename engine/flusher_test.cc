#include "engine/flusher.h"

#include <arpa/inet.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "engine/spool_reader.h"
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
  sums.connection_time_ns = 1'999'999;
  return sums;
}

class FlusherTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/spool";
    std::filesystem::create_directory(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  RowSink Keep() {
    return [this](const IntervalRows& interval) {
      if (sink_status_.ok()) kept_.push_back(interval);
      return sink_status_;
    };
  }
  Flusher::Options Options() {
    Flusher::Options options;
    options.sink = Keep();
    return options;
  }
  void Seal(int64_t end_ns) {
    handoff_.live().interval_end_ns = end_ns;
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
  absl::Status sink_status_;
  std::vector<IntervalRows> kept_;
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

// A worker's tables need not grow anew in each interval.
TEST_F(FlusherTest, TablesComeBackWithTheirMemory) {
  Flusher flusher(Options());
  for (int interval = 1; interval <= 4; ++interval) {
    // The two tables and the one that the flusher keeps go round.
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

// An interval is whole once every worker has sealed it, or a later one for want of a spare table.
TEST_F(FlusherTest, WorkersAreMerged) {
  Flusher::Options options = Options();
  options.track_open = true;
  Flusher flusher(options);
  AccountingHandoff other;
  const std::vector<AccountingHandoff*> both = {&handoff_, &other};
  const auto seal_other = [&](int64_t end_ns) {
    other.live().interval_end_ns = end_ns;
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
  // The other one could not seal the second interval, and brings its part with the third.
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
  // What this worker had to fold itself.
  other_worker.live().other = sums(100);
  other_worker.live().rows_folded = 7;
  handoff_.live().open_changes[Key(1)] = 2;
  handoff_.live().open_changes[Key(4)] = 3;
  other_worker.live().open_changes[Key(6)] = 4;
  Seal(1);
  other_worker.live().interval_end_ns = 1;
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
  // Open connections are not forgotten where they were summed: when they end, nothing is left.
  handoff_.live().open_changes[Key(1)] = -2;
  handoff_.live().open_changes[Key(4)] = -3;
  handoff_.live().open_changes[Key(6)] = -4;
  Seal(2);
  other_worker.live().interval_end_ns = 2;
  ASSERT_TRUE(other_worker.Publish());
  ASSERT_TRUE(flusher.Flush({&handoff_, &other_worker}, false).ok());
  EXPECT_EQ(flusher.intervals_written(), 2u);
  EXPECT_EQ(kept_.size(), 1u);
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

// Which of equally large rows stay does not depend on the process or on the number of workers.
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
  const std::string path = folder_ + "/ports";
  std::ofstream(path) << "tcp:80\n";
  PortListFile ports(path);
  ASSERT_TRUE(ports.Load().ok());
  Flusher::Options options = Options();
  options.track_open = true;
  options.ports = &ports;
  Flusher flusher(options);
  handoff_.live().open_changes[Key(1, 80)] = 1;
  handoff_.live().open_changes[Key(1, 81)] = 1;
  handoff_.live().open_changes[Key(1, 82)] = 1;
  Seal(1);
  ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  std::ofstream(path) << "udp:1\n";
  ASSERT_TRUE(ports.Load().ok());
  Seal(2);
  ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  ASSERT_EQ(kept_[0].rows.size(), 2u);
  ASSERT_EQ(kept_[1].rows.size(), 1u);
  EXPECT_EQ(kept_[1].rows[0].port, -1);
  EXPECT_EQ(kept_[1].rows[0].open_connections, 3u);
}

TEST_F(FlusherTest, RowsWaitWhileTheyCannotBeWritten) {
  Flusher flusher(Options());
  sink_status_ = absl::ResourceExhaustedError("disk full");
  for (int interval = 1; interval <= 3; ++interval) {
    handoff_.live().rows[Key(1)] = Sums(1);
    Seal(interval);
    EXPECT_FALSE(flusher.Flush({&handoff_}, false).ok());
  }
  EXPECT_EQ(flusher.rows_waiting(), 3u);
  sink_status_ = absl::OkStatus();
  ASSERT_TRUE(flusher.Flush({&handoff_}, false).ok());
  EXPECT_EQ(flusher.rows_waiting(), 0u);
  ASSERT_EQ(kept_.size(), 3u);
  for (int interval = 1; interval <= 3; ++interval) EXPECT_EQ(kept_[interval - 1].end_ns, interval);
}

TEST_F(FlusherTest, SpoolFilesAreNumberedAndAFailedAttemptUsesNoNumber) {
  SpoolHeader header;
  header.engine_id = {1, 2, 3};
  header.interval_length_ns = 1'000'000'000;
  header.gateway = "gw";
  Flusher::Options options;
  options.sink = SpoolSink(folder_, header);
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
  Flusher::Options options;
  options.sink = CsvSink(folder_, false);
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

}  // namespace
}  // namespace ctacct
