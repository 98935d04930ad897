// Netlink datagrams of conntrack -> FlowEvent. Pure functions of bytes: no clock, no table, no
// allocation, no system call, nothing kept between calls; thread-safe.
//
//   datagram  = message*                           each padded to 4 bytes
//   message   = nlmsghdr(16) nfgenmsg(4) attribute*
//   attribute = length(2) type(2) payload          padded to 4 bytes; attributes nest
//
// The length of an attribute includes its 4 header bytes. Payloads are big-endian.
//
// Every length is checked before it is used. Unknown attributes are skipped. A message is rejected
// if a known attribute is too short, or if any length points outside its container. Layouts:
// linux/netfilter/nfnetlink_conntrack.h.
#ifndef CTACCT_NETLINK_CTNETLINK_PARSER_H_
#define CTACCT_NETLINK_CTNETLINK_PARSER_H_

#include <linux/netlink.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "netlink/flow_event.h"

namespace ctacct {

// One message within a datagram. `data` points at its nlmsghdr, `bytes` is nlmsg_len (>= 16), all
// within the datagram.
struct NetlinkMessage {
  const uint8_t* data = nullptr;
  size_t bytes = 0;
  uint16_t type = 0;
  uint16_t flags = 0;
  uint32_t sequence = 0;
};

// Walks the messages of a datagram, which must outlive the cursor.
class DatagramCursor {
 public:
  DatagramCursor(const uint8_t* data, size_t bytes) : data_(data), left_(bytes) {}

  // False at the end, or if the rest is malformed (then malformed() is true and the rest is
  // skipped). In the header because a call would be a tenth of the time that parsing takes.
  [[nodiscard]] bool Next(NetlinkMessage* message) {
    if (left_ == 0) return false;
    nlmsghdr header;
    if (left_ < sizeof(header)) return Fail();
    std::memcpy(&header, data_, sizeof(header));
    const size_t length = header.nlmsg_len;
    if (length < sizeof(header) || length > left_) return Fail();
    *message = {.data = data_,
                .bytes = length,
                .type = header.nlmsg_type,
                .flags = header.nlmsg_flags,
                .sequence = header.nlmsg_seq};
    const size_t padded = (length + 3) & ~size_t{3};
    const size_t step = padded < left_ ? padded : left_;
    data_ += step;
    left_ -= step;
    return true;
  }
  bool malformed() const { return malformed_; }

 private:
  bool Fail() {
    malformed_ = true;
    return false;
  }

  const uint8_t* data_;
  size_t left_;
  bool malformed_ = false;
};

enum class ParseResult : uint8_t {
  kFlow,       // *event is filled.
  kIpv6,       // A flow of IPv6, for ParseIpv6FlowMessage; *event is unspecified.
  kNotAFlow,   // Another subsystem or message type, or a request of user space; *event is
               // unspecified.
  kMalformed,  // Rejected; *event is unspecified.
};

// Parses one message about a flow of IPv4. *event need not be cleared before. If an attribute
// occurs twice, the last one counts; of CTA_ID the first, see FlowId.
[[nodiscard]] ParseResult ParseFlowMessage(const NetlinkMessage& message, FlowEvent* event);
// Continues where that returned kIpv6: kFlow or kMalformed.
[[nodiscard]] ParseResult ParseIpv6FlowMessage(const NetlinkMessage& message, Ipv6FlowEvent* event);

// Who answers a flow of the family: the source of the reply tuple, which is not the destination of
// the original one if that is translated. False if the message does not contain it.
template <typename Address>
[[nodiscard]] bool ReplySource(const NetlinkMessage& message, Address* source);

// True for messages about flows (IPCTNL_MSG_CT_NEW, _DELETE), whatever family.
[[nodiscard]] bool IsFlowMessage(const NetlinkMessage& message);

// FlowIdentity::id of a message about a flow, whatever family, without parsing the rest: the first
// CTA_ID, which is also the one that a socket filter in the kernel finds. 0 if it is missing or
// behind a malformed attribute.
[[nodiscard]] uint32_t FlowId(const NetlinkMessage& message);

// Which part of the conntrack table a dump request asks for.
enum class DumpScope : uint8_t {
  kNoDump,  // Not a dump request.
  kWhole,   // Both families.
  kIpv4,    // The whole of IPv4.
  kPart,    // Less, or something else: with attributes, which filter; another table or family.
};
[[nodiscard]] DumpScope RequestedScope(const NetlinkMessage& message);

// Our own use of netlink's NLMSG_OVERRUN ("data lost"): marks in a recording where the kernel
// dropped events. The payload is their number, 32 bits in host order (0: unknown).
struct OverrunMessage {
  explicit OverrunMessage(uint32_t dropped);
  const uint8_t* bytes() const { return reinterpret_cast<const uint8_t*>(this); }

  uint32_t length;
  uint16_t type;
  uint16_t flags = 0;
  uint32_t sequence = 0;
  uint32_t port_id = 0;
  uint32_t events;
};
static_assert(sizeof(OverrunMessage) == 20);

// The number in an NLMSG_OVERRUN; 0 if it has no payload.
[[nodiscard]] uint32_t OverrunEvents(const NetlinkMessage& message);

// The error code of an NLMSG_DONE or NLMSG_ERROR: 0, or a negative errno. 0 if the message has
// none.
[[nodiscard]] int MessageError(const NetlinkMessage& message);

}  // namespace ctacct

#endif  // CTACCT_NETLINK_CTNETLINK_PARSER_H_
