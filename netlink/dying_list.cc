#include "netlink/dying_list.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <string.h>
#include <sys/socket.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace ctacct {
namespace {

constexpr uint32_t kSequence = 1;
// As for a dump of the table.
constexpr size_t kChunkBytesMax = 65536;

struct Closer {
  void operator()(mnl_socket* socket) const { mnl_socket_close(socket); }
};

int CountMessage(const nlmsghdr*, void* count) {
  ++*static_cast<size_t*>(count);
  return MNL_CB_OK;
}

absl::Status Error(int error) {
  return absl::UnavailableError(absl::StrCat("conntrack's dying list: ", strerror(error)));
}

}  // namespace

absl::StatusOr<size_t> CountDyingFlows() {
  const std::unique_ptr<mnl_socket, Closer> socket(
      mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC));
  if (socket == nullptr || mnl_socket_bind(socket.get(), 0, MNL_SOCKET_AUTOPID) != 0) {
    return Error(errno);
  }
  alignas(nlmsghdr) uint8_t request[MNL_ALIGN(sizeof(nlmsghdr)) + MNL_ALIGN(sizeof(nfgenmsg))];
  nlmsghdr* const header = mnl_nlmsg_put_header(request);
  header->nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET_DYING;
  header->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  header->nlmsg_seq = kSequence;
  auto* const family = static_cast<nfgenmsg*>(mnl_nlmsg_put_extra_header(header, sizeof(nfgenmsg)));
  family->nfgen_family = AF_UNSPEC;
  family->version = NFNETLINK_V0;
  if (mnl_socket_sendto(socket.get(), header, header->nlmsg_len) < 0) return Error(errno);
  std::vector<uint8_t> buffer(kChunkBytesMax);
  size_t count = 0;
  for (int more = MNL_CB_OK; more > MNL_CB_STOP;) {
    const ssize_t bytes = mnl_socket_recvfrom(socket.get(), buffer.data(), buffer.size());
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0) return Error(errno);
    more = mnl_cb_run(buffer.data(), static_cast<size_t>(bytes), kSequence,
                      mnl_socket_get_portid(socket.get()), CountMessage, &count);
    if (more < 0) return Error(errno);
  }
  return count;
}

}  // namespace ctacct
