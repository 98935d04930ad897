#include "engine/names/name_list.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "engine/rows/bounds.h"
#include "engine/system/clock.h"
#include "engine/system/text.h"

namespace ctacct {
namespace {

constexpr size_t kKeyBytes = 32;

// Lines that say something, as fields.
void ForEachRecord(
    absl::string_view text, absl::string_view header, std::vector<LineProblem>* problems,
    absl::FunctionRef<std::string(size_t number, std::vector<std::string> fields)> take) {
  bool is_first = true;
  ForEachLine(text, problems, [&](size_t number, absl::string_view line) {
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') return;
    std::optional<std::vector<std::string>> fields = SplitCsv(line);
    const bool is_header =
        is_first && fields.has_value() && absl::EqualsIgnoreCase((*fields)[0], header);
    is_first = false;
    if (is_header) return;
    std::string why = fields.has_value() ? take(number, *std::move(fields))
                                         : "a quote is not closed, or not around the whole field";
    if (!why.empty()) problems->push_back({number, std::move(why)});
  });
}

// Empty: not given. False: not a time.
bool ParseMoment(const std::string& text, std::optional<int64_t>* ns) {
  if (text.empty()) return true;
  absl::Time time;
  int64_t seconds = 0;
  if (text.find_first_not_of("0123456789") == std::string::npos) {
    if (!absl::SimpleAtoi(text, &seconds) || seconds >= kTimeEndNs / kNanosPerSecond) return false;
    *ns = seconds * kNanosPerSecond;
    return true;
  }
  std::string error;
  if (!absl::ParseTime(absl::RFC3339_full, text, &time, &error)) return false;
  // Outside of these bounds ToUnixNanos saturates.
  *ns = absl::ToUnixNanos(time);
  return IsTime(**ns);
}

std::string TakeNetwork(const std::vector<std::string>& fields, NamesEntry* entry) {
  if (fields.size() < 2 || fields.size() > 4) return "not network,name[,from[,to]]";
  const absl::StatusOr<Network> network = ParseNetwork(fields[0]);
  if (!network.ok()) return std::string(network.status().message());
  entry->network = *network;
  if (absl::Status status = CheckHolderName(fields[1]); !status.ok()) {
    return std::string(status.message());
  }
  entry->name = fields[1];
  for (size_t i = 2; i < fields.size(); ++i) {
    if (!ParseMoment(fields[i], i == 2 ? &entry->from_ns : &entry->to_ns)) {
      return absl::StrCat(i == 2 ? "from" : "to",
                          " is not a time like 2026-01-31T18:00:00Z, or seconds since 1970");
    }
  }
  if (entry->to_ns.has_value() && *entry->to_ns <= entry->from_ns.value_or(-1)) {
    return "to is not after from";
  }
  return "";
}

// The later of two lines whose ranges overlap is the problem.
void FindOverlaps(const std::vector<NamesEntry>& entries, const std::vector<size_t>& lines,
                  std::vector<LineProblem>* problems) {
  constexpr int64_t kAlways = std::numeric_limits<int64_t>::max();
  std::vector<size_t> order(entries.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto begin = [&](size_t i) { return entries[i].from_ns.value_or(-1); };
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::make_tuple(entries[a].network, begin(a), a) <
           std::make_tuple(entries[b].network, begin(b), b);
  });
  for (size_t i = 1; i < order.size(); ++i) {
    const size_t before = order[i - 1];
    const size_t after = order[i];
    if (entries[before].network != entries[after].network ||
        entries[before].to_ns.value_or(kAlways) <= begin(after)) {
      continue;
    }
    const auto [first, second] = std::minmax(lines[before], lines[after]);
    problems->push_back(
        {second, absl::StrCat("the same network as in line ", first, ", at the same time")});
  }
  std::sort(problems->begin(), problems->end(),
            [](const LineProblem& a, const LineProblem& b) { return a.line < b.line; });
}

// The name in a comment of a configuration; nothing if it has none.
std::optional<absl::string_view> NameInComment(absl::string_view comment) {
  const auto stripped = [](absl::string_view text) { return absl::StripAsciiWhitespace(text); };
  const auto consume_word = [](absl::string_view* text, absl::string_view word) {
    if (!absl::StartsWithIgnoreCase(*text, word)) return false;
    text->remove_prefix(word.size());
    return true;
  };
  size_t marks = 0;
  while (absl::ConsumePrefix(&comment, "#")) ++marks;
  comment = stripped(comment);
  for (const absl::string_view word : {"name", "friendly_name"}) {
    absl::string_view rest = comment;
    if (!consume_word(&rest, word)) continue;
    rest = absl::StripLeadingAsciiWhitespace(rest);
    if (absl::ConsumePrefix(&rest, "=")) return stripped(rest);
  }
  absl::string_view rest = comment;
  if (consume_word(&rest, "BEGIN_PEER ")) return stripped(rest);
  if (marks < 3) return std::nullopt;
  if (consume_word(&rest, "begin ") && absl::ConsumeSuffix(&rest, "###")) return stripped(rest);
  rest = comment;
  if (consume_word(&rest, "client ")) return stripped(rest);
  return std::nullopt;
}

}  // namespace

