#include "engine/rows/gateway_name.h"

#include <unistd.h>

#include <cstddef>

#include "absl/strings/str_cat.h"
#include "engine/system/text.h"

namespace ctacct {

absl::Status CheckGatewayName(absl::string_view name) {
  if (name.size() > kGatewayBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a gateway's name has at most ", kGatewayBytesMax, " bytes"));
  }
  while (!name.empty()) {
    const size_t size = PrintableCharacterBytes(name);
    if (size == 0) {
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
