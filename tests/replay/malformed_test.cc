// Messages that no kernel sends, and those for other programs: rejected one by one, while all
// others are counted.
#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/replay/replay_test_base.h"

namespace ctacct {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Every way to break a message, each alone between two good datagrams.
std::vector<std::pair<std::string, std::string>> MalformedDatagrams() {
  Script script;
  Flow victim = UdpFlow({.src = "10.66.0.1", .id = 66});
  victim.start_ns = At(1200);
  const TestMessage destroy = script.DestroyMessage(1500, victim, {1, 1}, {1, 1});
  const std::string good = BuildMessage(destroy);
  const auto changed = [&](const std::function<void(TestMessage&)>& change) {
    TestMessage message = destroy;
    change(message);
    return BuildMessage(message);
  };
  const auto poked16 = [&](size_t offset, uint16_t value) {
    std::string bytes = good;
    PutHost16(bytes, offset, value);
    return bytes;
  };
  const auto poked32 = [&](size_t offset, uint32_t value) {
    std::string bytes = good;
    PutHost32(bytes, offset, value);
    return bytes;
  };
  // Where things are: the netlink header 0-15, nfgenmsg 16-19, the original tuple's header 20-23,
  // CTA_TUPLE_IP 24-27, its first address' header 28-31.
  std::vector<std::pair<std::string, std::string>> all = {
      {"empty datagram", ""},
      {"one byte", good.substr(0, 1)},
      {"half a netlink header", good.substr(0, 8)},
      {"netlink header only", good.substr(0, 16)},
      {"message length 0", poked32(0, 0)},
      {"message length 1", poked32(0, 1)},
      {"message length 15", poked32(0, 15)},
      {"message length 16: no nfgenmsg", poked32(0, 16)},
      {"message length 19", poked32(0, 19)},
      {"message longer than the datagram", poked32(0, static_cast<uint32_t>(good.size() + 4))},
      {"message length 4 GiB", poked32(0, 0xffffffff)},
      {"message length negative", poked32(0, 0x80000000)},
      {"attribute length 0", poked16(20, 0)},
      {"attribute length 3", poked16(20, 3)},
      {"attribute length 4: an empty tuple", poked16(20, 4)},
      {"attribute past the end", poked16(20, 0xffff)},
      {"nested attribute length 0", poked16(24, 0)},
      {"nested attribute past its nest", poked16(24, 200)},
      {"address attribute length 0", poked16(28, 0)},
      {"address attribute past the end", poked16(28, 0xfff0)},
      {"address of five bytes", poked16(28, 9)},
      {"unknown message type of conntrack", poked16(4, 0x01ff)},
      {"expectation", poked16(4, 0x0200)},
      {"netlink no-op", poked16(4, 1)},
      {"netlink overrun", poked16(4, 4)},
      {"unknown address family",
       [&] {
         std::string bytes = good;
         bytes[16] = 99;
         return bytes;
       }()},
      {"IPv4 by its header, IPv6 by its tuple",
       [&] {
         std::string bytes =
             changed([](TestMessage& m) { m.src = "2001:db8::1", m.dst = "2001:db8::2"; });
         bytes[16] = 2;
         return bytes;
       }()},
      {"no tuple", changed([](TestMessage& m) { m.has_original_tuple = false; })},
      {"no attributes", NetlinkMessage(0x0102, 0, std::string("\x02\0\0\0", 4))},
      {"only garbage", std::string(64, '\xff')},
      {"only zeros", std::string(64, '\0')},
  };
  // What an attribute's payload must not be: too short.
  for (const auto& [type, name] :
       std::vector<std::pair<uint16_t, std::string>>{{3, "status"},
                                                     {7, "timeout"},
                                                     {9, "original counters"},
                                                     {10, "reply counters"},
                                                     {12, "id"},
                                                     {18, "zone"},
                                                     {20, "timestamp"},
                                                     {27, "event timestamp"},
                                                     {4, "protoinfo"}}) {
    all.emplace_back("short " + name, changed([type = type](TestMessage& m) {
                       m.has_original_tuple = false;
                       m.first_attributes = Attribute(type, "x");
                     }));
  }
  // Truncated at every length: the header says so, or it does not.
  for (size_t size = 17; size < good.size(); ++size) {
    all.emplace_back(absl::StrCat("datagram cut at ", size), good.substr(0, size));
  }
  // A deep nest.
  std::string deep;
  for (int i = 0; i < 1000; ++i) deep = Attribute(1 | 0x8000, deep);
  all.emplace_back("nested a thousand deep",
                   NetlinkMessage(0x0102, 0, std::string("\x02\0\0\0", 4) + deep));
  // 64 KiB of the smallest attributes.
  std::string many;
  for (int i = 0; i < 16'000; ++i) many += Attribute(40, "");
  all.emplace_back("sixteen thousand attributes",
                   NetlinkMessage(0x0102, 0, std::string("\x02\0\0\0", 4) + many));
  return all;
}

TEST_F(ReplayTest, MalformedMessagesBetweenGoodOnes) {  // Fault 25
  const auto malformed = MalformedDatagrams();
  // Each alone, so that a failure has a name; the good ones around it are all counted.
  int i = 0;
  for (const auto& [name, datagram] : malformed) {
    // The many truncations run only in the test of all.
    if (name.starts_with("datagram cut") && ++i % 16 != 0) continue;
    Script script;
    script.Life(1000, 1400, UdpFlow({.id = 1}), {1, 100});
    script.Add(1500, datagram);
    script.Life(1600, 2000, UdpFlow({.src_port = 2, .id = 2}), {2, 200});
    const Lines lines = Replay(script);
    EXPECT_THAT(lines, Contains(UdpLine(5, "3,0,300,0,0,0"))) << name;
    EXPECT_LE(lines.size(), 2u) << name;
  }
  Script script;
  uint64_t packets = 0;
  for (const auto& [name, datagram] : malformed) {
    script.Add(1500, datagram);
    ++packets;
    Flow flow =
        UdpFlow({.src_port = static_cast<uint16_t>(packets), .id = static_cast<uint32_t>(packets)});
    script.New(1600, flow);
    script.Destroy(2000, flow, {1, 100}, {0, 0});
  }
  EXPECT_THAT(Replay(script), Contains(Line(5, absl::StrCat("udp,10.1.0.1,10.2.0.1,443,", packets,
                                                            ",0,", packets * 100, ",0,0,0"))));
}

TEST_F(ReplayTest, BrokenTupleIsNoFlow) {
  // Nothing of these may be accounted: it is unknown to whom.
  static const std::set<std::string> kNoFlow = {"empty datagram",
                                                "one byte",
                                                "half a netlink header",
                                                "message length 0",
                                                "message length 15",
                                                "message longer than the datagram",
                                                "message length 4 GiB",
                                                "attribute length 0",
                                                "attribute length 4: an empty tuple",
                                                "attribute past the end",
                                                "nested attribute past its nest",
                                                "address attribute length 0",
                                                "address of five bytes",
                                                "unknown message type of conntrack",
                                                "expectation",
                                                "unknown address family",
                                                "IPv4 by its header, IPv6 by its tuple",
                                                "no tuple",
                                                "no attributes",
                                                "only garbage",
                                                "only zeros"};
  Script script;
  size_t used = 0;
  for (const auto& [name, datagram] : MalformedDatagrams()) {
    if (!kNoFlow.contains(name)) continue;
    ++used;
    script.Add(1500, datagram);
  }
  EXPECT_EQ(used, kNoFlow.size());
  EXPECT_THAT(Replay(script, {"--track-open"}), IsEmpty());
}

TEST_F(ReplayTest, GoodMessageBeforeABrokenOneInTheDatagramCounts) {
  Script script;
  Flow a = UdpFlow({.id = 1});
  Flow b = UdpFlow({.src_port = 2, .id = 2});
  script.Dump(100, {});
  script.New(1000, a);
  script.New(1000, b);
  std::string broken = BuildMessage(script.Entry(b, {50, 50}, {0, 0}));
  PutHost32(broken, 0, 3);
  script.Add(5010, BuildMessage(script.Entry(a, {1, 100}, {0, 0})) + broken);
  script.DumpPart(5011, {script.Entry(b, {2, 200}, {0, 0})});
  script.DumpDone(5012);
  EXPECT_THAT(Replay(script), ElementsAre(UdpLine(5, "3,0,300,0,0,0")));
}

TEST_F(ReplayTest, BrokenAttributesCostOnlyTheirMessage) {
  // The datagram's other messages count: the broken one's own length is right.
  Script script;
  Flow a = UdpFlow({.id = 1});
  Flow b = UdpFlow({.src_port = 2, .id = 2});
  script.Dump(100, {});
  script.New(1000, a);
  script.New(1000, b);
  std::string broken = BuildMessage(script.Entry(UdpFlow({.src = "10.66.0.1"}), {5, 5}, {0, 0}));
  PutHost16(broken, 20, 0xfff0);
  script.Add(5010, BuildMessage(script.Entry(a, {1, 100}, {0, 0})) + broken +
                       BuildMessage(script.Entry(b, {2, 200}, {0, 0})));
  script.DumpDone(5012);
  EXPECT_THAT(Replay(script), ElementsAre(UdpLine(5, "3,0,300,0,0,0")));
}

TEST_F(ReplayTest, UnknownAttributesAreSkipped) {  // Fault 25: a newer kernel.
  Script script;
  Flow flow = TcpFlow();
  flow.tuple.first_attributes = Attribute(40, "something new") + Attribute(99 | 0x8000, "");
  flow.tuple.last_attributes = Attribute(0x3fff, std::string(300, 'x')) + Attribute(8, "mark");
  script.New(1000, flow);
  script.Destroy(2000, flow, {4, 400}, {3, 300});
  EXPECT_THAT(Replay(script), ElementsAre(TcpLine(5, "4,3,400,300,1,1000")));
}

TEST_F(ReplayTest, MissingCountersAreNoCounters) {  // Fault 25: nf_conntrack_acct=0.
  Script script;
  Flow flow = UdpFlow();
  script.Dump(100, {});
  script.New(1000, flow);
  script.Dump(5010, {script.Entry(flow, {10, 1000}, {5, 500})});
  TestMessage bare = script.Entry(flow, {}, {});
  bare.original.reset();
  bare.reply.reset();
  script.Dump(10'010, {bare});
  script.Dump(15'010, {script.Entry(flow, {11, 1100}, {5, 500})});
  Flow other = UdpFlow({.src_port = 2, .id = 2});
  script.New(16'000, other);
  TestMessage destroy = script.DestroyMessage(16'500, other, {}, {});
  destroy.original.reset();
  destroy.reply.reset();
  script.Add(16'500, destroy);
  script.Dump(20'010, {});
  EXPECT_THAT(Replay(script),
              ElementsAre(UdpLine(5, "10,5,1000,500,0,0"), UdpLine(15, "1,0,100,0,0,0")));
}

TEST_F(ReplayTest, MissingIdIsNoCrash) {
  Script script;
  script.Life(1000, 2000, UdpFlow({.id = std::nullopt}), {1, 100});
  script.Life(2000, 3000, UdpFlow({.src = "10.1.0.2"}), {2, 200});
  EXPECT_THAT(Replay(script), Contains(Line(5, "udp,10.1.0.2,10.2.0.1,443,2,0,200,0,0,0")));
}

TEST_F(ReplayTest, OtherNetlinkFamiliesAreIgnored) {
  Script script;
  Flow flow = UdpFlow();
  Flow other = UdpFlow({.src = "10.66.0.1", .id = 66});
  other.start_ns = At(1100);
  script.New(1000, flow);
  const std::string destroy = BuildMessage(script.DestroyMessage(1500, other, {9, 9}, {9, 9}));
  for (const uint16_t family : {0, 4, 9, 11, 13, 16, 0x0c00}) script.Add(1500, destroy, family);
  script.Destroy(2000, flow, {1, 100}, {0, 0});
  EXPECT_THAT(Replay(script), ElementsAre(UdpLine(5, "1,0,100,0,0,0")));
}

TEST_F(ReplayTest, RequestsOfUserSpaceAreIgnored) {
  // nlmon records both directions: programs' requests look like the kernel's reports.
  Script script;
  Flow flow = UdpFlow();
  Flow other = UdpFlow({.src = "10.66.0.1", .id = 66});
  other.start_ns = At(1100);
  constexpr uint16_t kRequest = 0x0001, kAck = 0x0004, kDump = 0x0300;
  script.New(1000, flow);
  TestMessage request = script.NewMessage(1500, other);  // conntrack -I
  request.flags = 0x0600 | kRequest | kAck;
  script.Add(1500, request);
  request = script.DestroyMessage(1600, flow, {7, 7}, {7, 7});  // conntrack -D
  request.flags = kRequest | kAck;
  script.Add(1600, request);
  request = script.Entry(flow, {7, 7}, {7, 7});  // conntrack -U
  request.flags = kRequest | kAck;
  script.Add(1700, request);
  // conntrack -L: GET, with all the flags of a dump's request.
  script.Add(1800, NetlinkMessage(0x0101, kRequest | kDump, std::string("\x02\0\0\0", 4), 7));
  // A dump's request whose flags hold NLM_F_MULTI's bit, by mistake or malice.
  request = script.Entry(flow, {9, 9}, {9, 9});
  request.flags = kRequest | 0x0002;
  script.Add(1900, request);
  script.Destroy(2000, flow, {1, 100}, {0, 0});
  EXPECT_THAT(Replay(script, {"--track-open"}), ElementsAre(UdpLine(5, "1,0,100,0,0,0,0")));
}

}  // namespace
}  // namespace ctacct
