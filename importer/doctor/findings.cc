#include "importer/doctor/findings.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "engine/system/text.h"

namespace ctacct {
namespace {

constexpr size_t kColumns = 80;
constexpr size_t kNameColumns = 14;
constexpr size_t kTextColumn = 4 + 1 + kNameColumns + 1;  // Behind verdict and name.

struct Look {
  const char* word;
  const char* json;
  const char* colour;
};

Look LookOf(Verdict verdict) {
  switch (verdict) {
    case Verdict::kOk:
      return {"ok  ", "ok", "\033[32m"};
    case Verdict::kWarn:
      return {"WARN", "warn", "\033[1;33m"};
    case Verdict::kFail:
      return {"FAIL", "fail", "\033[1;31m"};
    case Verdict::kSkipped:
      return {"skip", "skipped", "\033[36m"};
  }
  return {"", "", ""};
}

std::string Coloured(const char* colour, absl::string_view text, bool colours) {
  return colours ? absl::StrCat(colour, text, "\033[0m") : std::string(text);
}

// Broken at blanks; what follows the first line is indented.
std::string Wrapped(absl::string_view text, size_t column) {
  std::string lines;
  size_t used = column;
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (used != column && used + 1 + word.size() > kColumns) {
      absl::StrAppend(&lines, "\n", std::string(column, ' '));
      used = column;
    } else if (used != column) {
      lines.push_back(' ');
      ++used;
    }
    absl::StrAppend(&lines, word);
    used += word.size();
  }
  return lines;
}

size_t CountOf(absl::Span<const Finding> findings, Verdict verdict) {
  return static_cast<size_t>(
      std::count_if(findings.begin(), findings.end(),
                    [verdict](const Finding& finding) { return finding.verdict == verdict; }));
}

std::string NamesOf(absl::Span<const Finding> findings, Verdict verdict) {
  std::string names;
  for (const Finding& finding : findings) {
    if (finding.verdict == verdict)
      absl::StrAppend(&names, names.empty() ? "" : ", ", finding.name);
  }
  return names;
}

std::string Summary(absl::Span<const Finding> findings, bool colours) {
  const size_t skipped = CountOf(findings, Verdict::kSkipped);
  const size_t warnings = CountOf(findings, Verdict::kWarn);
  std::string text;
  Verdict worst = Verdict::kOk;
  if (AnyFailed(findings)) {
    worst = Verdict::kFail;
    text = absl::StrCat("This machine does NOT count correctly: ", NamesOf(findings, worst), ".");
  } else if (warnings != 0) {
    worst = Verdict::kWarn;
    text = absl::StrCat("This machine counts, with warnings: ", NamesOf(findings, worst), ".");
  } else {
    text = skipped == 0 ? "This machine counts correctly." : "No problem found.";
  }
  if (skipped != 0) {
    absl::StrAppend(&text, " Not checked: ", CountText(skipped, "check"), ".");
  }
  return Coloured(LookOf(worst).colour, Wrapped(text, 0), colours);
}

}  // namespace

bool AnyFailed(absl::Span<const Finding> findings) {
  return CountOf(findings, Verdict::kFail) != 0;
}

std::string ReportText(absl::Span<const Finding> findings, bool colour) {
  std::string screen;
  for (const Finding& finding : findings) {
    const Look look = LookOf(finding.verdict);
    const size_t padding =
        finding.name.size() < kNameColumns ? kNameColumns - finding.name.size() : 0;
    absl::StrAppend(&screen, Coloured(look.colour, look.word, colour), " ", finding.name,
                    std::string(padding, ' '), " ",
                    Wrapped(EscapeControls(finding.text), kTextColumn), "\n");
    for (const std::string& remedy : finding.remedies) {
      absl::StrAppend(&screen, "     > ", EscapeControls(remedy), "\n");
    }
  }
  return absl::StrCat(screen, Summary(findings, colour), "\n");
}

std::string ReportJson(absl::Span<const Finding> findings) {
  nlohmann::json list = nlohmann::json::array();
  for (const Finding& finding : findings) {
    list.push_back({{"name", finding.name},
                    {"verdict", LookOf(finding.verdict).json},
                    {"text", finding.text},
                    {"remedies", finding.remedies}});
  }
  const nlohmann::json report = {{"counts_right", !AnyFailed(findings)}, {"findings", list}};
  // Names of files and processes need not be UTF-8.
  return absl::StrCat(report.dump(2, ' ', false, nlohmann::json::error_handler_t::replace), "\n");
}

std::string ShellQuoted(absl::string_view text) {
  const bool plain = !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
           absl::string_view("-_./=:,+@%").find(c) != absl::string_view::npos;
  });
  if (plain) return std::string(text);
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

std::string BytesText(uint64_t bytes) {
  const char* const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  // To two digits at least, but where fewer are exact.
  while (unit + 1 < std::size(units) && bytes >= 1024 && (bytes % 1024 == 0 || bytes >= 10'240)) {
    bytes /= 1024;
    ++unit;
  }
  return absl::StrCat(bytes, " ", units[unit]);
}

std::string CountText(uint64_t count, absl::string_view thing) {
  return absl::StrCat(count, " ", thing, count == 1 ? "" : "s");
}

}  // namespace ctacct
