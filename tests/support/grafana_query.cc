#include "tests/support/grafana_query.h"

#include <regex>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace ctacct {
namespace {

std::string Quoted(const std::string& text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "''"}}), "'");
}

std::string Moment(absl::Time time) {
  return Quoted(absl::FormatTime("%Y-%m-%dT%H:%M:%E*SZ", time, absl::UTCTimeZone()));
}

// As Grafana writes a duration that is a whole number of one unit.
std::string DurationText(absl::Duration duration) {
  const int64_t ms = absl::ToInt64Milliseconds(duration);
  constexpr struct {
    int64_t ms;
    const char* name;
  } kUnits[] = {{86'400'000, "d"}, {3'600'000, "h"}, {60'000, "m"}, {1000, "s"}};
  for (const auto& unit : kUnits) {
    if (ms % unit.ms == 0) return absl::StrCat(ms / unit.ms, unit.name);
  }
  return absl::StrCat(ms, "ms");
}

absl::StatusOr<int64_t> SecondsOf(absl::string_view text) {
  int64_t number = 0;
  absl::string_view digits = text;
  if (!digits.empty()) digits.remove_suffix(1);
  const int64_t unit = absl::EndsWith(text, "s")   ? 1
                       : absl::EndsWith(text, "m") ? 60
                       : absl::EndsWith(text, "h") ? 3600
                       : absl::EndsWith(text, "d") ? 86'400
                                                   : 0;
  if (unit == 0 || !absl::SimpleAtoi(digits, &number) || number <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("no interval: ", text));
  }
  return number * unit;
}

absl::StatusOr<std::string> VariableText(const std::string& name, const std::string& format,
                                         const GrafanaView& view) {
  const auto found = view.variables.find(name);
  if (found == view.variables.end()) {
    return absl::InvalidArgumentError(absl::StrCat("unknown variable ", name));
  }
  // Without a format it depends on the variable how its value is quoted.
  if (format != "sqlstring") {
    return absl::InvalidArgumentError(
        absl::StrCat("variable ", name, " is not in the format sqlstring"));
  }
  if (!found->second.chosen.has_value()) return found->second.all_value;
  return absl::StrJoin(*found->second.chosen, ",", [](std::string* out, const std::string& value) {
    absl::StrAppend(out, Quoted(value));
  });
}

absl::StatusOr<std::string> MacroText(const std::string& name, const std::string& arguments,
                                      bool before_comma, const GrafanaView& view) {
  std::vector<std::string> argument;
  for (absl::string_view part : absl::StrSplit(arguments, ',')) {
    argument.emplace_back(absl::StripAsciiWhitespace(part));
  }
  if (name == "__timeFrom") return Moment(view.from);
  if (name == "__timeTo") return Moment(view.to);
  if (argument[0].empty()) {
    return absl::InvalidArgumentError(absl::StrCat("macro ", name, " without a column"));
  }
  if (name == "__time") return absl::StrCat(argument[0], " AS \"time\"");
  if (name == "__timeFilter") {
    return absl::StrCat(argument[0], " BETWEEN ", Moment(view.from), " AND ", Moment(view.to));
  }
  if (name == "__timeGroup" || name == "__timeGroupAlias") {
    if (argument.size() != 2) {
      return absl::InvalidArgumentError(absl::StrCat("macro ", name, " takes two arguments here"));
    }
    const absl::StatusOr<int64_t> seconds =
        SecondsOf(absl::StripPrefix(absl::StripSuffix(argument[1], "'"), "'"));
    if (!seconds.ok()) return seconds.status();
    return absl::StrCat("floor(extract(epoch from ", argument[0], ")/", *seconds, ")*", *seconds,
                        before_comma || name == "__timeGroupAlias" ? " AS \"time\"" : "");
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown macro ", name));
}

// Replaces every match by what `text_of` says.
template <typename TextOf>
absl::StatusOr<std::string> ReplaceAll(const std::string& text, const std::regex& pattern,
                                       const TextOf& text_of) {
  std::string replaced;
  auto rest = text.begin();
  for (std::sregex_iterator match(text.begin(), text.end(), pattern), end; match != end; ++match) {
    absl::StatusOr<std::string> piece = text_of(*match);
    if (!piece.ok()) return piece.status();
    replaced.append(rest, (*match)[0].first);
    replaced.append(*piece);
    rest = (*match)[0].second;
  }
  replaced.append(rest, text.end());
  return replaced;
}

}  // namespace

absl::StatusOr<std::string> ExpandGrafanaSql(const std::string& sql, const GrafanaView& view) {
  static const std::regex kVariable(R"(\$(\w+)|\$\{(\w+)(?::([^}]*))?\}|\[\[[^\]]*\]\])");
  absl::StatusOr<std::string> with_values =
      ReplaceAll(sql, kVariable, [&](const std::smatch& match) -> absl::StatusOr<std::string> {
        if (match[1] == "__interval") return DurationText(view.interval);
        if (match[1] == "__interval_ms") {
          return absl::StrCat(absl::ToInt64Milliseconds(view.interval));
        }
        // A macro's: the second step knows.
        if (match[1].matched && match.suffix().str().rfind('(', 0) == 0) return match.str();
        return VariableText(match[1].matched ? match[1].str() : match[2].str(), match[3].str(),
                            view);
      });
  if (!with_values.ok()) return with_values;
  static const std::regex kMacro(R"(\$([_a-zA-Z0-9]+)\(([^)]*)\))");
  return ReplaceAll(*with_values, kMacro, [&](const std::smatch& match) {
    return MacroText(match[1], match[2], match.suffix().str().rfind(',', 0) == 0, view);
  });
}

}  // namespace ctacct
