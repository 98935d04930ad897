#include "engine/top/traffic.h"

#include <arpa/inet.h>

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;

constexpr int64_t kSecond = 1'000'000'000;

TrafficRow Row(const std::string& src, const std::string& dst, int32_t port, uint64_t bytes,
               uint8_t protocol = 6) {
  TrafficRow row;
  row.protocol = protocol;
  row.port = port;
  const bool ipv6 = src.find(':') != std::string::npos;
  row.family = ipv6 ? AddressFamily::kIpv6 : AddressFamily::kIpv4;
  EXPECT_EQ(inet_pton(ipv6 ? AF_INET6 : AF_INET, src.c_str(), row.src.data()), 1);
  EXPECT_EQ(inet_pton(ipv6 ? AF_INET6 : AF_INET, dst.c_str(), row.dst.data()), 1);
  row.bytes_src = bytes;
  row.bytes_dst = 2 * bytes;
  row.packets_src = bytes / 100;
  row.packets_dst = bytes / 50;
  row.connection_count = 2;
  row.connection_time_ms = 3'000;
  row.open_connections = 1;
  return row;
}

TopInterval Interval(const std::string& gateway, int64_t end_s, int64_t length_s,
                     std::vector<TrafficRow> rows) {
  TopInterval interval;
  interval.gateway = gateway;
  interval.end_ns = end_s * kSecond;
  interval.length_ns = length_s * kSecond;
  interval.rows = std::move(rows);
  return interval;
}

TopTable Table(const std::vector<const TopInterval*>& intervals, TopView view,
               TopSort sort = TopSort::kBytes, bool reverse = false,
               const std::string& filter = "") {
  return MakeTopTable(intervals, view, sort, reverse, *AddressFilter::Parse(filter));
}

std::vector<std::string> Names(const TopTable& table, TopView view) {
  std::vector<std::string> names;
  for (const TopEntry& entry : table.entries) {
    const TopKey& key = entry.key;
    std::string name;
    if (view == TopView::kPorts) {
      name = std::to_string(key.protocol) + "/" + std::to_string(key.port);
    } else {
      if (HasOrigin(view)) name += AddressText(key.family, key.src);
      if (view == TopView::kPairs) name += " ";
      if (HasDestination(view)) name += AddressText(key.family, key.dst);
      if (HasPort(view)) name += ":" + std::to_string(key.port);
    }
    names.push_back(name);
  }
  return names;
}

TEST(TopTrafficTest, SumsByEachView) {
  const TopInterval interval =
      Interval("gw", 15, 15,
               {Row("10.0.0.1", "10.9.0.1", 80, 300), Row("10.0.0.1", "10.9.0.1", 443, 600),
                Row("10.0.0.2", "10.9.0.1", 80, 1500, 17), Row("10.0.0.2", "10.9.0.2", 80, 150)});
  const TopTable pairs = Table({&interval}, TopView::kPairs);
  EXPECT_THAT(Names(pairs, TopView::kPairs),
              ElementsAre("10.0.0.2 10.9.0.1", "10.0.0.1 10.9.0.1", "10.0.0.2 10.9.0.2"));
  EXPECT_EQ(pairs.rows, 4u);
  const TopSums& sums = pairs.entries[1].sums;
  EXPECT_EQ(sums.bytes_src, 900u);
  EXPECT_EQ(sums.bytes_dst, 1800u);
  EXPECT_EQ(sums.packets_src, 9u);
  EXPECT_EQ(sums.packets_dst, 18u);
  EXPECT_EQ(sums.connections, 4u);
  EXPECT_EQ(sums.open, 2u);
  EXPECT_DOUBLE_EQ(sums.MeanSeconds(), 1.5);
  EXPECT_DOUBLE_EQ(sums.bits_src_rate, 480);
  EXPECT_DOUBLE_EQ(sums.bits_dst_rate, 960);
  EXPECT_DOUBLE_EQ(sums.packets_src_rate, 0.6);
  EXPECT_DOUBLE_EQ(sums.packets_dst_rate, 1.2);
  EXPECT_DOUBLE_EQ(sums.connections_rate, 4.0 / 15);
  EXPECT_EQ(pairs.total.bytes_src, 2550u);
  EXPECT_EQ(pairs.total.connections, 8u);

  EXPECT_THAT(Names(Table({&interval}, TopView::kOrigins), TopView::kOrigins),
              ElementsAre("10.0.0.2", "10.0.0.1"));
  EXPECT_THAT(Names(Table({&interval}, TopView::kDestinations), TopView::kDestinations),
              ElementsAre("10.9.0.1", "10.9.0.2"));
  EXPECT_EQ(
      Names(Table({&interval}, TopView::kServices), TopView::kServices),
      (std::vector<std::string>{"10.9.0.1:80", "10.9.0.1:443", "10.9.0.1:80", "10.9.0.2:80"}));
  EXPECT_THAT(Names(Table({&interval}, TopView::kPorts), TopView::kPorts),
              ElementsAre("17/80", "6/443", "6/80"));
}

