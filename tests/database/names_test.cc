// Names in the database: the importer's own binary and names files against a real PostgreSQL.
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/network.h"
#include "engine/spool/names_file.h"
#include "engine/spool/spool_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/importer_fixture.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kSecondNs = 1'000'000'000;

class NamesTest : public ImporterTest {
 protected:
  struct Entry {
    std::string network;
    std::string name;
    int64_t from_s = 0;  // 0: none.
    int64_t to_s = 0;
  };
  // Times are seconds since the epoch.
  NamesSnapshot Snapshot(int64_t time_s, const std::vector<Entry>& entries,
                         const std::string& gateway = "gw1") {
    NamesSnapshot snapshot;
    snapshot.gateway = gateway;
    snapshot.writer = engine_id_;
    snapshot.writer[15] ^= 1;
    snapshot.sequence = ++sequence_;
    snapshot.time_ns = time_s * kSecondNs;
    for (const Entry& entry : entries) {
      NamesEntry made;
      made.network = ParseNetwork(entry.network).value();
      made.name = entry.name;
      if (entry.from_s != 0) made.from_ns = entry.from_s * kSecondNs;
      if (entry.to_s != 0) made.to_ns = entry.to_s * kSecondNs;
      snapshot.entries.push_back(made);
    }
    std::sort(snapshot.entries.begin(), snapshot.entries.end(),
              [](const NamesEntry& a, const NamesEntry& b) {
                return std::pair(a.network, a.from_ns.value_or(0)) <
                       std::pair(b.network, b.from_ns.value_or(0));
              });
    return snapshot;
  }
  std::string WriteNames(const NamesSnapshot& snapshot) {
    const absl::StatusOr<std::string> bytes = EncodeNames(snapshot);
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    const std::string name = NamesFileName(snapshot.writer, snapshot.sequence);
    WriteFile(watch_ + "/" + name, bytes.value_or(""));
    return name;
  }
  void WriteNames(int64_t time_s, const std::vector<Entry>& entries,
                  const std::string& gateway = "gw1") {
    WriteNames(Snapshot(time_s, entries, gateway));
  }
  std::string Held() {
    return Sql(
        "SELECT gateway, network, name, extract(epoch FROM lower(valid))::bigint, "
        "extract(epoch FROM upper(valid))::bigint FROM traffic_names ORDER BY 1, 2, 4");
  }

  uint64_t sequence_ = 0;
};

TEST_F(NamesTest, TheNewestSnapshotAtOrBeforeATimeSaysWhoHoldsANetwork) {
  WriteNames(1000, {{"10.0.0.1", "alice"}, {"10.0.0.2", "bob"}, {"10.0.0.0/24", "team"}});
  // Begins before its snapshot, and takes that time from the one before.
  WriteNames(2000, {{"10.0.0.1", "carol", 1500}, {"10.0.0.0/24", "team"}});
  WriteNames(3000, {{"10.0.0.1", "carol", 1500, 2900}, {"10.0.0.0/24", "team", 0, 4000}});
  WriteNames(1000, {{"10.0.0.1", "other"}, {"2001:db8::/32", "six", 500, 900}}, "gw2");
  Finished run = Drain();
  EXPECT_TRUE(run.exit.ok()) << run.err;
  EXPECT_TRUE(fs::is_empty(watch_));
  EXPECT_THAT(run.err, HasSubstr("names of gateway gw1, 1970-01-01 00:50:00 UTC: 2 entries"));
  EXPECT_EQ(Held(),
            "gw1|10.0.0.0/24|team|1000|4000\n"
            "gw1|10.0.0.1/32|alice|1000|1500\n"
            "gw1|10.0.0.1/32|carol|1500|2900\n"
            "gw1|10.0.0.2/32|bob|1000|2000\n"
            "gw2|10.0.0.1/32|other|1000|\n"
            "gw2|2001:db8::/32|six|500|900");
  const auto name = [&](const std::string& gateway, const std::string& address, int64_t time_s) {
    return Sql(absl::StrCat("SELECT traffic_name('", gateway, "', '", address, "', to_timestamp(",
                            time_s, "))"));
  };
  EXPECT_EQ(name("gw1", "10.0.0.1", 1499), "alice");
  EXPECT_EQ(name("gw1", "10.0.0.1", 1500), "carol");
  EXPECT_EQ(name("gw1", "10.0.0.1", 2900), "team");
  EXPECT_EQ(name("gw1", "10.0.0.2", 1999), "bob");
  EXPECT_EQ(name("gw1", "10.0.0.2", 2000), "team");
  EXPECT_EQ(name("gw1", "10.0.0.2", 4000), "");
  EXPECT_EQ(name("gw1", "10.0.1.2", 2000), "");
  EXPECT_EQ(name("gw2", "10.0.0.1", 999), "");
  EXPECT_EQ(name("gw2", "2001:db8:1::5", 899), "six");
  // A network that has a holder cannot get a second one, also not by hand.
  EXPECT_THAT(postgres
                  ->Sql(database_,
                        "INSERT INTO traffic_names SELECT gateway, network, 'x', source, "
                        "'[1999-01-01,2000-01-01)', first_seen FROM traffic_names WHERE "
                        "name = 'other'")
                  .status()
                  .ToString(),
              HasSubstr("traffic_names_one_holder"));
}

