// Puts the lists of all sources together: who holds which network now, and who held it before.
//
// A pure function; thread-safe.
#ifndef CTACCT_ENGINE_NAMES_HOLDERS_H_
#define CTACCT_ENGINE_NAMES_HOLDERS_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "engine/spool/names_file.h"

namespace ctacct {

struct Holders {
  std::vector<NamesEntry> entries;  // As a NamesSnapshot of `now_ns` has them.
  size_t conflicts = 0;  // Entries that an earlier source overruled, as a whole or in part.
  // The next moment after `now_ns` at which the same lists give other holders.
  int64_t next_change_ns = std::numeric_limits<int64_t>::max();
};

// Each source's list, the one that wins first. Of two holders of one network at one time the
// earlier source's counts, or the earlier one in a list. Entries that have not begun are left out;
// so are those that ended, if nobody knows when they began.
[[nodiscard]] Holders MergeNames(const std::vector<const std::vector<NamesEntry>*>& sources,
                                 int64_t now_ns);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_NAMES_HOLDERS_H_
