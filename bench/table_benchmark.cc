// What the flow table and the accounting table cost: time per event, memory per flow, and the
// longest stop while they grow. The claims: a flat line over sizes, no stop of a millisecond.
//
//   bazel run //bench:table_benchmark                      all of it, a few minutes
//   ... -- --benchmark_filter='Flow.*/1000000'
//
// Events come in batches of 64, in random order of flows. `bytes_per_flow` is resident memory.
// Times are the thread's CPU time; still, what else runs on the machine shows in the caches, and
// the stops are maxima of wall time, whatever the cause. The sums that come out must be those that
// went in, or the exit status is 1. Sizes of 10,000 are for a quick look.
#include <arpa/inet.h>
#include <malloc.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "bench/google_main.h"
#include "bench/threads.h"
#include "engine/accounting/accounting_table.h"
#include "engine/accounting/flow_table.h"

namespace ctacct {
namespace {

template <typename Address>
void EndDump(BasicFlowTable<Address>* table) {
  table->FinishDump(true);
  std::vector<BasicFlowIdentity<Address>> no_longer_open;
  while (table->SweepSome(&no_longer_open)) {
  }
}

constexpr int64_t kStartNs = 1'600'000'000'000'000'000;
constexpr size_t kBatch = 64;

size_t ResidentBytes() {
  long pages = 0;
  if (FILE* file = fopen("/proc/self/statm", "r"); file != nullptr) {
    if (fscanf(file, "%*d %ld", &pages) != 1) pages = 0;
    fclose(file);
  }
  return static_cast<size_t>(pages) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

// Cheap and of full period over the powers of two: the n-th of `count`, in random order.
class RandomOrder {
 public:
  explicit RandomOrder(uint64_t count) : count_(count), mask_(1) {
    while (mask_ < count) mask_ <<= 1;
    --mask_;
  }
  uint32_t Next() {
    do {
      state_ = (state_ * 6364136223846793005 + 1442695040888963407) & mask_;
    } while (state_ >= count_);
    // The low bits of such a sequence are regular; the table hashes them anyway.
    return static_cast<uint32_t>(state_);
  }

 private:
  uint64_t count_;
  uint64_t mask_;
  uint64_t state_ = 1;
};

template <typename Address>
Address AddressOf(uint32_t number) {
  if constexpr (std::is_same_v<Address, Ipv4Address>) {
    return Ipv4Address::FromHostOrder(number);
  } else {
    return {{htonl(0x20010db8), 0, 0, htonl(number)}};
  }
}

template <typename Address = Ipv4Address>
BasicFlowIdentity<Address> IdentityOf(uint32_t flow) {
  BasicFlowIdentity<Address> identity;
  identity.src = AddressOf<Address>(0x0a200000 + (flow >> 12));
  identity.dst = AddressOf<Address>(0x0a000000 + flow % 1000);
  identity.src_port = static_cast<uint16_t>(1024 + flow % 60'000);
  identity.dst_port = 443;
  identity.protocol = kProtocolTcp;
  identity.id = flow * 2654435761u;
  return identity;
}

template <typename Address = Ipv4Address>
BasicFlowEvent<Address> EventOf(FlowEventKind kind, uint32_t flow, uint64_t packets) {
  BasicFlowEvent<Address> event;
  event.kind = kind;
  event.identity = IdentityOf<Address>(flow);
  event.event_ns = kStartNs + 1'000;
  event.has_counters = true;
  event.original = {packets, packets * 100};
  event.reply = {packets, packets * 1000};
  event.start_ns = kStartNs + flow;
  return event;
}

// A table with flows 0 to `flows` - 1 alive, all shown by a dump; the next one has begun.
struct Population {
  explicit Population(uint32_t flows) : table(&counts) {
    table.Start(kStartNs, true);
    table.BeginDump(kStartNs);
    for (uint32_t i = 0; i < flows; ++i) {
      table.Apply(EventOf(FlowEventKind::kDump, i, 1), kStartNs);
    }
    EndDump(&table);
    table.BeginDump(kStartNs + 1);
  }

  WorkerCounts counts;
  FlowTable table;
};

struct Batch {
  FlowEvent events[kBatch];
  size_t hashes[kBatch];
};

constexpr char kNotExact[] = "wrong sums";
constexpr int kBatches = 16;

// `Batches` is what `fill` makes and `work` takes. Only `work` is timed.
template <typename Batches, typename Fill, typename Work>
void Measure(benchmark::State& state, Fill fill, Work work) {
  const auto batches = std::make_unique<Batches[]>(kBatches);
  for ([[maybe_unused]] auto _ : state) {
    for (int b = 0; b < kBatches; ++b) fill(&batches[b]);
    const double began_ms = ThreadCpuMillis();
    for (int b = 0; b < kBatches; ++b) work(&batches[b]);
    state.SetIterationTime((ThreadCpuMillis() - began_ms) * 1e-3);
  }
  state.SetItemsProcessed(state.iterations() * kBatches * static_cast<int64_t>(kBatch));
}

// Dump entries of flows in random order. `apply` returns the packets by which a batch has grown.
template <typename Apply>
void MeasureDump(benchmark::State& state, Apply apply) {
  RandomOrder order(static_cast<uint64_t>(state.range(0)));
  std::vector<uint32_t> shown(static_cast<size_t>(state.range(0)), 1);
  uint32_t packets = 1;
  uint64_t expected = 0;
  uint64_t grown = 0;
  Measure<Batch>(
      state,
      [&](Batch* batch) {
        ++packets;
        for (FlowEvent& event : batch->events) {
          const uint32_t flow = order.Next();
          event = EventOf(FlowEventKind::kDump, flow, packets);
          expected += packets - shown[flow];
          shown[flow] = packets;
        }
      },
      [&](Batch* batch) { grown += apply(batch); });
  if (grown != expected) Fail(state, kNotExact);
}

void FlowDumpEntry(benchmark::State& state) {
  Population population(static_cast<uint32_t>(state.range(0)));
  FlowTable& table = population.table;
  MeasureDump(state, [&](Batch* batch) {
    for (size_t i = 0; i < kBatch; ++i) {
      batch->hashes[i] = FlowTable::Hash(batch->events[i].identity);
      table.Prefetch(batch->events[i], batch->hashes[i]);
    }
    for (size_t i = 0; i < kBatch; ++i) table.PrefetchEntry(batch->events[i], batch->hashes[i]);
    uint64_t grown = 0;
    for (size_t i = 0; i < kBatch; ++i) {
      grown += table.Apply(batch->events[i], batch->hashes[i], kStartNs).growth.original.packets;
    }
    return grown;
  });
}

void FlowDumpEntryOneByOne(benchmark::State& state) {
  Population population(static_cast<uint32_t>(state.range(0)));
  MeasureDump(state, [&](Batch* batch) {
    uint64_t grown = 0;
    for (const FlowEvent& event : batch->events) {
      grown += population.table.Apply(event, kStartNs).growth.original.packets;
    }
    return grown;
  });
}

// The same work on abseil's table, without what the flow table's rules cost.
void PlainMapDumpEntry(benchmark::State& state) {
  struct Flow {
    FlowCounters original, reply;
    int64_t start_ns;
    uint32_t last_seen;
  };
  struct Hash {
    size_t operator()(const FlowIdentity& identity) const { return FlowTable::Hash(identity); }
  };
  absl::flat_hash_map<FlowIdentity, Flow, Hash> map;
  const auto flows = static_cast<uint32_t>(state.range(0));
  for (uint32_t i = 0; i < flows; ++i) map[IdentityOf(i)].original.packets = 1;
  MeasureDump(state, [&](Batch* batch) {
    uint64_t grown = 0;
    for (const FlowEvent& event : batch->events) {
      Flow& flow = map.find(event.identity)->second;
      grown += event.original.packets - flow.original.packets;
      flow.original = event.original;
      flow.reply = event.reply;
    }
    return grown;
  });
}

int64_t WallNs() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * int64_t{1'000'000'000} + time.tv_nsec;
}

// The longest of many calls, by the wall clock.
class LongestStop {
 public:
  template <typename Work>
  void Time(Work work) {
    const int64_t began = WallNs();
    work();
    longest_ns_ = std::max(longest_ns_, WallNs() - began);
  }
  double microseconds() const { return static_cast<double>(longest_ns_) * 1e-3; }

 private:
  int64_t longest_ns_ = 0;
};

// From nothing to this number of flows, as a dump brings them; then the sweep, and the end of all.
template <typename Address>
void FlowGrowthOf(benchmark::State& state) {
  const auto flows = static_cast<uint32_t>(state.range(0));
  for ([[maybe_unused]] auto _ : state) {
    malloc_trim(0);
    const size_t before = ResidentBytes();
    LongestStop growing, sweeping, ending;
    TrafficSums sums;
    WorkerCounts counts;
    BasicFlowTable<Address> table(&counts);
    table.Start(kStartNs, true);
    table.BeginDump(kStartNs);
    for (uint32_t i = 0; i < flows; ++i) {
      const auto event = EventOf<Address>(FlowEventKind::kDump, i, 1);
      growing.Time([&] { sums.Add(table.Apply(event, kStartNs).growth); });
    }
    state.counters["bytes_per_flow"] = static_cast<double>(ResidentBytes() - before) / flows;
    table.NoteOverrun(kStartNs, kStartNs + 1);
    EndDump(&table);
    table.BeginDump(kStartNs + 1);
    std::vector<BasicFlowIdentity<Address>> ghosts;
    table.FinishDump(true);
    for (bool more = true; more;) sweeping.Time([&] { more = table.SweepSome(&ghosts); });
    if (table.size() != flows) Fail(state, "flows were lost");
    for (uint32_t i = 0; i < flows; ++i) {
      const auto event = EventOf<Address>(FlowEventKind::kDestroy, i, 2);
      ending.Time([&] { sums.Add(table.Apply(event, kStartNs).growth); });
      if (i % 1'000'000 == 0) ending.Time([&] { table.EndInterval(); });
    }
    if (table.size() != 0 || sums.connection_count != flows || sums.original.packets != 2 * flows ||
        sums.reply.packets != 2 * flows) {
      Fail(state, kNotExact);
    }
    state.counters["longest_stop_us"] = growing.microseconds();
    state.counters["sweep_stop_us"] = sweeping.microseconds();
    state.counters["destroy_stop_us"] = ending.microseconds();
  }
}

void FlowGrowth(benchmark::State& state) { FlowGrowthOf<Ipv4Address>(state); }
void Ipv6FlowGrowth(benchmark::State& state) { FlowGrowthOf<Ipv6Address>(state); }

AccountingKey KeyOf(uint32_t number) {
  AccountingKey key;
  key.src = Ipv4Address::FromHostOrder(0x0a200000 + (number >> 8));
  key.dst = Ipv4Address::FromHostOrder(0x0a000000 + (number & 0xff));
  key.port = 443;
  key.protocol = kProtocolTcp;
  return key;
}

struct KeyBatch {
  AccountingKey keys[kBatch];
  size_t hashes[kBatch];
};

const TrafficSums kSums = {{1, 2}, {3, 4}};

// Additions to keys in random order: `add` adds kSums to each key of a batch.
template <typename Add, typename Rows>
void MeasureKeys(benchmark::State& state, Rows& rows, Add add) {
  const auto keys = static_cast<uint32_t>(state.range(0));
  for (uint32_t i = 0; i < keys; ++i) rows[KeyOf(i)];
  RandomOrder order(keys);
  Measure<KeyBatch>(
      state,
      [&](KeyBatch* batch) {
        for (AccountingKey& key : batch->keys) key = KeyOf(order.Next());
      },
      add);
  uint64_t packets = 0;
  const auto add_row = [&](const auto& row) { packets += row.second.reply.packets; };
  if constexpr (requires { rows.begin(); }) {
    std::for_each(rows.begin(), rows.end(), add_row);
  } else {
    rows.ForEach(add_row);
  }
  if (packets != 3 * static_cast<uint64_t>(state.iterations()) * kBatches * kBatch) {
    Fail(state, kNotExact);
  }
}

void AccountingAdd(benchmark::State& state) {
  AccountingTable table;
  MeasureKeys(state, table.rows, [&](KeyBatch* batch) {
    for (size_t i = 0; i < kBatch; ++i) {
      batch->hashes[i] = table.rows.Hash(batch->keys[i]);
      table.rows.Prefetch(batch->hashes[i]);
    }
    for (const size_t hash : batch->hashes) table.rows.PrefetchEntry(hash);
    for (size_t i = 0; i < kBatch; ++i) {
      table.rows.FindOrAdd(batch->keys[i], batch->hashes[i]).Add(kSums);
    }
  });
}

void PlainMapAdd(benchmark::State& state) {
  absl::flat_hash_map<AccountingKey, TrafficSums> rows;
  MeasureKeys(state, rows, [&](KeyBatch* batch) {
    for (const AccountingKey& key : batch->keys) rows[key].Add(kSums);
  });
}

// Filled, cleared after a flush, and filled again.
void AccountingGrowth(benchmark::State& state) {
  const auto keys = static_cast<uint32_t>(state.range(0));
  for ([[maybe_unused]] auto _ : state) {
    AccountingTable table;
    for (const char* counter : {"longest_stop_us", "longest_stop_again_us"}) {
      LongestStop filling;
      filling.Time([&] { table.Clear(); });
      for (uint32_t i = 0; i < keys; ++i) {
        const AccountingKey key = KeyOf(i);
        filling.Time([&] { table.rows[key].connection_count += i; });
      }
      state.counters[counter] = filling.microseconds();
      uint64_t count = 0;
      table.rows.ForEach([&](const auto& row) { count += row.second.connection_count; });
      if (count != uint64_t{keys} * (keys - 1) / 2) Fail(state, kNotExact);
    }
  }
}

void Sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->Arg(10'000)->Arg(50'000)->Arg(1'000'000)->Arg(4'000'000)->UseManualTime();
}
void Growth(benchmark::internal::Benchmark* benchmark) {
  benchmark->Iterations(1)->Unit(benchmark::kMillisecond);
}
BENCHMARK(FlowDumpEntry)->Apply(Sizes);
BENCHMARK(FlowDumpEntryOneByOne)->Apply(Sizes);
BENCHMARK(PlainMapDumpEntry)->Apply(Sizes);
BENCHMARK(AccountingAdd)->Apply(Sizes);
BENCHMARK(PlainMapAdd)->Apply(Sizes);
BENCHMARK(FlowGrowth)->Arg(10'000)->Arg(1'000'000)->Arg(4'000'000)->Arg(16'000'000)->Apply(Growth);
BENCHMARK(Ipv6FlowGrowth)->Arg(10'000)->Arg(1'000'000)->Apply(Growth);
BENCHMARK(AccountingGrowth)->Arg(10'000)->Arg(2'000'000)->Apply(Growth);

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::GoogleMain(argc, argv, "table_benchmark"); }
