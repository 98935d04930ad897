#include "engine/accounting/flow_table.h"

#include <linux/netfilter/nf_conntrack_common.h>

#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "engine/accounting/accounting_key.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kStart = 1'000 * kSecond;  // When accounting begins.

// The dump's end with the whole sweep: the flows that no longer count as open.
std::vector<FlowIdentity> EndDump(bool complete, FlowTable* table) {
  table->FinishDump(complete);
  std::vector<FlowIdentity> no_longer_open;
  while (table->SweepSome(&no_longer_open)) {
  }
  return no_longer_open;
}

class FlowTableTest : public testing::Test {
 protected:
  explicit FlowTableTest(bool timestamps_on = true) { table_.Start(kStart, timestamps_on); }

  static FlowEvent Event(FlowEventKind kind, int64_t start_ns = 0, uint64_t packets = 0) {
    FlowEvent event;
    event.kind = kind;
    event.identity.src = Ipv4Address::FromHostOrder(0x0a000001);
    event.identity.dst = Ipv4Address::FromHostOrder(0x0a000002);
    event.identity.src_port = 1000;
    event.identity.dst_port = 80;
    event.identity.protocol = kProtocolTcp;
    event.identity.id = 7;
    event.start_ns = start_ns;
    if (kind == FlowEventKind::kDump || kind == FlowEventKind::kDestroy) {
      event.has_counters = true;
      event.original = {packets, packets * 100};
      event.reply = {packets / 2, packets * 10};
    }
    return event;
  }
  static FlowEvent State(TcpState state, int64_t event_ns) {
    FlowEvent event = Event(FlowEventKind::kUpdate);
    event.has_tcp_state = true;
    event.tcp_state = state;
    event.event_ns = event_ns;
    return event;
  }

  // Packets of the original direction; the other counters must agree with them.
  uint64_t Grown(const FlowEvent& event, int64_t now_ns = kStart + kSecond) {
    const FlowChange change = table_.Apply(event, now_ns);
    EXPECT_EQ(change.growth.original.bytes, change.growth.original.packets * 100);
    EXPECT_EQ(change.growth.reply.bytes, change.growth.original.packets * 10);
    connections_ += change.growth.connection_count;
    time_ns_ += change.growth.connection_time_us * 1000;
    open_ += change.open_change;
    return change.growth.original.packets;
  }
  void Dump(const std::vector<FlowEvent>& flows, int64_t now_ns = kStart + kSecond) {
    table_.BeginDump(now_ns);
    for (const FlowEvent& flow : flows) (void)Grown(flow, now_ns);
    open_ -= static_cast<int>(EndDump(true, &table_).size());
  }

  WorkerCounts counts_;
  FlowTable table_{&counts_};
  uint64_t connections_ = 0;
  uint64_t time_ns_ = 0;
  int open_ = 0;
};

class WithoutTimestampsTest : public FlowTableTest {
 protected:
  WithoutTimestampsTest() : FlowTableTest(false) {}
};

constexpr int64_t kBorn = kStart + 5;

TEST_F(FlowTableTest, GrowthFromDumpsAndDestroy) {
  EXPECT_EQ(Grown(Event(FlowEventKind::kNew)), 0u);
  EXPECT_EQ(open_, 1);
  table_.BeginDump(kStart + kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, kBorn, 10)), 10u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, kBorn, 10)), 0u);  // Dumps may repeat entries.
  EXPECT_TRUE(EndDump(true, &table_).empty());
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 14)), 4u);
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(open_, 0);
  EXPECT_EQ(table_.size(), 0u);
}

TEST_F(FlowTableTest, AFlowThatEndsIsCountedOnceAndAsUnansweredWithoutAReply) {
  const auto ends = [&](const FlowEvent& event) {
    const TrafficSums growth = table_.Apply(event, kStart + kSecond).growth;
    EXPECT_LE(growth.flow_count, 1u);
    EXPECT_LE(growth.unanswered_count, growth.flow_count);
    return std::make_pair(growth.flow_count, growth.unanswered_count);
  };
  constexpr std::pair<uint32_t, uint32_t> kNone{0, 0}, kAnswered{1, 0}, kUnanswered{1, 1};
  FlowEvent destroy = Event(FlowEventKind::kDestroy, kBorn, 2);
  destroy.identity.protocol = kProtocolUdp;
  FlowEvent born = Event(FlowEventKind::kNew);
  born.identity.protocol = kProtocolUdp;
  EXPECT_EQ(ends(born), kNone);
  EXPECT_EQ(ends(destroy), kAnswered);
  EXPECT_EQ(ends(destroy), kNone);  // Repeated.

  // Its NEW was not read, and a dump has already shown all of its traffic.
  destroy = Event(FlowEventKind::kDestroy, kBorn + 1, 1);
  EXPECT_EQ(destroy.reply.packets, 0u);
  EXPECT_EQ(ends(destroy), kUnanswered);
  table_.BeginDump(kStart + kSecond);
  EXPECT_EQ(ends(Event(FlowEventKind::kDump, kBorn + 2, 1)), kNone);
  EXPECT_EQ(ends(Event(FlowEventKind::kDestroy, kBorn + 2, 1)), kUnanswered);
  (void)EndDump(true, &table_);

  // Somebody zeroed the counters: the kernel's mark still shows the answer.
  destroy = Event(FlowEventKind::kDestroy, kBorn + 3, 1);
  destroy.status = IPS_CONFIRMED | IPS_SEEN_REPLY;
  EXPECT_EQ(ends(destroy), kAnswered);
  // A reset was the only reply: it ends the flow before the kernel marks it.
  destroy = Event(FlowEventKind::kDestroy, kBorn + 4, 2);
  destroy.status = IPS_CONFIRMED;
  EXPECT_EQ(ends(destroy), kAnswered);
  // Without counters (nf_conntrack_acct was off) the mark decides; without either nothing is known.
  destroy = Event(FlowEventKind::kDestroy, kBorn + 5);
  destroy.has_counters = false;
  EXPECT_EQ(ends(destroy), kAnswered);
  destroy.start_ns = kBorn + 6;
  destroy.status = IPS_CONFIRMED;
  EXPECT_EQ(ends(destroy), kUnanswered);
  destroy.start_ns = kBorn + 7;
  destroy.status = IPS_CONFIRMED | IPS_SEEN_REPLY;
  EXPECT_EQ(ends(destroy), kAnswered);
}

// If a dump has shown a flow older than the engine, it is known when it ends; otherwise it is not.
TEST_F(FlowTableTest, AFlowOlderThanTheEngineIsCountedIfADumpHasShownIt) {
  Dump({Event(FlowEventKind::kDump, kStart - 50 * kSecond, 10)});
  EXPECT_EQ(
      table_.Apply(Event(FlowEventKind::kDestroy, kStart - 50 * kSecond, 10), kStart + kSecond)
          .growth.flow_count,
      1u);
  EXPECT_EQ(
      table_.Apply(Event(FlowEventKind::kDestroy, kStart - 40 * kSecond, 10), kStart + kSecond)
          .growth.flow_count,
      0u);
}

// The same rules, another table: flows differ if any byte of their identities does.
TEST(Ipv6FlowTableTest, EveryByteDistinguishesFlows) {
  WorkerCounts counts;
  BasicFlowTable<Ipv6Address> table(&counts);
  table.Start(kStart, true);
  Ipv6FlowEvent first;
  first.kind = FlowEventKind::kDestroy;
  first.has_counters = true;
  first.start_ns = kBorn;
  first.original = {1, 100};
  first.identity.protocol = kProtocolUdp;
  std::vector<Ipv6FlowEvent> flows;
  constexpr size_t kZero = offsetof(Ipv6FlowIdentity, zero);
  for (size_t byte = 0; byte < sizeof(Ipv6FlowIdentity); ++byte) {
    if (byte == kZero) continue;
    flows.push_back(first);
    auto* const bytes = reinterpret_cast<char*>(&flows.back().identity);
    bytes[byte] = static_cast<char>(bytes[byte] ^ 0x40);
  }
  flows.push_back(first);
  for (Ipv6FlowEvent flow : flows) {
    flow.kind = FlowEventKind::kNew;
    (void)table.Apply(flow, kStart + kSecond);
  }
  EXPECT_EQ(table.size(), flows.size());
  table.BeginDump(kStart + kSecond);
  for (Ipv6FlowEvent flow : flows) {
    flow.kind = FlowEventKind::kDump;
    EXPECT_EQ(table.Apply(flow, kStart + kSecond).growth.original.packets, 1u);
  }
  table.FinishDump(true);
  for (Ipv6FlowEvent flow : flows) {
    flow.original = {3, 300};
    const TrafficSums growth = table.Apply(flow, kStart + kSecond).growth;
    EXPECT_EQ(growth.original.packets, 2u);
    EXPECT_EQ(growth.unanswered_count, 1u);
  }
  EXPECT_EQ(table.size(), 0u);
}

// A snapshot of both families in one stream ends with the last chunk of the last table.
TEST(Ipv6FlowTableTest, SnapshotsOfTwoTablesAreOne) {
  WorkerCounts counts;
  FlowTable ipv4(&counts);
  BasicFlowTable<Ipv6Address> ipv6(&counts);
  ipv4.Start(kStart, true);
  ipv6.Start(kStart, true);
  Ipv6FlowEvent born;
  born.identity.src.words[2] = 5;
  born.identity.id = 9;
  (void)ipv6.Apply(born, kStart + kSecond);
  SnapshotStream stream(2);
  for (uint64_t seal = 1; seal <= 2; ++seal) {
    ipv4.BeginSnapshot(seal, &stream, true);
    ipv6.BeginSnapshot(seal, &stream, true);
    ipv4.FinishSnapshot();
    ipv6.FinishSnapshot();
    size_t last = 0;
    std::vector<Ipv6FlowRecord> records;
    const std::vector<SnapshotChunk> chunks = stream.Take();
    for (const SnapshotChunk& chunk : chunks) {
      last += chunk.last;
      EXPECT_TRUE(chunk.records.empty());
      records.insert(records.end(), chunk.ipv6_records.begin(), chunk.ipv6_records.end());
    }
    EXPECT_EQ(last, 1u);
    EXPECT_TRUE(chunks.back().last);
    ASSERT_EQ(records.size(), 1u);
    EXPECT_EQ(records[0].identity, born.identity);
  }
}

// Neither a flow that vanished nor one that another followed has a reported end.
TEST_F(FlowTableTest, AnUnreportedEndIsNotCounted) {
  uint32_t flows = 0;
  const auto apply = [&](const FlowEvent& event, int64_t now_ns) {
    flows += table_.Apply(event, now_ns).growth.flow_count;
  };
  apply(Event(FlowEventKind::kNew), kStart + kSecond);
  for (int i = 0; i < 4; ++i) Dump({}, kStart + (10 + i) * kSecond);
  EXPECT_EQ(table_.size(), 0u);
  EXPECT_EQ(flows, 0u);
  Dump({Event(FlowEventKind::kDump, kStart + 20 * kSecond, 4)}, kStart + 21 * kSecond);
  Dump({Event(FlowEventKind::kDump, kStart + 22 * kSecond, 4)}, kStart + 23 * kSecond);
  EXPECT_EQ(flows, 0u);
  // Its end comes late, but it comes.
  apply(Event(FlowEventKind::kDestroy, kStart + 20 * kSecond, 4), kStart + 24 * kSecond);
  EXPECT_EQ(flows, 1u);
}

TEST_F(FlowTableTest, ClosesOnceAtTheFirstClosingState) {
  FlowEvent born = Event(FlowEventKind::kNew);
  born.event_ns = kStart + kSecond;
  (void)Grown(born);
  (void)Grown(State(TcpState::kEstablished, kStart + 2 * kSecond));
  (void)Grown(State(TcpState::kFinWait, kStart + 3 * kSecond));
  EXPECT_EQ(connections_, 0u);
  (void)Grown(State(TcpState::kCloseWait, kStart + 4 * kSecond));
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(open_, 0);
  (void)Grown(State(TcpState::kLastAck, kStart + 5 * kSecond));
  (void)Grown(State(TcpState::kClose, kStart + 6 * kSecond));
  (void)Grown(Event(FlowEventKind::kDestroy, kStart + kSecond, 3));
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(time_ns_, uint64_t{3} * kSecond);
  EXPECT_EQ(open_, 0);
}

TEST_F(FlowTableTest, DestroyClosesByTheKernelsOwnTimes) {
  (void)Grown(Event(FlowEventKind::kNew));
  FlowEvent destroy = Event(FlowEventKind::kDestroy, kBorn, 3);
  destroy.stop_ns = kBorn + 1'234'999;
  (void)Grown(destroy, kStart + 99 * kSecond);
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(time_ns_, 1'234'000u);  // Whole microseconds.
}

TEST_F(FlowTableTest, ADurationIsNeverNegative) {
  FlowEvent born = Event(FlowEventKind::kNew);
  born.event_ns = kStart + 100 * kSecond;
  (void)Grown(born);
  (void)Grown(State(TcpState::kClose, kStart + kSecond));  // The clock was set back.
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(time_ns_, 0u);
}

// Times out of a capture may lie further apart than a signed difference holds.
TEST_F(FlowTableTest, ADurationOverAllTimesThereAre) {
  (void)Grown(Event(FlowEventKind::kDump, std::numeric_limits<int64_t>::min(), 2));
  FlowEvent destroy = Event(FlowEventKind::kDestroy, std::numeric_limits<int64_t>::min(), 2);
  destroy.stop_ns = std::numeric_limits<int64_t>::max();
  (void)Grown(destroy);
  EXPECT_EQ(time_ns_, std::numeric_limits<uint64_t>::max() / 1000 * 1000);
  FlowEvent backwards = Event(FlowEventKind::kDestroy, std::numeric_limits<int64_t>::max(), 2);
  backwards.stop_ns = std::numeric_limits<int64_t>::min();
  (void)Grown(backwards);
  EXPECT_EQ(time_ns_, std::numeric_limits<uint64_t>::max() / 1000 * 1000);
}

