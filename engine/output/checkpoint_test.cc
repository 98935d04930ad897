#include "engine/output/checkpoint.h"

#include <fcntl.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/system/clock.h"
#include "engine/system/durable_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr int64_t kSecond = 1'000'000'000;

KernelIdentity Kernel(char boot) {
  KernelIdentity kernel;
  kernel.boot_id[0] = boot;
  kernel.network_namespace = 1;
  return kernel;
}

class CheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/checkpoint";
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directory(folder_);
    state_ = folder_ + "/state";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // What a run of the engine finds.
  struct Found {
    std::optional<CheckpointInfo> info;
    std::vector<uint64_t> flows;  // Their packets.
    std::vector<Ipv6FlowRecord> ipv6_flows;
  };
  struct Run {
    std::unique_ptr<Checkpoint> checkpoint;
    Found found;
  };
  // A run of `workers` workers. Its engine id is `id`.
  Run Begin(uint8_t id, size_t workers = 1, bool takes_over = true) {
    Run run;
    run.checkpoint = Checkpoint::Open(state_, folder_).value();
    const absl::Status status = run.checkpoint->Recover(
        [&](const CheckpointInfo& info) {
          run.found.info = info;
          return takes_over;
        },
        [&](const FlowRecord& flow) { run.found.flows.push_back(flow.original.packets); },
        [&](const Ipv6FlowRecord& flow) { run.found.ipv6_flows.push_back(flow); });
    EXPECT_TRUE(status.ok()) << status;
    CheckpointInfo info;
    info.engine_id = {id};
    info.kernel = Kernel('a');
    info.set_gateway("gw");
    info.rules = 77;
    run.checkpoint->Start(info, workers);
    return run;
  }
  static SnapshotChunk Chunk(uint64_t seal, std::vector<uint64_t> packets, bool last = true,
                             int64_t taken_ns = 0, int64_t known_since_ns = 0) {
    SnapshotChunk chunk;
    chunk.seal = seal;
    chunk.last = last;
    chunk.taken_ns = taken_ns;
    chunk.known_since_ns = known_since_ns;
    for (const uint64_t count : packets) {
      chunk.records.emplace_back().original.packets = count;
    }
    return chunk;
  }
  // As a sink does it.
  void Prepare(const Checkpoint& checkpoint, uint64_t sequence, const std::string& name) {
    absl::StatusOr<DurableFile> file = DurableFile::Create(folder_, name);
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_TRUE(file->Append(name).ok());
    ASSERT_TRUE(file->Prepare(checkpoint.HiddenName(sequence, name)).ok());
  }
  std::vector<std::string> Names(const std::string& folder) const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.is_regular_file()) names.push_back(entry.path().filename());
    }
    return names;
  }
  std::vector<std::string> Visible() const {
    std::vector<std::string> names = Names(folder_);
    std::erase_if(names, [](const std::string& name) { return name.starts_with("."); });
    return names;
  }
  size_t Prepared() const { return Names(folder_).size() - Visible().size(); }
  std::string checkpoint_path() const { return state_ + "/checkpoint"; }
  std::string copy_path() const { return state_ + "/checkpoint.new"; }

  std::string folder_;  // Of the output.
  std::string state_;
};

TEST_F(CheckpointTest, TheFirstRunFindsNothing) { EXPECT_FALSE(Begin(1).found.info.has_value()); }

TEST_F(CheckpointTest, WhatIsCommittedIsFound) {
  Run run = Begin(1);
  run.checkpoint->Add(Chunk(5, {10, 11}, false, 100, 50));
  EXPECT_EQ(run.checkpoint->state(), Checkpoint::State::kCopying);
  run.checkpoint->Add(Chunk(5, {12}, true, 100, 50));
  ASSERT_EQ(run.checkpoint->state(), Checkpoint::State::kComplete);
  EXPECT_EQ(run.checkpoint->seal(), 5u);
  ASSERT_TRUE(run.checkpoint->Commit(3).ok());
  run = Run();
  run = Begin(2);
  ASSERT_TRUE(run.found.info.has_value());
  const CheckpointInfo& info = *run.found.info;
  EXPECT_TRUE(info.flows_known);
  EXPECT_FALSE(info.clean);
  EXPECT_EQ(info.kernel, Kernel('a'));
  EXPECT_EQ(info.engine_id, EngineId{1});
  EXPECT_EQ(info.last_sequence, 3u);
  EXPECT_EQ(std::string(info.gateway), "gw");
  EXPECT_EQ(info.rules, 77u);
  EXPECT_EQ(info.taken_ns, 100);
  EXPECT_EQ(info.known_since_ns, 50);
  EXPECT_EQ(info.flow_count, 3u);
  EXPECT_THAT(run.found.flows, ElementsAre(10, 11, 12));
}

