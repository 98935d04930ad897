#include "engine/accounting/frame_queue.h"

#include <cstdint>
#include <random>
#include <string>
#include <thread>

#include "gtest/gtest.h"

namespace ctacct {
namespace {

void PushDatagram(const std::string& bytes, int64_t time_ns, FrameQueue* queue) {
  Frame frame;
  frame.bytes = static_cast<uint32_t>(bytes.size());
  frame.time_ns = time_ns;
  queue->Push(frame, reinterpret_cast<const uint8_t*>(bytes.data()));
}

std::string Bytes(const Frame& frame, const uint8_t* data) {
  return std::string(reinterpret_cast<const char*>(data), frame.bytes);
}

TEST(FrameQueueTest, FirstInFirstOut) {
  FrameQueue queue;
  Frame frame;
  const uint8_t* data = nullptr;
  EXPECT_TRUE(queue.Empty());
  EXPECT_FALSE(queue.Ready());
  queue.Take();
  EXPECT_FALSE(queue.Next(&frame, &data));
  PushDatagram("one", 1, &queue);
  queue.Push({.kind = FrameKind::kOverrun, .time_ns = 15, .events_dropped = 7});
  EXPECT_FALSE(queue.Ready());  // Frames appear together.
  EXPECT_FALSE(queue.Empty());
  queue.Publish();
  EXPECT_TRUE(queue.Ready());
  queue.Take();
  PushDatagram("", 3, &queue);
  queue.Publish();
  ASSERT_TRUE(queue.Next(&frame, &data));
  EXPECT_EQ(frame.kind, FrameKind::kDatagram);
  EXPECT_EQ(Bytes(frame, data), "one");
  EXPECT_EQ(frame.time_ns, 1);
  ASSERT_TRUE(queue.Next(&frame, &data));
  EXPECT_EQ(frame.kind, FrameKind::kOverrun);
  EXPECT_EQ(frame.time_ns, 15);
  EXPECT_EQ(frame.events_dropped, 7u);
  EXPECT_FALSE(queue.Next(&frame, &data));  // Published after Take.
  EXPECT_FALSE(queue.Empty());
  queue.Take();
  ASSERT_TRUE(queue.Next(&frame, &data));
  EXPECT_EQ(frame.bytes, 0u);
  EXPECT_FALSE(queue.Empty());  // The consumer may still be at work on it.
  EXPECT_FALSE(queue.Next(&frame, &data));
  EXPECT_TRUE(queue.Empty());
}

TEST(FrameQueueTest, DataOfAnySizeIsAlignedAndWhole) {
  FrameQueue queue;
  std::mt19937 random(1);
  for (int i = 0; i < 500; ++i) {
    const size_t sizes[] = {0, 1, 7, 8, 9, 32 << 10, 256 << 10, random() % 5000};
    const std::string bytes(sizes[random() % 8], static_cast<char>(i));
    PushDatagram(bytes, i, &queue);
    queue.Publish();
    queue.Take();
    Frame frame;
    const uint8_t* data = nullptr;
    ASSERT_TRUE(queue.Next(&frame, &data));
    EXPECT_EQ(frame.time_ns, i);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % alignof(Frame), 0u);
    ASSERT_EQ(Bytes(frame, data), bytes);
    ASSERT_FALSE(queue.Next(&frame, &data));
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
      PushDatagram(std::string(random() % 3000, static_cast<char>(i)), i, &queue);
      if (i % 3 == 0) queue.Publish();
      if (i % 4096 == 0) {
        queue.Publish();
        while (!queue.Empty()) std::this_thread::yield();
      }
    }
    queue.Push({.kind = FrameKind::kFinish});
    queue.Publish();
  });
  std::mt19937 random(2);
  int next = 0;
  for (bool finished = false; !finished;) {
    queue.WaitReady();
    queue.Take();
    Frame frame;
    const uint8_t* data = nullptr;
    while (queue.Next(&frame, &data)) {
      if (frame.kind == FrameKind::kFinish) {
        finished = true;
        continue;
      }
      ASSERT_EQ(frame.time_ns, next);
      ASSERT_EQ(Bytes(frame, data), std::string(random() % 3000, static_cast<char>(next)));
      ++next;
    }
  }
  producer.join();
  EXPECT_EQ(next, kFrames);
  EXPECT_TRUE(queue.Empty());
}

}  // namespace
}  // namespace ctacct
