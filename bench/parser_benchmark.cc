// What it costs to parse one conntrack message, ours against libnetfilter_conntrack, over the
// messages that a kernel sent (by default the shipped capture). One iteration is one message, in
// the capture's order, round and round.
//
//   Ctacct      DatagramCursor and ParseFlowMessage, into one event as the engine's worker does
//   NfctFresh   nfct_nlmsg_parse, a new object for each message, as the library's own callbacks do
//   NfctReused  nfct_nlmsg_parse, one object. It must be emptied before each message, or what the
//               last one had and this one lacks stays; nfct_copy of an empty one does that (and
//               would leak a helper or label, of which the capture has none).
//
// On a machine that does other things too, compare medians of one run, its parts interleaved:
//   parser_benchmark --benchmark_repetitions=9 --benchmark_enable_random_interleaving=true
#include <benchmark/benchmark.h>
#include <libnetfilter_conntrack/libnetfilter_conntrack.h>
#include <linux/netlink.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/system/command_line.h"
#include "netlink/capture_file.h"
#include "netlink/ctnetlink_parser.h"

ABSL_FLAG(std::string, capture, "tests/captures/gateway.pcap", "whose messages to parse");

namespace ctacct {
namespace {

constexpr char kProgram[] = "parser_benchmark";

// 64-bit words: a message must be aligned for struct nlmsghdr, as nfct reads it.
struct Messages {
  std::vector<uint64_t> words;
  struct Place {
    size_t first_word;
    size_t bytes;
  };
  std::vector<Place> places;

  void Add(const NetlinkMessage& message) {
    places.push_back({words.size(), message.bytes});
    words.resize(words.size() + (message.bytes + sizeof(uint64_t) - 1) / sizeof(uint64_t));
    std::memcpy(&words[places.back().first_word], message.data, message.bytes);
  }
};

// Messages by FlowEventKind, and then all.
constexpr size_t kNew = static_cast<size_t>(FlowEventKind::kNew);
constexpr size_t kUpdate = static_cast<size_t>(FlowEventKind::kUpdate);
constexpr size_t kDestroy = static_cast<size_t>(FlowEventKind::kDestroy);
constexpr size_t kDump = static_cast<size_t>(FlowEventKind::kDump);
constexpr size_t kAll = 4;

// Filled by Load before any benchmark runs.
std::array<Messages, 5>& Corpus() {
  static std::array<Messages, 5> corpus;
  return corpus;
}

struct NfctDeleter {
  void operator()(nf_conntrack* object) const { nfct_destroy(object); }
};
using NfctPointer = std::unique_ptr<nf_conntrack, NfctDeleter>;

// Walks the messages of a kind for ever.
class Cycle {
 public:
  Cycle(size_t kind, benchmark::State& state)
      : messages_(Corpus()[kind]), next_(messages_.places.begin()) {
    if (messages_.places.empty()) state.SkipWithError("the capture has none");
  }

  const uint8_t* data() const {
    return reinterpret_cast<const uint8_t*>(&messages_.words[next_->first_word]);
  }
  const nlmsghdr* header() const { return reinterpret_cast<const nlmsghdr*>(data()); }
  size_t bytes() const { return next_->bytes; }
  void Step() {
    if (++next_ == messages_.places.end()) next_ = messages_.places.begin();
  }

