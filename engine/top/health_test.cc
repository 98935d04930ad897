#include "engine/top/health.h"

#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/status/status.h"
#include "engine/metrics.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kNow = 1'600'000'005 * kSecond;

EngineMetrics Sound() {
  EngineMetrics metrics;
  metrics.started_ns = kNow - 3'600 * kSecond;
  metrics.flows = 12'345;
  metrics.intervals.last_end_ns = kNow - 4 * kSecond;
  metrics.has_pipe = true;
  return metrics;
}

EngineHealth Health(const EngineMetrics& metrics) {
  absl::StatusOr<EngineHealth> health = ParseMetrics(MetricsText(metrics));
  EXPECT_TRUE(health.ok()) << health.status();
  return *std::move(health);
}

TEST(TopHealthTest, ReadsWhatTheEngineWrites) {
  EngineMetrics metrics = Sound();
  metrics.counts.events_new = 7;
  metrics.counts.events_destroy = 5;
  const EngineHealth health = Health(metrics);
  EXPECT_EQ(health.Value("ctacct_flows"), 12'345);
  EXPECT_EQ(health.Value("ctacct_events_total{kind=\"new\"}"), 7);
  EXPECT_EQ(health.Value("ctacct_events_total"), std::nullopt);
  EXPECT_EQ(health.Sum("ctacct_events_total"), 12);
  EXPECT_EQ(health.Sum("ctacct_events"), std::nullopt);
  EXPECT_EQ(health.samples[0].name, "ctacct_start_timestamp_seconds");
  EXPECT_EQ(health.samples[0].help, "When this engine started.");
  EXPECT_THAT(HealthFigures(health),
              ElementsAre("flows 12,345", "dropped 0", "gaps 0", "rows waiting 0", "overruns 0",
                          "folded 0", "pipe drops 0"));
  EXPECT_THAT(HealthProblems(health, nullptr, kNow, 15 * kSecond), IsEmpty());
  EXPECT_THAT(HealthProblems(health, &health, kNow, 15 * kSecond), IsEmpty());
}

TEST(TopHealthTest, SaysWhatIsWrong) {
  const EngineHealth before = Health(Sound());
  EngineMetrics metrics = Sound();
  metrics.write_failures = 3;
  metrics.rows_waiting = 4'567;
  metrics.counts.events_dropped = 89;
  metrics.rows_folded = 10;
  metrics.pipe_lines_dropped = 11;
  metrics.port_list_errors = 1;
  EXPECT_THAT(HealthProblems(Health(metrics), &before, kNow + 60 * kSecond, 15 * kSecond),
              ElementsAre("rows cannot be written: 4,567 wait in memory",
                          "the engine's metrics tell of no interval since 64 s ago: does it run?",
                          "89 events dropped by the kernel: -receive-buffer is too small",
                          "10 rows summed as one: a scan, or -max-rows is too small",
                          "11 lines dropped: the FIFO's reader is too slow",
                          "1 port lists unreadable: the last good one is in force"));
  // Started just now, or long ago, without any interval yet.
  metrics = EngineMetrics();
  metrics.started_ns = kNow - kSecond;
  EXPECT_THAT(HealthProblems(Health(metrics), nullptr, kNow, 15 * kSecond), IsEmpty());
  metrics.started_ns = kNow - 600 * kSecond;
  EXPECT_THAT(HealthProblems(Health(metrics), nullptr, kNow, 15 * kSecond),
              ElementsAre(HasSubstr("10 min ago")));
}

TEST(TopHealthTest, TellsMoreWhereAnEngineDoes) {
  const EngineHealth health = *ParseMetrics(
      "ctacct_flows 5\nctacct_conntrack_entries 901000\nctacct_conntrack_entries_max 1000000\n"
      "ctacct_last_dump_seconds 1.250000000\nctacct_spool_files 1234\n"
      "ctacct_interval_seconds 30.000000000\n");
  EXPECT_EQ(HealthIntervalNs(health), 30 * kSecond);
  EXPECT_EQ(HealthIntervalNs(EngineHealth()), std::nullopt);
  EXPECT_THAT(HealthFigures(health),
              ElementsAre("flows 5", "table 90%", "spool files 1,234", "dump 1.25s"));
  EXPECT_THAT(HealthProblems(health, nullptr, kNow, 30 * kSecond),
              ElementsAre(HasSubstr("conntrack's table is 90 % full")));
}

TEST(TopHealthTest, RubbishIsNamed) {
  for (const char* bad : {"", "\n", "# HELP x y\n", "novalue\n", "a b\n", "a NaN\n", " 1\n",
                          "ctacct_flows 1\n\x01\x02"}) {
    EXPECT_EQ(ParseMetrics(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_EQ(ParseMetrics("a{x=\"b c}\"} 5").value().samples[0].name, "a{x=\"b c}\"}");
}

TEST(TopHealthTest, FilesThatCannotBeReadAreNamed) {
  std::string folder = ::testing::TempDir() + "/health.XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  EXPECT_THAT(std::string(ReadMetricsFile(folder + "/none").status().message()),
              HasSubstr(folder + "/none"));
  ASSERT_EQ(mkfifo((folder + "/fifo").c_str(), 0600), 0);
  EXPECT_FALSE(ReadMetricsFile(folder + "/fifo").ok());
  std::ofstream(folder + "/bad") << "rubbish\n";
  EXPECT_EQ(ReadMetricsFile(folder + "/bad").status().message(),
            folder + "/bad: line 1 is no metric");
  std::ofstream(folder + "/good") << MetricsText(Sound());
  EXPECT_TRUE(ReadMetricsFile(folder + "/good").ok());
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace ctacct
