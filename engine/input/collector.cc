#include "engine/input/collector.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <thread>

#include "absl/strings/str_cat.h"
#include "engine/input/kept_events.h"
#include "engine/system/clock.h"
#include "netlink/conntrack_settings.h"
#include "netlink/dying_list.h"
#include "netlink/event_filter.h"

namespace ctacct {
namespace {

// At the end, for flows whose DESTROY waits for room: the kernel sends again every 10 ms.
constexpr int64_t kUndeliveredMaxNs = 30 * kNanosPerSecond;
constexpr int kUndeliveredPollMillis = 10;

// The CPU of each worker: spread over those this process may use. A single worker is not pinned:
// the scheduler knows better which CPU is idle.
std::vector<int> WorkerCpus(size_t workers) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  std::vector<int> cpus;
  if (workers > 1 && sched_getaffinity(0, sizeof(allowed), &allowed) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(static_cast<size_t>(cpu), &allowed)) cpus.push_back(cpu);
    }
  }
  std::vector<int> of_worker(workers, -1);
  for (size_t i = 0; i < workers && !cpus.empty(); ++i) {
    of_worker[i] = cpus[(i * std::max(cpus.size() / workers, size_t{1})) % cpus.size()];
  }
  return of_worker;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Collector>> Collector::Open(
    Options options, const std::vector<AccountingHandoff*>& handoffs) {
  assert(options.manager != nullptr);
  auto collector = std::unique_ptr<Collector>(new Collector(std::move(options)));
  const Options& asked = collector->options_;
  collector->handoffs_ = handoffs;
  collector->attention_fd_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!collector->attention_fd_.valid()) {
    return absl::ResourceExhaustedError(absl::StrCat("eventfd: ", strerror(errno)));
  }
  collector->subscribed_ns_ = WallClockNs();
  const size_t workers = handoffs.size();
  const std::vector<int> cpus = WorkerCpus(workers);
  std::vector<EventSocket::Options> sockets(workers);
  for (size_t i = 0; i < workers; ++i) {
    EventFilterRules rules;
    rules.ipv4 = asked.rules.ipv4;
    rules.ipv6 = asked.rules.ipv6;
    rules.include_icmp = asked.rules.include_icmp;
    rules.worker = static_cast<uint32_t>(i);
    rules.workers = static_cast<uint32_t>(workers);
    sockets[i].receive_buffer_bytes = asked.receive_buffer_bytes / workers;
    sockets[i].destroy_only = asked.destroy_only;
    sockets[i].filter = BuildEventFilter(rules);
  }
  // If a flow ended while no engine ran, only its start time shows that it is old.
  absl::StatusOr<KeptEvents> events =
      OpenEventSockets(sockets, asked.manager->TakeHandedBack(), TimestampsAreOn(), !asked.reliable,
                       *asked.manager, asked.log);
  if (!events.ok()) return events.status();
  collector->events_kept_ = events->kept;
  collector->kept_names_ = events->names;
  for (size_t i = 0; i < workers; ++i) {
    EventLoop::Options loop_options;
    loop_options.cpu = cpus[i];
    loop_options.reliable = asked.reliable;
    loop_options.attention_fd = collector->attention_fd_.get();
    loop_options.capture = asked.record.get();
    loop_options.log = asked.log;
    absl::StatusOr<std::unique_ptr<EventLoop>> loop =
        EventLoop::Open(std::move(loop_options), std::move(events->sockets[i]));
    if (!loop.ok()) return loop.status();
    collector->loops_.push_back(*std::move(loop));
  }
  absl::StatusOr<std::unique_ptr<DumpSocket>> dumps = DumpSocket::Open(asked.reliable);
  if (!dumps.ok()) return dumps.status();
  collector->dump_socket_ = *std::move(dumps);
  if (asked.local != nullptr) {
    absl::StatusOr<std::unique_ptr<AddressSocket>> addresses = AddressSocket::Open();
    if (!addresses.ok()) return addresses.status();
    collector->address_socket_ = *std::move(addresses);
    if (absl::Status read = collector->ReadAddresses(); !read.ok()) return read;
  }
  return collector;
}

