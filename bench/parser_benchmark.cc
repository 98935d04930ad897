// What it costs to parse one conntrack message, ours against libnetfilter_conntrack, over the
// messages that a kernel sent (by default the shipped capture). One iteration is one message, in
// the capture's order, round and round. Both parsers must read the same from every message, or the
// exit status is 1.
//
//   Ctacct      DatagramCursor and ParseFlowMessage, into one event as the engine's worker does
//   Ipv6        the same of IPv6: the capture's messages with the addresses within fd00::/96
//   NfctFresh   nfct_nlmsg_parse, a new object for each message, as the library's own callbacks do
//   NfctReused  nfct_nlmsg_parse, one object. It must be emptied before each message, or what the
//               last one had and this one does not have stays; nfct_copy of an empty one does that
//               (and would leak a helper or label, of which the capture has none).
//
// On a machine that does other things too, compare medians of one run, its parts interleaved:
//   parser_benchmark --benchmark_repetitions=9 --benchmark_enable_random_interleaving=true
#include <benchmark/benchmark.h>
#include <libnetfilter_conntrack/libnetfilter_conntrack.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
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
std::vector<Place> ipv6_places;

const uint8_t* DataOf(const Place& place) {
  return reinterpret_cast<const uint8_t*>(&words[place.first_word]);
}
const nlmsghdr* HeaderOf(const Place& place) {
  return reinterpret_cast<const nlmsghdr*>(DataOf(place));
}

// One message after the other, for ever.
template <typename Parse>
void Cycle(benchmark::State& state, const std::vector<Place>& all, Parse parse) {
  auto next = all.begin();
  for ([[maybe_unused]] auto _ : state) {
    parse(*next);
    if (++next == all.end()) next = all.begin();
  }
  state.SetItemsProcessed(state.iterations());
}

void Ctacct(benchmark::State& state) {
  FlowEvent event;
  Cycle(state, places, [&](const Place& place) {
    DatagramCursor cursor(DataOf(place), place.bytes);
    NetlinkMessage message;
    bool good = cursor.Next(&message) && ParseFlowMessage(message, &event) == ParseResult::kFlow;
    benchmark::DoNotOptimize(good);
    benchmark::DoNotOptimize(event);
  });
}

void Ipv6(benchmark::State& state) {
  FlowEvent ipv4;
  Ipv6FlowEvent event;
  Cycle(state, ipv6_places, [&](const Place& place) {
    DatagramCursor cursor(DataOf(place), place.bytes);
    NetlinkMessage message;
    bool good = cursor.Next(&message) && ParseFlowMessage(message, &ipv4) == ParseResult::kIpv6 &&
                ParseIpv6FlowMessage(message, &event) == ParseResult::kFlow;
    benchmark::DoNotOptimize(good);
    benchmark::DoNotOptimize(event);
  });
}

void NfctFresh(benchmark::State& state) {
  Cycle(state, places, [](const Place& place) {
    const NfctPointer object(nfct_new());
    int result = nfct_nlmsg_parse(HeaderOf(place), object.get());
    benchmark::DoNotOptimize(result);
  });
}

