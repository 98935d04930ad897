// A scan of five million pairs within one interval: the engine's memory stays bounded, not a byte
// is lost, and the rows that matter are still there (-max-rows).
#include <sys/resource.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "engine/rows/traffic_row.h"
#include "engine/spool/spool_reader.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "netlink/test_messages.h"
#include "tests/support/capture_builder.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kEpoch = 1'600'000'000 * kSecond;
constexpr uint32_t kPairs = 5'000'000;
// One in this many pairs moves more than a scan does.
constexpr uint32_t kHeavyEvery = 50'000;
// Small packets to many hosts come in bundles here, so that the file stays small.
constexpr uint32_t kMessagesPerPacket = 256;

constexpr bool IsHeavy(uint32_t pair) { return pair % kHeavyEvery == 0; }

struct Totals {
  uint64_t rows = 0;
  uint64_t others = 0;
  uint64_t heavy = 0;
  uint64_t packets_src = 0;
  uint64_t packets_dst = 0;
  uint64_t bytes_src = 0;
  uint64_t bytes_dst = 0;
};

class ScanReplayTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/scan";
    std::filesystem::create_directory(folder_);
    WriteCapture();
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string capture() const { return folder_ + "/scan.pcap"; }
  std::string spool() const { return folder_ + "/spool"; }

  // A DESTROY for each pair, made from one message by setting the fields that differ.
  void WriteCapture() {
    TestMessage flow;
    flow.kind = TestMessage::Kind::kDestroy;
    flow.src = "10.0.0.0";
    flow.dst = "10.64.0.1";
    flow.protocol = 17;
    flow.dst_port = 161;
    flow.id = 0xa1b2c3d4;
    flow.original = {{.packets = 1, .bytes = 0x0102030405060708}};
    flow.reply = {{.packets = 1, .bytes = 40}};
    flow.has_reply_tuple = false;
    flow.status = {};
    flow.start_ns = kEpoch + kSecond;
    const std::string message = BuildMessage(flow);
    const size_t src = message.find(std::string("\x0a\0\0\0", 4));
    const size_t id = message.find(BigEndian32(*flow.id));
    const size_t bytes = message.find(BigEndian64(flow.original->bytes));
    ASSERT_NE(src, std::string::npos);
    ASSERT_NE(id, std::string::npos);
    ASSERT_NE(bytes, std::string::npos);

    std::ofstream file(capture(), std::ios::binary);
    CaptureBuilder packets;
    // Because the capture has a dump, dumps end its intervals and its flows have start times.
    TestMessage entry = flow;
    entry.kind = TestMessage::Kind::kDump;
    entry.id = 1;
    entry.original = {{.packets = 0, .bytes = 0}};
    entry.reply = {{.packets = 0, .bytes = 0}};
    TestMessage done;
    done.kind = TestMessage::Kind::kDone;
    packets.Add(kEpoch + kSecond, BuildMessage(entry) + BuildMessage(done));
    std::string packet;
    for (uint32_t pair = 0; pair < kPairs; ++pair) {
      std::string& next = packet.append(message);
      const size_t at = next.size() - message.size();
      // Below 2^24 all in 10.0.0.0/8.
      next.replace(at + src, 4, BigEndian32(0x0a000000 + pair));
      next.replace(at + id, 4, BigEndian32(pair * 2654435761u));
      next.replace(at + bytes, 8, BigEndian64(Bytes(pair)));
      if ((pair + 1) % kMessagesPerPacket != 0 && pair + 1 != kPairs) continue;
      packets.Add(kEpoch + 2 * kSecond, packet);
      packet.clear();
      file << packets.Take();
    }
    file.close();
    ASSERT_TRUE(file.good());
  }

  static uint64_t Bytes(uint32_t pair) { return IsHeavy(pair) ? 1'000'000 + pair : 60; }

  // Runs the engine and adds up what it wrote.
  void Replay(const std::vector<std::string>& flags, Totals* totals, std::string* log) {
    std::filesystem::remove_all(spool());
    std::filesystem::create_directory(spool());
    std::vector<std::string> argv = {DataPath("engine/engine"), "-replay=" + capture(),
                                     "-output=" + spool(), "-interval=10", "-gateway=scan"};
    argv.insert(argv.end(), flags.begin(), flags.end());
    const auto finished = RunProcess(argv, absl::Seconds(120));
    ASSERT_TRUE(finished.ok()) << finished.status();
    ASSERT_TRUE(finished->exit.ok()) << finished->err;
    *log = finished->err;
    int files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(spool())) {
      ++files;
      auto reader = SpoolReader::Open(entry.path());
      ASSERT_TRUE(reader.ok()) << reader.status();
      std::vector<TrafficRow> rows;
      for (;;) {
        const auto more = reader->ReadBlock(&rows);
        ASSERT_TRUE(more.ok()) << more.status();
        if (!*more) break;
        for (const TrafficRow& row : rows) Add(row, totals);
      }
    }
    EXPECT_EQ(files, 1);
  }

  static void Add(const TrafficRow& row, Totals* totals) {
    ++totals->rows;
    totals->packets_src += row.packets_src;
    totals->packets_dst += row.packets_dst;
    totals->bytes_src += row.bytes_src;
    totals->bytes_dst += row.bytes_dst;
    if (IsOtherRow(row)) {
      ++totals->others;
      return;
    }
    const uint32_t pair =
        uint32_t{row.src[1]} << 16 | uint32_t{row.src[2]} << 8 | uint32_t{row.src[3]};
    EXPECT_EQ(row.bytes_src, Bytes(pair));
    EXPECT_EQ(row.packets_src, 1u);
    if (IsHeavy(pair)) ++totals->heavy;
  }

  static void ExpectNothingLost(const Totals& totals) {
    uint64_t bytes = 0;
    for (uint32_t pair = 0; pair < kPairs; ++pair) bytes += Bytes(pair);
    EXPECT_EQ(totals.packets_src, kPairs);
    EXPECT_EQ(totals.packets_dst, kPairs);
    EXPECT_EQ(totals.bytes_src, bytes);
    EXPECT_EQ(totals.bytes_dst, kPairs * uint64_t{40});
    EXPECT_EQ(totals.heavy, kPairs / kHeavyEvery);
  }

  // Of all engines that ran so far: the most that one had resident.
  static int64_t MostResidentKib() {
    rusage usage{};
    getrusage(RUSAGE_CHILDREN, &usage);
    return usage.ru_maxrss;
  }

  std::string folder_;
};

