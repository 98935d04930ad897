#include "engine/system/write_all.h"

#include <unistd.h>

#include <cerrno>

namespace ctacct {
namespace {

template <typename Write>
int Loop(absl::string_view bytes, Write write_some) {
  while (!bytes.empty()) {
    const ssize_t written = write_some(bytes);
    if (written >= 0) {
      bytes.remove_prefix(static_cast<size_t>(written));
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

}  // namespace

int WriteAll(int fd, absl::string_view bytes) {
  return Loop(bytes, [fd](absl::string_view rest) { return write(fd, rest.data(), rest.size()); });
}

int WriteAllAt(int fd, absl::string_view bytes, off_t offset) {
  return Loop(bytes, [fd, &offset](absl::string_view rest) {
    const ssize_t written = pwrite(fd, rest.data(), rest.size(), offset);
    if (written > 0) offset += written;
    return written;
  });
}

}  // namespace ctacct