void NfctReused(benchmark::State& state) {
  const NfctPointer empty(nfct_new());
  const NfctPointer object(nfct_new());
  Cycle(state, places, [&](const Place& place) {
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

void Keep(const std::string& bytes, std::vector<Place>* all) {
  all->push_back({words.size(), bytes.size()});
  words.resize(words.size() + (bytes.size() + sizeof(uint64_t) - 1) / sizeof(uint64_t));
  std::memcpy(&words[all->back().first_word], bytes.data(), bytes.size());
}

// The message as it would be of IPv6; empty if its tuples have no ports.
std::string Ipv6Twin(const NetlinkMessage& message) {
  constexpr size_t kHeaders = 20, kTuple = 52, kMore = 12;  // Additional bytes of an address.
  const std::string bytes(reinterpret_cast<const char*>(message.data), message.bytes);
  const auto header = [](size_t length, uint16_t type) {
    const uint16_t numbers[] = {static_cast<uint16_t>(length), type};
    return std::string(reinterpret_cast<const char*>(numbers), sizeof(numbers));
  };
  std::string twin = bytes.substr(0, kHeaders);
  for (uint16_t tuple = CTA_TUPLE_ORIG; tuple <= CTA_TUPLE_REPLY; ++tuple) {
    const size_t at = kHeaders + (tuple - CTA_TUPLE_ORIG) * kTuple;
    if (bytes.substr(at, 4) != header(kTuple, tuple | NLA_F_NESTED)) return "";
    twin += header(kTuple + 2 * kMore, tuple | NLA_F_NESTED) +
            header(20 + 2 * kMore, CTA_TUPLE_IP | NLA_F_NESTED);
    for (const auto& [type, from] : {std::pair(CTA_IP_V6_SRC, at + 12), {CTA_IP_V6_DST, at + 20}}) {
      twin += header(8 + kMore, static_cast<uint16_t>(type)) + "\xfd" + std::string(11, '\0') +
              bytes.substr(from, 4);
    }
    twin += bytes.substr(at + 24, kTuple - 24);
  }
  twin += bytes.substr(kHeaders + 2 * kTuple);
  twin[16] = AF_INET6;
  const auto length = static_cast<uint32_t>(twin.size());
  std::memcpy(twin.data(), &length, sizeof(length));
  return twin;
}

// Whether both are read alike.
bool IsTwin(const FlowEvent& ipv4, const std::string& twin) {
  DatagramCursor cursor(reinterpret_cast<const uint8_t*>(twin.data()), twin.size());
  NetlinkMessage message;
  Ipv6FlowEvent event;
  return cursor.Next(&message) && ParseIpv6FlowMessage(message, &event) == ParseResult::kFlow &&
         event.identity.src.words[3] == ipv4.identity.src.network_order &&
         event.identity.dst.words[3] == ipv4.identity.dst.network_order &&
         event.identity.src_port == ipv4.identity.src_port &&
         event.identity.dst_port == ipv4.identity.dst_port &&
         event.identity.id == ipv4.identity.id && event.kind == ipv4.kind &&
         event.reply.bytes == ipv4.reply.bytes && event.start_ns == ipv4.start_ns &&
         event.stop_ns == ipv4.stop_ns && event.tcp_state == ipv4.tcp_state;
}

absl::Status Prepare() {
  const std::string path = absl::GetFlag(FLAGS_capture);
  size_t disagree = 0;
  std::vector<std::string> twins;
  const absl::Status status =
      ReadCapture(path, [&](const NetlinkMessage& message, const FlowEvent& event) {
        Keep({reinterpret_cast<const char*>(message.data), message.bytes}, &places);
        if (const std::string twin = Ipv6Twin(message); !twin.empty()) {
          twins.push_back(twin);  // Behind all others: each kind lies together.
          disagree += !IsTwin(event, twin);
        }
        const nlmsghdr* const header = HeaderOf(places.back());
        const NfctPointer object(nfct_new());
        disagree += nfct_nlmsg_parse(header, object.get()) != 0 ||
                    !Agree(event, EventOf(object.get(), header));
      });
  if (!status.ok()) return status;
  for (const std::string& twin : twins) Keep(twin, &ipv6_places);
  if (places.empty() || ipv6_places.empty())
    return absl::InvalidArgumentError("no flow in " + path);
  if (disagree != 0) {
    return absl::InternalError(absl::StrCat("the parsers disagree on ", disagree, " of ",
                                            places.size(), " messages of ", path));
  }
  return absl::OkStatus();
}

BENCHMARK(Ctacct)->Name("Ctacct/all");
BENCHMARK(Ipv6)->Name("Ipv6/all");
BENCHMARK(NfctFresh)->Name("NfctFresh/all");
BENCHMARK(NfctReused)->Name("NfctReused/all");

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) {
  return ctacct::GoogleMain(argc, argv, "parser_benchmark", ctacct::Prepare);
}