TEST(TrafficSumsTest, ConnectionTimeSaturates) {
  TrafficSums sums, other;
  sums.AddConnectionTime(std::numeric_limits<uint64_t>::max() - 1);
  other.AddConnectionTime(1);
  sums.Add(other);
  EXPECT_EQ(sums.connection_time_us, std::numeric_limits<uint64_t>::max());
  sums.Add(other);
  EXPECT_EQ(sums.connection_time_us, std::numeric_limits<uint64_t>::max());
}

TEST_F(FlowTableTest, UdpFlowsAreNoConnections) {
  FlowEvent destroy = Event(FlowEventKind::kDestroy, kBorn, 3);
  destroy.identity.protocol = kProtocolUdp;
  EXPECT_EQ(Grown(destroy), 3u);
  EXPECT_EQ(connections_, 0u);
  EXPECT_EQ(open_, 0);
}

TEST_F(FlowTableTest, OlderFlowsAreBaselined) {
  Dump({Event(FlowEventKind::kDump, kStart - kSecond, 1000)});
  EXPECT_EQ(open_, 1);
  table_.BeginDump(kStart + 2 * kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, kStart - kSecond, 1003)), 3u);
  (void)EndDump(true, &table_);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kStart - kSecond, 1005)), 2u);
  EXPECT_EQ(connections_, 1u);
}

TEST_F(FlowTableTest, FlowsInTheFirstDumpThatWereBornSinceCountInFull) {
  table_.BeginDump(kStart + kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, kBorn, 6)), 6u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kNew)), 0u);  // Its NEW was still in the queue.
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 8)), 2u);
  EXPECT_EQ(open_, 0);
}

TEST_F(FlowTableTest, DestroyOfAFlowOlderThanTheEngineThatNoDumpShowed) {
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kStart - 1, 500)), 0u);
  EXPECT_EQ(counts_.unknown_destroys, 1u);
  EXPECT_EQ(connections_, 0u);
}

TEST_F(FlowTableTest, DestroyWhoseNewWasLostCountsInFull) {
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 5)), 5u);
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(open_, 0);
}

TEST_F(WithoutTimestampsTest, WithoutTimestampsTheFirstDumpIsTheBaseline) {
  table_.BeginDump(kStart);
  // Its end came before the dump that might have shown it.
  FlowEvent other = Event(FlowEventKind::kDestroy, 0, 50);
  other.identity.id = 8;
  EXPECT_EQ(Grown(other), 0u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, 0, 100)), 0u);
  (void)EndDump(true, &table_);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, 0, 101)), 1u);
  other.identity.id = 9;
  EXPECT_EQ(Grown(other), 50u);
}

TEST_F(FlowTableTest, TheSameDestroyTwiceCountsOnce) {
  (void)Grown(Event(FlowEventKind::kNew));
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 5)), 5u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 5)), 0u);
  table_.EndInterval();
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 5)), 0u);
  EXPECT_EQ(counts_.duplicate_destroys, 2u);
  EXPECT_EQ(connections_, 1u);
  // Also if the next incarnation already lives.
  (void)Grown(Event(FlowEventKind::kNew));
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 5)), 0u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn + kSecond, 9)), 9u);
}

TEST_F(WithoutTimestampsTest, TheSameDestroyTwiceWithoutTimestamps) {
  (void)Grown(Event(FlowEventKind::kNew));
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, 0, 5)), 5u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, 0, 5)), 0u);
  // The same tuple and id again, with the same counters: two flows, since NEW came between.
  (void)Grown(Event(FlowEventKind::kNew));
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, 0, 5)), 5u);
  EXPECT_EQ(connections_, 2u);
}

TEST_F(FlowTableTest, SameTupleAndIdAtOnceAgainAreTwoFlows) {
  for (int life = 1; life <= 3; ++life) {
    (void)Grown(Event(FlowEventKind::kNew));
    EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn + life, 10)), 10u);
  }
  EXPECT_EQ(connections_, 3u);
  EXPECT_EQ(open_, 0);
}

TEST_F(FlowTableTest, ADumpMayShowADestroyedFlow) {
  (void)Grown(Event(FlowEventKind::kNew));
  table_.BeginDump(kStart + kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 10)), 10u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, kBorn, 9)), 0u);
  // Not even if the next incarnation is known already.
  (void)Grown(Event(FlowEventKind::kNew));
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, kBorn, 9)), 0u);
  EXPECT_EQ(counts_.stale_dump_entries, 2u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, kBorn + kSecond, 4)), 4u);
  // Nor after the dump has shown the next one.
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, kBorn, 9)), 0u);
  EXPECT_EQ(open_, 1);
}

TEST_F(FlowTableTest, ALaterStartIsAnotherLifeWhoseBirthWasMissed) {
  (void)Grown(Event(FlowEventKind::kNew));
  Dump({Event(FlowEventKind::kDump, kBorn, 10)});
  table_.BeginDump(kStart + 2 * kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, kBorn + kSecond, 12)), 12u);
  EXPECT_EQ(open_, 1);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn + 2 * kSecond, 3)), 3u);
  EXPECT_EQ(open_, 0);
}

// A recording whose reader took the dump before the events that were older than it.
TEST_F(FlowTableTest, ADumpAheadOfTheEventsOfAFlowThatNoDumpHadShown) {
  (void)Grown(Event(FlowEventKind::kNew));
  table_.BeginDump(kStart + kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, kBorn + kSecond, 5)), 5u);  // The next life already.
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 10)), 10u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 10)), 0u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kNew)), 0u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn + kSecond, 7)), 2u);
  EXPECT_EQ(connections_, 2u);
  EXPECT_EQ(open_, 0);
}

TEST_F(FlowTableTest, ADumpAheadOfTheEventsOfAFlowThatADumpHadShown) {
  (void)Grown(Event(FlowEventKind::kNew));
  Dump({Event(FlowEventKind::kDump, kBorn, 8)});
  table_.BeginDump(kStart + 2 * kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, kBorn + kSecond, 5)), 5u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 10)), 2u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 10)), 0u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kNew)), 0u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn + kSecond, 7)), 2u);
  EXPECT_EQ(connections_, 2u);
  EXPECT_EQ(open_, 0);
}

// As above, but the dump ends before the event that ends the first life is read.
TEST_F(FlowTableTest, ADumpThatEndsAheadOfTheEventsOfAFlow) {
  (void)Grown(Event(FlowEventKind::kNew));
  Dump({Event(FlowEventKind::kDump, kBorn, 8)});
  Dump({Event(FlowEventKind::kDump, kBorn + kSecond, 5)});
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 10)), 2u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn + kSecond, 7)), 2u);
  EXPECT_EQ(connections_, 2u);
}

TEST_F(FlowTableTest, ARepeatedDestroyLeavesTheNextLifeAlone) {
  (void)Grown(Event(FlowEventKind::kNew));
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 5)), 5u);
  (void)Grown(Event(FlowEventKind::kNew));
  FlowEvent follower = Event(FlowEventKind::kDump, kBorn + kSecond, 3);
  Dump({follower});
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 5)), 0u);
  EXPECT_EQ(counts_.duplicate_destroys, 1u);
  // Its events come: no dump closes it.
  follower.has_tcp_state = true;
  follower.tcp_state = TcpState::kTimeWait;
  Dump({follower});
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(open_, 1);
}

TEST_F(FlowTableTest, AFallingCounterIsANewStart) {
  (void)Grown(Event(FlowEventKind::kNew));
  Dump({Event(FlowEventKind::kDump, kBorn, 10)});
  table_.BeginDump(kStart + 2 * kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, kBorn, 4)), 4u);
  EXPECT_EQ(counts_.counter_falls, 1u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 6)), 2u);
}

// ---- Ends that are not reported ----

TEST_F(FlowTableTest, AFlowThatTwoWholeDumpsDoNotShowHasEndedUnreported) {
  (void)Grown(Event(FlowEventKind::kNew));
  FlowEvent living = Event(FlowEventKind::kDump, kBorn, 3);
  living.identity.id = 8;
  Dump({Event(FlowEventKind::kDump, kBorn, 6), living}, kStart + 10 * kSecond);
  Dump({living}, kStart + 20 * kSecond);
  EXPECT_FALSE(table_.TakeLoss().unreported);
  EXPECT_EQ(table_.size(), 2u);
  EXPECT_EQ(open_, 2);
  Dump({living}, kStart + 30 * kSecond);
  FlowLoss loss = table_.TakeLoss();
  EXPECT_TRUE(loss.unreported);
  EXPECT_EQ(loss.flows, 1u);
  EXPECT_EQ(loss.since_ns, kStart + 10 * kSecond);
  EXPECT_EQ(counts_.forgotten_flows, 1u);
  EXPECT_EQ(table_.size(), 1u);
  EXPECT_EQ(open_, 1);
  EXPECT_EQ(connections_, 0u);
  // Its end was only late: what is missing is counted, once.
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 9), kStart + 31 * kSecond), 3u);
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 9), kStart + 31 * kSecond), 0u);
  EXPECT_TRUE(table_.TakeLoss().unreported);  // It belongs to an earlier interval.
  Dump({living}, kStart + 40 * kSecond);
  EXPECT_FALSE(table_.TakeLoss().unreported);
}

TEST_F(FlowTableTest, AFlowBornWhileADumpRunsIsMissedByTheNextTwo) {
  table_.BeginDump(kStart + kSecond);
  (void)Grown(Event(FlowEventKind::kNew));
  EXPECT_TRUE(EndDump(true, &table_).empty());
  Dump({});
  EXPECT_EQ(table_.size(), 1u);
  Dump({});
  EXPECT_EQ(table_.TakeLoss().flows, 1u);
}

TEST_F(FlowTableTest, ADumpThatIsNotWholeDeclaresNobodyDead) {
  (void)Grown(Event(FlowEventKind::kNew));
  Dump({Event(FlowEventKind::kDump, kBorn, 6)});
  for (int i = 0; i < 5; ++i) {
    table_.BeginDump(kStart + kSecond);
    EXPECT_TRUE(EndDump(false, &table_).empty());
  }
  Dump({});
  EXPECT_EQ(table_.size(), 1u);
  EXPECT_FALSE(table_.TakeLoss().unreported);
  Dump({});
  EXPECT_EQ(table_.TakeLoss().flows, 1u);
}

// Its DESTROY is lost, and the tuple is used again at once.
TEST_F(FlowTableTest, AnIncarnationThatAnotherFollowsMayEndUnreported) {
  (void)Grown(Event(FlowEventKind::kNew));
  Dump({Event(FlowEventKind::kDump, kBorn, 6)});
  const FlowEvent follower = Event(FlowEventKind::kDump, kBorn + kSecond, 2);
  Dump({follower});
  EXPECT_FALSE(table_.TakeLoss().unreported);
  Dump({follower});
  EXPECT_EQ(table_.TakeLoss().flows, 1u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 7)), 1u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn + kSecond, 3)), 1u);
}

TEST_F(FlowTableTest, ARepeatedNewDoesNotReviveAForgottenFlow) {
  (void)Grown(Event(FlowEventKind::kNew));
  Dump({Event(FlowEventKind::kDump, kBorn, 6)}, kStart + 10 * kSecond);
  Dump({}, kStart + 20 * kSecond);
  Dump({}, kStart + 30 * kSecond);
  EXPECT_EQ(table_.size(), 0u);
  FlowEvent again = Event(FlowEventKind::kNew);
  again.event_ns = kStart + 35 * kSecond;
  (void)Grown(again, kStart + 35 * kSecond);
  table_.BeginDump(kStart + 40 * kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, kBorn, 7), kStart + 40 * kSecond), 1u);
}

// More flows have ended unreported than the table remembers. A forgotten one that comes back is a
// baseline, and its interval is partial. Where dumps follow each other fast, the flows are young
// when they are forgotten.
class ForgottenTest : public FlowTableTest, public testing::WithParamInterface<int64_t> {};
INSTANTIATE_TEST_SUITE_P(DumpsApart, ForgottenTest,
                         testing::Values(10 * kSecond, kSecond, kSecond / 100));

TEST_P(ForgottenTest, AFlowForgottenLongAgoNeverCountsTwice) {
  const auto flow = [](FlowEventKind kind, uint32_t id, uint64_t packets) {
    FlowEvent event = Event(kind, kind == FlowEventKind::kNew ? 0 : kBorn, packets);
    event.identity.id = id;
    return event;
  };
  table_.BeginDump(kStart + GetParam());
  constexpr uint32_t kFlows = 3 * ForgottenMemory::kKept;
  for (uint32_t id = 1; id <= kFlows; ++id) {
    (void)Grown(flow(FlowEventKind::kNew, id, 0));
    (void)Grown(flow(FlowEventKind::kDump, id, 5));
  }
  EXPECT_TRUE(EndDump(true, &table_).empty());
  Dump({}, kStart + 2 * GetParam());
  Dump({}, kStart + 3 * GetParam());
  EXPECT_EQ(table_.TakeLoss().flows, kFlows);
  EXPECT_EQ(table_.size(), 0u);
  uint64_t grown = 0;
  table_.BeginDump(kStart + 4 * GetParam());
  for (uint32_t id = 1; id <= kFlows; ++id) {
    const uint64_t of_flow = Grown(flow(FlowEventKind::kDump, id, 6), kStart + 4 * GetParam());
    EXPECT_LE(of_flow, 1u);
    grown += of_flow;
  }
  EXPECT_GE(grown, ForgottenMemory::kKept);
  EXPECT_LT(grown, kFlows);
  EXPECT_TRUE(table_.TakeLoss().unreported);
  (void)EndDump(true, &table_);
  // A repeated DESTROY of a forgotten flow adds nothing, and the interval is partial.
  FlowEvent ghost = flow(FlowEventKind::kDestroy, kFlows + 1, 5);
  EXPECT_EQ(Grown(ghost, kStart + 4 * GetParam() + kSecond), 0u);
  EXPECT_TRUE(table_.TakeLoss().unreported);
  EXPECT_EQ(counts_.unknown_destroys, 1u);
}

