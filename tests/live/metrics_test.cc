// The engine's metrics file as a monitoring sees it: in Prometheus' own eyes, after a replay, and
// live, where an alarm comes and goes.
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/gateway.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;

// Samples by their name with labels.
using Metrics = std::map<std::string, double>;

class MetricsTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string folder = "/tmp/ctacct-metrics.XXXXXX";
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    std::filesystem::create_directory(spool());
  }
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }

  std::string spool() const { return folder_ + "/spool"; }
  std::string path() const { return folder_ + "/engine.prom"; }

  std::string Text() const {
    std::ifstream file(path());
    return {std::istreambuf_iterator<char>(file), {}};
  }
  Metrics Read() const {
    Metrics metrics;
    for (absl::string_view line : absl::StrSplit(Text(), '\n', absl::SkipEmpty())) {
      if (line[0] == '#') continue;
      const std::vector<std::string> parts = absl::StrSplit(line, ' ');
      double value = 0;
      EXPECT_TRUE(parts.size() == 2 && absl::SimpleAtod(parts[1], &value)) << line;
      EXPECT_TRUE(metrics.emplace(parts[0], value).second) << line;
    }
    return metrics;
  }

  // Until the file says so. A test that waits in vain ends with what it says instead.
  void WaitFor(const std::string& line) const {
    const absl::Time give_up = absl::Now() + absl::Seconds(30);
    while (Text().find("\n" + line + "\n") == std::string::npos) {
      ASSERT_LT(absl::Now(), give_up) << line << " is not in\n" << Text();
      absl::SleepFor(absl::Milliseconds(20));
    }
  }

  Finished Replay(const std::vector<std::string>& flags) const {
    std::vector<std::string> argv = {DataPath("engine/engine"),
                                     "-replay=" + DataPath("tests/captures/gateway.pcap"),
                                     "-interval=5", "-output=" + spool()};
    argv.insert(argv.end(), flags.begin(), flags.end());
    auto finished = RunProcess(argv, absl::Seconds(60));
    EXPECT_TRUE(finished.ok()) << finished.status();
    return finished.ok() ? *std::move(finished) : Finished();
  }

  std::string folder_;
};

TEST_F(MetricsTest, AReplayTellsWhatItsSummaryTells) {
  for (const std::string workers : {"1", "3"}) {
    SCOPED_TRACE(workers + " workers");
    const Finished finished =
        Replay({"-metrics-file=" + path(), "-workers=" + workers, "-max-rows=50"});
    ASSERT_TRUE(finished.exit.ok()) << finished.err;
    Metrics metrics = Read();
    const auto number = [&](const std::string& name) {
      return std::to_string(int64_t(metrics.at(name)));
    };
    EXPECT_THAT(finished.err, HasSubstr(absl::StrCat(
                                  number("ctacct_intervals_written_total"), " intervals, ",
                                  number("ctacct_rows_written_total"),
                                  " rows; events: ", number("ctacct_events_total{kind=\"new\"}"),
                                  " new, ", number("ctacct_events_total{kind=\"update\"}"),
                                  " update, ", number("ctacct_events_total{kind=\"destroy\"}"),
                                  " destroy; ", number("ctacct_dump_entries_total"),
                                  " dump entries; ", number("ctacct_filtered_total"), " filtered; ",
                                  number("ctacct_rows_folded_total"), " rows summed as one")));
    EXPECT_GT(metrics.at("ctacct_events_total{kind=\"destroy\"}"), 0);
    EXPECT_GT(metrics.at("ctacct_rows_folded_total"), 0);
    EXPECT_EQ(metrics.at("ctacct_intervals_total{completeness=\"complete\"}"),
              metrics.at("ctacct_intervals_written_total"));
    EXPECT_EQ(metrics.at("ctacct_spool_write_failing"), 0);
    EXPECT_GT(metrics.at("ctacct_last_write_timestamp_seconds"),
              metrics.at("ctacct_start_timestamp_seconds"));
    EXPECT_EQ(int64_t(metrics.at("ctacct_last_interval_end_timestamp_seconds")) % 5, 0);
    uint64_t files = 0, bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(spool())) {
      ++files;
      bytes += entry.file_size();
    }
    EXPECT_GT(files, 0u);
    EXPECT_EQ(metrics.at("ctacct_spool_files"), static_cast<double>(files));
    EXPECT_EQ(metrics.at("ctacct_spool_bytes"), static_cast<double>(bytes));
    EXPECT_EQ(metrics.at("ctacct_interval_seconds"), 5);
    EXPECT_GT(metrics.at("ctacct_flush_seconds_total"), 0);
    // The kernel has no part in it.
    EXPECT_EQ(metrics.count("ctacct_dumps_total"), 0u);
    EXPECT_EQ(metrics.count("ctacct_conntrack_entries"), 0u);
    struct stat info {};
    ASSERT_EQ(stat(path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0644u);
  }
}

TEST_F(MetricsTest, PrometheusTakesIt) {
  if (!RunProcessOrError({"promtool", "--version"}, absl::Seconds(10)).ok()) {
    const char* ci = std::getenv("CI");
    if (ci != nullptr && std::string(ci) == "true") FAIL() << "CI=true, but there is no promtool";
    GTEST_SKIP() << "no promtool (package prometheus)";
  }
  const Finished finished = Replay({"-metrics-file=" + path(), "-pipe=" + folder_ + "/fifo"});
  ASSERT_TRUE(finished.exit.ok()) << finished.err;
  const auto checked =
      RunProcess({"sh", "-c", "promtool check metrics < " + path()}, absl::Seconds(10));
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_TRUE(checked->exit.ok()) << checked->exit.ToString();
  EXPECT_EQ(checked->out + checked->err, "");
}

