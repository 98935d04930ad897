#include "tests/support/documented_points.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace ctacct {
namespace {

// "10 min", and "any".
absl::StatusOr<absl::Duration> ParseLength(absl::string_view text) {
  if (text == "any") return absl::InfiniteDuration();
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ' ');
  int64_t count = 0;
  if (parts.size() == 2 && absl::SimpleAtoi(parts[0], &count)) {
    if (parts[1] == "min") return count * absl::Minutes(1);
    if (parts[1] == "h") return count * absl::Hours(1);
    if (parts[1] == "days") return count * absl::Hours(24);
  }
  return absl::InvalidArgumentError(absl::StrCat("not a length of time: ", text));
}

std::vector<std::string> Cells(absl::string_view line) {
  std::vector<std::string> cells;
  for (absl::string_view cell :
       absl::StrSplit(absl::StripSuffix(absl::StripPrefix(line, "|"), "|"), '|')) {
    cells.emplace_back(absl::StripAsciiWhitespace(cell));
  }
  return cells;
}

// The longest interval's length stands for the interval.
absl::Duration RealStep(absl::Duration step, const Question& question) {
  return step == kIntervalStep ? question.interval : step;
}

}  // namespace

absl::StatusOr<std::vector<DocumentedRollups>> ReadDocumentedRollups(absl::string_view document) {
  std::vector<std::string> steps;
  std::vector<DocumentedRollups> rollups;
  for (const absl::string_view line : absl::StrSplit(document, '\n')) {
    if (steps.empty()) {
      if (absl::StartsWith(line, "| columns | interval |")) steps = Cells(line);
      continue;
    }
    if (!absl::StartsWith(line, "|")) break;
    if (absl::StartsWith(line, "|---")) continue;
    const std::vector<std::string> cells = Cells(line);
    if (cells.size() != steps.size()) return absl::InvalidArgumentError(line);
    DocumentedRollups& made = rollups.emplace_back();
    if (cells[0] != "none") {
      for (const absl::string_view name : absl::StrSplit(cells[0], ", ")) {
        made.columns.emplace(absl::StripSuffix(absl::StripPrefix(name, "`"), "`"));
      }
    }
    for (size_t i = 1; i < cells.size(); ++i) {
      if (cells[i].empty()) continue;
      const absl::StatusOr<absl::Duration> step =
          steps[i] == "interval" ? kIntervalStep : ParseLength(steps[i]);
      const absl::StatusOr<absl::Duration> range_max = ParseLength(cells[i]);
      if (!step.ok()) return step.status();
      if (!range_max.ok()) return range_max.status();
      made.range_max[*step] = *range_max;
    }
  }
  if (rollups.empty()) return absl::NotFoundError("no table of rollups");
  return rollups;
}

absl::StatusOr<Points> DocumentedPoints(const std::vector<DocumentedRollups>& rollups,
                                        const Question& question) {
  const absl::Duration range = question.to - question.from;
  const absl::Duration wanted = question.step.value_or(range / 48);
  std::set<std::string> needed = question.columns;
  needed.erase("gateway");
  for (const DocumentedRollups& line : rollups) {
    if (!std::includes(line.columns.begin(), line.columns.end(), needed.begin(), needed.end())) {
      continue;
    }
    std::optional<absl::Duration> finest, coarsest;
    bool long_enough = false;
    for (const auto& [step, range_max] : line.range_max) {
      if (range > range_max) continue;
      long_enough = true;
      const bool dropped = step < absl::Minutes(10) ? question.from < question.fine_from
                           : step < absl::Hours(1)  ? question.from < question.ten_minutes_from
                                                    : false;
      if (dropped && !line.columns.empty()) continue;
      if (!finest.has_value()) finest = step;
      if (step <= wanted) coarsest = step;
    }
    if (!long_enough) continue;
    if (!finest.has_value()) return absl::NotFoundError("all of it was dropped");
    const absl::Duration step = RealStep(coarsest.value_or(*finest), question);
    Points points;
    // Of a whole number of steps. One sum is of as many as it takes.
    const absl::Duration width = absl::Ceil(question.step.value_or(step), step);
    points.lower = absl::UnixEpoch() + absl::Floor(question.from - absl::UnixEpoch(), width);
    points.upper = absl::UnixEpoch() + absl::Ceil(question.to - absl::UnixEpoch(), width);
    points.width = question.step.has_value() ? width : points.upper - points.lower;
    return points;
  }
  return absl::NotFoundError("no rollup has all columns for so long a range");
}

}  // namespace ctacct
