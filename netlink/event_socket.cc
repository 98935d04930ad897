#include "netlink/event_socket.h"

#include <errno.h>
#include <linux/netfilter/nfnetlink_compat.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <string.h>

#include <array>
#include <cassert>

#include "absl/strings/str_cat.h"

namespace ctacct {

EventSocket::EventSocket(mnl_socket* socket)
    : socket_(socket),
      buffer_(kBatchDatagrams * kDatagramBytesMax),
      vectors_(kBatchDatagrams),
      headers_(kBatchDatagrams),
      senders_(kBatchDatagrams),
      datagrams_(kBatchDatagrams) {
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
  // Before the subscription: no event shall slip in that the filter rejects.
  if (absl::Status status = events->Attach(options.filter); !status.ok()) return status;
  unsigned groups = NF_NETLINK_CONNTRACK_DESTROY;
  if (!options.destroy_only) groups |= NF_NETLINK_CONNTRACK_NEW | NF_NETLINK_CONNTRACK_UPDATE;
  if (mnl_socket_bind(socket, groups, MNL_SOCKET_AUTOPID) != 0) {
    return absl::PermissionDeniedError(absl::StrCat(
        "netlink event socket: conntrack events: ", strerror(errno), " (needs CAP_NET_ADMIN)"));
  }
  return events;
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
  // A lost or another filter would make flows count twice or never: nobody changes it by mistake.
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
  // Fewer than asked for is not yet "drained": an error behind the last one, ENOBUFS, shows in the
  // next call only.
  for (size_t i = 0; i < static_cast<size_t>(received); ++i) {
    // The kernel has written it; of the others nothing has changed since the constructor.
    headers_[i].msg_hdr.msg_namelen = sizeof(sockaddr_nl);
    if (senders_[i].nl_pid != 0) continue;  // Only the kernel tells of conntrack.
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

size_t EventSocket::ReceiveBufferBytes() const {
  int granted = 0;
  socklen_t bytes = sizeof(granted);
  getsockopt(fd(), SOL_SOCKET, SO_RCVBUF, &granted, &bytes);
  return static_cast<size_t>(granted);
}

}  // namespace ctacct
