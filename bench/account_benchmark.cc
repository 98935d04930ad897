// What it costs to parse and account one conntrack message out of memory, and what a second worker
// brings.
//
// The stream is made of a kernel's own messages (by default those of the shipped capture), with
// addresses, ports and ids of its own: each TCP connection tells NEW, five UPDATEs and DESTROY, the
// closing UPDATE some hundred connections after the NEW, and the DESTROY so much later that --live
// flows are in the table all the time. `filtered`: only what the kernel's filter lets through (NEW,
// the closing UPDATEs, DESTROY). Each pass ends with a dump of the flows that live, and with the
// end of an interval. One message is one item.
//
//   worker         Worker, as the engine runs it
//   two_workers    two of them on two CPUs, messages shared out beforehand as the filter does
//   nfct_fresh     nfct_nlmsg_parse into a new object each, feeding the same tables
//   nfct_reused    likewise, with one object for all
//
// Flags of Google Benchmark come first, `--` ends them:
//   account_benchmark --benchmark_repetitions=9 --benchmark_enable_random_interleaving=true
#include <benchmark/benchmark.h>
#include <libnetfilter_conntrack/libnetfilter_conntrack.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/accounting/worker.h"
#include "engine/system/command_line.h"
#include "netlink/capture_file.h"
#include "netlink/ctnetlink_parser.h"
#include "netlink/event_filter.h"

