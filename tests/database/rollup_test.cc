// Rollups, partitions, retention and the Go tool's table: the importer's own binary against a real
// PostgreSQL. That rollups equal rows is asked of the database (traffic_check), which compares
// every sum.
#include <algorithm>
#include <array>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/csv.h"
#include "engine/spool/spool_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/importer_fixture.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kMinuteNs = 60'000'000'000;
constexpr int64_t kHourNs = 60 * kMinuteNs;
constexpr int64_t kDayNs = 24 * kHourNs;

class RollupTest : public ImporterTest {
 protected:
  // A CSV archive with rows of these times, expected in the database.
  void WriteArchive(const std::string& name, const std::vector<int64_t>& times_ns) {
    std::string text;
    uint64_t seed = 1;
    for (const int64_t time_ns : times_ns) {
      for (TrafficRow& row : MakeRows(++seed, 20)) {
        row.time_ns = time_ns;
        row.flow_count = row.unanswered_count = 0;  // CSV has no columns for them.
        AppendCsvLine(row, true, &text);
        expected_.Add(row);
      }
    }
    WriteFile(watch_ + "/" + name, text);
  }
};

TEST_F(RollupTest, AStepHasWhatEndsWithinIt) {
  const int64_t hour = kFirstEndNs / kDayNs * kDayNs + 5 * kHourNs;
  // On the boundary, a microsecond to either side, less than that, at midnight, at the epoch.
  WriteArchive("traffic_1.csv", {hour, hour - 1000, hour + 1000, hour + 999, hour - 999,
                                 hour / kDayNs * kDayNs, 0, 1000});
  const Finished run = Run({"-watch=" + watch_, "-once", "-gateway=a"});
  EXPECT_TRUE(run.exit.ok()) << run.err;
  EXPECT_EQ(Sql(kSumsSql), expected_.ToString());
  EXPECT_EQ(Sql("SELECT * FROM traffic_check('1960-01-01', '2100-01-01')"), "");
  EXPECT_EQ(Sql("SELECT extract(epoch FROM time)::bigint, sum(row_count) FROM traffic_port_1h "
                "GROUP BY 1 ORDER BY 1"),
            absl::StrCat("0|20\n3600|20\n", hour / kDayNs * 86'400, "|20\n", hour / 1'000'000'000,
                         "|80\n", hour / 1'000'000'000 + 3600, "|20"));
}

// Across both changes of summer time, at the ends of months, and where a day does not begin at a
// whole hour.
TEST_F(RollupTest, DaysAndMonthsAreThoseOfTheTimeZone) {
  std::vector<int64_t> times;
  for (const auto& [from, days] : std::vector<std::pair<int64_t, int>>{
           {1'603'411'200, 12}, {1'616'803'200, 7}}) {  // 2020-10-23, 2021-03-27.
    for (int64_t i = 1; i <= days * 48; ++i) times.push_back((from + i * 1800) * 1'000'000'000);
    WriteArchive(absl::StrCat("traffic_", from, ".csv"), times);
    times.clear();
  }
  const Finished run = Run({"-watch=" + watch_, "-once", "-gateway=a"});
  ASSERT_TRUE(run.exit.ok()) << run.err;
  const char* const range = "'2020-10-01 00:00', '2021-05-01 00:00'";
  for (const char* const zone : {"UTC", "Europe/Berlin", "America/New_York", "Australia/Sydney"}) {
    const std::string set = absl::StrCat("SET timezone = '", zone, "'; ");
    for (const auto& [step, truncated] :
         std::vector<std::array<std::string, 2>>{{"1 day", "date_trunc('day', T)"},
                                                 {"7 days", "date_trunc('week', T)"},
                                                 {"1 month", "date_trunc('month', T)"},
                                                 {"3 months", "date_trunc('quarter', T)"},
                                                 {"1 year", "date_trunc('year', T)"}}) {
      const std::string truth = Sql(absl::StrCat(
          set, "SELECT (point + interval '", step, "') AT TIME ZONE '", zone,
          "', sum(src_bytes) FROM (SELECT ",
          absl::StrReplaceAll(
              truncated,
              {{"T", absl::StrCat("(time - interval '1 us') AT TIME ZONE '", zone, "'")}}),
          " AS point, src_bytes FROM vpn_traffic) AS points GROUP BY 1 ORDER BY 1"));
      EXPECT_EQ(Sql(absl::StrCat(set, "SELECT time, sum(src_bytes)::bigint FROM traffic(", range,
                                 ", '", step, "', '{src,dst}') GROUP BY 1 ORDER BY 1")),
                truth)
          << zone << " " << step;
      if (step != "1 day") continue;
      // A filter reads step by step.
      EXPECT_EQ(
          Sql(absl::StrCat(
              set, "SELECT time, sum(src_bytes)::bigint FROM traffic(", range, ", '", step,
              "', srcs => (SELECT array_agg(DISTINCT src) FROM vpn_traffic)) GROUP BY 1 ORDER BY 1")),
          truth)
          << zone << " " << step;
    }
  }
  // The day on which the clock is set back has 25 hours, also for a rate; the zone may be named.
  EXPECT_EQ(Sql("SET timezone = 'Europe/Berlin'; SELECT time, seconds FROM traffic('2020-10-25', "
                "'2020-10-26', '1 day')"),
            "2020-10-26 00:00:00+01|90000");
  EXPECT_EQ(
      Sql("SELECT time AT TIME ZONE 'UTC', seconds FROM traffic('2021-03-28 12:00Z', '2021-03-28 13:00Z', "
          "'1 day', zone => 'Europe/Berlin')"),
      "2021-03-28 22:00:00|82800");
  // Hours of the clock are not days.
  EXPECT_EQ(Sql("SET timezone = 'Europe/Berlin'; SELECT time AT TIME ZONE 'UTC' FROM "
                "traffic('2020-10-25 12:00Z', '2020-10-25 13:00Z', '24 hours')"),
            "2020-10-26 00:00:00");
  // Midnight divides an hour there, which belongs to the new day; nothing is lost.
  for (const char* const zone : {"Asia/Kolkata", "Asia/Kathmandu"}) {
    EXPECT_EQ(
        Sql(absl::StrCat(
            "SET timezone = '", zone, "'; SELECT time, sum(src_bytes)::bigint FROM traffic(", range,
            ", '1 day', srcs => (SELECT array_agg(DISTINCT src) FROM vpn_traffic), "
            "dsts => (SELECT array_agg(DISTINCT dst) FROM vpn_traffic)) GROUP BY 1 ORDER BY 1")),
        Sql(absl::StrCat(
            "SET timezone = '", zone, "'; SELECT (point + interval '1 day') AT TIME ZONE '", zone,
            "', sum(src_bytes) FROM (SELECT date_trunc('day', (date_bin('1 hour', time - interval '1 us', "
            "'epoch') + interval '1 hour' - interval '1 us') AT TIME ZONE '",
            zone, "') AS point, src_bytes FROM vpn_traffic) AS points GROUP BY 1 ORDER BY 1")))
        << zone;
  }
  for (const char* const step : {"1 day 1 hour", "1 month 1 day", "-1 day"}) {
    const absl::StatusOr<std::string> refused = postgres->Sql(
        database_, absl::StrCat("SELECT FROM traffic('2020-10-01Z', '2020-11-01Z', '", step, "')"));
    EXPECT_THAT(refused.status().ToString(), HasSubstr("step must be")) << step;
  }
}

// As the page writes them (page.js).
TEST_F(RollupTest, BytesAreWrittenInSiUnits) {
  ASSERT_TRUE(Run({"-watch=" + watch_, "-once"}).exit.ok());
  EXPECT_EQ(
      Sql("SELECT string_agg(traffic_bytes(bytes), ', ' ORDER BY number) FROM unnest("
          "'{0,84,999,1000,1024,196608,999499,999500,12345678,999999999,1e15,9.3e18,1e24}'::float8[]) "
          "WITH ORDINALITY AS values (bytes, number)"),
      "0 B, 84 B, 999 B, 1.00 kB, 1.02 kB, 197 kB, 999 kB, 1.00 MB, 12.3 MB, 1.00 GB, 1.00 PB, "
      "9.30 EB, 1000000 EB");
}

TEST_F(RollupTest, EveryRollupHasEveryRow) {
  for (uint64_t i = 1; i <= 60; ++i) WriteSpool(i, 500);
  // The other protocols of the world, and addresses of the future.
  TrafficRow row = MakeRows(1, 1)[0];
  row.family = AddressFamily::kIpv6;
  row.src = {0x20, 0x01, 0x0d, 0xb8};
  row.protocol = 99;
  SpoolHeader header = MakeHeader(61);
  row.time_ns = header.interval_end_ns;
  header.gateway = "another \"one\"";
  ASSERT_TRUE(WriteSpoolFile(watch_, header, {row}).ok());
  expected_.Add(row);
  EXPECT_TRUE(Drain().exit.ok());
  ExpectSums();
  // Not in agreement because both are empty.
  EXPECT_EQ(Sql("SELECT count(*) FROM traffic_rollups"), "27");
  const std::string each = Sql("SELECT 'traffic_' || name FROM traffic_rollups");
  std::stringstream tables(each);
  for (std::string table; std::getline(tables, table);) {
    EXPECT_EQ(Sql("SELECT sum(row_count), sum(open_connections), sum(flow_count), "
                  "sum(unanswered_count) FROM " +
                  table),
              Sql("SELECT count(*), sum(open_connections), sum(flow_count), sum(unanswered_count) "
                  "FROM vpn_traffic"))
        << table;
  }
}

// Of two with as many columns the one with fewer keys, and one whose index finds the filter.
TEST_F(RollupTest, TheSmallestRollupAnswers) {
  ASSERT_TRUE(Run({"-watch=" + watch_, "-once"}).exit.ok());
  const std::string address = "'{10.0.0.1}'";
  for (const auto& [by, srcs, dsts, protos, rollup] : std::vector<std::array<std::string, 5>>{
           {"{dst}", "NULL", "NULL", "'{tcp}'", "destination_port_1h"},
           {"{proto}", "NULL", address, "NULL", "destination_port_1h"},
           {"{src,dst}", "NULL", "NULL", "'{tcp}'", "pair_protocol_1h"},
           {"{src,dst,proto}", "NULL", "NULL", "NULL", "pair_protocol_1h"},
           {"{dst}", address, "NULL", "'{tcp}'", "pair_protocol_1h"},
           {"{proto}", address, address, "NULL", "pair_port_1h"},
           {"{proto}", address, "NULL", "NULL", "origin_protocol_1h"},
           {"{src,dst}", address, "NULL", "NULL", "pair_1h"}}) {
    EXPECT_THAT(
        Sql(absl::StrCat("SELECT source FROM traffic_make_plan('2024-03-01', '2024-04-01', NULL, '",
                         by, "', NULL, ", srcs, ", ", dsts, ", ", protos, ", NULL)")),
        HasSubstr("traffic_" + rollup + " "))
        << by << srcs << dsts << protos;
  }
}

// One line each, and none of them runs for ever.
TEST_F(RollupTest, QuestionsThatCannotBeAnsweredAreRefused) {
  ASSERT_TRUE(Run({"-migrate"}).exit.ok());
  const struct {
    const char* arguments;
    const char* error;
  } kQuestions[] = {
      {"'1 day', '{}', zone => NULL", "zone must be a time zone"},
      {"'0 s', '{}'", "step must be positive"},
      {"NULL, '{dst}', largest => -1", "largest must not be negative"},
      {"'1 h', '{dst}', largest => 3", "largest needs one sum"},
      {"NULL, '{colour}'", "by_columns must be of"},
  };
  for (const auto& question : kQuestions) {
    const absl::StatusOr<std::string> answer = postgres->Sql(
        database_,
        absl::StrCat("SET statement_timeout = '20 s'; SELECT * FROM traffic('2024-03-01 10:00Z', "
                     "'2024-03-01 12:00Z', ",
                     question.arguments, ")"));
    EXPECT_THAT(answer.status().ToString(), HasSubstr(question.error)) << question.arguments;
  }
}

// Ports that send the same each minute, that send once, whose sums are equal, or that some gateways
// do not have; and many small ones.
TEST_F(RollupTest, TheLargestPortsAreThoseOfAllPorts) {
  ASSERT_TRUE(Run({"-watch=" + watch_, "-once"}).exit.ok());
  Sql("SELECT traffic_make_partitions('{2024-03-01 12:00Z,2024-03-01 23:00Z}'); SELECT setseed(0.5); "
      "CREATE TABLE made AS SELECT '2024-03-01 12:00Z'::timestamptz + minute * interval '1 min' AS time, "
      "  inet '10.0.0.1' AS src, inet '10.0.0.2' AS dst, "
      "  CASE WHEN port % 2 = 0 THEN 'tcp' ELSE 'udp' END AS proto, port, 1::bigint AS src_packets, "
      "  CASE WHEN port <= 10 THEN 5000 + 100 * (port / 3) WHEN port > 20 THEN (random() * 400)::bigint "
      "       WHEN minute % 100 = port THEN 40000 * port ELSE 0 END AS src_bytes, "
      "  0::bigint AS dst_packets, port::bigint AS dst_bytes, 0::bigint AS connection_times, "
      "  0 AS connection_count, 0 AS open_connections, 0 AS flow_count, 0 AS unanswered_count, "
      "  'gw' || gateway AS gateway "
      "FROM generate_series(1, 300) AS minute, generate_series(1, 3) AS gateway, generate_series(1, 300) AS port "
      "WHERE port <= 20 AND (gateway = 1 OR port % 4 <> 0) OR random() < 0.1; "
      "INSERT INTO vpn_traffic (time, src, dst, proto, port, src_packets, src_bytes, dst_packets, dst_bytes, "
      "  connection_times, connection_count, open_connections, flow_count, unanswered_count, gateway) "
      "SELECT * FROM made; SELECT traffic_roll_up('made')");
  int compared = 0;
  for (const char* const range :
       {"'2024-03-01 12:07Z', '2024-03-01 16:53Z'", "'2024-03-01 13:00Z', '2024-03-01 14:00Z'",
        "'2024-03-01 12:01Z', '2024-03-01 12:08Z'", "'2024-03-01 10:00Z', '2024-03-02 10:00Z'"}) {
    for (const char* const by :
         {"{proto,port}", "{gateway,proto,port}", "{port}", "{src,proto,port}"}) {
      for (const char* const filter : {"", ", gateways => '{gw2,gw3}'", ", protos => '{udp}'",
                                       ", ports => '{2,3,19,20,77}'", ", srcs => '{10.0.0.1}'"}) {
        const std::string all = absl::StrCat("SELECT to_jsonb(answer) FROM traffic(", range,
                                             ", NULL, '", by, "'", filter);
        const std::string order =
            ") AS answer ORDER BY src_bytes + dst_bytes DESC, gateway, proto, port";
        for (const char* const largest : {"1", "7", "15", "5000"}) {
          const std::string found = Sql(absl::StrCat(all, ", largest => ", largest, order));
          EXPECT_EQ(found, Sql(absl::StrCat(all, order, " LIMIT ", largest)))
              << range << by << filter << " " << largest;
          compared += found.empty() ? 0 : 1;
        }
      }
    }
  }
  EXPECT_EQ(compared, 4 * 4 * 5 * 4);
}

// Thirty clients, each with hundreds of destinations an interval that nobody asks for again, and
// twenty that come back; one becomes busy late. Of both families.
class ManyDestinationsTest : public RollupTest {
 protected:
  static constexpr int kIntervals = 4;
  static constexpr int kNew = 9000;  // Of each family in each interval.

  static TrafficRow Row(AddressFamily family, int client, uint32_t destination, uint64_t bytes) {
    TrafficRow row;
    row.family = family;
    row.protocol = 6;
    row.port = destination % 3 == 0 ? 80 : 443;
    const size_t last = family == AddressFamily::kIpv6 ? 15 : 3;
    row.src = row.dst = family == AddressFamily::kIpv6 ? AddressBytes{0x20, 0x01, 0x0d, 0xb8}
                                                       : AddressBytes{10, 11};
    row.src[last] = static_cast<uint8_t>(client);
    row.dst[last - 2] = static_cast<uint8_t>(1 + (destination >> 16));
    row.dst[last - 1] = static_cast<uint8_t>(destination >> 8);
    row.dst[last] = static_cast<uint8_t>(destination);
    row.packets_src = row.packets_dst = 1 + bytes / 1000;
    row.bytes_src = bytes;
    row.bytes_dst = bytes / 2;
    row.connection_count = 1;
    row.connection_time_ms = 5;
    return row;
  }

  void WriteInterval(int interval, const std::string& gateway) {
    SpoolHeader header = MakeHeader(static_cast<uint64_t>(interval));
    header.gateway = gateway;
    header.engine_id[0] = static_cast<uint8_t>(gateway.back());
    std::vector<TrafficRow> rows;
    for (const AddressFamily family : {AddressFamily::kIpv4, AddressFamily::kIpv6}) {
      for (int i = 0; i < kNew; ++i) {
        const auto destination = static_cast<uint32_t>(1000 + interval * kNew + i);
        rows.push_back(Row(family, i % 30, destination, 100 + static_cast<uint64_t>(i) % 997));
      }
      for (uint32_t back = 1; back <= 20; ++back) {
        for (int client = 0; client < 30; ++client) {
          rows.push_back(Row(family, client, back, 20'000 + back));
        }
      }
      if (interval == kIntervals) rows.push_back(Row(family, 1, 999, 50'000'000));
    }
    for (TrafficRow& row : rows) {
      row.time_ns = header.interval_end_ns;
      expected_.Add(row);
    }
    ASSERT_TRUE(WriteSpoolFile(watch_, header, rows).ok());
  }
};

TEST_F(ManyDestinationsTest, AreListedAsFarAsThereIsRoomAndSummedBeyond) {
  // One by one, as they come.
  for (int interval = 1; interval <= kIntervals; ++interval) {
    WriteInterval(interval, "gw1");
    const Finished run = Drain();
    EXPECT_TRUE(run.exit.ok()) << run.err;
    EXPECT_EQ(Sql("SELECT * FROM traffic_check('1970-01-01', '2100-01-01')"), "");
  }
  ExpectSums();
  // The first interval's all fit; then of each interval's new ones a quarter of the room that is
  // left. Others as one.
  int listed = 2 * (kNew + 20);
  for (int interval = 2; interval <= kIntervals; ++interval) listed += (20'000 - listed) / 4;
  EXPECT_EQ(Sql("SELECT count(*) FROM traffic_destination_1h"), absl::StrCat(listed + 2));
  for (const std::string table : {"destination_fine", "destination_1m", "destination_10m",
                                  "destination_1h", "destination_port_10m", "pair_1h"}) {
    EXPECT_EQ(Sql("SELECT sum(row_count), sum(src_bytes), sum(dst_packets) FROM traffic_" + table),
              Sql("SELECT count(*), sum(src_bytes), sum(dst_packets) FROM vpn_traffic"));
  }
  const std::string range = "'2020-09-13 12:00Z', '2020-09-13 14:00Z'";
  const std::string rows =
      "SELECT dst, sum(src_bytes + dst_bytes) AS bytes FROM vpn_traffic GROUP BY dst";
  for (const std::string step : {"NULL", "'15 s'", "'1 min'", "'10 min'", "'1 h'"}) {
    SCOPED_TRACE(step);
    const std::string answer = absl::StrCat(
        "SELECT dst, sum(src_bytes + dst_bytes) AS bytes, sum(unlisted_bytes) AS unlisted "
        "FROM traffic(",
        range, ", ", step, ", '{dst}') GROUP BY dst");
    // No more is missing from any of them than the answer reports.
    EXPECT_EQ(Sql(absl::StrCat("SELECT count(*) FROM (", rows, ") AS rows JOIN (", answer,
                               ") AS answer USING (dst) WHERE answer.bytes > rows.bytes OR "
                               "rows.bytes > answer.bytes + unlisted")),
              "0");
    // Busy destinations are exact.
    EXPECT_EQ(Sql(absl::StrCat("SELECT count(*) FROM (", rows, ") AS rows JOIN (", answer,
                               ") AS answer USING (dst) WHERE rows.bytes = answer.bytes AND "
                               "rows.bytes > 1000000")),
              "42");
    EXPECT_EQ(
        Sql(absl::StrCat("SELECT sum(bytes), max(unlisted) > 0 FROM (", answer, ") AS all_of")),
        Sql("SELECT sum(src_bytes + dst_bytes), true FROM vpn_traffic"));
  }
  EXPECT_EQ(
      Sql(absl::StrCat("SELECT dst, src_bytes, seconds, unlisted_bytes FROM traffic(", range,
                       ", NULL, '{dst}', largest => 7) ORDER BY src_bytes + dst_bytes DESC, dst")),
      Sql(absl::StrCat("SELECT dst, src_bytes, seconds, unlisted_bytes FROM traffic(", range,
                       ", NULL, '{dst}') ORDER BY src_bytes + dst_bytes DESC, dst LIMIT 7")));
  // A sum by client is exact, of whatever rollup; so is one over all destinations.
  for (const std::string by : {"{src}", "{src,dst}"}) {
    EXPECT_EQ(Sql(absl::StrCat("SELECT src, sum(src_bytes) FROM traffic(", range, ", NULL, '", by,
                               "') GROUP BY src ORDER BY src")),
              Sql("SELECT src, sum(src_bytes) FROM vpn_traffic GROUP BY src ORDER BY src"));
  }
  EXPECT_EQ(
      Sql(absl::StrCat("SELECT max(unlisted_bytes) FROM traffic(", range, ", NULL, '{src}')")),
      "0");
  // A network's destinations together miss at most what is not listed.
  EXPECT_EQ(
      Sql(absl::StrCat("SELECT held.bytes <= rows.bytes, rows.bytes <= held.bytes + unlisted "
                       "FROM (SELECT sum(src_bytes) AS bytes, sum(unlisted_bytes) AS unlisted "
                       "FROM traffic(",
                       range,
                       ", NULL, dsts => '{10.1.50.0/24,10.1.120.0/24}')"
                       ") AS held, (SELECT sum(src_bytes) AS bytes FROM vpn_traffic WHERE "
                       "dst <<= '10.1.50.0/24' OR dst <<= '10.1.120.0/24') AS rows")),
      "t|t");
  // What retention drops is forgotten here as well.
  Sql("SELECT * FROM traffic_drop_partition('1h', '2100-01-01'); "
      "SELECT * FROM traffic_drop_partition('1h', '2100-01-01'); "
      "SELECT * FROM traffic_drop_partition('1h', '2100-01-01')");
  EXPECT_EQ(Sql("SELECT count(*) FROM traffic_unlisted JOIN traffic_rollups ON name = rollup "
                "WHERE NOT EXISTS (SELECT FROM traffic_partitions AS part WHERE "
                "parent = 'traffic_' || rollup AND time >= lower AND time < upper)"),
            "0");
}

// Files of several gateways, together and from two importers at once.
TEST_F(ManyDestinationsTest, StepsAreFilledByManyGateways) {
  for (int interval = 1; interval <= kIntervals; ++interval) {
    for (const std::string gateway : {"gw1", "gw2", "gw3"}) WriteInterval(interval, gateway);
  }
  const auto one = StartImporter({"-watch=" + watch_, "-once"});
  const auto two = StartImporter({"-watch=" + watch_, "-once"});
  ExpectBothEnd(one.get(), two.get());
  ExpectSums();
  EXPECT_EQ(Sql("SELECT * FROM traffic_check('1970-01-01', '2100-01-01')"), "");
  EXPECT_EQ(
      Sql("SELECT count(*) FROM (SELECT dst, gateway, sum(src_bytes + dst_bytes) AS bytes FROM "
          "vpn_traffic GROUP BY 1, 2) AS rows JOIN traffic('2020-09-13 12:00Z', "
          "'2020-09-13 14:00Z', NULL, '{dst,gateway}') AS answer USING (dst, gateway) WHERE "
          "bytes NOT BETWEEN src_bytes + dst_bytes AND src_bytes + dst_bytes + unlisted_bytes"),
      "0");
}

// With -dst-group-mask=0.0.0.0.
TEST_F(RollupTest, OneDestinationForAllKeepsItsPorts) {
  SpoolHeader header = MakeHeader(1);
  std::vector<TrafficRow> rows = MakeRows(1, 50);
  for (TrafficRow& row : rows) {
    row.time_ns = header.interval_end_ns;
    row.dst = {};
    expected_.Add(row);
  }
  ASSERT_TRUE(WriteSpoolFile(watch_, header, rows).ok());
  EXPECT_TRUE(Drain().exit.ok());
  ExpectSums();
  for (const std::string columns : {"dst, proto, port", "src, dst, proto, port"}) {
    EXPECT_EQ(Sql(absl::StrCat("SELECT ", columns,
                               ", src_bytes, unlisted_bytes FROM traffic("
                               "'2020-09-13 12:00Z', '2020-09-13 13:00Z', NULL, '{",
                               columns, "}') ORDER BY ", columns)),
              Sql(absl::StrCat("SELECT ", columns, ", sum(src_bytes), 0 FROM vpn_traffic GROUP BY ",
                               columns, " ORDER BY ", columns)));
  }
}

// A gateway that was watched for a third of the time does not show a third of its rate.
TEST_F(RollupTest, SecondsAreThoseThatWereCovered) {
  const auto write = [&](uint64_t interval, const std::string& gateway, int64_t covered_s,
                         size_t rows) {
    static uint64_t sequence = 0;
    SpoolHeader header = MakeHeader(interval);
    header.sequence = ++sequence;
    header.gateway = gateway;
    header.covered_to_ns = header.interval_end_ns;
    header.covered_from_ns = header.interval_end_ns - covered_s * 1'000'000'000;
    ASSERT_TRUE(WriteSpoolFile(watch_, header, MakeRows(interval, rows)).ok());
  };
  // Intervals end at 12:27:00 and each 15 s later. The engine starts 5 s before the first end, and
  // is restarted within the third. A second gateway comes with the fourth.
  write(1, "gw1", 5, 10);
  write(2, "gw1", 15, 10);
  write(3, "gw1", 4, 10);
  write(3, "gw1", 6, 10);
  write(4, "gw1", 3, 10);
  write(4, "gw2", 12, 10);
  write(4 * 60, "gw1", 15, 0);  // 13:26:45, in silence.
  write(4 * 60 + 1, "gw1", 15, 10);
  EXPECT_TRUE(Drain().exit.ok());
  const auto seconds = [&](const std::string& arguments) {
    return Sql(
        "SELECT to_char(time, 'HH24:MI:SS'), gateway, max(seconds), min(seconds) FROM traffic(" +
        arguments + ") GROUP BY 1, 2 ORDER BY 1, 2");
  };
  const std::string minute = "'2020-09-13 12:26:45Z', '2020-09-13 12:27:45Z'";
  for (const std::string by : {"{}", "{src}", "{dst}", "{proto,port}"}) {
    EXPECT_EQ(seconds(minute + ", '15 s', '" + by + "'"),
              "12:27:00||5|5\n12:27:15||15|15\n12:27:30||10|10\n12:27:45||12|12");
  }
  EXPECT_EQ(seconds(minute + ", '15 s', '{src,gateway}'"),
            "12:27:00|gw1|5|5\n12:27:15|gw1|15|15\n12:27:30|gw1|10|10\n12:27:45|gw1|3|3\n"
            "12:27:45|gw2|12|12");
  EXPECT_EQ(seconds(minute + ", '15 s', gateways => '{gw1}'"),
            "12:27:00||5|5\n12:27:15||15|15\n12:27:30||10|10\n12:27:45||3|3");
  // As one sum, of minutes, and of half hours and more.
  EXPECT_EQ(seconds(minute), "12:27:45||33|33");
  EXPECT_EQ(seconds(minute + ", '1 min'"), "12:27:00||5|5\n12:28:00||28|28");
  const std::string hours = "'2020-09-13 12:00Z', '2020-09-13 14:00Z'";
  EXPECT_EQ(seconds(hours + ", '30 min'"), "12:30:00||33|33\n13:30:00||30|30");
  EXPECT_EQ(seconds(hours + ", '1 h'"), "13:00:00||33|33\n14:00:00||30|30");
  EXPECT_EQ(seconds(hours + ", '1 h', '{gateway}'"),
            "13:00:00|gw1|33|33\n13:00:00|gw2|12|12\n14:00:00|gw1|30|30");
  EXPECT_EQ(seconds(hours), "14:00:00||63|63");
  EXPECT_EQ(seconds("'2020-09-13 12:27:00Z', '2020-09-13 13:26:45Z'"), "13:26:45||43|43");
  EXPECT_EQ(seconds(hours + ", NULL, '{src,dst}'"), "14:00:00||63|63");
  EXPECT_EQ(seconds("'2020-09-01Z', '2020-10-01Z', '1 day'"), "00:00:00||63|63");

  // CSV does not say what was covered: a point is as long as it is, as far as there is data.
  WriteFile(watch_ + "/traffic_1.csv", CsvText(50, true));  // 12:39:15.
  EXPECT_TRUE(Run({"-watch=" + watch_, "-once", "-gateway=gw1"}).exit.ok());
  EXPECT_EQ(seconds("'2020-09-13 12:39:00Z', '2020-09-13 12:39:15Z', '15 s'"), "12:39:15||15|15");
  EXPECT_EQ(seconds(hours + ", '30 min'"), "12:30:00||33|33\n13:00:00||1800|1800\n13:30:00||30|30");
  EXPECT_EQ(seconds(hours + ", '1 h', '{gateway}'"),
            "13:00:00|gw1|3600|3600\n13:00:00|gw2|12|12\n14:00:00|gw1|30|30");
  // Which is unknown stays unknown.
  write(51, "gw1", 15, 10);
  EXPECT_TRUE(Drain().exit.ok());
  EXPECT_EQ(seconds(hours + ", '30 min'"), "12:30:00||33|33\n13:00:00||1800|1800\n13:30:00||30|30");
}

// Addresses and networks, alone and together, against plain SQL over the rows.
TEST_F(RollupTest, RangesWithoutEndAreAsLongAsTimeIs) {
  WriteSpool(1);
  ASSERT_TRUE(Drain().exit.ok());
  for (const char* const range : {"'1900-01-01', '9000-01-01'", "'-infinity', 'infinity'",
                                  "'4713-01-01 BC', '294276-01-01'"}) {
    for (const char* const step : {"NULL", "'1 day'"}) {
      EXPECT_EQ(Sql(absl::StrCat("SELECT sum(src_bytes) FROM traffic(", range, ", ", step, ")")),
                Sql("SELECT sum(src_bytes::float8) FROM vpn_traffic"))
          << range;
    }
  }
  EXPECT_EQ(Sql("SELECT count(*) FROM traffic('infinity', 'infinity')"), "0");
}

TEST_F(RollupTest, FiltersByAddressesAndNetworks) {
  std::mt19937_64 random(5);
  const int64_t hour = kFirstEndNs / kHourNs * kHourNs;
  const auto address = [&random](TrafficRow* row, std::array<uint8_t, 16>* out) {
    if (row->family == AddressFamily::kIpv6) {
      *out = {0x20, 0x01, 0x0d, 0xb8, 0, static_cast<uint8_t>(random() % 3)};
      (*out)[15] = static_cast<uint8_t>(random() % 4);
    } else {
      *out = {10, 32, static_cast<uint8_t>(random() % 4), static_cast<uint8_t>(random() % 4 * 85)};
    }
  };
  std::vector<TrafficRow> rows = MakeRows(1, 3000);
  for (TrafficRow& row : rows) {
    row.time_ns = hour + static_cast<int64_t>(random() % 720) * 15'000'000'000;
    row.family = random() % 3 == 0 ? AddressFamily::kIpv6 : AddressFamily::kIpv4;
    address(&row, &row.src);
    address(&row, &row.dst);
  }
  std::string text;
  for (const TrafficRow& row : rows) AppendCsvLine(row, true, &text);
  WriteFile(watch_ + "/traffic_1.csv", text);
  ASSERT_TRUE(Drain().exit.ok());
  const std::string from = "'2020-09-13 12:00Z'", to = "'2020-09-13 15:00Z'";
  size_t found = 0;
  for (const std::string filter :
       {"{10.32.1.0}", "{10.32.1.0,10.32.2.85,2001:db8:1::3}", "{10.32.1.0/24}", "{10.32.1.170/24}",
        "{10.32.1.128/25,10.32.3.0/24}", "{10.32.0.85,10.32.2.0/23,2001:db8:2::/48}", "{0.0.0.0/0}",
        "{::/0}", "{2001:db8::/47}", "{10.33.0.0/16}", "{}", "{NULL,10.32.1.0/24}"}) {
    for (const std::string by : {"src", "dst"}) {
      const std::string plain = absl::StrCat(
          "FROM vpn_traffic WHERE time > ", from, " AND time <= ", to, " AND EXISTS (SELECT FROM ",
          "unnest('", filter, "'::inet[]) AS one WHERE vpn_traffic.", by, " <<= one)");
      const std::string given = absl::StrCat(by, "s => '", filter, "')");
      for (const std::string columns : {"{src}", "{dst}", "{src,dst}", "{}"}) {
        EXPECT_EQ(Sql(absl::StrCat("SELECT sum(src_bytes)::bigint, sum(dst_packets)::bigint FROM ",
                                   "traffic(", from, ", ", to, ", NULL, '", columns, "', ", given)),
                  Sql("SELECT sum(src_bytes), sum(dst_packets) " + plain))
            << given;
      }
      const std::string points =
          Sql(absl::StrCat("SELECT extract(epoch FROM time)::bigint, host(", by,
                           "), src_bytes::bigint FROM traffic(", from, ", ", to, ", '10 min', '{",
                           by, "}', ", given, " ORDER BY 1, 2"));
      EXPECT_EQ(points,
                Sql(absl::StrCat("SELECT ceil(extract(epoch FROM time) / 600)::bigint * 600, host(",
                                 by, "), sum(src_bytes) ", plain, " GROUP BY 1, 2 ORDER BY 1, 2")));
      EXPECT_EQ(Sql(absl::StrCat("SELECT sum(open_connections)::bigint FROM "
                                 "traffic_open_connections(",
                                 from, ", ", to, ", '1 h', '{", by, "}', ", given))
                    .empty(),
                points.empty());
      found += Lines(points);
    }
  }
  EXPECT_GT(found, 500u);
}

// No rollup has a pair's intervals: those of an address, of up to five minutes, come from the rows,
// as long as these are kept.
TEST_F(RollupTest, WhatNoRollupHasComesFromRowsForAShortRange) {
  const int64_t hour = kFirstEndNs / kHourNs * kHourNs;
  std::vector<int64_t> times;
  for (int64_t i = 0; i < 120; ++i) times.push_back(hour + i * 15'000'000'000);
  WriteArchive("traffic_1.csv", times);
  ASSERT_TRUE(Drain().exit.ok());
  size_t answers = 0;
  for (const std::string by : {"src,dst", "src,dst,proto,port", "src,port", "dst,proto"}) {
    for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
             {"2020-09-13 12:03:00Z", "2020-09-13 12:08:00Z"},
             {"2020-09-13 12:10:30Z", "2020-09-13 12:11:00Z"},
             {"2020-09-13 11:58:00Z", "2020-09-13 12:02:00Z"}}) {
      const std::string range = absl::StrCat("'", from, "', '", to, "'");
      const std::string plain = absl::StrCat(
          " sum(src_bytes)::bigint, sum(dst_packets)::bigint, sum(connection_count)::bigint FROM "
          "vpn_traffic WHERE time > '",
          from, "' AND time <= '", to, "' ");
      const std::string sums =
          " src_bytes::bigint, dst_packets::bigint, connection_count::bigint FROM traffic(";
      const std::string points =
          Sql(absl::StrCat("SELECT time, ", by, ",", sums, range, ", '15 s', '{", by,
                           "}', srcs => '{0.0.0.0/0,::/0}') ORDER BY time, ", by));
      EXPECT_EQ(points, Sql(absl::StrCat("SELECT time, ", by, ",", plain, "GROUP BY time, ", by,
                                         " ORDER BY time, ", by)));
      EXPECT_EQ(Sql(absl::StrCat("SELECT ", by, ",", sums, range, ", NULL, '{", by,
                                 "}', dsts => '{0.0.0.0/0,::/0}') ORDER BY ", by)),
                Sql(absl::StrCat("SELECT ", by, ",", plain, "GROUP BY ", by, " ORDER BY ", by)));
      EXPECT_EQ(
          Sql(absl::StrCat("SELECT sum(open_connections)::bigint FROM traffic_open_connections(",
                           range, ", '15 s', '{", by, "}', srcs => '{0.0.0.0/0,::/0}')")),
          Sql(absl::StrCat("SELECT sum(open_connections) FROM vpn_traffic WHERE time > '", from,
                           "' AND time <= '", to, "'")));
      answers += Lines(points);
    }
  }
  EXPECT_GT(answers, 1000u);
  const auto widest = [&](const std::string& to,
                          const std::string& filter = ", srcs => '{0.0.0.0/0}'") {
    return Sql("SELECT DISTINCT time FROM traffic('2020-09-13 12:03Z', '2020-09-13 " + to +
               "', NULL, '{src,dst}'" + filter + ")");
  };
  EXPECT_EQ(widest("12:08Z"), "2020-09-13 12:08:00+00");
  EXPECT_EQ(widest("12:08Z", ""), "2020-09-13 12:30:00+00");
  EXPECT_EQ(widest("12:09Z"), "2020-09-13 12:30:00+00");
  Sql("SELECT * FROM traffic_drop_partition('rows', '2100-01-01')");
  EXPECT_EQ(widest("12:08Z"), "2020-09-13 12:30:00+00");
}

TEST_F(RollupTest, ARollupThatDiffersIsFound) {
  WriteSpool(1);
  EXPECT_TRUE(Drain().exit.ok());
  const std::string check =
      "SELECT rollup, in_rows, in_rollup, sums_differ FROM traffic_check('2020-01-01', "
      "'2021-01-01')";
  EXPECT_EQ(Sql(check), "");
  Sql("UPDATE traffic_total SET dst_bytes = dst_bytes + 1");
  EXPECT_EQ(Sql(check), "total|100|100|t");
  Sql("DELETE FROM traffic_origin_1h");
  EXPECT_EQ(Sql(check + " WHERE rollup LIKE 'origin%'"), "origin_1h|100|0|t");
}

TEST_F(RollupTest, OneBadFileAmongManyIsSetAsideAlone) {
  for (uint64_t i = 1; i <= 9; ++i) WriteSpool(i);
  const auto write = [this](const std::string& name, const std::vector<TrafficRow>& rows) {
    std::string text;
    for (const TrafficRow& row : rows) AppendCsvLine(row, true, &text);
    WriteFile(watch_ + "/" + name, text);
  };
  std::vector<TrafficRow> rows = MakeRows(10, 10);
  rows[7].connection_count = uint64_t{1} << 31;
  write("traffic_1.csv", rows);
  // What a column would hold, but not its sum with what good files bring.
  rows = MakeRows(11, 4);
  rows[2].bytes_src = uint64_t{1} << 62;
  write("traffic_2.csv", rows);
  // Each row is possible, but not all of them.
  rows.assign(8192, MakeRows(11, 1)[0]);
  for (TrafficRow& row : rows) row.bytes_src = uint64_t{1} << 50;
  rows.back().bytes_src -= 1;
  write("traffic_3.csv", rows);
  for (uint64_t i = 12; i <= 20; ++i) WriteSpool(i);
  const Finished run = Drain();
  EXPECT_EQ(run.exit.code, 1);
  EXPECT_THAT(run.err, ContainsRegex("traffic_1.csv: line 8 at byte [0-9]+: column 10 "
                                     ".connection_count.: more than 2147483647"));
  EXPECT_THAT(run.err, ContainsRegex("traffic_2.csv: line 3 at byte [0-9]+: column 8 .bytes_src.: "
                                     "more than 9007199254740992"));
  EXPECT_THAT(run.err, ContainsRegex("traffic_3.csv: line 9 at byte [0-9]+: the rows' bytes_src "
                                     "add up to more than 9007199254740992 in a day"));
  EXPECT_THAT(run.err, HasSubstr("18 files, 1,800 rows"));
  EXPECT_EQ(Names(watch_ + "/failed").size(), 6u);
  ExpectSums();
}

TEST_F(RollupTest, AFileOfTooManyDaysOrOfNoneThereIs) {
  std::vector<int64_t> times;
  for (int64_t day = 0; day <= 100; ++day) times.push_back(day * kDayNs);
  Sums before = expected_;
  WriteArchive("traffic_many.csv", times);
  WriteArchive("traffic_far.csv", {std::numeric_limits<int64_t>::max()});
  expected_ = before;
  const Finished run = Drain();
  EXPECT_EQ(run.exit.code, 1);
  EXPECT_THAT(run.err, HasSubstr("traffic_many.csv: rows of more than 100 days in one file"));
  EXPECT_THAT(run.err, HasSubstr("traffic_far.csv: line 1 at byte 0: column 1 (time): before 1970 "
                                 "or after 2199"));
  EXPECT_EQ(Names(watch_ + "/failed").size(), 4u);
  ExpectSums();
}

TEST_F(RollupTest, RetentionDropsPartitionsButNotWhatIsNotRolledUp) {
  const int64_t today = absl::ToUnixNanos(absl::Now()) / kDayNs * kDayNs;
  const auto ago = [today](int64_t days) { return today - days * kDayNs + kHourNs; };
  WriteArchive("traffic_1.csv", {ago(3), ago(40), ago(41), ago(42), ago(43)});
  EXPECT_TRUE(Drain().exit.ok());
  ExpectSums();
  const std::string sums = Sql("SELECT sum(src_bytes), sum(row_count) FROM traffic_pair_1h");
  const std::string day = Sql("SELECT to_char((now() AT TIME ZONE 'UTC')::date - 42, 'YYYYMMDD')");
  // A row that no importer has loaded.
  Sql("INSERT INTO vpn_traffic SELECT time, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, '203.0.113.0', dst, "
      "proto, gateway FROM vpn_traffic_" +
      day + " LIMIT 1");
  const std::vector<std::string> arguments = {"-watch=" + watch_, "-once", "-retention-rows=30",
                                              "-retention-fine=35"};
  Finished run = Run(arguments);
  EXPECT_TRUE(run.exit.ok()) << run.err;
  EXPECT_THAT(run.err, HasSubstr("retention: vpn_traffic_" + day +
                                 " stays: its rows are not all in the rollups"));
  EXPECT_THAT(run.err,
              ContainsRegex("retention: dropped traffic_origin_fine_[0-9]+, older than 35"));
  EXPECT_EQ(Sql("SELECT count(DISTINCT time::date) FROM vpn_traffic"), "2");
  EXPECT_EQ(Sql("SELECT sum(src_bytes), sum(row_count) FROM traffic_pair_1h"), sums);
  EXPECT_EQ(Sql("SELECT count(DISTINCT time) FROM traffic_origin_fine"), "1");
  // Once that row is gone nothing holds the partition.
  Sql("DELETE FROM vpn_traffic WHERE src = '203.0.113.0'");
  run = Run(arguments);
  EXPECT_THAT(run.err, HasSubstr("retention: dropped vpn_traffic_" + day));
  EXPECT_EQ(Sql("SELECT count(DISTINCT time::date) FROM vpn_traffic"), "1");
  // A late archive makes its partition again, and the next retention drops it; sums stay.
  WriteArchive("traffic_2.csv", {ago(41)});
  run = Run(arguments);
  EXPECT_TRUE(run.exit.ok()) << run.err;
  EXPECT_THAT(run.err, HasSubstr("retention: dropped vpn_traffic_"));
  EXPECT_EQ(Sql("SELECT sum(row_count) FROM traffic_pair_1h"), absl::StrCat(expected_.rows));
  EXPECT_EQ(Sql("SELECT * FROM traffic_check('1970-01-01', '2100-01-01')"), "");
}

// Whole hours in, before and beyond what retention has dropped, with data on both sides of their
// ends, against plain SQL over a copy of the rows.
TEST_F(RollupTest, WhatRetentionHasDroppedIsAnsweredCoarser) {
  const int64_t midnight = kFirstEndNs / kDayNs * kDayNs + kDayNs;  // 2020-09-14.
  for (const int64_t half : {0, 1}) {
    std::vector<int64_t> times;
    for (int64_t i = -320; i < 320; ++i) {
      if ((i < 0) == (half == 0)) times.push_back(midnight + i * 3 * kMinuteNs + 15'000'000'000);
    }
    WriteArchive(absl::StrCat("traffic_", half, ".csv"), times);
  }
  ASSERT_TRUE(Drain().exit.ok());
  Sql("CREATE TABLE saved AS SELECT * FROM vpn_traffic");
  const auto drop = [&](const std::string& tier, const std::string& before) {
    while (!Sql("SELECT * FROM traffic_drop_partition('" + tier + "', '" + before + "')").empty()) {
    }
    EXPECT_NE(Sql("SELECT kept_from FROM traffic_tiers WHERE tier = '" + tier + "'"), "-infinity");
  };
  const auto expect_all = [&](const std::string& what) {
    for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
             {"2020-09-13 20:00Z", "2020-09-13 22:00Z"},
             {"2020-09-13 23:00Z", "2020-09-14 01:00Z"},
             {"2020-09-14 03:00Z", "2020-09-14 05:00Z"},
             {"2020-09-13 09:00Z", "2020-09-14 15:00Z"},
             {"2020-09-01 00:00Z", "2020-09-30 00:00Z"}}) {
      const std::string expected =
          Sql(absl::StrCat("SELECT sum(src_bytes), sum(dst_bytes), sum(connection_count), true, "
                           "true FROM saved WHERE time > '",
                           from, "' AND time <= '", to, "'"));
      for (const std::string by : {"", "src", "proto,port", "src,dst"}) {
        for (const char* const step : {"NULL", "'15 s'", "'1 h'"}) {
          EXPECT_EQ(Sql(absl::StrCat("SELECT sum(src_bytes)::bigint, sum(dst_bytes)::bigint, ",
                                     "sum(connection_count)::bigint, min(time) > '", from,
                                     "', max(time) <= '", to, "' FROM traffic('", from, "', '", to,
                                     "', ", step, ", '{", by, "}')")),
                    expected)
              << what << ": " << from << ", " << step << ", " << by;
        }
      }
      // As points of an hour, which every tier has.
      EXPECT_EQ(Sql(absl::StrCat("SELECT extract(epoch FROM time)::bigint, host(src), ",
                                 "src_packets::bigint FROM traffic('", from, "', '", to,
                                 "', '1 h', '{src}') ORDER BY 1, 2")),
                Sql(absl::StrCat("SELECT ceil(extract(epoch FROM time) / 3600)::bigint * 3600, ",
                                 "host(src), sum(src_packets) FROM saved WHERE time > '", from,
                                 "' AND time <= '", to, "' GROUP BY 1, 2 ORDER BY 1, 2")))
          << what << ": " << from;
    }
  };
  expect_all("all kept");
  drop("rows", "2020-09-14Z");
  drop("fine", "2020-09-14Z");
  expect_all("fine dropped before midnight");
  drop("fine", "2020-10-01Z");
  drop("10m", "2020-10-01Z");
  expect_all("only hours kept");
}

TEST_F(RollupTest, RetentionFlags) {
  ExpectFails(Run({"-watch=" + watch_, "-retention-rows=-1"}), 2,
              "flag -retention-rows: must be a number of days, or 0");
  ExpectFails(Run({"-watch=" + watch_, "-retention-rows=30", "-retention-fine=29"}), 2,
              "flag -retention-fine: must not be shorter than -retention-rows");
  ExpectFails(Run({"-watch=" + watch_, "-retention-1h=30"}), 2,
              "flag -retention-1h: must not be shorter than -retention-10m");
  ExpectFails(Run({"-watch=" + watch_, "-transaction-files=0"}), 2,
              "flag -transaction-files: must be");
  ExpectFails(Run({"-watch=" + watch_, "-adopt=x"}), 2, "flag -adopt: cannot be combined");
}

// A day of everything that happens: kills, late files of days ago, archives of the Go tool,
// retention, two importers at once. CTACCT_SEED repeats one, CTACCT_ROUNDS makes it longer.
TEST_F(RollupTest, ARandomDay) {
  const uint64_t seed = NumberFromEnvironment("CTACCT_SEED", std::random_device()());
  const uint64_t rounds = NumberFromEnvironment("CTACCT_ROUNDS", 25);
  std::cout << "CTACCT_SEED=" << seed << " CTACCT_ROUNDS=" << rounds << std::endl;
  std::mt19937_64 random(seed);
  const int64_t today = absl::ToUnixNanos(absl::Now()) / kDayNs * kDayNs;
  uint64_t sequence = 0;
  uint64_t kills = 0;
  uint64_t archives = 0;
  uint64_t dropped = 0;
  for (uint64_t round = 0; round < rounds; ++round) {
    for (uint64_t i = random() % 12; i > 0; --i) {
      SpoolHeader header = MakeHeader(++sequence);
      const int64_t days_ago = random() % 4 == 0 ? static_cast<int64_t>(random() % 20) : 0;
      header.interval_end_ns =
          today - days_ago * kDayNs + static_cast<int64_t>(random() % 5760) * kIntervalNs;
      header.gateway = random() % 3 == 0 ? "gw2" : "gw1";
      std::vector<TrafficRow> rows = MakeRows(random() % 1'000'000, random() % 400);
      for (TrafficRow& row : rows) {
        row.time_ns = header.interval_end_ns;
        expected_.Add(row);
      }
      ASSERT_TRUE(WriteSpoolFile(watch_, header, rows).ok());
    }
    if (random() % 4 == 0) {
      std::vector<int64_t> times;
      for (uint64_t i = random() % 30; i > 0; --i) {
        times.push_back(today - static_cast<int64_t>(random() % 20) * kDayNs +
                        static_cast<int64_t>(random() % 5760) * kIntervalNs);
      }
      // The same lines would be the same file.
      times.push_back(today - static_cast<int64_t>(archives) * kIntervalNs);
      WriteArchive(absl::StrCat("traffic_", ++archives, ".csv"), times);
    }
    std::vector<std::string> arguments = {"-watch=" + watch_, "-once",
                                          absl::StrCat("-transaction-files=", 1 + random() % 8)};
    if (random() % 3 == 0) arguments.push_back("-retention-rows=10");
    const auto one = StartImporter(arguments);
    const auto two = random() % 2 == 0 ? StartImporter(arguments) : nullptr;
    if (random() % 2 == 0) {
      absl::SleepFor(absl::Milliseconds(random() % 250));
      if (one->Signal(SIGKILL).ok()) ++kills;
    }
    for (Subprocess* const each : {one.get(), two.get()}) {
      if (each == nullptr) continue;
      ASSERT_TRUE(each->Wait(kAtMost).ok());
      dropped += each->Stderr().find("retention: dropped vpn_traffic") != std::string::npos;
      EXPECT_THAT(each->Stderr(), Not(HasSubstr(" stays: ")));
    }
  }
  const Finished run = Drain();
  EXPECT_TRUE(run.exit.ok()) << run.err;
  std::cout << sequence << " files, " << archives << " archives, " << kills << " kills, " << dropped
            << " runs that dropped rows, " << expected_.rows << " rows" << std::endl;
  EXPECT_EQ(Sql("SELECT * FROM traffic_check('1970-01-01', '2100-01-01')"), "");
  // What retention has dropped is in the rollups still.
  const std::string sums =
      absl::StrCat(expected_.rows, "|", expected_.counters[0], "|", expected_.counters[1], "|",
                   expected_.counters[2], "|", expected_.counters[3], "|", expected_.counters[4],
                   "|", expected_.counters[5], "|", expected_.counters[6], "|",
                   expected_.counters[7], "|", expected_.counters[8]);
  for (const char* const table : {"total", "port_fine", "pair_port_1h", "origin_10m"}) {
    EXPECT_EQ(Sql(absl::StrCat("SELECT sum(row_count), sum(src_packets), sum(dst_packets), "
                               "sum(src_bytes), sum(dst_bytes), sum(connection_count), "
                               "sum(connection_times), sum(open_connections), sum(flow_count), "
                               "sum(unanswered_count) FROM traffic_",
                               table)),
              sums)
        << table;
  }
}

// Where clocks change, a day has 23 or 25 hours; partitions are days of UTC.
TEST_F(RollupTest, TheServersTimeZoneDoesNotMatter) {
  Sql("ALTER DATABASE " + database_ + " SET timezone = 'Europe/Berlin'");
  // One file for each day, as they arrive: around both changes of 2025 (30 March, 26 October).
  for (const int64_t day : {20'175, 20'176, 20'177, 20'178, 20'385, 20'386, 20'387, 20'388}) {
    WriteArchive(absl::StrCat("traffic_", day, ".csv"),
                 {day * kDayNs, day * kDayNs + 10 * kHourNs, day * kDayNs + 23 * kHourNs});
    const Finished run = Run({"-watch=" + watch_, "-once", "-gateway=gw1"});
    EXPECT_TRUE(run.exit.ok()) << run.err;
  }
  ExpectSums();
  EXPECT_EQ(Sql("SELECT count(*) FROM traffic_partitions WHERE extract(epoch FROM lower)::bigint % "
                "86400 <> 0 OR extract(epoch FROM upper)::bigint % 86400 <> 0"),
            "0");
}

// Nor the session's, nor how it writes times: "IST" is India's time to one and Israel's to another.
TEST_F(RollupTest, TheSessionsTimeZoneDoesNotMatter) {
  std::vector<int64_t> times;
  for (int64_t day = 20'160; day < 20'195; ++day) times.push_back(day * kDayNs + kHourNs);
  WriteArchive("traffic_1.csv", times);
  EXPECT_TRUE(Drain().exit.ok());
  // Around a change of clocks (30 March 2025); of hours, and with edges within an hour. Days are
  // the zone's.
  const std::string sums =
      "SELECT sum(src_bytes), max(seconds) FROM traffic('2025-03-14 00:00Z', '2025-04-14 00:00Z') "
      "UNION ALL SELECT sum(src_bytes), max(seconds) FROM traffic('2025-03-29 00:30Z', "
      "'2025-03-31 06:30Z', NULL, '{src}') "
      // A day that may be a month, by points, with filters; the open connections; a rollup that
      // differs.
      "UNION ALL SELECT sum(src_bytes * extract(epoch FROM time)), max(seconds) FROM traffic("
      "'2025-04-02 00:00Z', '2025-04-05 00:00Z', '10 min', '{src}', srcs => '{10.32.1.0,10.32.2.0}') "
      "UNION ALL SELECT sum(open_connections), count(*) FROM traffic_open_connections('2025-04-02 00:00Z', "
      "'2025-04-05 00:00Z', '24 hours', '{dst}') "
      "UNION ALL SELECT sum(in_rollup), count(*) FROM traffic_check('2025-04-02 00:00Z', '2025-04-05 00:00Z')";
  Sql("UPDATE traffic_total SET src_bytes = src_bytes + 1 WHERE time = '2025-04-03 01:00Z'");
  const std::string expected = Sql("SET timezone = 'UTC'; SET extra_float_digits = 0; " + sums);
  EXPECT_THAT(expected, HasSubstr("|2595600"));
  EXPECT_THAT(expected, HasSubstr("\n20|1"));
  for (const std::string session :
       {"SET timezone = 'Europe/Berlin'; ",
        "SET timezone = 'Asia/Kolkata'; SET datestyle = 'SQL, DMY'; ",
        "SET timezone = 'America/New_York'; SET datestyle = 'Postgres, MDY'; ",
        "SET timezone = 'UTC'; SET datestyle = 'German'; SET intervalstyle = 'iso_8601'; ",
        "SET timezone = 'UTC'; SET datestyle = 'SQL, DMY'; SET intervalstyle = 'sql_standard'; "}) {
    EXPECT_EQ(Sql(session + "SET extra_float_digits = 0; " + sums), expected) << session;
  }
}

TEST_F(RollupTest, ManyFilesOfManyDaysAreManyTransactions) {
  for (int64_t file = 0; file < 6; ++file) {
    std::vector<int64_t> times;
    for (int64_t day = 0; day < 90; ++day) times.push_back((file * 90 + day) * kDayNs + kHourNs);
    WriteArchive(absl::StrCat("traffic_", file, ".csv"), times);
  }
  // A cluster takes two seconds and more for the partitions of a day.
  const absl::StatusOr<Finished> run = RunProcess(Command({"-watch=" + watch_, "-once"}),
                                                  postgres->IsCluster() ? 8 * kAtMost : kAtMost);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_TRUE(run->exit.ok()) << run->err;
  EXPECT_THAT(run->err, HasSubstr("importer: 6 files, 10,800 rows"));
  EXPECT_EQ(Sql("SELECT count(*), sum(src_bytes) FROM vpn_traffic"),
            Sql("SELECT sum(row_count), sum(src_bytes) FROM traffic_pair_port_1h"));
}

TEST_F(RollupTest, SumsAreOnlyEverAdded) {
  WriteSpool(1);
  EXPECT_TRUE(Drain().exit.ok());
  const absl::StatusOr<std::string> less = postgres->Sql(
      database_,
      "SELECT traffic_add('total', array['2020-09-13 12:27Z'::timestamptz], '{gw1}', '{}', '{}', "
      "'{}', '{}', '{1}', '{1}', '{1}', '{1}', '{1}', '{1}', '{1}', '{1}', '{1}', '{-1}')");
  EXPECT_THAT(less.status().message(), HasSubstr("a sum is negative"));
  ExpectSums();
}

constexpr char kGoToolsTable[] =
    "CREATE TABLE vpn_traffic (time timestamp NOT NULL, src varchar(15), dst varchar(15), proto "
    "varchar(4), port int, src_packets int, src_bytes bigint, dst_packets int, dst_bytes bigint, "
    "connection_times int, connection_count int, open_connections int); "
    "CREATE INDEX vpn_traffic_time ON vpn_traffic (time); "
    "INSERT INTO vpn_traffic SELECT timestamp '2020-09-13 12:00:00' + i * interval '15 s', "
    "'10.32.' || k || '.0', '10.33.' || i % 7 || '.0', CASE k % 2 WHEN 0 THEN 'tcp' ELSE 'udp' "
    "END, "
    "80, i, i * 2, i * 3, i * 4, i * 5, k, NULL FROM generate_series(1, 6000) AS i, "
    "generate_series(1, 3) AS k";

TEST_F(RollupTest, TheGoToolsTableIsTakenOverOnce) {
  Sql(kGoToolsTable);
  WriteSpool(1);
  ExpectFails(Drain(), 1, "-adopt takes over the Go tool's");
  Finished run = Run({"-adopt=vpn_traffic", "-gateway=old"});
  EXPECT_TRUE(run.exit.ok()) << run.err;
  EXPECT_EQ(run.err, "importer: table vpn_traffic: 18,000 rows taken over\n");
  ExpectRollupsEqualRows();
  const std::string sums =
      "SELECT count(*), sum(src_packets), sum(src_bytes), sum(dst_packets), sum(dst_bytes), "
      "sum(connection_times), sum(connection_count), min(time AT TIME ZONE 'UTC') FROM ";
  EXPECT_EQ(Sql(sums + "vpn_traffic"), Sql("SELECT count(*), sum(src_packets), sum(src_bytes), "
                                           "sum(dst_packets), sum(dst_bytes), "
                                           "sum(connection_times), sum(connection_count), "
                                           "min(time) FROM vpn_traffic_reference"));
  EXPECT_EQ(Sql("SELECT DISTINCT gateway FROM vpn_traffic"), "old");
  run = Run({"-adopt=vpn_traffic", "-gateway=old"});
  EXPECT_TRUE(run.exit.ok()) << run.err;
  EXPECT_EQ(run.err, "importer: table vpn_traffic was taken over before\n");
  EXPECT_EQ(Sql("SELECT count(*) FROM vpn_traffic"), "18000");
  // The importer loads files into it afterwards.
  EXPECT_TRUE(Drain().exit.ok());
  ExpectRollupsEqualRows();
  EXPECT_EQ(Sql("SELECT count(*) FROM vpn_traffic"), "18100");
  ExpectFails(Run({"-adopt=no_such_table"}), 1, "SQLSTATE 42P01");
}

TEST_F(RollupTest, ATableWithAbsurdCountersIsNotTakenOver) {
  Sql(kGoToolsTable);
  Sql("UPDATE vpn_traffic SET src_bytes = 9223372036854775807 WHERE src_packets IN (7, 8, 9)");
  ExpectFails(Run({"-adopt=vpn_traffic"}), 1, "correct the rows with absurd counters first: WHERE");
  EXPECT_EQ(Sql("SELECT to_regclass('ctacct_schema')"), "");
  Sql("DELETE FROM vpn_traffic WHERE greatest(src_packets, src_bytes, dst_packets, dst_bytes, "
      "connection_times) > 1125899906842624");
  EXPECT_TRUE(Run({"-adopt=vpn_traffic"}).exit.ok());
  EXPECT_EQ(Sql("SELECT count(*) FROM vpn_traffic"), "17991");
  ExpectRollupsEqualRows();
}

TEST_F(RollupTest, ATableWithImpossibleValuesIsNotTakenOver) {
  Sql(kGoToolsTable);
  Sql("UPDATE vpn_traffic SET port = 70000 WHERE src_packets = 7; "
      "UPDATE vpn_traffic SET open_connections = -1 WHERE src_packets = 8");
  ExpectFails(Run({"-adopt=vpn_traffic"}), 1,
              "correct 6 rows with impossible values first: WHERE port NOT BETWEEN -1 AND 65535");
  EXPECT_EQ(Sql("SELECT to_regclass('ctacct_schema')"), "");
  Sql("DELETE FROM vpn_traffic WHERE src_packets IN (7, 8)");
  EXPECT_TRUE(Run({"-adopt=vpn_traffic"}).exit.ok());
  ExpectRollupsEqualRows();
}

// What retention has left of it, in as many seconds as are left.
TEST_F(RollupTest, TheFirstPointAfterRetention) {
  const int64_t midnight = kFirstEndNs / kDayNs * kDayNs + kDayNs;
  std::vector<int64_t> times;
  for (int64_t i = -90; i <= 0; ++i) times.push_back(midnight + i * kMinuteNs);
  WriteArchive("traffic_1.csv", times);
  times.clear();
  for (int64_t i = 1; i <= 80; ++i) times.push_back(midnight + i * kMinuteNs);
  WriteArchive("traffic_2.csv", times);
  EXPECT_TRUE(Drain().exit.ok());
  ExpectSums();
  // A byte a second: 20 rows a minute.
  Sql("UPDATE traffic_origin_1m SET src_bytes = 3 * row_count");
  Sql("UPDATE traffic_origin_10m SET src_bytes = 3 * row_count");
  Sql("UPDATE traffic_origin_1h SET src_bytes = 3 * row_count");
  EXPECT_THAT(Sql("SELECT * FROM traffic_drop_partition('fine', '2020-09-14')"), HasSubstr("|t"));
  while (!Sql("SELECT * FROM traffic_drop_partition('fine', '2020-09-14')").empty()) {
  }
  for (const char* const step : {"'7 min'", "'9 min'", "'1 min'", "NULL"}) {
    EXPECT_EQ(Sql(absl::StrCat("SELECT DISTINCT sum(src_bytes) / max(seconds) FROM traffic("
                               "'2020-09-14 00:00:30Z', '2020-09-14 01:20Z', ",
                               step, ", '{src}') GROUP BY time")),
              "1")
        << step;
  }
}

// An importer that has seen a day's partitions, until another one's retention drops them: it makes
// them again, wherever it finds out.
TEST_F(RollupTest, AnotherImportersRetentionMeanwhile) {
  const int64_t day = absl::ToUnixNanos(absl::Now()) / kDayNs * kDayNs - 40 * kDayNs;
  WriteArchive("traffic_0.csv", {day + kHourNs});
  const auto importer = StartImporter({"-watch=" + watch_, "-move=" + done_});
  int files = 0;
  const auto all_there = [&] {
    ++files;
    return Eventually([&] { return Names(done_).size() == static_cast<size_t>(files); });
  };
  ASSERT_TRUE(all_there());
  for (const std::string tier : {"fine", "rows"}) {
    while (!Sql("SELECT * FROM traffic_drop_partition('" + tier + "', now())").empty()) {
    }
    WriteArchive(absl::StrCat("traffic_", files, ".csv"), {day + (files + 1) * kHourNs});
    ASSERT_TRUE(all_there()) << tier << ": " << importer->Stderr();
    EXPECT_EQ(Sql("SELECT count(*) FROM vpn_traffic"), tier == "rows" ? "20" : "40");
  }
  ASSERT_TRUE(importer->Signal(SIGTERM).ok());
  const absl::StatusOr<ExitStatus> exit = importer->Wait(kAtMost);
  ASSERT_TRUE(exit.ok());
  EXPECT_TRUE(exit->ok()) << importer->Stderr();
  EXPECT_EQ(Sql("SELECT sum(row_count) FROM traffic_pair_1h"), "60");
  EXPECT_EQ(Sql("SELECT * FROM traffic_check('1970-01-01', '2100-01-01')"), "");
}

// A dashboard that has been looking at its table for minutes must not hold up an import of a new
// day, nor the import the dashboard.
TEST_F(RollupTest, ALongQueryDoesNotHoldUpANewDay) {
  WriteSpool(1);
  EXPECT_TRUE(Drain().exit.ok());
  const auto query =
      Subprocess::Start({"psql", "-X", "-q", "-d", postgres->Conninfo(database_), "-c",
                         "BEGIN; SELECT count(*) FROM vpn_traffic; SELECT pg_sleep(60)"});
  ASSERT_TRUE(query.ok());
  ASSERT_TRUE(Eventually([&] {
    return Sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)' AND "
               "wait_event = 'PgSleep'") == "1";
  }));
  WriteArchive("traffic_new.csv", {kFirstEndNs + 100 * kDayNs});
  const Finished run = Run({"-watch=" + watch_, "-once", "-retention-rows=30"});
  EXPECT_TRUE(run.exit.ok()) << run.err;
  ExpectSums();
  // The query still runs: retention has given up after its two seconds.
  EXPECT_THAT(run.err, HasSubstr("partitions: SQLSTATE 55P03"));
  EXPECT_TRUE((*query)->Signal(SIGKILL).ok());
}

}  // namespace
}  // namespace ctacct
