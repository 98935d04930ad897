#include "engine/collector.h"

#include <poll.h>
#include <time.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ctacct {
namespace {

constexpr int64_t kNanosPerSecond = 1'000'000'000;
constexpr int64_t kNanosPerMilli = 1'000'000;

// The kernel makes a dump's chunks while we ask for them: it is silent only if something is broken.
constexpr int64_t kDumpSilenceMaxNs = 10 * kNanosPerSecond;
constexpr int64_t kDumpRetryNs = kNanosPerSecond;
// An event takes more of the receive buffer than this (about 1,280 bytes), so that a queue can be
// drained of all it holds in a bounded number of batches, however fast it fills again.
constexpr size_t kQueuedEventBytesMin = 512;
// Waking up for each event costs more than the event: under load let some gather. Bounds the delay
// of a close that older kernels do not time themselves.
constexpr int64_t kNapNs = 2 * kNanosPerMilli;
// Looks at the clock at least so often, in case the wall clock is set.
constexpr int kPollMillisMax = 1000;

int64_t NowNs(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return now.tv_sec * kNanosPerSecond + now.tv_nsec;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Collector>> Collector::Open(Options options) {
  auto collector = std::unique_ptr<Collector>(new Collector(std::move(options)));
  collector->subscribed_ns_ = NowNs(CLOCK_REALTIME);
  absl::StatusOr<std::unique_ptr<EventSocket>> events =
      EventSocket::Open(collector->options_.receive_buffer_bytes);
  if (!events.ok()) return events.status();
  collector->events_ = *std::move(events);
  absl::StatusOr<std::unique_ptr<DumpSocket>> dumps = DumpSocket::Open();
  if (!dumps.ok()) return dumps.status();
  collector->dumps_ = *std::move(dumps);
  if (!collector->options_.record.empty()) {
    absl::StatusOr<std::unique_ptr<CaptureWriter>> capture =
        CaptureWriter::Create(collector->options_.record);
    if (!capture.ok()) return capture.status();
    collector->capture_ = *std::move(capture);
  }
  return collector;
}

absl::Status Collector::Run(Worker* worker, const std::atomic<bool>& stop, int wake_fd) {
  worker_ = worker;
  absl::Status status = Loop(stop, wake_fd);
  if (status.ok()) status = TakeLastDump();
  worker_->Finish();
  if (capture_ != nullptr) status.Update(capture_->Flush());
  return status;
}

absl::Status Collector::Loop(const std::atomic<bool>& stop, int wake_fd) {
  // Flows born from the subscription on count in full. A recording must tell that time, too: it
  // begins, as a capture of an nlmon interface would, with a request for a dump.
  Apply(dumps_->last_request(), subscribed_ns_);
  RequestDump();  // The baseline.
  while (!stop.load(std::memory_order_relaxed)) {
    const absl::StatusOr<bool> had_chunk = TakeTurn();
    if (!had_chunk.ok()) return had_chunk.status();
    if (*had_chunk) continue;
    const bool wanted =
        NowNs(CLOCK_REALTIME) >= worker_->open_end_ns() || worker_->needs_resync() || !baselined_;
    if (wanted && !dump_requested_ && worker_->CanSeal() &&
        NowNs(CLOCK_MONOTONIC) >= next_request_ns_) {
      RequestDump();
      continue;
    }
    Wait(wake_fd);
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> Collector::TakeTurn() {
  // The kernel made the chunk before we received it. Every event that is older has been queued by
  // then, and must be taken first: an event may say that a flow which the chunk shows is another
  // one by now. (A chunk that is older than the events taken is no harm: see FlowTable.)
  const Datagram* const chunk = dump_requested_ ? ReceiveDumpChunk() : nullptr;
  if (absl::Status status = TakeEvents(); !status.ok()) return status;
  if (chunk == nullptr) return false;
  Apply(*chunk, NowNs(CLOCK_REALTIME));
  dump_requested_ = worker_->dump_running();
  if (!dump_requested_ && !baselined_) {
    baselined_ = true;
    options_.log(absl::StrCat("accounting live; ", worker_->flows(),
                              " flows so far, receive buffer ", events_->ReceiveBufferBytes(),
                              " bytes"));
  }
  return true;
}

absl::Status Collector::TakeEvents() {
  const size_t batches_max =
      events_->ReceiveBufferBytes() / (EventSocket::kBatchDatagrams * kQueuedEventBytesMin) + 1;
  for (size_t i = 0; i < batches_max; ++i) {
    const absl::StatusOr<EventSocket::Batch> batch = events_->Receive();
    if (!batch.ok()) return batch.status();
    const int64_t now_ns = NowNs(CLOCK_REALTIME);
    for (size_t d = 0; d < batch->datagrams; ++d) Apply(events_->at(d), now_ns);
    if (batch->overrun) overrun_ = true;
    if (!batch->drained) continue;
    // Only now: until the queue was empty the kernel went on dropping.
    if (std::exchange(overrun_, false)) NoteOverrun();
    break;
  }
  return absl::OkStatus();
}

void Collector::NoteOverrun() {
  const uint32_t drops = events_->Drops();
  // By the same door as all that is read, so that a recording tells it, too.
  const OverrunMessage message(drops - drops_seen_);
  Apply({message.bytes(), sizeof(message)}, NowNs(CLOCK_REALTIME));
  options_.log(absl::StrCat("netlink overrun: the kernel dropped ", drops - drops_seen_,
                            " events; a dump makes the totals of living flows right. Remedy: a "
                            "larger -receive-buffer (now ",
                            events_->ReceiveBufferBytes(), " bytes granted)"));
  drops_seen_ = drops;
}

void Collector::RequestDump() {
  const absl::Status status = dumps_->Request();
  dump_requested_ = true;
  dump_progress_ns_ = NowNs(CLOCK_MONOTONIC);
  if (!status.ok()) FailDump(std::string(status.message()));
}

const Datagram* Collector::ReceiveDumpChunk() {
  const absl::StatusOr<const Datagram*> chunk = dumps_->Receive();
  if (!chunk.ok()) {
    FailDump(std::string(chunk.status().message()));
    return nullptr;
  }
  const int64_t now_ns = NowNs(CLOCK_MONOTONIC);
  if (*chunk != nullptr) {
    dump_progress_ns_ = now_ns;
  } else if (now_ns - dump_progress_ns_ > kDumpSilenceMaxNs) {
    FailDump("conntrack dump: the kernel fell silent before its end");
  }
  return *chunk;
}

void Collector::FailDump(const std::string& why) {
  options_.log(why);
  dump_requested_ = false;
  next_request_ns_ = NowNs(CLOCK_MONOTONIC) + kDumpRetryNs;
  worker_->OnDumpFailed(NowNs(CLOCK_REALTIME));
  // A fresh socket: the old one may hold half a dump.
  if (absl::StatusOr<std::unique_ptr<DumpSocket>> fresh = DumpSocket::Open(); fresh.ok()) {
    dumps_ = *std::move(fresh);
  }
}

absl::Status Collector::TakeLastDump() {
  // The one that runs, then one of its own: what the kernel counted up to now belongs to us.
  for (int dumps = dump_requested_ ? 0 : 1; dumps < 2; ++dumps) {
    if (!dump_requested_) RequestDump();
    while (dump_requested_) {
      const absl::StatusOr<bool> had_chunk = TakeTurn();
      if (!had_chunk.ok()) return had_chunk.status();
      pollfd poll_fd = {dumps_->fd(), POLLIN, 0};
      if (dump_requested_ && !*had_chunk) poll(&poll_fd, 1, 10);
    }
  }
  return TakeEvents();
}

void Collector::Wait(int wake_fd) {
  if (!dump_requested_) {
    timespec nap = {0, kNapNs};
    nanosleep(&nap, nullptr);
  }
  const int64_t until_end_ns = worker_->open_end_ns() - NowNs(CLOCK_REALTIME);
  const auto millis = std::clamp<int64_t>(until_end_ns / kNanosPerMilli + 1, 1, kPollMillisMax);
  pollfd fds[] = {{events_->fd(), POLLIN, 0}, {wake_fd, POLLIN, 0}, {dumps_->fd(), POLLIN, 0}};
  poll(fds, 3, static_cast<int>(millis));
}

void Collector::Apply(const Datagram& datagram, int64_t now_ns) {
  if (capture_ != nullptr) capture_->Write(datagram.data, datagram.bytes, now_ns);
  worker_->OnDatagram(datagram.data, datagram.bytes, now_ns);
}

}  // namespace ctacct