absl::Status Collector::ReadAddresses() {
  const absl::StatusOr<AddressLists> present = address_socket_->Read();
  if (!present.ok()) return present.status();
  addresses_.Update(*present, WallClockNs());
  options_.local->Replace(std::make_shared<const LocalAddresses>(addresses_));
  return absl::OkStatus();
}

void Collector::FollowAddresses() {
  if (address_socket_ == nullptr || !address_socket_->TakeChanges()) return;
  if (const absl::Status read = ReadAddresses(); !read.ok()) {
    options_.log(std::string(read.message()));
  }
}

void Collector::NoteDrained(int64_t drained_ns) {
  for (const std::unique_ptr<EventLoop>& loop : loops_) loop->NoteDrained(drained_ns);
}

absl::Status Collector::Run(const std::vector<std::unique_ptr<Worker>>& workers, bool timestamps_on,
                            std::atomic<bool>* stop, int wake_fd) {
  std::vector<FrameQueue*> queues;
  std::vector<std::thread> threads;
  for (size_t i = 0; i < loops_.size(); ++i) {
    // Flows born from the subscription on count in full.
    workers[i]->Start(subscribed_ns_, timestamps_on);
    queues.push_back(loops_[i]->queue());
    threads.emplace_back(&EventLoop::Run, loops_[i].get(), workers[i].get());
  }
  Dispatcher::Options dispatch;
  dispatch.interval_ns = options_.rules.interval_ns;
  dispatch.timestamps_on = timestamps_on;
  dispatcher_.emplace(dispatch, queues);
  {
    std::optional<TableGuard> guard;
    if (options_.reliable) {
      guard.emplace([this](bool room, const TableFill& fill) { OnTableRoom(room, fill); });
    }
    Loop(*stop, wake_fd);
    if (!AnyFailed()) TakeLastDump();
    if (!AnyFailed()) AwaitUndelivered();
  }
  stop->store(true);
  dispatcher_->Finish();
  WakeWorkers();
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < loops_.size() && options_.reliable; ++i) {
    // The table is no longer watched: without reliable delivery the sockets may be kept.
    loops_[i]->EndReliable();
    options_.manager->Store(kept_names_[i], loops_[i]->socket_fd());
  }
  absl::Status status;
  for (const std::unique_ptr<EventLoop>& loop : loops_) status.Update(loop->status());
  if (options_.record != nullptr) status.Update(options_.record->Flush());
  return status;
}

void Collector::Loop(const std::atomic<bool>& stop, int wake_fd) {
  // A recording must also contain the time of the subscription: it begins, as a capture of an nlmon
  // interface would, with a request for a dump.
  const Datagram request = dump_socket_->last_request();
  dispatcher_->OnDatagram(request.data, request.bytes, subscribed_ns_);
  dispatcher_->Publish();
  settings_checked_ns_ = subscribed_ns_;
  settings_looked_at_ns_ = MonotonicNs();
  RequestDump();  // The baseline.
  while (!stop.load(std::memory_order_relaxed) && !AnyFailed()) {
    TellAlive();
    if (MonotonicNs() - settings_looked_at_ns_ >= kNanosPerSecond) {
      CheckSettings();
      FollowAddresses();
    }
    if (dumps_.running()) {
      if (!TakeChunk()) Wait(wake_fd);
      continue;
    }
    const DumpSchedule::Need need = NeedOfDump();
    if (need.caught_up) NoteBaseline();
    if (dumps_.IsDue(need, MonotonicNs())) {
      if (need.interval_is_over) CheckSettings();
      RequestDump();
    } else {
      Wait(wake_fd);
    }
  }
}

DumpSchedule::Need Collector::NeedOfDump() const {
  DumpSchedule::Need need;
  need.caught_up = AllCaughtUp();
  if (!need.caught_up) return need;
  need.interval_is_over = dispatcher_->DumpWouldEndInterval(WallClockNs());
  need.resync = AnyNeedsResync();
  need.can_seal = CanSeal();
  return need;
}

