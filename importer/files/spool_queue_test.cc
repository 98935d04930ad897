#include "importer/files/spool_queue.h"

#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/system/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class SpoolQueueTest : public ::testing::Test {
 protected:
  SpoolQueueTest() {
    std::string pattern = ::testing::TempDir() + "/queue.XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~SpoolQueueTest() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& name, const std::string& contents = "x") {
    std::ofstream(folder_ + "/" + name) << contents;
  }
  SpoolQueue Open() { return SpoolQueue::Open(folder_).value(); }

  std::string folder_;
};

TEST_F(SpoolQueueTest, CsvFirstThenSpoolByName) {
  for (const char* const name :
       {"b-0000000002.spool", "traffic_2021.csv", "a-0000000010.spool", "b-0000000001.spool",
        "traffic_2020.csv", ".b.spool.tmp", ".x.spool", "other.csv", "b.spool.reason", "notes"}) {
    Write(name);
  }
  EXPECT_THAT(Open().Scan().value(),
              ElementsAre("traffic_2020.csv", "traffic_2021.csv", "a-0000000010.spool",
                          "b-0000000001.spool", "b-0000000002.spool"));
}

// What they are shows when they are opened.
TEST_F(SpoolQueueTest, AlsoWhatIsNoFile) {
  ASSERT_EQ(symlink("/etc/passwd", (folder_ + "/link.spool").c_str()), 0);
  std::filesystem::create_directory(folder_ + "/folder.spool");
  Write("empty.spool", "");
  SpoolQueue queue = Open();
  EXPECT_THAT(queue.Scan().value(), ElementsAre("empty.spool", "folder.spool", "link.spool"));
  for (const char* const name : {"empty.spool", "folder.spool", "link.spool"}) {
    queue.Hold(name, absl::InfiniteDuration());
  }
  EXPECT_THAT(queue.Scan().value(), IsEmpty());
  Write("empty.spool", "no more");
  EXPECT_THAT(queue.Scan().value(), ElementsAre("empty.spool"));
}

TEST_F(SpoolQueueTest, HeldUntilChangedOrDue) {
  Write("a.spool");
  Write("b.spool");
  SpoolQueue queue = Open();
  queue.Hold("a.spool", absl::InfiniteDuration());
  queue.Hold("b.spool", -absl::InfiniteDuration());
  EXPECT_THAT(queue.Scan().value(), ElementsAre("b.spool"));
  Write("a.spool", "longer");
  EXPECT_THAT(queue.Scan().value(), ElementsAre("a.spool", "b.spool"));
  queue.Hold("gone.spool", absl::InfiniteDuration());
}

TEST_F(SpoolQueueTest, ABacklogComesInOrderAndInParts) {
  constexpr size_t kFiles = kScanFilesMax + 5;
  for (size_t i = 0; i < kFiles; ++i) Write(std::to_string(100'000 + i) + ".spool");
  SpoolQueue queue = Open();
  std::vector<std::string> names = queue.Scan().value();
  ASSERT_EQ(names.size(), kScanFilesMax);
  EXPECT_EQ(names.front(), "100000.spool");
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  for (const std::string& name : names) std::filesystem::remove(folder_ + "/" + name);
  names = queue.Scan().value();
  ASSERT_EQ(names.size(), 5u);
  EXPECT_EQ(names.back(), std::to_string(100'000 + kFiles - 1) + ".spool");
}

TEST_F(SpoolQueueTest, WaitEndsWhenSomethingAppears) {
  const SpoolQueue queue = Open();
  const absl::Time start = absl::Now();
  // What happened before the wait is not lost.
  Write(".a.tmp");
  std::filesystem::rename(folder_ + "/.a.tmp", folder_ + "/a.spool");
  queue.Wait(-1);
  const UniqueFd stop(eventfd(1, EFD_CLOEXEC));
  queue.Wait(stop.get());
  EXPECT_LT(absl::Now() - start, kRescanPeriod);
}

TEST_F(SpoolQueueTest, ARemovedOrReplacedFolderIsSaid) {
  SpoolQueue queue = Open();
  std::filesystem::remove(folder_);
  EXPECT_TRUE(absl::IsFailedPrecondition(queue.Scan().status()));
  std::filesystem::create_directory(folder_);
  EXPECT_TRUE(absl::IsFailedPrecondition(queue.Scan().status()));
  EXPECT_TRUE(absl::IsNotFound(SpoolQueue::Open(folder_ + "/none").status()));
}

}  // namespace
}  // namespace ctacct
