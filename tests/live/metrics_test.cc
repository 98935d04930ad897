// The engine's metrics file as a monitoring sees it: in Prometheus' own eyes, after a replay, and
// live, where an alarm comes and goes.
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_output.h"
#include "tests/support/engine_test.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;

// Samples by their name with labels.
using Metrics = std::map<std::string, double>;

// What a capture holds for accounting, counted without our parser.
struct CaptureCounts {
  int created = 0, updated = 0, destroyed = 0, dumped = 0, icmp = 0;
};

// Of a file in this machine's byte order, with netlink messages behind 16 bytes of link header.
CaptureCounts CountMessages(const std::string& capture) {
  CaptureCounts counts;
  const auto number = [&](size_t at, size_t bytes) {
    uint32_t value = 0;
    memcpy(&value, capture.data() + at, bytes);
    return value;
  };
  for (size_t packet = 24; packet + 16 <= capture.size();) {
    const size_t end = packet + 16 + number(packet + 8, 4);
    for (size_t at = packet + 32; at + 16 <= end; at += (number(at, 4) + 3) / 4 * 4) {
      const uint32_t type = number(at + 4, 2);
      const uint32_t flags = number(at + 6, 2);
      const bool event = type == 0x100 || type == 0x102;
      counts.created += type == 0x100 && flags == 0x600;
      counts.updated += type == 0x100 && flags == 0;
      counts.dumped += type == 0x100 && flags == 0x22;
      counts.destroyed += type == 0x102;
      // CTA_TUPLE_PROTO that begins with CTA_PROTO_NUM, 1.
      const std::string message = capture.substr(at, number(at, 4));
      counts.icmp += event && message.find(std::string("\2\200\5\0\1\0\1", 7)) != std::string::npos;
    }
    packet = end;
  }
  return counts;
}

class MetricsTest : public EngineTest {
 protected:
  MetricsTest() : EngineTest("metrics") {}

  void SetUp() override {}  // A replay needs no gateway.

  std::string path() const { return folder_ + "/engine.prom"; }

