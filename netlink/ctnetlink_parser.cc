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

  const uint8_t* next() const { return next_; }  // What follows the attribute read.
  uint16_t type() const { return type_; }
  const uint8_t* payload() const { return payload_; }
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

// What differs between the families.
template <typename Address>
struct Layout;
template <>
struct Layout<Ipv4Address> {
  static constexpr uint16_t kSrc = CTA_IP_V4_SRC;
  static constexpr uint16_t kDst = CTA_IP_V4_DST;
  static constexpr uint16_t kAddressBytes = 4;
};
template <>
struct Layout<Ipv6Address> {
  static constexpr uint16_t kSrc = CTA_IP_V6_SRC;
  static constexpr uint16_t kDst = CTA_IP_V6_DST;
  static constexpr uint16_t kAddressBytes = 16;
};

template <typename Address>
bool ParseTupleIp(AttributeReader reader, BasicFlowIdentity<Address>* identity) {
  constexpr int kSource = 1, kDestination = 2;
  int seen = 0;
  while (reader.Next()) {
    switch (reader.type()) {
      case Layout<Address>::kSrc:
        if (!reader.Has(Layout<Address>::kAddressBytes)) return false;
        identity->src = Address::FromBytes(reader.payload());
        seen |= kSource;
        break;
      case Layout<Address>::kDst:
        if (!reader.Has(Layout<Address>::kAddressBytes)) return false;
        identity->dst = Address::FromBytes(reader.payload());
        seen |= kDestination;
        break;
      default:
        break;
    }
  }
  return reader.ok() && seen == (kSource | kDestination);
}

