// The importer's own binary against a real PostgreSQL: what is in the database afterwards, which
// files are where, and the exit status. Fault numbers are those of the project's list of faults.
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/csv.h"
#include "engine/spool/engine_id.h"
#include "engine/spool/spool_format.h"
#include "engine/spool/spool_writer.h"
#include "engine/system/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/importer_fixture.h"
#include "tests/support/private_postgres.h"
#include "tests/support/subprocess.h"
#include "xxhash.h"

namespace ctacct {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using ::testing::UnorderedElementsAre;

TEST_F(ImporterTest, DrainsAFolder) {
  for (uint64_t i = 1; i <= 5; ++i) WriteSpool(i, 5000);
  WriteSpool(6, 0);  // An interval without traffic is in the ledger all the same.
  const Finished run = Drain();
  EXPECT_TRUE(run.exit.ok()) << run.err;
  EXPECT_THAT(run.err, StartsWith("importer: 6 files, 25,000 rows in "));
  ExpectSums();
  EXPECT_TRUE(fs::is_empty(watch_));
  EXPECT_EQ(Sql("SELECT count(*), sum(row_count), min(interval_length), min(completeness), "
                "min(gateway) FROM import_ledger"),
            "6|25000|00:00:15|complete|gw1");
}

TEST_F(ImporterTest, EveryColumnArrivesAsItWas) {
  TrafficRow row = MakeRows(1, 1)[0];
  row.protocol = 6;
  row.port = kPortNotListed;
  row.src = {10, 32, 251, 0};
  row.dst = {10, 32, 250, 0};
  row.packets_src = 16;
  row.packets_dst = 13;
  row.bytes_src = 3220;
  row.bytes_dst = 1884;
  row.connection_count = 1;
  row.connection_time_ms = uint64_t{1} << 40;
  row.open_connections = 3;
  row.flow_count = 5;
  row.unanswered_count = 4;
  TrafficRow ipv6 = row;
  ipv6.family = AddressFamily::kIpv6;
  ipv6.src = {0x20, 0x01, 0x0d, 0xb8};
  ipv6.protocol = 99;
  SpoolHeader header = MakeHeader(1);
  header.completeness = Completeness::kPartial;
  header.events_dropped = 42;
  ASSERT_TRUE(WriteSpoolFile(watch_, header, {row, ipv6}).ok());
  EXPECT_TRUE(Drain().exit.ok());
  EXPECT_EQ(Sql("SELECT time, src, dst, proto, port, src_packets, src_bytes, dst_packets, "
                "dst_bytes, connection_times, connection_count, open_connections, flow_count, "
                "unanswered_count, gateway "
                "FROM vpn_traffic WHERE src IN ('10.32.251.0') AND proto = 'tcp'"),
            "2020-09-13 12:27:00+00|10.32.251.0|10.32.250.0|tcp|-1|16|3220|13|1884|1099511627776|"
            "1|3|5|4|gw1");
  EXPECT_EQ(Sql("SELECT src, proto FROM vpn_traffic WHERE src = '2001:db8::'"), "2001:db8::|99");
  EXPECT_EQ(Sql("SELECT completeness, events_dropped, interval_end FROM import_ledger"),
            "partial|42|2020-09-13 12:27:00+00");
}

// Microseconds are the database's: a gap is rounded to what surely holds it.
TEST_F(ImporterTest, GapsArriveAsTheyWere) {
  const std::vector<TrafficRow> rows = MakeRows(1, 10);
  SpoolHeader header = MakeHeader(1);
  header.completeness = Completeness::kPartial;
  header.events_dropped = 42;
  header.gateway = "gw's \"one\"";
  const std::vector<Gap> gaps = {
      {header.interval_end_ns - 600'000'000'000 + 1, header.interval_end_ns - 7'999'999'999,
       GapCause::kRestart, Completeness::kPartial, 0, 7},
      {header.interval_end_ns - 2'000'000'000, header.interval_end_ns - 1'000'000'000,
       GapCause::kOverrun, Completeness::kResynced, 42, 0},
      {1, 1, GapCause::kAllocation, Completeness::kResynced, 0, 2}};
  const absl::StatusOr<std::string> name = WriteSpoolFile(watch_, header, rows, gaps);
  ASSERT_TRUE(name.ok()) << name.status();
  for (const TrafficRow& row : rows) expected_.Add(row);
  for (const Gap& gap : gaps) expected_.Add(gap);
  EXPECT_TRUE(Run({"-watch=" + watch_, "-once", "-move=" + done_}).exit.ok());
  ExpectSums();
  const std::string gateway = "gw's \"one\"|";
  EXPECT_EQ(Sql("SELECT gateway, number, began, ended, cause, completeness, events_dropped, "
                "flows_lost, interval_end, sequence FROM traffic_gaps ORDER BY number"),
            gateway +
                "1|2020-09-13 12:17:00+00|2020-09-13 12:26:52.000001+00|restart|partial|0|7|"
                "2020-09-13 12:27:00+00|1\n" +
                gateway +
                "2|2020-09-13 12:26:58+00|2020-09-13 12:26:59+00|overrun|resynced|42|0|"
                "2020-09-13 12:27:00+00|1\n" +
                gateway +
                "3|1970-01-01 00:00:00+00|1970-01-01 00:00:00.000001+00|allocation|resynced|0|2|"
                "2020-09-13 12:27:00+00|1");
  const std::string interval =
      "2020-09-13 12:27:00+00|00:00:15|partial|42|9|10|" + absl::StrCat(expected_.rows);
  const std::string intervals_sql =
      "SELECT time, interval_length, completeness, events_dropped, flows_lost, row_count, "
      "count(*) FROM traffic_intervals JOIN vpn_traffic USING (gateway, time) GROUP BY 1, 2, 3, 4, "
      "5, 6";
  EXPECT_EQ(Sql(intervals_sql), interval);
  EXPECT_EQ(Sql("SELECT text FROM traffic_gap_regions ORDER BY began DESC LIMIT 2"),
            "overrun, resynced: 42 events dropped\n"
            "restart, partial: 0 events dropped, at least 7 flows lost");
  // Once more, under its name and another one.
  fs::copy_file(done_ + "/" + *name, watch_ + "/" + *name);
  fs::copy_file(done_ + "/" + *name, watch_ + "/again.spool");
  const Finished again = Drain();
  EXPECT_TRUE(again.exit.ok()) << again.err;
  EXPECT_THAT(again.err, HasSubstr(", 2 done before"));
  ExpectSums();
  EXPECT_EQ(Sql(intervals_sql), interval);
}

// A silent gateway leaves files, and so is not taken for one whose engine does not run.
TEST_F(ImporterTest, AnIntervalWithoutRowsIsInTheDatabase) {
  SpoolHeader header = MakeHeader(1);
  header.covered_from_ns = header.interval_end_ns - 14'000'000'999;
  header.covered_to_ns = header.interval_end_ns + 1'999;
  header.ports_checksum = uint64_t{1} << 63 | 5;
  header.src_mask = {255, 239, 255, 0};
  header.src_mask6.fill(0);
  header.src_mask6[0] = header.src_mask6[1] = 255;
  header.light = true;
  ASSERT_TRUE(WriteSpoolFile(watch_, header, {}).ok());
  WriteFile(watch_ + "/traffic_1.csv", CsvText(2, true));
  const Finished run = Drain();
  EXPECT_TRUE(run.exit.ok()) << run.err;
  ExpectSums();
  EXPECT_EQ(Sql("SELECT gateway, time, covered, completeness, row_count FROM traffic_intervals"),
            "gw1|2020-09-13 12:27:00+00|00:00:14.000002|complete|0");
  EXPECT_EQ(
      Sql("SELECT covered_from, covered_to, ports_checksum, src_mask, dst_mask, src_mask6, dst_mask6, mode FROM "
          "import_ledger ORDER BY mode"),
      "2020-09-13 12:26:45.999999+00|2020-09-13 12:27:00.000001+00|-9223372036854775803|"
      "255.239.255.0|255.255.255.255|ffff::|ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff|light\n|||||||");
}

TEST_F(ImporterTest, AnIntervalSaysItsGroupMasks) {
  const auto write = [&](uint64_t interval, uint8_t last, uint8_t last6) {
    static uint64_t sequence = 0;
    SpoolHeader header = MakeHeader(interval);
    header.sequence = ++sequence;
    header.src_mask = {255, 255, 255, last};
    header.dst_mask6[15] = last6;
    ASSERT_TRUE(WriteSpoolFile(watch_, header, {}).ok());
  };
  // /24, changed to /32 within the second; then that of IPv6.
  write(1, 0, 255);
  write(2, 0, 255);
  write(2, 255, 255);
  write(3, 255, 255);
  write(4, 255, 0);
  EXPECT_TRUE(Drain().exit.ok());
  EXPECT_EQ(
      Sql("SELECT to_char(time, 'MI:SS'), src_mask, dst_mask, dst_mask6 FROM traffic_intervals "
          "ORDER BY time"),
      "27:00|255.255.255.0|255.255.255.255|ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff\n"
      "27:15||255.255.255.255|ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff\n"
      "27:30|255.255.255.255|255.255.255.255|ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff\n"
      "27:45|255.255.255.255|255.255.255.255|ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00");
}

TEST_F(ImporterTest, AnIntervalOfWhichOnlyAGapIsKnown) {
  WriteSpool(3, 0);
  EXPECT_TRUE(Drain().exit.ok());
  ExpectSums();
  EXPECT_EQ(Sql("SELECT gateway, completeness, row_count, flows_lost FROM traffic_intervals"),
            "gw1|partial|0|6");
}

TEST_F(ImporterTest, AnIntervalIsAsGoodAsTheWorstOfItsFiles) {
  // An engine that was restarted within the interval, and another gateway.
  WriteSpool(1);
  WriteSpool(3);
  const EngineId first = engine_id_;
  engine_id_ = NewEngineId().value();
  SpoolHeader header = MakeHeader(1);
  header.completeness = Completeness::kResynced;
  header.events_dropped = 5;
  ASSERT_TRUE(WriteSpoolFile(watch_, header, {}).ok());
  header.sequence = 2;
  header.gateway = "gw2";
  header.completeness = Completeness::kComplete;
  ASSERT_TRUE(WriteSpoolFile(watch_, header, {}).ok());
  EXPECT_TRUE(Drain().exit.ok());
  EXPECT_EQ(Sql("SELECT gateway, time, completeness, events_dropped, flows_lost, row_count "
                "FROM traffic_intervals ORDER BY 1, 2"),
            "gw1|2020-09-13 12:27:00+00|resynced|5|0|100\n"
            "gw1|2020-09-13 12:27:30+00|partial|0|6|100\n"
            "gw2|2020-09-13 12:27:00+00|complete|5|0|0");
  // The gap of the file that has no gap records, and the gaps of the other files.
  EXPECT_EQ(Sql("SELECT began, ended, text FROM traffic_gap_regions WHERE text LIKE 'resynced%'"),
            "2020-09-13 12:26:45+00|2020-09-13 12:27:00+00|resynced: 5 events dropped");
  EXPECT_EQ(Sql("SELECT count(*) FROM traffic_gap_regions"), "5");
  EXPECT_NE(first, engine_id_);
}

// The most gaps that a file may contain, and then the operator's query.
TEST_F(ImporterTest, AFileFullOfGapsAndTheOperatorsQuestion) {
  SpoolHeader header = MakeHeader(1);
  header.completeness = Completeness::kResynced;
  std::vector<Gap> gaps;
  for (int64_t i = 0; i < spool_format::kGapsMax; ++i) {
    gaps.push_back({header.interval_end_ns - kIntervalNs + i * 2'000'000,
                    header.interval_end_ns - kIntervalNs + i * 2'000'000 + 1'000'000,
                    GapCause::kOverrun, Completeness::kResynced, 1, 1});
    expected_.Add(gaps.back());
    header.events_dropped += 1;
  }
  const std::vector<TrafficRow> rows = MakeRows(1, 10);
  for (const TrafficRow& row : rows) expected_.Add(row);
  ASSERT_TRUE(WriteSpoolFile(watch_, header, rows, gaps).ok());
  EXPECT_TRUE(Drain().exit.ok());
  ExpectSums();
  WriteSpool(2);
  WriteSpool(3, 0);
  EXPECT_TRUE(Drain().exit.ok());
  const std::string question = Contents(DataPath("configs/postgres/gaps.sql"));
  ASSERT_NE(question, "");
  EXPECT_EQ(
      Sql(question),
      "2020-09-13 12:27:15+00|2020-09-13 12:27:30+00|gw1|partial|00:00:00|0|6|"
      "allocation, overrun, restart|0.002 s|2020-09-13 12:27:15+00|0 B|0\n" +
          Sql("SELECT '2020-09-13 12:26:45+00', time, 'gw1', 'resynced', '00:00:00', '4,096', '4,096', "
              "'overrun', '4.096 s', '2020-09-13 12:26:45+00', "
              "traffic_bytes(sum(src_bytes + dst_bytes)), "
              "to_char(sum(connection_count), 'FM999,999,999') FROM vpn_traffic "
              "WHERE time = '2020-09-13 12:27:00+00' GROUP BY time"));
}

// Three months of one gateway, and the questions of a dashboard that shows an hour.
TEST_F(ImporterTest, AnHourIsFoundWithoutReadingTheSeason) {
  EXPECT_TRUE(Drain().exit.ok());  // Makes the tables.
  Sql("INSERT INTO import_ledger (engine, sequence, checksum, row_count, interval_end, "
      "interval_length, completeness, events_dropped, imported_at, gateway, source_file) "
      "SELECT gen_random_uuid(), i, 0, 1000, "
      "timestamptz '2026-01-01 00:00:00+00' + i * interval '15 s', '15 s', "
      "CASE WHEN i % 1000 = 0 THEN 'partial' ELSE 'complete' END, 0, now(), 'gw1', 'x' "
      "FROM generate_series(1, 518400) AS i; "
      "INSERT INTO traffic_gaps SELECT interval_end - interval '10 s', interval_end, 1, 1, "
      "interval_end, engine, sequence, 1, 'overrun', 'partial', gateway FROM import_ledger "
      "WHERE sequence % 2000 = 0; "
      "ANALYZE import_ledger; ANALYZE traffic_gaps");
  const std::string hour = "'2026-02-14 12:00:00+00' AND '2026-02-14 13:00:00+00'";
  const std::string by_interval =
      Sql("EXPLAIN SELECT * FROM traffic_intervals WHERE gateway = 'gw1' AND time BETWEEN " + hour);
  EXPECT_THAT(by_interval, HasSubstr("import_ledger_interval"));
  EXPECT_THAT(by_interval, Not(HasSubstr("Seq Scan")));
  EXPECT_EQ(Sql("SELECT count(*) FROM traffic_intervals WHERE time BETWEEN " + hour), "241");
  const std::string regions =
      "FROM traffic_gap_regions WHERE ended >= '2026-02-14 12:00:00+00' AND "
      "began <= '2026-02-14 13:00:00+00'";
  const std::string by_region = Sql("EXPLAIN SELECT * " + regions);
  EXPECT_THAT(by_region, HasSubstr("import_ledger_incomplete"));
  EXPECT_THAT(by_region, Not(HasSubstr("Seq Scan on import_ledger")));
  const std::string newest =
      Sql("EXPLAIN SELECT * FROM traffic_gaps WHERE ended >= "
          "'2026-03-31 23:00:00+00' AND began <= '2026-04-01 00:00:00+00'");
  EXPECT_THAT(newest, HasSubstr("traffic_gaps_ended"));
}

TEST_F(ImporterTest, CsvOfElevenAndTwelveColumns) {
  WriteFile(watch_ + "/traffic_2020-09-13T12_26_45.csv", CsvText(1, false, 6000));
  WriteFile(watch_ + "/traffic_2020-09-13T12_27_00.csv", CsvText(2, true));
  const Finished run = Run({"-watch=" + watch_, "-once", "-gateway=gw's \"one\""});
  EXPECT_TRUE(run.exit.ok()) << run.err;
  ExpectSums();
  EXPECT_EQ(Sql("SELECT DISTINCT gateway FROM vpn_traffic"), "gw's \"one\"");
  EXPECT_EQ(Sql("SELECT count(*) FROM vpn_traffic WHERE proto = 'udplite'") == "0", false);
  EXPECT_EQ(Sql("SELECT count(*), sum(sequence) FROM import_ledger WHERE interval_end IS NULL"),
            "2|0");
  EXPECT_TRUE(fs::is_empty(watch_));
}

TEST_F(ImporterTest, ACopyOfACsvFileUnderAnotherNameIsNotLoadedAgain) {
  const std::string text = CsvText(1, true);
  WriteFile(watch_ + "/traffic_a.csv", text);
  WriteFile(watch_ + "/traffic_b.csv", text);
  const Finished run = Run({"-watch=" + watch_, "-once", "-gateway=a"});
  EXPECT_TRUE(run.exit.ok()) << run.err;
  EXPECT_THAT(run.err, HasSubstr(", 1 done before"));
  ExpectSums();
}

// Two gateways without traffic of their own write equal lines. It is unknown whether this is a copy
// or another gateway's file, so it is neither loaded nor deleted.
TEST_F(ImporterTest, AnEqualCsvFileOfNoNamedGatewayIsKeptAndNamed) {
  const std::string text = CsvText(1, true);
  WriteFile(watch_ + "/traffic_a.csv", text);
  EXPECT_TRUE(Drain().exit.ok());
  for (const char* const name : {"traffic_a.csv", "traffic_b.csv"}) {
    WriteFile(watch_ + "/" + name, text);
    const Finished run = Drain();
    EXPECT_EQ(run.exit.code, 1);
    EXPECT_THAT(run.err, HasSubstr(absl::StrCat(watch_, "/", name, ": equal to a CSV file")));
    EXPECT_THAT(run.err, HasSubstr("1 NOT imported"));
    EXPECT_EQ(Contents(watch_ + "/" + name), text);
    const Finished named = Run({"-watch=" + watch_, "-once", absl::StrCat("-gateway=", name)});
    EXPECT_TRUE(named.exit.ok()) << named.err;
  }
  EXPECT_EQ(Sql("SELECT gateway, count(*) FROM vpn_traffic GROUP BY 1 ORDER BY 1"),
            "|100\ntraffic_a.csv|100\ntraffic_b.csv|100");
  EXPECT_TRUE(fs::is_empty(watch_));
}

// As after a kill between COMMIT and removal: the same file, still there.
TEST_F(ImporterTest, ACsvFileThatCouldNotBeRemovedIsTheSameFile) {
  WriteFile(watch_ + "/traffic_a.csv", CsvText(1, true));
  const std::string kept = folder_ + "/kept.csv";
  fs::create_hard_link(watch_ + "/traffic_a.csv", kept);
  EXPECT_TRUE(Drain().exit.ok());
  fs::rename(kept, watch_ + "/traffic_a.csv");
  const Finished run = Drain();
  EXPECT_TRUE(run.exit.ok()) << run.err;
  EXPECT_THAT(run.err, HasSubstr(", 1 done before"));
  ExpectSums();
  EXPECT_TRUE(fs::is_empty(watch_));
}

TEST_F(ImporterTest, TheSameLinesOfTwoGatewaysAreTwoFiles) {
  const std::string text = CsvText(1, true);
  for (const char* const gateway : {"a", "b", "b"}) {
    WriteFile(watch_ + "/traffic_a.csv", text);
    const Finished run = Run({"-watch=" + watch_, "-once", absl::StrCat("-gateway=", gateway)});
    EXPECT_TRUE(run.exit.ok()) << run.err;
  }
  EXPECT_EQ(Sql("SELECT gateway, count(*) FROM vpn_traffic GROUP BY 1 ORDER BY 1"), "a|100\nb|100");
}

// Fault 11.
TEST_F(ImporterTest, AFileCopiedBackIsSkippedByTheLedger) {
  const std::string name = WriteSpool(1);
  EXPECT_TRUE(Run({"-watch=" + watch_, "-once", "-move=" + done_}).exit.ok());
  EXPECT_THAT(Names(done_), UnorderedElementsAre(name));
  fs::copy_file(done_ + "/" + name, watch_ + "/" + name);
  fs::copy_file(done_ + "/" + name, watch_ + "/another-name.spool");
  const Finished run = Run({"-watch=" + watch_, "-once", "-move=" + done_});
  EXPECT_TRUE(run.exit.ok()) << run.err;
  EXPECT_THAT(run.err, HasSubstr("0 files, 0 rows"));
  EXPECT_THAT(run.err, HasSubstr(", 2 done before"));
  ExpectSums();
  // Nothing is ever replaced: the second of the name got a number.
  EXPECT_THAT(Names(done_), UnorderedElementsAre(name, name + ".1", "another-name.spool"));
  EXPECT_TRUE(fs::is_empty(watch_));
}

// Fault 12.
TEST_F(ImporterTest, TheSameSequenceWithOtherContentsIsAnAlarm) {
  WriteSpool(1);
  EXPECT_TRUE(Drain().exit.ok());
  const std::string name = WriteSpool(1, 50, /*expect=*/false);
  WriteSpool(2);
  const Finished run = Drain();
  EXPECT_EQ(run.exit.code, 1);
  EXPECT_THAT(run.err, HasSubstr("ALARM: engine "));
  ExpectSums();
  EXPECT_THAT(Names(watch_ + "/failed"), UnorderedElementsAre(name, name + ".reason"));
  EXPECT_THAT(Contents(watch_ + "/failed/" + name + ".reason"), HasSubstr("other contents"));
}

// Faults 8, 9, 29.
TEST_F(ImporterTest, BadFilesAreQuarantinedAndTheNextOnesLoad) {
  const std::string torn = WriteSpool(1, 5000, false);
  fs::resize_file(watch_ + "/" + torn, 200'000);
  const std::string flipped = WriteSpool(2, 5000, false);
  {
    std::fstream file(watch_ + "/" + flipped, std::ios::binary | std::ios::in | std::ios::out);
    file.seekg(300'000);
    const char byte = static_cast<char>(file.get() ^ 0x10);
    file.seekp(300'000);
    file.put(byte);
  }
  WriteSpool(3);
  WriteFile(watch_ + "/rubbish.spool", "no spool file at all, not in the least");
  const std::string sound = CsvText(4, true, 5000, false);
  WriteFile(watch_ + "/traffic_1_torn.csv", sound.substr(0, sound.size() - 10));
  WriteFile(watch_ + "/traffic_2_inject.csv",
            "1600000005000000000,tcp,10.32.251.0,'); DROP TABLE vpn_traffic; "
            "--,443,16,13,3220,1884,1,65021\n");
  WriteFile(watch_ + "/traffic_3_long.csv", std::string(1 << 20, '1'));
  WriteFile(watch_ + "/traffic_4_nul.csv", std::string(1000, '\0') + "\n");
  WriteFile(watch_ + "/traffic_5_late.csv", sound + "1,2,3\n");
  WriteFile(watch_ + "/traffic_6_range.csv",
            "1600000005000000000,tcp,10.32.251.0,10.32.250.0,443,18446744073709551615,13,3220,"
            "1884,1,65021\n");
  WriteFile(watch_ + "/traffic_$(touch pwned)';--\n.csv", "x\n");
  const Finished run = Drain();
  EXPECT_EQ(run.exit.code, 1);
  EXPECT_THAT(run.err, HasSubstr("1 files, 100 rows in "));
  EXPECT_THAT(run.err, HasSubstr(", 10 NOT imported"));
  EXPECT_THAT(run.err, Not(HasSubstr("10.32.")));
  EXPECT_THAT(run.err, Not(HasSubstr("DROP")));
  EXPECT_EQ(Lines(run.err), 11u) << run.err;
  ExpectSums();
  const std::string failed = watch_ + "/failed/";
  EXPECT_EQ(Names(failed).size(), 20u);
  EXPECT_THAT(Names(watch_), UnorderedElementsAre("failed"));
  EXPECT_THAT(Contents(failed + torn + ".reason"), HasSubstr("torn: ends at byte 200000"));
  EXPECT_THAT(Contents(failed + flipped + ".reason"), HasSubstr("corrupt at byte 295336"));
  EXPECT_THAT(Contents(failed + "rubbish.spool.reason"), HasSubstr("not a spool file"));
  EXPECT_THAT(Contents(failed + "traffic_1_torn.csv.reason"), HasSubstr("line 5000 at byte "));
  EXPECT_THAT(Contents(failed + "traffic_2_inject.csv.reason"),
              HasSubstr("line 1 at byte 0: column 4 (dst): not an address"));
  EXPECT_THAT(Contents(failed + "traffic_3_long.csv.reason"), HasSubstr("longer than"));
  EXPECT_THAT(Contents(failed + "traffic_5_late.csv.reason"),
              HasSubstr(absl::StrCat("line 5001 at byte ", sound.size(), ": 3 columns")));
  EXPECT_THAT(Contents(failed + "traffic_6_range.csv.reason"),
              HasSubstr("line 1 at byte 0: column 6 (packets_src): more than 9007199254740992"));
  EXPECT_THAT(Contents(failed + "traffic_$(touch pwned)';--\n.csv.reason"),
              HasSubstr("traffic_$(touch pwned)';--\\x0a.csv: line 1"));
  // A second run has nothing left to complain about.
  EXPECT_TRUE(Drain().exit.ok());
}

// Fault 10.
TEST_F(ImporterTest, ANewerVersionIsHeld) {
  std::string bytes(64, 'n');
  std::memcpy(bytes.data(), spool_format::kMagic, sizeof(spool_format::kMagic));
  const uint32_t version = spool_format::kVersion + 1;
  const uint32_t header_bytes = 64;
  std::memcpy(bytes.data() + 8, &version, sizeof(version));
  std::memcpy(bytes.data() + 12, &header_bytes, sizeof(header_bytes));
  const uint64_t checksum = XXH3_64bits(bytes.data(), 56);
  std::memcpy(bytes.data() + 56, &checksum, sizeof(checksum));
  WriteFile(watch_ + "/0-newer.spool", bytes);
  WriteSpool(1);
  const Finished run = Drain();
  EXPECT_EQ(run.exit.code, 1);
  EXPECT_THAT(run.err, HasSubstr("0-newer.spool: of version 4 of the spool format"));
  ExpectSums();
  EXPECT_THAT(Names(watch_), UnorderedElementsAre("0-newer.spool"));
  EXPECT_EQ(Contents(watch_ + "/0-newer.spool"), bytes);
}

// Fault 13.
TEST_F(ImporterTest, WhatIsNoRegularFileStaysAndIsAnError) {
  const std::string outside = folder_ + "/outside.spool";
  WriteFile(outside, "not to be touched");
  fs::create_symlink(outside, watch_ + "/link.spool");
  ASSERT_EQ(mkfifo((watch_ + "/fifo.spool").c_str(), 0600), 0);
  fs::create_directory(watch_ + "/folder.spool");
  fs::create_directory(watch_ + "/traffic_folder.csv");
  fs::create_directory(watch_ + "/1-folder.names");
  const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  (watch_ + "/socket.spool").copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  WriteFile(watch_ + "/.hidden.spool.tmp", "half");
  WriteFile(watch_ + "/notes.txt", "not ours");
  WriteSpool(1);
  const std::vector<std::string> names = {"link.spool",         "fifo.spool",     "folder.spool",
                                          "traffic_folder.csv", "1-folder.names", "socket.spool"};
  const Finished run = Drain();
  EXPECT_EQ(run.exit.code, 1) << run.err;
  for (const std::string& name : names) {
    EXPECT_THAT(run.err, ContainsRegex(absl::StrCat(watch_, "/", name, ": .*not a regular file")));
  }
  EXPECT_THAT(run.err, HasSubstr("6 NOT imported"));
  EXPECT_EQ(Lines(run.err), names.size() + 1) << run.err;
  ExpectSums();
  // On the command line.
  for (const std::string& name : names) {
    const std::string path = watch_ + "/" + name;
    const Finished named = Run({path});
    EXPECT_EQ(named.exit.code, 1) << named.err;
    EXPECT_THAT(named.err, ContainsRegex(path + ": .*not a regular file"));
  }
  EXPECT_THAT(Run({watch_ + "/folder.spool/"}).err, HasSubstr("/: not a regular file"));
  // One that watches says it once, not with each look.
  const auto importer = StartImporter({"-watch=" + watch_});
  for (uint64_t i = 2; i <= 4; ++i) {
    const std::string spool = WriteSpool(i);
    ASSERT_TRUE(Eventually([&] { return !fs::exists(watch_ + "/" + spool); }));
  }
  ASSERT_TRUE(importer->Signal(SIGTERM).ok());
  const absl::StatusOr<ExitStatus> exit = importer->Wait(kAtMost);
  ASSERT_TRUE(exit.ok());
  EXPECT_EQ(exit->code, 1);
  const std::string log = importer->Stderr();
  const std::vector<std::string> parts = absl::StrSplit(log, "not a regular file");
  EXPECT_EQ(parts.size(), names.size() + 1) << log;
  ExpectSums();
  EXPECT_EQ(Contents(outside), "not to be touched");
}

// A full disk, or a copy that was never made.
TEST_F(ImporterTest, AnEmptyFileIsABadFile) {
  const std::vector<std::string> names = {"1.spool", "traffic_1.csv", "1-2.names"};
  for (const std::string& name : names) {
    WriteFile(watch_ + "/" + name, "");
    const Finished named = Run({watch_ + "/" + name});
    EXPECT_EQ(named.exit.code, 1) << named.err;
    EXPECT_THAT(named.err, HasSubstr("/" + name + ": "));
    EXPECT_EQ(fs::file_size(watch_ + "/" + name), 0u);  // Its user decides.
  }
  // One that is still being written waits.
  std::ofstream writing(watch_ + "/traffic_2.csv");
  Finished run = Drain();
  EXPECT_EQ(run.exit.code, 1) << run.err;
  EXPECT_THAT(Names(watch_), UnorderedElementsAre("failed", "traffic_2.csv"));
  for (const std::string& name : names) {
    EXPECT_THAT(Contents(watch_ + "/failed/" + name + ".reason"), HasSubstr("/" + name + ": "));
  }
  EXPECT_THAT(Contents(watch_ + "/failed/traffic_1.csv.reason"), HasSubstr(": empty\n"));
  writing << CsvText(5, /*track_open=*/false) << std::flush;
  writing.close();
  run = Drain();
  EXPECT_TRUE(run.exit.ok()) << run.err;
  ExpectSums();
}

TEST_F(ImporterTest, ACsvFileThatIsBeingWrittenWaits) {
  const std::string path = watch_ + "/traffic_now.csv";
  // Not a stream: its descriptor would be inherited by the importer, which then waits for itself.
  auto writer =
      std::make_unique<UniqueFd>(open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  const auto append = [&writer](const std::string& lines) {
    EXPECT_EQ(write(writer->get(), lines.data(), lines.size()), static_cast<ssize_t>(lines.size()));
  };
  append(CsvText(1, true, 10));
  const Finished run = Drain();
  EXPECT_EQ(run.exit.code, 1);
  EXPECT_THAT(run.err, HasSubstr("somebody still writes to it"));
  EXPECT_EQ(Sql(kSumsSql), Sums().ToString());
  const auto importer = StartImporter({"-watch=" + watch_});
  append(CsvText(2, true, 10));
  writer.reset();
  EXPECT_TRUE(Eventually([&] { return fs::is_empty(watch_); }));
  ExpectSums();
}

// If no lease can be had, only the time since the last write shows that a file is complete.
TEST_F(ImporterTest, AnothersCsvFileThatMayBeBeingWrittenWaits) {
  if (getuid() != 0) GTEST_SKIP() << "takes root to be two users";
  const std::string path = watch_ + "/traffic_now.csv";
  UniqueFd writer(open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
  const auto append = [&writer](const std::string& lines) {
    EXPECT_EQ(write(writer.get(), lines.data(), lines.size()), static_cast<ssize_t>(lines.size()));
  };
  append(CsvText(1, true, 10));
  const auto command = CommandAsAnother({"-watch=" + watch_, "-once"});
  ASSERT_EQ(chown(watch_.c_str(), another_, another_), 0);
  absl::StatusOr<Finished> run = RunProcess(command, kAtMost);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->exit.code, 1);
  EXPECT_THAT(run->err, HasSubstr("may still be written to"));
  append(CsvText(2, true, 10));
  writer = UniqueFd();
  fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::hours(1));
  run = RunProcess(command, kAtMost);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_TRUE(run->exit.ok()) << run->err;
  ExpectSums();
  // A clock that runs ahead somewhere.
  WriteFile(path, CsvText(3, true, 10));
  fs::last_write_time(path, fs::file_time_type::clock::now() + std::chrono::hours(1));
  const auto started = Subprocess::Start(CommandAsAnother({"-watch=" + watch_}));
  ASSERT_TRUE(started.ok()) << started.status();
  EXPECT_TRUE(Eventually([&] { return fs::is_empty(watch_); }));
  ExpectSums();
}

TEST_F(ImporterTest, ACsvFileThatGrowsAfterItWasReadIsNotDeleted) {
  SlowDownCommits();
  for (const bool named : {false, true}) {
    const std::string path = watch_ + "/traffic_1.csv";
    const std::string text = CsvText(named ? 1 : 2, true, 10);
    WriteFile(path, text);
    const auto importer =
        named ? StartImporter({path}) : StartImporter({"-watch=" + watch_, "-once"});
    ASSERT_TRUE(WaitForCommit());
    std::ofstream(path, std::ios::app) << "more\n";
    const absl::StatusOr<ExitStatus> exit = importer->Wait(kAtMost);
    ASSERT_TRUE(exit.ok());
    EXPECT_EQ(exit->code, 1);
    EXPECT_THAT(importer->Stderr(),
                HasSubstr(absl::StrCat("its first ", text.size(), " bytes are in the database")));
    EXPECT_THAT(importer->Stderr(), HasSubstr(", 1 NOT imported"));
    EXPECT_EQ(Lines(importer->Stderr()), 2u) << importer->Stderr();
    ExpectSums();
    const std::string left = named ? path : watch_ + "/failed/traffic_1.csv";
    EXPECT_EQ(Contents(left), text + "more\n");
  }
  EXPECT_THAT(Contents(watch_ + "/failed/traffic_1.csv.reason"), HasSubstr("count twice"));
}

TEST_F(ImporterTest, WhatAnotherImporterFoundBadIsNotImported) {
  SlowDownCommits();
  WriteSpool(1);
  const std::string bad = WriteSpool(2, 10, false);
  const auto importer = StartImporter({"-watch=" + watch_, "-once", "-transaction-files=1"});
  ASSERT_TRUE(WaitForCommit());
  fs::create_directory(watch_ + "/failed");
  fs::rename(watch_ + "/" + bad, watch_ + "/failed/" + bad);
  const absl::StatusOr<ExitStatus> exit = importer->Wait(kAtMost);
  ASSERT_TRUE(exit.ok());
  EXPECT_EQ(exit->code, 1);
  EXPECT_THAT(importer->Stderr(), HasSubstr("1 files, 100 rows in "));
  EXPECT_THAT(importer->Stderr(), HasSubstr(", 1 NOT imported"));
  ExpectSums();
}

TEST_F(ImporterTest, StoppedEarlyIsSaid) {
  SlowDownCommits();
  WriteSpool(1);
  const std::string second = WriteSpool(2, 10, false);
  const auto importer = StartImporter({"-watch=" + watch_, "-once", "-transaction-files=1"});
  ASSERT_TRUE(WaitForCommit());
  ASSERT_TRUE(importer->Signal(SIGTERM).ok());
  const absl::StatusOr<ExitStatus> exit = importer->Wait(kAtMost);
  ASSERT_TRUE(exit.ok());
  EXPECT_EQ(exit->code, 1);
  EXPECT_THAT(importer->Stderr(), StartsWith("importer: stopped before all was imported\n"));
  EXPECT_THAT(importer->Stderr(), HasSubstr(", 1 NOT imported"));
  ExpectSums();
  EXPECT_THAT(Names(watch_), UnorderedElementsAre(second));
}

TEST_F(ImporterTest, AFileInTheDatabaseThatCannotBeMovedIsSaidToBeThere) {
  const auto importer = StartImporter({"-watch=" + watch_, "-move=" + done_});
  WriteSpool(1);
  ASSERT_TRUE(Eventually([&] { return fs::is_empty(watch_); }));
  fs::remove_all(done_);
  WriteSpool(2);
  const absl::Status waited = importer->WaitForOutput("(its rows are in the database)", kAtMost);
  ASSERT_TRUE(waited.ok()) << waited;
  ASSERT_TRUE(importer->Signal(SIGTERM).ok());
  const absl::StatusOr<ExitStatus> exit = importer->Wait(kAtMost);
  ASSERT_TRUE(exit.ok());
  EXPECT_EQ(exit->code, 1);
  EXPECT_THAT(importer->Stderr(), HasSubstr(", 1 in the database but still in place"));
  EXPECT_THAT(importer->Stderr(), Not(HasSubstr("NOT imported")));
  ExpectSums();
}

TEST_F(ImporterTest, AFolderThatMayNotBeWrittenToIsOneLine) {
  if (getuid() != 0) GTEST_SKIP() << "takes root to be two users";
  WriteSpool(1, 10, false);
  const auto expect_fails = [&](const std::vector<std::string>& command,
                                const std::string& folder) {
    const absl::StatusOr<Finished> run = RunProcess(command, kAtMost);
    ASSERT_TRUE(run.ok()) << run.status();
    ExpectFails(*run, 1, "in folder " + folder + ": Permission denied");
  };
  fs::permissions(watch_, fs::perms(0755));
  fs::permissions(done_, fs::perms(0755));
  expect_fails(CommandAsAnother({"-watch=" + watch_}), watch_);
  ASSERT_EQ(chown(watch_.c_str(), another_, another_), 0);
  expect_fails(CommandAsAnother({"-watch=" + watch_, "-move=" + done_}), done_);
}

TEST_F(ImporterTest, FilesOfTheCommandLine) {
  const std::string first = WriteSpool(1);
  const std::string second = WriteSpool(2);
  WriteFile(watch_ + "/archive.csv", CsvText(3, false));
  const Finished run =
      Run({"-move", done_, watch_ + "/" + first, watch_ + "/" + second, watch_ + "/archive.csv"});
  EXPECT_TRUE(run.exit.ok()) << run.err;
  ExpectSums();
  EXPECT_THAT(Names(done_), UnorderedElementsAre(first, second, "archive.csv"));
}

TEST_F(ImporterTest, FilesOfTheCommandLineAndThenAFolder) {
  const std::string name = WriteSpool(1);
  fs::rename(watch_ + "/" + name, folder_ + "/" + name);
  WriteSpool(2);
  WriteFile(watch_ + "/bad.spool", "rubbish, more than sixteen bytes");
  const Finished run = Run({"-once", "-watch=" + watch_, folder_ + "/" + name});
  EXPECT_EQ(run.exit.code, 1);
  ExpectSums();
  EXPECT_THAT(Names(watch_), UnorderedElementsAre("failed"));
  EXPECT_TRUE(Run({"-move", done_, watch_ + "/failed/none.spool"}).exit.code == 1);
}

TEST_F(ImporterTest, ABadFileOfTheCommandLineStaysWhereItIs) {
  WriteFile(watch_ + "/bad.spool", "rubbish, more than sixteen bytes");
  const std::string good = WriteSpool(1);
  const Finished run = Run({watch_ + "/bad.spool", watch_ + "/none.spool", watch_ + "/" + good});
  EXPECT_EQ(run.exit.code, 1);
  EXPECT_THAT(run.err, HasSubstr("bad.spool: corrupt at byte 0"));
  EXPECT_THAT(run.err, HasSubstr("none.spool"));
  EXPECT_EQ(Lines(run.err), 3u) << run.err;
  ExpectSums();
  EXPECT_THAT(Names(watch_), UnorderedElementsAre("bad.spool"));
}

TEST_F(ImporterTest, MovesAcrossFileSystems) {
  std::string other = "/dev/shm/ctacct.XXXXXX";
  struct stat here, there;
  if (mkdtemp(other.data()) == nullptr || stat(other.c_str(), &there) != 0 ||
      stat(watch_.c_str(), &here) != 0 || here.st_dev == there.st_dev) {
    GTEST_SKIP() << "no second file system at /dev/shm";
  }
  const std::string name = WriteSpool(1);
  const std::string bytes = Contents(watch_ + "/" + name);
  WriteFile(other + "/" + name, "taken");
  const Finished run = Run({"-watch=" + watch_, "-once", "-move=" + other});
  EXPECT_TRUE(run.exit.ok()) << run.err;
  EXPECT_EQ(Contents(other + "/" + name), "taken");
  EXPECT_EQ(Contents(other + "/" + name + ".1"), bytes);
  EXPECT_TRUE(fs::is_empty(watch_));
  fs::remove_all(other);
}

TEST_F(ImporterTest, WatchesWhatAppearsAndEndsOnSigterm) {
  WriteSpool(1);
  const auto importer = StartImporter({"-watch=" + watch_});
  EXPECT_TRUE(Eventually([&] { return TrySql("SELECT count(*) FROM import_ledger") == "1"; }));
  for (uint64_t i = 2; i <= 10; ++i) WriteSpool(i);
  EXPECT_TRUE(Eventually([&] { return fs::is_empty(watch_); }));
  ASSERT_TRUE(importer->Signal(SIGTERM).ok());
  const absl::StatusOr<ExitStatus> exit = importer->Wait(kAtMost);
  ASSERT_TRUE(exit.ok());
  EXPECT_TRUE(exit->ok()) << importer->Stderr();
  ExpectSums();
}

// Fault 18.
TEST_F(ImporterTest, TwoImportersOnOneFolder) {
  for (uint64_t i = 1; i <= 100; ++i) WriteSpool(i);
  for (uint64_t i = 101; i <= 110; ++i) {
    WriteFile(absl::StrCat(watch_, "/traffic_", i, ".csv"), CsvText(i, true));
  }
  const auto one = StartImporter({"-watch=" + watch_, "-once", "-move=" + done_});
  const auto two =
      StartImporter({"-watch=" + watch_, "-once", "-move=" + done_, "-transaction-files=7"});
  ExpectBothEnd(one.get(), two.get());
  ExpectSums();
  EXPECT_EQ(Sql("SELECT count(*) FROM import_ledger"), "110");
  EXPECT_EQ(Names(done_).size(), 110u);
  EXPECT_TRUE(fs::is_empty(watch_));
}

// Faults 14 and 15, on the importer's side. CTACCT_KILLS sets the number of kills, CTACCT_SEED
// repeats a run (as far as the machine's timing repeats).
TEST_F(ImporterTest, KilledAtRandomMoments) {
  const uint64_t kills_wanted = NumberFromEnvironment("CTACCT_KILLS", 20);
  constexpr uint64_t kFiles = 200;
  const uint64_t seed = NumberFromEnvironment("CTACCT_SEED", std::random_device()());
  std::cout << "CTACCT_SEED=" << seed << " CTACCT_KILLS=" << kills_wanted << std::endl;
  std::mt19937_64 random(seed);
  uint64_t sequence = 0;
  while (sequence < kFiles) WriteSpool(++sequence, 1500);
  const std::vector<std::string> arguments = {"-watch=" + watch_, "-once", "-move=" + done_,
                                              "-transaction-files=3"};
  uint64_t kills = 0;
  std::string left_at_kills;
  while (kills < kills_wanted) {
    // A kill counts if there was work left; on a fast machine there is more to do.
    if (fs::is_empty(watch_)) {
      for (uint64_t i = 0; i < kFiles; ++i) WriteSpool(++sequence, 1500);
    }
    // After up to 7 files of this run, and then somewhere within a file: sometimes during the
    // start, mostly between two of open, ledger, COPY, COMMIT and rename.
    const size_t files = Names(watch_).size();
    const size_t until = files - std::min<size_t>(files, random() % 8);
    const auto importer = StartImporter(arguments);
    EXPECT_TRUE(Eventually([&] { return !importer->Running() || Names(watch_).size() <= until; }));
    absl::SleepFor(absl::Microseconds(random() % 6'000));
    if (!importer->Signal(SIGKILL).ok()) continue;
    const absl::StatusOr<ExitStatus> exit = importer->Wait(kAtMost);
    ASSERT_TRUE(exit.ok());
    if (exit->signal != SIGKILL) continue;
    ++kills;
    absl::StrAppend(&left_at_kills, " ", Names(watch_).size());
  }
  const Finished run = Run(arguments);
  EXPECT_TRUE(run.exit.ok()) << run.err;
  std::cout << sequence << " files, " << kills << " kills, files left at each:" << left_at_kills
            << "\n"
            << expected_.ToString() << " expected\n"
            << Sql(kSumsSql) << " in PostgreSQL\n";
  ExpectSums();
  EXPECT_EQ(Sql("SELECT count(*) FROM import_ledger"), absl::StrCat(sequence));
  // Hidden files are what a kill within a copy would leave; within one file system there is none.
  EXPECT_EQ(Names(done_).size(), sequence);
  EXPECT_TRUE(fs::is_empty(watch_));
}

// Fault 14, on the server's side.
TEST_F(ImporterTest, PostgresKilledWhileDraining) {
  for (uint64_t i = 1; i <= 150; ++i) WriteSpool(i, 2000);
  const auto importer = StartImporter({"-watch=" + watch_, "-once", "-transaction-files=4"});
  for (const char* const count : {"10", "60"}) {
    ASSERT_TRUE(Eventually([&] {
      return TrySql(absl::StrCat("SELECT count(*) >= ", count, " FROM import_ledger")) == "t";
    }));
    ASSERT_TRUE(postgres->StopImmediately().ok());
    const absl::Status restarted = postgres->Restart();
    ASSERT_TRUE(restarted.ok()) << restarted;
  }
  const absl::StatusOr<ExitStatus> exit = importer->Wait(kAtMost);
  ASSERT_TRUE(exit.ok());
  EXPECT_TRUE(exit->ok()) << importer->Stderr();
  EXPECT_THAT(importer->Stderr(), HasSubstr("database unavailable: "));
  EXPECT_THAT(importer->Stderr(), HasSubstr("database is back"));
  ExpectSums();
  EXPECT_EQ(Sql("SELECT count(*) FROM import_ledger"), "150");
  EXPECT_TRUE(fs::is_empty(watch_));
}

// A proxy that cuts the connection at a COMMIT of files: before the server receives it, or after
// the server has committed and before the importer receives the answer.
class CuttingProxy {
 public:
  enum class Cut { kBeforeServerHears, kBeforeClientHears };

  CuttingProxy(std::string folder, std::string server_folder, Cut cut, int cuts)
      : server_folder_(std::move(server_folder)),
        cut_(cut),
        cuts_left_(cuts),
        listening_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const sockaddr_un address = Address(folder);
    if (bind(listening_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
        listen(listening_.get(), 8) != 0) {
      ADD_FAILURE() << "no listening socket in " << folder;
    }
    thread_ = std::thread([this] { Serve(); });
  }
  ~CuttingProxy() {
    // Wakes accept(2). The importer has ended, so no connection is open.
    shutdown(listening_.get(), SHUT_RDWR);
    thread_.join();
  }
  int cuts_left() const { return cuts_left_; }

 private:
  static sockaddr_un Address(const std::string& folder) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    const std::string path = folder + "/.s.PGSQL.5432";
    EXPECT_LT(path.size(), sizeof(address.sun_path));
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    return address;
  }

  void Serve() {
    while (true) {
      const UniqueFd client(accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!client.valid()) return;
      const UniqueFd server(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      const sockaddr_un address = Address(server_folder_);
      if (connect(server.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) !=
          0) {
        continue;
      }
      Relay(client.get(), server.get());
    }
  }

  // Until one side closes, or it is time to cut.
  void Relay(int client, int server) {
    const std::string commit("COMMIT\0", 7);  // In the query as in the answer's command tag.
    bool has_files = false;
    std::vector<char> buffer(1 << 20);
    bool committing = false;
    while (true) {
      pollfd fds[2] = {{client, POLLIN, 0}, {server, POLLIN, 0}};
      if (poll(fds, 2, -1) < 0) return;
      for (int i = 0; i < 2; ++i) {
        if (fds[i].revents == 0) continue;
        const ssize_t got = read(fds[i].fd, buffer.data(), buffer.size());
        if (got <= 0) return;
        const std::string bytes(buffer.data(), static_cast<size_t>(got));
        has_files |= i == 0 && bytes.find("INSERT INTO import_ledger") != std::string::npos;
        if (cuts_left_ > 0 && has_files && bytes.find(commit) != std::string::npos) {
          if (i == 0 && cut_ == Cut::kBeforeServerHears) {
            --cuts_left_;
            return;
          }
          if (i == 0) committing = true;
          if (i == 1 && committing) {
            --cuts_left_;
            return;
          }
        }
        for (size_t sent = 0; sent < bytes.size();) {
          const ssize_t wrote = write(fds[1 - i].fd, bytes.data() + sent, bytes.size() - sent);
          if (wrote <= 0) return;
          sent += static_cast<size_t>(wrote);
        }
      }
    }
  }

  const std::string server_folder_;
  const Cut cut_;
  std::atomic<int> cuts_left_;
  UniqueFd listening_;
  std::thread thread_;
};

// Fault 14, to the message.
TEST_F(ImporterTest, AConnectionCutAtCommitIsExactlyOneLoad) {
  std::signal(SIGPIPE, SIG_IGN);
  EXPECT_TRUE(Drain().exit.ok());  // Makes the tables.
  uint64_t sequence = 0;
  for (const auto cut :
       {CuttingProxy::Cut::kBeforeServerHears, CuttingProxy::Cut::kBeforeClientHears}) {
    for (int i = 0; i < 5; ++i) WriteSpool(++sequence);
    std::string folder = "/tmp/ctacct_proxy.XXXXXX";
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    {
      const CuttingProxy proxy(folder, postgres->folder(), cut, 3);
      const Finished run = Run({"-conninfo=host=" + folder + " user=postgres dbname=" + database_,
                                "-watch=" + watch_, "-once", "-transaction-files=1"},
                               false);
      EXPECT_TRUE(run.exit.ok()) << run.err;
      EXPECT_EQ(proxy.cuts_left(), 0);
      // What was committed unheard counts as found in the ledger.
      const bool unheard = cut == CuttingProxy::Cut::kBeforeClientHears;
      EXPECT_THAT(run.err, HasSubstr(unheard ? "2 files, 200 rows" : "5 files, 500 rows"));
      EXPECT_EQ(run.err.find(", 3 done before") != std::string::npos, unheard) << run.err;
    }
    fs::remove_all(folder);
    ExpectSums();
    EXPECT_TRUE(fs::is_empty(watch_));
  }
}

TEST_F(ImporterTest, AnUnreachableDatabaseIsOneLine) {
  const std::string name = WriteSpool(1, 10, false);
  const std::vector<std::string> nowhere = {"-conninfo=host=" + folder_ + " dbname=x", "-watch",
                                            watch_, "-once"};
  ExpectFails(Run(nowhere, false), 1, "connection to server on socket");
  ExpectFails(
      Run({"-host=" + folder_, "-db=x", "-user=u", "-pass=secret", watch_ + "/" + name}, false), 1,
      "connection to server on socket");
  EXPECT_THAT(Names(watch_), UnorderedElementsAre(name));
}

TEST_F(ImporterTest, ErrorsThatNeedAnOperatorStopAtOnceAndTouchNothing) {
  const std::string name = WriteSpool(1, 10, false);
  ExpectFails(Run({"-watch=" + watch_, "-db=no_such_database"}), 1,
              "database \"no_such_database\" does not exist");
  ExpectFails(Run({"-watch=" + watch_, "-user=no_such_role"}), 1,
              "role \"no_such_role\" does not exist");
  Sql("CREATE TABLE vpn_traffic (time timestamptz)");
  ExpectFails(Run({"-watch=" + watch_}), 1,
              "SQLSTATE 42P07: relation \"vpn_traffic\" already exists (not made by ctacct: "
              "rename it");
  Sql("DROP TABLE vpn_traffic");
  EXPECT_TRUE(Run({"-watch=" + done_, "-once"}).exit.ok());
  Sql("ALTER TABLE vpn_traffic ADD CONSTRAINT none CHECK (port < -1)");
  const Finished refused = Run({"-watch=" + watch_});
  ExpectFails(refused, 1, "while importing " + watch_ + "/" + name + ": SQLSTATE ");
  EXPECT_THAT(refused.err, HasSubstr("violates check constraint \"none\""));
  ExpectFails(Run({"-conninfo=host=localhost port=abc", "-watch=" + watch_}, false), 2,
              "a port must be 1 to 65535");
  ExpectFails(Run({"-conninfo=host=localhost sslmode=bogus", "-watch=" + watch_}, false), 1,
              "\"bogus\"");
  Sql("INSERT INTO ctacct_schema VALUES (99)");
  ExpectFails(Run({"-watch=" + watch_}), 1, "schema is of version 99");
  EXPECT_THAT(Names(watch_), UnorderedElementsAre(name));
}

// Fault 17.
TEST_F(ImporterTest, AReadOnlyServerIsWaitedFor) {
  EXPECT_TRUE(Drain().exit.ok());  // Makes the tables.
  Sql("ALTER DATABASE " + database_ + " SET default_transaction_read_only = on");
  WriteSpool(1);
  const auto importer = StartImporter({"-watch=" + watch_});
  const absl::Status waited = importer->WaitForOutput("SQLSTATE 25006", kAtMost);
  ASSERT_TRUE(waited.ok()) << waited;
  Sql("ALTER DATABASE " + database_ + " RESET default_transaction_read_only", "postgres");
  EXPECT_TRUE(Eventually([&] { return fs::is_empty(watch_); }));
  ExpectSums();
  ASSERT_TRUE(importer->Signal(SIGINT).ok());
  const absl::StatusOr<ExitStatus> exit = importer->Wait(kAtMost);
  ASSERT_TRUE(exit.ok());
  EXPECT_TRUE(exit->ok());
  EXPECT_THAT(importer->Stderr(), HasSubstr("importer: database is back\n"));
}

// A server that accepts and never answers: the kernel completes the handshakes, nobody reads.
class HungServer {
 public:
  HungServer() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    if (bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        listen(fd_.get(), 64) != 0 ||
        getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      ADD_FAILURE() << "no listening socket on loopback";
    }
    port_ = ntohs(address.sin_port);
  }
  std::string Conninfo() const {
    return absl::StrCat("host=127.0.0.1 dbname=x user=x connect_timeout=1 port=", port_);
  }

 private:
  UniqueFd fd_;
  int port_ = 0;
};

// Fault 16.
TEST_F(ImporterTest, AServerThatNeverAnswersTimesOut) {
  const HungServer server;
  const std::string name = WriteSpool(1, 10, false);
  ExpectFails(Run({"-conninfo=" + server.Conninfo(), "-watch=" + watch_, "-once"}, false), 1,
              "the database has not answered within 1s");
  // Without -once it tries again, and still ends on SIGTERM.
  const auto importer =
      StartImporter({"-conninfo=" + server.Conninfo(), "-watch=" + watch_}, false);
  const absl::Status waited = importer->WaitForOutput("trying again", kAtMost);
  ASSERT_TRUE(waited.ok()) << waited;
  ASSERT_TRUE(importer->Signal(SIGTERM).ok());
  const absl::StatusOr<ExitStatus> exit = importer->Wait(kAtMost);
  ASSERT_TRUE(exit.ok());
  EXPECT_TRUE(exit->ok()) << importer->Stderr();
  EXPECT_THAT(Names(watch_), UnorderedElementsAre(name));
}

// Fault 30.
TEST_F(ImporterTest, SecretsAreInNoProcessListAndNoLog) {
  const HungServer server;
  const auto importer = StartImporter({"-conninfo", server.Conninfo() + " password=hush-hush",
                                       "-pass", "hush-hush", "-watch", watch_},
                                      false);
  const std::string command_line = absl::StrCat("/proc/", importer->pid(), "/cmdline");
  WriteSpool(1, 10, false);
  const absl::Status waited = importer->WaitForOutput("trying again", kAtMost);
  ASSERT_TRUE(waited.ok()) << waited;
  EXPECT_THAT(Contents(command_line), HasSubstr("-watch"));
  EXPECT_THAT(Contents(command_line), Not(HasSubstr("hush")));
  EXPECT_THAT(importer->Stderr(), Not(HasSubstr("hush")));
}

TEST_F(ImporterTest, WrongCommandLines) {
  ExpectFails(Run({}), 2, "nothing to load");
  ExpectFails(Run({"-no-such-flag=1", "-watch=" + watch_}), 2, "unknown flag '-no-such-flag'");
  ExpectFails(Run({"-once=perhaps", "-watch=" + watch_}), 2, "flag -once: bad value 'perhaps'");
  ExpectFails(Run({"-watch"}), 2, "flag -watch: needs a value");
  const Finished conninfo = Run({"-watch=" + watch_, "-conninfo=host=x passwort=hush-hush"}, false);
  ExpectFails(conninfo, 2, "flag -conninfo: not a connection string");
  EXPECT_THAT(conninfo.err, Not(HasSubstr("hush")));
  ExpectFails(Run({"-watch=" + watch_, "-db=host=elsewhere"}), 2, "flag -db: ");
  ExpectFails(Run({"-watch=" + folder_ + "/none", "-once"}), 1,
              "cannot open folder " + folder_ + "/none: No such file or directory");
  ExpectFails(Run({"-watch=" + folder_ + "/none", "-once", "-move=" + folder_ + "/new"}), 1,
              "cannot open folder " + folder_ + "/none: No such file or directory");
  EXPECT_FALSE(fs::exists(folder_ + "/new"));
  ExpectFails(Run({"-watch=" + watch_, "-move=" + folder_ + "/none/none"}), 1,
              "cannot make folder " + folder_ + "/none/none: No such file or directory");
  ExpectFails(Run({"-migrate", watch_ + "/x.spool"}), 2, "flag -migrate: cannot be combined");
  ExpectFails(Run({"-watch=" + watch_, "-move=" + watch_ + "/."}), 2,
              "flag -move: names the watched folder");
  // Nor where bad files go: they would be taken for those that are in the database.
  fs::create_directory_symlink(watch_, folder_ + "/link");
  for (const bool there : {false, true}) {
    if (there) fs::create_directory(watch_ + "/failed");
    for (const std::string& move : {watch_ + "/failed", watch_ + "/failed/",
                                    watch_ + "/../watch/./failed", folder_ + "/link/failed"}) {
      ExpectFails(Run({"-watch=" + watch_, "-move=" + move, "-once"}), 2,
                  "flag -move: names the folder of files that failed");
      EXPECT_EQ(fs::exists(watch_ + "/failed"), there);
    }
  }
  ExpectFails(Run({"-watch=" + watch_, "-gateway=\xfc"}), 2, "flag -gateway: ");
  const Finished help = Run({"--help"});
  EXPECT_TRUE(help.exit.ok());
  for (const char* const flag :
       {"-host", "-db", "-user", "-pass", "-conninfo", "-watch", "-move", "-once", "-gateway"}) {
    EXPECT_THAT(help.out, HasSubstr(absl::StrCat("\n  ", flag, "\n")));
  }
}

TEST_F(ImporterTest, MigrateMakesTheTablesAndNothingElse) {
  WriteSpool(1, 10, false);
  for (int times = 0; times < 2; ++times) {
    // As with the service's flag file.
    const Finished run = Run({"-migrate", "-watch=" + watch_});
    EXPECT_TRUE(run.exit.ok()) << run.err;
    EXPECT_EQ(run.err, "");
    EXPECT_EQ(Sql("SELECT count(*) FROM vpn_traffic"), "0");
    EXPECT_EQ(Names(watch_).size(), 1u);
  }
}

TEST_F(ImporterTest, AFolderForLoadedFilesIsMade) {
  WriteSpool(1);
  EXPECT_TRUE(Run({"-watch=" + watch_, "-once", "-move=" + folder_ + "/made"}).exit.ok());
  EXPECT_EQ(Names(folder_ + "/made").size(), 1u);
  EXPECT_EQ(fs::status(folder_ + "/made").permissions() & fs::perms::others_all, fs::perms::none);
  ExpectSums();
}

// What it says first, and a rate that does not count the time in which there was nothing to do.
TEST_F(ImporterTest, AWatcherSaysWhatItLoadsAndHowFastItWas) {
  const auto importer = StartImporter({"-watch=" + watch_});
  const absl::Status begun = importer->WaitForOutput("loading files from " + watch_, kAtMost);
  ASSERT_TRUE(begun.ok()) << begun;
  const absl::Time idle = absl::Now();
  WriteSpool(1, 1000);
  ASSERT_TRUE(Eventually([&] { return fs::is_empty(watch_); }));
  const absl::Duration loading = absl::Now() - idle;
  absl::SleepFor(loading + absl::Seconds(1));
  ASSERT_TRUE(importer->Signal(SIGTERM).ok());
  ASSERT_TRUE(importer->Wait(kAtMost).ok());
  const std::string log = importer->Stderr();
  const size_t at = log.find(" rows in ");
  ASSERT_NE(at, std::string::npos) << log;
  double seconds = 0;
  ASSERT_TRUE(absl::SimpleAtod(log.substr(at + 9, log.find(" s (", at) - at - 9), &seconds)) << log;
  EXPECT_GT(seconds, 0);
  EXPECT_LE(seconds, absl::ToDoubleSeconds(loading) + 0.01);
}

TEST_F(ImporterTest, ARemovedFolderIsSaid) {
  const auto importer = StartImporter({"-watch=" + watch_});
  WriteSpool(1);
  EXPECT_TRUE(Eventually([&] { return fs::is_empty(watch_); }));
  fs::remove(watch_);
  const absl::StatusOr<ExitStatus> exit = importer->Wait(kAtMost);
  ASSERT_TRUE(exit.ok());
  EXPECT_EQ(exit->code, 1);
  EXPECT_THAT(importer->Stderr(), HasSubstr("has been removed or replaced"));
}

}  // namespace
}  // namespace ctacct
