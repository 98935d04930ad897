#include "engine/spool/names_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <limits>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "engine/rows/bounds.h"
#include "gtest/gtest.h"
#include "xxhash.h"

namespace ctacct {
namespace {

constexpr int64_t kNow = 1'600'000'005'000'000'000;

Network Net(const char* text) { return *ParseNetwork(text); }

NamesSnapshot Example() {
  NamesSnapshot snapshot;
  snapshot.gateway = "gw1";
  for (size_t i = 0; i < snapshot.writer.size(); ++i) {
    snapshot.writer[i] = static_cast<uint8_t>(16 * i + i);
  }
  snapshot.sequence = 7;
  snapshot.time_ns = kNow;
  snapshot.entries = {
      {Net("10.32.5.2"), "alice", NameSource::kWireguard, {}, {}},
      {Net("10.32.6.0/24"), "bob", NameSource::kFile, 1, kNow},
      {Net("10.32.6.0/24"), "carol", NameSource::kFile, {}, {}},
      {Net("2001:db8:5::/64"),
       "team <5> \"ä\"",
       NameSource::kOpenvpn,
       1'600'000'000'000'000'000,
       {}},
  };
  return snapshot;
}

// What the file says, with a checksum that holds.
std::string Sealed(const std::string& lines) {
  return absl::StrCat(lines, "checksum\t",
                      absl::StrFormat("%016x", XXH3_64bits(lines.data(), lines.size())), "\n");
}

std::string Unsealed(const std::string& file) { return file.substr(0, file.rfind("checksum\t")); }

std::string ErrorOf(const std::string& file) {
  const absl::StatusOr<NamesSnapshot> snapshot = ParseNames(file, "F");
  return snapshot.ok() ? "" : std::string(snapshot.status().message());
}

// The error after a change of the example's text.
std::string ErrorAfter(const std::string& from, const std::string& to) {
  const std::string lines = Unsealed(*EncodeNames(Example()));
  EXPECT_TRUE(absl::StrContains(lines, from)) << from;
  const std::string file = Sealed(absl::StrReplaceAll(lines, {{from, to}}));
  EXPECT_NE(ParseNames(file, "F").status().code(), absl::StatusCode::kOk) << from;
  return ErrorOf(file);
}

TEST(NamesFileTest, IsTheTextInTheDocumentation) {
  EXPECT_EQ(Unsealed(*EncodeNames(Example())),
            "ctacct-names\t1\n"
            "gateway\tgw1\n"
            "writer\t00112233-4455-6677-8899-aabbccddeeff\n"
            "sequence\t7\n"
            "time\t1600000005000000000\n"
            "entries\t4\n"
            "10.32.5.2/32\talice\twireguard\t\t\n"
            "10.32.6.0/24\tbob\tfile\t1\t1600000005000000000\n"
            "10.32.6.0/24\tcarol\tfile\t\t\n"
            "2001:db8:5::/64\tteam <5> \"ä\"\topenvpn\t1600000000000000000\t\n");
  EXPECT_EQ(NamesFileName(Example().writer, 7),
            "00112233-4455-6677-8899-aabbccddeeff-0000000007.names");
}

TEST(NamesFileTest, ComesBackAsItWas) {
  EXPECT_EQ(*ParseNames(*EncodeNames(Example()), "F"), Example());
  NamesSnapshot empty = Example();
  empty.entries.clear();
  EXPECT_EQ(*ParseNames(*EncodeNames(empty), "F"), empty);
}

TEST(NamesFileTest, ReadsFromADescriptor) {
  const int fd = memfd_create("names", MFD_CLOEXEC);
  const std::string file = *EncodeNames(Example());
  ASSERT_EQ(write(fd, file.data(), file.size()), static_cast<ssize_t>(file.size()));
  EXPECT_EQ(*ReadNamesFile(fd, "F"), Example());
  close(fd);
}

TEST(NamesFileTest, EveryShorterFileIsTorn) {
  const std::string file = *EncodeNames(Example());
  for (size_t size = 0; size < file.size(); ++size) {
    const absl::Status status = ParseNames(file.substr(0, size), "F").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(status.message(), "F: torn: ends before its checksum line does") << size;
  }
}

TEST(NamesFileTest, EveryChangedByteIsNoticed) {
  const std::string file = *EncodeNames(Example());
  for (size_t i = 0; i < file.size(); ++i) {
    std::string changed = file;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    EXPECT_EQ(ParseNames(changed, "F").status().code(), absl::StatusCode::kDataLoss) << i;
  }
  EXPECT_EQ(ErrorOf(file + "\n"), "F: corrupt: does not match its checksum, or bytes follow it");
  EXPECT_EQ(ErrorOf("something else"), "F: corrupt: not a names file");
}

TEST(NamesFileTest, ANewerVersionIsSaid) {
  const std::string lines = Unsealed(*EncodeNames(Example()));
  const std::string file =
      Sealed(absl::StrReplaceAll(lines, {{"names\t1\n", "names\t2\nanything\n"}}));
  const absl::Status status = ParseNames(file, "F").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(status.message(), "F: of version 2 of the names format; this program reads version 1");
}

TEST(NamesFileTest, NamesTheLineThatIsWrong) {
  EXPECT_EQ(ErrorAfter("names\t1\n", "names\t01\n"), "F: corrupt at line 1: not a version");
  EXPECT_EQ(ErrorAfter("names\t1\n", "names\t0\n"), "F: corrupt at line 1: not a version");
  EXPECT_EQ(ErrorAfter("gw1", ""), "F: corrupt at line 2: not a gateway's name");
  EXPECT_EQ(ErrorAfter("gw1", "gw\r1"), "F: corrupt at line 2: not a gateway's name");
  EXPECT_EQ(ErrorAfter("gw1", std::string(256, 'g')), "F: corrupt at line 2: not a gateway's name");
  EXPECT_EQ(ErrorAfter("gateway", "host"), "F: corrupt at line 2: not a gateway's name");
  EXPECT_EQ(ErrorAfter("eeff", "EEFF"), "F: corrupt at line 3: not a writer's UUID");
  EXPECT_EQ(ErrorAfter("-8899-", "8-899-"), "F: corrupt at line 3: not a writer's UUID");
  EXPECT_EQ(ErrorAfter("sequence\t7", "sequence\t0"),
            "F: corrupt at line 4: not a sequence number");
  EXPECT_EQ(ErrorAfter("sequence\t7", "sequence\t9223372036854775808"),
            "F: corrupt at line 4: not a sequence number");
  EXPECT_EQ(ErrorAfter("time\t1600000005000000000", "time\t7258118400000000000"),
            "F: corrupt at line 5: not a time");
  EXPECT_EQ(ErrorAfter("time\t1600000005000000000", "time\t-1"),
            "F: corrupt at line 5: not a time");
  EXPECT_EQ(ErrorAfter("entries\t4", "entries\t250001"),
            "F: corrupt at line 6: not a number of entries");
  EXPECT_EQ(ErrorAfter("entries\t4", "entries\t100000"), "F: corrupt at line 11: not five fields");
  EXPECT_EQ(ErrorAfter("entries\t4", "entries\t3"),
            "F: corrupt at line 10: more entries than the header says");
  const std::string usual = "F: corrupt at line 7: not a network in its usual form";
  EXPECT_EQ(ErrorAfter("10.32.5.2/32", "10.32.5.2"), usual);
  EXPECT_EQ(ErrorAfter("10.32.5.2/32", "10.32.5.2/24"), usual);
  EXPECT_EQ(ErrorAfter("10.32.5.2/32", ""), usual);
  EXPECT_EQ(ErrorAfter("2001:db8:5::/64", "2001:db8:5:0::/64"),
            "F: corrupt at line 10: not a network in its usual form");
  EXPECT_EQ(ErrorAfter("alice", ""), "F: corrupt at line 7: not a name");
  EXPECT_EQ(ErrorAfter("alice", std::string(256, 'a')), "F: corrupt at line 7: not a name");
  for (const char* hostile : {"a\x01", "a\x7f", "a\xc2\x85", "a\xe2\x80\xae", "a\xff"}) {
    EXPECT_EQ(ErrorAfter("alice", hostile), "F: corrupt at line 7: not a name");
  }
  EXPECT_EQ(ErrorAfter("alice", "al\tice"), "F: corrupt at line 7: not five fields");
  EXPECT_EQ(ErrorAfter("wireguard", "rumour"), "F: corrupt at line 7: an unknown source");
  EXPECT_EQ(ErrorAfter("file\t1\t", "file\t01\t"), "F: corrupt at line 8: a time is out of range");
  EXPECT_EQ(ErrorAfter("file\t1\t", "file\t1600000005000000000\t"),
            "F: corrupt at line 8: the range is empty");
  EXPECT_EQ(ErrorAfter("file\t1\t1600000005000000000", "file\t1\t"),
            "F: corrupt at line 9: two ranges of one network overlap");
  EXPECT_EQ(ErrorAfter("10.32.5.2/32", "10.32.7.2/32"),
            "F: corrupt at line 8: the entries are not in order");
}

TEST(NamesFileTest, NothingIsWrittenThatCannotBeRead) {
  const auto error = [](auto change) {
    NamesSnapshot snapshot = Example();
    change(&snapshot);
    const absl::Status status = EncodeNames(snapshot).status();
    EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_EQ(error([](NamesSnapshot* s) { s->gateway = ""; }), "names: not the name of a gateway");
  EXPECT_EQ(error([](NamesSnapshot* s) { s->sequence = 0; }),
            "names: the sequence is out of range");
  EXPECT_EQ(error([](NamesSnapshot* s) { s->time_ns = kTimeEndNs; }),
            "names: the time is out of range");
  EXPECT_EQ(error([](NamesSnapshot* s) { s->time_ns = -1; }), "names: the time is out of range");
  EXPECT_EQ(error([](NamesSnapshot* s) { s->entries[0].name = "a\nb"; }),
            "names: entry 0: not a name");
  EXPECT_EQ(error([](NamesSnapshot* s) { s->entries[0].from_ns = -1; }),
            "names: entry 0: a time is out of range");
  EXPECT_EQ(error([](NamesSnapshot* s) { s->entries[0].to_ns = kNow; }),
            "names: entry 0: the range is empty");
  EXPECT_EQ(error([](NamesSnapshot* s) { s->entries[1].to_ns = kNow + 1; }),
            "names: entry 2: two ranges of one network overlap");
  EXPECT_EQ(error([](NamesSnapshot* s) { std::swap(s->entries[0], s->entries[3]); }),
            "names: entry 1: the entries are not in order");
  // Networks may nest.
  EXPECT_EQ(error([](NamesSnapshot* s) { s->entries[0].network = Net("10.32.0.0/16"); }), "");
}

TEST(NamesFileTest, HoldersHaveSoundNames) {
  EXPECT_TRUE(CheckHolderName("O'Brien <b>&\"team\" 5; DROP TABLE 日本").ok());
  EXPECT_TRUE(CheckHolderName(std::string(255, 'a')).ok());
  EXPECT_FALSE(CheckHolderName(std::string(256, 'a')).ok());
  EXPECT_FALSE(CheckHolderName(std::string(1 << 20, 'a')).ok());
  EXPECT_FALSE(CheckHolderName("").ok());
  EXPECT_FALSE(CheckHolderName("a\tb").ok());
}

}  // namespace
}  // namespace ctacct
