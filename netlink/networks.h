// Which addresses of one family are accounted: lists of networks and of addresses. Plain values;
// thread-compatible.
#ifndef CTACCT_NETLINK_NETWORKS_H_
#define CTACCT_NETLINK_NETWORKS_H_

#include <algorithm>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "netlink/ipv4.h"
#include "netlink/ipv6.h"

namespace ctacct {

// Of -src, -dst and -exclude-ip, both families together. Each is compared with each flow, in the
// kernel's filter as well.
inline constexpr size_t kNetworksMax = 16;

// An address is in the list if one of the networks contains it.
template <typename Address>
class CidrList {
 public:
  CidrList() : networks_{Cidr<Address>{}} {}  // Everything.
  // NOLINTNEXTLINE(google-explicit-constructor): a network is a list of one.
  CidrList(const Cidr<Address>& network) : networks_{network}, first_(network) {}
  explicit CidrList(std::vector<Cidr<Address>> networks) : networks_(std::move(networks)) {
    if (!networks_.empty()) first_ = networks_[0];
  }

  bool Contains(const Address& address) const {
    // The first one is stored here: most lists have only one, and this runs for each event.
    if (first_.Contains(address)) [[likely]]
      return !networks_.empty();
    for (size_t i = 1; i < networks_.size(); ++i) {
      if (networks_[i].Contains(address)) return true;
    }
    return false;
  }
  bool IsEverything() const {
    return std::any_of(networks_.begin(), networks_.end(),
                       [](const Cidr<Address>& network) { return network == Cidr<Address>{}; });
  }
  // Empty: nothing.
  const std::vector<Cidr<Address>>& networks() const { return networks_; }

 private:
  std::vector<Cidr<Address>> networks_;
  Cidr<Address> first_{};
};

template <typename Address>
class AddressList {
 public:
  AddressList() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): an address is a list of one.
  AddressList(const Address& address) : addresses_{address} {}
  explicit AddressList(std::vector<Address> addresses) : addresses_(std::move(addresses)) {}

  bool Contains(const Address& address) const {
    return std::find(addresses_.begin(), addresses_.end(), address) != addresses_.end();
  }
  bool empty() const { return addresses_.empty(); }
  const std::vector<Address>& addresses() const { return addresses_; }

 private:
  std::vector<Address> addresses_;
};

// Which flows are accounted, by the original tuple.
template <typename Address>
struct AddressRules {
  CidrList<Address> src;
  CidrList<Address> dst;
  AddressList<Address> exclude;  // From or to.

  bool Matches(const Address& flow_src, const Address& flow_dst) const {
    return src.Contains(flow_src) && dst.Contains(flow_dst) &&
           (exclude.empty() || !(exclude.Contains(flow_src) || exclude.Contains(flow_dst)));
  }
};

}  // namespace ctacct

#endif  // CTACCT_NETLINK_NETWORKS_H_
