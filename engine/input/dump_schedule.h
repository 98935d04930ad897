// When to ask the kernel for a dump, when to give one up, and how long to wait meanwhile. Decisions
// only: no socket, no clock of its own. All times are CLOCK_MONOTONIC unless named otherwise.
//
// Thread-compatible.
#ifndef CTACCT_ENGINE_INPUT_DUMP_SCHEDULE_H_
#define CTACCT_ENGINE_INPUT_DUMP_SCHEDULE_H_

#include <algorithm>
#include <cstdint>

#include "engine/system/clock.h"

namespace ctacct {

class DumpSchedule {
 public:
  // The kernel makes a dump's chunks while we ask for them: it is silent only if something is
  // broken.
  static constexpr int64_t kSilenceMaxNs = 10 * kNanosPerSecond;
  static constexpr int64_t kRetryNs = kNanosPerSecond;
  // How often the clock is checked, in case the wall clock is set.
  static constexpr int kWaitMillisMax = 1000;
  static constexpr int kCatchUpMillis = 1;
  // A dump is due, but the flusher has no spare table, or the last one failed just now.
  static constexpr int kBlockedMillis = 10;

  struct Need {
    bool caught_up = false;         // The workers have applied all that was dispatched.
    bool interval_is_over = false;  // By the wall clock.
    bool resync = false;            // A worker has lost events.
    bool can_seal = false;          // Each worker has a spare table, should the interval end.
  };
  // The very first one, the baseline, is always needed.
  bool IsDue(const Need& need, int64_t now_ns) const {
    return !running_ && need.caught_up && need.can_seal && now_ns >= not_before_ns_ &&
           (need.interval_is_over || need.resync || !any_ended_);
  }

  void Requested(int64_t now_ns) {
    running_ = true;
    requested_ns_ = progress_ns_ = now_ns;
  }
  void Progress(int64_t now_ns) { progress_ns_ = now_ns; }
  bool IsSilent(int64_t now_ns) const { return now_ns - progress_ns_ > kSilenceMaxNs; }
  void Ended(int64_t now_ns) {
    any_ended_ = true;
    Count(now_ns);
  }
  void Failed(int64_t now_ns) {
    not_before_ns_ = now_ns + kRetryNs;
    ++counts_.failed;
    Count(now_ns);
  }

  // Requested, and neither ended nor failed.
  bool running() const { return running_; }
  bool any_ended() const { return any_ended_; }

  // For poll, while nothing is due. `until_end_ns`: until the open interval is over.
  static int WaitMillis(bool caught_up, int64_t until_end_ns) {
    constexpr int64_t kNanosPerMilli = 1'000'000;
    if (!caught_up) return kCatchUpMillis;
    if (until_end_ns <= 0) return kBlockedMillis;
    return static_cast<int>(std::min<int64_t>(until_end_ns / kNanosPerMilli + 1, kWaitMillisMax));
  }

  struct Counts {
    uint64_t dumps = 0;  // Including those that failed.
    uint64_t failed = 0;
    int64_t all_ns = 0;   // From the request to the end, of all dumps.
    int64_t last_ns = 0;  // Of the last one.
  };
  const Counts& counts() const { return counts_; }

 private:
  void Count(int64_t now_ns) {
    running_ = false;
    ++counts_.dumps;
    counts_.last_ns = now_ns - requested_ns_;
    counts_.all_ns += counts_.last_ns;
  }

  bool running_ = false;
  bool any_ended_ = false;
  int64_t requested_ns_ = 0;
  int64_t progress_ns_ = 0;    // The last sign of life.
  int64_t not_before_ns_ = 0;  // After one that failed.
  Counts counts_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_INPUT_DUMP_SCHEDULE_H_
