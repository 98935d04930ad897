#include "engine/system/prometheus_text.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(PrometheusTextTest, IsWrittenAsTheFormatAsks) {
  PrometheusText text("a_", "back\\slash, \"quote\", line\nbreak");
  text.Counter("b_total", "Of b.", 18'446'744'073'709'551'615u);
  text.Gauge("c", "By name.");
  text.Value({{"x", "1"}, {"y", "\\\"\n"}}, 3);
  text.Value({{"x", "2"}}, SecondsText(1'500'000'000));
  const std::string gateway = "gateway=\"back\\\\slash, \\\"quote\\\", line\\nbreak\"";
  EXPECT_EQ(text.Take(),
            "# HELP a_b_total Of b.\n# TYPE a_b_total counter\n"
            "a_b_total{" +
                gateway +
                "} 18446744073709551615\n"
                "# HELP a_c By name.\n# TYPE a_c gauge\n"
                "a_c{" +
                gateway +
                ",x=\"1\",y=\"\\\\\\\"\\n\"} 3\n"
                "a_c{" +
                gateway + ",x=\"2\"} 1.500000000\n");
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
  MetricsFile file(Path());
  EXPECT_EQ(Files(), 0u);
  const mode_t umask_before = umask(077);
  const absl::Status first = file.Write("one\n");
  umask(umask_before);
  ASSERT_TRUE(first.ok()) << first;
  EXPECT_EQ(Contents(), "one\n");
  struct stat info {};
  ASSERT_EQ(stat(Path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0644u);
  // A reader that has the file open continues to read the old text.
  std::ifstream reader(Path());
  ASSERT_TRUE(file.Write("two\n").ok());
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(reader), {}), "one\n");
  EXPECT_EQ(Contents(), "two\n");
  EXPECT_EQ(Files(), 1u);
  // An unchanged text is not written again.
  ASSERT_EQ(unlink(Path().c_str()), 0);
  ASSERT_TRUE(file.Write("two\n").ok());
  EXPECT_EQ(Files(), 0u);
}

TEST_F(MetricsFileTest, WhatAKillLeftOrSomebodyPutThereIsReplaced) {
  const std::string hidden = folder_ + "/.engine.prom.tmp";
  const std::string victim = folder_ + "/victim";
  std::ofstream(victim) << "precious";
  std::filesystem::create_symlink(victim, hidden);
  MetricsFile file(Path());
  ASSERT_TRUE(file.Write("one\n").ok());
  std::ifstream reader(victim);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(reader), {}), "precious");
  EXPECT_EQ(Contents(), "one\n");
  EXPECT_FALSE(std::filesystem::is_symlink(Path()));
}

TEST_F(MetricsFileTest, AnErrorLeavesNothingAndIsOverWhenItsCauseIs) {
  MetricsFile file(folder_ + "/later/engine.prom");
  const absl::Status absent = file.Write("one\n");
  EXPECT_THAT(std::string(absent.message()), HasSubstr(folder_ + "/later/engine.prom: No such"));
  std::filesystem::create_directory(folder_ + "/later");
  EXPECT_TRUE(file.Write("one\n").ok());
  EXPECT_TRUE(std::filesystem::exists(folder_ + "/later/engine.prom"));
}

TEST_F(MetricsFileTest, OnlyARegularFileIsReplaced) {
  ASSERT_EQ(mkfifo(Path().c_str(), 0600), 0);
  for (const std::string& path : {Path(), folder_, folder_ + "/", folder_ + "/.", std::string(),
                                  std::string("/dev/null"), Path() + "/x"}) {
    const absl::Status status = MetricsFile(path).Write("one\n");
    EXPECT_FALSE(status.ok()) << path;
    EXPECT_THAT(std::string(status.message()), HasSubstr("metrics file " + path + ": "));
  }
  EXPECT_TRUE(std::filesystem::is_fifo(Path()));
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    EXPECT_EQ(entry.path(), Path());
  }
}

TEST_F(MetricsFileTest, TroubleIsSaidOnceAndItsEndToo) {
  MetricsFile file(folder_ + "/later/engine.prom");
  std::vector<std::string> log;
  const auto note = [&log](const absl::Status& status) {
    log.push_back(status.ok() ? "well" : std::string(status.message()));
  };
  file.Refresh("one\n", note);
  file.Refresh("two\n", note);
  EXPECT_THAT(log, ElementsAre(HasSubstr(folder_ + "/later/engine.prom: No such")));
  EXPECT_EQ(file.failures(), 2u);
  std::filesystem::create_directory(folder_ + "/later");
  file.Refresh("two\n", note);
  file.Refresh("three\n", note);
  EXPECT_THAT(log, ElementsAre(HasSubstr("No such"), "well"));
  // Another reason is said.
  std::filesystem::remove(folder_ + "/later/engine.prom");
  std::filesystem::create_directory(folder_ + "/later/engine.prom");
  file.Refresh("four\n", note);
  file.Refresh("five\n", note);
  EXPECT_THAT(log, ElementsAre(HasSubstr("No such"), "well", HasSubstr("is no regular file")));
  EXPECT_EQ(file.failures(), 4u);
}

}  // namespace
}  // namespace ctacct