 private:
  const Messages& messages_;
  std::vector<Messages::Place>::const_iterator next_;
};

void Ctacct(benchmark::State& state, size_t kind) {
  Cycle cycle(kind, state);
  FlowEvent event;
  for ([[maybe_unused]] auto _ : state) {
    DatagramCursor cursor(cycle.data(), cycle.bytes());
    NetlinkMessage message;
    bool good = cursor.Next(&message) && ParseFlowMessage(message, &event) == ParseResult::kFlow;
    benchmark::DoNotOptimize(good);
    benchmark::DoNotOptimize(event);
    cycle.Step();
  }
  state.SetItemsProcessed(state.iterations());
}

void NfctFresh(benchmark::State& state, size_t kind) {
  Cycle cycle(kind, state);
  for ([[maybe_unused]] auto _ : state) {
    const NfctPointer object(nfct_new());
    int result = nfct_nlmsg_parse(cycle.header(), object.get());
    benchmark::DoNotOptimize(result);
    cycle.Step();
  }
  state.SetItemsProcessed(state.iterations());
}

void NfctReused(benchmark::State& state, size_t kind) {
  const NfctPointer empty(nfct_new());
  const NfctPointer object(nfct_new());
  Cycle cycle(kind, state);
  for ([[maybe_unused]] auto _ : state) {
    nfct_copy(object.get(), empty.get(), NFCT_CP_OVERRIDE);
    int result = nfct_nlmsg_parse(cycle.header(), object.get());
    benchmark::DoNotOptimize(result);
    cycle.Step();
  }
  state.SetItemsProcessed(state.iterations());
}

// Both must have read the same, or their times say nothing.
bool Agree(const FlowEvent& event, const nf_conntrack* object) {
  const FlowIdentity& identity = event.identity;
  return nfct_get_attr_u32(object, ATTR_ID) == identity.id &&
         nfct_get_attr_u32(object, ATTR_ORIG_IPV4_SRC) == identity.src.network_order &&
         nfct_get_attr_u32(object, ATTR_ORIG_IPV4_DST) == identity.dst.network_order &&
         nfct_get_attr_u8(object, ATTR_ORIG_L4PROTO) == identity.protocol &&
         nfct_get_attr_u32(object, ATTR_STATUS) == event.status &&
         nfct_get_attr_u64(object, ATTR_ORIG_COUNTER_PACKETS) == event.original.packets &&
         nfct_get_attr_u64(object, ATTR_REPL_COUNTER_BYTES) == event.reply.bytes;
}

absl::Status Load(const std::string& path) {
  Messages& all = Corpus()[kAll];
  const absl::StatusOr<std::unique_ptr<CaptureReader>> reader = CaptureReader::Open(path);
  if (!reader.ok()) return reader.status();
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
      all.Add(message);
      Corpus()[static_cast<size_t>(event.kind)].Add(message);
      const Messages::Place& place = all.places.back();
      const NfctPointer object(nfct_new());
      if (nfct_nlmsg_parse(reinterpret_cast<const nlmsghdr*>(&all.words[place.first_word]),
                           object.get()) != 0 ||
          !Agree(event, object.get())) {
        return absl::InternalError(
            absl::StrCat("the parsers disagree on message ", all.places.size(), " of ", path));
      }
    }
  }
  if (all.places.empty()) return absl::InvalidArgumentError("no flow in " + path);
  return absl::OkStatus();
}

BENCHMARK_CAPTURE(Ctacct, all, kAll);
BENCHMARK_CAPTURE(NfctFresh, all, kAll);
BENCHMARK_CAPTURE(NfctReused, all, kAll);
BENCHMARK_CAPTURE(Ctacct, new, kNew);
BENCHMARK_CAPTURE(NfctFresh, new, kNew);
BENCHMARK_CAPTURE(NfctReused, new, kNew);
BENCHMARK_CAPTURE(Ctacct, update, kUpdate);
BENCHMARK_CAPTURE(NfctFresh, update, kUpdate);
BENCHMARK_CAPTURE(NfctReused, update, kUpdate);
BENCHMARK_CAPTURE(Ctacct, destroy, kDestroy);
BENCHMARK_CAPTURE(NfctFresh, destroy, kDestroy);
BENCHMARK_CAPTURE(NfctReused, destroy, kDestroy);
BENCHMARK_CAPTURE(Ctacct, dump, kDump);
BENCHMARK_CAPTURE(NfctFresh, dump, kDump);
BENCHMARK_CAPTURE(NfctReused, dump, kDump);

void PrintHelp() {
  std::cout << FlagsHelp("usage: parser_benchmark [FLAGS]");
  benchmark::PrintDefaultHelp();
}

int Main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv, PrintHelp);
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  if (!line.ok()) {
    PrintError(kProgram, line.status());
    return kExitUsageError;
  }
  if (line->help) {
    PrintHelp();
    return kExitOk;
  }
  if (const absl::Status status = Load(absl::GetFlag(FLAGS_capture)); !status.ok()) {
    PrintError(kProgram, status);
    return kExitOperatingError;
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return kExitOk;
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::Main(argc, argv); }
