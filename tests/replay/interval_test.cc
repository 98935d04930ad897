// In which interval traffic is reported.
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/replay/replay_test_base.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

TEST_F(ReplayTest, WithoutDumpsAnIntervalEndsAtTheFirstPacketPastIt) {
  Script script(Stamps::kNone);
  Flow a = UdpFlow({.src_port = 1, .id = 1});
  Flow b = UdpFlow({.src_port = 2, .id = 2});
  Flow c = UdpFlow({.src_port = 3, .id = 3});
  script.New(1000, a);
  script.New(1000, b);
  script.New(1000, c);
  script.Destroy(4999, a, {1, 100}, {0, 0});
  script.Destroy(5001, b, {2, 200}, {0, 0});
  script.Destroy(3'600'000 * 24 + 1, c, {4, 400}, {0, 0});  // A day of silence.
  EXPECT_THAT(Replay(script), ElementsAre(UdpLine(5, "1,0,100,0,0,0"), UdpLine(10, "2,0,200,0,0,0"),
                                          UdpLine(86'405, "4,0,400,0,0,0")));
}

TEST_F(ReplayTest, WithDumpsAnIntervalEndsWhenItsDumpIsDone) {
  Script script;
  std::vector<Flow> flows;
  for (uint16_t i = 0; i < 8; ++i) {
    flows.push_back(UdpFlow({.src_port = i, .dst_port = static_cast<uint16_t>(i + 1), .id = i}));
  }
  const auto destroy = [&](int64_t ms, int i) { script.Destroy(ms, flows[i], {1, 100}, {0, 0}); };
  script.Dump(100, {});
  for (Flow& flow : flows) script.New(1000, flow);
  script.DumpPart(4900, {});  // Begun before the boundary: ends nothing.
  script.DumpPart(4950, {script.Entry(flows[7], {1, 100}, {0, 0})});
  destroy(4999, 0);
  script.DumpDone(5001);
  destroy(5100, 1);  // Past the boundary, but its dump has not begun.
  script.DumpPart(5200, {script.Entry(flows[7], {2, 200}, {0, 0})});
  destroy(5250, 2);  // Between a dump's datagrams.
  script.DumpPart(5300, {script.Entry(flows[6], {1, 100}, {0, 0})});
  destroy(5350, 3);
  script.DumpDone(5400);
  destroy(5401, 4);                                               // The next interval.
  script.Dump(7000, {script.Entry(flows[7], {3, 300}, {0, 0})});  // Somebody else's dump.
  destroy(9000, 5);
  // Begun exactly at the boundary; with the end in the datagram of the entries.
  script.Dump(10'000, {script.Entry(flows[7], {5, 500}, {0, 0})});
  script.Destroy(10'001, flows[7], {6, 600}, {0, 0});
  const auto line = [](int64_t seconds, int port, int packets) {
    return Line(seconds, absl::StrCat("udp,10.1.0.1,10.2.0.1,", port, ",", packets, ",0,", packets,
                                      "00,0,0,0"));
  };
  EXPECT_THAT(Replay(script),
              UnorderedElementsAre(line(5, 1, 1), line(5, 2, 1), line(5, 3, 1), line(5, 4, 1),
                                   line(5, 7, 1), line(5, 8, 2), line(10, 5, 1), line(10, 6, 1),
                                   line(10, 8, 3), line(15, 8, 1)));
}

TEST_F(ReplayTest, ADumpOfAnEmptyTableEndsItsIntervalToo) {
  Script script;
  script.Dump(100, {});
  script.Life(1000, 2000, UdpFlow({.id = 1}), {1, 100});
  script.Dump(5010, {});
  script.Life(5020, 5030, UdpFlow({.src_port = 2, .id = 2}), {2, 200});
  script.Dump(10'010, {});
  EXPECT_THAT(Replay(script),
              ElementsAre(UdpLine(5, "1,0,100,0,0,0"), UdpLine(10, "2,0,200,0,0,0")));
}

TEST_F(ReplayTest, LastIntervalIsFlushedAtTheCapturesEnd) {
  Script script;
  Flow flow = UdpFlow();
  script.Dump(100, {});
  script.New(1000, flow);
  script.Dump(5010, {script.Entry(flow, {1, 100}, {0, 0})});
  script.Destroy(6000, flow, {3, 300}, {0, 0});
  EXPECT_THAT(Replay(script),
              ElementsAre(UdpLine(5, "1,0,100,0,0,0"), UdpLine(10, "2,0,200,0,0,0")));
}

TEST_F(ReplayTest, SilenceOverSeveralIntervalsWithDumps) {
  // The machine slept: the dump of 5 s comes at 17 s. It does not matter which interval up to then
  // has its rows, but there must be no others; the next interval is as usual.
  Script script;
  Flow flow = UdpFlow();
  script.Dump(100, {});
  script.New(1000, flow);
  script.Dump(17'000, {script.Entry(flow, {5, 500}, {0, 0})});
  script.Dump(20'010, {script.Entry(flow, {9, 900}, {0, 0})});
  const Lines lines = Replay(script);
  ASSERT_THAT(lines, SizeIs(2));
  EXPECT_THAT(lines[0], testing::EndsWith("udp,10.1.0.1,10.2.0.1,443,5,0,500,0,0,0"));
  EXPECT_LE(lines[0].substr(0, 19), std::to_string(At(15'000)));
  EXPECT_EQ(lines[1], UdpLine(20, "4,0,400,0,0,0"));
}

TEST_F(ReplayTest, IntervalLengths) {
  Script script(Stamps::kNone);
  for (int i = 0; i < 60; ++i) {
    script.Life(i * 1000 + 500, i * 1000 + 501,
                UdpFlow({.src_port = static_cast<uint16_t>(i), .id = static_cast<uint32_t>(i)}),
                {1, 100});
  }
  const std::string capture = WriteFile("capture.pcap", script.bytes());
  for (const int interval : {1, 2, 7, 15, 60, 3600}) {
    const Finished finished =
        Engine({absl::StrCat("--interval=", interval), "--replay=" + capture});
    ASSERT_EQ(finished.exit.ToString(), "exit status 0") << finished.err;
    const Lines lines = SplitLines(finished.out);
    ExpectSoundOutput(lines, interval);
    std::map<int64_t, uint64_t> expected;
    for (int64_t i = 0; i < 60; ++i) {
      const int64_t second = kEpoch / kSecond + i;
      expected[(second / interval + 1) * interval * kSecond] += 1;
    }
    std::map<int64_t, uint64_t> packets;
    for (const std::string& line : lines) {
      Row row;
      ASSERT_TRUE(ParseRow(line, &row)) << line;
      packets[row.time] += row.fields[0];
    }
    EXPECT_EQ(packets, expected) << interval;
  }
}

TEST_F(ReplayTest, DefaultIntervalIsFifteenSeconds) {
  Script script;
  script.Life(1000, 6000, UdpFlow(), {1, 100});
  const Finished finished = Engine({"--replay=" + WriteFile("capture.pcap", script.bytes())});
  // 1600000005 is a multiple of 15.
  EXPECT_EQ(finished.out, "1600000020000000000,udp,10.1.0.1,10.2.0.1,443,1,0,100,0,0,0\n");
}

}  // namespace
}  // namespace ctacct
