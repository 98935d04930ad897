// engine: accounts conntrack's traffic, live or from a capture. See README.md and `--help`.
//
// Threads: main is the timer thread (signals, flushing, port list); one thread reads dumps or the
// capture, and each worker has its own.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/accounting/dispatcher.h"
#include "engine/accounting/port_list.h"
#include "engine/accounting/row_limit.h"
#include "engine/accounting/worker.h"
#include "engine/input/collector.h"
#include "engine/input/replay.h"
#include "engine/input/table_guard.h"
#include "engine/metrics.h"
#include "engine/output/checkpoint.h"
#include "engine/output/flusher.h"
#include "engine/output/pipe_writer.h"
#include "engine/output/row_sink.h"
#include "engine/port_list_file.h"
#include "engine/restart.h"
#include "engine/rows/gateway_name.h"
#include "engine/rows/influx_line.h"
#include "engine/spool/engine_id.h"
#include "engine/spool/spool_backlog.h"
#include "engine/spool/spool_header.h"
#include "engine/system/command_line.h"
#include "engine/system/durable_file.h"
#include "engine/system/privileges.h"
#include "engine/system/prometheus_text.h"
#include "engine/system/service_manager.h"
#include "engine/system/unique_fd.h"
#include "netlink/conntrack_settings.h"
#include "netlink/ipv4_text.h"

namespace ctacct {
namespace {

constexpr int kIntervalSecondsMax = 86400;
// SO_RCVBUFFORCE takes an int and the kernel doubles it.
constexpr int kReceiveBufferBytesMax = 1 << 30;

// Flag values of our own types are checked where they stand: on the command line or in a line of a
// flag file.
struct Network {
  std::string text;  // Empty: every address.
  Ipv4Cidr cidr = kIpv4Everything;
};
bool AbslParseFlag(absl::string_view text, Network* network, std::string* why) {
  network->text = std::string(text);
  if (text.empty()) return true;
  const std::optional<Ipv4Cidr> cidr = ParseIpv4Cidr(network->text);
  if (cidr.has_value()) network->cidr = *cidr;
  *why = "not a network like 10.32.0.0/11";
  return cidr.has_value();
}
std::string AbslUnparseFlag(const Network& network) { return network.text; }

struct Mask {
  std::string text = "255.255.255.255";
  Ipv4Address mask = kIpv4MaskAll;
};
bool AbslParseFlag(absl::string_view text, Mask* mask, std::string* why) {
  mask->text = std::string(text);
  const std::optional<Ipv4Address> parsed = ParseIpv4Mask(mask->text);
  if (parsed.has_value()) mask->mask = *parsed;
  *why = "not a mask like 255.255.255.0 or /24";
  return parsed.has_value();
}
std::string AbslUnparseFlag(const Mask& mask) { return mask.text; }

struct Address {
  std::string text;  // Empty: none.
  std::optional<Ipv4Address> address;
};
bool AbslParseFlag(absl::string_view text, Address* address, std::string* why) {
  address->text = std::string(text);
  address->address = ParseIpv4Address(address->text);
  *why = "not an IPv4 address";
  return text.empty() || address->address.has_value();
}
std::string AbslUnparseFlag(const Address& address) { return address.text; }

template <int kMin, int kMax>
struct Bounded {
  int value = 0;
};
template <int kMin, int kMax>
bool AbslParseFlag(absl::string_view text, Bounded<kMin, kMax>* number, std::string* why) {
  *why = absl::StrCat("must be ", kMin, " to ", kMax);
  return absl::SimpleAtoi(text, &number->value) && number->value >= kMin && number->value <= kMax;
}
template <int kMin, int kMax>
std::string AbslUnparseFlag(const Bounded<kMin, kMax>& number) {
  return absl::StrCat(number.value);
}
using IntervalSeconds = Bounded<1, kIntervalSecondsMax>;
using MaxRows = Bounded<1, static_cast<int>(RowLimit::kMax)>;
using Workers = Bounded<1, static_cast<int>(kWorkersMax)>;
using ReceiveBufferBytes = Bounded<1, kReceiveBufferBytesMax>;

enum class OutputFormat { kSpool, kCsv };
bool AbslParseFlag(absl::string_view text, OutputFormat* format, std::string* why) {
  *format = text == "csv" ? OutputFormat::kCsv : OutputFormat::kSpool;
  *why = "must be spool or csv";
  return text == "spool" || text == "csv";
}
std::string AbslUnparseFlag(OutputFormat format) {
  return format == OutputFormat::kCsv ? "csv" : "spool";
}

enum class PipeFormat { kCsv, kInflux };
bool AbslParseFlag(absl::string_view text, PipeFormat* format, std::string* why) {
  *format = text == "influx" ? PipeFormat::kInflux : PipeFormat::kCsv;
  *why = "must be csv or influx";
  return text == "csv" || text == "influx";
}
std::string AbslUnparseFlag(PipeFormat format) {
  return format == PipeFormat::kInflux ? "influx" : "csv";
}

enum class Mode { kPrecise, kLight };
bool AbslParseFlag(absl::string_view text, Mode* mode, std::string* why) {
  *mode = text == "light" ? Mode::kLight : Mode::kPrecise;
  *why = "must be precise or light";
  return text == "precise" || text == "light";
}
std::string AbslUnparseFlag(Mode mode) { return mode == Mode::kLight ? "light" : "precise"; }

// More workers than this gain nothing on gateways that we know, and each costs the packet path a
// little: every event meets each socket's filter.
constexpr int kDefaultWorkersMax = 4;

int DefaultWorkers() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 1;
  return std::clamp(CPU_COUNT(&allowed), 1, kDefaultWorkersMax);
}

struct Gateway {
  std::string name;  // Empty: the host's.
};
bool AbslParseFlag(absl::string_view text, Gateway* gateway, std::string* why) {
  gateway->name = std::string(text);
  const absl::Status status = CheckGatewayName(text);
  *why = std::string(status.message());
  return status.ok();
}
std::string AbslUnparseFlag(const Gateway& gateway) { return gateway.name; }

struct User {
  std::string name;  // Empty: whoever started it.
  UserAccount account;
};
bool AbslParseFlag(absl::string_view text, User* user, std::string* why) {
  user->name = std::string(text);
  if (text.empty()) return true;
  const absl::StatusOr<UserAccount> account = FindUserAccount(user->name);
  *why = std::string(account.status().message());
  if (account.ok()) user->account = *account;
  return account.ok();
}
std::string AbslUnparseFlag(const User& user) { return user.name; }

}  // namespace
}  // namespace ctacct

