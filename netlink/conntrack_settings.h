// The settings of conntrack that accounting depends on, in the network namespace of the caller.
#ifndef CTACCT_NETLINK_CONNTRACK_SETTINGS_H_
#define CTACCT_NETLINK_CONNTRACK_SETTINGS_H_

#include <cstdint>
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
  const char* without;  // The consequence if it is not set.
};
[[nodiscard]] absl::Span<const ConntrackSetting> ConntrackSettings();

// Sets nf_conntrack_acct, nf_conntrack_timestamp and nf_conntrack_events to 1, and gives `log` a
// line for each setting that was changed or cannot be changed. They stay set when the engine ends.
// An error if conntrack is not loaded, or if accounting is impossible: without nf_conntrack_acct,
// and if `light` without any of the three, because then nothing else reports a flow's start and
// end.
[[nodiscard]] absl::Status PrepareConntrack(bool light,
                                            const std::function<void(const std::string&)>& log);

// False if one of these settings is off (0).
[[nodiscard]] bool ConntrackIsOn();

// Looks at these settings again, and sets those to 1 that somebody has changed. False if one was
// off (0): since it was last looked at, the kernel may not have counted or reported everything.
[[nodiscard]] bool KeepConntrackOn(const std::function<void(const std::string&)>& log);

// Whether flows get start times now.
[[nodiscard]] bool TimestampsAreOn();

// The size of the kernel's hash table (nf_conntrack_buckets); 0 where it cannot be read.
[[nodiscard]] uint64_t ConntrackBuckets();

// This kernel's nf_conntrack_tcp_timeout_*; the defaults for those that cannot be read.
[[nodiscard]] TcpTimeouts ReadTcpTimeouts();

}  // namespace ctacct

#endif  // CTACCT_NETLINK_CONNTRACK_SETTINGS_H_