TEST_F(CheckpointTest, FlowsOfBothFamiliesAreFound) {
  Run run = Begin(1);
  SnapshotChunk chunk = Chunk(5, {10, 11}, false);
  run.checkpoint->Add(chunk);
  chunk.records.clear();
  for (uint32_t i = 0; i < 3; ++i) {
    Ipv6FlowRecord& flow = chunk.ipv6_records.emplace_back();
    flow.identity.src.words[3] = i;
    flow.identity.id = 100 + i;
    flow.reply.bytes = 1000 + i;
    flow.flags = kFlowShown;
  }
  run.checkpoint->Add(chunk);
  run.checkpoint->Add(Chunk(5, {12}));
  ASSERT_EQ(run.checkpoint->state(), Checkpoint::State::kComplete);
  ASSERT_TRUE(run.checkpoint->Commit(3).ok());
  run = Run();
  run = Begin(2);
  ASSERT_TRUE(run.found.info.has_value());
  EXPECT_EQ(run.found.info->flow_count, 6u);
  EXPECT_THAT(run.found.flows, ElementsAre(10, 11, 12));
  ASSERT_EQ(run.found.ipv6_flows.size(), 3u);
  for (uint32_t i = 0; i < 3; ++i) {
    const Ipv6FlowRecord& flow = run.found.ipv6_flows[i];
    EXPECT_EQ(flow.identity.src.words[3], i);
    EXPECT_EQ(flow.identity.id, 100 + i);
    EXPECT_EQ(flow.reply.bytes, 1000 + i);
    EXPECT_EQ(flow.flags, kFlowShown);
  }
}

// Workers copy at their own pace: one's next snapshot may begin before another's is complete.
TEST_F(CheckpointTest, SnapshotsOfSeveralWorkersAreOneCheckpointEach) {
  Run run = Begin(1, 3);
  run.checkpoint->Add(Chunk(1, {10}, true, 100, 50));
  run.checkpoint->Add(Chunk(2, {20}, true, 200, 50));  // The first worker is ahead.
  run.checkpoint->Add(Chunk(1, {11}, false, 90, 60));
  run.checkpoint->Add(Chunk(2, {21}, true, 210, 50));  // And so is the second.
  run.checkpoint->Add(Chunk(1, {12}, true, 90, 60));
  EXPECT_EQ(run.checkpoint->state(), Checkpoint::State::kCopying);
  run.checkpoint->Add(Chunk(1, {13}, true, 110, 55));
  // The next copy begins at once, over the complete one.
  EXPECT_EQ(run.checkpoint->state(), Checkpoint::State::kCopying);
  EXPECT_EQ(run.checkpoint->seal(), 2u);
  run.checkpoint->Add(Chunk(2, {22}, true, 220, 65));
  ASSERT_EQ(run.checkpoint->state(), Checkpoint::State::kComplete);
  ASSERT_TRUE(run.checkpoint->Commit(2).ok());
  run = Run();
  run = Begin(2, 3);
  EXPECT_THAT(run.found.flows, UnorderedElementsAre(20, 21, 22));
  // Accounted up to the slowest worker; known since the moment from which the last worker knows all
  // of its flows.
  EXPECT_EQ(run.found.info->taken_ns, 200);
  EXPECT_EQ(run.found.info->known_since_ns, 65);
}

