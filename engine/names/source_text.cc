#include "engine/names/source_text.h"

#include "absl/strings/ascii.h"
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

std::optional<std::vector<std::string>> SplitCsv(absl::string_view line) {
  std::vector<std::string> fields;
  for (;;) {
    line = absl::StripLeadingAsciiWhitespace(line);
    std::string& field = fields.emplace_back();
    if (absl::ConsumePrefix(&line, "\"")) {
      for (;;) {
        const size_t quote = line.find('"');
        if (quote == absl::string_view::npos) return std::nullopt;
        field.append(line.data(), quote);
        line.remove_prefix(quote + 1);
        if (!absl::ConsumePrefix(&line, "\"")) break;
        field += '"';
      }
      line = absl::StripLeadingAsciiWhitespace(line);
    } else {
      const size_t end = line.find(',');
      field = std::string(absl::StripTrailingAsciiWhitespace(line.substr(0, end)));
      if (field.find('"') != std::string::npos) return std::nullopt;
      line.remove_prefix(end == absl::string_view::npos ? line.size() : end);
    }
    if (line.empty()) return fields;
    if (!absl::ConsumePrefix(&line, ",")) return std::nullopt;
  }
}

}  // namespace ctacct
