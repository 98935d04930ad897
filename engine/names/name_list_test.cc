#include "engine/names/name_list.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

constexpr char kKeyA[] = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
constexpr char kKeyB[] = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=";
constexpr int64_t kSecond = 1'000'000'000;

NamesEntry Entry(const char* network, const std::string& name, std::optional<int64_t> from = {},
                 std::optional<int64_t> to = {}) {
  return {*ParseNetwork(network), name, NameSource::kFile, from, to};
}

std::vector<std::string> Problems(const std::vector<LineProblem>& problems) {
  std::vector<std::string> lines;
  for (const LineProblem& problem : problems) {
    lines.push_back(absl::StrCat(problem.line, ": ", problem.why));
  }
  return lines;
}

std::string ProblemOf(const std::string& text) {
  const SourceNames list = ParseNameList(text);
  return list.problems.size() == 1 && list.problems[0].line == 1 ? list.problems[0].why : "none";
}

TEST(NameListTest, ReadsWhatPeopleWrite) {
  const SourceNames list = ParseNameList(
      "\xef\xbb\xbf"
      "# Teams of the season\r\n"
      "Network, Name, From, To\r\n"
      "\r\n"
      "10.60.1.0/24,team 1\r\n"
      "  # not yet\n"
      "10.60.2.0/24 , \"team \"\"2\"\", the <b>second</b>\" ,,\n"
      "10.60.3.0/24,O'Brien; #3,1600000000\n"
      "2001:DB8:4::/48,日本,2020-09-13T12:26:40Z,2020-09-13T14:26:41.5+02:00\n"
      "10.60.3.7,guest");
  EXPECT_THAT(Problems(list.problems), IsEmpty());
  EXPECT_THAT(list.entries,
              ElementsAre(Entry("10.60.1.0/24", "team 1"),
                          Entry("10.60.2.0/24", "team \"2\", the <b>second</b>"),
                          Entry("10.60.3.0/24", "O'Brien; #3", 1'600'000'000 * kSecond),
                          Entry("2001:db8:4::/48", "日本", 1'600'000'000 * kSecond,
                                1'600'000'001 * kSecond + kSecond / 2),
                          Entry("10.60.3.7", "guest")));
  EXPECT_THAT(ParseNameList("").entries, IsEmpty());
}

TEST(NameListTest, NamesEachBadLine) {
  const SourceNames list = ParseNameList("10.0.0.1,a\nnetwork,name\n10.0.0.2,b\n10.0.0.3\n");
  EXPECT_THAT(Problems(list.problems),
              ElementsAre("2: not a network", "4: not network,name[,from[,to]]"));
  EXPECT_THAT(list.entries, ElementsAre(Entry("10.0.0.1", "a"), Entry("10.0.0.2", "b")));
}

TEST(NameListTest, RefusesHostileLines) {
  EXPECT_EQ(ProblemOf("10.0.0.1/24,a"), "not a network: it has bits below its prefix");
  EXPECT_EQ(ProblemOf("10.0.0.1,"), "the name is empty");
  EXPECT_EQ(ProblemOf("10.0.0.1," + std::string(256, 'a')), "the name has more than 255 bytes");
  EXPECT_EQ(ProblemOf("10.0.0.1," + std::string(1 << 20, 'a')),
            "the line has more than 4096 bytes");
  for (const char* name : {"a\x01"
                           "b",
                           "a\tb", "a\x7f", "a\xc2\x9b", "a\xe2\x80\xae", "\xff"}) {
    EXPECT_EQ(ProblemOf(absl::StrCat("10.0.0.1,", name)),
              "the name has control characters or is not UTF-8");
  }
  EXPECT_EQ(ProblemOf(std::string("10.0.0.1,a\0b", 12)),
            "the name has control characters or is not UTF-8");
  const std::string quote = "a quote is not closed, or not around the whole field";
  EXPECT_EQ(ProblemOf("10.0.0.1,\"a"), quote);
  EXPECT_EQ(ProblemOf("10.0.0.1,\"a\"b"), quote);
  EXPECT_EQ(ProblemOf("10.0.0.1,a\"b\""), quote);
  EXPECT_EQ(ProblemOf("10.0.0.1,a,1,2,3"), "not network,name[,from[,to]]");
  for (const char* time :
       {"yesterday", "-1", "1e9", "2020-09-13 12:26:40", "2020-09-13", "7258118400",
        "99999999999999999999", "2200-01-01T00:00:00Z", "1969-12-31T23:59:59Z"}) {
    EXPECT_EQ(ProblemOf(absl::StrCat("10.0.0.1,a,", time)),
              "from is not a time like 2026-01-31T18:00:00Z, or seconds since 1970");
    EXPECT_EQ(ProblemOf(absl::StrCat("10.0.0.1,a,,", time)),
              "to is not a time like 2026-01-31T18:00:00Z, or seconds since 1970");
  }
  EXPECT_EQ(ProblemOf("10.0.0.1,a,5,5"), "to is not after from");
  EXPECT_EQ(ProblemOf("10.0.0.1,a,6,5"), "to is not after from");
}

TEST(NameListTest, RangesOfOneNetworkDoNotOverlap) {
  EXPECT_THAT(Problems(ParseNameList("10.0.0.1,a,,5\n10.0.0.1,b,5,9\n10.0.0.1,c,9\n").problems),
              IsEmpty());
  EXPECT_THAT(Problems(ParseNameList("10.0.0.0/8,a\n10.0.0.0/16,b\n10.0.0.0,c\n").problems),
              IsEmpty());
  const std::string same = "the same network as in line ";
  EXPECT_THAT(Problems(ParseNameList("10.0.0.1,a\n10.0.0.1/32,a\n").problems),
              ElementsAre("2: " + same + "1, at the same time"));
  EXPECT_THAT(Problems(ParseNameList("10.0.0.1,b,5,9\n#\n10.0.0.1,a,,6\n").problems),
              ElementsAre("3: " + same + "1, at the same time"));
  EXPECT_THAT(Problems(ParseNameList("10.0.0.1,b,5\n10.0.0.1,a,7,8\n").problems),
              ElementsAre("2: " + same + "1, at the same time"));
}

TEST(NameListTest, TakesAHundredThousandNames) {
  std::string text = "network,name\n";
  for (int i = 0; i < 100'000; ++i) {
    absl::StrAppend(&text, "10.", i >> 16, ".", i >> 8 & 255, ".", i & 255, ",team ", i, "\n");
  }
  const SourceNames list = ParseNameList(text);
  EXPECT_EQ(list.entries.size(), 100'000u);
  EXPECT_THAT(list.problems, IsEmpty());
}

TEST(KeyNameListTest, ReadsKeysAndNames) {
  const KeyNameList list = ParseKeyNameList(absl::StrCat(
      "publickey,name\n# phone\n", kKeyA, ",alice\n", kKeyB, ",\"bob, the second\"\n"));
  EXPECT_THAT(list.problems, IsEmpty());
  EXPECT_THAT(list.names, ElementsAre(Pair(kKeyB, "bob, the second"), Pair(kKeyA, "alice")));
}

TEST(KeyNameListTest, NamesEachBadLine) {
  const KeyNameList list = ParseKeyNameList(
      absl::StrCat(kKeyA, ",alice\nAAAA,short\n", kKeyA, ",again\n", kKeyB, "\n", kKeyB, ",\n"));
  EXPECT_THAT(Problems(list.problems),
              ElementsAre("2: not a public key of WireGuard", "3: the key has a name already",
                          "4: not publickey,name", "5: the name is empty"));
}

KeyNames NamesOf(const std::string& config) {
  const KeyNameList list = ParseWireguardConfig(config);
  EXPECT_THAT(Problems(list.problems), IsEmpty());
  return list.names;
}

TEST(WireguardConfigTest, TakesTheCommentsThatToolsWrite) {
  for (const char* comment :
       {"# Name = alice", "#name=alice", "# friendly_name = alice", "#friendly_name=alice",
        "### begin alice ###", "### Client alice", "# BEGIN_PEER alice"}) {
    const std::string above =
        absl::StrCat("[Interface]\n# Name = gateway\nPrivateKey = ", kKeyB, "\n\n", comment,
                     "\n[Peer]\nPublicKey = ", kKeyA, "\nAllowedIPs = 10.0.0.2/32\n");
    EXPECT_THAT(NamesOf(above), ElementsAre(Pair(kKeyA, "alice"))) << comment;
    const std::string within = absl::StrCat("[Interface]\n\n[Peer]\n", comment,
                                            "\nPublicKey = ", kKeyA, "\n[Peer]\nPublicKey=", kKeyB);
    EXPECT_THAT(NamesOf(within), ElementsAre(Pair(kKeyA, "alice"))) << comment;
  }
}

TEST(WireguardConfigTest, EachNameIsOfItsOwnPeer) {
  // As pivpn writes it: nothing between two peers.
  EXPECT_THAT(NamesOf(absl::StrCat("### begin a ###\n[Peer]\nPublicKey = ", kKeyA,
                                   "\nAllowedIPs = 10.0.0.2/32\n### end a ###\n### begin b ###\n"
                                   "[Peer]\npublickey = ",
                                   kKeyB, " # a phone\n### end b ###\n")),
              ElementsAre(Pair(kKeyB, "b"), Pair(kKeyA, "a")));
  // At the end of its section, and the last one of the file.
  EXPECT_THAT(NamesOf(absl::StrCat("[Peer]\nPublicKey = ", kKeyA,
                                   "\n# Name = a\n\n[Peer]\nPublicKey = ", kKeyB, "\n# Name = b")),
              ElementsAre(Pair(kKeyB, "b"), Pair(kKeyA, "a")));
  // Comments that say something else.
  EXPECT_THAT(NamesOf(absl::StrCat("# Names\n# The name is = secret\n### end x ###\n[Peer]\n"
                                   "PublicKey = ",
                                   kKeyA, "\n")),
              IsEmpty());
}

TEST(WireguardConfigTest, RefusesHostileNames) {
  const KeyNameList list = ParseWireguardConfig(
      absl::StrCat("# Name = a\tb\n[Peer]\nPublicKey = ", kKeyA, "\n# Name =\n"));
  EXPECT_THAT(
      Problems(list.problems),
      ElementsAre("1: the name has control characters or is not UTF-8", "4: the name is empty"));
}

}  // namespace
}  // namespace ctacct
