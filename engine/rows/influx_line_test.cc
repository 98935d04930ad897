#include "engine/rows/influx_line.h"

#include <limits>
#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

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
  row.flow_count = 2;
  row.unanswered_count = 1;
  return row;
}

std::string Line(const TrafficRow& row, bool track_open, const std::string& gateway) {
  EXPECT_TRUE(CheckInfluxGateway(gateway).ok()) << gateway;
  std::string line;
  InfluxLineEncoder(gateway).Append(row, track_open, &line);
  return line;
}

TEST(InfluxLineTest, ARowIsAPoint) {
  EXPECT_EQ(
      Line(ExampleRow(), true, "vpn1"),
      "traffic,dst=10.32.250.0,gateway=vpn1,port=443,proto=tcp,src=10.32.251.0 "
      "src_packets=16i,dst_packets=13i,src_bytes=3220i,dst_bytes=1884i,connection_count=1i,"
      "connection_times=65021i,open_connections=3i,flow_count=2i,unanswered_count=1i 1600000005000000000\n");
  EXPECT_EQ(Line(ExampleRow(), false, "vpn1"),
            "traffic,dst=10.32.250.0,gateway=vpn1,port=443,proto=tcp,src=10.32.251.0 "
            "src_packets=16i,dst_packets=13i,src_bytes=3220i,dst_bytes=1884i,connection_count=1i,"
            "connection_times=65021i,flow_count=2i,unanswered_count=1i 1600000005000000000\n");
}

TEST(InfluxLineTest, LinesAreAppended) {
  const InfluxLineEncoder encoder("gw");
  std::string text = "before\n";
  encoder.Append(ExampleRow(), false, &text);
  encoder.Append(ExampleRow(), false, &text);
  const std::string line = Line(ExampleRow(), false, "gw");
  EXPECT_EQ(text, "before\n" + line + line);
}

TEST(InfluxLineTest, TheGatewaysNameIsEscaped) {
  EXPECT_THAT(Line(ExampleRow(), false, "a b,c=d"), HasSubstr(",gateway=a\\ b\\,c\\=d,port="));
  EXPECT_THAT(Line(ExampleRow(), false, "  "), HasSubstr(",gateway=\\ \\ ,port="));
  // These have no meaning in a tag's value.
  EXPECT_THAT(Line(ExampleRow(), false, R"(#"x"'y'`\z)"),
              HasSubstr(R"(,gateway=#"x"'y'`\z,port=)"));
  EXPECT_THAT(Line(ExampleRow(), false, "Zürich"), HasSubstr(",gateway=Zürich,port="));
  EXPECT_THAT(Line(ExampleRow(), false, ""), StartsWith("traffic,dst=10.32.250.0,port=443,"));
}

TEST(InfluxLineTest, AmbiguousBackslashesAreRefused) {
  for (const char* const good : {"", "gw", R"(DOMAIN\gw)", R"(\gw)", R"(a\b\c)", R"(a \b)"}) {
    EXPECT_TRUE(CheckInfluxGateway(good).ok()) << good;
  }
  for (const char* const bad : {R"(\)", R"(gw\)", R"(a\\b)", R"(a\ b)", R"(a\,b)", R"(a\=b)"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(CheckInfluxGateway(bad))) << bad;
  }
}

TEST(InfluxLineTest, ExtremesFit) {
  TrafficRow row;
  row.time_ns = std::numeric_limits<int64_t>::min();
  row.family = AddressFamily::kIpv6;
  row.protocol = 58;
  row.port = std::numeric_limits<int32_t>::min();
  row.src.fill(0xff);
  row.dst.fill(0xff);
  row.packets_src = row.packets_dst = row.bytes_src = row.bytes_dst = row.connection_count =
      row.connection_time_ms = row.open_connections = row.flow_count = row.unanswered_count =
          std::numeric_limits<uint64_t>::max();
  const std::string line = Line(row, true, std::string(kGatewayBytesMax, '='));
  // As the header says of all but the name, which comes escaped.
  EXPECT_EQ(line.size(), 471 + 2 * kGatewayBytesMax);
  EXPECT_LE(line.size(), kInfluxLineBytesMax);
  EXPECT_EQ(line.back(), '\n');
}

TEST(InfluxLineTest, CountersStayWithinSignedIntegers) {
  TrafficRow row = ExampleRow();
  row.bytes_src = std::numeric_limits<int64_t>::max();
  row.bytes_dst = row.bytes_src + 1;
  row.packets_src = std::numeric_limits<uint64_t>::max();
  EXPECT_THAT(Line(row, false, "gw"), HasSubstr(" src_packets=9223372036854775807i,dst_packets=13i,"
                                                "src_bytes=9223372036854775807i,"
                                                "dst_bytes=9223372036854775807i,"));
}

TEST(InfluxLineTest, TheOtherRowIsAPointLikeOthers) {
  TrafficRow row;
  row.time_ns = 5;
  row.protocol = kOtherRowProtocol;
  row.port = kPortNotListed;
  EXPECT_THAT(Line(row, false, "gw"),
              StartsWith("traffic,dst=0.0.0.0,gateway=gw,port=-1,proto=0,src=0.0.0.0 "));
}

}  // namespace
}  // namespace ctacct