TEST_F(FlowTableTest, WhatHasEndedUnreportedIsNotInASnapshot) {
  (void)Grown(Event(FlowEventKind::kNew));
  Dump({});
  FlowEvent living = Event(FlowEventKind::kNew);
  living.identity.id = 8;
  (void)Grown(living);
  table_.BeginDump(kStart + kSecond);
  table_.FinishDump(true);  // Not swept yet.
  EXPECT_EQ(table_.size(), 2u);
  SnapshotStream stream;
  table_.BeginSnapshot(1, &stream);
  table_.FinishSnapshot();
  EXPECT_EQ(stream.Take().back().records.size(), 1u);
}

TEST_F(FlowTableTest, WhatIsLostIsLostSinceItWasSeenLast) {
  (void)Grown(Event(FlowEventKind::kNew));
  Dump({}, kStart + 10 * kSecond);
  Dump({}, kStart + 20 * kSecond);
  EXPECT_EQ(table_.TakeLoss().since_ns, kStart);
  // Of several losses the earliest moment counts.
  FlowEvent first = Event(FlowEventKind::kDump, kStart + 25 * kSecond, 1);
  first.identity.id = 8;
  FlowEvent second = first;
  second.identity.id = 9;
  Dump({first, second}, kStart + 30 * kSecond);
  Dump({second}, kStart + 40 * kSecond);
  Dump({}, kStart + 50 * kSecond);
  Dump({}, kStart + 60 * kSecond);
  const FlowLoss loss = table_.TakeLoss();
  EXPECT_EQ(loss.flows, 2u);
  EXPECT_EQ(loss.since_ns, kStart + 30 * kSecond);
}

TEST_F(FlowTableTest, AForerunnerWhoseDestroyCameIsNoLoss) {
  (void)Grown(Event(FlowEventKind::kNew));
  Dump({Event(FlowEventKind::kDump, kBorn, 6)});
  const FlowEvent follower = Event(FlowEventKind::kDump, kBorn + kSecond, 2);
  Dump({follower});
  FlowEvent end = Event(FlowEventKind::kDestroy, kBorn, 7);
  end.stop_ns = kStart + kSecond;
  EXPECT_EQ(Grown(end), 1u);
  for (int i = 0; i < 3; ++i) Dump({follower});
  EXPECT_FALSE(table_.TakeLoss().unreported);
}

// A close is counted once, also if the end of its flow comes after the flow was forgotten.
TEST_F(FlowTableTest, AForgottenFlowThatHadClosedDoesNotCloseAgain) {
  (void)Grown(Event(FlowEventKind::kNew));
  (void)Grown(State(TcpState::kLastAck, kBorn + 1));
  Dump({Event(FlowEventKind::kDump, kBorn, 6)});
  Dump({});
  Dump({});
  EXPECT_EQ(table_.size(), 0u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 9)), 3u);
  EXPECT_EQ(connections_, 1u);
}

// A flow that is not known counts whole if it began at the second to last whole dump or later.
TEST_F(FlowTableTest, FlowsOfTheLastTwoDumpsCountWhole) {
  const auto destroy = [](uint32_t id, int64_t start_ns) {
    FlowEvent event = Event(FlowEventKind::kDestroy, start_ns, 4);
    event.identity.id = id;
    return event;
  };
  EXPECT_EQ(Grown(destroy(1, kStart)), 4u);
  EXPECT_EQ(Grown(destroy(2, kStart - 1)), 0u);
  Dump({}, kStart + 10 * kSecond);
  Dump({}, kStart + 20 * kSecond);
  // A capture's packets may be two seconds out of order.
  const int64_t known_since_ns = kStart + 8 * kSecond;
  EXPECT_EQ(Grown(destroy(3, known_since_ns), kStart + 21 * kSecond), 4u);
  EXPECT_EQ(Grown(destroy(4, known_since_ns - 1), kStart + 21 * kSecond), 0u);
}

// The first dump has failed. A flow that only the second shows may have moved packets in between.
TEST_F(FlowTableTest, AnOlderFlowThatTheFirstDumpDidNotShowIsALoss) {
  table_.BeginDump(kStart + kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, kStart - 5, 4)), 0u);
  EXPECT_TRUE(EndDump(false, &table_).empty());
  EXPECT_FALSE(table_.TakeLoss().unreported);
  table_.BeginDump(kStart + 2 * kSecond);
  FlowEvent late = Event(FlowEventKind::kDump, kStart - 5, 4);
  late.identity.id = 8;
  EXPECT_EQ(Grown(late), 0u);
  EXPECT_TRUE(table_.TakeLoss().unreported);
}

// A DESTROY that is read late belongs to an earlier interval only if a whole dump has begun since.
TEST_F(FlowTableTest, ADestroyIsLateOnceAWholeDumpHasFollowed) {
  const auto destroy = [](uint32_t id) {
    FlowEvent event = Event(FlowEventKind::kDestroy, kStart + 12 * kSecond, 4);
    event.identity.id = id;
    event.stop_ns = kStart + 15 * kSecond;
    return event;
  };
  Dump({}, kStart + 10 * kSecond);
  table_.BeginDump(kStart + 20 * kSecond);
  EXPECT_EQ(Grown(destroy(1), kStart + 21 * kSecond), 4u);
  EXPECT_FALSE(table_.TakeLoss().unreported);
  EXPECT_TRUE(EndDump(true, &table_).empty());
  EXPECT_EQ(Grown(destroy(2), kStart + 21 * kSecond), 4u);
  const FlowLoss loss = table_.TakeLoss();
  EXPECT_TRUE(loss.unreported);
  EXPECT_EQ(loss.since_ns, kStart + 15 * kSecond);
}

TEST_F(FlowTableTest, BirthsInEachOfTwoOverrunsAreExplained) {
  counts_.events_new = 1;
  Dump({});
  table_.NoteOverrun(kStart + 10 * kSecond, kStart + 11 * kSecond);
  table_.NoteOverrun(kStart + 20 * kSecond, kStart + 21 * kSecond);
  FlowEvent first = Event(FlowEventKind::kDump, kStart + 10 * kSecond, 1);
  FlowEvent second = Event(FlowEventKind::kDump, kStart + 21 * kSecond, 1);
  second.identity.id = 8;
  Dump({first, second}, kStart + 22 * kSecond);
  EXPECT_EQ(table_.events_explained(), 2u);
}

TEST_F(FlowTableTest, ZeroedCountersAndMissingOnesAreALoss) {
  (void)Grown(Event(FlowEventKind::kNew));
  Dump({Event(FlowEventKind::kDump, kBorn, 10)}, kStart + 10 * kSecond);
  FlowLoss loss = table_.TakeLoss();
  EXPECT_FALSE(loss.unreported || loss.uncounted);
  Dump({Event(FlowEventKind::kDump, kBorn, 4)}, kStart + 20 * kSecond);
  loss = table_.TakeLoss();
  EXPECT_TRUE(loss.unreported);
  EXPECT_EQ(loss.flows, 0u);
  EXPECT_EQ(loss.since_ns, kStart + 10 * kSecond);
  FlowEvent uncounted = Event(FlowEventKind::kDump, kBorn, 0);
  uncounted.has_counters = false;
  Dump({uncounted}, kStart + 30 * kSecond);
  loss = table_.TakeLoss();
  EXPECT_TRUE(loss.uncounted && !loss.unreported);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 5), kStart + 31 * kSecond), 1u);
  EXPECT_FALSE(table_.TakeLoss().uncounted);
}

// The sockets outlived an engine that was killed: NEW has waited, and the table is older than it.
TEST_F(FlowTableTest, FlowsWhoseNewHasWaitedCountWhole) {
  for (const int64_t event_ns : {int64_t{0}, kStart - 9 * kSecond}) {
    WorkerCounts counts;
    FlowTable table(&counts);
    table.Start(kStart, true);
    table.NoteEventsKept();
    // Where events have no times, the copy says since when flows are new.
    if (event_ns == 0) table.BeginRestore(kStart - 10 * kSecond, true);
    const auto grown = [&](FlowEvent event, uint32_t id) {
      event.identity.id = id;
      return table.Apply(event, kStart + 1).growth;
    };
    FlowEvent born = Event(FlowEventKind::kNew);
    born.event_ns = event_ns;
    for (const uint32_t id : {1, 2}) (void)grown(born, id);
    FlowEvent end = Event(FlowEventKind::kDestroy, kStart - 9 * kSecond, 7);
    end.stop_ns = kStart - 8 * kSecond;
    const TrafficSums ended = grown(end, 1);
    EXPECT_EQ(ended.original.packets, 7u);
    EXPECT_EQ(ended.connection_count, 1u);
    table.BeginDump(kStart + kSecond);
    EXPECT_EQ(grown(Event(FlowEventKind::kDump, kStart - 9 * kSecond, 5), 2).original.packets, 5u);
    (void)EndDump(true, &table);
    EXPECT_EQ(table.size(), 1u);
    EXPECT_FALSE(table.TakeLoss().unreported);
  }
}

// As above, but another flow has begun before the first dump, and a rule masks the end of the first
// one.
TEST_F(FlowTableTest, AFlowThatBeganAfterANewWasReadIsAnother) {
  FlowTable table(&counts_);
  table.Start(kStart, true);
  table.NoteEventsKept();
  table.BeginRestore(kStart - 10 * kSecond, true);
  (void)table.Apply(Event(FlowEventKind::kNew), kStart + 1);
  const FlowEvent next = Event(FlowEventKind::kDump, kStart + kSecond, 5);
  table.BeginDump(kStart + 2 * kSecond);
  EXPECT_EQ(table.Apply(next, kStart + 2 * kSecond).growth.original.packets, 5u);
  EXPECT_TRUE(EndDump(true, &table).empty());
  table.BeginDump(kStart + 3 * kSecond);
  EXPECT_EQ(table.Apply(next, kStart + 3 * kSecond).growth.original.packets, 0u);
  EXPECT_TRUE(EndDump(true, &table).empty());
  const FlowLoss loss = table.TakeLoss();
  EXPECT_TRUE(loss.unreported);
  EXPECT_EQ(loss.flows, 1u);
}

// ---- Which events were lost ----

TEST_F(FlowTableTest, ABirthInTheLossExplainsOneEvent) {
  counts_.events_new = 1;
  Dump({});
  table_.NoteOverrun(kStart + 2 * kSecond, kStart + 5 * kSecond);
  const auto born = [](uint32_t id, int64_t start_ns, FlowEventKind kind = FlowEventKind::kDump) {
    FlowEvent event = Event(kind, start_ns, 5);
    event.identity.id = id;
    return event;
  };
  // Before it, within it, after it, and ended since; and one whose NEW was only late.
  FlowEvent late = Event(FlowEventKind::kNew);
  late.identity.id = 5;
  Dump({born(1, kStart + kSecond), born(2, kStart + 3 * kSecond), born(3, kStart + 6 * kSecond),
        born(4, kStart + 4 * kSecond, FlowEventKind::kDestroy),
        born(5, kStart + 5 * kSecond - 1000), late, late},
       kStart + 7 * kSecond);
  EXPECT_EQ(table_.events_explained(), 2u);
  EXPECT_EQ(table_.flows_lost(), 0u);
  table_.NoteOverrun(kStart + 8 * kSecond, kStart + 9 * kSecond);
  Dump({born(6, kStart + 8 * kSecond + 1)}, kStart + 9 * kSecond);
  EXPECT_EQ(table_.events_explained(), 1u);
  EXPECT_EQ(table_.flows_lost(), 5u - 1u);
}

// With mode=light the kernel sends no NEW: a birth explains nothing.
TEST_F(FlowTableTest, WithoutNewEventsABirthExplainsNothing) {
  Dump({});
  table_.NoteOverrun(kStart + 2 * kSecond, kStart + 5 * kSecond);
  Dump({Event(FlowEventKind::kDump, kStart + 3 * kSecond, 5)}, kStart + 7 * kSecond);
  EXPECT_EQ(table_.events_explained(), 0u);
}

TEST_F(FlowTableTest, ACloseInTheLossIsCountedAndExplainsOneEvent) {
  counts_.events_new = 1;
  (void)Grown(Event(FlowEventKind::kNew));
  FlowEvent shown = Event(FlowEventKind::kDump, kBorn, 10);
  shown.has_tcp_state = true;
  shown.tcp_state = TcpState::kEstablished;
  Dump({shown}, kStart + 10 * kSecond);
  table_.NoteOverrun(kStart + 12 * kSecond, kStart + 20 * kSecond);
  shown.tcp_state = TcpState::kTimeWait;
  shown.timeout_seconds = 111;  // It closed 9 seconds ago, give or take half a second.
  Dump({shown}, kStart + 24 * kSecond);
  EXPECT_EQ(table_.events_explained(), 1u);
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(time_ns_ / kSecond, 15u);
}

TEST_F(FlowTableTest, OlderFlowsWithoutEventsCloseAndEndByDumps) {
  FlowEvent shown = Event(FlowEventKind::kDump, kStart - kSecond, 10);
  shown.has_tcp_state = true;
  shown.tcp_state = TcpState::kEstablished;
  Dump({shown});
  EXPECT_EQ(open_, 1);
  shown.tcp_state = TcpState::kTimeWait;
  shown.timeout_seconds = 120;
  Dump({shown}, kStart + 9 * kSecond);
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(time_ns_, uint64_t{10} * kSecond);
  EXPECT_EQ(open_, 0);
  // Its DESTROY never comes.
  Dump({});
  EXPECT_EQ(table_.size(), 1u);
  Dump({});
  EXPECT_EQ(table_.size(), 0u);
  EXPECT_EQ(counts_.forgotten_flows, 1u);
}

