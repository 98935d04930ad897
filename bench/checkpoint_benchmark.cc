// What does it cost to be able to restart?
//
// A worker knows --flows flows and accounts growth of them, as dumps tell it, without a rest; every
// --seal_seconds an interval ends, and a copy of all flows goes to the flusher, which writes it as
// a checkpoint, while the worker goes on. The same without checkpoints, in turn. Told are: CPU time
// of the worker for an event, with and without; for each checkpoint the CPU time of the flusher,
// its bytes, and how long after the interval's end it was in force; and the longest time that the
// worker was busy with 64 events and its share of the copy.
#include <sched.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/statusor.h"
#include "engine/accounting/worker.h"
#include "engine/output/checkpoint.h"
#include "engine/output/flusher.h"
#include "engine/spool/engine_id.h"
#include "engine/system/command_line.h"

ABSL_FLAG(uint32_t, flows, 1'000'000, "flows that live");
ABSL_FLAG(uint32_t, pairs, 10'000, "pairs of addresses that they belong to");
ABSL_FLAG(double, seal_seconds, 2, "from one interval's end to the next");
ABSL_FLAG(int, intervals, 5, "with checkpoints, and as many without");
ABSL_FLAG(std::string, folder, "/tmp", "where files go for a moment");

namespace ctacct {
namespace {

constexpr char kProgram[] = "checkpoint_benchmark";
constexpr int kBatch = 64;
constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kStart = 1'700'000'000 * kSecond;

double CpuMillis() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

void PinTo(size_t cpu) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(cpu, &cpus);
  pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus);
}

FlowEvent Shown(uint32_t number, uint32_t pairs, uint64_t packets) {
  FlowEvent event;
  event.kind = FlowEventKind::kDump;
  event.identity.src = Ipv4Address::FromHostOrder(0x0a000000 + number % pairs);
  event.identity.dst = Ipv4Address::FromHostOrder(0x0b000001);
  event.identity.src_port = static_cast<uint16_t>(number / pairs);
  event.identity.dst_port = 53;
  event.identity.protocol = kProtocolUdp;
  event.identity.id = number;
  event.has_counters = true;
  event.original = {packets, packets * 100};
  event.start_ns = kStart + 1;
  return event;
}

struct Told {
  double worker_ns_per_event = 0;  // CPU.
  double longest_wall_ms = 0;
  double longest_cpu_ms = 0;
  double flusher_ms = 0;   // CPU, of one interval.
  double in_force_ms = 0;  // The slowest checkpoint.
  uint64_t bytes = 0;
};

Told RunOnce(const std::string& folder, bool checkpoints) {
  const uint32_t flows = absl::GetFlag(FLAGS_flows);
  const uint32_t pairs = absl::GetFlag(FLAGS_pairs);
  AccountingHandoff handoff;
  SnapshotStream stream;
  CurrentPortList ports;
  Worker::Options options;
  options.rules.interval_ns = kSecond;
  if (checkpoints) options.snapshots = &stream;
  Worker worker(options, &handoff, &ports);
  worker.Start(kStart, true);

  SpoolHeader header;
  header.engine_id = NewEngineId().value();
  header.interval_length_ns = kSecond;
  SpoolSink sink(folder, header);
  Flusher::Options flusher_options;
  flusher_options.sink = &sink;
  flusher_options.log = [](const std::string& line) { std::cerr << line << "\n"; };
  std::unique_ptr<Checkpoint> checkpoint;
  if (checkpoints) {
    checkpoint = Checkpoint::Open(folder, "bench").value();
    (void)checkpoint->Recover([](const CheckpointInfo&) { return false; },
                              [](const FlowRecord&) {});
    CheckpointInfo info;
    info.engine_id = header.engine_id;
    checkpoint->Start(info, 1);
    flusher_options.checkpoint = checkpoint.get();
    flusher_options.snapshots = {&stream};
  }
  Flusher flusher(std::move(flusher_options));
  std::atomic<bool> done{false};
  std::atomic<int64_t> sealed_at{0};
  Told told;
  const auto now_ns = [] {
    return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
  };
  std::thread flusher_thread([&] {
    PinTo(1);
    double cpu = 0;
    uint64_t written = 0;
    while (!done.load()) {
      const double before = CpuMillis();
      const absl::Status status = flusher.Flush({&handoff}, true);
      cpu += CpuMillis() - before;
      if (!status.ok()) PrintError(kProgram, status);
      if (flusher.intervals_written() != written) {
        // The first interval fills the tables; it is not told of.
        if (++written == 1) cpu = 0;
        if (written > 1) {
          told.in_force_ms =
              std::max(told.in_force_ms, static_cast<double>(now_ns() - sealed_at.load()) / 1e6);
        }
      }
      usleep(200);
    }
    if (written > 1) told.flusher_ms = cpu / static_cast<double>(written - 1);
  });

  PinTo(0);
  const auto seal_every = static_cast<int64_t>(absl::GetFlag(FLAGS_seal_seconds) * 1e9);
  const int intervals = absl::GetFlag(FLAGS_intervals);
  worker.BeginDump(kStart + 2);
  uint64_t number = 0;
  double cpu_began = 0;
  uint64_t counted = 0;
  int64_t next_seal = 0;  // Once all flows are there.
  for (int interval = 0; interval <= intervals;) {
    const int64_t wall = now_ns();
    const double cpu = CpuMillis();
    for (int i = 0; i < kBatch; ++i, ++number) {
      worker.OnFlow(Shown(static_cast<uint32_t>(number % flows), pairs, number / flows + 1),
                    kStart + 3);
    }
    worker.ApplyPending();
    if (number >= flows && wall >= next_seal) {
      next_seal = std::max(next_seal, wall) + seal_every;
      sealed_at.store(wall);
      worker.Seal((kStart / kSecond + ++interval) * kSecond);
      if (interval == 1) {
        cpu_began = CpuMillis();
        counted = number;
      }
    } else {
      worker.SnapshotSome();
    }
    if (interval > 1) {
      told.longest_cpu_ms = std::max(told.longest_cpu_ms, CpuMillis() - cpu);
      told.longest_wall_ms =
          std::max(told.longest_wall_ms, static_cast<double>(now_ns() - wall) / 1e6);
    }
  }
  told.worker_ns_per_event =
      (CpuMillis() - cpu_began) * 1e6 / static_cast<double>(number - counted);
  while (worker.snapshot_running()) {
    worker.SnapshotSome();
    usleep(100);
  }
  usleep(500'000);
  done.store(true);
  flusher_thread.join();
  if (checkpoints) {
    for (const auto& entry : std::filesystem::directory_iterator(folder + "/.ctacct")) {
      told.bytes = std::max<uint64_t>(told.bytes, entry.file_size());
    }
  }
  return told;
}

int Run() {
  std::string folder = absl::GetFlag(FLAGS_folder) + "/ctacct-checkpoint.XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) {
    PrintError(kProgram, absl::UnavailableError(folder + ": cannot be made"));
    return kExitOperatingError;
  }
  for (const bool checkpoints : {false, true, false, true}) {
    const Told told = RunOnce(folder, checkpoints);
    std::printf(
        "{\"checkpoints\": %s, \"worker_ns_per_event\": %.1f, \"longest_batch_ms\": {\"cpu\": %.3f,"
        " \"wall\": %.3f}, \"flusher_cpu_ms\": %.1f, \"in_force_after_ms\": %.0f, \"bytes\": "
        "%lu}\n",
        checkpoints ? "true" : "false", told.worker_ns_per_event, told.longest_cpu_ms,
        told.longest_wall_ms, told.flusher_ms, told.in_force_ms, told.bytes);
    std::fflush(stdout);
  }
  std::filesystem::remove_all(folder);
  return kExitOk;
}

int Main(int argc, char** argv) {
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  if (!line.ok()) {
    PrintError(kProgram, line.status());
    return kExitUsageError;
  }
  if (line->help) {
    std::cout << FlagsHelp("usage: checkpoint_benchmark [FLAGS]");
    return kExitOk;
  }
  return Run();
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::Main(argc, argv); }
