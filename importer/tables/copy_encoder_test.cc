#include "importer/tables/copy_encoder.h"

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

TrafficRow MakeRow() {
  TrafficRow row;
  row.time_ns = 946'684'800'000'000'000 + 2'000'000'000;  // 2000-01-01 00:00:02 UTC.
  row.protocol = 6;
  row.port = -1;
  row.src = {10, 32, 251, 0};
  row.dst = {10, 32, 250, 7};
  row.packets_src = 1;
  row.bytes_src = 2;
  row.packets_dst = 3;
  row.bytes_dst = 0x0001020304050607;
  row.connection_time_ms = 5;
  row.connection_count = 6;
  row.open_connections = 7;
  row.flow_count = 9;
  row.unanswered_count = 8;
  return row;
}

std::string Int8(uint64_t value) {
  std::string text("\0\0\0\x08", 4);
  for (int shift = 56; shift >= 0; shift -= 8) text.push_back(static_cast<char>(value >> shift));
  return text;
}

TEST(CopyEncoderTest, HeaderAndTrailerAreTheProtocols) {
  std::string bytes;
  CopyEncoder::AppendHeader(&bytes);
  EXPECT_EQ(bytes, std::string("PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0\0", 19));
  bytes.clear();
  CopyEncoder::AppendTrailer(&bytes);
  EXPECT_EQ(bytes, "\377\377");
}

TEST(CopyEncoderTest, ARowByteForByte) {
  std::string bytes;
  CopyEncoder("gw").Append(MakeRow(), &bytes);
  const std::string expected =
      std::string("\0\x0f", 2) + Int8(2'000'000) + Int8(1) + Int8(2) + Int8(3) +
      Int8(0x0001020304050607) + Int8(5) + std::string("\0\0\0\4\0\0\0\6", 8) +
      std::string("\0\0\0\4\0\0\0\7", 8) + std::string("\0\0\0\4\0\0\0\x09", 8) +
      std::string("\0\0\0\4\0\0\0\x08", 8) + std::string("\0\0\0\4\377\377\377\377", 8) +
      std::string("\0\0\0\x08\2\x20\0\4\x0a\x20\xfb\0", 12) +
      std::string("\0\0\0\x08\2\x20\0\4\x0a\x20\xfa\7", 12) + std::string("\0\0\0\3tcp", 7) +
      std::string("\0\0\0\2gw", 6);
  EXPECT_EQ(bytes, expected);
}

TEST(CopyEncoderTest, Ipv6IsAnInetOfFamilyThree) {
  TrafficRow row = MakeRow();
  row.family = AddressFamily::kIpv6;
  row.src = {0x20, 0x01, 0x0d, 0xb8};
  std::string bytes;
  CopyEncoder("").Append(row, &bytes);
  EXPECT_THAT(bytes, ::testing::HasSubstr(
                         std::string("\0\0\0\x14\3\x80\0\x10\x20\x01\x0d\xb8\0\0\0\0", 16)));
}

TEST(CopyEncoderTest, TheLargestRowStaysWithinItsBound) {
  TrafficRow row = MakeRow();
  row.family = AddressFamily::kIpv6;
  row.protocol = 58;
  std::string bytes;
  CopyEncoder("").Append(row, &bytes);
  EXPECT_LE(bytes.size(), kCopyRowBytesMax);
}

}  // namespace
}  // namespace ctacct
