// One worker's thread: joins an event socket and the dispatcher's queue to the worker. The only
// file that knows both sockets and tables.
//
// It drains events in batches, then naps: waking up for each of them would cost more than the
// event.
//
// Order. The kernel made a dump's chunk before it was received. Every event that is older has been
// queued by then, and is taken first: an event may say that a flow which the chunk shows is another
// one by now. So each turn of the loop takes the published frames, then takes and applies all
// queued events, and applies the frames last. (A chunk that is older than those events does no
// harm: see FlowTable.)
//
// Thread safety: Run by one thread; the rest by one other, and as each says.
#ifndef CTACCT_ENGINE_INPUT_EVENT_LOOP_H_
#define CTACCT_ENGINE_INPUT_EVENT_LOOP_H_

#include <sched.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/accounting/frame_queue.h"
#include "engine/accounting/worker.h"
#include "engine/system/unique_fd.h"
#include "netlink/capture_file.h"
#include "netlink/event_socket.h"

namespace ctacct {

class EventLoop {
 public:
  struct Options {
    // The CPU to run on. During a dump, which keeps one CPU busy, any CPU that this process may use
    // is allowed. -1: always any.
    int cpu = -1;
    bool reliable = false;             // See EventSocket::SetReliable.
    int attention_fd = -1;             // An eventfd, written when the other thread should look.
    CaptureWriter* capture = nullptr;  // All that is applied, in its order; nullptr: none.
    std::function<void(const std::string&)> log;
  };
  // `events` may be of an earlier process: then drops that it did not report are reported first.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<EventLoop>> Open(
      Options options, std::unique_ptr<EventSocket> events);

  // Call before Run: the first overrun to be seen began after this time. Without it: after Open.
  void NoteDrained(int64_t drained_ns) { drained_ns_ = drained_ns; }

  // Feeds the worker, which was started, until the dispatcher says kFinish.
  void Run(Worker* worker);

  // A dump is about to be requested, at this time of the wall clock. Any thread.
  void NoteDumpRequested(int64_t requested_ns) { dump_requested_ns_.store(requested_ns); }

  FrameQueue* queue() { return &queue_; }
  // There are frames that should not wait long.
  void Wake();

  // Leaves reliable delivery, at once, or takes it up again when the queue is next drained; if it
  // was asked for. Leaving is like an overrun: what was under way may be lost. Any thread.
  void AllowReliable(bool allowed);
  // After Run: leaves it permanently, without a log line.
  void EndReliable();
  int socket_fd() const { return events_->fd(); }

  // Of any thread; as of the frames that the queue's producer knows to be applied.
  bool needs_resync() const { return needs_resync_.load(std::memory_order_relaxed); }
  size_t flows() const { return flows_.load(std::memory_order_relaxed); }
  // How it waits, as of the end of the last dump.
  struct Waits {
    uint64_t wakeups = 0;
    uint64_t naps = 0;  // Of kNapNs; not those within a dump.
    // The most events found queued at one look, between the last two ends of an interval.
    size_t queued_events_peak = 0;
  };
  Waits waits() const;
  // The share of the receive buffer that `events` fill, approximately.
  double ReceiveBufferShare(size_t events) const;
  // Increases as long as the loop runs, at least once a second.
  uint64_t turns() const { return turns_.load(std::memory_order_relaxed); }
  // The socket failed; the loop continues with frames only.
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  // Why; once failed, or after Run.
  const absl::Status& status() const { return status_; }
  size_t ReceiveBufferBytes() const { return events_->ReceiveBufferBytes(); }

 private:
  EventLoop(Options options, std::unique_ptr<EventSocket> events, UniqueFd wake_fd)
      : options_(std::move(options)),
        events_(std::move(events)),
        wake_fd_(std::move(wake_fd)),
        overrun_(events_->Drops() != events_->DropsReported()),
        drops_seen_(events_->DropsReported()) {}

  // Takes every event that is queued when it is called, and returns their number.
  size_t TakeEvents(Worker* worker);
  void NoteOverrun(Worker* worker);
  // One line a second at most, with what has happened since the last one.
  void LogOverruns();
  void NoteReliableLeft();
  // The queue is drained and every loss is reported.
  void TakeUpReliable(Worker* worker);
  void CallAttention() const;
  void RunOn(const cpu_set_t& cpus);
  void Wait(size_t taken, bool snapshot_running);
  // A dump has begun or ended, if the worker says so.
  void FollowDump(const Worker& worker);
  // To other threads; `interval_ended`: resets the peak.
  void ShowWaits(bool interval_ended);

  const Options options_;
  const std::unique_ptr<EventSocket> events_;
  const UniqueFd wake_fd_;
  FrameQueue queue_;
  // Guarded by: the thread of Run.
  absl::Status status_;  // Read by others once failed_.
  cpu_set_t own_cpu_;
  cpu_set_t all_cpus_;
  bool dump_running_ = false;
  bool overrun_;  // ENOBUFS was seen, and the queue is not drained or the drops not counted yet.
  int64_t drops_counted_ns_ = 0;  // Monotonic: then the kernel has counted what it dropped.
  uint32_t drops_seen_;
  uint64_t unlogged_overruns_ = 0;
  uint64_t unlogged_lost_ = 0;
  int64_t overruns_logged_ns_ = 0;  // Monotonic; 0: never.
  Waits waits_;
  uint64_t seal_ = 0;
  int64_t drained_ns_ = 0;  // Since the epoch: when the queue was last known to be empty.
  // Shared.
  std::atomic<bool> needs_resync_{false};
  std::atomic<int64_t> dump_requested_ns_{0};
  std::atomic<bool> failed_{false};
  std::atomic<size_t> flows_{0};
  std::atomic<uint64_t> wakeups_{0};
  std::atomic<uint64_t> naps_{0};
  std::atomic<size_t> queued_events_peak_{0};
  std::atomic<uint64_t> turns_{0};
  enum class Delivery { kUnreliable, kReliable, kReliableLeft };
  std::mutex delivery_mutex_;
  // Guarded by delivery_mutex_:
  bool reliable_allowed_ = true;
  Delivery delivery_ = Delivery::kUnreliable;
  uint32_t drops_at_leaving_ = 0;  // kReliableLeft: number of drops that were no losses.
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_INPUT_EVENT_LOOP_H_
