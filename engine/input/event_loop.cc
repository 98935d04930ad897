#include "engine/input/event_loop.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/system/clock.h"
#include "netlink/ctnetlink_parser.h"

namespace ctacct {
namespace {

constexpr long kNanosPerMilli = 1'000'000;

// Of the receive buffer; measured on kernel 6.18.
constexpr size_t kQueuedEventBytes = 1280;
// A queue can be drained of all it holds in a bounded number of batches, however fast it fills
// again.
constexpr size_t kQueuedEventBytesMin = 512;
// Bounds the delay of what is read, and of a close that older kernels do not time themselves.
constexpr long kNapNs = 5 * kNanosPerMilli;
// A dump's chunks come one after the other: the kernel makes about 450 entries of 250 bytes in a
// millisecond, so the queue holds twice what comes meanwhile.
constexpr long kDumpNapNs = 3 * kNanosPerMilli;
// Naps only while a nap's events fill a small part of the receive buffer: an eighth leaves seven
// eighths for what a burst brings on top.
constexpr size_t kNapBufferShare = 8;
// An allocation failure in the kernel (ENOBUFS) does not wake a poll.
constexpr int kPollMillis = 1000;
// The kernel says ENOBUFS before it counts the event (netlink_overrun() in
// net/netlink/af_netlink.c), and may be interrupted in between, a virtual machine for long. If
// nothing was counted by then, it had no memory for an event.
constexpr int64_t kDropsCountedNs = kNanosPerSecond;
// In a storm the journal would otherwise be full of them.
constexpr int64_t kOverrunLogPeriodNs = kNanosPerSecond;

void Nap(long nanoseconds) {
  const timespec nap = {0, nanoseconds};
  nanosleep(&nap, nullptr);
}

}  // namespace

absl::StatusOr<std::unique_ptr<EventLoop>> EventLoop::Open(Options options,
                                                           std::unique_ptr<EventSocket> events) {
  const int64_t subscribed_ns = WallClockNs();
  UniqueFd wake_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_fd.valid()) {
    return absl::ResourceExhaustedError(absl::StrCat("eventfd: ", strerror(errno)));
  }
  auto loop = std::unique_ptr<EventLoop>(
      new EventLoop(std::move(options), std::move(events), std::move(wake_fd)));
  loop->drained_ns_ = subscribed_ns;
  return loop;
}

void EventLoop::Run(Worker* worker) {
  CPU_ZERO(&own_cpu_);
  CPU_ZERO(&all_cpus_);
  if (options_.cpu >= 0) CPU_SET(static_cast<size_t>(options_.cpu), &own_cpu_);
  sched_getaffinity(0, sizeof(all_cpus_), &all_cpus_);
  RunOn(own_cpu_);
  if (!overrun_) TakeUpReliable(worker);
  for (;;) {
    turns_.store(turns() + 1, std::memory_order_relaxed);
    queue_.Take();
    const size_t taken = TakeEvents(worker);
    LogOverruns();
    waits_.queued_events_peak = std::max(waits_.queued_events_peak, taken);
    Frame frame;
    const uint8_t* data = nullptr;
    while (queue_.Next(&frame, &data)) {
      if (frame.bytes != 0 && options_.capture != nullptr) {
        options_.capture->Write(data, frame.bytes, frame.time_ns);
      }
      // It belongs into the last interval.
      if (frame.kind == FrameKind::kFinish && std::exchange(overrun_, false)) NoteOverrun(worker);
      if (!worker->OnFrame(frame, data)) {
        overruns_logged_ns_ = 0;
        LogOverruns();
        return;
      }
      FollowDump(*worker);
    }
    worker->ApplyPending();
    const bool more = worker->SnapshotSome() || worker->SweepSome();
    if (!more && !queue_.Ready()) Wait(taken, worker->snapshot_running());
  }
}

void EventLoop::FollowDump(const Worker& worker) {
  if (worker.dump_running() == dump_running_) return;
  dump_running_ = worker.dump_running();
  RunOn(dump_running_ ? all_cpus_ : own_cpu_);
  if (dump_running_) return;
  flows_.store(worker.flows(), std::memory_order_relaxed);
  needs_resync_.store(worker.needs_resync(), std::memory_order_relaxed);
  const bool interval_ended = std::exchange(seal_, worker.seal()) != worker.seal();
  ShowWaits(interval_ended);
}

size_t EventLoop::TakeEvents(Worker* worker) {
  if (!status_.ok()) return 0;
  const size_t batches_max =
      events_->ReceiveBufferBytes() / (EventSocket::kBatchDatagrams * kQueuedEventBytesMin) + 1;
  NoteReliableLeft();
  size_t taken = 0;
  for (size_t i = 0; i < batches_max; ++i) {
    const absl::StatusOr<EventSocket::Batch> batch = events_->Receive();
    if (!batch.ok()) {
      status_ = batch.status();
      failed_.store(true, std::memory_order_release);
      CallAttention();
      break;
    }
    const int64_t now_ns = WallClockNs();
    // After the events were received: what was born after a dump passed its place comes with it.
    worker->NoteDumpRequested(dump_requested_ns_.load());
    if (now_ns < drained_ns_) worker->NoteClockSetBack(now_ns);
    for (size_t d = 0; d < batch->datagrams; ++d) {
      const Datagram& datagram = events_->at(d);
      if (options_.capture != nullptr) {
        options_.capture->Write(datagram.data, datagram.bytes, now_ns);
      }
      worker->OnDatagram(datagram.data, datagram.bytes, now_ns);
    }
    taken += batch->datagrams;
    if (batch->overrun && !std::exchange(overrun_, true)) {
      drops_counted_ns_ = MonotonicNs() + kDropsCountedNs;
      worker->OnOverrunBegins(drained_ns_);
    }
    if (!batch->drained) continue;
    // Only now: until the queue was empty the kernel kept dropping.
    if (overrun_ && (events_->Drops() != drops_seen_ || MonotonicNs() >= drops_counted_ns_)) {
      overrun_ = false;
      NoteOverrun(worker);
    }
    if (overrun_) break;
    drained_ns_ = now_ns;
    TakeUpReliable(worker);
    break;
  }
  return taken;
}

