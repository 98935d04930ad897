// What the flow table and the accounting table cost: time per event, memory per flow, and the
// longest stop while they grow. The claims: a flat line over sizes, no stop of a millisecond.
//
//   bazel run //bench:table_benchmark                      all of it, a few minutes
//   ... -- --benchmark_filter='Flow.*/1000000'
//
// Events come in batches of 64, prefetched, in random order of flows. `bytes_per_flow` is resident
// memory. Times are the thread's CPU time; still, what else runs on the machine shows in the
// caches, and the stops are maxima of wall time, whatever the cause.
#include <malloc.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "benchmark/benchmark.h"
#include "engine/accounting/accounting_table.h"
#include "engine/accounting/flow_table.h"

namespace ctacct {
namespace {

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

// Of this thread: others on the machine shall not count.
int64_t NowNs() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return time.tv_sec * int64_t{1'000'000'000} + time.tv_nsec;
}

// Cheap and of full period over the powers of two: the n-th of so many, in random order.
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

FlowIdentity IdentityOf(uint32_t flow) {
  FlowIdentity identity;
  identity.src = Ipv4Address::FromHostOrder(0x0a200000 + (flow >> 12));
  identity.dst = Ipv4Address::FromHostOrder(0x0a000000 + flow % 1000);
  identity.src_port = static_cast<uint16_t>(1024 + flow % 60'000);
  identity.dst_port = 443;
  identity.protocol = kProtocolTcp;
  identity.id = flow * 2654435761u;
  return identity;
}

FlowEvent EventOf(FlowEventKind kind, uint32_t flow, uint64_t life, uint64_t packets) {
  FlowEvent event;
  event.kind = kind;
  event.identity = IdentityOf(flow);
  event.event_ns = kStartNs + 1'000;
  if (kind == FlowEventKind::kUpdate) {
    event.has_tcp_state = true;
    event.tcp_state = TcpState::kCloseWait;
  }
  if (kind == FlowEventKind::kDump || kind == FlowEventKind::kDestroy) {
    event.has_counters = true;
    event.original = {packets, packets * 100};
    event.reply = {packets, packets * 1000};
    event.start_ns = kStartNs + static_cast<int64_t>(life * 5'000'000'000 + flow);
  }
  return event;
}

// A table with flows 0 to `flows` - 1 alive, all shown by a dump.
struct Population {
  explicit Population(uint32_t flows) : table(&counts), order(flows) {
    table.Start(kStartNs, true);
    table.BeginDump(kStartNs);
    for (uint32_t i = 0; i < flows; ++i) {
      table.Apply(EventOf(FlowEventKind::kDump, i, 1, 1), kStartNs);
    }
    table.FinishDump(true);
  }

  WorkerCounts counts;
  FlowTable table;
  RandomOrder order;
};

struct Batch {
  FlowEvent events[kBatch];
  size_t hashes[kBatch];
};

uint64_t ApplyBatch(Batch* batch, FlowTable* table) {
  for (size_t i = 0; i < kBatch; ++i) {
    batch->hashes[i] = FlowTable::Hash(batch->events[i].identity);
    table->Prefetch(batch->events[i], batch->hashes[i]);
  }
  for (size_t i = 0; i < kBatch; ++i) table->PrefetchEntry(batch->events[i], batch->hashes[i]);
  uint64_t grown = 0;
  for (size_t i = 0; i < kBatch; ++i) {
    const FlowChange change = table->Apply(batch->events[i], batch->hashes[i], kStartNs);
    grown += change.growth.original.packets;
  }
  return grown;
}

uint64_t ApplyOneByOne(Batch* batch, FlowTable* table) {
  uint64_t grown = 0;
  for (const FlowEvent& event : batch->events) {
    grown += table->Apply(event, kStartNs).growth.original.packets;
  }
  return grown;
}

// Only the table's work is timed, not the making of events.
template <typename Fill, typename Work>
void Measure(benchmark::State& state, Fill fill, Work work) {
  auto batches = std::make_unique<Batch[]>(16);
  for ([[maybe_unused]] auto _ : state) {
    for (int b = 0; b < 16; ++b) fill(&batches[b]);
    const int64_t began = NowNs();
    for (int b = 0; b < 16; ++b) benchmark::DoNotOptimize(work(&batches[b]));
    state.SetIterationTime(static_cast<double>(NowNs() - began) * 1e-9);
  }
  state.counters["ns_per_event"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * 16 * kBatch * 1e-9,
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void FlowDumpEntry(benchmark::State& state) {
  Population population(static_cast<uint32_t>(state.range(0)));
  population.table.BeginDump(kStartNs + 1);
  uint64_t packets = 2;
  Measure(
      state,
      [&](Batch* batch) {
        ++packets;
        for (FlowEvent& event : batch->events) {
          event = EventOf(FlowEventKind::kDump, population.order.Next(), 1, packets);
        }
      },
      [&](Batch* batch) { return ApplyBatch(batch, &population.table); });
}

void FlowDumpEntryOneByOne(benchmark::State& state) {
  Population population(static_cast<uint32_t>(state.range(0)));
  population.table.BeginDump(kStartNs + 1);
  uint64_t packets = 2;
  Measure(
      state,
      [&](Batch* batch) {
        ++packets;
        for (FlowEvent& event : batch->events) {
          event = EventOf(FlowEventKind::kDump, population.order.Next(), 1, packets);
        }
      },
      [&](Batch* batch) { return ApplyOneByOne(batch, &population.table); });
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
  const size_t before = ResidentBytes();
  for (uint32_t i = 0; i < flows; ++i) map[IdentityOf(i)].start_ns = 1;
  state.counters["bytes_per_flow"] = static_cast<double>(ResidentBytes() - before) / flows;
  RandomOrder order(flows);
  Measure(
      state,
      [&](Batch* batch) {
        for (FlowEvent& event : batch->events) {
          event = EventOf(FlowEventKind::kDump, order.Next(), 1, 2);
        }
      },
      [&](Batch* batch) {
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

// NEW and DESTROY of short lives beside those that stay; with closing UPDATEs between.
void FlowNewUpdateDestroy(benchmark::State& state) {
  const auto flows = static_cast<uint32_t>(state.range(0));
  Population population(flows);
  constexpr uint32_t kTogether = 4 * kBatch;  // Alive at once, of the short ones.
  uint32_t next = flows;
  uint64_t life = 1;
  int phase = 0;
  Measure(
      state,
      [&](Batch* batch) {
        // Four batches of each kind in turn.
        const FlowEventKind kind = phase / 4 == 0   ? FlowEventKind::kNew
                                   : phase / 4 == 1 ? FlowEventKind::kUpdate
                                                    : FlowEventKind::kDestroy;
        const uint32_t first = next + static_cast<uint32_t>(phase % 4 * kBatch);
        for (uint32_t i = 0; i < kBatch; ++i) {
          batch->events[i] = EventOf(kind, first + i, life, 3);
        }
        if (++phase == 12) {
          phase = 0;
          next += kTogether;
          if (next > flows + (1 << 20)) {
            next = flows;
            ++life;
            population.table.EndInterval();
          }
        }
      },
      [&](Batch* batch) { return ApplyBatch(batch, &population.table); });
}

// DESTROYs alone: mode=light, of flows that no dump showed.
void FlowDestroyUnseen(benchmark::State& state) {
  const auto flows = static_cast<uint32_t>(state.range(0));
  Population population(flows);
  uint32_t next = flows;
  uint64_t life = 1;
  Measure(
      state,
      [&](Batch* batch) {
        for (FlowEvent& event : batch->events) {
          event = EventOf(FlowEventKind::kDestroy, next++, life, 3);
        }
        if (next > flows + (1 << 19)) {
          next = flows;
          ++life;
          population.table.EndInterval();
        }
      },
      [&](Batch* batch) { return ApplyBatch(batch, &population.table); });
}

int64_t WallNs() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * int64_t{1'000'000'000} + time.tv_nsec;
}

// Of wall time, whatever the cause: on a shared machine others are among them.
struct Stops {
  int64_t longest_ns = 0;
  uint64_t over_100us = 0;
  uint64_t over_300us = 0;
  uint64_t over_1ms = 0;

  void Add(int64_t ns) {
    longest_ns = std::max(longest_ns, ns);
    over_100us += ns > 100'000;
    over_300us += ns > 300'000;
    over_1ms += ns > 1'000'000;
  }
  void Report(benchmark::State& state) const {
    state.counters["longest_stop_us"] = static_cast<double>(longest_ns) * 1e-3;
    state.counters["over_100us"] = static_cast<double>(over_100us);
    state.counters["over_300us"] = static_cast<double>(over_300us);
    state.counters["over_1ms"] = static_cast<double>(over_1ms);
  }
};

// From nothing to so many, as a dump brings them; then the sweep, and the end of all.
void FlowGrowth(benchmark::State& state) {
  const auto flows = static_cast<uint32_t>(state.range(0));
  for ([[maybe_unused]] auto _ : state) {
    malloc_trim(0);
    const size_t before = ResidentBytes();
    double most = 0;
    Stops stops;
    Stops sweep;
    Stops destroy;
    {
      WorkerCounts counts;
      FlowTable table(&counts);
      table.Start(kStartNs, true);
      table.BeginDump(kStartNs);
      for (uint32_t i = 0; i < flows; ++i) {
        const FlowEvent event = EventOf(FlowEventKind::kDump, i, 1, 1);
        const int64_t began = WallNs();
        table.Apply(event, kStartNs);
        stops.Add(WallNs() - began);
        if (i % 100'000 == 0 && i >= 500'000) {
          most = std::max(most, static_cast<double>(ResidentBytes() - before) / i);
        }
      }
      state.counters["bytes_per_flow"] = static_cast<double>(ResidentBytes() - before) / flows;
      state.counters["bytes_per_flow_most"] = most;
      table.NoteOverrun();
      table.FinishDump(true);
      table.BeginDump(kStartNs + 1);
      std::vector<FlowIdentity> no_longer_open;
      int64_t began = WallNs();
      table.FinishDump(true);
      bool more = true;
      while (more) {
        more = table.SweepSome(&no_longer_open);
        sweep.Add(WallNs() - began);
        began = WallNs();
      }
      for (uint32_t i = 0; i < flows; ++i) {
        const FlowEvent event = EventOf(FlowEventKind::kDestroy, i, 1, 1);
        began = WallNs();
        table.Apply(event, kStartNs);
        destroy.Add(WallNs() - began);
        if (i % 1'000'000 == 0) {
          began = WallNs();
          table.EndInterval();
          destroy.Add(WallNs() - began);
        }
      }
      state.counters["bytes_per_dead"] = static_cast<double>(ResidentBytes() - before) / flows;
    }
    stops.Report(state);
    state.counters["sweep_stop_us"] = static_cast<double>(sweep.longest_ns) * 1e-3;
    state.counters["destroy_stop_us"] = static_cast<double>(destroy.longest_ns) * 1e-3;
  }
}

void PlainMapGrowth(benchmark::State& state) {
  struct Hash {
    size_t operator()(const FlowIdentity& identity) const { return FlowTable::Hash(identity); }
  };
  struct Flow {
    char bytes[44];
  };
  const auto flows = static_cast<uint32_t>(state.range(0));
  for ([[maybe_unused]] auto _ : state) {
    Stops stops;
    absl::flat_hash_map<FlowIdentity, Flow, Hash> map;
    for (uint32_t i = 0; i < flows; ++i) {
      const FlowIdentity identity = IdentityOf(i);
      const int64_t began = WallNs();
      map[identity].bytes[0] = 1;
      stops.Add(WallNs() - began);
    }
    stops.Report(state);
  }
}

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

template <typename Work>
void MeasureKeys(benchmark::State& state, Work work) {
  RandomOrder order(static_cast<uint64_t>(state.range(0)));
  auto batches = std::make_unique<KeyBatch[]>(16);
  for ([[maybe_unused]] auto _ : state) {
    for (int b = 0; b < 16; ++b) {
      for (AccountingKey& key : batches[b].keys) key = KeyOf(order.Next());
    }
    const int64_t began = NowNs();
    for (int b = 0; b < 16; ++b) work(&batches[b]);
    state.SetIterationTime(static_cast<double>(NowNs() - began) * 1e-9);
  }
  state.counters["ns_per_add"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * 16 * kBatch * 1e-9,
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

TrafficSums SomeSums() {
  TrafficSums sums;
  sums.original = {1, 2};
  sums.reply = {3, 4};
  return sums;
}

void AccountingAdd(benchmark::State& state) {
  AccountingTable table;
  const auto keys = static_cast<uint32_t>(state.range(0));
  const size_t before = ResidentBytes();
  for (uint32_t i = 0; i < keys; ++i) table.rows[KeyOf(i)];
  state.counters["bytes_per_key"] = static_cast<double>(ResidentBytes() - before) / keys;
  const TrafficSums sums = SomeSums();
  MeasureKeys(state, [&](KeyBatch* batch) {
    for (size_t i = 0; i < kBatch; ++i) {
      batch->hashes[i] = table.rows.Hash(batch->keys[i]);
      table.rows.Prefetch(batch->hashes[i]);
    }
    for (const size_t hash : batch->hashes) table.rows.PrefetchEntry(hash);
    for (size_t i = 0; i < kBatch; ++i) {
      table.rows.FindOrAdd(batch->keys[i], batch->hashes[i]).Add(sums);
    }
  });
}

void PlainMapAdd(benchmark::State& state) {
  absl::flat_hash_map<AccountingKey, TrafficSums> rows;
  const auto keys = static_cast<uint32_t>(state.range(0));
  const size_t before = ResidentBytes();
  for (uint32_t i = 0; i < keys; ++i) rows[KeyOf(i)];
  state.counters["bytes_per_key"] = static_cast<double>(ResidentBytes() - before) / keys;
  const TrafficSums sums = SomeSums();
  MeasureKeys(state, [&](KeyBatch* batch) {
    for (const AccountingKey& key : batch->keys) rows[key].Add(sums);
  });
}

void AccountingGrowth(benchmark::State& state) {
  const auto keys = static_cast<uint32_t>(state.range(0));
  for ([[maybe_unused]] auto _ : state) {
    Stops stops;
    Stops again;
    AccountingTable table;
    for (uint32_t i = 0; i < keys; ++i) {
      const AccountingKey key = KeyOf(i);
      const int64_t began = WallNs();
      table.rows[key].connection_count = 1;
      stops.Add(WallNs() - began);
    }
    int64_t began = WallNs();
    table.Clear();
    state.counters["clear_us"] = static_cast<double>(WallNs() - began) * 1e-3;
    for (uint32_t i = 0; i < keys; ++i) {
      const AccountingKey key = KeyOf(i);
      began = WallNs();
      table.rows[key].connection_count = 1;
      again.Add(WallNs() - began);
    }
    stops.Report(state);
    state.counters["longest_stop_again_us"] = static_cast<double>(again.longest_ns) * 1e-3;
  }
}

void Sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->Arg(10'000)->Arg(50'000)->Arg(100'000)->Arg(1'000'000)->Arg(4'000'000);
  benchmark->UseManualTime();
}
void Keys(benchmark::internal::Benchmark* benchmark) {
  benchmark->Arg(1'000)->Arg(10'000)->Arg(100'000)->Arg(1'000'000)->Arg(2'000'000);
  benchmark->UseManualTime();
}
BENCHMARK(FlowDumpEntry)->Apply(Sizes);
BENCHMARK(FlowDumpEntryOneByOne)->Apply(Sizes);
BENCHMARK(PlainMapDumpEntry)->Apply(Sizes);
BENCHMARK(FlowNewUpdateDestroy)->Apply(Sizes);
BENCHMARK(FlowDestroyUnseen)->Apply(Sizes);
BENCHMARK(FlowGrowth)
    ->Arg(500'000)
    ->Arg(1'000'000)
    ->Arg(4'000'000)
    ->Arg(16'000'000)
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);
BENCHMARK(PlainMapGrowth)->Arg(4'000'000)->Iterations(1)->Unit(benchmark::kMillisecond);
BENCHMARK(AccountingAdd)->Apply(Keys);
BENCHMARK(PlainMapAdd)->Apply(Keys);
BENCHMARK(AccountingGrowth)
    ->Arg(100'000)
    ->Arg(2'000'000)
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace ctacct

BENCHMARK_MAIN();
