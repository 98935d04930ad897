#include "engine/top/screen.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "engine/rows/protocol_names.h"
#include "engine/system/text.h"
#include "engine/top/format.h"

namespace ctacct {
namespace {

constexpr size_t kIpv4Width = 15;
constexpr size_t kBarWidthMax = 40;
// On a small screen rows matter more than the fourth problem.
constexpr size_t kProblemsMax = 3;
// Beyond its interval's end a file may take so long: the dump, the merge, the disk.
constexpr int64_t kLateNs = 5'000'000'000;
// A gateway without any traffic writes no file, so a little silence means nothing.
constexpr int64_t kSilentIntervals = 2;

struct Column {
  std::string title;
  size_t width;
  std::function<std::string(const TopEntry&)> text;
  std::optional<TopSort> sort = std::nullopt;
  bool left = false;  // Aligned.
};

std::string NameOf(const std::string& gateway) {
  return gateway.empty() ? "(no name)" : Printable(gateway);
}

std::string ClockText(int64_t ns, const absl::TimeZone& zone) {
  return absl::FormatTime("%H:%M:%S", absl::FromUnixNanos(ns), zone);
}

// With the day where it is another one than now's.
std::string MomentText(int64_t ns, int64_t now_ns, const absl::TimeZone& zone) {
  const absl::Time time = absl::FromUnixNanos(ns);
  const bool today =
      absl::ToCivilDay(time, zone) == absl::ToCivilDay(absl::FromUnixNanos(now_ns), zone);
  return absl::FormatTime(today ? "%H:%M:%S" : "%Y-%m-%d %H:%M:%S", time, zone);
}

std::string SecondsText(int64_t ns) { return absl::StrCat(static_cast<double>(ns) / 1e9, " s"); }

std::string MeanText(const TopSums& sums) {
  return sums.connections == 0 ? "-" : ShortSeconds(sums.MeanSeconds());
}

std::string PortText(const TopKey& key) {
  if (IsOtherEntry(TopView::kPorts, key)) return "(other)";
  const std::string protocol(ProtocolName(key.protocol));
  if (key.port == 0) return protocol;  // Most of these have no ports.
  return absl::StrCat(protocol, "/", key.port == kPortNotListed ? "*" : absl::StrCat(key.port));
}

std::string AddressName(TopView view, const TopKey& key, const AddressBytes& address) {
  return IsOtherEntry(view, key) ? "(other)" : AddressText(key.family, address);
}

std::vector<Column> NameColumns(TopView view, size_t width) {
  const auto src = [view](const TopEntry& entry) {
    return AddressName(view, entry.key, entry.key.src);
  };
  const auto dst = [view](const TopEntry& entry) {
    return AddressName(view, entry.key, entry.key.dst);
  };
  switch (view) {
    case TopView::kPairs:
      return {{"ORIGIN", width, src, TopSort::kName, true},
              {"DESTINATION", width, dst, std::nullopt, true}};
    case TopView::kOrigins:
      return {{"ORIGIN", width, src, TopSort::kName, true}};
    case TopView::kDestinations:
      return {{"DESTINATION", width, dst, TopSort::kName, true}};
    case TopView::kPorts:
      break;
  }
  return {{"PORT", width, [](const TopEntry& entry) { return PortText(entry.key); }, TopSort::kName,
           true}};
}

double Bits(const TopSums& sums) { return sums.bits_src_rate + sums.bits_dst_rate; }

size_t WidthOf(const std::vector<Column>& columns) {
  size_t width = 0;
  for (const Column& column : columns) width += column.width + 1;
  return width == 0 ? 0 : width - 1;
}

// What `width` has room for, the most telling columns first.
std::vector<Column> ColumnsFor(const TopScreen& screen, size_t width, size_t first, size_t count) {
  const TopTable& table = screen.table;
  size_t name_width = kIpv4Width;
  const std::vector<Column> names = NameColumns(screen.view, kIpv4Width);
  for (size_t i = first; i < std::min(first + count, table.entries.size()); ++i) {
    for (const Column& column : names) {
      name_width = std::max(name_width, column.text(table.entries[i]).size());
    }
  }
  const auto rate = [](const char* title, double TopSums::*field, std::optional<TopSort> sort) {
    return Column{title, 7, [field](const TopEntry& entry) { return ShortRate(entry.sums.*field); },
                  sort};
  };
  const auto sum = [](const char* title, uint64_t TopSums::*field) {
    return Column{title, 14,
                  [field](const TopEntry& entry) { return WithThousands(entry.sums.*field); },
                  std::nullopt};
  };
  std::vector<Column> figures = {
      rate("bit/s >", &TopSums::bits_src_rate, TopSort::kBytes),
      rate("bit/s <", &TopSums::bits_dst_rate, TopSort::kBytes),
      {"pkt/s", 5,
       [](const TopEntry& entry) {
         return ShortRate(entry.sums.packets_src_rate + entry.sums.packets_dst_rate);
       },
       TopSort::kPackets},
      {"conns", 5, [](const TopEntry& entry) { return ShortCount(entry.sums.connections); },
       TopSort::kConnections},
      {"mean", 6, [](const TopEntry& entry) { return MeanText(entry.sums); }, TopSort::kTime}};
  if (table.has_open) {
    figures.push_back({"open", 5, [](const TopEntry& entry) { return ShortCount(entry.sums.open); },
                       TopSort::kOpen});
  }
  const double all = Bits(table.total);
  const auto share = [all](const TopEntry& entry) { return all == 0 ? 0 : Bits(entry.sums) / all; };
  figures.push_back({"%", 4,
                     [share](const TopEntry& entry) {
                       const double percent = 100 * share(entry);
                       return percent < 99.95 ? absl::StrFormat("%.1f", percent) : "100";
                     },
                     std::nullopt});
  // Names give way: an IPv6 address may be cut before a figure is.
  const size_t name_count = names.size();
  const size_t for_names = width > WidthOf(figures) ? width - WidthOf(figures) : 0;
  name_width = std::min(name_width, std::max(kIpv4Width, for_names / name_count - 1));
  std::vector<Column> columns = NameColumns(screen.view, name_width);
  const auto fits = [&](const std::vector<Column>& more) {
    return WidthOf(columns) + 1 + WidthOf(figures) + 1 + WidthOf(more) <= width;
  };
  for (const std::vector<Column>& more :
       {std::vector<Column>{rate("pkt/s >", &TopSums::packets_src_rate, std::nullopt),
                            rate("pkt/s <", &TopSums::packets_dst_rate, std::nullopt)},
        std::vector<Column>{rate("conns/s", &TopSums::connections_rate, std::nullopt)},
        std::vector<Column>{sum("bytes >", &TopSums::bytes_src),
                            sum("bytes <", &TopSums::bytes_dst)}}) {
    // Before the share, which the bar follows.
    if (fits(more)) figures.insert(figures.end() - 1, more.begin(), more.end());
  }
  columns.insert(columns.end(), figures.begin(), figures.end());
  while (WidthOf(columns) > width && columns.size() > 1) columns.pop_back();
  const size_t used = WidthOf(columns);
  if (width > used + 10) {
    double largest = 0;
    for (const TopEntry& entry : table.entries) largest = std::max(largest, Bits(entry.sums));
    const size_t bar = std::min(kBarWidthMax, width - used - 1);
    columns.push_back({"", bar,
                       [largest, bar](const TopEntry& entry) {
                         const double length =
                             largest == 0 ? 0
                                          : Bits(entry.sums) / largest * static_cast<double>(bar);
                         return std::string(static_cast<size_t>(std::lround(length)), '=');
                       },
                       std::nullopt, true});
  }
  return columns;
}

// --- The lines above the table. ---

int64_t NewestEnd(const std::vector<const TopInterval*>& intervals) {
  int64_t end_ns = 0;
  for (const TopInterval* interval : intervals) end_ns = std::max(end_ns, interval->end_ns);
  return end_ns;
}

int64_t LengthOf(const std::vector<const TopInterval*>& intervals, int64_t otherwise) {
  int64_t length_ns = 0;
  for (const TopInterval* interval : intervals) {
    length_ns = std::max(length_ns, interval->length_ns);
  }
  return length_ns == 0 ? otherwise : length_ns;
}

std::string CompletenessText(const std::vector<const TopInterval*>& intervals, bool* alarm) {
  std::optional<Completeness> worst;
  for (const TopInterval* interval : intervals) worst = std::max(worst, interval->completeness);
  *alarm = worst.has_value() && *worst != Completeness::kComplete;
  if (!worst.has_value()) return "completeness not told by CSV";
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
    absl::StrAppend(&text, ", ", WithThousands(all.flows_lost), " flows lost");
  }
  return text;
}

// Cut to the width.
ScreenLine Fit(ScreenLine line, size_t width) {
  size_t used = 0;
  for (Span& span : line) {
    if (span.text.size() > width - used) span.text = Left(span.text, width - used);
    used += span.text.size();
  }
  return line;
}

// `right` at the right edge, if there is room for it.
ScreenLine Spread(ScreenLine line, const std::string& right, size_t width,
                  TextStyle style = TextStyle::kPlain) {
  size_t used = 0;
  for (const Span& span : line) used += span.text.size();
  if (used + 1 + right.size() <= width) {
    line.push_back({std::string(width - used - right.size(), ' '), TextStyle::kPlain});
    line.push_back({right, style});
  }
  return Fit(std::move(line), width);
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
  const int64_t end_ns = NewestEnd(present);
  const int64_t length_ns = LengthOf(present, state.interval_ns);
  bool alarm = false;
  const std::string completeness = CompletenessText(present, &alarm);
  line.push_back({absl::StrCat("  ", SecondsText(length_ns), " until ",
                               MomentText(end_ns, state.now_ns, screen.time_zone), "  ")});
  line.push_back({completeness, alarm ? TextStyle::kAlarm : TextStyle::kPlain});
  const int64_t next_ns = end_ns + length_ns - state.now_ns;
  std::string next;
  if (!screen.paused && next_ns > 0)
    next = absl::StrCat("next in ", (next_ns + 999'999'999) / 1'000'000'000, " s");
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
      "1 Pairs", "2 Origins", "3 Destinations", "4 Ports", "5 Engine"};
  ScreenLine line;
  for (size_t i = 0; i < kTabs.size(); ++i) {
    const bool active = screen.show_health ? i == kTopViews : i == static_cast<size_t>(screen.view);
    line.push_back(
        {absl::StrCat(" ", kTabs[i], " "), active ? TextStyle::kReverse : TextStyle::kPlain});
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
  return Fit({{"Tab view  s sort  r reverse  / filter  g gateway  p pause  ? help  q quit",
               TextStyle::kDim}},
             width);
}

std::vector<ScreenLine> HelpLines() {
  const char* const kText[] = {
      "Tab, Right, Left, 1-5   view: pairs, origins, destinations, ports, engine",
      "s, S                    next, previous order: bytes, packets, connections,",
      "                        time (mean), open, name",
      "r                       reverse the order",
      "Up, Down, PgUp, PgDn, Home, End   move in the table",
      "/                       only addresses (of either end) that begin with a text",
      "                        or are in a network; empty: all again",
      "g                       next gateway, or all of them",
      "p, Space                pause; what comes meanwhile is shown afterwards",
      "?, h                    this; any key goes back",
      "q, Ctrl-C               quit",
      "",
      ">  from who opened the connection   <  the replies   %  of all bytes",
      "conns: connections closed in the interval; mean: of their durations",
      "open: connections open at its end (engine with -track-open)",
      "tcp/*: ports that are not on the engine's list (-ports)",
      "(other): what was small, in one line (engine's -max-rows)"};
  std::vector<ScreenLine> lines;
  for (const char* text : kText) lines.push_back({{text}});
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
  add(absl::StrCat("An engine with -interval=", state.interval_ns / 1'000'000'000, " ends one at ",
                   ClockText(next_ns, zone), ", in ",
                   (next_ns - state.now_ns + 999'999'999) / 1'000'000'000, " s."));
  add("");
  add(absl::StrCat("Looking at ", Printable(state.folder)));
  add("An interval without any traffic leaves no file there.");
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

std::string Row(const std::vector<Column>& columns,
                const std::function<std::string(const Column&)>& text) {
  std::string row;
  for (const Column& column : columns) {
    if (!row.empty()) row.push_back(' ');
    row += column.left ? Left(text(column), column.width) : Right(text(column), column.width);
  }
  return row;
}

ScreenLine ColumnTitles(const TopScreen& screen, const std::vector<Column>& columns, size_t width) {
  ScreenLine line;
  for (const Column& column : columns) {
    const std::string title =
        column.left ? Left(column.title, column.width) : Right(column.title, column.width);
    const bool sorted = column.sort == screen.sort;
    line.push_back({absl::StrCat(line.empty() ? "" : " ", title),
                    sorted ? TextStyle::kReverse : TextStyle::kBold});
  }
  return Fit(std::move(line), width);
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
  const std::vector<const TopInterval*> present =
      chosen.empty() ? chosen : PresentIntervals(chosen);
  for (const TopInterval* interval : present) {
    const std::string who = present.size() == 1 ? "" : NameOf(interval->gateway) + ": ";
    if (!interval->gaps.empty()) {
      problems.push_back(who + GapsText(interval->gaps, state.now_ns, zone));
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
    // An engine tells that it runs, even where nothing moves.
    const bool runs =
        state.intervals.size() == 1 && state.health.has_value() && state.health_problems.empty();
    problems.push_back(absl::StrCat(
        NameOf(interval->gateway), ": nothing since ",
        MomentText(interval->end_ns, state.now_ns, zone), ", ", Duration(silent_ns),
        " ago: ", runs ? "no traffic" : "no traffic, or no engine",
        std::find(present.begin(), present.end(), interval) == present.end() ? "; not in the sums"
                                                                             : ""));
  }
  for (const std::string& problem : state.folder_problems) problems.push_back(problem);
  return problems;
}

TopExtent TableExtent(const TopScreen& screen, size_t width, size_t height) {
  const size_t all = screen.show_health ? HealthTable(screen).size() : screen.table.entries.size();
  const size_t around = Top(screen, width, height).size() + (screen.show_health ? 2 : 3);
  return {height > around ? height - around : 0, all};
}

std::vector<ScreenLine> RenderTop(const TopScreen& screen, size_t width, size_t height) {
  std::vector<ScreenLine> lines = Top(screen, width, height);
  const bool waiting = ChosenIntervals(screen.state).empty() && !screen.show_health;
  if (screen.help || waiting) {
    for (ScreenLine& line :
         screen.help ? HelpLines() : WaitingLines(screen.state, screen.time_zone)) {
      lines.push_back(Fit(std::move(line), width));
    }
  } else {
    const auto [shown, all] = TableExtent(screen, width, height);
    const size_t first = std::min(screen.scroll, all > shown ? all - shown : 0);
    const size_t end = std::min(first + shown, all);
    lines.push_back(
        TabLine(screen, width,
                absl::StrCat(all == 0 ? 0 : first + 1, "-", end, " of ", WithThousands(all))));
    if (screen.show_health) {
      const std::vector<ScreenLine> table = HealthTable(screen);
      for (size_t i = first; i < end; ++i) lines.push_back(Fit(table[i], width));
    } else {
      const std::vector<Column> columns = ColumnsFor(screen, width, first, shown);
      lines.push_back(ColumnTitles(screen, columns, width));
      for (size_t i = first; i < end; ++i) {
        const TopEntry& entry = screen.table.entries[i];
        lines.push_back(
            Fit({{Row(columns, [&entry](const Column& column) { return column.text(entry); })}},
                width));
      }
      if (all == 0) {
        lines.push_back(Fit({{screen.filter.text().empty() ? "No traffic in this interval."
                                                           : "No traffic of these addresses."}},
                            width));
      }
    }
  }
  lines.resize(height - 1);
  lines.push_back(FooterLine(screen, width));
  return lines;
}

// --- Plain text. ---

namespace {

std::string UtcText(int64_t ns) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E*SZ", absl::FromUnixNanos(ns), absl::UTCTimeZone());
}

std::string Line(const std::vector<std::string>& fields) {
  return absl::StrCat(absl::StrJoin(fields, "\t"), "\n");
}

std::string Decimal(double value) { return absl::StrFormat("%.3f", value); }

const std::vector<std::string> kSumFields = {"bytes_src",
                                             "bytes_dst",
                                             "packets_src",
                                             "packets_dst",
                                             "connections",
                                             "mean_seconds",
                                             "open",
                                             "bits_src_per_s",
                                             "bits_dst_per_s",
                                             "packets_src_per_s",
                                             "packets_dst_per_s",
                                             "connections_per_s"};

std::vector<std::string> SumTexts(const TopSums& sums, bool has_open) {
  return {absl::StrCat(sums.bytes_src),
          absl::StrCat(sums.bytes_dst),
          absl::StrCat(sums.packets_src),
          absl::StrCat(sums.packets_dst),
          absl::StrCat(sums.connections),
          sums.connections == 0 ? "-" : Decimal(sums.MeanSeconds()),
          has_open ? absl::StrCat(sums.open) : "-",
          Decimal(sums.bits_src_rate),
          Decimal(sums.bits_dst_rate),
          Decimal(sums.packets_src_rate),
          Decimal(sums.packets_dst_rate),
          Decimal(sums.connections_rate)};
}

std::vector<std::string> Joined(std::vector<std::string> fields,
                                const std::vector<std::string>& more) {
  fields.insert(fields.end(), more.begin(), more.end());
  return fields;
}

std::vector<std::string> KeyTexts(TopView view, const TopKey& key) {
  if (view == TopView::kPorts) {
    return {std::string(ProtocolName(key.protocol)), absl::StrCat(key.port)};
  }
  std::vector<std::string> texts;
  if (view != TopView::kDestinations) texts.push_back(AddressName(view, key, key.src));
  if (view != TopView::kOrigins) texts.push_back(AddressName(view, key, key.dst));
  return texts;
}

}  // namespace

std::string OnceText(const TopState& state, const std::vector<TopView>& views, TopSort sort,
                     const AddressFilter& filter, size_t limit) {
  const std::vector<const TopInterval*> chosen = ChosenIntervals(state);
  const std::vector<const TopInterval*> present =
      chosen.empty() ? chosen : PresentIntervals(chosen);
  std::string text = Line({"#interval", "gateway", "end", "seconds", "age_seconds", "completeness",
                           "events_dropped", "rows", "in_sums"});
  for (const TopInterval* interval : chosen) {
    const bool in_sums = std::find(present.begin(), present.end(), interval) != present.end();
    const double age = static_cast<double>(state.now_ns - interval->end_ns) / 1e9;
    text += Line(
        {"interval", interval->gateway.empty() ? "-" : interval->gateway, UtcText(interval->end_ns),
         absl::StrCat(static_cast<double>(interval->length_ns) / 1e9), Decimal(age),
         interval->completeness.has_value() ? CompletenessName(*interval->completeness) : "-",
         absl::StrCat(interval->events_dropped), absl::StrCat(interval->rows.size()),
         in_sums ? "yes" : "no"});
  }
  text += Line({"#gap", "gateway", "began", "ended", "cause", "completeness", "events_dropped",
                "flows_lost"});
  for (const TopInterval* interval : chosen) {
    for (const Gap& gap : interval->gaps) {
      text +=
          Line({"gap", interval->gateway.empty() ? "-" : interval->gateway, UtcText(gap.began_ns),
                UtcText(gap.ended_ns), GapCauseName(gap.cause), CompletenessName(gap.completeness),
                absl::StrCat(gap.events_dropped), absl::StrCat(gap.flows_lost)});
    }
  }
  bool total_told = false;
  for (const TopView view : views) {
    const TopTable table = MakeTopTable(present, view, sort, false, filter);
    if (!total_told) {
      text += Line(Joined({"#total"}, kSumFields));
      text += Line(Joined({"total"}, SumTexts(table.total, table.has_open)));
      total_told = true;
    }
    constexpr std::array<const char*, kTopViews> kKinds = {"pair", "origin", "destination", "port"};
    const std::string kind = kKinds[static_cast<size_t>(view)];
    std::vector<std::string> names = {"#" + kind};
    switch (view) {
      case TopView::kPairs:
        names.insert(names.end(), {"src", "dst"});
        break;
      case TopView::kOrigins:
        names.emplace_back("src");
        break;
      case TopView::kDestinations:
        names.emplace_back("dst");
        break;
      case TopView::kPorts:
        names.insert(names.end(), {"proto", "port"});
        break;
    }
    text += Line(Joined(std::move(names), kSumFields));
    size_t count = 0;
    for (const TopEntry& entry : table.entries) {
      if (limit != 0 && count++ == limit) break;
      text += Line(
          Joined(Joined({kind}, KeyTexts(view, entry.key)), SumTexts(entry.sums, table.has_open)));
    }
  }
  text += Line({"#health", "metric", "value"});
  if (state.health.has_value()) {
    for (const MetricSample& sample : state.health->samples) {
      text += Line({"health", Printable(sample.name), Printable(sample.text)});
    }
  }
  text += Line({"#problem", "text"});
  for (const std::string& problem : TopProblems(state, absl::UTCTimeZone())) {
    text += Line({"problem", Printable(problem)});
  }
  if (!state.health_error.empty()) text += Line({"problem", Printable(state.health_error)});
  return text;
}

}  // namespace ctacct