TEST_F(CheckpointTest, OneWorkerWithoutASnapshotMakesNoCheckpoint) {
  Run run = Begin(1, 2);
  run.checkpoint->Add(Chunk(1, {10}));
  SnapshotChunk none = Chunk(1, {});
  none.whole = false;
  run.checkpoint->Add(std::move(none));
  EXPECT_EQ(run.checkpoint->state(), Checkpoint::State::kNone);
  run.checkpoint->Add(Chunk(2, {20}));
  run.checkpoint->Add(Chunk(2, {21}));
  ASSERT_EQ(run.checkpoint->state(), Checkpoint::State::kComplete);
  ASSERT_TRUE(run.checkpoint->Commit(1).ok());
  run = Run();
  EXPECT_THAT(Begin(2, 2).found.flows, UnorderedElementsAre(20, 21));
}

// Killed between the steps: rows that the checkpoint covers are revealed, the others removed.
TEST_F(CheckpointTest, RecoverRevealsWhatIsCoveredAndRemovesTheRest) {
  Run run = Begin(1);
  for (uint64_t sequence = 1; sequence <= 3; ++sequence) {
    Prepare(*run.checkpoint, sequence, std::to_string(sequence) + ".spool");
  }
  run.checkpoint->Add(Chunk(2, {10}));
  ASSERT_TRUE(run.checkpoint->Commit(2).ok());
  EXPECT_THAT(Visible(), IsEmpty());
  run = Run();
  (void)Begin(2);
  EXPECT_THAT(Visible(), UnorderedElementsAre("1.spool", "2.spool"));
  EXPECT_EQ(Prepared(), 0u);
}

// A later engine's rows have sequences of their own.
TEST_F(CheckpointTest, RowsOfAnEngineThatCommittedNothingAreRemoved) {
  Run run = Begin(1);
  run.checkpoint->Add(Chunk(1, {10}));
  ASSERT_TRUE(run.checkpoint->Commit(5).ok());
  run = Run();
  run = Begin(2);
  Prepare(*run.checkpoint, 1, "second.spool");
  run = Run();
  run = Begin(3);
  EXPECT_THAT(run.found.flows, ElementsAre(10));
  EXPECT_THAT(Visible(), IsEmpty());
  EXPECT_EQ(Prepared(), 0u);
}

TEST_F(CheckpointTest, RevealedNamesMayRepeatForCsvOnly) {
  Run run = Begin(1);
  for (const char* name : {"rows.csv", "rows.spool"}) {
    for (uint64_t sequence = 1; sequence <= 2; ++sequence) {
      Prepare(*run.checkpoint, sequence, name);
      const absl::Status status = run.checkpoint->Reveal(sequence, name);
      EXPECT_EQ(status.ok(), sequence == 1 || std::string(name) == "rows.csv") << status;
    }
  }
  EXPECT_THAT(Visible(), UnorderedElementsAre("rows.csv", "rows_1.csv", "rows.spool"));
  EXPECT_TRUE(absl::IsNotFound(run.checkpoint->Reveal(9, "none.spool")));
}

TEST_F(CheckpointTest, ACleanEndIsMarked) {
  Run run = Begin(1);
  ASSERT_TRUE(run.checkpoint->MarkClean().ok());  // Without a checkpoint: nothing to mark.
  run.checkpoint->Add(Chunk(1, {10}, true, 100));
  ASSERT_TRUE(run.checkpoint->Commit(1).ok());
  ASSERT_TRUE(run.checkpoint->MarkClean().ok());
  run = Run();
  run = Begin(2);
  ASSERT_TRUE(run.found.info.has_value());
  EXPECT_TRUE(run.found.info->clean);
  EXPECT_TRUE(run.found.info->flows_known);
  EXPECT_EQ(run.found.info->taken_ns, 100);
  EXPECT_THAT(run.found.flows, ElementsAre(10));
  // The next one's commit is not clean.
  run.checkpoint->Add(Chunk(1, {11}));
  ASSERT_TRUE(run.checkpoint->Commit(1).ok());
  run = Run();
  EXPECT_FALSE(Begin(3).found.info->clean);
}

