// A scan through a real gateway, with -max-rows: 200,000 pairs and a few that matter. The oracle is
// the generator's own count of what it sent.
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_output.h"
#include "tests/support/engine_test.h"
#include "tests/support/imported.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int kRowsMax = 10'000;

class ScanTest : public EngineTest {
 protected:
  ScanTest() : EngineTest("scan") {}

  // Imports the spool and asks the shipped queries.
  void ImportAndAsk(const TrafficTotals& total) const {
    auto postgres = PrivatePostgres::Start();
    ASSERT_TRUE(postgres.ok()) << postgres.status();
    ASSERT_NO_FATAL_FAILURE(Import(**postgres, spool()));
    const auto sums = (*postgres)->Sql(
        "postgres",
        "SELECT sum(src_packets), sum(dst_packets), sum(src_bytes), sum(dst_bytes),"
        " sum(connection_count) FROM vpn_traffic");
    ASSERT_TRUE(sums.ok()) << sums.status();
    EXPECT_EQ(*sums, absl::StrCat(total.packets_src, "|", total.packets_dst, "|", total.bytes_src,
                                  "|", total.bytes_dst, "|", total.connection_count));
    for (const char* query : {"busiest_pairs", "ports", "totals"}) {
      const auto answer = (*postgres)->Sql(
          "postgres", ReadFile(DataPath(absl::StrCat("configs/postgres/", query, ".sql"))));
      ASSERT_TRUE(answer.ok()) << query << ": " << answer.status();
      EXPECT_THAT(*answer, HasSubstr(query == std::string("totals") ? "in rows summed as one"
                                                                    : "(others)|"));
      EXPECT_THAT(*answer, Not(HasSubstr("0.0.0.0")));
    }
  }
};

TEST_F(ScanTest, HeavyPairsAreExactAndNothingIsLost) {
  ASSERT_NO_FATAL_FAILURE(
      StartEngine({DataPath("engine/engine"), "-interval=86400", "-track-open",
                   absl::StrCat("-max-rows=", kRowsMax), "-output=" + spool()}));
  const std::vector<std::string> addresses = {"--clients=16384", "--servers=16384"};
  const Traffic heavy = Play(Joined({{"--tcp=50", "--payload-max=1460"}, addresses}));
  const Traffic scan =
      Play(Joined({{"--udp=200000", "--payload-max=16", "--udp-packets-max=1"}, addresses}));
  FlushConntrack();
  StopEngine();
  EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("overrun")));
  EXPECT_THAT(engine_->Stderr(), HasSubstr(" rows summed as one (-max-rows)"));
  EXPECT_THAT(engine_->Stderr(), HasSubstr("an interval has more rows than -max-rows"));

  const std::string csv = Spooldump(spool());
  Traffic rows = ReadCsv(csv).traffic;
  // Of all that is summed as one, by interval; at midnight UTC there may be two.
  constexpr char kOther[] = ",0,0.0.0.0,0.0.0.0,-1,";
  const TrafficTotals other = rows.extract({"0", 0, 0, -1}).mapped();
  const size_t intervals = SpoolFilesIn(spool()).size();
  EXPECT_EQ(std::vector<std::string>(absl::StrSplit(csv, kOther)).size() - 1, intervals);
  EXPECT_EQ(CountLines(csv), intervals * kRowsMax);
  Traffic sent = scan;
  sent += heavy;
  for (const auto& [key, sums] : heavy) EXPECT_EQ(rows[key], sums) << key.ToString();
  for (const auto& [key, sums] : rows) {
    const auto it = sent.find(key);
    ASSERT_NE(it, sent.end()) << key.ToString();
    EXPECT_LE(sums.bytes_src + sums.bytes_dst, it->second.bytes_src + it->second.bytes_dst);
  }
  TrafficTotals total = Total(rows);
  total += other;
  EXPECT_EQ(total, Total(sent));
  std::cout << "sent " << Total(sent).ToString() << " under " << sent.size()
            << " keys; in the other row " << other.ToString() << '\n'
            << engine_->Stderr();
  ASSERT_NO_FATAL_FAILURE(ImportAndAsk(Total(sent)));
}

}  // namespace
}  // namespace ctacct
