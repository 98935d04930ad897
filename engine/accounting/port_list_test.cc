#include "engine/accounting/port_list.h"

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;

TEST(PortListTest, Parses) {
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

TEST(PortListTest, TheChecksumIsOfThePortsNotOfTheText) {
  const auto checksum = [](const std::string& text) {
    return PortList::Parse(text, "f").value()->checksum();
  };
  EXPECT_EQ(checksum("tcp:443\nudp:53\n"), checksum("# two\n17:53\n tcp: 443\ntcp:443"));
  EXPECT_NE(checksum("tcp:443\nudp:53\n"), checksum("tcp:443\nudp:54\n"));
  EXPECT_NE(checksum("tcp:443\n"), checksum("udp:443\n"));
  EXPECT_NE(checksum(""), 0u);  // A list without ports is not the same as no list.
}

TEST(PortListTest, ABadLineIsNamed) {
  for (const char* bad : {"tcp", "tcp:", "tcp:65536", "tcp:-1", "nosuch:80", "256:80", ":80",
                          "tcp:80 tcp:81", "tcp:0x50"}) {
    const auto list = PortList::Parse(std::string("tcp:1\n") + bad + "\n", "some/file");
    ASSERT_FALSE(list.ok()) << bad;
    EXPECT_THAT(std::string(list.status().message()), HasSubstr("some/file:2")) << bad;
  }
}

TEST(CurrentPortListTest, AReaderKeepsItsListUntilItAsksAgain) {
  CurrentPortList current;
  CurrentPortList::Reader reader(current);
  EXPECT_EQ(reader.Get(), nullptr);
  current.Replace(PortList::Parse("tcp:80\n", "f").value());
  const PortList* const first = reader.Get();
  ASSERT_NE(first, nullptr);
  current.Replace(PortList::Parse("tcp:81\n", "f").value());
  EXPECT_TRUE(first->Contains(6, 80));
  EXPECT_TRUE(reader.Get()->Contains(6, 81));
  EXPECT_EQ(reader.Get(), current.Get().get());
}

// Under the address and thread sanitizers: the list in use is never freed.
TEST(CurrentPortListTest, ReplacedWhileInUse) {
  CurrentPortList current;
  current.Replace(PortList::Parse("tcp:80\n", "f").value());
  std::atomic<bool> done{false};
  std::atomic<uint64_t> listed{0};
  const auto work = [&] {
    CurrentPortList::Reader reader(current);
    while (!done.load()) {
      const PortList* list = reader.Get();
      for (int i = 0; i < 100; ++i) listed += list->Contains(6, 80);
    }
  };
  std::thread first(work);
  std::thread second(work);
  // As long as it takes the threads to meet.
  for (int i = 0; i < 300 || listed.load() < 10'000; ++i) {
    current.Replace(PortList::Parse("tcp:80\n", "f").value());
  }
  done.store(true);
  first.join();
  second.join();
}

}  // namespace
}  // namespace ctacct