TEST_F(FlowTableTest, OlderFlowsThatDumpsMissAreNotOpenUntilShownAgain) {
  const FlowEvent shown = Event(FlowEventKind::kDump, kStart - kSecond, 10);
  Dump({shown});
  EXPECT_EQ(open_, 1);
  Dump({});
  EXPECT_EQ(open_, 1);
  Dump({});
  EXPECT_EQ(open_, 0);
  Dump({});
  EXPECT_EQ(open_, 0);
  table_.BeginDump(kStart + 9 * kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, kStart - kSecond, 13)), 3u);
  (void)EndDump(true, &table_);
  EXPECT_EQ(open_, 1);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kStart - kSecond, 14)), 1u);
  EXPECT_EQ(open_, 0);
  EXPECT_EQ(connections_, 1u);
}

TEST_F(FlowTableTest, OlderFlowsThatCloseWhileTheFirstDumpRuns) {
  for (const TcpState dumped : {TcpState::kEstablished, TcpState::kCloseWait}) {
    FlowTable table(&counts_);
    table.Start(kStart, true);
    table.BeginDump(kStart);
    (void)table.Apply(State(TcpState::kCloseWait, kStart + kSecond), kStart + kSecond);
    FlowEvent shown = Event(FlowEventKind::kDump, kStart - kSecond, 10);
    shown.has_tcp_state = true;
    shown.tcp_state = dumped;
    FlowChange change = table.Apply(shown, kStart + 2 * kSecond);
    EXPECT_EQ(change.growth.connection_count, 1u);
    EXPECT_EQ(change.growth.connection_time_us, 2'000'000u);
    EXPECT_EQ(change.open_change, 0);
    (void)EndDump(true, &table);
    change = table.Apply(Event(FlowEventKind::kDestroy, kStart - kSecond, 10), kStart + kSecond);
    EXPECT_EQ(change.growth.connection_count, 0u);
  }
}

TEST_F(FlowTableTest, OlderFlowsThatHadClosedAreNotCounted) {
  FlowEvent shown = Event(FlowEventKind::kDump, kStart - kSecond, 10);
  shown.has_tcp_state = true;
  shown.tcp_state = TcpState::kTimeWait;
  Dump({shown});
  (void)Grown(Event(FlowEventKind::kDestroy, kStart - kSecond, 10));
  EXPECT_EQ(connections_, 0u);
  EXPECT_EQ(open_, 0);
}

// A dump requested before the end of the overrun may show flows whose end was lost.
TEST_F(FlowTableTest, OnlyADumpAskedForSinceAnOverrunResyncs) {
  (void)Grown(Event(FlowEventKind::kNew));
  Dump({Event(FlowEventKind::kDump, kBorn, 10)});
  table_.NoteOverrun(kStart, kStart + kSecond);
  table_.BeginDump(kStart + kSecond, false);
  (void)Grown(Event(FlowEventKind::kDump, kBorn, 10));
  open_ -= static_cast<int>(EndDump(true, &table_).size());
  EXPECT_TRUE(table_.needs_resync());
  Dump({});
  EXPECT_FALSE(table_.needs_resync());
  EXPECT_EQ(table_.flows_lost(), 1u);
}

// A flow without timestamps does not change how others are treated: they may belong to another
// worker.
TEST_F(WithoutTimestampsTest, AStampedFlowLeavesTheOthersAlone) {
  Dump({});
  (void)Grown(Event(FlowEventKind::kDestroy, kBorn, 3));
  FlowEvent other = Event(FlowEventKind::kDestroy, 0, 7);
  other.identity.id = 8;
  EXPECT_EQ(Grown(other), 7u);
}

TEST_F(FlowTableTest, AfterAnOverrunTheDeadAreNotOpen) {
  (void)Grown(Event(FlowEventKind::kNew));
  FlowEvent living = Event(FlowEventKind::kNew);
  living.identity.id = 8;
  (void)Grown(living);
  EXPECT_EQ(open_, 2);
  FlowEvent shown = Event(FlowEventKind::kDump, kBorn, 5);
  shown.identity.id = 8;
  Dump({Event(FlowEventKind::kDump, kBorn, 5), shown});
  table_.BeginDump(kStart + kSecond);  // This one runs when events are lost.
  table_.NoteOverrun(kStart, kStart + kSecond);
  EXPECT_TRUE(EndDump(true, &table_).empty());
  EXPECT_TRUE(table_.needs_resync());
  Dump({shown});
  EXPECT_FALSE(table_.needs_resync());
  EXPECT_EQ(table_.flows_lost(), 1u);
  Dump({shown});
  // The next overrun loses no flow.
  table_.NoteOverrun(kStart, kStart + kSecond);
  Dump({shown});
  EXPECT_EQ(table_.flows_lost(), 0u);
  Dump({shown});
  EXPECT_EQ(open_, 1);
  EXPECT_EQ(table_.size(), 1u);
  EXPECT_EQ(counts_.forgotten_flows, 1u);
  EXPECT_FALSE(table_.TakeLoss().unreported);  // It was among those lost.
  // If the forgotten flow lives after all, counting continues where it was.
  table_.BeginDump(kStart + 5 * kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, kBorn, 50)), 45u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, kBorn, 51)), 1u);
}

TEST_F(WithoutTimestampsTest, WithoutTimestampsARecreatedFlowGrowsAtOnce) {
  Dump({});
  (void)Grown(Event(FlowEventKind::kNew));
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, 0, 10)), 10u);
  (void)Grown(Event(FlowEventKind::kNew));
  table_.BeginDump(kStart + kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, 0, 4)), 4u);
  (void)EndDump(true, &table_);
  // While a dump runs, its entry may be of the previous incarnation: wait for the next dump.
  table_.BeginDump(kStart + 2 * kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, 0, 6)), 2u);
  (void)Grown(Event(FlowEventKind::kNew));
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, 0, 5)), 0u);
  (void)EndDump(true, &table_);
  table_.BeginDump(kStart + 3 * kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, 0, 7)), 7u);
}

TEST_F(FlowTableTest, ADumpThatFailsDeclaresNobodyDead) {
  (void)Grown(Event(FlowEventKind::kNew));
  table_.NoteOverrun(kStart, kStart + kSecond);
  for (int i = 0; i < 10; ++i) {
    table_.BeginDump(kStart + kSecond);
    EXPECT_TRUE(EndDump(false, &table_).empty());
  }
  EXPECT_TRUE(table_.needs_resync());
  EXPECT_EQ(table_.size(), 1u);
}

TEST_F(FlowTableTest, RepeatedEventsCountOnce) {
  // A capture of nlmon holds a copy for each listener.
  for (int copy = 0; copy < 2; ++copy) (void)Grown(Event(FlowEventKind::kNew));
  for (int copy = 0; copy < 2; ++copy) (void)Grown(State(TcpState::kClose, kStart + kSecond));
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 5)), 5u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kBorn, 5)), 0u);
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(open_, 0);
}

// Another listener that asked for reliable delivery, and does not read, makes the kernel repeat a
// NEW with each of the flow's packets, to everybody.
TEST_F(FlowTableTest, ANewAgainChangesNothing) {
  const FlowEvent again = Event(FlowEventKind::kNew);
  (void)Grown(again);
  uint64_t packets = 0;
  for (uint64_t count = 5; count <= 50; count += 5) {
    (void)Grown(again);
    table_.BeginDump(kStart + kSecond);
    packets += Grown(Event(FlowEventKind::kDump, kBorn, count));
    (void)Grown(again);
    EXPECT_TRUE(EndDump(true, &table_).empty());
    EXPECT_EQ(packets, count);
  }
  (void)Grown(State(TcpState::kCloseWait, kStart + 2 * kSecond));
  (void)Grown(again);
  EXPECT_EQ(open_, 0);
  packets += Grown(Event(FlowEventKind::kDestroy, kBorn, 60));
  EXPECT_EQ(packets, 60u);
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(counts_.counter_falls, 0u);
}

// The clock was set back before the engine started: a flow in the table has a start time in the
// future. It is older than the engine nevertheless.
TEST_F(FlowTableTest, AFlowOfTheFirstDumpWithAStartInTheFutureIsOld) {
  const int64_t future_ns = kStart + 3600 * kSecond;
  table_.BeginDump(kStart + kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, future_ns, 1000)), 0u);
  EXPECT_TRUE(EndDump(true, &table_).empty());
  table_.BeginDump(kStart + 16 * kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, future_ns, 1001), kStart + 16 * kSecond), 1u);
  EXPECT_TRUE(EndDump(true, &table_).empty());
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, future_ns, 1003), kStart + 20 * kSecond), 2u);
  // This flow may have been born between the first dump and the setting of the clock, or long
  // before: its start time does not say which. So its interval is partial.
  EXPECT_FALSE(table_.TakeLoss().unreported);
  FlowEvent other = Event(FlowEventKind::kDestroy, future_ns, 8);
  other.identity.id = 8;
  EXPECT_EQ(Grown(other, kStart + 20 * kSecond), 0u);
  EXPECT_TRUE(table_.TakeLoss().unreported);
}

TEST_F(FlowTableTest, MissingCountersAreCounted) {
  (void)Grown(Event(FlowEventKind::kNew));
  FlowEvent destroy = Event(FlowEventKind::kDestroy, kBorn, 5);
  destroy.has_counters = false;
  EXPECT_EQ(Grown(destroy), 0u);
  EXPECT_EQ(counts_.without_counters, 1u);
  EXPECT_EQ(connections_, 1u);
}

// Where delivery failed for a listener that wants all events, the kernel sends the later ones of a
// flow as NEW again, with its present state.
TEST_F(FlowTableTest, ANewThatShowsACloseIsAClose) {
  FlowEvent born = State(TcpState::kSynSent, kBorn);
  born.kind = FlowEventKind::kNew;
  (void)Grown(born);
  EXPECT_EQ(open_, 1);
  for (const TcpState state : {TcpState::kEstablished, TcpState::kLastAck, TcpState::kTimeWait}) {
    born.tcp_state = state;
    born.event_ns += kSecond;
    (void)Grown(born);
  }
  (void)Grown(State(TcpState::kClose, kBorn + 9 * kSecond));
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(time_ns_, uint64_t{2 * kSecond});
  EXPECT_EQ(open_, 0);
  // Made in this state, as conntrack -I does; its DESTROY is no second close.
  born.identity.id = 8;
  born.tcp_state = TcpState::kCloseWait;
  (void)Grown(born);
  FlowEvent destroy = Event(FlowEventKind::kDestroy, kBorn, 1);
  destroy.identity.id = 8;
  (void)Grown(destroy);
  EXPECT_EQ(connections_, 2u);
  EXPECT_EQ(open_, 0);
}

// A rule that lets through NEW and DESTROY alone: dumps and DESTROY show the closes, the timeouts
// say when they were. In the last second an UPDATE may be under way.
TEST_F(FlowTableTest, ACloseThatNoEventReports) {
  const auto shown = [](int64_t start_ns, uint32_t timeout_seconds) {
    FlowEvent event = Event(FlowEventKind::kDump, start_ns, 3);
    event.has_tcp_state = true;
    event.tcp_state = TcpState::kTimeWait;
    event.timeout_seconds = timeout_seconds;
    return event;
  };
  FlowEvent born = Event(FlowEventKind::kNew);
  born.event_ns = kBorn;
  (void)Grown(born);
  // 119.5 s are left of 120.
  Dump({shown(kBorn, 119)}, kBorn + 3 * kSecond);
  EXPECT_EQ(connections_, 0u);
  EXPECT_EQ(open_, 1);
  Dump({shown(kBorn, 114)}, kBorn + 8 * kSecond);
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(time_ns_, uint64_t{2 * kSecond + kSecond / 2});
  EXPECT_EQ(open_, 0);
  (void)Grown(State(TcpState::kClose, kBorn + 9 * kSecond));
  EXPECT_EQ(connections_, 1u);

  // Seen by its DESTROY.
  born.identity.id = 8;
  (void)Grown(born);
  FlowEvent destroy = Event(FlowEventKind::kDestroy, kBorn, 3);
  destroy.identity.id = 8;
  destroy.has_tcp_state = true;
  destroy.tcp_state = TcpState::kTimeWait;
  destroy.status = IPS_CONFIRMED | IPS_SEEN_REPLY;
  destroy.stop_ns = kBorn + 123 * kSecond;
  time_ns_ = 0;
  (void)Grown(destroy, destroy.stop_ns);
  EXPECT_EQ(connections_, 2u);
  EXPECT_EQ(time_ns_, uint64_t{3 * kSecond});

  // Refused: nothing but its DESTROY reports the close, which is the end.
  born.identity.id = destroy.identity.id = 9;
  (void)Grown(born);
  destroy.tcp_state = TcpState::kClose;
  destroy.status = IPS_CONFIRMED;
  destroy.stop_ns = kBorn + kSecond;
  time_ns_ = 0;
  (void)Grown(destroy, destroy.stop_ns);
  EXPECT_EQ(connections_, 3u);
  EXPECT_EQ(time_ns_, uint64_t{kSecond});
}

// At a stop two dumps may have been made before the worker begins the first. A flow that was born
// after both had passed its place is read before them, and lives.
TEST_F(FlowTableTest, DumpsThatWereRequestedBeforeABirthNeedNotShowIt) {
  Dump({}, kStart + kSecond);
  table_.NoteDumpRequested(kStart + 3 * kSecond);  // And one at kStart + 2 * kSecond.
  FlowEvent born = Event(FlowEventKind::kNew);
  born.event_ns = kStart + 4 * kSecond;
  (void)Grown(born, born.event_ns);
  Dump({}, kStart + 2 * kSecond);
  Dump({}, kStart + 3 * kSecond);
  EXPECT_FALSE(table_.TakeLoss().unreported);
  EXPECT_EQ(table_.size(), 1u);
  // Two that were requested after it do.
  Dump({}, kStart + 5 * kSecond);
  Dump({}, kStart + 6 * kSecond);
  EXPECT_EQ(table_.TakeLoss().flows, 1u);
  EXPECT_EQ(table_.size(), 0u);
}

