#include "engine/engine.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/output/checkpoint_file.h"
#include "engine/restart.h"
#include "engine/spool/spool_header.h"
#include "engine/system/clock.h"
#include "engine/system/durable_file.h"
#include "engine/system/handover.h"
#include "netlink/capture_file.h"
#include "netlink/conntrack_settings.h"

namespace ctacct {
namespace {

constexpr int kFlusherNice = 10;
constexpr int kTickMillis = 1000;  // Port list, and writes that failed.
constexpr int64_t kConntrackLoadsMaxNs = 5 * kNanosPerSecond;
constexpr int kConntrackPollMillis = 20;
constexpr mode_t kOutputFolderMode = 0750;  // Rows show who talked to whom.

void Notify(const UniqueFd& event_fd) {
  const uint64_t one = 1;
  // Fails only if the counter is full, and then the reader will wake anyway.
  [[maybe_unused]] const ssize_t ignored = write(event_fd.get(), &one, sizeof(one));
}

absl::Status PrepareOutputFolder(const std::string& folder) {
  if (mkdir(folder.c_str(), kOutputFolderMode) != 0 && errno != EEXIST) {
    return absl::ErrnoToStatus(errno, absl::StrCat("output folder ", folder));
  }
  struct stat info {};
  if (stat(folder.c_str(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("output folder ", folder));
  }
  if (!S_ISDIR(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat("output folder ", folder, ": is no folder"));
  }
  if (access(folder.c_str(), W_OK | X_OK) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("output folder ", folder));
  }
  return absl::OkStatus();
}

bool IsMissing(const std::string& path) {
  return path.empty() || (access(path.c_str(), F_OK) != 0 && errno == ENOENT);
}

// Not the metrics file: if it cannot be written, accounting continues.
std::vector<NeededPath> NeededPaths(const Config& config) {
  using enum NeededPath::Kind;
  return {{"port list", config.ports, kInput},
          {"capture", config.replay, kInput},
          {"output folder", config.output, kFolder, kOutputFolderMode},
          {"state folder", config.live() ? config.state : "", kFolder, kStateFolderMode},
          {"pipe", config.pipe, kFifo, kFifoMode}};
}

}  // namespace

absl::Status Engine::Check(const Config& config) {
  Privileges::Options rights;
  if (config.user.has_value()) rights.user = &*config.user;
  const absl::StatusOr<Privileges> privileges = Privileges::Drop(rights);
  if (!privileges.ok()) return privileges.status();
  absl::Status status = PortListFile(config.ports).Load();
  if (status.ok() && config.live() && !IsMissing(config.state)) {
    status = OpenStateFolder(config.state).status();
  }
  if (status.ok() && !IsMissing(config.pipe)) status = PipeWriter::Check(config.pipe);
  return privileges->Explain(status);
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Open(Config config) {
  auto engine = std::unique_ptr<Engine>(new Engine(std::move(config)));
  if (absl::Status status = engine->OpenSignals(); !status.ok()) return status;
  // Before all other files: what can be opened now can be opened again later. Before any thread.
  Privileges::Options rights;
  rights.keep_net_admin = engine->config_.live();
  if (engine->config_.user.has_value()) {
    rights.user = &*engine->config_.user;
    if (geteuid() == 0 && rights.user->uid != 0) {
      absl::Status status = HandOver(*rights.user, NeededPaths(engine->config_));
      if (!status.ok()) return status;
    }
  }
  if (!engine->config_.record.empty()) {
    // Opened once, and the caller's: what root records, root replays.
    absl::StatusOr<std::unique_ptr<CaptureWriter>> record =
        CaptureWriter::Create(engine->config_.record);
    if (!record.ok()) return record.status();
    engine->record_ = *std::move(record);
  }
  absl::StatusOr<Privileges> privileges = Privileges::Drop(rights);
  if (!privileges.ok()) return privileges.status();
  engine->privileges_ = *std::move(privileges);

  if (absl::Status status = engine->OpenFiles(); !status.ok()) {
    return engine->privileges_->Explain(status);
  }
  for (size_t i = 0; i < engine->config_.workers; ++i) {
    engine->owned_handoffs_.push_back(std::make_unique<AccountingHandoff>());
    engine->handoffs_.push_back(engine->owned_handoffs_.back().get());
  }
  if (absl::Status status = engine->OpenInput(); !status.ok()) return status;
  if (absl::Status status = engine->OpenCheckpoint(); !status.ok()) {
    return engine->privileges_->Explain(status);
  }
  engine->metrics_.emplace(engine->config_, *engine->privileges_);
  engine->MakeFlusher();
  engine->MakeWorkers();
  if (absl::Status status = engine->RestartFromCheckpoint(); !status.ok()) return status;
  return engine;
}

absl::Status Engine::OpenSignals() {
  // Blocked in all threads; the timer thread takes them from a descriptor.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal_fd_ = UniqueFd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  sealed_fd_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  wake_fd_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (signal_fd_.valid() && sealed_fd_.valid() && wake_fd_.valid()) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("descriptors: ", strerror(errno)));
}

absl::Status Engine::OpenFiles() {
  ports_.emplace(config_.ports);
  if (absl::Status status = ports_->Load(); !status.ok()) return status;
  port_list_.emplace(&*ports_, *privileges_);
  const absl::StatusOr<EngineId> id = NewEngineId();
  if (!id.ok()) return id.status();
  id_ = *id;
  if (absl::Status status = OpenSink(); !status.ok()) return status;
  if (!config_.live()) {
    const absl::StatusOr<CaptureTraits> capture = ExamineCapture(config_.replay);
    if (!capture.ok()) return capture.status();
    capture_ = *capture;
  }
  if (config_.live() && !config_.output.empty()) {
    // OpenCheckpoint uses the folder later, but a folder that cannot be used must be reported
    // before the kernel is touched.
    if (auto state = OpenStateFolder(config_.state); !state.ok()) return state.status();
  }
  if (config_.pipe.empty()) return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<PipeWriter>> pipe = PipeWriter::Open(config_.pipe);
  if (!pipe.ok()) return pipe.status();
  pipe_ = *std::move(pipe);
  return absl::OkStatus();
}

absl::Status Engine::OpenSink() {
  const bool track_open = config_.rules.track_open;
  if (config_.writes_standard_output())
    sink_ = std::make_unique<StandardOutputSink>(track_open, signal_fd_.get());
  if (config_.output.empty()) return absl::OkStatus();
  if (absl::Status status = PrepareOutputFolder(config_.output); !status.ok()) return status;
  RemoveAbandonedFiles(config_.output);
  if (config_.csv_files) {
    sink_ = std::make_unique<CsvSink>(config_.output, track_open);
    return absl::OkStatus();
  }
  SpoolHeader header;
  header.engine_id = id_;
  header.interval_length_ns = config_.rules.interval_ns;
  header.track_open = track_open;
  header.light = config_.light;
  const AccountingRules& rules = config_.rules;
  std::memcpy(header.src_mask.data(), &rules.ipv4.src_group_mask, header.src_mask.size());
  std::memcpy(header.dst_mask.data(), &rules.ipv4.dst_group_mask, header.dst_mask.size());
  std::memcpy(header.src_mask6.data(), &rules.ipv6.src_group_mask, header.src_mask6.size());
  std::memcpy(header.dst_mask6.data(), &rules.ipv6.dst_group_mask, header.dst_mask6.size());
  header.gateway = config_.gateway;
  sink_ = std::make_unique<SpoolSink>(config_.output, header);
  return absl::OkStatus();
}

absl::Status Engine::OpenInput() {
  if (!config_.live()) return absl::OkStatus();
  // Before the subscription, so that no flow is born in between without counters. But the
  // subscription may be what loads conntrack.
  settings_were_off_ = !ConntrackIsOn();
  absl::Status prepared = PrepareConntrack(config_.light, Log);
  Collector::Options options;
  options.rules = config_.rules;
  if (config_.rules.skip_local) options.local = &local_addresses_;
  options.destroy_only = config_.light;
  options.receive_buffer_bytes = config_.receive_buffer_bytes;
  options.record = std::move(record_);
  options.log = Log;
  options.manager = &manager_;
  options.reliable = config_.reliable;
  absl::StatusOr<std::unique_ptr<Collector>> collector =
      Collector::Open(std::move(options), handoffs_);
  if (!collector.ok()) return collector.status();
  collector_ = *std::move(collector);
  // The subscription loads conntrack, and does not wait for it (nfnetlink_bind in the kernel).
  const int64_t give_up_ns = MonotonicNs() + kConntrackLoadsMaxNs;
  while (absl::IsUnavailable(prepared) && MonotonicNs() < give_up_ns) {
    poll(nullptr, 0, kConntrackPollMillis);
    prepared = PrepareConntrack(config_.light, Log);
  }
  if (prepared.ok()) tcp_timeouts_ = ReadTcpTimeouts();
  return prepared;
}

absl::Status Engine::OpenCheckpoint() {
  if (!config_.live() || config_.output.empty()) return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint =
      Checkpoint::Open(config_.state, config_.output);
  if (!checkpoint.ok()) return checkpoint.status();
  checkpoint_ = *std::move(checkpoint);
  for (size_t i = 0; i < config_.workers; ++i) {
    snapshots_.push_back(std::make_unique<SnapshotStream>(Worker::kFlowTables));
  }
  return absl::OkStatus();
}

void Engine::MakeFlusher() {
  Flusher::Options options;
  options.track_open = config_.rules.track_open;
  options.rows_max = config_.rows_max;
  options.interval_ns = config_.rules.interval_ns;
  options.wait_for_pipe = !config_.live();
  options.passed_over = config_.live();
  options.sink = sink_.get();
  options.pipe = pipe_.get();
  if (config_.influx_lines) options.influx.emplace(config_.gateway);
  options.ports = &ports_->current();
  options.checkpoint = checkpoint_.get();
  for (const auto& snapshot : snapshots_) options.snapshots.push_back(snapshot.get());
  options.log = Log;
  flusher_.emplace(std::move(options));
  // A live engine outlasts a full disk; a replay, or a standard output that is gone, does not.
  writes_.emplace(&*flusher_, handoffs_, *privileges_,
                  /*errors_end_the_run=*/!config_.live() || config_.output.empty());
}

void Engine::MakeWorkers() {
  for (size_t i = 0; i < config_.workers; ++i) {
    Worker::Options options;
    options.rules = config_.rules;
    if (config_.rules.skip_local) options.local = &local_addresses_;
    options.tcp_timeouts = tcp_timeouts_;
    options.snapshots = snapshots_.empty() ? nullptr : snapshots_[i].get();
    options.wait_for_spare = !config_.live();
    options.rows_max = config_.rows_max;
    options.sealed = [this] { Notify(sealed_fd_); };
    workers_.push_back(
        std::make_unique<Worker>(std::move(options), handoffs_[i], &ports_->current()));
  }
}

absl::Status Engine::RestartFromCheckpoint() {
  if (checkpoint_ == nullptr) return absl::OkStatus();
  const absl::StatusOr<KernelIdentity> kernel = ThisKernel();
  if (!kernel.ok()) return kernel.status();
  RestartOptions options;
  options.rules = config_.rules;
  options.gateway = config_.gateway;
  options.engine_id = id_;
  options.kernel = *kernel;
  options.subscribed_ns = collector_->subscribed_ns();
  options.timestamps_on = TimestampsAreOn();
  options.events_kept = collector_->events_kept();
  options.settings_were_off = settings_were_off_;
  options.recorded = !config_.record.empty();
  options.log = Log;
  const absl::StatusOr<Resumed> resumed = Restart(options, workers_, checkpoint_.get());
  if (!resumed.ok()) return resumed.status();
  if (resumed->drained_ns != 0) collector_->NoteDrained(resumed->drained_ns);
  return absl::OkStatus();
}

void Engine::Run() {
  std::thread reader(&Engine::Read, this);
  // Files may wait a little; packets may not.
  setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kFlusherNice);
  while (!finished_.load(std::memory_order_acquire)) {
    pollfd fds[] = {{signal_fd_.get(), POLLIN, 0}, {sealed_fd_.get(), POLLIN, 0}};
    poll(fds, 2, kTickMillis);
    uint64_t drained = 0;
    [[maybe_unused]] const ssize_t ignored = read(sealed_fd_.get(), &drained, sizeof(drained));
    HandleSignals();
    port_list_->Reload(/*forced=*/false);
    FlushSealed();
    UpdateMetrics(/*last=*/false);
    if (flusher_->intervals().last_end_ns != 0) {
      manager_.TellStatus(ServiceStatus(*flusher_, *writes_));
    }
  }
  reader.join();
}

void Engine::Read() {
  if (collector_ != nullptr) {
    read_status_ = collector_->Run(workers_, TimestampsAreOn(), &stop_, wake_fd_.get());
  } else {
    Dispatcher::Options dispatch;
    dispatch.interval_ns = config_.rules.interval_ns;
    dispatch.interval_end = capture_.interval_end;
    dispatch.timestamps_on = capture_.timestamps_on;
    read_status_ = Replay(config_.replay, dispatch, workers_, stop_);
  }
  finished_.store(true, std::memory_order_release);
  Notify(sealed_fd_);
}

void Engine::HandleSignals() {
  signalfd_siginfo info{};
  while (read(signal_fd_.get(), &info, sizeof(info)) == sizeof(info)) {
    if (info.ssi_signo == SIGHUP) {
      port_list_->Reload(/*forced=*/true);
    } else {
      manager_.TellStopping();
      Stop();
    }
  }
}

void Engine::Stop() {
  stop_.store(true);
  Notify(wake_fd_);
}

void Engine::FlushSealed() {
  // Once it is to end, the last tables are taken even if the backlog is full: the worker waits.
  const absl::Status flushed = writes_->Flush(stop_.load());
  if (!writes_->errors_end_the_run()) {
    write_status_ = flushed;
    return;
  }
  // The first one is what ended it, even if a later attempt went well.
  if (write_status_.ok() || flusher_->lost_state()) write_status_ = flushed;
  if (!write_status_.ok()) Stop();
}

void Engine::UpdateMetrics(bool last) {
  metrics_->Update({&*flusher_, &*writes_, &*port_list_, pipe_.get(), collector_.get()}, last);
}

absl::Status Engine::Finish() {
  manager_.TellStopping();  // Also of its own accord: from here on nobody feeds a watchdog.
  if (write_status_.ok() || !writes_->errors_end_the_run()) {
    write_status_ = writes_->Flush(true);
    if (write_status_.ok()) write_status_ = flusher_->Finish(handoffs_, read_status_.ok());
  }
  if (pipe_ != nullptr) pipe_->Finish();
  UpdateMetrics(/*last=*/true);
  if (!write_status_.ok()) {
    return absl::DataLossError(absl::StrCat(std::string(write_status_.message()), "; ended after ",
                                            flusher_->rows_written(), " rows, ",
                                            flusher_->rows_waiting(), " more were ready"));
  }
  if (!read_status_.ok()) return read_status_;
  WorkerCounts counts;
  for (const std::unique_ptr<Worker>& worker : workers_) counts.Add(worker->counts());
  const uint64_t times_left = collector_ != nullptr ? collector_->times_reliable_left() : 0;
  Log(absl::StrCat(
      Summary(counts, *flusher_, pipe_.get()),
      times_left == 0 ? "" : absl::StrCat("; ", times_left, " departures from reliable delivery")));
  return absl::OkStatus();
}

}  // namespace ctacct
