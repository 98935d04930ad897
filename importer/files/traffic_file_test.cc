#include "importer/files/traffic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/spool/spool_writer.h"
#include "engine/system/durable_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;

constexpr char kLine[] =
    "1600000005000000000,tcp,10.32.251.0,10.32.250.0,443,16,13,3220,1884,1,65021,3\n";

class TrafficFileTest : public ::testing::Test {
 protected:
  TrafficFileTest() {
    std::string pattern = ::testing::TempDir() + "/traffic_file.XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~TrafficFileTest() override { std::filesystem::remove_all(folder_); }

  std::string WriteCsv(const std::string& name, const std::string& text) {
    EXPECT_TRUE(WriteDurably(folder_, name, text).ok());
    return folder_ + "/" + name;
  }
  absl::StatusOr<FileSummary> Read(const std::string& path, const std::string& gateway = "") {
    rows_.clear();
    const absl::StatusOr<TrafficFile> file =
        TrafficFile::Open({AT_FDCWD, ".", path, path}, gateway);
    if (!file.ok()) return file.status();
    return file->Read([this](absl::Span<const TrafficRow> rows) {
      rows_.insert(rows_.end(), rows.begin(), rows.end());
      return absl::OkStatus();
    });
  }

  std::string folder_;
  std::vector<TrafficRow> rows_;
};

TEST_F(TrafficFileTest, ASpoolFileKeepsItsKey) {
  SpoolHeader header;
  header.engine_id.fill(9);
  header.sequence = 12;
  header.interval_end_ns = 15'000'000'000;
  header.interval_length_ns = 15'000'000'000;
  TrafficRow row;
  row.time_ns = header.interval_end_ns;
  const std::string name = WriteSpoolFile(folder_, header, {row, row}).value();
  const absl::StatusOr<FileSummary> summary = Read(folder_ + "/" + name);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->engine_id, header.engine_id);
  EXPECT_EQ(summary->sequence, 12u);
  EXPECT_EQ(summary->row_count, 2u);
  EXPECT_EQ(summary->spool, header);
  EXPECT_EQ(rows_.size(), 2u);
  EXPECT_EQ(*Read(folder_ + "/" + name), *summary);
}

TEST_F(TrafficFileTest, ACsvFileIsKeyedByItsContentsAndGateway) {
  const absl::StatusOr<FileSummary> one = Read(WriteCsv("1.csv", kLine));
  const absl::StatusOr<FileSummary> same = Read(WriteCsv("2.csv", kLine));
  const absl::StatusOr<FileSummary> twice = Read(WriteCsv("3.csv", std::string(kLine) + kLine));
  ASSERT_TRUE(one.ok() && same.ok() && twice.ok());
  EXPECT_EQ(*one, *same);
  EXPECT_NE(one->engine_id, twice->engine_id);
  const absl::StatusOr<FileSummary> of_a = Read(folder_ + "/1.csv", "a");
  const absl::StatusOr<FileSummary> of_b = Read(folder_ + "/1.csv", "b");
  ASSERT_TRUE(of_a.ok() && of_b.ok());
  EXPECT_EQ(*of_a, *Read(folder_ + "/2.csv", "a"));
  EXPECT_NE(of_a->engine_id, of_b->engine_id);
  EXPECT_NE(of_a->engine_id, one->engine_id);
  EXPECT_EQ(of_a->engine_id[6] >> 4, 8);
  ASSERT_TRUE(Read(folder_ + "/3.csv").ok());
  EXPECT_EQ(one->engine_id[6] >> 4, 8);
  EXPECT_EQ(one->sequence, 0u);
  EXPECT_FALSE(one->spool.has_value());
  EXPECT_EQ(twice->row_count, 2u);
  EXPECT_EQ(rows_.size(), 2u);
}

// Lines across the boundaries of read buffers and row blocks.
TEST_F(TrafficFileTest, ALongCsvFileKeepsEveryRow) {
  std::string text;
  constexpr uint64_t kRows = 20'000;
  for (uint64_t i = 0; i < kRows; ++i) {
    text += "1600000005000000000,udp,10.32.251.0,10.32.250.0,53," + std::to_string(i) +
            ",13,3220,1884,0,0\n";
  }
  const absl::StatusOr<FileSummary> summary = Read(WriteCsv("long.csv", text));
  ASSERT_TRUE(summary.ok()) << summary.status();
  ASSERT_EQ(rows_.size(), kRows);
  for (uint64_t i = 0; i < kRows; ++i) ASSERT_EQ(rows_[i].packets_src, i);
}

