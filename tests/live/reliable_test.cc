// Reliable delivery on a real gateway: nothing is lost where the receive buffer is far too small,
// and the table is never filled up for it.
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/csv.h"
#include "engine/rows/protocol_names.h"
#include "engine/system/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/gateway.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kMaxPath[] = "/proc/sys/net/netfilter/nf_conntrack_max";

uint32_t HostOrder(const AddressBytes& bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
}

Traffic ReadCsv(const std::string& csv) {
  Traffic traffic;
  for (absl::string_view line : absl::StrSplit(csv, '\n', absl::SkipEmpty())) {
    TrafficRow row;
    bool has_open = false;
    const absl::Status status = ParseCsvLine(line, &row, &has_open);
    EXPECT_TRUE(status.ok()) << status;
    TrafficTotals& sums = traffic[{std::string(ProtocolName(row.protocol)), HostOrder(row.src),
                                   HostOrder(row.dst), row.port}];
    sums.packets_src += row.packets_src;
    sums.packets_dst += row.packets_dst;
    sums.bytes_src += row.bytes_src;
    sums.bytes_dst += row.bytes_dst;
    sums.connection_count += row.connection_count;
  }
  return traffic;
}

Traffic AllClosed(Traffic traffic) {
  for (auto& [key, sums] : traffic) {
    sums.connection_count += sums.open_connections;
    sums.open_connections = 0;
  }
  return traffic;
}

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

class ReliableTest : public testing::Test {
 protected:
  void SetUp() override {
    RequireRootOrSkip();
    if (IsSkipped() || HasFatalFailure()) return;
    std::string folder = "/tmp/ctacct-reliable.XXXXXX";
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    auto gateway = Gateway::Up();
    ASSERT_TRUE(gateway.ok()) << gateway.status();
    gateway_ = *std::move(gateway);
  }
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }

  void StartEngine(const std::vector<std::string>& flags) {
    std::vector<std::string> argv = {
        DataPath("engine/engine"), "-src=10.32.0.0/11", "-dst=10.32.0.0/11", "-interval=1",
        "-output-format=csv",      "-reliable",         "-output=" + folder_};
    argv.insert(argv.end(), flags.begin(), flags.end());
    auto engine = gateway_->Start(argv);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
    const absl::Status started = engine_->WaitForOutput("accounting live", absl::Seconds(10));
    ASSERT_TRUE(started.ok()) << started;
  }

  void StopEngine() {
    ASSERT_TRUE(engine_->Signal(SIGTERM).ok());
    const auto exit = engine_->Wait(absl::Seconds(60));
    ASSERT_TRUE(exit.ok()) << exit.status();
    EXPECT_TRUE(exit->ok()) << exit->ToString() << engine_->Stderr();
  }

  uint64_t Flows() const {
    const auto text = gateway_->Run({"cat", "/proc/sys/net/netfilter/nf_conntrack_count"});
    uint64_t flows = 0;
    EXPECT_TRUE(text.ok() && absl::SimpleAtoi(*text, &flows)) << text.status();
    return flows;
  }

  Traffic Rows() const {
    std::string csv;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      std::ifstream file(entry.path());
      std::ostringstream text;
      text << file.rdbuf();
      csv += text.str();
    }
    return ReadCsv(csv);
  }

  // With room for some fifty events a worker.
  void MassDestroyIsExact(const std::vector<std::string>& flags) {
    std::vector<std::string> all = {"-workers=2", "-receive-buffer=65536"};
    all.insert(all.end(), flags.begin(), flags.end());
    ASSERT_NO_FATAL_FAILURE(StartEngine(all));
    const auto sent = gateway_->Play({"--tcp=20000", "--udp=30000", "--open-tcp=2000"});
    ASSERT_TRUE(sent.ok()) << sent.status();
    ASSERT_TRUE(gateway_->FlushConntrack().ok());
    // At once, while most of the ends are not delivered yet.
    StopEngine();
    EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("overrun")));
    EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("reliable delivery")));
    EXPECT_EQ(Difference(AllClosed(*sent), Rows()), "") << engine_->Stderr();
    EXPECT_EQ(Flows(), 0u);
    std::cout << "sent " << Total(*sent).ToString() << "\n" << engine_->Stderr();
  }

  std::string folder_;
  std::unique_ptr<Gateway> gateway_;
  std::unique_ptr<Subprocess> engine_;
};

