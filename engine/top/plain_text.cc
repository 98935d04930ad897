#include "engine/top/plain_text.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "engine/rows/protocol_names.h"
#include "engine/top/format.h"

namespace ctacct {
namespace {

using Fields = std::vector<std::string>;

// The kind of a view's lines, and the fields that say what a line is about.
struct ViewFields {
  const char* kind;
  const char* key_names;
};
constexpr ViewFields kViewFields[kTopViews] = {{"pair", "src\tdst"},
                                               {"origin", "src"},
                                               {"destination", "dst"},
                                               {"port", "proto\tport"},
                                               {"service", "dst\tproto\tport"}};

// clang-format off
constexpr char kSumNames[] =
    "bytes_src\tbytes_dst\tpackets_src\tpackets_dst\tconnections\tmean_seconds\topen\t"
    "bits_src_per_s\tbits_dst_per_s\tpackets_src_per_s\tpackets_dst_per_s\tconnections_per_s\t"
    "flows\tunanswered";
// clang-format on

std::string UtcText(int64_t ns) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E*SZ", absl::FromUnixNanos(ns), absl::UTCTimeZone());
}

std::string Line(const Fields& fields) { return absl::StrCat(absl::StrJoin(fields, "\t"), "\n"); }

std::string Decimal(double value) { return absl::StrFormat("%.3f", value); }

std::string NameOrDash(const std::string& name) { return name.empty() ? "-" : name; }

std::string SumTexts(const TopSums& sums, bool has_open) {
  return absl::StrJoin(Fields{absl::StrCat(sums.bytes_src), absl::StrCat(sums.bytes_dst),
                              absl::StrCat(sums.packets_src), absl::StrCat(sums.packets_dst),
                              absl::StrCat(sums.connections),
                              sums.connections == 0 ? "-" : Decimal(sums.MeanSeconds()),
                              has_open ? absl::StrCat(sums.open) : "-", Decimal(sums.bits_src_rate),
                              Decimal(sums.bits_dst_rate), Decimal(sums.packets_src_rate),
                              Decimal(sums.packets_dst_rate), Decimal(sums.connections_rate),
                              absl::StrCat(sums.flows), absl::StrCat(sums.unanswered)},
                       "\t");
}

// Addresses without masks, as in CSV: scripts compare and filter by them.
std::string KeyTexts(TopView view, const TopKey& key) {
  const GroupMasks masks;
  Fields texts;
  if (HasOrigin(view)) texts.push_back(OriginName(view, key, masks));
  if (HasDestination(view)) texts.push_back(DestinationName(view, key, masks));
  if (HasPort(view)) {
    texts.emplace_back(ProtocolName(key.protocol));
    texts.push_back(absl::StrCat(key.port));
  }
  return absl::StrJoin(texts, "\t");
}

std::string IntervalLines(const std::vector<const TopInterval*>& chosen,
                          const std::vector<const TopInterval*>& present, int64_t now_ns) {
  std::string text =
      "#interval\tgateway\tend\tseconds\tcovered_seconds\tage_seconds\tcompleteness\tevents_dropped\t"
      "rows\tin_sums\n";
  for (const TopInterval* interval : chosen) {
    const bool in_sums = std::find(present.begin(), present.end(), interval) != present.end();
    text += Line(
        {"interval", NameOrDash(interval->gateway), UtcText(interval->end_ns),
         absl::StrCat(static_cast<double>(interval->length_ns) / 1e9),
         interval->covered_ns > 0 ? Decimal(static_cast<double>(interval->covered_ns) / 1e9) : "-",
         Decimal(static_cast<double>(now_ns - interval->end_ns) / 1e9),
         interval->completeness.has_value() ? CompletenessName(*interval->completeness) : "-",
         absl::StrCat(interval->events_dropped), absl::StrCat(interval->rows.size()),
         in_sums ? "yes" : "no"});
  }
  text += "#gap\tgateway\tbegan\tended\tcause\tcompleteness\tevents_dropped\tflows_lost\n";
  for (const TopInterval* interval : chosen) {
    for (const Gap& gap : interval->gaps) {
      text +=
          Line({"gap", NameOrDash(interval->gateway), UtcText(gap.began_ns), UtcText(gap.ended_ns),
                GapCauseName(gap.cause), CompletenessName(gap.completeness),
                absl::StrCat(gap.events_dropped), absl::StrCat(gap.flows_lost)});
    }
  }
  return text;
}

std::string EntryLines(const TopTable& table, TopView view, size_t limit) {
  const ViewFields& fields = kViewFields[static_cast<size_t>(view)];
  std::string text = absl::StrCat("#", fields.kind, "\t", fields.key_names, "\t", kSumNames);
  if (table.has_names && HasOrigin(view)) text += "\tsrc_name";
  if (table.has_names && HasDestination(view)) text += "\tdst_name";
  text += "\n";
  const size_t lines = limit == 0 ? table.entries.size() : std::min(limit, table.entries.size());
  for (size_t i = 0; i < lines; ++i) {
    const TopEntry& entry = table.entries[i];
    Fields line = {fields.kind, KeyTexts(view, entry.key), SumTexts(entry.sums, table.has_open)};
    if (table.has_names && HasOrigin(view)) line.push_back(NameOrDash(entry.src_name));
    if (table.has_names && HasDestination(view)) line.push_back(NameOrDash(entry.dst_name));
    text += Line(line);
  }
  return text;
}

}  // namespace

std::string OnceText(const TopState& state, const std::vector<TopView>& views, TopSort sort,
                     const AddressFilter& filter, size_t limit) {
  const std::vector<const TopInterval*> chosen = ChosenIntervals(state);
  const std::vector<const TopInterval*> present = PresentIntervals(chosen);
  std::string text = IntervalLines(chosen, present, state.now_ns);
  for (size_t i = 0; i < views.size(); ++i) {
    TopTable table = MakeTopTable(present, views[i], sort, false, filter);
    if (state.names != nullptr) NameEntries(*state.names, present, &table);
    if (i == 0) {
      absl::StrAppend(&text, "#total\t", kSumNames, "\n");
      text += Line({"total", SumTexts(table.total, table.has_open)});
    }
    text += EntryLines(table, views[i], limit);
  }
  text += "#health\tmetric\tvalue\n";
  if (state.health.has_value()) {
    for (const MetricSample& sample : state.health->samples) {
      text += Line({"health", Printable(sample.name), Printable(sample.text)});
    }
  }
  text += "#problem\ttext\n";
  Fields problems = TopProblems(state, absl::UTCTimeZone());
  if (!state.health_error.empty()) problems.push_back(state.health_error);
  for (const std::string& problem : problems) text += Line({"problem", Printable(problem)});
  return text;
}

}  // namespace ctacct
