#include "engine/top/spool_watch.h"

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/rows/csv.h"
#include "engine/spool/spool_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kSecond = 1'000'000'000;

class TopFolderTest : public ::testing::Test {
 protected:
  TopFolderTest() {
    std::string pattern = ::testing::TempDir() + "/top.XXXXXX";
    base_ = mkdtemp(pattern.data());
    folder_ = base_ + "/spool";
    std::filesystem::create_directory(folder_);
  }
  ~TopFolderTest() override { std::filesystem::remove_all(base_); }

  static SpoolHeader Header(const std::string& gateway, uint8_t engine, uint64_t sequence,
                            int64_t end_s) {
    SpoolHeader header;
    header.engine_id.fill(engine);
    header.gateway = gateway;
    header.sequence = sequence;
    header.interval_end_ns = end_s * kSecond;
    header.interval_length_ns = 15 * kSecond;
    return header;
  }

  static std::vector<TrafficRow> Rows(int64_t end_s, size_t count) {
    TrafficRow row;
    row.time_ns = end_s * kSecond;
    row.protocol = 6;
    row.bytes_src = 100;
    row.packets_src = 1;
    return std::vector<TrafficRow>(count, row);
  }

  // Writes a file with this number of rows and returns its path.
  std::string Write(const SpoolHeader& header, size_t rows, const std::vector<Gap>& gaps = {},
                    const std::string& hidden_name = "") {
    const absl::StatusOr<std::string> name = WriteSpoolFile(
        folder_, header, Rows(header.interval_end_ns / kSecond, rows), gaps, hidden_name);
    EXPECT_TRUE(name.ok()) << name.status();
    return folder_ + "/" + *name;
  }

  void Open() {
    absl::StatusOr<TopFolder> opened = TopFolder::Open(folder_, 15 * kSecond);
    ASSERT_TRUE(opened.ok()) << opened.status();
    top_ = std::make_unique<TopFolder>(*std::move(opened));
  }

  bool Update() {
    const absl::StatusOr<bool> changed = top_->Update();
    EXPECT_TRUE(changed.ok()) << changed.status();
    return changed.ok() && *changed;
  }

  // "GATEWAY END ROWS"
  std::vector<std::string> Seen() const {
    std::vector<std::string> seen;
    for (const auto& interval : top_->intervals()) {
      seen.push_back(interval->gateway + " " + std::to_string(interval->end_ns / kSecond) + " " +
                     std::to_string(interval->rows.size()));
    }
    return seen;
  }

  std::string base_;
  std::string folder_;
  std::unique_ptr<TopFolder> top_;
};

TEST_F(TopFolderTest, TakesTheNewestOfEachGateway) {
  for (uint64_t i = 1; i <= 3; ++i) {
    Write(Header("a", 1, i, 15 * static_cast<int64_t>(i)), i);
    Write(Header("b", 2, i, 15 * static_cast<int64_t>(i)), 10 * i);
  }
  Write(Header("a", 9, 1, 60), 7);  // A later run of the same gateway.
  Open();
  EXPECT_THAT(Seen(), ElementsAre("a 60 7", "b 45 30"));
  EXPECT_FALSE(Update());
  Write(Header("b", 2, 4, 60), 5);
  EXPECT_TRUE(Update());
  EXPECT_THAT(Seen(), ElementsAre("a 60 7", "b 60 5"));
  Write(Header("b", 2, 5, 45), 4);  // The clock was set back; the engine counts on.
  EXPECT_TRUE(Update());
  EXPECT_THAT(Seen(), ElementsAre("a 60 7", "b 45 4"));
  Write(Header("a", 8, 1, 30), 3);  // Old, brought late.
  EXPECT_FALSE(Update());
  EXPECT_EQ(top_->skipped() + top_->missed(), 0u);
}

TEST_F(TopFolderTest, ReadsHowTheIntervalWas) {
  SpoolHeader header = Header("a", 1, 1, 15);
  header.completeness = Completeness::kPartial;
  header.events_dropped = 42;
  header.track_open = true;
  header.interval_length_ns = 5 * kSecond;
  header.covered_from_ns = 12 * kSecond;
  header.covered_to_ns = 15 * kSecond;
  const Gap gap = {1, 2, GapCause::kOverrun, Completeness::kPartial, 42, 3};
  Write(header, 1, {gap});
  Open();
  const TopInterval& interval = *top_->intervals()[0];
  EXPECT_EQ(interval.completeness, Completeness::kPartial);
  EXPECT_EQ(interval.events_dropped, 42u);
  EXPECT_TRUE(interval.track_open);
  EXPECT_EQ(interval.length_ns, 5 * kSecond);
  EXPECT_EQ(interval.covered_ns, 3 * kSecond);
  EXPECT_THAT(interval.gaps, ElementsAre(gap));
  EXPECT_EQ(interval.rows[0].bytes_src, 100u);
}

