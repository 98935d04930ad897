#include "engine/system/followed_file.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/support/conditions.h"
#include "tests/support/files.h"

namespace ctacct {
namespace {

// One number all the way.
std::string Whole(int number) {
  std::string text;
  for (int i = 0; i < 20'000; ++i) absl::StrAppend(&text, number, "\n");
  return text;
}

// Written in place, and replaced, again and again while it is read: never a part of it, nor parts
// of two.
TEST(FollowedFileTest, WhatIsBeingWrittenIsNotRead) {
  const TestFolder folder("followed");
  const std::string path = folder.path() + "/list";
  WriteFile(path, Whole(0));
  std::atomic<bool> done = false;
  int number = 0;
  // Of those that the machine interrupted for so long that the file was at rest.
  int slow = 0;
  std::thread writer([&] {
    while (!done.load()) {
      const std::string text = Whole(++number);
      if (number % 3 == 0) {
        WriteFile(path + ".new", text);
        std::filesystem::rename(path + ".new", path);
      } else {
        absl::Time written = absl::Now();
        absl::Duration longest;
        std::ofstream file(path, std::ios::trunc);
        for (size_t part = 0; part < 4; ++part) {
          file << text.substr(text.size() * part / 4,
                              text.size() * (part + 1) / 4 - text.size() * part / 4)
               << std::flush;
          const absl::Time now = absl::Now();
          longest = std::max(longest, now - written);
          written = now;
          absl::SleepFor(absl::Milliseconds(10));
        }
        if (longest > absl::Milliseconds(80)) ++slow;
      }
      // At rest for long enough now and then.
      absl::SleepFor(absl::Milliseconds(number % 5 == 0 ? 250 : 1));
    }
  });
  FollowedFile file(path);
  int read = 0, parts = 0;
  bool was_empty = false;
  std::string last;
  const auto look = [&] {
    const auto text = file.ReadIfChanged();
    if (!text.ok() && !was_empty) ++parts;  // Held up after it was cut.
    was_empty = !text.ok();
    if (!text.ok() || !text->has_value()) return;
    last = **text;
    if (last != Whole(std::atoi(last.c_str()))) ++parts;
    ++read;
  };
  EXPECT_TRUE(Eventually([&] {
    look();
    return read >= 4;
  }));
  done.store(true);
  writer.join();
  EXPECT_LE(parts, slow);
  EXPECT_TRUE(Eventually([&] {
    look();
    return last == Whole(number);
  }));
  EXPECT_FALSE(file.is_settling());
}

// Nobody empties a list to say that it has no names: the disk is full, or the writer is held up.
TEST(FollowedFileTest, AnEmptyFileIsAnErrorAndNoText) {
  const TestFolder folder("followed");
  const std::string path = folder.path() + "/list";
  WriteFile(path, "");
  FollowedFile file(path);
  EXPECT_TRUE(Eventually([&] { return !file.ReadIfChanged().ok(); }));
  EXPECT_EQ(file.ReadIfChanged().status().message(), path + ": empty");
  WriteFile(path, "x");
  EXPECT_TRUE(Eventually([&] {
    const auto text = file.ReadIfChanged();
    return text.ok() && *text == "x";
  }));
}

// As `cp -p` and `rsync --inplace --times` write.
TEST(FollowedFileTest, AnotherTextOfTheSameSizeAndTimeIsRead) {
  const TestFolder folder("followed");
  const std::string path = folder.path() + "/list";
  const auto yesterday = std::filesystem::file_time_type::clock::now() - std::chrono::hours(24);
  FollowedFile file(path);
  for (const std::string text : {"seven", "eight"}) {
    WriteFile(path, text);
    std::filesystem::last_write_time(path, yesterday);
    const auto read = file.ReadIfChanged();
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, text);
  }
}

}  // namespace
}  // namespace ctacct
