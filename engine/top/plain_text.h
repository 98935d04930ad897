// The plain text of -once. A pure function; thread-safe.
#ifndef CTACCT_ENGINE_TOP_PLAIN_TEXT_H_
#define CTACCT_ENGINE_TOP_PLAIN_TEXT_H_

#include <cstddef>
#include <string>
#include <vector>

#include "engine/top/screen.h"
#include "engine/top/traffic.h"

namespace ctacct {

// Lines of fields separated by tabs. The first field is the kind of a line; a line `#KIND` names
// the fields of the lines KIND that follow. At most `limit` lines of each view; 0: all.
[[nodiscard]] std::string OnceText(const TopState& state, const std::vector<TopView>& views,
                                   TopSort sort, const AddressFilter& filter, size_t limit);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_TOP_PLAIN_TEXT_H_
