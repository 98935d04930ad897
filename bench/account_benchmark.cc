// What it costs to parse and account one conntrack message from memory, and what a second worker
// adds.
//
// The stream is made of a kernel's own messages (by default those of the shipped capture), with
// addresses, ports, ids and start times of its own: each TCP connection has a NEW, five UPDATEs and
// a DESTROY. The closing UPDATEs come some hundred connections after the NEW, and the DESTROY so
// much later that --live flows are in the table all the time. `filtered`: only what the kernel's
// filter lets through (NEW, the closing UPDATEs, DESTROY). Each pass ends with a dump of the living
// flows and the end of an interval. One message is one item.
//
//   worker         Worker, as the engine runs it
//   two_workers    two of them on two CPUs, messages distributed beforehand as the filter does
//   two_processes  the same as two processes, which share nothing: what this machine can do at best
//   nfct_fresh     nfct_nlmsg_parse into a new object each, feeding the same tables
//
// Packets, bytes and connections of all rows must be those of the messages, or the exit status
// is 1.
//
// Flags of Google Benchmark and of this program, in any order:
//   account_benchmark --benchmark_repetitions=9 --benchmark_enable_random_interleaving=true
#include <benchmark/benchmark.h>
#include <libnetfilter_conntrack/libnetfilter_conntrack.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "bench/capture.h"
#include "bench/google_main.h"
#include "bench/threads.h"
#include "engine/accounting/worker.h"
#include "netlink/ctnetlink_parser.h"
#include "netlink/event_filter.h"

