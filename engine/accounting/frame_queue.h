// Netlink messages and the marks between them, from the thread that reads dumps (or a capture) to
// the one worker that owns their flows. A bounded ring of bytes; nothing is allocated after the
// start.
//
//   frame = Frame(32) data, padded to 32 bytes; never wrapped: a kSkip frame fills the ring's end
//
// Frames become visible together, by Publish: a worker that looks in between two marks of one
// moment would take newer events before the second. (Only if the ring is full they come in two
// parts.)
//
// Thread safety: Push, Publish and Empty by one producer; Snapshot, Next and WaitNotEmpty by one
// consumer. Memory order: the producer publishes frames by a release store of `written_`, which the
// consumer acquires; the consumer returns their space, and shows all it did with them, by a release
// store of `read_`, which the producer acquires. tests/model/handoff_model_test.cc checks this
// under all interleavings, with atomics and a ring of a model checker.
#ifndef CTACCT_ENGINE_ACCOUNTING_FRAME_QUEUE_H_
#define CTACCT_ENGINE_ACCOUNTING_FRAME_QUEUE_H_

#include <atomic>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

namespace ctacct {

enum class FrameKind : uint32_t {
  kSkip,              // The queue's own.
  kStart,             // Accounting begins.
  kDatagram,          // Netlink messages about flows of this worker, one after the other.
  kOverrun,           // The kernel dropped `number` events before this, after a time in `data`.
  kOverrunElsewhere,  // Likewise; another worker counts them.
  kClockSetBack,      // From here on times are earlier ones.
  kBeginDump,         // `number`: when it was asked for, CLOCK_MONOTONIC; 0 in a replay.
  kEndDump,           // `number`: of kDumpComplete and kDumpSeals; then time_ns is as of kSeal.
  kSeal,              // The interval that ends at time_ns is over.
  kFinish,            // Likewise, and nothing follows.
};

inline constexpr uint64_t kDumpComplete = 1;
inline constexpr uint64_t kDumpSeals = 2;  // It ends the interval.

struct Frame {
  FrameKind kind = FrameKind::kSkip;
  uint32_t bytes = 0;   // Of data.
  int64_t time_ns = 0;  // Since the Unix epoch: when it was read, or an interval's end.
  uint64_t number = 0;
  const uint8_t* data = nullptr;  // In the consumer's hands only, until it asks for the next.
};

// The bytes that both threads touch.
template <size_t kBytes>
class RingMemory {
 public:
  void Write(size_t position, const void* from, size_t bytes) {
    std::memcpy(bytes_.get() + position, from, bytes);
  }
  void Read(size_t position, void* to, size_t bytes) const {
    std::memcpy(to, bytes_.get() + position, bytes);
  }
  const uint8_t* At(size_t position) const { return bytes_.get() + position; }

 private:
  const std::unique_ptr<uint8_t[]> bytes_{new uint8_t[kBytes]};
};

template <size_t kRingBytes, template <typename> class Atomic = std::atomic,
          template <size_t> class Ring = RingMemory>
class BasicFrameQueue {
 public:
  static constexpr size_t kBytes = kRingBytes;
  // Two frames of the largest size fit in any case.
  static constexpr size_t kDataBytesMax = kBytes / 4;

  BasicFrameQueue() = default;

  BasicFrameQueue(const BasicFrameQueue&) = delete;
  BasicFrameQueue& operator=(const BasicFrameQueue&) = delete;

  // Appends a frame with a copy of `frame.bytes` at `frame.data`; waits while the ring is full. It
  // is seen after the next Publish.
  void Push(const Frame& frame) {
    assert(frame.bytes <= kDataBytesMax);
    const uint64_t bytes = Padded(sizeof(Frame) + frame.bytes);
    const uint64_t until_end = kBytes - At(end_);
    if (bytes > until_end) {
      Reserve(until_end);
      Frame skip;
      skip.bytes = static_cast<uint32_t>(until_end - sizeof(Frame));
      Put(skip, until_end);
    }
    Reserve(bytes);
    Put(frame, bytes);
  }
  void Publish() {
    if (written_.load(std::memory_order_relaxed) == end_) return;
    written_.store(end_, std::memory_order_release);
    written_.notify_one();
  }

  // True once the consumer is done with all that was pushed: it has asked for what comes after.
  bool Empty() const { return read_.load(std::memory_order_acquire) == end_; }

  // The end of what has been pushed so far, for Next.
  uint64_t Snapshot() const { return written_.load(std::memory_order_acquire); }

  // True if *frame is the next one before `snapshot`. The one before is done with.
  bool Next(uint64_t snapshot, Frame* frame) {
    for (;;) {
      begin_ += taken_;
      taken_ = 0;
      if (begin_ == snapshot || begin_ - read_.load(std::memory_order_relaxed) >= kReturnBytes) {
        read_.store(begin_, std::memory_order_release);
        read_.notify_one();
      }
      if (begin_ == snapshot) return false;
      ring_.Read(At(begin_), frame, sizeof(*frame));
      frame->data = ring_.At(At(begin_)) + sizeof(*frame);
      taken_ = Padded(sizeof(*frame) + frame->bytes);
      if (frame->kind != FrameKind::kSkip) return true;
    }
  }

  // Blocks until there is something after what Next has given.
  void WaitNotEmpty() const { written_.wait(begin_ + taken_, std::memory_order_acquire); }

 private:
  // Space is returned in pieces of this size: the line of read_ is the other CPU's.
  static constexpr uint64_t kReturnBytes = kBytes / 8;

  static constexpr uint64_t Padded(uint64_t bytes) {
    return (bytes + sizeof(Frame) - 1) / sizeof(Frame) * sizeof(Frame);
  }
  static constexpr uint64_t At(uint64_t position) { return position % kBytes; }

  void Reserve(uint64_t bytes) {
    for (;;) {
      const uint64_t read = read_.load(std::memory_order_acquire);
      if (end_ + bytes - read <= kBytes) return;
      Publish();  // Or the two would wait for each other.
      read_.wait(read, std::memory_order_acquire);
    }
  }
  void Put(const Frame& frame, uint64_t bytes) {
    ring_.Write(At(end_), &frame, sizeof(frame));
    if (frame.kind != FrameKind::kSkip && frame.bytes != 0) {
      ring_.Write(At(end_) + sizeof(frame), frame.data, frame.bytes);
    }
    end_ += bytes;
  }

  Ring<kBytes> ring_;
  // Positions count bytes since the start and never wrap.
  // Guarded by: the producer.
  alignas(64) uint64_t end_ = 0;
  // Guarded by: the consumer.
  alignas(64) uint64_t begin_ = 0;
  uint64_t taken_ = 0;  // Bytes of the frame that the consumer works on.
  // Shared.
  alignas(64) Atomic<uint64_t> written_{0};
  alignas(64) Atomic<uint64_t> read_{0};

  static_assert(sizeof(Frame) == 32);
  static_assert(kBytes % sizeof(Frame) == 0 && kDataBytesMax + sizeof(Frame) <= kBytes / 2);
};

// The largest datagram there is (libpcap's limit) has 256 KiB.
using FrameQueue = BasicFrameQueue<1 << 20>;
static_assert(FrameQueue::kDataBytesMax >= 256 << 10);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_FRAME_QUEUE_H_
