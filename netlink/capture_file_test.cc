#include "netlink/capture_file.h"

#include <stdlib.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;

class CaptureFileTest : public testing::Test {
 protected:
  void SetUp() override { path_ = testing::TempDir() + "/capture.pcap"; }
  void TearDown() override { std::filesystem::remove(path_); }

  static void Write(CaptureWriter& writer, const std::string& bytes, int64_t time_ns) {
    writer.Write(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), time_ns);
  }
  static std::string Text(const CapturedDatagram& datagram) {
    return std::string(reinterpret_cast<const char*>(datagram.data), datagram.bytes);
  }
  void WriteThree() {
    const auto writer = CaptureWriter::Create(path_);
    ASSERT_TRUE(writer.ok()) << writer.status();
    Write(**writer, "first", 1'600'000'000'123'456'789);
    Write(**writer, std::string(32768, 'x'), 1'600'000'000'999'999'999);
    Write(**writer, "", 1'600'000'001'000'000'000);
    ASSERT_TRUE((*writer)->Flush().ok());
  }

  std::string path_;
};

TEST_F(CaptureFileTest, ReadsWhatWasWrittenToTheNanosecond) {
  ASSERT_NO_FATAL_FAILURE(WriteThree());
  const auto reader = CaptureReader::Open(path_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  CapturedDatagram datagram;
  ASSERT_TRUE(*(*reader)->Next(&datagram));
  EXPECT_EQ(Text(datagram), "first");
  EXPECT_EQ(datagram.time_ns, 1'600'000'000'123'456'789);
  ASSERT_TRUE(*(*reader)->Next(&datagram));
  EXPECT_EQ(datagram.bytes, 32768u);
  EXPECT_EQ(datagram.time_ns, 1'600'000'000'999'999'999);
  ASSERT_TRUE(*(*reader)->Next(&datagram));
  EXPECT_EQ(datagram.bytes, 0u);
  EXPECT_FALSE(*(*reader)->Next(&datagram));
}

TEST_F(CaptureFileTest, HasTheHeaderOfAnNlmonCapture) {
  ASSERT_NO_FATAL_FAILURE(WriteThree());
  std::ifstream file(path_, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  EXPECT_EQ(bytes.substr(20, 4), std::string("\xfd\0\0\0", 4));  // Link type 253.
  EXPECT_EQ(bytes.substr(40, 16), std::string("\0\x04\x03\x38\0\0\0\0\0\0\0\0\0\0\0\x0c", 16));
  // It holds addresses of users.
  EXPECT_EQ(std::filesystem::status(path_).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
}

TEST_F(CaptureFileTest, ACutOffFileIsGoodUpToTheCut) {
  ASSERT_NO_FATAL_FAILURE(WriteThree());
  std::filesystem::resize_file(path_, 24 + 16 + 16 + 5 + 16 + 1000);
  const auto reader = CaptureReader::Open(path_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  CapturedDatagram datagram;
  ASSERT_TRUE(*(*reader)->Next(&datagram));
  const auto second = (*reader)->Next(&datagram);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(path_));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("after packet 1"));
}

TEST_F(CaptureFileTest, OtherNetlinkFamiliesArePassedOver) {
  ASSERT_NO_FATAL_FAILURE(WriteThree());
  {
    std::fstream file(path_, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(24 + 16 + 15);
    file.put('\0');  // NETLINK_ROUTE.
  }
  const auto reader = CaptureReader::Open(path_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  CapturedDatagram datagram;
  ASSERT_TRUE(*(*reader)->Next(&datagram));
  EXPECT_EQ(datagram.bytes, 32768u);
}

// pcapng has 64-bit times, in a unit that the file chooses.
TEST_F(CaptureFileTest, ATimeThatCannotBeIsAnError) {
  const uint32_t seconds_high[] = {0, 2, 0x7fffffff, 0xffffffff};
  for (const uint32_t high : seconds_high) {
    std::string file;
    for (const uint32_t word : {0x0a0d0d0au, 28u, 0x1a2b3c4du, 1u,          0xffffffffu,
                                0xffffffffu, 28u,  // Section.
                                1u,          32u, 253u,        0u,          0x00010009u,
                                0u,          0u,  32u,  // Interface; its times are in seconds.
                                6u,          48u, 0u,          high,        1'600'000'000u,
                                16u,         16u,  // A packet.
                                0x38030400u, 0u,  0u,          0x0c000000u, 48u}) {
      for (int shift = 0; shift < 32; shift += 8) file += static_cast<char>(word >> shift);
    }
    std::ofstream(path_, std::ios::binary) << file;
    const auto reader = CaptureReader::Open(path_);
    ASSERT_TRUE(reader.ok()) << reader.status();
    CapturedDatagram datagram;
    const auto more = (*reader)->Next(&datagram);
    if (high == 0) {
      ASSERT_TRUE(more.ok()) << more.status();
      EXPECT_TRUE(*more);
      EXPECT_EQ(datagram.time_ns, 1'600'000'000'000'000'000);
      continue;
    }
    ASSERT_FALSE(more.ok()) << high << ": " << datagram.time_ns;
    EXPECT_THAT(std::string(more.status().message()), HasSubstr("impossible time"));
  }
}

TEST_F(CaptureFileTest, ACaptureOfSomethingElseIsAnError) {
  ASSERT_NO_FATAL_FAILURE(WriteThree());
  {
    std::fstream file(path_, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(20);
    file.put('\x01');  // Ethernet.
  }
  EXPECT_THAT(std::string(CaptureReader::Open(path_).status().message()), HasSubstr("link type 1"));
}

TEST_F(CaptureFileTest, AFullDiskIsAnError) {
  const auto writer = CaptureWriter::Create("/dev/full");
  ASSERT_TRUE(writer.ok()) << writer.status();
  Write(**writer, "first", 1);
  EXPECT_THAT(std::string((*writer)->Flush().message()), HasSubstr("No space left on device"));
}

// Without waiting for Flush, which comes when the engine ends.
TEST_F(CaptureFileTest, AFullDiskShowsAsSoonAsTheBufferIsFull) {
  const auto writer = CaptureWriter::Create("/dev/full");
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (int i = 0; i < 100; ++i) Write(**writer, std::string(1000, 'x'), i);
  EXPECT_THAT(std::string((*writer)->status().message()), HasSubstr("No space left on device"));
  EXPECT_THAT(std::string((*writer)->Flush().message()), HasSubstr("No space left on device"));
}

TEST_F(CaptureFileTest, WrongFilesAreNamed) {
  EXPECT_THAT(std::string(CaptureReader::Open("/nowhere/x.pcap").status().message()),
              HasSubstr("/nowhere/x.pcap"));
  EXPECT_FALSE(CaptureWriter::Create("/nowhere/x.pcap").ok());
  std::ofstream(path_) << "no capture at all, but long enough to have a header";
  EXPECT_THAT(std::string(CaptureReader::Open(path_).status().message()), HasSubstr(path_));
}

}  // namespace
}  // namespace ctacct
