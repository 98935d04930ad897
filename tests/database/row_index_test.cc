// What a client did within some minutes, asked of the rows: their order, and the index that finds
// them without reading the day.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/spool/spool_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/importer_fixture.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

constexpr size_t kRows = 40'000;  // Of an interval: about 20 block ranges.
constexpr char kPartition[] = "vpn_traffic_20200913";
constexpr char kQuestion[] =
    "SELECT time, dst, proto, port, src_bytes, dst_bytes FROM vpn_traffic "
    "WHERE src = '10.64.3.7' AND time > '2020-09-13 12:26:45Z' AND time <= '2020-09-13 12:31:45Z'";

class RowIndexTest : public ImporterTest {
 protected:
  // Sources in no order.
  void WriteInterval(uint64_t sequence) {
    std::vector<TrafficRow> rows = MakeRows(sequence, kRows);
    for (size_t i = 0; i < rows.size(); ++i) {
      const size_t client = i * 7919 % 1000;
      rows[i].src = {10, 64, static_cast<uint8_t>(client / 256), static_cast<uint8_t>(client)};
      rows[i].dst = {10, 33};
      rows[i].protocol = 6;
      rows[i].port = 443;
      rows[i].bytes_src >>= 10;
      rows[i].bytes_dst >>= 10;
      expected_.Add(rows[i]);
    }
    const absl::StatusOr<std::string> name = WriteSpoolFile(watch_, MakeHeader(sequence), rows);
    ASSERT_TRUE(name.ok()) << name.status();
  }
  // Afterwards nothing but the importer lets the index know new pages.
  void SetUp() override {
    ImporterTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    WriteInterval(1);
    ASSERT_TRUE(Drain().exit.ok());
    Sql(absl::StrCat("ALTER TABLE ", kPartition, " SET (autovacuum_enabled = off)"));
  }
  // Block ranges that the index did not know until now.
  std::string Unknown() {
    return Sql(absl::StrCat("SELECT brin_summarize_new_values('", kPartition, "_time_src_idx')"));
  }
};

TEST_F(RowIndexTest, AClientsMinutesAreFoundWithoutReadingTheDay) {
  for (uint64_t interval = 2; interval <= 20; ++interval) WriteInterval(interval);
  const Finished run = Run({"-watch=" + watch_, "-once", "-transaction-files=1"});
  EXPECT_TRUE(run.exit.ok()) << run.err;
  EXPECT_EQ(
      Sql("SELECT count(*) FROM (SELECT src < lag(src) OVER (PARTITION BY time ORDER BY ctid) "
          "AS falls FROM vpn_traffic) AS rows WHERE falls"),
      "0");
  Sql(absl::StrCat("ANALYZE ", kPartition));
  const nlohmann::json plan =
      nlohmann::json::parse(Sql(absl::StrCat("EXPLAIN (ANALYZE, FORMAT json) ", kQuestion)))
          .at(0)
          .at("Plan");
  ASSERT_EQ(plan.at("Node Type"), "Bitmap Heap Scan") << plan;
  EXPECT_EQ(plan.at("Plans").at(0).at("Index Name"), absl::StrCat(kPartition, "_time_src_idx"));
  EXPECT_EQ(plan.at("Actual Rows"), 20 * kRows / 1000);
  // Of each interval a range or two, and the one that it shares with the next.
  EXPECT_LE(plan.at("Lossy Heap Blocks"), 20 * 3 * 32);
  EXPECT_EQ(Sql(absl::StrCat("SELECT pg_relation_size('", kPartition, "') / 8192 > 10000")), "t");
  EXPECT_EQ(Unknown(), "0");
  ExpectSums();
}

// Vacuum holds this lock, perhaps for an hour.
TEST_F(RowIndexTest, NoFileWaitsForTheIndex) {
  const auto other =
      Subprocess::Start({"psql", "-X", "-q", "-d", postgres->Conninfo(database_), "-c",
                         absl::StrCat("BEGIN; LOCK TABLE ", kPartition,
                                      " IN SHARE UPDATE EXCLUSIVE MODE; SELECT pg_sleep(60)")});
  ASSERT_TRUE(other.ok());
  ASSERT_TRUE(Eventually([&] {
    return Sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)' AND "
               "wait_event = 'PgSleep'") == "1";
  }));
  WriteInterval(2);
  Finished run = Drain();
  EXPECT_TRUE(run.exit.ok()) << run.err;
  ExpectSums();
  EXPECT_EQ(Sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), "1");
  Sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
  // The next file's call makes up for it.
  WriteSpool(3);
  EXPECT_TRUE(Drain().exit.ok());
  EXPECT_EQ(Unknown(), "0");
}

TEST_F(RowIndexTest, WithoutTheRightToItFilesAreLoadedAllTheSame) {
  Sql("CREATE OR REPLACE FUNCTION traffic_summarize(moments timestamptz[]) RETURNS void "
      "LANGUAGE plpgsql AS 'BEGIN RAISE insufficient_privilege; END'");
  WriteInterval(2);
  const Finished run = Drain();
  EXPECT_TRUE(run.exit.ok()) << run.err;
  EXPECT_THAT(run.err, ::testing::HasSubstr("index of vpn_traffic: SQLSTATE 42501"));
  ExpectSums();
  EXPECT_NE(Unknown(), "0");  // As in the first test: the number can be another.
}

}  // namespace
}  // namespace ctacct
