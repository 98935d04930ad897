// Which flows are accounted, under which key, and what counts: packets, bytes, closes, durations.
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/replay/replay_test_base.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;
using ::testing::UnorderedElementsAreArray;

TEST_F(ReplayTest, NewThenDestroy) {
  for (const Stamps stamps : kAllStamps) {
    Script script(stamps);
    script.Life(1000, 2500, TcpFlow(), {4, 400}, {3, 300});
    EXPECT_THAT(Replay(script), ElementsAre(TcpLine(5, "4,3,400,300,1,1500")));
  }
}

TEST_F(ReplayTest, DestroyWithoutNewCountsWhole) {
  // An event was not asked for (or lost), but the flow began within the capture.
  Script script;
  Flow first = UdpFlow({.src = "10.9.0.1"});
  script.New(500, first);
  Flow flow = TcpFlow();
  flow.start_ns = At(1000);
  script.Destroy(2500, flow, {4, 400}, {3, 300});
  EXPECT_THAT(Replay(script), ElementsAre(TcpLine(5, "4,3,400,300,1,1500")));
}

// A flow without a start time, where others have one, is older than the capture, whichever worker
// accounts it.
TEST_F(ReplayTest, AFlowWithoutAStartTimeAmongOthers) {
  for (const char* workers : {"--workers=1", "--workers=2", "--workers=5"}) {
    Script script(Stamps::kFlows);
    Flow unstamped = TcpFlow();
    script.Life(500, 1500, UdpFlow({.src = "10.9.0.1"}), {4, 400}, {3, 300});
    unstamped.start_ns = 0;
    script.Destroy(2500, unstamped, {7, 700}, {7, 700});
    EXPECT_THAT(Replay(script, {workers}),
                ElementsAre(Line(5, "udp,10.9.0.1,10.2.0.1,443,4,3,400,300,0,0")))
        << workers;
  }
}

TEST_F(ReplayTest, GrowthFromDumpsThenDestroy) {
  for (const Stamps stamps : kAllStamps) {
    Script script(stamps);
    Flow flow = UdpFlow({.dst_port = 53});
    script.Dump(100, {});
    script.New(1000, flow);
    script.Dump(5010, {script.Entry(flow, {10, 1000}, {5, 500})});
    script.Dump(10010, {script.Entry(flow, {10, 1000}, {5, 500})});  // Silent: no row.
    script.Dump(15010, {script.Entry(flow, {11, 1040}, {5, 500})});
    script.Destroy(17000, flow, {11, 1040}, {7, 580});
    script.Dump(20010, {});
    EXPECT_THAT(Replay(script), ElementsAre(Line(5, "udp,10.1.0.1,10.2.0.1,53,10,5,1000,500,0,0"),
                                            Line(15, "udp,10.1.0.1,10.2.0.1,53,1,0,40,0,0,0"),
                                            Line(20, "udp,10.1.0.1,10.2.0.1,53,0,2,0,80,0,0")));
  }
}

