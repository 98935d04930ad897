#include "engine/input/event_loop.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <iterator>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "engine/system/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "netlink/test_messages.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using Kind = TestMessage::Kind;

constexpr int64_t kSecond = 1'000'000'000;

// Plays the kernel: what each Receive gives, in order; then the queue is empty.
class ScriptedSocket : public EventSocket {
 public:
  struct Step {
    std::vector<std::string> datagrams = {};
    bool drained = false;
    bool overrun = false;
    uint32_t drops = 0;  // Of the kernel, in all; 0: as before.
    absl::Status error = absl::OkStatus();
  };
  // Together: the queue is not seen empty between them.
  void Add(std::vector<Step> steps) {
    const std::lock_guard lock(mutex_);
    std::move(steps.begin(), steps.end(), std::back_inserter(steps_));
    const uint64_t one = 1;
    ASSERT_EQ(write(ready_fd_.get(), &one, sizeof(one)), 8);
  }
  uint32_t drops_reported() const { return drops_reported_; }

  absl::StatusOr<Batch> Receive() override {
    const std::lock_guard lock(mutex_);
    uint64_t ignored = 0;
    if (steps_.empty()) {
      (void)!read(ready_fd_.get(), &ignored, sizeof(ignored));
      return Batch{.drained = true};
    }
    step_ = std::move(steps_.front());
    steps_.pop_front();
    if (step_.drops != 0) drops_ = step_.drops;
    if (!step_.error.ok()) return step_.error;
    datagrams_.clear();
    for (const std::string& bytes : step_.datagrams) {
      datagrams_.push_back({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    }
    return Batch{step_.datagrams.size(), step_.drained, step_.overrun};
  }
  uint32_t Drops() const override { return drops_; }
  uint32_t DropsReported() const override { return drops_reported_; }
  void NoteDropsReported(uint32_t drops) const override { drops_reported_ = drops; }
  uint32_t SetReliable(bool) const override { return drops_; }
  size_t ReceiveBufferBytes() const override { return 1 << 20; }
  int fd() const override { return ready_fd_.get(); }

 private:
  std::mutex mutex_;
  std::deque<Step> steps_;
  Step step_;
  std::atomic<uint32_t> drops_{0};
  mutable std::atomic<uint32_t> drops_reported_{0};
  const UniqueFd ready_fd_{eventfd(0, EFD_NONBLOCK)};
};

std::string Message(Kind kind, uint32_t id, uint64_t packets) {
  TestMessage message;
  message.kind = kind;
  message.id = id;
  if (kind == Kind::kDestroy || kind == Kind::kDump) {
    message.original = TestCounters{packets, packets * 100};
    message.reply = TestCounters{0, 0};
  }
  if (kind == Kind::kDump) message.sequence = 1;
  return BuildMessage(message);
}

class EventLoopTest : public testing::Test {
 protected:
  EventLoopTest() {
    auto socket = std::make_unique<ScriptedSocket>();
    socket_ = socket.get();
    EventLoop::Options options;
    options.attention_fd = attention_fd_.get();
    options.log = [this](const std::string& line) {
      const std::lock_guard lock(mutex_);
      log_ += line + "\n";
    };
    loop_ = *EventLoop::Open(std::move(options), std::move(socket));
    Worker::Options worker;
    worker.rules.interval_ns = kSecond;
    worker_ = std::make_unique<Worker>(std::move(worker), &handoff_, &ports_);
    worker_->Start(0, /*timestamps_on=*/false);
  }

  void Start() { thread_ = std::thread(&EventLoop::Run, loop_.get(), worker_.get()); }
  void Send(const Frame& frame, const std::string& bytes = "") {
    Frame sized = frame;
    sized.bytes = static_cast<uint32_t>(bytes.size());
    loop_->queue()->Push(sized, reinterpret_cast<const uint8_t*>(bytes.data()));
  }
  void Dump(const std::vector<std::string>& entries, bool ends_interval, int64_t requested_ns) {
    Send({.kind = FrameKind::kBeginDump, .time_ns = kSecond, .requested_ns = requested_ns});
    for (const std::string& entry : entries) Send({.time_ns = kSecond}, entry);
    Send({.kind = FrameKind::kEndDump,
          .whole = true,
          .ends_interval = ends_interval,
          .time_ns = kSecond});
    Deliver();
  }
  void Deliver() {
    loop_->queue()->Publish();
    loop_->Wake();
    while (!loop_->queue()->Empty()) std::this_thread::yield();
  }
  // Ends the thread; the interval ends with it.
  void Finish() {
    Send({.kind = FrameKind::kFinish, .time_ns = kSecond});
    loop_->queue()->Publish();
    loop_->Wake();
    thread_.join();
  }
  // The interval that ends now.
  void ExpectOneGap(GapCause cause, uint64_t events_dropped, Completeness completeness) {
    Finish();
    AccountingTable* const table = handoff_.Take();
    ASSERT_NE(table, nullptr);
    EXPECT_EQ(table->events_dropped, events_dropped);
    ASSERT_EQ(table->gaps.size(), 1u);
    EXPECT_EQ(table->gaps[0].cause, cause);
    EXPECT_EQ(table->gaps[0].completeness, completeness);
  }
  uint64_t PacketsOf(AccountingTable* table) {
    uint64_t packets = 0;
    table->rows.ForEach([&](const auto& row) { packets += row.second.original.packets; });
    return packets;
  }

  std::mutex mutex_;
  std::string log_;  // Guarded by mutex_ until the thread has ended.
  const UniqueFd attention_fd_{eventfd(0, EFD_NONBLOCK)};
  CurrentPortList ports_;
  AccountingHandoff handoff_;
  ScriptedSocket* socket_ = nullptr;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Worker> worker_;
  std::thread thread_;
};

TEST_F(EventLoopTest, EventsAreAccounted) {
  Start();
  socket_->Add({{.datagrams = {Message(Kind::kNew, 1, 0), Message(Kind::kDestroy, 1, 7)}}});
  while (loop_->turns() < 3) std::this_thread::yield();
  Finish();
  AccountingTable* const table = handoff_.Take();
  ASSERT_NE(table, nullptr);
  EXPECT_EQ(PacketsOf(table), 7u);
  EXPECT_EQ(table->completeness, Completeness::kComplete);
  EXPECT_TRUE(loop_->status().ok());
}

// A chunk shows a flow as it was before an event that is still queued: its end. If the chunk were
// applied first and the flow were unknown, it would be taken for older than the engine.
TEST_F(EventLoopTest, EventsThatWaitComeBeforeFramesThatWait) {
  socket_->Add({{.datagrams = {Message(Kind::kNew, 1, 0)}}});
  Send({.kind = FrameKind::kBeginDump, .time_ns = kSecond});
  Send({.time_ns = kSecond}, Message(Kind::kDump, 1, 5));
  Send({.kind = FrameKind::kEndDump, .whole = true, .time_ns = kSecond});
  Start();
  Deliver();
  Finish();
  AccountingTable* const table = handoff_.Take();
  ASSERT_NE(table, nullptr);
  EXPECT_EQ(PacketsOf(table), 5u);
}

// After an overrun the kernel drops events without another error until the queue is empty.
TEST_F(EventLoopTest, AnOverrunIsReportedOnceTheQueueIsDrained) {
  Start();
  socket_->Add(
      {{.overrun = true, .drops = 5}, {.datagrams = {Message(Kind::kNew, 1, 0)}, .drops = 9}});
  while (!loop_->needs_resync()) std::this_thread::yield();
  uint64_t called = 0;
  while (read(attention_fd_.get(), &called, sizeof(called)) != sizeof(called)) {
    std::this_thread::yield();
  }
  EXPECT_EQ(socket_->drops_reported(), 9u);
  // A dump requested before may not show what lives since; one requested afterwards does.
  Dump({}, true, 1);
  EXPECT_TRUE(loop_->needs_resync());
  AccountingTable* table = handoff_.Take();
  ASSERT_NE(table, nullptr);
  EXPECT_EQ(table->events_dropped, 9u);
  EXPECT_EQ(table->completeness, Completeness::kPartial);
  handoff_.GiveBack(table);
  Dump({Message(Kind::kDump, 1, 3)}, false, MonotonicNs());
  EXPECT_FALSE(loop_->needs_resync());
  Finish();
  EXPECT_THAT(log_, HasSubstr("dropped 9 events"));
}

TEST_F(EventLoopTest, AnOverrunThatIsCountedLateIsNoLackOfMemory) {
  Start();
  socket_->Add({{.overrun = true}});
  for (const uint64_t turns = loop_->turns(); loop_->turns() < turns + 3;) loop_->Wake();
  socket_->Add({{.datagrams = {Message(Kind::kNew, 1, 0)}, .drops = 1}});
  while (socket_->drops_reported() != 1) std::this_thread::yield();
  Dump({Message(Kind::kDump, 1, 3)}, false, MonotonicNs());
  ExpectOneGap(GapCause::kOverrun, 1, Completeness::kResynced);
}

// If the kernel has no memory for an event, it counts none.
TEST_F(EventLoopTest, AnErrorWithoutADropIsALackOfMemory) {
  Start();
  socket_->Add({{.overrun = true}});
  while (!loop_->needs_resync()) {
    loop_->Wake();
    std::this_thread::yield();
  }
  Dump({}, false, MonotonicNs());
  ExpectOneGap(GapCause::kAllocation, 0, Completeness::kPartial);
}

// The engine ends before it is known whether the kernel has counted a drop.
TEST_F(EventLoopTest, AnErrorAtTheEndIsAGapOfTheLastInterval) {
  Start();
  socket_->Add({{.overrun = true}});
  for (const uint64_t turns = loop_->turns(); loop_->turns() < turns + 3;) loop_->Wake();
  ExpectOneGap(GapCause::kAllocation, 0, Completeness::kPartial);
}

// Dumps that wait for the worker: one that had been requested before a flow was born need not show
// it.
TEST_F(EventLoopTest, AFlowBornAfterDumpsThatWaitIsNotLost) {
  loop_->NoteDumpRequested(2 * kSecond);  // The second one.
  socket_->Add({{.datagrams = {Message(Kind::kNew, 1, 0)}}});
  for (int i = 0; i < 2; ++i) {
    Send({.kind = FrameKind::kBeginDump, .time_ns = (i + 1) * kSecond});
    Send({.kind = FrameKind::kEndDump, .whole = true});
  }
  loop_->queue()->Publish();
  Start();
  Finish();
  AccountingTable* const table = handoff_.Take();
  ASSERT_NE(table, nullptr);
  EXPECT_EQ(table->completeness, Completeness::kComplete);
  EXPECT_EQ(table->flows, 1u);
}

// Its end was masked.
TEST_F(EventLoopTest, AFlowThatTheLastDumpDoesNotShowIsAGapOfTheLastInterval) {
  Start();
  Dump({Message(Kind::kDump, 1, 3)}, false, 0);
  Dump({}, false, 0);
  ExpectOneGap(GapCause::kUnreported, 0, Completeness::kPartial);
}

TEST_F(EventLoopTest, ManyOverrunsAreALineASecondWithTheirNumber) {
  constexpr uint32_t kOverruns = 200;
  const int64_t begun_ns = MonotonicNs();
  Start();
  for (uint32_t i = 1; i <= kOverruns; ++i) {
    socket_->Add({{.overrun = true, .drops = 3 * i}});
    while (socket_->drops_reported() != 3 * i) std::this_thread::yield();
  }
  Finish();
  const auto seconds = static_cast<size_t>((MonotonicNs() - begun_ns) / kSecond);
  const std::vector<std::string> lines = absl::StrSplit(log_, '\n', absl::SkipEmpty());
  EXPECT_GE(lines.size(), 2u);
  EXPECT_LE(lines.size(), seconds + 2);
  uint64_t events = 0, overruns = 0;
  for (const std::string& line : lines) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    const auto number_before = [&](const char* word) -> uint64_t {
      const auto at = std::find(words.begin(), words.end(), word);
      uint64_t number = 0;
      return at > words.begin() && absl::SimpleAtoi(*(at - 1), &number) ? number : 0;
    };
    events += number_before("events") + number_before("events;");
    overruns += std::max<uint64_t>(1, number_before("overruns;"));
  }
  EXPECT_EQ(events, 3u * kOverruns);
  EXPECT_EQ(overruns, kOverruns);
}

TEST_F(EventLoopTest, ASocketThatFailsIsReportedAndFramesContinue) {
  Start();
  socket_->Add({{.error = absl::UnavailableError("netlink event socket: gone")}});
  while (!loop_->failed()) std::this_thread::yield();
  Dump({}, true, 0);
  AccountingTable* const table = handoff_.Take();
  ASSERT_NE(table, nullptr);
  handoff_.GiveBack(table);
  Finish();
  EXPECT_THAT(std::string(loop_->status().message()), HasSubstr("gone"));
}

}  // namespace
}  // namespace ctacct
