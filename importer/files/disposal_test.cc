#include "importer/files/disposal.h"

#include <fcntl.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/status/status.h"
#include "engine/system/durable_file.h"
#include "engine/system/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

namespace fs = std::filesystem;

class DisposalTest : public ::testing::Test {
 protected:
  DisposalTest() {
    std::string pattern = ::testing::TempDir() + "/disposal.XXXXXX";
    folder_ = mkdtemp(pattern.data());
    folder_fd_ = OpenFolder(folder_).value();
    fs::create_directory(folder_ + "/done");
  }
  ~DisposalTest() override { fs::remove_all(folder_); }

  TrafficFile Write(const std::string& name) {
    std::ofstream(folder_ + "/" + name) << "1\n";
    return TrafficFile::Open(Place(name)).value();
  }
  void Append(const std::string& name) {
    std::ofstream(folder_ + "/" + name, std::ios::app) << "2\n";
  }
  FilePlace Place(const std::string& name) {
    return {folder_fd_.get(), folder_, name, folder_ + "/" + name};
  }
  std::string Contents(const std::string& name) {
    std::stringstream text;
    text << std::ifstream(folder_ + "/" + name).rdbuf();
    return text.str();
  }

  std::string folder_;
  UniqueFd folder_fd_;
};

TEST_F(DisposalTest, WhatIsAsItWasGoes) {
  EXPECT_TRUE(RemoveFile(Write("a.csv")).ok());
  EXPECT_FALSE(fs::exists(folder_ + "/a.csv"));
  EXPECT_TRUE(MoveFile(Write("b.csv"), folder_ + "/done").ok());
  EXPECT_EQ(Contents("done/b.csv"), "1\n");
}

TEST_F(DisposalTest, WhatHasGrownStays) {
  const TrafficFile file = Write("a.csv");
  Append("a.csv");
  EXPECT_TRUE(absl::IsAborted(RemoveFile(file)));
  EXPECT_TRUE(absl::IsAborted(MoveFile(file, folder_ + "/done")));
  EXPECT_EQ(Contents("a.csv"), "1\n2\n");
  EXPECT_TRUE(fs::is_empty(folder_ + "/done"));
  EXPECT_TRUE(QuarantineFile(file, "why\n\x1b[0m").ok());
  EXPECT_EQ(Contents("failed/a.csv"), "1\n2\n");
  EXPECT_EQ(Contents("failed/a.csv.reason"), "why\\x0a\\x1b[0m\n");
}

TEST_F(DisposalTest, NamesAsLongAsNamesMayBe) {
  const std::string longest(255, 'x');
  for (const std::string number : {"", ".1", ".2"}) {
    const std::string name = longest.substr(0, 255 - number.size()) + number;
    EXPECT_TRUE(MoveFile(Write(longest), folder_ + "/done").ok());
    EXPECT_EQ(Contents("done/" + name), "1\n");
  }
  // Each with a reason of its own.
  for (const std::string number : {"", ".1", ".2"}) {
    const std::string name = longest.substr(0, 248 - number.size()) + number;
    EXPECT_TRUE(QuarantineFile(Write(longest), "why" + number).ok());
    EXPECT_EQ(Contents("failed/" + name), "1\n");
    EXPECT_EQ(Contents("failed/" + name + ".reason"), "why" + number + "\n");
  }
}

TEST_F(DisposalTest, AnotherFileOfTheNameIsLeftAlone) {
  const TrafficFile file = Write("a.csv");
  fs::rename(folder_ + "/a.csv", folder_ + "/old.csv");
  Write("a.csv");
  EXPECT_TRUE(RemoveFile(file).ok());
  EXPECT_TRUE(MoveFile(file, folder_ + "/done").ok());
  EXPECT_TRUE(QuarantineFile(file, "why").ok());
  EXPECT_EQ(Contents("a.csv"), "1\n");
  EXPECT_FALSE(fs::exists(folder_ + "/failed"));
}

}  // namespace
}  // namespace ctacct