ABSL_FLAG(std::string, capture, "tests/captures/gateway.pcap", "whose messages to take");
ABSL_FLAG(uint32_t, live, 50'000, "flows in the table");
ABSL_FLAG(uint32_t, connections, 100'000, "connections in one pass over the stream");

namespace ctacct {
namespace {

constexpr char kProgram[] = "account_benchmark";
constexpr int64_t kStartNs = 1'700'000'000'000'000'000;
constexpr int64_t kIntervalNs = 15'000'000'000;
// How many connections later a connection closes: its life is short.
constexpr uint32_t kCloseAfter = 300;
// Flows of so many passes, one after the other, differ in when they started: what was destroyed is
// remembered for two intervals.
constexpr int kTurns = 3;
constexpr uint32_t kDestination = 0x0a280001;
constexpr uint16_t kPort = 443;
constexpr uint32_t kSources = 4096;  // Clients; with a /24 mask some hundred keys.

// A kernel's message, and where the parts that tell one flow from another stand in it.
class Template {
 public:
  // Empty if the message lacks a part.
  static std::optional<Template> Of(const uint8_t* data, size_t bytes) {
    Template made;
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
        default:
          break;
      }
      at += NLA_ALIGN(attribute.nla_len);
    }
    if (made.tuple_ == 0 || made.tuple_ + 52 > bytes || made.id_ == 0) return std::nullopt;
    return made;
  }

  // Appends the message with another flow's identity and start.
  void Append(uint32_t src, uint16_t src_port, uint32_t id, int64_t start_ns,
              std::vector<uint8_t>* to) const {
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
    if (start_ != 0) Put(message + start_, __builtin_bswap64(static_cast<uint64_t>(start_ns)));
  }

 private:
  template <typename T>
  static void Put(uint8_t* at, T value) {
    std::memcpy(at, &value, sizeof(value));
  }

  std::vector<uint8_t> bytes_;
  size_t tuple_ = 0;
  size_t id_ = 0;
  size_t start_ = 0;  // Of CTA_TIMESTAMP_START's value; 0: none.
};

struct Templates {
  std::optional<Template> born;
  std::vector<Template> updates;  // That close nothing.
  std::vector<Template> closing;
  std::optional<Template> destroy;
  std::optional<Template> dump;
};

absl::StatusOr<Templates> Load(const std::string& path) {
  const absl::StatusOr<std::unique_ptr<CaptureReader>> reader = CaptureReader::Open(path);
  if (!reader.ok()) return reader.status();
  Templates found;
  CapturedDatagram datagram;
  for (;;) {
    const absl::StatusOr<bool> more = (*reader)->Next(&datagram);
    if (!more.ok()) return more.status();
    if (!*more) break;
    DatagramCursor cursor(datagram.data, datagram.bytes);
    NetlinkMessage message;
    while (cursor.Next(&message)) {
      FlowEvent event;
      if (ParseFlowMessage(message, &event) != ParseResult::kFlow) continue;
      if (event.identity.protocol != kProtocolTcp) continue;
      const std::optional<Template> made = Template::Of(message.data, message.bytes);
      if (!made.has_value()) continue;
      switch (event.kind) {
        case FlowEventKind::kNew:
          found.born = made;
          break;
        case FlowEventKind::kUpdate:
          if (FlowTable::NeedsLookup(event)) {
            if (found.closing.size() < 2) found.closing.push_back(*made);
          } else if (found.updates.size() < 3) {
            found.updates.push_back(*made);
          }
          break;
        case FlowEventKind::kDestroy:
          found.destroy = made;
          break;
        case FlowEventKind::kDump:
          found.dump = made;
          break;
      }
    }
  }
  if (!found.born || !found.destroy || !found.dump || found.closing.empty() ||
      found.updates.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not every kind of TCP message in it"));
  }
  return found;
}

// One worker's messages, one after the other.
struct Stream {
  std::vector<uint8_t> bytes;
  std::vector<size_t> ends;  // Of datagrams: each event is one, as is each chunk of the dump.
  size_t events = 0;         // The first datagrams; the rest is the dump.
  size_t messages = 0;

  void EndDatagram() { ends.push_back(bytes.size()); }
};

struct Identity {
  uint32_t src;
  uint16_t src_port;
  uint32_t id;
  int64_t start_ns;
};

Identity Connection(uint32_t number, int turn) {
  uint64_t mixed = (number + 1) * 0x9e3779b97f4a7c15u;
  mixed ^= mixed >> 29;
  return {0x0a200000 + number % kSources * 16, static_cast<uint16_t>(1024 + number / kSources),
          static_cast<uint32_t>(mixed * 0xbf58476d1ce4e5b9u >> 32),
          kStartNs + number + turn * int64_t{1'000'000'000}};
}

// Of the whole pass, for worker `share` of `shares`.
Stream Make(const Templates& templates, bool filtered, uint32_t share, uint32_t shares, int turn) {
  const uint32_t connections = absl::GetFlag(FLAGS_connections);
  const uint32_t live = absl::GetFlag(FLAGS_live);
  Stream stream;
  const auto add = [&](const Template& message, uint32_t number, int of_turn) {
    const Identity flow = Connection(number, of_turn);
    if (OwnerOfFlow(flow.id, shares) != share) return;
    message.Append(flow.src, flow.src_port, flow.id, flow.start_ns, &stream.bytes);
    ++stream.messages;
  };
  // About the connection that began `by` connections before, perhaps in the pass before.
  const auto add_event = [&](const Template& message, uint32_t step, uint32_t by) {
    add(message, (step + connections - by) % connections,
        step < by ? (turn + kTurns - 1) % kTurns : turn);
    if (stream.ends.empty() || stream.ends.back() != stream.bytes.size()) stream.EndDatagram();
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
    add(*templates.dump, number, turn);
    if (number % kChunkEntries == 0) stream.EndDatagram();
  }
  stream.EndDatagram();
  return stream;
}

std::vector<Stream> MakeTurns(const Templates& templates, bool filtered, uint32_t share,
                              uint32_t shares) {
  std::vector<Stream> streams;
  streams.reserve(kTurns);
  for (int turn = 0; turn < kTurns; ++turn) {
    streams.push_back(Make(templates, filtered, share, shares, turn));
  }
  return streams;
}

// A worker that lives through one pass after the other.
class Pass {
 public:
  Pass() {
    Worker::Options options;
    options.rules.src_group_mask = options.rules.dst_group_mask =
        Ipv4Address::FromHostOrder(0xffffff00);
    options.rules.interval_ns = kIntervalNs;
    worker_ = std::make_unique<Worker>(options, &handoff_, &ports_);
    worker_->Start(kStartNs, true);
  }

  Worker& worker() { return *worker_; }

  void RunEvents(const Stream& stream) {
    size_t begin = 0;
    for (size_t i = 0; i < stream.events; ++i) {
      worker_->OnDatagram(stream.bytes.data() + begin, stream.ends[i] - begin, kStartNs);
      begin = stream.ends[i];
    }
  }
  void RunDump(const Stream& stream) {
    worker_->BeginDump(kStartNs);
    size_t begin = stream.events == 0 ? 0 : stream.ends[stream.events - 1];
    for (size_t i = stream.events; i < stream.ends.size(); ++i) {
      worker_->OnDatagram(stream.bytes.data() + begin, stream.ends[i] - begin, kStartNs);
      begin = stream.ends[i];
    }
    EndInterval();
  }
  void EndInterval() {
    worker_->EndDump(true);
    worker_->Seal(++interval_ * kIntervalNs);
  }

  // Outside the time measured. The flows that live when a pass begins.
  void Prime(const Templates& templates, uint32_t share, uint32_t shares) {
    const uint32_t connections = absl::GetFlag(FLAGS_connections);
    std::vector<uint8_t> born;
    for (uint32_t number = connections - absl::GetFlag(FLAGS_live); number < connections;
         ++number) {
      const Identity flow = Connection(number, kTurns - 1);
      if (OwnerOfFlow(flow.id, shares) != share) continue;
      born.clear();
      templates.born->Append(flow.src, flow.src_port, flow.id, flow.start_ns, &born);
      worker_->OnDatagram(born.data(), born.size(), kStartNs);
    }
    worker_->ApplyPending();
    flows_ = worker_->flows();
  }

  // Outside the time measured: the flusher's part. False if a flow was lost.
  bool CleanUp() {
    if (AccountingTable* const table = handoff_.Take(); table != nullptr) {
      table->rows.ForEach([&](const auto& row) { closed_ += row.second.connection_count; });
      handoff_.GiveBack(table);
    }
    return worker_->flows() == flows_ && worker_->counts().duplicate_destroys == 0 &&
           worker_->counts().stale_dump_entries == 0;
  }
  uint64_t closed() const { return closed_; }

 private:
  AccountingHandoff handoff_;
  CurrentPortList ports_;
  std::unique_ptr<Worker> worker_;
  int64_t interval_ = kStartNs / kIntervalNs + 1;
  uint64_t closed_ = 0;
  size_t flows_ = 0;
};

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// As many connections close in a pass as begin, and those that lived at first close by their ends.
uint64_t Closes(const benchmark::State& state) {
  return static_cast<uint64_t>(state.iterations()) * absl::GetFlag(FLAGS_connections) +
         absl::GetFlag(FLAGS_live) - kCloseAfter;
}

void OneWorker(benchmark::State& state, const Templates& templates, bool filtered) {
  const std::vector<Stream> streams = MakeTurns(templates, filtered, 0, 1);
  size_t passes = 0;
  Pass pass;
  pass.Prime(templates, 0, 1);
  for ([[maybe_unused]] auto _ : state) {
    const Stream& stream = streams[passes++ % kTurns];
    const auto start = Clock::now();
    pass.RunEvents(stream);
    pass.RunDump(stream);
    state.SetIterationTime(SecondsSince(start));
    if (!pass.CleanUp()) state.SkipWithError("flows were lost or counted twice");
  }
  if (pass.closed() != Closes(state)) state.SkipWithError("connections were lost or counted twice");
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(streams[0].messages));
}

// FlowEvents as libnetfilter_conntrack gives them.
FlowEvent EventOf(const nf_conntrack* object, const nlmsghdr* header) {
  FlowEvent event;
  event.kind = header->nlmsg_type == (NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE)
                   ? FlowEventKind::kDestroy
               : header->nlmsg_flags & NLM_F_MULTI  ? FlowEventKind::kDump
               : header->nlmsg_flags & NLM_F_CREATE ? FlowEventKind::kNew
                                                    : FlowEventKind::kUpdate;
  FlowIdentity& identity = event.identity;
  identity.src.network_order = nfct_get_attr_u32(object, ATTR_ORIG_IPV4_SRC);
  identity.dst.network_order = nfct_get_attr_u32(object, ATTR_ORIG_IPV4_DST);
  identity.src_port = __builtin_bswap16(nfct_get_attr_u16(object, ATTR_ORIG_PORT_SRC));
  identity.dst_port = __builtin_bswap16(nfct_get_attr_u16(object, ATTR_ORIG_PORT_DST));
  identity.protocol = nfct_get_attr_u8(object, ATTR_ORIG_L4PROTO);
  identity.zone = nfct_get_attr_u16(object, ATTR_ZONE);
  identity.id = nfct_get_attr_u32(object, ATTR_ID);
  event.has_tcp_state = nfct_attr_is_set(object, ATTR_TCP_STATE) > 0;
  if (event.has_tcp_state) {
    event.tcp_state = static_cast<TcpState>(nfct_get_attr_u8(object, ATTR_TCP_STATE));
  }
  event.has_counters = nfct_attr_is_set(object, ATTR_ORIG_COUNTER_PACKETS) > 0;
  if (event.has_counters) {
    event.original = {nfct_get_attr_u64(object, ATTR_ORIG_COUNTER_PACKETS),
                      nfct_get_attr_u64(object, ATTR_ORIG_COUNTER_BYTES)};
    event.reply = {nfct_get_attr_u64(object, ATTR_REPL_COUNTER_PACKETS),
                   nfct_get_attr_u64(object, ATTR_REPL_COUNTER_BYTES)};
  }
  event.start_ns = static_cast<int64_t>(nfct_get_attr_u64(object, ATTR_TIMESTAMP_START));
  event.stop_ns = static_cast<int64_t>(nfct_get_attr_u64(object, ATTR_TIMESTAMP_STOP));
  return event;
}

struct NfctDeleter {
  void operator()(nf_conntrack* object) const { nfct_destroy(object); }
};
using NfctPointer = std::unique_ptr<nf_conntrack, NfctDeleter>;

void Nfct(benchmark::State& state, const Templates& templates, bool fresh) {
  const std::vector<Stream> streams = MakeTurns(templates, false, 0, 1);
  size_t passes = 0;
  const NfctPointer empty(nfct_new());
  NfctPointer object(nfct_new());
  Pass pass;
  pass.Prime(templates, 0, 1);
  for ([[maybe_unused]] auto _ : state) {
    const Stream& stream = streams[passes++ % kTurns];
    const auto start = Clock::now();
    Worker& worker = pass.worker();
    size_t at = 0;
    bool dumping = false;
    while (at < stream.bytes.size()) {
      const auto* header = reinterpret_cast<const nlmsghdr*>(stream.bytes.data() + at);
      if (fresh) {
        object.reset(nfct_new());
      } else {
        nfct_copy(object.get(), empty.get(), NFCT_CP_OVERRIDE);
      }
      if (nfct_nlmsg_parse(header, object.get()) != 0) abort();
      const FlowEvent event = EventOf(object.get(), header);
      if (!dumping && event.kind == FlowEventKind::kDump) {
        dumping = true;
        worker.BeginDump(kStartNs);
      }
      worker.OnFlow(event, kStartNs);
      at += NLMSG_ALIGN(header->nlmsg_len);
    }
    worker.ApplyPending();
    pass.EndInterval();
    state.SetIterationTime(SecondsSince(start));
    if (!pass.CleanUp()) state.SkipWithError("flows were lost or counted twice");
  }
  if (pass.closed() != Closes(state)) state.SkipWithError("connections were lost or counted twice");
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(streams[0].messages));
}

void Pin(size_t cpu) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(cpu, &cpus);
  pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus);
}

