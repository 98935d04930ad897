// Lines of the texts that name networks: what all their parsers share.
//
// Pure functions and plain values; thread-compatible. No problem contains a name or a network: the
// line's number is enough for its owner, and the log is read by others.
#ifndef CTACCT_ENGINE_NAMES_SOURCE_TEXT_H_
#define CTACCT_ENGINE_NAMES_SOURCE_TEXT_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "engine/spool/names_file.h"

namespace ctacct {

// All names with all times fit; a longer line is none of ours.
inline constexpr size_t kSourceLineBytesMax = 4096;

struct LineProblem {
  size_t line = 0;  // From 1.
  std::string why;

  friend bool operator==(const LineProblem&, const LineProblem&) = default;
};

// What a source says. Entries of lines without a problem are there also if other lines have one.
struct SourceNames {
  std::vector<NamesEntry> entries;
  std::vector<LineProblem> problems;
};

// Calls `take` for each line, without its "\n" or "\r\n" and the first without a byte order mark.
// Lines that are too long are problems instead.
void ForEachLine(absl::string_view text, std::vector<LineProblem>* problems,
                 absl::FunctionRef<void(size_t number, absl::string_view line)> take);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_NAMES_SOURCE_TEXT_H_
