#include "netlink/dump_socket.h"

#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>

#include <optional>

#include "absl/strings/str_cat.h"
#include "netlink/ctnetlink_parser.h"

namespace ctacct {
namespace {

// The kernel packs at most 32 KiB into a chunk, and that much only for a reader that has shown a
// buffer of that size.
constexpr size_t kChunkBytesMax = 65536;

std::vector<uint8_t> DumpRequest(uint16_t type, uint32_t sequence) {
  std::vector<uint8_t> request(MNL_ALIGN(sizeof(nlmsghdr)) + MNL_ALIGN(sizeof(nfgenmsg)), 0);
  nlmsghdr* header = mnl_nlmsg_put_header(request.data());
  header->nlmsg_type = static_cast<uint16_t>(NFNL_SUBSYS_CTNETLINK << 8 | type);
  header->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  header->nlmsg_seq = sequence;
  auto* family = static_cast<nfgenmsg*>(mnl_nlmsg_put_extra_header(header, sizeof(nfgenmsg)));
  family->nfgen_family = AF_UNSPEC;
  family->version = NFNETLINK_V0;
  return request;
}

// How many bytes of a chunk come before its NLMSG_DONE; nullopt: it has none, or one that says that
// the dump was cut short.
std::optional<size_t> BytesBeforeDone(const Datagram& chunk) {
  DatagramCursor cursor(chunk.data, chunk.bytes);
  for (NetlinkMessage message; cursor.Next(&message);) {
    if (message.type != NLMSG_DONE) continue;
    if (MessageError(message) != 0 || (message.flags & NLM_F_DUMP_INTR) != 0) break;
    return static_cast<size_t>(message.data - chunk.data);
  }
  return std::nullopt;
}

}  // namespace

DumpSocket::DumpSocket(mnl_socket* socket, bool with_dying)
    : socket_(socket),
      with_dying_(with_dying),
      buffer_(kChunkBytesMax),
      request_(DumpRequest(IPCTNL_MSG_CT_GET, 0)) {}

absl::StatusOr<std::unique_ptr<DumpSocket>> DumpSocket::Open(bool with_dying) {
  mnl_socket* socket = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (socket == nullptr || mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) != 0) {
    const int error = errno;
    if (socket != nullptr) mnl_socket_close(socket);
    return absl::UnavailableError(absl::StrCat("netlink dump socket: ", strerror(error)));
  }
  return std::unique_ptr<DumpSocket>(new DumpSocket(socket, with_dying));
}

absl::Status DumpSocket::Request() {
  request_ = DumpRequest(IPCTNL_MSG_CT_GET, ++sequence_);
  table_done_ = false;
  return Send(request_);
}

absl::Status DumpSocket::Send(const std::vector<uint8_t>& request) {
  if (mnl_socket_sendto(socket_.get(), request.data(), request.size()) < 0) {
    return absl::UnavailableError(absl::StrCat("conntrack dump: ", strerror(errno)));
  }
  return absl::OkStatus();
}

absl::StatusOr<const Datagram*> DumpSocket::Receive() {
  for (;;) {
    sockaddr_nl sender{};
    iovec vector = {buffer_.data(), buffer_.size()};
    msghdr header{};
    header.msg_name = &sender;
    header.msg_namelen = sizeof(sender);
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    const ssize_t received = recvmsg(fd(), &header, MSG_DONTWAIT);
    if (received < 0 && errno == EINTR) continue;
    if (received < 0 && errno == EAGAIN) return nullptr;
    if (received < 0) {
      return absl::UnavailableError(absl::StrCat("conntrack dump: ", strerror(errno)));
    }
    if (header.msg_flags & MSG_TRUNC) {
      return absl::DataLossError("conntrack dump: a chunk larger than the kernel's own limit");
    }
    if (sender.nl_pid != 0) continue;
    datagram_ = {buffer_.data(), static_cast<size_t>(received)};
    NetlinkMessage first;
    if (!DatagramCursor(datagram_.data, datagram_.bytes).Next(&first)) continue;
    if (first.sequence != sequence_) continue;
    if (first.type == NLMSG_ERROR && MessageError(first) != 0) {
      return absl::UnavailableError(
          absl::StrCat("conntrack dump: ", strerror(-MessageError(first)),
                       MessageError(first) == -EPERM ? " (needs CAP_NET_ADMIN)" : ""));
    }
    if (with_dying_ && !table_done_) {
      if (const std::optional<size_t> bytes = BytesBeforeDone(datagram_); bytes.has_value()) {
        // The list's own NLMSG_DONE ends the dump.
        table_done_ = true;
        const absl::Status sent = Send(DumpRequest(IPCTNL_MSG_CT_GET_DYING, sequence_));
        if (!sent.ok()) return sent;
        if (*bytes == 0) continue;
        datagram_.bytes = *bytes;
      }
    }
    return &datagram_;
  }
}

}  // namespace ctacct
