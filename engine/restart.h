// The first thing a live engine does with its output folder: go on where the engine before ended,
// as far as that engine's checkpoint is of use, and say what is not known of the time between.
//
// Thread-compatible; before the workers' threads start.
#ifndef CTACCT_ENGINE_RESTART_H_
#define CTACCT_ENGINE_RESTART_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/accounting/worker.h"
#include "engine/input/collector.h"
#include "engine/output/checkpoint.h"
#include "engine/spool/engine_id.h"

namespace ctacct {

struct RestartOptions {
  AccountingRules rules;
  EngineId engine_id{};  // This run's.
  // A recording tells all that its rows tell: nothing that was accounted before it.
  bool recorded = false;
  std::function<void(const std::string&)> log;
};

// Starts the workers, gives them the flows of the checkpoint and the gap since then, makes the
// files of rows good that were cut off, and starts this run's checkpoints.
[[nodiscard]] absl::Status Restart(const RestartOptions& options,
                                   const std::vector<std::unique_ptr<Worker>>& workers,
                                   Collector* collector, Checkpoint* checkpoint);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_RESTART_H_
