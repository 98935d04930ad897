#include "engine/restart.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/accounting/accounting_table.h"
#include "engine/accounting/port_list.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "netlink/event_filter.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kEpoch = 1'600'000'000 * kSecond;

FlowEvent Event(FlowEventKind kind, uint32_t id, uint64_t packets, int64_t start_ns) {
  FlowEvent event;
  event.kind = kind;
  event.identity.id = id;
  event.identity.protocol = kProtocolUdp;
  event.has_counters = true;
  event.original = {packets, packets * 100};
  event.start_ns = start_ns;
  return event;
}

// Two workers and a checkpoint of theirs.
class RestartTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/restart";
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directory(folder_);
    options_.gateway = "gw";
    options_.kernel.boot_id[0] = 'a';
    options_.engine_id = {1};
    options_.subscribed_ns = kEpoch;
    options_.timestamps_on = true;
    options_.log = [this](const std::string& line) { log_ += line; };
  }
  void TearDown() override {
    checkpoint_.reset();
    std::filesystem::remove_all(folder_);
  }

  // A run begins: what it resumes with.
  Resumed Start() {
    log_.clear();
    checkpoint_ = Checkpoint::Open(folder_ + "/state", folder_).value();
    workers_.clear();
    for (Share& share : shares_) {
      share.handoff = std::make_unique<AccountingHandoff>();
      share.stream = std::make_unique<SnapshotStream>(Worker::kFlowTables);
      Worker::Options worker;
      worker.rules = options_.rules;
      worker.snapshots = share.stream.get();
      workers_.push_back(std::make_unique<Worker>(std::move(worker), share.handoff.get(), &ports_));
    }
    const absl::StatusOr<Resumed> resumed = Restart(options_, workers_, checkpoint_.get());
    EXPECT_TRUE(resumed.ok()) << resumed.status();
    return resumed.value_or(Resumed());
  }
  // An interval ends with a dump of these flows, and the checkpoint with it.
  void EndInterval(const std::vector<FlowEvent>& flows, int64_t end_ns, bool clean) {
    for (const std::unique_ptr<Worker>& worker : workers_) worker->BeginDump(end_ns);
    for (const FlowEvent& flow : flows) {
      workers_[OwnerOfFlow(flow.identity.id, 2)]->OnFlow(flow, end_ns);
    }
    for (const std::unique_ptr<Worker>& worker : workers_) worker->EndDump(true);
    EndIntervalWithoutDump(end_ns, clean);
  }
  void EndIntervalWithoutDump(int64_t end_ns, bool clean) {
    for (const std::unique_ptr<Worker>& worker : workers_) {
      worker->Seal(end_ns);
      while (worker->SnapshotSome()) {
      }
    }
    for (Share& share : shares_) {
      for (SnapshotChunk& chunk : share.stream->Take()) checkpoint_->Add(std::move(chunk));
    }
    ASSERT_TRUE(checkpoint_->Commit(1).ok());
    if (clean) {
      ASSERT_TRUE(checkpoint_->MarkClean().ok());
    }
  }
  // Packets of all workers' live tables.
  uint64_t Packets() {
    uint64_t packets = 0;
    for (Share& share : shares_) {
      share.handoff->live().rows.ForEach(
          [&](const auto& row) { packets += row.second.original.packets; });
    }
    return packets;
  }
  // Ends an interval: the gaps that all workers report with it.
  std::vector<Gap> Gaps() {
    std::vector<Gap> gaps;
    for (size_t i = 0; i < workers_.size(); ++i) {
      workers_[i]->Seal(options_.subscribed_ns);
      AccountingTable* const table = shares_[i].handoff->Take();
      gaps.insert(gaps.end(), table->gaps.begin(), table->gaps.end());
      shares_[i].handoff->GiveBack(table);
      while (workers_[i]->SnapshotSome()) {
      }
      shares_[i].stream->Take();
    }
    return gaps;
  }
  // From when to when the interval observed that ends at `end_ns`: the same of each worker.
  std::pair<int64_t, int64_t> CoveredBySeal(int64_t end_ns) {
    std::optional<std::pair<int64_t, int64_t>> covered;
    for (size_t i = 0; i < workers_.size(); ++i) {
      workers_[i]->Seal(end_ns);
      const AccountingTable* const table = shares_[i].handoff->Take();
      EXPECT_NE(table, nullptr);
      if (table == nullptr) return {};
      const std::pair<int64_t, int64_t> own = {table->covered_from_ns, table->covered_to_ns};
      EXPECT_EQ(covered.value_or(own), own);
      covered = own;
    }
    return *covered;
  }
  void Destroy(const std::vector<FlowEvent>& flows) {
    for (const FlowEvent& flow : flows) {
      workers_[OwnerOfFlow(flow.identity.id, 2)]->OnFlow(flow, kEpoch + 100 * kSecond);
    }
    for (const std::unique_ptr<Worker>& worker : workers_) worker->ApplyPending();
  }

  struct Share {
    std::unique_ptr<AccountingHandoff> handoff;
    std::unique_ptr<SnapshotStream> stream;
  };
  std::string folder_;
  std::string log_;
  RestartOptions options_;
  CurrentPortList ports_;
  Share shares_[2];
  std::vector<std::unique_ptr<Worker>> workers_;
  std::unique_ptr<Checkpoint> checkpoint_;

  // Born under the first run, shown once by a dump, ended under the second.
  const std::vector<FlowEvent> shown_ = {Event(FlowEventKind::kDump, 2, 10, kEpoch + kSecond),
                                         Event(FlowEventKind::kDump, 3, 20, kEpoch + kSecond)};
  const std::vector<FlowEvent> ended_ = {Event(FlowEventKind::kDestroy, 2, 15, kEpoch + kSecond),
                                         Event(FlowEventKind::kDestroy, 3, 27, kEpoch + kSecond)};
};

