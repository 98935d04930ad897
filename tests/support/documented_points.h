// Which points traffic() makes of a range, worked out from "Which rollup answers" in
// docs/database.md alone: what the function itself says is not asked.
//
// Pure functions.
#ifndef CTACCT_TESTS_SUPPORT_DOCUMENTED_POINTS_H_
#define CTACCT_TESTS_SUPPORT_DOCUMENTED_POINTS_H_

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace ctacct {

// A line of the document's table.
struct DocumentedRollups {
  std::set<std::string> columns;
  std::map<absl::Duration, absl::Duration> range_max;  // By step; kIntervalStep: the interval.
};
inline constexpr absl::Duration kIntervalStep = absl::ZeroDuration();

// NotFound: the text has no such table. InvalidArgument: not one as expected.
[[nodiscard]] absl::StatusOr<std::vector<DocumentedRollups>> ReadDocumentedRollups(
    absl::string_view document);

struct Question {
  absl::Time from;
  absl::Time to;
  std::optional<absl::Duration> step;  // None: one sum for the whole range.
  std::set<std::string> columns;       // Asked for or filtered by; `gateway` changes nothing.
  absl::Duration interval;             // The longest of the newest files in the range.
  // What retention has dropped ends here.
  absl::Time fine_from = absl::InfinitePast();
  absl::Time ten_minutes_from = absl::InfinitePast();
};

// Points side by side; a row belongs to the one that ends next, at its time or later.
struct Points {
  absl::Time lower;      // The first begins here.
  absl::Time upper;      // The last one's end.
  absl::Duration width;  // Of each.
};

// NotFound: no rollup answers.
[[nodiscard]] absl::StatusOr<Points> DocumentedPoints(const std::vector<DocumentedRollups>& rollups,
                                                      const Question& question);

}  // namespace ctacct

#endif  // CTACCT_TESTS_SUPPORT_DOCUMENTED_POINTS_H_
