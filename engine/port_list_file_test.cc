#include "engine/port_list_file.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/conditions.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;

class PortListFileTest : public testing::Test {
 protected:
  void SetUp() override { path_ = testing::TempDir() + "/ports"; }
  void TearDown() override { std::filesystem::remove(path_); }
  void Write(const std::string& text) {
    // As editors and configuration tools do it: a new file in the old one's place.
    std::ofstream(path_ + ".new") << text;
    std::filesystem::rename(path_ + ".new", path_);
  }
  static void ExpectReloads(PortListFile* ports) {
    EXPECT_TRUE(Eventually([&] {
      const absl::StatusOr<bool> reloaded = ports->ReloadIfChanged();
      EXPECT_TRUE(reloaded.ok()) << reloaded.status();
      return reloaded.value_or(true);
    }));
  }
  std::string path_;
};

// It is read by the thread that writes rows and takes signals: nothing may hold that up.
TEST_F(PortListFileTest, WhatIsNoFileIsAnErrorAtOnce) {
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_THAT(std::string(PortListFile(path_).Load().message()), HasSubstr(path_));
  EXPECT_FALSE(PortListFile(testing::TempDir()).Load().ok());
  EXPECT_FALSE(PortListFile("/dev/zero").Load().ok());  // Without an end.
}

TEST_F(PortListFileTest, NoFileMeansNoList) {
  PortListFile ports("");
  ASSERT_TRUE(ports.Load().ok());
  EXPECT_EQ(ports.current().Get(), nullptr);
  EXPECT_FALSE(*ports.ReloadIfChanged());
}

TEST_F(PortListFileTest, TheLastGoodListStays) {
  Write("tcp:80\n");
  PortListFile ports(path_);
  ASSERT_TRUE(ports.Load().ok());
  EXPECT_FALSE(*ports.ReloadIfChanged());
  Write("tcp:80\ntcp:81\n");
  ExpectReloads(&ports);
  EXPECT_TRUE(ports.current().Get()->Contains(6, 81));
  Write("rubbish\n");
  absl::Status problem;
  EXPECT_TRUE(Eventually([&] { return !(problem = ports.ReloadIfChanged().status()).ok(); }));
  EXPECT_THAT(std::string(problem.message()), HasSubstr(path_ + ":1"));
  EXPECT_TRUE(ports.current().Get()->Contains(6, 81));
  EXPECT_FALSE(*ports.ReloadIfChanged());  // Said once.
  std::filesystem::remove(path_);
  EXPECT_FALSE(ports.ReloadIfChanged().ok());
  EXPECT_FALSE(*ports.ReloadIfChanged());
  EXPECT_TRUE(ports.current().Get()->Contains(6, 81));
  Write("tcp:82\n");
  ExpectReloads(&ports);
  EXPECT_FALSE(ports.current().Get()->Contains(6, 81));
  EXPECT_TRUE(ports.current().Get()->Contains(6, 82));
}

// Cut, and then written line by line: what is there for a moment is a good list, but not the one
// that is meant.
TEST_F(PortListFileTest, AListThatIsBeingWrittenIsNotTaken) {
  Write("tcp:80\ntcp:81\n");
  PortListFile ports(path_);
  ASSERT_TRUE(ports.Load().ok());
  std::ofstream file(path_, std::ios::trunc);
  for (int port = 1000; port < 1020; ++port) {
    EXPECT_FALSE(*ports.ReloadIfChanged());
    file << "tcp:" << port << "\n" << std::flush;
    EXPECT_FALSE(*ports.ReloadIfChanged());
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_TRUE(ports.current().Get()->Contains(6, 81));
  file.close();
  ExpectReloads(&ports);
  EXPECT_EQ(ports.current().Get()->size(), 20u);
  // One that is asked for is waited for.
  std::ofstream(path_) << "tcp:7\n";
  ASSERT_TRUE(ports.Load().ok());
  EXPECT_TRUE(ports.current().Get()->Contains(6, 7));
}

}  // namespace
}  // namespace ctacct
