// On files that OpenVPN 2.6 wrote (testdata), and on variations of them.
#include "engine/names/openvpn_status.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/files.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kSecond = 1'000'000'000;

std::string Status(int version) {
  return ReadFile(DataPath(absl::StrCat("engine/names/testdata/openvpn_", version, ".status")));
}

// "network name seconds"
std::vector<std::string> Lines(const SourceNames& names) {
  std::vector<std::string> lines;
  for (const NamesEntry& entry : names.entries) {
    EXPECT_EQ(entry.source, NameSource::kOpenvpn);
    EXPECT_FALSE(entry.to_ns.has_value());
    lines.push_back(absl::StrCat(NetworkText(entry.network), " ", entry.name, " ",
                                 entry.from_ns.value_or(0) / kSecond));
  }
  return lines;
}

std::vector<std::string> LinesOf(const std::string& text) {
  const absl::StatusOr<SourceNames> names = ParseOpenvpnStatus(text, absl::UTCTimeZone());
  if (!names.ok()) return {std::string(names.status().message())};
  EXPECT_THAT(names->problems, IsEmpty());
  return Lines(*names);
}

TEST(OpenvpnStatusTest, Version1) {
  EXPECT_THAT(LinesOf(Status(1)),
              ElementsAre("10.8.0.2/32 alice 1795724506", "10.8.0.3/32 bob 1795724506",
                          "10.8.0.4/32 Carol's team, Room 5 1795724506",
                          "172.16.5.0/24 alice 1795724506", "2001:db8:5::/64 alice 1795724506",
                          "fd00:8::1000/128 alice 1795724506", "fd00:8::1001/128 bob 1795724506",
                          "fd00:8::1002/128 Carol's team, Room 5 1795724506"));
}

// Which does not say when a client connected whose name has a comma: its user may have one as well.
TEST(OpenvpnStatusTest, Version2) {
  EXPECT_THAT(
      LinesOf(Status(2)),
      ElementsAre("10.8.0.2/32 Carol's team, Room 5 0", "10.8.0.3/32 alice 1795724511",
                  "10.8.0.4/32 bob 1795724512", "172.16.5.0/24 alice 1795724511",
                  "2001:db8:5::/64 alice 1795724511", "fd00:8::1000/128 Carol's team, Room 5 0",
                  "fd00:8::1001/128 alice 1795724511", "fd00:8::1002/128 bob 1795724512"));
}

TEST(OpenvpnStatusTest, Version3) {
  EXPECT_THAT(LinesOf(Status(3)),
              ElementsAre("10.8.0.2/32 alice 1795724515", "10.8.0.3/32 bob 1795724515",
                          "10.8.0.4/32 Carol's team, Room 5 1795724515",
                          "172.16.5.0/24 alice 1795724515", "2001:db8:5::/64 alice 1795724515",
                          "fd00:8::1000/128 alice 1795724515", "fd00:8::1001/128 bob 1795724515",
                          "fd00:8::1002/128 Carol's team, Room 5 1795724515"));
}

TEST(OpenvpnStatusTest, Version1IsInTheServersTimeZone) {
  const absl::TimeZone zone = absl::FixedTimeZone(3600);
  EXPECT_EQ(ParseOpenvpnStatus(Status(1), zone)->entries[0].from_ns, (1795724506 - 3600) * kSecond);
  // Before OpenVPN 2.5.
  const std::string older =
      absl::StrReplaceAll(Status(1), {{"2026-11-26 20:21:46", "Thu Nov 26 20:21:46 2026"}});
  EXPECT_EQ(LinesOf(older), LinesOf(Status(1)));
}

TEST(OpenvpnStatusTest, EveryShorterFileIsRefused) {
  for (int version = 1; version <= 3; ++version) {
    const std::string text = Status(version);
    for (size_t size = 0; size < text.size(); ++size) {
      EXPECT_FALSE(ParseOpenvpnStatus(text.substr(0, size), absl::UTCTimeZone()).ok()) << size;
    }
    // A new, shorter status over the longer one before, not yet cut.
    EXPECT_FALSE(ParseOpenvpnStatus(text + text.substr(text.size() / 2), absl::UTCTimeZone()).ok());
  }
  EXPECT_FALSE(
      ParseOpenvpnStatus("OpenVPN STATISTICS\nUpdated,now\nEND\n", absl::UTCTimeZone()).ok());
}

constexpr char kHead[] =
    "TITLE,OpenVPN\n"
    "HEADER,CLIENT_LIST,Common Name,Real Address,Virtual Address,Connected Since (time_t)\n"
    "HEADER,ROUTING_TABLE,Virtual Address,Common Name,Real Address,Last Ref\n";

TEST(OpenvpnStatusTest, NobodyTakesAnothersName) {
  // A common name that looks like the fields of another client's line.
  EXPECT_THAT(LinesOf(absl::StrCat(kHead,
                                   "CLIENT_LIST,bob,1.1.1.1:1,10.8.0.9,5,2.2.2.2:2,10.8.0.2,7\n"
                                   "ROUTING_TABLE,10.8.0.2,bob,1.1.1.1:1,10.8.0.9,5,2.2.2.2:2,now\n"
                                   "END\n")),
              ElementsAre("10.8.0.2/32 bob,1.1.1.1:1,10.8.0.9,5 7"));
  EXPECT_THAT(LinesOf(absl::StrCat(kHead, "CLIENT_LIST,UNDEF,1.1.1.1:1,,5\nEND\n")), IsEmpty());
}

TEST(OpenvpnStatusTest, TheLaterOfTwoHasTheAddress) {
  EXPECT_THAT(LinesOf(absl::StrCat(kHead,
                                   "CLIENT_LIST,alice,1.1.1.1:1,10.8.0.2,5\n"
                                   "CLIENT_LIST,bob,1.1.1.1:2,10.8.0.2,9\nEND\n")),
              ElementsAre("10.8.0.2/32 bob 9"));
}

TEST(OpenvpnStatusTest, ABridgedServersAddressesAreNoNetworks) {
  EXPECT_THAT(LinesOf(absl::StrCat(kHead,
                                   "CLIENT_LIST,alice,1.1.1.1:1,10.8.0.2,5\n"
                                   "ROUTING_TABLE,aa:bb:cc:dd:ee:ff@0,alice,1.1.1.1:1,now\n"
                                   "END\n")),
              ElementsAre("10.8.0.2/32 alice 5"));
}

TEST(OpenvpnStatusTest, OneBadClientLeavesTheOthers) {
  const absl::StatusOr<SourceNames> names = ParseOpenvpnStatus(
      absl::StrCat(kHead, "CLIENT_LIST,a\x1b[31m,1.1.1.1:1,10.8.0.2,5\nCLIENT_LIST,b\n",
                   "CLIENT_LIST,", std::string(1 << 20, 'c'), ",1.1.1.1:1,10.8.0.4,5\n",
                   "CLIENT_LIST,dave,1.1.1.1:1,10.8.0.3,99999999999999\nEND\n"),
      absl::UTCTimeZone());
  ASSERT_TRUE(names.ok()) << names.status();
  EXPECT_THAT(Lines(*names), ElementsAre("10.8.0.3/32 dave 0"));
  EXPECT_THAT(names->problems,
              ElementsAre(LineProblem{4, "the name has control characters or is not UTF-8"},
                          LineProblem{5, "fewer fields than its table has: the client is left out"},
                          LineProblem{6, "the line has more than 4096 bytes"}));
}

}  // namespace
}  // namespace ctacct
