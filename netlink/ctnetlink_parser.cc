#include "netlink/ctnetlink_parser.h"

#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include <cstring>

namespace ctacct {
namespace {

// Newer than the kernel headers of Debian 12 (added in kernel 6.14).
constexpr uint16_t kCtaTimestampEvent = 27;

constexpr size_t kMessageHeaderBytes = sizeof(nlmsghdr);
constexpr size_t kFlowHeaderBytes = kMessageHeaderBytes + sizeof(nfgenmsg);
constexpr size_t kAttributeHeaderBytes = sizeof(nlattr);
constexpr uint16_t kConntrackType = NFNL_SUBSYS_CTNETLINK << 8;

template <typename T>
T LoadNative(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

uint16_t LoadBigEndian16(const uint8_t* bytes) {
  return __builtin_bswap16(LoadNative<uint16_t>(bytes));
}
uint32_t LoadBigEndian32(const uint8_t* bytes) {
  return __builtin_bswap32(LoadNative<uint32_t>(bytes));
}
uint64_t LoadBigEndian64(const uint8_t* bytes) {
  return __builtin_bswap64(LoadNative<uint64_t>(bytes));
}

constexpr size_t AlignedTo4(size_t bytes) { return (bytes + 3) & ~size_t{3}; }

// The attributes of one container. Usage: while (reader.Next()) ...; return reader.ok().
class AttributeReader {
 public:
  AttributeReader(const uint8_t* data, size_t bytes) : next_(data), left_(bytes) {}

  bool Next() {
    if (left_ == 0) return false;
    if (left_ < kAttributeHeaderBytes) return Fail();
    const size_t length = LoadNative<uint16_t>(next_);
    if (length < kAttributeHeaderBytes || length > left_) return Fail();
    type_ = LoadNative<uint16_t>(next_ + 2) & NLA_TYPE_MASK;
    payload_ = next_ + kAttributeHeaderBytes;
    payload_bytes_ = length - kAttributeHeaderBytes;
    // The last attribute of a container may end without its padding.
    const size_t step = AlignedTo4(length) < left_ ? AlignedTo4(length) : left_;
    next_ += step;
    left_ -= step;
    return true;
  }

  uint16_t type() const { return type_; }
  const uint8_t* payload() const { return payload_; }
  size_t bytes() const { return payload_bytes_; }
  bool Has(size_t bytes) {
    if (payload_bytes_ >= bytes) return true;
    failed_ = true;
    return false;
  }
  AttributeReader Nested() const { return AttributeReader(payload_, payload_bytes_); }
  bool ok() const { return !failed_; }

 private:
  bool Fail() {
    failed_ = true;
    return false;
  }

  const uint8_t* next_;
  size_t left_;
  const uint8_t* payload_ = nullptr;
  size_t payload_bytes_ = 0;
  uint16_t type_ = 0;
  bool failed_ = false;
};

bool ParseTupleIp(AttributeReader reader, FlowIdentity* identity) {
  constexpr int kSource = 1, kDestination = 2;
  int seen = 0;
  while (reader.Next()) {
    switch (reader.type()) {
      case CTA_IP_V4_SRC:
        if (!reader.Has(4)) return false;
        identity->src = Ipv4Address::FromBytes(reader.payload());
        seen |= kSource;
        break;
      case CTA_IP_V4_DST:
        if (!reader.Has(4)) return false;
        identity->dst = Ipv4Address::FromBytes(reader.payload());
        seen |= kDestination;
        break;
      default:
        break;
    }
  }
  return reader.ok() && seen == (kSource | kDestination);
}

bool ParseTupleProtocol(AttributeReader reader, FlowIdentity* identity) {
  bool has_number = false;
  while (reader.Next()) {
    switch (reader.type()) {
      case CTA_PROTO_NUM:
        if (!reader.Has(1)) return false;
        identity->protocol = reader.payload()[0];
        has_number = true;
        break;
      case CTA_PROTO_SRC_PORT:
      case CTA_PROTO_ICMP_ID:
        if (!reader.Has(2)) return false;
        identity->src_port = LoadBigEndian16(reader.payload());
        break;
      case CTA_PROTO_DST_PORT:
        if (!reader.Has(2)) return false;
        identity->dst_port = LoadBigEndian16(reader.payload());
        break;
      case CTA_PROTO_ICMP_TYPE:
        if (!reader.Has(1)) return false;
        identity->dst_port =
            static_cast<uint16_t>(reader.payload()[0] << 8 | (identity->dst_port & 0xff));
        break;
      case CTA_PROTO_ICMP_CODE:
        if (!reader.Has(1)) return false;
        identity->dst_port =
            static_cast<uint16_t>((identity->dst_port & 0xff00) | reader.payload()[0]);
        break;
      default:
        break;
    }
  }
  return reader.ok() && has_number;
}

bool ParseTuple(AttributeReader reader, FlowIdentity* identity) {
  bool has_ip = false;
  bool has_protocol = false;
  while (reader.Next()) {
    switch (reader.type()) {
      case CTA_TUPLE_IP:
        if (!ParseTupleIp(reader.Nested(), identity)) return false;
        has_ip = true;
        break;
      case CTA_TUPLE_PROTO:
        if (!ParseTupleProtocol(reader.Nested(), identity)) return false;
        has_protocol = true;
        break;
      case CTA_TUPLE_ZONE:  // A zone of the original direction only; CTA_ZONE is for both.
        if (!reader.Has(2)) return false;
        identity->zone = LoadBigEndian16(reader.payload());
        break;
      default:
        break;
    }
  }
  return reader.ok() && has_ip && has_protocol;
}

bool ParseCounters(AttributeReader reader, FlowCounters* counters) {
  constexpr int kPackets = 1, kBytes = 2;
  int seen = 0;
  while (reader.Next()) {
    switch (reader.type()) {
      case CTA_COUNTERS_PACKETS:
        if (!reader.Has(8)) return false;
        counters->packets = LoadBigEndian64(reader.payload());
        seen |= kPackets;
        break;
      case CTA_COUNTERS_BYTES:
        if (!reader.Has(8)) return false;
        counters->bytes = LoadBigEndian64(reader.payload());
        seen |= kBytes;
        break;
      default:
        break;
    }
  }
  return reader.ok() && seen == (kPackets | kBytes);
}

bool ParseProtocolInfo(AttributeReader reader, FlowEvent* event) {
  while (reader.Next()) {
    if (reader.type() != CTA_PROTOINFO_TCP) continue;
    AttributeReader tcp = reader.Nested();
    while (tcp.Next()) {
      if (tcp.type() != CTA_PROTOINFO_TCP_STATE) continue;
      if (!tcp.Has(1)) return false;
      event->tcp_state = static_cast<TcpState>(tcp.payload()[0]);
      event->has_tcp_state = true;
    }
    if (!tcp.ok()) return false;
  }
  return reader.ok();
}

bool ParseTimestamps(AttributeReader reader, FlowEvent* event) {
  while (reader.Next()) {
    switch (reader.type()) {
      case CTA_TIMESTAMP_START:
        if (!reader.Has(8)) return false;
        event->start_ns = static_cast<int64_t>(LoadBigEndian64(reader.payload()));
        break;
      case CTA_TIMESTAMP_STOP:
        if (!reader.Has(8)) return false;
        event->stop_ns = static_cast<int64_t>(LoadBigEndian64(reader.payload()));
        break;
      default:
        break;
    }
  }
  return reader.ok();
}

bool ParseAttributes(AttributeReader reader, FlowEvent* event) {
  constexpr int kOriginal = 1, kReply = 2;
  int counters = 0;
  bool has_tuple = false;
  while (reader.Next()) {
    bool good = true;
    switch (reader.type()) {
      case CTA_TUPLE_ORIG:
        good = ParseTuple(reader.Nested(), &event->identity);
        has_tuple = true;
        break;
      case CTA_STATUS:
        good = reader.Has(4);
        if (good) event->status = LoadBigEndian32(reader.payload());
        break;
      case CTA_PROTOINFO:
        good = ParseProtocolInfo(reader.Nested(), event);
        break;
      case CTA_TIMEOUT:
        good = reader.Has(4);
        if (good) event->timeout_seconds = LoadBigEndian32(reader.payload());
        break;
      case CTA_COUNTERS_ORIG:
        good = ParseCounters(reader.Nested(), &event->original);
        counters |= kOriginal;
        break;
      case CTA_COUNTERS_REPLY:
        good = ParseCounters(reader.Nested(), &event->reply);
        counters |= kReply;
        break;
      case CTA_ID:
        good = reader.Has(4);
        if (good) event->identity.id = LoadBigEndian32(reader.payload());
        break;
      case CTA_ZONE:
        good = reader.Has(2);
        if (good) event->identity.zone = LoadBigEndian16(reader.payload());
        break;
      case CTA_TIMESTAMP:
        good = ParseTimestamps(reader.Nested(), event);
        break;
      case kCtaTimestampEvent:
        good = reader.Has(8);
        if (good) event->event_ns = static_cast<int64_t>(LoadBigEndian64(reader.payload()));
        break;
      default:
        break;
    }
    if (!good) return false;
  }
  event->has_counters = counters == (kOriginal | kReply);
  return reader.ok() && has_tuple;
}

}  // namespace

bool DatagramCursor::Next(NetlinkMessage* message) {
  if (left_ == 0) return false;
  if (left_ < kMessageHeaderBytes) {
    malformed_ = true;
    return false;
  }
  const size_t length = LoadNative<uint32_t>(data_);
  if (length < kMessageHeaderBytes || length > left_) {
    malformed_ = true;
    return false;
  }
  message->data = data_;
  message->bytes = length;
  message->type = LoadNative<uint16_t>(data_ + offsetof(nlmsghdr, nlmsg_type));
  message->flags = LoadNative<uint16_t>(data_ + offsetof(nlmsghdr, nlmsg_flags));
  message->sequence = LoadNative<uint32_t>(data_ + offsetof(nlmsghdr, nlmsg_seq));
  const size_t step = AlignedTo4(length) < left_ ? AlignedTo4(length) : left_;
  data_ += step;
  left_ -= step;
  return true;
}

ParseResult ParseFlowMessage(const NetlinkMessage& message, FlowEvent* event) {
  FlowEventKind kind;
  if (message.type == (kConntrackType | IPCTNL_MSG_CT_NEW)) {
    kind = message.flags & NLM_F_MULTI    ? FlowEventKind::kDump
           : message.flags & NLM_F_CREATE ? FlowEventKind::kNew
                                          : FlowEventKind::kUpdate;
  } else if (message.type == (kConntrackType | IPCTNL_MSG_CT_DELETE)) {
    kind = FlowEventKind::kDestroy;
  } else {
    return ParseResult::kNotAFlow;
  }
  // A capture of an nlmon interface also holds what user space asks of the kernel, by the same type
  // numbers.
  if (message.flags & NLM_F_REQUEST) return ParseResult::kNotAFlow;
  if (message.bytes < kFlowHeaderBytes) return ParseResult::kMalformed;
  const uint8_t family = message.data[kMessageHeaderBytes];
  if (family == AF_INET6) return ParseResult::kIpv6;
  if (family != AF_INET) return ParseResult::kNotAFlow;
  *event = FlowEvent();
  event->kind = kind;
  if (!ParseAttributes(
          AttributeReader(message.data + kFlowHeaderBytes, message.bytes - kFlowHeaderBytes),
          event)) {
    return ParseResult::kMalformed;
  }
  return ParseResult::kFlow;
}

bool IsFlowMessage(const NetlinkMessage& message) {
  return message.type == (kConntrackType | IPCTNL_MSG_CT_NEW) ||
         message.type == (kConntrackType | IPCTNL_MSG_CT_DELETE);
}

OverrunMessage::OverrunMessage(uint32_t dropped)
    : length(sizeof(*this)), type(NLMSG_OVERRUN), events(dropped) {}

uint32_t OverrunEvents(const NetlinkMessage& message) {
  if (message.bytes < kMessageHeaderBytes + sizeof(uint32_t)) return 0;
  return LoadNative<uint32_t>(message.data + kMessageHeaderBytes);
}

int MessageError(const NetlinkMessage& message) {
  if (message.bytes < kMessageHeaderBytes + sizeof(int32_t)) return 0;
  return LoadNative<int32_t>(message.data + kMessageHeaderBytes);
}

}  // namespace ctacct