TEST_F(RestartTest, TheFirstRunOfAFolderHasNothingToResume) {
  const Resumed resumed = Start();
  EXPECT_EQ(resumed.drained_ns, 0);
  EXPECT_TRUE(Gaps().empty());
  EXPECT_EQ(log_, "");
}

TEST_F(RestartTest, FlowsContinueWithWhatWasAccounted) {
  Start();
  EndInterval(shown_, kEpoch + 15 * kSecond, /*clean=*/false);
  checkpoint_.reset();
  options_.subscribed_ns = kEpoch + 20 * kSecond;
  const Resumed resumed = Start();
  EXPECT_EQ(resumed.drained_ns, 0);  // Events were missed.
  EXPECT_THAT(log_, HasSubstr("an unclean stop 5.0 s ago; 2 flows continued"));
  Destroy(ended_);
  EXPECT_EQ(Packets(), 5u + 7u);
  // Each worker knows from when to when nobody accounted.
  const std::vector<Gap> gaps = Gaps();
  ASSERT_EQ(gaps.size(), 2u);
  for (const Gap& gap : gaps) {
    EXPECT_EQ(gap.cause, GapCause::kRestart);
    EXPECT_EQ(gap.began_ns, kEpoch + 15 * kSecond);
    EXPECT_EQ(gap.ended_ns, kEpoch + 20 * kSecond);
  }
}

// A stop in the middle of an interval, and a start within it: two files of that interval, each of
// which says what it covers. What living flows moved in between is in the second.
TEST_F(RestartTest, AnIntervalBeginsWhereTheFlowsWereAccountedLast) {
  Start();
  EndInterval(shown_, kEpoch + 5 * kSecond, /*clean=*/true);
  checkpoint_.reset();
  options_.subscribed_ns = kEpoch + 11 * kSecond;
  Start();
  EXPECT_EQ(CoveredBySeal(kEpoch + 15 * kSecond),
            std::make_pair(kEpoch + 5 * kSecond, kEpoch + 15 * kSecond));
}

TEST_F(RestartTest, AnIntervalBeginsWithTheSubscriptionIfNoFlowIsKnown) {
  Start();
  EndInterval(shown_, kEpoch + 5 * kSecond, /*clean=*/true);
  checkpoint_.reset();
  options_.kernel.boot_id[0] = 'b';
  options_.subscribed_ns = kEpoch + 11 * kSecond;
  Start();
  EXPECT_EQ(CoveredBySeal(kEpoch + 15 * kSecond),
            std::make_pair(kEpoch + 11 * kSecond, kEpoch + 15 * kSecond));
}

TEST_F(RestartTest, ACleanStopWithKeptEventsHasNoGap) {
  Start();
  EndInterval(shown_, kEpoch + 15 * kSecond, /*clean=*/true);
  checkpoint_.reset();
  options_.subscribed_ns = kEpoch + 20 * kSecond;
  options_.events_kept = true;
  EXPECT_EQ(Start().drained_ns, kEpoch + 15 * kSecond);
  EXPECT_THAT(log_, HasSubstr("a clean stop 5.0 s ago; 2 flows continued, no event was missed"));
  EXPECT_TRUE(Gaps().empty());
}

