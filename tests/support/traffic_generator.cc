// Plays whole connections through the gateway of tests/support/gateway.sh, from both of its ends,
// and counts exactly what it sends: what conntrack and an engine count on the gateway has to equal
// it, to the packet and byte.
//
// One thread owns both ends, so every packet follows the one it answers. Flows are played in
// batches, step by step: the first packets of all flows of the batch, then the second ones, and so
// on; two system calls a step. With veth the gateway works within the sender's system call; its
// cost is part of the generator's speed.
//
// Afterwards the interface counters of all three namespaces are compared with what was sent. A
// packet lost on the way (or sent by somebody else) is an error, as the expectation would be none.
// One generator at a time on a gateway.
//
// No tuple is used twice within a run; for a second run on a gateway whose entries still live, see
// --first-flow.
//
// Byte order: addresses and ports are in host order until a packet is built.

#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/system/command_line.h"

ABSL_FLAG(std::string, gateway, "", "NAME that `gateway.sh up NAME` was given");
ABSL_FLAG(bool, nat, false,
          "answer from and to translated addresses, for a gateway made with --nat");
ABSL_FLAG(bool, ipv6, false,
          "play IPv6, for a gateway made with --ipv6: the same addresses within fd00::/96 (behind "
          "translation, fd01::/96); protocols have a 6 at the end in the sums");
ABSL_FLAG(uint64_t, tcp, 0, "TCP connections that open and close, about 10 packets each");
ABSL_FLAG(uint64_t, udp, 0, "UDP flows, some of them without an answer");
ABSL_FLAG(uint64_t, icmp, 0, "ICMP echo flows, some of them without an answer");
ABSL_FLAG(uint64_t, open_tcp, 0, "TCP connections that stay open and carry data in every round");
ABSL_FLAG(int, rounds, 1, "rounds of data on the open connections, the first at once");
ABSL_FLAG(double, round_seconds, 1, "from the start of a round to that of the next");
ABSL_FLAG(bool, close_open, true,
          "close the open connections after the last round (else leave them)");
ABSL_FLAG(std::string, stop_file, "",
          "no further traffic once this file exists; looked at after each round");
ABSL_FLAG(double, rate, 0, "new flows per second; 0: as fast as it goes (rounds are not limited)");
ABSL_FLAG(uint64_t, seed, 1, "of everything that varies; the same flags play the same packets");
ABSL_FLAG(uint32_t, clients, 256, "client addresses, eight to a network of 24 bits");
ABSL_FLAG(uint32_t, servers, 64, "server addresses, eight to a network of 24 bits");
ABSL_FLAG(uint32_t, ports, 8, "server ports per protocol, well-known ones first");
ABSL_FLAG(uint32_t, payload_max, 512, "bytes in a TCP segment, datagram or echo, at most");
ABSL_FLAG(uint32_t, udp_packets_max, 2, "packets of a UDP flow in each direction, at most");
ABSL_FLAG(
    double, tcp_refused_percent, 0,
    "share of TCP connections that get a reset for an answer; conntrack drops their entry at once");
ABSL_FLAG(
    uint64_t, first_flow, 0,
    "number of the first flow of each protocol: give the sum of earlier runs to use fresh tuples");
ABSL_FLAG(int, pin_cpu, -1, "CPU to run on; -1: the one it starts on");
ABSL_FLAG(std::string, expect, "",
          "file for the sums by original direction, as CSV: "
          "proto,src,dst,port,packets_src,packets_dst,bytes_src,"
          "bytes_dst,connection_count (closed here),open_connections (left open)");

namespace ctacct {
namespace {

// More would not fit conntrack's table (gateway.sh raises it to two millions), nor a test's time.
constexpr uint64_t kFlowsMax = 10'000'000;
// One network in use per address group; both ends have 4,096 (2 halves * 8 second octets * 256
// third octets).
constexpr uint32_t kHostsPerNetwork = 8;
constexpr uint32_t kAddressesMax = 4096 * kHostsPerNetwork;
constexpr uint32_t kServerPortsMax = 10'000;
// Data of one packet of the veth pairs' MTU, 1500, below IP and TCP headers.
constexpr uint32_t kPayloadBytesMax = 1460;  // IPv6: 20 less.
constexpr uint32_t kUdpPacketsMax = 4;
constexpr int kRoundsMax = 10'000;
constexpr double kRoundSecondsMax = 3600;
// A client's source ports, and echo identifiers: what makes its flows distinct. Ports start above
// well-known ones.
constexpr uint32_t kFirstClientPort = 16384;
constexpr uint32_t kFlowsPerClientMax = 65536 - kFirstClientPort;
// Flows played at a time; large enough that system calls cost little, small enough that their
// conntrack entries stay in the CPU's cache.
constexpr size_t kBatchFlowsMax = 64;
// A limited rate is kept by this many batches a second, so that packets do not come in lumps.
constexpr double kBatchesPerSecond = 200;
// The last packets may still wait for a CPU's soft interrupt when the sender is done; what has not
// moved for so long is lost.
constexpr absl::Duration kSettle = absl::Seconds(1);

constexpr uint32_t kIpv4HeaderBytes = 20;
constexpr uint32_t kIpv6HeaderBytes = 40;
constexpr uint32_t kTcpHeaderBytes = 20;
constexpr uint32_t kShortHeaderBytes = 8;  // UDP and ICMP echo.

// As in gateway.sh: the gateway translates 10.32.0.0/11 to 100.64.0.0/11.
constexpr uint32_t kTranslation = (100u << 24 | 64u << 16) - (10u << 24 | 32u << 16);

enum End : uint8_t { kClient = 0, kServer = 1 };

bool StopAsked() {
  const std::string path = absl::GetFlag(FLAGS_stop_file);
  return !path.empty() && access(path.c_str(), F_OK) == 0;
}

End Other(End end) { return end == kClient ? kServer : kClient; }

struct Flow {
  uint8_t protocol = 0;
  uint32_t client = 0;
  uint32_t server = 0;
  uint16_t client_port = 0;  // The identifier of an ICMP echo.
  uint16_t server_port = 0;  // 0 for ICMP.
  uint16_t echo_sequence[2] = {};
  uint32_t tcp_sequence[2] = {};  // Next to send, by end.
};

struct Step {
  End from = kClient;
  uint8_t tcp_flags = 0;
  uint16_t payload_bytes = 0;
};

// What one flow does in one batch: a list of at most kStepsMax packets. (The longest: handshake 3,
// requests 2, responses 2, their acknowledgement, close 4; or a UDP flow of kUdpPacketsMax each
// way.)
class Script {
 public:
  static constexpr size_t kStepsMax = 12;