SourceNames ParseNameList(absl::string_view text) {
  SourceNames list;
  std::vector<size_t> lines;
  ForEachRecord(text, "network", &list.problems,
                [&](size_t number, const std::vector<std::string>& fields) -> std::string {
                  NamesEntry entry;
                  std::string why = TakeNetwork(fields, &entry);
                  if (!why.empty()) return why;
                  list.entries.push_back(std::move(entry));
                  lines.push_back(number);
                  return "";
                });
  FindOverlaps(list.entries, lines, &list.problems);
  return list;
}

bool IsWireguardKey(absl::string_view text) {
  std::string bytes;
  return absl::Base64Unescape(text, &bytes) && bytes.size() == kKeyBytes &&
         absl::Base64Escape(bytes) == text;
}

KeyNameList ParseKeyNameList(absl::string_view text) {
  KeyNameList list;
  ForEachRecord(
      text, "publickey", &list.problems,
      [&](size_t, const std::vector<std::string>& fields) -> std::string {
        if (fields.size() != 2) return "not publickey,name";
        if (!IsWireguardKey(fields[0])) return "not a public key of WireGuard";
        if (absl::Status status = CheckHolderName(fields[1]); !status.ok()) {
          return std::string(status.message());
        }
        return list.names.emplace(fields[0], fields[1]).second ? "" : "the key has a name already";
      });
  return list;
}

KeyNameList ParseWireguardConfig(absl::string_view text) {
  KeyNameList list;
  std::string above;   // Of the comments since the last line that is none.
  std::string within;  // Of the section.
  std::string key;
  bool in_peer = false;
  const auto end_section = [&] {
    if (in_peer && !key.empty() && !within.empty()) list.names.emplace(key, within);
    key.clear();
    within.clear();
  };
  ForEachLine(text, &list.problems, [&](size_t number, absl::string_view line) {
    line = absl::StripAsciiWhitespace(line);
    if (absl::StartsWith(line, "#")) {
      const std::optional<absl::string_view> name = NameInComment(line);
      if (!name.has_value()) return;
      if (absl::Status status = CheckHolderName(*name); !status.ok()) {
        list.problems.push_back({number, std::string(status.message())});
        return;
      }
      above = std::string(*name);
      return;
    }
    const bool is_section = absl::StartsWith(line, "[");
    // A comment that no section follows at once belongs to the one that it is in.
    if (!is_section && !above.empty()) {
      if (within.empty()) within = above;
      above.clear();
    }
    if (is_section) {
      end_section();
      in_peer = absl::StartsWithIgnoreCase(line, "[peer]");
      within = std::exchange(above, "");
      return;
    }
    const size_t equals = line.find('=');
    if (equals == absl::string_view::npos ||
        !absl::EqualsIgnoreCase(absl::StripAsciiWhitespace(line.substr(0, equals)), "PublicKey")) {
      return;
    }
    const absl::string_view value = line.substr(equals + 1);
    key = std::string(absl::StripAsciiWhitespace(value.substr(0, value.find('#'))));
  });
  if (within.empty()) within = above;
  end_section();
  return list;
}

}  // namespace ctacct
