#include "engine/output/pipe_writer.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;

// Only a broken writer needs as long.
constexpr std::chrono::seconds kPatience{30};

class PipeWriterTest : public testing::Test {
 protected:
  void SetUp() override {
    signal(SIGPIPE, SIG_IGN);
    path_ = testing::TempDir() + "/fifo";
  }
  void TearDown() override { std::filesystem::remove(path_); }

  static std::string Lines(size_t count, const std::string& line) {
    std::string lines;
    for (size_t i = 0; i < count; ++i) lines += line + std::to_string(i) + "\n";
    return lines;
  }
  // Reads until `bytes` have come. That they do not come in time, or that the writer closes the
  // FIFO before, fails the test.
  static std::string Read(int fd, size_t bytes) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    std::string text;
    char buffer[65536];
    while (text.size() < bytes) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          deadline - std::chrono::steady_clock::now());
      pollfd readable = {fd, POLLIN, 0};
      if (left.count() <= 0 || poll(&readable, 1, static_cast<int>(left.count())) <= 0) {
        ADD_FAILURE() << text.size() << " of " << bytes << " bytes came in time";
        break;
      }
      const ssize_t got = read(fd, buffer, sizeof(buffer));
      if (got <= 0) {
        ADD_FAILURE() << "the writer is gone after " << text.size() << " of " << bytes << " bytes";
        break;
      }
      text.append(buffer, static_cast<size_t>(got));
    }
    return text;
  }
  // A reader that never waits: one that finds no writer would wait for ever.
  int OpenReader() const {
    const int fd = open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    EXPECT_GE(fd, 0);
    return fd;
  }
  // At the end each line is one or the other.
  static void ExpectAllCounted(PipeWriter* writer, uint64_t written, uint64_t dropped) {
    writer->Finish();
    EXPECT_EQ(writer->lines_written(), written);
    EXPECT_EQ(writer->lines_dropped(), dropped);
  }
  static void WaitFor(const std::function<bool()>& holds) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!holds()) {
      ASSERT_LT(std::chrono::steady_clock::now(), deadline);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  static void WaitForDrops(const PipeWriter& writer, uint64_t drops) {
    WaitFor([&] { return writer.lines_dropped() >= drops; });
  }

  std::string path_;
};

TEST_F(PipeWriterTest, MakesAFifoThatOthersCannotRead) {
  ASSERT_TRUE(PipeWriter::Open(path_).ok());
  struct stat info {};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_TRUE(S_ISFIFO(info.st_mode));
  EXPECT_EQ(info.st_mode & 0007, 0u);
}

TEST_F(PipeWriterTest, SomethingElseThereIsAnError) {
  std::ofstream(path_) << "precious";
  const auto writer = PipeWriter::Open(path_);
  ASSERT_FALSE(writer.ok());
  EXPECT_THAT(std::string(writer.status().message()), HasSubstr(path_));
  EXPECT_FALSE(PipeWriter::Open("/nowhere/fifo").ok());
}

