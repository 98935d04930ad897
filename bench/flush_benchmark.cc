// Does a worker feel it when a million keys are flushed?
//
// A worker accounts DESTROY events of --keys pairs without a rest, on a CPU of its own, and seals a
// table every --seal_seconds, while the flusher, on another CPU, turns the tables into rows and
// spool files on disk. (Where a busy worker and the flusher share a CPU, the scheduler gives the
// flusher some milliseconds at a time.) Told are the longest times that one batch of 64 events
// took, the sealing included: while a flush ran, and while none ran; on the wall clock, and of this
// thread's own CPU time (what the machine gives to others, it does not count). The same is told of
// a loop that only computes, for as long: so much this machine takes from any program. The rows are
// read back: their sums must be what was accounted. With them is measured what the flusher pays
// for a line of the FIFO, in both formats.
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/statusor.h"
#include "engine/accounting/worker.h"
#include "engine/output/flusher.h"
#include "engine/rows/csv.h"
#include "engine/rows/influx_line.h"
#include "engine/spool/engine_id.h"
#include "engine/spool/spool_reader.h"
#include "engine/system/command_line.h"

ABSL_FLAG(uint32_t, keys, 1'000'000, "pairs accounted in each interval");
ABSL_FLAG(double, seal_seconds, 2, "from one seal to the next");
ABSL_FLAG(int, flushes, 5, "intervals");
ABSL_FLAG(std::string, folder, "/tmp", "where the spool files go for a moment");

namespace ctacct {
namespace {

constexpr char kProgram[] = "flush_benchmark";
constexpr int kBatch = 64;
constexpr int64_t kSecond = 1'000'000'000;

using Clock = std::chrono::steady_clock;

double MillisSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

double ThreadCpuMillis() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

template <typename Work>
double CpuMillisOf(const Work& work) {
  const double start = ThreadCpuMillis();
  work();
  return ThreadCpuMillis() - start;
}

// The longest times of what was done between Begin and End.
class Longest {
 public:
  void Begin() {
    start_ = Clock::now();
    cpu_start_ms_ = ThreadCpuMillis();
  }
  void End() {
    cpu_ms = std::max(cpu_ms, ThreadCpuMillis() - cpu_start_ms_);
    wall_ms = std::max(wall_ms, MillisSince(start_));
  }

  double wall_ms = 0;
  double cpu_ms = 0;

 private:
  Clock::time_point start_;
  double cpu_start_ms_ = 0;
};

void PinTo(size_t cpu) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(cpu, &cpus);
  pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus);
}

