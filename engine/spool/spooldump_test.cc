// The program itself: what it prints, and its exit status.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "engine/spool/spool_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr absl::Duration kAtMost = absl::Seconds(20);
constexpr char kLine[] =
    "1600000005000000000,tcp,10.32.251.0,10.32.250.0,443,16,13,3220,1884,1,65021";

class SpooldumpTest : public ::testing::Test {
 protected:
  SpooldumpTest() {
    std::string pattern = ::testing::TempDir() + "/spooldump.XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~SpooldumpTest() override { std::filesystem::remove_all(folder_); }

  std::string Write(uint64_t sequence, bool track_open, size_t rows = 1,
                    const std::vector<Gap>& gaps = {}) {
    TrafficRow row;
    row.time_ns = 1'600'000'005'000'000'000;
    row.protocol = 6;
    row.port = 443;
    row.src = {10, 32, 251, 0};
    row.dst = {10, 32, 250, 0};
    row.packets_src = 16;
    row.packets_dst = 13;
    row.bytes_src = 3220;
    row.bytes_dst = 1884;
    row.connection_count = 1;
    row.connection_time_ms = 65'021;
    row.open_connections = track_open ? 3 : 0;
    SpoolHeader header;
    header.sequence = sequence;
    header.interval_end_ns = row.time_ns;
    header.interval_length_ns = 15'000'000'000;
    header.covered_from_ns = row.time_ns - covered_ns_;
    header.covered_to_ns = row.time_ns;
    header.track_open = track_open;
    const absl::StatusOr<std::string> name =
        WriteSpoolFile(folder_, header, std::vector<TrafficRow>(rows, row), gaps);
    EXPECT_TRUE(name.ok()) << name.status();
    return folder_ + "/" + *name;
  }

  static Finished Run(std::vector<std::string> arguments, const SubprocessOptions& options = {}) {
    arguments.insert(arguments.begin(), DataPath("engine/spool/spooldump"));
    absl::StatusOr<Finished> finished = RunProcess(arguments, kAtMost, options);
    EXPECT_TRUE(finished.ok()) << finished.status();
    return *std::move(finished);
  }

  std::string folder_;
  int64_t covered_ns_ = 14'900'000'000;
};

TEST_F(SpooldumpTest, PrintsElevenOrTwelveColumns) {
  const Finished run = Run({Write(1, false), Write(2, true)});
  EXPECT_TRUE(run.exit.ok());
  EXPECT_EQ(run.out, std::string(kLine) + "\n" + kLine + ",3\n");
  EXPECT_EQ(run.err, "");
}

TEST_F(SpooldumpTest, GapsAreLinesOfStandardError) {
  const Gap overrun = {1'599'999'995'000'000'001,
                       1'599'999'995'250'000'000,
                       GapCause::kOverrun,
                       Completeness::kResynced,
                       42,
                       0};
  const Gap restart = {1'599'999'000'000'000'000,
                       1'600'000'000'500'000'000,
                       GapCause::kRestart,
                       Completeness::kPartial,
                       0,
                       7};
  const std::string path = Write(1, false, 1, {overrun, restart});
  const Finished run = Run({path});
  EXPECT_TRUE(run.exit.ok());
  EXPECT_EQ(run.out, std::string(kLine) + "\n");
  EXPECT_EQ(run.err, "spooldump: " + path +
                         ": gap from 2020-09-13T12:26:35.000000001Z to "
                         "2020-09-13T12:26:35.250000000Z: cause overrun, completeness resynced, "
                         "events dropped 42, flows lost at least 0\n"
                         "spooldump: " +
                         path +
                         ": gap from 2020-09-13T12:10:00.000000000Z to "
                         "2020-09-13T12:26:40.500000000Z: cause restart, completeness partial, "
                         "events dropped 0, flows lost at least 7\n");
}

TEST_F(SpooldumpTest, SaysIfAnIntervalWasNotCoveredAsAWhole) {
  covered_ns_ = 5'000'000'000;
  const std::string path = Write(1, false, 0);
  const Finished run = Run({path});
  EXPECT_TRUE(run.exit.ok());
  EXPECT_EQ(run.out, "");
  EXPECT_EQ(run.err, "spooldump: " + path +
                         ": covers 2020-09-13T12:26:40.000000000Z to "
                         "2020-09-13T12:26:45.000000000Z of an interval of 15 s\n");
}

TEST_F(SpooldumpTest, ABadFileIsNamedAndTheNextOneIsPrinted) {
  const std::string bad = Write(1, false);
  std::filesystem::resize_file(bad, 450);
  const Finished run = Run({bad, folder_ + "/none", Write(2, false)});
  EXPECT_EQ(run.exit.code, 1);
  EXPECT_EQ(run.out, std::string(kLine) + "\n");
  EXPECT_THAT(run.err, StartsWith("spooldump: " + bad + ": torn: ends at byte 450"));
  EXPECT_THAT(run.err, HasSubstr(folder_ + "/none"));
  EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 2);
}

TEST_F(SpooldumpTest, AFullDiskIsAnError) {
  SubprocessOptions options;
  options.stdout_path = "/dev/full";
  const Finished run = Run({Write(1, false, 10'000)}, options);
  EXPECT_EQ(run.exit.code, 1);
  EXPECT_THAT(run.err, StartsWith("spooldump: cannot write to standard output: "));
  EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1);
}

TEST_F(SpooldumpTest, UsageErrors) {
  EXPECT_EQ(Run({}).exit.code, 2);
  const Finished run = Run({"--no-such-flag", "x"});
  EXPECT_EQ(run.exit.code, 2);
  EXPECT_THAT(run.err, StartsWith("spooldump: unknown flag '-no-such-flag'"));
  const Finished help = Run({"--help"});
  EXPECT_TRUE(help.exit.ok());
  EXPECT_THAT(help.out, HasSubstr("usage: spooldump FILE..."));
}

}  // namespace
}  // namespace ctacct
