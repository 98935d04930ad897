// All clocks, read in one place. Nanoseconds, or a Duration where the caller computes with absl
// times: never an absl::Time, so that the compiler keeps monotonic time apart from the wall clock.
// Thread-safe.
#ifndef CTACCT_ENGINE_SYSTEM_CLOCK_H_
#define CTACCT_ENGINE_SYSTEM_CLOCK_H_

#include <time.h>

#include <cstdint>

#include "absl/time/time.h"

namespace ctacct {

inline constexpr int64_t kNanosPerSecond = 1'000'000'000;

[[nodiscard]] inline int64_t TimespecNs(const timespec& time) {
  return time.tv_sec * kNanosPerSecond + time.tv_nsec;
}

// Any clock of clock_gettime(2).
[[nodiscard]] inline int64_t ClockNs(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return TimespecNs(now);
}

// Since the Unix epoch. Operators and NTP set this clock, forwards and back.
[[nodiscard]] inline int64_t WallClockNs() { return ClockNs(CLOCK_REALTIME); }

// Since some fixed moment, by a clock that nobody sets: for deadlines, pauses and durations.
[[nodiscard]] inline int64_t MonotonicNs() { return ClockNs(CLOCK_MONOTONIC); }
[[nodiscard]] inline absl::Duration MonotonicNow() { return absl::Nanoseconds(MonotonicNs()); }

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SYSTEM_CLOCK_H_
