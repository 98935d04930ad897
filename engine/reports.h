// What a running engine says of itself: log lines, the metrics file, the service manager's status
// line, and the summary at the end.
//
// Thread-compatible: the timer thread's (main's).
#ifndef CTACCT_ENGINE_REPORTS_H_
#define CTACCT_ENGINE_REPORTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/accounting/accounting_table.h"
#include "engine/config.h"
#include "engine/input/collector.h"
#include "engine/metrics.h"
#include "engine/output/flusher.h"
#include "engine/output/pipe_writer.h"
#include "engine/port_list_file.h"
#include "engine/spool/spool_backlog.h"
#include "engine/system/privileges.h"
#include "engine/system/prometheus_text.h"

namespace ctacct {

// One line on standard error; any thread.
void Log(const std::string& line);

// Flushes what is sealed. Logs once when writing fails, and once when it works again.
class FlushReporter {
 public:
  // `errors_end_the_run`: then they are not logged, since the last line names them. A lost state
  // folder always ends the run.
  FlushReporter(Flusher* flusher, std::vector<AccountingHandoff*> handoffs,
                const Privileges& privileges, bool errors_end_the_run)
      : flusher_(flusher),
        handoffs_(std::move(handoffs)),
        privileges_(privileges),
        errors_end_the_run_(errors_end_the_run) {}

  absl::Status Flush(bool last);
  bool errors_end_the_run() const { return errors_end_the_run_ || flusher_->lost_state(); }

  uint64_t failures() const { return failures_; }  // Since the last success.
  int64_t last_write_ns() const { return last_write_ns_; }
  // Spent on what was written: in all, and on what was written last.
  int64_t flush_ns() const { return flush_ns_; }
  int64_t last_flush_ns() const { return last_flush_ns_; }

 private:
  void NoteFolding();

  Flusher* const flusher_;
  const std::vector<AccountingHandoff*> handoffs_;
  const Privileges privileges_;
  const bool errors_end_the_run_;
  absl::Status last_;
  uint64_t failures_ = 0;
  int64_t last_write_ns_ = 0;
  int64_t working_ns_ = 0;  // On what is not written yet.
  int64_t flush_ns_ = 0;
  int64_t last_flush_ns_ = 0;
  int64_t last_end_ns_ = 0;
  uint64_t rows_folded_ = 0;
  bool folds_ = false;
};

// Re-reads the port list. An error is logged, and the last good list stays.
class PortListReporter {
 public:
  PortListReporter(PortListFile* ports, const Privileges& privileges)
      : ports_(ports), privileges_(privileges) {}

  // `forced`: also if the file did not change.
  void Reload(bool forced);

  uint64_t errors() const { return errors_; }
  bool failing() const { return failing_; }  // An older list is in force.

 private:
  PortListFile* const ports_;
  const Privileges privileges_;
  uint64_t errors_ = 0;
  bool failing_ = false;
};

// Keeps the metrics file as new as what it is made of.
class MetricsReporter {
 public:
  // Writes the file. If that fails, here and later, it is logged, and tried again: accounting does
  // not depend on it.
  MetricsReporter(const Config& config, const Privileges& privileges);

  struct Sources {
    const Flusher* flusher = nullptr;
    const FlushReporter* writes = nullptr;
    const PortListReporter* ports = nullptr;
    const PipeWriter* pipe = nullptr;      // May be nullptr.
    const Collector* collector = nullptr;  // nullptr: a replay.
  };
  void Update(const Sources& sources, bool last);

 private:
  void UpdateLive(const Collector& collector, bool interval_ended);
  void Write();

  const Privileges privileges_;
  std::optional<MetricsFile> file_;  // Nothing: no -metrics-file.
  EngineMetrics metrics_;            // As written last.
  SpoolBacklogMeter spool_;
};

// The service manager's status line.
[[nodiscard]] std::string ServiceStatus(const Flusher& flusher, const FlushReporter& writes);

// The last line of a run that went well. `pipe` may be nullptr.
[[nodiscard]] std::string Summary(const WorkerCounts& counts, const Flusher& flusher,
                                  const PipeWriter* pipe);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_REPORTS_H_
