// Three gateways and one database: three engines with one spool folder each, three importers at the
// same time. The flows are written by hand, under the same few keys and in the same intervals on
// all gateways, so that their rows and sums meet wherever they can.
#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "netlink/test_messages.h"
#include "tests/support/capture_builder.h"
#include "tests/support/importer_fixture.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;

constexpr std::array<const char*, 3> kGateways = {"gw1", "gw2", "gw's \"third\""};
constexpr int kFlows = 3000;
constexpr int kIntervalSeconds = 5;
constexpr int64_t kSeconds = 60;  // All that happens.
// Half a minute before a midnight: all three importers make the partitions of both days.
constexpr int64_t kBeginNs = 1'600'041'570'000'000'000;

// src_packets, src_bytes, dst_packets, dst_bytes, connection_times, connection_count.
using Totals = std::array<uint64_t, 6>;
constexpr char kTotalsSql[] =
    "sum(src_packets)::bigint, sum(src_bytes)::bigint, sum(dst_packets)::bigint, "
    "sum(dst_bytes)::bigint, sum(connection_times)::bigint, sum(connection_count)::bigint";

std::string ToString(const Totals& totals) {
  std::string text;
  for (const uint64_t total : totals) absl::StrAppend(&text, text.empty() ? "" : "|", total);
  return text;
}

