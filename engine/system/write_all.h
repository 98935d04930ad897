// write(2) and pwrite(2) until all bytes are written; interrupted and short writes are continued.
// For descriptors that block. Thread-safe.
#ifndef CTACCT_ENGINE_SYSTEM_WRITE_ALL_H_
#define CTACCT_ENGINE_SYSTEM_WRITE_ALL_H_

#include <sys/types.h>

#include "absl/strings/string_view.h"

namespace ctacct {

// 0, or the errno of the write that failed; how much was written before it is unknown.
[[nodiscard]] int WriteAll(int fd, absl::string_view bytes);
[[nodiscard]] int WriteAllAt(int fd, absl::string_view bytes, off_t offset);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SYSTEM_WRITE_ALL_H_