bool Collector::TakeChunk() {
  const absl::StatusOr<const Datagram*> chunk = dump_socket_->Receive();
  if (!chunk.ok()) {
    FailDump(std::string(chunk.status().message()));
    return false;
  }
  const int64_t now_ns = MonotonicNs();
  if (*chunk == nullptr) {
    if (dumps_.IsSilent(now_ns)) {
      FailDump("conntrack dump: the kernel fell silent before its end");
    }
    return false;
  }
  dumps_.Progress(now_ns);
  const bool was_running = dispatcher_->dump_running();
  // While the table is resized a dump may pass flows by.
  if (was_running && ConntrackBuckets() != buckets_) dispatcher_->NoteDumpCut();
  dispatcher_->OnDatagram((*chunk)->data, (*chunk)->bytes, WallClockNs());
  dispatcher_->Publish();
  const bool ended = !dispatcher_->dump_running();
  if (ended) {
    dumps_.Ended(now_ns);
    ShowDumps();
  }
  // During a dump the workers check their queues without being woken.
  if (!was_running || ended) WakeWorkers();
  return true;
}

void Collector::CheckSettings() {
  const int64_t now_ns = WallClockNs();
  const bool on = KeepConntrackOn([this](const std::string& line) {
    if (settings_were_on_) options_.log(line);
  });
  if (!on) dispatcher_->OnSettingsOff(settings_checked_ns_, now_ns);
  settings_were_on_ = on;
  if (options_.record != nullptr && record_good_) {
    const absl::Status recorded = options_.record->status();
    record_good_ = recorded.ok();
    if (!record_good_) {
      options_.log(absl::StrCat(recorded.message(), "; it ends here, and accounting continues"));
    }
  }
  settings_looked_at_ns_ = MonotonicNs();
  settings_checked_ns_ = now_ns;
}

void Collector::RequestDump() {
  buckets_ = ConntrackBuckets();
  const int64_t now_ns = WallClockNs();
  dispatcher_->NoteDumpRequested(MonotonicNs(), now_ns);
  for (const std::unique_ptr<EventLoop>& loop : loops_) loop->NoteDumpRequested(now_ns);
  const absl::Status status = dump_socket_->Request();
  dumps_.Requested(MonotonicNs());
  if (!status.ok()) FailDump(std::string(status.message()));
}

void Collector::FailDump(const std::string& why) {
  options_.log(why);
  dumps_.Failed(MonotonicNs());
  ShowDumps();
  dispatcher_->OnDumpFailed(WallClockNs());
  WakeWorkers();
  // A fresh socket: the old one may hold half a dump.
  if (absl::StatusOr<std::unique_ptr<DumpSocket>> fresh = DumpSocket::Open(options_.reliable);
      fresh.ok()) {
    dump_socket_ = *std::move(fresh);
  }
}

void Collector::ShowDumps() {
  const std::lock_guard lock(dump_counts_mutex_);
  dump_counts_ = dumps_.counts();
}

LiveMetrics Collector::metrics() const {
  LiveMetrics metrics;
  {
    const std::lock_guard lock(dump_counts_mutex_);
    metrics.dumps = dump_counts_.dumps;
    metrics.dumps_failed = dump_counts_.failed;
    metrics.dump_ns = dump_counts_.all_ns;
    metrics.last_dump_ns = dump_counts_.last_ns;
  }
  for (const std::unique_ptr<EventLoop>& loop : loops_) {
    const EventLoop::Waits waits = loop->waits();
    metrics.wakeups += waits.wakeups;
    metrics.naps += waits.naps;
    metrics.receive_buffer_bytes += loop->ReceiveBufferBytes();
    metrics.receive_buffer_peak =
        std::max(metrics.receive_buffer_peak, loop->ReceiveBufferShare(waits.queued_events_peak));
  }
  metrics.times_reliable_left = times_reliable_left();
  return metrics;
}

void Collector::TakeLastDump() {
  CheckSettings();
  // Lets the running dump end, then takes another: all that the kernel has counted by now must be
  // accounted.
  for (int dumps = dumps_.running() ? 0 : 1; dumps < 2; ++dumps) {
    if (!dumps_.running()) RequestDump();
    while (dumps_.running()) {
      if (TakeChunk()) continue;
      pollfd fd = {dump_socket_->fd(), POLLIN, 0};
      if (dumps_.running()) poll(&fd, 1, 10);
    }
  }
}