ABSL_FLAG(std::string, capture, "tests/captures/gateway.pcap", "whose messages to use");
ABSL_FLAG(uint32_t, live, 50'000, "flows in the table");
ABSL_FLAG(uint32_t, connections, 100'000, "connections in one pass");

namespace ctacct {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kStartNs = 1'700'000'000 * kSecond;
constexpr int64_t kIntervalNs = 15 * kSecond;
// How many connections later a connection closes: its life is short.
constexpr uint32_t kCloseAfter = 300;
constexpr uint32_t kDestination = 0x0a280001;
constexpr uint16_t kPort = 443;
constexpr uint16_t kTimestampEvent =
    27;                              // CTA_TIMESTAMP_EVENT, which Debian's headers do not have.
constexpr uint32_t kSources = 4096;  // Clients; with a /24 mask some hundred keys.

template <typename T>
void Put(uint8_t* at, T value) {
  std::memcpy(at, &value, sizeof(value));
}

// A kernel's message, and where the parts that identify a flow are in it.
class Template {
 public:
  // Empty if a part of the message is missing.
  static std::optional<Template> Of(const NetlinkMessage& message, const FlowEvent& event) {
    const uint8_t* const data = message.data;
    const size_t bytes = message.bytes;
    Template made;
    made.event_ = event;
    made.bytes_.assign(data, data + bytes);
    size_t at = sizeof(nlmsghdr) + sizeof(nfgenmsg);
    while (at + sizeof(nlattr) <= bytes) {
      nlattr attribute;
      std::memcpy(&attribute, data + at, sizeof(attribute));
      if (attribute.nla_len < sizeof(attribute)) return std::nullopt;
      switch (attribute.nla_type & NLA_TYPE_MASK) {
        case CTA_TUPLE_ORIG:
          made.tuple_ = at;
          break;
        case CTA_ID:
          made.id_ = at + sizeof(nlattr);
          break;
        case CTA_TIMESTAMP:
          made.start_ = at + 2 * sizeof(nlattr);
          break;
        case kTimestampEvent:
          // A flow starts when its NEW happens.
          if (event.kind == FlowEventKind::kNew) made.start_ = at + sizeof(nlattr);
          break;
        default:
          break;
      }
      at += NLA_ALIGN(attribute.nla_len);
    }
    if (made.tuple_ == 0 || made.tuple_ + 52 > bytes || made.id_ == 0) return std::nullopt;
    return made;
  }

  // Appends the message with another flow's identity. Returns where its start time is; 0: nowhere.
  size_t Append(uint32_t src, uint16_t src_port, uint32_t id, std::vector<uint8_t>* to) const {
    const size_t begin = to->size();
    to->insert(to->end(), bytes_.begin(), bytes_.end());
    uint8_t* const message = to->data() + begin;
    // As the kernel lays out a tuple: every attribute has a header of 4 bytes, and so have the
    // nests.
    Put(message + tuple_ + 12, __builtin_bswap32(src));
    Put(message + tuple_ + 20, __builtin_bswap32(kDestination));
    Put(message + tuple_ + 40, __builtin_bswap16(src_port));
    Put(message + tuple_ + 48, __builtin_bswap16(kPort));
    Put(message + id_, __builtin_bswap32(id));
    return start_ == 0 ? 0 : begin + start_;
  }

  // As it was captured.
  const FlowEvent& event() const { return event_; }

 private:
  FlowEvent event_;
  std::vector<uint8_t> bytes_;
  size_t tuple_ = 0;
  size_t id_ = 0;
  size_t start_ = 0;  // Of the value of CTA_TIMESTAMP_START, or of a NEW's time; 0: none.
};

struct Templates {
  std::optional<Template> born;
  std::vector<Template> updates;  // That close nothing.
  std::vector<Template> closing;
  std::optional<Template> destroy;
  std::optional<Template> dump;  // Of a flow that is not beyond `destroy`: counters never fall.
};
Templates templates;

absl::Status Load() {
  const uint32_t live = absl::GetFlag(FLAGS_live);
  if (live <= kCloseAfter || absl::GetFlag(FLAGS_connections) < live) {
    return absl::OutOfRangeError(
        absl::StrCat("flag -live: more than ", kCloseAfter, ", at most -connections"));
  }
  const std::string path = absl::GetFlag(FLAGS_capture);
  const auto bytes = [](const Template& of) {
    return of.event().original.bytes + of.event().reply.bytes;
  };
  const absl::Status status =
      ReadCapture(path, [&](const NetlinkMessage& message, const FlowEvent& event) {
        if (event.identity.protocol != kProtocolTcp) return;
        const std::optional<Template> made = Template::Of(message, event);
        if (!made.has_value()) return;
        Templates& found = templates;
        if (event.kind == FlowEventKind::kNew) {
          found.born = made;
        } else if (event.kind == FlowEventKind::kDestroy) {
          if (!found.destroy || bytes(*made) > bytes(*found.destroy)) found.destroy = made;
        } else if (event.kind == FlowEventKind::kDump) {
          if (!found.dump || bytes(*made) < bytes(*found.dump)) found.dump = made;
        } else if (!FlowTable::NeedsLookup(event)) {
          if (found.updates.size() < 3) found.updates.push_back(*made);
        } else if (found.closing.size() < 2) {
          found.closing.push_back(*made);
        }
      });
  if (!status.ok()) return status;
  if (!templates.born || !templates.destroy || !templates.dump || templates.closing.empty() ||
      templates.updates.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not every kind of TCP message in it"));
  }
  return absl::OkStatus();
}

uint32_t IdOf(uint32_t number) {
  uint64_t mixed = (number + 1) * 0x9e3779b97f4a7c15u;
  mixed ^= mixed >> 29;
  return static_cast<uint32_t>(mixed * 0xbf58476d1ce4e5b9u >> 32);
}

// Messages of one pass for one of several workers, one after the other.
struct Stream {
  std::vector<uint8_t> bytes;
  std::vector<size_t> ends;  // Of datagrams: each event is one, as is each chunk of the dump.
  size_t events = 0;         // The first datagrams; the rest is the dump.
  size_t messages = 0;
  struct Start {
    size_t at;
    uint32_t number;   // Of the connection.
    bool of_the_last;  // It began in the pass before.
  };
  std::vector<Start> starts;

  void Add(const Template& message, uint32_t number, bool of_the_last) {
    const size_t at =
        message.Append(0x0a200000 + number % kSources * 16,
                       static_cast<uint16_t>(1024 + number / kSources), IdOf(number), &bytes);
    if (at != 0) starts.push_back({at, number, of_the_last});
    ++messages;
  }
  void EndDatagram() { ends.push_back(bytes.size()); }

  // No start time may come twice, however many passes there are: the flow table remembers some
  // 100,000 destroyed flows, and takes the DESTROY of another with the same start for a repetition.
  void SetPass(int64_t pass) {
    for (const Start& start : starts) {
      const int64_t start_ns = kStartNs + start.number + (pass - start.of_the_last) * kSecond;
      Put(bytes.data() + start.at, __builtin_bswap64(static_cast<uint64_t>(start_ns)));
    }
  }
};

Stream MakeStream(bool filtered, uint32_t share, uint32_t shares) {
  const uint32_t connections = absl::GetFlag(FLAGS_connections);
  const uint32_t live = absl::GetFlag(FLAGS_live);
  Stream stream;
  const auto is_ours = [&](uint32_t number) { return OwnerOfFlow(IdOf(number), shares) == share; };
  // About the connection that began `by` connections before, perhaps in the pass before.
  const auto add_event = [&](const Template& message, uint32_t step, uint32_t by) {
    const uint32_t number = (step + connections - by) % connections;
    if (!is_ours(number)) return;
    stream.Add(message, number, step < by);
    stream.EndDatagram();
  };
  for (uint32_t step = 0; step < connections; ++step) {
    add_event(*templates.born, step, 0);
    if (!filtered) {
      for (uint32_t i = 0; i < 3; ++i) {
        add_event(templates.updates[i % templates.updates.size()], step, i + 1);
      }
    }
    for (const Template& closing : templates.closing) add_event(closing, step, kCloseAfter);
    add_event(*templates.destroy, step, live);
  }
  stream.events = stream.ends.size();
  constexpr uint32_t kChunkEntries = 128;
  for (uint32_t number = connections - live; number < connections; ++number) {
    if (is_ours(number)) stream.Add(*templates.dump, number, false);
    if (number % kChunkEntries == 0) stream.EndDatagram();
  }
  stream.EndDatagram();
  return stream;
}

using Clock = std::chrono::steady_clock;

double Seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

// A worker and its stream, pass after pass. Only Run, or what takes its place, is timed.
class Share {
 public:
  Share(bool filtered, uint32_t share, uint32_t shares)
      : stream_(MakeStream(filtered, share, shares)), worker_(MakeOptions(), &handoff_, &ports_) {
    worker_.Start(kStartNs, true);
    // The flows that live when the first pass begins.
    const uint32_t connections = absl::GetFlag(FLAGS_connections);
    Stream born;
    for (uint32_t number = connections - absl::GetFlag(FLAGS_live); number < connections;
         ++number) {
      if (OwnerOfFlow(IdOf(number), shares) == share) born.Add(*templates.born, number, false);
    }
    born.SetPass(0);
    worker_.OnDatagram(born.bytes.data(), born.bytes.size(), kStartNs);
    worker_.ApplyPending();
    flows_ = worker_.flows();
  }

  Worker& worker() { return worker_; }
  const Stream& stream() const { return stream_; }
  const TrafficSums& sums() const { return sums_; }

  // In a pass: after all starts of its connections.
  int64_t NowNs() const { return kStartNs + (passes_ + 1) * kSecond + kSecond / 2; }

  void BeginPass() { stream_.SetPass(passes_ + 1); }
  void Run() {
    size_t begin = 0;
    for (size_t i = 0; i < stream_.ends.size(); ++i) {
      if (i == stream_.events) worker_.BeginDump(NowNs());
      worker_.OnDatagram(stream_.bytes.data() + begin, stream_.ends[i] - begin, NowNs());
      begin = stream_.ends[i];
    }
    EndInterval();
  }
  void EndInterval() {
    worker_.EndDump(true);
    worker_.Seal(++interval_ * kIntervalNs);
  }
  // The flusher's part.
  void EndPass() {
    ++passes_;
    AccountingTable* const table = handoff_.Take();
    if (table == nullptr) return;
    table->rows.ForEach([&](const auto& row) { sums_.Add(row.second); });
    sums_.Add(table->other);
    handoff_.GiveBack(table);
  }

  struct Outcome {
    TrafficSums sums;
    int64_t passes = 0;
    bool whole = false;
  };
  Outcome outcome() const {
    const WorkerCounts& counts = worker_.counts();
    return {.sums = sums_,
            .passes = passes_,
            .whole = worker_.flows() == flows_ && counts.duplicate_destroys == 0 &&
                     counts.stale_dump_entries == 0 && counts.counter_falls == 0};
  }
  // Neither flows nor connections, packets and bytes were lost or counted twice.
  static bool Exact(std::initializer_list<Outcome> outcomes) {
    TrafficSums sums;
    for (const Outcome& outcome : outcomes) {
      if (!outcome.whole) return false;
      sums.Add(outcome.sums);
    }
    // Each pass ends as many flows as it begins, and its dump shows those that live.
    const auto passes = static_cast<uint64_t>(outcomes.begin()->passes);
    const uint64_t ends = passes * absl::GetFlag(FLAGS_connections);
    const uint64_t live = absl::GetFlag(FLAGS_live);
    const FlowEvent& destroy = templates.destroy->event();
    const FlowEvent& dump = templates.dump->event();
    const auto all = [&](uint64_t at_end, uint64_t so_far) {
      return ends * at_end + live * so_far;
    };
    return sums.original.packets == all(destroy.original.packets, dump.original.packets) &&
           sums.original.bytes == all(destroy.original.bytes, dump.original.bytes) &&
           sums.reply.packets == all(destroy.reply.packets, dump.reply.packets) &&
           sums.reply.bytes == all(destroy.reply.bytes, dump.reply.bytes) &&
           sums.connection_count == ends + live - kCloseAfter;
  }

 private:
  static Worker::Options MakeOptions() {
    Worker::Options options;
    options.rules.ipv4.src_group_mask = options.rules.ipv4.dst_group_mask =
        Ipv4Address::FromHostOrder(0xffffff00);
    options.rules.interval_ns = kIntervalNs;
    return options;
  }

  Stream stream_;
  AccountingHandoff handoff_;
  CurrentPortList ports_;
  Worker worker_;
  int64_t passes_ = 0;
  int64_t interval_ = kStartNs / kIntervalNs + 1;
  size_t flows_ = 0;
  TrafficSums sums_;
};

constexpr char kNotExact[] = "wrong sums: flows or traffic were lost or counted twice";

template <typename Run>
void OneWorker(benchmark::State& state, bool filtered, Run run) {
  Share share(filtered, 0, 1);
  double cpu_ms = 0;
  for ([[maybe_unused]] auto _ : state) {
    share.BeginPass();
    const auto start = Clock::now();
    const double cpu_start_ms = ThreadCpuMillis();
    run(share);
    cpu_ms += ThreadCpuMillis() - cpu_start_ms;
    state.SetIterationTime(Seconds(Clock::now() - start));
    share.EndPass();
  }
  if (!Share::Exact({share.outcome()})) Fail(state, kNotExact);
  const auto items = state.iterations() * static_cast<int64_t>(share.stream().messages);
  state.SetItemsProcessed(items);
  state.counters["cpu_ns"] = cpu_ms * 1e6 / static_cast<double>(items);  // On a busy machine.
}

void NfctFresh(benchmark::State& state) {
  OneWorker(state, false, [](Share& share) {
    Worker& worker = share.worker();
    const std::vector<uint8_t>& bytes = share.stream().bytes;
    bool dumping = false;
    for (size_t at = 0; at < bytes.size();) {
      const auto* header = reinterpret_cast<const nlmsghdr*>(bytes.data() + at);
      const NfctPointer object(nfct_new());
      if (nfct_nlmsg_parse(header, object.get()) != 0) abort();
      const FlowEvent event = EventOf(object.get(), header);
      if (!dumping && event.kind == FlowEventKind::kDump) {
        dumping = true;
        worker.BeginDump(share.NowNs());
      }
      worker.OnFlow(event, share.NowNs());
      at += NLMSG_ALIGN(header->nlmsg_len);
    }
    worker.ApplyPending();
    share.EndInterval();
  });
}

// Of two halves that begin each pass together. Processes have it in common memory.
struct Meeting {
  pthread_barrier_t begin;
  pthread_barrier_t end;
  std::atomic<bool> over;
  Clock::time_point started[2];
  Clock::time_point ended[2];
  Share::Outcome outcomes[2];
  size_t messages[2];
};

void WorkHalf(Meeting& meeting, uint32_t half) {
  PinTo(half);
  Share share(false, half, 2);
  meeting.messages[half] = share.stream().messages;
  for (;;) {
    share.BeginPass();
    pthread_barrier_wait(&meeting.begin);
    if (meeting.over.load()) break;
    meeting.started[half] = Clock::now();
    share.Run();
    meeting.ended[half] = Clock::now();
    share.EndPass();
    pthread_barrier_wait(&meeting.end);
  }
  meeting.outcomes[half] = share.outcome();
}

// Wall time from when the first begins until the last is done.
void TwoHalves(benchmark::State& state, bool processes) {
  void* const memory =
      mmap(nullptr, sizeof(Meeting), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) abort();
  auto* const meeting = new (memory) Meeting();
  pthread_barrierattr_t shared;
  pthread_barrierattr_init(&shared);
  pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
  for (pthread_barrier_t* const barrier : {&meeting->begin, &meeting->end}) {
    pthread_barrier_init(barrier, &shared, 3);
  }
  std::vector<std::thread> threads;
  std::vector<pid_t> children;
  for (uint32_t half = 0; half < 2; ++half) {
    if (!processes) {
      threads.emplace_back(WorkHalf, std::ref(*meeting), half);
      continue;
    }
    children.push_back(fork());
    if (children.back() != 0) continue;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    WorkHalf(*meeting, half);
    _exit(0);
  }
  for ([[maybe_unused]] auto _ : state) {
    pthread_barrier_wait(&meeting->begin);
    pthread_barrier_wait(&meeting->end);
    state.SetIterationTime(Seconds(std::max(meeting->ended[0], meeting->ended[1]) -
                                   std::min(meeting->started[0], meeting->started[1])));
  }
  meeting->over.store(true);
  pthread_barrier_wait(&meeting->begin);
  for (std::thread& thread : threads) thread.join();
  for (const pid_t child : children) waitpid(child, nullptr, 0);
  if (!Share::Exact({meeting->outcomes[0], meeting->outcomes[1]})) Fail(state, kNotExact);
  state.SetItemsProcessed(state.iterations() *
                          static_cast<int64_t>(meeting->messages[0] + meeting->messages[1]));
  munmap(memory, sizeof(Meeting));
}

void AsInEngine(benchmark::State& state, bool filtered) {
  OneWorker(state, filtered, [](Share& share) { share.Run(); });
}
BENCHMARK_CAPTURE(AsInEngine, all, false)
    ->Name("all/worker")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(TwoHalves, workers, false)
    ->Name("all/two_workers")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(TwoHalves, processes, true)
    ->Name("all/two_processes")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(NfctFresh)->Name("all/nfct_fresh")->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(AsInEngine, filtered, true)
    ->Name("filtered/worker")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) {
  return ctacct::GoogleMain(argc, argv, "account_benchmark", ctacct::Load);
}
