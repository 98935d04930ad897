// Accounts a capture instead of the kernel, as fast as it goes. The packets' times are the clock.
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

// What must be known of a capture before its first message is accounted.
struct CaptureTraits {
  IntervalEnd interval_end = IntervalEnd::kByPacket;  // By its dumps, if it has any.
  bool timestamps_on = false;  // A flow that began meanwhile has a start time.
};
// Reads as far as it takes to know: often to the first dump, at most to the end.
[[nodiscard]] absl::StatusOr<CaptureTraits> ExamineCapture(const std::string& path);

// Feeds the capture to the workers, each on a thread of its own, and finishes them, also after an
// error: what came before a damaged place is accounted. Stops early, likewise finished, when *stop
// is set.
[[nodiscard]] absl::Status Replay(const std::string& path, const Dispatcher::Options& options,
                                  const std::vector<std::unique_ptr<Worker>>& workers,
                                  const std::atomic<bool>& stop);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_INPUT_REPLAY_H_