  void Clear() { size_ = 0; }
  void Add(End from, uint8_t tcp_flags, uint32_t payload_bytes) {
    if (size_ == kStepsMax)
      std::abort();  // A script longer than its own limit is a programmer's error.
    steps_[size_++] = {from, tcp_flags, static_cast<uint16_t>(payload_bytes)};
  }
  size_t size() const { return size_; }
  const Step& operator[](size_t i) const { return steps_[i]; }

 private:
  std::array<Step, kStepsMax> steps_;
  size_t size_ = 0;
};

struct Counts {
  uint64_t packets[2] = {};  // By the end that sent them.
  uint64_t bytes[2] = {};    // Total lengths of IP packets, as conntrack counts.
  uint64_t closed = 0;       // TCP connections.
  uint64_t left_open = 0;

  Counts& operator+=(const Counts& other) {
    for (int end : {kClient, kServer}) {
      packets[end] += other.packets[end];
      bytes[end] += other.bytes[end];
    }
    closed += other.closed;
    left_open += other.left_open;
    return *this;
  }
};

using Key =
    std::tuple<uint8_t, uint32_t, uint32_t, uint16_t>;  // Protocol, client, server, server port.

absl::Status ErrnoStatus(const std::string& what) {
  return absl::InternalError(absl::StrCat(what, ": ", std::strerror(errno)));
}

bool Ipv6() { return absl::GetFlag(FLAGS_ipv6); }
uint32_t IpHeaderBytes() { return Ipv6() ? kIpv6HeaderBytes : kIpv4HeaderBytes; }

const char* ProtocolName(uint8_t protocol) {
  if (Ipv6()) {
    return protocol == IPPROTO_TCP ? "tcp6" : protocol == IPPROTO_UDP ? "udp6" : "ipv6-icmp6";
  }
  return protocol == IPPROTO_TCP ? "tcp" : protocol == IPPROTO_UDP ? "udp" : "icmp";
}

std::string AddressText(uint32_t address) {
  return absl::StrCat(address >> 24, ".", address >> 16 & 255, ".", address >> 8 & 255, ".",
                      address & 255);
}

// ---- network namespaces ----

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd = -1) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

// Runs `work` in the named namespace and comes back.
absl::Status InNamespace(const std::string& name, const std::function<absl::Status()>& work) {
  const FileDescriptor home(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
  if (home.get() < 0) return ErrnoStatus("/proc/self/ns/net");
  const std::string path = absl::StrCat("/run/netns/", name);
  const FileDescriptor there(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (there.get() < 0) return ErrnoStatus(path);
  if (setns(there.get(), CLONE_NEWNET) != 0) return ErrnoStatus(absl::StrCat("setns ", path));
  const absl::Status status = work();
  if (setns(home.get(), CLONE_NEWNET) != 0) return ErrnoStatus("setns back home");
  return status;
}

struct InterfaceCounters {
  uint64_t received = 0;
  uint64_t sent = 0;
};

// Packets of the interface in the namespace of the caller.
absl::StatusOr<InterfaceCounters> ReadInterface(const std::string& interface) {
  std::ifstream file("/proc/self/net/dev");
  for (std::string line; std::getline(file, line);) {
    const size_t name = line.find_first_not_of(' ');
    const size_t colon = line.find(':');
    if (name == std::string::npos || colon == std::string::npos) continue;
    if (line.substr(name, colon - name) != interface) continue;
    // Receive: bytes packets errs drop fifo frame compressed multicast; transmit: bytes packets ...
    unsigned long long received, sent;
    if (std::sscanf(line.c_str() + colon + 1, "%*u %llu %*u %*u %*u %*u %*u %*u %*u %llu",
                    &received, &sent) != 2) {
      break;
    }
    return InterfaceCounters{received, sent};
  }
  return absl::NotFoundError(absl::StrCat("/proc/self/net/dev: no counters of ", interface));
}

// Packets that all CPUs together dropped because their queue between two interfaces was full.
uint64_t SoftnetDrops() {
  std::ifstream file("/proc/net/softnet_stat");
  uint64_t drops = 0;
  for (std::string line; std::getline(file, line);) {
    unsigned long long dropped;
    if (std::sscanf(line.c_str(), "%*x %llx", &dropped) == 1) drops += dropped;
  }
  return drops;
}

// Counts at the four places a packet passes, in the order of a client's packet; [1] is the way
// back.
struct PathCounters {
  std::array<uint64_t, 4> passed[2] = {};
  uint64_t softnet_drops = 0;
};

constexpr const char* kPlaces[] = {"sender's interface", "gateway's near interface",
                                   "gateway's far interface", "receiver's interface"};

absl::StatusOr<PathCounters> ReadPath(const std::string& gateway) {
  struct Place {
    const char* end;
    const char* interface;
    bool receives_from_client;
  };
  constexpr Place kPath[] = {{"-client", "to-gw", false},
                             {"-gw", "to-client", true},
                             {"-gw", "to-server", false},
                             {"-server", "to-gw", true}};
  PathCounters path;
  for (size_t i = 0; i < 4; ++i) {
    const Place& place = kPath[i];
    const absl::Status status =
        InNamespace(absl::StrCat(gateway, place.end), [&]() -> absl::Status {
          absl::StatusOr<InterfaceCounters> counters = ReadInterface(place.interface);
          if (!counters.ok()) return counters.status();
          path.passed[kClient][i] =
              place.receives_from_client ? counters->received : counters->sent;
          path.passed[kServer][3 - i] =
              place.receives_from_client ? counters->sent : counters->received;
          return absl::OkStatus();
        });
    if (!status.ok()) return status;
  }
  path.softnet_drops = SoftnetDrops();
  return path;
}

// Waits until all places have passed everything that was sent; otherwise the error says which have
// not.
absl::Status CheckNothingLost(const std::string& gateway, const PathCounters& before,
                              const Counts& sent) {
  absl::Time deadline = absl::Now() + kSettle;
  std::string differences_before;
  for (;;) {
    const absl::StatusOr<PathCounters> now = ReadPath(gateway);
    if (!now.ok()) return now.status();
    std::string differences;
    for (End end : {kClient, kServer}) {
      uint64_t expected = sent.packets[end];
      for (size_t i = 0; i < 4; ++i) {
        const uint64_t passed = now->passed[end][i] - before.passed[end][i];
        if (passed == expected) continue;
        absl::StrAppend(&differences, "; ", end == kClient ? "client" : "server", " to ",
                        end == kClient ? "server" : "client", ": ", passed, " instead of ",
                        expected, " at the ", kPlaces[i]);
        expected = passed;  // Further places are reported only for their own losses.
      }
    }
    if (differences.empty()) return absl::OkStatus();
    if (differences != differences_before) {
      deadline = absl::Now() + kSettle;
      differences_before = differences;
    }
    if (absl::Now() >= deadline) {
      return absl::DataLossError(
          absl::StrCat("packets were lost, or others sent some: the expectation does not hold",
                       differences, "; full queues between interfaces on this machine dropped ",
                       now->softnet_drops - before.softnet_drops));
    }
    absl::SleepFor(absl::Milliseconds(10));
  }
}

// ---- packets ----

struct Packet {
  // Ethernet, IP, and the longest of TCP, UDP and ICMP headers; written as bytes because IP starts
  // unaligned.
  std::array<uint8_t, sizeof(ethhdr) + kIpv6HeaderBytes + kTcpHeaderBytes> header;
  std::array<iovec, 2> parts;  // The header, and zeros.
};

uint32_t Fold(uint32_t sum) {
  sum = (sum & 0xffff) + (sum >> 16);
  return (sum & 0xffff) + (sum >> 16);
}

// Sum over 16-bit words as they lie in memory; the result is in network order as well.
uint16_t InternetChecksum(const void* data, size_t bytes) {
  const auto* position = static_cast<const uint8_t*>(data);
  uint32_t sum = 0;
  for (size_t i = 0; i + 1 < bytes; i += 2) {
    uint16_t word;
    std::memcpy(&word, position + i, sizeof word);
    sum += word;
  }
  return static_cast<uint16_t>(~Fold(sum));
}

// One end's raw socket and the packets waiting to be sent through it.
class EndSocket {
 public:
  // Call within the end's namespace. `gateway_mac` is the gateway's interface facing this end.
  absl::Status Open(const std::array<uint8_t, ETH_ALEN>& gateway_mac) {
    // Protocol 0: sends only; copies of what comes in would cost as much as the traffic itself.
    socket_ = FileDescriptor(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
    if (socket_.get() < 0) return ErrnoStatus("packet socket");
    const int on = 1;
    // Straight to the driver: no queue before the interface, thus none that drops.
    if (setsockopt(socket_.get(), SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof on) != 0) {
      return ErrnoStatus("PACKET_QDISC_BYPASS");
    }
    sockaddr_ll address = {};
    address.sll_family = AF_PACKET;
    address.sll_ifindex = static_cast<int>(if_nametoindex("to-gw"));
    if (address.sll_ifindex == 0) return ErrnoStatus("interface to-gw");
    if (bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      return ErrnoStatus("bind to interface to-gw");
    }
    packets_.resize(kBatchFlowsMax);
    messages_.resize(kBatchFlowsMax);
    for (size_t i = 0; i < kBatchFlowsMax; ++i) {
      Packet& packet = packets_[i];
      ethhdr ethernet = {};
      std::copy(gateway_mac.begin(), gateway_mac.end(), ethernet.h_dest);
      ethernet.h_source[0] = 0x02;  // Locally administered; nobody answers to it.
      ethernet.h_proto = htons(ipv6_ ? ETH_P_IPV6 : ETH_P_IP);
      std::memcpy(packet.header.data(), &ethernet, sizeof ethernet);
      static std::array<uint8_t, kPayloadBytesMax> zeros = {};
      packet.parts[0].iov_base = packet.header.data();
      packet.parts[1].iov_base = zeros.data();
      messages_[i] = {};
      messages_[i].msg_hdr.msg_iov = packet.parts.data();
      messages_[i].msg_hdr.msg_iovlen = packet.parts.size();
    }
    return absl::OkStatus();
  }

  // Queues the packet that is the flow's next step. Translated: with the far ends' addresses of a
  // gateway with NAT.
  void Add(Flow& flow, const Step& step, bool translated) {
    Packet& packet = packets_[waiting_++];
    uint8_t* const position = packet.header.data() + sizeof(ethhdr);
    const bool from_client = step.from == kClient;
    const uint32_t ip_bytes = ipv6_ ? kIpv6HeaderBytes : kIpv4HeaderBytes;
    const uint32_t offset = translated && !from_client ? kTranslation : 0;
    const uint16_t ports[2] = {htons(flow.client_port), htons(flow.server_port)};
    uint32_t transport_bytes = kShortHeaderBytes;
    if (flow.protocol == IPPROTO_TCP) {
      transport_bytes = kTcpHeaderBytes;
      tcphdr tcp = {};
      tcp.source = ports[step.from];
      tcp.dest = ports[Other(step.from)];
      tcp.seq = htonl(flow.tcp_sequence[step.from]);
      if (step.tcp_flags & TH_ACK) tcp.ack_seq = htonl(flow.tcp_sequence[Other(step.from)]);
      tcp.th_off = kTcpHeaderBytes / 4;
      tcp.th_flags = step.tcp_flags;
      tcp.window = htons(65535);
      // No checksum: nobody receives the segment, and the gateway's conntrack does not verify
      // (nf_conntrack_checksum=0). Forwarding and translation never do.
      std::memcpy(position + ip_bytes, &tcp, sizeof tcp);
      flow.tcp_sequence[step.from] +=
          step.payload_bytes + ((step.tcp_flags & (TH_SYN | TH_FIN)) != 0 ? 1 : 0);
    } else if (flow.protocol == IPPROTO_UDP) {
      udphdr udp = {};
      udp.source = ports[step.from];
      udp.dest = ports[Other(step.from)];
      udp.len = htons(static_cast<uint16_t>(kShortHeaderBytes + step.payload_bytes));
      std::memcpy(position + ip_bytes, &udp, sizeof udp);  // A checksum of 0 says there is none.
    } else {
      icmphdr icmp = {};
      icmp.type = ipv6_ ? (from_client ? ICMP6_ECHO_REQUEST : ICMP6_ECHO_REPLY)
                        : (from_client ? ICMP_ECHO : ICMP_ECHOREPLY);
      icmp.un.echo.id = ports[kClient];
      icmp.un.echo.sequence = htons(flow.echo_sequence[step.from]++);
      icmp.checksum = InternetChecksum(&icmp, sizeof icmp);  // The payload's zeros add nothing.
      std::memcpy(position + ip_bytes, &icmp, sizeof icmp);
    }
    packet.parts[0].iov_len = sizeof(ethhdr) + ip_bytes + transport_bytes;
    packet.parts[1].iov_len = step.payload_bytes;
    if (ipv6_) {
      ip6_hdr ip = {};
      ip.ip6_flow = htonl(6u << 28);
      ip.ip6_plen = htons(static_cast<uint16_t>(transport_bytes + step.payload_bytes));
      ip.ip6_nxt = flow.protocol == IPPROTO_ICMP ? uint8_t{IPPROTO_ICMPV6} : flow.protocol;
      ip.ip6_hlim = 64;
      const uint8_t network = offset == 0 ? 0x00 : 0x01;
      ip.ip6_src = Ipv6Address(network, from_client ? flow.client : flow.server);
      ip.ip6_dst = Ipv6Address(network, from_client ? flow.server : flow.client);
      std::memcpy(position, &ip, sizeof ip);
      return;
    }
    iphdr ip = {};
    ip.version = 4;
    ip.ihl = kIpv4HeaderBytes / 4;
    ip.tot_len =
        htons(static_cast<uint16_t>(kIpv4HeaderBytes + transport_bytes + step.payload_bytes));
    ip.frag_off = htons(IP_DF);
    ip.ttl = 64;
    ip.protocol = flow.protocol;
    ip.saddr = htonl((from_client ? flow.client : flow.server) + offset);
    ip.daddr = htonl((from_client ? flow.server : flow.client) + offset);
    ip.check = InternetChecksum(&ip, sizeof ip);
    std::memcpy(position, &ip, sizeof ip);
  }

  absl::Status Send() {
    unsigned sent = 0;
    while (sent < waiting_) {
      const int n = sendmmsg(socket_.get(), messages_.data() + sent, waiting_ - sent, 0);
      if (n < 0 && errno == EINTR) continue;
      // ENOBUFS is a packet dropped: a full queue between the interfaces
      // (net.core.netdev_max_backlog).
      if (n < 0) return ErrnoStatus("sendmmsg");
      sent += static_cast<unsigned>(n);
    }
    waiting_ = 0;
    return absl::OkStatus();
  }

 private:
  // Within fd00::/96, or fd01::/96.
  static in6_addr Ipv6Address(uint8_t network, uint32_t host) {
    in6_addr address = {};
    address.s6_addr[0] = 0xfd;
    address.s6_addr[1] = network;
    const uint32_t last = htonl(host);
    std::memcpy(address.s6_addr + 12, &last, sizeof last);
    return address;
  }

  const bool ipv6_ = Ipv6();
  FileDescriptor socket_;
  std::vector<Packet> packets_;  // Never resized after Open: messages_ point into it.
  std::vector<mmsghdr> messages_;
  unsigned waiting_ = 0;
};

absl::StatusOr<std::array<uint8_t, ETH_ALEN>> HardwareAddress(const char* interface) {
  const FileDescriptor any(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (any.get() < 0) return ErrnoStatus("socket");
  ifreq request = {};
  std::strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
  if (ioctl(any.get(), SIOCGIFHWADDR, &request) != 0) {
    return ErrnoStatus(absl::StrCat("hardware address of ", interface));
  }
  std::array<uint8_t, ETH_ALEN> address;
  std::memcpy(address.data(), request.ifr_hwaddr.sa_data, address.size());
  return address;
}

// ---- traffic ----

class Generator {
 public:
  Generator()
      : nat_(absl::GetFlag(FLAGS_nat)),
        clients_(absl::GetFlag(FLAGS_clients)),
        servers_(absl::GetFlag(FLAGS_servers)),
        ports_(absl::GetFlag(FLAGS_ports)),
        payload_max_(absl::GetFlag(FLAGS_payload_max)),
        udp_packets_max_(absl::GetFlag(FLAGS_udp_packets_max)),
        refused_share_(absl::GetFlag(FLAGS_tcp_refused_percent) / 100),
        random_(absl::GetFlag(FLAGS_seed)) {}

  absl::Status Open(const std::string& gateway) {
    constexpr const char* kGatewayInterface[] = {"to-client", "to-server"};
    constexpr const char* kEndName[] = {"-client", "-server"};
    for (End end : {kClient, kServer}) {
      std::array<uint8_t, ETH_ALEN> mac;
      absl::Status status = InNamespace(absl::StrCat(gateway, "-gw"), [&]() -> absl::Status {
        const auto address = HardwareAddress(kGatewayInterface[end]);
        if (address.ok()) mac = *address;
        return address.status();
      });
      if (!status.ok()) return status;
      status = InNamespace(absl::StrCat(gateway, kEndName[end]),
                           [&] { return sockets_[end].Open(mac); });
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status Run() {
    struct Kind {
      uint8_t protocol;
      uint64_t flows;
      uint64_t done = 0;
    };
    std::array<Kind, 3> kinds = {{{IPPROTO_TCP, absl::GetFlag(FLAGS_tcp)},
                                  {IPPROTO_UDP, absl::GetFlag(FLAGS_udp)},
                                  {IPPROTO_ICMP, absl::GetFlag(FLAGS_icmp)}}};
    const uint64_t first = absl::GetFlag(FLAGS_first_flow);
    const uint64_t open_tcp = absl::GetFlag(FLAGS_open_tcp);
    const uint64_t flows_all = kinds[0].flows + kinds[1].flows + kinds[2].flows;
    const double rate = absl::GetFlag(FLAGS_rate);
    const int rounds = open_tcp > 0 ? absl::GetFlag(FLAGS_rounds) : 0;
    const absl::Duration between = absl::Seconds(absl::GetFlag(FLAGS_round_seconds));
    const size_t batch_flows =
        rate == 0
            ? kBatchFlowsMax
            : std::clamp<size_t>(static_cast<size_t>(rate / kBatchesPerSecond), 1, kBatchFlowsMax);

    const absl::Time start = absl::Now();
    std::vector<Flow> open_flows;
    open_flows.reserve(open_tcp);
    // Numbers after those of the connections that close, so that the tuples differ.
    for (uint64_t i = 0; i < open_tcp; ++i) {
      open_flows.push_back(NewFlow(IPPROTO_TCP, first + kinds[0].flows + i));
    }

    uint64_t flows_done = 0;
    int rounds_done = 0;
    while (flows_done < flows_all || rounds_done < rounds) {
      const absl::Time now = absl::Now();
      const absl::Time round_due =
          rounds_done < rounds ? start + rounds_done * between : absl::InfiniteFuture();
      const absl::Time batch_due =
          flows_done == flows_all ? absl::InfiniteFuture()
          : rate == 0             ? start
                                  : start + absl::Seconds(static_cast<double>(flows_done) / rate);
      if (round_due <= now) {
        const absl::Status status = PlayRound(open_flows, rounds_done == 0);
        if (!status.ok()) return status;
        ++rounds_done;
        if (StopAsked()) break;
        continue;
      }
      if (batch_due > now) {
        absl::SleepFor(std::min(batch_due, round_due) - now);
        continue;
      }
      // The kind that is furthest behind, so that all end together.
      Kind* kind = &kinds[0];
      for (Kind& other : kinds) {
        if (kind->done == kind->flows ||
            (other.done < other.flows && other.done * kind->flows < kind->done * other.flows)) {
          kind = &other;
        }
      }
      const size_t n = std::min<uint64_t>(batch_flows, kind->flows - kind->done);
      for (size_t i = 0; i < n; ++i) {
        batch_[i] = NewFlow(kind->protocol, first + kind->done + i);
        const bool closes = WriteScript(kind->protocol, &scripts_[i]);
        Account(batch_[i], scripts_[i], closes ? 1 : 0, 0);
      }
      if (absl::Status status = Play(batch_.data(), n); !status.ok()) return status;
      kind->done += n;
      flows_done += n;
    }
    if (const absl::Status status = EndOpenFlows(open_flows); !status.ok()) return status;
    seconds_ = absl::ToDoubleSeconds(absl::Now() - start);
    for (const Kind& kind : kinds) flows_[kind.protocol] += kind.done;
    flows_[IPPROTO_TCP] += open_tcp;
    return absl::OkStatus();
  }

  Counts Total() const {
    Counts total;
    for (const auto& [key, counts] : sums_) total += counts;
    return total;
  }

  std::string Summary() const {
    std::map<uint8_t, Counts> by_protocol;
    for (const auto& [key, counts] : sums_) by_protocol[std::get<0>(key)] += counts;
    uint64_t flows_all = 0;
    std::string text = "{";
    for (const uint8_t protocol : {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP}) {
      const Counts& sum = by_protocol[protocol];
      const auto flows = flows_.find(protocol);
      const uint64_t n = flows == flows_.end() ? 0 : flows->second;
      flows_all += n;
      absl::StrAppendFormat(&text,
                            "\"%s\": {\"flows\": %u, \"packets_src\": %u, \"packets_dst\": %u, "
                            "\"bytes_src\": %u, \"bytes_dst\": %u}, ",
                            ProtocolName(protocol), n, sum.packets[kClient], sum.packets[kServer],
                            sum.bytes[kClient], sum.bytes[kServer]);
    }
    const Counts total = Total();
    absl::StrAppendFormat(
        &text,
        "\"connections_closed\": %u, \"connections_left_open\": %u, \"keys\": %u, "
        "\"seconds\": %.3f, \"flows_per_second\": %.0f, \"packets_per_second\": %.0f}",
        total.closed, total.left_open, sums_.size(), seconds_,
        static_cast<double>(flows_all) / seconds_,
        static_cast<double>(total.packets[kClient] + total.packets[kServer]) / seconds_);
    return text;
  }

  absl::Status WriteExpectation(const std::string& path) const {
    std::ofstream file(path);
    std::vector<std::pair<Key, Counts>> rows(sums_.begin(), sums_.end());
    std::sort(rows.begin(), rows.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& [key, counts] : rows) {
      const auto [protocol, client, server, port] = key;
      file << ProtocolName(protocol) << ',' << AddressText(client) << ',' << AddressText(server)
           << ',' << port << ',' << counts.packets[kClient] << ',' << counts.packets[kServer] << ','
           << counts.bytes[kClient] << ',' << counts.bytes[kServer] << ',' << counts.closed << ','
           << counts.left_open << '\n';
    }
    file.close();
    return file ? absl::OkStatus() : ErrnoStatus(path);
  }

 private:
  uint32_t RandomBelow(uint32_t limit) {
    return static_cast<uint32_t>((random_() >> 32) * limit >> 32);
  }
  uint32_t RandomBetween(uint32_t least, uint32_t most) {
    return least + RandomBelow(most - least + 1);
  }

  // Networks come in pairs that differ in the one bit that 255.239.255.0 leaves out: 10.32.x.0
  // and 10.48.x.0 for clients, 10.40.x.0 and 10.56.x.0 for servers. The multiplication scatters the
  // pairs and repeats none.
  uint32_t Address(End end, uint32_t index) const {
    const uint32_t network = index / kHostsPerNetwork;
    const uint32_t pair = network / 2 * 1021 % 2048;
    const uint32_t second_octet = 32 + (end == kServer ? 8 : 0) + pair % 8 + (network % 2) * 16;
    const uint32_t third_octet = pair / 8;
    return 10u << 24 | second_octet << 16 | third_octet << 8 | (1 + index % kHostsPerNetwork);
  }

  static uint16_t ServerPort(uint8_t protocol, uint32_t index) {
    constexpr std::array<uint16_t, 8> kTcp = {443, 80, 22, 25, 53, 993, 5432, 8080};
    constexpr std::array<uint16_t, 8> kUdp = {53, 443, 123, 51820, 500, 4500, 3478, 1194};
    if (protocol == IPPROTO_ICMP) return 0;
    if (index < kTcp.size()) return (protocol == IPPROTO_TCP ? kTcp : kUdp)[index];
    return static_cast<uint16_t>(
        1500 + index);  // Between the ports above and those of clients: below 11,500.
  }

  Flow NewFlow(uint8_t protocol, uint64_t number) {
    Flow flow;
    flow.protocol = protocol;
    flow.client = Address(kClient, static_cast<uint32_t>(number % clients_));
    flow.client_port = static_cast<uint16_t>(kFirstClientPort + number / clients_);
    flow.server = Address(kServer, RandomBelow(servers_));
    flow.server_port = ServerPort(protocol, RandomBelow(ports_));
    flow.tcp_sequence[kClient] = static_cast<uint32_t>(random_());
    flow.tcp_sequence[kServer] = static_cast<uint32_t>(random_());
    return flow;
  }

  static void AddHandshake(Script* script) {
    script->Add(kClient, TH_SYN, 0);
    script->Add(kServer, TH_SYN | TH_ACK, 0);
    script->Add(kClient, TH_ACK, 0);
  }

  void AddData(Script* script) {
    for (uint32_t n = RandomBetween(1, 2); n > 0; --n) {
      script->Add(kClient, TH_PUSH | TH_ACK, RandomBetween(1, payload_max_));
    }
    const uint32_t responses = RandomBetween(0, 2);
    for (uint32_t n = responses; n > 0; --n) {
      script->Add(kServer, TH_PUSH | TH_ACK, RandomBetween(1, payload_max_));
    }
    if (responses == 0) {
      script->Add(kServer, TH_ACK, 0);
    } else {
      script->Add(kClient, TH_ACK, 0);
    }
  }

  void AddClose(Script* script) {
    const uint32_t dice = RandomBelow(20);
    const End first = dice % 4 == 0 ? kServer : kClient;
    if (dice < 2) {  // A reset instead: dice 0 by the server, 1 by the client.
      script->Add(first, TH_RST | TH_ACK, 0);
      return;
    }
    script->Add(first, TH_FIN | TH_ACK, 0);
    if (dice < 14) script->Add(Other(first), TH_ACK, 0);  // Else the answer is both at once.
    script->Add(Other(first), TH_FIN | TH_ACK, 0);
    script->Add(first, TH_ACK, 0);
  }

  // A whole flow. True if it is a connection, closed at the end.
  bool WriteScript(uint8_t protocol, Script* script) {
    script->Clear();
    if (protocol == IPPROTO_TCP) {
      if (refused_share_ > 0 && RandomBelow(1'000'000) < refused_share_ * 1e6) {
        script->Add(kClient, TH_SYN, 0);
        script->Add(kServer, TH_RST | TH_ACK, 0);
        return true;
      }
      AddHandshake(script);
      AddData(script);
      AddClose(script);
      return true;
    }
    if (protocol == IPPROTO_UDP) {
      for (uint32_t n = RandomBetween(1, udp_packets_max_); n > 0; --n) {
        script->Add(kClient, 0, RandomBetween(0, payload_max_));
      }
      for (uint32_t n = RandomBetween(0, udp_packets_max_); n > 0; --n) {
        script->Add(kServer, 0, RandomBetween(0, payload_max_));
      }
      return false;
    }
    const bool answered = RandomBelow(8) != 0;
    for (uint32_t n = RandomBetween(1, 4); n > 0; --n) {
      const uint32_t payload_bytes = RandomBetween(0, payload_max_);
      script->Add(kClient, 0, payload_bytes);
      if (answered) script->Add(kServer, 0, payload_bytes);
    }
    return false;
  }

  absl::Status PlayRound(std::vector<Flow>& flows, bool handshake) {
    for (size_t done = 0; done < flows.size(); done += kBatchFlowsMax) {
      const size_t n = std::min(kBatchFlowsMax, flows.size() - done);
      for (size_t i = 0; i < n; ++i) {
        scripts_[i].Clear();
        if (handshake) AddHandshake(&scripts_[i]);
        AddData(&scripts_[i]);
        Account(flows[done + i], scripts_[i], 0, 0);
      }
      if (absl::Status status = Play(&flows[done], n); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status EndOpenFlows(std::vector<Flow>& flows) {
    const bool close = absl::GetFlag(FLAGS_close_open);
    for (size_t done = 0; done < flows.size(); done += kBatchFlowsMax) {
      const size_t n = std::min(kBatchFlowsMax, flows.size() - done);
      for (size_t i = 0; i < n; ++i) {
        scripts_[i].Clear();
        if (close) AddClose(&scripts_[i]);
        Account(flows[done + i], scripts_[i], close ? 1 : 0, close ? 0 : 1);
      }
      if (absl::Status status = Play(&flows[done], n); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  // Sends what scripts_[i] says for flows[i], of n flows.
  absl::Status Play(Flow* flows, size_t n) {
    for (size_t step = 0;; ++step) {
      bool any = false;
      for (size_t i = 0; i < n; ++i) {
        if (step >= scripts_[i].size()) continue;
        any = true;
        const Step& next = scripts_[i][step];
        sockets_[next.from].Add(flows[i], next, nat_);
      }
      if (!any) return absl::OkStatus();
      for (End end : {kClient, kServer}) {
        if (absl::Status status = sockets_[end].Send(); !status.ok()) return status;
      }
    }
  }

  // Before the packets are sent; a failure to send ends the run.
  void Account(const Flow& flow, const Script& script, uint64_t closed, uint64_t left_open) {
    Counts& counts = sums_[Key(flow.protocol, flow.client, flow.server, flow.server_port)];
    const uint32_t headers_bytes =
        IpHeaderBytes() + (flow.protocol == IPPROTO_TCP ? kTcpHeaderBytes : kShortHeaderBytes);
    for (size_t i = 0; i < script.size(); ++i) {
      counts.packets[script[i].from] += 1;
      counts.bytes[script[i].from] += headers_bytes + script[i].payload_bytes;
    }
    counts.closed += closed;
    counts.left_open += left_open;
  }

  const bool nat_;
  const uint32_t clients_;
  const uint32_t servers_;
  const uint32_t ports_;
  const uint32_t payload_max_;
  const uint32_t udp_packets_max_;
  const double refused_share_;
  std::mt19937_64 random_;

  std::array<EndSocket, 2> sockets_;  // By End.
  std::array<Flow, kBatchFlowsMax> batch_;
  std::array<Script, kBatchFlowsMax> scripts_;

  absl::flat_hash_map<Key, Counts> sums_;
  std::map<uint8_t, uint64_t> flows_;
  double seconds_ = 0;
};

absl::Status CheckFlags() {
  const auto between = [](const char* flag, double value, double least, double most) {
    if (value >= least && value <= most) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrFormat("flag -%s: %g is not from %g to %g", flag, value, least, most));
  };
  const uint64_t tcp = absl::GetFlag(FLAGS_tcp), udp = absl::GetFlag(FLAGS_udp),
                 icmp = absl::GetFlag(FLAGS_icmp), open_tcp = absl::GetFlag(FLAGS_open_tcp),
                 first = absl::GetFlag(FLAGS_first_flow);
  const auto number = [](uint64_t n) { return static_cast<double>(n); };
  if (absl::GetFlag(FLAGS_gateway).empty()) {
    return absl::InvalidArgumentError("flag -gateway: needs the name of a gateway of gateway.sh");
  }
  for (const absl::Status& status :
       {between("tcp", number(tcp), 0, number(kFlowsMax)),
        between("udp", number(udp), 0, number(kFlowsMax)),
        between("icmp", number(icmp), 0, number(kFlowsMax)),
        between("open-tcp", number(open_tcp), 0, number(kFlowsMax)),
        between("rounds", absl::GetFlag(FLAGS_rounds), 1, kRoundsMax),
        between("round-seconds", absl::GetFlag(FLAGS_round_seconds), 0, kRoundSecondsMax),
        between("rate", absl::GetFlag(FLAGS_rate), 0, 1e9),
        between("clients", absl::GetFlag(FLAGS_clients), 1, kAddressesMax),
        between("servers", absl::GetFlag(FLAGS_servers), 1, kAddressesMax),
        between("ports", absl::GetFlag(FLAGS_ports), 1, kServerPortsMax),
        between("payload-max", absl::GetFlag(FLAGS_payload_max), 1,
                kPayloadBytesMax + kIpv4HeaderBytes - IpHeaderBytes()),
        between("udp-packets-max", absl::GetFlag(FLAGS_udp_packets_max), 1, kUdpPacketsMax),
        between("tcp-refused-percent", absl::GetFlag(FLAGS_tcp_refused_percent), 0, 100),
        between("first-flow", number(first), 0, 1e12),
        between("pin-cpu", absl::GetFlag(FLAGS_pin_cpu), -1, CPU_SETSIZE - 1)}) {
    if (!status.ok()) return status;
  }
  const uint64_t last = first + std::max({tcp + open_tcp, udp, icmp});
  const uint64_t distinct = uint64_t{kFlowsPerClientMax} * absl::GetFlag(FLAGS_clients);
  if (last > distinct) {
    return absl::InvalidArgumentError(absl::StrCat("flag -clients: ", absl::GetFlag(FLAGS_clients),
                                                   " addresses make ", distinct,
                                                   " distinct flows, ", last, " are asked for"));
  }
  return absl::OkStatus();
}

// Always on one CPU: the queue between two interfaces is the CPU's, and only within it packets keep
// their order.
absl::Status PinToCpu(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(cpu), &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) return ErrnoStatus(absl::StrCat("CPU ", cpu));
  return absl::OkStatus();
}

absl::Status Main() {
  const std::string gateway = absl::GetFlag(FLAGS_gateway);
  const int cpu = absl::GetFlag(FLAGS_pin_cpu);
  if (absl::Status status = PinToCpu(cpu >= 0 ? cpu : sched_getcpu()); !status.ok()) return status;
  Generator generator;
  if (absl::Status status = generator.Open(gateway); !status.ok()) return status;
  const absl::StatusOr<PathCounters> before = ReadPath(gateway);
  if (!before.ok()) return before.status();
  if (absl::Status status = generator.Run(); !status.ok()) return status;
  if (absl::Status status = CheckNothingLost(gateway, *before, generator.Total()); !status.ok()) {
    return status;
  }
  if (const std::string path = absl::GetFlag(FLAGS_expect); !path.empty()) {
    if (absl::Status status = generator.WriteExpectation(path); !status.ok()) return status;
  }
  std::cout << generator.Summary() << std::endl;
  return std::cout ? absl::OkStatus() : absl::InternalError("standard output cannot be written");
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) {
  constexpr const char* kProgram = "traffic_generator";
  const absl::StatusOr<ctacct::CommandLine> line = ctacct::ParseCommandLine(argc, argv);
  absl::Status usage = line.status();
  if (line.ok() && line->help) {
    std::cout << ctacct::FlagsHelp(
        "traffic_generator -gateway=NAME [FLAGS]: plays counted traffic");
    return ctacct::kExitOk;
  }
  if (line.ok() && !line->arguments.empty()) {
    usage = absl::InvalidArgumentError(absl::StrCat("takes no argument: ", line->arguments[0]));
  }
  if (usage.ok()) usage = ctacct::CheckFlags();
  if (!usage.ok()) {
    ctacct::PrintError(kProgram, usage);
    return ctacct::kExitUsageError;
  }
  const absl::Status status = ctacct::Main();
  if (!status.ok()) {
    ctacct::PrintError(kProgram, status);
    return ctacct::kExitOperatingError;
  }
  return ctacct::kExitOk;
}
