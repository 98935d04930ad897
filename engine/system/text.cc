#include "engine/system/text.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace ctacct {
namespace {

// Bytes of the UTF-8 character that `text` begins with, and the character; 0 if it begins with
// none. Overlong forms, surrogates and what is beyond U+10FFFF are none.
size_t Decode(absl::string_view text, uint32_t* character) {
  const auto byte = [&text](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (text.empty()) return 0;
  const unsigned char first = byte(0);
  *character = first;
  if (first < 0x80) return 1;
  const size_t size = first >= 0xc2 && first <= 0xdf   ? 2
                      : first >= 0xe0 && first <= 0xef ? 3
                      : first >= 0xf0 && first <= 0xf4 ? 4
                                                       : 0;
  if (size == 0 || text.size() < size) return 0;
  *character = first & (0xffu >> (size + 1));
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    *character = *character << 6 | (byte(i) & 0x3fu);
  }
  const unsigned char second = byte(1);
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
      (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f)) {
    return 0;
  }
  return size;
}

bool IsPrintable(uint32_t character) {
  const auto within = [character](uint32_t first, uint32_t last) {
    return character >= first && character <= last;
  };
  return !within(0x00, 0x1f) && !within(0x7f, 0x9f) &&  // C0, DEL, C1.
         !within(0x2028, 0x2029) &&                     // Line and paragraph separators.
         // Bidirectional controls.
         character != 0x061c && !within(0x200e, 0x200f) && !within(0x202a, 0x202e) &&
         !within(0x2066, 0x2069);
}

}  // namespace

size_t PrintableCharacterBytes(absl::string_view text) {
  uint32_t character = 0;
  const size_t size = Decode(text, &character);
  return size != 0 && IsPrintable(character) ? size : 0;
}

std::string EscapeControls(absl::string_view text) {
  std::string escaped;
  escaped.reserve(text.size());
  while (!text.empty()) {
    size_t size = PrintableCharacterBytes(text);
    if (size != 0) {
      absl::StrAppend(&escaped, text.substr(0, size));
    } else {
      // Of a character of several bytes, the others begin no character, and are escaped in turn.
      size = 1;
      absl::StrAppend(&escaped, "\\x",
                      absl::Hex(static_cast<unsigned char>(text[0]), absl::kZeroPad2));
    }
    text.remove_prefix(size);
  }
  return escaped;
}

std::string WithThousands(uint64_t value) {
  std::string text = absl::StrCat(value);
  for (size_t at = text.size(); at > 3;) text.insert(at -= 3, 1, ',');
  return text;
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
