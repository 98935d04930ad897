#include "netlink/ip_text.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "netlink/ipv4_text.h"
#include "netlink/networks.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;

TEST(IpTextTest, Ipv6NetworksAndMasks) {
  const auto network = ParseIpv6Cidr("2001:db8:8001::1/33");
  ASSERT_TRUE(network.has_value());
  EXPECT_EQ(network->network, *ParseIpv6Address("2001:db8:8000::"));
  EXPECT_TRUE(network->Contains(*ParseIpv6Address("2001:db8:ffff::9")));
  EXPECT_FALSE(network->Contains(*ParseIpv6Address("2001:db8:7fff::9")));
  EXPECT_EQ(*ParseIpv6Cidr("::/0"), Ipv6Cidr{});
  EXPECT_EQ(ParseIpv6Cidr("fd00::1")->mask, kIpv6MaskAll);
  EXPECT_EQ(ParseIpv6Mask("/128"), kIpv6MaskAll);
  EXPECT_EQ(ParseIpv6Mask("/64"), ParseIpv6Address("ffff:ffff:ffff:ffff::"));
  EXPECT_EQ(ParseIpv6Mask("/0"), Ipv6Address());
  EXPECT_EQ(ParseIpv6Mask("/61"), ParseIpv6Address("ffff:ffff:ffff:fff8::"));
  EXPECT_EQ(ParseIpv6Mask("ffff:0:ffff::"), ParseIpv6Address("ffff:0:ffff::"));
  for (const char* bad : {"fd00::/129", "fd00::/", "fd00::/-1", "fd00::/1x", "/8", "10.0.0.0/8",
                          "fd00/8", "fd00::/8/8", "fd00::g"}) {
    EXPECT_FALSE(ParseIpv6Cidr(bad).has_value()) << bad;
  }
  for (const char* bad : {"", "64", "/129", "/", "255.255.255.0", "/6.4"}) {
    EXPECT_FALSE(ParseIpv6Mask(bad).has_value()) << bad;
  }
}

// The examples of RFC 5952.
TEST(IpTextTest, AddressesAreWrittenAsRfc5952Says) {
  for (const char* text : {"2001:db8::1", "2001:db8:0:1:1:1:1:1", "2001:0:0:1::1",
                           "2001:db8::1:0:0:1", "::", "::1", "::ffff:192.0.2.1"}) {
    EXPECT_EQ(Ipv6Text(*ParseIpv6Address(text)), text);
  }
  EXPECT_EQ(Ipv6Text(*ParseIpv6Address("2001:0DB8:0:0:0:0:0:000A")), "2001:db8::a");
}

TEST(IpTextTest, AddressesAreInTheOrderOfNumbers) {
  EXPECT_LT(*ParseIpv6Address("::ff"), *ParseIpv6Address("::100"));
  EXPECT_LT(*ParseIpv6Address("1::"), *ParseIpv6Address("1::1"));
  EXPECT_LT(*ParseIpv6Address("ff::"), *ParseIpv6Address("100::"));
}

TEST(IpTextTest, ListsHaveBothFamilies) {
  const auto lists = ParseNetworkLists("10.32.0.0/11,fd00::/8,192.0.2.1,2001:db8::1");
  ASSERT_TRUE(lists.ok()) << lists.status();
  ASSERT_EQ(lists->ipv4.size(), 2u);
  ASSERT_EQ(lists->ipv6.size(), 2u);
  EXPECT_EQ(lists->ipv4[1], (Ipv4Cidr{*ParseIpv4Address("192.0.2.1"), kIpv4MaskAll}));
  EXPECT_EQ(lists->ipv6[1], (Ipv6Cidr{*ParseIpv6Address("2001:db8::1"), kIpv6MaskAll}));
  EXPECT_TRUE(ParseNetworkLists("")->ipv4.empty());
  for (const char* bad : {",", "10.0.0.0/8,", "10.0.0.0/8, fd00::/8", "10.0.0.0/33", "here"}) {
    EXPECT_FALSE(ParseNetworkLists(bad).ok()) << bad;
  }
  std::string many = "10.0.0.0/8";
  for (size_t i = 1; i < kNetworksMax; ++i) many += ",10.0.0.0/8";
  EXPECT_TRUE(ParseNetworkLists(many).ok());
  EXPECT_FALSE(ParseNetworkLists(many + ",10.0.0.0/8").ok());
}

TEST(IpTextTest, ANetworkWithHostBitsIsRefusedAndTheRightOneNamed) {
  EXPECT_THAT(std::string(ParseNetworkLists("10.33.0.1/11").status().message()),
              HasSubstr("the network is 10.32.0.0/11"));
  EXPECT_THAT(std::string(ParseNetworkLists("fd00::/8,2001:db8::1/32").status().message()),
              HasSubstr("the network is 2001:db8::/32"));
}

TEST(IpTextTest, AddressLists) {
  const auto lists = ParseAddressLists("10.32.0.1,fd00::1");
  ASSERT_TRUE(lists.ok()) << lists.status();
  EXPECT_EQ(lists->ipv4.at(0), *ParseIpv4Address("10.32.0.1"));
  EXPECT_EQ(lists->ipv6.at(0), *ParseIpv6Address("fd00::1"));
  EXPECT_FALSE(ParseAddressLists("10.32.0.0/11").ok());
  EXPECT_FALSE(ParseAddressLists("::ffff:10.32.0.1").ok());
  EXPECT_FALSE(ParseNetworkLists("::ffff:10.0.0.0/104").ok());
  EXPECT_TRUE(ParseNetworkLists("::/0").ok());
  EXPECT_TRUE(ParseAddressLists("")->ipv4.empty());
}

TEST(NetworksTest, AListThatNamesNothingAdmitsNothing) {
  const Ipv6Address address = *ParseIpv6Address("fd00::1");
  EXPECT_TRUE(CidrList<Ipv6Address>().Contains(address));
  EXPECT_TRUE(CidrList<Ipv6Address>().IsEverything());
  const CidrList<Ipv6Address> none{std::vector<Ipv6Cidr>()};
  EXPECT_FALSE(none.Contains(address));
  EXPECT_FALSE(none.IsEverything());
}

}  // namespace
}  // namespace ctacct
