// How long conntrack keeps connections after their close. A plain value; thread-compatible.
#ifndef CTACCT_NETLINK_TCP_TIMEOUTS_H_
#define CTACCT_NETLINK_TCP_TIMEOUTS_H_

#include <cstdint>

namespace ctacct {

// For each state after the close, counted from the last packet: nf_conntrack_tcp_timeout_*. These
// are the kernel's defaults.
struct TcpTimeouts {
  uint32_t close_wait_seconds = 60;
  uint32_t last_ack_seconds = 30;
  uint32_t time_wait_seconds = 120;
  uint32_t close_seconds = 10;
};

}  // namespace ctacct

#endif  // CTACCT_NETLINK_TCP_TIMEOUTS_H_