TEST_F(ReliableTest, MassDestroyWithATinyBufferIsExact) { MassDestroyIsExact({}); }

TEST_F(ReliableTest, MassDestroyInLightModeIsExact) { MassDestroyIsExact({"-mode=light"}); }

// The engine is held, so that nothing is read at all: ends wait for it, and none is lost.
TEST_F(ReliableTest, EndsWaitForAnEngineThatIsHeld) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=2", "-receive-buffer=65536"}));
  ASSERT_EQ(kill(engine_->pid(), SIGSTOP), 0);
  const auto sent = gateway_->Play({"--tcp=5000", "--udp=5000"});
  ASSERT_TRUE(sent.ok()) << sent.status();
  ASSERT_TRUE(gateway_->FlushConntrack().ok());
  EXPECT_GT(Flows(), 9000u);  // They are dead, and still in the table.
  ASSERT_EQ(kill(engine_->pid(), SIGCONT), 0);
  StopEngine();
  EXPECT_EQ(Difference(AllClosed(*sent), Rows()), "") << engine_->Stderr();
  EXPECT_EQ(Flows(), 0u);
}

// The table is nearly full: the mode is left, so that ends that nobody reads do not keep it full,
// and new connections find room. It is taken up again once there is room, and is exact again.
TEST_F(ReliableTest, GivesWayBeforeTheTableIsFull) {
  constexpr uint64_t kFlows = 20000;
  constexpr uint64_t kFlowsMax = 22000;
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=2", "-receive-buffer=65536"}));
  ASSERT_TRUE(gateway_->Play({absl::StrCat("--udp=", kFlows)}).ok());
  {
    const LoweredTableLimit limit(kFlowsMax);
    const absl::Status off =
        engine_->WaitForOutput("reliable delivery is off for now", absl::Seconds(10));
    ASSERT_TRUE(off.ok()) << off;
    // Nobody reads, and yet the dead do not stay: as many new ones as the table can hold.
    ASSERT_EQ(kill(engine_->pid(), SIGSTOP), 0);
    ASSERT_TRUE(gateway_->FlushConntrack().ok());
    const auto fresh = gateway_->Play({absl::StrCat("--udp=", kFlows)});
    EXPECT_TRUE(fresh.ok()) << "new connections were dropped: " << fresh.status();
    EXPECT_GE(Flows(), kFlows);
    ASSERT_EQ(kill(engine_->pid(), SIGCONT), 0);
    // What that costs is told.
    const absl::Status told = engine_->WaitForOutput("netlink overrun", absl::Seconds(10));
    EXPECT_TRUE(told.ok()) << told;
    EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("on again")));
  }
  const absl::Status on =
      engine_->WaitForOutput("reliable delivery is on again", absl::Seconds(10));
  ASSERT_TRUE(on.ok()) << on;
  ASSERT_TRUE(gateway_->FlushConntrack().ok());
  StopEngine();
  EXPECT_THAT(engine_->Stderr(), HasSubstr("1 departures from reliable delivery"));
  std::cout << engine_->Stderr();
}

// As above, without the guard's giving way: proof that the fault is real, and the kernel's limit
// what the test takes it for.
TEST_F(ReliableTest, AHeldEngineCanFillTheTable) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-workers=2", "-receive-buffer=65536"}));
  ASSERT_TRUE(gateway_->Play({"--udp=15000"}).ok());
  ASSERT_EQ(kill(engine_->pid(), SIGSTOP), 0);
  ASSERT_TRUE(gateway_->FlushConntrack().ok());
  EXPECT_GT(Flows(), 14000u);
  {
    const LoweredTableLimit limit(20000);
    EXPECT_FALSE(gateway_->Play({"--udp=15000"}).ok());
    // Nothing that runs: it is the guard's turn.
    ASSERT_EQ(kill(engine_->pid(), SIGCONT), 0);
    while (Flows() > 10000) absl::SleepFor(absl::Milliseconds(10));
    const auto fresh = gateway_->Play({"--udp=5000"});
    EXPECT_TRUE(fresh.ok()) << fresh.status();
  }
  StopEngine();
}

}  // namespace
}  // namespace ctacct