ABSL_FLAG(ctacct::Network, src, {},
          "account only flows whose original source is in this network (CIDR)");
ABSL_FLAG(ctacct::Network, dst, {},
          "account only flows whose original destination is in this network (CIDR)");
ABSL_FLAG(ctacct::Mask, src_group_mask, {},
          "mask for sources: dotted, also non-contiguous, or /24");
ABSL_FLAG(ctacct::Mask, dst_group_mask, {},
          "mask for destinations: dotted, also non-contiguous, or /24");
ABSL_FLAG(ctacct::Address, exclude_ip, {}, "leave out flows from or to this address");
ABSL_FLAG(bool, include_icmp, false, "account ICMP too");
ABSL_FLAG(std::string, ports, "",
          "file of protocol:port lines; other ports are summed as -1; re-read when it changes");
ABSL_FLAG(ctacct::IntervalSeconds, interval, {15},
          "seconds for which traffic is summed, aligned to the epoch");
ABSL_FLAG(bool, track_open, false, "tell the number of connections open at each interval's end");
ABSL_FLAG(ctacct::MaxRows, max_rows, {static_cast<int>(ctacct::RowLimit::kDefault)},
          "rows of an interval; of more, as in a scan, the smallest are summed as one: 0.0.0.0 to "
          "0.0.0.0, protocol 0, port -1");
ABSL_FLAG(std::string, pipe, "", "FIFO to make and write rows to, a line each (for Telegraf)");
ABSL_FLAG(ctacct::PipeFormat, pipe_format, ctacct::PipeFormat::kCsv,
          "lines of the FIFO: csv, or influx (line protocol, with -gateway as a tag)");
ABSL_FLAG(std::string, output, "",
          "folder for files; without it and -pipe, CSV goes to standard output");
ABSL_FLAG(ctacct::OutputFormat, output_format, ctacct::OutputFormat::kSpool,
          "files in the output folder: spool or csv");
ABSL_FLAG(ctacct::Mode, mode, ctacct::Mode::kPrecise,
          "precise: births, closes and ends of flows; closes to the millisecond. light: ends and "
          "dumps only, the kernel builds almost no events; closes to the second");
ABSL_FLAG(ctacct::Workers, workers, {ctacct::DefaultWorkers()},
          "threads that account, each its share of the flows; default: CPUs, at most 4; with "
          "-record: 1");
