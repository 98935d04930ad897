#include "engine/spool/spool_backlog.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace ctacct {
namespace {

TEST(SpoolBacklogTest, CountsWhatHoldsRows) {
  const std::string folder = testing::TempDir() + "/backlog";
  std::filesystem::create_directory(folder);
  SpoolBacklogMeter nowhere(folder + "/absent");
  EXPECT_EQ(nowhere.Measure().files, 0u);
  for (const char* const name :
       {"a.spool", "traffic_b.csv", ".hidden.spool", ".x.tmp", "b.csv", "c.spool.reason",
        "engine.prom", ".0123456789abcdef.engine.1.a.spool",
        ".0123456789abcdef.engine.2.traffic_a.csv"}) {
    std::ofstream(folder + "/" + name) << "12345";
  }
  std::ofstream(folder + "/empty.spool");
  std::filesystem::create_directory(folder + "/folder.spool");
  std::filesystem::create_symlink("a.spool", folder + "/link.spool");
  const timespec times[2] = {{1'600'000'000, 5}, {1'600'000'000, 5}};
  ASSERT_EQ(utimensat(AT_FDCWD, (folder + "/a.spool").c_str(), times, 0), 0);
  SpoolBacklogMeter meter(folder);
  EXPECT_EQ(meter.Measure().files, 2u);
  EXPECT_EQ(meter.Measure().bytes, 10u);
  EXPECT_EQ(meter.Measure().oldest_ns, 1'600'000'000'000'000'005);
  std::filesystem::remove_all(folder);
  // In its time. A look at nothing takes little.
  while (meter.Measure().files != 0) usleep(1000);
  EXPECT_EQ(meter.Measure().oldest_ns, 0);
}

}  // namespace
}  // namespace ctacct
