// The program and user space must agree on every message. The kernel runs the program here as it
// does on a netlink socket, with the same helpers, but on a pair of Unix sockets: no root needed.
#include "netlink/event_filter.h"

#include <errno.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "netlink/capture_file.h"
#include "netlink/ctnetlink_parser.h"
#include "netlink/ip_text.h"
#include "netlink/ipv4_text.h"
#include "netlink/test_messages.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using Kind = TestMessage::Kind;

// `struct NetlinkMessage` is the parser's, NetlinkMessage() a builder of test_messages.h.

// --- A socket of the real kernel with a program on it ---

class FilteredSocket {
 public:
  explicit FilteredSocket(std::vector<sock_filter> program) {
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends_.data()) != 0) {
      ADD_FAILURE() << "socketpair: " << strerror(errno);
      return;
    }
    sock_fprog code{};
    code.len = static_cast<unsigned short>(program.size());
    code.filter = program.data();
    taken_ = setsockopt(ends_[1], SOL_SOCKET, SO_ATTACH_FILTER, &code, sizeof(code)) == 0;
  }
  ~FilteredSocket() {
    for (const int end : ends_) close(end);
  }
  FilteredSocket(const FilteredSocket&) = delete;
  FilteredSocket& operator=(const FilteredSocket&) = delete;

  // The kernel took the program for valid.
  bool taken() const { return taken_; }

  bool Delivers(const std::string& message) const {
    if (send(ends_[0], message.data(), message.size(), 0) != static_cast<ssize_t>(message.size())) {
      ADD_FAILURE() << "send: " << strerror(errno);
    }
    std::array<char, 4096> buffer;
    const ssize_t bytes = recv(ends_[1], buffer.data(), buffer.size(), 0);
    if (bytes < 0) {
      EXPECT_EQ(errno, EAGAIN) << strerror(errno);
      return false;
    }
    EXPECT_EQ(std::string(buffer.data(), static_cast<size_t>(bytes)), message) << "not whole";
    return true;
  }

 private:
  std::array<int, 2> ends_ = {-1, -1};
  bool taken_ = false;
};

// --- What user space says ---

enum class Verdict {
  kDrop,
  kOwner,      // Goes to the flow's worker.
  kEverybody,  // Nothing that a filter may judge.
  kMalformed,  // Rejected by the parser; a filter may deliver it or not.
};

struct Judgement {
  Verdict verdict;
  uint32_t id = 0;
};

bool Accounts(const EventFilterRules& rules, const FlowIdentity& flow) {
  return rules.ipv4.Matches(flow.src, flow.dst) && (flow.protocol != 1 || rules.include_icmp);
}
bool Accounts(const EventFilterRules& rules, const Ipv6FlowIdentity& flow) {
  return rules.ipv6.Matches(flow.src, flow.dst) && (flow.protocol != 58 || rules.include_icmp);
}

template <typename Event>
bool ChangesNothing(const Event& event) {
  if (event.kind != FlowEventKind::kUpdate) return false;
  return !event.has_tcp_state ||
         (event.tcp_state != TcpState::kCloseWait && event.tcp_state != TcpState::kLastAck &&
          event.tcp_state != TcpState::kClose);
}