ABSL_FLAG(ctacct::Gateway, gateway, {},
          "name of this gateway in the database; empty: the host name");
ABSL_FLAG(ctacct::User, user, {},
          "user to become, for good, with the user's groups; empty: stay who it is. Whoever it is, "
          "live it keeps CAP_NET_ADMIN only, and files must be within the user's reach");
ABSL_FLAG(std::string, replay, "", "capture to account instead of the kernel; needs no root");
ABSL_FLAG(std::string, record, "",
          "capture to write of all that is read from the kernel (of events: what -src, -dst and "
          "-include-icmp ask for)");
ABSL_FLAG(std::string, metrics_file, "",
          "file that tells how the engine does, in Prometheus' text format; replaced as a whole at "
          "each interval's end and when an alarm changes; everybody may read it");
ABSL_FLAG(ctacct::ReceiveBufferBytes, receive_buffer, {128 << 20},
          "bytes of kernel memory for bursts of events, about 640 each, shared out among the "
          "workers; the kernel doubles it");

ABSL_FLAG(
    bool, reliable, false,
    "no event is lost for want of receive buffer: the kernel keeps it and sends it again. The "
    "price: flows whose end cannot be delivered stay in conntrack's table, and a full table "
    "drops new connections; so the mode is left while the table is more than 85 % full. "
    "Other listeners may get events twice");

namespace ctacct {
namespace {

constexpr char kProgram[] = "engine";
constexpr char kUsage[] =
    "usage: engine [FLAGS]\n"
    "Sums conntrack's traffic per masked pair, protocol and port, for each interval. SIGTERM ends "
    "it\n"
    "with nothing lost; SIGHUP re-reads the port list. Live it needs CAP_NET_ADMIN.";
constexpr int kFlusherNice = 10;
constexpr int kTickMillis = 1000;  // Port list, and writes that failed.

int64_t WallClockNs() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

int64_t MonotonicNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

void Log(const std::string& line) { PrintError(kProgram, absl::UnknownError(line)); }

struct Config {
  AccountingRules rules;
  size_t workers = 1;
  size_t rows_max = RowLimit::kDefault;
  bool light = false;
  std::string gateway;
};

// What single flags cannot tell. Touches nothing; all its errors are of usage.
absl::StatusOr<Config> CheckFlags(const CommandLine& line) {
  if (!line.arguments.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("unexpected argument ", QuotedForLog(line.arguments[0])));
  }
  if (!absl::GetFlag(FLAGS_replay).empty() && !absl::GetFlag(FLAGS_record).empty()) {
    return absl::InvalidArgumentError("flag -record: a replay is a capture already");
  }
  Config config;
  AccountingRules& rules = config.rules;
  rules.src = absl::GetFlag(FLAGS_src).cidr;
  rules.dst = absl::GetFlag(FLAGS_dst).cidr;
  rules.src_group_mask = absl::GetFlag(FLAGS_src_group_mask).mask;
  rules.dst_group_mask = absl::GetFlag(FLAGS_dst_group_mask).mask;
  rules.exclude = absl::GetFlag(FLAGS_exclude_ip).address;
  rules.interval_ns = absl::GetFlag(FLAGS_interval).value * int64_t{1'000'000'000};
  rules.include_icmp = absl::GetFlag(FLAGS_include_icmp);
  rules.track_open = absl::GetFlag(FLAGS_track_open);
  // A recording has one order of what was read.
  config.workers = absl::GetFlag(FLAGS_record).empty()
                       ? static_cast<size_t>(absl::GetFlag(FLAGS_workers).value)
                       : 1;
  config.rows_max = static_cast<size_t>(absl::GetFlag(FLAGS_max_rows).value);
  config.light = absl::GetFlag(FLAGS_mode) == Mode::kLight;
  config.gateway = absl::GetFlag(FLAGS_gateway).name;
  if (config.gateway.empty()) {
    char name[256] = "";
    gethostname(name, sizeof(name) - 1);
    config.gateway = name;
    if (absl::Status status = CheckGatewayName(config.gateway); !status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("flag -gateway: not given, and the host's name will not do: ",
                       std::string(status.message())));
    }
  }
  if (absl::GetFlag(FLAGS_pipe_format) == PipeFormat::kInflux) {
    if (absl::Status status = CheckInfluxGateway(config.gateway); !status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("flag -gateway: with -pipe-format=influx, ", std::string(status.message())));
    }
  }
  return config;
}

