// What an operator's monitoring must see of an engine, and the file that tells it: Prometheus' text
// format, for the textfile collector of node_exporter.
//
// EngineMetrics and IntervalTotals are plain values, thread-compatible; MetricsFile belongs to one
// thread (the flusher's).
#ifndef CTACCT_ENGINE_METRICS_H_
#define CTACCT_ENGINE_METRICS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/accounting_table.h"
#include "engine/gap.h"
#include "engine/traffic_row.h"

namespace ctacct {

// Of all intervals that have ended.
struct IntervalTotals {
  struct Gaps {
    uint64_t count = 0;
    int64_t duration_ns = 0;
    // The last one. An interval tells of every gap that touches it, so a long one comes again.
    int64_t began_ns = 0;
    int64_t ended_ns = 0;
  };

  std::array<uint64_t, 3> by_completeness{};  // By its number.
  std::array<Gaps, 4> by_cause{};             // By its number, from 1.
  int64_t last_end_ns = 0;                    // Since the Unix epoch; 0: none has ended.

  void Note(int64_t end_ns, Completeness completeness, const std::vector<Gap>& gaps);
};

struct EngineMetrics {
  int64_t started_ns = 0;  // Times: since the Unix epoch.
  // As of the end of each worker's last interval.
  WorkerCounts counts;
  uint64_t flows = 0;
  IntervalTotals intervals;
  uint64_t intervals_written = 0;
  uint64_t rows_written = 0;
  uint64_t rows_waiting = 0;
  uint64_t rows_folded = 0;
  uint64_t write_failures = 0;  // Since the last success; not 0: rows wait for their output.
  int64_t last_write_ns = 0;    // 0: nothing was written yet.
  bool has_pipe = false;
  uint64_t pipe_lines_written = 0;
  uint64_t pipe_lines_dropped = 0;
  uint64_t port_list_errors = 0;
};

[[nodiscard]] std::string MetricsText(const EngineMetrics& metrics);

// A file that others may read at any time: it is replaced as a whole, by way of `.NAME.tmp` beside
// it. There are no addresses in it, so everybody may read it (mode 0644, whatever the umask):
// node_exporter runs as a user of its own. It is not synced: after a crash it is stale anyway.
class MetricsFile {
 public:
  // An error names the path: what is there must be a regular file, or nothing. Nothing is written.
  [[nodiscard]] static absl::StatusOr<MetricsFile> Open(const std::string& path);

  // Does nothing if `text` is what was written last.
  [[nodiscard]] absl::Status Write(absl::string_view text);

 private:
  MetricsFile(std::string path, std::string hidden_path)
      : path_(std::move(path)), hidden_path_(std::move(hidden_path)) {}

  std::string path_;
  std::string hidden_path_;
  std::string written_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_METRICS_H_