TEST_F(TopFolderTest, AChangeOfMasksIsNoted) {
  SpoolHeader header = Header("a", 1, 1, 15);
  header.src_mask = {255, 255, 255, 0};
  Write(header, 1);
  Open();
  ASSERT_TRUE(top_->intervals()[0]->masks.has_value());
  EXPECT_EQ(top_->intervals()[0]->masks->src, header.src_mask);
  EXPECT_FALSE(top_->intervals()[0]->masks_changed);
  // Since the interval before.
  Write(Header("a", 2, 1, 30), 1);
  ASSERT_TRUE(top_->Update().ok());
  EXPECT_EQ(top_->intervals()[0]->masks, GroupMasks());
  EXPECT_TRUE(top_->intervals()[0]->masks_changed);
  Write(Header("a", 2, 2, 45), 1);
  ASSERT_TRUE(top_->Update().ok());
  EXPECT_FALSE(top_->intervals()[0]->masks_changed);
  // Within the interval: its rows are of both.
  header = Header("a", 3, 1, 45);
  header.src_mask = {255, 255, 0, 0};
  Write(header, 1);
  ASSERT_TRUE(top_->Update().ok());
  EXPECT_FALSE(top_->intervals()[0]->masks.has_value());
  EXPECT_TRUE(top_->intervals()[0]->masks_changed);
}

TEST_F(TopFolderTest, ARestartWithinAnIntervalAddsUp) {
  Open();
  SpoolHeader before = Header("a", 1, 5, 60);
  before.covered_from_ns = 45 * kSecond;
  before.covered_to_ns = 50 * kSecond;
  Write(before, 2);
  EXPECT_TRUE(Update());
  const std::shared_ptr<const TopInterval> shown = top_->intervals()[0];
  SpoolHeader after = Header("a", 2, 1, 60);
  after.completeness = Completeness::kPartial;
  after.events_dropped = 1;
  after.covered_from_ns = 58 * kSecond;
  after.covered_to_ns = 60 * kSecond;
  Write(after, 3, {{1, 2, GapCause::kRestart, Completeness::kPartial, 0, 1}});
  EXPECT_TRUE(Update());
  EXPECT_THAT(Seen(), ElementsAre("a 60 5"));
  EXPECT_EQ(top_->intervals()[0]->completeness, Completeness::kPartial);
  EXPECT_EQ(top_->intervals()[0]->gaps.size(), 1u);
  EXPECT_EQ(top_->intervals()[0]->covered_ns, 7 * kSecond);
  EXPECT_EQ(shown->rows.size(), 2u);  // What somebody looks at stays as it is.
  // As does a look at the folder with both.
  Open();
  EXPECT_THAT(Seen(), ElementsAre("a 60 5"));
}

