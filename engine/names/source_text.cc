#include "engine/names/source_text.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace ctacct {

void ForEachLine(absl::string_view text, std::vector<LineProblem>* problems,
                 absl::FunctionRef<void(size_t number, absl::string_view line)> take) {
  absl::ConsumePrefix(&text, "\xef\xbb\xbf");
  for (size_t number = 1; !text.empty(); ++number) {
    const size_t end = text.find('\n');
    absl::string_view line = text.substr(0, end);
    text.remove_prefix(end == absl::string_view::npos ? text.size() : end + 1);
    absl::ConsumeSuffix(&line, "\r");
    if (line.size() > kSourceLineBytesMax) {
      problems->push_back(
          {number, absl::StrCat("the line has more than ", kSourceLineBytesMax, " bytes")});
    } else {
      take(number, line);
    }
  }
}

}  // namespace ctacct