// A discarded checkpoint says exactly until when everything was accounted; a copy that is not
// complete says nothing.
TEST_F(CheckpointTest, ADiscardedCheckpointKeepsTheTimeOfTheLastCompleteCopy) {
  Run run = Begin(1, 2);
  run.checkpoint->Add(Chunk(1, {10}, true, 100));
  run.checkpoint->Add(Chunk(1, {11}, true, 110));
  ASSERT_TRUE(run.checkpoint->Commit(1).ok());
  SnapshotChunk left_out = Chunk(2, {});
  left_out.whole = false;
  run.checkpoint->Add(Chunk(2, {20}, true, 200));
  run.checkpoint->Add(std::move(left_out));
  run.checkpoint->Add(Chunk(3, {30}, true, 300));
  Prepare(*run.checkpoint, 2, "2.spool");
  ASSERT_TRUE(run.checkpoint->Discard().ok());
  EXPECT_EQ(run.checkpoint->state(), Checkpoint::State::kNone);
  ASSERT_TRUE(run.checkpoint->MarkClean().ok());  // There is none to mark.
  run = Run();
  run = Begin(2, 2);
  ASSERT_TRUE(run.found.info.has_value());
  EXPECT_FALSE(run.found.info->flows_known);
  EXPECT_FALSE(run.found.info->clean);
  EXPECT_EQ(run.found.info->taken_ns, 100);
  EXPECT_THAT(run.found.flows, IsEmpty());
  // The traffic of these rows will not be accounted again, so they are kept.
  EXPECT_THAT(Visible(), ElementsAre("2.spool"));
}

// An engine that discards before its first copy keeps the time until which the previous engine
// accounted.
TEST_F(CheckpointTest, ADiscardBeforeTheFirstCopyKeepsTheTimeOfTheRunBefore) {
  Run run = Begin(1);
  run.checkpoint->Add(Chunk(1, {10}, true, 100));
  ASSERT_TRUE(run.checkpoint->Commit(1).ok());
  run = Run();
  run = Begin(2);
  ASSERT_TRUE(run.checkpoint->Discard().ok());
  run = Run();
  run = Begin(3);
  EXPECT_FALSE(run.found.info->flows_known);
  EXPECT_EQ(run.found.info->taken_ns, 100);
}

TEST_F(CheckpointTest, ACopyThatIsGivenUpIsNotCommitted) {
  Run run = Begin(1, 2);
  run.checkpoint->Add(Chunk(1, {10}));
  run.checkpoint->GiveUpCopy(absl::ResourceExhaustedError("full"));
  EXPECT_FALSE(std::filesystem::exists(copy_path()));  // Its space is free at once.
  EXPECT_EQ(run.checkpoint->state(), Checkpoint::State::kCopying);
  run.checkpoint->Add(Chunk(1, {11}));
  EXPECT_EQ(run.checkpoint->state(), Checkpoint::State::kFailed);
  EXPECT_TRUE(absl::IsResourceExhausted(run.checkpoint->error()));
  EXPECT_DEATH((void)run.checkpoint->Commit(1), "check failed");
  run.checkpoint->Add(Chunk(2, {20}));
  run.checkpoint->Add(Chunk(2, {21}));
  EXPECT_EQ(run.checkpoint->state(), Checkpoint::State::kComplete);
  EXPECT_TRUE(run.checkpoint->error().ok());
  run.checkpoint->GiveUpCopy(absl::ResourceExhaustedError("full"));
  EXPECT_EQ(run.checkpoint->state(), Checkpoint::State::kFailed);
}

TEST_F(CheckpointTest, ACommitThatFailsLeavesTheOneBeforeInForce) {
  Run run = Begin(1);
  run.checkpoint->Add(Chunk(1, {10}));
  ASSERT_TRUE(run.checkpoint->Commit(1).ok());
  run.checkpoint->Add(Chunk(2, {20}));
  ASSERT_TRUE(std::filesystem::remove(copy_path()));
  EXPECT_FALSE(run.checkpoint->Commit(2).ok());
  EXPECT_EQ(run.checkpoint->state(), Checkpoint::State::kFailed);
  run = Run();
  EXPECT_THAT(Begin(2).found.flows, ElementsAre(10));
}

