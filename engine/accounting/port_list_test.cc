#include "engine/accounting/port_list.h"

#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;

class PortListTest : public testing::Test {
 protected:
  void SetUp() override { path_ = testing::TempDir() + "/ports"; }
  void TearDown() override { std::filesystem::remove(path_); }
  void Write(const std::string& text) {
    // As editors and configuration tools do it: a new file in the old one's place.
    std::ofstream(path_ + ".new") << text;
    std::filesystem::rename(path_ + ".new", path_);
  }
  std::string path_;
};

TEST_F(PortListTest, Parses) {
  const auto list =
      PortList::Parse("# services\ntcp:443\n\n 6:22 # ssh\r\nudp: 53\ntcp:443\n", "f");
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ((*list)->size(), 3u);
  EXPECT_TRUE((*list)->Contains(6, 443));
  EXPECT_TRUE((*list)->Contains(6, 22));
  EXPECT_TRUE((*list)->Contains(17, 53));
  EXPECT_FALSE((*list)->Contains(17, 443));
  EXPECT_FALSE((*list)->Contains(132, 443));
}

TEST_F(PortListTest, ABadLineIsNamed) {
  for (const char* bad : {"tcp", "tcp:", "tcp:65536", "tcp:-1", "nosuch:80", "256:80", ":80",
                          "tcp:80 tcp:81", "tcp:0x50"}) {
    const auto list = PortList::Parse(std::string("tcp:1\n") + bad + "\n", "some/file");
    ASSERT_FALSE(list.ok()) << bad;
    EXPECT_THAT(std::string(list.status().message()), HasSubstr("some/file:2")) << bad;
  }
}

// It is read by the thread that writes rows and takes signals: nothing may hold that up.
TEST_F(PortListTest, WhatIsNoFileIsAnErrorAtOnce) {
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_THAT(std::string(PortList::Read(path_).status().message()), HasSubstr(path_));
  EXPECT_FALSE(PortList::Read(testing::TempDir()).ok());
  EXPECT_FALSE(PortList::Read("/dev/zero").ok());  // Without an end.
}

TEST_F(PortListTest, NoFileMeansNoList) {
  PortListFile ports("");
  ASSERT_TRUE(ports.Load().ok());
  EXPECT_EQ(ports.Current(0), nullptr);
  EXPECT_FALSE(*ports.ReloadIfChanged());
}

TEST_F(PortListTest, TheLastGoodListStays) {
  Write("tcp:80\n");
  PortListFile ports(path_);
  ASSERT_TRUE(ports.Load().ok());
  EXPECT_FALSE(*ports.ReloadIfChanged());
  Write("tcp:80\ntcp:81\n");
  EXPECT_TRUE(*ports.ReloadIfChanged());
  EXPECT_TRUE(ports.Current(0)->Contains(6, 81));
  Write("rubbish\n");
  EXPECT_FALSE(ports.ReloadIfChanged().ok());
  EXPECT_TRUE(ports.Current(0)->Contains(6, 81));
  EXPECT_FALSE(*ports.ReloadIfChanged());  // Said once.
  std::filesystem::remove(path_);
  EXPECT_FALSE(ports.ReloadIfChanged().ok());
  EXPECT_FALSE(*ports.ReloadIfChanged());
  EXPECT_TRUE(ports.Current(0)->Contains(6, 81));
  Write("tcp:82\n");
  EXPECT_TRUE(*ports.ReloadIfChanged());
  EXPECT_FALSE(ports.Current(0)->Contains(6, 81));
  EXPECT_TRUE(ports.Current(0)->Contains(6, 82));
}

// Under the address and thread sanitizers: the list in use is never freed.
TEST_F(PortListTest, ReplacedWhileInUse) {
  Write("tcp:80\n");
  PortListFile ports(path_);
  ASSERT_TRUE(ports.Load().ok());
  std::atomic<bool> done{false};
  std::atomic<uint64_t> listed{0};
  const auto work = [&](size_t index) {
    while (!done.load()) {
      const PortList* list = ports.Current(index);
      for (int i = 0; i < 100; ++i) listed += list->Contains(6, 80);
    }
  };
  std::thread first(work, 0);
  std::thread last(work, kWorkersMax - 1);
  // As long as it takes the threads to meet.
  for (int i = 0; i < 300 || listed.load() < 10'000; ++i) EXPECT_TRUE(ports.Load().ok());
  done.store(true);
  first.join();
  last.join();
}

}  // namespace
}  // namespace ctacct
