// Counts the files of rows in a folder that the engine has written and nobody has removed yet.
// Thread-compatible.
#ifndef CTACCT_ENGINE_SPOOL_SPOOL_BACKLOG_H_
#define CTACCT_ENGINE_SPOOL_SPOOL_BACKLOG_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"

namespace ctacct {

// Whether a file of this name contains rows: *.spool, or traffic_*.csv. Hidden files are
// unfinished.
[[nodiscard]] bool IsRowsFileName(absl::string_view name);
[[nodiscard]] bool IsCsvRowsFileName(absl::string_view name);

struct SpoolBacklog {
  uint64_t files = 0;
  uint64_t bytes = 0;
  int64_t oldest_ns = 0;  // Since the Unix epoch: when the oldest was written; 0: no files.
};

class SpoolBacklogMeter {
 public:
  // More files are not counted: with this many a scan takes a tenth of a second.
  static constexpr size_t kFilesMax = 100'000;

  using Counts = bool (*)(absl::string_view name);
  explicit SpoolBacklogMeter(std::string folder, Counts counts = IsRowsFileName)
      : folder_(std::move(folder)), counts_(counts) {}

  // Scans the folder, unless scans would take more than a hundredth of the time and it need not be
  // `now`: then the result of the last scan. A missing folder counts as empty.
  const SpoolBacklog& Measure(bool now = false);

 private:
  const std::string folder_;
  const Counts counts_;
  SpoolBacklog backlog_;
  int64_t next_ns_ = 0;  // Monotonic: not before.
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SPOOL_SPOOL_BACKLOG_H_
