#include "engine/top/health.h"

#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kNow = 1'600'000'005 * kSecond;

// Of an engine's file, what top knows by name, and a metric that it does not know.
constexpr char kSound[] = R"(# HELP ctacct_start_timestamp_seconds When this engine started.
# TYPE ctacct_start_timestamp_seconds gauge
ctacct_start_timestamp_seconds 1599996405.000000000
# HELP ctacct_events_total Events by kind.
# TYPE ctacct_events_total counter
ctacct_events_total{gateway="a \"b, c} d",kind="new"} 7
ctacct_events_total{kind="destroy"} 5
ctacct_events_dropped_total 0
ctacct_gaps_total{cause="overrun"} 0
ctacct_gaps_total{cause="restart"} 0
ctacct_overruns_total 0
ctacct_flows{gateway="a \"b, c} d"} 12345
ctacct_last_interval_end_timestamp_seconds 1600000001.000000000
ctacct_rows_waiting 0
ctacct_rows_folded_total 0
ctacct_spool_write_failing 0
ctacct_pipe_lines_dropped_total 0
ctacct_port_list_errors_total 0
)";

// kSound with other values, and what top makes of it.
EngineHealth Health(const std::vector<std::pair<std::string, std::string>>& changes = {}) {
  std::string text = kSound;
  for (const auto& [name, value] : changes) {
    const size_t at = text.find("\nctacct_" + name + " ");
    EXPECT_NE(at, std::string::npos) << name;
    const size_t begin = text.find(' ', at) + 1;
    text.replace(begin, text.find('\n', begin) - begin, value);
  }
  absl::StatusOr<EngineHealth> health = ParseMetrics(text);
  EXPECT_TRUE(health.ok()) << health.status();
  return *std::move(health);
}

TEST(TopHealthTest, ReadsWhatTheEngineWrites) {
  const EngineHealth health = Health();
  EXPECT_EQ(health.Value("flows"), 12'345);
  EXPECT_EQ(health.Value("events_total"), 12);
  EXPECT_EQ(health.Value("events"), std::nullopt);
  EXPECT_EQ(health.samples[0].name, "ctacct_start_timestamp_seconds");
  EXPECT_EQ(health.samples[0].help, "When this engine started.");
  EXPECT_EQ(health.samples[1].name, "ctacct_events_total{kind=\"new\"}");
  EXPECT_THAT(HealthFigures(health),
              ElementsAre("flows 12,345", "dropped 0", "gaps 0", "rows waiting 0", "overruns 0",
                          "folded 0", "pipe drops 0"));
  EXPECT_THAT(HealthProblems(health, nullptr, kNow, 15 * kSecond), IsEmpty());
  EXPECT_THAT(HealthProblems(health, &health, kNow, 15 * kSecond), IsEmpty());
}

TEST(TopHealthTest, SaysWhatIsWrong) {
  const EngineHealth before = Health();
  const EngineHealth health = Health({{"spool_write_failing", "1"},
                                      {"rows_waiting", "4567"},
                                      {"events_dropped_total", "89"},
                                      {"rows_folded_total", "10"},
                                      {"pipe_lines_dropped_total", "11"},
                                      {"port_list_errors_total", "1"}});
  EXPECT_THAT(HealthProblems(health, &before, kNow + 60 * kSecond, 15 * kSecond),
              ElementsAre("rows cannot be written: 4,567 wait in memory",
                          "the engine's metrics report no interval since 64 s ago: does it run?",
                          "89 events dropped by the kernel: -receive-buffer is too small",
                          "10 rows summed by origin: a scan, or -max-rows is too small",
                          "11 lines dropped: the FIFO's reader is too slow",
                          "1 port lists unreadable: the last good one is in force"));
  // Started just now, or long ago, without any interval yet.
  const auto started = [](const char* seconds) {
    return Health(
        {{"last_interval_end_timestamp_seconds", "0"}, {"start_timestamp_seconds", seconds}});
  };
  EXPECT_THAT(HealthProblems(started("1600000004"), nullptr, kNow, 15 * kSecond), IsEmpty());
  EXPECT_THAT(HealthProblems(started("1599999405"), nullptr, kNow, 15 * kSecond),
              ElementsAre(HasSubstr("10 min ago")));
}

TEST(TopHealthTest, ShowsMoreIfAnEngineReportsMore) {
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
  std::ofstream(folder + "/good") << kSound;
  EXPECT_TRUE(ReadMetricsFile(folder + "/good").ok());
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace ctacct
