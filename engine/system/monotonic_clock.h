// Time for deadlines, pauses and durations: by a clock that nobody sets. A Duration since some
// fixed moment, not a Time, so that the compiler keeps it apart from the wall clock. Thread-safe.
#ifndef CTACCT_ENGINE_SYSTEM_MONOTONIC_CLOCK_H_
#define CTACCT_ENGINE_SYSTEM_MONOTONIC_CLOCK_H_

#include <ctime>

#include "absl/time/time.h"

namespace ctacct {

[[nodiscard]] inline absl::Duration MonotonicNow() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return absl::DurationFromTimespec(now);
}

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SYSTEM_MONOTONIC_CLOCK_H_
