#include "engine/accounting/worker.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/accounting/accounting_table.h"
#include "engine/accounting/port_list.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "netlink/ip_text.h"
#include "netlink/ipv4_text.h"
#include "netlink/local_addresses.h"
#include "netlink/test_messages.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

FlowEvent Event(FlowEventKind kind, int64_t start_ns, uint64_t packets, uint32_t id = 1) {
  FlowEvent event;
  event.kind = kind;
  event.identity.id = id;
  event.identity.protocol = kProtocolUdp;
  event.has_counters = kind != FlowEventKind::kNew;
  event.original = {packets, packets * 100};
  event.start_ns = start_ns;
  return event;
}

// What an interval's table says of its completeness.
struct Sealed {
  int64_t covered_from_ns = 0;
  int64_t covered_to_ns = 0;
  Completeness completeness = Completeness::kComplete;
  uint64_t events_dropped = 0;
  int64_t events_unexplained = 0;
  std::vector<Gap> gaps;
};

class WorkerTest : public testing::Test {
 protected:
  WorkerTest() { worker_.Start(0, true); }

  Sealed Take() {
    AccountingTable* const table = handoff_.Take();
    EXPECT_NE(table, nullptr);
    if (table == nullptr) return {};
    Sealed sealed = {table->covered_from_ns, table->covered_to_ns,      table->completeness,
                     table->events_dropped,  table->events_unexplained, table->gaps};
    handoff_.GiveBack(table);
    return sealed;
  }
  Sealed Seal(int64_t end_ns) {
    worker_.Seal(end_ns);
    return Take();
  }
  void Dump(int64_t now_ns, bool whole = true) {
    worker_.BeginDump(now_ns);
    worker_.EndDump(whole);
  }

  AccountingHandoff handoff_;
  CurrentPortList ports_;
  Worker worker_{Worker::Options(), &handoff_, &ports_};
};

// With local=skip. 192.0.2.1 and 2001:db8::1 are the gateway's.
class LocalWorkerTest : public testing::Test {
 protected:
  LocalWorkerTest() {
    Own({"192.0.2.1"}, {"2001:db8::1"}, 1);
    Worker::Options options;
    options.rules.include_icmp = true;
    options.local = &local_;
    worker_.emplace(options, &handoff_, &ports_);
    worker_->Start(0, true);
  }
  void Own(const std::vector<std::string>& ipv4, const std::vector<std::string>& ipv6,
           int64_t now_ns) {
    AddressLists lists;
    for (const std::string& text : ipv4) lists.ipv4.push_back(*ParseIpv4Address(text));
    for (const std::string& text : ipv6) lists.ipv6.push_back(*ParseIpv6Address(text));
    addresses_.Update(lists, now_ns);
    local_.Replace(std::make_shared<const LocalAddresses>(addresses_));
  }
  // Packets that were accounted.
  uint64_t Send(TestMessage message, TestMessage::Kind kind, uint64_t packets = 0,
                int64_t start_ns = 100) {
    message.kind = kind;
    if (kind != TestMessage::Kind::kNew) {
      message.original = message.reply = {{.packets = packets, .bytes = packets}};
      message.start_ns = start_ns;
    }
    const std::string bytes = BuildMessage(message);
    const uint64_t before = Packets();
    worker_->OnDatagram(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), 200);
    worker_->ApplyPending();
    return Packets() - before;
  }
  uint64_t Packets() {
    uint64_t packets = 0;
    const auto add = [&](const auto& row) { packets += row.second.original.packets; };
    handoff_.live().rows.ForEach(add);
    handoff_.live().ipv6.rows.ForEach(add);
    return packets;
  }

  static constexpr auto kDestroy = TestMessage::Kind::kDestroy;
  LocalAddresses addresses_;
  Current<LocalAddresses> local_;
  AccountingHandoff handoff_;
  CurrentPortList ports_;
  std::optional<Worker> worker_;
};

TEST_F(LocalWorkerTest, FlowsOfTheGatewayItselfAreLeftOut) {
  EXPECT_EQ(Send({.src = "192.0.2.1"}, kDestroy, 3), 0u);
  EXPECT_EQ(Send({.dst = "192.0.2.1", .id = 2}, kDestroy, 3), 0u);
  EXPECT_EQ(Send({.src = "2001:db8::1", .dst = "fd00::1", .id = 3}, kDestroy, 3), 0u);
  EXPECT_EQ(Send({.src = "fd00::1", .dst = "2001:db8::1", .id = 4}, kDestroy, 3), 0u);
  // Redirected to the gateway (a transparent proxy).
  EXPECT_EQ(Send({.reply_src = "192.0.2.1", .id = 5}, kDestroy, 3), 0u);
  EXPECT_EQ(worker_->counts().filtered_local, 5u);
  EXPECT_EQ(worker_->counts().filtered, 0u);
}

