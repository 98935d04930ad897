#include "engine/names/holders.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace ctacct {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

struct Range {
  int64_t begin_ns;
  int64_t end_ns;
};

// The parts of `range` that no one of `taken` has. `taken` is in order and without overlaps.
std::vector<Range> Free(Range range, const std::vector<Range>& taken) {
  std::vector<Range> parts;
  auto other = std::partition_point(taken.begin(), taken.end(), [&range](const Range& before) {
    return before.end_ns <= range.begin_ns;
  });
  for (; other != taken.end() && other->begin_ns < range.end_ns; ++other) {
    if (range.begin_ns < other->begin_ns) parts.push_back({range.begin_ns, other->begin_ns});
    range.begin_ns = std::min(other->end_ns, range.end_ns);
  }
  if (range.begin_ns < range.end_ns) parts.push_back(range);
  return parts;
}

class Merge {
 public:
  explicit Merge(int64_t now_ns) : now_ns_(now_ns) {}

  void Add(const NamesEntry& entry) {
    if (!holders_.entries.empty() && holders_.entries.back().network != entry.network) Sort();
    const int64_t begin_ns = entry.from_ns.value_or(now_ns_);
    const int64_t end_ns = entry.to_ns.value_or(kNever);
    for (const int64_t change_ns : {begin_ns, end_ns}) {
      if (change_ns > now_ns_) {
        holders_.next_change_ns = std::min(holders_.next_change_ns, change_ns);
      }
    }
    if (begin_ns > now_ns_ || end_ns <= begin_ns) return;
    const std::vector<Range> parts = Free({begin_ns, end_ns}, taken_);
    const bool whole =
        parts.size() == 1 && parts[0].begin_ns == begin_ns && parts[0].end_ns == end_ns;
    if (!whole) ++holders_.conflicts;
    for (const Range& part : parts) {
      NamesEntry& added = holders_.entries.emplace_back(entry);
      if (part.begin_ns != begin_ns) added.from_ns = part.begin_ns;
      added.to_ns = part.end_ns == kNever ? std::nullopt : std::optional<int64_t>(part.end_ns);
      taken_.insert(
          std::lower_bound(taken_.begin(), taken_.end(), part,
                           [](const Range& a, const Range& b) { return a.begin_ns < b.begin_ns; }),
          part);
    }
  }

  Holders Take() {
    Sort();
    return std::move(holders_);
  }

 private:
  // The entries of one network, by time.
  void Sort() {
    std::sort(holders_.entries.begin() + static_cast<ptrdiff_t>(sorted_), holders_.entries.end(),
              [this](const NamesEntry& a, const NamesEntry& b) {
                return a.from_ns.value_or(now_ns_) < b.from_ns.value_or(now_ns_);
              });
    sorted_ = holders_.entries.size();
    taken_.clear();
  }

  const int64_t now_ns_;
  Holders holders_;
  size_t sorted_ = 0;         // Entries of networks that are done.
  std::vector<Range> taken_;  // Of the network that is not.
};

}  // namespace

Holders MergeNames(const std::vector<const std::vector<NamesEntry>*>& sources, int64_t now_ns) {
  std::vector<const NamesEntry*> all;
  for (const std::vector<NamesEntry>* source : sources) {
    for (const NamesEntry& entry : *source) all.push_back(&entry);
  }
  // Stable: the sources' order stays within a network.
  std::stable_sort(all.begin(), all.end(), [](const NamesEntry* a, const NamesEntry* b) {
    return a->network < b->network;
  });
  Merge merge(now_ns);
  for (const NamesEntry* entry : all) merge.Add(*entry);
  return merge.Take();
}

}  // namespace ctacct
