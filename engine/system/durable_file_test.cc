#include "engine/system/durable_file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

class DurableFileTest : public ::testing::Test {
 protected:
  DurableFileTest() {
    std::string pattern = ::testing::TempDir() + "/durable.XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~DurableFileTest() override { std::filesystem::remove_all(folder_); }

  std::string Contents(const std::string& name) {
    std::ifstream file(folder_ + "/" + name, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }

  int CountFiles() {
    int count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder_)) ++count;
    return count;
  }

  std::string folder_;
};

TEST_F(DurableFileTest, IsInvisibleUntilCommitted) {
  absl::StatusOr<DurableFile> file = DurableFile::Create(folder_, "a");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE(file->Append("one ").ok());
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/a"));
  EXPECT_FALSE(std::filesystem::is_empty(folder_));  // The hidden file.
  ASSERT_TRUE(file->Append("two").ok());
  ASSERT_TRUE(file->Commit().ok());
  EXPECT_EQ(Contents("a"), "one two");
  EXPECT_EQ(CountFiles(), 1);
}

TEST_F(DurableFileTest, NamesInAFolder) {
  for (const char* name : {"a", "b", "c"}) std::ofstream(folder_ + "/" + name);
  const absl::StatusOr<UniqueFd> folder = OpenFolder(folder_);
  ASSERT_TRUE(folder.ok()) << folder.status();
  for (int i = 0; i < 2; ++i) {  // A second scan starts from the beginning.
    std::set<std::string> names;
    ASSERT_TRUE(ForEachName(folder->get(), folder_, [&names](const char* name) {
                  names.insert(name);
                  return true;
                }).ok());
    EXPECT_EQ(names, (std::set<std::string>{".", "..", "a", "b", "c"}));
  }
  int seen = 0;
  ASSERT_TRUE(
      ForEachName(folder->get(), folder_, [&seen](const char*) { return ++seen < 2; }).ok());
  EXPECT_EQ(seen, 2);
  EXPECT_EQ(ForEachName(-1, "/f", [](const char*) { return true; }).message(),
            "cannot open folder /f: Bad file descriptor");
}

TEST_F(DurableFileTest, AReplacedFolderIsNoticed) {
  const std::string inner = folder_ + "/inner";
  std::filesystem::create_directory(inner);
  const absl::StatusOr<UniqueFd> fd = OpenFolder(inner);
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_TRUE(IsFolderAt(fd->get(), inner));
  std::filesystem::rename(inner, folder_ + "/other");
  EXPECT_FALSE(IsFolderAt(fd->get(), inner));
  std::filesystem::create_directory(inner);
  EXPECT_FALSE(IsFolderAt(fd->get(), inner));
  EXPECT_FALSE(IsFolderAt(-1, inner));
}

TEST_F(DurableFileTest, AnAbandonedFileLeavesNothing) {
  {
    absl::StatusOr<DurableFile> file = DurableFile::Create(folder_, "a");
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->Append("half").ok());
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST_F(DurableFileTest, ReplacesNothing) {
  ASSERT_TRUE(WriteDurably(folder_, "a", "first").ok());
  EXPECT_TRUE(absl::IsAlreadyExists(WriteDurably(folder_, "a", "second")));
  EXPECT_EQ(Contents("a"), "first");
  EXPECT_EQ(CountFiles(), 1);
}

TEST_F(DurableFileTest, TwoWritersOfOneNameDoNotMix) {
  absl::StatusOr<DurableFile> one = DurableFile::Create(folder_, "a");
  absl::StatusOr<DurableFile> two = DurableFile::Create(folder_, "a");
  ASSERT_TRUE(one.ok() && two.ok());
  ASSERT_TRUE(two->Append("half").ok());
  ASSERT_TRUE(one->Append("whole").ok());
  ASSERT_TRUE(one->Commit().ok());
  EXPECT_TRUE(absl::IsAlreadyExists(two->Commit()));
  EXPECT_EQ(Contents("a"), "whole");
}

TEST_F(DurableFileTest, WhatAKilledRunLeftIsRemovedAndNothingElse) {
  std::ofstream(folder_ + "/.0123456789abcdef.tmp") << "left over";
  std::ofstream(folder_ + "/victim") << "precious";
  std::ofstream(folder_ + "/.others.tmp") << "another program's";
  ASSERT_EQ(symlink("victim", (folder_ + "/.fedcba9876543210.tmp").c_str()), 0);
  absl::StatusOr<DurableFile> writing = DurableFile::Create(folder_, "c");
  ASSERT_TRUE(writing.ok());
  RemoveAbandonedFiles(folder_);
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/.0123456789abcdef.tmp"));
  EXPECT_EQ(Contents("victim"), "precious");
  EXPECT_EQ(Contents(".others.tmp"), "another program's");
  ASSERT_TRUE(writing->Append("c").ok());
  EXPECT_TRUE(writing->Commit().ok());
  RemoveAbandonedFiles("/nowhere");
}

TEST_F(DurableFileTest, NamesArePathComponents) {
  for (const char* const name : {"", "a/b", "../a", ".hidden", ".."}) {
    EXPECT_TRUE(absl::IsInvalidArgument(WriteDurably(folder_, name, "x"))) << name;
  }
}

TEST_F(DurableFileTest, MissingFolderIsNamed) {
  const absl::Status status = WriteDurably(folder_ + "/none", "a", "x");
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(folder_ + "/none"));
}

// The kernel's own refusal in the middle of a write, as on a full disk: some bytes fit, the others
// do not.
TEST_F(DurableFileTest, AFailedWriteLeavesNothing) {
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 10'000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status status = WriteDurably(folder_, "a", std::string(20'000, 'x'));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(folder_ + "/a"));
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
  EXPECT_TRUE(WriteDurably(folder_, "a", std::string(20'000, 'x')).ok());
}

TEST_F(DurableFileTest, OutOfDescriptorsIsAnErrorThatPasses) {
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 3;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const absl::Status status = WriteDurably(folder_, "a", "x");
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_FALSE(status.ok());
  EXPECT_TRUE(WriteDurably(folder_, "a", "x").ok());
}

TEST_F(DurableFileTest, OpensRegularFilesOnly) {
  ASSERT_TRUE(WriteDurably(folder_, "a", "x").ok());
  const absl::StatusOr<UniqueFd> folder = OpenFolder(folder_);
  ASSERT_TRUE(folder.ok());
  EXPECT_TRUE(OpenRegularFile(folder->get(), "a", "a").ok());
  ASSERT_EQ(mkfifo((folder_ + "/fifo").c_str(), 0600), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(OpenRegularFile(folder->get(), "fifo", "fifo").status()));
  EXPECT_TRUE(absl::IsNotFound(OpenRegularFile(folder->get(), "b", "b").status()));
}

}  // namespace
}  // namespace ctacct