// nullptr: rows go to the pipe only.
absl::StatusOr<std::unique_ptr<RowSink>> MakeSink(const Config& config, const EngineId& id,
                                                  int signal_fd) {
  const std::string folder = absl::GetFlag(FLAGS_output);
  const bool track_open = config.rules.track_open;
  if (folder.empty()) {
    if (!absl::GetFlag(FLAGS_pipe).empty()) return std::unique_ptr<RowSink>();
    return std::make_unique<StandardOutputSink>(track_open, signal_fd);
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
  RemoveAbandonedFiles(folder);
  if (absl::GetFlag(FLAGS_output_format) == OutputFormat::kCsv) {
    return std::make_unique<CsvSink>(folder, track_open);
  }
  SpoolHeader header;
  header.engine_id = id;
  header.interval_length_ns = config.rules.interval_ns;
  header.track_open = track_open;
  header.gateway = config.gateway;
  return std::make_unique<SpoolSink>(folder, header);
}

std::string Summary(const WorkerCounts& counts, const Flusher& flusher, const PipeWriter* pipe) {
  std::string text = absl::StrCat(
      flusher.intervals_written(), " intervals, ", flusher.rows_written(),
      " rows; events: ", counts.events_new, " new, ", counts.events_update, " update, ",
      counts.events_destroy, " destroy; ", counts.dump_entries, " dump entries");
  const std::pair<uint64_t, const char*> oddities[] = {
      {counts.filtered, "filtered"},
      {counts.skipped_ipv6, "IPv6 skipped"},
      {counts.malformed, "malformed"},
      {counts.without_counters, "without counters"},
      {counts.duplicate_destroys, "repeated"},
      {counts.stale_dump_entries, "dumped after their end"},
      {counts.counter_falls, "counter falls"},
      {counts.unknown_destroys, "older than the engine"},
      {counts.overruns, "overruns"},
      {counts.events_dropped, "events dropped by the kernel"},
      {counts.forgotten_flows, "flows whose end was lost"},
      {flusher.rows_folded(), "rows summed as one (-max-rows)"},
  };
  for (const auto& [count, what] : oddities) {
    if (count != 0) absl::StrAppend(&text, "; ", count, " ", what);
  }
  if (pipe != nullptr) {
    absl::StrAppend(&text, "; pipe: ", pipe->lines_written(), " lines written, ",
                    pipe->lines_dropped(), " dropped");
  }
  return text;
}

// Flushes what is sealed. Says once when writing fails, and once when it works again.
class FlushReporter {
 public:
  FlushReporter(Flusher* flusher, std::vector<AccountingHandoff*> handoffs,
                const Privileges& privileges, bool silent)
      : flusher_(flusher),
        handoffs_(std::move(handoffs)),
        privileges_(privileges),
        silent_(silent) {}

  absl::Status Flush(bool last) {
    const uint64_t written = flusher_->intervals_written();
    const int64_t begun_ns = MonotonicNs();
    const absl::Status status = privileges_.Explain(flusher_->Flush(handoffs_, last));
    working_ns_ += MonotonicNs() - begun_ns;
    failures_ = status.ok() ? 0 : failures_ + 1;
    if (flusher_->intervals_written() != written) {
      last_write_ns_ = WallClockNs();
      last_flush_ns_ = std::exchange(working_ns_, 0);
      flush_ns_ += last_flush_ns_;
    }
    NoteFolding();
    if (status.ok() != last_.ok() && !silent_) {
      Log(status.ok() ? std::string("rows can be written again")
                      : absl::StrCat(std::string(status.message()), "; ", flusher_->rows_waiting(),
                                     " rows wait in memory"));
    }
    return last_ = status;
  }

  uint64_t failures() const { return failures_; }  // Since the last success.
  int64_t last_write_ns() const { return last_write_ns_; }
  // Spent on what was written: in all, and on what was written last.
  int64_t flush_ns() const { return flush_ns_; }
  int64_t last_flush_ns() const { return last_flush_ns_; }

 private:
  // Says so when it begins.
  void NoteFolding() {
    if (flusher_->intervals().last_end_ns == last_end_ns_) return;
    last_end_ns_ = flusher_->intervals().last_end_ns;
    const bool folds = flusher_->rows_folded() != rows_folded_;
    rows_folded_ = flusher_->rows_folded();
    if (folds && !folds_) {
      Log("an interval has more rows than -max-rows; the smallest are summed as one");
    }
    folds_ = folds;
  }

  Flusher* const flusher_;
  const std::vector<AccountingHandoff*> handoffs_;
  const Privileges privileges_;
  const bool silent_;  // An error ends the program, whose last words name it.
  absl::Status last_;
  uint64_t failures_ = 0;
  int64_t last_write_ns_ = 0;
  int64_t working_ns_ = 0;  // On what is not written yet.
  int64_t flush_ns_ = 0;
  int64_t last_flush_ns_ = 0;
  int64_t last_end_ns_ = 0;
  uint64_t rows_folded_ = 0;
  bool folds_ = false;
};

// What of the metrics is known before anything is accounted, and stays.
EngineMetrics StartMetrics(const Config& config) {
  EngineMetrics metrics;
  metrics.gateway = config.gateway;
  metrics.interval_ns = config.rules.interval_ns;
  metrics.started_ns = WallClockNs();
  metrics.has_pipe = !absl::GetFlag(FLAGS_pipe).empty();
  if (!absl::GetFlag(FLAGS_output).empty()) metrics.spool.emplace();
  return metrics;
}

// For whoever asks the service manager how it goes.
std::string ServiceStatus(const Flusher& flusher, const FlushReporter& writes) {
  if (writes.failures() != 0) {
    return absl::StrCat("rows cannot be written (see the log), ", flusher.rows_waiting(),
                        " wait in memory; accounting goes on");
  }
  uint64_t flows = 0;
  for (const uint64_t of_worker : flusher.worker_flows()) flows += of_worker;
  return absl::StrCat(
      "last interval ended ",
      absl::FormatTime("%H:%M:%S UTC", absl::FromUnixNanos(flusher.intervals().last_end_ns),
                       absl::UTCTimeZone()),
      "; ", flusher.rows_written(), " rows written, ", flusher.rows_waiting(), " wait; ", flows,
      " flows");
}

// Proves that it can be written, before anything is accounted.
absl::StatusOr<std::optional<MetricsFile>> MakeMetricsFile(const EngineMetrics& metrics) {
  const std::string path = absl::GetFlag(FLAGS_metrics_file);
  if (path.empty()) return std::optional<MetricsFile>();
  absl::StatusOr<MetricsFile> file = MetricsFile::Open(path);
  if (!file.ok()) return file.status();
  if (absl::Status status = file->Write(MetricsText(metrics)); !status.ok()) return status;
  return std::optional<MetricsFile>(*std::move(file));
}

// How the port list's file does.
struct PortListHealth {
  uint64_t errors = 0;
  bool failing = false;
};

// Keeps the metrics file as new as what it is made of.
class MetricsReporter {
 public:
  MetricsReporter(std::optional<MetricsFile> file, EngineMetrics metrics, const Flusher* flusher,
                  const FlushReporter* writes, const PipeWriter* pipe, const Collector* collector)
      : file_(std::move(file)),
        metrics_(std::move(metrics)),
        flusher_(flusher),
        writes_(writes),
        pipe_(pipe),
        collector_(collector),
        spool_(absl::GetFlag(FLAGS_output)) {}

  void Update(const PortListHealth& ports, bool last = false) {
    if (!file_.has_value()) return;
    const bool interval_ended =
        metrics_.intervals.last_end_ns != flusher_->intervals().last_end_ns ||
        metrics_.intervals_written != flusher_->intervals_written();
    metrics_.counts = WorkerCounts();
    for (const WorkerCounts& counts : flusher_->worker_counts()) metrics_.counts.Add(counts);
    metrics_.flows = 0;
    for (const uint64_t flows : flusher_->worker_flows()) metrics_.flows += flows;
    metrics_.intervals = flusher_->intervals();
    metrics_.intervals_written = flusher_->intervals_written();
    metrics_.rows_written = flusher_->rows_written();
    metrics_.last_interval_rows = flusher_->last_interval_rows();
    metrics_.rows_waiting = flusher_->rows_waiting();
    metrics_.rows_folded = flusher_->rows_folded();
    metrics_.write_failures = writes_->failures();
    metrics_.last_write_ns = writes_->last_write_ns();
    metrics_.flush_ns = writes_->flush_ns();
    metrics_.last_flush_ns = writes_->last_flush_ns();
    if (pipe_ != nullptr) {
      metrics_.pipe_lines_written = pipe_->lines_written();
      metrics_.pipe_lines_dropped = pipe_->lines_dropped();
    }
    metrics_.port_list_errors = ports.errors;
    metrics_.port_list_failing = ports.failing;
    if (collector_ != nullptr) UpdateLive(interval_ended);
    // Not each second: a look at the folder takes its time.
    if (metrics_.spool.has_value() && (interval_ended || last)) {
      metrics_.spool = spool_.Measure(/*now=*/last);
    }
    file_->Refresh(MetricsText(metrics_), Log);
  }

 private:
  void UpdateLive(bool interval_ended) {
    const LiveMetrics before = metrics_.live.value_or(LiveMetrics());
    metrics_.live = collector_->metrics();
    metrics_.live->conntrack_entries = before.conntrack_entries;
    metrics_.live->conntrack_entries_max = before.conntrack_entries_max;
    // It changes all the time.
    if (!interval_ended && before.conntrack_entries_max != 0) return;
    const TableFill fill = ReadTableFill().value_or(TableFill());
    metrics_.live->conntrack_entries = fill.flows;
    metrics_.live->conntrack_entries_max = fill.flows_max;
  }

  std::optional<MetricsFile> file_;
  EngineMetrics metrics_;  // As last told.
  const Flusher* const flusher_;
  const FlushReporter* const writes_;
  const PipeWriter* const pipe_;
  const Collector* const collector_;
  SpoolBacklogMeter spool_;
};

void ReloadPorts(PortListFile* ports, const Privileges& privileges, bool forced,
                 PortListHealth* health) {
  absl::StatusOr<bool> changed = forced ? absl::StatusOr<bool>(true) : ports->ReloadIfChanged();
  if (forced) {
    if (absl::Status status = ports->Load(); !status.ok()) changed = status;
  }
  if (!changed.ok()) {
    ++health->errors;
    health->failing = true;
    Log(absl::StrCat(std::string(privileges.Explain(changed.status()).message()),
                     "; the last good list stays"));
    return;
  }
  if (*changed) health->failing = false;
  if (const auto list = ports->current().Get(); *changed && list != nullptr) {
    Log(absl::StrCat("port list re-read: ", list->size(), " ports"));
  }
}

absl::Status RunEngine(const Config& config) {
  const std::string replay = absl::GetFlag(FLAGS_replay);
  const std::string pipe_path = absl::GetFlag(FLAGS_pipe);

  // Blocked in all threads; main takes them from a descriptor.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  const UniqueFd signal_fd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  const UniqueFd sealed_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const UniqueFd wake_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!signal_fd.valid() || !sealed_fd.valid() || !wake_fd.valid()) {
    return absl::ResourceExhaustedError(absl::StrCat("descriptors: ", strerror(errno)));
  }

  // Before any file: what can be opened now can be opened again later. Before any thread.
  Privileges::Options rights;
  rights.keep_net_admin = replay.empty();
  const User user = absl::GetFlag(FLAGS_user);
  if (!user.name.empty()) rights.user = &user.account;
  const absl::StatusOr<Privileges> privileges = Privileges::Drop(rights);
  if (!privileges.ok()) return privileges.status();

  PortListFile ports(absl::GetFlag(FLAGS_ports));
  if (absl::Status status = ports.Load(); !status.ok()) return privileges->Explain(status);
  const absl::StatusOr<EngineId> id = NewEngineId();
  if (!id.ok()) return id.status();
  const absl::StatusOr<std::unique_ptr<RowSink>> sink = MakeSink(config, *id, signal_fd.get());
  if (!sink.ok()) return privileges->Explain(sink.status());
  EngineMetrics start_metrics = StartMetrics(config);
  absl::StatusOr<std::optional<MetricsFile>> metrics_file = MakeMetricsFile(start_metrics);
  if (!metrics_file.ok()) return privileges->Explain(metrics_file.status());
  absl::StatusOr<CaptureTraits> capture = CaptureTraits();
  if (!replay.empty()) {
    capture = ExamineCapture(replay);
    if (!capture.ok()) return privileges->Explain(capture.status());
  }
  std::unique_ptr<PipeWriter> pipe;
  if (!pipe_path.empty()) {
    absl::StatusOr<std::unique_ptr<PipeWriter>> opened = PipeWriter::Open(pipe_path);
    if (!opened.ok()) return privileges->Explain(opened.status());
    pipe = *std::move(opened);
  }
  std::vector<std::unique_ptr<AccountingHandoff>> owned_handoffs;
  std::vector<AccountingHandoff*> handoffs;
  for (size_t i = 0; i < config.workers; ++i) {
    owned_handoffs.push_back(std::make_unique<AccountingHandoff>());
    handoffs.push_back(owned_handoffs.back().get());
  }
  ServiceManager manager;
  std::unique_ptr<Collector> collector;
  TcpTimeouts tcp_timeouts;
  if (replay.empty()) {
    // Before the subscription, that no flow is born between them without counters; but the
    // subscription may be what loads conntrack.
    absl::Status prepared = PrepareConntrack(config.light, Log);
    Collector::Options options;
    options.rules = config.rules;
    options.destroy_only = config.light;
    options.receive_buffer_bytes = static_cast<size_t>(absl::GetFlag(FLAGS_receive_buffer).value);
    options.record = absl::GetFlag(FLAGS_record);
    options.log = Log;
    options.manager = &manager;
    options.reliable = absl::GetFlag(FLAGS_reliable);
    absl::StatusOr<std::unique_ptr<Collector>> opened =
        Collector::Open(std::move(options), handoffs);
    if (!opened.ok()) {
      // Of a file, if it is the capture; otherwise of the kernel, and files have no part in it.
      return absl::GetFlag(FLAGS_record).empty() ? opened.status()
                                                 : privileges->Explain(opened.status());
    }
    collector = *std::move(opened);
    if (absl::IsUnavailable(prepared)) prepared = PrepareConntrack(config.light, Log);
    if (!prepared.ok()) return prepared;
    tcp_timeouts = ReadTcpTimeouts();
  }
  std::unique_ptr<Checkpoint> checkpoint;
  std::vector<std::unique_ptr<SnapshotStream>> snapshots;
  if (collector != nullptr && !absl::GetFlag(FLAGS_output).empty()) {
    absl::StatusOr<std::unique_ptr<Checkpoint>> opened =
        Checkpoint::Open(absl::GetFlag(FLAGS_output), config.gateway);
    if (!opened.ok()) return privileges->Explain(opened.status());
    checkpoint = *std::move(opened);
  }

  const auto notify = [](const UniqueFd& fd) {
    const uint64_t one = 1;
    // Fails only if the counter is full, and then the reader will wake anyway.
    [[maybe_unused]] const ssize_t ignored = write(fd.get(), &one, sizeof(one));
  };
  Flusher::Options flusher_options;
  flusher_options.track_open = config.rules.track_open;
  flusher_options.rows_max = config.rows_max;
  flusher_options.wait_for_pipe = !replay.empty();
  flusher_options.sink = sink->get();
  flusher_options.pipe = pipe.get();
  if (absl::GetFlag(FLAGS_pipe_format) == PipeFormat::kInflux) {
    flusher_options.influx.emplace(config.gateway);
  }
  flusher_options.ports = &ports.current();
  flusher_options.checkpoint = checkpoint.get();
  for (size_t i = 0; checkpoint != nullptr && i < config.workers; ++i) {
    snapshots.push_back(std::make_unique<SnapshotStream>());
    flusher_options.snapshots.push_back(snapshots.back().get());
  }
  flusher_options.log = Log;
  Flusher flusher(std::move(flusher_options));
  // A live engine outlasts a full disk; a replay, or a standard output that is gone, does not.
  const bool write_errors_end_it = !replay.empty() || absl::GetFlag(FLAGS_output).empty();
  FlushReporter reporter(&flusher, handoffs, *privileges, write_errors_end_it);
  MetricsReporter metrics(*std::move(metrics_file), std::move(start_metrics), &flusher, &reporter,
                          pipe.get(), collector.get());

  std::vector<std::unique_ptr<Worker>> workers;
  for (size_t i = 0; i < config.workers; ++i) {
    Worker::Options options;
    options.rules = config.rules;
    options.tcp_timeouts = tcp_timeouts;
    options.snapshots = checkpoint == nullptr ? nullptr : snapshots[i].get();
    options.wait_for_spare = !replay.empty();
    options.rows_max = config.rows_max;
    options.sealed = [&] { notify(sealed_fd); };
    workers.push_back(std::make_unique<Worker>(std::move(options), handoffs[i], &ports.current()));
  }
  if (checkpoint != nullptr) {
    RestartOptions restart;
    restart.rules = config.rules;
    restart.engine_id = *id;
    restart.recorded = !absl::GetFlag(FLAGS_record).empty();
    restart.log = Log;
    absl::Status restarted = Restart(restart, workers, collector.get(), checkpoint.get());
    if (!restarted.ok()) return restarted;
  }
  Dispatcher::Options dispatch;
  dispatch.interval_ns = config.rules.interval_ns;
  dispatch.interval_end = capture->interval_end;
  dispatch.timestamps_on = capture->timestamps_on;
  dispatch.silent_intervals = config.rules.track_open;

  std::atomic<bool> stop{false};
  std::atomic<bool> finished{false};
  absl::Status read_status;
  std::thread thread([&] {
    read_status = collector != nullptr
                      ? collector->Run(workers, TimestampsAreOn(), &stop, wake_fd.get())
                      : Replay(replay, dispatch, workers, stop);
    finished.store(true, std::memory_order_release);
    notify(sealed_fd);
  });

  // Files may wait a little; packets may not.
  setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kFlusherNice);
  PortListHealth port_list;
  absl::Status write_status;
  while (!finished.load(std::memory_order_acquire)) {
    pollfd fds[] = {{signal_fd.get(), POLLIN, 0}, {sealed_fd.get(), POLLIN, 0}};
    poll(fds, 2, kTickMillis);
    uint64_t drained = 0;
    [[maybe_unused]] ssize_t ignored = read(sealed_fd.get(), &drained, sizeof(drained));
    signalfd_siginfo info{};
    while (read(signal_fd.get(), &info, sizeof(info)) == sizeof(info)) {
      if (info.ssi_signo == SIGHUP) {
        ReloadPorts(&ports, *privileges, true, &port_list);
      } else {
        manager.TellStopping();
        stop.store(true);
        notify(wake_fd);
      }
    }
    ReloadPorts(&ports, *privileges, false, &port_list);
    // Once it is to end, the last tables are taken even if the backlog is full: the worker waits.
    const absl::Status flushed = reporter.Flush(stop.load());
    metrics.Update(port_list);
    if (flusher.intervals().last_end_ns != 0) {
      manager.TellStatus(ServiceStatus(flusher, reporter));
    }
    // The first one is what ended it, even if a later attempt went well.
    if (write_status.ok() || !write_errors_end_it) write_status = flushed;
    if (!write_status.ok() && write_errors_end_it) {
      stop.store(true);
      notify(wake_fd);
    }
  }
  thread.join();
  manager.TellStopping();  // Also of its own accord: from here on nobody feeds a watchdog.
  if (write_status.ok() || !write_errors_end_it) {
    write_status = reporter.Flush(true);
    if (write_status.ok()) write_status = flusher.Finish(handoffs, read_status.ok());
  }
  if (pipe != nullptr) pipe->WaitDelivered();
  metrics.Update(port_list, /*last=*/true);
  if (!write_status.ok()) {
    return absl::DataLossError(absl::StrCat(std::string(write_status.message()), "; ended after ",
                                            flusher.rows_written(), " rows, ",
                                            flusher.rows_waiting(), " more were ready"));
  }
  WorkerCounts counts;
  for (const std::unique_ptr<Worker>& worker : workers) counts.Add(worker->counts());
  const uint64_t times_left = collector != nullptr ? collector->times_reliable_left() : 0;
  if (read_status.ok()) {
    const std::string departures =
        times_left == 0 ? "" : absl::StrCat("; ", times_left, " departures from reliable delivery");
    Log(absl::StrCat(Summary(counts, flusher, pipe.get()), departures));
  }
  return read_status;
}

