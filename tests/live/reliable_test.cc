// Reliable delivery on a real gateway: nothing is lost where the receive buffer is far too small,
// and the table is never filled up for it.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/system/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_output.h"
#include "tests/support/engine_test.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kMaxPath[] = "/proc/sys/net/netfilter/nf_conntrack_max";

// The most flows of the whole machine, lower than it was while this lives. A process of its own
// puts it back, whatever becomes of the test.
class LoweredTableLimit {
 public:
  explicit LoweredTableLimit(uint64_t flows) {
    std::string old;
    std::ifstream(kMaxPath) >> old;
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    alive_ = UniqueFd(ends[1]);
    keeper_ = fork();
    if (keeper_ == 0) {
      // Not of the test's group, or it would go with it.
      setsid();
      signal(SIGTERM, SIG_IGN);
      signal(SIGINT, SIG_IGN);
      close(ends[1]);
      char byte = 0;
      [[maybe_unused]] ssize_t ignored = read(ends[0], &byte, 1);
      const int fd = open(kMaxPath, O_WRONLY | O_CLOEXEC);
      ignored = write(fd, old.data(), old.size());
      _exit(0);
    }
    close(ends[0]);
    std::ofstream(kMaxPath) << flows << std::endl;
  }
  ~LoweredTableLimit() {
    alive_ = UniqueFd();
    waitpid(keeper_, nullptr, 0);
  }

 private:
  UniqueFd alive_;
  pid_t keeper_ = -1;
};

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
    // Nobody reads, and yet the dead do not stay: as many new ones as the table can hold.
    ASSERT_EQ(kill(engine_->pid(), SIGSTOP), 0);
    FlushConntrack();
    const auto fresh = gateway_->Play({absl::StrCat("--udp=", kFlows)});
    EXPECT_TRUE(fresh.ok()) << "new connections were dropped: " << fresh.status();
    EXPECT_GE(Flows(), kFlows);
    ASSERT_EQ(kill(engine_->pid(), SIGCONT), 0);
    // What that costs is told.
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
