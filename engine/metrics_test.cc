#include "engine/metrics.h"

#include <string>

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

TEST(MetricsTextTest, SaysWhatIs) {
  EngineMetrics metrics;
  metrics.started_ns = 1'600'000'000 * kSecond + 5;
  metrics.counts.events_destroy = 7;
  metrics.counts.events_dropped = 18'446'744'073'709'551'615u;
  metrics.flows = 3;
  metrics.intervals.Note(1'600'000'015 * kSecond, Completeness::kPartial,
                         {GapOf(GapCause::kOverrun, 0, 1'500'000'000)});
  metrics.write_failures = 4;
  const std::string text = MetricsText(metrics);
  EXPECT_THAT(text, HasSubstr("\nctacct_start_timestamp_seconds 1600000000.000000005\n"));
  EXPECT_THAT(text, HasSubstr("\nctacct_events_total{kind=\"destroy\"} 7\n"));
  EXPECT_THAT(text, HasSubstr("\nctacct_events_dropped_total 18446744073709551615\n"));
  EXPECT_THAT(text, HasSubstr("\nctacct_flows 3\n"));
  EXPECT_THAT(text, HasSubstr("\nctacct_intervals_total{completeness=\"partial\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("\nctacct_gaps_total{cause=\"overrun\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("\nctacct_gap_seconds_total{cause=\"overrun\"} 1.500000000\n"));
  EXPECT_THAT(text, HasSubstr("\nctacct_spool_write_failing 1\n"));
  EXPECT_THAT(text, HasSubstr("\nctacct_spool_write_failures 4\n"));
  EXPECT_THAT(text, Not(HasSubstr("pipe")));
  EXPECT_THAT(text, Not(HasSubstr("spool_files")));
  EXPECT_THAT(text, Not(HasSubstr("conntrack_entries")));
  EXPECT_THAT(text,
              HasSubstr("\nctacct_last_gap_timestamp_seconds{cause=\"overrun\"} 1.500000000\n"));
  EXPECT_THAT(text, HasSubstr("\nctacct_port_list_failing 0\n"));
  metrics.gateway = "west \"1\"";
  metrics.interval_ns = 15 * kSecond;
  metrics.port_list_failing = true;
  metrics.spool = {.files = 2, .bytes = 300, .oldest_ns = 1};
  metrics.live.emplace();
  metrics.live->last_dump_ns = 2'000'000;
  metrics.live->receive_buffer_peak = 0.25;
  metrics.has_pipe = true;
  metrics.pipe_lines_dropped = 9;
  metrics.write_failures = 0;
  EXPECT_THAT(MetricsText(metrics), HasSubstr("\nctacct_pipe_lines_dropped_total 9\n"));
  EXPECT_THAT(MetricsText(metrics), HasSubstr("\nctacct_spool_write_failing 0\n"));
  EXPECT_THAT(MetricsText(metrics),
              HasSubstr("\nctacct_engine_info{gateway=\"west \\\"1\\\"\"} 1\n"));
  EXPECT_THAT(MetricsText(metrics), HasSubstr("\nctacct_interval_seconds 15.000000000\n"));
  EXPECT_THAT(MetricsText(metrics), HasSubstr("\nctacct_port_list_failing 1\n"));
  EXPECT_THAT(MetricsText(metrics), HasSubstr("\nctacct_spool_files 2\n"));
  EXPECT_THAT(MetricsText(metrics), HasSubstr("\nctacct_spool_bytes 300\n"));
  EXPECT_THAT(MetricsText(metrics), HasSubstr("\nctacct_last_dump_seconds 0.002000000\n"));
  EXPECT_THAT(MetricsText(metrics), HasSubstr("\nctacct_receive_buffer_peak_ratio 0.250000\n"));
  // Unlimited, or unknown: no part of nothing.
  EXPECT_THAT(MetricsText(metrics), Not(HasSubstr("conntrack_entries")));
  metrics.live->conntrack_entries = 7;
  metrics.live->conntrack_entries_max = 8;
  EXPECT_THAT(MetricsText(metrics), HasSubstr("\nctacct_conntrack_entries 7\n"));
  EXPECT_THAT(MetricsText(metrics), HasSubstr("\nctacct_conntrack_entries_max 8\n"));
}

}  // namespace
}  // namespace ctacct
