// Scans through a real gateway. With -max-rows: 200,000 pairs and a few that matter; the oracle is
// the generator's own count of what it sent. And what many scans leave in memory.
#include <sys/types.h>
#include <unistd.h>

#include <cstddef>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_output.h"
#include "tests/support/engine_test.h"
#include "tests/support/imported.h"

namespace ctacct {
namespace {

bool NoFlows(const std::string& metrics) {
  const size_t line = metrics.find("\nctacct_flows{");
  return line != std::string::npos &&
         absl::EndsWith(metrics.substr(line, metrics.find('\n', line + 1) - line), "} 0");
}

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int kRowsMax = 10'000;

size_t ResidentBytes(pid_t pid) {
  size_t total_pages = 0, resident_pages = 0;
  std::ifstream(absl::StrCat("/proc/", pid, "/statm")) >> total_pages >> resident_pages;
  return resident_pages * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

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
      EXPECT_THAT(*answer, HasSubstr(query == std::string("totals") ? "in rows summed by origin"
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
  EXPECT_THAT(engine_->Stderr(), HasSubstr(" rows summed by origin (-max-rows)"));
  EXPECT_THAT(engine_->Stderr(), HasSubstr("an interval has more rows than -max-rows"));

  const std::string csv = Spooldump(spool());
  Traffic rows = ReadCsv(csv).traffic;
  // What was folded, by origin.
  TrafficTotals other;
  size_t origins = 0;
  for (auto row = rows.begin(); row != rows.end();) {
    if (row->first.protocol != "0") {
      ++row;
      continue;
    }
    EXPECT_EQ(row->first.dst, 0u);
    EXPECT_EQ(row->first.port, -1);
    other += row->second;
    ++origins;
    row = rows.erase(row);
  }
  EXPECT_GT(origins, 1u);
  EXPECT_LE(origins, SpoolFilesIn(spool()).size() * (kRowsMax / 2 + 1));
  EXPECT_LE(CountLines(csv), SpoolFilesIn(spool()).size() * kRowsMax);
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
            << " keys; in rows of origins " << other.ToString() << '\n'
            << engine_->Stderr();
  ASSERT_NO_FATAL_FAILURE(ImportAndAsk(Total(sent)));
}

// Whatever the first scan leaves in memory, when the engine knows no flow any more, later ones
// leave about as much: two more at most a quarter of what the flows of one take.
TEST_F(ScanTest, ThreeScansLeaveAsMuchMemoryAsOne) {
  const std::string metrics = folder_ + "/engine.prom";
  const std::string state = folder_ + "/state";
  ASSERT_NO_FATAL_FAILURE(StartEngine({DataPath("engine/engine"), "-interval=1", "-workers=2",
                                       "-receive-buffer=1048576", "-output=" + spool(),
                                       "-state=" + state, "-metrics-file=" + metrics}));
  constexpr size_t kFlows = 240'000;
  constexpr size_t kFlowBytes = 94;
  size_t after_one = 0, checkpoint_bytes = 0;
  for (int scan = 1; scan <= 3; ++scan) {
    Play({absl::StrCat("--udp=", kFlows), "--clients=16384", "--servers=16384"});
    FlushConntrack();
    ASSERT_TRUE(Eventually([&] { return NoFlows(ReadFile(metrics)); })) << ReadFile(metrics);
    // Until the tables of rows have been around.
    const size_t files = SpoolFilesIn(spool()).size();
    ASSERT_TRUE(Eventually([&] { return SpoolFilesIn(spool()).size() >= files + 6; }));
    const size_t bytes = ResidentBytes(engine_->pid());
    const size_t bytes_of_checkpoint = ReadFile(state + "/checkpoint").size();
    std::cout << "after scan " << scan << ": " << bytes << " bytes resident\n";
    if (scan == 1) {
      after_one = bytes;
      checkpoint_bytes = bytes_of_checkpoint;
    }
    EXPECT_LE(bytes, after_one + kFlows * kFlowBytes / 4);
    EXPECT_EQ(bytes_of_checkpoint, checkpoint_bytes);
  }
}

}  // namespace
}  // namespace ctacct
