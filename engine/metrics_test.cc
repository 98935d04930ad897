#include "engine/metrics.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kSecond = 1'000'000'000;

Gap GapOf(GapCause cause, int64_t began_ns, int64_t ended_ns) {
  Gap gap;
  gap.cause = cause;
  gap.began_ns = began_ns;
  gap.ended_ns = ended_ns;
  return gap;
}

// A line of the file: every one has the gateway's label.
std::string Sample(const std::string& name, const std::string& labels, const std::string& value) {
  return absl::StrCat("\n", name, "{gateway=\"west \\\"1\\\"\"", labels.empty() ? "" : ",", labels,
                      "} ", value, "\n");
}

TEST(MetricsTextTest, SaysWhatIs) {
  EngineMetrics metrics;
  metrics.gateway = "west \"1\"";
  metrics.started_ns = 1'600'000'000 * kSecond + 5;
  metrics.counts.events_destroy = 7;
  metrics.counts.events_dropped = 18'446'744'073'709'551'615u;
  metrics.flows = 3;
  metrics.intervals.Note(1'600'000'015 * kSecond, Completeness::kPartial,
                         {GapOf(GapCause::kOverrun, 0, 1'500'000'000)});
  metrics.write_failures = 4;
  const std::string text = MetricsText(metrics);
  EXPECT_THAT(text,
              HasSubstr(Sample("ctacct_start_timestamp_seconds", "", "1600000000.000000005")));
  EXPECT_THAT(text, HasSubstr(Sample("ctacct_events_total", "kind=\"destroy\"", "7")));
  EXPECT_THAT(text, HasSubstr(Sample("ctacct_events_dropped_total", "", "18446744073709551615")));
  EXPECT_THAT(text, HasSubstr(Sample("ctacct_flows", "", "3")));
  EXPECT_THAT(text, HasSubstr(Sample("ctacct_intervals_total", "completeness=\"partial\"", "1")));
  EXPECT_THAT(text, HasSubstr(Sample("ctacct_gaps_total", "cause=\"overrun\"", "1")));
  EXPECT_THAT(text,
              HasSubstr(Sample("ctacct_gap_seconds_total", "cause=\"overrun\"", "1.500000000")));
  EXPECT_THAT(text, HasSubstr(Sample("ctacct_spool_write_failing", "", "1")));
  EXPECT_THAT(text, HasSubstr(Sample("ctacct_spool_write_failures", "", "4")));
  EXPECT_THAT(text, Not(HasSubstr("pipe")));
  EXPECT_THAT(text, Not(HasSubstr("spool_files")));
  EXPECT_THAT(text, Not(HasSubstr("conntrack_entries")));
  EXPECT_THAT(text, HasSubstr(Sample("ctacct_last_gap_timestamp_seconds", "cause=\"overrun\"",
                                     "1.500000000")));
  EXPECT_THAT(text, HasSubstr(Sample("ctacct_port_list_failing", "", "0")));
  metrics.interval_ns = 15 * kSecond;
  metrics.port_list_failing = true;
  metrics.spool = {.files = 2, .bytes = 300, .oldest_ns = 1};
  metrics.live.emplace();
  metrics.live->last_dump_ns = 2'000'000;
  metrics.live->receive_buffer_peak = 0.25;
  metrics.has_pipe = true;
  metrics.pipe_lines_dropped = 9;
  metrics.write_failures = 0;
  EXPECT_THAT(MetricsText(metrics), HasSubstr(Sample("ctacct_pipe_lines_dropped_total", "", "9")));
  EXPECT_THAT(MetricsText(metrics), HasSubstr(Sample("ctacct_spool_write_failing", "", "0")));
  EXPECT_THAT(MetricsText(metrics), HasSubstr(Sample("ctacct_engine_info", "", "1")));
  EXPECT_THAT(MetricsText(metrics),
              HasSubstr(Sample("ctacct_interval_seconds", "", "15.000000000")));
  EXPECT_THAT(MetricsText(metrics), HasSubstr(Sample("ctacct_port_list_failing", "", "1")));
  EXPECT_THAT(MetricsText(metrics), HasSubstr(Sample("ctacct_spool_files", "", "2")));
  EXPECT_THAT(MetricsText(metrics), HasSubstr(Sample("ctacct_spool_bytes", "", "300")));
  EXPECT_THAT(MetricsText(metrics),
              HasSubstr(Sample("ctacct_last_dump_seconds", "", "0.002000000")));
  EXPECT_THAT(MetricsText(metrics),
              HasSubstr(Sample("ctacct_receive_buffer_peak_ratio", "", "0.250000")));
  // Unlimited, or unknown: no part of nothing.
  EXPECT_THAT(MetricsText(metrics), Not(HasSubstr("conntrack_entries")));
  metrics.live->conntrack_entries = 7;
  metrics.live->conntrack_entries_max = 8;
  EXPECT_THAT(MetricsText(metrics), HasSubstr(Sample("ctacct_conntrack_entries", "", "7")));
  EXPECT_THAT(MetricsText(metrics), HasSubstr(Sample("ctacct_conntrack_entries_max", "", "8")));
}

// Two engines on a host have one textfile folder; node_exporter takes one series only once.
TEST(MetricsTextTest, EverySampleHasTheGateway) {
  EngineMetrics metrics;
  metrics.gateway = "back\\slash \"1\"";
  metrics.spool.emplace();
  metrics.live.emplace();
  metrics.live->conntrack_entries_max = 1;
  metrics.has_pipe = true;
  int samples = 0;
  for (const absl::string_view line :
       absl::StrSplit(MetricsText(metrics), '\n', absl::SkipEmpty())) {
    if (line[0] == '#') continue;
    ++samples;
    EXPECT_TRUE(absl::StrContains(line, "{gateway=\"back\\\\slash \\\"1\\\"\"")) << line;
  }
  EXPECT_GT(samples, 50);
}

}  // namespace
}  // namespace ctacct
