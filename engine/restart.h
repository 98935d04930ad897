// The first thing a live engine does with its output folder: go on where the engine before ended,
// as far as that engine's checkpoint is of use, and say what is not known of the time between.
//
// Thread-compatible; before the workers' threads start.
#ifndef CTACCT_ENGINE_RESTART_H_
#define CTACCT_ENGINE_RESTART_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/accounting/worker.h"
#include "engine/output/checkpoint.h"
#include "engine/spool/engine_id.h"

namespace ctacct {

struct RestartOptions {
  AccountingRules rules;
  EngineId engine_id{};  // This run's.
  KernelIdentity kernel;
  int64_t subscribed_ns = 0;  // Since the Unix epoch: events are queued from then on.
  bool timestamps_on = false;
  bool events_kept = false;  // No event since the engine before was missed.
  // A recording tells all that its rows tell: nothing that was accounted before it.
  bool recorded = false;
  std::function<void(const std::string&)> log;
};

// What the input must know of the engine before; since the Unix epoch; 0: nothing.
struct Resumed {
  int64_t drained_ns = 0;  // All events up to then were read, and none was missed since.
  int64_t interval_ended_ns = 0;
};

// Starts the workers, gives them the flows of the checkpoint and the gap since then, makes the
// files of rows good that were cut off, and starts this run's checkpoints.
[[nodiscard]] absl::StatusOr<Resumed> Restart(const RestartOptions& options,
                                              const std::vector<std::unique_ptr<Worker>>& workers,
                                              Checkpoint* checkpoint);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_RESTART_H_
