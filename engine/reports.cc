#include "engine/reports.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "engine/system/clock.h"
#include "engine/system/command_line.h"
#include "netlink/conntrack_settings.h"

namespace ctacct {

void Log(const std::string& line) { PrintError("engine", absl::UnknownError(line)); }

absl::Status FlushReporter::Flush(bool last) {
  const uint64_t written = flusher_->intervals_written();
  const int64_t begun_ns = MonotonicNs();
  const absl::Status status = privileges_.Explain(flusher_->Flush(handoffs_, last));
  working_ns_ += MonotonicNs() - begun_ns;
  failures_ = status.ok() ? 0 : failures_ + 1;
  if (flusher_->intervals_written() != written) {
    last_write_ns_ = WallClockNs();
    last_flush_ns_ = std::exchange(working_ns_, 0);
    flush_ns_ += last_flush_ns_;
  }
  NoteFolding();
  if (status.ok() != last_.ok() && !errors_end_the_run()) {
    Log(status.ok() ? std::string("rows can be written again")
                    : absl::StrCat(std::string(status.message()), "; ", flusher_->rows_waiting(),
                                   " rows wait in memory"));
  }
  return last_ = status;
}

// Logs when folding begins.
void FlushReporter::NoteFolding() {
  if (flusher_->intervals().last_end_ns == last_end_ns_) return;
  last_end_ns_ = flusher_->intervals().last_end_ns;
  const bool folds = flusher_->rows_folded() != rows_folded_;
  rows_folded_ = flusher_->rows_folded();
  if (folds && !folds_) {
    Log("an interval has more rows than -max-rows; the smallest are summed by origin");
  }
  folds_ = folds;
}

void PortListReporter::Reload(bool forced) {
  absl::StatusOr<bool> changed = forced ? absl::StatusOr<bool>(true) : ports_->ReloadIfChanged();
  if (forced) {
    if (absl::Status status = ports_->Load(); !status.ok()) changed = status;
  }
  if (!changed.ok()) {
    ++errors_;
    failing_ = true;
    Log(absl::StrCat(std::string(privileges_.Explain(changed.status()).message()),
                     "; the last good list stays"));
    return;
  }
  if (*changed) failing_ = false;
  if (const auto list = ports_->current().Get(); *changed && list != nullptr) {
    Log(absl::StrCat("port list re-read: ", list->size(), " ports"));
  }
}

MetricsReporter::MetricsReporter(const Config& config, const Privileges& privileges)
    : privileges_(privileges), spool_(config.output) {
  if (config.metrics_file.empty()) return;
  metrics_.gateway = config.gateway;
  metrics_.interval_ns = config.rules.interval_ns;
  metrics_.started_ns = WallClockNs();
  metrics_.has_pipe = !config.pipe.empty();
  if (!config.output.empty()) metrics_.spool.emplace();
  file_.emplace(config.metrics_file);
  Write();
}

void MetricsReporter::Write() {
  metrics_.metrics_write_failures = file_->failures();
  file_->Refresh(MetricsText(metrics_), [this](const absl::Status& status) {
    Log(status.ok() ? "the metrics file can be written again"
                    : absl::StrCat(privileges_.Explain(status).message(),
                                   "; accounting continues without it"));
  });
}

void MetricsReporter::Update(const Sources& sources, bool last) {
  if (!file_.has_value()) return;
  const Flusher& flusher = *sources.flusher;
  const bool interval_ended = metrics_.intervals.last_end_ns != flusher.intervals().last_end_ns ||
                              metrics_.intervals_written != flusher.intervals_written();
  metrics_.counts = WorkerCounts();
  for (const WorkerCounts& counts : flusher.worker_counts()) metrics_.counts.Add(counts);
  metrics_.flows = 0;
  for (const uint64_t flows : flusher.worker_flows()) metrics_.flows += flows;
  metrics_.intervals = flusher.intervals();
  metrics_.intervals_written = flusher.intervals_written();
  metrics_.rows_written = flusher.rows_written();
  metrics_.last_interval_rows = flusher.last_interval_rows();
  metrics_.rows_waiting = flusher.rows_waiting();
  metrics_.rows_folded = flusher.rows_folded();
  metrics_.write_failures = sources.writes->failures();
  metrics_.last_write_ns = sources.writes->last_write_ns();
  metrics_.flush_ns = sources.writes->flush_ns();
  metrics_.last_flush_ns = sources.writes->last_flush_ns();
  if (sources.pipe != nullptr) {
    metrics_.pipe_lines_written = sources.pipe->lines_written();
    metrics_.pipe_lines_dropped = sources.pipe->lines_dropped();
  }
  metrics_.port_list_errors = sources.ports->errors();
  metrics_.port_list_failing = sources.ports->failing();
  if (sources.collector != nullptr) UpdateLive(*sources.collector, interval_ended);
  // Not each second, because scanning the folder takes time.
  if (metrics_.spool.has_value() && (interval_ended || last)) {
    metrics_.spool = spool_.Measure(/*now=*/last);
  }
  Write();
}

void MetricsReporter::UpdateLive(const Collector& collector, bool interval_ended) {
  const LiveMetrics before = metrics_.live.value_or(LiveMetrics());
  metrics_.live = collector.metrics();
  metrics_.live->conntrack_entries = before.conntrack_entries;
  metrics_.live->conntrack_entries_max = before.conntrack_entries_max;
  // Not each second, because these figures always change.
  if (!interval_ended && before.conntrack_entries_max != 0) return;
  const TableFill fill = ReadTableFill().value_or(TableFill());
  metrics_.live->conntrack_entries = fill.flows;
  metrics_.live->conntrack_entries_max = fill.flows_max;
}

std::string ServiceStatus(const Flusher& flusher, const FlushReporter& writes) {
  if (writes.failures() != 0) {
    return absl::StrCat("rows cannot be written (see the log), ", flusher.rows_waiting(),
                        " wait in memory; accounting continues");
  }
  uint64_t flows = 0;
  for (const uint64_t of_worker : flusher.worker_flows()) flows += of_worker;
  return absl::StrCat(
      "last interval ended ",
      absl::FormatTime("%H:%M:%S UTC", absl::FromUnixNanos(flusher.intervals().last_end_ns),
                       absl::UTCTimeZone()),
      "; ", flusher.rows_written(), " rows written, ", flusher.rows_waiting(), " wait; ", flows,
      " flows");
}

std::string Summary(const WorkerCounts& counts, const Flusher& flusher, const PipeWriter* pipe) {
  std::string text = absl::StrCat(
      flusher.intervals_written(), " intervals, ", flusher.rows_written(),
      " rows; events: ", counts.events_new, " new, ", counts.events_update, " update, ",
      counts.events_destroy, " destroy; ", counts.dump_entries, " dump entries");
  const std::pair<uint64_t, const char*> oddities[] = {
      {counts.filtered, "filtered"},
      {counts.filtered_local, "of the gateway itself (-local=skip)"},
      {counts.malformed, "malformed"},
      {counts.without_counters, "without counters"},
      {counts.duplicate_destroys, "repeated"},
      {counts.stale_dump_entries, "dumped after their end"},
      {counts.counter_falls, "counter falls"},
      {counts.unknown_destroys, "older than the engine"},
      {counts.overruns, "overruns"},
      {counts.events_dropped, "events dropped by the kernel"},
      {counts.forgotten_flows, "flows whose end was not reported"},
      {flusher.rows_folded(), "rows summed by origin (-max-rows)"},
  };
  for (const auto& [count, what] : oddities) {
    if (count != 0) absl::StrAppend(&text, "; ", count, " ", what);
  }
  if (pipe != nullptr) {
    absl::StrAppend(&text, "; pipe: ", pipe->lines_written(), " lines written, ",
                    pipe->lines_dropped(), " dropped");
  }
  return text;
}

}  // namespace ctacct
