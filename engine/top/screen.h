// Top's screen as text, and the plain text of -once: pure functions of what is to be shown.
// Thread-compatible.
#ifndef CTACCT_ENGINE_TOP_SCREEN_H_
#define CTACCT_ENGINE_TOP_SCREEN_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "engine/top/health.h"
#include "engine/top/traffic.h"

namespace ctacct {

enum class TextStyle { kPlain, kBold, kDim, kReverse, kAlarm };

struct Span {
  std::string text;
  TextStyle style = TextStyle::kPlain;
};
using ScreenLine = std::vector<Span>;

// What is behind the table on the screen, whether it is one or not.
struct TopState {
  std::string folder;
  // One for each gateway, by name; what was chosen of them.
  std::vector<const TopInterval*> intervals;
  std::string gateway;  // Empty: all of them.
  // Nothing: no -metrics-file, or not readable (then health_error says why).
  std::optional<EngineHealth> health;
  std::string health_error;
  std::vector<std::string> health_problems;
  // Of the folder: what could not be read.
  std::vector<std::string> folder_problems;
  int64_t now_ns = 0;
  int64_t interval_ns = 0;  // Where no file tells of another one.
};

struct TopScreen {
  TopState state;
  bool show_health = false;  // Instead of the table.
  TopView view = TopView::kPairs;
  TopSort sort = TopSort::kBytes;
  bool reverse = false;
  AddressFilter filter;
  TopTable table;  // Made of PresentIntervals(ChosenIntervals(state)).
  size_t scroll = 0;
  bool paused = false;
  bool help = false;
  std::optional<std::string> prompt;  // A filter that is being typed.
  std::string prompt_error;
  absl::TimeZone time_zone;
};

[[nodiscard]] std::vector<const TopInterval*> ChosenIntervals(const TopState& state);

// Worst first: what the operator should know about the figures shown.
[[nodiscard]] std::vector<std::string> TopProblems(const TopState& state,
                                                   const absl::TimeZone& time_zone);

// Exactly `height` lines, none longer than `width`; both greater than 0.
[[nodiscard]] std::vector<ScreenLine> RenderTop(const TopScreen& screen, size_t width,
                                                size_t height);

// How many lines of the table that screen has room for, and how many there are.
struct TopExtent {
  size_t shown = 0;
  size_t all = 0;
};
[[nodiscard]] TopExtent TableExtent(const TopScreen& screen, size_t width, size_t height);

// The plain text of -once. Lines of fields separated by tabs; the first field says what a line is,
// a line `#KIND` names the fields of the lines KIND that follow. At most `limit` lines of each
// view; 0: all.
[[nodiscard]] std::string OnceText(const TopState& state, const std::vector<TopView>& views,
                                   TopSort sort, const AddressFilter& filter, size_t limit);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_TOP_SCREEN_H_
