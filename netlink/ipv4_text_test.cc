#include "netlink/ipv4_text.h"

#include <string>

#include "gtest/gtest.h"

namespace ctacct {
namespace {

TEST(Ipv4TextTest, Addresses) {
  EXPECT_EQ(ParseIpv4Address("10.32.250.1"), Ipv4Address::FromHostOrder(0x0a20fa01));
  for (const char* bad : {"", "10.32.250", "10.32.250.256", "10.32.250.1 ", "::1", "010.1.1.1x"}) {
    EXPECT_FALSE(ParseIpv4Address(bad).has_value()) << bad;
  }
}

TEST(Ipv4TextTest, Networks) {
  const auto cidr = ParseIpv4Cidr("10.63.1.2/11");
  ASSERT_TRUE(cidr.has_value());
  EXPECT_EQ(cidr->network, Ipv4Address::FromHostOrder(0x0a200000));
  EXPECT_TRUE(cidr->Contains(*ParseIpv4Address("10.63.255.255")));
  EXPECT_FALSE(cidr->Contains(*ParseIpv4Address("10.64.0.0")));
  EXPECT_TRUE(ParseIpv4Cidr("0.0.0.0/0")->Contains(*ParseIpv4Address("255.1.2.3")));
  EXPECT_TRUE(ParseIpv4Cidr("1.2.3.4")->Contains(*ParseIpv4Address("1.2.3.4")));
  EXPECT_FALSE(ParseIpv4Cidr("1.2.3.4")->Contains(*ParseIpv4Address("1.2.3.5")));
  for (const char* bad : {"10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/1x", "/8", "10/8",
                          "10.0.0.0/8/8", "10.0.0.0/008"}) {
    EXPECT_FALSE(ParseIpv4Cidr(bad).has_value()) << bad;
  }
}

TEST(Ipv4TextTest, Masks) {
  EXPECT_EQ(ParseIpv4Mask("255.239.255.0"), Ipv4Address::FromHostOrder(0xffefff00));
  EXPECT_EQ(ParseIpv4Mask("/24"), Ipv4Address::FromHostOrder(0xffffff00));
  EXPECT_EQ(ParseIpv4Mask("/0"), Ipv4Address::FromHostOrder(0));
  EXPECT_EQ(ParseIpv4Mask("/32"), kIpv4MaskAll);
  for (const char* bad : {"", "24", "/33", "/", "255.255.0", "/2.4"}) {
    EXPECT_FALSE(ParseIpv4Mask(bad).has_value()) << bad;
  }
}

}  // namespace
}  // namespace ctacct
