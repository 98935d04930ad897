// Accounts a capture instead of the kernel, as fast as possible. The packets' times are the clock.
#ifndef CTACCT_ENGINE_INPUT_REPLAY_H_
#define CTACCT_ENGINE_INPUT_REPLAY_H_

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/accounting/dispatcher.h"
#include "engine/accounting/worker.h"

namespace ctacct {

// What must be known about a capture before its first message is accounted.
struct CaptureTraits {
  IntervalEnd interval_end = IntervalEnd::kByPacket;  // By its dumps, if it has any.
  bool timestamps_on = false;  // A flow that began meanwhile has a start time.
};
// Reads only as far as necessary: often to the first dump, at most to the end.
[[nodiscard]] absl::StatusOr<CaptureTraits> ExamineCapture(const std::string& path);

// Feeds the capture to the workers, each on its own thread, and finishes them. After an error,
// everything before the damaged place is accounted. If *stop is set, it stops early and finishes
// the workers.
[[nodiscard]] absl::Status Replay(const std::string& path, const Dispatcher::Options& options,
                                  const std::vector<std::unique_ptr<Worker>>& workers,
                                  const std::atomic<bool>& stop);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_INPUT_REPLAY_H_
