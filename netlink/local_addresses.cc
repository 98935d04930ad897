#include "netlink/local_addresses.h"

#include <errno.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"

namespace ctacct {
namespace {

// The kernel cuts a dump short when addresses change meanwhile.
constexpr int kAttemptsMax = 10;
// Of one datagram; a dump's have at most 32 KiB.
constexpr size_t kBytesMax = 65536;

absl::Status Error(const char* what) {
  return absl::UnavailableError(absl::StrCat(what, " addresses (rtnetlink): ", strerror(errno)));
}

int TakeAddress(const nlmsghdr* message, void* data) {
  auto* const lists = static_cast<AddressLists*>(data);
  if (message->nlmsg_type != RTM_NEWADDR ||
      mnl_nlmsg_get_payload_len(message) < sizeof(ifaddrmsg)) {
    return MNL_CB_OK;
  }
  const auto* const header = static_cast<const ifaddrmsg*>(mnl_nlmsg_get_payload(message));
  const size_t bytes = header->ifa_family == AF_INET ? sizeof(Ipv4Address) : sizeof(Ipv6Address);
  const uint8_t* address = nullptr;
  const uint8_t* local = nullptr;  // Of a link with a peer, whose address is the other one.
  const uint8_t* broadcast = nullptr;
  const auto* attribute =
      static_cast<const nlattr*>(mnl_nlmsg_get_payload_offset(message, sizeof(ifaddrmsg)));
  const auto* const end = static_cast<const char*>(mnl_nlmsg_get_payload_tail(message));
  for (; mnl_attr_ok(attribute, static_cast<int>(end - reinterpret_cast<const char*>(attribute)));
       attribute = mnl_attr_next(attribute)) {
    if (mnl_attr_get_payload_len(attribute) < bytes) continue;
    const auto* const payload = static_cast<const uint8_t*>(mnl_attr_get_payload(attribute));
    switch (mnl_attr_get_type(attribute)) {
      case IFA_ADDRESS:
        address = payload;
        break;
      case IFA_LOCAL:
        local = payload;
        break;
      case IFA_BROADCAST:
        broadcast = payload;
        break;
      default:
        break;
    }
  }
  const uint8_t* const own = local != nullptr ? local : address;
  const unsigned bits = header->ifa_prefixlen;
  if (header->ifa_family == AF_INET) {
    if (own != nullptr) lists->ipv4.push_back(Ipv4Address::FromBytes(own));
    if (broadcast != nullptr) lists->ipv4.push_back(Ipv4Address::FromBytes(broadcast));
    // The kernel takes the network's last address for a broadcast, also where none was set
    // (fib_add_ifaddr of net/ipv4/fib_frontend.c).
    if (address != nullptr && bits != 0 && bits < 31) {
      const uint32_t hosts = ~uint32_t{0} >> bits;
      lists->ipv4.push_back(
          Ipv4Address::FromHostOrder(Ipv4Address::FromBytes(address).ToHostOrder() | hosts));
    }
  } else if (header->ifa_family == AF_INET6) {
    if (own != nullptr) lists->ipv6.push_back(Ipv6Address::FromBytes(own));
    // A router answers to the network's first address (addrconf_join_anycast; RFC 4291, 2.6.1).
    if (address != nullptr && bits != 0 && bits < 127) {
      lists->ipv6.push_back(Ipv6Address::FromBytes(address) &
                            *ParseIpv6Mask(absl::StrCat("/", bits)));
    }
  }
  return MNL_CB_OK;
}

template <typename Address>
void UpdateFamily(const std::vector<Address>& present, int64_t now_ns, int64_t is_present,
                  std::map<Address, int64_t>* known) {
  for (auto& [address, until_ns] : *known) {
    if (until_ns == is_present) until_ns = now_ns;
  }
  for (const Address& address : present) (*known)[address] = is_present;
  std::vector<int64_t> former;
  for (const auto& [address, until_ns] : *known) {
    if (until_ns != is_present) former.push_back(until_ns);
  }
  if (former.size() <= LocalAddresses::kFormerMax) return;
  std::sort(former.begin(), former.end());
  const int64_t forget_ns = former[former.size() - LocalAddresses::kFormerMax - 1];
  std::erase_if(*known, [&](const auto& entry) {
    return entry.second != is_present && entry.second <= forget_ns;
  });
}

template <typename Address>
bool Find(const std::map<Address, int64_t>& known, const Address& address, int64_t at_ns) {
  const auto found = known.find(address);
  return found != known.end() && at_ns < found->second;
}

}  // namespace

bool LocalAddresses::Contains(const Ipv4Address& address, int64_t at_ns) const {
  const uint32_t host = address.ToHostOrder();
  constexpr uint32_t kLoopback = 127, kLinkMulticast = 0xe00000, kBroadcast = 0xffffffff;
  return host >> 24 == kLoopback || host >> 8 == kLinkMulticast || host == kBroadcast ||
         Find(ipv4_, address, at_ns);
}

bool LocalAddresses::Contains(const Ipv6Address& address, int64_t at_ns) const {
  const uint32_t first = __builtin_bswap32(address.words[0]) >> 16;
  constexpr uint32_t kMulticast = 0xff00, kScopeMax = 2;  // Of interfaces and links.
  const bool link_multicast = (first & 0xff00) == kMulticast && (first & 0xf) <= kScopeMax;
  return link_multicast || Find(ipv6_, address, at_ns);
}

void LocalAddresses::Update(const AddressLists& present, int64_t now_ns) {
  UpdateFamily(present.ipv4, now_ns, kPresent, &ipv4_);
  UpdateFamily(present.ipv6, now_ns, kPresent, &ipv6_);
}

absl::StatusOr<std::unique_ptr<AddressSocket>> AddressSocket::Open() {
  Socket changes(mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC | SOCK_NONBLOCK));
  Socket requests(mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC));
  if (changes == nullptr || requests == nullptr ||
      mnl_socket_bind(changes.get(), RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR, MNL_SOCKET_AUTOPID) !=
          0 ||
      mnl_socket_bind(requests.get(), 0, MNL_SOCKET_AUTOPID) != 0) {
    return Error("following");
  }
  return std::unique_ptr<AddressSocket>(new AddressSocket(std::move(changes), std::move(requests)));
}