TEST_F(ScanReplayTest, FiveMillionPairsInOneInterval) {
  ASSERT_FALSE(HasFatalFailure());
  const auto file_bytes = std::filesystem::file_size(capture());
  for (const char* workers : {"-workers=1", "-workers=3"}) {
    Totals totals;
    std::string log;
    ASSERT_NO_FATAL_FAILURE(Replay({"-max-rows=10000", workers}, &totals, &log));
    ExpectNothingLost(totals);
    EXPECT_EQ(totals.rows, 10'000u);
    EXPECT_GE(totals.others, 1u);
    EXPECT_LE(totals.others, 5'001u);  // Each pair is of another origin.
    EXPECT_THAT(log, HasSubstr(" rows summed by origin"));
  }
  const int64_t small_kib = MostResidentKib();
  Totals totals;
  std::string log;
  ASSERT_NO_FATAL_FAILURE(Replay({"-workers=1"}, &totals, &log));
  ExpectNothingLost(totals);
  EXPECT_EQ(totals.rows, 1'000'000u);
  EXPECT_LE(totals.others, 500'001u);
  EXPECT_THAT(log, HasSubstr(" rows summed by origin"));
  const int64_t default_kib = MostResidentKib();
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  // Five million rows and the tables they come from would take more than 1 GiB.
  EXPECT_LT(small_kib, 200 << 10);
  EXPECT_LT(default_kib, 600 << 10);
#endif
  std::cout << "capture of " << file_bytes << " bytes; resident at most " << small_kib
            << " KiB with -max-rows=10000, " << default_kib << " KiB with 1,000,000\n";
}

}  // namespace
}  // namespace ctacct
