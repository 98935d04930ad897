// What a reading thread passes to one worker: datagrams, and marks between them that say where
// dumps and intervals begin and end. Worker::OnFrame is the only reader of this language.
//
// Frames are published in batches, and taken in batches: the producer waits for the lock once in
// kBatchBytes, not for each frame. No live event comes this way, only dumps (a replay sends all).
//
// Thread safety: Push, Publish and Empty by one producer; the rest by one consumer.
// Invariants: frames come in order and once; what is published together is taken together; at most
// kBytesMax wait, or one batch.
#ifndef CTACCT_ENGINE_ACCOUNTING_FRAME_QUEUE_H_
#define CTACCT_ENGINE_ACCOUNTING_FRAME_QUEUE_H_

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <vector>

namespace ctacct {

enum class FrameKind : uint8_t {
  kStart,             // Accounting begins.
  kDatagram,          // Netlink messages about flows of this worker, one after the other.
  kOverrun,           // The kernel dropped events before this, and after `began_ns`.
  kOverrunElsewhere,  // The same overrun; another worker counts its events.
  kSettingsOff,       // Since `began_ns` the kernel did not count or report everything.
  kClockSetBack,      // From here on times are earlier than before.
  kBeginDump,
  kEndDump,
  kSeal,    // The interval that ends at `time_ns` is over.
  kFinish,  // As kSeal, and nothing follows.
};

struct Frame {
  FrameKind kind = FrameKind::kDatagram;
  bool timestamps_on = false;  // kStart: flows that start from now on have start times.
  // kEndDump:
  bool whole : 1 = false;          // Without an error, and not cut short.
  bool ipv4_only : 1 = false;      // Of the table that is what was asked for.
  bool of_part : 1 = false;        // The same: it says nothing about what it does not show.
  bool ends_interval : 1 = false;  // Also for kSeal.
  uint32_t bytes = 0;              // kDatagram: of the messages.
  int64_t time_ns = 0;             // Since the Unix epoch: read, asked for, or an interval's end.
  int64_t began_ns = 0;            // kOverrun..., kSettingsOff: since the Unix epoch.
  int64_t requested_ns = 0;        // kBeginDump: CLOCK_MONOTONIC; 0 in a replay.
  int64_t covered_to_ns = 0;       // Where an interval ends: it was observed up to then.
  uint64_t events_dropped = 0;     // kOverrun; 0: the kernel could not allocate, and counted none.
};

// 10,000 silent intervals must fit into a queue.
static_assert(sizeof(Frame) == 48);

class FrameQueue {
 public:
  // 16 chunks of a dump.
  static constexpr size_t kBytesMax = 512 << 10;
  static constexpr size_t kBatchBytes = 64 << 10;

  FrameQueue() = default;
  FrameQueue(const FrameQueue&) = delete;
  FrameQueue& operator=(const FrameQueue&) = delete;

  // Appends a frame with a copy of `frame.bytes` at `data`. It can be taken after the next Publish,
  // which a full batch does itself.
  void Push(const Frame& frame, const uint8_t* data = nullptr) {
    Append(&frame, sizeof(frame));
    if (frame.bytes != 0) Append(data, frame.bytes);
    if (batch_.size() >= kBatchBytes) Publish();
  }
  // Waits while the queue is full.
  void Publish() {
    if (batch_.empty()) return;
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] {
      return published_.empty() || published_.size() + batch_.size() <= kBytesMax;
    });
    if (published_.empty()) {
      published_.swap(batch_);
    } else {
      // Not insert(), of which g++ 14 says that it writes out of bounds.
      const size_t bytes = published_.size();
      published_.resize(bytes + batch_.size());
      std::memcpy(published_.data() + bytes, batch_.data(), batch_.size());
      batch_.clear();
    }
    changed_.notify_one();
  }
  // True once the consumer is done with all that was pushed: Next has said that there is no more.
  bool Empty() const {
    const std::lock_guard lock(mutex_);
    return batch_.empty() && published_.empty() && !taken_in_use_;
  }

  // Something waits to be taken.
  bool Ready() const {
    const std::lock_guard lock(mutex_);
    return !published_.empty();
  }
  void WaitReady() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !published_.empty(); });
  }
  // After Next was false: gives Next all that is published now.
  void Take() {
    const std::lock_guard lock(mutex_);
    taken_.swap(published_);
    taken_in_use_ = !taken_.empty();
    changed_.notify_one();
  }
  // False: there is no more, and what was given is done with. `*data` is valid until then.
  bool Next(Frame* frame, const uint8_t** data) {
    if (next_ == taken_.size()) {
      taken_.clear();
      next_ = 0;
      const std::lock_guard lock(mutex_);
      taken_in_use_ = false;
      return false;
    }
    std::memcpy(frame, taken_.data() + next_, sizeof(*frame));
    *data = taken_.data() + next_ + sizeof(*frame);
    next_ += sizeof(*frame) + Padded(frame->bytes);
    return true;
  }

 private:
  // Data of netlink begins where its structures may.
  static constexpr size_t Padded(size_t bytes) {
    return (bytes + alignof(Frame) - 1) / alignof(Frame) * alignof(Frame);
  }
  void Append(const void* from, size_t bytes) {
    const auto* const begin = static_cast<const uint8_t*>(from);
    batch_.insert(batch_.end(), begin, begin + bytes);
    batch_.resize(Padded(batch_.size()));
  }

  std::vector<uint8_t> batch_;  // The producer's.
  std::vector<uint8_t> taken_;  // The consumer's.
  size_t next_ = 0;             // The consumer's: in taken_.
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_:
  std::vector<uint8_t> published_;
  bool taken_in_use_ = false;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_FRAME_QUEUE_H_
