// How much waits in a folder of files of rows: what the engine has written and nobody has taken
// away yet.
//
// Thread-compatible.
#ifndef CTACCT_ENGINE_SPOOL_SPOOL_BACKLOG_H_
#define CTACCT_ENGINE_SPOOL_SPOOL_BACKLOG_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"

namespace ctacct {

// Whether a file of this name holds rows: *.spool, or traffic_*.csv. A hidden one does not yet.
[[nodiscard]] bool IsRowsFileName(absl::string_view name);
[[nodiscard]] bool IsCsvRowsFileName(absl::string_view name);

struct SpoolBacklog {
  uint64_t files = 0;
  uint64_t bytes = 0;
  int64_t oldest_ns = 0;  // Since the Unix epoch: when the oldest was written; 0: none waits.
};

class SpoolBacklogMeter {
 public:
  // In a folder where nobody takes them away they are counted no further: a look at so many takes
  // a tenth of a second.
  static constexpr size_t kFilesMax = 100'000;

  using Counts = bool (*)(absl::string_view name);
  explicit SpoolBacklogMeter(std::string folder, Counts counts = IsRowsFileName)
      : folder_(std::move(folder)), counts_(counts) {}

  // Looks again, unless that would take more than a hundredth of all time and it need not be
  // `now`: then what was last seen. A folder that is not there is empty.
  const SpoolBacklog& Measure(bool now = false);

 private:
  const std::string folder_;
  const Counts counts_;
  SpoolBacklog backlog_;
  int64_t next_ns_ = 0;  // Monotonic: not before.
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SPOOL_SPOOL_BACKLOG_H_