TEST_F(PipeWriterTest, AReaderGetsEveryLine) {
  auto writer = PipeWriter::Open(path_);
  ASSERT_TRUE(writer.ok());
  const std::string lines = Lines(200'000, "line ");  // More than any pipe holds.
  const int fd = OpenReader();
  (*writer)->Offer(lines, 200'000);
  EXPECT_EQ(Read(fd, lines.size()), lines);
  ExpectAllCounted(writer->get(), 200'000, 0);
  close(fd);
}

TEST_F(PipeWriterTest, WithoutAReaderLinesAreDroppedAndCounted) {
  auto writer = PipeWriter::Open(path_);
  ASSERT_TRUE(writer.ok());
  (*writer)->Offer("a\nb\n", 2);
  (*writer)->Offer("c\n", 1);
  ASSERT_NO_FATAL_FAILURE(WaitForDrops(**writer, 2));
  // The last ones wait for a reader.
  const int fd = OpenReader();
  EXPECT_EQ(Read(fd, 2), "c\n");
  ExpectAllCounted(writer->get(), 1, 2);
  close(fd);
}

TEST_F(PipeWriterTest, TheLastLinesAreDroppedAndCountedToo) {
  auto writer = PipeWriter::Open(path_);
  ASSERT_TRUE(writer.ok());
  for (int i = 0; i < 3; ++i) (*writer)->Offer("a\n", 1);
  ExpectAllCounted(writer->get(), 0, 3);
}

// Rows that only count ended flows have no lines as CSV: an interval of such rows offers none.
TEST_F(PipeWriterTest, AnOfferOfNoLinesIsDeliveredAtOnce) {
  auto writer = PipeWriter::Open(path_);
  ASSERT_TRUE(writer.ok());
  const int fd = OpenReader();
  (*writer)->Offer("", 0);
  (*writer)->WaitDelivered();
  (*writer)->Offer("a\n", 1);
  EXPECT_EQ(Read(fd, 2), "a\n");
  (*writer)->WaitDelivered();
  (*writer)->Offer("", 0);
  ExpectAllCounted(writer->get(), 1, 0);
  close(fd);
}

TEST_F(PipeWriterTest, WhatIsWrittenAndDroppedIsAllThatWasOffered) {
  auto writer = PipeWriter::Open(path_);
  ASSERT_TRUE(writer.ok());
  const int fd = OpenReader();
  constexpr size_t kLines = 100'000;
  (*writer)->Offer(Lines(kLines, std::string(50, 'x')), kLines);
  (*writer)->Finish();  // Gives up: the pipe is full.
  EXPECT_GT((*writer)->lines_written(), 0u);
  EXPECT_GT((*writer)->lines_dropped(), 0u);
  const uint64_t written = (*writer)->lines_written();
  EXPECT_EQ(written + (*writer)->lines_dropped(), kLines);
  // The reader finds just those, each of them whole, and then the end.
  std::string got;
  char buffer[65536];
  ssize_t bytes;
  while ((bytes = read(fd, buffer, sizeof(buffer))) > 0)
    got.append(buffer, static_cast<size_t>(bytes));
  writer->reset();
  EXPECT_EQ(read(fd, buffer, sizeof(buffer)), 0);
  close(fd);
  EXPECT_TRUE(got.ends_with('\n'));
  EXPECT_EQ(static_cast<uint64_t>(std::count(got.begin(), got.end(), '\n')), written);
}

TEST_F(PipeWriterTest, ASlowReaderGetsWholeLines) {
  auto writer = PipeWriter::Open(path_);
  ASSERT_TRUE(writer.ok());
  const int fd = OpenReader();
  constexpr size_t kLines = 100'000;
  const std::string first = Lines(kLines, std::string(50, 'x'));
  (*writer)->Offer(first, kLines);
  ASSERT_NO_FATAL_FAILURE(WaitFor([&] { return (*writer)->lines_written() > 0; }));
  (*writer)->WaitDelivered();  // Gives up: the pipe is full.
  (*writer)->Offer("end\n", 1);
  ASSERT_NO_FATAL_FAILURE(WaitForDrops(**writer, 1));
  std::string got = Read(fd, 1 << 16);
  while (!got.ends_with("end\n") && !HasFailure()) got += Read(fd, 1);
  ASSERT_TRUE(got.ends_with("\nend\n"));
  EXPECT_EQ(got.substr(0, got.size() - 4), first.substr(0, got.size() - 4));
  const auto whole = static_cast<uint64_t>(std::count(got.begin(), got.end(), '\n')) - 1;
  ExpectAllCounted(writer->get(), whole + 1, kLines - whole);
  close(fd);
}

TEST_F(PipeWriterTest, AReaderThatDiesIsSurvived) {
  auto writer = PipeWriter::Open(path_);
  ASSERT_TRUE(writer.ok());
  int fd = OpenReader();
  (*writer)->Offer("one\n", 1);
  EXPECT_EQ(Read(fd, 4), "one\n");
  (*writer)->WaitDelivered();
  close(fd);
  (*writer)->Offer("two\n", 1);  // Nobody is there; a new one comes.
  fd = OpenReader();
  EXPECT_EQ(Read(fd, 4), "two\n");
  ExpectAllCounted(writer->get(), 2, 0);
  close(fd);
}

}  // namespace
}  // namespace ctacct