TEST_F(LocalWorkerTest, WhatIsForwardedOrTranslatedStays) {
  EXPECT_EQ(Send({}, kDestroy, 3), 3u);
  // To an inner host.
  EXPECT_EQ(Send({.dst = "192.0.2.1", .reply_src = "10.9.0.1", .id = 2}, kDestroy, 3), 3u);
  EXPECT_EQ(
      Send({.src = "fd00::1", .dst = "2001:db8::1", .reply_src = "fd00::2", .id = 3}, kDestroy, 3),
      3u);
  // Masqueraded.
  EXPECT_EQ(Send({.reply_dst = "192.0.2.1", .id = 4}, kDestroy, 3), 3u);
  EXPECT_EQ(worker_->counts().filtered_local, 0u);
}

TEST_F(LocalWorkerTest, AddressesComeAndGo) {
  // Accounted before the address was known: it stays accounted.
  EXPECT_EQ(Send({.dst = "192.0.2.9"}, TestMessage::Kind::kNew), 0u);
  Own({"192.0.2.9"}, {}, 150);
  EXPECT_EQ(Send({.dst = "192.0.2.9"}, kDestroy, 3), 3u);
  EXPECT_EQ(Send({.dst = "192.0.2.9", .id = 2}, kDestroy, 3), 0u);
  // Begun while the other one was the gateway's, and after.
  EXPECT_EQ(Send({.dst = "192.0.2.1", .id = 3}, kDestroy, 3, 149), 0u);
  EXPECT_EQ(Send({.dst = "192.0.2.1", .id = 4}, kDestroy, 3, 151), 3u);
}

// A NEW that is delivered again may show a close: it is of the flow's own row.
TEST_F(WorkerTest, ACloseThatANewShowsHasItsRow) {
  FlowEvent flow = Event(FlowEventKind::kNew, 0, 0);
  flow.identity.src = *ParseIpv4Address("10.32.0.2");
  flow.identity.protocol = kProtocolTcp;
  flow.has_tcp_state = true;
  flow.tcp_state = TcpState::kSynSent;
  worker_.OnFlow(flow, 10);
  worker_.ApplyPending();
  flow.tcp_state = TcpState::kLastAck;
  worker_.OnFlow(flow, 20);
  worker_.ApplyPending();
  std::vector<std::pair<uint32_t, uint64_t>> rows;
  handoff_.live().rows.ForEach([&](const auto& row) {
    rows.emplace_back(row.first.src.ToHostOrder(), row.second.connection_count);
  });
  EXPECT_THAT(rows, ElementsAre(std::make_pair(0x0a200002u, uint64_t{1})));
}

TEST_F(WorkerTest, AnIntervalCoversWhatTheOneBeforeDidNot) {
  Sealed sealed = Seal(10);
  EXPECT_EQ(sealed.covered_from_ns, 0);
  EXPECT_EQ(sealed.covered_to_ns, 10);
  sealed = Seal(25);
  EXPECT_EQ(sealed.covered_from_ns, 10);
  EXPECT_EQ(sealed.covered_to_ns, 25);
  // The clock was set back: no interval covers a negative time.
  sealed = Seal(5);
  EXPECT_EQ(sealed.covered_from_ns, 5);
  EXPECT_EQ(sealed.covered_to_ns, 5);
}

TEST_F(WorkerTest, AGapOverTwoIntervalsIsWhatItsWorstPartIs) {
  worker_.BeginRestore(2, 2, false);
  worker_.NoteDowntime(2, 4, GapCause::kRestart);
  worker_.OnOverrun(7, 6, 8);
  Sealed sealed = Seal(10);
  EXPECT_EQ(sealed.completeness, Completeness::kPartial);
  EXPECT_EQ(sealed.events_dropped, 7u);
  const Gap restart = {.began_ns = 2, .ended_ns = 4, .cause = GapCause::kRestart};
  const Gap overrun = {
      .began_ns = 6, .ended_ns = 8, .cause = GapCause::kOverrun, .events_dropped = 7};
  EXPECT_THAT(sealed.gaps, ElementsAre(restart, overrun));
  // The dropped events are reported once. Flows that came and went while no engine ran are unknown.
  Dump(12);
  sealed = Seal(20);
  EXPECT_EQ(sealed.completeness, Completeness::kPartial);
  EXPECT_EQ(sealed.events_dropped, 0u);
  const Gap rest = {.began_ns = 2, .ended_ns = 8, .cause = GapCause::kRestart};
  EXPECT_THAT(sealed.gaps, ElementsAre(rest));
}

TEST_F(WorkerTest, EachOverrunIsExplainedAlone) {
  for (const uint64_t events : {5, 3}) {
    worker_.OnOverrun(events, 1, 2);
    Dump(3);
    const Sealed sealed = Seal(10);
    EXPECT_EQ(sealed.events_unexplained, static_cast<int64_t>(events));
    EXPECT_EQ(sealed.completeness, Completeness::kResynced);
  }
}

