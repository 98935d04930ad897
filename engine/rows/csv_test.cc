#include "engine/rows/csv.h"

#include <string>

#include "absl/status/status.h"
#include "engine/rows/bounds.h"
#include "engine/rows/protocol_names.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kExample[] =
    "1600000005000000000,tcp,10.32.251.0,10.32.250.0,443,16,13,3220,1884,1,65021,3";

TrafficRow ExampleRow() {
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
  row.open_connections = 3;
  return row;
}

std::string Line(const TrafficRow& row, bool track_open) {
  std::string line;
  AppendCsvLine(row, track_open, &line);
  return line;
}

TEST(CsvTest, WritesTheDocumentedExample) {
  EXPECT_EQ(Line(ExampleRow(), true), std::string(kExample) + "\n");
  EXPECT_EQ(Line(ExampleRow(), false),
            "1600000005000000000,tcp,10.32.251.0,10.32.250.0,443,16,13,3220,1884,1,65021\n");
}

TEST(CsvTest, ParsesWhatItWrites) {
  TrafficRow row;
  bool has_open = false;
  ASSERT_TRUE(ParseCsvLine(kExample, &row, &has_open).ok());
  EXPECT_TRUE(has_open);
  EXPECT_EQ(row, ExampleRow());

  TrafficRow without = ExampleRow();
  without.open_connections = 0;
  std::string line = Line(without, false);
  line.pop_back();
  ASSERT_TRUE(ParseCsvLine(line, &row, &has_open).ok());
  EXPECT_FALSE(has_open);
  EXPECT_EQ(row, without);
}

TEST(CsvTest, ExtremesFit) {
  TrafficRow row;
  row.time_ns = kTimeEndNs - 1;
  row.family = AddressFamily::kIpv6;
  row.protocol = 58;
  row.port = kPortNotListed;
  row.src.fill(0xff);
  row.dst = {0x20, 0x01, 0x0d, 0xb8};
  row.packets_src = row.packets_dst = row.bytes_src = row.bytes_dst = row.connection_time_ms =
      kSumMax;
  row.connection_count = row.open_connections = kCountMax;
  std::string line = Line(row, true);
  EXPECT_THAT(line, HasSubstr(",ipv6-icmp,"));
  EXPECT_THAT(line, HasSubstr(",2001:db8::,-1,"));
  EXPECT_LT(line.size(), 267u);
  line.pop_back();
  TrafficRow parsed;
  bool has_open;
  ASSERT_TRUE(ParseCsvLine(line, &parsed, &has_open).ok());
  EXPECT_EQ(parsed, row);
}

struct BadLine {
  const char* line;
  const char* column;
};