Judgement Judge(const EventFilterRules& rules, const std::string& bytes) {
  DatagramCursor cursor(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  struct NetlinkMessage message;
  if (!cursor.Next(&message)) {
    return {bytes.size() < 20 ? Verdict::kEverybody : Verdict::kMalformed};
  }
  const auto judged = [&rules](const auto& event) -> Judgement {
    const bool wanted = Accounts(rules, event.identity) && !ChangesNothing(event);
    return {wanted ? Verdict::kOwner : Verdict::kDrop, event.identity.id};
  };
  FlowEvent event;
  Ipv6FlowEvent ipv6;
  switch (ParseFlowMessage(message, &event)) {
    case ParseResult::kIpv6:
      // Before the filter looks at the message.
      if (rules.ipv6.src.networks().empty() || rules.ipv6.dst.networks().empty()) {
        return {Verdict::kDrop};
      }
      if (ParseIpv6FlowMessage(message, &ipv6) == ParseResult::kFlow) return judged(ipv6);
      return {Verdict::kMalformed};
    case ParseResult::kNotAFlow:
      return {Verdict::kEverybody};
    case ParseResult::kMalformed:
      return {bytes.size() < 20 ? Verdict::kEverybody : Verdict::kMalformed};
    case ParseResult::kFlow:
      break;
  }
  return judged(event);
}

// --- Rules ---

Ipv4Address Address(const std::string& text) { return *ParseIpv4Address(text); }

Ipv4Cidr Network(const std::string& address, const std::string& mask) {
  return {Address(address), Address(mask)};
}

// All that is asked of IPv4 is asked of IPv6 as well, of twins: the bytes of an address lie in four
// words, so that each of them matters.
std::string TwinAddress(const std::string& text) {
  const uint32_t host = Address(text).ToHostOrder();
  return absl::StrFormat("%02x00::%02x:0:%02x00:%02x", host >> 24, host >> 16 & 0xff,
                         host >> 8 & 0xff, host & 0xff);
}
Ipv6Address TwinOf(Ipv4Address address) {
  const uint32_t host = address.ToHostOrder();
  uint8_t bytes[16] = {};
  bytes[0] = static_cast<uint8_t>(host >> 24);
  bytes[9] = static_cast<uint8_t>(host >> 16);
  bytes[12] = static_cast<uint8_t>(host >> 8);
  bytes[15] = static_cast<uint8_t>(host);
  return Ipv6Address::FromBytes(bytes);
}
Ipv6Cidr TwinOf(const Ipv4Cidr& network) {
  return {TwinOf(network.network),
          network.mask == kIpv4MaskAll ? kIpv6MaskAll : TwinOf(network.mask)};
}

AddressRules<Ipv6Address> TwinOf(const AddressRules<Ipv4Address>& rules) {
  const auto networks = [](const CidrList<Ipv4Address>& list) {
    std::vector<Ipv6Cidr> twins;
    for (const Ipv4Cidr& network : list.networks()) twins.push_back(TwinOf(network));
    return CidrList<Ipv6Address>(twins);
  };
  std::vector<Ipv6Address> exclude;
  for (const Ipv4Address& address : rules.exclude.addresses()) exclude.push_back(TwinOf(address));
  return {networks(rules.src), networks(rules.dst), AddressList<Ipv6Address>(exclude)};
}

TestMessage TwinOf(TestMessage message) {
  message.src = TwinAddress(message.src);
  message.dst = TwinAddress(message.dst);
  if (message.reply_src.has_value()) message.reply_src = TwinAddress(*message.reply_src);
  if (message.reply_dst.has_value()) message.reply_dst = TwinAddress(*message.reply_dst);
  message.protocol = message.protocol == 1 ? 58 : message.protocol == 58 ? 1 : message.protocol;
  return message;
}

const CidrList<Ipv6Address> kNothing{std::vector<Ipv6Cidr>()};

AddressList<Ipv4Address> ListOf(const std::optional<Ipv4Address>& address) {
  return address.has_value() ? AddressList<Ipv4Address>(*address) : AddressList<Ipv4Address>();
}

std::string Describe(const EventFilterRules& rules) {
  const auto hex = [](Ipv4Address address) { return absl::Hex(address.ToHostOrder()); };
  std::string text;
  for (const auto& network : rules.ipv4.src.networks()) {
    absl::StrAppend(&text, "src ", hex(network.network), "/", hex(network.mask), ", ");
  }
  for (const auto& network : rules.ipv4.dst.networks()) {
    absl::StrAppend(&text, "dst ", hex(network.network), "/", hex(network.mask), ", ");
  }
  for (const Ipv4Address address : rules.ipv4.exclude.addresses()) {
    absl::StrAppend(&text, "exclude ", hex(address), ", ");
  }
  return absl::StrCat(text, "include_icmp ", rules.include_icmp, ", workers ", rules.workers,
                      ", IPv6 ", rules.ipv6.src.networks().size(), " and ",
                      rules.ipv6.dst.networks().size());
}

std::vector<Ipv4Cidr> EdgeNetworks() {
  return {
      kIpv4Everything,
      Network("10.1.0.0", "255.255.0.0"),
      Network("10.2.0.1", "255.255.255.255"),
      Network("10.1.0.0", "255.255.255.254"),
      Network("0.0.0.0", "128.0.0.0"),
      Network("128.0.0.0", "128.0.0.0"),
      Network("10.0.0.1", "255.0.0.255"),  // Bits of the mask need not hang together.
      Network("0.0.0.1", "0.0.0.1"),       // Odd addresses.
      Network("0.0.0.0", "255.255.255.255"),
      Network("10.1.0.1", "255.255.0.0"),  // A bit below the mask: contains nothing.
      Network("0.0.0.1", "0.0.0.0"),       // The same, without any mask.
      Network("255.255.255.255", "255.255.255.255"),
  };
}

std::vector<std::optional<Ipv4Address>> EdgeExcludes() {
  return {std::nullopt, Address("10.1.0.1"), Address("10.2.0.1"), Address("0.0.0.0"),
          Address("255.255.255.255")};
}

// All shapes that a program can have, and the edges of networks and masks in either place.
std::vector<EventFilterRules> RuleSets() {
  std::vector<EventFilterRules> sets;
  const std::vector<Ipv4Cidr> networks = EdgeNetworks();
  for (const bool include_icmp : {false, true}) {
    for (const std::optional<Ipv4Address>& exclude :
         {std::optional<Ipv4Address>(), std::optional(Address("10.1.0.1"))}) {
      const auto add = [&](const Ipv4Cidr& src, const Ipv4Cidr& dst) {
        EventFilterRules rules;
        rules.ipv4 = {src, dst, ListOf(exclude)};
        rules.ipv6 = TwinOf(rules.ipv4);
        rules.include_icmp = include_icmp;
        sets.push_back(rules);
      };
      for (const Ipv4Cidr& network : networks) {
        add(network, kIpv4Everything);
        add(kIpv4Everything, network);
        add(networks[1], network);
        add(network, networks[2]);
      }
    }
  }
  return sets;
}

// --- Messages ---

// What distinguishes flows and events, in all combinations that a rule might confuse.
std::vector<std::string> BuiltMessages() {
  std::vector<TestMessage> messages;
  for (const Kind kind : {Kind::kNew, Kind::kUpdate, Kind::kDestroy, Kind::kDump}) {
    TestMessage base;
    base.kind = kind;
    base.tcp_state = kTestTcpClose;
    base.timeout_seconds = 60;  // As the kernel's; so the layout is the usual one.
    for (const char* src : {"10.1.0.1", "10.1.0.2", "10.2.0.1", "11.1.0.1", "0.0.0.0",
                            "255.255.255.255", "138.1.0.1"}) {
      for (const char* dst :
           {"10.2.0.1", "10.2.0.2", "10.1.0.1", "10.1.0.2", "0.0.0.0", "255.255.255.255"}) {
        TestMessage m = base;
        m.src = src;
        m.dst = dst;
        m.id = static_cast<uint32_t>(messages.size()) * 0x9e3779b9;
        messages.push_back(m);
      }
    }
    for (const uint8_t protocol : {0, 1, 2, 6, 17, 33, 47, 58, 132, 136, 255}) {
      TestMessage m = base;
      m.protocol = protocol;
      messages.push_back(m);
      m.has_ports = false;
      messages.push_back(m);
      m.tcp_state.reset();
      messages.push_back(m);
    }
    for (int state = 0; state <= 10; ++state) {
      TestMessage m = base;
      m.tcp_state = static_cast<uint8_t>(state);
      messages.push_back(m);
      // States of other protocols go by other numbers, and close nothing.
      m.tcp_state.reset();
      m.dccp_state = static_cast<uint8_t>(state);
      messages.push_back(m);
      m.dccp_state.reset();
      m.sctp_state = static_cast<uint8_t>(state);
      messages.push_back(m);
    }
    for (const uint32_t id : {0u, 1u, 2u, 3u, 4u, 5u, 60u, 0x01000000u, 0x7fffffffu, 0x80000000u,
                              0xfffffffeu, 0xffffffffu}) {
      TestMessage m = base;
      m.id = id;
      messages.push_back(m);
    }
    TestMessage m = base;
    m.id.reset();
    messages.push_back(m);
    m.tcp_state.reset();
    m.timeout_seconds.reset();
    m.status.reset();
    messages.push_back(m);
    m = base;
    m.id.reset();
    m.flags = 0x0500;  // No even number as big-endian loads see it, unlike the id, 0.
    messages.push_back(m);
    m = base;
    m.zone = 5;
    messages.push_back(m);
    m.zone_in_tuple = true;
    messages.push_back(m);
    m = base;
    m.reply_src = "100.64.0.1";
    m.reply_dst = "10.9.0.1";
    messages.push_back(m);
    m = base;
    m.has_reply_tuple = false;
    messages.push_back(m);
    m = base;
    m.original = m.reply = {.packets = 1, .bytes = 100};
    m.start_ns = m.stop_ns = m.event_ns = 1'600'000'000'000'000'000;
    m.timeout_seconds = 60;
    messages.push_back(m);
    m = base;
    m.src = "fd00::1";
    m.dst = "fd00::2";
    messages.push_back(m);
    m.protocol = 58;
    messages.push_back(m);
    // Attributes of unknown meaning: with what a rule looks for inside, or in its place.
    m = base;
    m.tcp_state.reset();
    m.first_attributes = Attribute(0x8000 | 99, Attribute(0x8001, std::string(8, '\x05')));
    m.last_attributes = Attribute(98, std::string("\x05\x00\x01\x00\x05\x00\x00\x00", 8));
    messages.push_back(m);
    // Flags that say nothing about the kind of event.
    for (const uint16_t flags : {0x0100, 0x0200, 0x0400, 0x0008, 0x0002, 0x0402, 0xfbfc}) {
      m = base;
      m.flags = flags;
      m.tcp_state = kTestTcpEstablished;
      messages.push_back(m);
    }
  }
  for (size_t i = messages.size(); i-- > 0;) {
    if (messages[i].src.find(':') == std::string::npos) messages.push_back(TwinOf(messages[i]));
  }
  std::vector<std::string> built;
  for (TestMessage& message : messages) {
    built.push_back(BuildMessage(message));
    // And not in the usual layout.
    message.first_attributes += Attribute(97, "");
    built.push_back(BuildMessage(message));
  }

  TestMessage done;
  done.kind = Kind::kDone;
  built.push_back(BuildMessage(done));
  TestMessage outside;
  outside.src = "11.1.0.1";
  const std::string flow = BuildMessage(outside);
  // Other messages of ctnetlink, other subsystems, other families: passed, whatever the rules.
  for (const uint16_t type : {0x0101, 0x0103, 0x0200, 0x0202, 0x0001, 0x0002, 0x0300, 0x8100}) {
    std::string other = flow;
    PutHost16(other, 4, type);
    built.push_back(other);
  }
  for (const int family : {0, 1, 3, 7, 9, 11, 255}) {
    std::string other = flow;
    other[16] = static_cast<char>(family);
    built.push_back(other);
  }
  for (size_t bytes = 0; bytes < 20; ++bytes) built.push_back(flow.substr(0, bytes));
  built.push_back(NetlinkMessage(0x0100, 0x0600, std::string("\x0a\0\0\0", 4)));  // IPv6, bare.
  return built;
}

// Flows in the kernel's usual layout, wanted and not, with one bit of any byte wrong.
std::vector<std::string> DamagedMessages(bool ipv6 = false) {
  std::vector<TestMessage> messages(3);
  messages[1].src = "11.1.0.1";
  messages[2].dst = "10.2.1.1";
  if (ipv6) {
    for (TestMessage& message : messages) message = TwinOf(message);
  }
  std::vector<std::string> damaged;
  for (const Kind kind : {Kind::kNew, Kind::kUpdate, Kind::kDestroy}) {
    for (TestMessage& message : messages) {
      message.kind = kind;
      message.timeout_seconds = 60;
      message.tcp_state = kTestTcpClose;
      message.event_ns = 1'600'000'000'000'000'000;
      for (const bool icmp : {false, true}) {
        std::string bytes = BuildMessage(message);
        if (icmp)
          bytes[ipv6 ? 76 : 52] =
              ipv6 ? 58 : 1;  // With ports: no ICMP tuple is of the usual length.
        for (size_t at = 16; at < bytes.size(); ++at) {
          std::string wrong = bytes;
          wrong[at] = static_cast<char>(wrong[at] ^ 0x40);
          damaged.push_back(std::move(wrong));
        }
        for (size_t size = ipv6 ? 180 : 132; size < bytes.size(); size += 4) {
          std::string cut = bytes.substr(0, size);
          PutHost32(cut, 0, static_cast<uint32_t>(size));
          damaged.push_back(std::move(cut));
        }
      }
    }
  }
  return damaged;
}

// --- Agreement ---

void ExpectAgreement(EventFilterRules rules, const std::vector<std::string>& messages) {
  SCOPED_TRACE(Describe(rules));
  std::vector<std::unique_ptr<FilteredSocket>> sockets;
  for (uint32_t worker = 0; worker < rules.workers; ++worker) {
    rules.worker = worker;
    sockets.push_back(std::make_unique<FilteredSocket>(BuildEventFilter(rules)));
    ASSERT_TRUE(sockets.back()->taken()) << "worker " << worker;
  }
  for (const std::string& message : messages) {
    const Judgement judgement = Judge(rules, message);
    uint32_t delivered = 0;
    bool to_owner = false;
    for (uint32_t worker = 0; worker < rules.workers; ++worker) {
      if (!sockets[worker]->Delivers(message)) continue;
      ++delivered;
      if (worker == OwnerOfFlow(judgement.id, rules.workers)) to_owner = true;
    }
    const auto trace = [&] { return absl::BytesToHexString(message); };
    switch (judgement.verdict) {
      case Verdict::kDrop:
        ASSERT_EQ(delivered, 0u) << trace();
        break;
      case Verdict::kOwner:
        ASSERT_EQ(delivered, 1u) << trace();
        ASSERT_TRUE(to_owner) << trace();
        break;
      case Verdict::kEverybody:
        ASSERT_EQ(delivered, rules.workers) << trace();
        break;
      case Verdict::kMalformed:
        ASSERT_LE(delivered, 1u) << trace();
        break;
    }
  }
}

TEST(EventFilterTest, AgreesWithUserSpaceOnBuiltMessages) {
  const std::vector<std::string> messages = BuiltMessages();
  for (const EventFilterRules& rules : RuleSets()) {
    ASSERT_NO_FATAL_FAILURE(ExpectAgreement(rules, messages));
  }
}

TEST(EventFilterTest, AgreesWithUserSpaceOnDamagedMessages) {
  const std::vector<std::string> messages = DamagedMessages();
  const std::vector<std::string> ipv6 = DamagedMessages(true);
  const std::vector<EventFilterRules> sets = RuleSets();
  for (size_t i = 0; i < sets.size(); i += 7) {
    EventFilterRules rules = sets[i];
    rules.workers = rules.include_icmp ? 1 : 3;
    ASSERT_NO_FATAL_FAILURE(ExpectAgreement(rules, messages));
    ASSERT_NO_FATAL_FAILURE(ExpectAgreement(rules, ipv6));
  }
}

// The longest possible lists. Jumps cross the whole program.
TEST(EventFilterTest, AgreesWithUserSpaceOnLongLists) {
  EventFilterRules rules;
  std::vector<Ipv4Cidr> networks;
  std::vector<Ipv4Address> exclude;
  for (size_t i = 0; i < kNetworksMax; ++i) {
    networks.push_back(Network(absl::StrCat("10.", i + 1 < kNetworksMax ? 100 + i : 1, ".0.0"),
                               i % 2 == 0 ? "255.254.0.0" : "255.255.0.0"));
    exclude.push_back(Address(absl::StrCat("10.", i % 2 + 1, ".0.", i < 14 ? 100 + i : i - 13)));
  }
  rules.ipv4 = {CidrList<Ipv4Address>(networks), CidrList<Ipv4Address>(networks),
                AddressList<Ipv4Address>(exclude)};
  rules.ipv4.dst = CidrList<Ipv4Address>({networks.back(), Network("10.2.0.0", "255.255.0.0")});
  rules.ipv6 = TwinOf(rules.ipv4);
  const std::vector<std::string> messages = BuiltMessages();
  for (const bool include_icmp : {false, true}) {
    rules.include_icmp = include_icmp;
    rules.workers = include_icmp ? 3 : 1;
    ASSERT_NO_FATAL_FAILURE(ExpectAgreement(rules, messages));
  }
  EXPECT_GT(BuildEventFilter(rules).size(), 600u);
}

// A filter that names only IPv4 networks admits only IPv4.
TEST(EventFilterTest, AFamilyThatNoNetworkIsOfIsDropped) {
  EventFilterRules rules;
  rules.include_icmp = true;
  rules.ipv4.src = Network("10.1.0.0", "255.255.0.0");
  rules.ipv6.src = kNothing;
  const FilteredSocket socket(BuildEventFilter(rules));
  EXPECT_TRUE(socket.Delivers(BuildMessage(TestMessage())));
  EXPECT_FALSE(socket.Delivers(BuildMessage(TwinOf(TestMessage()))));
  ASSERT_NO_FATAL_FAILURE(ExpectAgreement(rules, BuiltMessages()));
}

TEST(EventFilterTest, EachFlowHasOneWorker) {
  const std::vector<std::string> messages = BuiltMessages();
  for (const uint32_t workers : {1u, 2u, 3u, 4u, 5u, 16u, 60u, 64u}) {
    for (const bool include_icmp : {false, true}) {
      EventFilterRules rules = {.include_icmp = include_icmp, .workers = workers};
      ASSERT_NO_FATAL_FAILURE(ExpectAgreement(rules, messages));
      rules.ipv4.src = Network("10.0.0.0", "255.0.0.0");
      rules.ipv4.exclude = Address("10.2.0.2");
      rules.ipv6 = TwinOf(rules.ipv4);
      ASSERT_NO_FATAL_FAILURE(ExpectAgreement(rules, messages));
    }
  }
}

TEST(EventFilterTest, AgreesWithUserSpaceOnARealGateway) {
  const char* runfiles = std::getenv("TEST_SRCDIR");
  const std::string path =
      absl::StrCat(runfiles == nullptr ? "" : runfiles, "/ctacct/tests/captures/gateway.pcap");
  if (access(path.c_str(), R_OK) != 0) {
    const char* ci = std::getenv("CI");
    ASSERT_STRNE(ci == nullptr ? "" : ci, "true") << "no capture at " << path;
    GTEST_SKIP() << "no capture at " << path;
  }
  const auto capture = CaptureReader::Open(path);
  ASSERT_TRUE(capture.ok()) << capture.status();
  std::vector<std::string> messages;
  std::array<int, 4> kinds{};
  CapturedDatagram datagram;
  for (;;) {
    const absl::StatusOr<bool> more = (*capture)->Next(&datagram);
    ASSERT_TRUE(more.ok()) << more.status();
    if (!*more) break;
    DatagramCursor cursor(datagram.data, datagram.bytes);
    struct NetlinkMessage message;
    while (cursor.Next(&message)) {
      messages.emplace_back(reinterpret_cast<const char*>(message.data), message.bytes);
      FlowEvent event;
      if (ParseFlowMessage(message, &event) == ParseResult::kFlow) {
        ++kinds[static_cast<size_t>(event.kind)];
      }
    }
  }
  for (const int messages_of_kind : kinds) EXPECT_GT(messages_of_kind, 100);

  const Ipv4Cidr gateway = Network("10.32.0.0", "255.224.0.0");
  const Ipv4Cidr some = Network("10.32.0.0", "255.248.0.0");
  for (uint32_t workers = 1; workers <= 5; ++workers) {
    for (const bool include_icmp : {false, true}) {
      const EventFilterRules all = {.include_icmp = include_icmp, .workers = workers};
      EventFilterRules rules = all;
      ASSERT_NO_FATAL_FAILURE(ExpectAgreement(rules, messages));
      rules.ipv4.src = rules.ipv4.dst = gateway;
      ASSERT_NO_FATAL_FAILURE(ExpectAgreement(rules, messages));
      rules.ipv4.src = some;
      rules.ipv4.dst = Network("0.0.0.1", "0.0.0.1");
      ASSERT_NO_FATAL_FAILURE(ExpectAgreement(rules, messages));
      rules = all;
      rules.ipv4.exclude = Address("10.32.0.1");
      ASSERT_NO_FATAL_FAILURE(ExpectAgreement(rules, messages));
    }
  }
}

// --- Messages whose attributes stand in any order, among unknown ones ---

struct Attr {
  uint16_t type;
  std::string payload;
};

std::vector<Attr> SplitAttributes(const std::string& bytes) {
  std::vector<Attr> attributes;
  for (size_t at = 0; at + 4 <= bytes.size();) {
    uint16_t length = 0;
    uint16_t type = 0;
    memcpy(&length, bytes.data() + at, 2);
    memcpy(&type, bytes.data() + at + 2, 2);
    attributes.push_back({type, bytes.substr(at + 4, length - 4u)});
    at += (length + 3u) & ~3u;
  }
  return attributes;
}

using Random = std::mt19937;

bool Chance(Random& random, int percent) {
  return std::uniform_int_distribution<>(0, 99)(random) < percent;
}

template <typename T>
const T& OneOf(Random& random, const std::vector<T>& values) {
  return values[std::uniform_int_distribution<size_t>(0, values.size() - 1)(random)];
}

// No type that conntrack has, but with the upper bits at random, and a payload that looks like what
// a filter searches.
std::string UnknownAttribute(Random& random) {
  const auto type =
      static_cast<uint16_t>(std::uniform_int_distribution<>(200, 0x3fff)(random) |
                            (Chance(random, 50) ? 0x8000 : 0) | (Chance(random, 20) ? 0x4000 : 0));
  std::string payload;
  while (Chance(random, 50)) {
    payload += Attribute(static_cast<uint16_t>(std::uniform_int_distribution<>(0, 12)(random)),
                         std::string(std::uniform_int_distribution<size_t>(0, 9)(random), '\x05'));
  }
  return Attribute(type, payload);
}

std::string ShuffledAttributes(Random& random, const std::string& bytes) {
  std::vector<std::string> parts;
  for (const Attr& attribute : SplitAttributes(bytes)) {
    uint16_t type = attribute.type;
    std::string payload = attribute.payload;
    if ((type & 0x8000) != 0) {
      payload = ShuffledAttributes(random, payload);
      // Kernels have not always marked nests.
      if (Chance(random, 30)) type &= 0x7fff;
    }
    parts.push_back(Attribute(type, payload));
  }
  while (Chance(random, 40)) parts.push_back(UnknownAttribute(random));
  std::shuffle(parts.begin(), parts.end(), random);
  std::string out;
  for (const std::string& part : parts) out += part;
  return out;
}

std::string Shuffled(Random& random, const std::string& message) {
  if (message.size() <= 20) return message;
  std::string out = message.substr(0, 20) + ShuffledAttributes(random, message.substr(20));
  PutHost32(out, 0, static_cast<uint32_t>(out.size()));
  return out;
}

EventFilterRules RandomRules(Random& random) {
  const auto addresses = [&random] {
    const auto networks = [&random] {
      std::vector<Ipv4Cidr> list = {OneOf(random, EdgeNetworks())};
      while (list.size() < kNetworksMax && Chance(random, 60)) {
        list.push_back(OneOf(random, EdgeNetworks()));
      }
      return CidrList<Ipv4Address>(list);
    };
    std::vector<Ipv4Address> exclude;
    while (Chance(random, 50)) {
      if (const auto one = OneOf(random, EdgeExcludes()); one.has_value()) exclude.push_back(*one);
    }
    return AddressRules<Ipv4Address>{networks(), networks(), AddressList<Ipv4Address>(exclude)};
  };
  EventFilterRules rules;
  rules.ipv4 = addresses();
  rules.ipv6 = TwinOf(addresses());
  if (Chance(random, 10)) rules.ipv6.src = kNothing;
  if (Chance(random, 10)) rules.ipv6.dst = kNothing;
  rules.include_icmp = Chance(random, 50);
  rules.workers = std::uniform_int_distribution<uint32_t>(1, 5)(random);
  return rules;
}

// Repeat a failure with the environment variable SEED.
Random SeededRandom() {
  const char* given = std::getenv("SEED");
  const auto seed = given != nullptr ? static_cast<uint32_t>(std::strtoul(given, nullptr, 10))
                                     : std::random_device()();
  std::cout << "SEED=" << seed << std::endl;
  return Random(seed);
}

TEST(EventFilterTest, AgreesWithUserSpaceWhateverTheOrderOfAttributes) {
  Random random = SeededRandom();
  const std::vector<std::string> messages = BuiltMessages();
  for (int round = 0; round < 200; ++round) {
    std::vector<std::string> shuffled;
    for (const std::string& message : messages) shuffled.push_back(Shuffled(random, message));
    ASSERT_NO_FATAL_FAILURE(ExpectAgreement(RandomRules(random), shuffled));
  }
}

// The types and the family that rules judge.
std::vector<std::string> BuiltFlowMessages() {
  std::vector<std::string> messages = BuiltMessages();
  std::erase_if(messages, [](const std::string& message) {
    return message.size() <= 20 || (message[4] != 0 && message[4] != 2) || message[5] != 1 ||
           (message[16] != AF_INET && message[16] != AF_INET6);
  });
  return messages;
}

TEST(EventFilterTest, AMessageCutOffReachesOneWorkerAtMost) {
  Random random = SeededRandom();
  const std::vector<std::string> messages = BuiltFlowMessages();
  for (int round = 0; round < 100; ++round) {
    std::vector<std::string> cut;
    for (const std::string& message : messages) {
      std::string bytes = Chance(random, 50) ? message : Shuffled(random, message);
      bytes.resize(std::uniform_int_distribution<size_t>(20, bytes.size())(random));
      if (Chance(random, 80)) PutHost32(bytes, 0, static_cast<uint32_t>(bytes.size()));
      cut.push_back(std::move(bytes));
    }
    ASSERT_NO_FATAL_FAILURE(ExpectAgreement(RandomRules(random), cut));
  }
}

// What the parser makes of such a message does not matter to the filter: an attribute may occur
// twice in it.
TEST(EventFilterTest, AMessageWhoseLengthsLieReachesOneWorkerAtMost) {
  Random random = SeededRandom();
  const std::vector<std::string> messages = BuiltFlowMessages();
  for (int round = 0; round < 100; ++round) {
    EventFilterRules rules = RandomRules(random);
    std::vector<std::unique_ptr<FilteredSocket>> sockets;
    for (rules.worker = 0; rules.worker < rules.workers; ++rules.worker) {
      sockets.push_back(std::make_unique<FilteredSocket>(BuildEventFilter(rules)));
    }
    for (std::string message : messages) {
      const size_t at =
          std::uniform_int_distribution<size_t>(20, message.size() - 2)(random) & ~size_t{3};
      const int lie = std::uniform_int_distribution<>(0, Chance(random, 80) ? 80 : 0xffff)(random);
      PutHost16(message, at, static_cast<uint16_t>(lie));
      const auto deliveries =
          std::count_if(sockets.begin(), sockets.end(),
                        [&](const auto& socket) { return socket->Delivers(message); });
      ASSERT_LE(deliveries, 1) << absl::BytesToHexString(message);
    }
  }
}

// --- Messages without an attribute that a rule needs ---

std::string AddressAttribute(uint16_t type, const std::string& address) {
  return Attribute(type, BigEndian32(Address(address).ToHostOrder()));
}

std::string NewFlow(const std::string& attributes) {
  return NetlinkMessage(0x0100, 0x0600, std::string("\x02\0\0\0", 4) + attributes);
}

// Messages of flow 7, incomplete, that match the rules of IncompleteMessagesPass as far as they
// can.
std::vector<std::string> IncompleteMessages() {
  const std::string src = AddressAttribute(1, "10.1.0.1");
  const std::string dst = AddressAttribute(2, "10.2.0.1");
  const std::string ip = Attribute(0x8001, src + dst);
  const std::string proto = Attribute(0x8002, Attribute(1, "\x06"));
  const std::string ports = Attribute(2, BigEndian16(1)) + Attribute(3, BigEndian16(2));
  const auto flow = [](const std::string& tuple) {
    return NewFlow(Attribute(0x8001, tuple) + Attribute(12, BigEndian32(7)));
  };
  return {
      NewFlow(Attribute(12, BigEndian32(7))),
      NewFlow(Attribute(0x8002, ip + proto) + Attribute(12, BigEndian32(7))),  // Reply only.
      flow(""),
      flow(proto),
      flow(Attribute(0x8001, "") + proto),
      flow(Attribute(0x8001, dst) + proto),
      flow(Attribute(0x8001, src) + proto),
      flow(ip),
      flow(ip + Attribute(0x8002, "")),
      flow(ip + Attribute(0x8002, ports)),
  };
}

TEST(EventFilterTest, IncompleteMessagesPass) {
  for (uint32_t workers = 1; workers <= 5; ++workers) {
    for (const char* exclude : {"10.9.0.1", "0.0.0.0"}) {
      EventFilterRules rules;
      rules.ipv4.src = Network("10.1.0.0", "255.255.0.0");
      rules.ipv4.dst = Network("10.2.0.0", "255.255.0.0");
      rules.ipv4.exclude = Address(exclude);
      rules.workers = workers;
      for (rules.worker = 0; rules.worker < workers; ++rules.worker) {
        const FilteredSocket socket(BuildEventFilter(rules));
        const bool owner = rules.worker == OwnerOfFlow(7, workers);
        for (const std::string& message : IncompleteMessages()) {
          EXPECT_EQ(static_cast<int>(Judge(rules, message).verdict),
                    static_cast<int>(Verdict::kMalformed));
          EXPECT_EQ(socket.Delivers(message), owner) << absl::BytesToHexString(message);
        }
      }
    }
  }
}

// --- The tests above notice every wrong instruction ---

// Programs that differ in one instruction: a jump that always or never jumps, another number. A
// message wrongly taken as unusual only takes the slower path and gets the same verdict. So of the
// jumps that check the layout, only those that never jump are included.
std::vector<std::vector<sock_filter>> Mutants(const std::vector<sock_filter>& program) {
  size_t search = 0;
  while (BPF_CLASS(program[search].code) != BPF_RET) ++search;
  ++search;
  const auto is_look = [&](size_t i) {
    return BPF_CLASS(program[i].code) == BPF_JMP && i + 1 + program[i].jf == search;
  };
  std::vector<std::vector<sock_filter>> mutants;
  for (size_t i = 0; i < program.size(); ++i) {
    const auto add = [&](sock_filter instead) {
      mutants.push_back(program);
      mutants.back()[i] = instead;
    };
    const sock_filter& code = program[i];
    sock_filter other = code;
    if (BPF_CLASS(code.code) == BPF_JMP) {
      add(BPF_STMT(BPF_JMP | BPF_JA, code.jt));
      if (is_look(i)) continue;
      add(BPF_STMT(BPF_JMP | BPF_JA, code.jf));
      other.k ^= 1;
    } else if (i + 1 < program.size() && is_look(i + 1)) {
      continue;
    } else if (BPF_CLASS(code.code) == BPF_RET) {
      other.k = ~code.k;
    } else if (BPF_CLASS(code.code) == BPF_MISC || code.code == (BPF_LD | BPF_W | BPF_LEN)) {
      other = BPF_STMT(BPF_JMP | BPF_JA, 0);
    } else {
      other.k ^= 1;
    }
    add(other);
  }
  return mutants;
}

// A search that continues from offset 0 reads the message header as an attribute with the message
// type as its length; the next attribute, at 260, is then `decoy`.
std::string WithDecoy(std::string message, const std::string& decoy) {
  message += Attribute(99, std::string(256 - message.size(), '\0') + decoy);
  PutHost32(message, 0, static_cast<uint32_t>(message.size()));
  return message;
}

TEST(EventFilterTest, EveryInstructionMatters) {
  std::vector<std::string> messages = BuiltMessages();
  Random random(1);
  for (int i = 0; i < 3; ++i) {
    for (const std::string& message : BuiltFlowMessages()) {
      messages.push_back(Shuffled(random, message));
    }
  }
  for (const std::string& message : DamagedMessages()) messages.push_back(message);
  std::vector<std::string> incomplete = IncompleteMessages();
  TestMessage update;
  update.kind = Kind::kUpdate;
  update.src = "10.1.0.3";
  update.id = 7;
  incomplete.push_back(BuildMessage(update));
  update.last_attributes = Attribute(0x8004, "");
  incomplete.push_back(BuildMessage(update));
  for (const std::string& message : incomplete) {
    messages.push_back(message);
    messages.push_back(WithDecoy(message, Attribute(1, AddressAttribute(1, "10.9.0.2"))));
    for (const char* byte : {"\x01", "\x05"}) {
      messages.push_back(WithDecoy(message, Attribute(1, byte)));
      messages.push_back(WithDecoy(message, Attribute(1, Attribute(1, byte))));
    }
  }
  for (const uint32_t workers : {1u, 2u, 3u}) {
    EventFilterRules rules;
    rules.ipv4.src = Network("10.1.0.0", "255.255.0.0");
    rules.ipv4.dst = Network("10.0.0.0", "255.0.255.0");
    rules.ipv4.exclude = Address("10.1.0.2");
    rules.ipv6.src = kNothing;  // Its program is made by the same functions.
    rules.workers = workers;
    // Of two workers, who own id 0 and most other messages. Their programs are the same but for one
    // number, and so are the mutants.
    std::vector<std::vector<sock_filter>> programs;
    std::vector<std::vector<std::vector<sock_filter>>> mutants;
    std::vector<std::vector<bool>> expected;
    for (rules.worker = 0; rules.worker < std::min(workers, 2u); ++rules.worker) {
      programs.push_back(BuildEventFilter(rules));
      mutants.push_back(Mutants(programs.back()));
      const FilteredSocket socket(programs.back());
      expected.emplace_back();
      for (const std::string& message : messages) {
        expected.back().push_back(socket.Delivers(message));
      }
    }
    const auto is_noticed = [&](size_t worker, size_t mutant) {
      const FilteredSocket socket(mutants[worker][mutant]);
      if (!socket.taken()) return true;
      for (size_t i = 0; i < messages.size(); ++i) {
        if (socket.Delivers(messages[i]) != expected[worker][i]) return true;
      }
      return false;
    };
    for (size_t m = 0; m < mutants[0].size(); ++m) {
      if (is_noticed(0, m) || (workers > 1 && is_noticed(1, m))) continue;
      const std::vector<sock_filter>& mutant = mutants[0][m];
      size_t at = 0;
      while (memcmp(&mutant[at], &programs[0][at], sizeof(sock_filter)) == 0) ++at;
      ADD_FAILURE() << absl::StrCat(workers, " workers: instruction ", at, " of ", mutant.size(),
                                    " may as well be code 0x", absl::Hex(mutant[at].code), ", k 0x",
                                    absl::Hex(mutant[at].k));
    }
  }
}

// --- The assembler ---

constexpr uint16_t kLoad = BPF_LD | BPF_IMM;
constexpr uint16_t kReturn = BPF_RET | BPF_K;

void AddNumbered(FilterAssembler& assembler, size_t instructions) {
  for (size_t i = 0; i < instructions; ++i) assembler.Add(kLoad, static_cast<uint32_t>(i));
}

TEST(FilterAssemblerTest, TurnsLabelsIntoOffsets) {
  FilterAssembler assembler;
  const auto near = assembler.NewLabel();
  const auto far = assembler.NewLabel();
  assembler.Add(kLoad, 4);
  assembler.JumpIf(BPF_JEQ, 1, far);
  assembler.JumpUnless(BPF_JSET, 2, near);
  assembler.JumpIf(BPF_JGE, 3, near);
  assembler.Bind(near);
  assembler.Add(kReturn, 5);
  assembler.Bind(far);
  assembler.Add(kReturn, 6);
  const auto program = assembler.Assemble();
  ASSERT_TRUE(program.ok()) << program.status();
  const std::vector<sock_filter> expected = {
      BPF_STMT(kLoad, 4),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 1, 3, 0),
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 2, 0, 1),
      BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 3, 0, 0),
      BPF_STMT(kReturn, 5),
      BPF_STMT(kReturn, 6),
  };
  ASSERT_EQ(program->size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(memcmp(&(*program)[i], &expected[i], sizeof(sock_filter)), 0) << i;
  }
}