// All events that were sent before the last dump's end are applied by then: one dump is enough.
TEST_F(FlowTableTest, AFlowThatTheLastDumpOfARunDoesNotShowHasEndedUnreported) {
  const auto flow = [](FlowEventKind kind, uint32_t id, int64_t start_ns) {
    FlowEvent event = Event(kind, start_ns, 3);
    event.identity.id = id;
    return event;
  };
  const auto born = [&](uint32_t id, int64_t now_ns) {
    (void)Grown(flow(FlowEventKind::kNew, id, 0), now_ns);
  };
  born(1, kBorn);
  Dump({flow(FlowEventKind::kDump, 1, kBorn), flow(FlowEventKind::kDump, 2, kBorn)},
       kStart + 5 * kSecond);
  born(3, kStart + 6 * kSecond);
  born(4, kStart + 14 * kSecond);  // A capture may contain it before the dump that was before it.
  Dump({flow(FlowEventKind::kDump, 1, kBorn)}, kStart + 15 * kSecond);
  EXPECT_FALSE(table_.TakeLoss().unreported);
  table_.EndRun();
  std::vector<FlowIdentity> no_longer_open;
  while (table_.SweepSome(&no_longer_open)) {
  }
  const FlowLoss loss = table_.TakeLoss();
  EXPECT_TRUE(loss.unreported);
  EXPECT_EQ(loss.flows, 2u);
  EXPECT_EQ(loss.since_ns, kStart + 5 * kSecond);
  EXPECT_EQ(no_longer_open.size(), 2u);
  EXPECT_EQ(table_.size(), 2u);
}

TEST_F(FlowTableTest, OnlyUpdatesThatCloseNeedALookup) {
  for (const TcpState state : {TcpState::kSynSent, TcpState::kSynReceived, TcpState::kEstablished,
                               TcpState::kFinWait, TcpState::kTimeWait}) {
    EXPECT_FALSE(FlowTable::NeedsLookup(State(state, kStart)));
  }
  for (const TcpState state : {TcpState::kCloseWait, TcpState::kLastAck, TcpState::kClose}) {
    EXPECT_TRUE(FlowTable::NeedsLookup(State(state, kStart)));
  }
  EXPECT_FALSE(FlowTable::NeedsLookup(Event(FlowEventKind::kUpdate)));
  for (const FlowEventKind kind :
       {FlowEventKind::kNew, FlowEventKind::kDump, FlowEventKind::kDestroy}) {
    EXPECT_TRUE(FlowTable::NeedsLookup(Event(kind)));
  }
}

// mode=light: no NEW, no UPDATE. Connections are counted as in the other mode, their ends dated
// back by the kernel's timeouts.
class FlowTableLightTest : public FlowTableTest {
 protected:
  static constexpr int64_t kBegan = kStart + kSecond;

  static FlowEvent InState(FlowEventKind kind, TcpState state, uint32_t left_seconds = 0) {
    FlowEvent event = Event(kind, kBegan, 10);
    event.has_tcp_state = true;
    event.tcp_state = state;
    event.timeout_seconds = left_seconds;
    return event;
  }
  static FlowEvent Ended(TcpState state, int64_t stop_ns) {
    FlowEvent destroy = InState(FlowEventKind::kDestroy, state);
    destroy.stop_ns = stop_ns;
    return destroy;
  }
};

TEST_F(FlowTableLightTest, ADumpDatesACloseBack) {
  const struct {
    TcpState state;
    int64_t timeout_seconds;
  } kStates[] = {{TcpState::kCloseWait, 60},
                 {TcpState::kLastAck, 30},
                 {TcpState::kTimeWait, 120},
                 {TcpState::kClose, 10}};
  uint64_t expected_ns = 0;
  uint32_t id = 100;
  std::vector<FlowEvent> all;
  for (const auto& [state, timeout_seconds] : kStates) {
    // Four seconds ago, and a half: what is left is rounded down.
    FlowEvent shown =
        InState(FlowEventKind::kDump, state, static_cast<uint32_t>(timeout_seconds - 5));
    shown.identity.id = ++id;
    all.push_back(shown);
    expected_ns += uint64_t{199} * kSecond - uint64_t{45} * kSecond / 10;
  }
  Dump(all, kStart + 200 * kSecond);
  EXPECT_EQ(connections_, 4u);
  EXPECT_EQ(time_ns_, expected_ns);
  EXPECT_EQ(open_, 0);
}

