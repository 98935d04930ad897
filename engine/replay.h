// Accounts a capture instead of the kernel, as fast as it goes. The packets' times are the clock.
#ifndef CTACCT_ENGINE_REPLAY_H_
#define CTACCT_ENGINE_REPLAY_H_

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/dispatcher.h"
#include "engine/worker.h"

namespace ctacct {

// How the intervals of this capture end: by its dumps, if it has any. Reads up to the first one.
[[nodiscard]] absl::StatusOr<IntervalEnd> IntervalEndOfCapture(const std::string& path);

// Feeds the capture to the workers, each on a thread of its own, and finishes them, also after an
// error: what came before a damaged place is accounted. Stops early, likewise finished, when *stop
// is set.
[[nodiscard]] absl::Status Replay(const std::string& path, const Dispatcher::Options& options,
                                  const std::vector<std::unique_ptr<Worker>>& workers,
                                  const std::atomic<bool>& stop);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_REPLAY_H_
