#include "engine/metrics.h"

#include "absl/strings/str_format.h"
#include "engine/system/prometheus_text.h"

namespace ctacct {
namespace {

constexpr const char* kCompleteness[] = {"complete", "resynced", "partial"};

PrometheusText::Labels CauseLabel(size_t cause) {
  return {{"cause", GapCauseName(static_cast<GapCause>(cause))}};
}

void AddLive(const LiveMetrics& live, PrometheusText* text) {
  text->Counter("dumps_total", "Dumps of the conntrack table requested.", live.dumps);
  text->Counter("dumps_failed_total", "Dumps that failed.", live.dumps_failed);
  text->Counter("dump_seconds_total", "Duration of all dumps, in seconds.",
                SecondsText(live.dump_ns));
  text->Gauge("last_dump_seconds", "Duration of the last dump, in seconds.",
              SecondsText(live.last_dump_ns));
  text->Counter("worker_wakeups_total", "Wake-ups of workers that found no more events and waited.",
                live.wakeups);
  text->Counter(
      "worker_naps_total",
      "Sleeps of 5 ms after which a worker reads the events that have arrived. Few sleeps: many "
      "events arrive.",
      live.naps);
  text->Gauge("receive_buffer_bytes",
              "Kernel memory granted for events (-receive-buffer), in bytes.",
              live.receive_buffer_bytes);
  text->Gauge(
      "receive_buffer_peak_ratio",
      "Highest use of a worker's receive buffer in the last interval, approximately, 0 to 1; at 1 "
      "the kernel drops events.",
      absl::StrFormat("%.6f", live.receive_buffer_peak));
  text->Counter(
      "reliable_departures_total",
      "Times that reliable delivery was turned off because the table was too full (-reliable).",
      live.times_reliable_left);
  if (live.conntrack_entries_max == 0) return;
  text->Gauge("conntrack_entries", "Entries in the kernel's conntrack table.",
              live.conntrack_entries);
  text->Gauge("conntrack_entries_max", "Largest number of entries (nf_conntrack_max).",
              live.conntrack_entries_max);
}

void AddEvents(const WorkerCounts& counts, PrometheusText* text) {
  text->Counter("events_total", "Conntrack events read.");
  text->Value({{"kind", "new"}}, counts.events_new);
  text->Value({{"kind", "update"}}, counts.events_update);
  text->Value({{"kind", "destroy"}}, counts.events_destroy);
  text->Counter("dump_entries_total", "Entries read in dumps of the conntrack table.",
                counts.dump_entries);
  text->Counter("filtered_total",
                "Events and dump entries left out, by cause: rules (flags), local (-local=skip).");
  text->Value({{"cause", "rules"}}, counts.filtered);
  text->Value({{"cause", "local"}}, counts.filtered_local);
  text->Counter("malformed_total", "Malformed messages.", counts.malformed);
  text->Counter("without_counters_total",
                "Ends and dump entries without counters (nf_conntrack_acct was off).",
                counts.without_counters);
  text->Counter("repeated_destroys_total", "Ends of flows that the kernel reported more than once.",
                counts.duplicate_destroys);
  text->Counter("stale_dump_entries_total", "Dump entries of flows that had already ended.",
                counts.stale_dump_entries);
  text->Counter("zeroed_flows_total", "Flows whose counters another program zeroed.",
                counts.counter_falls);
  text->Counter("unknown_destroys_total",
                "Ends of flows older than the engine that no dump had shown.",
                counts.unknown_destroys);
  text->Counter("forgotten_flows_total", "Flows whose end the kernel did not report.",
                counts.forgotten_flows);
}

void AddGaps(const WorkerCounts& counts, const IntervalTotals& intervals, PrometheusText* text) {
  text->Counter("overruns_total", "Times when the kernel dropped events.", counts.overruns);
  text->Counter("events_dropped_total", "Events dropped by the kernel.", counts.events_dropped);
  text->Counter("resyncs_total",
                "Dumps that completed a worker's knowledge of living flows after a loss.",
                counts.resyncs);
  text->Counter("gaps_total", "Gaps: periods in which some traffic may not be recorded.");
  for (size_t cause = 1; cause <= kGapCauses; ++cause) {
    text->Value(CauseLabel(cause), intervals.by_cause[cause].count);
  }
  text->Counter("gap_seconds_total", "Total length of gaps, in seconds.");
  for (size_t cause = 1; cause <= kGapCauses; ++cause) {
    text->Value(CauseLabel(cause), SecondsText(intervals.by_cause[cause].duration_ns));
  }
  text->Gauge("last_gap_timestamp_seconds", "End of the last gap; 0: none.");
  for (size_t cause = 1; cause <= kGapCauses; ++cause) {
    text->Value(CauseLabel(cause), SecondsText(intervals.by_cause[cause].ended_ns));
  }
  text->Counter("intervals_total", "Intervals that have ended.");
  for (size_t i = 0; i < intervals.by_completeness.size(); ++i) {
    text->Value({{"completeness", kCompleteness[i]}}, intervals.by_completeness[i]);
  }
  text->Gauge("last_interval_end_timestamp_seconds", "End of the last interval; 0: none yet.",
              SecondsText(intervals.last_end_ns));
}

void AddRows(const EngineMetrics& metrics, PrometheusText* text) {
  text->Counter("intervals_written_total", "Intervals whose rows were written.",
                metrics.intervals_written);
  text->Counter("rows_written_total", "Rows written.", metrics.rows_written);
  text->Counter("rows_folded_total", "Rows that were summed by origin (-max-rows).",
                metrics.rows_folded);
  text->Gauge("last_interval_rows", "Rows of the last interval, one per pair, protocol and port.",
              metrics.last_interval_rows);
  text->Gauge("rows_waiting", "Rows waiting in memory because they cannot be written.",
              metrics.rows_waiting);
  text->Gauge("spool_write_failing", "1 while rows cannot be written.",
              metrics.write_failures == 0 ? "0" : "1");
  text->Gauge("spool_write_failures", "Failed attempts to write since the last success.",
              metrics.write_failures);
  text->Gauge("last_write_timestamp_seconds", "Time when rows were last written; 0: not yet.",
              SecondsText(metrics.last_write_ns));
  text->Counter("flush_seconds_total", "Duration of merging and writing rows, in seconds.",
                SecondsText(metrics.flush_ns));
  text->Gauge("last_flush_seconds", "Duration of the last merging and writing of rows, in seconds.",
              SecondsText(metrics.last_flush_ns));
  if (metrics.spool.has_value()) {
    text->Gauge("spool_files", "Files of rows in the output folder, counted up to 100000.",
                metrics.spool->files);
    text->Gauge("spool_bytes", "Size of the files of rows in the output folder.",
                metrics.spool->bytes);
  }
  if (metrics.has_pipe) {
    text->Counter("pipe_lines_written_total",
                  "Lines written into the FIFO. The last ones may wait there for its reader.",
                  metrics.pipe_lines_written);
    text->Counter("pipe_lines_dropped_total", "Lines dropped because no reader took them in time.",
                  metrics.pipe_lines_dropped);
  }
}

}  // namespace

std::string MetricsText(const EngineMetrics& metrics) {
  PrometheusText text("ctacct_", metrics.gateway);
  text.Gauge("start_timestamp_seconds", "Time when this engine started.",
             SecondsText(metrics.started_ns));
  text.Gauge("engine_info", "Constant 1; the label gateway is the engine's name in the database.",
             1);
  text.Counter("metrics_write_failures_total", "Failed attempts to write this file.",
               metrics.metrics_write_failures);
  text.Gauge("interval_seconds", "Length of an interval (-interval), in seconds.",
             SecondsText(metrics.interval_ns));

  AddEvents(metrics.counts, &text);
  text.Gauge("flows", "Flows known at the end of the last interval.", metrics.flows);
  AddGaps(metrics.counts, metrics.intervals, &text);
  AddRows(metrics, &text);
  text.Counter("port_list_errors_total", "Times when the port list was invalid or unreadable.",
               metrics.port_list_errors);
  text.Gauge("port_list_failing",
             "1 while the port list is invalid and the last valid one is in use.",
             metrics.port_list_failing ? 1 : 0);
  if (metrics.live.has_value()) AddLive(*metrics.live, &text);
  return text.Take();
}

}  // namespace ctacct
