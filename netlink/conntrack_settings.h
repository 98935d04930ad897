// The settings of conntrack that accounting depends on, in the network namespace of the caller.
#ifndef CTACCT_NETLINK_CONNTRACK_SETTINGS_H_
#define CTACCT_NETLINK_CONNTRACK_SETTINGS_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "netlink/tcp_timeouts.h"

namespace ctacct {

// Below /proc/sys/net/netfilter/.
struct ConntrackSetting {
  const char* name;
  int wanted;
  bool needed;
  bool needed_in_light;
  const char* without;  // What is wrong as long as it is not set.
};
[[nodiscard]] absl::Span<const ConntrackSetting> ConntrackSettings();

// Turns on nf_conntrack_acct, nf_conntrack_timestamp and nf_conntrack_events=1 where they are not,
// and reports each change, or each setting that could not be changed, as a line to `log`. They stay
// on when the engine ends. An error if conntrack is not there, or if nothing can be counted (acct
// is off and stays so; `light`: the other two likewise, since nothing else tells of a flow's start
// and of its end).
[[nodiscard]] absl::Status PrepareConntrack(bool light,
                                            const std::function<void(const std::string&)>& log);

// Whether flows get start times now.
[[nodiscard]] bool TimestampsAreOn();

// The time-outs that this kernel counts down in each state past a connection's close
// (nf_conntrack_tcp_timeout_*); its defaults where they cannot be read.
[[nodiscard]] TcpTimeouts ReadTcpTimeouts();

}  // namespace ctacct

#endif  // CTACCT_NETLINK_CONNTRACK_SETTINGS_H_