// What is closed is opened on /dev/null, or the first files opened would be taken for it. False if
// standard output was closed.
bool OpenStandardDescriptors() {
  const bool has_output = fcntl(STDOUT_FILENO, F_GETFD) >= 0;
  int fd = open("/dev/null", O_RDWR);
  while (fd >= 0 && fd <= STDERR_FILENO) fd = open("/dev/null", O_RDWR);
  if (fd >= 0) close(fd);
  return has_output;
}

int Main(int argc, char** argv) {
  const bool has_output = OpenStandardDescriptors();
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  if (!line.ok()) {
    PrintError(kProgram, line.status());
    return kExitUsageError;
  }
  if (line->help) {
    std::fputs(FlagsHelp(kUsage).c_str(), stdout);
    return kExitOk;
  }
  const absl::StatusOr<Config> config = CheckFlags(*line);
  if (!config.ok()) {
    PrintError(kProgram, config.status());
    return kExitUsageError;
  }
  absl::Status status;
  if (!has_output && absl::GetFlag(FLAGS_output).empty() && absl::GetFlag(FLAGS_pipe).empty()) {
    status = absl::FailedPreconditionError("standard output is closed; give -output or -pipe");
  } else {
    status = RunEngine(*config);
  }
  if (status.ok()) return kExitOk;
  PrintError(kProgram, status);
  return kExitOperatingError;
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::Main(argc, argv); }
