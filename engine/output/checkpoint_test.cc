#include "engine/output/checkpoint.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/system/durable_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

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
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // What a run of the engine finds.
  struct Found {
    std::optional<CheckpointInfo> info;
    std::vector<uint64_t> flows;  // Their packets.
  };
  struct Run {
    std::unique_ptr<Checkpoint> checkpoint;
    Found found;
  };
  // A run of `workers` workers. Its engine id is `id`.
  Run Begin(uint8_t id, size_t workers = 1, const std::string& gateway = "gw",
            const KernelIdentity& kernel = Kernel('a'), bool takes_over = true) {
    Run run;
    run.checkpoint = Checkpoint::Open(folder_, gateway).value();
    const absl::Status status = run.checkpoint->Recover(
        [&](const CheckpointInfo& info) {
          run.found.info = info;
          return takes_over;
        },
        [&](const FlowRecord& flow) { run.found.flows.push_back(flow.original.packets); });
    EXPECT_TRUE(status.ok()) << status;
    CheckpointInfo info;
    info.engine_id = {id};
    info.kernel = kernel;
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
  std::vector<std::string> Visible() const { return Names(folder_); }
  size_t Prepared() const {
    const std::vector<std::string> names = Names(folder_ + "/.ctacct");
    return static_cast<size_t>(std::count_if(names.begin(), names.end(), [](const auto& name) {
      return name.ends_with(".csv") || name.ends_with(".spool");
    }));
  }
  std::string PathOf(const std::string& end) const {
    for (const std::string& name : Names(folder_ + "/.ctacct")) {
      if (name.ends_with(end)) return folder_ + "/.ctacct/" + name;
    }
    return "";
  }

  std::string folder_;
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
  EXPECT_EQ(info.rules, 77u);
  EXPECT_EQ(info.taken_ns, 100);
  EXPECT_EQ(info.known_since_ns, 50);
  EXPECT_EQ(info.flow_count, 3u);
  EXPECT_THAT(run.found.flows, ElementsAre(10, 11, 12));
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
  // Accounted up to where the slowest worker was; known since the last has known all of its flows.
  EXPECT_EQ(run.found.info->taken_ns, 200);
  EXPECT_EQ(run.found.info->known_since_ns, 65);
}

TEST_F(CheckpointTest, OneWorkerThatLeavesItsSnapshotOutMakesNone) {
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

// A discarded checkpoint says up to when everything was accounted, exactly: a copy that is not
// complete says nothing.
TEST_F(CheckpointTest, ADiscardedCheckpointKeepsTheTimeOfTheLastCompleteCopy) {
  Run run = Begin(1, 2);
  run.checkpoint->Add(Chunk(1, {10}, true, 100));
  run.checkpoint->Add(Chunk(1, {11}, true, 110));
  ASSERT_TRUE(run.checkpoint->Commit(1).ok());
  run.checkpoint->Add(Chunk(2, {20}, true, 200));
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
  // Nothing will be accounted anew, so the rows are needed.
  EXPECT_THAT(Visible(), ElementsAre("2.spool"));
}

// An engine that discards before its first copy: what the engine before has accounted still holds.
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
  EXPECT_EQ(PathOf(".new"), "");  // Its space is free at once.
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
  ASSERT_TRUE(std::filesystem::remove(PathOf(".new")));
  EXPECT_FALSE(run.checkpoint->Commit(2).ok());
  EXPECT_EQ(run.checkpoint->state(), Checkpoint::State::kFailed);
  run = Run();
  EXPECT_THAT(Begin(2).found.flows, ElementsAre(10));
}

TEST_F(CheckpointTest, ADamagedCheckpointSaysWhenItWasWritten) {
  Run run = Begin(1);
  run.checkpoint->Add(Chunk(1, {10, 11}));
  ASSERT_TRUE(run.checkpoint->Commit(1).ok());
  const std::string path = PathOf(".checkpoint");
  const auto size = std::filesystem::file_size(path);
  for (const std::streamoff at : {std::streamoff{20}, static_cast<std::streamoff>(size) - 3}) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(at);
    file.put('x');
    file.close();
    CheckpointInfo info;
    EXPECT_TRUE(absl::IsNotFound(ReadCheckpoint(path, &info).status()));
    EXPECT_FALSE(info.flows_known);
    EXPECT_EQ(info.taken_ns, ModifiedNs(path));
    EXPECT_GT(info.taken_ns, 0);
  }
  std::filesystem::resize_file(path, size / 2);
  CheckpointInfo info;
  EXPECT_FALSE(ReadCheckpoint(path, &info).ok());
}

