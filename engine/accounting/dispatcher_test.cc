#include "engine/accounting/dispatcher.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "netlink/ctnetlink_parser.h"
#include "netlink/event_filter.h"
#include "netlink/test_messages.h"

namespace ctacct {
namespace {

using Kind = TestMessage::Kind;
using Message = struct NetlinkMessage;

constexpr int64_t kSecond = 1'000'000'000;

class DispatcherTest : public testing::Test {
 protected:
  void Make(size_t workers, IntervalEnd interval_end) {
    queues_.clear();
    std::vector<FrameQueue*> queues;
    for (size_t i = 0; i < workers; ++i) {
      queues_.push_back(std::make_unique<FrameQueue>());
      queues.push_back(queues_.back().get());
    }
    Dispatcher::Options options;
    options.interval_ns = 10 * kSecond;
    options.interval_end = interval_end;
    dispatcher_ = std::make_unique<Dispatcher>(options, queues);
  }
  void Give(const std::string& datagram, int64_t seconds) {
    dispatcher_->OnDatagram(reinterpret_cast<const uint8_t*>(datagram.data()), datagram.size(),
                            seconds * kSecond);
    dispatcher_->Publish();
  }
  static std::string Flow(Kind kind, uint32_t id) {
    TestMessage message;
    message.kind = kind;
    message.id = id;
    message.sequence = kind == Kind::kDump ? 1 : 0;
    return BuildMessage(message);
  }
  static std::string Done() {
    TestMessage message;
    message.kind = Kind::kDone;
    message.sequence = 1;
    return BuildMessage(message);
  }
  // What this worker's queue contains: marks by name with their time in seconds, events by flow id,
  // "!" for a malformed message.
  std::string Told(size_t worker) {
    std::string told;
    Frame frame;
    const uint8_t* data = nullptr;
    FrameQueue& queue = *queues_[worker];
    queue.Take();
    while (queue.Next(&frame, &data)) {
      const std::string seconds = std::to_string(frame.time_ns / kSecond);
      switch (frame.kind) {
        case FrameKind::kStart:
          told += " start" + seconds;
          break;
        case FrameKind::kBeginDump:
          told += " begin" + seconds;
          break;
        case FrameKind::kEndDump:
          told += frame.whole ? " end" : " broken";
          if (frame.ends_interval) told += " seal" + seconds;
          break;
        case FrameKind::kSeal:
          told += " seal" + seconds;
          break;
        case FrameKind::kFinish:
          told += " finish" + seconds;
          break;
        case FrameKind::kClockSetBack:
          told += " back" + seconds;
          break;
        case FrameKind::kSettingsOff:
          told += " off" + std::to_string(frame.began_ns / kSecond) + "-" + seconds;
          break;
        case FrameKind::kOverrunElsewhere:
          told += " lost";
          break;
        case FrameKind::kOverrun:
          told += " lost" + std::to_string(frame.events_dropped);
          break;
        case FrameKind::kDatagram: {
          DatagramCursor cursor(data, frame.bytes);
          Message message;
          while (cursor.Next(&message)) {
            if (IsFlowMessage(message)) told += " " + std::to_string(FlowId(message));
          }
          if (cursor.malformed()) told += " !";
          break;
        }
      }
    }
    return told;
  }

  // The last frame of a kind in a worker's queue.
  Frame Last(size_t worker, FrameKind kind) {
    Frame frame;
    Frame last;
    const uint8_t* data = nullptr;
    queues_[worker]->Take();
    while (queues_[worker]->Next(&frame, &data)) {
      if (frame.kind == kind) last = frame;
    }
    EXPECT_EQ(last.kind, kind);
    return last;
  }

