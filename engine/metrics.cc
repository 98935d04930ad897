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
  text->Counter("dumps_total", "Dumps of the conntrack table asked for.", live.dumps);
  text->Counter("dumps_failed_total", "Dumps that failed.", live.dumps_failed);
  text->Counter("dump_seconds_total", "How long dumps took.", SecondsText(live.dump_ns));
  text->Gauge("last_dump_seconds", "How long the last dump took.", SecondsText(live.last_dump_ns));
  text->Counter("worker_wakeups_total", "Times that workers looked for events, then waited.",
                live.wakeups);
  text->Counter(
      "worker_naps_total",
      "Naps of 5 ms between them, in which events pile up to be read together. Few naps: many "
      "events arrive.",
      live.naps);
  text->Gauge("receive_buffer_bytes", "Kernel memory for events, as granted (-receive-buffer).",
              live.receive_buffer_bytes);
  text->Gauge("receive_buffer_peak_ratio",
              "Largest part of its receive buffer that a worker found filled in the last interval, "
              "about; at 1 the kernel drops events.",
              absl::StrFormat("%.6f", live.receive_buffer_peak));
  text->Counter("reliable_departures_total",
                "Times that reliable delivery was given up for want of room (-reliable).",
                live.times_reliable_left);
  if (live.conntrack_entries_max == 0) return;
  text->Gauge("conntrack_entries", "Entries of the kernel's conntrack table.",
              live.conntrack_entries);
  text->Gauge("conntrack_entries_max", "The most there may be (nf_conntrack_max).",
              live.conntrack_entries_max);
}

void AddEvents(const WorkerCounts& counts, PrometheusText* text) {
  text->Counter("events_total", "Conntrack events read.");
  text->Value({{"kind", "new"}}, counts.events_new);
  text->Value({{"kind", "update"}}, counts.events_update);
  text->Value({{"kind", "destroy"}}, counts.events_destroy);
  text->Counter("dump_entries_total", "Entries read in dumps of the conntrack table.",
                counts.dump_entries);
  text->Counter("filtered_total", "Events and entries outside of what is to be accounted.",
                counts.filtered);
  text->Counter("skipped_ipv6_total", "Events and entries of IPv6.", counts.skipped_ipv6);
  text->Counter("malformed_total", "Malformed messages.", counts.malformed);
  text->Counter("without_counters_total",
                "Ends and entries that told no counters (nf_conntrack_acct was off).",
                counts.without_counters);
  text->Counter("repeated_destroys_total", "Ends of flows that were told again.",
                counts.duplicate_destroys);
  text->Counter("stale_dump_entries_total", "Flows that a dump showed after their end.",
                counts.stale_dump_entries);
  text->Counter("zeroed_flows_total", "Flows whose counters fell: somebody has zeroed them.",
                counts.counter_falls);
  text->Counter("unknown_destroys_total", "Ends of flows older than the engine and never seen.",
                counts.unknown_destroys);
  text->Counter("forgotten_flows_total", "Flows whose end the kernel did not report.",
                counts.forgotten_flows);
}

void AddGaps(const WorkerCounts& counts, const IntervalTotals& intervals, PrometheusText* text) {
  text->Counter("overruns_total", "Times that the kernel had to drop events.", counts.overruns);
  text->Counter("events_dropped_total", "Events that the kernel has dropped.",
                counts.events_dropped);
  text->Counter("resyncs_total", "Dumps after which a worker knew all living flows again.",
                counts.resyncs);
  text->Counter("gaps_total", "Stretches of time in which something may be missing.");
  for (size_t cause = 1; cause <= kGapCauses; ++cause) {
    text->Value(CauseLabel(cause), intervals.by_cause[cause].count);
  }
  text->Counter("gap_seconds_total", "Their length.");
  for (size_t cause = 1; cause <= kGapCauses; ++cause) {
    text->Value(CauseLabel(cause), SecondsText(intervals.by_cause[cause].duration_ns));
  }
  text->Gauge("last_gap_timestamp_seconds", "When the last of them ended; 0: there was none.");
  for (size_t cause = 1; cause <= kGapCauses; ++cause) {
    text->Value(CauseLabel(cause), SecondsText(intervals.by_cause[cause].ended_ns));
  }
  text->Counter("intervals_total", "Intervals that have ended.");
  for (size_t i = 0; i < intervals.by_completeness.size(); ++i) {
    text->Value({{"completeness", kCompleteness[i]}}, intervals.by_completeness[i]);
  }
  text->Gauge("last_interval_end_timestamp_seconds", "The end of the last interval; 0: none yet.",
              SecondsText(intervals.last_end_ns));
}

void AddRows(const EngineMetrics& metrics, PrometheusText* text) {
  text->Counter("intervals_written_total", "Intervals whose rows are where they were asked to be.",
                metrics.intervals_written);
  text->Counter("rows_written_total", "Their rows.", metrics.rows_written);
  text->Counter("rows_folded_total", "Rows that were summed as one (-max-rows).",
                metrics.rows_folded);
  text->Gauge("last_interval_rows",
              "Rows of the last interval, one for each key: pair, protocol and port.",
              metrics.last_interval_rows);
  text->Gauge("rows_waiting", "Rows in memory that cannot be written yet.", metrics.rows_waiting);
  text->Gauge("spool_write_failing", "1 while rows cannot be written.",
              metrics.write_failures == 0 ? "0" : "1");
  text->Gauge("spool_write_failures", "Attempts to write that failed since the last success.",
              metrics.write_failures);
  text->Gauge("last_write_timestamp_seconds", "When rows were last written; 0: not yet.",
              SecondsText(metrics.last_write_ns));
  text->Counter("flush_seconds_total", "Time spent on merging and writing rows.",
                SecondsText(metrics.flush_ns));
  text->Gauge("last_flush_seconds", "The same, for what was written last.",
              SecondsText(metrics.last_flush_ns));
  if (metrics.spool.has_value()) {
    text->Gauge("spool_files",
                "Files of rows that wait in the output folder; counted up to 100000.",
                metrics.spool->files);
    text->Gauge("spool_bytes", "Their size.", metrics.spool->bytes);
  }
  if (metrics.has_pipe) {
    text->Counter("pipe_lines_written_total", "Lines that a reader of the pipe took.",
                  metrics.pipe_lines_written);
    text->Counter("pipe_lines_dropped_total", "Lines that no reader of the pipe took in time.",
                  metrics.pipe_lines_dropped);
  }
}

}  // namespace

std::string MetricsText(const EngineMetrics& metrics) {
  PrometheusText text("ctacct_", metrics.gateway);
  text.Gauge("start_timestamp_seconds", "When this engine started.",
             SecondsText(metrics.started_ns));
  text.Gauge("engine_info", "Constant 1; its label gateway is the engine's name in the database.",
             1);
  text.Counter("metrics_write_failures_total", "Failed attempts to write this file.",
               metrics.metrics_write_failures);
  text.Gauge("interval_seconds", "Length of an interval (-interval).",
             SecondsText(metrics.interval_ns));

  AddEvents(metrics.counts, &text);
  text.Gauge("flows", "Flows known at the last interval's end.", metrics.flows);
  AddGaps(metrics.counts, metrics.intervals, &text);
  AddRows(metrics, &text);
  text.Counter("port_list_errors_total", "Port lists that could not be read.",
               metrics.port_list_errors);
  text.Gauge("port_list_failing", "1 while the port list is bad and an older one is in force.",
             metrics.port_list_failing ? 1 : 0);
  if (metrics.live.has_value()) AddLive(*metrics.live, &text);
  return text.Take();
}

}  // namespace ctacct
