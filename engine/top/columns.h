// The table of pairs, origins, destinations or ports on top's screen: as many columns as the width
// has room for. Pure functions; thread-safe.
#ifndef CTACCT_ENGINE_TOP_COLUMNS_H_
#define CTACCT_ENGINE_TOP_COLUMNS_H_

#include <cstddef>
#include <string>
#include <vector>

#include "engine/top/format.h"
#include "engine/top/traffic.h"

namespace ctacct {

// The mean duration of the connections closed; "-" if none was.
[[nodiscard]] std::string MeanText(const TopSums& sums);

// The titles (that of the column sorted by is marked), then the entries from `first` up to `end`.
[[nodiscard]] std::vector<ScreenLine> TableLines(const TopTable& table, TopView view, TopSort sort,
                                                 size_t width, size_t first, size_t end);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_TOP_COLUMNS_H_
