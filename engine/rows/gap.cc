#include "engine/rows/gap.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace ctacct {
namespace {

void Add(const Gap& other, Gap* gap) {
  gap->began_ns = std::min(gap->began_ns, other.began_ns);
  gap->ended_ns = std::max(gap->ended_ns, other.ended_ns);
  gap->completeness = std::max(gap->completeness, other.completeness);
  gap->events_dropped += other.events_dropped;
  gap->flows_lost += other.flows_lost;
}

// `gaps` sorted by cause and beginning. Joins those that overlap or touch, or all of a cause.
void JoinSorted(bool all, std::vector<Gap>* gaps) {
  size_t kept = 0;
  for (size_t i = 1; i < gaps->size(); ++i) {
    const Gap& next = (*gaps)[i];
    Gap& last = (*gaps)[kept];
    if (next.cause == last.cause && (all || next.began_ns <= last.ended_ns)) {
      Add(next, &last);
    } else {
      (*gaps)[++kept] = next;
    }
  }
  gaps->resize(kept + 1);
}

}  // namespace

const char* GapCauseName(GapCause cause) {
  switch (cause) {
    case GapCause::kOverrun:
      return "overrun";
    case GapCause::kAllocation:
      return "allocation";
    case GapCause::kRestart:
      return "restart";
    case GapCause::kUnreported:
      return "unreported";
    case GapCause::kSettings:
      return "settings";
    case GapCause::kRenamed:
      return "renamed";
  }
  return nullptr;
}

const char* CompletenessName(Completeness completeness) {
  switch (completeness) {
    case Completeness::kComplete:
      return "complete";
    case Completeness::kResynced:
      return "resynced";
    case Completeness::kPartial:
      return "partial";
  }
  return nullptr;
}

void JoinGaps(size_t at_most, std::vector<Gap>* gaps) {
  if (gaps->empty()) return;
  for (Gap& gap : *gaps) {
    if (gap.ended_ns < gap.began_ns) std::swap(gap.began_ns, gap.ended_ns);
  }
  std::sort(gaps->begin(), gaps->end(), [](const Gap& a, const Gap& b) {
    return std::tie(a.cause, a.began_ns, a.ended_ns) < std::tie(b.cause, b.began_ns, b.ended_ns);
  });
  JoinSorted(/*all=*/false, gaps);
  if (gaps->size() > at_most) JoinSorted(/*all=*/true, gaps);
  std::sort(gaps->begin(), gaps->end(), [](const Gap& a, const Gap& b) {
    return std::tie(a.began_ns, a.cause) < std::tie(b.began_ns, b.cause);
  });
}

}  // namespace ctacct
