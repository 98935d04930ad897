// What does it cost to be able to restart?
//
// A worker knows --flows flows and accounts their growth, as dumps report it, without a pause.
// Every --seal_seconds an interval ends, and a copy of all flows goes to the flusher, which writes
// it as a checkpoint, while the worker continues. Runs with and without checkpoints alternate.
// Prints the worker's CPU time for an event, with and without; for each checkpoint the CPU time of
// the flusher, its bytes, and how long after the interval's end it was in force; and the longest
// time that the worker was busy with 64 events and its share of the copy. The rows and the flows of
// the last checkpoint are read back: their sums must be what was accounted, or the exit status is
// 1.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "bench/flushing.h"
#include "engine/accounting/worker.h"
#include "engine/output/checkpoint.h"

ABSL_FLAG(uint32_t, flows, 1'000'000, "flows that live");
ABSL_FLAG(uint32_t, pairs, 10'000, "pairs of addresses that they belong to");
ABSL_FLAG(double, seal_seconds, 2, "from one interval's end to the next");
ABSL_FLAG(int, intervals, 5, "with checkpoints, and as many without");
ABSL_FLAG(std::string, folder, "/tmp", "where files are for the time of the run");

namespace ctacct {
namespace {

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
  event.start_ns = kStartNs + 1;
  return event;
}

// Flows and packets of the checkpoint must be these.
absl::Status CheckCheckpoint(const std::string& folder, uint64_t flows, uint64_t packets) {
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint =
      Checkpoint::Open(folder + "/.ctacct", folder);
  if (!checkpoint.ok()) return checkpoint.status();
  uint64_t found_flows = 0, found_packets = 0;
  const absl::Status status = (*checkpoint)
                                  ->Recover([](const CheckpointInfo&) { return true; },
                                            [&](const FlowRecord& flow) {
                                              ++found_flows;
                                              found_packets += flow.original.packets;
                                            });
  if (!status.ok()) return status;
  if (found_flows == flows && found_packets == packets) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("wrong sums: ", found_flows, " flows with ",
                                          found_packets, " packets in the checkpoint, ", flows,
                                          " with ", packets, " accounted"));
}

// The checkpoint of a new folder, ready for a flusher.
absl::StatusOr<std::unique_ptr<Checkpoint>> StartCheckpoint(const std::string& folder,
                                                            const SpoolHeader& header) {
  std::unique_ptr<Checkpoint> checkpoint = Checkpoint::Open(folder + "/.ctacct", folder).value();
  const absl::Status status =
      checkpoint->Recover([](const CheckpointInfo&) { return false; }, [](const FlowRecord&) {});
  if (!status.ok()) return status;
  CheckpointInfo info;
  info.engine_id = header.engine_id;
  checkpoint->Start(info, 1);
  return checkpoint;
}

// `interval` counts from 1.
void EndInterval(Worker& worker, FlusherThread& flusher, int interval) {
  flusher.NoteSeal(Clock::now());
  worker.Seal(kStartNs + interval * kSecond);
}

// Copies what flows are left to copy, and waits for the flusher to write all that it has.
void WaitUntilWritten(Worker& worker, const FlusherThread& flusher) {
  while (worker.snapshot_running()) {
    worker.SnapshotSome();
    usleep(100);
  }
  flusher.Wait();
}

// What a worker has done.
struct Work {
  uint64_t events = 0;  // In all; each is one more packet of a flow.
  int intervals = 0;    // That have ended.
  // Both without the first interval, which fills the tables.
  double ns_per_event = 0;
  Longest longest_batch;
};

// Shows the flows one after another, again and again, until all intervals have ended. The first
// ends when all flows have been shown.
Work AccountIntervals(Worker& worker, FlusherThread& flusher) {
  const uint32_t flows = absl::GetFlag(FLAGS_flows);
  const uint32_t pairs = absl::GetFlag(FLAGS_pairs);
  const auto seal_every = std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(absl::GetFlag(FLAGS_seal_seconds)));
  const int intervals = absl::GetFlag(FLAGS_intervals);
  worker.BeginDump(kStartNs + 2);
  uint64_t number = 0;
  int interval = 0;
  double cpu_began_ms = 0;
  uint64_t counted = 0;
  Longest longest;
  Clock::time_point next_seal;  // Once all flows are there.
  while (interval <= intervals) {
    longest.Begin();
    for (int i = 0; i < kBatch; ++i, ++number) {
      worker.OnFlow(Shown(static_cast<uint32_t>(number % flows), pairs, number / flows + 1),
                    kStartNs + 3);
    }
    worker.ApplyPending();
    if (const auto now = Clock::now(); number >= flows && now >= next_seal) {
      next_seal = std::max(next_seal, now) + seal_every;
      EndInterval(worker, flusher, ++interval);
      if (interval == 1) {
        cpu_began_ms = ThreadCpuMillis();
        counted = number;
      }
    } else {
      worker.SnapshotSome();
    }
    if (interval > 1) longest.End();
  }
  const double ns_per_event =
      (ThreadCpuMillis() - cpu_began_ms) * 1e6 / static_cast<double>(number - counted);
  return {number, interval, ns_per_event, longest};
}