// Only a clean stop leaves all later events unread for the next engine.
TEST_F(RestartTest, AnUncleanStopIsAGapEvenIfEventsWereKept) {
  Start();
  EndInterval(shown_, kEpoch + 15 * kSecond, /*clean=*/false);
  checkpoint_.reset();
  options_.subscribed_ns = kEpoch + 20 * kSecond;
  options_.events_kept = true;
  EXPECT_EQ(Start().drained_ns, 0);
  EXPECT_EQ(Gaps().size(), 2u);
}

TEST_F(RestartTest, SettingsThatWereOffMakeAGapOfTheDowntime) {
  Start();
  EndInterval(shown_, kEpoch + 15 * kSecond, /*clean=*/true);
  checkpoint_.reset();
  options_.subscribed_ns = kEpoch + 20 * kSecond;
  options_.events_kept = true;
  options_.settings_were_off = true;
  Start();
  const std::vector<Gap> gaps = Gaps();
  ASSERT_EQ(gaps.size(), 2u);
  for (const Gap& gap : gaps) {
    EXPECT_EQ(gap.cause, GapCause::kSettings);
    EXPECT_EQ(gap.began_ns, kEpoch + 15 * kSecond);
    EXPECT_EQ(gap.ended_ns, kEpoch + 20 * kSecond);
  }
}

TEST_F(RestartTest, OfAnotherKernelOnlyTheTimeIsOfUse) {
  Start();
  EndInterval(shown_, kEpoch + 15 * kSecond, /*clean=*/true);
  checkpoint_.reset();
  options_.kernel.boot_id[0] = 'b';
  options_.events_kept = true;
  options_.subscribed_ns = kEpoch + 20 * kSecond;
  Start();
  EXPECT_THAT(log_, HasSubstr("ended with its kernel"));
  EXPECT_EQ(Gaps().size(), 2u);
  Destroy(ended_);
  EXPECT_EQ(Packets(), 0u);  // Older than this run, and unknown to it.
}

// The traffic in between is split between the names: a gap, whatever is known about it.
TEST_F(RestartTest, AnotherNameIsAGapOfItsOwn) {
  for (const bool all_events : {false, true}) {
    SCOPED_TRACE(all_events);
    TearDown();
    SetUp();
    Start();
    EndInterval(shown_, kEpoch + 15 * kSecond, /*clean=*/all_events);
    checkpoint_.reset();
    options_.gateway = "new\tname";
    options_.events_kept = all_events;
    options_.subscribed_ns = kEpoch + 20 * kSecond;
    EXPECT_EQ(Start().drained_ns, all_events ? kEpoch + 15 * kSecond : 0);
    EXPECT_THAT(log_,
                HasSubstr(all_events ? "2 flows continued, no event was missed; the gateway was "
                                       "called 'gw' and is called 'new\\x09name' now"
                                     : "2 flows continued; the gateway was called 'gw'"));
    Destroy(ended_);
    EXPECT_EQ(Packets(), 5u + 7u);
    const std::vector<Gap> gaps = Gaps();
    ASSERT_EQ(gaps.size(), 2u);
    for (const Gap& gap : gaps) {
      EXPECT_EQ(gap.cause, GapCause::kRenamed);
      EXPECT_EQ(gap.completeness, Completeness::kPartial);
      EXPECT_EQ(gap.began_ns, kEpoch + 15 * kSecond);
      EXPECT_EQ(gap.ended_ns, kEpoch + 20 * kSecond);
    }
    // A dump does not make it whole, and it is recorded once.
    EndInterval({}, kEpoch + 30 * kSecond, /*clean=*/true);
    checkpoint_.reset();
    options_.events_kept = true;
    Start();
    EXPECT_TRUE(Gaps().empty());
    EXPECT_THAT(log_, testing::Not(HasSubstr("called")));
  }
}

// If the previous name is lost, it is unknown whether it was another one.
TEST_F(RestartTest, ADamagedCheckpointIsNoOtherName) {
  Start();
  EndInterval(shown_, kEpoch + 15 * kSecond, /*clean=*/true);
  checkpoint_.reset();
  std::filesystem::resize_file(folder_ + "/state/checkpoint", 20);
  Start();
  EXPECT_THAT(log_, HasSubstr("its checkpoint is lost"));
  const std::vector<Gap> gaps = Gaps();
  ASSERT_EQ(gaps.size(), 2u);
  EXPECT_EQ(gaps[0].cause, GapCause::kRestart);
}