// Wall time until the last one is done.
void TwoWorkers(benchmark::State& state, const Templates& templates, bool filtered) {
  const std::vector<Stream> streams[] = {MakeTurns(templates, filtered, 0, 2),
                                         MakeTurns(templates, filtered, 1, 2)};
  size_t turn = kTurns - 1;
  Pass passes[2];
  Clock::time_point ended[2];
  bool good[2] = {true, true};
  std::atomic<bool> over{false};
  std::barrier begin(3);
  std::barrier end(3);
  const auto work = [&](uint32_t i) {
    Pin(i);
    passes[i].Prime(templates, i, 2);
    for (;;) {
      begin.arrive_and_wait();
      if (over.load()) return;
      passes[i].RunEvents(streams[i][turn]);
      passes[i].RunDump(streams[i][turn]);
      ended[i] = Clock::now();
      good[i] = good[i] && passes[i].CleanUp();
      end.arrive_and_wait();
    }
  };
  std::thread first(work, 0);
  std::thread second(work, 1);
  for ([[maybe_unused]] auto _ : state) {
    turn = (turn + 1) % kTurns;
    const auto start = Clock::now();
    begin.arrive_and_wait();
    end.arrive_and_wait();
    state.SetIterationTime(
        std::chrono::duration<double>(std::max(ended[0], ended[1]) - start).count());
  }
  over.store(true);
  begin.arrive_and_wait();
  first.join();
  second.join();
  if (!good[0] || !good[1]) state.SkipWithError("flows were lost or counted twice");
  if (passes[0].closed() + passes[1].closed() != Closes(state)) {
    state.SkipWithError("connections were lost or counted twice");
  }
  state.SetItemsProcessed(state.iterations() *
                          static_cast<int64_t>(streams[0][0].messages + streams[0][1].messages));
}