bool AddressSocket::TakeChanges() {
  bool changed = false;
  std::vector<uint8_t> buffer(kBytesMax);
  for (;;) {
    const ssize_t bytes = mnl_socket_recvfrom(changes_.get(), buffer.data(), buffer.size());
    if (bytes < 0 && errno == EINTR) continue;
    // Notices that were lost (ENOBUFS) are changes as well.
    if (bytes < 0 && errno != ENOBUFS && errno != ENOSPC) return changed;
    changed = true;
  }
}

absl::StatusOr<AddressLists> AddressSocket::Read() const {
  std::vector<uint8_t> buffer(kBytesMax);
  for (int attempt = 1; attempt <= kAttemptsMax; ++attempt) {
    alignas(nlmsghdr) uint8_t request[MNL_ALIGN(sizeof(nlmsghdr)) + MNL_ALIGN(sizeof(ifaddrmsg))];
    nlmsghdr* const header = mnl_nlmsg_put_header(request);
    header->nlmsg_type = RTM_GETADDR;
    header->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    header->nlmsg_seq = static_cast<uint32_t>(attempt);
    mnl_nlmsg_put_extra_header(header, sizeof(ifaddrmsg));  // Both families.
    if (mnl_socket_sendto(requests_.get(), header, header->nlmsg_len) < 0) return Error("reading");
    AddressLists lists;
    int more = MNL_CB_OK;
    while (more > MNL_CB_STOP) {
      const ssize_t bytes = mnl_socket_recvfrom(requests_.get(), buffer.data(), buffer.size());
      if (bytes < 0 && errno == EINTR) continue;
      if (bytes < 0) return Error("reading");
      // Of an attempt before that was cut short: its rest.
      const auto* const first = reinterpret_cast<const nlmsghdr*>(buffer.data());
      if (first->nlmsg_seq != header->nlmsg_seq) continue;
      more = mnl_cb_run(buffer.data(), static_cast<size_t>(bytes), header->nlmsg_seq,
                        mnl_socket_get_portid(requests_.get()), TakeAddress, &lists);
    }
    if (more == MNL_CB_STOP) return lists;
    if (errno != EINTR) return Error("reading");
  }
  return absl::UnavailableError("reading addresses (rtnetlink): they change all the time");
}

}  // namespace ctacct
