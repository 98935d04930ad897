#include "netlink/ctnetlink_parser.h"

#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "netlink/test_messages.h"

namespace ctacct {
namespace {

using Message = struct NetlinkMessage;

// Messages as a 6.18 kernel sent them (from tests/captures/gateway.pcap).
constexpr char kCapturedNew[] =
    "d0000000000100060000000000000000020000003400018014000180080001000a257f07080002000a2800041c0002"
    "80050001000600000006000200400200000600030001bb00003400028014000180080001000a280004080002000a25"
    "7f071c00028005000100060000000600020001bb0000060003004002000008000c00da8a99f9080003000000000808"
    "00070000000002300004802c0001800500010001000000050002000000000005000300000000000600040000000000"
    "06000500000000000c001b0018ea7a5efc0dfd06";
constexpr char kCapturedDump[] =
    "ec0000000001220002000000cd790fdb020000003400018014000180080001000a200002080002000a2d7f081c0002"
    "800500010011000000060002004000000006000300ca6c00003400028014000180080001000a2d7f08080002000a20"
    "00021c000280050001001100000006000200ca6c00000600030040000000080003000000000a080008000000000008"
    "000c009735b9c308000b000000000108000700000000011c0009800c00010000000000000000020c00020000000000"
    "000005531c000a800c00010000000000000000010c0002000000000000000368100014800c00010018ea7a5f038320"
    "bd";
constexpr char kCapturedDestroy[] =
    "040100000201000000000000c9090000020000003400018014000180080001000a32ff03080002000a3800021c0002"
    "80050001000600000006000200400b000006000300001900003400028014000180080001000a380002080002000a32"
    "ff031c0002800500010006000000060002000019000006000300400b000008000c0098003811080003000000020e08"
    "000700000000011c0009800c00010000000000000000060c00020000000000000005901c000a800c00010000000000"
    "000000040c00020000000000000001bd1c0014800c00010018ea7a633b8c14760c00020018ea7a634845bd0b100004"
    "800c00018005000100070000000c001b0018ea7a634845bd3d";

// absl's own has another signature in each of the releases that we build with.
std::string FromHex(std::string_view hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
  }
  return bytes;
}

// CTA_TIMESTAMP_EVENT, which older headers do not define.
constexpr uint16_t kTimestampEvent = 27;

// In a heap block of exactly its size: the sanitizers see every read past the end.
ParseResult Parse(const std::string& bytes, FlowEvent* event) {
  const auto exact = std::make_unique<uint8_t[]>(bytes.size());
  std::memcpy(exact.get(), bytes.data(), bytes.size());
  DatagramCursor cursor(exact.get(), bytes.size());
  Message message;
  if (!cursor.Next(&message)) return ParseResult::kMalformed;
  return ParseFlowMessage(message, event);
}

// A flow of IPv6.
ParseResult Parse(const std::string& bytes, Ipv6FlowEvent* event) {
  const auto exact = std::make_unique<uint8_t[]>(bytes.size());
  std::memcpy(exact.get(), bytes.data(), bytes.size());
  DatagramCursor cursor(exact.get(), bytes.size());
  Message message;
  if (!cursor.Next(&message)) return ParseResult::kMalformed;
  FlowEvent ipv4;
  const ParseResult result = ParseFlowMessage(message, &ipv4);
  return result == ParseResult::kIpv6 ? ParseIpv6FlowMessage(message, event) : result;
}

// Where the attributes of a message begin, as far as their lengths are sound.
std::vector<size_t> AttributeOffsets(const std::string& bytes) {
  std::vector<size_t> offsets;
  size_t at = sizeof(nlmsghdr) + sizeof(nfgenmsg);
  while (at + sizeof(nlattr) <= bytes.size()) {
    nlattr header;
    std::memcpy(&header, bytes.data() + at, sizeof(header));
    if (header.nla_len < sizeof(header) || header.nla_len > bytes.size() - at) break;
    offsets.push_back(at);
    at += NLA_ALIGN(header.nla_len);
  }
  return offsets;
}

// The same message in a form that the kernel never writes: a type's flags mean nothing to a reader.
std::string WrittenUnusually(std::string bytes) {
  for (const size_t at : AttributeOffsets(bytes)) bytes[at + 3] ^= NLA_F_NET_BYTEORDER >> 8;
  return bytes;
}

template <typename Event>
auto Fields(const Event& event) {
  return std::make_tuple(
      std::string(reinterpret_cast<const char*>(&event.identity), sizeof(event.identity)),
      event.kind, event.has_counters, event.has_tcp_state, event.tcp_state, event.status,
      event.timeout_seconds, event.original.packets, event.original.bytes, event.reply.packets,
      event.reply.bytes, event.start_ns, event.stop_ns, event.event_ns);
}

uint32_t IdOf(const std::string& bytes) {
  const auto exact = std::make_unique<uint8_t[]>(bytes.size());
  std::memcpy(exact.get(), bytes.data(), bytes.size());
  DatagramCursor cursor(exact.get(), bytes.size());
  Message message;
  return cursor.Next(&message) ? FlowId(message) : 0;
}

// Reads a message both as it is and written unusually; true if it is a flow.
template <typename Event = FlowEvent>
bool ExpectReadAlike(const std::string& bytes) {
  const std::string unusual = WrittenUnusually(bytes);
  Event event;
  Event expected;
  const ParseResult result = Parse(bytes, &event);
  EXPECT_EQ(result, Parse(unusual, &expected)) << absl::BytesToHexString(bytes);
  if (result != ParseResult::kFlow) return false;
  EXPECT_EQ(Fields(event), Fields(expected)) << absl::BytesToHexString(bytes);
  EXPECT_EQ(IdOf(bytes), event.identity.id) << absl::BytesToHexString(bytes);
  EXPECT_EQ(IdOf(unusual), event.identity.id) << absl::BytesToHexString(bytes);
  return true;
}

Ipv4Address Ip(uint8_t a, uint8_t b, uint8_t c, uint8_t d) {
  const uint8_t bytes[] = {a, b, c, d};
  return Ipv4Address::FromBytes(bytes);
}

TEST(CtnetlinkParserTest, CapturedNew) {
  FlowEvent event;
  ASSERT_EQ(Parse(FromHex(kCapturedNew), &event), ParseResult::kFlow);
  EXPECT_EQ(event.kind, FlowEventKind::kNew);
  EXPECT_EQ(event.identity.src, Ip(10, 37, 127, 7));
  EXPECT_EQ(event.identity.dst, Ip(10, 40, 0, 4));
  EXPECT_EQ(event.identity.protocol, 6);
  EXPECT_EQ(event.identity.src_port, 0x4002);
  EXPECT_EQ(event.identity.dst_port, 443);
  EXPECT_EQ(event.identity.id, 0xda8a99f9u);
  EXPECT_EQ(event.identity.zone, 0);
  EXPECT_EQ(event.status, 8u);
  EXPECT_EQ(event.timeout_seconds, 2u);
  EXPECT_TRUE(event.has_tcp_state);
  EXPECT_EQ(event.tcp_state, TcpState::kSynSent);
  EXPECT_EQ(event.event_ns, 0x18ea7a5efc0dfd06);
  EXPECT_EQ(event.start_ns, 0);
  EXPECT_FALSE(event.has_counters);
}

TEST(CtnetlinkParserTest, CapturedDump) {
  FlowEvent event;
  ASSERT_EQ(Parse(FromHex(kCapturedDump), &event), ParseResult::kFlow);
  EXPECT_EQ(event.kind, FlowEventKind::kDump);
  EXPECT_EQ(event.identity.src, Ip(10, 32, 0, 2));
  EXPECT_EQ(event.identity.dst, Ip(10, 45, 127, 8));
  EXPECT_EQ(event.identity.protocol, 17);
  EXPECT_TRUE(event.has_counters);
  EXPECT_EQ(event.original.packets, 2u);
  EXPECT_EQ(event.original.bytes, 0x553u);
  EXPECT_EQ(event.reply.packets, 1u);
  EXPECT_EQ(event.reply.bytes, 0x368u);
  EXPECT_EQ(event.start_ns, 0x18ea7a5f038320bd);
  EXPECT_EQ(event.stop_ns, 0);
  EXPECT_FALSE(event.has_tcp_state);
}

TEST(CtnetlinkParserTest, CapturedDestroy) {
  FlowEvent event;
  ASSERT_EQ(Parse(FromHex(kCapturedDestroy), &event), ParseResult::kFlow);
  EXPECT_EQ(event.kind, FlowEventKind::kDestroy);
  EXPECT_EQ(event.identity.dst_port, 25);
  EXPECT_EQ(event.original.packets, 6u);
  EXPECT_EQ(event.reply.bytes, 0x1bdu);
  EXPECT_EQ(event.start_ns, 0x18ea7a633b8c1476);
  EXPECT_EQ(event.stop_ns, 0x18ea7a634845bd0b);
  EXPECT_EQ(event.event_ns, 0x18ea7a634845bd3d);
  EXPECT_EQ(event.tcp_state, TcpState::kTimeWait);
}

TEST(CtnetlinkParserTest, KindsByTypeAndFlags) {
  const std::vector<std::pair<TestMessage::Kind, FlowEventKind>> kinds = {
      {TestMessage::Kind::kNew, FlowEventKind::kNew},
      {TestMessage::Kind::kUpdate, FlowEventKind::kUpdate},
      {TestMessage::Kind::kDestroy, FlowEventKind::kDestroy},
      {TestMessage::Kind::kDump, FlowEventKind::kDump},
  };
  for (const auto& [built, expected] : kinds) {
    FlowEvent event;
    ASSERT_EQ(Parse(BuildMessage({.kind = built}), &event), ParseResult::kFlow);
    EXPECT_EQ(event.kind, expected);
  }
}

TEST(CtnetlinkParserTest, ZonesOfBothKinds) {
  for (const bool in_tuple : {false, true}) {
    FlowEvent event;
    ASSERT_EQ(Parse(BuildMessage({.zone = 7, .zone_in_tuple = in_tuple}), &event),
              ParseResult::kFlow);
    EXPECT_EQ(event.identity.zone, 7);
  }
}

TEST(CtnetlinkParserTest, IcmpIdentity) {
  FlowEvent event;
  ASSERT_EQ(Parse(BuildMessage({.protocol = 1, .src_port = 77, .dst_port = 8 << 8 | 3}), &event),
            ParseResult::kFlow);
  EXPECT_EQ(event.identity.src_port, 77);
  EXPECT_EQ(event.identity.dst_port, 8 << 8 | 3);
}

// As the kernel sends them.
std::vector<std::string> Ipv6Messages() {
  const TestMessage born = {
      .src = "2001:db8::1", .dst = "fd00:1:2::9", .src_port = 40001, .id = 77};
  TestMessage entry = born;
  entry.kind = TestMessage::Kind::kDump;
  entry.timeout_seconds = 100;
  entry.tcp_state = kTestTcpEstablished;
  entry.original = {{.packets = 5, .bytes = 500}};
  entry.reply = {{.packets = 4, .bytes = 4000}};
  entry.start_ns = 1'600'000'000'000'000'000;
  TestMessage ended = entry;
  ended.kind = TestMessage::Kind::kDestroy;
  ended.timeout_seconds.reset();
  ended.stop_ns = 1'600'000'001'000'000'000;
  ended.event_ns = 1'600'000'001'000'000'001;
  return {BuildMessage(born), BuildMessage(entry), BuildMessage(ended)};
}

TEST(CtnetlinkParserTest, Ipv6Flows) {
  Ipv6FlowEvent event;
  for (const std::string& message : Ipv6Messages()) {
    ASSERT_EQ(Parse(message, &event), ParseResult::kFlow);
    const uint8_t src[16] = {0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    const uint8_t dst[16] = {0xfd, 0, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9};
    EXPECT_EQ(event.identity.src, Ipv6Address::FromBytes(src));
    EXPECT_EQ(event.identity.dst, Ipv6Address::FromBytes(dst));
    EXPECT_EQ(event.identity.src_port, 40001);
    EXPECT_EQ(event.identity.dst_port, 443);
    EXPECT_EQ(event.identity.protocol, 6);
    EXPECT_EQ(event.identity.id, 77u);
  }
  EXPECT_EQ(event.kind, FlowEventKind::kDestroy);
  EXPECT_EQ(event.original.packets, 5u);
  EXPECT_EQ(event.reply.bytes, 4000u);
  EXPECT_EQ(event.start_ns, 1'600'000'000'000'000'000);
  EXPECT_EQ(event.stop_ns, 1'600'000'001'000'000'000);
  EXPECT_EQ(event.tcp_state, TcpState::kEstablished);
}

TEST(CtnetlinkParserTest, Icmpv6Identity) {
  Ipv6FlowEvent event;
  ASSERT_EQ(Parse(BuildMessage({.src = "fd00::1",
                                .dst = "fd00::2",
                                .protocol = 58,
                                .src_port = 77,
                                .dst_port = 128 << 8 | 3}),
                  &event),
            ParseResult::kFlow);
  EXPECT_EQ(event.identity.src_port, 77);
  EXPECT_EQ(event.identity.dst_port, 128 << 8 | 3);
}

// Addresses of the other family are none.
TEST(CtnetlinkParserTest, AddressesMustBeOfTheMessagesFamily) {
  Ipv6FlowEvent event;
  std::string mixed = BuildMessage(TestMessage());
  mixed[16] = AF_INET6;
  EXPECT_EQ(Parse(mixed, &event), ParseResult::kMalformed);
  FlowEvent ipv4;
  mixed = Ipv6Messages()[0];
  mixed[16] = AF_INET;
  EXPECT_EQ(Parse(mixed, &ipv4), ParseResult::kMalformed);
}

TEST(CtnetlinkParserTest, AnyDamageToIpv6IsReadAlike) {
  int flows = 0;
  for (const std::string& good : Ipv6Messages()) {
    EXPECT_TRUE(ExpectReadAlike<Ipv6FlowEvent>(good));
    for (size_t i = sizeof(nlmsghdr) + 1; i < good.size(); ++i) {
      std::string changed = good;
      for (int value = 0; value < 256; value += i % 3 == 0 ? 1 : 5) {
        changed[i] = static_cast<char>(value);
        flows += ExpectReadAlike<Ipv6FlowEvent>(changed);
      }
      Ipv6FlowEvent event;
      EXPECT_EQ(Parse(good.substr(0, i), &event), ParseResult::kMalformed);
      std::string cut = good.substr(0, i);
      PutHost32(cut, 0, static_cast<uint32_t>(i));
      flows += ExpectReadAlike<Ipv6FlowEvent>(cut);
    }
  }
  EXPECT_GT(flows, 10'000);
}

TEST(RequestedScopeTest, OfEachFamily) {
  const auto scope = [](const std::string& bytes) {
    DatagramCursor cursor(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
    Message message;
    EXPECT_TRUE(cursor.Next(&message));
    return RequestedScope(message);
  };
  const auto request = [](char family, const std::string& attributes = "") {
    return NetlinkMessage(0x101, NLM_F_REQUEST | NLM_F_DUMP,
                          std::string(1, family) + std::string(3, '\0') + attributes);
  };
  EXPECT_EQ(scope(request(AF_UNSPEC)), DumpScope::kWhole);
  EXPECT_EQ(scope(request(AF_INET)), DumpScope::kIpv4);
  EXPECT_EQ(scope(request(AF_INET6)), DumpScope::kPart);
  EXPECT_EQ(scope(request(AF_UNSPEC, Attribute(8, "mark"))), DumpScope::kPart);
  EXPECT_EQ(scope(BuildMessage(TestMessage())), DumpScope::kNoDump);
}

TEST(CtnetlinkParserTest, OtherMessagesAreNoFlows) {
  FlowEvent event;
  EXPECT_EQ(Parse(BuildMessage({.src = "fe80::1", .dst = "fe80::2"}), &event), ParseResult::kIpv6);
  EXPECT_EQ(Parse(BuildMessage({.kind = TestMessage::Kind::kDone}), &event),
            ParseResult::kNotAFlow);
  // What user space asks of the kernel has the same type numbers.
  EXPECT_EQ(Parse(BuildMessage({.flags = NLM_F_REQUEST | NLM_F_CREATE}), &event),
            ParseResult::kNotAFlow);
  // Another subsystem of netfilter.
  EXPECT_EQ(Parse(NetlinkMessage(10 << 8, 0, std::string(4, '\0')), &event),
            ParseResult::kNotAFlow);
}

TEST(CtnetlinkParserTest, UnknownAttributesAreSkipped) {
  FlowEvent event;
  ASSERT_EQ(Parse(BuildMessage({.original = {{1, 2}},
                                .reply = {{3, 4}},
                                .first_attributes = Attribute(1000, "whatever"),
                                .last_attributes = Attribute(0x8000 | 999, "x")}),
                  &event),
            ParseResult::kFlow);
  EXPECT_TRUE(event.has_counters);
  EXPECT_EQ(event.reply.bytes, 4u);
}

TEST(CtnetlinkParserTest, CountersOfOneDirectionAreNotEnough) {
  FlowEvent event;
  ASSERT_EQ(Parse(BuildMessage({.original = {{1, 2}}}), &event), ParseResult::kFlow);
  EXPECT_FALSE(event.has_counters);
}

TEST(CtnetlinkParserTest, MalformedIsRejected) {
  FlowEvent event;
  EXPECT_EQ(Parse(BuildMessage({.has_original_tuple = false}), &event), ParseResult::kMalformed);
  const std::vector<std::string> broken = {
      Attribute(CTA_ID, "abc"),                                // Too short for its type.
      Attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, ""),            // A tuple without anything.
      Attribute(CTA_COUNTERS_ORIG | NLA_F_NESTED, "1234567"),  // No attribute within.
      Attribute(CTA_COUNTERS_ORIG | NLA_F_NESTED,
                Attribute(CTA_COUNTERS_PACKETS, "12345678")),  // Packets without bytes.
      std::string("\x00\x00\x07\x00", 4),                      // Length 0: must not loop for ever.
      std::string("\x03\x00\x07\x00", 4),                      // Shorter than its own header.
      std::string("\xff\xff\x07\x00", 4),                      // Past the end.
      std::string("\x08\x00", 2),                              // Half a header.
  };
  for (const std::string& attribute : broken) {
    TestMessage message;
    message.last_attributes = attribute;
    std::string bytes = BuildMessage(message);
    // A lone half header makes the length odd; the builder may have padded it.
    EXPECT_EQ(Parse(bytes, &event), ParseResult::kMalformed) << absl::BytesToHexString(attribute);
  }
}

// What an event has from each of a message's attributes.
std::map<uint16_t, std::string> PartsOf(const FlowEvent& event) {
  const FlowIdentity& flow = event.identity;
  return {
      {CTA_TUPLE_ORIG,
       absl::StrCat(flow.src.network_order, " ", flow.dst.network_order, " ", flow.src_port, " ",
                    flow.dst_port, " ", flow.protocol, " ", flow.zone)},
      {CTA_ID, absl::StrCat(flow.id)},
      {CTA_STATUS, absl::StrCat(event.status)},
      {CTA_TIMEOUT, absl::StrCat(event.timeout_seconds)},
      {CTA_PROTOINFO, absl::StrCat(event.has_tcp_state, " ", static_cast<int>(event.tcp_state))},
      {CTA_COUNTERS_ORIG, absl::StrCat(event.original.packets, " ", event.original.bytes)},
      {CTA_COUNTERS_REPLY, absl::StrCat(event.reply.packets, " ", event.reply.bytes)},
      {CTA_TIMESTAMP, absl::StrCat(event.start_ns, " ", event.stop_ns)},
      {kTimestampEvent, absl::StrCat(event.event_ns)},
  };
}

// No crash, no read past the end (sanitizers), no endless loop. What is cut between two attributes,
// with a header that agrees, is a message of those before; anything else is malformed.
TEST(CtnetlinkParserTest, AnyCutIsBounded) {
  for (const char* captured : {kCapturedNew, kCapturedDump, kCapturedDestroy}) {
    const std::string good = FromHex(captured);
    const std::vector<size_t> offsets = AttributeOffsets(good);
    const std::set<size_t> ends(offsets.begin() + 1, offsets.end());
    FlowEvent event;
    for (size_t bytes = 0; bytes < good.size(); ++bytes) {
      EXPECT_EQ(Parse(good.substr(0, bytes), &event), ParseResult::kMalformed);
      if (bytes < sizeof(nlmsghdr)) continue;
      std::string cut = good.substr(0, bytes);
      PutHost32(cut, 0, static_cast<uint32_t>(bytes));
      EXPECT_EQ(Parse(cut, &event),
                ends.contains(bytes) ? ParseResult::kFlow : ParseResult::kMalformed)
          << bytes;
    }
  }
}

// A changed byte in an attribute changes no other attribute.
TEST(CtnetlinkParserTest, AnyDamageIsBounded) {
  int flows = 0;
  for (const char* captured : {kCapturedNew, kCapturedDump, kCapturedDestroy}) {
    const std::string good = FromHex(captured);
    FlowEvent event;
    ASSERT_EQ(Parse(good, &event), ParseResult::kFlow);
    const std::map<uint16_t, std::string> expected = PartsOf(event);
    const std::vector<size_t> offsets = AttributeOffsets(good);
    for (size_t i = 0; i < good.size(); ++i) {
      const auto next = std::upper_bound(offsets.begin(), offsets.end(), i);
      const size_t attribute = next == offsets.begin() ? 0 : *std::prev(next);
      const bool in_payload = attribute != 0 && i >= attribute + sizeof(nlattr);
      const int type = in_payload ? good[attribute + 2] : 0;
      for (const int value : {0x00, 0x01, 0x7f, 0x80, 0xff}) {
        std::string changed = good;
        changed[i] = static_cast<char>(value);
        const ParseResult result = Parse(changed, &event);
        EXPECT_TRUE(changed != good || result == ParseResult::kFlow);
        if (result != ParseResult::kFlow || !in_payload) continue;
        ++flows;
        for (const auto& [other, part] : PartsOf(event)) {
          EXPECT_TRUE(other == type || part == expected.at(other)) << "byte " << i;
        }
      }
    }
  }
  EXPECT_GT(flows, 1000);
}

// The parser has fast paths for what the kernel usually writes. They must be faster and nothing
// else.
TEST(CtnetlinkParserTest, UsualAndUnusualAreReadAlike) {
  int flows = 0;
  for (const char* captured : {kCapturedNew, kCapturedDump, kCapturedDestroy}) {
    const std::string good = FromHex(captured);
    EXPECT_TRUE(ExpectReadAlike(good));
    for (size_t i = sizeof(nlmsghdr); i < good.size(); ++i) {
      std::string changed = good;
      for (int value = 0; value < 256; ++value) {
        changed[i] = static_cast<char>(value);
        flows += ExpectReadAlike(changed);
      }
      std::string cut = good.substr(0, i);
      PutHost32(cut, 0, static_cast<uint32_t>(i));
      flows += ExpectReadAlike(cut);
    }
  }
  EXPECT_GT(flows, 50'000);  // Neither side rejects them all.
}

// Attributes of all kinds of messages in any order, missing or repeated.
TEST(CtnetlinkParserTest, AnyOrderIsReadAlike) {
  std::vector<std::string> attributes;
  for (const std::string& message :
       {FromHex(kCapturedNew), FromHex(kCapturedDump), FromHex(kCapturedDestroy),
        BuildMessage({.protocol = 1, .id = 5, .event_ns = 6}),
        BuildMessage({.zone = 7, .zone_in_tuple = true, .original = {{1, 2}}, .tcp_state = 3}),
        BuildMessage({.zone = 8, .start_ns = 9, .last_attributes = Attribute(1000, "?")})}) {
    std::vector<size_t> offsets = AttributeOffsets(message);
    offsets.push_back(message.size());
    for (size_t i = 0; i + 1 < offsets.size(); ++i) {
      attributes.push_back(message.substr(offsets[i], offsets[i + 1] - offsets[i]));
    }
  }
  std::mt19937 random(1);
  int flows = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string payload("\x02\0\0\0", 4);
    for (unsigned left = random() % 20; left > 0; --left) {
      payload += attributes[random() % attributes.size()];
    }
    flows += ExpectReadAlike(NetlinkMessage(0x100, 0, payload));
  }
  EXPECT_GT(flows, 5'000);
}

TEST(CtnetlinkParserTest, WhatTheEventHeldBeforeIsGone) {
  FlowEvent used;
  ASSERT_EQ(Parse(FromHex(kCapturedDestroy), &used), ParseResult::kFlow);
  FlowEvent fresh;
  ASSERT_EQ(Parse(BuildMessage({.id = {}, .status = {}}), &used), ParseResult::kFlow);
  ASSERT_EQ(Parse(BuildMessage({.id = {}, .status = {}}), &fresh), ParseResult::kFlow);
  EXPECT_EQ(Fields(used), Fields(fresh));
}

TEST(FlowIdTest, OfAnyFlow) {
  EXPECT_EQ(IdOf(FromHex(kCapturedNew)), 0xda8a99f9u);
  EXPECT_EQ(IdOf(FromHex(kCapturedDump)), 0x9735b9c3u);
  EXPECT_EQ(IdOf(FromHex(kCapturedDestroy)), 0x98003811u);
  EXPECT_EQ(IdOf(BuildMessage({.src = "fe80::1", .dst = "fe80::2", .id = 77})), 77u);
}

// As the kernel's socket filters, which look for the first; else two workers could own one flow.
TEST(FlowIdTest, TheFirstOfTwoCounts) {
  for (const bool unusual : {false, true}) {
    for (const TestMessage& twice :
         {TestMessage{.id = 5, .first_attributes = Attribute(CTA_ID, BigEndian32(4))},
          TestMessage{.id = 4, .last_attributes = Attribute(CTA_ID, BigEndian32(5))}}) {
      std::string bytes = BuildMessage(twice);
      if (unusual) bytes = WrittenUnusually(bytes);
      FlowEvent event;
      ASSERT_EQ(Parse(bytes, &event), ParseResult::kFlow);
      EXPECT_EQ(event.identity.id, 4u);
      EXPECT_EQ(IdOf(bytes), 4u);
    }
  }
}

TEST(FlowIdTest, NoneIsZero) {
  EXPECT_EQ(IdOf(BuildMessage({.id = {}})), 0u);
  EXPECT_EQ(IdOf(BuildMessage({.kind = TestMessage::Kind::kDone, .id = 3})), 0u);
  EXPECT_EQ(IdOf(BuildMessage({.id = 3, .first_attributes = Attribute(CTA_ID, "abc")})), 0u);
  EXPECT_EQ(IdOf(BuildMessage({.id = 3, .first_attributes = std::string("\x03\0\x07\0", 4)})), 0u);
  // Only within a nest.
  EXPECT_EQ(IdOf(BuildMessage({.id = {},
                               .last_attributes = Attribute(CTA_HELP | NLA_F_NESTED,
                                                            Attribute(CTA_ID, BigEndian32(9)))})),
            0u);
  EXPECT_EQ(IdOf(NetlinkMessage(0x100, 0, "")), 0u);  // No nfgenmsg.
  // A later fault is ParseFlowMessage's to find.
  EXPECT_EQ(IdOf(BuildMessage({.id = 3, .last_attributes = std::string("\x03\0\x07\0", 4)})), 3u);
}

TEST(DatagramCursorTest, WalksAllMessages) {
  std::string datagram;
  for (uint32_t i = 0; i < 5; ++i) datagram += BuildMessage({.id = i});
  DatagramCursor cursor(reinterpret_cast<const uint8_t*>(datagram.data()), datagram.size());
  Message message;
  for (uint32_t i = 0; i < 5; ++i) {
    ASSERT_TRUE(cursor.Next(&message));
    FlowEvent event;
    ASSERT_EQ(ParseFlowMessage(message, &event), ParseResult::kFlow);
    EXPECT_EQ(event.identity.id, i);
  }
  EXPECT_FALSE(cursor.Next(&message));
  EXPECT_FALSE(cursor.malformed());
}

TEST(DatagramCursorTest, GivesUpWhereALengthIsWrong) {
  for (const uint32_t length : {0u, 15u, 100000u, 0xffffffffu}) {
    std::string datagram = BuildMessage({}) + BuildMessage({});
    PutHost32(datagram, datagram.size() / 2, length);
    DatagramCursor cursor(reinterpret_cast<const uint8_t*>(datagram.data()), datagram.size());
    Message message;
    EXPECT_TRUE(cursor.Next(&message));
    EXPECT_FALSE(cursor.Next(&message));
    EXPECT_TRUE(cursor.malformed());
  }
}

TEST(MessageErrorTest, OfDoneAndError) {
  FlowEvent event;
  const std::string done = NetlinkMessage(NLMSG_DONE, NLM_F_MULTI, std::string("\xff\xff\xff\xff"));
  DatagramCursor cursor(reinterpret_cast<const uint8_t*>(done.data()), done.size());
  Message message;
  ASSERT_TRUE(cursor.Next(&message));
  EXPECT_EQ(MessageError(message), -1);
  const std::string empty = NetlinkMessage(NLMSG_DONE, NLM_F_MULTI, "");
  DatagramCursor cursor2(reinterpret_cast<const uint8_t*>(empty.data()), empty.size());
  ASSERT_TRUE(cursor2.Next(&message));
  EXPECT_EQ(MessageError(message), 0);
}

TEST(OverrunMessageTest, ContainsTheNumberOfEvents) {
  const OverrunMessage overrun(1234);
  DatagramCursor cursor(overrun.bytes(), sizeof(overrun));
  Message message;
  ASSERT_TRUE(cursor.Next(&message));
  EXPECT_EQ(message.type, NLMSG_OVERRUN);
  EXPECT_EQ(OverrunEvents(message), 1234u);
  EXPECT_FALSE(cursor.Next(&message));
  EXPECT_FALSE(cursor.malformed());
  // As netlink defines it, without a payload.
  const std::string bare = NetlinkMessage(NLMSG_OVERRUN, 0, "");
  DatagramCursor bare_cursor(reinterpret_cast<const uint8_t*>(bare.data()), bare.size());
  ASSERT_TRUE(bare_cursor.Next(&message));
  EXPECT_EQ(OverrunEvents(message), 0u);
}

}  // namespace
}  // namespace ctacct