int Main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  if (!line.ok()) {
    PrintError(kProgram, line.status());
    return kExitUsageError;
  }
  if (line->help) {
    std::cout << FlagsHelp("usage: account_benchmark [FLAGS OF GOOGLE BENCHMARK] [FLAGS]");
    return kExitOk;
  }
  const uint32_t live = absl::GetFlag(FLAGS_live);
  if (live <= kCloseAfter || absl::GetFlag(FLAGS_connections) < live) {
    PrintError(kProgram, absl::InvalidArgumentError(absl::StrCat(
                             "flag -live: more than ", kCloseAfter, ", at most -connections")));
    return kExitUsageError;
  }
  const absl::StatusOr<Templates> templates = Load(absl::GetFlag(FLAGS_capture));
  if (!templates.ok()) {
    PrintError(kProgram, templates.status());
    return kExitOperatingError;
  }
  const auto add = [](const char* name, auto function) {
    benchmark::RegisterBenchmark(name, function)->UseManualTime()->Unit(benchmark::kMillisecond);
  };
  add("all/worker", [&](benchmark::State& state) { OneWorker(state, *templates, false); });
  add("all/two_workers", [&](benchmark::State& state) { TwoWorkers(state, *templates, false); });
  add("all/nfct_fresh", [&](benchmark::State& state) { Nfct(state, *templates, true); });
  add("all/nfct_reused", [&](benchmark::State& state) { Nfct(state, *templates, false); });
  add("filtered/worker", [&](benchmark::State& state) { OneWorker(state, *templates, true); });
  add("filtered/two_workers",
      [&](benchmark::State& state) { TwoWorkers(state, *templates, true); });
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return kExitOk;
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::Main(argc, argv); }