TEST_F(FlowTableLightTest, AConnectionOverSeveralDumps) {
  Dump({InState(FlowEventKind::kDump, TcpState::kEstablished, 400'000)}, kStart + 15 * kSecond);
  EXPECT_EQ(open_, 1);
  EXPECT_EQ(connections_, 0u);
  Dump({InState(FlowEventKind::kDump, TcpState::kTimeWait, 112)}, kStart + 30 * kSecond);
  EXPECT_EQ(open_, 0);
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(time_ns_, uint64_t{215} * kSecond / 10);
  Dump({InState(FlowEventKind::kDump, TcpState::kTimeWait, 97)}, kStart + 45 * kSecond);
  EXPECT_EQ(Grown(Ended(TcpState::kTimeWait, kStart + 142 * kSecond)), 0u);
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(open_, 0);
  EXPECT_EQ(table_.size(), 0u);
}

TEST_F(FlowTableLightTest, AConnectionBetweenTwoDumpsIsCountedByItsDestroy) {
  Dump({}, kBegan);
  EXPECT_EQ(Grown(Ended(TcpState::kTimeWait, kBegan + 123 * kSecond)), 10u);
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(time_ns_, uint64_t{3} * kSecond);
  EXPECT_EQ(open_, 0);
}

TEST_F(FlowTableLightTest, ADestroyInAnOpenStateIsTheClose) {
  EXPECT_EQ(Grown(Ended(TcpState::kEstablished, kBegan + 9 * kSecond)), 10u);
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(time_ns_, uint64_t{9} * kSecond);
}

TEST_F(FlowTableLightTest, ACloseIsNeverDatedBeforeTheStart) {
  EXPECT_EQ(Grown(Ended(TcpState::kTimeWait, kBegan + 5 * kSecond)), 10u);
  FlowEvent shown = InState(FlowEventKind::kDump, TcpState::kTimeWait, 0);
  shown.identity.id = 9;
  Dump({shown}, kBegan + 5 * kSecond);
  EXPECT_EQ(connections_, 2u);
  EXPECT_EQ(time_ns_, 0u);
}

TEST_F(FlowTableLightTest, NorAfterTheDumpThatShowsIt) {
  Dump({InState(FlowEventKind::kDump, TcpState::kClose, 4'000)}, kBegan + 5 * kSecond);
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(time_ns_, uint64_t{5} * kSecond);
}

// As conntrack -F does.
TEST_F(FlowTableLightTest, NorBeforeADumpShowedItOpen) {
  Dump({InState(FlowEventKind::kDump, TcpState::kEstablished, 400'000)}, kBegan + 9 * kSecond);
  table_.BeginDump(kBegan + 24 * kSecond);
  EXPECT_EQ(Grown(Ended(TcpState::kTimeWait, kBegan + 25 * kSecond)), 0u);
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(time_ns_, uint64_t{9} * kSecond);
}

TEST_F(FlowTableLightTest, TimeoutsAreTheKernelsOwn) {
  FlowTable table(&counts_, TcpTimeouts{.time_wait_seconds = 3});
  table.Start(kStart, true);
  const FlowChange change =
      table.Apply(Ended(TcpState::kTimeWait, kBegan + 23 * kSecond), kStart + 99 * kSecond);
  EXPECT_EQ(change.growth.connection_time_us, 20'000'000u);
}

TEST_F(FlowTableLightTest, AnOlderConnectionsCloseIsDatedBackToo) {
  FlowEvent shown = InState(FlowEventKind::kDump, TcpState::kEstablished, 400'000);
  shown.start_ns = kStart - 100 * kSecond;
  Dump({shown});
  EXPECT_EQ(open_, 1);
  FlowEvent destroy = Ended(TcpState::kLastAck, kStart + 50 * kSecond);
  destroy.start_ns = shown.start_ns;
  EXPECT_EQ(Grown(destroy), 0u);
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(time_ns_, uint64_t{120} * kSecond);
  EXPECT_EQ(open_, 0);
}

TEST_F(FlowTableLightTest, ACloseThatAnEventReportedIsKept) {
  FlowEvent born = Event(FlowEventKind::kNew);
  born.event_ns = kBegan;
  (void)Grown(born);
  (void)Grown(State(TcpState::kCloseWait, kBegan + kSecond));
  EXPECT_EQ(Grown(Ended(TcpState::kTimeWait, kBegan + 500 * kSecond)), 10u);
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(time_ns_, uint64_t{kSecond});
}

TEST_F(FlowTableLightTest, TimesAtTheEndsOfTheirRange) {
  constexpr int64_t kFirst = std::numeric_limits<int64_t>::min();
  FlowEvent destroy = Ended(TcpState::kTimeWait, kFirst + 1);
  Dump({});
  (void)Grown(destroy);
  destroy = InState(FlowEventKind::kDump, TcpState::kTimeWait, 0xffffffff);
  (void)Grown(destroy, kFirst);
  destroy.identity.id = 8;
  destroy.timeout_seconds = 0;
  (void)Grown(destroy, kFirst);
  EXPECT_EQ(time_ns_, 0u);
}

TEST_F(FlowTableLightTest, NothingIsLeft) {
  constexpr uint32_t kFlows = 1000;
  for (int round = 1; round <= 20; ++round) {
    std::vector<FlowEvent> shown;
    for (uint32_t id = 0; id < kFlows; ++id) {
      FlowEvent event = Event(FlowEventKind::kDump, kStart + round * kSecond, 10);
      event.identity.id = id;
      shown.push_back(event);
    }
    Dump(shown);
    EXPECT_EQ(open_, static_cast<int>(kFlows));
    for (FlowEvent& event : shown) {
      event.kind = FlowEventKind::kDestroy;
      EXPECT_EQ(Grown(event), 0u);
    }
    table_.EndInterval();
    EXPECT_EQ(table_.size(), 0u);
    EXPECT_EQ(open_, 0);
    std::vector<FlowIdentity> no_longer_open;
    table_.BeginDump(kStart + kSecond);
    table_.FinishDump(true);
    EXPECT_FALSE(table_.SweepSome(&no_longer_open));
  }
}

// As with reliable delivery to two sockets of which one is full: the kernel delivers to the other
// repeatedly. However many flows there are, none counts twice.
TEST(FlowTableMemoryTest, EndsOfAMassAreRepeated) {
  constexpr uint32_t kFlows = 2 * DestroyedMemory::kKept;
  WorkerCounts counts;
  FlowTable table(&counts);
  table.Start(kStart, true);
  int64_t now_ns = kStart;
  const auto interval = [&] {
    now_ns += kSecond;
    table.BeginDump(now_ns);
    (void)EndDump(true, &table);
    table.EndInterval();
  };
  for (int i = 0; i < 8; ++i) interval();
  FlowEvent event;
  event.kind = FlowEventKind::kDestroy;
  event.identity.protocol = kProtocolUdp;
  event.identity.dst_port = 53;
  event.has_counters = true;
  event.start_ns = now_ns + 1;
  event.stop_ns = now_ns + 2;
  event.original = {1, 100};
  uint64_t packets = 0;
  for (int repeated = 0; repeated < 8; ++repeated) {
    for (event.identity.id = 1; event.identity.id <= kFlows; ++event.identity.id) {
      packets += table.Apply(event, now_ns + 3).growth.original.packets;
    }
    EXPECT_EQ(packets, kFlows) << repeated;
    interval();
  }
}

// Scans of which the kernel reports most ends, or none. Many scans leave about as much memory in
// use as the first one.
TEST(FlowTableMemoryTest, TenScansLeaveAsMuchAsOne) {
  constexpr uint32_t kFlows = 120'000;
  for (const uint32_t reported : {kFlows, kFlows / 4 * 3, 0u}) {
    SCOPED_TRACE(reported);
    WorkerCounts counts;
    FlowTable table(&counts);
    table.Start(kStart, true);
    int64_t now_ns = kStart;
    FlowEvent event;
    event.identity.protocol = kProtocolUdp;
    event.identity.dst_port = 53;
    size_t after_one = 0;
    for (int scan = 1; scan <= 10; ++scan) {
      const uint32_t last = event.identity.id;
      const int64_t born_ns = now_ns;
      event.kind = FlowEventKind::kNew;
      event.has_counters = false;
      event.start_ns = 0;
      for (uint32_t i = 0; i < kFlows; ++i) {
        ++event.identity.id;
        (void)table.Apply(event, now_ns);
      }
      ASSERT_EQ(table.size(), kFlows);
      event.kind = FlowEventKind::kDestroy;
      event.has_counters = true;
      event.start_ns = born_ns;
      event.original = {1, 100};
      for (uint32_t i = 1; i <= reported; ++i) {
        event.identity.id = last + i;
        (void)table.Apply(event, now_ns);
      }
      event.identity.id = last + kFlows;
      table.NoteOverrun(now_ns, now_ns);
      // Until the ends of one scan are no longer remembered when the next one comes.
      for (int interval = 0; interval < 12; ++interval) {
        now_ns += kSecond;
        table.BeginDump(now_ns);
        (void)EndDump(true, &table);
        table.EndInterval();
      }
      ASSERT_EQ(table.size(), 0u);
      if (scan == 1) after_one = table.MemoryBytes();
    }
    EXPECT_LE(table.MemoryBytes(), after_one + after_one / 10) << "after one: " << after_one;
  }
}

// The sums do not depend on when the sweep runs, and between which events.
TEST(FlowTableSweepTest, SweepingByPartsGivesTheSameSums) {
  constexpr uint32_t kFlows = 5000;  // ForgottenMemory has room for all that are forgotten.
  struct Result {
    uint64_t packets = 0;
    uint64_t connections = 0;
    int open = 0;
    size_t flows = 0;
    uint64_t forgotten = 0;
    bool operator==(const Result&) const = default;
  };
  const auto run = [&](bool at_once) {
    WorkerCounts counts;
    FlowTable table(&counts);
    table.Start(kStart, true);
    Result result;
    const auto apply = [&](FlowEventKind kind, uint32_t id, uint64_t packets) {
      FlowEvent event;
      event.kind = kind;
      event.identity.protocol = kProtocolTcp;
      event.identity.id = id;
      if (kind != FlowEventKind::kNew) {
        event.has_counters = true;
        event.original = {packets, packets};
        // Every third one is older than the engine.
        event.start_ns = id % 3 == 0 ? kStart - kSecond : kBorn;
      }
      const FlowChange change = table.Apply(event, kStart + kSecond);
      result.packets += change.growth.original.packets;
      result.connections += change.growth.connection_count;
      result.open += change.open_change;
    };
    std::vector<FlowIdentity> no_longer_open;
    for (uint32_t id = 0; id < kFlows; ++id) {
      if (id % 3 != 0) apply(FlowEventKind::kNew, id, 0);
    }
    size_t parts = 0;
    for (uint32_t dump = 1; dump <= 40; ++dump) {
      if (dump == 3) table.NoteOverrun(kStart, kStart + kSecond);
      table.BeginDump(kStart + kSecond);
      for (uint32_t id = 0; id < kFlows; ++id) {
        // Some are shown once, some always, some sometimes.
        if (dump == 1 || id % 5 == 0 || id % 7 == dump) apply(FlowEventKind::kDump, id, dump);
      }
      table.FinishDump(true);
      if (at_once) {
        while (table.SweepSome(&no_longer_open)) {
        }
      }
      for (uint32_t id = dump % 90; id < kFlows; id += 97) {
        if (!at_once && id % 11 == 0) parts += table.SweepSome(&no_longer_open);
        // The dead among them count as new.
        apply(FlowEventKind::kDestroy, id, 1000);
      }
      while (table.SweepSome(&no_longer_open)) ++parts;
      result.open -= static_cast<int>(no_longer_open.size());
      no_longer_open.clear();
    }
    if (!at_once) {
      EXPECT_GT(parts, 50u);
    }
    result.flows = table.size();
    result.forgotten = counts.forgotten_flows;
    return result;
  };
  const Result parts = run(false);
  EXPECT_EQ(parts, run(true));
  EXPECT_GT(parts.connections, 0u);
  EXPECT_GT(parts.forgotten, 0u);
}

// Many flows that live at once, come and go, against a plain map.
TEST(FlowTableScaleTest, EveryPacketOfManyFlowsOnce) {
  WorkerCounts counts;
  FlowTable table(&counts);
  table.Start(kStart, true);
  table.BeginDump(kStart);
  (void)EndDump(true, &table);
  std::mt19937 random(1);
  std::vector<uint64_t> packets(50'000, 0);        // 0: not alive.
  std::vector<uint64_t> shown(packets.size(), 0);  // Of these, by a dump.
  std::vector<int64_t> starts(packets.size(), 0);
  uint64_t expected = 0;
  uint64_t grown = 0;
  size_t alive = 0;
  int open = 0;
  for (int i = 0; i < 1'000'000; ++i) {
    const uint32_t id = random() % packets.size();
    FlowEvent event;
    event.identity.id = id;
    event.identity.src_port = static_cast<uint16_t>(id % 7);
    event.identity.protocol = kProtocolTcp;
    if (packets[id] == 0) {
      event.kind = FlowEventKind::kNew;
      packets[id] = 1;
      starts[id] = kStart + i;
      ++alive;
    } else {
      const bool dies = random() % 4 == 0;
      event.kind = dies ? FlowEventKind::kDestroy : FlowEventKind::kDump;
      event.has_counters = true;
      event.original = {packets[id], packets[id]};
      event.start_ns = starts[id];
      expected += packets[id] - shown[id];
      shown[id] = packets[id];
      if (dies) {
        packets[id] = shown[id] = 0;
        --alive;
      } else {
        packets[id] += random() % 9;
      }
    }
    const FlowChange change = table.Apply(event, kStart + i);
    grown += change.growth.original.packets;
    open += change.open_change;
    ASSERT_EQ(table.size(), alive);
  }
  EXPECT_EQ(open, static_cast<int>(alive));
  EXPECT_EQ(grown, expected);
  EXPECT_EQ(counts.counter_falls, 0u);
}

// ---- Restart ----

std::vector<FlowRecord> Records(SnapshotStream* stream, bool* whole) {
  std::vector<FlowRecord> records;
  bool last = false;
  for (const SnapshotChunk& chunk : stream->Take()) {
    EXPECT_FALSE(last);
    last = chunk.last;
    if (last) *whole = chunk.whole;
    records.insert(records.end(), chunk.records.begin(), chunk.records.end());
  }
  EXPECT_TRUE(last);
  return records;
}

// Fault 1.
TEST_F(FlowTableTest, AnotherTableContinuesFromASnapshot) {
  (void)Grown(Event(FlowEventKind::kNew));
  Dump({Event(FlowEventKind::kDump, kBorn, 10)});
  SnapshotStream stream;
  table_.BeginSnapshot(1, &stream);
  table_.FinishSnapshot();
  bool whole = false;
  const std::vector<FlowRecord> records = Records(&stream, &whole);
  EXPECT_TRUE(whole);
  ASSERT_EQ(records.size(), 1u);

  WorkerCounts counts;
  FlowTable next(&counts);
  next.Start(kStart + 100 * kSecond, true);
  next.BeginRestore(kStart, false);
  EXPECT_TRUE(next.Restore(records[0]));  // It is open.
  EXPECT_TRUE(next.needs_resync());
  next.BeginDump(kStart + 101 * kSecond);
  const auto grown = [&](const FlowEvent& event) {
    return next.Apply(event, kStart + 101 * kSecond).growth.original.packets;
  };
  EXPECT_EQ(grown(Event(FlowEventKind::kDump, kBorn, 17)), 7u);
  // Born after the snapshot, under the engine before or under none: counts whole.
  FlowEvent young = Event(FlowEventKind::kDump, kStart + 50 * kSecond, 4);
  young.identity.id = 8;
  EXPECT_EQ(grown(young), 4u);
  // Older than the first engine, and never seen: a baseline.
  FlowEvent old = Event(FlowEventKind::kDump, kStart - 5, 4);
  old.identity.id = 9;
  EXPECT_EQ(grown(old), 0u);
  EXPECT_TRUE(EndDump(true, &next).empty());
  EXPECT_FALSE(next.needs_resync());
  EXPECT_EQ(next.flows_lost(), 0u);
  EXPECT_EQ(grown(Event(FlowEventKind::kDestroy, kBorn, 20)), 3u);
}

TEST_F(FlowTableTest, WhatARestartMissesIsCounted) {
  for (uint32_t id = 0; id < 10; ++id) {
    FlowEvent flow = Event(FlowEventKind::kNew);
    flow.identity.id = id;
    (void)Grown(flow);
  }
  SnapshotStream stream;
  table_.BeginSnapshot(1, &stream);
  table_.FinishSnapshot();
  bool whole = false;
  WorkerCounts counts;
  FlowTable next(&counts);
  next.Start(kStart + kSecond, true);
  next.BeginRestore(kStart, false);
  for (const FlowRecord& record : Records(&stream, &whole)) next.Restore(record);
  next.BeginDump(kStart + kSecond);
  FlowEvent shown = Event(FlowEventKind::kDump, kBorn, 3);
  shown.identity.id = 3;
  EXPECT_EQ(next.Apply(shown, kStart + kSecond).growth.original.packets, 3u);
  EXPECT_TRUE(EndDump(true, &next).empty());
  EXPECT_EQ(next.flows_lost(), 9u);
}

TEST_F(FlowTableTest, AfterARestartAFlowMayEndUnreported) {
  Dump({Event(FlowEventKind::kDump, kStart - 5, 10)});
  SnapshotStream stream;
  table_.BeginSnapshot(1, &stream);
  table_.FinishSnapshot();
  bool whole = false;
  WorkerCounts counts;
  FlowTable next(&counts);
  next.Start(kStart + kSecond, true);
  next.BeginRestore(kStart, true);
  for (const FlowRecord& record : Records(&stream, &whole)) EXPECT_TRUE(next.Restore(record));
  next.BeginDump(kStart + kSecond);
  EXPECT_TRUE(EndDump(true, &next).empty());
  next.BeginDump(kStart + 2 * kSecond);
  EXPECT_EQ(EndDump(true, &next).size(), 1u);
  EXPECT_EQ(next.TakeLoss().flows, 1u);
}

// Gives `table`, which starts at `now_ns`, what `before` knows.
void GoOn(FlowTable* before, int64_t now_ns, bool events_kept, FlowTable* table) {
  SnapshotStream stream;
  before->BeginSnapshot(1, &stream);
  before->FinishSnapshot();
  const std::vector<SnapshotChunk> chunks = stream.Take();
  table->Start(now_ns, true);
  table->BeginRestore(chunks.back().known_since_ns, events_kept);
  for (const SnapshotChunk& chunk : chunks) {
    for (const FlowRecord& record : chunk.records) (void)table->Restore(record);
  }
}

// The DESTROY of a flow is repeated to the next engine. The snapshot names the younger flow; the
// older one began before the last dump.
TEST_F(FlowTableTest, AnEndBeforeARestartCountsOnce) {
  FlowEvent older = Event(FlowEventKind::kDestroy, kBorn, 7);
  FlowEvent younger = Event(FlowEventKind::kDestroy, kStart + 20 * kSecond, 9);
  younger.identity.id = 8;
  Dump({}, kStart + 10 * kSecond);
  EXPECT_EQ(Grown(older, kStart + 30 * kSecond), 7u);
  EXPECT_EQ(Grown(younger, kStart + 30 * kSecond), 9u);
  WorkerCounts counts;
  FlowTable next(&counts);
  GoOn(&table_, kStart + 40 * kSecond, true, &next);
  EXPECT_EQ(next.Apply(older, kStart + 41 * kSecond).growth.original.packets, 0u);
  EXPECT_EQ(next.Apply(younger, kStart + 41 * kSecond).growth.original.packets, 0u);
}

// The kernel sets a flow's start a moment before dumps can show it, and an engine that listens to
// ends only knows nothing else of it: it is new to the next engine. But not one that has ended.
TEST_F(FlowTableTest, AFlowThatTheLastDumpBeforeARestartJustMissedCounts) {
  constexpr int64_t kDumpNs = kStart + 10 * kSecond;
  FlowEvent ended = Event(FlowEventKind::kDestroy, kDumpNs - kSecond / 1000, 9);
  ended.identity.id = 8;
  Dump({}, kStart + 5 * kSecond);
  EXPECT_EQ(Grown(ended, kDumpNs - kSecond / 2000), 9u);
  Dump({}, kDumpNs);
  WorkerCounts counts;
  FlowTable next(&counts);
  GoOn(&table_, kStart + 20 * kSecond, false, &next);
  next.BeginDump(kStart + 20 * kSecond);
  FlowEvent missed = Event(FlowEventKind::kDump, kDumpNs - kSecond / 1000, 7);
  EXPECT_EQ(next.Apply(missed, kStart + 20 * kSecond).growth.original.packets, 7u);
  FlowEvent older = Event(FlowEventKind::kDump, kDumpNs - kSecond, 7);
  older.identity.id = 9;
  EXPECT_EQ(next.Apply(older, kStart + 20 * kSecond).growth.original.packets, 0u);
  EXPECT_TRUE(EndDump(true, &next).empty());
  EXPECT_EQ(next.Apply(ended, kStart + 21 * kSecond).growth.original.packets, 0u);
}

// More have ended than a snapshot names.
TEST_F(FlowTableTest, AnEndThatASnapshotDoesNotNameCountsOnce) {
  FlowEvent end = Event(FlowEventKind::kDestroy, kStart + 20 * kSecond, 1);
  Dump({}, kStart + 10 * kSecond);
  for (uint32_t id = 0; id <= FlowTable::kEndedMax; ++id) {
    end.identity.id = id;
    EXPECT_EQ(Grown(end, kStart + 30 * kSecond), 1u);
  }
  WorkerCounts counts;
  FlowTable next(&counts);
  GoOn(&table_, kStart + 40 * kSecond, true, &next);
  EXPECT_EQ(next.Apply(end, kStart + 41 * kSecond).growth.original.packets, 0u);
}

// A dump has shown that the flow has no start time, so a DESTROY without one is its own.
TEST_F(FlowTableTest, AFlowWithoutAStartTimeEndsAfterARestart) {
  Dump({Event(FlowEventKind::kDump, 0, 10)});
  WorkerCounts counts;
  FlowTable next(&counts);
  GoOn(&table_, kStart + 40 * kSecond, true, &next);
  const FlowEvent end = Event(FlowEventKind::kDestroy, 0, 15);
  EXPECT_EQ(next.Apply(end, kStart + 41 * kSecond).growth.original.packets, 5u);
}

// Nobody has read the UPDATE that reports it, so the dump does.
TEST_F(FlowTableTest, ACloseJustBeforeARestartIsCounted) {
  (void)Grown(Event(FlowEventKind::kNew));
  Dump({Event(FlowEventKind::kDump, kBorn, 10)});
  WorkerCounts counts;
  FlowTable next(&counts);
  const int64_t now_ns = kStart + 101 * kSecond;
  GoOn(&table_, now_ns - kSecond, false, &next);
  next.BeginDump(now_ns);
  FlowEvent closed = Event(FlowEventKind::kDump, kBorn, 12);
  closed.has_tcp_state = true;
  closed.tcp_state = TcpState::kTimeWait;
  closed.timeout_seconds = TcpTimeouts().time_wait_seconds - 2;  // For 1.5 s.
  const FlowChange change = next.Apply(closed, now_ns);
  EXPECT_EQ(change.growth.connection_count, 1u);
  EXPECT_EQ(change.open_change, -1);
}

// The gap of a restart begins with the last dump, also if that one failed.
TEST_F(FlowTableTest, ASnapshotSaysUpToWhenItIs) {
  Dump({}, kStart + 10 * kSecond);
  table_.BeginDump(kStart + 20 * kSecond);
  EXPECT_TRUE(EndDump(false, &table_).empty());
  SnapshotStream stream;
  table_.BeginSnapshot(1, &stream);
  table_.FinishSnapshot();
  EXPECT_EQ(stream.Take().back().taken_ns, kStart + 20 * kSecond);
}

// The snapshot shows the moment at which it began, whatever happens while it is made.
TEST_F(FlowTableTest, ASnapshotIsOfOneMoment) {
  constexpr uint32_t kFlows = 50'000;
  const auto flow = [](uint32_t id, FlowEventKind kind, uint64_t packets) {
    FlowEvent event = Event(kind, kind == FlowEventKind::kNew ? 0 : kBorn, packets);
    event.identity.src_port = static_cast<uint16_t>(id);
    event.identity.id = id;
    return event;
  };
  table_.BeginDump(kStart + kSecond);
  for (uint32_t id = 0; id < kFlows; ++id) {
    (void)Grown(flow(id, FlowEventKind::kDump, id + 1));
  }
  EXPECT_TRUE(EndDump(true, &table_).empty());
  SnapshotStream stream;
  table_.BeginSnapshot(1, &stream);
  uint32_t next = 0;
  bool more = true;
  while (more) {
    more = table_.SnapshotSome();
    for (uint32_t i = 0; i < kFlows / 5 && next < kFlows; ++i, ++next) {
      const uint32_t id = next * 7919 % kFlows;
      (void)Grown(next % 2 == 0 ? flow(id, FlowEventKind::kDestroy, id + 2)
                                : flow(id + kFlows, FlowEventKind::kNew, 0));
    }
  }
  EXPECT_GT(next, kFlows / 5);
  bool whole = false;
  const std::vector<FlowRecord> records = Records(&stream, &whole);
  EXPECT_TRUE(whole);
  EXPECT_EQ(records.size(), kFlows);
  std::vector<bool> seen(kFlows);
  for (const FlowRecord& record : records) {
    ASSERT_LT(record.identity.id, kFlows);
    EXPECT_EQ(record.original.packets, record.identity.id + 1);
    EXPECT_FALSE(seen[record.identity.id]);
    seen[record.identity.id] = true;
  }
}

// A flow born after the loss is not lost, even if the running dump has already passed its place in
// the table.
TEST_F(FlowTableTest, FlowsBornAfterTheLossAreNotLost) {
  Dump({});
  table_.NoteOverrun(kStart, kStart + kSecond);
  (void)Grown(Event(FlowEventKind::kNew));
  Dump({});
  EXPECT_FALSE(table_.needs_resync());
  EXPECT_EQ(table_.flows_lost(), 0u);
  table_.NoteOverrun(kStart, kStart + kSecond);
  Dump({});
  EXPECT_EQ(table_.flows_lost(), 1u);
}

// Sent again because of another listener, however late (fault 20).
TEST_F(FlowTableTest, ADestroyToldMuchLaterCountsOnce) {
  const FlowEvent end = Event(FlowEventKind::kDestroy, kBorn, 7);
  EXPECT_EQ(Grown(end), 7u);
  for (int interval = 0; interval < 100; ++interval) table_.EndInterval();
  EXPECT_EQ(Grown(end), 0u);
  EXPECT_EQ(counts_.duplicate_destroys, 1u);
}

// A copy that nobody takes does not grow to the size of the table, unless it must.
TEST_F(FlowTableTest, ASnapshotWaitsForWhoTakesIt) {
  for (uint32_t id = 0; id < 200'000; ++id) {
    FlowEvent flow = Event(FlowEventKind::kNew);
    flow.identity.id = id;
    (void)Grown(flow);
  }
  SnapshotStream stream;
  table_.BeginSnapshot(1, &stream);
  while (table_.SnapshotSome()) {
  }
  EXPECT_TRUE(table_.snapshot_running());
  EXPECT_TRUE(stream.IsFull());
  size_t records = 0;
  for (int rounds = 0; table_.snapshot_running(); ++rounds) {
    ASSERT_LT(rounds, 100);
    for (const SnapshotChunk& chunk : stream.Take()) records += chunk.records.size();
    while (table_.SnapshotSome()) {
    }
  }
  for (const SnapshotChunk& chunk : stream.Take()) records += chunk.records.size();
  EXPECT_EQ(records, 200'000u);
}

TEST_F(FlowTableTest, ASnapshotIsLeftOutWhileNobodyTakesTheOneBefore) {
  SnapshotStream stream;
  table_.BeginSnapshot(1, &stream);
  table_.FinishSnapshot();
  table_.BeginSnapshot(2, &stream);
  EXPECT_FALSE(table_.snapshot_running());
  const std::vector<SnapshotChunk> chunks = stream.Take();
  ASSERT_EQ(chunks.size(), 2u);
  EXPECT_TRUE(chunks[0].whole && chunks[0].last);
  EXPECT_TRUE(!chunks[1].whole && chunks[1].last);
  EXPECT_EQ(chunks[1].seal, 2u);
}

// ---- Fault 23 ----

TEST_F(FlowTableTest, FlowsThatStartAfterTheClockWasSetBackCountWhole) {
  constexpr int64_t kDay = 86400 * kSecond;
  Dump({});
  FlowEvent flow = Event(FlowEventKind::kDump, kStart - kDay + 5, 4);
  EXPECT_EQ(Grown(flow), 0u);  // Its start time says that it is old.
  table_.NoteClockSetBack(kStart - kDay);
  flow.identity.id = 8;
  EXPECT_EQ(Grown(flow), 4u);
  // Its next incarnation, whose forerunner's end was lost, starts before it.
  flow = Event(FlowEventKind::kDump, kStart + kSecond, 50);
  flow.identity.id = 9;
  EXPECT_EQ(Grown(flow), 50u);
  flow = Event(FlowEventKind::kDump, kStart - kDay + 10, 6);
  flow.identity.id = 9;
  EXPECT_EQ(Grown(flow), 6u);
}

TEST_F(FlowTableTest, IfTheClockIsSetBackBeforeTheFirstDumpNobodyKnowsWhatIsOld) {
  table_.NoteClockSetBack(kStart - 5 * kSecond);
  EXPECT_TRUE(table_.TakeLoss().unreported);
  Dump({});
  table_.NoteClockSetBack(kStart - 10 * kSecond);
  EXPECT_FALSE(table_.TakeLoss().unreported);
}

// After a restart the engine does not know that the clock was set back under the previous one.
TEST_F(FlowTableTest, AFollowerMayStartBeforeAFlowOfTheRunBefore) {
  const auto at = [](int tenths) { return kStart + tenths * (kSecond / 10); };
  Dump({Event(FlowEventKind::kDump, at(200), 9)}, at(201));
  table_.NoteClockSetBack(at(185));
  Dump({Event(FlowEventKind::kDump, at(200), 10)}, at(190));
  WorkerCounts counts;
  FlowTable next(&counts);
  GoOn(&table_, at(195), true, &next);
  next.BeginDump(at(195));
  const auto grown = [&](const FlowEvent& event) {
    return next.Apply(event, at(196)).growth.original.packets;
  };
  EXPECT_EQ(grown(Event(FlowEventKind::kDump, at(192), 5)), 5u);
  EXPECT_EQ(grown(Event(FlowEventKind::kDestroy, at(192), 7)), 2u);
  EXPECT_EQ(grown(Event(FlowEventKind::kDump, at(192), 6)), 0u);
}

TEST_F(FlowTableTest, TheClockIsSetBackRightAfterARestart) {
  const auto at = [](int tenths) { return kStart + tenths * (kSecond / 10); };
  (void)Grown(Event(FlowEventKind::kDestroy, at(5), 9), at(6));
  table_.BeginDump(at(10));
  EXPECT_TRUE(EndDump(true, &table_).empty());
  WorkerCounts counts;
  FlowTable next(&counts);
  GoOn(&table_, at(20), true, &next);
  next.NoteClockSetBack(at(3));
  const auto grown = [&](const FlowEvent& event) {
    return next.Apply(event, at(8)).growth.original.packets;
  };
  // It is the end that the run before has read, or that of a flow that began at the same time by
  // the clock as it is now.
  EXPECT_EQ(grown(Event(FlowEventKind::kDestroy, at(5), 9)), 0u);
  EXPECT_TRUE(next.TakeLoss().unreported);
  for (int dump = 0; dump < 2; ++dump) {
    next.BeginDump(at(4));
    EXPECT_TRUE(EndDump(true, &next).empty());
  }
  EXPECT_EQ(grown(Event(FlowEventKind::kDestroy, at(6), 9)), 9u);
}

// Its forerunner ended unreported, and start times were off when it began.
TEST_F(FlowTableTest, AFollowerMayHaveNoStart) {
  Dump({Event(FlowEventKind::kDump, kBorn, 10)});
  Dump({Event(FlowEventKind::kDump, 0, 4)});
  EXPECT_TRUE(table_.TakeLoss().uncounted);
  table_.BeginDump(kStart + 3 * kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, 0, 7)), 3u);
  EXPECT_TRUE(EndDump(true, &table_).empty());
  (void)table_.TakeLoss();
  // Nor is its own end reported.
  Dump({});
  EXPECT_FALSE(table_.TakeLoss().unreported);
  Dump({});
  EXPECT_TRUE(table_.TakeLoss().unreported);
}

// Start times were off when the flow began; its NEW and its forerunner's end are repeated.
TEST_F(FlowTableTest, AnEndWithAStartIsNotThatOfAFlowWithoutOne) {
  uint32_t id = 0;
  // The second is older than what is remembered of ends.
  for (const int64_t forerunner_start : {kBorn, kStart - 30 * kSecond}) {
    ++id;
    const auto of = [&](FlowEvent event) {
      event.identity.id = id;
      return event;
    };
    (void)Grown(of(Event(FlowEventKind::kDestroy, kBorn, 20)));
    (void)Grown(of(Event(FlowEventKind::kNew)));
    Dump({of(Event(FlowEventKind::kDump, 0, 10))});
    EXPECT_EQ(Grown(of(Event(FlowEventKind::kDestroy, forerunner_start, 20))), 0u);
    (void)Grown(of(Event(FlowEventKind::kNew)));
    table_.BeginDump(kStart + 2 * kSecond);
    EXPECT_EQ(Grown(of(Event(FlowEventKind::kDump, 0, 14))), 4u);
    EXPECT_TRUE(EndDump(true, &table_).empty());
    EXPECT_EQ(Grown(of(Event(FlowEventKind::kDestroy, 0, 15))), 1u);
  }
}

// Neither it nor its forerunner has a start time. Two dumps have shown it, so it is no stale entry.
TEST_F(FlowTableTest, AnEndWithoutAStartThatIsRepeatedIsNotTheFollowersEnd) {
  Dump({Event(FlowEventKind::kDump, 0, 10)});
  (void)Grown(Event(FlowEventKind::kDestroy, 0, 20));
  ASSERT_EQ(connections_, 1u);
  Dump({Event(FlowEventKind::kDump, 0, 3)});
  Dump({Event(FlowEventKind::kDump, 0, 7)});
  (void)table_.TakeLoss();
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, 0, 20)), 0u);
  EXPECT_EQ(connections_, 1u);
  // It may just as well be its own, with equal counters.
  EXPECT_TRUE(table_.TakeLoss().uncounted);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, 0, 12)), 5u);
  EXPECT_EQ(connections_, 2u);
}

TEST_F(FlowTableTest, AFlowWithoutAStartMayBeMissedAndItsNewRepeated) {
  (void)Grown(Event(FlowEventKind::kNew));
  Dump({Event(FlowEventKind::kDump, 0, 10)});
  Dump({});
  (void)Grown(Event(FlowEventKind::kNew));
  table_.BeginDump(kStart + 2 * kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, 0, 14)), 4u);
  EXPECT_TRUE(EndDump(true, &table_).empty());
  // It may just as well be the next one.
  EXPECT_TRUE(table_.TakeLoss().unreported);
}

// The dump was made before the flow's end, which is repeated after it.
TEST_F(FlowTableTest, AFlowWithoutAStartClosesOnce) {
  (void)Grown(Event(FlowEventKind::kNew));
  Dump({Event(FlowEventKind::kDump, 0, 7)});
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, 0, 10)), 3u);
  Dump({Event(FlowEventKind::kDump, 0, 10)});
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, 0, 10)), 0u);
  EXPECT_EQ(connections_, 1u);
}