TEST(TopTrafficTest, SortsByEachFigure) {
  TrafficRow most_packets = Row("10.0.0.1", "10.9.0.1", 80, 100);
  most_packets.packets_dst = 1'000;
  TrafficRow most_connections = Row("10.0.0.2", "10.9.0.1", 80, 200);
  most_connections.connection_count = 100;
  TrafficRow longest = Row("10.0.0.3", "10.9.0.1", 80, 300);
  longest.connection_time_ms = 1'000'000;
  TrafficRow most_open = Row("10.0.0.4", "10.9.0.1", 80, 400);
  most_open.open_connections = 50;
  const TopInterval interval =
      Interval("gw", 15, 15, {most_packets, most_connections, longest, most_open});
  const auto first = [&interval](TopSort sort, bool reverse = false) {
    return Names(Table({&interval}, TopView::kOrigins, sort, reverse), TopView::kOrigins)[0];
  };
  EXPECT_EQ(first(TopSort::kBytes), "10.0.0.4");
  EXPECT_EQ(first(TopSort::kBytes, true), "10.0.0.1");
  EXPECT_EQ(first(TopSort::kPackets), "10.0.0.1");
  EXPECT_EQ(first(TopSort::kConnections), "10.0.0.2");
  EXPECT_EQ(first(TopSort::kTime), "10.0.0.3");
  EXPECT_EQ(first(TopSort::kOpen), "10.0.0.4");
  EXPECT_EQ(first(TopSort::kName), "10.0.0.1");
  EXPECT_EQ(first(TopSort::kName, true), "10.0.0.4");
}

TEST(TopTrafficTest, RatesAreOverEachGatewaysOwnInterval) {
  const TopInterval fast = Interval("a", 20, 5, {Row("10.0.0.1", "10.9.0.1", 80, 500)});
  const TopInterval slow = Interval("b", 20, 20, {Row("10.0.0.1", "10.9.0.1", 80, 500)});
  const TopTable table = Table({&fast, &slow}, TopView::kPairs);
  ASSERT_EQ(table.entries.size(), 1u);
  EXPECT_EQ(table.entries[0].sums.bytes_src, 1000u);
  EXPECT_DOUBLE_EQ(table.entries[0].sums.bits_src_rate, 8.0 * 500 / 5 + 8.0 * 500 / 20);
  EXPECT_DOUBLE_EQ(table.total.bits_src_rate, table.entries[0].sums.bits_src_rate);
}

TEST(TopTrafficTest, RatesAreOverWhatWasCovered) {
  TopInterval interval = Interval("a", 15, 15, {Row("10.0.0.1", "10.9.0.1", 80, 500)});
  interval.covered_ns = 5'000'000'000;
  EXPECT_DOUBLE_EQ(Table({&interval}, TopView::kPairs).total.bits_src_rate, 8.0 * 500 / 5);
  // Unknown, as of CSV files.
  interval.covered_ns = 0;
  EXPECT_DOUBLE_EQ(Table({&interval}, TopView::kPairs).total.bits_src_rate, 8.0 * 500 / 15);
}

TEST(TopTrafficTest, FiltersByBeginningOrNetworkOfEitherEnd) {
  const TopInterval interval =
      Interval("gw", 15, 15,
               {Row("10.0.0.1", "10.9.0.1", 80, 1), Row("110.0.0.1", "10.64.0.1", 80, 2),
                Row("192.0.2.1", "192.0.2.2", 80, 3), Row("2001:db8::1", "2001:db8::2", 80, 4)});
  const auto rows = [&interval](const std::string& filter) {
    return Table({&interval}, TopView::kPorts, TopSort::kBytes, false, filter).rows;
  };
  EXPECT_EQ(rows(""), 4u);
  EXPECT_EQ(rows("10."), 2u);
  EXPECT_EQ(rows("10.64"), 1u);
  EXPECT_EQ(rows("10.0.0.0/10"), 1u);
  EXPECT_EQ(rows("0.0.0.0/0"), 3u);
  EXPECT_EQ(rows("2001:db8:"), 1u);
  EXPECT_EQ(rows("2001:db8::/32"), 1u);
  EXPECT_EQ(rows("2001:db9::/32"), 0u);
  EXPECT_EQ(rows("::/0"), 1u);
  for (const char* bad : {"example", "10.0.0.0/33", "/8", "10/8/", "10.0.0.1; "}) {
    EXPECT_FALSE(AddressFilter::Parse(bad).ok()) << bad;
  }
}

