// conntrack's dying list: flows whose DESTROY could not be delivered yet (see EventSocket's
// reliable delivery). The kernel sends them again every 10 ms.
//
// Keeps no state; any thread, in its network namespace. Needs CAP_NET_ADMIN.
#ifndef CTACCT_NETLINK_DYING_LIST_H_
#define CTACCT_NETLINK_DYING_LIST_H_

#include <cstddef>

#include "absl/status/statusor.h"

namespace ctacct {

// How many flows are in it, of both families. Blocks for as long as the kernel takes to list them.
[[nodiscard]] absl::StatusOr<size_t> CountDyingFlows();

}  // namespace ctacct

#endif  // CTACCT_NETLINK_DYING_LIST_H_