TEST_F(ReplayTest, FlowsInTheTableAtStartAreBaselined) {
  for (const Stamps stamps : kAllStamps) {
    Script script(stamps);
    Flow flow = TcpFlow();
    flow.start_ns = At(-60'000);
    script.Dump(1000, {script.Entry(flow, {1000, 100'000}, {900, 90'000})});
    script.Dump(5010, {script.Entry(flow, {1002, 100'300}, {901, 90'100})});
    script.Destroy(7000, flow, {1010, 101'000}, {901, 90'100});
    script.Dump(10010, {});
    const Lines lines = Replay(script);
    ASSERT_THAT(lines, SizeIs(2));
    EXPECT_EQ(lines[0], TcpLine(5, "2,1,300,100,0,0"));
    // Without any timestamp it is unknown how long it has been open.
    if (stamps == Stamps::kNone) {
      EXPECT_THAT(lines[1], HasSubstr("tcp,10.1.0.1,10.2.0.1,443,8,0,700,0,1,"));
    } else {
      EXPECT_EQ(lines[1], TcpLine(10, "8,0,700,0,1,67000"));
    }
  }
}

TEST_F(ReplayTest, FlowBornBeforeTheFirstDumpIsDoneCountsWhole) {
  // Events are subscribed to before the first dump is requested: a flow that they announce has no
  // baseline.
  for (const Stamps stamps : kAllStamps) {
    Script script(stamps);
    Flow before = UdpFlow({.src = "10.1.0.1", .id = 1});
    Flow during = UdpFlow({.src = "10.1.0.2", .id = 2});
    Flow old = UdpFlow({.src = "10.1.0.3", .id = 3});
    old.start_ns = At(-1000);
    script.New(900, before);
    script.DumpPart(1000, {script.Entry(before, {1, 100}, {0, 0})});
    script.New(1001, during);
    script.DumpPart(1002, {script.Entry(during, {2, 200}, {1, 10}), script.Entry(old, {9, 9}, {})});
    script.DumpDone(1003);
    script.Dump(5010, {script.Entry(before, {1, 100}, {0, 0}),
                       script.Entry(during, {2, 200}, {1, 10}), script.Entry(old, {9, 9}, {})});
    EXPECT_THAT(Replay(script),
                UnorderedElementsAre(UdpLine(5, "1,0,100,0,0,0"),
                                     Line(5, "udp,10.1.0.2,10.2.0.1,443,2,1,200,10,0,0")));
  }
}

TEST_F(ReplayTest, OldFlowThatTheFirstDumpMissedIsBaselinedWhenItShows) {
  // Dumps miss entries; the start says that it was in the table at start.
  Script script;
  Flow flow = UdpFlow();
  flow.start_ns = At(-10'000);
  script.Dump(1000, {});
  script.Dump(5010, {script.Entry(flow, {100, 10'000}, {0, 0})});
  script.Dump(10010, {script.Entry(flow, {150, 15'000}, {0, 0})});
  script.Destroy(11000, flow, {160, 16'000}, {0, 0});
  script.Dump(15010, {});
  EXPECT_THAT(Replay(script),
              ElementsAre(UdpLine(10, "50,0,5000,0,0,0"), UdpLine(15, "10,0,1000,0,0,0")));
}

TEST_F(ReplayTest, ADumpThatRepeatsAnEntryCountsItOnce) {
  Script script;
  Flow flow = UdpFlow();
  script.Dump(100, {});
  script.New(1000, flow);
  script.Dump(5010,
              {script.Entry(flow, {10, 1000}, {5, 500}), script.Entry(flow, {10, 1000}, {5, 500}),
               script.Entry(flow, {11, 1100}, {5, 500})});
  EXPECT_THAT(Replay(script), ElementsAre(UdpLine(5, "11,5,1100,500,0,0")));
}

TEST_F(ReplayTest, RepeatedBaselineEntryCountsItsGrowthOnly) {
  Script script;
  Flow flow = UdpFlow();
  flow.start_ns = At(-10'000);
  script.DumpPart(1000, {script.Entry(flow, {10, 1000}, {5, 500})});
  script.Dump(1100, {script.Entry(flow, {11, 1100}, {5, 500})});
  script.Destroy(2000, flow, {13, 1300}, {5, 500});
  EXPECT_THAT(Replay(script), ElementsAre(UdpLine(5, "3,0,300,0,0,0")));
}

TEST_F(ReplayTest, GroupMasks) {
  Script script(Stamps::kNone);
  // 0x30 & 0xef = 0x20: .32. and .48. fall together, .33. does not.
  for (const auto& [src, dst] : std::vector<std::pair<std::string, std::string>>{
           {"10.32.5.9", "10.35.7.1"}, {"10.48.5.77", "10.51.7.200"}, {"10.33.5.9", "10.35.7.3"}}) {
    script.Life(1000, 2000, UdpFlow({.src = src, .dst = dst, .dst_port = 53}), {1, 100}, {1, 200});
  }
  EXPECT_THAT(Replay(script, {"--src-group-mask=255.239.255.0", "--dst-group-mask=255.239.255.0"}),
              UnorderedElementsAre(Line(5, "udp,10.32.5.0,10.35.7.0,53,2,2,200,400,0,0"),
                                   Line(5, "udp,10.33.5.0,10.35.7.0,53,1,1,100,200,0,0")));
  EXPECT_THAT(Replay(script, {"--src-group-mask=/24", "--dst-group-mask=/8"}),
              UnorderedElementsAre(Line(5, "udp,10.32.5.0,10.0.0.0,53,1,1,100,200,0,0"),
                                   Line(5, "udp,10.48.5.0,10.0.0.0,53,1,1,100,200,0,0"),
                                   Line(5, "udp,10.33.5.0,10.0.0.0,53,1,1,100,200,0,0")));
  EXPECT_THAT(Replay(script, {"--src-group-mask=0.0.0.0", "--dst-group-mask=/0"}),
              ElementsAre(Line(5, "udp,0.0.0.0,0.0.0.0,53,3,3,300,600,0,0")));
  EXPECT_THAT(Replay(script, {"--src-group-mask=/32"}), SizeIs(3));
}

TEST_F(ReplayTest, Filters) {
  Script script(Stamps::kNone);
  for (const auto& [src, dst] : std::vector<std::pair<std::string, std::string>>{
           {"10.32.0.0", "10.63.255.255"},  // The ends of 10.32.0.0/11.
           {"10.31.255.255", "10.40.0.1"},
           {"10.64.0.0", "10.40.0.1"},
           {"10.40.0.1", "10.64.0.0"},
           {"10.40.0.1", "10.32.250.1"},
           {"10.32.250.1", "10.40.0.1"}}) {
    script.Life(1000, 2000, UdpFlow({.src = src, .dst = dst, .dst_port = 53}), {1, 100}, {1, 200});
  }
  const auto line = [](const std::string& pair) {
    return Line(5, "udp," + pair + ",53,1,1,100,200,0,0");
  };
  EXPECT_THAT(Replay(script, {"--src=10.32.0.0/11", "--dst=10.32.0.0/11"}),
              UnorderedElementsAre(line("10.32.0.0,10.63.255.255"), line("10.40.0.1,10.32.250.1"),
                                   line("10.32.250.1,10.40.0.1")));
  EXPECT_THAT(
      Replay(script, {"--src=10.32.0.0/11", "--dst=10.32.0.0/11", "--exclude-ip=10.32.250.1"}),
      ElementsAre(line("10.32.0.0,10.63.255.255")));
  EXPECT_THAT(Replay(script, {"--src=10.64.0.0/10"}), ElementsAre(line("10.64.0.0,10.40.0.1")));
  EXPECT_THAT(Replay(script, {"--dst=10.64.0.0/32"}), ElementsAre(line("10.40.0.1,10.64.0.0")));
  EXPECT_THAT(Replay(script, {"--src=0.0.0.0/0"}), SizeIs(6));
  EXPECT_THAT(Replay(script, {"--dst=192.168.0.0/16"}), IsEmpty());
}

TEST_F(ReplayTest, IcmpOnlyIfAsked) {
  Script script;
  script.Life(1000, 2000, Flow{{.protocol = 1, .src_port = 77, .dst_port = 8 << 8}}, {2, 168},
              {2, 168});
  EXPECT_THAT(Replay(script), IsEmpty());
  EXPECT_THAT(Replay(script, {"--include-icmp"}),
              ElementsAre(Line(5, "icmp,10.1.0.1,10.2.0.1,0,2,2,168,168,0,0")));
  EXPECT_THAT(Replay(script, {"--include-icmp=false"}), IsEmpty());
}

TEST_F(ReplayTest, ProtocolNamesAndPorts) {
  const std::vector<std::tuple<int, std::string, bool>> protocols = {
      {2, "igmp", false},  {6, "tcp", true},         {17, "udp", true},   {33, "dccp", true},
      {47, "gre", false},  {58, "ipv6-icmp", false}, {94, "ipip", false}, {115, "l2tp", false},
      {132, "sctp", true}, {136, "udplite", true},   {50, "50", false},   {0, "0", false},
      {255, "255", false}, {4, "4", false}};
  Script script(Stamps::kNone);
  std::vector<std::string> expected;
  for (const auto& [number, name, has_ports] : protocols) {
    Flow flow = {{.protocol = static_cast<uint8_t>(number),
                  .dst_port = 1234,
                  // GRE's keys come in the attributes for ports; they are not ports.
                  .has_ports = has_ports || number == 47}};
    script.New(1000, flow);
    script.Destroy(2000, flow, {1, 100}, {1, 200});
    const bool counted = number == 6 || number == 33 || number == 132;
    expected.push_back(Line(5, absl::StrCat(name, ",10.1.0.1,10.2.0.1,", has_ports ? 1234 : 0,
                                            ",1,1,100,200,", counted ? "1,1000" : "0,0")));
  }
  EXPECT_THAT(Replay(script), UnorderedElementsAreArray(expected));
}

TEST_F(ReplayTest, PortList) {
  Script script(Stamps::kNone);
  for (const auto& [protocol, port] : std::vector<std::pair<int, int>>{
           {6, 443}, {6, 53}, {17, 53}, {17, 443}, {6, 65535}, {47, 7}, {1, 2048}, {50, 0}}) {
    script.Life(1000, 2000,
                Flow{{.protocol = static_cast<uint8_t>(protocol),
                      .dst_port = static_cast<uint16_t>(port),
                      .has_ports = protocol != 50}},
                {1, 100}, {1, 200});
  }
  const std::string ports =
      WriteFile("ports", "# services\n\ntcp:443 # web\nudp:53\n  # indented\ntcp:65535\n");
  const std::string tail = ",1,1,100,200,0,0";
  const std::string tcp_tail = ",1,1,100,200,1,1000";
  EXPECT_THAT(Replay(script, {"--ports=" + ports, "--include-icmp"}),
              UnorderedElementsAre(Line(5, "tcp,10.1.0.1,10.2.0.1,443" + tcp_tail),
                                   Line(5, "tcp,10.1.0.1,10.2.0.1,-1" + tcp_tail),
                                   Line(5, "tcp,10.1.0.1,10.2.0.1,65535" + tcp_tail),
                                   Line(5, "udp,10.1.0.1,10.2.0.1,53" + tail),
                                   Line(5, "udp,10.1.0.1,10.2.0.1,-1" + tail),
                                   Line(5, "gre,10.1.0.1,10.2.0.1,0" + tail),
                                   Line(5, "icmp,10.1.0.1,10.2.0.1,0" + tail),
                                   Line(5, "50,10.1.0.1,10.2.0.1,0" + tail)));
}

TEST_F(ReplayTest, BadPortListIsNamedByLine) {
  Script script;
  const std::string capture = WriteFile("capture.pcap", script.bytes());
  for (const std::string bad : {"tcp", "tcp:", "tcp:65536", "tcp:-1", "tcp:x", "nonsense:80",
                                "tcp:80:90", "tcp 80", "443"}) {
    SCOPED_TRACE(bad);
    const std::string ports = WriteFile("ports", "udp:53\n# fine\n" + bad + "\ntcp:80\n");
    ExpectError(Engine({"--replay=" + capture, "--ports=" + ports}), 1, ports + ":3");
  }
  ExpectError(Engine({"--replay=" + capture, "--ports=" + Path("absent")}), 1, Path("absent"));
}

TEST_F(ReplayTest, NatIsAccountedByTheOriginalTuple) {
  Script script;
  Flow snat = TcpFlow({.src = "10.1.0.1", .dst = "192.0.2.1", .reply_dst = "198.51.100.1"});
  Flow dnat = TcpFlow({.src = "203.0.113.5",
                       .dst = "198.51.100.1",
                       .dst_port = 80,
                       .reply_src = "10.1.0.9",
                       .reply_src_port = 8080,
                       .id = 2});
  for (Flow* flow : {&snat, &dnat}) {
    script.New(1000, *flow);
    script.Destroy(2000, *flow, {5, 500}, {4, 444});
  }
  EXPECT_THAT(Replay(script),
              UnorderedElementsAre(Line(5, "tcp,10.1.0.1,192.0.2.1,443,5,4,500,444,1,1000"),
                                   Line(5, "tcp,203.0.113.5,198.51.100.1,80,5,4,500,444,1,1000")));
}

TEST_F(ReplayTest, SameTupleInTwoZonesIsTwoFlows) {
  for (const bool in_tuple : {false, true}) {
    for (const Stamps stamps : {Stamps::kEvents, Stamps::kNone}) {
      Script script(stamps);
      // Even with the same id: it is a hash, and collides.
      Flow a = TcpFlow({.zone = 1, .zone_in_tuple = in_tuple, .id = 9});
      Flow b = TcpFlow({.zone = 2, .zone_in_tuple = in_tuple, .id = 9});
      Flow c = TcpFlow({.id = 9});
      script.Dump(100, {});
      script.New(1000, a);
      script.New(1000, b);
      script.New(1000, c);
      script.Dump(5010, {script.Entry(a, {10, 1000}, {1, 100}), script.Entry(b, {20, 2000}, {}),
                         script.Entry(c, {3, 300}, {})});
      script.Destroy(6000, a, {11, 1100}, {1, 100});
      script.Destroy(7000, b, {21, 2100}, {0, 0});
      script.Destroy(8000, c, {4, 400}, {0, 0});
      script.Dump(10010, {});
      EXPECT_THAT(
          Replay(script, {"--track-open"}),
          ElementsAre(TcpLine(5, "33,1,3300,100,0,0,3"), TcpLine(10, "3,0,300,0,3,18000,0")));
    }
  }
}

TEST_F(ReplayTest, CollidingIdsAreTwoFlows) {
  Script script;
  Flow a = UdpFlow({.src_port = 1000, .id = 5});
  Flow b = UdpFlow({.src_port = 1001, .id = 5});
  script.Dump(100, {});
  script.New(1000, a);
  script.New(1001, b);
  script.Dump(5010, {script.Entry(a, {10, 1000}, {}), script.Entry(b, {2, 200}, {})});
  script.Destroy(6000, b, {3, 300}, {0, 0});
  script.Destroy(6000, a, {11, 1100}, {0, 0});
  EXPECT_THAT(Replay(script),
              ElementsAre(UdpLine(5, "12,0,1200,0,0,0"), UdpLine(10, "2,0,200,0,0,0")));
}

TEST_F(ReplayTest, ClosesAtTheFirstClosingState) {
  for (const Stamps stamps : kAllStamps) {
    for (const uint8_t state : {kTestTcpCloseWait, kTestTcpLastAck, kTestTcpClose}) {
      Script script(stamps);
      Flow flow = TcpFlow();
      script.New(1000, flow);
      script.Update(1010, flow, kTestTcpSynReceived);
      script.Update(1020, flow, kTestTcpEstablished);
      script.Update(3000, flow, kTestTcpFinWait);
      script.Update(3250, flow, state);
      script.Update(3260, flow, kTestTcpLastAck);
      script.Update(3270, flow, kTestTcpTimeWait);
      script.Update(3280, flow, kTestTcpClose);
      script.Destroy(7000, flow, {4, 400}, {3, 300});
      EXPECT_THAT(Replay(script, {"--track-open"}),
                  ElementsAre(TcpLine(5, "0,0,0,0,1,2250,0"), TcpLine(10, "4,3,400,300,0,0,0")))
          << "state " << int{state};
    }
  }
}

TEST_F(ReplayTest, OtherStatesDoNotClose) {
  for (const uint8_t state :
       {kTestTcpSynSent, kTestTcpSynReceived, kTestTcpEstablished, kTestTcpFinWait, uint8_t{9}}) {
    Script script;
    Flow flow = TcpFlow();
    script.New(1000, flow);
    script.Update(2000, flow, state);
    script.Destroy(7000, flow, {4, 400}, {3, 300});
    EXPECT_THAT(Replay(script), ElementsAre(TcpLine(10, "4,3,400,300,1,6000")))
        << "state " << int{state};
  }
}

TEST_F(ReplayTest, SctpAndDccpCloseAtDestroy) {
  // Their states have the same numbers as TCP's closing ones, with another meaning.
  Script script;
  Flow sctp = {{.protocol = 132, .id = 1, .sctp_state = 3}};
  Flow dccp = {{.protocol = 33, .id = 2, .dccp_state = 3}};
  script.New(1000, sctp);
  script.New(1000, dccp);
  for (const uint8_t state : {5, 6, 8}) {
    sctp.tuple.sctp_state = state;
    dccp.tuple.dccp_state = state;
    TestMessage update = sctp.tuple;
    update.kind = TestMessage::Kind::kUpdate;
    script.Add(2000, update);
    update = dccp.tuple;
    update.kind = TestMessage::Kind::kUpdate;
    script.Add(2000, update);
  }
  script.Destroy(7000, sctp, {4, 400}, {3, 300});
  script.Destroy(7500, dccp, {4, 400}, {3, 300});
  EXPECT_THAT(Replay(script, {"--track-open"}),
              UnorderedElementsAre(Line(5, "sctp,10.1.0.1,10.2.0.1,443,0,0,0,0,0,0,1"),
                                   Line(5, "dccp,10.1.0.1,10.2.0.1,443,0,0,0,0,0,0,1"),
                                   Line(10, "sctp,10.1.0.1,10.2.0.1,443,4,3,400,300,1,6000,0"),
                                   Line(10, "dccp,10.1.0.1,10.2.0.1,443,4,3,400,300,1,6500,0")));
}

TEST_F(ReplayTest, CloseSeenInADumpCountsOnce) {
  // The kernel's order between its two senders: the dump may show the state first, or the event
  // may never come.
  Script script;
  Flow flow = TcpFlow();
  script.Dump(100, {});
  script.New(1000, flow);
  script.Dump(5010, {script.Entry(flow, {4, 400}, {3, 300}, kTestTcpCloseWait)});
  script.Update(5011, flow, kTestTcpCloseWait);
  script.Update(6000, flow, kTestTcpLastAck);
  script.Dump(10010, {script.Entry(flow, {5, 500}, {4, 400}, kTestTcpTimeWait)});
  script.Destroy(11000, flow, {5, 500}, {4, 400});
  script.Dump(15010, {});
  const auto sums = Sums(Replay(script));
  ASSERT_THAT(sums, SizeIs(1));
  const Fields& fields = sums.begin()->second;
  EXPECT_THAT(fields, ElementsAre(5, 4, 500, 400, 1,
                                  testing::AllOf(testing::Ge(3900u), testing::Le(10'000u))));
}

TEST_F(ReplayTest, ClosedBeforeTheStartIsNotCountedAgain) {
  for (const uint8_t state :
       {kTestTcpCloseWait, kTestTcpLastAck, kTestTcpTimeWait, kTestTcpClose}) {
    Script script;
    Flow flow = TcpFlow();
    flow.start_ns = At(-60'000);
    script.Dump(1000, {script.Entry(flow, {10, 1000}, {10, 1000}, state)});
    script.Destroy(3000, flow, {11, 1100}, {10, 1000});
    EXPECT_THAT(Replay(script, {"--track-open"}), ElementsAre(TcpLine(5, "1,0,100,0,0,0,0")))
        << "state " << int{state};
  }
}

TEST_F(ReplayTest, ClosesWhileTheFirstDumpRuns) {
  // The events are subscribed to before the dump is requested. So this one reports a close after
  // the start, even if the dump shows the flow only afterwards.
  for (const uint8_t dumped : {kTestTcpCloseWait, kTestTcpEstablished}) {
    Script script;
    Flow flow = TcpFlow();
    flow.start_ns = At(-10'000);
    script.DumpPart(1000, {script.Entry(UdpFlow({.src = "10.9.0.9", .id = 9}), {0, 0}, {0, 0})});
    script.Update(1500, flow, kTestTcpCloseWait);
    script.DumpPart(2000, {script.Entry(flow, {10, 1000}, {9, 900}, dumped)});
    script.DumpDone(2001);
    script.Destroy(3000, flow, {11, 1100}, {9, 900});
    EXPECT_THAT(Replay(script), ElementsAre(TcpLine(5, "1,0,100,0,1,11500")))
        << "dumped in state " << int{dumped};
  }
}

TEST_F(ReplayTest, KernelTimesGoBeforePacketTimes) {
  // The capture was read some time afterwards: durations are the kernel's own.
  Script script;
  Flow flow = TcpFlow();
  TestMessage message = script.NewMessage(1000, flow);
  script.Add(1400, message);
  script.Add(3900, script.UpdateMessage(2750, flow, kTestTcpCloseWait));
  Flow timed_out = TcpFlow({.src_port = 2, .id = 2});
  message = script.NewMessage(1100, timed_out);
  script.Add(4000, message);
  script.Add(4900, script.DestroyMessage(1103, timed_out, {1, 40}, {0, 0}));
  EXPECT_THAT(Replay(script), ElementsAre(TcpLine(5, "1,0,40,0,2,1753")));
}

TEST_F(ReplayTest, TrackOpenAddsTheColumn) {
  Script script;
  Flow tcp = TcpFlow();
  Flow udp = UdpFlow({.id = 2});
  script.New(1000, tcp);
  script.New(1000, udp);
  script.Destroy(12000, tcp, {4, 400}, {3, 300});
  script.Destroy(12001, udp, {1, 100}, {0, 0});
  // A key with open connections has a row even if nothing else happened.
  const std::string pair = ",10.1.0.1,10.2.0.1,443,";
  EXPECT_THAT(Replay(script, {"--track-open"}),
              UnorderedElementsAre(Line(5, "tcp" + pair + "0,0,0,0,0,0,1"),
                                   Line(10, "tcp" + pair + "0,0,0,0,0,0,1"),
                                   Line(15, "tcp" + pair + "4,3,400,300,1,11000,0"),
                                   Line(15, "udp" + pair + "1,0,100,0,0,0,0")));
  EXPECT_THAT(Replay(script), UnorderedElementsAre(Line(15, "tcp" + pair + "4,3,400,300,1,11000"),
                                                   Line(15, "udp" + pair + "1,0,100,0,0,0")));
}

TEST_F(ReplayTest, BaselinedConnectionsAreOpen) {
  Script script;
  Flow flow = TcpFlow();
  flow.start_ns = At(-1000);
  script.Dump(1000, {script.Entry(flow, {10, 1000}, {9, 900})});
  script.Dump(5010, {script.Entry(flow, {10, 1000}, {9, 900})});
  script.Destroy(6000, flow, {10, 1000}, {9, 900});
  script.Dump(10010, {});
  EXPECT_THAT(Replay(script, {"--track-open"}),
              ElementsAre(TcpLine(5, "0,0,0,0,0,0,1"), TcpLine(10, "0,0,0,0,1,7000,0")));
}

TEST_F(ReplayTest, BothFamiliesAreAccounted) {
  Script script;
  Flow v6 = TcpFlow({.src = "2001:db8::1", .dst = "2001:db8::2"});
  Flow v4 = TcpFlow({.id = 2});
  script.New(1000, v6);
  script.New(1000, v4);
  script.Destroy(2000, v6, {4, 400}, {3, 300});
  script.Destroy(2000, v4, {1, 100}, {0, 0});
  Flow lives = TcpFlow({.src = "2001:db8::1", .dst = "2001:db8::9", .id = 3});
  script.New(3000, lives);
  script.Dump(5010, {script.Entry(lives, {5, 500}, {2, 200})});
  const std::string v4_line = TcpLine(5, "1,0,100,0,1,1000,0");
  const std::vector<std::string> v6_lines = {
      Line(5, "tcp,2001:db8::1,2001:db8::2,443,4,3,400,300,1,1000,0"),
      Line(5, "tcp,2001:db8::1,2001:db8::9,443,5,2,500,200,0,0,1")};
  // Of the interval that ends with the dump.
  const auto rows = [&](const Lines& flags) {
    Lines lines = Sorted(Replay(script, Joined({{"--track-open"}, flags})));
    std::erase_if(lines, [](const std::string& line) { return !line.starts_with(Line(5, "")); });
    return lines;
  };
  for (const char* workers : {"--workers=1", "--workers=3"}) {
    EXPECT_THAT(rows({workers}), ElementsAre(v4_line, v6_lines[0], v6_lines[1]));
  }
  // A filter that names networks of one family admits that family.
  EXPECT_THAT(rows({"-src=10.0.0.0/8"}), ElementsAre(v4_line));
  EXPECT_THAT(rows({"-src=2001:db8::/32"}), ElementsAre(v6_lines[0], v6_lines[1]));
  EXPECT_THAT(rows({"-src=10.0.0.0/8,2001:db8::/32"}),
              ElementsAre(v4_line, v6_lines[0], v6_lines[1]));
  EXPECT_THAT(rows({"-dst=10.2.0.0/16,2001:db8::8/126"}), testing::SizeIs(2));
  EXPECT_THAT(rows({"-exclude-ip=2001:db8::2,10.9.0.1"}), ElementsAre(v4_line, v6_lines[1]));
  EXPECT_THAT(rows({"-dst-group-mask6=/64"}),
              ElementsAre(v4_line, Line(5, "tcp,2001:db8::1,2001:db8::,443,9,5,900,500,1,1000,1")));
  EXPECT_THAT(rows({"-src-group-mask6=ffff::"}),
              ElementsAre(v4_line, Line(5, "tcp,2001::,2001:db8::2,443,4,3,400,300,1,1000,0"),
                          Line(5, "tcp,2001::,2001:db8::9,443,5,2,500,200,0,0,1")));
}

TEST_F(ReplayTest, Icmpv6IsLeftOutUnlessItIsWanted) {
  Script script;
  Flow ping = UdpFlow({.src = "fd00::1", .dst = "fd00::2"});
  ping.tuple.protocol = 58;
  script.Life(1000, 2000, ping, {3, 300});
  EXPECT_THAT(Replay(script), IsEmpty());
  EXPECT_THAT(Replay(script, {"-include-icmp"}), testing::SizeIs(1));
}

TEST_F(ReplayTest, NothingButZerosMakesNoRow) {
  Script script;
  script.Life(1000, 2000, UdpFlow(), {0, 0});
  EXPECT_THAT(Replay(script), IsEmpty());
  EXPECT_THAT(Replay(script, {"--track-open"}), IsEmpty());
}

TEST_F(ReplayTest, LargeCounters) {
  Script script;
  Flow flow = UdpFlow();
  flow.start_ns = At(-1000);
  const uint64_t base = (uint64_t{1} << 62) + 12345;
  script.Dump(1000, {script.Entry(flow, {1'000'000'000'000, base}, {7, 7})});
  script.Dump(5010, {script.Entry(flow, {1'006'000'000'000, base + 9'000'000'000'001}, {7, 7})});
  EXPECT_THAT(Replay(script), ElementsAre(UdpLine(5, "6000000000,0,9000000000001,0,0,0")));
}

// No kernel counts this much. The sums of an interval are limited, and every reader accepts the
// file: a sum neither wraps nor exceeds what a file may hold.
TEST_F(ReplayTest, CountersBeyondAllBoundsAreCut) {
  constexpr uint64_t kAll = ~uint64_t{0};
  constexpr uint64_t kHalf = uint64_t{1} << 63;
  for (const uint64_t counter : {kAll, kHalf}) {
    Script script;
    for (uint16_t i = 1; i <= 2; ++i) {
      script.Life(1000, 2000, UdpFlow({.src_port = i, .id = i}), {counter, counter},
                  {counter, counter});
    }
    const std::string row =
        UdpLine(5, "9007199254740992,9007199254740992,9007199254740992,9007199254740992,0,0");
    EXPECT_THAT(Replay(script), ElementsAre(row));
    const std::string spool = MakeFolder(absl::StrCat("spool", counter));
    EXPECT_THAT(Replay(script, {"--output=" + spool}), IsEmpty());
    const Lines names = VisibleNamesIn(spool);
    ASSERT_EQ(names.size(), 1u);
    const Finished dump = Spooldump({spool + "/" + names[0]});
    EXPECT_TRUE(dump.exit.ok()) << dump.err;
    EXPECT_EQ(dump.out, row + "\n");
  }
}

}  // namespace
}  // namespace ctacct
