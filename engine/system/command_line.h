// Command lines for all our programs, on top of absl's flag registry (ABSL_FLAG declares, this
// parses).
//
// absl's own parser ends the process with status 1 and several lines, and does not accept dashes
// within names. Unit files written for the Go tool need `-src-group-mask=...`, and scripts need one
// line and status 2.
//
// Accepted: one or two leading dashes, `-` or `_` inside names, `-name=value` or `-name value`; a
// boolean alone is true, `-noname` is not accepted; `--` ends the flags. `--flagfile=FILE` reads
// one flag a line (`#` comments; leading dashes may be left out; `name value` or `name=value`), and
// errors name the file and line. A flag that is given twice is an error, also if one
// of the two is in a flag file. `--help` prints all flags, `--version` the version.
//
// Not thread-safe: call once, from main, before other threads start.
#ifndef CTACCT_ENGINE_SYSTEM_COMMAND_LINE_H_
#define CTACCT_ENGINE_SYSTEM_COMMAND_LINE_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace ctacct {

struct CommandLine {
  // --help, -h or --version was given: the rest was not parsed. Print FlagsHelp.
  bool help = false;
  std::vector<std::string> arguments;  // The others, in order.
  std::vector<std::string>
      flags_set;       // Normalised names (underscores) of the flags given, in order.
  int flag_files = 0;  // How many were read: each may name one more.
};

// Parses argv and sets the flags that ABSL_FLAG declared in our own sources. An error is one line
// that names the flag (and file and line, if it came from a flag file); flags parsed before it stay
// set.
[[nodiscard]] absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv);

// The flags in a file, of any program: values as text by normalised names (underscores); the last
// one of a flag given twice. For a program that reads another program's settings.
[[nodiscard]] absl::StatusOr<std::map<std::string, std::string>> ReadFlagValues(
    const std::string& path);

// What a flag needs in order to have an effect: the others of its program are right only together.
// A flag at its default value asks for nothing.
struct FlagRule {
  enum class Kind {
    kNeeds,   // At least one of `others`.
    kRefuses  // Each of `others`.
  };
  const char* flags;  // Of which the rule is: names with dashes, separated by blanks.
  Kind kind;
  const char* others;  // "NAME" or, of one value of that flag, "NAME=VALUE".
};

// Otherwise the flag would be ignored silently. An error is one line that names the first one.
[[nodiscard]] absl::Status CheckFlagRules(absl::Span<const FlagRule> rules);

// All flags of this program with defaults and help, spelled with dashes, ready to print. The
// version instead if --version was given.
[[nodiscard]] std::string FlagsHelp(const std::string& usage);

// The text in quotes, control characters escaped, a long one cut: fit for one line of a message.
[[nodiscard]] std::string QuotedForLog(absl::string_view text);

// Prints "PROGRAM: MESSAGE" as one line on standard error (control characters are escaped).
void PrintError(const char* program, const absl::Status& status);

// For what a program prints as its result.
[[nodiscard]] absl::Status WriteToStdout(absl::string_view text);

// Exit statuses of all our programs (docs/operation.md).
inline constexpr int kExitOk = 0;
inline constexpr int kExitOperatingError = 1;
inline constexpr int kExitUsageError = 2;

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SYSTEM_COMMAND_LINE_H_