// As long as a batch of events.
uint64_t Compute(uint64_t value) {
  for (int i = 0; i < 5'000; ++i) value = value * 6364136223846793005u + 1442695040888963407u;
  return value;
}

FlowEvent Ended(uint32_t number, uint32_t keys) {
  FlowEvent event;
  event.kind = FlowEventKind::kDestroy;
  event.identity.src = Ipv4Address::FromHostOrder(0x0a000000 + number % keys);
  event.identity.dst = Ipv4Address::FromHostOrder(0x0b000001);
  event.identity.src_port = static_cast<uint16_t>(number / keys);
  event.identity.dst_port = 53;
  event.identity.protocol = kProtocolUdp;
  event.identity.id = number;
  event.has_counters = true;
  event.original = {2, 200};
  event.reply = {1, 100};
  event.start_ns = 1'700'000'000 * kSecond + number;
  return event;
}

int Run() {
  const uint32_t keys = absl::GetFlag(FLAGS_keys);
  std::string folder = absl::GetFlag(FLAGS_folder) + "/ctacct-flush.XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) {
    PrintError(kProgram, absl::UnavailableError(folder + ": cannot be made"));
    return kExitOperatingError;
  }
  AccountingHandoff handoff;
  CurrentPortList ports;
  Worker::Options options;
  options.rules.interval_ns = kSecond;
  Worker worker(options, &handoff, &ports);
  worker.Start(1'700'000'000 * kSecond, true);

  std::atomic<bool> flushing{false};
  std::atomic<bool> done{false};
  double flush_millis = 0;
  std::thread flusher_thread([&] {
    PinTo(1);
    SpoolHeader header;
    header.engine_id = NewEngineId().value();
    header.interval_length_ns = kSecond;
    header.gateway = "bench";
    SpoolSink sink(folder, header);
    Flusher::Options flusher_options;
    flusher_options.sink = &sink;
    Flusher flusher(std::move(flusher_options));
    uint64_t written = 0;
    for (bool last = false; !last;) {
      last = done.load();
      const auto start = Clock::now();
      flushing.store(true);
      const absl::Status status = flusher.Flush({&handoff}, true);
      flushing.store(false);
      if (!status.ok()) PrintError(kProgram, status);
      if (flusher.intervals_written() != written) {
        written = flusher.intervals_written();
        flush_millis = std::max(flush_millis, MillisSince(start));
      }
      usleep(1000);
    }
  });

  PinTo(0);
  const auto seal_every = std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(absl::GetFlag(FLAGS_seal_seconds)));
  Longest computing;
  uint64_t computed = 1;
  for (const auto end = Clock::now() + absl::GetFlag(FLAGS_flushes) * seal_every;
       Clock::now() < end;) {
    computing.Begin();
    computed = Compute(computed);
    computing.End();
  }

  std::vector<FlowEvent> batch(kBatch);
  uint32_t number = 0;
  Longest in_flush_longest, else_longest;
  uint64_t batches_in_flush = 0;
  auto next_seal = Clock::now() + seal_every;
  for (int64_t interval = 1; interval <= absl::GetFlag(FLAGS_flushes) + 1;) {
    for (FlowEvent& event : batch) event = Ended(number++, keys);
    const bool in_flush = flushing.load();
    Longest& longest = in_flush ? in_flush_longest : else_longest;
    longest.Begin();
    for (const FlowEvent& event : batch) worker.OnFlow(event, event.start_ns);
    worker.ApplyPending();
    if (Clock::now() >= next_seal) {
      worker.Seal((1'700'000'000 + interval) * kSecond);
      next_seal += seal_every;
      ++interval;
    }
    longest.End();
    batches_in_flush += in_flush;
  }
  done.store(true);
  flusher_thread.join();

  uint64_t packets = 0, rows = 0;
  double csv_ms = 0, influx_ms = 0;
  const InfluxLineEncoder influx("bench");
  std::string lines;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    absl::StatusOr<SpoolReader> reader = SpoolReader::Open(entry.path());
    if (!reader.ok()) {
      PrintError(kProgram, reader.status());
      return kExitOperatingError;
    }
    std::vector<TrafficRow> block;
    for (;;) {
      const absl::StatusOr<bool> more = reader->ReadBlock(&block);
      if (!more.ok() || !*more) break;
      for (const TrafficRow& row : block) packets += row.packets_src;
      rows += block.size();
      csv_ms += CpuMillisOf([&] {
        for (const TrafficRow& row : block) AppendCsvLine(row, true, &lines);
      });
      lines.clear();
      influx_ms += CpuMillisOf([&] {
        for (const TrafficRow& row : block) influx.Append(row, true, &lines);
      });
      lines.clear();
    }
  }
  std::filesystem::remove_all(folder);
  const bool exact = packets == uint64_t{number} * 2;
  std::printf(
      "{\"events\": %u, \"rows\": %lu, \"keys\": %u, \"exact\": %s,\n"
      " \"flush_ms\": %.0f, \"events_during_flushes\": %lu,\n"
      " \"pipe_line_ns\": {\"csv\": %.0f, \"influx\": %.0f},\n"
      " \"longest_batch_during_flush_ms\": {\"wall\": %.3f, \"cpu\": %.3f},\n"
      " \"longest_batch_else_ms\": {\"wall\": %.3f, \"cpu\": %.3f},\n"
      " \"longest_computing_ms\": {\"wall\": %.3f, \"cpu\": %.3f}, \"computed\": %u}\n",
      number, rows, keys, exact ? "true" : "false", flush_millis, batches_in_flush * kBatch,
      csv_ms * 1e6 / static_cast<double>(rows), influx_ms * 1e6 / static_cast<double>(rows),
      in_flush_longest.wall_ms, in_flush_longest.cpu_ms, else_longest.wall_ms, else_longest.cpu_ms,
      computing.wall_ms, computing.cpu_ms, static_cast<unsigned>(computed & 1));
  return exact ? kExitOk : kExitOperatingError;
}

int Main(int argc, char** argv) {
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  if (!line.ok()) {
    PrintError(kProgram, line.status());
    return kExitUsageError;
  }
  if (line->help) {
    std::cout << FlagsHelp("usage: flush_benchmark [FLAGS]");
    return kExitOk;
  }
  return Run();
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::Main(argc, argv); }
