// Top's screen as lines: pure functions of what is to be shown. Thread-compatible.
#ifndef CTACCT_ENGINE_TOP_SCREEN_H_
#define CTACCT_ENGINE_TOP_SCREEN_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "engine/top/format.h"
#include "engine/top/health.h"
#include "engine/top/top_names.h"
#include "engine/top/traffic.h"

namespace ctacct {

// What the files contain now, for the screen and for -once.
struct TopState {
  std::string folder;
  std::vector<const TopInterval*> intervals;  // One of each gateway, by name.
  std::string gateway;                        // The one to show; empty: all of them.
  const TopNames* names = nullptr;            // nullptr: not asked for, or not known.
  // Nothing: no -metrics-file, or it cannot be read (then health_error says why).
  std::optional<EngineHealth> health;
  std::string health_error;
  std::vector<std::string> health_problems;
  std::vector<std::string> folder_problems;
  int64_t now_ns = 0;
  int64_t interval_ns = 0;  // The engine's, or -interval.
};

struct TopScreen {
  TopState state;
  bool show_health = false;  // Instead of the table.
  TopView view = TopView::kPairs;
  TopSort sort = TopSort::kBytes;
  bool reverse = false;
  AddressFilter filter;
  TopTable table;     // See UpdateTable.
  size_t scroll = 0;  // Lines of the table above the first one shown.
  size_t page = 1;    // Lines of the table that the screen has room for, at least 1.
  bool paused = false;
  bool help = false;
  std::optional<std::string> prompt;  // A filter that is being typed.
  std::string prompt_error;
  absl::TimeZone time_zone;
};

[[nodiscard]] std::vector<const TopInterval*> ChosenIntervals(const TopState& state);

// What an operator should know about the figures shown, worst first.
[[nodiscard]] std::vector<std::string> TopProblems(const TopState& state,
                                                   const absl::TimeZone& time_zone);

// Rebuilds the table from the chosen intervals.
void UpdateTable(TopScreen* screen);

// Exactly `height` lines, none longer than `width`; both greater than 0. Sets screen->page, and
// corrects a screen->scroll beyond the table's end.
[[nodiscard]] std::vector<ScreenLine> RenderTop(TopScreen* screen, size_t width, size_t height);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_TOP_SCREEN_H_