// TCP connections that open and close within the capture.
std::string MakeCapture(uint64_t seed, Totals* totals, int64_t begin_ns = kBeginNs) {
  std::mt19937_64 random(seed);
  std::vector<std::pair<int64_t, std::string>> datagrams;
  for (int i = 0; i < kFlows; ++i) {
    TestMessage flow;
    flow.src = absl::StrCat("10.32.", random() % 5, ".", 1 + random() % 200);
    flow.dst = absl::StrCat("10.33.", random() % 5, ".", 1 + random() % 200);
    flow.src_port = static_cast<uint16_t>(10'000 + i);
    flow.dst_port = static_cast<uint16_t>(random() % 2 == 0 ? 443 : 22);
    flow.id = static_cast<uint32_t>(1 + i);
    const int64_t start_ms = static_cast<int64_t>(random() % (kSeconds * 1000 - 2));
    const int64_t stop_ms =
        start_ms + 1 +
        static_cast<int64_t>(random() % static_cast<uint64_t>(kSeconds * 1000 - start_ms - 1));
    const auto ns = [begin_ns](int64_t ms) { return begin_ns + ms * 1'000'000; };

    TestMessage opened = flow;
    opened.kind = TestMessage::Kind::kNew;
    opened.tcp_state = kTestTcpSynSent;
    opened.event_ns = ns(start_ms);
    datagrams.emplace_back(start_ms, BuildMessage(opened));

    TestMessage closed = flow;
    closed.kind = TestMessage::Kind::kDestroy;
    closed.original = {.packets = 1 + random() % 100, .bytes = random() % 1'000'000};
    closed.reply = {.packets = random() % 100, .bytes = random() % 1'000'000};
    closed.start_ns = ns(start_ms);
    closed.stop_ns = ns(stop_ms);
    closed.event_ns = ns(stop_ms);
    datagrams.emplace_back(stop_ms, BuildMessage(closed));

    const Totals one = {closed.original->packets,
                        closed.original->bytes,
                        closed.reply->packets,
                        closed.reply->bytes,
                        static_cast<uint64_t>(stop_ms - start_ms),
                        1};
    for (size_t j = 0; j < one.size(); ++j) (*totals)[j] += one[j];
  }
  std::stable_sort(datagrams.begin(), datagrams.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  CaptureBuilder capture;
  for (const auto& [ms, datagram] : datagrams) capture.Add(begin_ns + ms * 1'000'000, datagram);
  return capture.bytes();
}

class GatewaysTest : public ImporterTest {
 protected:
  std::string Spool(size_t i) const { return absl::StrCat(folder_, "/spool", i); }

  static void ExpectEnd(Subprocess& process) {
    const absl::StatusOr<ExitStatus> exit = process.Wait(kAtMost);
    ASSERT_TRUE(exit.ok()) << exit.status();
    EXPECT_TRUE(exit->ok()) << process.Stderr();
  }

  std::vector<std::unique_ptr<Subprocess>> engines_, importers_;
};

TEST_F(GatewaysTest, ThreeEnginesAndThreeImportersFillOneDatabase) {
  std::array<Totals, kGateways.size()> expected{};
  Totals of_all{};
  for (size_t i = 0; i < kGateways.size(); ++i) {
    fs::create_directory(Spool(i));
    const std::string capture = absl::StrCat(folder_, "/", i, ".pcap");
    WriteFile(capture, MakeCapture(i, &expected[i]));
    for (size_t j = 0; j < of_all.size(); ++j) of_all[j] += expected[i][j];
    auto engine = Subprocess::Start(
        {DataPath("engine/engine"), "-replay=" + capture, absl::StrCat("-gateway=", kGateways[i]),
         absl::StrCat("-interval=", kIntervalSeconds), "-src-group-mask=/24", "-dst-group-mask=/24",
         "-output=" + Spool(i)});
    ASSERT_TRUE(engine.ok()) << engine.status();
    engines_.push_back(*std::move(engine));
    importers_.push_back(StartImporter({"-watch=" + Spool(i), "-move=" + done_}));
  }
  for (const auto& engine : engines_) ExpectEnd(*engine);
  EXPECT_TRUE(Eventually([this] {
    for (size_t i = 0; i < kGateways.size(); ++i) {
      for (const std::string& name : Names(Spool(i))) {
        if (name[0] != '.') return false;  // Those are the engine's own.
      }
    }
    return true;
  }));
  for (const auto& importer : importers_) {
    ASSERT_TRUE(importer->Signal(SIGTERM).ok());
    ExpectEnd(*importer);
  }
  const auto expect_all = [&] {
    for (size_t i = 0; i < kGateways.size(); ++i) {
      const std::string where = absl::StrCat("WHERE gateway = $gw$", kGateways[i], "$gw$");
      EXPECT_EQ(Sql(absl::StrCat("SELECT ", kTotalsSql, " FROM vpn_traffic ", where)),
                ToString(expected[i]));
      // What a dashboard sees: by gateway from the rollups, and with the gateway as a filter.
      EXPECT_EQ(Sql(absl::StrCat("SELECT ", kTotalsSql,
                                 " FROM traffic('2020-09-13 23:00+00', '2020-09-14 01:00+00', "
                                 "'1 min', '{gateway,src}') ",
                                 where)),
                ToString(expected[i]));
      EXPECT_EQ(Sql(absl::StrCat("SELECT ", kTotalsSql,
                                 " FROM traffic('2020-09-13 23:00+00', '2020-09-14 01:00+00', "
                                 "NULL, '{dst,proto,port}', ARRAY[$gw$",
                                 kGateways[i], "$gw$])")),
                ToString(expected[i]));
    }
    EXPECT_EQ(Sql(absl::StrCat("SELECT ", kTotalsSql,
                               " FROM traffic('2020-09-13 23:00+00', '2020-09-14 01:00+00')")),
              ToString(of_all));
    EXPECT_EQ(Sql("SELECT * FROM traffic_check('2020-09-13', '2020-09-15')"), "");
  };
  expect_all();
  EXPECT_EQ(Sql("SELECT count(DISTINCT gateway), count(DISTINCT engine) FROM import_ledger"),
            absl::StrCat(kGateways.size(), "|", kGateways.size()));

  // All of it once more, as after a copy that was interrupted, and through one importer.
  const size_t moved = Names(done_).size();
  EXPECT_EQ(Sql("SELECT count(*) FROM import_ledger"), absl::StrCat(moved));
  const Finished again = Run({"-watch=" + done_, "-once"});
  EXPECT_TRUE(again.exit.ok()) << again.err;
  EXPECT_THAT(again.err, HasSubstr(absl::StrCat(", ", moved, " done before")));
  expect_all();
}

// A gateway was replaced: the new one's records follow those of the old one, also within a step of
// a rollup.
TEST_F(GatewaysTest, AGatewayIsRenamed) {
  std::array<Totals, 2> sent{};
  for (size_t i = 0; i < sent.size(); ++i) {
    const std::string capture = absl::StrCat(folder_, "/", i, ".pcap");
    WriteFile(capture,
              MakeCapture(i, &sent[i],
                          kBeginNs + static_cast<int64_t>(i) * 2 * kSeconds * 1'000'000'000));
    const auto replayed = RunProcessOrError(
        {DataPath("engine/engine"), "-replay=" + capture, absl::StrCat("-gateway=", i),
         absl::StrCat("-interval=", kIntervalSeconds), "-src-group-mask=/24", "-dst-group-mask=/24",
         "-output=" + watch_},
        kAtMost);
    ASSERT_TRUE(replayed.ok()) << replayed.status();
  }
  const Finished run = Run({"-watch=" + watch_, "-once"});
  ASSERT_TRUE(run.exit.ok()) << run.err;
  Totals both{};
  for (size_t i = 0; i < both.size(); ++i) both[i] = sent[0][i] + sent[1][i];
  const std::string range = "'2020-09-13 23:00+00', '2020-09-14 01:00+00'";
  Sql("INSERT INTO traffic_names VALUES"
      " ('0', '10.32.0.0/24', 'old', 'file', '(2020-09-13 23:00Z,2020-09-14 01:00Z]', now()),"
      " ('1', '10.32.0.0/24', 'new', 'file', '(2020-09-14 00:00Z,2020-09-14 02:00Z]', now())");
  const auto rename = [&](const std::string& from, const std::string& to) {
    return postgres->Sql(
        database_, absl::StrCat("SELECT * FROM traffic_rename_gateway(", from, ", ", to, ")"));
  };
  const auto refused = [&](const std::string& from, const std::string& to) {
    return std::string(rename(from, to).status().message());
  };
  EXPECT_THAT(refused("'0'", "'0'"), HasSubstr("must be another one"));
  EXPECT_THAT(refused("'0'", "E'a\\nb'"), HasSubstr("must be another one"));
  EXPECT_THAT(refused("'0'", "NULL"), HasSubstr("must be another one"));
  EXPECT_THAT(refused("'0'", "''"), HasSubstr("must be another one"));
  EXPECT_THAT(refused("'2'", "'1'"), HasSubstr("no file of a gateway '2' was imported"));
  const std::string rows = Sql("SELECT count(*) FROM vpn_traffic WHERE gateway = '0'");
  const auto said = rename("'0'", "'1'");
  ASSERT_TRUE(said.ok()) << said.status();
  EXPECT_THAT(*said, HasSubstr(absl::StrCat("vpn_traffic|", rows, "\n")));
  for (const std::string by : {"{gateway}", "{gateway,src}", "{gateway,src,dst,proto,port}"}) {
    for (const std::string step : {"NULL", "'1 min'", "'10 min'", "'1 h'"}) {
      SCOPED_TRACE(by + step);
      EXPECT_EQ(Sql(absl::StrCat("SELECT gateway, ", kTotalsSql, " FROM traffic(", range, ", ",
                                 step, ", '", by, "') GROUP BY gateway")),
                "1|" + ToString(both));
    }
  }
  EXPECT_EQ(Sql("SELECT * FROM traffic_check('2020-09-13', '2020-09-15')"), "");
  // Observed for as long as before, and each address has one name at a time.
  EXPECT_EQ(Sql("SELECT DISTINCT gateway FROM import_ledger"), "1");
  EXPECT_EQ(Sql("SELECT bool_and(covered <= '30 min') AND count(*) = 2 FROM traffic_covered"), "t");
  EXPECT_EQ(Sql("SELECT string_agg(name, ',' ORDER BY valid), count(DISTINCT gateway) FROM "
                "traffic_names"),
            "old,new|1");
  // Two that observe the same time are not one, however short it was.
  Sql("INSERT INTO import_ledger (engine, sequence, checksum, row_count, gateway, source_file, "
      "interval_end, covered_from, covered_to) SELECT gen_random_uuid(), 1, 0, 0, 'third', '', "
      "max(interval_end), max(covered_to) - interval '1 s', max(covered_to) FROM import_ledger");
  EXPECT_THAT(refused("'1'", "'third'"), HasSubstr("'1' and 'third' both observed 2020-09-1"));
  EXPECT_THAT(refused("'third'", "'1'"), HasSubstr("'third' and '1' both observed 2020-09-1"));
  // But one that goes on where the other ended: at the beginning of the dump that its last file
  // ends with.
  Sql("UPDATE import_ledger SET covered_from = covered_from + interval '980 ms', covered_to = covered_to + interval "
      "'5 s' WHERE gateway = 'third'");
  EXPECT_TRUE(rename("'third'", "'1'").ok());
  Sql("UPDATE import_ledger SET gateway = 'third' WHERE covered_to = (SELECT max(covered_to) FROM import_ledger)");
  // CSV files do not say what was observed.
  Sql("UPDATE import_ledger SET covered_from = NULL, covered_to = NULL WHERE gateway = 'third'");
  EXPECT_TRUE(rename("'third'", "'fourth'").ok());
  EXPECT_EQ(Sql("SELECT DISTINCT gateway FROM vpn_traffic"), "1");
}

}  // namespace
}  // namespace ctacct
