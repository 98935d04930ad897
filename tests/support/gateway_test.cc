// The test bed itself: what the generator says it sent is what the kernel counted, to the packet
// and byte.
#include "tests/support/gateway.h"

#include <signal.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;

std::string MachineSetting(const std::string& path) {
  std::string value;
  std::ifstream("/proc/sys/" + path) >> value;
  return value;
}

class GatewayTest : public testing::Test {
 protected:
  void SetUp() override { RequireRootOrSkip(); }
};

TEST_F(GatewayTest, KernelCountsWhatWasSent) {
  auto gateway = Gateway::Up();
  ASSERT_TRUE(gateway.ok()) << gateway.status();
  const auto sent = (*gateway)->Play({"--tcp=3000", "--udp=3000", "--icmp=300", "--open-tcp=100",
                                      "--rounds=3", "--round-seconds=0.1", "--close-open=false"});
  ASSERT_TRUE(sent.ok()) << sent.status();
  EXPECT_EQ(Total(*sent).connection_count, 3000u);
  EXPECT_EQ(Total(*sent).open_connections, 100u);
  uint64_t flows = 0;
  auto counted = (*gateway)->KernelCounters(&flows);
  ASSERT_TRUE(counted.ok()) << counted.status();
  EXPECT_EQ(flows, 6400u);
  EXPECT_EQ(Difference(WithoutConnections(*sent), WithoutConnections(*counted)), "");

  // A second run adds fresh flows to those that still live.
  const auto more = (*gateway)->Play({"--tcp=1000", "--udp=1000"});
  ASSERT_TRUE(more.ok()) << more.status();
  Traffic both = *sent;
  both += *more;
  counted = (*gateway)->KernelCounters(&flows);
  ASSERT_TRUE(counted.ok()) << counted.status();
  EXPECT_EQ(flows, 8400u);
  EXPECT_EQ(Difference(WithoutConnections(both), WithoutConnections(*counted)), "");

  ASSERT_TRUE((*gateway)->FlushConntrack().ok());
  counted = (*gateway)->KernelCounters(&flows);
  ASSERT_TRUE(counted.ok()) << counted.status();
  EXPECT_EQ(flows, 0u);
}

TEST_F(GatewayTest, OriginalTupleStaysUnderTranslation) {
  auto gateway = Gateway::Up({.nat = true});
  ASSERT_TRUE(gateway.ok()) << gateway.status();
  const auto sent = (*gateway)->Play({"--tcp=1000", "--udp=1000", "--icmp=100"});
  ASSERT_TRUE(sent.ok()) << sent.status();
  const auto table = (*gateway)->Run({"conntrack", "-L"});
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_THAT(*table, HasSubstr("src=100."));  // The reply direction's, translated.
  uint64_t flows = 0;
  const auto counted = ParseConntrackOutput(*table, &flows);
  ASSERT_TRUE(counted.ok()) << counted.status();
  EXPECT_EQ(flows, 2100u);
  EXPECT_EQ(Difference(WithoutConnections(*sent), WithoutConnections(*counted)), "");
}

TEST_F(GatewayTest, EndedFlowsAreDestroyedWithTheirCounters) {
  auto gateway = Gateway::Up({.timeouts = Timeouts::kShort});
  ASSERT_TRUE(gateway.ok()) << gateway.status();
  auto events = (*gateway)->Start({"conntrack", "-E", "-e", "DESTROY"});
  ASSERT_TRUE(events.ok()) << events.status();
  // It does not report when it listens. A refused connection is destroyed at once: its event is the
  // sign.
  const auto sign = (*gateway)->Play({"--tcp=1", "--tcp-refused-percent=100"});
  ASSERT_TRUE(sign.ok()) << sign.status();
  Traffic all = *sign;
  for (int i = 0; !(*events)->WaitForOutput("[DESTROY]", absl::Milliseconds(200)).ok(); ++i) {
    ASSERT_LT(i, 20);
    const auto again = (*gateway)->Play({"--tcp=1", "--tcp-refused-percent=100"});
    ASSERT_TRUE(again.ok()) << again.status();
    all = *again;  // The earlier ones were not heard.
  }
  // In a burst no more than fits the default receive buffer, some 160 events: conntrack 1.4.7 sets
  // the size that its -b asks for on another socket than the one it listens on.
  const auto sent =
      (*gateway)->Play({"--tcp=60", "--udp=60", "--icmp=20", "--tcp-refused-percent=10"});
  ASSERT_TRUE(sent.ok()) << sent.status();
  all += *sent;

  std::string difference;
  for (int i = 0; i < 100; ++i) {
    const std::string text = (*events)->Stdout();
    // A line may be half written.
    const auto destroyed = ParseConntrackOutput(text.substr(0, text.rfind('\n') + 1));
    ASSERT_TRUE(destroyed.ok()) << destroyed.status();
    difference = Difference(all, *destroyed);
    if (difference.empty()) break;
    // The kernel takes expired entries away when it comes by; a listing comes by.
    ASSERT_TRUE((*gateway)->KernelCounters().ok());
    absl::SleepFor(absl::Milliseconds(100));
  }
  EXPECT_EQ(difference, "");
  ASSERT_TRUE((*events)->Signal(SIGTERM).ok());
  EXPECT_TRUE((*events)->Wait(absl::Seconds(10)).ok());
}

