// What one conntrack netlink message says about one flow: the parser's result and the flow table's
// input. Each family has its own types, made from the same templates, so that code that runs for
// each event need not check the family.
//
// Plain values; thread-compatible. Times are nanoseconds since the Unix epoch by the kernel's wall
// clock; 0 = absent.
#ifndef CTACCT_NETLINK_FLOW_EVENT_H_
#define CTACCT_NETLINK_FLOW_EVENT_H_

#include <cstdint>
#include <type_traits>

#include "netlink/ipv4.h"
#include "netlink/ipv6.h"

namespace ctacct {

enum class FlowEventKind : uint8_t {
  kNew,      // IPCTNL_MSG_CT_NEW with NLM_F_CREATE: the flow was confirmed.
  kUpdate,   // IPCTNL_MSG_CT_NEW without: a state changed.
  kDestroy,  // IPCTNL_MSG_CT_DELETE: the flow is gone; final counters.
  kDump,     // IPCTNL_MSG_CT_NEW with NLM_F_MULTI: a line of a table dump; present counters.
};

// TCP states as conntrack numbers them (linux/netfilter/nf_conntrack_tcp.h).
enum class TcpState : uint8_t {
  kNone = 0,
  kSynSent = 1,
  kSynReceived = 2,
  kEstablished = 3,
  kFinWait = 4,
  kCloseWait = 5,
  kLastAck = 6,
  kTimeWait = 7,
  kClose = 8,
  kSynSent2 = 9,
};

// Identifies a living flow: the original direction's tuple, the zone and CTA_ID. CTA_ID alone is
// not enough (it is a 32-bit hash), and the same identity may be used again after a flow's end: see
// FlowTable for incarnations. No padding, so that it can be hashed and compared as bytes.
template <typename Address>
struct BasicFlowIdentity {
  Address src;
  Address dst;
  uint16_t src_port = 0;  // Host byte order. ICMP, ICMPv6: the id.
  uint16_t dst_port = 0;  // Host byte order. ICMP, ICMPv6: type << 8 | code.
  uint16_t zone = 0;
  uint8_t protocol = 0;
  uint8_t zero = 0;
  uint32_t id = 0;  // CTA_ID as it came; an opaque number.

  friend bool operator==(const BasicFlowIdentity&, const BasicFlowIdentity&) = default;
};
using FlowIdentity = BasicFlowIdentity<Ipv4Address>;
using Ipv6FlowIdentity = BasicFlowIdentity<Ipv6Address>;
static_assert(sizeof(FlowIdentity) == 20 && std::has_unique_object_representations_v<FlowIdentity>);
static_assert(sizeof(Ipv6FlowIdentity) == 44 &&
              std::has_unique_object_representations_v<Ipv6FlowIdentity>);

struct FlowCounters {
  uint64_t packets = 0;
  uint64_t bytes = 0;  // IP bytes.
};

template <typename Address>
struct BasicFlowEvent {
  BasicFlowIdentity<Address> identity;
  FlowEventKind kind = FlowEventKind::kNew;
  bool has_counters = false;   // Both directions came; original and reply are valid.
  bool has_tcp_state = false;  // tcp_state is valid.
  TcpState tcp_state = TcpState::kNone;
  uint32_t status = 0;           // IPS_* bits.
  uint32_t timeout_seconds = 0;  // Remaining; dumps and some events.
  FlowCounters original;
  FlowCounters reply;
  int64_t start_ns = 0;  // CTA_TIMESTAMP_START: when the flow was confirmed.
  int64_t stop_ns = 0;   // CTA_TIMESTAMP_STOP.
  int64_t event_ns = 0;  // CTA_TIMESTAMP_EVENT (kernel 6.14 and later): when the event happened.
};
using FlowEvent = BasicFlowEvent<Ipv4Address>;
using Ipv6FlowEvent = BasicFlowEvent<Ipv6Address>;

}  // namespace ctacct

#endif  // CTACCT_NETLINK_FLOW_EVENT_H_