TEST_F(CheckpointTest, ADamagedCheckpointSaysWhenItWasWritten) {
  const int64_t began_ns = WallClockNs();
  Run run = Begin(1);
  run.checkpoint->Add(Chunk(1, {10, 11}));
  ASSERT_TRUE(run.checkpoint->Commit(1).ok());
  const std::string path = checkpoint_path();
  const auto size = std::filesystem::file_size(path);
  for (const std::streamoff at : {std::streamoff{20}, static_cast<std::streamoff>(size) - 3}) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(at);
    file.put('x');
    file.close();
    CheckpointInfo info;
    EXPECT_TRUE(absl::IsNotFound(ReadCheckpoint({AT_FDCWD, path, path}, &info).status()));
    EXPECT_FALSE(info.flows_known);
    EXPECT_GT(info.taken_ns, began_ns - kSecond);
    EXPECT_LT(info.taken_ns, WallClockNs() + kSecond);
    EXPECT_EQ(std::string(info.gateway), "");
  }
  std::filesystem::resize_file(path, size / 2);
  CheckpointInfo info;
  EXPECT_FALSE(ReadCheckpoint({AT_FDCWD, path, path}, &info).ok());
}

// Two engines with a state each write to one folder. Neither touches what the other has prepared,
// whether it runs or not.
TEST_F(CheckpointTest, EnginesThatShareAnOutputFolderLeaveEachOthersRowsAlone) {
  Run a = Begin(1);
  a.checkpoint->Add(Chunk(1, {10}));
  ASSERT_TRUE(a.checkpoint->Commit(1).ok());
  Prepare(*a.checkpoint, 1, "a1.spool");
  Prepare(*a.checkpoint, 2, "a2.spool");
  const std::string state = std::exchange(state_, folder_ + "/another");
  Run b = Begin(1);
  EXPECT_FALSE(b.found.info.has_value());
  Prepare(*b.checkpoint, 1, "b1.spool");
  b = Run();
  b = Begin(2);  // Without a checkpoint all are revealed: its own.
  EXPECT_THAT(Visible(), ElementsAre("b1.spool"));
  EXPECT_EQ(Prepared(), 2u);
  state_ = state;
  a = Run();
  a = Begin(3);
  EXPECT_THAT(a.found.flows, ElementsAre(10));
  EXPECT_THAT(Visible(), UnorderedElementsAre("a1.spool", "b1.spool"));
  EXPECT_EQ(Prepared(), 0u);
}

TEST_F(CheckpointTest, OneEngineAtATime) {
  const Run run = Begin(1);
  const absl::Status second = Checkpoint::Open(state_, folder_ + "/elsewhere").status();
  EXPECT_TRUE(absl::IsUnavailable(second));
  EXPECT_EQ(
      second.message(),
      "another engine uses the state folder " + state_ +
          ": stop it. Only an engine of another network namespace may run beside it, with its own -state");
}

TEST_F(CheckpointTest, TheStateFolderIsMadeForItsOwnerOnly) {
  { const Run run = Begin(1); }
  const auto mode = std::filesystem::status(state_).permissions();
  EXPECT_EQ(static_cast<int>(mode) & 0777, 0700);
  // One that is there is taken as it is; its parent is not made.
  state_ = folder_ + "/none/state";
  EXPECT_EQ(Checkpoint::Open(state_, folder_).status().message(),
            "cannot make state folder " + state_ + ": No such file or directory");
  state_ = folder_ + "/file";
  std::ofstream(state_) << "x";
  EXPECT_EQ(Checkpoint::Open(state_, folder_).status().message(),
            "cannot open state folder " + state_ + ": Not a directory");
}

// The id survives the engine, a damaged one is replaced.
TEST_F(CheckpointTest, TheLockFileContainsTheStatesId) {
  const auto id = [&] {
    const Run run = Begin(1);
    return run.checkpoint->HiddenName(1, "x").substr(0, 18);
  };
  const std::string first = id();
  EXPECT_EQ(first.front(), '.');
  EXPECT_EQ(first.back(), '.');
  EXPECT_EQ(id(), first);
  std::ofstream(state_ + "/lock") << "0123";
  const std::string second = id();
  EXPECT_NE(second, first);
  EXPECT_EQ(id(), second);
}

