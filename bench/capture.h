// The messages of a capture, and libnetfilter_conntrack's view of a message, to compare with.
#ifndef CTACCT_BENCH_CAPTURE_H_
#define CTACCT_BENCH_CAPTURE_H_

#include <libnetfilter_conntrack/libnetfilter_conntrack.h>
#include <linux/netlink.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "netlink/ctnetlink_parser.h"
#include "netlink/flow_event.h"

namespace ctacct {

// Calls `flow` for each message about an IPv4 flow.
[[nodiscard]] absl::Status ReadCapture(
    const std::string& path,
    const std::function<void(const NetlinkMessage& message, const FlowEvent& event)>& flow);

struct NfctDeleter {
  void operator()(nf_conntrack* object) const { nfct_destroy(object); }
};
using NfctPointer = std::unique_ptr<nf_conntrack, NfctDeleter>;

// What nfct_nlmsg_parse has read, as far as accounting needs it.
FlowEvent EventOf(const nf_conntrack* object, const nlmsghdr* header);

}  // namespace ctacct

#endif  // CTACCT_BENCH_CAPTURE_H_
