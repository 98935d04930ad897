#include "engine/names/wireguard.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/wireguard.h>
#include <sys/socket.h>

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Bytes = std::vector<uint8_t>;

Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Bytes Attribute(uint16_t type, const Bytes& payload) {
  const auto size = static_cast<uint16_t>(NLA_HDRLEN + payload.size());
  Bytes bytes = {static_cast<uint8_t>(size), static_cast<uint8_t>(size >> 8),
                 static_cast<uint8_t>(type), static_cast<uint8_t>(type >> 8)};
  bytes = bytes + payload;
  bytes.resize(NLA_ALIGN(bytes.size()));
  return bytes;
}

Bytes Allowed(const char* text) {
  const Network network = *ParseNetwork(text);
  const bool is_ipv4 = network.family == AddressFamily::kIpv4;
  return Attribute(
      NLA_F_NESTED,
      Attribute(WGALLOWEDIP_A_CIDR_MASK, {network.prefix_length}) +
          Attribute(WGALLOWEDIP_A_FAMILY, {is_ipv4 ? uint8_t{AF_INET} : uint8_t{AF_INET6}, 0}) +
          Attribute(WGALLOWEDIP_A_IPADDR,
                    Bytes(network.address.begin(), network.address.begin() + (is_ipv4 ? 4 : 16))));
}

Bytes Peer(uint8_t key, const Bytes& allowed) {
  return Attribute(NLA_F_NESTED, Attribute(WGPEER_A_PUBLIC_KEY, Bytes(32, key)) +
                                     Attribute(WGPEER_A_ENDPOINT, Bytes(16, 7)) +
                                     Attribute(WGPEER_A_ALLOWEDIPS | NLA_F_NESTED, allowed));
}

Bytes Device(const Bytes& peers) {
  return Attribute(WGDEVICE_A_LISTEN_PORT, {1, 2}) +
         Attribute(WGDEVICE_A_IFNAME, {'w', 'g', '0', 0}) +
         Attribute(WGDEVICE_A_PRIVATE_KEY, Bytes(32, 9)) +
         Attribute(WGDEVICE_A_PEERS | NLA_F_NESTED, peers);
}

WireguardPeer Expected(uint8_t key, const std::vector<const char*>& allowed) {
  WireguardPeer peer;
  peer.public_key.fill(key);
  for (const char* network : allowed) peer.allowed.push_back(*ParseNetwork(network));
  return peer;
}

TEST(WireguardDumpTest, ReadsPeersAndTheirNetworks) {
  WireguardDump dump;
  EXPECT_TRUE(dump.Add(Device(Peer(1, Allowed("10.0.0.2/32") + Allowed("fd00::2/128")) +
                              Peer(2, {}) + Peer(3, Allowed("10.1.0.0/16"))))
                  .ok());
  EXPECT_THAT(dump.peers(), ElementsAre(Expected(1, {"10.0.0.2", "fd00::2"}), Expected(2, {}),
                                        Expected(3, {"10.1.0.0/16"})));
}

// As the kernel does when a peer's networks do not fit into one message.
TEST(WireguardDumpTest, APeerGoesOnInTheNextMessages) {
  WireguardDump dump;
  EXPECT_TRUE(dump.Add(Device(Peer(1, Allowed("10.0.0.1")) + Peer(2, Allowed("10.0.0.2")))).ok());
  EXPECT_TRUE(dump.Add(Attribute(WGDEVICE_A_PEERS, Peer(2, Allowed("10.0.0.3")))).ok());
  EXPECT_TRUE(dump.Add(Attribute(WGDEVICE_A_PEERS,
                                 Peer(2, Allowed("10.0.0.4")) + Peer(3, Allowed("10.0.0.5"))))
                  .ok());
  EXPECT_THAT(dump.peers(), ElementsAre(Expected(1, {"10.0.0.1"}),
                                        Expected(2, {"10.0.0.2", "10.0.0.3", "10.0.0.4"}),
                                        Expected(3, {"10.0.0.5"})));
}

TEST(WireguardDumpTest, ADeviceMayHaveNoPeers) {
  WireguardDump dump;
  EXPECT_TRUE(dump.Add(Attribute(WGDEVICE_A_LISTEN_PORT, {1, 2})).ok());
  EXPECT_TRUE(dump.Add({}).ok());
  EXPECT_THAT(dump.peers(), IsEmpty());
}

TEST(WireguardDumpTest, EveryShorterMessageIsHandled) {
  const Bytes whole = Device(Peer(1, Allowed("10.0.0.2/32") + Allowed("fd00::2/128")));
  for (size_t size = 0; size < whole.size(); ++size) {
    // Its own copy, so that a sanitizer sees a byte too many read.
    const Bytes part(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size));
    WireguardDump dump;
    if (dump.Add(part).ok()) {
      EXPECT_THAT(dump.peers(), IsEmpty()) << size;
    }
  }
}

TEST(WireguardDumpTest, MalformedMessagesAreErrors) {
  const auto fails = [](const Bytes& peers) {
    WireguardDump dump;
    return absl::IsDataLoss(dump.Add(Device(peers)));
  };
  EXPECT_TRUE(fails(Attribute(0, Attribute(WGPEER_A_PUBLIC_KEY, Bytes(31, 1)))));
  EXPECT_TRUE(fails(Attribute(0, Attribute(WGPEER_A_ALLOWEDIPS, Allowed("10.0.0.1")))));
  const Bytes family = Attribute(WGALLOWEDIP_A_FAMILY, {AF_INET, 0});
  const Bytes address = Attribute(WGALLOWEDIP_A_IPADDR, {10, 0, 0, 1});
  const Bytes length = Attribute(WGALLOWEDIP_A_CIDR_MASK, {32});
  EXPECT_FALSE(fails(Peer(1, Attribute(0, family + address + length))));
  EXPECT_TRUE(fails(Peer(1, Attribute(0, address + length))));
  EXPECT_TRUE(fails(Peer(1, Attribute(0, family + length))));
  EXPECT_TRUE(fails(Peer(1, Attribute(0, family + address))));
  EXPECT_TRUE(
      fails(Peer(1, Attribute(0, family + address + Attribute(WGALLOWEDIP_A_CIDR_MASK, {33})))));
  EXPECT_TRUE(fails(
      Peer(1, Attribute(0, family + Attribute(WGALLOWEDIP_A_IPADDR, Bytes(16, 1)) + length))));
}

TEST(WireguardLinkTest, NamesOnlyWireguardsDevices) {
  const auto link = [](const std::string& name, const std::string& kind) {
    return WireguardLinkName(Attribute(IFLA_IFNAME, Bytes(name.begin(), name.end())) +
                             Attribute(IFLA_LINKINFO | NLA_F_NESTED,
                                       Attribute(IFLA_INFO_KIND, Bytes(kind.begin(), kind.end()))));
  };
  EXPECT_EQ(link(std::string("wg0\0", 4), std::string("wireguard\0", 10)), "wg0");
  EXPECT_EQ(link("wg0", "wireguard"), "wg0");
  EXPECT_EQ(link("veth0", "veth"), "");
  EXPECT_EQ(WireguardLinkName(Attribute(IFLA_IFNAME, {'l', 'o', 0})), "");
  EXPECT_EQ(WireguardLinkName({}), "");
}

}  // namespace
}  // namespace ctacct
