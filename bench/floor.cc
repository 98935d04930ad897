// The receive-only floor: what listening to conntrack costs before anything is parsed.
//
// Events: subscribes as the engine does (same groups, filter, sockets and threads, recvmmsg of 64,
// drains, naps as engine/event_loop.cc does, several threads each on a CPU of its own), counts
// datagrams and looks at none. At SIGTERM it drains once more and prints one line of JSON:
// datagrams, events the kernel dropped, and the process's own CPU seconds. With -interval it also
// takes a dump, as below, at each interval's end, as the engine does.
//
// -dump: asks for one dump of the IPv4 table and takes it with a bare recv of 64 KiB; looks only at
// the messages' headers. One line of JSON: entries, bytes, receive calls, wall and CPU seconds from
// the request on.
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "bench/threads.h"
#include "engine/system/command_line.h"
#include "netlink/event_filter.h"
#include "netlink/event_socket.h"
#include "netlink/ipv4_text.h"

ABSL_FLAG(std::string, mode, "precise", "events as the engine's mode has them: precise or light");
ABSL_FLAG(uint32_t, workers, 1, "sockets and threads");
ABSL_FLAG(std::string, src, "", "as the engine's: the filter lets only these original sources in");
ABSL_FLAG(int, interval, 0, "seconds between dumps, aligned to the epoch; 0: none");
ABSL_FLAG(bool, dump, false, "time one dump instead of listening");

namespace ctacct {
namespace {

constexpr int64_t kNanosPerSecond = 1'000'000'000;
constexpr size_t kReceiveBufferBytes = 128 << 20;  // Of all sockets; the kernel doubles it.
constexpr timespec kNap = {0, 5'000'000};          // As the engine's.
constexpr int kPollMillis = 100;                   // How late SIGTERM may be seen.
// As the engine's: no nap where the events of one would take more than this part of the buffer.
constexpr size_t kQueuedEventBytes = 1280;
constexpr size_t kNapBufferShare = 8;
constexpr size_t kDumpBytes = 65536;     // The kernel packs up to 32 KiB.
constexpr int kDumpSilenceSeconds = 10;  // Then something is broken.

int64_t NowNs(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return now.tv_sec * kNanosPerSecond + now.tv_nsec;
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

absl::Status ErrnoStatus(const char* what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", strerror(errno)));
}

// The CPUs this process may use, in order.
std::vector<int> AllowedCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof(set), &set);
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(static_cast<size_t>(cpu), &set)) cpus.push_back(cpu);
  }
  return cpus;
}

struct Listener {
  std::unique_ptr<EventSocket> socket;
  int cpu = -1;  // -1: any.
  uint64_t datagrams = 0;
  absl::Status status;
};

// Takes all that waits; returns how many.
size_t Drain(Listener* listener) {
  size_t taken = 0;
  for (;;) {
    const absl::StatusOr<EventSocket::Batch> batch = listener->socket->Receive();
    if (!batch.ok()) {
      listener->status = batch.status();
      return taken;
    }
    taken += batch->datagrams;
    listener->datagrams += batch->datagrams;
    if (batch->drained) return taken;
  }
}

void Listen(Listener* listener, const std::atomic<bool>& stop) {
  if (listener->cpu >= 0) PinTo(static_cast<size_t>(listener->cpu));
  while (!stop.load(std::memory_order_relaxed) && listener->status.ok()) {
    const size_t taken = Drain(listener);
    if (taken * kQueuedEventBytes * kNapBufferShare < listener->socket->ReceiveBufferBytes()) {
      nanosleep(&kNap, nullptr);
    }
    pollfd fd = {listener->socket->fd(), POLLIN, 0};
    poll(&fd, 1, kPollMillis);
  }
  Drain(listener);
}

struct DumpFigures {
  uint64_t entries = 0;
  uint64_t bytes = 0;
  uint64_t calls = 0;
  double seconds = 0;
  double cpu_seconds = 0;
};

absl::StatusOr<DumpFigures> TakeDump() {
  const std::unique_ptr<mnl_socket, int (*)(mnl_socket*)> socket(
      mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC), mnl_socket_close);
  if (socket == nullptr || mnl_socket_bind(socket.get(), 0, MNL_SOCKET_AUTOPID) != 0) {
    return ErrnoStatus("netlink socket");
  }
  const int fd = mnl_socket_get_fd(socket.get());
  const timeval silence = {kDumpSilenceSeconds, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof(silence));
  std::vector<uint8_t> buffer(kDumpBytes);
  nlmsghdr* const request = mnl_nlmsg_put_header(buffer.data());
  request->nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET;
  request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  auto* family = static_cast<nfgenmsg*>(mnl_nlmsg_put_extra_header(request, sizeof(nfgenmsg)));
  family->nfgen_family = AF_INET;
  family->version = NFNETLINK_V0;

  const int64_t start_ns = NowNs(CLOCK_MONOTONIC);
  const double start_cpu = CpuSeconds();
  if (mnl_socket_sendto(socket.get(), request, request->nlmsg_len) < 0) {
    return ErrnoStatus("conntrack dump");
  }
  DumpFigures figures;
  for (bool done = false; !done; ++figures.calls) {
    const ssize_t received = recv(fd, buffer.data(), buffer.size(), 0);
    if (received <= 0) return ErrnoStatus("conntrack dump");
    figures.bytes += static_cast<uint64_t>(received);
    auto left = static_cast<int>(received);
    for (const auto* header = reinterpret_cast<const nlmsghdr*>(buffer.data());
         mnl_nlmsg_ok(header, left); header = mnl_nlmsg_next(header, &left)) {
      done = header->nlmsg_type == NLMSG_DONE;
      figures.entries += !done;
    }
  }
  figures.seconds = static_cast<double>(NowNs(CLOCK_MONOTONIC) - start_ns) * 1e-9;
  figures.cpu_seconds = CpuSeconds() - start_cpu;
  return figures;
}