TEST_F(TopFolderTest, AFileOpenedInTimeIsReadAlthoughItIsGone) {
  Open();
  // inotify reports the file at once.
  const std::string path = Write(Header("a", 1, 1, 15), 20'000);
  pollfd fd = {top_->fd(), POLLIN, 0};
  EXPECT_EQ(poll(&fd, 1, 1'000), 1);
  EXPECT_TRUE(Update());
  EXPECT_THAT(Seen(), ElementsAre("a 15 20000"));
  // A file that is gone when it is looked for is counted as missed.
  std::filesystem::remove(Write(Header("a", 1, 2, 30), 1));
  EXPECT_FALSE(Update());
  EXPECT_EQ(top_->missed(), 1u);
  EXPECT_EQ(top_->skipped(), 0u);
  // A publication by rename, and one by link (file systems without RENAME_NOREPLACE).
  const std::string kept = Write(Header("a", 1, 3, 45), 3, {}, ".hidden");
  EXPECT_FALSE(Update());
  std::filesystem::rename(folder_ + "/.hidden", folder_ + "/x-0000000003.spool");
  EXPECT_TRUE(Update());
  Write(Header("a", 1, 4, 60), 4, {}, ".hidden");
  ASSERT_EQ(link((folder_ + "/.hidden").c_str(), (folder_ + "/x-0000000004.spool").c_str()), 0);
  EXPECT_TRUE(Update());
  EXPECT_THAT(Seen(), ElementsAre("a 60 4"));
  EXPECT_EQ(top_->missed(), 1u);
}

TEST_F(TopFolderTest, ABadFileIsPassedOverAndSaid) {
  std::filesystem::resize_file(Write(Header("a", 1, 2, 30), 2), 400);
  Write(Header("a", 1, 1, 15), 1);
  Open();
  EXPECT_THAT(Seen(), ElementsAre("a 15 1"));  // The one before is better than nothing.
  EXPECT_EQ(top_->skipped(), 1u);
  EXPECT_THAT(top_->skipped_why(), HasSubstr("torn"));

  const std::string path = Write(Header("a", 1, 3, 45), 3);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(500);
  file.put('\x55');
  file.close();
  EXPECT_FALSE(Update());
  EXPECT_EQ(top_->skipped(), 2u);
  EXPECT_THAT(top_->skipped_why(), HasSubstr("corrupt"));
  ASSERT_EQ(mkfifo((folder_ + "/fifo.spool").c_str(), 0600), 0);
  std::filesystem::create_symlink("/dev/zero", folder_ + "/link.spool");
  Update();
  EXPECT_THAT(Seen(), ElementsAre("a 15 1"));
  Write(Header("a", 1, 4, 60), 4);
  EXPECT_TRUE(Update());
  EXPECT_THAT(Seen(), ElementsAre("a 60 4"));
}

TEST_F(TopFolderTest, AFileThatIsCopiedInPlaceIsReadOnceItIsWhole) {
  const std::string path = Write(Header("a", 1, 1, 15), 5'000);
  const std::string away = base_ + "/x-0000000001.spool";
  std::filesystem::rename(path, away);
  Open();
  std::ifstream from(away, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(from)), {});
  std::ofstream to(folder_ + "/x-0000000001.spool", std::ios::binary);
  to.write(bytes.data(), 1'000);
  to.flush();
  EXPECT_FALSE(Update());
  to.write(bytes.data() + 1'000, static_cast<std::streamsize>(bytes.size()) - 1'000);
  to.close();
  EXPECT_TRUE(Update());
  EXPECT_THAT(Seen(), ElementsAre("a 15 5000"));
  EXPECT_EQ(top_->skipped(), 0u);
}

TEST_F(TopFolderTest, AFolderThatGoesComesBack) {
  Open();
  Write(Header("a", 1, 1, 15), 1);
  EXPECT_TRUE(Update());
  std::filesystem::rename(folder_, base_ + "/away");
  EXPECT_THAT(std::string(top_->Update().status().message()), HasSubstr(folder_));
  EXPECT_THAT(Seen(), ElementsAre("a 15 1"));
  std::filesystem::create_directory(folder_);
  Write(Header("a", 1, 2, 30), 2);
  EXPECT_TRUE(Update());
  EXPECT_THAT(Seen(), ElementsAre("a 30 2"));
  Write(Header("a", 1, 3, 45), 3);
  EXPECT_TRUE(Update());
  EXPECT_FALSE(TopFolder::Open(base_ + "/none", kSecond).ok());
}

TEST_F(TopFolderTest, ReadsCsvFiles) {
  const auto write = [this](const std::string& name, int64_t end_s, size_t rows, bool open,
                            bool whole = true) {
    std::string text;
    for (const TrafficRow& row : Rows(end_s, rows)) AppendCsvLine(row, open, &text);
    if (!whole) text.pop_back();
    std::ofstream(folder_ + "/" + name) << text;
  };
  write("traffic_1970-01-01T00_00_15.csv", 15, 5'000, true);
  write("traffic_1970-01-01T00_00_15_1.csv", 15, 2, true);  // A restart within the interval.
  Open();
  EXPECT_THAT(Seen(), ElementsAre(" 15 5002"));
  EXPECT_TRUE(top_->intervals()[0]->track_open);
  EXPECT_EQ(top_->intervals()[0]->completeness, std::nullopt);
  EXPECT_EQ(top_->intervals()[0]->length_ns, 15 * kSecond);
  write("traffic_1970-01-01T00_00_30.csv", 30, 3, false);
  EXPECT_TRUE(Update());
  EXPECT_THAT(Seen(), ElementsAre(" 30 3"));
  EXPECT_FALSE(top_->intervals()[0]->track_open);
  write("traffic_1970-01-01T00_00_45.csv", 45, 3, false, false);
  std::ofstream(folder_ + "/traffic_rubbish.csv") << "rubbish\n";
  std::ofstream(folder_ + "/other.csv") << "rubbish\n";
  EXPECT_FALSE(Update());
  EXPECT_EQ(top_->skipped(), 2u);
  EXPECT_THAT(top_->skipped_why(), HasSubstr("traffic_rubbish.csv: corrupt in line 1"));
}

}  // namespace
}  // namespace ctacct