TEST_F(TrafficFileTest, LinesMayEndInCrlf) {
  const std::string line(kLine, sizeof(kLine) - 2);
  ASSERT_TRUE(Read(WriteCsv("1.csv", line + "\r\n" + line + "\n")).ok());
  ASSERT_EQ(rows_.size(), 2u);
  EXPECT_EQ(rows_[0], rows_[1]);
  EXPECT_TRUE(absl::IsDataLoss(Read(WriteCsv("2.csv", line + "\r\r\n")).status()));
}

TEST_F(TrafficFileTest, BadCsvNamesLineAndByte) {
  const std::string line = kLine;
  absl::Status status = Read(WriteCsv("1.csv", line + "1,2\n" + line)).status();
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("1.csv: line 2 at byte " + std::to_string(line.size()) + ": 2 columns"));
  status = Read(WriteCsv("2.csv", line + line.substr(0, 20))).status();
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("line 2 at byte"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("torn"));
  status = Read(WriteCsv("3.csv", line + std::string(3 << 20, '9'))).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("longer than any row"));
  status = Read(WriteCsv("4.csv", line + "\n")).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("line 2 at byte"));
}

// An archive may hold many days: each may have what a day can have, and no more.
TEST_F(TrafficFileTest, TheSumsOfACsvFilesDaysHaveBounds) {
  const auto line = [](const std::string& time, const std::string& counters) {
    return time + ",udp,10.32.251.0,10.32.250.0,53," + counters + "\n";
  };
  const std::string day1 = "1600000005000000000";
  const std::string day2 = "1600100010000000000";
  constexpr char kMost[] = "9007199254740991";
  for (size_t column = 0; column < 6; ++column) {
    if (column == 4) continue;  // Four million rows of the largest count would be needed.
    std::string zeros = "0,0,0,0,0,0";
    const auto with = [&zeros, column](const std::string& value) {
      return std::string(zeros).replace(2 * column, 1, value);
    };
    const std::string within = line(day1, with(kMost)) + line(day2, with(kMost)) +
                               line(day1, with("1")) + line(day2, with("1"));
    EXPECT_TRUE(Read(WriteCsv("within" + std::to_string(column) + ".csv", within)).ok());
    const absl::Status status =
        Read(WriteCsv("beyond" + std::to_string(column) + ".csv", within + line(day2, with("1"))))
            .status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << column << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("line 5 at byte"));
    constexpr const char* kNames[] = {"packets_src", "packets_dst",      "bytes_src",
                                      "bytes_dst",   "connection_count", "connection_time"};
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(std::string("the rows' ") + kNames[column] +
                          " add up to more than 9007199254740992 in a day"));
  }
}

TEST_F(TrafficFileTest, AWriterIsNoticed) {
  const std::string path = WriteCsv("1.csv", kLine);
  {
    const UniqueFd writer(open(path.c_str(), O_WRONLY | O_CLOEXEC));
    EXPECT_TRUE(absl::IsAborted(Read(path).status()));
  }
  EXPECT_TRUE(Read(path).ok());
}

TEST_F(TrafficFileTest, ATornSpoolFileIsNotTornWhileItIsWritten) {
  SpoolHeader header;
  header.engine_id.fill(9);
  header.sequence = 1;
  header.interval_length_ns = 15'000'000'000;
  const std::string name = WriteSpoolFile(folder_, header, {TrafficRow()}).value();
  const std::string path = folder_ + "/" + name;
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  {
    const UniqueFd writer(open(path.c_str(), O_WRONLY | O_CLOEXEC));
    EXPECT_TRUE(absl::IsAborted(Read(path).status()));
  }
  EXPECT_TRUE(absl::IsDataLoss(Read(path).status()));
}

TEST_F(TrafficFileTest, TheTakersErrorEndsThePass) {
  const std::string path = WriteCsv("1.csv", kLine);
  const absl::StatusOr<TrafficFile> file = TrafficFile::Open({AT_FDCWD, ".", path, path});
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE(absl::IsCancelled(
      file->Read([](absl::Span<const TrafficRow>) { return absl::CancelledError(""); }).status()));
}

TEST_F(TrafficFileTest, MissingAndIrregularFiles) {
  EXPECT_TRUE(absl::IsNotFound(Read(folder_ + "/none.spool").status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(Read(folder_).status()));
}

}  // namespace
}  // namespace ctacct