TEST(CsvTest, NamesTheBadColumnAndNotItsContents) {
  const BadLine bad[] = {
      {"x,tcp,1.2.3.4,5.6.7.8,1,1,1,1,1,1,1", "column 1 (time)"},
      {"-1,tcp,1.2.3.4,5.6.7.8,1,1,1,1,1,1,1", "column 1 (time)"},
      {"99999999999999999999,tcp,1.2.3.4,5.6.7.8,1,1,1,1,1,1,1", "column 1 (time)"},
      {"1,tpc,1.2.3.4,5.6.7.8,1,1,1,1,1,1,1", "column 2 (proto)"},
      {"1,256,1.2.3.4,5.6.7.8,1,1,1,1,1,1,1", "column 2 (proto)"},
      {"1,06,1.2.3.4,5.6.7.8,1,1,1,1,1,1,1", "column 2 (proto)"},
      {"1,,1.2.3.4,5.6.7.8,1,1,1,1,1,1,1", "column 2 (proto)"},
      {"1,tcp,1.2.3,5.6.7.8,1,1,1,1,1,1,1", "column 3 (src)"},
      {"1,tcp,1.2.3.4.5,5.6.7.8,1,1,1,1,1,1,1", "column 3 (src)"},
      {"1,tcp,1.2.3.4 ,5.6.7.8,1,1,1,1,1,1,1", "column 3 (src)"},
      {"1,tcp,1.2.3.4,'; DROP TABLE vpn_traffic; --,1,1,1,1,1,1,1", "column 4 (dst)"},
      {"1,tcp,1.2.3.4,::1,1,1,1,1,1,1,1", "column 4 (dst)"},
      {"1,tcp,1.2.3.4,5.6.7.8,-2,1,1,1,1,1,1", "column 5 (port)"},
      {"1,tcp,1.2.3.4,5.6.7.8,65536,1,1,1,1,1,1", "column 5 (port)"},
      {"1,tcp,1.2.3.4,5.6.7.8,1,-1,1,1,1,1,1", "column 6 (packets_src)"},
      {"1,tcp,1.2.3.4,5.6.7.8,1,1,+1,1,1,1,1", "column 7 (packets_dst)"},
      {"1,tcp,1.2.3.4,5.6.7.8,1,1,1, 1,1,1,1", "column 8 (bytes_src)"},
      {"1,tcp,1.2.3.4,5.6.7.8,1,1,1,1,1e3,1,1", "column 9 (bytes_dst)"},
      {"1,tcp,1.2.3.4,5.6.7.8,1,1,1,1,1,,1", "column 10 (connection_count)"},
      {"1,tcp,1.2.3.4,5.6.7.8,1,1,1,1,1,1,18446744073709551616", "column 11 (connection_time)"},
      {"1,tcp,1.2.3.4,5.6.7.8,1,1,1,1,1,1,1,1\r", "column 12 (open_connections)"},
      {"1,tcp,1.2.3.4,5.6.7.8,1,1,1,1,1,1", "10 columns"},
      {"1,tcp,1.2.3.4,5.6.7.8,1,1,1,1,1,1,1,1,1", "13 columns"},
      {"", "1 columns"},
      {",,,,,,,,,,", "column 1 (time)"},
  };
  for (const BadLine& each : bad) {
    TrafficRow row;
    bool has_open;
    const absl::Status status = ParseCsvLine(each.line, &row, &has_open);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << each.line;
    EXPECT_THAT(std::string(status.message()), HasSubstr(each.column)) << each.line;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("1.2.3"))) << each.line;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("DROP"))) << each.line;
  }
}

