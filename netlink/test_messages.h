// Conntrack netlink messages for tests, built byte by byte from the kernel's format and not with
// the code under test.
//
//   TestMessage flow = {.src = "10.1.0.1", .dst = "10.2.0.1", .dst_port = 443, .id = 7};
//   TestMessage destroy = flow;
//   destroy.kind = TestMessage::Kind::kDestroy;
//   destroy.original = {{.packets = 4, .bytes = 400}};
//   destroy.reply = {{.packets = 3, .bytes = 300}};
//   std::string bytes = BuildMessage(destroy);
//
// Nothing depends on the kind but the header: an attribute is there if its field is set, so any
// message that a kernel may send, and many that it never would, can be had.
#ifndef CTACCT_NETLINK_TEST_MESSAGES_H_
#define CTACCT_NETLINK_TEST_MESSAGES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace ctacct {

struct TestCounters {
  uint64_t packets = 0;
  uint64_t bytes = 0;
};

struct TestMessage {
  enum class Kind {
    kNew,      // IPCTNL_MSG_CT_NEW, NLM_F_CREATE | NLM_F_EXCL
    kUpdate,   // IPCTNL_MSG_CT_NEW, no flags
    kDestroy,  // IPCTNL_MSG_CT_DELETE, no flags
    kDump,     // IPCTNL_MSG_CT_NEW, NLM_F_MULTI: one entry of a table dump
    kDone,     // NLMSG_DONE, NLM_F_MULTI: the dump's end; of the other fields only those of the
               // netlink header count
  };
  Kind kind = Kind::kNew;

  // The original direction's tuple. Addresses with a colon make the message an IPv6 one. ICMP (1)
  // and ICMPv6 (58) take src_port as the id and dst_port as type << 8 | code, and have no ports.
  std::string src = "10.1.0.1";
  std::string dst = "10.2.0.1";
  uint8_t protocol = 6;
  uint16_t src_port = 40000;
  uint16_t dst_port = 443;

  // The reply direction's tuple is the mirror of the original unless named otherwise: NAT.
  std::optional<std::string> reply_src = {};
  std::optional<std::string> reply_dst = {};
  std::optional<uint16_t> reply_src_port = {};
  std::optional<uint16_t> reply_dst_port = {};

  bool has_original_tuple = true;
  bool has_reply_tuple = true;
  bool has_ports = true;  // Of both tuples.

  // CTA_ZONE, as for `ct zone set`; with zone_in_tuple as CTA_TUPLE_ZONE inside the original tuple,
  // as for `ct original zone set`.
  std::optional<uint16_t> zone = {};
  bool zone_in_tuple = false;

  std::optional<uint32_t> id = 1;
  std::optional<uint32_t> status = 0x18e;  // ASSURED, CONFIRMED, SEEN_REPLY and NAT done.
  std::optional<uint32_t> timeout_seconds = {};
  std::optional<TestCounters> original = {};
  std::optional<TestCounters> reply = {};

  // CTA_PROTOINFO, of the one protocol whose state is set.
  std::optional<uint8_t> tcp_state = {};
  std::optional<uint8_t> dccp_state = {};
  std::optional<uint8_t> sctp_state = {};

  std::optional<int64_t> start_ns = {};  // CTA_TIMESTAMP is there if one of the two is.
  std::optional<int64_t> stop_ns = {};
  std::optional<int64_t> event_ns = {};  // CTA_TIMESTAMP_EVENT, 27.

  // The netlink header.
  std::optional<uint16_t> flags = {};  // Instead of the kind's.
  uint32_t sequence = 0;               // Events have 0, a dump's replies the request's number.
  uint32_t port_id = 0;

  // Whole attributes (see Attribute) put before and after the others.
  std::string first_attributes = {};
  std::string last_attributes = {};
};

// TCP states by the kernel's numbers, for tcp_state.
inline constexpr uint8_t kTestTcpSynSent = 1;
inline constexpr uint8_t kTestTcpSynReceived = 2;
inline constexpr uint8_t kTestTcpEstablished = 3;
inline constexpr uint8_t kTestTcpFinWait = 4;
inline constexpr uint8_t kTestTcpCloseWait = 5;
inline constexpr uint8_t kTestTcpLastAck = 6;
inline constexpr uint8_t kTestTcpTimeWait = 7;
inline constexpr uint8_t kTestTcpClose = 8;

// The message, padded to four bytes: messages can be appended to each other to make a datagram.
// Aborts if the text is not an address.
[[nodiscard]] std::string BuildMessage(const TestMessage& message);

// --- The parts, for tests that break a message ---

// One attribute: header, payload, padding. `type` with 0x8000 (NLA_F_NESTED) for a nest.
[[nodiscard]] std::string Attribute(uint16_t type, std::string_view payload);

// A netlink message with the header's length right, padded.
[[nodiscard]] std::string NetlinkMessage(uint16_t type, uint16_t flags, std::string_view payload,
                                         uint32_t sequence = 0, uint32_t port_id = 0);

// Big-endian numbers, as conntrack's attributes have them.
[[nodiscard]] std::string BigEndian16(uint16_t value);
[[nodiscard]] std::string BigEndian32(uint32_t value);
[[nodiscard]] std::string BigEndian64(uint64_t value);

// Host order (netlink's own headers): at `offset` of `bytes`. Aborts past the end.
void PutHost16(std::string& bytes, size_t offset, uint16_t value);
void PutHost32(std::string& bytes, size_t offset, uint32_t value);

}  // namespace ctacct

#endif  // CTACCT_NETLINK_TEST_MESSAGES_H_