// After the folder was removed and another engine has made a new one, that one is not touched, and
// nothing is committed or revealed.
TEST_F(CheckpointTest, ALostLockIsNoticedBeforeTheNextCommit) {
  for (const bool replaced : {false, true}) {
    SCOPED_TRACE(replaced);
    Run run = Begin(1);
    EXPECT_TRUE(run.checkpoint->CheckLock().ok());
    run.checkpoint->Add(Chunk(1, {10}));
    ASSERT_TRUE(run.checkpoint->Commit(1).ok());
    run.checkpoint->Add(Chunk(2, {20}));
    std::filesystem::remove_all(state_);
    Run second;
    if (replaced) {
      second = Begin(2);
      EXPECT_FALSE(second.found.info.has_value());
      second.checkpoint->Add(Chunk(1, {30}));
      ASSERT_TRUE(second.checkpoint->Commit(1).ok());
      second.checkpoint->Add(Chunk(2, {40}));
    }
    EXPECT_FALSE(run.checkpoint->lock_lost());
    const absl::Status status = run.checkpoint->Commit(2);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("state folder " + state_ + ": "));
    EXPECT_TRUE(run.checkpoint->lock_lost());
    EXPECT_EQ(run.checkpoint->Discard(), status);
    // Its next copy goes nowhere.
    run.checkpoint->Add(Chunk(3, {50}));
    EXPECT_EQ(run.checkpoint->state(), Checkpoint::State::kFailed);
    if (replaced) {
      ASSERT_TRUE(second.checkpoint->Commit(2).ok());
      EXPECT_TRUE(second.checkpoint->CheckLock().ok());
      second = Run();
      EXPECT_THAT(Begin(3).found.flows, ElementsAre(40));
    } else {
      EXPECT_FALSE(std::filesystem::exists(state_));
    }
    run = Run();
    std::filesystem::remove_all(state_);
  }
}

// Renamed away and back: it is the same lock.
TEST_F(CheckpointTest, ALockThatIsMovedIsLostWhereItWas) {
  Run run = Begin(1);
  std::filesystem::rename(state_, state_ + ".moved");
  EXPECT_TRUE(absl::IsFailedPrecondition(run.checkpoint->CheckLock()));
  std::filesystem::rename(state_ + ".moved", state_);
  // Meanwhile anything may have happened.
  EXPECT_TRUE(absl::IsFailedPrecondition(run.checkpoint->CheckLock()));
}

TEST_F(CheckpointTest, WhatIsNotTakenOverIsVoidForTheNext) {
  Run run = Begin(1);
  run.checkpoint->Add(Chunk(1, {10}, true, 100));
  ASSERT_TRUE(run.checkpoint->Commit(1).ok());
  Prepare(*run.checkpoint, 2, "2.spool");
  run = Run();
  run = Begin(2, 1, /*takes_over=*/false);
  EXPECT_TRUE(run.found.info->flows_known);
  EXPECT_THAT(run.found.flows, IsEmpty());
  EXPECT_THAT(Visible(), ElementsAre("2.spool"));
  run = Run();
  run = Begin(3);
  EXPECT_FALSE(run.found.info->flows_known);
  EXPECT_EQ(run.found.info->taken_ns, 100);
}

TEST(PreparedNameTest, IsReadAsItIsWritten) {
  const PreparedName written = {"0123456789abcdef", EngineIdText(EngineId{7}), 12,
                                "traffic_2020.with.dots.csv"};
  PreparedName read;
  ASSERT_TRUE(read.Parse(written.HiddenName()));
  EXPECT_EQ(read.state_id, written.state_id);
  EXPECT_EQ(read.engine_id, written.engine_id);
  EXPECT_EQ(read.sequence, 12u);
  EXPECT_EQ(read.name, written.name);
  for (const char* other : {"checkpoint", "checkpoint.new", "lock", "", ".0123456789abcdef.tmp",
                            ".a.b.c.d", ".a.b.1.d"}) {
    EXPECT_FALSE(read.Parse(other)) << other;
  }
}

}  // namespace
}  // namespace ctacct