// In whatever order files arrive, the answer is that of the order of their times. Without
// beginnings of their own, entries of different snapshots never contradict each other.
TEST_F(NamesTest, AnOlderSnapshotThatComesLateDecidesUntilTheNextOne) {
  const uint64_t seed = NumberFromEnvironment("CTACCT_SEED", std::random_device()());
  std::cout << "CTACCT_SEED=" << seed << std::endl;
  std::mt19937_64 random(seed);
  std::vector<NamesSnapshot> snapshots;
  for (int64_t i = 1; i <= 40; ++i) {
    std::vector<Entry> entries;
    for (int network = 0; network < 5; ++network) {
      if (random() % 4 == 0) continue;
      entries.push_back({absl::StrCat("10.0.0.", network), absl::StrCat("name", random() % 3)});
    }
    snapshots.push_back(Snapshot(1000 * i, entries));
  }
  const auto load = [&](const std::string& gateway) {
    for (NamesSnapshot snapshot : snapshots) {
      snapshot.gateway = gateway;
      snapshot.writer[0] = static_cast<uint8_t>(gateway.back());
      WriteNames(snapshot);
      if (gateway == "gw1" || random() % 2 == 0) {
        const Finished run = Drain();
        EXPECT_TRUE(run.exit.ok()) << run.err;
      }
    }
    EXPECT_TRUE(Drain().exit.ok());
  };
  load("gw1");
  std::shuffle(snapshots.begin(), snapshots.end(), random);
  load("gw2");
  const std::string held = "SELECT network, name, valid FROM traffic_names WHERE gateway = ";
  EXPECT_EQ(Sql(held + "'gw2' ORDER BY 1, 3"), Sql(held + "'gw1' ORDER BY 1, 3"));
  // Each snapshot, at its own time, is what the table says.
  for (const NamesSnapshot& snapshot : snapshots) {
    std::string expected;
    for (const NamesEntry& entry : snapshot.entries) {
      absl::StrAppend(&expected, expected.empty() ? "" : "\n", NetworkText(entry.network), "|",
                      entry.name);
    }
    EXPECT_EQ(Sql(absl::StrCat("SELECT network, name FROM traffic_names WHERE gateway = 'gw2' AND "
                               "valid @> to_timestamp(",
                               snapshot.time_ns / kSecondNs, ") ORDER BY 1")),
              expected);
  }
}