TEST(CsvTest, EveryColumnHasItsBounds) {
  struct Bound {
    const char* within;
    const char* beyond;
    const char* why;
  };
  const Bound bounds[] = {
      {"0,6,1.2.3.4,5.6.7.8,1,1,1,1,1,1,1,1", "-1,6,1.2.3.4,5.6.7.8,1,1,1,1,1,1,1,1",
       "column 1 (time): before 1970 or after 2199"},
      {"7258118399999999999,6,1.2.3.4,5.6.7.8,1,1,1,1,1,1,1,1",
       "7258118400000000000,6,1.2.3.4,5.6.7.8,1,1,1,1,1,1,1,1",
       "column 1 (time): before 1970 or after 2199"},
      {"1,255,1.2.3.4,5.6.7.8,1,1,1,1,1,1,1,1", "1,256,1.2.3.4,5.6.7.8,1,1,1,1,1,1,1,1",
       "column 2 (proto)"},
      {"1,6,1.2.3.4,5.6.7.8,-1,1,1,1,1,1,1,1", "1,6,1.2.3.4,5.6.7.8,-2,1,1,1,1,1,1,1",
       "column 5 (port)"},
      {"1,6,1.2.3.4,5.6.7.8,65535,1,1,1,1,1,1,1", "1,6,1.2.3.4,5.6.7.8,65536,1,1,1,1,1,1,1",
       "column 5 (port)"},
      {"1,6,1.2.3.4,5.6.7.8,1,9007199254740992,1,1,1,1,1,1",
       "1,6,1.2.3.4,5.6.7.8,1,9007199254740993,1,1,1,1,1,1",
       "column 6 (packets_src): more than 9007199254740992"},
      {"1,6,1.2.3.4,5.6.7.8,1,1,9007199254740992,1,1,1,1,1",
       "1,6,1.2.3.4,5.6.7.8,1,1,9007199254740993,1,1,1,1,1",
       "column 7 (packets_dst): more than 9007199254740992"},
      {"1,6,1.2.3.4,5.6.7.8,1,1,1,9007199254740992,1,1,1,1",
       "1,6,1.2.3.4,5.6.7.8,1,1,1,9007199254740993,1,1,1,1",
       "column 8 (bytes_src): more than 9007199254740992"},
      {"1,6,1.2.3.4,5.6.7.8,1,1,1,1,9007199254740992,1,1,1",
       "1,6,1.2.3.4,5.6.7.8,1,1,1,1,9007199254740993,1,1,1",
       "column 9 (bytes_dst): more than 9007199254740992"},
      {"1,6,1.2.3.4,5.6.7.8,1,1,1,1,1,2147483647,1,1",
       "1,6,1.2.3.4,5.6.7.8,1,1,1,1,1,2147483648,1,1",
       "column 10 (connection_count): more than 2147483647"},
      {"1,6,1.2.3.4,5.6.7.8,1,1,1,1,1,1,9007199254740992,1",
       "1,6,1.2.3.4,5.6.7.8,1,1,1,1,1,1,9007199254740993,1",
       "column 11 (connection_time): more than 9007199254740992"},
      {"1,6,1.2.3.4,5.6.7.8,1,1,1,1,1,1,1,2147483647",
       "1,6,1.2.3.4,5.6.7.8,1,1,1,1,1,1,1,2147483648",
       "column 12 (open_connections): more than 2147483647"},
  };
  for (const Bound& bound : bounds) {
    TrafficRow row;
    bool has_open;
    EXPECT_TRUE(ParseCsvLine(bound.within, &row, &has_open).ok()) << bound.within;
    const absl::Status status = ParseCsvLine(bound.beyond, &row, &has_open);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << bound.beyond;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bound.why)) << bound.beyond;
  }
}

TEST(CsvTest, HostileLinesAreRejected) {
  TrafficRow row;
  bool has_open;
  EXPECT_FALSE(ParseCsvLine(std::string(1 << 20, ','), &row, &has_open).ok());
  EXPECT_FALSE(ParseCsvLine(std::string(1 << 20, '1'), &row, &has_open).ok());
  std::string nul = kExample;
  nul.insert(nul.find(",10.32.250.0") + 12, 1, '\0');
  EXPECT_FALSE(ParseCsvLine(nul, &row, &has_open).ok());
}

TEST(ProtocolNamesTest, NamesAreAsDocumented) {
  const std::pair<int, const char*> named[] = {
      {1, "icmp"},       {2, "igmp"},  {6, "tcp"},    {17, "udp"},   {33, "dccp"},    {47, "gre"},
      {58, "ipv6-icmp"}, {94, "ipip"}, {115, "l2tp"}, {132, "sctp"}, {136, "udplite"}};
  for (const auto& [number, name] : named) {
    EXPECT_EQ(ProtocolName(static_cast<uint8_t>(number)), name);
    EXPECT_EQ(ParseProtocol(name), number);
  }
  EXPECT_EQ(ProtocolName(4), "4");
  EXPECT_EQ(ProtocolName(255), "255");
}

TEST(ProtocolNamesTest, EveryNumberIsParsedBack) {
  for (int number = 0; number < 256; ++number) {
    EXPECT_EQ(ParseProtocol(ProtocolName(static_cast<uint8_t>(number))), number);
    EXPECT_EQ(ParseProtocol(std::to_string(number)), number);
  }
  for (const char* const bad : {"", "TCP", "tcp ", "-1", "256", "006", "+6", "0x6", "6 "}) {
    EXPECT_FALSE(ParseProtocol(bad).has_value()) << bad;
  }
}

}  // namespace
}  // namespace ctacct
