// What the benchmarks of a worker beside a busy flusher share.
#ifndef CTACCT_BENCH_FLUSHING_H_
#define CTACCT_BENCH_FLUSHING_H_

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "bench/threads.h"
#include "engine/accounting/accounting_table.h"
#include "engine/output/flusher.h"
#include "engine/spool/spool_header.h"

namespace ctacct {

inline constexpr int64_t kSecond = 1'000'000'000;
inline constexpr int64_t kStartNs = 1'700'000'000 * kSecond;
inline constexpr int kBatch = 64;  // Events, as the worker applies them.

using Clock = std::chrono::steady_clock;

inline double MillisSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
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

SpoolHeader BenchHeader();

// A flusher on CPU 1 that writes whatever is sealed, until Stop.
class FlusherThread {
 public:
  // `handoff` must outlive it.
  FlusherThread(Flusher::Options options, AccountingHandoff* handoff);
  ~FlusherThread() { Stop(); }

  bool flushing() const { return flushing_.load(); }
  // Called by the worker when it seals, with that moment.
  void NoteSeal(Clock::time_point now) { sealed_at_.store(now.time_since_epoch().count()); }
  // Returns once all that is sealed is written: a table to seal the next one into is there again.
  void Wait() const;
  void Stop();

  // After Stop. The first interval fills the tables and is not in them.
  double cpu_ms_per_interval() const;
  double longest_flush_ms = 0;
  double longest_until_written_ms = 0;  // From the seal on.

 private:
  void Run();

  Flusher flusher_;
  AccountingHandoff* const handoff_;
  std::atomic<bool> flushing_{false};
  std::atomic<bool> done_{false};
  std::atomic<uint64_t> rounds_{0};
  std::atomic<Clock::rep> sealed_at_{0};
  uint64_t written_ = 0;
  double cpu_ms_ = 0;
  std::thread thread_;
};

// An error unless the rows of a folder's spool files have this number of packets in the original
// direction.
absl::Status CheckPackets(const std::string& folder, uint64_t expected);

// Parses flags and calls `run` with a new folder in `parent`, which is removed afterwards. Returns
// the exit status.
int RunInFolder(int argc, char** argv, const char* program,
                const std::function<std::string()>& parent,
                const std::function<absl::Status(const std::string& folder)>& run);

}  // namespace ctacct

#endif  // CTACCT_BENCH_FLUSHING_H_