TEST_F(NamesTest, AFileIsLoadedOnce) {
  const NamesSnapshot first = Snapshot(1000, {{"10.0.0.1", "alice"}});
  const NamesSnapshot second = Snapshot(2000, {{"10.0.0.1", "bob"}});
  WriteNames(first);
  WriteNames(second);
  WriteFile(watch_ + "/current.names", EncodeNames(second).value());
  EXPECT_TRUE(Drain().exit.ok());
  const std::string held = Held();
  WriteNames(first);
  Finished run = Drain();
  EXPECT_TRUE(run.exit.ok()) << run.err;
  EXPECT_THAT(run.err, HasSubstr("1 done before"));
  EXPECT_EQ(Held(), held);
  EXPECT_EQ(Names(watch_), std::set<std::string>{"current.names"});
  // The same number, other contents.
  NamesSnapshot other = first;
  other.entries[0].name = "mallory";
  const std::string name = WriteNames(other);
  run = Drain();
  EXPECT_EQ(run.exit.code, 1);
  EXPECT_THAT(run.err, HasSubstr("ALARM"));
  EXPECT_TRUE(fs::exists(watch_ + "/failed/" + name + ".reason"));
  EXPECT_EQ(Held(), held);
  EXPECT_EQ(Sql("SELECT count(*) FROM traffic_names_arriving"), "0");
}

TEST_F(NamesTest, ABadFileIsSetAsideAndHostileNamesArrive) {
  const std::string hostile = "a\\N'\"; DROP TABLE x; --<script>alert(1)</script>\\t\\";
  WriteNames(1000, {{"10.0.0.1", hostile}});
  const std::string bad = WriteNames(Snapshot(2000, {{"10.0.0.1", "bob"}}));
  std::string bytes = Contents(watch_ + "/" + bad);
  bytes[bytes.find("bob")] = 'r';
  WriteFile(watch_ + "/" + bad, bytes);
  const std::string torn = WriteNames(Snapshot(3000, {{"10.0.0.1", "bob"}}));
  bytes = Contents(watch_ + "/" + torn);
  WriteFile(watch_ + "/" + torn, bytes.substr(0, bytes.size() - 20));
  WriteNames(4000, {{"10.0.0.2", "dan"}});
  const Finished run = Drain();
  EXPECT_EQ(run.exit.code, 1);
  EXPECT_THAT(Contents(watch_ + "/failed/" + bad + ".reason"), HasSubstr("checksum"));
  EXPECT_THAT(Contents(watch_ + "/failed/" + torn + ".reason"), HasSubstr("torn"));
  EXPECT_EQ(Held(),
            absl::StrCat("gw1|10.0.0.1/32|", hostile, "|1000|4000\ngw1|10.0.0.2/32|dan|4000|"));
}