absl::Status Dump() {
  const absl::StatusOr<DumpFigures> figures = TakeDump();
  if (!figures.ok()) return figures.status();
  std::printf(
      "{\"entries\": %llu, \"bytes\": %llu, \"calls\": %llu, \"seconds\": %.6f, \"cpu_seconds\": "
      "%.6f}\n",
      static_cast<unsigned long long>(figures->entries),
      static_cast<unsigned long long>(figures->bytes),
      static_cast<unsigned long long>(figures->calls), figures->seconds, figures->cpu_seconds);
  return absl::OkStatus();
}

// Until a signal of the set comes.
absl::Status DumpAtIntervals(const sigset_t& signals) {
  const int64_t interval_ns = absl::GetFlag(FLAGS_interval) * kNanosPerSecond;
  for (;;) {
    const int64_t left_ns = interval_ns - NowNs(CLOCK_REALTIME) % interval_ns;
    const timespec timeout = {left_ns / kNanosPerSecond, left_ns % kNanosPerSecond};
    if (sigtimedwait(&signals, nullptr, &timeout) >= 0) return absl::OkStatus();
    if (errno != EAGAIN) continue;
    if (const absl::Status status = TakeDump().status(); !status.ok()) return status;
  }
}

absl::Status ListenUntilSigterm(const Ipv4Cidr& src) {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  const uint32_t workers = absl::GetFlag(FLAGS_workers);
  std::vector<Listener> listeners(workers);
  const std::vector<int> cpus = AllowedCpus();
  for (uint32_t worker = 0; worker < workers; ++worker) {
    EventFilterRules rules;
    rules.ipv4.src = src;
    rules.ipv6.src = CidrList<Ipv6Address>(std::vector<Ipv6Cidr>());
    rules.worker = worker;
    rules.workers = workers;
    EventSocket::Options options;
    options.receive_buffer_bytes = kReceiveBufferBytes / workers;
    options.destroy_only = absl::GetFlag(FLAGS_mode) == "light";
    options.filter = BuildEventFilter(rules);
    absl::StatusOr<std::unique_ptr<EventSocket>> socket = EventSocket::Open(options);
    if (!socket.ok()) return socket.status();
    listeners[worker].socket = *std::move(socket);
    if (workers > 1) {
      const size_t apart = std::max(cpus.size() / workers, size_t{1});
      listeners[worker].cpu = cpus[worker * apart % cpus.size()];
    }
  }
  std::cout << "listening" << std::endl;

  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  threads.reserve(listeners.size());
  for (Listener& listener : listeners) {
    threads.emplace_back([&] { Listen(&listener, stop); });
  }
  absl::Status status;
  if (absl::GetFlag(FLAGS_interval) > 0) {
    status = DumpAtIntervals(signals);
  } else {
    int signal = 0;
    sigwait(&signals, &signal);
  }
  stop.store(true);
  for (std::thread& thread : threads) thread.join();

  uint64_t datagrams = 0, drops = 0;
  for (const Listener& listener : listeners) {
    status.Update(listener.status);
    datagrams += listener.datagrams;
    drops += listener.socket->Drops();
  }
  if (!status.ok()) return status;
  std::printf("{\"datagrams\": %llu, \"drops\": %llu, \"cpu_seconds\": %.6f}\n",
              static_cast<unsigned long long>(datagrams), static_cast<unsigned long long>(drops),
              CpuSeconds());
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  constexpr char kProgram[] = "floor";
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  if (line.ok() && line->help) {
    std::cout << FlagsHelp("usage: floor [FLAGS]\nListens to conntrack, and does nothing else.");
    return kExitOk;
  }
  const std::string mode = absl::GetFlag(FLAGS_mode);
  const std::string network = absl::GetFlag(FLAGS_src);
  const std::optional<Ipv4Cidr> src = network.empty() ? kIpv4Everything : ParseIpv4Cidr(network);
  absl::Status status = line.status();
  if (status.ok() && ((mode != "precise" && mode != "light") || !src.has_value() ||
                      absl::GetFlag(FLAGS_workers) < 1)) {
    status = absl::InvalidArgumentError(
        "flags: -mode=precise or light, -workers of at least 1, -src like 10.32.0.0/11");
  }
  if (!status.ok()) {
    PrintError(kProgram, status);
    return kExitUsageError;
  }
  status = absl::GetFlag(FLAGS_dump) ? Dump() : ListenUntilSigterm(*src);
  if (status.ok()) return kExitOk;
  PrintError(kProgram, status);
  return kExitOperatingError;
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::Main(argc, argv); }
