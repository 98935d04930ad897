#include "engine/top/columns.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/rows/protocol_names.h"
#include "engine/system/text.h"

namespace ctacct {
namespace {

constexpr size_t kIpv4Width = 15;
constexpr size_t kHolderWidthMax = 20;
constexpr size_t kBarWidthMin = 10;
constexpr size_t kBarWidthMax = 40;

struct Column {
  std::string title;
  size_t width;
  std::function<std::string(const TopEntry&)> text;
  std::optional<TopSort> sort = std::nullopt;
  bool left = false;  // Aligned.
};

std::string PortText(const TopKey& key) {
  if (IsOtherEntry(TopView::kPorts, key)) return "(other)";
  const std::string protocol(ProtocolName(key.protocol));
  if (key.port == 0) return protocol;  // Most of these have no ports.
  return absl::StrCat(protocol, "/", key.port == kPortNotListed ? "*" : absl::StrCat(key.port));
}

std::vector<Column> NameColumns(TopView view, const GroupMasks& masks, size_t width) {
  std::vector<Column> columns;
  const auto add = [width, &columns](const char* title, auto text) {
    columns.push_back(
        {title, width, text, columns.empty() ? std::optional(TopSort::kName) : std::nullopt, true});
  };
  if (HasOrigin(view)) {
    add("ORIGIN",
        [view, masks](const TopEntry& entry) { return OriginName(view, entry.key, masks); });
  }
  if (HasDestination(view)) {
    add("DESTINATION",
        [view, masks](const TopEntry& entry) { return DestinationName(view, entry.key, masks); });
  }
  if (HasPort(view)) add("PORT", [](const TopEntry& entry) { return PortText(entry.key); });
  return columns;
}

// Who holds them, each beside its address.
void AddHolders(const TopTable& table, TopView view, size_t first, size_t end,
                std::vector<Column>* columns) {
  const auto add = [&](size_t at, std::string TopEntry::*name) {
    Column column = {"NAME", 4, [name](const TopEntry& entry) { return Printable(entry.*name); },
                     std::nullopt, true};
    for (size_t i = first; i < end; ++i) {
      column.width = std::max(column.width, column.text(table.entries[i]).size());
    }
    column.width = std::min(column.width, kHolderWidthMax);
    columns->insert(columns->begin() + static_cast<ptrdiff_t>(at), std::move(column));
  };
  if (HasOrigin(view)) add(1, &TopEntry::src_name);
  if (HasDestination(view)) add(HasOrigin(view) ? 3 : 1, &TopEntry::dst_name);
}

template <typename Text>
Column Figure(const char* title, size_t width, Text text,
              std::optional<TopSort> sort = std::nullopt) {
  return {title, width, [text](const TopEntry& entry) { return text(entry.sums); }, sort};
}

Column RateColumn(const char* title, double TopSums::*field,
                  std::optional<TopSort> sort = std::nullopt) {
  return Figure(
      title, 7, [field](const TopSums& sums) { return ShortRate(sums.*field); }, sort);
}

Column CountColumn(const char* title, uint64_t TopSums::*field, std::optional<TopSort> sort) {
  return Figure(
      title, 5, [field](const TopSums& sums) { return ShortCount(sums.*field); }, sort);
}

Column ExactColumn(const char* title, uint64_t TopSums::*field) {
  return Figure(title, 14, [field](const TopSums& sums) { return WithThousands(sums.*field); });
}

double Bits(const TopSums& sums) { return sums.bits_src_rate + sums.bits_dst_rate; }

// The figures that every screen has.
std::vector<Column> FigureColumns(const TopTable& table) {
  std::vector<Column> figures = {
      RateColumn("bit/s >", &TopSums::bits_src_rate, TopSort::kBytes),
      RateColumn("bit/s <", &TopSums::bits_dst_rate, TopSort::kBytes),
      Figure(
          "pkt/s", 5,
          [](const TopSums& sums) {
            return ShortRate(sums.packets_src_rate + sums.packets_dst_rate);
          },
          TopSort::kPackets),
      CountColumn("conns", &TopSums::connections, TopSort::kConnections),
      Figure("mean", 6, MeanText, TopSort::kTime)};
  if (table.has_open) figures.push_back(CountColumn("open", &TopSums::open, TopSort::kOpen));
  const double all = Bits(table.total);
  figures.push_back(Figure("%", 4, [all](const TopSums& sums) {
    const double percent = all == 0 ? 0 : 100 * Bits(sums) / all;
    return percent < 99.95 ? absl::StrFormat("%.1f", percent) : "100";
  }));
  return figures;
}

Column BarColumn(const TopTable& table, size_t width) {
  double largest = 0;
  for (const TopEntry& entry : table.entries) largest = std::max(largest, Bits(entry.sums));
  return {"", width,
          [largest, width](const TopEntry& entry) {
            const double share = largest == 0 ? 0 : Bits(entry.sums) / largest;
            return std::string(static_cast<size_t>(std::lround(share * static_cast<double>(width))),
                               '=');
          },
          std::nullopt, true};
}

size_t WidthOf(const std::vector<Column>& columns) {
  size_t width = 0;
  for (const Column& column : columns) width += column.width + 1;
  return width == 0 ? 0 : width - 1;
}

// The columns that fit into `width`, the most important ones first.
std::vector<Column> ColumnsFor(const TopTable& table, TopView view, TopSort sort, size_t width,
                               size_t first, size_t end) {
  std::vector<Column> figures = FigureColumns(table);
  const std::vector<Column> unanswered = {
      CountColumn("flows", &TopSums::flows, std::nullopt),
      CountColumn("unans", &TopSums::unanswered, TopSort::kUnanswered)};
  if (sort == TopSort::kUnanswered) {  // Instead of figures that do not matter here.
    figures.erase(figures.begin() + 3, figures.end() - 1);
    figures.insert(figures.end() - 1, unanswered.begin(), unanswered.end());
  }
  std::vector<Column> columns = NameColumns(view, table.masks, kIpv4Width);
  size_t name_width = kIpv4Width;
  // The port comes last and needs no more.
  const size_t addresses = columns.size() - (HasPort(view) ? 1 : 0);
  for (size_t i = first; i < end; ++i) {
    for (size_t j = 0; j < addresses; ++j) {
      name_width = std::max(name_width, columns[j].text(table.entries[i]).size());
    }
  }
  // Names give way: an IPv6 address may be cut before a figure is.
  const size_t others = WidthOf(figures) + (HasPort(view) ? kIpv4Width + 1 : 0);
  const size_t for_names = width > others ? width - others : 0;
  for (size_t j = 0; j < addresses; ++j) {
    columns[j].width = std::min(name_width, std::max(kIpv4Width + 1, for_names / addresses) - 1);
  }
  if (table.has_names) AddHolders(table, view, first, end, &columns);
  const std::vector<Column> more_figures[] = {
      sort == TopSort::kUnanswered ? std::vector<Column>() : unanswered,
      {RateColumn("pkt/s >", &TopSums::packets_src_rate),
       RateColumn("pkt/s <", &TopSums::packets_dst_rate)},
      {RateColumn("conns/s", &TopSums::connections_rate)},
      {ExactColumn("bytes >", &TopSums::bytes_src), ExactColumn("bytes <", &TopSums::bytes_dst)}};
  for (const std::vector<Column>& more : more_figures) {
    if (more.empty() || WidthOf(columns) + 1 + WidthOf(figures) + 1 + WidthOf(more) > width)
      continue;
    // Before the share, which the bar follows.
    figures.insert(figures.end() - 1, more.begin(), more.end());
  }
  columns.insert(columns.end(), figures.begin(), figures.end());
  while (WidthOf(columns) > width && columns.size() > 1) columns.pop_back();
  const size_t used = WidthOf(columns);
  if (width > used + kBarWidthMin) {
    columns.push_back(BarColumn(table, std::min(kBarWidthMax, width - used - 1)));
  }
  return columns;
}

std::string Aligned(const Column& column, const std::string& text) {
  return column.left ? Left(text, column.width) : Right(text, column.width);
}

}  // namespace

std::string MeanText(const TopSums& sums) {
  return sums.connections == 0 ? "-" : ShortSeconds(sums.MeanSeconds());
}

std::vector<ScreenLine> TableLines(const TopTable& table, TopView view, TopSort sort, size_t width,
                                   size_t first, size_t end) {
  const std::vector<Column> columns = ColumnsFor(table, view, sort, width, first, end);
  ScreenLine titles;
  for (const Column& column : columns) {
    titles.push_back({absl::StrCat(titles.empty() ? "" : " ", Aligned(column, column.title)),
                      column.sort == sort ? TextStyle::kReverse : TextStyle::kBold});
  }
  std::vector<ScreenLine> lines = {Fit(std::move(titles), width)};
  for (size_t i = first; i < end; ++i) {
    std::string row;
    for (const Column& column : columns) {
      absl::StrAppend(&row, row.empty() ? "" : " ", Aligned(column, column.text(table.entries[i])));
    }
    lines.push_back(Fit({{row}}, width));
  }
  return lines;
}

}  // namespace ctacct
