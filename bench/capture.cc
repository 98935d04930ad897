#include "bench/capture.h"

#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>

#include <cstdint>

#include "absl/status/statusor.h"
#include "netlink/capture_file.h"

namespace ctacct {

absl::Status ReadCapture(
    const std::string& path,
    const std::function<void(const NetlinkMessage& message, const FlowEvent& event)>& flow) {
  const absl::StatusOr<std::unique_ptr<CaptureReader>> reader = CaptureReader::Open(path);
  if (!reader.ok()) return reader.status();
  CapturedDatagram datagram;
  for (;;) {
    const absl::StatusOr<bool> more = (*reader)->Next(&datagram);
    if (!more.ok()) return more.status();
    if (!*more) return absl::OkStatus();
    DatagramCursor cursor(datagram.data, datagram.bytes);
    NetlinkMessage message;
    FlowEvent event;
    while (cursor.Next(&message)) {
      if (ParseFlowMessage(message, &event) == ParseResult::kFlow) flow(message, event);
    }
  }
}

FlowEvent EventOf(const nf_conntrack* object, const nlmsghdr* header) {
  FlowEvent event;
  event.kind = header->nlmsg_type == (NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE)
                   ? FlowEventKind::kDestroy
               : header->nlmsg_flags & NLM_F_MULTI  ? FlowEventKind::kDump
               : header->nlmsg_flags & NLM_F_CREATE ? FlowEventKind::kNew
                                                    : FlowEventKind::kUpdate;
  FlowIdentity& identity = event.identity;
  identity.src.network_order = nfct_get_attr_u32(object, ATTR_ORIG_IPV4_SRC);
  identity.dst.network_order = nfct_get_attr_u32(object, ATTR_ORIG_IPV4_DST);
  identity.src_port = __builtin_bswap16(nfct_get_attr_u16(object, ATTR_ORIG_PORT_SRC));
  identity.dst_port = __builtin_bswap16(nfct_get_attr_u16(object, ATTR_ORIG_PORT_DST));
  identity.protocol = nfct_get_attr_u8(object, ATTR_ORIG_L4PROTO);
  identity.zone = nfct_get_attr_u16(object, ATTR_ZONE);
  identity.id = nfct_get_attr_u32(object, ATTR_ID);
  event.has_tcp_state = nfct_attr_is_set(object, ATTR_TCP_STATE) > 0;
  if (event.has_tcp_state) {
    event.tcp_state = static_cast<TcpState>(nfct_get_attr_u8(object, ATTR_TCP_STATE));
  }
  event.has_counters = nfct_attr_is_set(object, ATTR_ORIG_COUNTER_PACKETS) > 0;
  if (event.has_counters) {
    event.original = {nfct_get_attr_u64(object, ATTR_ORIG_COUNTER_PACKETS),
                      nfct_get_attr_u64(object, ATTR_ORIG_COUNTER_BYTES)};
    event.reply = {nfct_get_attr_u64(object, ATTR_REPL_COUNTER_PACKETS),
                   nfct_get_attr_u64(object, ATTR_REPL_COUNTER_BYTES)};
  }
  event.start_ns = static_cast<int64_t>(nfct_get_attr_u64(object, ATTR_TIMESTAMP_START));
  event.stop_ns = static_cast<int64_t>(nfct_get_attr_u64(object, ATTR_TIMESTAMP_STOP));
  return event;
}

}  // namespace ctacct