template <typename Address>
bool ParseTupleProtocol(AttributeReader reader, BasicFlowIdentity<Address>* identity) {
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
      case CTA_PROTO_ICMPV6_ID:
        if (!reader.Has(2)) return false;
        identity->src_port = LoadBigEndian16(reader.payload());
        break;
      case CTA_PROTO_DST_PORT:
        if (!reader.Has(2)) return false;
        identity->dst_port = LoadBigEndian16(reader.payload());
        break;
      case CTA_PROTO_ICMP_TYPE:
      case CTA_PROTO_ICMPV6_TYPE:
        if (!reader.Has(1)) return false;
        identity->dst_port =
            static_cast<uint16_t>(reader.payload()[0] << 8 | (identity->dst_port & 0xff));
        break;
      case CTA_PROTO_ICMP_CODE:
      case CTA_PROTO_ICMPV6_CODE:
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

template <typename Address>
bool ParseTuple(AttributeReader reader, BasicFlowIdentity<Address>* identity) {
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

template <typename Address>
bool ParseProtocolInfo(AttributeReader reader, BasicFlowEvent<Address>* event) {
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

template <typename Address>
bool ParseTimestamps(AttributeReader reader, BasicFlowEvent<Address>* event) {
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

// An attribute's header as the number that its four bytes are in memory.
constexpr uint32_t Header(uint16_t length, uint16_t type) {
  return length | static_cast<uint32_t>(type) << 16;
}
constexpr uint32_t NestHeader(uint16_t length, uint16_t type) {
  return Header(length, type | NLA_F_NESTED);
}

// 0 if the header stands there. Differences are or-ed, so that a whole layout costs one branch.
uint64_t Difference(const uint8_t* at, uint32_t header) {
  return LoadNative<uint32_t>(at) ^ header;
}
// The same for two headers, one after the other.
uint64_t Difference(const uint8_t* at, uint32_t first, uint32_t second) {
  return LoadNative<uint64_t>(at) ^ (first | static_cast<uint64_t>(second) << 32);
}

// The attributes of a flow message, into an event that says nothing yet.
//
// TakeAny reads any attribute. What makes this fast are the other Take functions: each knows one
// attribute as the kernel lays it out, nests and all. It takes the attribute if every header in it
// is exactly that, and does then what TakeAny would; otherwise it does nothing. So whatever a
// message holds, it is read alike, only slower if it is unusual.
template <typename Address>
class FlowReader {
 public:
  FlowReader(const uint8_t* data, size_t bytes, BasicFlowEvent<Address>* event)
      : next_(data), end_(data + bytes), event_(event) {}

  bool Read() {
    for (;;) {
      TakeUsual();
      if (next_ == end_) break;
      if (!TakeAny()) return false;
    }
    event_->has_counters = counters_ == (kOriginal | kReply);
    return has_tuple_;
  }

 private:
  static constexpr int kOriginal = 1, kReply = 2;
  // Of a tuple with ports.
  static constexpr uint16_t kAddressBytes = kAttributeHeaderBytes + Layout<Address>::kAddressBytes;
  static constexpr uint16_t kIpBytes = kAttributeHeaderBytes + 2 * kAddressBytes;
  static constexpr uint16_t kTupleBytes = kAttributeHeaderBytes + kIpBytes + 28;

  // What a 6.18 kernel sends, in its order; which of it depends on kind and protocol. Passing by
  // what is absent costs a comparison.
  void TakeUsual() {
    TakePortTuple();
    (void)Take(NestHeader(kTupleBytes, CTA_TUPLE_REPLY));
    TakeId();  // Of events.
    TakeNumber(CTA_STATUS, &event_->status);
    (void)Take(Header(8, CTA_MARK));
    TakeId();  // Of dump entries.
    (void)Take(Header(8, CTA_USE));
    TakeNumber(CTA_TIMEOUT, &event_->timeout_seconds);
    TakeTcpInfo();
    TakeCounters(CTA_COUNTERS_ORIG, kOriginal, &event_->original);
    TakeCounters(CTA_COUNTERS_REPLY, kReply, &event_->reply);
    TakeTimestamps();
    TakeTcpState();
    if (const uint8_t* payload = Take(Header(12, kCtaTimestampEvent)); payload != nullptr) {
      event_->event_ns = static_cast<int64_t>(LoadBigEndian64(payload));
    }
  }

  bool Left(size_t bytes) const { return static_cast<size_t>(end_ - next_) >= bytes; }

  // An attribute by its header alone, of a length that needs no padding: its payload, or null.
  const uint8_t* Take(uint32_t header) {
    const size_t length = header & 0xffff;
    if (!Left(length) || Difference(next_, header) != 0) return nullptr;
    const uint8_t* const payload = next_ + kAttributeHeaderBytes;
    next_ += length;
    return payload;
  }

  void TakeNumber(uint16_t type, uint32_t* number) {
    const uint8_t* const payload = Take(Header(8, type));
    if (payload != nullptr) *number = LoadBigEndian32(payload);
  }

  void TakeId() {
    if (has_id_) return;
    const uint8_t* const payload = Take(Header(8, CTA_ID));
    if (payload == nullptr) return;
    event_->identity.id = LoadBigEndian32(payload);
    has_id_ = true;
  }

  // Of a protocol with ports, without a zone.
  void TakePortTuple() {
    const uint8_t* const at = next_;
    if (!Left(kTupleBytes)) return;
    constexpr size_t kSrcAt = 8;
    constexpr size_t kDstAt = kSrcAt + kAddressBytes;
    constexpr size_t kProtoAt = kDstAt + kAddressBytes;
    if ((Difference(at, NestHeader(kTupleBytes, CTA_TUPLE_ORIG),
                    NestHeader(kIpBytes, CTA_TUPLE_IP)) |
         Difference(at + kSrcAt, Header(kAddressBytes, Layout<Address>::kSrc)) |
         Difference(at + kDstAt, Header(kAddressBytes, Layout<Address>::kDst)) |
         Difference(at + kProtoAt, NestHeader(28, CTA_TUPLE_PROTO), Header(5, CTA_PROTO_NUM)) |
         Difference(at + kProtoAt + 12, Header(6, CTA_PROTO_SRC_PORT)) |
         Difference(at + kProtoAt + 20, Header(6, CTA_PROTO_DST_PORT))) != 0) {
      return;
    }
    BasicFlowIdentity<Address>& identity = event_->identity;
    if constexpr (sizeof(Address) == sizeof(uint32_t)) {
      // As the word that a hash of the identity will read in a moment: a CPU waits for its cache
      // when it reads as one what it has just written as two.
      const uint64_t addresses = LoadNative<uint32_t>(at + kSrcAt + kAttributeHeaderBytes) |
                                 uint64_t{LoadNative<uint32_t>(at + kDstAt + kAttributeHeaderBytes)}
                                     << 32;
      std::memcpy(reinterpret_cast<char*>(&identity), &addresses, sizeof(addresses));
    } else {
      identity.src = Address::FromBytes(at + kSrcAt + kAttributeHeaderBytes);
      identity.dst = Address::FromBytes(at + kDstAt + kAttributeHeaderBytes);
    }
    identity.protocol = at[kProtoAt + 8];
    identity.src_port = LoadBigEndian16(at + kProtoAt + 16);
    identity.dst_port = LoadBigEndian16(at + kProtoAt + 24);
    has_tuple_ = true;
    next_ += kTupleBytes;
  }

  void TakeCounters(uint16_t type, int direction, FlowCounters* counters) {
    constexpr size_t kBytes = 28;
    const uint8_t* const at = next_;
    if (!Left(kBytes)) return;
    if ((Difference(at, NestHeader(kBytes, type), Header(12, CTA_COUNTERS_PACKETS)) |
         Difference(at + 16, Header(12, CTA_COUNTERS_BYTES))) != 0) {
      return;
    }
    counters->packets = LoadBigEndian64(at + 8);
    counters->bytes = LoadBigEndian64(at + 20);
    counters_ |= direction;
    next_ += kBytes;
  }

  // Of dump entries (start) and DESTROY (start and stop).
  void TakeTimestamps() {
    constexpr size_t kStartBytes = 16, kBothBytes = 28;
    const uint8_t* const at = next_;
    if (!Left(kStartBytes)) return;
    size_t bytes = kStartBytes;
    if (Difference(at, NestHeader(kStartBytes, CTA_TIMESTAMP), Header(12, CTA_TIMESTAMP_START)) !=
        0) {
      bytes = kBothBytes;
      if (!Left(kBothBytes)) return;
      if ((Difference(at, NestHeader(kBothBytes, CTA_TIMESTAMP), Header(12, CTA_TIMESTAMP_START)) |
           Difference(at + 16, Header(12, CTA_TIMESTAMP_STOP))) != 0) {
        return;
      }
      event_->stop_ns = static_cast<int64_t>(LoadBigEndian64(at + 20));
    }
    event_->start_ns = static_cast<int64_t>(LoadBigEndian64(at + 8));
    next_ += bytes;
  }

  // Of NEW, UPDATE and dump entries: the state, then window scales and flags of both directions.
  void TakeTcpInfo() {
    constexpr size_t kBytes = 48;
    const uint8_t* const at = next_;
    if (!Left(kBytes)) return;
    if ((Difference(at, NestHeader(kBytes, CTA_PROTOINFO), NestHeader(44, CTA_PROTOINFO_TCP)) |
         Difference(at + 8, Header(5, CTA_PROTOINFO_TCP_STATE)) |
         Difference(at + 16, Header(5, CTA_PROTOINFO_TCP_WSCALE_ORIGINAL)) |
         Difference(at + 24, Header(5, CTA_PROTOINFO_TCP_WSCALE_REPLY)) |
         Difference(at + 32, Header(6, CTA_PROTOINFO_TCP_FLAGS_ORIGINAL)) |
         Difference(at + 40, Header(6, CTA_PROTOINFO_TCP_FLAGS_REPLY))) != 0) {
      return;
    }
    SetTcpState(at[12]);
    next_ += kBytes;
  }

  // Of DESTROY: the state alone.
  void TakeTcpState() {
    constexpr size_t kBytes = 16;
    const uint8_t* const at = next_;
    if (!Left(kBytes)) return;
    if ((Difference(at, NestHeader(kBytes, CTA_PROTOINFO), NestHeader(12, CTA_PROTOINFO_TCP)) |
         Difference(at + 8, Header(5, CTA_PROTOINFO_TCP_STATE))) != 0) {
      return;
    }
    SetTcpState(at[12]);
    next_ += kBytes;
  }

  void SetTcpState(uint8_t state) {
    event_->tcp_state = static_cast<TcpState>(state);
    event_->has_tcp_state = true;
  }

  bool TakeAny() {
    AttributeReader reader(next_, static_cast<size_t>(end_ - next_));
    if (!reader.Next()) return false;
    next_ = reader.next();
    switch (reader.type()) {
      case CTA_TUPLE_ORIG:
        has_tuple_ = true;
        return ParseTuple(reader.Nested(), &event_->identity);
      case CTA_STATUS:
        if (!reader.Has(4)) return false;
        event_->status = LoadBigEndian32(reader.payload());
        return true;
      case CTA_PROTOINFO:
        return ParseProtocolInfo(reader.Nested(), event_);
      case CTA_TIMEOUT:
        if (!reader.Has(4)) return false;
        event_->timeout_seconds = LoadBigEndian32(reader.payload());
        return true;
      case CTA_COUNTERS_ORIG:
        counters_ |= kOriginal;
        return ParseCounters(reader.Nested(), &event_->original);
      case CTA_COUNTERS_REPLY:
        counters_ |= kReply;
        return ParseCounters(reader.Nested(), &event_->reply);
      case CTA_ID:
        if (!reader.Has(4)) return false;
        if (!has_id_) event_->identity.id = LoadBigEndian32(reader.payload());
        has_id_ = true;
        return true;
      case CTA_ZONE:
        if (!reader.Has(2)) return false;
        event_->identity.zone = LoadBigEndian16(reader.payload());
        return true;
      case CTA_TIMESTAMP:
        return ParseTimestamps(reader.Nested(), event_);
      case kCtaTimestampEvent:
        if (!reader.Has(8)) return false;
        event_->event_ns = static_cast<int64_t>(LoadBigEndian64(reader.payload()));
        return true;
      default:
        return true;
    }
  }

  const uint8_t* next_;
  const uint8_t* const end_;
  BasicFlowEvent<Address>* const event_;
  bool has_tuple_ = false;
  bool has_id_ = false;
  int counters_ = 0;
};

// False if it is no message about a flow. Inlined: a call would be a part of the time that parsing
// takes, like that of ReadFlow.
[[gnu::always_inline]] inline bool KindOf(const NetlinkMessage& message, FlowEventKind* kind) {
  if (message.type == (kConntrackType | IPCTNL_MSG_CT_NEW)) {
    *kind = message.flags & NLM_F_MULTI    ? FlowEventKind::kDump
            : message.flags & NLM_F_CREATE ? FlowEventKind::kNew
                                           : FlowEventKind::kUpdate;
    return true;
  }
  *kind = FlowEventKind::kDestroy;
  return message.type == (kConntrackType | IPCTNL_MSG_CT_DELETE);
}

template <typename Address>
[[gnu::always_inline]] inline ParseResult ReadFlow(const NetlinkMessage& message,
                                                   FlowEventKind kind,
                                                   BasicFlowEvent<Address>* event) {
  *event = BasicFlowEvent<Address>();
  event->kind = kind;
  FlowReader<Address> reader(message.data + kFlowHeaderBytes, message.bytes - kFlowHeaderBytes,
                             event);
  return reader.Read() ? ParseResult::kFlow : ParseResult::kMalformed;
}

}  // namespace

ParseResult ParseFlowMessage(const NetlinkMessage& message, FlowEvent* event) {
  FlowEventKind kind;
  if (!KindOf(message, &kind)) return ParseResult::kNotAFlow;
  // A capture of an nlmon interface also holds what user space asks of the kernel, by the same type
  // numbers.
  if (message.flags & NLM_F_REQUEST) return ParseResult::kNotAFlow;
  if (message.bytes < kFlowHeaderBytes) return ParseResult::kMalformed;
  const uint8_t family = message.data[kMessageHeaderBytes];
  if (family == AF_INET6) return ParseResult::kIpv6;
  if (family != AF_INET) return ParseResult::kNotAFlow;
  return ReadFlow(message, kind, event);
}

ParseResult ParseIpv6FlowMessage(const NetlinkMessage& message, Ipv6FlowEvent* event) {
  FlowEventKind kind;
  if (!KindOf(message, &kind)) return ParseResult::kNotAFlow;
  return ReadFlow(message, kind, event);
}

bool IsFlowMessage(const NetlinkMessage& message) {
  FlowEventKind ignored;
  return KindOf(message, &ignored);
}

uint32_t FlowId(const NetlinkMessage& message) {
  if (!IsFlowMessage(message) || message.bytes < kFlowHeaderBytes) return 0;
  AttributeReader reader(message.data + kFlowHeaderBytes, message.bytes - kFlowHeaderBytes);
  while (reader.Next()) {
    if (reader.type() != CTA_ID) continue;
    return reader.Has(4) ? LoadBigEndian32(reader.payload()) : 0;
  }
  return 0;
}

template <typename Address>
bool ReplySource(const NetlinkMessage& message, Address* source) {
  if (message.bytes < kFlowHeaderBytes) return false;
  AttributeReader reader(message.data + kFlowHeaderBytes, message.bytes - kFlowHeaderBytes);
  while (reader.Next()) {
    if (reader.type() != CTA_TUPLE_REPLY) continue;
    AttributeReader tuple = reader.Nested();
    while (tuple.Next()) {
      BasicFlowIdentity<Address> reply;
      if (tuple.type() != CTA_TUPLE_IP || !ParseTupleIp(tuple.Nested(), &reply)) continue;
      *source = reply.src;
      return true;
    }
    return false;
  }
  return false;
}

template bool ReplySource(const NetlinkMessage& message, Ipv4Address* source);
template bool ReplySource(const NetlinkMessage& message, Ipv6Address* source);

OverrunMessage::OverrunMessage(uint32_t dropped)
    : length(sizeof(*this)), type(NLMSG_OVERRUN), events(dropped) {}

DumpScope RequestedScope(const NetlinkMessage& message) {
  constexpr uint16_t kDumpFlags = NLM_F_REQUEST | NLM_F_DUMP;
  constexpr uint16_t kTable = NFNL_SUBSYS_CTNETLINK << 8;
  if ((message.flags & kDumpFlags) != kDumpFlags) return DumpScope::kNoDump;
  const bool of_table = message.type == (kTable | IPCTNL_MSG_CT_GET) ||
                        message.type == (kTable | IPCTNL_MSG_CT_GET_CTRZERO);
  if (!of_table || message.bytes != NLMSG_HDRLEN + sizeof(nfgenmsg)) return DumpScope::kPart;
  switch (message.data[NLMSG_HDRLEN]) {
    case AF_UNSPEC:
      return DumpScope::kWhole;
    case AF_INET:
      return DumpScope::kIpv4;
    default:
      return DumpScope::kPart;
  }
}

uint32_t OverrunEvents(const NetlinkMessage& message) {
  if (message.bytes < kMessageHeaderBytes + sizeof(uint32_t)) return 0;
  return LoadNative<uint32_t>(message.data + kMessageHeaderBytes);
}

int MessageError(const NetlinkMessage& message) {
  if (message.bytes < kMessageHeaderBytes + sizeof(int32_t)) return 0;
  return LoadNative<int32_t>(message.data + kMessageHeaderBytes);
}

}  // namespace ctacct