// If other flows were accounted before, one that is not in the checkpoint may be old: its earlier
// traffic is not counted.
TEST_F(RestartTest, OtherRulesDoNotBillWholeLifetimes) {
  options_.rules.ipv4.src =
      Ipv4Cidr{Ipv4Address::FromHostOrder(0x0a000000), Ipv4Address::FromHostOrder(0xff000000)};
  Start();
  // Before its first dump an engine knows all flows since its start, but only those of its rules.
  EndIntervalWithoutDump(kEpoch + 15 * kSecond, /*clean=*/true);
  checkpoint_.reset();
  options_.rules.ipv4.src = kIpv4Everything;
  options_.events_kept = true;
  options_.subscribed_ns = kEpoch + 20 * kSecond;
  Start();
  EXPECT_EQ(Gaps().size(), 2u);
  Destroy({Event(FlowEventKind::kDestroy, 2, 1000, kEpoch + kSecond)});
  EXPECT_EQ(Packets(), 0u);
}

TEST_F(RestartTest, AClockSetBackIsSaidAndMakesNoNegativeGap) {
  Start();
  EndInterval(shown_, kEpoch + 15 * kSecond, /*clean=*/false);
  checkpoint_.reset();
  options_.subscribed_ns = kEpoch - 86400 * kSecond;
  Start();
  EXPECT_THAT(log_, HasSubstr("86415.0 s in the future by the clock of that time"));
  for (const Gap& gap : Gaps()) EXPECT_LT(gap.began_ns, gap.ended_ns);
}

// By the clock as it is now, the next flow of a tuple starts before the one that is restored.
TEST_F(RestartTest, FlowsBornAfterTheClockWasSetBackCountWhole) {
  Start();
  EndInterval(shown_, kEpoch + 15 * kSecond, /*clean=*/false);
  checkpoint_.reset();
  options_.subscribed_ns = kEpoch;
  Start();
  EndInterval({Event(FlowEventKind::kDump, 2, 4, kEpoch + kSecond / 2)}, kEpoch + 3 * kSecond,
              /*clean=*/false);
  AccountingTable* const table = shares_[OwnerOfFlow(2, 2)].handoff->Take();
  ASSERT_NE(table, nullptr);
  uint64_t packets = 0;
  table->rows.ForEach([&](const auto& row) { packets += row.second.original.packets; });
  EXPECT_EQ(packets, 4u);
}

// The time of the checkpoint lies in the future then: a gap from there would have no length.
TEST_F(RestartTest, AGapAfterTheClockWasSetBackBeginsWithTheSubscription) {
  Start();
  EndInterval(shown_, kEpoch + 15 * kSecond, /*clean=*/true);
  checkpoint_.reset();
  options_.subscribed_ns = kEpoch - 100 * kSecond;
  Start();
  const size_t owner = OwnerOfFlow(9, 2);
  workers_[owner]->OnFlow(Event(FlowEventKind::kDestroy, 9, 4, kEpoch - 1000 * kSecond),
                          options_.subscribed_ns + kSecond);
  workers_[owner]->Seal(options_.subscribed_ns + 15 * kSecond);
  const std::vector<Gap> gaps = shares_[owner].handoff->Take()->gaps;
  const auto gap = std::find_if(gaps.begin(), gaps.end(), [](const Gap& found) {
    return found.cause == GapCause::kUnreported;
  });
  ASSERT_NE(gap, gaps.end());
  EXPECT_EQ(gap->began_ns, options_.subscribed_ns);
  EXPECT_EQ(gap->ended_ns, options_.subscribed_ns + 15 * kSecond);
}

TEST_F(RestartTest, ARecordingContinuesNoFlow) {
  Start();
  EndInterval(shown_, kEpoch + 15 * kSecond, /*clean=*/true);
  checkpoint_.reset();
  options_.recorded = true;
  options_.events_kept = true;
  options_.subscribed_ns = kEpoch + 20 * kSecond;
  Start();
  EXPECT_THAT(log_, HasSubstr("with -record no flow continues"));
  EXPECT_EQ(Gaps().size(), 2u);
}

}  // namespace
}  // namespace ctacct
