#include "netlink/local_addresses.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>

#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "netlink/ip_text.h"
#include "netlink/ipv4_text.h"

namespace ctacct {
namespace {

Ipv4Address V4(const char* text) { return *ParseIpv4Address(text); }
Ipv6Address V6(const char* text) { return *ParseIpv6Address(text); }

TEST(LocalAddressesTest, AnAddressThatWasRemovedIsKnownForTheFlowsOfItsTime) {
  LocalAddresses local;
  EXPECT_FALSE(local.Contains(V4("192.0.2.1"), 5));
  local.Update({{V4("192.0.2.1"), V4("192.0.2.2")}, {V6("2001:db8::1")}}, 100);
  EXPECT_TRUE(local.Contains(V4("192.0.2.1"), 5));
  EXPECT_TRUE(local.Contains(V6("2001:db8::1"), 500));
  EXPECT_FALSE(local.Contains(V6("2001:db8::2"), 500));
  local.Update({{V4("192.0.2.2")}, {}}, 200);
  EXPECT_TRUE(local.Contains(V4("192.0.2.1"), 199));
  EXPECT_FALSE(local.Contains(V4("192.0.2.1"), 200));
  EXPECT_FALSE(local.Contains(V6("2001:db8::1"), 300));
  EXPECT_TRUE(local.Contains(V4("192.0.2.2"), 300));
  local.Update({{V4("192.0.2.1")}, {}}, 400);
  EXPECT_TRUE(local.Contains(V4("192.0.2.1"), 300));
}

TEST(LocalAddressesTest, WhatIsNeverForwardedIsLocal) {
  const LocalAddresses local;
  for (const char* address : {"127.0.0.1", "127.255.0.9", "224.0.0.251", "255.255.255.255"}) {
    EXPECT_TRUE(local.Contains(V4(address), 1)) << address;
  }
  for (const char* address : {"126.0.0.1", "224.0.1.1", "239.1.1.1", "10.0.0.255"}) {
    EXPECT_FALSE(local.Contains(V4(address), 1)) << address;
  }
  EXPECT_TRUE(local.Contains(V6("ff02::1:2"), 1));
  EXPECT_TRUE(local.Contains(V6("ff12::1"), 1));
  EXPECT_FALSE(local.Contains(V6("ff05::1"), 1));
  EXPECT_FALSE(local.Contains(V6("fe80::1"), 1));
}

TEST(LocalAddressesTest, FormerAddressesAreBounded) {
  LocalAddresses local;
  for (uint32_t i = 0; i < 3 * LocalAddresses::kFormerMax; ++i) {
    local.Update({{Ipv4Address::FromHostOrder(0x0a000000 + i)}, {}}, 100 + i);
  }
  EXPECT_LE(local.size(), LocalAddresses::kFormerMax + 1);
  EXPECT_FALSE(local.Contains(V4("10.0.0.0"), 1));
  EXPECT_TRUE(local.Contains(Ipv4Address::FromHostOrder(0x0a000000 + 3070), 1));
}

// As the C library lists them.
TEST(AddressSocketTest, ReadsTheAddressesOfAllInterfaces) {
  auto socket = AddressSocket::Open();
  ASSERT_TRUE(socket.ok()) << socket.status();
  const auto lists = (*socket)->Read();
  ASSERT_TRUE(lists.ok()) << lists.status();
  LocalAddresses local;
  local.Update(*lists, 1);
  ifaddrs* all = nullptr;
  ASSERT_EQ(getifaddrs(&all), 0);
  int found = 0;
  for (const ifaddrs* each = all; each != nullptr; each = each->ifa_next) {
    if (each->ifa_addr == nullptr) continue;
    if (each->ifa_addr->sa_family == AF_INET) {
      const auto* const address = reinterpret_cast<const sockaddr_in*>(each->ifa_addr);
      EXPECT_TRUE(local.Contains(Ipv4Address{address->sin_addr.s_addr}, 2));
      ++found;
    } else if (each->ifa_addr->sa_family == AF_INET6) {
      const auto* const address = reinterpret_cast<const sockaddr_in6*>(each->ifa_addr);
      EXPECT_TRUE(local.Contains(Ipv6Address::FromBytes(address->sin6_addr.s6_addr), 2));
      ++found;
    }
  }
  freeifaddrs(all);
  std::cout << found << " addresses" << std::endl;
  EXPECT_FALSE((*socket)->TakeChanges());
}

// To these the gateway answers as well, although no interface is configured with them.
TEST(AddressSocketTest, ReadsBroadcastAndRouterAnycastOfTheNetworks) {
  std::thread([] {
    if (unshare(CLONE_NEWNET) != 0) {
      const char* const ci = getenv("CI");
      if (ci != nullptr && std::string(ci) == "true") FAIL() << "a network namespace needs root";
      GTEST_SKIP() << "a network namespace needs root";
    }
    for (const char* command :
         {"ip link set lo up", "ip address add 10.9.1.1/24 dev lo",
          "ip address add 10.9.2.0/31 dev lo", "ip address add fd09::1/64 dev lo"}) {
      ASSERT_EQ(system(command), 0) << command;  // NOLINT: a child has this thread's namespace.
    }
    auto socket = AddressSocket::Open();
    ASSERT_TRUE(socket.ok()) << socket.status();
    const auto lists = (*socket)->Read();
    ASSERT_TRUE(lists.ok()) << lists.status();
    LocalAddresses local;
    local.Update(*lists, 1);
    for (const char* address : {"10.9.1.1", "10.9.1.255", "10.9.2.0"}) {
      EXPECT_TRUE(local.Contains(V4(address), 2)) << address;
    }
    for (const char* address : {"10.9.1.2", "10.9.1.0", "10.9.2.1"}) {
      EXPECT_FALSE(local.Contains(V4(address), 2)) << address;
    }
    EXPECT_TRUE(local.Contains(V6("fd09::"), 2));
    EXPECT_FALSE(local.Contains(V6("fd09::2"), 2));
  }).join();
}

}  // namespace
}  // namespace ctacct
