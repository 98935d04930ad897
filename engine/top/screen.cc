#include "engine/top/screen.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/system/clock.h"
#include "engine/system/text.h"
#include "engine/top/columns.h"

namespace ctacct {
namespace {

// On a small screen rows matter more than the fourth problem.
constexpr size_t kProblemsMax = 3;
// How late after its interval's end a file may come: the dump, the merge, the disk.
constexpr int64_t kLateNs = 5'000'000'000;
// Every interval of a spool has a file. In CSV an interval without traffic has none, so a short
// silence means nothing.
constexpr int64_t kSilentIntervals = 2;

std::string NameOf(const std::string& gateway) {
  return gateway.empty() ? "(no name)" : Printable(gateway);
}

std::string CompletenessText(const std::vector<const TopInterval*>& intervals, bool* alarm) {
  std::optional<Completeness> worst;
  for (const TopInterval* interval : intervals) worst = std::max(worst, interval->completeness);
  *alarm = worst.has_value() && *worst != Completeness::kComplete;
  if (!worst.has_value()) return "completeness unknown (CSV)";
  const char* const name = CompletenessName(*worst);
  return *alarm ? absl::AsciiStrToUpper(name) : name;
}

// All of an interval in one line.
std::string GapsText(const std::vector<Gap>& gaps, int64_t now_ns, const absl::TimeZone& zone) {
  Gap all = gaps[0];
  all.events_dropped = 0;
  all.flows_lost = 0;
  std::set<std::string> causes;
  for (const Gap& gap : gaps) {
    all.began_ns = std::min(all.began_ns, gap.began_ns);
    all.ended_ns = std::max(all.ended_ns, gap.ended_ns);
    all.completeness = std::max(all.completeness, gap.completeness);
    all.events_dropped += gap.events_dropped;
    all.flows_lost += gap.flows_lost;
    causes.insert(GapCauseName(gap.cause));
  }
  std::string text =
      absl::StrCat(gaps.size() == 1 ? "gap " : absl::StrCat(gaps.size(), " gaps "),
                   MomentText(all.began_ns, now_ns, zone), "-", ClockText(all.ended_ns, zone), ", ",
                   absl::StrJoin(causes, "+"), ", ", CompletenessName(all.completeness));
  if (all.events_dropped != 0) {
    absl::StrAppend(&text, ", ", WithThousands(all.events_dropped), " events dropped");
  }
  if (all.flows_lost != 0) {
    absl::StrAppend(&text, ", at least ", WithThousands(all.flows_lost), " flows lost");
  }
  return text;
}

// "15 s"; "5.0 of 15 s" if less was observed, as when the engine started within the interval.
std::string CoveredText(const std::vector<const TopInterval*>& present, int64_t length_ns) {
  const std::string length = absl::StrCat(static_cast<double>(length_ns) / 1e9, " s");
  int64_t observed_ns = 0;
  for (const TopInterval* interval : present) {
    observed_ns = std::max(observed_ns, interval->observed_ns());
  }
  constexpr int64_t kTolerancePercent = 5;  // Of the moments at which dumps begin.
  if (observed_ns * 100 >= length_ns * (100 - kTolerancePercent)) return length;
  return absl::StrFormat("%.1f of %s", static_cast<double>(observed_ns) / 1e9, length);
}

ScreenLine TitleLine(const TopScreen& screen, size_t width) {
  const TopState& state = screen.state;
  const std::vector<const TopInterval*> chosen = ChosenIntervals(state);
  ScreenLine line = {{"ctacct-top", TextStyle::kBold}};
  const std::string now = ClockText(state.now_ns, screen.time_zone);
  const std::string paused = screen.paused ? "PAUSED  " : "";
  if (chosen.empty()) return Spread(std::move(line), paused + now, width);
  const std::vector<const TopInterval*> present = PresentIntervals(chosen);
  line.push_back(
      {absl::StrCat("  ", present.size() == 1 ? NameOf(present[0]->gateway)
                                              : absl::StrCat(present.size(), " gateways")),
       TextStyle::kBold});
  int64_t end_ns = 0;
  int64_t length_ns = 0;
  for (const TopInterval* interval : present) {
    end_ns = std::max(end_ns, interval->end_ns);
    length_ns = std::max(length_ns, interval->length_ns);
  }
  bool alarm = false;
  const std::string completeness = CompletenessText(present, &alarm);
  line.push_back({absl::StrCat("  ", CoveredText(present, length_ns), " until ",
                               MomentText(end_ns, state.now_ns, screen.time_zone), "  ")});
  line.push_back({completeness, alarm ? TextStyle::kAlarm : TextStyle::kPlain});
  const int64_t next_ns = end_ns + length_ns - state.now_ns;
  std::string next;
  if (!screen.paused && next_ns > 0)
    next = absl::StrCat("next in ", (next_ns + kNanosPerSecond - 1) / kNanosPerSecond, " s");
  if (!screen.paused && next_ns <= 0 && next_ns > -kLateNs) next = "next is due";
  return Spread(std::move(line), absl::StrCat(paused, next, next.empty() ? "" : "  ", now), width,
                screen.paused ? TextStyle::kBold : TextStyle::kPlain);
}

ScreenLine TotalLine(const TopScreen& screen, size_t width) {
  const TopSums& total = screen.table.total;
  std::vector<std::string> parts = {
      absl::StrCat("bit/s ", ShortRate(total.bits_src_rate), " > ", ShortRate(total.bits_dst_rate),
                   " <"),
      absl::StrCat("pkt/s ", ShortRate(total.packets_src_rate), " > ",
                   ShortRate(total.packets_dst_rate), " <"),
      absl::StrCat("conns ", WithThousands(total.connections), ", mean ", MeanText(total))};
  if (screen.table.has_open) parts.push_back(absl::StrCat("open ", WithThousands(total.open)));
  return Fit({{absl::StrJoin(parts, "   ")}}, width);
}

ScreenLine HealthLine(const TopScreen& screen, size_t width) {
  const TopState& state = screen.state;
  if (state.health.has_value()) {
    return Fit({{absl::StrCat("engine: ", absl::StrJoin(HealthFigures(*state.health), "  "))}},
               width);
  }
  const std::string why = state.health_error.empty()
                              ? "engine's health: with -metrics-file=..., as the engine has it"
                              : absl::StrCat("engine's health: ", state.health_error);
  return Fit({{why, state.health_error.empty() ? TextStyle::kDim : TextStyle::kAlarm}}, width);
}

ScreenLine TabLine(const TopScreen& screen, size_t width, const std::string& right) {
  constexpr std::array<const char*, kTopViews + 1> kTabs = {
      "1 Pairs", "2 Origins", "3 Destinations", "4 Ports", "5 Services", "6 Engine"};
  ScreenLine line;
  for (size_t i = 0; i < kTabs.size(); ++i) {
    const bool active = screen.show_health ? i == kTopViews : i == static_cast<size_t>(screen.view);
    line.push_back({absl::StrCat(" ", kTabs[i]), active ? TextStyle::kReverse : TextStyle::kPlain});
  }
  return Spread(std::move(line), right, width);
}

ScreenLine FooterLine(const TopScreen& screen, size_t width) {
  if (screen.prompt.has_value()) {
    ScreenLine line = {{"address begins with, or is in network: ", TextStyle::kBold},
                       {absl::StrCat(*screen.prompt, "_")}};
    if (!screen.prompt_error.empty()) {
      line.push_back({absl::StrCat("  ", screen.prompt_error), TextStyle::kAlarm});
    }
    return Fit(std::move(line), width);
  }
  return Fit({{"Tab view  s sort  u unanswered  r reverse  / filter  p pause  ? help  q quit",
               TextStyle::kDim}},
             width);
}

// clang-format off
constexpr absl::string_view kHelp =
    R"(Tab, Right, Left, 1-6   next view, previous view, view by number
s, S                    next, previous order: bytes, packets, connections,
                        time (mean), open, unanswered flows, name
u                       by unanswered flows (who scans, what is down), or bytes
r                       reverse the order
Up, Down, PgUp, PgDn, Home, End   move in the table
/                       only addresses (of either end) that begin with a text
                        or are in a network; empty: all again
g                       next gateway, or all of them
p, Space                pause; what comes meanwhile is shown afterwards
?, h                    this; any key goes back
q, Ctrl-C               quit

>  from who opened the connection   <  the replies   %  of all bytes
conns: connections closed in the interval; mean: of their durations
open: connections open at its end (engine with -track-open)
flows: flows that ended; unans: those without a reply (spool files only)
tcp/*: ports that are not on the engine's list (-ports)
(other): what was small, in one line (engine's -max-rows))";
// clang-format on

std::vector<ScreenLine> HelpLines() {
  std::vector<ScreenLine> lines;
  for (const absl::string_view text : absl::StrSplit(kHelp, '\n')) {
    lines.push_back({{std::string(text)}});
  }
  return lines;
}

std::vector<ScreenLine> WaitingLines(const TopState& state, const absl::TimeZone& zone) {
  std::vector<ScreenLine> lines;
  const auto add = [&lines](const std::string& text) { lines.push_back({{text}}); };
  if (!state.gateway.empty()) {
    add(absl::StrCat("No interval of the gateway ", NameOf(state.gateway), " has been seen yet."));
  } else {
    add("No interval has ended yet since this started looking.");
  }
  const int64_t next_ns = (state.now_ns / state.interval_ns + 1) * state.interval_ns;
  add(absl::StrCat("An engine with -interval=", state.interval_ns / kNanosPerSecond,
                   " ends one at ", ClockText(next_ns, zone), ", in ",
                   (next_ns - state.now_ns + kNanosPerSecond - 1) / kNanosPerSecond, " s."));
  add("");
  add(absl::StrCat("Looking at ", Printable(state.folder)));
  add("Spool files: every interval leaves one. CSV files: only one with traffic.");
  return lines;
}

// Its value as people read it.
std::string MetricText(const MetricSample& sample, int64_t now_ns, const absl::TimeZone& zone) {
  if (absl::EndsWith(sample.name, "_timestamp_seconds")) {
    return sample.value == 0 ? "never"
                             : MomentText(static_cast<int64_t>(sample.value * 1e9), now_ns, zone);
  }
  uint64_t count = 0;
  if (absl::SimpleAtoi(sample.text, &count)) return WithThousands(count);
  return absl::StrFormat("%.3f", sample.value);
}

std::vector<ScreenLine> HealthTable(const TopScreen& screen) {
  std::vector<ScreenLine> lines;
  if (!screen.state.health.has_value()) {
    lines.push_back(
        {{"Nothing is known of the engine: give the path that it has as -metrics-file."}});
    return lines;
  }
  size_t name_width = 0;
  size_t value_width = 0;
  std::vector<std::pair<std::string, std::string>> rows;
  for (const MetricSample& sample : screen.state.health->samples) {
    rows.emplace_back(Printable(absl::StripPrefix(sample.name, "ctacct_")),
                      MetricText(sample, screen.state.now_ns, screen.time_zone));
    name_width = std::max(name_width, rows.back().first.size());
    value_width = std::max(value_width, rows.back().second.size());
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    lines.push_back({{absl::StrCat(Left(rows[i].first, name_width), " ",
                                   Right(rows[i].second, value_width), "  ")},
                     {Printable(screen.state.health->samples[i].help), TextStyle::kDim}});
  }
  return lines;
}

// What is above the rows of a table; its size does not depend on which rows they are.
std::vector<ScreenLine> Top(const TopScreen& screen, size_t width, size_t height) {
  std::vector<ScreenLine> lines = {TitleLine(screen, width)};
  if (!ChosenIntervals(screen.state).empty()) lines.push_back(TotalLine(screen, width));
  if (height >= 10) lines.push_back(HealthLine(screen, width));
  const std::vector<std::string> problems = TopProblems(screen.state, screen.time_zone);
  for (size_t i = 0; i < std::min(problems.size(), kProblemsMax); ++i) {
    const size_t more = problems.size() - kProblemsMax;
    const bool cut = i + 1 == kProblemsMax && problems.size() > kProblemsMax;
    lines.push_back(
        Fit({{absl::StrCat("! ", problems[i], cut ? absl::StrCat(" (", more, " more)") : ""),
              TextStyle::kAlarm}},
            width));
  }
  std::vector<std::string> chosen;
  if (!screen.filter.text().empty()) {
    chosen.push_back(
        absl::StrCat("only addresses that ",
                     absl::StrContains(screen.filter.text(), '/') ? "are in " : "begin with ",
                     screen.filter.text()));
  }
  if (screen.reverse) chosen.emplace_back("in reverse order");
  if (!chosen.empty() && !screen.show_health) {
    lines.push_back(Fit({{absl::StrJoin(chosen, ", "), TextStyle::kBold}}, width));
  } else if (lines.size() + 6 <= height) {
    lines.emplace_back();
  }
  return lines;
}

}  // namespace

std::vector<const TopInterval*> ChosenIntervals(const TopState& state) {
  if (state.gateway.empty()) return state.intervals;
  std::vector<const TopInterval*> chosen;
  for (const TopInterval* interval : state.intervals) {
    if (interval->gateway == state.gateway) chosen.push_back(interval);
  }
  return chosen;
}

std::vector<std::string> TopProblems(const TopState& state, const absl::TimeZone& zone) {
  std::vector<std::string> problems;
  const std::vector<const TopInterval*> chosen = ChosenIntervals(state);
  const std::vector<const TopInterval*> present = PresentIntervals(chosen);
  for (const TopInterval* interval : present) {
    const std::string who = present.size() == 1 ? "" : NameOf(interval->gateway) + ": ";
    if (!interval->gaps.empty()) {
      problems.push_back(who + GapsText(interval->gaps, state.now_ns, zone));
    }
    if (interval->masks_changed) {
      problems.push_back(
          absl::StrCat(who, "the group masks were changed: the same traffic has another address"));
    }
    if (interval->gaps.empty() && interval->completeness.has_value() &&
        *interval->completeness != Completeness::kComplete) {
      problems.push_back(absl::StrCat(who, CompletenessName(*interval->completeness), ", ",
                                      WithThousands(interval->events_dropped), " events dropped"));
    }
  }
  for (const std::string& problem : state.health_problems) problems.push_back(problem);
  for (const TopInterval* interval : chosen) {
    const int64_t silent_ns = state.now_ns - interval->end_ns;
    if (silent_ns <= kSilentIntervals * interval->length_ns + kLateNs) continue;
    // The metrics file says whether the engine runs.
    const bool runs =
        state.intervals.size() == 1 && state.health.has_value() && state.health_problems.empty();
    problems.push_back(absl::StrCat(
        NameOf(interval->gateway), ": nothing since ",
        MomentText(interval->end_ns, state.now_ns, zone), ", ", Duration(silent_ns), " ago: ",
        interval->completeness.has_value()
            ? (runs ? "the engine runs, and leaves no file here" : "does the engine run?")
            : (runs ? "no traffic" : "no traffic, or no engine"),
        std::find(present.begin(), present.end(), interval) == present.end() ? "; not in the sums"
                                                                             : ""));
  }
  for (const std::string& problem : state.folder_problems) problems.push_back(problem);
  return problems;
}

void UpdateTable(TopScreen* screen) {
  const std::vector<const TopInterval*> present = PresentIntervals(ChosenIntervals(screen->state));
  screen->table =
      MakeTopTable(present, screen->view, screen->sort, screen->reverse, screen->filter);
  if (screen->state.names != nullptr) NameEntries(*screen->state.names, present, &screen->table);
}

std::vector<ScreenLine> RenderTop(TopScreen* screen, size_t width, size_t height) {
  std::vector<ScreenLine> lines = Top(*screen, width, height);
  const std::vector<ScreenLine> metrics =
      screen->show_health ? HealthTable(*screen) : std::vector<ScreenLine>();
  const size_t all = screen->show_health ? metrics.size() : screen->table.entries.size();
  const size_t around = lines.size() + (screen->show_health ? 2 : 3);
  const size_t room = height > around ? height - around : 0;
  screen->page = std::max<size_t>(room, 1);
  screen->scroll = std::min(screen->scroll, all > room ? all - room : 0);
  const size_t first = screen->scroll;
  const size_t end = std::min(first + room, all);
  std::vector<ScreenLine> body;
  if (screen->help) {
    body = HelpLines();
  } else if (ChosenIntervals(screen->state).empty() && !screen->show_health) {
    body = WaitingLines(screen->state, screen->time_zone);
  } else {
    lines.push_back(
        TabLine(*screen, width,
                absl::StrCat(all == 0 ? 0 : first + 1, "-", end, " of ", WithThousands(all))));
    if (screen->show_health) {
      body.assign(metrics.begin() + static_cast<ptrdiff_t>(first),
                  metrics.begin() + static_cast<ptrdiff_t>(end));
    } else {
      body = TableLines(screen->table, screen->view, screen->sort, width, first, end);
      if (all == 0) {
        body.push_back({{screen->filter.text().empty() ? "No traffic in this interval."
                                                       : "No traffic of these addresses."}});
      }
    }
  }
  for (ScreenLine& line : body) lines.push_back(Fit(std::move(line), width));
  lines.resize(height - 1);
  lines.push_back(FooterLine(*screen, width));
  return lines;
}

}  // namespace ctacct
