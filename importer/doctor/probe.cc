// The doctor's last check: two flows of known size in each family over the loopback of a new
// network namespace, followed through this kernel's conntrack and the real engine into a spool
// file.
#include <arpa/inet.h>
#include <errno.h>
#include <ftw.h>
#include <linux/capability.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/spool/spool_reader.h"
#include "engine/system/clock.h"
#include "engine/system/unique_fd.h"
#include "importer/doctor/checks.h"
#include "importer/doctor/child.h"
#include "importer/doctor/nft.h"
#include "netlink/conntrack_settings.h"
#include "netlink/ctnetlink_parser.h"
#include "netlink/dump_socket.h"

namespace ctacct {
namespace {

constexpr absl::Duration kEngineMax = absl::Seconds(20);  // To start, and to end.
constexpr absl::Duration kKernelMax = absl::Seconds(5);
constexpr absl::Duration kLook = absl::Milliseconds(10);
constexpr time_t kReceiveSecondsMax = 5;

// Payloads. The two directions differ, so that they cannot be mistaken for each other.
constexpr uint64_t kUdpRequests = 7;
constexpr uint64_t kUdpReplies = 3;
constexpr size_t kUdpRequestBytes = 100;
constexpr size_t kUdpReplyBytes = 1000;
constexpr size_t kTcpRequestBytes = 2000;
constexpr size_t kTcpReplyBytes = 30'000;

constexpr char kRule[] =
    "table inet ctacct_doctor { chain output { type filter hook output priority 0; ct state new; }; "
    "}";

struct Sums {
  uint64_t packets_src = 0;
  uint64_t packets_dst = 0;
  uint64_t bytes_src = 0;
  uint64_t bytes_dst = 0;
  uint64_t connections = 0;

  uint64_t packets() const { return packets_src + packets_dst; }
  std::string ToString() const {
    return absl::StrCat(packets_src, "+", packets_dst, " packets, ", bytes_src, "+", bytes_dst,
                        " bytes");
  }
  friend bool operator==(const Sums&, const Sums&) = default;
};

// One of the two families, each with flows of its own.
struct Family {
  const char* name;
  int number;
  uint64_t udp_header_bytes;  // IP's and UDP's own.
};
constexpr Family kIpv4 = {"IPv4", AF_INET, 28};
constexpr Family kIpv6 = {"IPv6", AF_INET6, 48};

struct Ports {
  uint16_t udp = 0;
  uint16_t tcp = 0;
};

struct BothFlows {
  Sums udp;
  Sums tcp;
};

absl::Status Error(absl::string_view what) {
  return absl::InternalError(absl::StrCat(what, ": ", strerror(errno)));
}

// Removed with all that is in it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = "/tmp/ctacct-doctor.XXXXXX";
    if (mkdtemp(pattern.data()) != nullptr) path_ = pattern;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }  // Empty: it could not be made.

 private:
  std::string path_;
};

absl::Status LoopbackUp() {
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) return Error("loopback");
  return absl::OkStatus();
}

// An address of either family.
struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t bytes = 0;

  sockaddr* generic() { return reinterpret_cast<sockaddr*>(&storage); }
  const sockaddr* generic() const { return reinterpret_cast<const sockaddr*>(&storage); }
  uint16_t port() const {  // In the same place in both.
    return ntohs(reinterpret_cast<const sockaddr_in*>(&storage)->sin_port);
  }
};
static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));

// Bound to the loopback's address, with a port of the kernel's choice; receiving ends in time.
UniqueFd LoopbackSocket(const Family& family, int type, SocketAddress* address) {
  UniqueFd socket(::socket(family.number, type | SOCK_CLOEXEC, 0));
  const timeval at_most = {kReceiveSecondsMax, 0};
  setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &at_most, sizeof(at_most));
  setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &at_most, sizeof(at_most));
  *address = {};
  address->storage.ss_family = static_cast<sa_family_t>(family.number);
  if (family.number == AF_INET) {
    auto* const ipv4 = reinterpret_cast<sockaddr_in*>(&address->storage);
    ipv4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address->bytes = sizeof(*ipv4);
  } else {
    auto* const ipv6 = reinterpret_cast<sockaddr_in6*>(&address->storage);
    ipv6->sin6_addr = in6addr_loopback;
    address->bytes = sizeof(*ipv6);
  }
  if (bind(socket.get(), address->generic(), address->bytes) != 0 ||
      getsockname(socket.get(), address->generic(), &address->bytes) != 0) {
    return UniqueFd();
  }
  return socket;
}

