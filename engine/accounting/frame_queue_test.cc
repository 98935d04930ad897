#include "engine/accounting/frame_queue.h"

#include <cstdint>
#include <random>
#include <string>
#include <thread>

#include "gtest/gtest.h"

namespace ctacct {
namespace {

Frame Datagram(const std::string& bytes, int64_t time_ns) {
  Frame frame;
  frame.kind = FrameKind::kDatagram;
  frame.bytes = static_cast<uint32_t>(bytes.size());
  frame.time_ns = time_ns;
  frame.data = reinterpret_cast<const uint8_t*>(bytes.data());
  return frame;
}

std::string Bytes(const Frame& frame) {
  return std::string(reinterpret_cast<const char*>(frame.data), frame.bytes);
}

TEST(FrameQueueTest, FirstInFirstOut) {
  FrameQueue queue;
  Frame frame;
  EXPECT_TRUE(queue.Empty());
  EXPECT_FALSE(queue.Next(queue.Snapshot(), &frame));
  queue.Push(Datagram("one", 1));
  Frame seal;
  seal.kind = FrameKind::kSeal;
  seal.time_ns = 15;
  seal.number = 7;
  queue.Push(seal);
  EXPECT_FALSE(queue.Next(queue.Snapshot(), &frame));  // Frames appear together.
  queue.Publish();
  const uint64_t snapshot = queue.Snapshot();
  queue.Push(Datagram("", 3));
  queue.Publish();
  ASSERT_TRUE(queue.Next(snapshot, &frame));
  EXPECT_EQ(frame.kind, FrameKind::kDatagram);
  EXPECT_EQ(Bytes(frame), "one");
  EXPECT_EQ(frame.time_ns, 1);
  ASSERT_TRUE(queue.Next(snapshot, &frame));
  EXPECT_EQ(frame.kind, FrameKind::kSeal);
  EXPECT_EQ(frame.time_ns, 15);
  EXPECT_EQ(frame.number, 7u);
  EXPECT_FALSE(queue.Next(snapshot, &frame));
  EXPECT_FALSE(queue.Empty());
  ASSERT_TRUE(queue.Next(queue.Snapshot(), &frame));
  EXPECT_EQ(frame.bytes, 0u);
  EXPECT_FALSE(queue.Empty());  // The consumer may still be at work on it.
  EXPECT_FALSE(queue.Next(queue.Snapshot(), &frame));
  EXPECT_TRUE(queue.Empty());
}

// Sizes around every limit, many times around the ring, one thread.
TEST(FrameQueueTest, FramesOfAllSizesGoAroundTheRing) {
  FrameQueue queue;
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    const uint32_t sizes[] = {0,
                              1,
                              31,
                              32,
                              33,
                              32 << 10,
                              FrameQueue::kDataBytesMax,
                              static_cast<uint32_t>(random() % 5000)};
    const std::string bytes(sizes[random() % 8], static_cast<char>(i));
    queue.Push(Datagram(bytes, i));
    queue.Publish();
    Frame frame;
    const uint64_t snapshot = queue.Snapshot();
    ASSERT_TRUE(queue.Next(snapshot, &frame));
    EXPECT_EQ(frame.time_ns, i);
    ASSERT_EQ(Bytes(frame), bytes);
    ASSERT_FALSE(queue.Next(snapshot, &frame));
  }
}

// A producer that is faster than the consumer waits for room, a consumer without frames for them.
// Run under the thread sanitizer by `./dev check`.
TEST(FrameQueueTest, NothingIsLostBetweenThreads) {
  FrameQueue queue;
  constexpr int kFrames = 20'000;
  std::thread producer([&] {
    std::mt19937 random(2);
    for (int i = 0; i < kFrames; ++i) {
      queue.Push(Datagram(std::string(random() % 3000, static_cast<char>(i)), i));
      if (i % 3 == 0) queue.Publish();
      if (i % 4096 == 0) {
        queue.Publish();
        while (!queue.Empty()) std::this_thread::yield();
      }
    }
    Frame finish;
    finish.kind = FrameKind::kFinish;
    queue.Push(finish);
    queue.Publish();
  });
  std::mt19937 random(2);
  int next = 0;
  for (bool finished = false; !finished;) {
    queue.WaitNotEmpty();
    const uint64_t snapshot = queue.Snapshot();
    Frame frame;
    while (queue.Next(snapshot, &frame)) {
      if (frame.kind == FrameKind::kFinish) {
        finished = true;
        continue;
      }
      ASSERT_EQ(frame.time_ns, next);
      ASSERT_EQ(Bytes(frame), std::string(random() % 3000, static_cast<char>(next)));
      ++next;
    }
  }
  producer.join();
  EXPECT_EQ(next, kFrames);
  EXPECT_TRUE(queue.Empty());
}

}  // namespace
}  // namespace ctacct