  // Without the label that every sample has. Empty while the file is not there.
  std::string Text() const {
    if (!std::filesystem::exists(path())) return "";
    char host[256] = "";
    gethostname(host, sizeof(host) - 1);
    const std::string label = absl::StrCat("{gateway=\"", host, "\"");
    return absl::StrReplaceAll(ReadFile(path()), {{label + ",", "{"}, {label + "}", ""}});
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

  // Until the file contains the line.
  void WaitFor(const std::string& line) const {
    ASSERT_TRUE(Eventually([&] { return absl::StrContains(Text(), "\n" + line + "\n"); }))
        << line << " is not in\n"
        << Text();
  }

  Finished Replay(const std::vector<std::string>& flags, const std::string& output) const {
    auto finished =
        RunProcess(Joined({{DataPath("engine/engine"), "-interval=5", "-output=" + output,
                            "-replay=" + DataPath("tests/captures/gateway.pcap")},
                           flags}),
                   kPatience);
    EXPECT_TRUE(finished.ok()) << finished.status();
    return finished.ok() ? *std::move(finished) : Finished();
  }
  Finished Replay(const std::vector<std::string>& flags) const { return Replay(flags, spool()); }
};

// The numbers are those of the capture and of the files, and the summary has the same ones.
TEST_F(MetricsTest, AReplaysMetricsEqualItsSummary) {
  const CaptureCounts counts = CountMessages(ReadFile(DataPath("tests/captures/gateway.pcap")));
  const std::string unlimited = folder_ + "/unlimited";
  std::filesystem::create_directory(unlimited);
  ASSERT_TRUE(Replay({}, unlimited).exit.ok());
  const size_t all_rows = ReadSpool(unlimited).rows;
  for (const std::string workers : {"1", "3"}) {
    SCOPED_TRACE(workers + " workers");
    const std::string output = folder_ + "/limited" + workers;
    std::filesystem::create_directory(output);
    const Finished finished =
        Replay({"-metrics-file=" + path(), "-workers=" + workers, "-max-rows=50"}, output);
    ASSERT_TRUE(finished.exit.ok()) << finished.err;
    Metrics metrics = Read();
    const size_t intervals = SpoolFilesIn(output).size();
    const SpoolRows limited = ReadSpool(output);
    const size_t rows = limited.rows;
    EXPECT_GE(limited.others, intervals);
    const size_t folded = all_rows - (rows - limited.others);
    const std::map<std::string, size_t> expected = {
        {"ctacct_intervals_written_total", intervals},
        {"ctacct_rows_written_total", rows},
        {"ctacct_events_total{kind=\"new\"}", counts.created},
        {"ctacct_events_total{kind=\"update\"}", counts.updated},
        {"ctacct_events_total{kind=\"destroy\"}", counts.destroyed},
        {"ctacct_dump_entries_total", counts.dumped},
        {"ctacct_filtered_total{cause=\"rules\"}", counts.icmp},
        {"ctacct_rows_folded_total", folded},
    };
    for (const auto& [name, number] : expected) {
      EXPECT_GT(number, 0u) << name;
      EXPECT_EQ(metrics.at(name), static_cast<double>(number)) << name;
    }
    EXPECT_THAT(
        finished.err,
        HasSubstr(absl::StrCat(intervals, " intervals, ", rows, " rows; events: ", counts.created,
                               " new, ", counts.updated, " update, ", counts.destroyed,
                               " destroy; ", counts.dumped, " dump entries; ", counts.icmp,
                               " filtered; ", folded, " rows summed by origin")));
    EXPECT_EQ(metrics.at("ctacct_intervals_total{completeness=\"complete\"}"),
              static_cast<double>(intervals));
    EXPECT_EQ(metrics.at("ctacct_spool_write_failing"), 0);
    EXPECT_GT(metrics.at("ctacct_last_write_timestamp_seconds"),
              metrics.at("ctacct_start_timestamp_seconds"));
    EXPECT_EQ(int64_t(metrics.at("ctacct_last_interval_end_timestamp_seconds")) % 5, 0);
    uint64_t files = 0, bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(output)) {
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
  RequireProgramOrSkip("promtool", "--version", "prometheus");
  if (IsSkipped() || HasFatalFailure()) return;
  const Finished finished = Replay({"-metrics-file=" + path(), "-pipe=" + folder_ + "/fifo"});
  ASSERT_TRUE(finished.exit.ok()) << finished.err;
  const auto checked = RunProcess({"sh", "-c", "promtool check metrics < " + path()}, kPatience);
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_TRUE(checked->exit.ok()) << checked->exit.ToString();
  EXPECT_EQ(checked->out + checked->err, "");
}

// The file is for monitoring. Without it there is a log line, and all that is accounted.
TEST_F(MetricsTest, ABadPathIsOneLineAndAccountingGoesOn) {
  const std::string good = folder_ + "/good";
  ASSERT_TRUE(Replay({}, good).exit.ok());
  const Traffic expected = ReadSpool(good).traffic;
  int number = 0;
  for (const std::string& bad : {folder_ + "/absent/engine.prom", spool(), std::string("/dev/null"),
                                 std::string("/proc/engine.prom"), folder_ + "/"}) {
    const std::string output = absl::StrCat(folder_, "/output", number++);
    const Finished finished = Replay({"-metrics-file=" + bad}, output);
    EXPECT_TRUE(finished.exit.ok()) << bad << finished.err;
    EXPECT_THAT(finished.err, testing::MatchesRegex("engine: metrics file " + bad +
                                                    ": [^\n]*; accounting continues without it\n"
                                                    "engine: [0-9]+ intervals, [^\n]*\n"));
    EXPECT_EQ(Difference(expected, ReadSpool(output).traffic), "");
  }
  struct stat info {};
  ASSERT_EQ(stat("/dev/null", &info), 0);
  EXPECT_TRUE(S_ISCHR(info.st_mode));
}

class LiveMetricsTest : public MetricsTest {
 protected:
  void SetUp() override { EngineTest::SetUp(); }
};

// Another user's folder, then a full disk: each is logged once and counted, and rows are written
// meanwhile.
TEST_F(LiveMetricsTest, AFileThatCannotBeWrittenStopsNothing) {
  const std::string folder = folder_ + "/metrics";
  std::filesystem::create_directory(folder);
  // Before the engine, which has mounts of its own.
  ASSERT_TRUE(RunProcessOrError({"mount", "-t", "tmpfs", "-o", "size=1m,mode=0755", "none", folder},
                                kPatience)
                  .ok());
  const absl::Cleanup unmount = [&folder] {
    EXPECT_TRUE(RunProcessOrError({"umount", "-l", folder}, kPatience).ok());
  };
  const std::string file = folder + "/engine.prom";
  const auto rows_go_on = [this] {
    const size_t before = SpoolFilesIn(spool()).size();
    Play({"--udp=10"});
    EXPECT_TRUE(Eventually([&] { return SpoolFilesIn(spool()).size() >= before + 2; }));
  };
  ASSERT_NO_FATAL_FAILURE(
      StartEngine({DataPath("engine/engine"), "-interval=1", "-workers=1", "-output=" + spool(),
                   "-gateway=gw", "-metrics-file=" + file}));
  ASSERT_NO_FATAL_FAILURE(
      WaitForEngine("metrics file " + file + ": Permission denied (the program is user "));
  rows_go_on();
  std::filesystem::permissions(folder, std::filesystem::perms(0777));
  ASSERT_NO_FATAL_FAILURE(WaitForEngine("the metrics file can be written again"));
  ASSERT_TRUE(Eventually([&] { return std::filesystem::exists(file); }));
  const auto failures = [&file] {
    const std::string text = ReadFile(file);
    const std::string name = "\nctacct_metrics_write_failures_total{gateway=\"gw\"} ";
    const size_t at = text.find(name);
    EXPECT_NE(at, std::string::npos) << text;
    return at == std::string::npos ? -1 : std::atoi(text.c_str() + at + name.size());
  };
  const int denied = failures();
  EXPECT_GE(denied, 1);

  std::ofstream(folder + "/ballast") << std::string(2 << 20, 'x');
  const absl::Status full =
      engine_->WaitForOutput("metrics file " + file + ": No space left on device", kPatience);
  EXPECT_TRUE(full.ok()) << full;
  rows_go_on();
  std::filesystem::remove(folder + "/ballast");
  EXPECT_TRUE(Eventually([&] { return failures() > denied; }));
  StopEngine();
  const std::vector<std::string> said =
      absl::StrSplit(engine_->Stderr(), "; accounting continues without it");
  EXPECT_EQ(said.size(), 3u) << engine_->Stderr();
}

TEST_F(LiveMetricsTest, AnAlarmComesAndGoes) {
  const std::string ports = folder_ + "/ports";
  std::ofstream(ports) << "tcp:80\n";
  // The folders that go and come back must not take the state with them.
  const TestFolder state("metrics-state");
  std::filesystem::permissions(state.path(), std::filesystem::perms(0777));
  ASSERT_NO_FATAL_FAILURE(
      StartEngine({DataPath("engine/engine"), "-interval=1", "-workers=2", "-output=" + spool(),
                   "-state=" + state.path(), "-ports=" + ports, "-metrics-file=" + path()}));
  ASSERT_NO_FATAL_FAILURE(WaitFor("ctacct_spool_write_failing 0"));

  // The figures include the kernel's own.
  Play({"--tcp=100", "--udp=100"});
  uint64_t flows = 0;
  ASSERT_TRUE(gateway_->KernelCounters(&flows).ok());
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
  FlushConntrack();
  ASSERT_NO_FATAL_FAILURE(WaitFor("ctacct_events_total{kind=\"destroy\"} 200"));

  // The folder is gone: rows wait.
  std::filesystem::rename(spool(), folder_ + "/away");
  Play({"--tcp=200", "--udp=200"});
  FlushConntrack();
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

  // If the folder of the metrics file is gone, the engine continues and logs it once.
  const std::string moved = folder_ + ".moved";
  std::filesystem::rename(folder_, moved);
  WaitForEngine("metrics file " + path());
  absl::SleepFor(absl::Seconds(2));  // Some more attempts.
  std::filesystem::rename(moved, folder_);
  WaitForEngine("the metrics file can be written again");
  StopEngine();
  const std::vector<std::string> parts =
      absl::StrSplit(engine_->Stderr(), "metrics file " + path());
  EXPECT_EQ(parts.size(), 2u) << engine_->Stderr();
}

}  // namespace
}  // namespace ctacct
