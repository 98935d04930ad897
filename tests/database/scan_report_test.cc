// A scan of a million addresses from one host among answered flows, with few rows allowed: through
// capture, engine, spool, importer and report, which names the host with exact numbers.
#include <cstdint>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "netlink/test_messages.h"
#include "nlohmann/json.hpp"
#include "tests/support/capture_builder.h"
#include "tests/support/importer_fixture.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::nlohmann::json;

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kBeginNs = 1'600'041'600 * kSecond;
constexpr uint32_t kScanned = 1'000'000;
constexpr uint32_t kAnswered = 50'000;
constexpr uint32_t kRowsMax = 10'000;
constexpr absl::Duration kEngineAtMost = absl::Seconds(120);

class ScanReportTest : public ImporterTest {
 protected:
  // Ends of flows within one interval; each twentieth of an answered one is between the others.
  void WriteCapture(const std::string& path) {
    std::ofstream file(path, std::ios::binary);
    CaptureBuilder capture;
    std::string datagram;
    const auto add = [&](const TestMessage& message) {
      datagram += BuildMessage(message);
      if (datagram.size() < 32'768) return;
      capture.Add(kBeginNs + 2 * kSecond, datagram);
      datagram.clear();
      file << capture.Take();
    };
    TestMessage flow;
    flow.kind = TestMessage::Kind::kDestroy;
    flow.has_reply_tuple = false;
    flow.start_ns = kBeginNs + kSecond;
    // A dump says how intervals end, and that flows have start times.
    TestMessage entry = flow;
    entry.kind = TestMessage::Kind::kDump;
    entry.original = entry.reply = {{.packets = 0, .bytes = 0}};
    TestMessage done;
    done.kind = TestMessage::Kind::kDone;
    capture.Add(kBeginNs + kSecond, BuildMessage(entry) + BuildMessage(done));
    uint32_t id = 1;
    for (uint32_t i = 0; i < kScanned; ++i) {
      TestMessage scan = flow;
      scan.id = ++id * 2654435761U;
      scan.src = "10.32.66.6";
      scan.dst = absl::StrCat("11.", i >> 16, ".", i >> 8 & 255, ".", i & 255);
      scan.dst_port = 22;
      scan.status = 0x88;  // Confirmed, never answered.
      scan.original = {{.packets = 1, .bytes = 60}};
      scan.reply = {{.packets = 0, .bytes = 0}};
      add(scan);
      if (i % (kScanned / kAnswered) != 0) continue;
      TestMessage answered = flow;
      answered.id = ++id * 2654435761U;
      answered.src = absl::StrCat("10.33.", i / 20 % 200, ".", i / 4000 % 50 + 1);
      answered.dst = absl::StrCat("10.34.0.", i / 20 % 50 + 1);
      answered.original = {{.packets = 3, .bytes = 180}};
      answered.reply = {{.packets = 2, .bytes = 120}};
      add(answered);
    }
    capture.Add(kBeginNs + 2 * kSecond, datagram);
    file << capture.Take();
    file.close();
    ASSERT_TRUE(file.good());
  }
};

TEST_F(ScanReportTest, TheReportNamesTheOrigin) {
  ASSERT_NO_FATAL_FAILURE(WriteCapture(folder_ + "/scan.pcap"));
  const auto engine = RunProcess(
      {DataPath("engine/engine"), "-replay=" + folder_ + "/scan.pcap", "-output=" + watch_,
       "-interval=15", "-gateway=gw", absl::StrCat("-max-rows=", kRowsMax)},
      kEngineAtMost);
  ASSERT_TRUE(engine.ok()) << engine.status();
  ASSERT_TRUE(engine->exit.ok()) << engine->err;
  std::filesystem::remove(folder_ + "/scan.pcap");
  const Finished drained = Drain();
  ASSERT_TRUE(drained.exit.ok()) << drained.err;
  EXPECT_EQ(Sql("SELECT count(*), sum(flow_count), sum(unanswered_count) FROM vpn_traffic"),
            absl::StrCat(kRowsMax, "|", kScanned + kAnswered, "|", kScanned));

  const auto report = RunProcess({DataPath("importer/report/report"),
                                  "-conninfo=" + postgres->Conninfo(database_), "-output=-"},
                                 kAtMost);
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_TRUE(report->exit.ok()) << report->err;
  const std::string begin = "id=\"data\">";
  const size_t at = report->out.find(begin) + begin.size();
  const json page = json::parse(report->out.substr(at, report->out.find("</script>", at) - at));
  const json& unanswered = page["unanswered"];
  // The only one with unanswered flows: none is missing from it, and none is of nobody.
  EXPECT_EQ(unanswered["count"], 1);
  EXPECT_EQ(unanswered["no_origin"], 0);
  ASSERT_EQ(unanswered["origins"].size(), 1U);
  const json& origin = unanswered["origins"][0];
  EXPECT_EQ(origin[0], "10.32.66.6");
  EXPECT_EQ(origin[1], kScanned);
  EXPECT_EQ(origin[2], kScanned);
  // Over how many destinations is known from below and above.
  EXPECT_LE(origin[3], kScanned);
  EXPECT_GE(origin[3].get<uint32_t>() + origin[4].get<uint32_t>(), kScanned);
  EXPECT_LE(origin[3].get<uint32_t>() + origin[4].get<uint32_t>(), kScanned + kRowsMax);
}

}  // namespace
}  // namespace ctacct