// A jump over more than 255 instructions is made by another one behind it, which has 32 bits.
TEST(FilterAssemblerTest, JumpsAsFarAsNeeded) {
  for (const size_t between : {0u, 255u, 256u, 300u, 4000u}) {
    for (const bool jump_if : {false, true}) {
      FilterAssembler assembler;
      const auto target = assembler.NewLabel();
      // A load of the length: 8.
      assembler.Add(BPF_LD | BPF_W | BPF_LEN, 0);
      if (jump_if) {
        assembler.JumpIf(BPF_JEQ, 8, target);
      } else {
        assembler.JumpUnless(BPF_JEQ, 9, target);
      }
      for (size_t i = 0; i < between; ++i) assembler.Add(kReturn, 0);
      assembler.Bind(target);
      assembler.Add(kReturn, 0xffffffff);
      const auto program = assembler.Assemble();
      ASSERT_TRUE(program.ok()) << program.status();
      EXPECT_EQ(program->size(), 3 + between + (between > 255 ? 1 : 0));
      const FilteredSocket socket(*program);
      // The kernel refuses a program with instructions that nothing reaches only if they are wrong.
      ASSERT_TRUE(socket.taken());
      EXPECT_TRUE(socket.Delivers("12345678")) << between;
      EXPECT_EQ(socket.Delivers("123456789"), between == 0) << between;
    }
  }
}