TEST_F(FlowTableTest, AnotherEndWithoutAStartMayBeThatOfAnotherFlow) {
  Dump({Event(FlowEventKind::kDump, kBorn, 10)});
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, 0, 5)), 0u);
  (void)table_.TakeLoss();
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, 0, 7)), 0u);
  EXPECT_TRUE(table_.TakeLoss().uncounted);
}

// A dump misses the flow, and its NEW and its DESTROY are repeated, this one after a restart.
TEST_F(FlowTableTest, AFlowThatWasMissedIsNotLaidAsideForItself) {
  FlowEvent born = Event(FlowEventKind::kNew);
  born.event_ns = kBorn + 1000;
  const FlowEvent end = Event(FlowEventKind::kDestroy, kBorn, 12);
  (void)Grown(born);
  Dump({}, kStart + 10 * kSecond);
  (void)Grown(born);
  table_.BeginDump(kStart + 20 * kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, kBorn, 10)), 10u);
  (void)EndDump(false, &table_);
  EXPECT_EQ(Grown(end, kStart + 21 * kSecond), 2u);
  WorkerCounts counts;
  FlowTable next(&counts);
  GoOn(&table_, kStart + 30 * kSecond, true, &next);
  for (const int64_t seconds : {31, 32, 33}) {
    next.BeginDump(kStart + seconds * kSecond);
    (void)EndDump(true, &next);
  }
  EXPECT_EQ(next.Apply(end, kStart + 34 * kSecond).growth.original.packets, 0u);
}

