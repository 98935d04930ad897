// Reliable delivery on a real gateway: nothing is lost although the receive buffer is much smaller
// than needed, and the table never fills up because of it.
#include <signal.h>

#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_output.h"
#include "tests/support/engine_test.h"
#include "tests/support/lowered_table_limit.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ReliableTest : public EngineTest {
 protected:
  ReliableTest() : EngineTest("reliable") {}

  void StartEngine(const std::vector<std::string>& flags) {
    EngineTest::StartEngine(
        Joined({{DataPath("engine/engine"), "-src=10.32.0.0/11", "-dst=10.32.0.0/11", "-interval=1",
                 "-output-format=csv", "-reliable", "-output=" + spool()},
                flags}));
  }

  uint64_t Flows() const {
    const auto text = gateway_->Run({"cat", "/proc/sys/net/netfilter/nf_conntrack_count"});
    uint64_t flows = 0;
    EXPECT_TRUE(text.ok() && absl::SimpleAtoi(*text, &flows)) << text.status();
    return flows;
  }

  Traffic Written() const { return ReadCsvFolder(spool()).traffic; }

  // With room for some fifty events a worker.
  void MassDestroyIsExact(const std::vector<std::string>& flags) {
    ASSERT_NO_FATAL_FAILURE(StartEngine(Joined({{"-workers=2", "-receive-buffer=65536"}, flags})));
    const Traffic sent = Play({"--tcp=20000", "--udp=30000", "--open-tcp=2000"});
    FlushConntrack();
    // At once, while most of the ends are not delivered yet.
    StopEngine();
    EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("overrun")));
    EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("reliable delivery")));
    // However long they wait for delivery: several dumps, where the interval is a second.
    EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("end was not reported")));
    EXPECT_EQ(Difference(AllClosed(sent), Written()), "") << engine_->Stderr();
    EXPECT_EQ(Flows(), 0u);
    std::cout << "sent " << Total(sent).ToString() << "\n" << engine_->Stderr();
  }
};

TEST_F(ReliableTest, MassDestroyWithATinyBufferIsExact) { MassDestroyIsExact({}); }

TEST_F(ReliableTest, MassDestroyInLightModeIsExact) { MassDestroyIsExact({"-mode=light"}); }

// The engine is held, so that nothing is read at all: ends wait for it, and none is lost.
TEST_F(ReliableTest, EndsWaitForAnEngineThatIsHeld) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=2", "-receive-buffer=65536"}));
  ASSERT_EQ(kill(engine_->pid(), SIGSTOP), 0);
  const Traffic sent = Play({"--tcp=5000", "--udp=5000"});
  FlushConntrack();
  EXPECT_GT(Flows(), 9000u);  // They are dead, and still in the table.
  ASSERT_EQ(kill(engine_->pid(), SIGCONT), 0);
  StopEngine();
  EXPECT_EQ(Difference(AllClosed(sent), Written()), "") << engine_->Stderr();
  EXPECT_EQ(Flows(), 0u);
}

// The table is nearly full: the mode is left, so that ends that nobody reads do not keep it full,
// and new connections find room. It is taken up again once there is room, and is exact again.
TEST_F(ReliableTest, GivesWayBeforeTheTableIsFull) {
  constexpr uint64_t kFlows = 20000;
  constexpr uint64_t kFlowsMax = 22000;
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=2", "-receive-buffer=65536"}));
  Play({absl::StrCat("--udp=", kFlows)});
  {
    const LoweredTableLimit limit(kFlowsMax);
    ASSERT_NO_FATAL_FAILURE(WaitForEngine("reliable delivery is off for now"));
    // Nobody reads, and yet ended flows do not stay: as many new ones come as the table can hold.
    ASSERT_EQ(kill(engine_->pid(), SIGSTOP), 0);
    FlushConntrack();
    const auto fresh = gateway_->Play({absl::StrCat("--udp=", kFlows)});
    EXPECT_TRUE(fresh.ok()) << "new connections were dropped: " << fresh.status();
    EXPECT_GE(Flows(), kFlows);
    ASSERT_EQ(kill(engine_->pid(), SIGCONT), 0);
    // The events lost meanwhile are logged.
    ASSERT_NO_FATAL_FAILURE(WaitForEngine("netlink overrun"));
    EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("on again")));
  }
  ASSERT_NO_FATAL_FAILURE(WaitForEngine("reliable delivery is on again"));
  FlushConntrack();
  StopEngine();
  EXPECT_THAT(engine_->Stderr(), HasSubstr("1 departures from reliable delivery"));
  std::cout << engine_->Stderr();
}

// As above, without the guard's giving way: proof that the fault is real, and the kernel's limit
// what the test takes it for.
TEST_F(ReliableTest, AHeldEngineCanFillTheTable) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=2", "-receive-buffer=65536"}));
  Play({"--udp=15000"});
  ASSERT_EQ(kill(engine_->pid(), SIGSTOP), 0);
  FlushConntrack();
  EXPECT_GT(Flows(), 14000u);
  {
    const LoweredTableLimit limit(20000);
    EXPECT_FALSE(gateway_->Play({"--udp=15000"}).ok());
    // Nothing that runs: it is the guard's turn.
    ASSERT_EQ(kill(engine_->pid(), SIGCONT), 0);
    ASSERT_TRUE(Eventually([&] { return Flows() <= 10000; }));
    const auto fresh = gateway_->Play({"--udp=5000"});
    EXPECT_TRUE(fresh.ok()) << fresh.status();
  }
  StopEngine();
}

}  // namespace
}  // namespace ctacct
