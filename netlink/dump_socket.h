// A netlink socket for dumps of the conntrack table, both families, on libmnl.
//
// Where delivery is reliable (see EventSocket), a flow that has ended stays on conntrack's dying
// list until its DESTROY is delivered: it is no longer in the table, and not yet reported. Then a
// dump is the table and after it the list, as one: an ended flow is shown until it is reported.
// (If the flow at which a chunk ended is reported before the next chunk, the kernel passes by the
// rest of the list. It reports from the front, so this happens only where little is left.)
//
// Thread-compatible: one thread owns it. Needs CAP_NET_ADMIN at each request. It must not have a
// filter: that would drop whole chunks of a dump, and its end.
//
// The kernel makes the next chunk within the receive call that took the last one, so reading slowly
// never overruns.
#ifndef CTACCT_NETLINK_DUMP_SOCKET_H_
#define CTACCT_NETLINK_DUMP_SOCKET_H_

#include <libmnl/libmnl.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "netlink/event_socket.h"

namespace ctacct {

class DumpSocket {
 public:
  // `with_dying`: dumps contain the dying list.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<DumpSocket>> Open(bool with_dying = false);

  // Asks for a dump. Chunks of an earlier dump that was not read to its end are skipped from now
  // on.
  [[nodiscard]] absl::Status Request();

  // The request that was sent last, or would be first. Valid until the next Request.
  Datagram last_request() const { return {request_.data(), request_.size()}; }

  // The next chunk of the dump that was requested last; nullptr if none is ready. Never blocks. The
  // dump ends with a chunk that contains NLMSG_DONE.
  [[nodiscard]] absl::StatusOr<const Datagram*> Receive();

  int fd() const { return mnl_socket_get_fd(socket_.get()); }

 private:
  struct Closer {
    void operator()(mnl_socket* socket) const { mnl_socket_close(socket); }
  };

  DumpSocket(mnl_socket* socket, bool with_dying);
  absl::Status Send(const std::vector<uint8_t>& request);

  const std::unique_ptr<mnl_socket, Closer> socket_;
  const bool with_dying_;
  bool table_done_ = false;  // Of the dump that was requested last, the dying list is to come.
  std::vector<uint8_t> buffer_;
  Datagram datagram_;
  uint32_t sequence_ = 0;
  std::vector<uint8_t> request_;
};

}  // namespace ctacct

#endif  // CTACCT_NETLINK_DUMP_SOCKET_H_
