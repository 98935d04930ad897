#include "netlink/event_socket.h"

#include <errno.h>
#include <linux/netfilter/nfnetlink_compat.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <string.h>
#include <unistd.h>

#include <array>
#include <cassert>

#include "absl/strings/str_cat.h"

namespace ctacct {
namespace {

unsigned Groups(const EventSocket::Options& options) {
  unsigned groups = NF_NETLINK_CONNTRACK_DESTROY;
  if (!options.destroy_only) groups |= NF_NETLINK_CONNTRACK_NEW | NF_NETLINK_CONNTRACK_UPDATE;
  return groups;
}

// Identifies a network namespace; 0: unknown (before Linux 5.14).
uint64_t NamespaceCookie(int socket) {
  uint64_t cookie = 0;
  socklen_t bytes = sizeof(cookie);
  return getsockopt(socket, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &bytes) == 0 ? cookie : 0;
}

uint64_t OwnNamespaceCookie() {
  const int socket = ::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
  if (socket < 0) return 0;
  const uint64_t cookie = NamespaceCookie(socket);
  close(socket);
  return cookie;
}

int IntegerOption(int socket, int option) {
  int value = -1;
  socklen_t bytes = sizeof(value);
  return getsockopt(socket, SOL_SOCKET, option, &value, &bytes) == 0 ? value : -1;
}

}  // namespace

EventSocket::EventSocket(mnl_socket* socket)
    : datagrams_(kBatchDatagrams),
      socket_(socket),
      buffer_(kBatchDatagrams * kDatagramBytesMax),
      vectors_(kBatchDatagrams),
      headers_(kBatchDatagrams),
      senders_(kBatchDatagrams) {
  for (size_t i = 0; i < kBatchDatagrams; ++i) {
    vectors_[i] = {buffer_.data() + i * kDatagramBytesMax, kDatagramBytesMax};
    headers_[i].msg_hdr = msghdr{};
    headers_[i].msg_hdr.msg_iov = &vectors_[i];
    headers_[i].msg_hdr.msg_iovlen = 1;
    headers_[i].msg_hdr.msg_name = &senders_[i];
    headers_[i].msg_hdr.msg_namelen = sizeof(sockaddr_nl);
  }
}

absl::StatusOr<std::unique_ptr<EventSocket>> EventSocket::Open(const Options& options) {
  mnl_socket* socket = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (socket == nullptr) {
    return absl::UnavailableError(absl::StrCat("netlink event socket: ", strerror(errno)));
  }
  auto events = std::unique_ptr<EventSocket>(new EventSocket(socket));
  const int bytes = static_cast<int>(options.receive_buffer_bytes);
  if (setsockopt(events->fd(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) != 0) {
    return absl::PermissionDeniedError(absl::StrCat("netlink event socket: receive buffer of ",
                                                    bytes, " bytes: ", strerror(errno),
                                                    " (needs CAP_NET_ADMIN)"));
  }
  // Before the subscription, so that no event is queued that the filter rejects.
  if (absl::Status status = events->Attach(options.filter); !status.ok()) return status;
  if (mnl_socket_bind(socket, Groups(options), MNL_SOCKET_AUTOPID) != 0) {
    return absl::PermissionDeniedError(absl::StrCat(
        "netlink event socket: conntrack events: ", strerror(errno), " (needs CAP_NET_ADMIN)"));
  }
  return events;
}

absl::StatusOr<std::unique_ptr<EventSocket>> EventSocket::Adopt(int fd, const Options& options) {
  mnl_socket* socket = mnl_socket_fdopen(fd);
  if (socket == nullptr) {
    close(fd);
    return absl::FailedPreconditionError("not a netlink socket");
  }
  auto events = std::unique_ptr<EventSocket>(new EventSocket(socket));
  if (const std::string difference = events->Difference(options); !difference.empty()) {
    return absl::FailedPreconditionError(difference);
  }
  return events;
}

std::string EventSocket::Difference(const Options& options) const {
  if (IntegerOption(fd(), SO_DOMAIN) != AF_NETLINK ||
      IntegerOption(fd(), SO_PROTOCOL) != NETLINK_NETFILTER) {
    return "not a netfilter socket";
  }
  const uint64_t cookie = NamespaceCookie(fd());
  if (cookie == 0 || cookie != OwnNamespaceCookie()) return "of another network namespace";
  // One bit a group, from 1 on, as in the mask by which it was bound.
  std::array<uint32_t, 8> groups{};
  socklen_t bytes = sizeof(groups);
  if (getsockopt(fd(), SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, groups.data(), &bytes) != 0 ||
      groups != std::array<uint32_t, 8>{Groups(options)}) {
    return "subscribed to other events";
  }
  std::vector<sock_filter> filter(BPF_MAXINSNS);
  // In instructions, not bytes.
  socklen_t instructions = static_cast<socklen_t>(filter.size());
  if (getsockopt(fd(), SOL_SOCKET, SO_GET_FILTER, filter.data(), &instructions) != 0 ||
      instructions != options.filter.size() ||
      (instructions != 0 &&
       memcmp(filter.data(), options.filter.data(), instructions * sizeof(sock_filter)) != 0)) {
    return "filtered by another program";
  }
  if (instructions != 0 && IntegerOption(fd(), SO_LOCK_FILTER) != 1) {
    return "filtered by a program that may change";
  }
  return "";
}

absl::Status EventSocket::Attach(const std::vector<sock_filter>& filter) {
  if (filter.empty()) return absl::OkStatus();
  assert(filter.size() <= BPF_MAXINSNS);
  sock_fprog program{};
  program.len = static_cast<unsigned short>(filter.size());
  program.filter = const_cast<sock_filter*>(filter.data());  // The kernel only reads it.
  if (setsockopt(fd(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) != 0) {
    return absl::UnavailableError(absl::StrCat("netlink event socket: filter: ", strerror(errno)));
  }
  // Locked, because flows would count twice or never with another filter or none.
  const int locked = 1;
  if (setsockopt(fd(), SOL_SOCKET, SO_LOCK_FILTER, &locked, sizeof(locked)) != 0) {
    return absl::UnavailableError(
        absl::StrCat("netlink event socket: locking the filter: ", strerror(errno)));
  }
  return absl::OkStatus();
}

absl::StatusOr<EventSocket::Batch> EventSocket::Receive() {
  Batch batch;
  const int received = recvmmsg(fd(), headers_.data(), kBatchDatagrams, MSG_DONTWAIT, nullptr);
  if (received < 0) {
    if (errno == ENOBUFS) {
      batch.overrun = true;
    } else if (errno == EAGAIN) {
      batch.drained = true;
    } else if (errno != EINTR) {
      return absl::UnavailableError(absl::StrCat("netlink event socket: ", strerror(errno)));
    }
    return batch;
  }
  // Fewer than asked for does not mean "drained": an ENOBUFS after the last one is only reported by
  // the next call.
  for (size_t i = 0; i < static_cast<size_t>(received); ++i) {
    // The only field that the kernel has changed since the constructor.
    headers_[i].msg_hdr.msg_namelen = sizeof(sockaddr_nl);
    if (senders_[i].nl_pid != 0) continue;  // Only the kernel sends conntrack's events.
    datagrams_[batch.datagrams++] = {static_cast<const uint8_t*>(vectors_[i].iov_base),
                                     headers_[i].msg_len};
  }
  return batch;
}

uint32_t EventSocket::Drops() const {
  std::array<uint32_t, SK_MEMINFO_VARS> info{};
  socklen_t bytes = sizeof(info);
  getsockopt(fd(), SOL_SOCKET, SO_MEMINFO, info.data(), &bytes);
  return info[SK_MEMINFO_DROPS];
}

// Stored as the socket's mark, which the kernel does not use on netlink sockets.
uint32_t EventSocket::DropsReported() const {
  uint32_t drops = 0;
  socklen_t bytes = sizeof(drops);
  getsockopt(fd(), SOL_SOCKET, SO_MARK, &drops, &bytes);
  return drops;
}

void EventSocket::NoteDropsReported(uint32_t drops) const {
  setsockopt(fd(), SOL_SOCKET, SO_MARK, &drops, sizeof(drops));
}

uint32_t EventSocket::SetReliable(bool reliable) const {
  const int on = reliable ? 1 : 0;
  // Turned off first: the kernel has to report overruns before it can lose events.
  if (!reliable) setsockopt(fd(), SOL_NETLINK, NETLINK_NO_ENOBUFS, &on, sizeof(on));
  const uint32_t drops = Drops();
  setsockopt(fd(), SOL_NETLINK, NETLINK_BROADCAST_ERROR, &on, sizeof(on));
  if (reliable) setsockopt(fd(), SOL_NETLINK, NETLINK_NO_ENOBUFS, &on, sizeof(on));
  return drops;
}

size_t EventSocket::ReceiveBufferBytes() const {
  int granted = 0;
  socklen_t bytes = sizeof(granted);
  getsockopt(fd(), SOL_SOCKET, SO_RCVBUF, &granted, &bytes);
  return static_cast<size_t>(granted);
}

}  // namespace ctacct
