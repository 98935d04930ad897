#include "engine/names/holders.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/conditions.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kNow = 100;
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
using List = std::vector<NamesEntry>;

NamesEntry Entry(const char* network, const char* name, std::optional<int64_t> from = {},
                 std::optional<int64_t> to = {}) {
  return {*ParseNetwork(network), name, NameSource::kFile, from, to};
}

TEST(HoldersTest, EntriesAreInOrder) {
  const List file = {Entry("10.0.0.2", "b"), Entry("fd00::/8", "d"), Entry("10.0.0.0/8", "a")};
  const List vpn = {Entry("10.0.0.3", "c")};
  const Holders holders = MergeNames({&file, &vpn}, kNow);
  EXPECT_THAT(holders.entries, ElementsAre(file[2], file[0], vpn[0], file[1]));
  EXPECT_EQ(holders.conflicts, 0u);
  EXPECT_EQ(holders.next_change_ns, kNever);
}

TEST(HoldersTest, TheFirstSourceWins) {
  const List file = {Entry("10.0.0.2", "team")};
  const List vpn = {Entry("10.0.0.2", "alice", 7)};
  // Before the file named it, it was alice's.
  Holders holders = MergeNames({&file, &vpn}, kNow);
  EXPECT_THAT(holders.entries, ElementsAre(Entry("10.0.0.2", "alice", 7, kNow), file[0]));
  EXPECT_EQ(holders.conflicts, 1u);
  holders = MergeNames({&vpn, &file}, kNow);
  EXPECT_THAT(holders.entries, ElementsAre(vpn[0]));
  EXPECT_EQ(holders.conflicts, 1u);
}

TEST(HoldersTest, WhatIsTakenIsCutOut) {
  const List file = {Entry("10.0.0.2", "b", 20, 30), Entry("10.0.0.2", "d", 40, 50)};
  const List vpn = {Entry("10.0.0.2", "x", 10)};
  EXPECT_THAT(MergeNames({&file, &vpn}, kNow).entries,
              ElementsAre(Entry("10.0.0.2", "x", 10, 20), file[0], Entry("10.0.0.2", "x", 30, 40),
                          file[1], Entry("10.0.0.2", "x", 50)));
}

TEST(HoldersTest, RangesBeginAndEnd) {
  const List file = {Entry("10.0.0.2", "past", 10, 20), Entry("10.0.0.2", "now", 20, 200),
                     Entry("10.0.0.2", "later", 200), Entry("10.0.0.3", "gone", {}, 100),
                     Entry("10.0.0.4", "until", {}, 150)};
  Holders holders = MergeNames({&file}, kNow);
  EXPECT_THAT(holders.entries, ElementsAre(file[0], file[1], file[4]));
  EXPECT_EQ(holders.conflicts, 0u);
  EXPECT_EQ(holders.next_change_ns, 150);
  holders = MergeNames({&file}, holders.next_change_ns);
  EXPECT_THAT(holders.entries, ElementsAre(file[0], file[1]));
  EXPECT_EQ(holders.next_change_ns, 200);
  holders = MergeNames({&file}, holders.next_change_ns);
  EXPECT_THAT(holders.entries, ElementsAre(file[0], file[1], file[2]));
  EXPECT_EQ(holders.next_change_ns, kNever);
}

// The next source's holder comes back when the first one's ends.
TEST(HoldersTest, ALoanEnds) {
  const List file = {Entry("10.0.0.2", "guest", 50, 150)};
  const List vpn = {Entry("10.0.0.2", "alice")};
  Holders holders = MergeNames({&file, &vpn}, kNow);
  EXPECT_THAT(holders.entries, ElementsAre(file[0], Entry("10.0.0.2", "alice", 150)));
  holders = MergeNames({&file, &vpn}, 150);
  EXPECT_THAT(holders.entries, ElementsAre(file[0], vpn[0]));
}

// Whatever the lists are, the snapshot is one that the format takes, and each moment of the past
// has the holder of the first source that names one.
TEST(HoldersTest, AnyListsMakeASoundSnapshot) {
  const uint64_t seed = NumberFromEnvironment("CTACCT_SEED", std::random_device()());
  SCOPED_TRACE(absl::StrCat("CTACCT_SEED=", seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 2000; ++round) {
    std::vector<List> lists(1 + random() % 3);
    std::vector<const List*> sources;
    int name = 0;
    for (List& list : lists) {
      for (size_t i = random() % 6; i > 0; --i) {
        NamesEntry entry = Entry(random() % 2 ? "10.0.0.0/8" : "10.0.0.1", "");
        entry.name = absl::StrCat(++name);
        if (random() % 3) entry.from_ns = static_cast<int64_t>(random() % 160);
        if (random() % 3) {
          entry.to_ns = entry.from_ns.value_or(0) + 1 + static_cast<int64_t>(random() % 100);
        }
        list.push_back(entry);
      }
      sources.push_back(&list);
    }
    NamesSnapshot snapshot;
    snapshot.gateway = "gw";
    snapshot.sequence = 1;
    snapshot.time_ns = kNow;
    snapshot.entries = MergeNames(sources, kNow).entries;
    ASSERT_TRUE(EncodeNames(snapshot).ok()) << EncodeNames(snapshot).status();
    const auto holder = [](const List& entries, const Network& network, int64_t at) {
      for (const NamesEntry& entry : entries) {
        if (entry.network == network && entry.from_ns.value_or(kNow) <= at &&
            at < entry.to_ns.value_or(kNever)) {
          return entry.name;
        }
      }
      return std::string();
    };
    for (const char* text : {"10.0.0.0/8", "10.0.0.1"}) {
      for (int64_t at = 0; at <= kNow; ++at) {
        std::string expected;
        for (const List* list : sources) {
          if (expected.empty()) expected = holder(*list, *ParseNetwork(text), at);
        }
        ASSERT_EQ(holder(snapshot.entries, *ParseNetwork(text), at), expected) << at;
      }
    }
  }
}

TEST(HoldersTest, NothingIsFine) { EXPECT_THAT(MergeNames({}, kNow).entries, IsEmpty()); }

}  // namespace
}  // namespace ctacct
