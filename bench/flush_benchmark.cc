// Does a worker notice that a million keys are flushed?
//
// A worker accounts DESTROY events of --keys pairs without a pause, on its own CPU, and seals a
// table every --seal_seconds, while the flusher, on another CPU, turns the tables into rows and
// spool files on disk. (If a busy worker and the flusher share a CPU, the scheduler gives the
// flusher some milliseconds at a time.) Prints the longest times that one batch of 64 events took,
// including the sealing, while a flush ran and while none ran: wall clock time, and this thread's
// CPU time. It prints the same for a loop that only computes: the machine takes this much from any
// program. The rows are read back: their sums must be what was accounted, or the exit status is 1.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "bench/flushing.h"
#include "engine/accounting/worker.h"

ABSL_FLAG(uint32_t, keys, 1'000'000, "pairs accounted in each interval");
ABSL_FLAG(double, seal_seconds, 2, "from one seal to the next");
ABSL_FLAG(int, flushes, 5, "intervals");
ABSL_FLAG(std::string, folder, "/tmp", "where the spool files are for the time of the run");

namespace ctacct {
namespace {

constexpr uint64_t kPackets = 2;  // Of each flow.

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
  event.original = {kPackets, 200};
  event.reply = {1, 100};
  event.start_ns = kStartNs + number;
  return event;
}

absl::Status Run(const std::string& folder) {
  const uint32_t keys = absl::GetFlag(FLAGS_keys);
  AccountingHandoff handoff;
  CurrentPortList ports;
  Worker::Options options;
  options.rules.interval_ns = kSecond;
  Worker worker(options, &handoff, &ports);
  worker.Start(kStartNs, true);
  Flusher::Options flusher_options;
  SpoolSink sink(folder, BenchHeader());
  flusher_options.sink = &sink;
  FlusherThread flusher(std::move(flusher_options), &handoff);

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
  int64_t interval = 0;
  while (interval <= absl::GetFlag(FLAGS_flushes)) {
    for (FlowEvent& event : batch) event = Ended(number++, keys);
    const bool in_flush = flusher.flushing();
    Longest& longest = in_flush ? in_flush_longest : else_longest;
    longest.Begin();
    for (const FlowEvent& event : batch) worker.OnFlow(event, event.start_ns);
    worker.ApplyPending();
    if (Clock::now() >= next_seal) {
      worker.Seal(kStartNs + ++interval * kSecond);
      next_seal += seal_every;
    }
    longest.End();
    batches_in_flush += in_flush;
  }
  // Rows that found no table to be sealed into, because the flusher was behind.
  flusher.Wait();
  worker.Seal(kStartNs + ++interval * kSecond);
  flusher.Wait();
  flusher.Stop();

  std::printf(
      "{\"events\": %u, \"keys\": %u,\n"
      " \"flush_ms\": %.0f, \"events_during_flushes\": %lu,\n"
      " \"longest_batch_during_flush_ms\": {\"wall\": %.3f, \"cpu\": %.3f},\n"
      " \"longest_batch_else_ms\": {\"wall\": %.3f, \"cpu\": %.3f},\n"
      " \"longest_computing_ms\": {\"wall\": %.3f, \"cpu\": %.3f}, \"computed\": %u}\n",
      number, keys, flusher.longest_flush_ms, batches_in_flush * kBatch, in_flush_longest.wall_ms,
      in_flush_longest.cpu_ms, else_longest.wall_ms, else_longest.cpu_ms, computing.wall_ms,
      computing.cpu_ms, static_cast<unsigned>(computed & 1));
  return CheckPackets(folder, uint64_t{number} * kPackets);
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) {
  return ctacct::RunInFolder(
      argc, argv, "flush_benchmark", [] { return absl::GetFlag(FLAGS_folder); }, ctacct::Run);
}