// The ends of both are masked. The engine cannot know that there are two flows, but it must report
// that the second is missing as well.
TEST_F(FlowTableTest, ANewThatMayBeRepeatedIsOfAFlowWhoseEndMayBeMissing) {
  (void)Grown(Event(FlowEventKind::kNew));
  Dump({}, kStart + 10 * kSecond);
  (void)Grown(Event(FlowEventKind::kNew), kStart + 11 * kSecond);
  EXPECT_TRUE(table_.TakeLoss().unreported);
  for (const int64_t seconds : {20, 30}) {
    Dump({}, kStart + seconds * kSecond);
    EXPECT_TRUE(table_.TakeLoss().unreported);
  }
  Dump({}, kStart + 40 * kSecond);
  EXPECT_FALSE(table_.TakeLoss().unreported);
}

// A dump is being made when the flow begins, and its NEW is read first.
TEST_F(FlowTableTest, ANewThatIsRepeatedAfterADumpThatWasBeforeIt) {
  (void)Grown(Event(FlowEventKind::kNew), kStart + 2 * kSecond);
  Dump({}, kStart + kSecond);
  (void)Grown(Event(FlowEventKind::kNew), kStart + 3 * kSecond);
  EXPECT_FALSE(table_.TakeLoss().unreported);
  Dump({Event(FlowEventKind::kDump, 0, 10)}, kStart + 10 * kSecond);
  EXPECT_FALSE(table_.TakeLoss().unreported);
}

// Its entries were taken for stale ones before a restart.
TEST_F(FlowTableTest, WhatAFlowWithoutAStartMovedMayBelongToAnEarlierInterval) {
  (void)Grown(Event(FlowEventKind::kNew));
  Dump({Event(FlowEventKind::kDump, 0, 2)});
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, 0, 3)), 1u);
  (void)Grown(Event(FlowEventKind::kNew));
  table_.BeginDump(kStart + 2 * kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, 0, 7)), 0u);
  (void)EndDump(true, &table_);
  WorkerCounts counts;
  FlowTable next(&counts);
  GoOn(&table_, kStart + 3 * kSecond, true, &next);
  next.BeginDump(kStart + 4 * kSecond);
  const FlowEvent shown = Event(FlowEventKind::kDump, 0, 8);
  EXPECT_EQ(next.Apply(shown, kStart + 4 * kSecond).growth.original.packets, 8u);
  EXPECT_TRUE(next.TakeLoss().uncounted);
  EXPECT_EQ(next.Apply(shown, kStart + 4 * kSecond).growth.original.packets, 0u);
  EXPECT_FALSE(next.TakeLoss().uncounted);
}

// Its DESTROY was repeated: the first one was lost with the engine before.
TEST_F(FlowTableTest, AnEndThatComesAfterTheDumpThatMissesTheFlowIsLate) {
  FlowEvent first = Event(FlowEventKind::kDump, kBorn, 10);
  FlowEvent second = first;
  second.identity.id = 8;
  Dump({first, second}, kStart + 10 * kSecond);
  Dump({}, kStart + 20 * kSecond);
  first.kind = second.kind = FlowEventKind::kDestroy;
  first.stop_ns = kStart + 21 * kSecond;  // It was only missed.
  EXPECT_EQ(Grown(first, kStart + 22 * kSecond), 0u);
  EXPECT_FALSE(table_.TakeLoss().unreported);
  second.stop_ns = kStart + 19 * kSecond;
  EXPECT_EQ(Grown(second, kStart + 22 * kSecond), 0u);
  EXPECT_TRUE(table_.TakeLoss().unreported);
}

// It ended before the last whole dump, and is repeated after a restart; the flow in the table may
// have begun so early.
TEST_F(FlowTableTest, AnEndThatMayBeOfAForerunnerMayBelongToAnEarlierInterval) {
  FlowEvent born = Event(FlowEventKind::kNew);
  born.event_ns = kStart + 12 * kSecond;
  Dump({}, kStart + 9 * kSecond);
  Dump({}, kStart + 11 * kSecond + kSecond / 2);
  (void)table_.TakeLoss();
  (void)Grown(born);
  FlowEvent end = Event(FlowEventKind::kDestroy, kStart + 10 * kSecond + kSecond / 2, 8);
  end.stop_ns = kStart + 11 * kSecond;
  EXPECT_EQ(Grown(end), 8u);
  EXPECT_TRUE(table_.TakeLoss().unreported);
}

// The engine was held, and the kernel dates no events.
TEST_F(FlowTableTest, ANewReadLongAfterItIsOfTheFlowThatEnds) {
  Dump({}, kStart + 1 * kSecond);
  Dump({}, kStart + 3 * kSecond);
  (void)table_.TakeLoss();
  constexpr int64_t kRead = kStart + 8 * kSecond;
  (void)Grown(Event(FlowEventKind::kNew), kRead);
  EXPECT_EQ(table_.Apply(State(TcpState::kLastAck, 0), kRead).growth.connection_count, 1u);
  FlowEvent end = Event(FlowEventKind::kDestroy, kStart + 4 * kSecond, 8);
  end.stop_ns = kRead;
  const FlowChange ended = table_.Apply(end, kRead);
  EXPECT_EQ(ended.growth.connection_count, 0u);
  EXPECT_EQ(ended.growth.flow_count, 1u);
  EXPECT_EQ(ended.growth.original.packets, 8u);
  EXPECT_EQ(table_.size(), 0u);
  EXPECT_FALSE(table_.TakeLoss().unreported);
}

// As above; its DESTROY is delivered after two dumps that did not show it.
TEST_F(FlowTableTest, ANewReadLateOfAForgottenFlowClosesOnce) {
  Dump({}, kStart + 1 * kSecond);
  Dump({}, kStart + 3 * kSecond);
  constexpr int64_t kRead = kStart + 8 * kSecond;
  (void)Grown(Event(FlowEventKind::kNew), kRead);
  (void)Grown(State(TcpState::kLastAck, 0), kRead);
  EXPECT_EQ(connections_, 1u);
  Dump({}, kRead + 1);
  Dump({}, kRead + 2);
  EXPECT_EQ(table_.size(), 0u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, kStart + 7 * kSecond, 8), kRead + 3), 8u);
  EXPECT_EQ(connections_, 1u);
}

// Missed by one dump, its NEW repeated after that, and its close read before its DESTROY.
TEST_F(FlowTableTest, AFlowThatADumpMissedAndWhoseNewIsRepeatedClosesOnce) {
  const int64_t born = kStart + 1 * kSecond;
  Dump({Event(FlowEventKind::kDump, born, 4)}, kStart + 2 * kSecond);
  Dump({Event(FlowEventKind::kDump, born, 5)}, kStart + 30 * kSecond);
  Dump({}, kStart + 60 * kSecond);
  (void)Grown(Event(FlowEventKind::kNew), kStart + 61 * kSecond);
  (void)Grown(State(TcpState::kLastAck, 0), kStart + 62 * kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, born, 9), kStart + 63 * kSecond), 4u);
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(open_, 0);
  EXPECT_EQ(table_.size(), 0u);
}

// The same if it is given up at the end of the dump that follows a loss, and forgotten at the next.
TEST_F(FlowTableTest, AForgottenFlowWhoseNewIsRepeatedClosesOnce) {
  const int64_t born = kStart + 1 * kSecond;
  Dump({Event(FlowEventKind::kDump, born, 4)}, kStart + 2 * kSecond);
  table_.NoteOverrun(kStart + 3 * kSecond, kStart + 4 * kSecond);
  Dump({}, kStart + 5 * kSecond);
  (void)Grown(Event(FlowEventKind::kNew), kStart + 6 * kSecond);
  (void)Grown(State(TcpState::kLastAck, 0), kStart + 7 * kSecond);
  Dump({}, kStart + 8 * kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, born, 9), kStart + 9 * kSecond), 5u);
  EXPECT_EQ(connections_, 1u);
}

// One that no dump has shown; a rule masks its end. What closes is its follower, as far as can be
// known; and a dump that passed it before shows it after that.
TEST_F(FlowTableTest, AFlowThatADumpShowsLateClosesOnce) {
  const int64_t born = kStart + 1 * kSecond;
  const int64_t follower = born + 3 * kSecond;
  (void)Grown(Event(FlowEventKind::kNew), born + kSecond / 100);
  (void)Grown(State(TcpState::kLastAck, 0), follower + kSecond);
  table_.BeginDump(follower + kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, follower, 9), follower + kSecond), 9u);
  EXPECT_EQ(connections_, 2u);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, born, 4), follower + kSecond), 4u);
  (void)EndDump(true, &table_);
  (void)Grown(State(TcpState::kLastAck, 0), follower + 2 * kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, born, 6), follower + 3 * kSecond), 2u);
  EXPECT_EQ(connections_, 2u);
  EXPECT_EQ(table_.size(), 0u);
}

// But one that a dump showed without a start time is not the flow that follows it.
TEST_F(FlowTableTest, AFlowAfterOneWithoutAStartCountsWhole) {
  const int64_t now = kStart + 10 * kSecond;
  Dump({Event(FlowEventKind::kDump, 0, 48)}, now);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDump, now + kSecond, 180), now + 2 * kSecond), 180u);
}

// The clock was set back, then a dump missed the flow and its NEW was repeated.
TEST_F(FlowTableTest, AFlowOlderThanAClockSetBackClosesOnce) {
  const int64_t born = kStart + 1000 * kSecond;
  const int64_t now = kStart + 10 * kSecond;
  Dump({Event(FlowEventKind::kDump, born, 4)}, born + kSecond);
  table_.NoteClockSetBack(now);
  Dump({Event(FlowEventKind::kDump, born, 5)}, now);
  Dump({}, now + kSecond);
  (void)Grown(Event(FlowEventKind::kNew), now + 2 * kSecond);
  (void)Grown(State(TcpState::kLastAck, 0), now + 3 * kSecond);
  EXPECT_EQ(Grown(Event(FlowEventKind::kDestroy, born, 9), now + 4 * kSecond), 4u);
  EXPECT_EQ(connections_, 1u);
  EXPECT_EQ(open_, 0);
  EXPECT_EQ(table_.size(), 0u);
}

// A rule (`ct event set destroy`) hides births. Those within a loss look like births whose NEW was
// lost, so they explain nothing; the rule shows outside of losses.
TEST_F(FlowTableTest, WhereARuleHidesBirthsNothingExplainsALoss) {
  const auto explained = [&](const std::vector<FlowEvent>& before) {
    WorkerCounts counts;
    counts.events_new = 1;
    FlowTable table(&counts);
    table.Start(kStart, true);
    int64_t now = kStart + 100 * kSecond;
    for (const FlowEvent& event : before) {
      table.BeginDump(now);
      (void)table.Apply(event, now);
      (void)EndDump(true, &table);
      now += 100 * kSecond;
    }
    table.NoteOverrun(now, now + 10 * kSecond);
    table.BeginDump(now + 11 * kSecond);
    FlowEvent born_in_loss = Event(FlowEventKind::kDump, now + 5 * kSecond, 3);
    born_in_loss.identity.src_port = 2000;
    (void)table.Apply(born_in_loss, now + 11 * kSecond);
    (void)EndDump(true, &table);
    return table.events_explained();
  };
  EXPECT_EQ(explained({}), 1u);
  EXPECT_EQ(explained({Event(FlowEventKind::kNew), Event(FlowEventKind::kDestroy, kBorn, 4)}), 1u);
  EXPECT_EQ(explained({Event(FlowEventKind::kDestroy, kBorn, 4)}), 0u);
  EXPECT_EQ(explained({Event(FlowEventKind::kDump, kBorn, 4)}), 1u);  // Its NEW may still wait.
  EXPECT_EQ(
      explained({Event(FlowEventKind::kDump, kBorn, 4), Event(FlowEventKind::kDump, kBorn, 5)}),
      0u);
}

// A run read its end and was killed before a row contained it. The kernel repeats the end.
TEST_F(FlowTableTest, AnEndBeforeTheLastRunIsLateAlsoIfNoEventWasLost) {
  FlowTable table(&counts_);
  table.Start(kStart, true);
  table.BeginRestore(kStart - 10 * kSecond, true);
  FlowRecord record;
  FlowEvent end = Event(FlowEventKind::kDestroy, kStart - 100 * kSecond, 9);
  record.identity = end.identity;
  record.flags = kFlowStartExact | kFlowShown | kFlowSuperseded;
  record.start_ns = end.start_ns;
  record.original = {4, 400};
  record.reply = {2, 40};
  (void)table.Restore(record);
  end.stop_ns = kStart - 50 * kSecond;
  EXPECT_EQ(table.Apply(end, kStart + kSecond).growth.original.packets, 5u);
  EXPECT_TRUE(table.TakeLoss().unreported);
}

// The previous dump has a later time, but it is not the last one.
TEST_F(FlowTableTest, AfterTheClockWasSetBackNoEndIsLate) {
  constexpr int64_t kDay = 86400 * kSecond;
  Dump({}, kStart + 10 * kSecond);
  table_.NoteClockSetBack(kStart - kDay);
  Dump({}, kStart - kDay + 10 * kSecond);
  FlowEvent end = Event(FlowEventKind::kDestroy, kStart - kDay + 15 * kSecond, 4);
  end.stop_ns = kStart - kDay + 16 * kSecond;
  EXPECT_EQ(Grown(end, kStart - kDay + 17 * kSecond), 4u);
  EXPECT_FALSE(table_.TakeLoss().unreported);
}

}  // namespace
}  // namespace ctacct