TEST_F(MetricsTest, ABadPathIsOneLineAndNothingIsAccounted) {
  for (const std::string& bad : {folder_ + "/absent/engine.prom", spool(), std::string("/dev/null"),
                                 std::string("/proc/engine.prom"), folder_ + "/"}) {
    const Finished finished = Replay({"-metrics-file=" + bad});
    EXPECT_EQ(finished.exit.code, 1) << bad;
    EXPECT_THAT(finished.err, testing::MatchesRegex("engine: metrics file " + bad + ": [^\n]*\n"));
    EXPECT_TRUE(std::filesystem::is_empty(spool()));
  }
}

class LiveMetricsTest : public MetricsTest {
 protected:
  void SetUp() override {
    RequireRootOrSkip();
    if (IsSkipped() || HasFatalFailure()) return;
    MetricsTest::SetUp();
  }
};

TEST_F(LiveMetricsTest, AnAlarmComesAndGoes) {
  auto gateway = Gateway::Up();
  ASSERT_TRUE(gateway.ok()) << gateway.status();
  const std::string ports = folder_ + "/ports";
  std::ofstream(ports) << "tcp:80\n";
  auto engine =
      (*gateway)->Start({DataPath("engine/engine"), "-interval=1", "-workers=2",
                         "-output=" + spool(), "-ports=" + ports, "-metrics-file=" + path()});
  ASSERT_TRUE(engine.ok()) << engine.status();
  ASSERT_TRUE((*engine)->WaitForOutput("accounting live", absl::Seconds(30)).ok());
  ASSERT_NO_FATAL_FAILURE(WaitFor("ctacct_spool_write_failing 0"));

  // It counts what the kernel has, too.
  ASSERT_TRUE((*gateway)->Play({"--tcp=100", "--udp=100"}).ok());
  uint64_t flows = 0;
  ASSERT_TRUE((*gateway)->KernelCounters(&flows).ok());
  EXPECT_GE(flows, 200u);
  ASSERT_NO_FATAL_FAILURE(WaitFor(absl::StrCat("ctacct_conntrack_entries ", flows)));
  ASSERT_NO_FATAL_FAILURE(WaitFor(absl::StrCat("ctacct_flows ", flows)));
  const Metrics quiet = Read();
  EXPECT_GE(quiet.at("ctacct_dumps_total"), 1);
  EXPECT_EQ(quiet.at("ctacct_dumps_failed_total"), 0);
  EXPECT_GT(quiet.at("ctacct_last_dump_seconds"), 0);
  EXPECT_GE(quiet.at("ctacct_dump_seconds_total"), quiet.at("ctacct_last_dump_seconds"));
  EXPECT_GT(quiet.at("ctacct_worker_naps_total"), 0);
  EXPECT_GE(quiet.at("ctacct_worker_wakeups_total"), quiet.at("ctacct_worker_naps_total"));
  EXPECT_GT(quiet.at("ctacct_receive_buffer_bytes"), 0);
  ASSERT_TRUE((*gateway)->FlushConntrack().ok());
  ASSERT_NO_FATAL_FAILURE(WaitFor("ctacct_events_total{kind=\"destroy\"} 200"));

  // The folder is gone: rows wait.
  std::filesystem::rename(spool(), folder_ + "/away");
  ASSERT_TRUE((*gateway)->Play({"--tcp=200", "--udp=200"}).ok());
  ASSERT_TRUE((*gateway)->FlushConntrack().ok());
  ASSERT_NO_FATAL_FAILURE(WaitFor("ctacct_spool_write_failing 1"));
  EXPECT_GT(Read().at("ctacct_rows_waiting"), 0);
  EXPECT_GT(Read().at("ctacct_spool_write_failures"), 0);
  std::filesystem::rename(folder_ + "/away", spool());
  ASSERT_NO_FATAL_FAILURE(WaitFor("ctacct_spool_write_failing 0"));
  ASSERT_NO_FATAL_FAILURE(WaitFor("ctacct_rows_waiting 0"));
  EXPECT_GT(Read().at("ctacct_rows_written_total"), 0);
  ASSERT_NO_FATAL_FAILURE(WaitFor("ctacct_events_total{kind=\"destroy\"} 600"));

  std::ofstream(ports) << "rubbish\n";
  ASSERT_NO_FATAL_FAILURE(WaitFor("ctacct_port_list_errors_total 1"));
  EXPECT_EQ(Read().at("ctacct_port_list_failing"), 1);
  std::ofstream(ports) << "tcp:443\n";
  ASSERT_NO_FATAL_FAILURE(WaitFor("ctacct_port_list_failing 0"));

  // Where its own folder is gone, the engine goes on, and says so once.
  const std::string moved = folder_ + ".moved";
  std::filesystem::rename(folder_, moved);
  const absl::Status told = (*engine)->WaitForOutput("metrics file " + path(), absl::Seconds(30));
  EXPECT_TRUE(told.ok()) << told;
  absl::SleepFor(absl::Seconds(2));  // Some more attempts.
  std::filesystem::rename(moved, folder_);
  EXPECT_TRUE(
      (*engine)->WaitForOutput("the metrics file can be written again", absl::Seconds(30)).ok());
  ASSERT_TRUE((*engine)->Signal(SIGTERM).ok());
  const auto exit = (*engine)->Wait(absl::Seconds(30));
  ASSERT_TRUE(exit.ok() && exit->ok()) << (*engine)->Stderr();
  const std::vector<std::string> parts =
      absl::StrSplit((*engine)->Stderr(), "metrics file " + path());
  EXPECT_EQ(parts.size(), 2u) << (*engine)->Stderr();
}

}  // namespace
}  // namespace ctacct
