#include "engine/rows/gateway_name.h"

#include <unistd.h>

#include <cstddef>

#include "absl/strings/str_cat.h"

namespace ctacct {
namespace {

// Bytes of the UTF-8 character that `text` begins with; 0 if it begins with none. Overlong forms,
// surrogates and what is beyond U+10FFFF are none.
size_t CharacterBytes(absl::string_view text) {
  const auto byte = [&text](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const size_t size = first >= 0xc2 && first <= 0xdf   ? 2
                      : first >= 0xe0 && first <= 0xef ? 3
                      : first >= 0xf0 && first <= 0xf4 ? 4
                                                       : 0;
  if (size == 0 || text.size() < size) return 0;
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  const unsigned char second = byte(1);
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
      (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f)) {
    return 0;
  }
  return size;
}

}  // namespace

absl::Status CheckGatewayName(absl::string_view name) {
  if (name.size() > kGatewayBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a gateway's name has at most ", kGatewayBytesMax, " bytes"));
  }
  while (!name.empty()) {
    const auto first = static_cast<unsigned char>(name[0]);
    const size_t size = CharacterBytes(name);
    if (size == 0 || first < 0x20 || first == 0x7f) {
      return absl::InvalidArgumentError(
          "a gateway's name is UTF-8 without control characters, and this is not");
    }
    name.remove_prefix(size);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> HostGatewayName() {
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  if (absl::Status status = CheckGatewayName(name); !status.ok()) return status;
  return name;
}

}  // namespace ctacct
