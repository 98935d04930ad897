// What it costs to parse one conntrack message, ours against libnetfilter_conntrack, over the
// messages that a kernel sent (by default the shipped capture). One iteration is one message, in
// the capture's order, round and round. Both parsers must read the same from every message, or the
// exit status is 1.
//
//   Ctacct      DatagramCursor and ParseFlowMessage, into one event as the engine's worker does
//   NfctFresh   nfct_nlmsg_parse, a new object for each message, as the library's own callbacks do
//   NfctReused  nfct_nlmsg_parse, one object. It must be emptied before each message, or what the
//               last one had and this one does not have stays; nfct_copy of an empty one does that
//               (and would leak a helper or label, of which the capture has none).
//
// On a machine that does other things too, compare medians of one run, its parts interleaved:
//   parser_benchmark --benchmark_repetitions=9 --benchmark_enable_random_interleaving=true
#include <benchmark/benchmark.h>
#include <libnetfilter_conntrack/libnetfilter_conntrack.h>
#include <linux/netlink.h>
#include <netinet/in.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "bench/capture.h"
#include "bench/google_main.h"
#include "netlink/ctnetlink_parser.h"

ABSL_FLAG(std::string, capture, "tests/captures/gateway.pcap", "whose messages to parse");

namespace ctacct {
namespace {

// 64-bit words: a message must be aligned for struct nlmsghdr, as nfct reads it.
std::vector<uint64_t> words;
struct Place {
  size_t first_word;
  size_t bytes;
};
std::vector<Place> places;

const uint8_t* DataOf(const Place& place) {
  return reinterpret_cast<const uint8_t*>(&words[place.first_word]);
}
const nlmsghdr* HeaderOf(const Place& place) {
  return reinterpret_cast<const nlmsghdr*>(DataOf(place));
}

// One message after the other, for ever.
template <typename Parse>
void Cycle(benchmark::State& state, Parse parse) {
  auto next = places.begin();
  for ([[maybe_unused]] auto _ : state) {
    parse(*next);
    if (++next == places.end()) next = places.begin();
  }
  state.SetItemsProcessed(state.iterations());
}

void Ctacct(benchmark::State& state) {
  FlowEvent event;
  Cycle(state, [&](const Place& place) {
    DatagramCursor cursor(DataOf(place), place.bytes);
    NetlinkMessage message;
    bool good = cursor.Next(&message) && ParseFlowMessage(message, &event) == ParseResult::kFlow;
    benchmark::DoNotOptimize(good);
    benchmark::DoNotOptimize(event);
  });
}

void NfctFresh(benchmark::State& state) {
  Cycle(state, [](const Place& place) {
    const NfctPointer object(nfct_new());
    int result = nfct_nlmsg_parse(HeaderOf(place), object.get());
    benchmark::DoNotOptimize(result);
  });
}

void NfctReused(benchmark::State& state) {
  const NfctPointer empty(nfct_new());
  const NfctPointer object(nfct_new());
  Cycle(state, [&](const Place& place) {
    nfct_copy(object.get(), empty.get(), NFCT_CP_OVERRIDE);
    int result = nfct_nlmsg_parse(HeaderOf(place), object.get());
    benchmark::DoNotOptimize(result);
  });
}

bool Agree(const FlowEvent& ours, const FlowEvent& theirs) {
  const auto equal = [](const FlowCounters& a, const FlowCounters& b) {
    return a.packets == b.packets && a.bytes == b.bytes;
  };
  const FlowIdentity &a = ours.identity, &b = theirs.identity;
  return ours.kind == theirs.kind && a.id == b.id && a.src == b.src && a.dst == b.dst &&
         a.protocol == b.protocol &&
         (a.protocol == IPPROTO_ICMP ||  // Its ports are type, code and id.
          (a.src_port == b.src_port && a.dst_port == b.dst_port)) &&
         ours.has_tcp_state == theirs.has_tcp_state && ours.tcp_state == theirs.tcp_state &&
         ours.has_counters == theirs.has_counters && equal(ours.original, theirs.original) &&
         equal(ours.reply, theirs.reply) && ours.start_ns == theirs.start_ns &&
         ours.stop_ns == theirs.stop_ns;
}

absl::Status Prepare() {
  const std::string path = absl::GetFlag(FLAGS_capture);
  size_t disagree = 0;
  const absl::Status status =
      ReadCapture(path, [&](const NetlinkMessage& message, const FlowEvent& event) {
        places.push_back({words.size(), message.bytes});
        words.resize(words.size() + (message.bytes + sizeof(uint64_t) - 1) / sizeof(uint64_t));
        std::memcpy(&words[places.back().first_word], message.data, message.bytes);
        const nlmsghdr* const header = HeaderOf(places.back());
        const NfctPointer object(nfct_new());
        disagree += nfct_nlmsg_parse(header, object.get()) != 0 ||
                    !Agree(event, EventOf(object.get(), header));
      });
  if (!status.ok()) return status;
  if (places.empty()) return absl::InvalidArgumentError("no flow in " + path);
  if (disagree != 0) {
    return absl::InternalError(absl::StrCat("the parsers disagree on ", disagree, " of ",
                                            places.size(), " messages of ", path));
  }
  return absl::OkStatus();
}

BENCHMARK(Ctacct)->Name("Ctacct/all");
BENCHMARK(NfctFresh)->Name("NfctFresh/all");
BENCHMARK(NfctReused)->Name("NfctReused/all");

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) {
  return ctacct::GoogleMain(argc, argv, "parser_benchmark", ctacct::Prepare);
}