// Two kernels' engines share a folder (containers, or a shared disk), and one of them restarts
// under another name. What it knew under the old name is void; the other kernel's engine, which
// does not run at this moment, must find its own flows.
TEST_F(CheckpointTest, OnlyThisKernelsOtherCheckpointsAreVoid) {
  for (const char kernel : {'a', 'b'}) {
    Run run = Begin(static_cast<uint8_t>(kernel), 1, std::string(1, kernel), Kernel(kernel));
    run.checkpoint->Add(Chunk(1, {10}, true, kernel));
    ASSERT_TRUE(run.checkpoint->Commit(1).ok());
    for (uint64_t sequence = 1; sequence <= 2; ++sequence) {
      Prepare(*run.checkpoint, sequence,
              std::string(1, kernel) + std::to_string(sequence) + ".spool");
    }
  }
  Run renamed = Begin(9, 1, "new name", Kernel('a'));
  EXPECT_FALSE(renamed.found.info.has_value());
  ASSERT_TRUE(renamed.checkpoint->RecoverOthers(Kernel('a')).ok());
  // Of the void one all rows; of the other one those that it covers, and the rest is left to it.
  EXPECT_THAT(Visible(), UnorderedElementsAre("a1.spool", "a2.spool", "b1.spool"));
  EXPECT_EQ(Prepared(), 1u);
  const Run ours = Begin(10, 1, "a", Kernel('a'));
  EXPECT_FALSE(ours.found.info->flows_known);
  EXPECT_EQ(ours.found.info->taken_ns, 'a');
  const Run theirs = Begin(11, 1, "b", Kernel('b'));
  EXPECT_TRUE(theirs.found.info->flows_known);
  EXPECT_EQ(theirs.found.info->kernel, Kernel('b'));
  EXPECT_THAT(theirs.found.flows, ElementsAre(10));
  EXPECT_EQ(Prepared(), 0u);
  EXPECT_THAT(Visible(), UnorderedElementsAre("a1.spool", "a2.spool", "b1.spool"));
}

TEST_F(CheckpointTest, AnotherGatewayThatRunsIsLeftAlone) {
  Run run = Begin(1, 1, "a");
  run.checkpoint->Add(Chunk(1, {10}));
  ASSERT_TRUE(run.checkpoint->Commit(1).ok());
  Prepare(*run.checkpoint, 2, "a2.spool");
  Run other = Begin(2, 1, "b");
  ASSERT_TRUE(other.checkpoint->RecoverOthers(Kernel('a')).ok());
  EXPECT_THAT(Visible(), IsEmpty());
  run = Run();
  EXPECT_THAT(Begin(3, 1, "a").found.flows, ElementsAre(10));
}

TEST_F(CheckpointTest, WhatIsNotTakenOverIsVoidForTheNext) {
  Run run = Begin(1);
  run.checkpoint->Add(Chunk(1, {10}, true, 100));
  ASSERT_TRUE(run.checkpoint->Commit(1).ok());
  Prepare(*run.checkpoint, 2, "2.spool");
  run = Run();
  run = Begin(2, 1, "gw", Kernel('a'), /*takes_over=*/false);
  EXPECT_TRUE(run.found.info->flows_known);
  EXPECT_THAT(run.found.flows, IsEmpty());
  EXPECT_THAT(Visible(), ElementsAre("2.spool"));
  run = Run();
  run = Begin(3);
  EXPECT_FALSE(run.found.info->flows_known);
  EXPECT_EQ(run.found.info->taken_ns, 100);
}

TEST(PreparedNameTest, IsReadAsItIsWritten) {
  const PreparedName written = {"tag", EngineIdText(EngineId{7}), 12, "traffic_2020.with.dots.csv"};
  PreparedName read;
  ASSERT_TRUE(read.Parse(written.HiddenName()));
  EXPECT_EQ(read.tag, "tag");
  EXPECT_EQ(read.engine_id, written.engine_id);
  EXPECT_EQ(read.sequence, 12u);
  EXPECT_EQ(read.name, written.name);
  for (const char* other : {"tag.checkpoint", "tag.new", "tag.lock", "", "a.b.c.d"}) {
    EXPECT_FALSE(read.Parse(other)) << other;
  }
}

}  // namespace
}  // namespace ctacct
