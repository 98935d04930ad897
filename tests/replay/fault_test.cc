// What a kernel, or the path to the engine, does to messages: repeated, late, stale and missing
// messages, counters that fall, dumps that fail. (Numbers are those of tests/FAULTS.md.)
#include <cerrno>
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

TEST_F(ReplayTest, SameDestroyTwiceCountsOnce) {  // Fault 20
  for (const Stamps stamps : kAllStamps) {
    Script script(stamps);
    Flow flow = TcpFlow();
    script.New(1000, flow);
    const TestMessage destroy = script.DestroyMessage(2000, flow, {4, 400}, {3, 300});
    script.Add(2000, destroy);
    script.Add(2000, destroy);
    script.Add(2500, destroy);
    EXPECT_THAT(Replay(script), ElementsAre(TcpLine(5, "4,3,400,300,1,1000")))
        << static_cast<int>(stamps);
  }
}

TEST_F(ReplayTest, SameDestroyAnIntervalLaterCountsOnce) {  // Fault 20
  for (const bool dumps : {false, true}) {
    for (const Stamps stamps : kWithStartTimes) {
      Script script(stamps);
      Flow flow = TcpFlow();
      if (dumps) script.Dump(100, {});
      script.New(1000, flow);
      const TestMessage destroy = script.DestroyMessage(2000, flow, {4, 400}, {3, 300});
      script.Add(2000, destroy);
      if (dumps) script.Dump(5010, {});
      script.Add(6000, destroy);
      if (dumps) script.Dump(10'010, {});
      EXPECT_THAT(Replay(script, {"--track-open"}), ElementsAre(TcpLine(5, "4,3,400,300,1,1000,0")))
          << "dumps " << dumps << ", stamps " << static_cast<int>(stamps);
    }
  }
}

TEST_F(ReplayTest, SameTupleAndIdAtOnceAgainIsTwoFlows) {  // Fault 21
  for (const Stamps stamps : kAllStamps) {
    for (const int copies : {1, 2}) {
      Script script(stamps);
      Flow flow = TcpFlow();
      const auto add = [&](int64_t ms, const TestMessage& message) {
        for (int i = 0; i < copies; ++i) script.Add(ms, message);
      };
      add(1000, script.NewMessage(1000, flow));
      add(2000, script.DestroyMessage(2000, flow, {4, 400}, {3, 300}));
      add(2001, script.NewMessage(2001, flow));
      add(2501, script.DestroyMessage(2501, flow, {4, 400}, {3, 300}));  // The very same counters.
      add(2502, script.NewMessage(2502, flow));
      add(2702, script.DestroyMessage(2702, flow, {1, 40}, {0, 0}));
      EXPECT_THAT(Replay(script), ElementsAre(TcpLine(5, "9,6,840,600,3,1700")))
          << "stamps " << static_cast<int>(stamps) << ", copies " << copies;
    }
  }
}

TEST_F(ReplayTest, LateCopyOfADestroyDoesNotEndTheNextIncarnation) {
  for (const Stamps stamps : kWithStartTimes) {
    Script script(stamps);
    Flow flow = TcpFlow();
    script.New(1000, flow);
    const TestMessage first = script.DestroyMessage(2000, flow, {40, 4000}, {3, 300});
    script.Add(2000, first);
    script.New(2001, flow);
    script.Add(3000, first);
    script.Destroy(4001, flow, {5, 500}, {4, 400});
    EXPECT_THAT(Replay(script), ElementsAre(TcpLine(5, "45,7,4500,700,2,3000")))
        << "stamps " << static_cast<int>(stamps);
  }
}

TEST_F(ReplayTest, AnIncarnationWhoseEndWasMissedIsNotSubtracted) {
  // Its DESTROY was lost, and a dump shows its successor with another start and lower or higher
  // counters: it is new in both cases.
  for (const uint64_t packets : {3, 300}) {
    Script script;
    Flow flow = UdpFlow();
    script.Dump(100, {});
    script.New(1000, flow);
    script.Dump(5010, {script.Entry(flow, {10, 1000}, {0, 0})});
    flow.start_ns = At(7000);
    script.Dump(10'010, {script.Entry(flow, {packets, packets * 100}, {0, 0})});
    EXPECT_THAT(Replay(script),
                ElementsAre(UdpLine(5, "10,0,1000,0,0,0"),
                            Line(10, absl::StrCat("udp,10.1.0.1,10.2.0.1,443,", packets, ",0,",
                                                  packets * 100, ",0,0,0"))));
  }
}

// Another listener asked for reliable delivery and does not read: the kernel repeats the NEW with
// each of the flow's packets, to everybody.
TEST_F(ReplayTest, NewDeliveredWithEachPacketCountsOnce) {
  for (const Stamps stamps : kAllStamps) {
    Script script(stamps);
    Flow flow = TcpFlow();
    script.Dump(100, {});
    script.New(1000, flow);
    const int64_t start_ns = flow.start_ns;
    for (int i = 1; i <= 4; ++i) {
      script.Add(1000 + i * 100, script.NewMessage(1000 + i * 100, flow));
      flow.start_ns = start_ns;
    }
    script.Dump(5010, {script.Entry(flow, {10, 1000}, {8, 800})});
    script.Add(6000, script.NewMessage(6000, flow));
    flow.start_ns = start_ns;
    script.Dump(10'010, {script.Entry(flow, {16, 1600}, {9, 900})});
    script.Add(11'000, script.NewMessage(11'000, flow));
    flow.start_ns = start_ns;
    script.Destroy(12'000, flow, {20, 2000}, {10, 1000});
    script.Dump(15'010, {});
    EXPECT_THAT(Replay(script, {"--track-open"}),
                ElementsAre(TcpLine(5, "10,8,1000,800,0,0,1"), TcpLine(10, "6,1,600,100,0,0,1"),
                            TcpLine(15, "4,1,400,100,1,11000,0")))
        << static_cast<int>(stamps);
  }
}

// Their sum is more than 2^64 nanoseconds.
TEST_F(ReplayTest, LongConnectionsThatEndAtOnce) {
  constexpr int kConnections = 43'000;
  constexpr int64_t kFiveDaysMs = int64_t{5} * 86'400 * 1000;
  Script script;
  std::vector<Flow> flows;
  for (int i = 0; i < kConnections; ++i) {
    flows.push_back(TcpFlow({.src_port = static_cast<uint16_t>(i + 1), .id = 1u + i}));
    script.New(1000, flows.back());
  }
  for (const Flow& flow : flows) script.Destroy(1000 + kFiveDaysMs, flow, {1, 100}, {1, 100});
  EXPECT_THAT(Replay(script), ElementsAre(TcpLine(5 + kFiveDaysMs / 1000,
                                                  absl::StrCat("43000,43000,4300000,4300000,43000,",
                                                               kConnections * kFiveDaysMs))));
}

// The clock was set back before the capture began.
TEST_F(ReplayTest, AFlowOfTheFirstDumpWithAStartInTheFutureIsOld) {
  Script script;
  Flow flow = UdpFlow();
  flow.start_ns = At(3'600'000);
  script.Dump(100, {script.Entry(flow, {1000, 100'000}, {0, 0})});
  script.Dump(16'100, {script.Entry(flow, {1001, 100'100}, {0, 0})});
  EXPECT_THAT(Replay(script), ElementsAre(UdpLine(5, "1,0,100,0,0,0")));
}

TEST_F(ReplayTest, NewThatArrivesAfterTheDumpShowedTheFlow) {
  // Events and dumps come by two sockets, so their order differs from the kernel's.
  for (const Stamps stamps : kAllStamps) {
    Script script(stamps);
    Flow other = UdpFlow({.src = "10.9.0.9", .id = 9});
    Flow flow = TcpFlow();
    script.Dump(100, {});
    script.New(200, other);
    const TestMessage late = script.NewMessage(5005, flow);
    script.DumpPart(5010, {script.Entry(flow, {2, 200}, {1, 100})});
    script.Add(5011, late);
    script.DumpDone(5012);
    script.Destroy(7005, flow, {8, 800}, {6, 600});
    script.Dump(10'010, {});
    const auto sums = Sums(Replay(script));
    ASSERT_THAT(sums, SizeIs(1));
    const Fields& fields = sums.begin()->second;
    EXPECT_THAT(fields, ElementsAre(8, 6, 800, 600, 1,
                                    testing::AllOf(testing::Ge(1990u), testing::Le(2000u))))
        << "stamps " << static_cast<int>(stamps);
  }
}

TEST_F(ReplayTest, ACounterThatFallsIsANewStart) {  // Fault 22
  Script script;
  Flow flow = TcpFlow();
  script.Dump(100, {});
  script.New(1000, flow);
  script.Dump(5010, {script.Entry(flow, {100, 10'000}, {50, 5000})});
  script.Dump(10'010, {script.Entry(flow, {10, 1000}, {5, 500})});  // Zeroed, then grown.
  script.Destroy(11'000, flow, {15, 1500}, {8, 800});
  script.Dump(15'010, {});
  EXPECT_THAT(Replay(script),
              ElementsAre(TcpLine(5, "100,50,10000,5000,0,0"), TcpLine(10, "10,5,1000,500,0,0"),
                          TcpLine(15, "5,3,500,300,1,10000")));
}

TEST_F(ReplayTest, ACounterThatFellBeforeDestroy) {
  Script script;
  Flow flow = TcpFlow();
  flow.start_ns = At(-5000);
  script.Dump(1000, {script.Entry(flow, {100, 10'000}, {50, 5000})});
  script.Destroy(2000, flow, {15, 1500}, {8, 800});
  EXPECT_THAT(Replay(script), ElementsAre(TcpLine(5, "15,8,1500,800,1,7000")));
}

TEST_F(ReplayTest, StaleDumpEntryAfterDestroy) {
  for (const Stamps stamps : kAllStamps) {
    Script script(stamps);
    Flow flow = TcpFlow();
    script.Dump(100, {});
    script.New(1000, flow);
    script.DumpPart(5010, {});
    script.DumpPart(5011, {script.Entry(UdpFlow({.src = "10.9.0.9", .id = 9}), {0, 0}, {0, 0})});
    script.Destroy(5012, flow, {10, 1000}, {7, 700});
    // The table was read a moment before, the datagram arrived a moment after.
    script.DumpPart(5013, {script.Entry(flow, {9, 900}, {7, 700})});
    script.DumpDone(5014);
    script.Dump(10'010, {});
    EXPECT_THAT(Replay(script, {"--track-open"}), ElementsAre(TcpLine(5, "10,7,1000,700,1,4012,0")))
        << "stamps " << static_cast<int>(stamps);
  }
}

TEST_F(ReplayTest, StaleDumpEntryOfTheIncarnationBefore) {
  for (const Stamps stamps : kWithStartTimes) {
    Script script(stamps);
    Flow flow = TcpFlow();
    script.Dump(100, {});
    script.New(1000, flow);
    const TestMessage stale = script.Entry(flow, {9, 900}, {7, 700});
    script.DumpPart(5010, {script.Entry(UdpFlow({.src = "10.9.0.9", .id = 9}), {0, 0}, {0, 0})});
    script.Destroy(5012, flow, {10, 1000}, {7, 700});
    script.New(5013, flow);
    script.DumpPart(5014, {stale});
    script.DumpDone(5015);
    script.Destroy(8013, flow, {20, 2000}, {3, 300});
    script.Dump(10'010, {});
    EXPECT_THAT(
        Replay(script, {"--track-open"}),
        ElementsAre(TcpLine(5, "10,7,1000,700,1,4012,1"), TcpLine(10, "20,3,2000,300,1,3000,0")))
        << "stamps " << static_cast<int>(stamps);
  }
}

TEST_F(ReplayTest, StaleDumpEntryOfAFlowDestroyedUnseen) {
  // Its DESTROY was the first message about it; then a dump shows it.
  Script script;
  Flow flow = UdpFlow();
  script.Dump(100, {});
  flow.start_ns = At(1000);
  script.DumpPart(5010, {script.Entry(UdpFlow({.src = "10.9.0.9", .id = 9}), {0, 0}, {0, 0})});
  script.Destroy(5012, flow, {10, 1000}, {7, 700});
  script.DumpPart(5013, {script.Entry(flow, {10, 1000}, {7, 700})});
  script.DumpDone(5014);
  script.Dump(10'010, {});
  EXPECT_THAT(Replay(script), ElementsAre(UdpLine(5, "10,7,1000,700,0,0")));
}

TEST_F(ReplayTest, ADumpThatMissesALivingFlow) {  // Fault 24: missing from a dump is not dead.
  for (const Stamps stamps : kAllStamps) {
    Script script(stamps);
    Flow flow = TcpFlow();
    script.Dump(100, {});
    script.New(1000, flow);
    script.Dump(5010, {script.Entry(flow, {10, 1000}, {0, 0})});
    script.Dump(10'010, {});
    script.Dump(15'010, {});
    script.Dump(20'010, {script.Entry(flow, {15, 1500}, {0, 0})});
    script.Destroy(21'000, flow, {16, 1600}, {0, 0});
    script.Dump(25'010, {});
    const std::string pair = "tcp,10.1.0.1,10.2.0.1,443,";
    EXPECT_THAT(Replay(script, {"--track-open"}),
                ElementsAre(Line(5, pair + "10,0,1000,0,0,0,1"), Line(10, pair + "0,0,0,0,0,0,1"),
                            Line(15, pair + "0,0,0,0,0,0,1"), Line(20, pair + "5,0,500,0,0,0,1"),
                            Line(25, pair + "1,0,100,0,1,20000,0")));
  }
}

TEST_F(ReplayTest, OldFlowThatSeveralDumpsMiss) {  // Fault 24, for a flow older than the capture.
  Script script;
  Flow flow = TcpFlow();
  flow.start_ns = At(-10'000);
  script.Dump(100, {script.Entry(flow, {100, 10'000}, {0, 0})});
  for (int64_t ms = 5010; ms < 35'000; ms += 5000) script.Dump(ms, {});
  script.Dump(35'010, {script.Entry(flow, {115, 11'500}, {0, 0})});
  script.Destroy(36'000, flow, {116, 11'600}, {0, 0});
  script.Dump(40'010, {});
  EXPECT_THAT(Replay(script),
              ElementsAre(TcpLine(35, "15,0,1500,0,0,0"), TcpLine(40, "1,0,100,0,1,46000")));
}

TEST_F(ReplayTest, RecreatedFlowGrowsAtOnce) {
  // Also without timestamps: the dump began after the DESTROY, so its entry is not stale.
  for (const Stamps stamps : kAllStamps) {
    Script script(stamps);
    Flow flow = UdpFlow();
    script.Dump(100, {});
    script.New(1000, flow);
    script.Destroy(2000, flow, {10, 1000}, {0, 0});
    script.New(2001, flow);
    script.Dump(5010, {script.Entry(flow, {4, 400}, {0, 0})});
    script.Dump(10'010, {script.Entry(flow, {9, 900}, {0, 0})});
    script.Dump(15'010, {script.Entry(flow, {15, 1500}, {0, 0})});
    EXPECT_THAT(Replay(script),
                ElementsAre(UdpLine(5, "14,0,1400,0,0,0"), UdpLine(10, "5,0,500,0,0,0"),
                            UdpLine(15, "6,0,600,0,0,0")))
        << "stamps " << static_cast<int>(stamps);
  }
}

TEST_F(ReplayTest, ADumpWithoutDone) {  // Fault 24: the entries that came are used.
  Script script;
  Flow a = UdpFlow({.src = "10.1.0.1", .id = 1});
  Flow b = UdpFlow({.src = "10.1.0.2", .id = 2});
  script.Dump(100, {});
  script.New(1000, a);
  script.New(1000, b);
  script.DumpPart(5010, {script.Entry(a, {10, 1000}, {0, 0})});
  script.NextDump();  // No end came.
  script.Dump(10'010, {script.Entry(a, {11, 1100}, {0, 0}), script.Entry(b, {20, 2000}, {0, 0})});
  script.Destroy(12'000, a, {12, 1200}, {0, 0});
  script.DumpPart(15'010, {script.Entry(b, {21, 2100}, {0, 0})});  // Nor at the capture's end.
  const Lines lines = Replay(script);
  EXPECT_THAT(Sums(lines),
              UnorderedElementsAre(
                  testing::Pair("udp,10.1.0.1,10.2.0.1,443", Fields{12, 0, 1200, 0, 0, 0}),
                  testing::Pair("udp,10.1.0.2,10.2.0.1,443", Fields{21, 0, 2100, 0, 0, 0})));
}

TEST_F(ReplayTest, ABaselineWithoutDoneIsABaseline) {
  Script script;
  Flow flow = UdpFlow();
  flow.start_ns = At(-1000);
  script.DumpPart(100, {script.Entry(flow, {1000, 100'000}, {0, 0})});
  script.Destroy(2000, flow, {1001, 100'100}, {0, 0});
  EXPECT_THAT(Replay(script), ElementsAre(UdpLine(5, "1,0,100,0,0,0")));
}

TEST_F(ReplayTest, ADumpThatFailsInTheMiddle) {  // NLMSG_ERROR instead of the end.
  Script script;
  Flow flow = UdpFlow();
  script.Dump(100, {});
  script.New(1000, flow);
  script.DumpPart(5010, {script.Entry(flow, {10, 1000}, {0, 0})});
  std::string error(20, '\0');
  PutHost32(error, 0, static_cast<uint32_t>(-EINTR));
  script.Add(5011, NetlinkMessage(2, 0, error));
  script.NextDump();
  script.Dump(10'010, {script.Entry(flow, {11, 1100}, {0, 0})});
  script.Destroy(12'000, flow, {12, 1200}, {0, 0});
  EXPECT_THAT(Sums(Replay(script)), ElementsAre(testing::Pair("udp,10.1.0.1,10.2.0.1,443",
                                                              Fields{12, 0, 1200, 0, 0, 0})));
}

TEST_F(ReplayTest, EachEventTwiceAsWithTwoListeners) {
  for (const Stamps stamps : kAllStamps) {
    Script script(stamps);
    Flow tcp = TcpFlow();
    Flow udp = UdpFlow({.id = 2});
    const auto twice = [&](int64_t ms, const TestMessage& message) {
      script.Add(ms, message);
      script.Add(ms, message);
    };
    script.Dump(100, {});
    twice(1000, script.NewMessage(1000, tcp));
    twice(1000, script.NewMessage(1000, udp));
    script.Dump(5010, {script.Entry(tcp, {3, 300}, {2, 200}), script.Entry(udp, {1, 100}, {})});
    twice(6000, script.UpdateMessage(6000, tcp, kTestTcpCloseWait));
    twice(6001, script.UpdateMessage(6001, tcp, kTestTcpLastAck));
    twice(7000, script.DestroyMessage(7000, tcp, {4, 400}, {3, 300}));
    twice(7000, script.DestroyMessage(7000, udp, {2, 200}, {1, 100}));
    script.Dump(10'010, {});
    EXPECT_THAT(
        Replay(script, {"--track-open"}),
        UnorderedElementsAre(TcpLine(5, "3,2,300,200,0,0,1"), UdpLine(5, "1,0,100,0,0,0,0"),
                             TcpLine(10, "1,1,100,100,1,5000,0"), UdpLine(10, "1,1,100,100,0,0,0")))
        << "stamps " << static_cast<int>(stamps);
  }
}

TEST_F(ReplayTest, TwoProgramsDumpAtOnce) {
  // Two dumps interleaved, as nlmon would show them; port and sequence number distinguish them. The
  // counters in both are valid.
  Script script;
  Flow flow = UdpFlow();
  Flow late = UdpFlow({.src_port = 2, .dst_port = 53, .id = 2});
  script.Dump(100, {});
  script.New(1000, flow);
  script.New(1000, late);
  const auto part = [&](int64_t ms, uint32_t port, TestMessage message) {
    message.sequence = 99;
    message.port_id = port;
    script.Add(ms, message);
  };
  const TestMessage done = {.kind = TestMessage::Kind::kDone};
  part(5010, 1, script.Entry(flow, {10, 1000}, {0, 0}));
  part(5011, 2, script.Entry(flow, {11, 1100}, {0, 0}));
  part(5012, 1, script.Entry(late, {1, 10}, {0, 0}));
  part(5013, 1, done);
  part(5014, 2, script.Entry(late, {2, 20}, {0, 0}));
  part(5015, 2, done);
  script.Destroy(6000, flow, {12, 1200}, {0, 0});
  script.Destroy(6000, late, {2, 20}, {0, 0});
  script.Dump(10'010, {});
  EXPECT_THAT(
      Sums(Replay(script)),
      UnorderedElementsAre(testing::Pair("udp,10.1.0.1,10.2.0.1,443", Fields{12, 0, 1200, 0, 0, 0}),
                           testing::Pair("udp,10.1.0.1,10.2.0.1,53", Fields{2, 0, 20, 0, 0, 0})));
}

// Fault 23: each interval has the traffic of its time by the clock, none comes twice, and nothing
// is lost.
TEST_F(ReplayTest, ClockThatJumpsADay) {
  constexpr int64_t kDayMs = 86'400'000;
  for (const bool dumps : {false, true}) {
    for (const int64_t jump_ms : {-kDayMs, kDayMs}) {
      Script script(Stamps::kNone);
      if (dumps) script.Dump(100, {});
      uint16_t port = 1;
      // Out and back again.
      for (const int64_t ms : {int64_t{1000}, int64_t{6000}, jump_ms + 11'000, jump_ms + 16'000,
                               int64_t{21'000}, int64_t{26'000}}) {
        script.Life(ms, ms + 10, UdpFlow({.src_port = ++port, .id = port}), {1, 100});
        if (dumps) script.Dump(ms + 4020, {});
      }
      std::map<int64_t, uint64_t> packets;
      for (const std::string& line : Replay(script, {}, false)) {
        Row row;
        ASSERT_TRUE(ParseRow(line, &row));
        packets[(row.time - kEpoch) / kMillisecond] += row.fields[0];
      }
      // With dumps, an interval that was open at the jump ends with the first dump after it.
      const std::vector<int64_t> ends =
          dumps ? std::vector<int64_t>{5000,  10'000, 15'000, jump_ms + 20'000, jump_ms + 25'000,
                                       30'000}
                : std::vector<int64_t>{5000,   10'000, jump_ms + 15'000, jump_ms + 20'000,
                                       25'000, 30'000};
      std::map<int64_t, uint64_t> expected;
      for (const int64_t end_ms : ends) expected[end_ms] = 1;
      EXPECT_EQ(packets, expected) << "dumps " << dumps << ", jump " << jump_ms;
    }
  }
}

// The kernel's start times jump as well: flows that start after the clock was set back are new, and
// their durations are the kernel's.
TEST_F(ReplayTest, FlowsBornAfterTheClockWasSetBack) {
  constexpr int64_t kDayMs = 86'400'000;
  Script script;
  Flow before = TcpFlow({.id = 1});
  script.Dump(1000, {});
  script.New(2000, before);
  // A day back. The old flow ends; a new one appears only in dumps and its DESTROY.
  script.Destroy(4000 - kDayMs, before, {5, 500}, {4, 400});
  Flow after = TcpFlow({.src_port = 2, .id = 2});
  after.start_ns = At(4100 - kDayMs);
  script.Dump(5000 - kDayMs, {script.Entry(after, {3, 300}, {2, 200})});
  script.Destroy(6100 - kDayMs, after, {7, 700}, {4, 400});
  const auto sums = Sums(Replay(script, {}, false));
  ASSERT_EQ(sums.size(), 1u);
  EXPECT_THAT(sums.begin()->second, testing::ElementsAre(12, 8, 1200, 800, 2, 2000));
}

}  // namespace
}  // namespace ctacct
