// What was accounted of flows that left the flow table without a reported end, should the kernel
// show them again: then accounting continues there, and nothing counts twice.
//
// Bounded: of the flows forgotten, at least the last kKept and at most the last two times kKept are
// remembered: 1 MB at most.
//
// Thread-compatible.
#ifndef CTACCT_ENGINE_ACCOUNTING_FORGOTTEN_MEMORY_H_
#define CTACCT_ENGINE_ACCOUNTING_FORGOTTEN_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "engine/accounting/staggered_map.h"
#include "netlink/flow_event.h"

namespace ctacct {

class ForgottenMemory {
 public:
  static constexpr size_t kKept = 1 << 12;

  struct Flow {
    int64_t start_ns = 0;
    FlowCounters original;  // Accounted so far.
    FlowCounters reply;
    bool seen_new = false;
    bool closed = false;
  };

  // `fingerprint`: of the flow's incarnation.
  void Add(uint64_t fingerprint, const Flow& flow) {
    if (newer_.size() >= kKept) {
      lost_some_ = lost_some_ || !older_.empty();
      older_.Clear();
      newer_.swap(older_);
    }
    newer_[fingerprint] = flow;
  }

  // The flow, which is then no longer forgotten.
  std::optional<Flow> Take(uint64_t fingerprint) {
    for (Flows* const flows : {&newer_, &older_}) {
      if (flows->empty()) continue;
      const Flow* const found = flows->Find(fingerprint);
      if (found == nullptr) continue;
      const Flow flow = *found;
      flows->Erase(fingerprint);
      return flow;
    }
    return std::nullopt;
  }

  size_t MemoryBytes() const { return newer_.MemoryBytes() + older_.MemoryBytes(); }
  bool empty() const { return newer_.empty() && older_.empty(); }
  // Some flows are no longer remembered.
  bool lost_some() const { return lost_some_; }

 private:
  using Flows = StaggeredMap<uint64_t, Flow, 64>;

  Flows newer_;
  Flows older_;
  bool lost_some_ = false;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_FORGOTTEN_MEMORY_H_
