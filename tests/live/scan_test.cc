// A scan through a real gateway, with -max-rows: 200,000 pairs and a few that matter. The oracle is
// the generator's own count of what it sent.
#include <signal.h>
#include <stdlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "engine/rows/csv.h"
#include "engine/rows/protocol_names.h"
#include "engine/rows/traffic_row.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/gateway.h"
#include "tests/support/private_postgres.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int kRowsMax = 10'000;

uint32_t HostOrder(const AddressBytes& bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
}

class ScanTest : public testing::Test {
 protected:
  void SetUp() override {
    RequireRootOrSkip();
    if (IsSkipped() || HasFatalFailure()) return;
    std::string folder = "/tmp/ctacct-scan.XXXXXX";
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    std::filesystem::create_directory(spool());
  }
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }
  std::string spool() const { return folder_ + "/spool"; }

  // Imports the spool and asks the shipped queries.
  void ImportAndAsk(const TrafficTotals& total) const {
    auto postgres = PrivatePostgres::Start();
    ASSERT_TRUE(postgres.ok()) << postgres.status();
    const auto out =
        RunProcessOrError({DataPath("importer/importer"), "-conninfo=" + (*postgres)->Conninfo(),
                           "-watch=" + spool(), "-once"},
                          absl::Seconds(60));
    ASSERT_TRUE(out.ok()) << out.status();
    const auto sums = (*postgres)->Sql(
        "postgres",
        "SELECT sum(src_packets), sum(dst_packets), sum(src_bytes), sum(dst_bytes),"
        " sum(connection_count) FROM vpn_traffic");
    ASSERT_TRUE(sums.ok()) << sums.status();
    EXPECT_EQ(*sums, absl::StrCat(total.packets_src, "|", total.packets_dst, "|", total.bytes_src,
                                  "|", total.bytes_dst, "|", total.connection_count));
    for (const char* query : {"busiest_pairs", "ports", "totals"}) {
      std::ifstream file(DataPath(absl::StrCat("configs/postgres/", query, ".sql")));
      const std::string sql{std::istreambuf_iterator<char>(file), {}};
      const auto answer = (*postgres)->Sql("postgres", sql);
      ASSERT_TRUE(answer.ok()) << query << ": " << answer.status();
      EXPECT_THAT(*answer, HasSubstr(query == std::string("totals") ? "in rows summed as one"
                                                                    : "(others)|"));
      EXPECT_THAT(*answer, Not(HasSubstr("0.0.0.0")));
    }
  }

  std::string folder_;
};

TEST_F(ScanTest, HeavyPairsAreExactAndNothingIsLost) {
  auto gateway = Gateway::Up();
  ASSERT_TRUE(gateway.ok()) << gateway.status();
  auto engine = (*gateway)->Start({DataPath("engine/engine"), "-interval=86400", "-track-open",
                                   absl::StrCat("-max-rows=", kRowsMax), "-output=" + spool()});
  ASSERT_TRUE(engine.ok()) << engine.status();
  ASSERT_TRUE((*engine)->WaitForOutput("accounting live", absl::Seconds(10)).ok());
  const std::vector<std::string> addresses = {"--clients=16384", "--servers=16384"};
  const auto play = [&](std::vector<std::string> flags) {
    flags.insert(flags.end(), addresses.begin(), addresses.end());
    return (*gateway)->Play(flags);
  };
  const auto heavy = play({"--tcp=50", "--payload-max=1460"});
  ASSERT_TRUE(heavy.ok()) << heavy.status();
  const auto scan = play({"--udp=200000", "--payload-max=16", "--udp-packets-max=1"});
  ASSERT_TRUE(scan.ok()) << scan.status();
  ASSERT_TRUE((*gateway)->FlushConntrack().ok());
  ASSERT_TRUE((*engine)->Signal(SIGTERM).ok());
  const auto exit = (*engine)->Wait(absl::Seconds(30));
  ASSERT_TRUE(exit.ok() && exit->ok()) << (*engine)->Stderr();
  EXPECT_THAT((*engine)->Stderr(), Not(HasSubstr("overrun")));
  EXPECT_THAT((*engine)->Stderr(), HasSubstr(" rows summed as one (-max-rows)"));
  EXPECT_THAT((*engine)->Stderr(), HasSubstr("an interval has more rows than -max-rows"));

  std::vector<std::string> dump = {DataPath("engine/spool/spooldump")};
  for (const auto& entry : std::filesystem::directory_iterator(spool())) {
    if (entry.path().filename() == ".ctacct") continue;
    dump.push_back(entry.path());
  }
  const auto csv = RunProcessOrError(dump, absl::Seconds(30));
  ASSERT_TRUE(csv.ok()) << csv.status();
  Traffic rows;
  TrafficTotals other;
  uint64_t lines = 0;
  uint64_t others = 0;
  for (absl::string_view line : absl::StrSplit(*csv, '\n', absl::SkipEmpty())) {
    ++lines;
    TrafficRow row;
    bool has_open = false;
    ASSERT_TRUE(ParseCsvLine(line, &row, &has_open).ok()) << line;
    TrafficTotals sums;
    sums.packets_src = row.packets_src;
    sums.packets_dst = row.packets_dst;
    sums.bytes_src = row.bytes_src;
    sums.bytes_dst = row.bytes_dst;
    sums.connection_count = row.connection_count;
    if (IsOtherRow(row)) {
      ++others;
      other += sums;
      EXPECT_THAT(std::string(line), HasSubstr(",0,0.0.0.0,0.0.0.0,-1,"));
    } else {
      rows[{std::string(ProtocolName(row.protocol)), HostOrder(row.src), HostOrder(row.dst),
            row.port}] += sums;
    }
  }
  // At midnight UTC there may be two intervals.
  EXPECT_EQ(others, dump.size() - 1);
  EXPECT_EQ(lines, (dump.size() - 1) * kRowsMax);
  Traffic sent = *scan;
  for (const auto& [key, sums] : *heavy) sent[key] += sums;
  for (const auto& [key, sums] : *heavy) EXPECT_EQ(rows[key], sums) << key.ToString();
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
            << (*engine)->Stderr();
  ASSERT_NO_FATAL_FAILURE(ImportAndAsk(Total(sent)));
}

}  // namespace
}  // namespace ctacct