// As ImporterTest.KilledAtRandomMoments, with names among the rows, and two importers at the end.
TEST_F(NamesTest, KilledAtRandomMoments) {
  const uint64_t kills_wanted = NumberFromEnvironment("CTACCT_KILLS", 20);
  const uint64_t seed = NumberFromEnvironment("CTACCT_SEED", std::random_device()());
  std::cout << "CTACCT_SEED=" << seed << " CTACCT_KILLS=" << kills_wanted << std::endl;
  std::mt19937_64 random(seed);
  std::string expected;
  uint64_t files = 0;
  const auto write = [&] {
    for (int i = 0; i < 100; ++i) {
      ++files;
      WriteSpool(files, 200);
      const auto time_s = static_cast<int64_t>(1000 * files);
      const std::string name = absl::StrCat("name ", files);
      WriteNames(time_s, {{"10.0.0.1", name}});
      absl::StrAppend(&expected, files == 1 ? "" : absl::StrCat(time_s, "\n"), "gw1|10.0.0.1/32|",
                      name, "|", time_s, "|");
    }
  };
  write();
  const std::vector<std::string> arguments = {"-watch=" + watch_, "-once", "-move=" + done_};
  for (uint64_t kills = 0; kills < kills_wanted;) {
    if (fs::is_empty(watch_)) write();
    const size_t held = Names(watch_).size();
    const size_t until = held - std::min<size_t>(held, random() % 12);
    const auto importer = StartImporter(arguments);
    EXPECT_TRUE(Eventually([&] { return !importer->Running() || Names(watch_).size() <= until; }));
    absl::SleepFor(absl::Microseconds(random() % 6'000));
    if (!importer->Signal(SIGKILL).ok()) continue;
    const absl::StatusOr<ExitStatus> exit = importer->Wait(kAtMost);
    ASSERT_TRUE(exit.ok());
    if (exit->signal == SIGKILL) ++kills;
  }
  const auto one = StartImporter(arguments);
  const auto two = StartImporter(arguments);
  ExpectBothEnd(one.get(), two.get());
  ExpectSums();
  EXPECT_EQ(Held(), expected);
  EXPECT_EQ(Sql("SELECT count(*) FROM import_ledger WHERE names_time IS NOT NULL"),
            absl::StrCat(files));
  EXPECT_EQ(Sql("SELECT count(*) FROM traffic_names_arriving"), "0");
  EXPECT_TRUE(fs::is_empty(watch_));
}

// Every byte belongs to who held its address at the interval's end. The expected sums are plain SQL
// over the rows, the masks of their intervals, and traffic_names.
constexpr char kExpected[] = R"sql(
CREATE TABLE expected AS
WITH held AS (
    SELECT traffic.*, masks.src_mask = '255.255.255.0' AND family(src) = 4 AS grouped
    FROM vpn_traffic AS traffic JOIN import_ledger AS masks
      ON masks.gateway = traffic.gateway AND masks.interval_end = traffic.time)
SELECT held.*,
       CASE WHEN within > 0 THEN host(src) || '/24 (' || within || CASE within WHEN 1 THEN ' name)' ELSE ' names)' END
            ELSE coalesce((SELECT name FROM traffic_names AS names WHERE names.gateway = held.gateway AND
                             network >>= CASE WHEN grouped THEN set_masklen(src, 24) ELSE src END AND valid @> time
                           ORDER BY masklen(network) DESC LIMIT 1),
                          host(src) || CASE WHEN grouped THEN '/24' ELSE '' END) END AS src_name,
       coalesce((SELECT name FROM traffic_names AS names WHERE names.gateway = held.gateway AND network >>= dst AND
                   valid @> time ORDER BY masklen(network) DESC LIMIT 1), host(dst)) AS dst_name
FROM held CROSS JOIN LATERAL (
    SELECT count(DISTINCT name) AS within FROM traffic_names AS names
    WHERE grouped AND names.gateway = held.gateway AND network << set_masklen(src, 24) AND valid @> time) AS narrower)sql";

class TrafficByNameTest : public NamesTest {
 protected:
  static constexpr int64_t kHourS = 1'600'002'000 / 3600 * 3600;  // 2020-09-13 13:00.
  static constexpr uint64_t kIntervals = 960;                     // Four hours.

  // Two gateways, both families; gw2 groups its origins by /24 from the middle on. Names change at
  // any second, often at an interval's or a step's end, and nest.
  void SetUp() override {
    NamesTest::SetUp();
    if (postgres == nullptr) return;
    if (room_ > 0) {
      EXPECT_TRUE(Drain().exit.ok());  // Makes the tables.
      Sql(absl::StrCat("UPDATE traffic_rollups SET room = ", room_, " WHERE room IS NOT NULL"));
    }
    const uint64_t seed = NumberFromEnvironment("CTACCT_SEED", std::random_device()());
    std::cout << "CTACCT_SEED=" << seed << std::endl;
    std::mt19937_64 random(seed);
    for (uint64_t interval = 1; interval <= kIntervals; ++interval) {
      for (const std::string gateway : {"gw1", "gw2"}) {
        SpoolHeader header = MakeHeader(interval);
        header.gateway = gateway;
        header.engine_id[0] = static_cast<uint8_t>(gateway.back());
        header.interval_end_ns = (kHourS + static_cast<int64_t>(interval) * 15) * kSecondNs;
        header.created_ns = header.covered_to_ns = header.interval_end_ns;
        header.covered_from_ns = header.interval_end_ns - kIntervalNs;
        const bool grouped = gateway == "gw2" && interval > kIntervals / 2 + 11;
        if (grouped) header.src_mask = {255, 255, 255, 0};
        std::vector<TrafficRow> rows = MakeRows(random() % 1'000'000, 6);
        for (TrafficRow& row : rows) {
          row.time_ns = header.interval_end_ns;
          const auto last = static_cast<uint8_t>(random() % 4);
          if (random() % 3 == 0) {
            row.family = AddressFamily::kIpv6;
            row.src = {0x20, 0x01, 0x0d, 0xb8, 0, static_cast<uint8_t>(random() % 2)};
            row.dst = {0x20, 0x01, 0x0d, 0xb8, 0, 9};
            row.src[15] = row.dst[15] = last;
          } else {
            row.src = {10, 32, static_cast<uint8_t>(random() % 3), grouped ? uint8_t{0} : last};
            row.dst = {10, 33, 0, static_cast<uint8_t>(random() % 4)};
          }
        }
        ASSERT_TRUE(WriteSpoolFile(watch_, header, rows).ok());
      }
    }
    const std::vector<std::string> networks = {
        "10.32.0.0/16", "10.32.1.0/24",    "10.32.1.1",   "10.32.1.2",       "10.32.2.0/30",
        "10.33.0.0/31", "2001:db8:1::/48", "2001:db8::1", "2001:db8:9::/64", "0.0.0.0/0"};
    for (int i = 0; i < 24; ++i) {
      for (const std::string gateway : {"gw1", "gw2"}) {
        std::vector<Entry> entries;
        for (const std::string& network : networks) {
          if (random() % 3 != 0) {
            entries.push_back({network, absl::StrCat("name", random() % 5)});
          }
        }
        const int64_t second = static_cast<int64_t>(random() % 14'400);
        const int64_t round = std::array<int64_t, 4>{1, 15, 600, 3600}[random() % 4];
        WriteNames(kHourS + second / round * round, entries, gateway);
      }
    }
    const Finished run = Run({"-watch=" + watch_, "-once", "-transaction-files=200"});
    ASSERT_TRUE(run.exit.ok()) << run.err;
    Sql(kExpected);
  }
  int room_ = 0;  // Of rollups that need not list all; 0: as they are.
  void ExpectAnswersOfPlainSql();
  void DropTier(const std::string& tier) {
    Sql(absl::StrCat("DO $$ BEGIN WHILE EXISTS (SELECT FROM traffic_drop_partition('", tier,
                     "', '2100-01-01')) LOOP NULL; END LOOP; END $$"));
  }
};

TEST_F(TrafficByNameTest, EveryByteGoesToWhoHeldTheAddress) { ExpectAnswersOfPlainSql(); }

// Then steps are split by address, whatever the room was.
TEST_F(TrafficByNameTest, AlsoWhereRollupsListEveryDestination) {
  // Nor does it matter when gateways were watched.
  Sql("UPDATE traffic_rollups SET room = NULL; DELETE FROM traffic_covered");
  ExpectAnswersOfPlainSql();
}

void TrafficByNameTest::ExpectAnswersOfPlainSql() {
  size_t answers = 0;
  const std::string range = "'2020-09-13 13:00Z', '2020-09-13 17:00Z'";
  for (const std::string by : {"src_name", "dst_name", "src_name,dst_name", "src_name,gateway",
                               "src_name,src", "src_name,proto,port", "dst_name,proto,port"}) {
    for (const std::string step : {"NULL", "'15 s'", "'10 min'", "'1 h'"}) {
      for (const auto& [given, filter] : std::vector<std::pair<std::string, std::string>>{
               {"", "true"},
               {", src_names => '{name1,name3}'", "src_name IN ('name1', 'name3')"},
               {", dst_names => '{name2}', gateways => '{gw2}'",
                "dst_name = 'name2' AND gateway = 'gw2'"},
               {", src_names => '{10.32.0.1,name2,10.32.1.0/24 (2 names)}'",
                "src_name IN ('10.32.0.1', 'name2', '10.32.1.0/24 (2 names)')"}}) {
        SCOPED_TRACE(absl::StrCat(by, " ", step, given));
        const std::string plan = absl::StrCat(
            "traffic_make_plan(", range, ", ", step, ", '{", by, "}', src_names => ",
            given.find("src_names") == std::string::npos ? "NULL" : "'{x}'", ", dst_names => ",
            given.find("dst_names") == std::string::npos ? "NULL" : "'{x}'",
            ", gateways => NULL, srcs => NULL, dsts => NULL, protos => NULL, ports => NULL)");
        const std::string got =
            Sql(absl::StrCat("SELECT time, ", by, ", src_bytes::bigint, dst_packets::bigint, ",
                             "flow_count::bigint, coarse FROM traffic(", range, ", ", step, ", '{",
                             by, "}'", given, ") ORDER BY time, ", by));
        EXPECT_EQ(
            got, Sql(absl::StrCat("SELECT ",
                                  step == "NULL"
                                      ? "upper"
                                      : "date_bin(width, time - interval '1 us', 'epoch') + width",
                                  " AS point, ", by,
                                  ", sum(src_bytes), sum(dst_packets), sum(flow_count), false FROM "
                                  "expected, (SELECT upper, width FROM ",
                                  plan, ") AS plan WHERE ", filter, " GROUP BY point, ", by,
                                  " ORDER BY point, ", by)));
        answers += Lines(got);
      }
    }
  }
  EXPECT_GT(answers, 2000u);
  for (const std::string by : {"{src_name}", "{src_name,src,proto,port}", "{src,proto,port}"}) {
    const std::string all = absl::StrCat(
        "SELECT src_name, src, proto, port, src_bytes, dst_bytes, connection_count FROM traffic(",
        range, ", NULL, '", by, "', src_names => '{name1,name3}'");
    const std::string order = ") ORDER BY src_bytes + dst_bytes DESC, src, proto, port, src_name";
    const std::string largest = Sql(absl::StrCat(all, ", largest => 2", order));
    EXPECT_EQ(largest, Sql(absl::StrCat(all, order, " LIMIT 2")));
    EXPECT_NE(largest, "") << by;
  }
  // Of an address within minutes, from rows: each interval.
  answers = 0;
  for (const std::string by : {"src_name,dst_name", "src_name,dst,port", "src,dst_name"}) {
    for (int minute = 0; minute < 240; minute += 20) {
      const std::string from =
          absl::StrCat("timestamptz '2020-09-13 13:00Z' + interval '", minute, " min'");
      const std::string to = absl::StrCat(from, " + interval '5 min'");
      const std::string got = Sql(absl::StrCat(
          "SELECT time, ", by, ", src_bytes::bigint, flow_count::bigint, coarse FROM traffic(",
          from, ", ", to, ", '15 s', '{", by, "}', srcs => '{0.0.0.0/0,::/0}') ORDER BY time, ",
          by));
      EXPECT_EQ(got, Sql(absl::StrCat("SELECT time, ", by,
                                      ", sum(src_bytes), sum(flow_count), false FROM expected ",
                                      "WHERE time > ", from, " AND time <= ", to,
                                      " GROUP BY time, ", by, " ORDER BY time, ", by)));
      answers += Lines(got);
    }
  }
  EXPECT_GT(answers, 100u);
  EXPECT_EQ(Sql(absl::StrCat("SELECT sum(src_bytes)::bigint FROM traffic(", range,
                             ", NULL, '{src_name,dst_name}')")),
            Sql("SELECT sum(src_bytes) FROM vpn_traffic"));
}

TEST_F(TrafficByNameTest, ForgottenIsTheCustomerAndNotTheTraffic) {
  // Neither end is that of a step, nor of an interval.
  const std::string range = "'2020-09-13 13:20:07Z', '2020-09-13 16:33:31Z'";
  const std::string within = "time > '2020-09-13 13:20:07Z' AND time <= '2020-09-13 16:33:31Z'";
  const std::string sums =
      "SELECT time, gateway, proto, port, count(*), sum(src_bytes), sum(dst_packets) FROM "
      "vpn_traffic GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4";
  const std::string before = Sql(sums);
  ASSERT_NE(Sql("SELECT count(*) FROM expected WHERE src_name = 'name1' AND " + within), "0");
  const std::string said = Sql("SELECT * FROM traffic_forget('name1', " + range + ")");
  for (const std::string side : {"src", "dst"}) {
    const std::string forgotten =
        Sql(absl::StrCat("SELECT count(*), sum(src_bytes) FROM vpn_traffic WHERE ", side,
                         " IN ('0.0.0.1', '100::1')"));
    EXPECT_EQ(forgotten, Sql(absl::StrCat("SELECT count(*), sum(src_bytes) FROM expected WHERE ",
                                          side, "_name = 'name1' AND ", within)));
    EXPECT_THAT(said, HasSubstr(absl::StrCat("vpn_traffic, ", side, "|",
                                             forgotten.substr(0, forgotten.find('|')))));
    EXPECT_EQ(Sql(absl::StrCat("SELECT sum(src_bytes)::bigint FROM traffic('2020-09-13 13:00Z', "
                               "'2020-09-13 17:00Z', '15 s', '{",
                               side, "_name}') WHERE ", side, "_name = 'forgotten'")),
              forgotten.substr(forgotten.find('|') + 1));
    // It can be asked for, too.
    EXPECT_EQ(Sql(absl::StrCat("SELECT sum(src_bytes)::bigint FROM traffic('2020-09-13 13:00Z', "
                               "'2020-09-13 17:00Z', NULL, '{",
                               side, "_name}', ", side, "_names => '{forgotten}')")),
              forgotten.substr(forgotten.find('|') + 1));
  }
  EXPECT_EQ(Sql(sums), before);
  EXPECT_EQ(Sql("SELECT * FROM traffic_check('-infinity', 'infinity')"), "");
  EXPECT_EQ(Sql("SELECT count(*) FROM traffic_names WHERE name = 'name1' AND valid && tstzrange(" +
                range + ", '(]')"),
            "0");
  // A network; and where rows are dropped, by steps.
  Sql("SELECT * FROM traffic_drop_partition('rows', '2100-01-01')");
  const auto wrong =
      postgres->Sql(database_, "SELECT * FROM traffic_forget('it''s', " + range + ")");
  EXPECT_THAT(std::string(wrong.status().message()),
              HasSubstr("'it''s' is neither a name in traffic_names nor a network"));
  // What is both is not guessed.
  Sql("INSERT INTO traffic_names VALUES ('gw9', '10.99.0.0/24', '10.32.3.0', 'file', '[2020-01-01,)', "
      "now())");
  EXPECT_THAT(
      std::string(
          postgres->Sql(database_, "SELECT * FROM traffic_forget('10.32.3.0', " + range + ")")
              .status()
              .message()),
      HasSubstr("'10.32.3.0' is a name and a network: write 10.32.3.0/32 for the network"));
  // For ever.
  const std::string held =
      Sql("SELECT min(name) FROM traffic_names WHERE upper_inf(valid) AND name NOT IN ('name1', "
          "'10.32.3.0')");
  ASSERT_NE(held, "");
  Sql("SELECT * FROM traffic_forget('" + held + "', '-infinity', 'infinity')");
  EXPECT_EQ(Sql("SELECT count(*) FROM traffic_names WHERE name = '" + held + "'"), "0");
  EXPECT_EQ(Sql("SELECT count(*) FROM traffic_names WHERE valid = '(infinity,)'"), "0");
  Sql("SELECT * FROM traffic_forget('10.32.2.0/24', " + range + ")");
  EXPECT_EQ(
      Sql("SELECT count(*) FROM traffic_origin_10m WHERE src <<= '10.32.2.0/24' AND " + within),
      "0");
  EXPECT_EQ(Sql("SELECT sum(src_bytes) FROM traffic_origin_10m"),
            Sql("SELECT sum(src_bytes) FROM expected"));
}

TEST_F(TrafficByNameTest, BeyondTheRowsByTheStepOfTheRollupWhichIsSaid) {
  const std::string range = "'2020-09-13 13:00Z', '2020-09-13 17:00Z'";
  const std::string by_hour =
      absl::StrCat("SELECT time, src_name, src_bytes::bigint, coarse FROM traffic(", range,
                   ", '1 h', '{src_name}') ORDER BY time, src_name");
  const std::string exact = Sql(by_hour);
  EXPECT_THAT(exact, Not(HasSubstr("|t\n")));
  // Rollups of each interval say the same as rows.
  DropTier("rows");
  EXPECT_EQ(Sql("SELECT count(*) FROM vpn_traffic"), "0");
  EXPECT_EQ(Sql(by_hour), exact);
  const auto expect_coarse = [&](const std::string& step) {
    EXPECT_EQ(Sql(absl::StrCat("SELECT sum(src_bytes)::bigint, bool_or(coarse), bool_and(coarse) "
                               "FROM traffic(",
                               range, ", '", step, "', '{src_name,src,gateway}')")),
              Sql("SELECT sum(src_bytes), true, false FROM expected"));
    // By who held it at the step's end.
    EXPECT_EQ(Sql(absl::StrCat(
                  "SELECT count(*) > 0, bool_and(src_name = coalesce(traffic_name(gateway, src, "
                  "time), host(src))) FROM traffic(",
                  range, ", '", step, "', '{src_name,src,gateway}', '{gw1}')")),
              "t|t");
  };
  DropTier("fine");
  expect_coarse("10 min");
  DropTier("10m");
  expect_coarse("1 h");
}

// If a rollup cannot list all destinations, what it leaves out has no name; but nothing is lost or
// given to another.
class TrafficToManyByNameTest : public TrafficByNameTest {
 protected:
  void SetUp() override {
    room_ = 3;
    TrafficByNameTest::SetUp();
  }
};

TEST_F(TrafficToManyByNameTest, EveryByteOnceAndToNobodyElse) {
  ASSERT_NE(Sql("SELECT count(*) FROM traffic_unlisted WHERE one_key_bytes > 0"), "0");
  const std::string range = "'2020-09-13 13:00Z', '2020-09-13 17:00Z'";
  for (const std::string columns : {"dst_name", "src_name,dst_name", "dst_name,proto,port"}) {
    for (const std::string step : {"NULL", "'10 min'", "'1 h'"}) {
      SCOPED_TRACE(columns + " " + step);
      const std::string answer =
          absl::StrCat("traffic(", range, ", ", step, ", '{", columns, "}')");
      EXPECT_EQ(
          Sql(absl::StrCat("SELECT sum(src_bytes)::bigint, sum(flow_count)::bigint FROM ", answer)),
          Sql("SELECT sum(src_bytes), sum(flow_count) FROM vpn_traffic"));
      EXPECT_EQ(
          Sql(absl::StrCat(
              "SELECT count(*) FROM (SELECT ", columns, ", sum(src_bytes) AS bytes FROM ", answer,
              " WHERE dst_name NOT IN ('0.0.0.0', '::') GROUP BY ", columns,
              ") AS answer LEFT JOIN (SELECT ", columns,
              ", sum(src_bytes) AS bytes FROM expected GROUP BY ", columns, ") AS expected USING (",
              columns, ") WHERE (answer.bytes <= expected.bytes) IS NOT TRUE")),
          "0");
    }
  }
  // Of origins all are listed.
  EXPECT_EQ(Sql(absl::StrCat("SELECT src_name, sum(src_bytes)::bigint FROM traffic(", range,
                             ", '1 h', '{src_name,dst_name}') GROUP BY 1 ORDER BY 1")),
            Sql("SELECT src_name, sum(src_bytes) FROM expected GROUP BY 1 ORDER BY 1"));
}

}  // namespace
}  // namespace ctacct
