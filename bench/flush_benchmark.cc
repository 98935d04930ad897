// Does a worker feel it when a million keys are flushed?
//
// A worker accounts DESTROY events of --keys pairs without a rest, on a CPU of its own, and seals a
// table every --seal_seconds, while the flusher (on another CPU, at its lower priority, as in the
// engine) turns the tables into rows and spool files on disk. Told are the longest times that one
// batch of 64 events took: while a flush ran, with the sealing itself, and while none ran. What a
// batch takes longer when nothing is flushed is what this machine does to any program; of several
// runs the least maximum counts. The rows are read back: their sums must be what was accounted.
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
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
#include "engine/command_line.h"
#include "engine/engine_id.h"
#include "engine/flusher.h"
#include "engine/spool_reader.h"
#include "engine/worker.h"

ABSL_FLAG(uint32_t, keys, 1'000'000, "pairs accounted in each interval");
ABSL_FLAG(double, seal_seconds, 2, "from one seal to the next");
ABSL_FLAG(int, flushes, 5, "intervals");
ABSL_FLAG(std::string, folder, "/tmp", "where the spool files go for a moment");

namespace ctacct {
namespace {

constexpr char kProgram[] = "flush_benchmark";
constexpr int kBatch = 64;
constexpr int kFlusherNice = 10;
constexpr int64_t kSecond = 1'000'000'000;

using Clock = std::chrono::steady_clock;

double MillisSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

void PinTo(size_t cpu) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(cpu, &cpus);
  pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus);
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
  PortListFile ports("");
  Worker::Options options;
  options.rules.interval_ns = kSecond;
  Worker worker(options, &handoff, &ports);
  worker.Start(1'700'000'000 * kSecond);

  std::atomic<bool> flushing{false};
  std::atomic<bool> done{false};
  double flush_millis = 0;
  std::thread flusher_thread([&] {
    setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kFlusherNice);
    SpoolHeader header;
    header.engine_id = NewEngineId().value();
    header.interval_length_ns = kSecond;
    header.gateway = "bench";
    Flusher::Options flusher_options;
    flusher_options.sink = SpoolSink(folder, header);
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
  std::vector<FlowEvent> batch(kBatch);
  uint32_t number = 0;
  double longest_in_flush = 0, longest_else = 0, longest_seal = 0;
  uint64_t batches_in_flush = 0;
  auto next_seal = Clock::now();
  const auto seal_every = std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(absl::GetFlag(FLAGS_seal_seconds)));
  next_seal += seal_every;
  for (int64_t interval = 1; interval <= absl::GetFlag(FLAGS_flushes) + 1;) {
    for (FlowEvent& event : batch) event = Ended(number++, keys);
    const bool in_flush = flushing.load();
    const auto start = Clock::now();
    for (const FlowEvent& event : batch) worker.OnFlow(event, event.start_ns);
    worker.ApplyPending();
    if (start >= next_seal) {
      const auto seal = Clock::now();
      worker.Seal((1'700'000'000 + interval) * kSecond);
      longest_seal = std::max(longest_seal, MillisSince(seal));
      next_seal += seal_every;
      ++interval;
    }
    // The first interval has the table grow from nothing, as an engine's very first does.
    const double millis = MillisSince(start);
    double& longest = in_flush ? longest_in_flush : longest_else;
    longest = std::max(longest, millis);
    batches_in_flush += in_flush;
  }
  done.store(true);
  flusher_thread.join();

  uint64_t packets = 0, rows = 0;
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
    }
  }
  std::filesystem::remove_all(folder);
  const bool exact = packets == uint64_t{number} * 2;
  std::printf(
      "{\"events\": %u, \"rows\": %lu, \"keys\": %u, \"exact\": %s,\n"
      " \"flush_ms\": %.0f, \"events_during_flushes\": %lu,\n"
      " \"longest_batch_during_flush_ms\": %.3f, \"longest_seal_ms\": %.3f,"
      " \"longest_batch_else_ms\": %.3f}\n",
      number, rows, keys, exact ? "true" : "false", flush_millis, batches_in_flush * kBatch,
      longest_in_flush, longest_seal, longest_else);
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
