#include "engine/system/command_line.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/flags/commandlineflag.h"
#include "absl/flags/reflection.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "engine/system/check.h"
#include "engine/system/text.h"
#include "engine/system/write_all.h"

namespace ctacct {
namespace {

constexpr size_t kErrorBytesMax = 4096;        // As long as a path can be.
constexpr size_t kFlagFileBytesMax = 1 << 20;  // All flags with the longest values, many times.
constexpr int kFlagFileDepthMax = 8;           // A file that names itself must end somewhere.
constexpr size_t kQuotedBytesMax = 400;  // Most paths; a hostile value must not flood the log.

constexpr char kVersion[] =
#include "engine/system/version.inc"
    ;

// --version was asked for, not --help.
bool version_asked = false;

std::string Normalised(absl::string_view name) { return absl::StrReplaceAll(name, {{"-", "_"}}); }

std::string Spelled(absl::string_view name) { return absl::StrReplaceAll(name, {{"_", "-"}}); }

bool IsOurs(const absl::CommandLineFlag& flag) {
  // absl and the test framework register flags of their own; those are no part of our command line.
  const std::string file = flag.Filename();
  return absl::StrContains(file, "engine/") || absl::StrContains(file, "importer/") ||
         absl::StrContains(file, "bench/") || absl::StrContains(file, "tests/");
}

absl::CommandLineFlag* Find(const std::string& name) {
  absl::CommandLineFlag* flag = absl::FindCommandLineFlag(name);
  return flag != nullptr && IsOurs(*flag) ? flag : nullptr;
}

// "NAME": the flag has another value than its default. "NAME=VALUE": it has that value.
bool IsGiven(absl::string_view text) {
  const size_t equals = text.find('=');
  const absl::CommandLineFlag* const flag = Find(Normalised(text.substr(0, equals)));
  CTACCT_CHECK(flag != nullptr);
  const std::string value = flag->CurrentValue();
  return equals == absl::string_view::npos ? value != flag->DefaultValue()
                                           : value == text.substr(equals + 1);
}

absl::Status SetFlag(absl::CommandLineFlag& flag, const std::string& name,
                     const std::string& value) {
  // The tools behind flags (paths, connection strings) take C strings: a NUL would cut them
  // silently.
  if (value.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("flag -", Spelled(name), ": the value holds a NUL byte"));
  }
  std::string why;
  if (flag.ParseFrom(value, &why)) return absl::OkStatus();
  // absl puts the reason of a typed parser behind "; ", where there is one.
  const size_t reason = why.find("; ");
  return absl::InvalidArgumentError(
      absl::StrCat("flag -", Spelled(name), ": bad value ", QuotedForLog(value),
                   reason == std::string::npos ? "" : ": ",
                   reason == std::string::npos ? "" : why.substr(reason + 2)));
}

absl::Status ReadFlagFile(const std::string& path, int depth, CommandLine* line);

// Takes args[*index] (without its leading dashes) and, where the flag wants a value, the one after
// it.
absl::Status TakeFlag(absl::string_view text, const std::vector<std::string>& args, size_t* index,
                      int depth, CommandLine* line) {
  const size_t equals = text.find('=');
  const std::string name = Normalised(text.substr(0, equals));
  const bool has_value = equals != absl::string_view::npos;
  std::string value = has_value ? std::string(text.substr(equals + 1)) : "";
  absl::CommandLineFlag* flag = name == "flagfile" ? nullptr : Find(name);
  if (flag == nullptr && name != "flagfile") {
    // A URI that stands where a flag belongs may have a password in it.
    const std::string shown = absl::StrContains(name, "://")
                                  ? "(a URI)"
                                  : QuotedForLog(absl::StrCat("-", text.substr(0, equals)));
    return absl::InvalidArgumentError(absl::StrCat("unknown flag ", shown, "; --help lists all"));
  }
  if (!has_value) {
    if (flag != nullptr && flag->IsOfType<bool>()) {
      value = "true";
    } else if (*index + 1 < args.size()) {
      value = args[++*index];
    } else {
      return absl::InvalidArgumentError(absl::StrCat("flag -", Spelled(name), ": needs a value"));
    }
  }
  // Whichever value were used, the other would be ignored silently.
  const std::vector<std::string>& set = line->flags_set;
  if (flag == nullptr ? line->flag_files > depth
                      : std::find(set.begin(), set.end(), name) != set.end()) {
    return absl::InvalidArgumentError(absl::StrCat("flag -", Spelled(name), ": given twice"));
  }
  if (flag == nullptr) {
    ++line->flag_files;
    return ReadFlagFile(value, depth + 1, line);
  }
  line->flags_set.push_back(name);
  return SetFlag(*flag, name, value);
}

// Calls `take` with the one or two parts of each line: "name" or "name=value", and the value where
// it stands apart. Its errors get the file and line.
absl::Status ForEachLine(
    const std::string& path, int depth,
    absl::FunctionRef<absl::Status(absl::string_view, const std::vector<std::string>&)> take) {
  if (depth > kFlagFileDepthMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("flag file ", QuotedForLog(path), ": more than ", kFlagFileDepthMax, " deep"));
  }
  std::ifstream file(path);
  if (!file) {
    return absl::InvalidArgumentError(
        absl::StrCat("flag file ", QuotedForLog(path), ": ", strerror(errno)));
  }
  std::string text(kFlagFileBytesMax + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (file.bad() || text.size() > kFlagFileBytesMax) {  // A folder can be opened.
    return absl::InvalidArgumentError(absl::StrCat(
        "flag file ", QuotedForLog(path), ": ",
        file.bad() ? "cannot be read" : absl::StrCat("larger than ", kFlagFileBytesMax, " bytes")));
  }
  int number = 0;
  for (absl::string_view entry : absl::StrSplit(text, '\n')) {
    ++number;
    entry = absl::StripAsciiWhitespace(entry);
    if (entry.empty() || entry[0] == '#') continue;
    for (int dashes = 0; dashes < 2 && absl::StartsWith(entry, "-"); ++dashes)
      entry.remove_prefix(1);
    // "name value" on a line of its own is a flag and its value, unless a '=' comes first.
    std::vector<std::string> parts = {std::string(entry)};
    const size_t blank = entry.find_first_of(" \t");
    if (blank != absl::string_view::npos && entry.find('=') > blank) {
      parts = {std::string(entry.substr(0, blank)),
               std::string(absl::StripAsciiWhitespace(entry.substr(blank)))};
    }
    if (absl::Status status = take(entry, parts); !status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ":", number, ": ", std::string(status.message())));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadFlagFile(const std::string& path, int depth, CommandLine* line) {
  return ForEachLine(path, depth,
                     [&](absl::string_view entry, const std::vector<std::string>& parts) {
                       size_t index = 0;
                       absl::Status status = TakeFlag(parts[0], parts, &index, depth, line);
                       if (status.ok() && index + 1 != parts.size()) {
                         return absl::InvalidArgumentError(
                             absl::StrCat("a boolean takes '=': ", QuotedForLog(entry)));
                       }
                       return status;
                     });
}

absl::Status AddFlagValues(const std::string& path, int depth,
                           std::map<std::string, std::string>* values) {
  return ForEachLine(
      path, depth, [&](absl::string_view, const std::vector<std::string>& parts) -> absl::Status {
        const size_t equals = parts[0].find('=');
        const std::string name = Normalised(parts[0].substr(0, equals));
        const std::string value = equals != std::string::npos ? parts[0].substr(equals + 1)
                                  : parts.size() > 1          ? parts[1]
                                                              : "true";
        if (name == "flagfile") return AddFlagValues(value, depth + 1, values);
        (*values)[name] = value;
        return absl::OkStatus();
      });
}

}  // namespace

std::string QuotedForLog(absl::string_view text) {
  return absl::StrCat("'", EscapeControls(text.substr(0, kQuotedBytesMax)),
                      text.size() > kQuotedBytesMax ? "..." : "", "'");
}

absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  CommandLine line;
  for (size_t i = 0; i < args.size(); ++i) {
    absl::string_view text = args[i];
    if (text == "--") {
      line.arguments.insert(line.arguments.end(), args.begin() + static_cast<long>(i) + 1,
                            args.end());
      break;
    }
    if (text.size() < 2 || text[0] != '-') {
      line.arguments.push_back(args[i]);
      continue;
    }
    text.remove_prefix(absl::StartsWith(text, "--") ? 2 : 1);
    if (text == "help" || text == "h" || text == "version") {
      version_asked = text == "version";
      line.help = true;
      return line;
    }
    if (absl::Status status = TakeFlag(text, args, &i, 0, &line); !status.ok()) return status;
  }
  return line;
}