uint64_t LargestFileBytes(const std::string& folder) {
  uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    bytes = std::max<uint64_t>(bytes, entry.file_size());
  }
  return bytes;
}

// `bytes`: of a checkpoint. The flusher must have stopped.
void PrintResult(bool checkpoints, const Work& work, const FlusherThread& flusher, uint64_t bytes) {
  std::printf(
      "{\"checkpoints\": %s, \"worker_ns_per_event\": %.1f, \"longest_batch_ms\": {\"cpu\": %.3f,"
      " \"wall\": %.3f}, \"flusher_cpu_ms\": %.1f, \"in_force_after_ms\": %.0f, \"bytes\": "
      "%lu}\n",
      checkpoints ? "true" : "false", work.ns_per_event, work.longest_batch.cpu_ms,
      work.longest_batch.wall_ms, flusher.cpu_ms_per_interval(), flusher.longest_until_written_ms,
      bytes);
  std::fflush(stdout);
}

absl::Status RunOnce(const std::string& folder, bool checkpoints) {
  AccountingHandoff handoff;
  SnapshotStream stream(Worker::kFlowTables);
  CurrentPortList ports;
  Worker::Options options;
  options.rules.interval_ns = kSecond;
  if (checkpoints) options.snapshots = &stream;
  Worker worker(options, &handoff, &ports);
  worker.Start(kStartNs, true);

  const SpoolHeader header = BenchHeader();
  Flusher::Options flusher_options;
  SpoolSink sink(folder, header);
  flusher_options.sink = &sink;
  flusher_options.log = [](const std::string& line) { std::cerr << line << "\n"; };
  std::unique_ptr<Checkpoint> checkpoint;
  if (checkpoints) {
    absl::StatusOr<std::unique_ptr<Checkpoint>> started = StartCheckpoint(folder, header);
    if (!started.ok()) return started.status();
    checkpoint = *std::move(started);
    flusher_options.checkpoint = checkpoint.get();
    flusher_options.snapshots = {&stream};
  }
  FlusherThread flusher(std::move(flusher_options), &handoff);

  PinTo(0);
  const Work work = AccountIntervals(worker, flusher);
  WaitUntilWritten(worker, flusher);
  // What the last one could not, because the flusher was behind.
  EndInterval(worker, flusher, work.intervals + 1);
  WaitUntilWritten(worker, flusher);
  flusher.Stop();

  uint64_t bytes = 0;
  if (checkpoints) {
    checkpoint.reset();  // Gives up its lock, so that it can be read.
    bytes = LargestFileBytes(folder + "/.ctacct");
    const absl::Status status = CheckCheckpoint(folder, absl::GetFlag(FLAGS_flows), work.events);
    if (!status.ok()) return status;
  }
  PrintResult(checkpoints, work, flusher, bytes);
  return CheckPackets(folder, work.events);
}

absl::Status Run(const std::string& folder) {
  int run = 0;
  for (const bool checkpoints : {false, true, false, true}) {
    const std::string own = absl::StrCat(folder, "/", ++run);
    std::filesystem::create_directory(own);
    if (const absl::Status status = RunOnce(own, checkpoints); !status.ok()) return status;
    std::filesystem::remove_all(own);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) {
  return ctacct::RunInFolder(
      argc, argv, "checkpoint_benchmark", [] { return absl::GetFlag(FLAGS_folder); }, ctacct::Run);
}