  std::vector<std::unique_ptr<FrameQueue>> queues_;
  std::unique_ptr<Dispatcher> dispatcher_;
};

// Nothing was lost before the previous datagram.
TEST_F(DispatcherTest, AnOverrunBeginsWithWhatWasReadLast) {
  for (const FrameKind kind : {FrameKind::kOverrun, FrameKind::kOverrunElsewhere}) {
    Make(2, IntervalEnd::kByDump);
    const OverrunMessage overrun(77);
    Give(Flow(Kind::kNew, 2), 3);
    Give(std::string(reinterpret_cast<const char*>(overrun.bytes()), 20), 5);
    const Frame frame = Last(kind == FrameKind::kOverrun ? 0 : 1, kind);
    EXPECT_EQ(frame.began_ns, 3 * kSecond);
    EXPECT_EQ(frame.time_ns, 5 * kSecond);
  }
}

// The kernel makes a dump's first datagram when it is asked, however late that is read.
TEST_F(DispatcherTest, ADumpBeginsWhenItIsRequested) {
  Make(1, IntervalEnd::kByDump);
  dispatcher_->NoteDumpRequested(7, 4 * kSecond);
  Give(Flow(Kind::kDump, 1) + Done(), 5);
  EXPECT_EQ(Last(0, FrameKind::kBeginDump).time_ns, 4 * kSecond);
  // The clock was set back meanwhile.
  dispatcher_->NoteDumpRequested(8, 9 * kSecond);
  Give(Flow(Kind::kDump, 1) + Done(), 6);
  EXPECT_EQ(Last(0, FrameKind::kBeginDump).time_ns, 6 * kSecond);
}

TEST_F(DispatcherTest, AnIntervalCoversWhatWasReadBeforeTheClockWasSetBack) {
  Make(1, IntervalEnd::kByPacket);
  Give(Flow(Kind::kNew, 1), 1005);
  Give(Flow(Kind::kNew, 2), 1);
  const Frame frame = Last(0, FrameKind::kSeal);
  EXPECT_EQ(frame.time_ns, 1010 * kSecond);
  EXPECT_EQ(frame.covered_to_ns, 1005 * kSecond);
}

// The counters of living flows are known as of the start of the last dump.
TEST_F(DispatcherTest, TheLastIntervalCoversWhatADumpHasShown) {
  for (const bool dumped : {false, true}) {
    Make(1, IntervalEnd::kByDump);
    Give(Flow(Kind::kNew, 1), 1);
    if (dumped) Give(Flow(Kind::kDump, 1) + Done(), 3);
    Give(Flow(Kind::kDestroy, 1), 5);
    dispatcher_->Finish();
    EXPECT_EQ(Last(0, FrameKind::kFinish).covered_to_ns, (dumped ? 3 : 5) * kSecond);
  }
}

TEST_F(DispatcherTest, AnIntervalEndsWithTheFirstDumpBegunAfterItsBoundary) {
  Make(1, IntervalEnd::kByDump);
  Give(Flow(Kind::kNew, 1), 1);
  Give(Flow(Kind::kDump, 1) + Flow(Kind::kDump, 2), 9);
  EXPECT_TRUE(dispatcher_->dump_running());
  Give(Flow(Kind::kDump, 3) + Done(), 11);
  EXPECT_FALSE(dispatcher_->dump_running());
  EXPECT_EQ(dispatcher_->open_end_ns(), 10 * kSecond);
  Give(Flow(Kind::kDump, 4), 12);
  Give(Done() + Flow(Kind::kDestroy, 4), 13);
  dispatcher_->Finish();
  EXPECT_EQ(Told(0), " start1 1 begin9 1 2 3 end begin12 4 end seal10 4 finish20");
}

TEST_F(DispatcherTest, WithoutDumpsAnIntervalEndsWithTheFirstPacketPastIt) {
  Make(2, IntervalEnd::kByPacket);
  Give(Flow(Kind::kNew, 2), 1);
  Give(Flow(Kind::kDestroy, 2), 10);
  Give(Flow(Kind::kNew, 3), 45);
  dispatcher_->Finish();
  EXPECT_EQ(Told(0), " start1 2 2 seal10 seal20 seal30 seal40 finish50");
  EXPECT_EQ(Told(1), " start1 seal10 seal20 seal30 seal40 3 finish50");
}

// A clock that leaps by years does not make millions of files.
TEST_F(DispatcherTest, SilentIntervalsAreBounded) {
  Make(1, IntervalEnd::kByPacket);
  Give(Flow(Kind::kNew, 1), 1);
  Give(Flow(Kind::kNew, 2), 1'000'000'005);
  dispatcher_->Finish();
  const std::string told = Told(0);
  size_t seals = 0;
  for (size_t at = 0; (at = told.find(" seal", at)) != std::string::npos; ++at) ++seals;
  EXPECT_EQ(seals, 10'001u);
  EXPECT_EQ(told.substr(told.rfind(" seal")), " seal100010 2 finish1000000010");
}

// Each message goes to the flow's owner, in its order; marks go to all.
TEST_F(DispatcherTest, EachFlowHasOneOwner) {
  Make(3, IntervalEnd::kByDump);
  Give(Flow(Kind::kDump, 0) + Flow(Kind::kDump, 1) + Flow(Kind::kDump, 2) + Flow(Kind::kDump, 3) +
           Flow(Kind::kDump, 0xffffffff),
       1);
  Give(Flow(Kind::kDump, 4) + Done(), 2);
  for (uint32_t worker = 0; worker < 3; ++worker) {
    std::string expected = " start1 begin1";
    for (const uint32_t id : {0u, 1u, 2u, 3u, 0xffffffffu, 4u}) {
      if (OwnerOfFlow(id, 3) == worker) expected += " " + std::to_string(id);
    }
    EXPECT_EQ(Told(worker), expected + " end") << worker;
  }
}

TEST_F(DispatcherTest, WhatIsMalformedIsCountedOnce) {
  for (const size_t workers : {1, 2}) {
    Make(workers, IntervalEnd::kByDump);
    // The cut is behind a message whose length is not a multiple of four.
    std::string odd = Flow(Kind::kNew, 1);
    Give(odd + Flow(Kind::kNew, 2).substr(0, 30), 1);
    std::string told;
    for (size_t i = 0; i < workers; ++i) told += Told(i);
    EXPECT_EQ(std::count(told.begin(), told.end(), '!'), 1) << told;
  }
}

TEST_F(DispatcherTest, AnOverrunReachesAllWorkersAndIsCountedOnce) {
  Make(2, IntervalEnd::kByDump);
  const OverrunMessage overrun(77);
  Give(Flow(Kind::kNew, 2) + std::string(reinterpret_cast<const char*>(overrun.bytes()), 20) +
           Flow(Kind::kNew, 4),
       1);
  EXPECT_EQ(Told(0), " start1 2 lost77 4");
  EXPECT_EQ(Told(1), " start1 lost");
}

TEST_F(DispatcherTest, DumpsOfOtherSubsystemsAreIgnored) {
  Make(1, IntervalEnd::kByDump);
  std::string other = NetlinkMessage(0x0200, 2, "rule", 9);  // Another subsystem, NLM_F_MULTI.
  Give(other, 1);
  TestMessage done;
  done.kind = Kind::kDone;
  done.sequence = 9;
  Give(BuildMessage(done), 21);
  EXPECT_EQ(Told(0), " start1");
}

// Another program's, in a capture: with a filter, or of another family. Flows that it does not show
// may live.
TEST_F(DispatcherTest, ADumpOfAPartOfTheTableEndsNothing) {
  constexpr uint16_t kGet = 0x0101;
  constexpr uint16_t kDump = 0x301;
  const std::string ipv4("\x02\0\0\0", 4);
  const std::string ipv6("\x0a\0\0\0", 4);
  const std::string filtered = ipv4 + std::string("\x08\0\x08\0\0\0\0\x01", 8);
  for (const std::string& request : {ipv6, filtered}) {
    Make(1, IntervalEnd::kByDump);
    Give(Flow(Kind::kNew, 1), 1);
    Give(NetlinkMessage(kGet, kDump, request, 1), 11);
    Give(Flow(Kind::kDump, 1) + Done(), 11);
    EXPECT_EQ(Told(0), " start1 1 begin11 1 broken") << request.size();
  }
  Make(1, IntervalEnd::kByDump);
  Give(Flow(Kind::kNew, 1), 1);
  Give(NetlinkMessage(kGet, kDump, ipv4, 1), 11);
  Give(Flow(Kind::kDump, 1) + Done(), 11);
  EXPECT_EQ(Told(0), " start1 1 begin11 1 end seal10");
  // Sequence numbers repeat: each program begins with its own.
  Make(1, IntervalEnd::kByDump);
  Give(NetlinkMessage(kGet, kDump, ipv6, 1), 1);
  Give(Done(), 1);
  Give(NetlinkMessage(kGet, kDump, std::string(4, '\0'), 1), 11);
  Give(Flow(Kind::kDump, 1) + Done(), 11);
  EXPECT_EQ(Told(0), " start1 begin1 broken begin11 1 end seal10");
}

TEST_F(DispatcherTest, ADumpThatTheKernelCutShortIsNotWhole) {
  Make(1, IntervalEnd::kByDump);
  std::string interrupted = Flow(Kind::kDump, 1);
  interrupted[6] |= 0x10;  // NLM_F_DUMP_INTR
  Give(interrupted + Flow(Kind::kDump, 2) + Done(), 1);
  Give(Flow(Kind::kDump, 3) + Done(), 2);
  Give(Flow(Kind::kDump, 3), 3);
  dispatcher_->NoteDumpCut();
  Give(Done(), 4);
  EXPECT_EQ(Told(0), " start1 begin1 1 2 broken begin2 3 end begin3 3 broken");
}

TEST_F(DispatcherTest, OfTwoDumpsAtOnceNeitherIsWhole) {
  Make(1, IntervalEnd::kByDump);
  TestMessage done;
  done.kind = Kind::kDone;
  done.sequence = 9;
  Give(Flow(Kind::kDump, 1), 1);
  Give(BuildMessage(done), 2);
  Give(Flow(Kind::kDump, 2) + Done(), 3);
  Give(Flow(Kind::kDump, 3) + Done(), 4);
  EXPECT_EQ(Told(0), " start1 begin1 1 broken begin3 2 broken begin4 3 end");
}

TEST_F(DispatcherTest, ADumpThatFailsEndsTheInterval) {
  Make(1, IntervalEnd::kByDump);
  Give(Flow(Kind::kDump, 1), 1);
  dispatcher_->OnDumpFailed(5 * kSecond);
  EXPECT_FALSE(dispatcher_->dump_running());
  dispatcher_->OnDumpFailed(11 * kSecond);  // Not even its first datagram came.
  EXPECT_EQ(Told(0), " start1 begin1 1 broken begin11 broken seal10");
}

}  // namespace
}  // namespace ctacct
