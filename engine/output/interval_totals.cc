#include "engine/output/interval_totals.h"

#include <algorithm>

namespace ctacct {

void IntervalTotals::Note(int64_t end_ns, Completeness completeness, const std::vector<Gap>& gaps) {
  ++by_completeness[static_cast<size_t>(completeness)];
  last_end_ns = end_ns;
  for (const Gap& gap : gaps) {
    Gaps& same = by_cause[static_cast<size_t>(gap.cause)];
    if (same.count != 0 && gap.began_ns <= same.ended_ns && gap.ended_ns >= same.began_ns) {
      // The same one continues.
      const int64_t began_ns = std::min(same.began_ns, gap.began_ns);
      const int64_t ended_ns = std::max(same.ended_ns, gap.ended_ns);
      same.duration_ns += (ended_ns - began_ns) - (same.ended_ns - same.began_ns);
      same.began_ns = began_ns;
      same.ended_ns = ended_ns;
      continue;
    }
    ++same.count;
    same.duration_ns += std::max<int64_t>(0, gap.ended_ns - gap.began_ns);
    same.began_ns = gap.began_ns;
    same.ended_ns = gap.ended_ns;
  }
}

}  // namespace ctacct
