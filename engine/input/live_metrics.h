// Figures about listening to the kernel. A plain value; thread-compatible.
#ifndef CTACCT_ENGINE_INPUT_LIVE_METRICS_H_
#define CTACCT_ENGINE_INPUT_LIVE_METRICS_H_

#include <cstdint>

namespace ctacct {

// Of an engine that listens to the kernel; a replay has none of it. As of the end of the last dump.
struct LiveMetrics {
  uint64_t dumps = 0;
  uint64_t dumps_failed = 0;  // Of these.
  int64_t dump_ns = 0;        // From asking for it to its end; of all dumps, and of the last one.
  int64_t last_dump_ns = 0;
  // Of all workers: how often they looked for events, and after how many of these looks they
  // napped, so that events collect and are read together. A worker that never naps has no time
  // left.
  uint64_t wakeups = 0;
  uint64_t naps = 0;
  uint64_t receive_buffer_bytes = 0;  // Granted.
  // The largest share of its receive buffer that a worker found filled during the last interval.
  double receive_buffer_peak = 0;
  uint64_t times_reliable_left = 0;
  // Of this network namespace. A maximum of 0: there is none, or conntrack does not report it.
  uint64_t conntrack_entries = 0;
  uint64_t conntrack_entries_max = 0;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_INPUT_LIVE_METRICS_H_