// The ends of flows that the kernel could not deliver so far.
void Collector::AwaitUndelivered() {
  if (!options_.reliable) return;
  const int64_t give_up_ns = MonotonicNs() + kUndeliveredMaxNs;
  for (;;) {
    const absl::StatusOr<size_t> flows = CountDyingFlows();
    if (!flows.ok()) options_.log(std::string(flows.status().message()));
    if (!flows.ok() || *flows == 0) return;
    if (MonotonicNs() > give_up_ns) {
      options_.log(absl::StrCat("reliable delivery: the ends of ", *flows,
                                " flows were not delivered in time, and are lost"));
      return;
    }
    poll(nullptr, 0, kUndeliveredPollMillis);
  }
}

void Collector::OnTableRoom(bool room, const TableFill& fill) {
  if (!room) times_reliable_left_.fetch_add(1);
  for (const std::unique_ptr<EventLoop>& loop : loops_) loop->AllowReliable(room);
  options_.log(absl::StrCat(
      room ? "reliable delivery is on again: " : "reliable delivery is off for now: ", fill.flows,
      " of at most ", fill.flows_max, " flows in conntrack's table",
      room ? ""
           : ", and undelivered events would keep more there; remedy: a larger "
             "nf_conntrack_max or -receive-buffer"));
}

void Collector::NoteBaseline() {
  if (!dumps_.any_ended() || baseline_told_) return;
  baseline_told_ = true;
  size_t flows = 0;
  size_t buffer_bytes = 0;
  for (const std::unique_ptr<EventLoop>& loop : loops_) {
    flows += loop->flows();
    buffer_bytes += loop->ReceiveBufferBytes();
  }
  options_.log(absl::StrCat("accounting live; ", flows, " flows so far, ", loops_.size(),
                            loops_.size() == 1 ? " worker" : " workers", ", receive buffer ",
                            buffer_bytes, " bytes",
                            events_kept_ ? "; events were kept since an earlier engine" : ""));
  options_.manager->TellReady();
}

void Collector::TellAlive() {
  if (!options_.manager->AliveIsDue()) return;
  turns_told_.resize(loops_.size());
  for (size_t i = 0; i < loops_.size(); ++i) {
    if (loops_[i]->turns() == turns_told_[i]) return;
  }
  for (size_t i = 0; i < loops_.size(); ++i) turns_told_[i] = loops_[i]->turns();
  options_.manager->TellAlive();
}

bool Collector::AllCaughtUp() const {
  return std::all_of(loops_.begin(), loops_.end(),
                     [](const auto& loop) { return loop->queue()->Empty(); });
}

bool Collector::AnyNeedsResync() const {
  return std::any_of(loops_.begin(), loops_.end(),
                     [](const auto& loop) { return loop->needs_resync(); });
}

bool Collector::AnyFailed() const {
  return std::any_of(loops_.begin(), loops_.end(), [](const auto& loop) { return loop->failed(); });
}

bool Collector::CanSeal() const {
  return std::all_of(handoffs_.begin(), handoffs_.end(),
                     [](const auto* handoff) { return handoff->HasSpare(); });
}

void Collector::WakeWorkers() {
  for (const std::unique_ptr<EventLoop>& loop : loops_) loop->Wake();
}

void Collector::Wait(int wake_fd) {
  const int millis =
      DumpSchedule::WaitMillis(AllCaughtUp(), dispatcher_->open_end_ns() - WallClockNs());
  pollfd fds[] = {{attention_fd_.get(), POLLIN, 0},
                  {wake_fd, POLLIN, 0},
                  {dumps_.running() ? dump_socket_->fd() : -1, POLLIN, 0},
                  {address_socket_ != nullptr ? address_socket_->fd() : -1, POLLIN, 0}};
  poll(fds, 4, millis);
  if (fds[3].revents != 0) FollowAddresses();
  if (fds[0].revents != 0) {
    uint64_t drained = 0;
    [[maybe_unused]] const ssize_t ignored = read(attention_fd_.get(), &drained, sizeof(drained));
  }
}

}  // namespace ctacct
