#include "engine/rows/network.h"

#include <string>

#include "gtest/gtest.h"

namespace ctacct {
namespace {

std::string Canonical(const std::string& text) {
  const absl::StatusOr<Network> network = ParseNetwork(text);
  return network.ok() ? NetworkText(*network) : std::string(network.status().message());
}

TEST(NetworkTest, HasOneText) {
  EXPECT_EQ(Canonical("10.32.5.2"), "10.32.5.2/32");
  EXPECT_EQ(Canonical("10.32.0.0/11"), "10.32.0.0/11");
  EXPECT_EQ(Canonical("0.0.0.0/0"), "0.0.0.0/0");
  EXPECT_EQ(Canonical("2001:DB8:0:0:0::1"), "2001:db8::1/128");
  EXPECT_EQ(Canonical("2001:db8:5::/48"), "2001:db8:5::/48");
  EXPECT_EQ(Canonical("::/0"), "::/0");
}

TEST(NetworkTest, RefusesWhatIsNotANetwork) {
  const std::string none = "not a network";
  for (const char* text : {"", "/8", "10.0.0", "10.0.0.0/8/8", "10.0.0.256", "fd00:::1", "alice",
                           " 10.0.0.1", "10.0.0.1 ", "fd00::1%eth0"}) {
    EXPECT_EQ(Canonical(text).substr(0, none.size()), none) << text;
  }
  EXPECT_EQ(Canonical(std::string("10.0.0.1\0", 9)), none);
  EXPECT_EQ(Canonical(std::string(1000, '1')), none);
  for (const char* text : {"10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "fd00::/129",
                           "fd00::/0x8", "fd00::/0000"}) {
    EXPECT_EQ(Canonical(text), "not a network: impossible length of the prefix") << text;
  }
  for (const char* text : {"10.0.0.1/31", "10.0.0.1/24", "fd00::1/64", "::1/0"}) {
    EXPECT_EQ(Canonical(text), "not a network: it has bits below its prefix") << text;
  }
}

TEST(NetworkTest, ContainsItsAddresses) {
  const Network network = *ParseNetwork("10.32.4.0/23");
  EXPECT_TRUE(network.Contains(AddressFamily::kIpv4, {10, 32, 4, 0}));
  EXPECT_TRUE(network.Contains(AddressFamily::kIpv4, {10, 32, 5, 255}));
  EXPECT_FALSE(network.Contains(AddressFamily::kIpv4, {10, 32, 6, 0}));
  EXPECT_FALSE(network.Contains(AddressFamily::kIpv6, {10, 32, 4, 0}));
  EXPECT_TRUE(ParseNetwork("::/0")->Contains(AddressFamily::kIpv6, {0x20, 1}));
}

TEST(NetworkTest, OuterComesBeforeInner) {
  EXPECT_LT(*ParseNetwork("10.0.0.0/8"), *ParseNetwork("10.0.0.0/24"));
  EXPECT_LT(*ParseNetwork("10.0.0.0/24"), *ParseNetwork("10.0.0.1"));
  EXPECT_LT(*ParseNetwork("255.0.0.0/8"), *ParseNetwork("::/0"));
}

}  // namespace
}  // namespace ctacct