bool Connect(const UniqueFd& socket, const SocketAddress& to) {
  return connect(socket.get(), to.generic(), to.bytes) == 0;
}

absl::Status PassUdp(const Family& family, Ports* ports) {
  SocketAddress server_address, client_address;
  const UniqueFd server = LoopbackSocket(family, SOCK_DGRAM, &server_address);
  const UniqueFd client = LoopbackSocket(family, SOCK_DGRAM, &client_address);
  if (!server.valid() || !client.valid() || !Connect(client, server_address) ||
      !Connect(server, client_address)) {
    return Error("UDP over the loopback");
  }
  ports->udp = server_address.port();
  const std::string request(kUdpRequestBytes, 'q');
  const std::string reply(kUdpReplyBytes, 'r');
  std::string received(kUdpReplyBytes, '\0');
  const auto pass = [&received](const UniqueFd& from, const UniqueFd& to, const std::string& text) {
    const auto bytes = static_cast<ssize_t>(text.size());
    return send(from.get(), text.data(), text.size(), 0) == bytes &&
           recv(to.get(), received.data(), received.size(), 0) == bytes;
  };
  for (uint64_t i = 0; i < kUdpRequests; ++i) {
    if (!pass(client, server, request)) return Error("UDP over the loopback");
  }
  for (uint64_t i = 0; i < kUdpReplies; ++i) {
    if (!pass(server, client, reply)) return Error("UDP over the loopback");
  }
  return absl::OkStatus();
}

// One connection, closed by its client.
absl::Status PassTcp(const Family& family, Ports* ports) {
  SocketAddress server_address, client_address;
  const UniqueFd listener = LoopbackSocket(family, SOCK_STREAM, &server_address);
  UniqueFd client = LoopbackSocket(family, SOCK_STREAM, &client_address);
  if (!listener.valid() || !client.valid() || listen(listener.get(), 1) != 0 ||
      !Connect(client, server_address)) {
    return Error("TCP over the loopback");
  }
  const UniqueFd server(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ports->tcp = server_address.port();
  const auto pass = [](const UniqueFd& from, const UniqueFd& to, size_t bytes) {
    std::string text(bytes, 't');
    return send(from.get(), text.data(), bytes, MSG_NOSIGNAL) == static_cast<ssize_t>(bytes) &&
           recv(to.get(), text.data(), bytes, MSG_WAITALL) == static_cast<ssize_t>(bytes);
  };
  char byte = 0;
  if (!pass(client, server, kTcpRequestBytes) || !pass(server, client, kTcpReplyBytes)) {
    return Error("TCP over the loopback");
  }
  client = UniqueFd();
  if (recv(server.get(), &byte, 1, 0) != 0) return Error("TCP over the loopback: its end");
  return absl::OkStatus();
}

// The kernel's own counters of both flows, once it considers the connection closed.
absl::StatusOr<BothFlows> KernelsCount(const Family& family, const Ports& ports) {
  BothFlows flows;
  for (const absl::Duration deadline = MonotonicNow() + kKernelMax;;) {
    const absl::StatusOr<std::unique_ptr<DumpSocket>> dump = DumpSocket::Open();
    if (!dump.ok()) return dump.status();
    if (absl::Status status = (*dump)->Request(); !status.ok()) return status;
    bool has_udp = false, has_tcp = false, has_ended = false, counted = false;
    const auto note = [&](const auto& event) {
      const bool udp =
          event.identity.protocol == IPPROTO_UDP && event.identity.dst_port == ports.udp;
      const bool tcp =
          event.identity.protocol == IPPROTO_TCP && event.identity.dst_port == ports.tcp;
      if (!udp && !tcp) return;
      has_udp = has_udp || udp;
      has_tcp = has_tcp || tcp;
      counted = event.has_counters;
      has_ended = has_ended || (tcp && event.tcp_state == TcpState::kTimeWait);
      (udp ? flows.udp : flows.tcp) = {event.original.packets, event.reply.packets,
                                       event.original.bytes, event.reply.bytes, tcp ? 1u : 0u};
    };
    for (bool done = false; !done;) {
      const absl::StatusOr<const Datagram*> chunk = (*dump)->Receive();
      if (!chunk.ok()) return chunk.status();
      if (*chunk == nullptr) {
        if (MonotonicNow() > deadline) return absl::InternalError("conntrack's dump does not end");
        pollfd fd = {(*dump)->fd(), POLLIN, 0};
        poll(&fd, 1, 100);
        continue;
      }
      DatagramCursor cursor((*chunk)->data, (*chunk)->bytes);
      for (NetlinkMessage message; cursor.Next(&message);) {
        if (message.type == NLMSG_DONE) done = true;
        FlowEvent event;
        Ipv6FlowEvent ipv6_event;
        const ParseResult result = ParseFlowMessage(message, &event);
        if (family.number == AF_INET && result == ParseResult::kFlow) note(event);
        if (family.number == AF_INET6 && result == ParseResult::kIpv6 &&
            ParseIpv6FlowMessage(message, &ipv6_event) == ParseResult::kFlow) {
          note(ipv6_event);
        }
      }
    }
    if (has_udp && has_tcp && has_ended) {
      if (!counted) return absl::InternalError("conntrack saw the flows and counted nothing");
      return flows;
    }
    if (MonotonicNow() > deadline) {
      return absl::InternalError(has_udp && has_tcp ? "conntrack did not see the connection's end"
                                                    : "conntrack did not see the flows");
    }
    absl::SleepFor(kLook);
  }
}

absl::StatusOr<BothFlows> SpoolsCount(const std::string& folder, const Family& family,
                                      const Ports& ports) {
  const AddressFamily rows_family =
      family.number == AF_INET ? AddressFamily::kIpv4 : AddressFamily::kIpv6;
  BothFlows flows;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".spool") continue;
    absl::StatusOr<SpoolReader> reader = SpoolReader::Open(entry.path());
    if (!reader.ok()) return reader.status();
    std::vector<TrafficRow> rows;
    for (;;) {
      const absl::StatusOr<bool> more = reader->ReadBlock(&rows);
      if (!more.ok()) return more.status();
      if (!*more) break;
      for (const TrafficRow& row : rows) {
        if (row.family != rows_family) continue;
        const bool udp = row.protocol == IPPROTO_UDP && row.port == ports.udp;
        if (!udp && (row.protocol != IPPROTO_TCP || row.port != ports.tcp)) continue;
        Sums& sums = udp ? flows.udp : flows.tcp;
        sums.packets_src += row.packets_src;
        sums.packets_dst += row.packets_dst;
        sums.bytes_src += row.bytes_src;
        sums.bytes_dst += row.bytes_dst;
        sums.connections += row.connection_count;
      }
    }
  }
  return flows;
}