TEST(TopTrafficTest, TheRowOfTheRestIsApart) {
  TrafficRow other = Row("0.0.0.0", "0.0.0.0", kPortNotListed, 100, kOtherRowProtocol);
  const TopInterval interval = Interval(
      "gw", 15, 15, {other, Row("0.0.0.0", "0.0.0.0", 80, 50), Row("10.0.0.1", "0.0.0.0", -1, 10)});
  for (const TopView view :
       {TopView::kPairs, TopView::kOrigins, TopView::kPorts, TopView::kServices}) {
    const TopTable table = Table({&interval}, view);
    EXPECT_EQ(table.entries.size(), 3u);
    EXPECT_TRUE(IsOtherEntry(view, table.entries[0].key));
    EXPECT_FALSE(IsOtherEntry(view, table.entries[1].key));
    EXPECT_FALSE(IsOtherEntry(view, table.entries[2].key));
  }
}

// What was folded of an origin is added to its other rows, and shown apart of its destinations.
TEST(TopTrafficTest, WhatWasFoldedIsItsOrigins) {
  TrafficRow folded = Row("10.0.0.1", "0.0.0.0", kPortNotListed, 100, kOtherRowProtocol);
  folded.flow_count = folded.unanswered_count = 7;
  TrafficRow own = Row("10.0.0.1", "10.0.0.2", 80, 50);
  own.flow_count = 2;
  own.unanswered_count = 1;
  const TopInterval interval = Interval("gw", 15, 15, {folded, own});
  const TopTable origins = Table({&interval}, TopView::kOrigins);
  ASSERT_EQ(origins.entries.size(), 1u);
  EXPECT_EQ(origins.entries[0].sums.flows, 9u);
  EXPECT_EQ(origins.entries[0].sums.unanswered, 8u);
  const TopTable pairs = Table({&interval}, TopView::kPairs);
  ASSERT_EQ(pairs.entries.size(), 2u);
  const TopKey& key = pairs.entries[0].key;
  EXPECT_EQ(OriginName(TopView::kPairs, key, pairs.masks), "10.0.0.1");
  EXPECT_EQ(DestinationName(TopView::kPairs, key, pairs.masks), "(other)");
}

TEST(TopTrafficTest, NetworksHaveTheirMasks) {
  const auto name = [](const TrafficRow& row, const std::vector<const TopInterval*>& others) {
    TopInterval interval = Interval("gw", 15, 15, {row});
    interval.masks = GroupMasks();
    interval.masks->src = {255, 239, 255, 0};
    interval.masks->dst = {255, 255, 255, 0};
    interval.masks->src6 = {255, 255, 255, 255, 255, 255, 255, 255};
    std::vector<const TopInterval*> all = {&interval};
    all.insert(all.end(), others.begin(), others.end());
    const TopTable table = Table(all, TopView::kPairs);
    const TopKey& key = table.entries[0].key;
    return OriginName(TopView::kPairs, key, table.masks) + " " +
           DestinationName(TopView::kPairs, key, table.masks);
  };
  const TrafficRow ipv4 = Row("10.32.5.0", "10.33.6.0", 80, 100);
  EXPECT_EQ(name(ipv4, {}), "10.32.5.0/255.239.255.0 10.33.6.0/24");
  TrafficRow ipv6 = ipv4;
  ipv6.family = AddressFamily::kIpv6;
  ipv6.src = {0x20, 0x01, 0x0d, 0xb8};
  ipv6.dst = {0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  EXPECT_EQ(name(ipv6, {}), "2001:db8::/64 2001:db8::1");
  EXPECT_EQ(name(Row("0.0.0.0", "0.0.0.0", -1, 1, kOtherRowProtocol), {}), "(other) (other)");
  // If another gateway has others, or CSV files do not say them, nobody knows whose an address is.
  TopInterval other = Interval("gw2", 15, 15, {});
  EXPECT_EQ(name(ipv4, {&other}), "10.32.5.0 10.33.6.0");
  other.masks = GroupMasks();
  EXPECT_EQ(name(ipv4, {&other}), "10.32.5.0 10.33.6.0");
}

TEST(TopTrafficTest, AGatewayThatFellSilentIsNotAddedUp) {
  const TopInterval now = Interval("a", 300, 15, {});
  const TopInterval same = Interval("b", 290, 10, {});
  const TopInterval before = Interval("c", 285, 15, {});
  EXPECT_THAT(PresentIntervals({&now, &same, &before}), ElementsAre(&now, &same));
  const TopInterval hour = Interval("d", 0, 3600, {});
  EXPECT_THAT(PresentIntervals({&hour, &now}), ElementsAre(&hour, &now));
  EXPECT_TRUE(PresentIntervals({}).empty());
}

TEST(TopTrafficTest, NamesOfFlags) {
  for (int i = 0; i < kTopViews; ++i) {
    const auto view = static_cast<TopView>(i);
    EXPECT_EQ(ParseTopView(TopViewName(view)), view);
  }
  for (int i = 0; i < kTopSorts; ++i) {
    const auto sort = static_cast<TopSort>(i);
    EXPECT_EQ(ParseTopSort(TopSortName(sort)), sort);
  }
  EXPECT_FALSE(ParseTopView("pair").has_value());
  EXPECT_FALSE(ParseTopSort("").has_value());
}

}  // namespace
}  // namespace ctacct
