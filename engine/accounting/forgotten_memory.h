// What was accounted of flows that left the flow table without a reported end, should the kernel
// show them again: then accounting continues there, and nothing counts twice.
//
// Bounded: of the flows forgotten, at least the last kKept and at most the last two times kKept are
// remembered: 1 MB at most.
//
// Thread-compatible.
#ifndef CTACCT_ENGINE_ACCOUNTING_FORGOTTEN_MEMORY_H_
#define CTACCT_ENGINE_ACCOUNTING_FORGOTTEN_MEMORY_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>

#include "engine/accounting/staggered_map.h"
#include "netlink/flow_event.h"

namespace ctacct {

class ForgottenMemory {
 public:
  static constexpr size_t kKept = 1 << 12;

  struct Flow {
    int64_t start_ns = 0;
    int64_t latest_start_ns = 0;  // It has not begun after this.
    FlowCounters original;        // Accounted so far.
    FlowCounters reply;
    bool seen_new = false;
    bool closed = false;
  };

  // `fingerprint`: of the flow's incarnation.
  void Add(uint64_t fingerprint, const Flow& flow) {
    if (newer_.size() >= kKept) {
      if (!older_.empty()) lost_until_ns_ = std::max(lost_until_ns_, older_until_ns_);
      older_.Clear();
      newer_.swap(older_);
      older_until_ns_ = std::exchange(newer_until_ns_, kNever);
    }
    newer_[fingerprint] = flow;
    newer_until_ns_ = std::max(newer_until_ns_, flow.latest_start_ns);
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
  // Some flows are no longer remembered. None of them has begun after lost_until_ns().
  bool lost_some() const { return lost_until_ns_ != kNever; }
  int64_t lost_until_ns() const { return lost_until_ns_; }
  // The clock shows `now_ns`, and has shown a later time before: what is lost has begun by now.
  void NoteClockSetBack(int64_t now_ns) {
    for (int64_t* const until_ns : {&newer_until_ns_, &older_until_ns_, &lost_until_ns_}) {
      *until_ns = std::min(*until_ns, now_ns);
    }
  }

 private:
  using Flows = StaggeredMap<uint64_t, Flow, 64>;
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::min();

  Flows newer_;
  Flows older_;
  int64_t newer_until_ns_ = kNever;
  int64_t older_until_ns_ = kNever;
  int64_t lost_until_ns_ = kNever;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_FORGOTTEN_MEMORY_H_
