#include "engine/restart.h"

#include <algorithm>
#include <cstdint>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/system/command_line.h"
#include "netlink/event_filter.h"
#include "xxhash.h"

namespace ctacct {
namespace {

// What decides whether a flow is accounted at all.
template <typename Address>
void AppendRules(const AddressRules<Address>& rules, std::string* text) {
  const auto append = [text](const auto& value) {
    text->append(reinterpret_cast<const char*>(&value), sizeof(value));
  };
  for (const CidrList<Address>* const list : {&rules.src, &rules.dst}) {
    append(list->networks().size());
    for (const Cidr<Address>& network : list->networks()) append(network);
  }
  append(rules.exclude.addresses().size());
  for (const Address& address : rules.exclude.addresses()) append(address);
}

uint64_t RulesChecksum(const AccountingRules& rules) {
  std::string text = absl::StrCat(rules.include_icmp, rules.skip_local);
  AppendRules(rules.ipv4, &text);
  AppendRules(rules.ipv6, &text);
  return XXH3_64bits(text.data(), text.size());
}

std::string WhatItDoes(const RestartOptions& options, const CheckpointInfo& before,
                       uint64_t flows_continued, bool same_kernel, bool all_events, bool renamed) {
  const double seconds = static_cast<double>(options.subscribed_ns - before.taken_ns) / 1e9;
  return absl::StrCat(
      "resuming after ", before.clean ? "a clean stop " : "an unclean stop ",
      seconds >= 0 ? absl::StrFormat("%.1f s ago", seconds)
                   : absl::StrFormat("%.1f s in the future by the clock of that time", -seconds),
      "; ",
      !before.flows_known ? "its checkpoint is lost, so its flows start from their present counters"
      : !same_kernel      ? "its flows ended with its kernel or network namespace"
      : options.recorded  ? "with -record no flow continues"
                          : absl::StrCat(flows_continued, " flows continued",
                                        all_events ? ", no event was missed" : ""),
      renamed ? absl::StrCat("; the gateway was called ", QuotedForLog(before.gateway),
                             " and is called ", QuotedForLog(options.gateway), " now")
              : "");
}

}  // namespace

absl::StatusOr<Resumed> Restart(const RestartOptions& options,
                                const std::vector<std::unique_ptr<Worker>>& workers,
                                Checkpoint* checkpoint) {
  CheckpointInfo ours;
  ours.kernel = options.kernel;
  ours.engine_id = options.engine_id;
  ours.set_gateway(options.gateway);
  ours.rules = RulesChecksum(options.rules);
  for (const std::unique_ptr<Worker>& worker : workers) {
    worker->Start(options.subscribed_ns, options.timestamps_on);
    if (options.events_kept) worker->NoteEventsKept();
  }
  Resumed resumed;
  uint64_t flows_continued = 0;
  std::function<void()> what_it_does;  // Empty: there was no engine before.
  const auto begin = [&](const CheckpointInfo& before) {
    const bool same_kernel = before.kernel == ours.kernel;
    const bool same_rules = before.rules == ours.rules;
    const bool restored = before.flows_known && same_kernel && !options.recorded;
    const bool all_events = restored && same_rules && before.clean && options.events_kept;
    const bool renamed =
        before.gateway[0] != '\0' && absl::string_view(before.gateway) != ours.gateway;
    what_it_does = [&, before, same_kernel, all_events, renamed] {
      options.log(WhatItDoes(options, before, flows_continued, same_kernel, all_events, renamed));
    };
    for (const std::unique_ptr<Worker>& worker : workers) {
      // Where other flows were accounted, those that are not known may be old.
      if (restored) {
        worker->BeginRestore(same_rules ? std::min(before.known_since_ns, options.subscribed_ns)
                                        : options.subscribed_ns,
                             before.taken_ns, all_events);
      }
      if (!all_events || renamed) {
        worker->NoteDowntime(before.taken_ns, options.subscribed_ns,
                             renamed ? GapCause::kRenamed : GapCause::kRestart);
      }
      // Flows may start earlier than those that are restored.
      if (restored && options.subscribed_ns < before.taken_ns) {
        worker->NoteClockSetBack(options.subscribed_ns);
      }
      if (options.settings_were_off) {
        worker->OnSettingsOff(before.taken_ns, options.subscribed_ns);
      }
    }
    if (all_events) resumed.drained_ns = before.taken_ns;
    return restored;
  };
  const auto workers_count = static_cast<uint32_t>(workers.size());
  const auto restore = [&](const auto& flow) {
    flows_continued += static_cast<uint64_t>((flow.flags & (kFlowEnded | kFlowSuperseded)) == 0);
    workers[OwnerOfFlow(flow.identity.id, workers_count)]->Restore(flow);
  };
  const absl::Status found = checkpoint->Recover(begin, restore, restore);
  if (!found.ok()) return found;
  if (what_it_does) what_it_does();
  checkpoint->Start(ours, workers.size());
  return resumed;
}

}  // namespace ctacct
