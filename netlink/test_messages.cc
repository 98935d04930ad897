#include "netlink/test_messages.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace ctacct {
namespace {

// The kernel's numbers, by hand: a mistake in a header or in our parser shall not be mirrored here.
constexpr uint16_t kNested = 0x8000;
constexpr uint16_t kNetlinkDone = 3;
constexpr uint16_t kConntrackNew = 0x0100;
constexpr uint16_t kConntrackDelete = 0x0102;
constexpr uint16_t kFlagMulti = 0x0002;
constexpr uint16_t kFlagsNew = 0x0600;  // NLM_F_CREATE | NLM_F_EXCL

constexpr uint16_t kTupleOriginal = 1;
constexpr uint16_t kTupleReply = 2;
constexpr uint16_t kStatus = 3;
constexpr uint16_t kProtoInfo = 4;
constexpr uint16_t kTimeout = 7;
constexpr uint16_t kCountersOriginal = 9;
constexpr uint16_t kCountersReply = 10;
constexpr uint16_t kId = 12;
constexpr uint16_t kZone = 18;
constexpr uint16_t kTimestamp = 20;
constexpr uint16_t kTimestampEvent = 27;

[[noreturn]] void Die(const char* what, const std::string& value) {
  std::fprintf(stderr, "test_messages: %s: %s\n", what, value.c_str());
  std::abort();
}

size_t Padded(size_t size) { return (size + 3) & ~size_t{3}; }

bool IsIpv6(const std::string& address) { return address.find(':') != std::string::npos; }

std::string AddressBytes(const std::string& text) {
  const bool v6 = IsIpv6(text);
  char bytes[16];
  if (inet_pton(v6 ? AF_INET6 : AF_INET, text.c_str(), bytes) != 1) Die("no address", text);
  return std::string(bytes, v6 ? 16 : 4);
}

std::string Tuple(uint16_t type, const TestMessage& message, const std::string& src,
                  const std::string& dst, uint16_t src_port, uint16_t dst_port) {
  const bool v6 = IsIpv6(src);
  std::string ip = Attribute(v6 ? 3 : 1, AddressBytes(src));
  ip += Attribute(v6 ? 4 : 2, AddressBytes(dst));
  std::string proto = Attribute(1, std::string(1, static_cast<char>(message.protocol)));
  if (message.has_ports) {
    if (message.protocol == IPPROTO_ICMP || message.protocol == IPPROTO_ICMPV6) {
      const uint16_t first = message.protocol == IPPROTO_ICMP ? 4 : 7;
      proto += Attribute(first, BigEndian16(message.src_port));
      proto += Attribute(first + 1, std::string(1, static_cast<char>(message.dst_port >> 8)));
      proto += Attribute(first + 2, std::string(1, static_cast<char>(message.dst_port & 0xff)));
    } else {
      proto += Attribute(2, BigEndian16(src_port));
      proto += Attribute(3, BigEndian16(dst_port));
    }
  }
  std::string nest = Attribute(1 | kNested, ip) + Attribute(2 | kNested, proto);
  if (type == kTupleOriginal && message.zone_in_tuple && message.zone.has_value()) {
    nest += Attribute(3, BigEndian16(*message.zone));
  }
  return Attribute(type | kNested, nest);
}

std::string Counters(uint16_t type, const TestCounters& counters) {
  return Attribute(type | kNested, Attribute(1, BigEndian64(counters.packets)) +
                                       Attribute(2, BigEndian64(counters.bytes)));
}

// `protocol` is the nest's type within CTA_PROTOINFO; the state is the first attribute in each.
std::string ProtoInfo(uint16_t protocol, uint8_t state) {
  std::string inner = Attribute(1, std::string(1, static_cast<char>(state)));
  if (protocol == 1) {  // TCP: as the kernel, window scales and flags follow the state.
    inner += Attribute(2, std::string(1, 7)) + Attribute(3, std::string(1, 7));
    inner += Attribute(4, std::string("\x23\x00", 2)) + Attribute(5, std::string("\x23\x00", 2));
  }
  return Attribute(kProtoInfo | kNested, Attribute(protocol | kNested, inner));
}

std::string Attributes(const TestMessage& m) {
  std::string out = m.first_attributes;
  if (m.has_original_tuple) {
    out += Tuple(kTupleOriginal, m, m.src, m.dst, m.src_port, m.dst_port);
  }
  if (m.has_reply_tuple) {
    out += Tuple(kTupleReply, m, m.reply_src.value_or(m.dst), m.reply_dst.value_or(m.src),
                 m.reply_src_port.value_or(m.dst_port), m.reply_dst_port.value_or(m.src_port));
  }
  if (m.zone.has_value() && !m.zone_in_tuple) out += Attribute(kZone, BigEndian16(*m.zone));
  if (m.id.has_value()) out += Attribute(kId, BigEndian32(*m.id));
  if (m.status.has_value()) out += Attribute(kStatus, BigEndian32(*m.status));
  if (m.timeout_seconds.has_value()) out += Attribute(kTimeout, BigEndian32(*m.timeout_seconds));
  if (m.original.has_value()) out += Counters(kCountersOriginal, *m.original);
  if (m.reply.has_value()) out += Counters(kCountersReply, *m.reply);
  if (m.start_ns.has_value() || m.stop_ns.has_value()) {
    std::string nest;
    if (m.start_ns.has_value()) nest += Attribute(1, BigEndian64(*m.start_ns));
    if (m.stop_ns.has_value()) nest += Attribute(2, BigEndian64(*m.stop_ns));
    out += Attribute(kTimestamp | kNested, nest);
  }
  if (m.tcp_state.has_value()) out += ProtoInfo(1, *m.tcp_state);
  if (m.dccp_state.has_value()) out += ProtoInfo(2, *m.dccp_state);
  if (m.sctp_state.has_value()) out += ProtoInfo(3, *m.sctp_state);
  if (m.event_ns.has_value()) out += Attribute(kTimestampEvent, BigEndian64(*m.event_ns));
  return out + m.last_attributes;
}

}  // namespace

