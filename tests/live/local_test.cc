// -local=skip on a real gateway: flows that begin or end on the gateway itself are left out; what
// it forwards or translates stays. The generator's count of what it sent is the oracle.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_output.h"
#include "tests/support/engine_test.h"

namespace ctacct {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

class LocalTest : public EngineTest {
 protected:
  LocalTest() : EngineTest("local") {}
  void SetUp() override { ASSERT_NO_FATAL_FAILURE(BringUp({.ipv6 = true})); }

  void StartEngine(const std::vector<std::string>& flags) {
    EngineTest::StartEngine(
        Joined({{DataPath("engine/engine"), "-interval=1", "-output=" + spool(), "-include-icmp"},
                flags}));
  }
  void Ip(const std::vector<std::string>& arguments) {
    const auto done = gateway_->Run(Joined({{"ip"}, arguments}));
    ASSERT_TRUE(done.ok()) << done.status();
  }
  // From the gateway to itself over the loopback: datagrams that nobody answers.
  void SendToItself(const std::string& address, int flows) {
    const auto done = gateway_->Run({"python3", "-c",
                                     absl::StrCat("import socket\n"
                                                  "for port in range(9000, 9000 + ",
                                                  flows,
                                                  "):\n"
                                                  "  s = socket.socket(socket.AF_INET6 if ':' in '",
                                                  address,
                                                  "' else socket.AF_INET, socket.SOCK_DGRAM)\n"
                                                  "  s.sendto(b'x', ('",
                                                  address, "', port))\n")});
    ASSERT_TRUE(done.ok()) << done.status();
  }
  // Conntrack looks at what is local only where a rule asks for it.
  void TrackLocal() {
    const auto done = gateway_->Run(
        {"nft",
         "add table inet own; add chain inet own input { type filter hook input priority "
         "0; }; add rule inet own input ct state new counter"});
    ASSERT_TRUE(done.ok()) << done.status();
  }
};

// The clients' and servers' addresses are behind the gateway; 10.32.0.0/13 has some of its own.
TEST_F(LocalTest, ForwardedFlowsStayAndTheGatewaysOwnGo) {
  ASSERT_NO_FATAL_FAILURE(TrackLocal());
  ASSERT_NO_FATAL_FAILURE(Ip({"address", "add", "192.0.2.1/32", "dev", "lo"}));
  StartEngine({"-local=skip"});
  Traffic sent = Play({"--tcp=500", "--udp=500", "--icmp=50"});
  sent += Play({"--tcp=500", "--udp=500", "--icmp=50", "--ipv6"});
  ASSERT_NO_FATAL_FAILURE(SendToItself("127.0.0.1", 20));
  ASSERT_NO_FATAL_FAILURE(SendToItself("192.0.2.1", 20));
  // One that comes while the engine runs.
  ASSERT_NO_FATAL_FAILURE(Ip({"address", "add", "192.0.2.77/32", "dev", "lo"}));
  ASSERT_NO_FATAL_FAILURE(Ip({"address", "add", "2001:db8::77/128", "dev", "lo"}));
  ASSERT_TRUE(Eventually([&] {
    return SpoolFilesIn(spool()).size() > 2;  // Addresses are followed at once; this is long after.
  }));
  ASSERT_NO_FATAL_FAILURE(SendToItself("192.0.2.77", 20));
  ASSERT_NO_FATAL_FAILURE(SendToItself("2001:db8::77", 20));
  FlushConntrack();
  StopEngine();
  EXPECT_EQ(Difference(AllClosed(sent), ReadSpool(spool()).traffic), "");
  EXPECT_THAT(engine_->Stderr(), ContainsRegex("[1-9][0-9]* of the gateway itself"));
}

TEST_F(LocalTest, WithoutItTheyAreCounted) {
  ASSERT_NO_FATAL_FAILURE(TrackLocal());
  StartEngine({});
  ASSERT_NO_FATAL_FAILURE(SendToItself("127.0.0.1", 20));
  FlushConntrack();
  StopEngine();
  EXPECT_EQ(Total(ReadSpool(spool()).traffic).packets_src, 20u);
  EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("of the gateway itself")));
}

class TranslatedTest : public LocalTest {
 protected:
  void SetUp() override { ASSERT_NO_FATAL_FAILURE(BringUp({.nat = true, .ipv6 = true})); }
};

// Every destination is the gateway's own address, translated to the host that answers; every source
// is translated to addresses of the gateway as well (masquerading).
TEST_F(TranslatedTest, WhatIsTranslatedToAnInnerHostIsForwarded) {
  // The addresses of some servers are the gateway's: with them it is the destination before DNAT.
  const std::vector<std::string> flags = {"--tcp=300", "--udp=300", "--servers=8", "--clients=8"};
  for (int host = 1; host <= 8; ++host) {
    ASSERT_NO_FATAL_FAILURE(
        Ip({"address", "add", absl::StrCat("10.40.0.", host, "/32"), "dev", "lo"}));
    ASSERT_NO_FATAL_FAILURE(
        Ip({"address", "add", absl::StrCat("fd00::10.40.0.", host, "/128"), "dev", "lo"}));
  }
  StartEngine({"-local=skip"});
  Traffic sent = Play(flags);
  sent += Play(Joined({flags, {"--ipv6"}}));
  FlushConntrack();
  StopEngine();
  bool to_the_gateway = false;
  for (const auto& [key, sums] : sent) to_the_gateway |= (key.dst & 0xfffffff8) == 0x0a280000;
  EXPECT_TRUE(to_the_gateway);
  EXPECT_EQ(Difference(AllClosed(sent), ReadSpool(spool()).traffic), "");
}

}  // namespace
}  // namespace ctacct