TEST_F(WorkerTest, WhereTheKernelDoesNotKnowHowManyItLostADumpIsNotEnough) {
  worker_.OnOverrun(0, 1, 2);
  Dump(3);
  const Sealed sealed = Seal(10);
  EXPECT_EQ(sealed.completeness, Completeness::kPartial);
  EXPECT_THAT(sealed.gaps,
              ElementsAre(Gap{.began_ns = 1, .ended_ns = 2, .cause = GapCause::kAllocation}));
}

TEST_F(WorkerTest, AnOverrunThatIsNotOverIsPartial) {
  worker_.OnOverrunBegins(5);
  EXPECT_EQ(Seal(10).completeness, Completeness::kPartial);
}

TEST_F(WorkerTest, ManyOverrunsAreBoundedAndOtherCausesKept) {
  constexpr int kOverruns = 70;
  for (int i = 0; i < kOverruns; ++i) worker_.OnOverrun(1, i, i + 1);
  worker_.OnOverrun(0, 80, 81);
  const Sealed sealed = Seal(100);
  ASSERT_EQ(sealed.gaps.size(), 65u);
  uint64_t dropped = 0;
  for (const Gap& gap : sealed.gaps) dropped += gap.events_dropped;
  EXPECT_EQ(dropped, uint64_t{kOverruns});
  EXPECT_EQ(sealed.gaps[63].ended_ns, kOverruns);
  EXPECT_EQ(sealed.gaps[64].cause, GapCause::kAllocation);
}

TEST_F(WorkerTest, ADumpThatIsNotWholeMakesItsIntervalPartial) {
  (void)Seal(10);
  Dump(12, /*whole=*/false);
  const Sealed sealed = Seal(20);
  EXPECT_EQ(sealed.completeness, Completeness::kPartial);
  EXPECT_THAT(sealed.gaps,
              ElementsAre(Gap{.began_ns = 10, .ended_ns = 20, .cause = GapCause::kUnreported}));
  Dump(22);
  EXPECT_THAT(Seal(30).gaps, IsEmpty());
}

// What another program asked for, in a capture: also after the last dump of all.
TEST_F(WorkerTest, ADumpOfAPartSaysNothingAboutItsInterval) {
  (void)Seal(10);
  Dump(12);
  worker_.BeginDump(13);
  worker_.EndDump(/*whole=*/false, /*ipv4_only=*/false, /*of_part=*/true);
  EXPECT_EQ(Seal(20).completeness, Completeness::kComplete);
}

TEST_F(WorkerTest, WhatHasNoCountersMayBeMissingSinceTheIntervalBegan) {
  (void)Seal(10);
  FlowEvent uncounted = Event(FlowEventKind::kDestroy, 11, 0);
  uncounted.has_counters = false;
  worker_.OnFlow(uncounted, 12);
  const Sealed sealed = Seal(20);
  EXPECT_EQ(sealed.completeness, Completeness::kPartial);
  EXPECT_THAT(sealed.gaps,
              ElementsAre(Gap{.began_ns = 10, .ended_ns = 20, .cause = GapCause::kSettings}));
}

// If the flusher is behind, a table is used for several intervals. It counts the flows that ended
// unreported in each.
TEST_F(WorkerTest, FlowsLostAreSummedOverTheIntervalsOfATable) {
  worker_.Seal(10);
  worker_.OnFlow(Event(FlowEventKind::kNew, 0, 0, 1), 11);
  worker_.OnFlow(Event(FlowEventKind::kNew, 0, 0, 2), 11);
  Dump(12);
  Dump(13);
  worker_.Seal(20);  // Nobody has taken the one before.
  worker_.OnFlow(Event(FlowEventKind::kNew, 0, 0, 3), 21);
  Dump(22);
  Dump(23);
  worker_.Seal(30);
  EXPECT_THAT(Take().gaps, IsEmpty());
  const Sealed sealed = Seal(40);
  ASSERT_EQ(sealed.gaps.size(), 1u);
  EXPECT_EQ(sealed.gaps[0].cause, GapCause::kUnreported);
  EXPECT_EQ(sealed.gaps[0].flows_lost, 3u);
  EXPECT_EQ(sealed.gaps[0].ended_ns, 30);
}

// A dump that was requested earlier may show the table as it was before the overrun.
TEST_F(WorkerTest, ADumpAskedForAtTheOverrunsEndResyncs) {
  worker_.OnOverrun(1, 1, 2, /*over_monotonic_ns=*/50);
  worker_.BeginDump(3, /*requested_ns=*/49);
  worker_.EndDump(true);
  EXPECT_TRUE(worker_.needs_resync());
  worker_.BeginDump(4, /*requested_ns=*/50);
  worker_.EndDump(true);
  EXPECT_FALSE(worker_.needs_resync());
}

}  // namespace
}  // namespace ctacct