absl::StatusOr<std::map<std::string, std::string>> ReadFlagValues(const std::string& path) {
  std::map<std::string, std::string> values;
  if (absl::Status status = AddFlagValues(path, 1, &values); !status.ok()) return status;
  return values;
}

absl::Status CheckFlagRules(absl::Span<const FlagRule> rules) {
  for (const FlagRule& rule : rules) {
    const std::vector<absl::string_view> others = absl::StrSplit(rule.others, ' ');
    const auto given = std::find_if(others.begin(), others.end(), IsGiven);
    const bool wants = rule.kind == FlagRule::Kind::kNeeds;
    if ((given != others.end()) == wants) continue;
    for (const absl::string_view flag : absl::StrSplit(rule.flags, ' ')) {
      if (!IsGiven(flag)) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("flag -", flag, ": has no effect ",
                       wants ? absl::StrCat("without -", absl::StrJoin(others, " or -"))
                             : absl::StrCat("with -", *given)));
    }
  }
  return absl::OkStatus();
}

std::string FlagsHelp(const std::string& usage) {
  if (version_asked) return kVersion;
  std::map<std::string, const absl::CommandLineFlag*> ours;
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (IsOurs(*flag)) ours[std::string(name)] = flag;
  }
  std::string text = absl::StrCat(usage, "\n\nFlags (one or two dashes, '=' or a space):\n");
  for (const auto& [name, flag] : ours) {
    const std::string fallback = flag->DefaultValue();
    absl::StrAppend(&text, "  -", Spelled(name), "\n        ", flag->Help(),
                    fallback.empty() ? "" : absl::StrCat(" (default ", fallback, ")"), "\n");
  }
  absl::StrAppend(&text, "  -flagfile\n        file with one flag a line; '#' starts a comment\n");
  return text;
}

void PrintError(const char* program, const absl::Status& status) {
  std::string line = absl::StrCat(
      program, ": ", EscapeControls(absl::StrReplaceAll(status.message(), {{"\n", " "}})));
  if (line.size() > kErrorBytesMax) {
    size_t end = kErrorBytesMax;
    while ((line[end] & 0xc0) == 0x80) --end;  // Not within a character of UTF-8.
    line.replace(end, std::string::npos, "...");
  }
  line.push_back('\n');
  std::fwrite(line.data(), 1, line.size(), stderr);
}

absl::Status WriteToStdout(absl::string_view text) {
  const int error = WriteAll(STDOUT_FILENO, text);
  return error == 0 ? absl::OkStatus()
                    : absl::ErrnoToStatus(error, "cannot write to standard output");
}

}  // namespace ctacct