TEST_F(GatewayTest, LostPacketIsAnError) {
  auto gateway = Gateway::Up();
  ASSERT_TRUE(gateway.ok()) << gateway.status();
  ASSERT_TRUE((*gateway)
                  ->Run({"nft",
                         "insert rule ip gateway forward udp dport 53 limit rate over "
                         "1/hour burst 1 packets drop"})
                  .ok());
  const auto sent = (*gateway)->Play({"--udp=100", "--ports=1"});
  EXPECT_THAT(std::string(sent.status().message()), HasSubstr("packets were lost"));
  EXPECT_THAT(std::string(sent.status().message()), HasSubstr("gateway's far interface"));
}

TEST_F(GatewayTest, NothingIsLeftBehind) {
  const char* kSettings[] = {"net/netfilter/nf_conntrack_max", "net/core/netdev_max_backlog"};
  // Other people's gateways on this machine may hold the limits up, or take them down meanwhile.
  const auto alone = [] {
    std::error_code error;
    return std::filesystem::directory_iterator("/run/ctacct-gateways/up", error) ==
           std::filesystem::directory_iterator();
  };
  const bool alone_before = alone();
  std::vector<std::string> before;
  for (const char* path : kSettings) before.push_back(MachineSetting(path));
  std::string name;
  {
    auto gateway = Gateway::Up();
    ASSERT_TRUE(gateway.ok()) << gateway.status();
    name = (*gateway)->name();
    EXPECT_TRUE(std::filesystem::exists("/run/netns/" + name + "-gw"));
    EXPECT_GE(std::stoull(MachineSetting(kSettings[0])), 2'000'000u);
    auto sleeper = (*gateway)->Start({"sleep", "1000"});
    ASSERT_TRUE(sleeper.ok()) << sleeper.status();
    // Two of one name: the second is refused, the first not harmed.
    const auto second =
        RunProcess({DataPath("tests/support/gateway.sh"), "up", name}, absl::Seconds(10));
    ASSERT_TRUE(second.ok()) << second.status();
    EXPECT_EQ(second->exit.code, 1);
    EXPECT_THAT(second->err, HasSubstr("exists"));
    ASSERT_TRUE((*gateway)->Down().ok());
    const auto ended = (*sleeper)->Wait(absl::Seconds(10));
    ASSERT_TRUE(ended.ok()) << ended.status();
    EXPECT_EQ(ended->signal, SIGKILL);
  }
  for (const char* end : {"-client", "-gw", "-server"}) {
    EXPECT_FALSE(std::filesystem::exists("/run/netns/" + name + end));
  }
  if (!alone_before || !alone()) return;
  for (size_t i = 0; i < before.size(); ++i) EXPECT_EQ(MachineSetting(kSettings[i]), before[i]);
}

// What needs no gateway.

TEST(TrafficTest, GroupsByMaskAndPortList) {
  const uint32_t a = *ParseAddress("10.32.1.5"), b = *ParseAddress("10.48.1.7"),
                 server = *ParseAddress("10.40.9.1");
  const Traffic traffic = {{{"tcp", a, server, 443}, {1, 2, 3, 4, 1, 0}},
                           {{"tcp", b, server, 443}, {10, 20, 30, 40, 1, 1}},
                           {{"udp", a, server, 443}, {5, 5, 5, 5, 0, 0}},
                           {{"icmp", a, server, 0}, {1, 1, 84, 84, 0, 0}}};
  GroupOptions options;
  options.src_mask = *ParseAddress("255.239.255.0");
  options.ports = {{{"tcp", 443}}};
  const uint32_t group = *ParseAddress("10.32.1.0");
  Traffic expected = {{{"tcp", group, server, 443}, {11, 22, 33, 44, 2, 1}},
                      {{"udp", group, server, -1}, {5, 5, 5, 5, 0, 0}},
                      {{"icmp", group, server, 0}, {1, 1, 84, 84, 0, 0}}};
  EXPECT_EQ(Difference(expected, Group(traffic, options)), "");
  options.include_icmp = false;
  expected.erase({"icmp", group, server, 0});
  EXPECT_EQ(Difference(expected, Group(traffic, options)), "");
  EXPECT_THAT(Difference(traffic, expected), HasSubstr("6 keys differ"));
}

TEST(TrafficTest, ReadsConntrackOutput) {
  const auto traffic = ParseConntrackOutput(
      "    [DESTROY] tcp      6 src=10.32.1.1 dst=10.40.1.1 sport=20000 dport=443 packets=6 "
      "bytes=600 "
      "src=10.40.1.1 dst=10.32.1.1 sport=443 dport=20000 packets=4 bytes=400 [ASSURED]\n"
      "icmp     1 29 src=10.32.1.1 dst=10.40.1.1 type=8 code=0 id=1 packets=1 bytes=84 [UNREPLIED] "
      "src=10.40.1.1 dst=10.32.1.1 type=0 code=0 id=1 packets=0 bytes=0 mark=0 use=1\n");
  ASSERT_TRUE(traffic.ok()) << traffic.status();
  const uint32_t client = *ParseAddress("10.32.1.1"), server = *ParseAddress("10.40.1.1");
  const Traffic expected = {{{"tcp", client, server, 443}, {6, 4, 600, 400, 1, 0}},
                            {{"icmp", client, server, 0}, {1, 0, 84, 0, 0, 0}}};
  EXPECT_EQ(Difference(expected, *traffic), "");
  EXPECT_FALSE(ParseConntrackOutput("no such line\n").ok());
}

}  // namespace
}  // namespace ctacct