std::string BuildMessage(const TestMessage& m) {
  uint16_t type = kConntrackNew;
  uint16_t flags = 0;
  switch (m.kind) {
    case TestMessage::Kind::kNew:
      flags = kFlagsNew;
      break;
    case TestMessage::Kind::kUpdate:
      break;
    case TestMessage::Kind::kDestroy:
      type = kConntrackDelete;
      break;
    case TestMessage::Kind::kDump:
      flags = kFlagMulti;
      break;
    case TestMessage::Kind::kDone:
      return NetlinkMessage(kNetlinkDone, m.flags.value_or(kFlagMulti), std::string(4, '\0'),
                            m.sequence, m.port_id);
  }
  // struct nfgenmsg: family, version 0, resource id 0.
  std::string payload(4, '\0');
  payload[0] = IsIpv6(m.src) ? AF_INET6 : AF_INET;
  return NetlinkMessage(type, m.flags.value_or(flags), payload + Attributes(m), m.sequence,
                        m.port_id);
}

std::string Attribute(uint16_t type, std::string_view payload) {
  const size_t size = 4 + payload.size();
  if (size > 0xffff) Die("attribute too long", std::to_string(size));
  std::string out(4, '\0');
  PutHost16(out, 0, static_cast<uint16_t>(size));
  PutHost16(out, 2, type);
  out += payload;
  out.resize(Padded(size));
  return out;
}

std::string NetlinkMessage(uint16_t type, uint16_t flags, std::string_view payload,
                           uint32_t sequence, uint32_t port_id) {
  const size_t size = 16 + payload.size();
  std::string out(16, '\0');
  PutHost32(out, 0, static_cast<uint32_t>(size));
  PutHost16(out, 4, type);
  PutHost16(out, 6, flags);
  PutHost32(out, 8, sequence);
  PutHost32(out, 12, port_id);
  out += payload;
  out.resize(Padded(size));
  return out;
}

std::string BigEndian16(uint16_t value) {
  return {static_cast<char>(value >> 8), static_cast<char>(value)};
}

std::string BigEndian32(uint32_t value) {
  return BigEndian16(static_cast<uint16_t>(value >> 16)) +
         BigEndian16(static_cast<uint16_t>(value));
}

std::string BigEndian64(uint64_t value) {
  return BigEndian32(static_cast<uint32_t>(value >> 32)) +
         BigEndian32(static_cast<uint32_t>(value));
}

void PutHost16(std::string& bytes, size_t offset, uint16_t value) {
  if (offset + sizeof value > bytes.size()) Die("offset past the end", std::to_string(offset));
  std::memcpy(bytes.data() + offset, &value, sizeof value);
}

void PutHost32(std::string& bytes, size_t offset, uint32_t value) {
  if (offset + sizeof value > bytes.size()) Die("offset past the end", std::to_string(offset));
  std::memcpy(bytes.data() + offset, &value, sizeof value);
}

}  // namespace ctacct
