// Both families at once through a real gateway, with the generator's own count of what it sent as
// the oracle; the rows of CSV, spool files, a recording's replay and PostgreSQL must equal it.
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_output.h"
#include "tests/support/engine_test.h"
#include "tests/support/imported.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class Ipv6Test : public EngineTest {
 protected:
  Ipv6Test() : EngineTest("ipv6") {}
  void SetUp() override { ASSERT_NO_FATAL_FAILURE(BringUp({.ipv6 = true})); }

  std::string recording() const { return folder_ + "/recording.pcap"; }

  // The masks of kGroupFlags, for IPv6 at the end of an address.
  static std::vector<std::string> EngineArgv(const std::vector<std::string>& flags) {
    constexpr char kMask6[] = "ffff:ffff:ffff:ffff:ffff:ffff:ffef:ff00";
    return Joined(
        {{DataPath("engine/engine"), "-include-icmp", "-interval=1",
          std::string("-src-group-mask6=") + kMask6, std::string("-dst-group-mask6=") + kMask6},
         kGroupFlags,
         flags});
  }
  void StartEngine(const std::vector<std::string>& flags) {
    EngineTest::StartEngine(Joined({EngineArgv(flags), {"-output=" + spool()}}));
  }
  Traffic PlayBoth(const std::vector<std::string>& flags) {
    Traffic sent = Play(flags);
    sent += Play(Joined({flags, {"--ipv6"}}));
    return sent;
  }
  // Flows in the kernel's table that nobody has answered.
  uint64_t UnansweredFlows() const {
    uint64_t flows = 0;
    for (const char* family : {"ipv4", "ipv6"}) {
      const auto text = gateway_->Run(
          {"sh", "-c", std::string("conntrack -L -f ") + family + " 2>&1 | grep -c UNREPLIED"});
      uint64_t number = 0;
      EXPECT_TRUE(text.ok() && absl::SimpleAtoi(*text, &number)) << text.status();
      flows += number;
    }
    return flows;
  }
};

TEST_F(Ipv6Test, BothFamiliesAtOnceAndMassDestroy) {
  constexpr uint64_t kTcp = 100'000, kUdp = 200'000, kIcmp = 2'000;
  StartEngine({"-record=" + recording()});
  const Traffic sent = PlayBoth({"--tcp=100000", "--udp=200000", "--icmp=2000"});
  const uint64_t unanswered = UnansweredFlows();
  FlushConntrack();
  StopEngine();
  EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("overrun")));
  const Traffic expected = AllClosed(Group(sent, kGrouped));
  EXPECT_EQ(Difference(expected, ReadCsv(Spooldump(spool())).traffic), "");
  const SpoolRows rows = ReadSpool(spool());
  EXPECT_EQ(Difference(expected, rows.traffic), "");
  EXPECT_EQ(rows.flow_count, 2 * (kTcp + kUdp + kIcmp));
  EXPECT_GT(unanswered, kUdp / 2);
  EXPECT_EQ(rows.unanswered_count, unanswered);
  for (const SpoolHeader& header : rows.headers) {
    EXPECT_EQ(header.completeness, Completeness::kComplete);
    EXPECT_EQ(header.src_mask6[14], 0xff);
    EXPECT_EQ(header.src_mask6[15], 0);
  }

  const auto csv = RunProcessOrError(EngineArgv({"-replay=" + recording()}), kPatience);
  ASSERT_TRUE(csv.ok()) << csv.status();
  EXPECT_EQ(Difference(expected, ReadCsv(*csv).traffic), "");
  const auto only_ipv4 =
      RunProcessOrError(EngineArgv({"-replay=" + recording(), "-src=10.32.0.0/11"}), kPatience);
  ASSERT_TRUE(only_ipv4.ok()) << only_ipv4.status();
  Traffic expected_ipv4 = expected;
  std::erase_if(expected_ipv4, [](const auto& row) { return row.first.protocol.back() == '6'; });
  EXPECT_LT(expected_ipv4.size(), expected.size());
  EXPECT_EQ(Difference(expected_ipv4, ReadCsv(*only_ipv4).traffic), "");

  auto postgres = PrivatePostgres::Start();
  ASSERT_TRUE(postgres.ok()) << postgres.status();
  ASSERT_NO_FATAL_FAILURE(Import(**postgres, spool()));
  EXPECT_EQ(Difference(expected, ImportedTraffic(**postgres)), "");
  const auto flows = (*postgres)->Sql(
      "postgres", "SELECT sum(flow_count) || ' ' || sum(unanswered_count) FROM traffic_total");
  ASSERT_TRUE(flows.ok()) << flows.status();
  EXPECT_EQ(absl::StripSuffix(*flows, "\n"),
            std::to_string(rows.flow_count) + " " + std::to_string(rows.unanswered_count));
}

TEST_F(Ipv6Test, TheKernelsFilterAdmitsTheFamiliesThatAreNamed) {
  StartEngine({"-src=fd00::10.32.0.0/107,192.0.2.0/24", "-workers=2"});
  Play({"--tcp=200", "--udp=200"});
  const Traffic sent = Play({"--tcp=2000", "--udp=2000", "--icmp=100", "--ipv6"});
  FlushConntrack();
  StopEngine();
  EXPECT_EQ(Difference(AllClosed(Group(sent, kGrouped)), ReadSpool(spool()).traffic), "");
}

TEST_F(Ipv6Test, InLightMode) {
  StartEngine({"-mode=light"});
  const Traffic sent = PlayBoth({"--tcp=5000", "--udp=5000", "--open-tcp=100", "--rounds=3"});
  FlushConntrack();
  StopEngine();
  const SpoolRows rows = ReadSpool(spool());
  EXPECT_EQ(Difference(AllClosed(Group(sent, kGrouped)), rows.traffic), "");
  EXPECT_EQ(rows.flow_count, 2u * (5000 + 5000 + 100));
}

TEST_F(Ipv6Test, AKilledEngineResumesWhereItWas) {
  StartEngine({});
  const auto play = StartPlay(
      {"--open-tcp=2000", "--rounds=6", "--round-seconds=1", "--close-open=true", "--ipv6"});
  ASSERT_NE(play, nullptr);
  for (int kill = 0; kill < 2; ++kill) {
    const size_t files = SpoolFilesIn(spool()).size();
    ASSERT_TRUE(Eventually([&] { return SpoolFilesIn(spool()).size() > files; }));
    KillEngine();
    StartEngine({});
  }
  ASSERT_NO_FATAL_FAILURE(WaitForPlay(*play));
  StopEngine();
  EXPECT_THAT(engine_->Stderr(), HasSubstr("resuming after an unclean stop"));
  EXPECT_EQ(Difference(AllClosed(Group(Sent(), kGrouped)), ReadSpool(spool()).traffic), "");
}

class TranslatedIpv6Test : public Ipv6Test {
 protected:
  void SetUp() override { ASSERT_NO_FATAL_FAILURE(BringUp({.nat = true, .ipv6 = true})); }
};

// NAT66, address by address, of both sources and destinations.
TEST_F(TranslatedIpv6Test, FlowsAreTheirOpeners) {
  StartEngine({});
  const Traffic sent = PlayBoth({"--tcp=2000", "--udp=2000", "--icmp=200"});
  FlushConntrack();
  StopEngine();
  EXPECT_EQ(Difference(AllClosed(Group(sent, kGrouped)), ReadSpool(spool()).traffic), "");
}

}  // namespace
}  // namespace ctacct
