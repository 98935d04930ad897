// The gateway's own addresses: of all interfaces and scopes, both families, followed as they change
// (rtnetlink). They distinguish flows that begin or end on the gateway itself from flows that it
// forwards.
#ifndef CTACCT_NETLINK_LOCAL_ADDRESSES_H_
#define CTACCT_NETLINK_LOCAL_ADDRESSES_H_

#include <libmnl/libmnl.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "netlink/ip_text.h"
#include "netlink/ipv4.h"
#include "netlink/ipv6.h"

namespace ctacct {

// A plain value; thread-compatible.
class LocalAddresses {
 public:
  // Addresses that were removed and are remembered; the ones removed first are forgotten first.
  static constexpr size_t kFormerMax = 1024;

  // Whether packets to the address do not leave the gateway, or did not at that moment, since the
  // Unix epoch: the flows of an address that was removed may live on for days. An address that is
  // added counts as if it had always been there.
  bool Contains(const Ipv4Address& address, int64_t at_ns) const;
  bool Contains(const Ipv6Address& address, int64_t at_ns) const;

  // Now the interfaces have these addresses, and no others.
  void Update(const AddressLists& present, int64_t now_ns);

  size_t size() const { return ipv4_.size() + ipv6_.size(); }

 private:
  static constexpr int64_t kPresent = std::numeric_limits<int64_t>::max();

  // When it was removed.
  std::map<Ipv4Address, int64_t> ipv4_;
  std::map<Ipv6Address, int64_t> ipv6_;
};

// Reads the addresses, of the network namespace in which it was opened. Thread-compatible.
class AddressSocket {
 public:
  // Subscribes to changes.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<AddressSocket>> Open();

  // Becomes readable when addresses change.
  int fd() const { return mnl_socket_get_fd(changes_.get()); }
  // Reads what has come. True if addresses may have changed.
  [[nodiscard]] bool TakeChanges();
  // All addresses, and the broadcast addresses of IPv4.
  [[nodiscard]] absl::StatusOr<AddressLists> Read() const;

 private:
  struct Closer {
    void operator()(mnl_socket* socket) const { mnl_socket_close(socket); }
  };
  using Socket = std::unique_ptr<mnl_socket, Closer>;

  AddressSocket(Socket changes, Socket requests)
      : changes_(std::move(changes)), requests_(std::move(requests)) {}

  const Socket changes_;
  const Socket requests_;
};

}  // namespace ctacct

#endif  // CTACCT_NETLINK_LOCAL_ADDRESSES_H_
