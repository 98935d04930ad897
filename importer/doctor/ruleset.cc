#include "importer/doctor/ruleset.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "importer/doctor/findings.h"

namespace ctacct {
namespace {

constexpr absl::string_view kHandle = " # handle ";

// Without what stands in double quotes: a comment or a prefix of a log line is no rule.
std::string WithoutQuoted(absl::string_view line) {
  std::string bare;
  bool quoted = false;
  for (const char c : line) {
    if (c == '"') quoted = !quoted;
    if (!quoted) bare.push_back(c);
  }
  return bare;
}

bool HasWord(absl::string_view line, absl::string_view word) {
  const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
  return std::find(words.begin(), words.end(), word) != words.end();
}

// Each of these makes the kernel hook conntrack into the namespace. `bare` is the rule without what
// it quotes.
bool TurnsTrackingOn(absl::string_view rule, absl::string_view bare) {
  for (const absl::string_view word :
       {"ct", "masquerade", "snat", "dnat", "redirect", "synproxy"}) {
    if (HasWord(bare, word)) return true;
  }
  // Rules of iptables-nft that this machine's nft cannot translate.
  for (const absl::string_view text :
       {"xt match \"conntrack\"", "xt match \"state\"", "xt target \"MASQUERADE\"",
        "xt target \"SNAT\"", "xt target \"DNAT\"", "xt target \"REDIRECT\""}) {
    if (absl::StrContains(rule, text)) return true;
  }
  return absl::StrContains(bare, "flow add @");
}

// If the rule is an event mask (`ct event set`, --ctevents) without `destroy` or `new`. `from`:
// what comes before the events.
void ReadMask(absl::string_view rule, absl::string_view from, const RuleSource& source,
              RulesetFindings* findings) {
  const size_t at = rule.find(from);
  if (at == absl::string_view::npos) return;
  const absl::string_view rest = rule.substr(at + from.size());
  const std::vector<absl::string_view> events = absl::StrSplit(rest.substr(0, rest.find(' ')), ',');
  const auto has = [&](absl::string_view event) {
    return std::find(events.begin(), events.end(), event) != events.end();
  };
  if (!has("destroy")) {
    findings->masking.push_back(source);
  } else if (!has("new")) {
    findings->hiding.push_back(source);
  }
}

void ReadNftRule(const std::string& chain, absl::string_view rule, absl::string_view handle,
                 RulesetFindings* findings) {
  const std::string bare = WithoutQuoted(rule);
  const std::string what = absl::StrCat(chain, ": ", rule);
  const std::string remedy = absl::StrCat("nft delete rule ", chain, " handle ", handle);
  if (HasWord(bare, "notrack")) findings->untracking.push_back({what, remedy});
  // nft 1.0.6 and later write it without quotes.
  if (absl::StrContains(rule, "xt target \"CT\"") || absl::StrContains(rule, "xt target CT")) {
    findings->ct_targets.push_back({what, remedy});
  }
  ReadMask(bare, "ct event set ", {what, remedy}, findings);
  if (findings->tracking.empty() && TurnsTrackingOn(rule, bare)) findings->tracking = what;
}

}  // namespace

void ReadNftRuleset(absl::string_view listing, RulesetFindings* findings) {
  std::string table;      // "ip raw"
  std::string chain;      // Empty outside of any.
  std::string flowtable;  // Empty outside of any.
  std::vector<std::string> lines_of_flowtable;
  std::string rule;
  for (const absl::string_view raw_line : absl::StrSplit(listing, '\n')) {
    absl::string_view line = absl::StripAsciiWhitespace(raw_line);
    std::string handle;
    if (const size_t at = line.rfind(kHandle); at != absl::string_view::npos) {
      handle = std::string(line.substr(at + kHandle.size()));
      line = absl::StripAsciiWhitespace(line.substr(0, at));
    }
    const bool opens = absl::ConsumeSuffix(&line, "{");
    line = absl::StripTrailingAsciiWhitespace(line);
    if (opens && absl::ConsumePrefix(&line, "table ")) {
      table = std::string(line);
    } else if (opens && absl::ConsumePrefix(&line, "chain ")) {
      chain = std::string(line);
    } else if (opens && absl::ConsumePrefix(&line, "flowtable ")) {
      flowtable = std::string(line);
      lines_of_flowtable.clear();
    } else if (line == "}" && !flowtable.empty()) {
      ++findings->flowtables;
      if (std::find(lines_of_flowtable.begin(), lines_of_flowtable.end(), "counter") ==
          lines_of_flowtable.end()) {
        // Of a flowtable that is there, this changes the flag alone.
        findings->uncounted_offload.push_back(
            {absl::StrCat(table, " ", flowtable),
             absl::StrCat("nft ", ShellQuoted(absl::StrCat(
                                      "add flowtable ", table, " ", flowtable, " { ",
                                      absl::StrJoin(lines_of_flowtable, "; "), "; counter; }")))});
      }
      flowtable.clear();
    } else if (line == "}") {
      chain.clear();
      rule.clear();
    } else if (!flowtable.empty()) {
      lines_of_flowtable.push_back(std::string(line));
    } else if (!chain.empty() && !absl::StartsWith(line, "type ")) {
      // A rule with a long set has several lines; its handle ends it.
      absl::StrAppend(&rule, rule.empty() ? "" : " ", line);
      if (handle.empty()) continue;
      ReadNftRule(absl::StrCat(table, " ", chain), rule, handle, findings);
      rule.clear();
    }
  }
}

void ReadIptablesSave(absl::string_view listing, absl::string_view save,
                      RulesetFindings* findings) {
  const std::string program(absl::StripSuffix(save, "-save"));
  std::string table;
  for (absl::string_view line : absl::StrSplit(listing, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (absl::ConsumePrefix(&line, "*")) {
      table = std::string(line);
      continue;
    }
    if (!absl::StartsWith(line, "-A ")) continue;
    const std::string what = absl::StrCat(program, " -t ", table, " ", line);
    const std::string remedy = absl::StrCat(program, " -t ", table, " -D ", line.substr(3));
    if (absl::StrContains(line, "-j NOTRACK") || absl::StrContains(line, "--notrack")) {
      findings->untracking.push_back({what, remedy});
    }
    ReadMask(line, "--ctevents ", {what, remedy}, findings);
    if (findings->tracking.empty() && (absl::StrContains(line, "-m conntrack") ||
                                       absl::StrContains(line, "-m state") || table == "nat")) {
      findings->tracking = what;
    }
  }
}

}  // namespace ctacct