std::vector<std::string> EngineCommand(const DoctorOptions& options, const std::string& folder) {
  std::vector<std::string> argv = {options.engine_program,
                                   absl::StrCat("-output=", folder),
                                   absl::StrCat("-state=", folder, "/.ctacct"),
                                   "-interval=1",
                                   "-gateway=ctacct-doctor",
                                   absl::StrCat("-mode=", options.light ? "light" : "precise"),
                                   absl::StrCat("-receive-buffer=", options.receive_buffer_bytes)};
  if (options.workers != 0) argv.push_back(absl::StrCat("-workers=", options.workers));
  if (options.engine_user.has_value()) {
    argv.push_back(absl::StrCat("-user=", options.engine_user->name));
  }
  return argv;
}

// "the engine ended ...: its last words".
std::string EngineEnded(const Child& engine, int status) {
  const std::string said = engine.LastError();
  return absl::StrCat("the engine ended with status ", status, said.empty() ? "" : ": ", said);
}

// What was sent, and what conntrack has of it.
struct Played {
  const Family& family;
  Ports ports;
  BothFlows kernel;
};

absl::Status Play(Played* played) {
  const Family& family = played->family;
  if (absl::Status status = PassUdp(family, &played->ports); !status.ok()) return status;
  if (absl::Status status = PassTcp(family, &played->ports); !status.ok()) return status;
  const absl::StatusOr<BothFlows> kernel = KernelsCount(family, played->ports);
  if (!kernel.ok()) return kernel.status();
  played->kernel = *kernel;
  const Sums sent = {kUdpRequests, kUdpReplies,
                     kUdpRequests * (kUdpRequestBytes + family.udp_header_bytes),
                     kUdpReplies * (kUdpReplyBytes + family.udp_header_bytes), 0};
  if (kernel->udp == sent) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("udp over ", family.name, ": sent ", sent.ToString(),
                                          "; conntrack has ", kernel->udp.ToString()));
}

