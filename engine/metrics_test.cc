#include "engine/metrics.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
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

TEST(IntervalTotalsTest, AGapOverSeveralIntervalsIsOne) {
  IntervalTotals totals;
  const auto& overruns = totals.by_cause[static_cast<size_t>(GapCause::kOverrun)];
  totals.Note(10, Completeness::kPartial, {GapOf(GapCause::kOverrun, 8, 10)});
  // It goes on: told whole, or from the boundary.
  totals.Note(20, Completeness::kPartial, {GapOf(GapCause::kOverrun, 8, 20)});
  totals.Note(30, Completeness::kResynced, {GapOf(GapCause::kOverrun, 20, 23)});
  EXPECT_EQ(overruns.count, 1u);
  EXPECT_EQ(overruns.duration_ns, 15);
  totals.Note(40, Completeness::kResynced,
              {GapOf(GapCause::kOverrun, 31, 32), GapOf(GapCause::kOverrun, 35, 39),
               GapOf(GapCause::kRestart, 31, 33)});
  EXPECT_EQ(overruns.count, 3u);
  EXPECT_EQ(overruns.duration_ns, 20);
  EXPECT_EQ(totals.by_cause[static_cast<size_t>(GapCause::kRestart)].count, 1u);
  // The clock was set back.
  totals.Note(50, Completeness::kResynced, {GapOf(GapCause::kOverrun, 1, 2)});
  EXPECT_EQ(overruns.count, 4u);
  EXPECT_EQ(overruns.duration_ns, 21);
  EXPECT_EQ(totals.by_completeness, (std::array<uint64_t, 3>{0, 3, 2}));
  EXPECT_EQ(totals.last_end_ns, 50);
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
  metrics.has_pipe = true;
  metrics.pipe_lines_dropped = 9;
  metrics.write_failures = 0;
  EXPECT_THAT(MetricsText(metrics), HasSubstr("\nctacct_pipe_lines_dropped_total 9\n"));
  EXPECT_THAT(MetricsText(metrics), HasSubstr("\nctacct_spool_write_failing 0\n"));
}

class MetricsFileTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/metrics";
    std::filesystem::create_directory(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Path() const { return folder_ + "/engine.prom"; }
  std::string Contents() const {
    std::ifstream file(Path());
    return {std::istreambuf_iterator<char>(file), {}};
  }
  size_t Files() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder_), {}));
  }

  std::string folder_;
};

TEST_F(MetricsFileTest, IsReplacedWholeAndReadableByAll) {
  auto file = MetricsFile::Open(Path());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(Files(), 0u);
  const mode_t umask_before = umask(077);
  const absl::Status first = file->Write("one\n");
  umask(umask_before);
  ASSERT_TRUE(first.ok()) << first;
  EXPECT_EQ(Contents(), "one\n");
  struct stat info {};
  ASSERT_EQ(stat(Path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0644u);
  // Who has it open goes on reading the old one.
  std::ifstream reader(Path());
  ASSERT_TRUE(file->Write("two\n").ok());
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(reader), {}), "one\n");
  EXPECT_EQ(Contents(), "two\n");
  EXPECT_EQ(Files(), 1u);
  // The same again is no work.
  ASSERT_EQ(unlink(Path().c_str()), 0);
  ASSERT_TRUE(file->Write("two\n").ok());
  EXPECT_EQ(Files(), 0u);
}

TEST_F(MetricsFileTest, WhatAKillLeftOrSomebodyPutThereIsReplaced) {
  const std::string hidden = folder_ + "/.engine.prom.tmp";
  const std::string victim = folder_ + "/victim";
  std::ofstream(victim) << "precious";
  std::filesystem::create_symlink(victim, hidden);
  auto file = MetricsFile::Open(Path());
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE(file->Write("one\n").ok());
  std::ifstream reader(victim);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(reader), {}), "precious");
  EXPECT_EQ(Contents(), "one\n");
  EXPECT_FALSE(std::filesystem::is_symlink(Path()));
}

TEST_F(MetricsFileTest, AnErrorLeavesNothingAndIsOverWhenItsCauseIs) {
  auto file = MetricsFile::Open(folder_ + "/later/engine.prom");
  ASSERT_TRUE(file.ok()) << file.status();
  const absl::Status absent = file->Write("one\n");
  EXPECT_THAT(std::string(absent.message()), HasSubstr(folder_ + "/later/engine.prom: No such"));
  std::filesystem::create_directory(folder_ + "/later");
  EXPECT_TRUE(file->Write("one\n").ok());
  EXPECT_TRUE(std::filesystem::exists(folder_ + "/later/engine.prom"));
}

TEST_F(MetricsFileTest, OnlyARegularFileIsReplaced) {
  ASSERT_EQ(mkfifo(Path().c_str(), 0600), 0);
  for (const std::string& path : {Path(), folder_, folder_ + "/", folder_ + "/.", std::string(),
                                  std::string("/dev/null"), Path() + "/x"}) {
    const auto file = MetricsFile::Open(path);
    EXPECT_FALSE(file.ok()) << path;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr("metrics file " + path));
  }
}

}  // namespace
}  // namespace ctacct
