#include "engine/restart.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "netlink/conntrack_settings.h"
#include "netlink/event_filter.h"
#include "xxhash.h"

namespace ctacct {
namespace {

// What decides whether a flow is accounted at all.
uint64_t RulesChecksum(const AccountingRules& rules) {
  const Ipv4Address exclude = rules.exclude.value_or(Ipv4Address());
  const std::string text =
      absl::StrCat(rules.src.network.ToHostOrder(), "/", rules.src.mask.ToHostOrder(), " ",
                   rules.dst.network.ToHostOrder(), "/", rules.dst.mask.ToHostOrder(), " ",
                   exclude.ToHostOrder(), " ", rules.exclude.has_value(), " ", rules.include_icmp);
  return XXH3_64bits(text.data(), text.size());
}

}  // namespace

absl::Status Restart(const RestartOptions& options,
                     const std::vector<std::unique_ptr<Worker>>& workers, Collector* collector,
                     Checkpoint* checkpoint) {
  const absl::StatusOr<KernelIdentity> kernel = ThisKernel();
  if (!kernel.ok()) return kernel.status();
  CheckpointInfo ours;
  ours.kernel = *kernel;
  ours.engine_id = options.engine_id;
  ours.rules = RulesChecksum(options.rules);
  const int64_t subscribed_ns = collector->subscribed_ns();
  const bool timestamps_on = TimestampsAreOn();
  for (const std::unique_ptr<Worker>& worker : workers) worker->Start(subscribed_ns, timestamps_on);

  const auto begin = [&](const CheckpointInfo& before) {
    const bool same_kernel = before.kernel == ours.kernel;
    const bool same_rules = before.rules == ours.rules;
    const bool restored = before.flows_known && same_kernel && !options.recorded;
    const bool no_gap = restored && same_rules && before.clean && collector->events_kept();
    const bool clock_went_on = before.taken_ns <= subscribed_ns;
    const double seconds = static_cast<double>(subscribed_ns - before.taken_ns) / 1e9;
    options.log(absl::StrCat(
        "the engine before ", before.clean ? "ended" : "did not end by itself", "; it accounted ",
        clock_went_on
            ? absl::StrFormat("until %.1f s ago", seconds)
            : absl::StrFormat("until %.1f s from now, as the clock was set then", -seconds),
        "; ",
        !before.flows_known ? "what it knew of its flows is lost: this one begins anew"
        : !same_kernel      ? "its flows ended with its kernel or network namespace"
        : options.recorded  ? "a recording begins anew"
                            : absl::StrCat(before.flow_count, " flows go on where it was",
                                          no_gap ? ", and no event was missed" : "")));
    for (const std::unique_ptr<Worker>& worker : workers) {
      // Where other flows were accounted, those that are not known may be old.
      if (restored) {
        worker->BeginRestore(
            same_rules ? std::min(before.known_since_ns, subscribed_ns) : subscribed_ns, no_gap);
      }
      if (!no_gap) worker->NoteDowntime(before.taken_ns, subscribed_ns);
    }
    if (no_gap) collector->NoteDrained(before.taken_ns);
    collector->NoteIntervalEnded(before.interval_end_ns);
    return restored;
  };
  const auto workers_count = static_cast<uint32_t>(workers.size());
  const absl::Status found = checkpoint->Recover(begin, [&](const FlowRecord& flow) {
    workers[OwnerOfFlow(flow.identity.id, workers_count)]->Restore(flow);
  });
  if (!found.ok()) return found;
  if (absl::Status status = checkpoint->RecoverOthers(ours.kernel); !status.ok()) return status;
  checkpoint->Start(ours, workers.size());
  return absl::OkStatus();
}

}  // namespace ctacct