absl::Status CompareWithSpool(const std::string& folder, const Played& played) {
  const absl::StatusOr<BothFlows> spool = SpoolsCount(folder, played.family, played.ports);
  if (!spool.ok()) return spool.status();
  const std::pair<const char*, std::pair<const Sums&, const Sums&>> compared[] = {
      {"udp", {played.kernel.udp, spool->udp}}, {"tcp", {played.kernel.tcp, spool->tcp}}};
  for (const auto& [protocol, sums] : compared) {
    const auto& [in_kernel, in_spool] = sums;
    const std::string what = absl::StrCat(protocol, " over ", played.family.name);
    if (in_kernel.connections != in_spool.connections) {
      return absl::InternalError(absl::StrCat(what, ": ", in_kernel.connections,
                                              " connections closed, ", in_spool.connections,
                                              " in the spool"));
    }
    if (in_kernel != in_spool) {
      return absl::InternalError(absl::StrCat(what, ": conntrack has ", in_kernel.ToString(),
                                              "; the spool ", in_spool.ToString()));
    }
  }
  return absl::OkStatus();
}

// In the namespace of the calling thread, which has no other process in it.
absl::StatusOr<std::string> Probe(const DoctorOptions& options) {
  if (absl::Status status = LoopbackUp(); !status.ok()) return status;
  if (absl::Status status = RunNft(kRule).status(); !status.ok()) return status;
  // This namespace's own settings: what is asked of the machine's is checked elsewhere.
  if (absl::Status status = PrepareConntrack(options.light, [](const std::string&) {});
      !status.ok()) {
    return status;
  }
  const TemporaryFolder folder;
  if (folder.path().empty()) return Error("temporary folder");
  if (options.engine_user.has_value() &&
      chown(folder.path().c_str(), options.engine_user->uid, options.engine_user->gid) != 0) {
    return Error("temporary folder");
  }
  const absl::StatusOr<std::unique_ptr<Child>> engine =
      Child::Start(EngineCommand(options, folder.path()));
  if (!engine.ok()) return engine.status();
  for (const absl::Duration deadline = MonotonicNow() + kEngineMax;
       !absl::StrContains((*engine)->Errors(), "accounting live");) {
    if (const std::optional<int> status = (*engine)->Wait(kLook); status.has_value()) {
      return absl::InternalError(EngineEnded(**engine, *status));
    }
    if (MonotonicNow() > deadline) {
      return absl::InternalError("the engine does not begin to account");
    }
  }
  std::vector<Played> all = {{kIpv4, {}, {}}};
  // A kernel without IPv6, or with none on the loopback, has no flows of it.
  SocketAddress any;
  const bool has_ipv6 = LoopbackSocket(kIpv6, SOCK_DGRAM, &any).valid();
  if (has_ipv6) all.push_back({kIpv6, {}, {}});
  uint64_t packets = 0;
  for (Played& played : all) {
    if (absl::Status status = Play(&played); !status.ok()) return status;
    packets += played.kernel.udp.packets() + played.kernel.tcp.packets();
  }
  (*engine)->Signal(SIGTERM);
  const std::optional<int> status = (*engine)->Wait(kEngineMax);
  if (!status.has_value()) return absl::InternalError("the engine does not end");
  if (*status != 0) return absl::InternalError(EngineEnded(**engine, *status));
  for (const Played& played : all) {
    if (absl::Status same = CompareWithSpool(folder.path(), played); !same.ok()) return same;
  }
  return absl::StrCat("IPv4", has_ipv6 ? " and IPv6, " : " (no IPv6 here), ", packets,
                      " packets: sent = conntrack = spool row");
}

}  // namespace

Finding CheckProbe(Examination& examination) {
  const DoctorOptions& options = examination.options;
  if (!options.probe) return Skip("left out (-probe=false)");
  if (options.engine_program.empty()) {
    return Fail("there is no engine beside this program",
                {absl::StrCat(options.doctor_program, " -engine=/PATH/TO/ctacct-engine")});
  }
  if (!HasCapability(CAP_SYS_ADMIN) || !HasCapability(CAP_NET_ADMIN)) {
    return Skip("needs root, for a network namespace of its own");
  }
  absl::StatusOr<std::string> result;
  // A namespace is a thread's: it goes with the thread, and this process stays where it is.
  std::thread thread([&] {
    if (unshare(CLONE_NEWNET) != 0) {
      result = absl::UnavailableError(absl::StrCat("network namespace: ", strerror(errno)));
      return;
    }
    result = Probe(options);
  });
  thread.join();
  if (result.ok()) return Ok(*result);
  const std::string text(result.status().message());
  if (absl::IsUnavailable(result.status())) return Skip(text);
  return Fail(text, {absl::StrCat("unshare -n ", ShellQuoted(options.engine_program),
                                  " -interval=1   # must say \"accounting live\"")});
}

}  // namespace ctacct