void EventLoop::NoteOverrun(Worker* worker) {
  const uint32_t drops = events_->Drops();
  const uint32_t lost = drops - drops_seen_;
  drops_seen_ = drops;
  events_->NoteDropsReported(drops);
  if (options_.capture != nullptr) {
    const OverrunMessage message(lost);
    options_.capture->Write(message.bytes(), sizeof(message), WallClockNs());
  }
  worker->OnOverrun(lost, drained_ns_, WallClockNs(), MonotonicNs());
  needs_resync_.store(true, std::memory_order_relaxed);
  CallAttention();
  ++unlogged_overruns_;
  unlogged_lost_ += lost;
  LogOverruns();
}

void EventLoop::LogOverruns() {
  if (unlogged_overruns_ == 0) return;
  const int64_t now_ns = MonotonicNs();
  if (overruns_logged_ns_ != 0 && now_ns - overruns_logged_ns_ < kOverrunLogPeriodNs) return;
  overruns_logged_ns_ = now_ns;
  const std::string times =
      unlogged_overruns_ == 1 ? "" : absl::StrCat(" in ", unlogged_overruns_, " overruns");
  options_.log(absl::StrCat("netlink overrun: the kernel dropped ", unlogged_lost_, " events",
                            times,
                            "; the next dump corrects the totals of living flows. Remedy: "
                            "a larger -receive-buffer (",
                            events_->ReceiveBufferBytes(), " bytes granted to this worker)"));
  unlogged_overruns_ = 0;
  unlogged_lost_ = 0;
}

void EventLoop::AllowReliable(bool allowed) {
  if (!options_.reliable) return;
  {
    const std::lock_guard lock(delivery_mutex_);
    reliable_allowed_ = allowed;
    if (allowed || delivery_ != Delivery::kReliable) return;
    drops_at_leaving_ = events_->SetReliable(false);
    delivery_ = Delivery::kReliableLeft;
  }
  Wake();
}

void EventLoop::NoteReliableLeft() {
  if (!options_.reliable) return;
  const std::lock_guard lock(delivery_mutex_);
  if (delivery_ != Delivery::kReliableLeft) return;
  delivery_ = Delivery::kUnreliable;
  drops_seen_ = drops_at_leaving_;
  overrun_ = true;
}

void EventLoop::TakeUpReliable(Worker* worker) {
  if (!options_.reliable) return;
  {
    const std::lock_guard lock(delivery_mutex_);
    if (!reliable_allowed_ || delivery_ != Delivery::kUnreliable) return;
    events_->SetReliable(true);
    delivery_ = Delivery::kReliable;
  }
  // Lost since the queue was drained; or, a few of them, only late.
  if (events_->Drops() != drops_seen_) NoteOverrun(worker);
}

void EventLoop::EndReliable() {
  if (options_.reliable) events_->NoteDropsReported(events_->SetReliable(false));
}

void EventLoop::ShowWaits(bool interval_ended) {
  wakeups_.store(waits_.wakeups, std::memory_order_relaxed);
  naps_.store(waits_.naps, std::memory_order_relaxed);
  if (!interval_ended) return;
  queued_events_peak_.store(waits_.queued_events_peak, std::memory_order_relaxed);
  waits_.queued_events_peak = 0;
}

EventLoop::Waits EventLoop::waits() const {
  Waits waits;
  waits.wakeups = wakeups_.load(std::memory_order_relaxed);
  waits.naps = naps_.load(std::memory_order_relaxed);
  waits.queued_events_peak = queued_events_peak_.load(std::memory_order_relaxed);
  return waits;
}

double EventLoop::ReceiveBufferShare(size_t events) const {
  return static_cast<double>(events * kQueuedEventBytes) /
         static_cast<double>(std::max<size_t>(events_->ReceiveBufferBytes(), 1));
}

void EventLoop::CallAttention() const {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t ignored = write(options_.attention_fd, &one, sizeof(one));
}

void EventLoop::RunOn(const cpu_set_t& cpus) {
  if (options_.cpu < 0) return;
  // If this is refused, everything works, only slower.
  pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus);
}

void EventLoop::Wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t ignored = write(wake_fd_.get(), &one, sizeof(one));
}

void EventLoop::Wait(size_t taken, bool snapshot_running) {
  ++waits_.wakeups;
  if (dump_running_ || snapshot_running) {
    Nap(kDumpNapNs);
    return;
  }
  if (taken * kQueuedEventBytes * kNapBufferShare < events_->ReceiveBufferBytes()) {
    ++waits_.naps;
    Nap(kNapNs);
  }
  pollfd fds[] = {{wake_fd_.get(), POLLIN, 0}, {events_->fd(), POLLIN, 0}};
  poll(fds, status_.ok() ? 2 : 1, kPollMillis);
  if (fds[0].revents != 0) {
    uint64_t drained = 0;
    [[maybe_unused]] const ssize_t ignored = read(wake_fd_.get(), &drained, sizeof(drained));
  }
}

}  // namespace ctacct