TEST(FilterAssemblerTest, RefusesJumpsToNowhere) {
  FilterAssembler unbound;
  unbound.JumpIf(BPF_JEQ, 0, unbound.NewLabel());
  unbound.Add(kReturn, 0);
  EXPECT_THAT(std::string(unbound.Assemble().status().message()), HasSubstr("nowhere"));

  FilterAssembler past_the_end;
  const auto end = past_the_end.NewLabel();
  past_the_end.JumpUnless(BPF_JEQ, 0, end);
  past_the_end.Add(kReturn, 0);
  past_the_end.Bind(end);
  EXPECT_THAT(std::string(past_the_end.Assemble().status().message()), HasSubstr("nowhere"));
}

TEST(FilterAssemblerTest, RefusesJumpsBackwards) {
  FilterAssembler assembler;
  const auto start = assembler.NewLabel();
  assembler.Bind(start);
  assembler.JumpIf(BPF_JEQ, 0, start);
  assembler.Add(kReturn, 0);
  EXPECT_THAT(std::string(assembler.Assemble().status().message()), HasSubstr("backwards"));
}

TEST(FilterAssemblerTest, RefusesWhatTheKernelFindsTooLong) {
  FilterAssembler assembler;
  AddNumbered(assembler, BPF_MAXINSNS - 1);
  assembler.Add(kReturn, 0);
  const auto longest = assembler.Assemble();
  ASSERT_TRUE(longest.ok()) << longest.status();
  EXPECT_TRUE(FilteredSocket(*longest).taken());
  assembler.Add(kReturn, 0);
  EXPECT_FALSE(assembler.Assemble().ok());
}

}  // namespace
}  // namespace ctacct
