// The first thing a live engine does with its state folder: it resumes where the previous engine
// stopped, as far as that engine's checkpoint allows, and records a gap for the time between, or
// if the gateway has another name now: then what moved in between is split between the two names.
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
  std::string gateway;
  EngineId engine_id{};  // This run's.
  KernelIdentity kernel;
  int64_t subscribed_ns = 0;  // Since the Unix epoch: events are queued from then on.
  bool timestamps_on = false;
  bool events_kept = false;  // No event was missed since the previous engine.
  // The kernel did not count or report everything when this one started.
  bool settings_were_off = false;
  // A recording must contain everything that its rows count, so nothing is resumed.
  bool recorded = false;
  std::function<void(const std::string&)> log;
};

// What the input must know of the previous engine.
struct Resumed {
  // All events up to then were read, and none was missed since; since the Unix epoch, 0: unknown.
  int64_t drained_ns = 0;
};

// Starts the workers, gives them the flows of the checkpoint and the gap since then, makes the
// files of rows good that were cut off, and starts this run's checkpoints.
[[nodiscard]] absl::StatusOr<Resumed> Restart(const RestartOptions& options,
                                              const std::vector<std::unique_ptr<Worker>>& workers,
                                              Checkpoint* checkpoint);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_RESTART_H_
