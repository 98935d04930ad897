// The report: what its page shows, in a real browser, against plain SQL over the rows; what it does
// with hostile names, empty databases and wrong flags.
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/importer_fixture.h"
#include "tests/support/private_postgres.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::Duration kBrowserAtMost = absl::Seconds(90);
const char* const kCharts[] = {"bits",    "packets",      "connections",
                               "origins", "destinations", "ports"};

class ReportTest : public ImporterTest {
 protected:
  void SetUp() override {
    ImporterTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    page_ = folder_ + "/report.html";
    // The tables, and the role that must be enough.
    const Finished run = Run({"-watch=" + done_, "-once"});
    ASSERT_TRUE(run.exit.ok()) << run.err;
    Sql(Contents(DataPath("configs/postgres/roles.sql")));
  }
  Finished Report(std::vector<std::string> arguments) {
    if (std::none_of(arguments.begin(), arguments.end(), [](const std::string& argument) {
          return absl::StartsWith(argument, "-conninfo=");
        })) {
      arguments.push_back("-conninfo=" + postgres->Conninfo(database_, "ctacct_reader"));
    }
    // This machine's zone may be any.
    if (std::none_of(arguments.begin(), arguments.end(), [](const std::string& argument) {
          return absl::StartsWith(argument, "-timezone=");
        })) {
      arguments.push_back("-timezone=UTC");
    }
    arguments.insert(arguments.begin(), DataPath("importer/report/report"));
    absl::StatusOr<Finished> finished = RunProcess(arguments, kAtMost);
    EXPECT_TRUE(finished.ok()) << finished.status();
    return finished.value_or(Finished{});
  }
  void WritePage(std::vector<std::string> arguments = {}) {
    arguments.push_back("-output=" + page_);
    const Finished run = Report(arguments);
    EXPECT_TRUE(run.exit.ok()) << run.exit.ToString();
    EXPECT_EQ(run.err, "");
  }
  void ExpectReportFails(const Finished& run, int code, const std::string& message) {
    EXPECT_EQ(run.exit.ToString(), absl::StrCat("exit status ", code));
    EXPECT_THAT(run.err, AllOf(testing::StartsWith("report: "), HasSubstr(message)));
    EXPECT_EQ(Lines(run.err), 1u) << run.err;
    EXPECT_EQ(run.out, "");
  }
  // What a browser finds in the page (tests/database/report_page.py), which must be sound in any
  // case.
  json Open(std::vector<std::string> arguments = {}) {
    arguments.insert(arguments.begin(),
                     {"python3", DataPath("tests/database/report_page.py"), page_});
    const absl::StatusOr<std::string> text = RunProcessOrError(arguments, kBrowserAtMost);
    EXPECT_TRUE(text.ok()) << text.status();
    json seen = json::parse(text.value_or("{}"), nullptr, /*allow_exceptions=*/false);
    if (!seen.is_object() || !seen.contains("errors")) {
      ADD_FAILURE() << "the browser has told nothing";
      return json::object();
    }
    EXPECT_EQ(seen["errors"], json::array());
    EXPECT_EQ(seen["requests"], json::array());
    EXPECT_EQ(seen["dialogs"], json::array());
    EXPECT_EQ(seen["opened"], true);  // So requests are seen at all.
    EXPECT_LE(seen["overflow"].get<int>(), 0);
    return seen;
  }
  // The data in the page: where a browser would add nothing.
  json DataInPage() {
    const std::string page = Contents(page_);
    const std::string begin = "id=\"data\">";
    const size_t at = page.find(begin) + begin.size();
    return json::parse(page.substr(at, page.find("</script>", at) - at));
  }
  // Summed as Totals() does.
  std::string SumsInData() {
    const json data = DataInPage();
    std::array<int64_t, 6> sums{};
    for (const json& point : data["total"]["points"]) {
      for (size_t i = 0; i < sums.size(); ++i) sums[i] += point[2 + i].get<int64_t>();
    }
    return absl::StrCat(sums[0], "|", sums[1], "|", sums[2] + sums[3], "|", sums[4], "|", sums[5]);
  }
  // bytes sent, replied; packets; connections; their durations.
  static std::string Totals(const json& look) {
    const json& totals = look["totals"];
    std::vector<std::string> texts;
    for (const char* const name : {"Sent", "Replies", "Packets", "Connections", "Mean duration"}) {
      texts.push_back(totals.contains(name) && totals[name].is_number()
                          ? absl::StrCat(totals[name].get<int64_t>())
                          : "none");
    }
    return absl::StrJoin(texts, "|");
  }
  std::string TotalsInSql(const std::string& condition = "true") {
    return Sql(
        "SELECT sum(src_bytes), sum(dst_bytes), sum(src_packets + dst_packets), "
        "sum(connection_count), sum(connection_times) FROM vpn_traffic WHERE " +
        condition);
  }
  // Sums of a table's columns: name, share, sent, replies, packets, connections, mean time.
  static std::string TableSums(const json& look, const std::string& table) {
    if (!look["tables"].contains(table)) return "none";
    const json& sums = look["tables"][table]["sums"];
    return absl::StrCat(sums[2].get<int64_t>(), "|", sums[3].get<int64_t>(), "|",
                        sums[4].get<int64_t>(), "|", sums[5].get<int64_t>());
  }
  void ExpectShowsSums(const json& look, const std::string& condition = "true") {
    EXPECT_EQ(Totals(look), TotalsInSql(condition));
    const std::string sums =
        Sql("SELECT sum(src_bytes), sum(dst_bytes), sum(src_packets + dst_packets), "
            "sum(connection_count) FROM vpn_traffic WHERE " +
            condition);
    for (const char* const table : {"origins", "destinations", "ports"}) {
      EXPECT_EQ(TableSums(look, table), sums) << table;
    }
    EXPECT_EQ(absl::StrCat(look["cells"].get<int64_t>()),
              Sql("SELECT sum(src_bytes + dst_bytes) FROM vpn_traffic WHERE " + condition));
  }
  // The filters as a condition of SQL.
  static std::string ConditionOf(const json& look) {
    std::vector<std::string> conditions;
    for (const std::string text : look["filters"]) {
      const std::vector<std::string> parts = absl::StrSplit(text, absl::MaxSplits(": ", 1));
      const std::vector<std::string> service = absl::StrSplit(parts.at(1), '/');
      if (parts[0] != "protocol") {
        conditions.push_back(
            absl::StrCat(parts[0] == "origin" ? "src" : "dst", " <<= inet '", parts[1], "'"));
      } else {
        conditions.push_back(absl::StrCat("proto = '", service[0], "' AND port = ",
                                          service.size() < 2      ? "0"
                                          : service[1] == "other" ? "-1"
                                                                  : service[1]));
      }
    }
    return conditions.empty() ? "true" : absl::StrJoin(conditions, " AND ");
  }
  static std::string ListSums(const std::string& condition) {
    return "SELECT sum(src_bytes), sum(dst_bytes), sum(src_packets + dst_packets), "
           "sum(connection_count) FROM vpn_traffic WHERE " +
           condition;
  }
  // All that follows the filters is as SQL has it; a list by the other filters.
  void ExpectShowsFiltered(const json& look, const std::string& base = "true") {
    const std::string condition = base + " AND " + ConditionOf(look);
    EXPECT_EQ(Totals(look), TotalsInSql(condition)) << look["filters"];
    for (const auto& [table, kind] : std::vector<std::pair<std::string, std::string>>{
             {"origins", "origin"}, {"destinations", "destination"}, {"ports", "protocol"}}) {
      json others = look;
      others["filters"] = json::array();
      for (const std::string text : look["filters"]) {
        if (!absl::StartsWith(text, kind)) others["filters"].push_back(text);
      }
      EXPECT_EQ(TableSums(look, table), Sql(ListSums(base + " AND " + ConditionOf(others))))
          << table << look["filters"];
    }
  }
  void LoadSample(const std::string& hours) {
    const absl::StatusOr<std::string> loaded = postgres->Sql(
        database_, absl::StrReplaceAll(Contents(DataPath("tests/database/report_sample.sql")),
                                       {{"HOURS", hours}}));
    ASSERT_TRUE(loaded.ok()) << loaded.status();
  }

  std::string page_;
};

TEST_F(ReportTest, ABrowserDrawsWhatTheRowsSay) {
  LoadSample("0.4");
  WritePage();
  const json seen = Open();
  ExpectShowsSums(seen);
  EXPECT_EQ(seen["ready"], "bits packets connections origins destinations ports");
  EXPECT_EQ(seen["theme"], "light");
  EXPECT_THAT(seen["range"].get<std::string>(), HasSubstr("21 Nov 2026, 12:00:00"));
  EXPECT_EQ(seen["gaps"].get<int>(),
            std::stoi(Sql("SELECT count(*) + (SELECT sum(cardinality(holes)) FROM traffic_expected("
                          "'2026-11-21 12:00Z', '2026-11-21 12:15Z')) FROM traffic_gap_regions")));
  for (const char* const chart : kCharts) {
    // Lines, areas and a gap's shade, not only the grid's one colour.
    ASSERT_TRUE(seen["canvases"].contains(chart)) << chart;
    EXPECT_GT(seen["canvases"][chart]["drawn"].get<int>(), 2000) << chart;
    EXPECT_GT(seen["canvases"][chart]["colors"].get<int>(), 50) << chart;
  }
  // The ten busiest by name and the others, in the order of SQL.
  EXPECT_EQ(seen["tables"]["origins"]["rows"], 11);
  EXPECT_EQ(seen["tables"]["origins"]["names"][0],
            Sql("SELECT host(src) || CASE family(src) WHEN 4 THEN '/24' ELSE '/64' END FROM "
                "vpn_traffic GROUP BY src ORDER BY "
                "sum(src_bytes + dst_bytes) DESC LIMIT 1"));
  // Name, sent, replies, newest, intervals, expected, missing ...
  const json& gateways = seen["tables"]["gateways"]["sums"];
  EXPECT_EQ(gateways[5].get<int64_t>(), gateways[4].get<int64_t>() + gateways[6].get<int64_t>());
  EXPECT_EQ(absl::StrCat(gateways[4].get<int64_t>(), "|", gateways[6].get<int64_t>(), "|",
                         gateways[7].get<int64_t>(), "|", gateways[8].get<int64_t>(), "|",
                         gateways[10].get<int64_t>()),
            Sql("SELECT count(*), (SELECT sum(extract(epoch FROM (SELECT max(time) FROM "
                "traffic_intervals) - first) / 15 - n)::integer FROM (SELECT min(time - "
                "interval_length) AS first, count(*) AS n FROM traffic_intervals GROUP BY gateway) "
                "AS each), count(*) FILTER (WHERE completeness = 'resynced'), "
                "count(*) FILTER (WHERE completeness = 'partial'), sum(events_dropped) "
                "FROM traffic_intervals"));

  // With the mouse: a part of it, and back. Figures follow.
  EXPECT_THAT(seen["hovered"].get<std::string>(), HasSubstr("bit/s"));
  const json& zoomed = seen["zoomed"];
  EXPECT_THAT(zoomed["shown"].get<std::string>(), HasSubstr("21 Nov 2026, 12:0"));
  EXPECT_GT(zoomed["totals"]["Sent"].get<int64_t>(), 0);
  EXPECT_LT(zoomed["totals"]["Sent"].get<int64_t>(), seen["totals"]["Sent"].get<int64_t>() / 2);
  EXPECT_NE(zoomed["canvases"]["ports"], seen["canvases"]["ports"]);
  EXPECT_EQ(seen["unzoomed"]["shown"], "");
  ExpectShowsSums(seen["unzoomed"]);
  // With the keyboard.
  EXPECT_NE(seen["keys"]["shown"], "");
  EXPECT_LT(seen["keys"]["totals"]["Sent"].get<int64_t>(), seen["totals"]["Sent"].get<int64_t>());
  ASSERT_EQ(seen["keys_anywhere"].size(), 3u);
  for (const json& shown : seen["keys_anywhere"]) EXPECT_NE(shown, "");
  // The theme's button also repaints the charts.
  EXPECT_EQ(seen["toggled"]["theme"], "dark");
  EXPECT_NE(seen["toggled"]["canvases"]["bits"]["most"], seen["canvases"]["bits"]["most"]);
  ExpectShowsSums(seen["toggled"]);

  // A phone at night; the page's zone is the report's, not the browser's.
  WritePage({"-timezone=Asia/Tokyo"});
  const json phone = Open({"--size=390x844", "--dark", "--zone=America/New_York"});
  EXPECT_EQ(phone["theme"], "dark");
  EXPECT_THAT(phone["range"].get<std::string>(),
              AllOf(HasSubstr("21:00:00"), HasSubstr("Asia/Tokyo"), HasSubstr("12:00:00"),
                    HasSubstr("UTC")));
  ExpectShowsSums(phone);
  EXPECT_EQ(phone["toggled"]["theme"], "light");
}

// What a click shows is what SQL says, for each kind of thing that can be clicked.
TEST_F(ReportTest, ClicksFilterTheRestOfThePage) {
  LoadSample("2.4");
  WritePage();
  const json data = DataInPage();
  // Nothing is lost in the cross table; it says what the page says.
  std::array<int64_t, 6> sums{};
  const json& cells = data["cross"]["cells"];
  ASSERT_GT(cells.size(), 0u);
  for (size_t i = 0; i < cells.size(); ++i) {
    if (i % 10 >= 4) sums[i % 10 - 4] += cells[i].get<int64_t>();
  }
  EXPECT_EQ(absl::StrCat(sums[0], "|", sums[1], "|", sums[2] + sums[3], "|", sums[4], "|", sums[5]),
            TotalsInSql());
  const std::string first = " tbody tr:nth-child(1) .pick";
  const json seen =
      Open({"--do=click #origins" + first, "--do=click #ports" + first, "--do=key Escape",
            "--do=focus #destinations tbody tr:nth-child(2) .pick", "--do=key Enter", "--do=key +",
            "--do=key Space", "--do=key Escape", "--do=click #pairs td .pick",
            "--do=click #ports tbody tr:nth-child(3) .pick", "--do=click #filters button",
            "--do=key Escape", "--do=click #pairs tbody th .pick", "--do=click #pairs thead .pick",
            "--do=click #pairs thead .pick", "--do=key Escape", "--do=click #busiest" + first,
            "--do=click #busiest .pick[aria-pressed=true]", "--do=click #unanswered .pick"});
  const json& did = seen["did"];
  ASSERT_EQ(did.size(), 19u);
  ExpectShowsSums(seen);
  EXPECT_EQ(seen["unfiltered"], json::array());
  for (size_t i = 0; i < did.size(); ++i) {
    if (i == 5 || i == 6) continue;  // Zoomed.
    ExpectShowsFiltered(did[i]);
    // What cannot follow says so.
    EXPECT_EQ(did[i]["unfiltered"], did[i]["filters"].empty()
                                        ? json::array()
                                        : json({"gateways", "unanswered", "services", "gaps"}));
    EXPECT_LE(did[i]["overflow"].get<int>(), 0);
  }
  const auto number_of_filters = [&](size_t i) { return did[i]["filters"].size(); };
  // An origin. Its pairs are listed; the table of pairs shows all, so that another can be chosen.
  ASSERT_EQ(number_of_filters(0), 1u);
  EXPECT_EQ(did[0]["filters"][0].get<std::string>(),
            "origin: " + seen["tables"]["origins"]["names"][0].get<std::string>());
  EXPECT_EQ(absl::StrCat(did[0]["tables"]["busiest"]["sums"][2].get<int64_t>()),
            Sql("SELECT sum(src_bytes) FROM vpn_traffic WHERE " + ConditionOf(did[0])));
  EXPECT_EQ(did[0]["cells"], seen["cells"]);
  EXPECT_NE(did[0]["canvases"]["bits"], seen["canvases"]["bits"]);
  EXPECT_NE(did[0]["canvases"]["ports"], seen["canvases"]["ports"]);
  // Its first destination alone.
  EXPECT_EQ(absl::StrCat(did[0]["tables"]["destinations"]["first"][2].get<int64_t>()),
            Sql("SELECT sum(src_bytes) FROM vpn_traffic WHERE " + ConditionOf(did[0]) +
                " GROUP BY dst ORDER BY sum(src_bytes + dst_bytes) DESC LIMIT 1"));
  // And a service: of two filters, points are hours.
  ASSERT_EQ(number_of_filters(1), 2u);
  EXPECT_THAT(did[1]["notes"]["bits"].get<std::string>(), HasSubstr("a point is 1\u00a0h"));
  EXPECT_EQ(
      absl::StrCat(did[1]["cells"].get<int64_t>()),
      Sql("SELECT sum(src_bytes + dst_bytes) FROM vpn_traffic WHERE proto || '/' || port = '" +
          seen["tables"]["ports"]["names"][0].get<std::string>() + "'"));
  EXPECT_EQ(number_of_filters(2), 0u);
  ExpectShowsSums(did[2]);
  EXPECT_EQ(did[2]["pressed"], json::array());
  // By the keyboard, whose focus stays while the table is drawn again.
  ASSERT_EQ(number_of_filters(4), 1u);
  EXPECT_EQ(did[4]["focus"], seen["tables"]["destinations"]["names"][1]);
  EXPECT_THAT(did[4]["pressed"], testing::Contains(did[4]["focus"]));
  // Zoomed to half of 2:24 h: throughput by fine points, lists by the hours that it touches.
  EXPECT_NE(did[5]["shown"], "");
  EXPECT_EQ(did[5]["focus"], did[4]["focus"]);
  EXPECT_EQ(Totals(did[5]), TotalsInSql(ConditionOf(did[4]) + " AND time > '2026-11-21 12:36Z' AND "
                                                              "time <= '2026-11-21 13:48Z'"));
  EXPECT_EQ(TableSums(did[5], "origins"),
            Sql(ListSums(ConditionOf(did[4]) + " AND time <= '2026-11-21 14:00Z'")));
  EXPECT_THAT(did[5]["notes"]["origins"].get<std::string>(),
              HasSubstr("whole hours: 21 Nov 2026, 12:00:00\u2009\u2013\u200914:00:00"));
  EXPECT_EQ(number_of_filters(6), 0u);
  EXPECT_NE(did[6]["shown"], "");
  EXPECT_EQ(did[7]["shown"], "");  // Without a filter, Escape shows the whole range.
  // A pair, by its cell; a service of it; without its origin.
  ASSERT_EQ(number_of_filters(8), 2u);
  EXPECT_EQ(absl::StrCat(did[8]["tables"]["busiest"]["sums"][2].get<int64_t>()),
            Sql("SELECT sum(src_bytes) FROM vpn_traffic WHERE " + ConditionOf(did[8])));
  EXPECT_EQ(number_of_filters(9), 3u);
  ASSERT_EQ(number_of_filters(10), 2u);
  EXPECT_THAT(did[10]["filters"][0].get<std::string>(), testing::StartsWith("destination: "));
  // A line, a column, the column again; a pair by its line; again; an origin among the unanswered.
  EXPECT_EQ(number_of_filters(12), 1u);
  EXPECT_EQ(number_of_filters(13), 2u);
  EXPECT_EQ(number_of_filters(14), 1u);
  EXPECT_EQ(number_of_filters(16), 2u);
  EXPECT_EQ(number_of_filters(17), 0u);
  EXPECT_EQ(number_of_filters(18), 1u);

  // On a phone, and of what the command line chose.
  WritePage({"-proto=tcp", "-src=10.32.0.0/16"});
  const json phone =
      Open({"--size=390x844", "--do=click #destinations" + first, "--do=click #ports" + first});
  ExpectShowsFiltered(phone["did"][0], "proto = 'tcp' AND src << '10.32.0.0/16'");
  ExpectShowsFiltered(phone["did"][1], "proto = 'tcp' AND src << '10.32.0.0/16'");
  EXPECT_EQ(number_of_filters(1), phone["did"][1]["filters"].size());
}

TEST_F(ReportTest, ClicksFilterByName) {
  LoadSample("0.2");
  Sql("INSERT INTO traffic_names SELECT DISTINCT gateway, network, 'team, \"two\" <b>', 'file', tstzrange(NULL, NULL), "
      "now() FROM vpn_traffic, unnest('{10.32.2.0/24,2001:db8:32:2::/64}'::cidr[]) AS network");
  WritePage({"-names", "-src-name=\"team, \"\"two\"\" <b>\",10.32.1.0/24"});
  const std::string both = "(src = ANY ('{10.32.2.0,2001:db8:32:2::,10.32.1.0}'))";
  EXPECT_EQ(SumsInData(), TotalsInSql(both));
  const json seen = Open({"--do=click #origins .named .pick", "--do=click #ports .pick"});
  const std::string team = "src = ANY ('{10.32.2.0,2001:db8:32:2::}')";
  const json& did = seen["did"];
  ASSERT_EQ(did.size(), 2u);
  EXPECT_EQ(did[0]["filters"], json({"origin: team, \"two\" <b>"}));
  EXPECT_EQ(Totals(did[0]), TotalsInSql(team));
  EXPECT_EQ(TableSums(did[0], "destinations"), Sql(ListSums(team)));
  EXPECT_EQ(TableSums(did[0], "ports"), Sql(ListSums(team)));
  json service = did[1];
  service["filters"].erase(0);
  EXPECT_EQ(Totals(did[1]), TotalsInSql(team + " AND " + ConditionOf(service)));
}

// To read many keys of the largest rollup would take long: then a click filters by one key, and
// what does not follow says so.
TEST_F(ReportTest, ClicksAmongTooManyKeysFilterByOneName) {
  LoadSample("0.2");
  WritePage({"-from=2026-11-19T00:00", "-to=2026-11-22T00:00"});
  EXPECT_TRUE(DataInPage().contains("cross"));
  Sql("INSERT INTO traffic_pair_port_1h SELECT time, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, port, "
      "'172.16.0.0'::inet + number, dst, proto, gateway FROM (SELECT * FROM traffic_pair_port_1h "
      "LIMIT 1) AS key, generate_series(1, 700000) AS number");
  WritePage({"-from=2026-11-19T00:00", "-to=2026-11-22T00:00"});
  EXPECT_FALSE(DataInPage().contains("cross"));
  const json seen = Open({"--do=click #origins .pick", "--do=click #ports .pick"});
  EXPECT_EQ(seen["hint"], "");
  const json& did = seen["did"];
  ASSERT_EQ(did.size(), 2u);
  EXPECT_EQ(Totals(did[0]), TotalsInSql(ConditionOf(did[0])));
  EXPECT_EQ(did[0]["unfiltered"], json({"destinations", "ports", "busiest", "gateways",
                                        "unanswered", "services", "pairs", "gaps"}));
  EXPECT_EQ(TableSums(did[0], "ports"), Sql(ListSums("true")));
  EXPECT_THAT(did[0]["hint"].get<std::string>(), HasSubstr("with -src=10.32."));
  ASSERT_EQ(did[1]["filters"].size(), 1u);
  EXPECT_EQ(Totals(did[1]), TotalsInSql(ConditionOf(did[1])));
  EXPECT_THAT(did[1]["hint"].get<std::string>(), HasSubstr("with -proto="));
}

TEST_F(ReportTest, ASumThatMayBeTooSmallIsSaid) {
  // Ten origins with twenty destinations each, most of which do not come back.
  Sql("UPDATE traffic_rollups SET room = 40 WHERE room IS NOT NULL");
  for (uint64_t sequence = 1; sequence <= 3; ++sequence) {
    std::vector<TrafficRow> rows = MakeRows(sequence, 200);
    for (size_t i = 0; i < rows.size(); ++i) {
      rows[i].family = AddressFamily::kIpv4;
      rows[i].src = {10, 32, 0, static_cast<uint8_t>(i % 10)};
      rows[i].dst = {10, 33, static_cast<uint8_t>(i % 5 == 0 ? 0 : sequence),
                     static_cast<uint8_t>(i)};
      rows[i].protocol = 6;
      rows[i].port = 443;
    }
    ASSERT_TRUE(WriteSpoolFile(watch_, MakeHeader(sequence), rows).ok());
  }
  ASSERT_TRUE(Drain().exit.ok());
  WritePage();
  const json seen = Open({"--do=click #origins .pick", "--do=click #destinations .pick"});
  const std::string text = "a sum may be too small";
  EXPECT_THAT(seen["notes"]["destinations"].get<std::string>(), HasSubstr(text));
  EXPECT_THAT(seen["notes"]["ports"].get<std::string>(), Not(HasSubstr(text)));
  EXPECT_THAT(seen["notes"]["bits"].get<std::string>(), Not(HasSubstr(text)));
  // Sums of an origin are exact; over all destinations as well.
  const json& did = seen["did"];
  ExpectShowsFiltered(did[0]);
  EXPECT_THAT(did[0]["notes"]["bits"].get<std::string>(), Not(HasSubstr(text)));
  EXPECT_THAT(did[0]["notes"]["ports"].get<std::string>(), HasSubstr(text));
  EXPECT_THAT(did[1]["notes"]["bits"].get<std::string>(), HasSubstr(text));
  // With a filter by destination also in sums of all; and nobody over a quota is missed.
  const std::string dst = "-dst=10.33.1.0/24";
  WritePage({dst});
  EXPECT_THAT(Open()["notes"]["bits"].get<std::string>(), HasSubstr(text));
  const json tables = json::parse(Report({dst, "-format=json"}).out, nullptr, false);
  for (const char* const table : {"total", "gateways"}) {
    ASSERT_FALSE(tables[table].empty()) << table;
    for (const json& sum : tables[table]) EXPECT_GT(sum["unlisted_bytes"], 0) << table;
  }
  ExpectReportFails(Report({dst, "-over=1kB"}), 1, "do not list all destinations");
  EXPECT_EQ(Report({"-over=1kB"}).exit.ToString(), "exit status 1");
}

TEST_F(ReportTest, FlagsTakeNetworks) {
  LoadSample("0.2");
  const std::string condition =
      "(src <<= '10.32.0.0/20' OR src <<= '2001:db8:32:3::/64') AND dst <<= '10.33.4.0/22'";
  const std::vector<std::string> flags = {"-src=10.32.0.0/20, 2001:db8:32:3::/064",
                                          "-dst=10.33.4.0/22", "-from=2026-11-21T12:00"};
  WritePage(flags);
  EXPECT_EQ(SumsInData(), TotalsInSql(condition));
  EXPECT_THAT(Open()["text"].get<std::string>(),
              AllOf(HasSubstr("origin: 10.32.0.0/20, 2001:db8:32:3::/64"),
                    HasSubstr("destination: 10.33.4.0/22")));
  std::vector<std::string> rows = flags;
  rows.push_back("-table=rows");
  EXPECT_EQ(absl::StrCat(Lines(Report(rows).out) - 1),
            Sql("SELECT count(*) FROM vpn_traffic WHERE " + condition));
}

TEST_F(ReportTest, RangeAndFiltersAreThoseOfTheFlags) {
  LoadSample("0.2");
  const std::string src = Sql("SELECT host(min(src)) FROM vpn_traffic WHERE proto = 'tcp'");
  WritePage({"-src=" + src, "-proto=tcp,udp", "-from=2026-11-21T12:00Z", "-to=2026-11-21 13:00",
             "-gateway=gw-north,gw-south", "-top=2"});
  json seen = Open();
  const std::string condition = "proto IN ('tcp', 'udp') AND src = '" + src + "'";
  EXPECT_EQ(Totals(seen), TotalsInSql(condition));
  ExpectShowsSums(seen, condition);
  EXPECT_LE(seen["tables"]["destinations"]["rows"].get<int>(), 3);
  EXPECT_THAT(seen["text"].get<std::string>(), HasSubstr("origin: " + src));

  WritePage({"-port=443", "-gateway=gw-north"});
  EXPECT_EQ(SumsInData(), TotalsInSql("port = 443 AND gateway = 'gw-north'"));

  // A part of the range; each interval belongs to it by its end.
  WritePage({"-from=-5m", "-to=2026-11-21T12:10:00Z"});
  EXPECT_EQ(SumsInData(),
            TotalsInSql("time > '2026-11-21 12:05Z' AND time <= '2026-11-21 12:10Z'"));

  // If a range begins or ends within an interval, its sums and completeness are those of the whole
  // interval.
  Sql("UPDATE import_ledger SET completeness = 'partial' WHERE interval_end = '2026-11-21 "
      "12:10Z'");
  WritePage({"-from=2026-11-21T12:05:00Z", "-to=2026-11-21T12:09:57Z"});
  EXPECT_EQ(SumsInData(),
            TotalsInSql("time > '2026-11-21 12:05Z' AND time <= '2026-11-21 12:10Z'"));
  const json data = DataInPage();
  int64_t partial = 0;
  for (const json& gateway : data["gateways"]["gateways"]) partial += gateway[9].get<int64_t>();
  EXPECT_EQ(absl::StrCat(partial),
            Sql("SELECT count(*) FROM traffic_intervals WHERE completeness = 'partial' AND time > "
                "'2026-11-21 12:05Z' AND time <= '2026-11-21 12:10Z'"));
  EXPECT_EQ(
      absl::StrCat(data["gaps"]["count"].get<int64_t>()),
      Sql("SELECT count(*) + (SELECT sum(cardinality(holes)) FROM traffic_expected("
          "'2026-11-21 12:05Z', '2026-11-21 12:10Z')) FROM traffic_gap_regions WHERE ended >= "
          "'2026-11-21 12:05Z' AND began <= '2026-11-21 12:10Z'"));

  WritePage({"-src=192.0.2.1"});
  seen = Open();
  EXPECT_THAT(seen["notice"].get<std::string>(), HasSubstr("that passes the filters"));
  WritePage({"-from=2020-01-01", "-to=2020-01-02"});
  seen = Open();
  EXPECT_THAT(seen["notice"].get<std::string>(),
              AllOf(HasSubstr("No traffic in this range"), HasSubstr("21 Nov 2026")));
}

TEST_F(ReportTest, RatesAreOverWhatWasCovered) {
  for (uint64_t i = 1; i <= 3; ++i) {
    SpoolHeader header = MakeHeader(i);
    header.covered_from_ns = header.interval_end_ns - (i == 1 ? 5 : 15) * int64_t{1'000'000'000};
    header.covered_to_ns = header.interval_end_ns;
    // Nothing moves in the second.
    ASSERT_TRUE(WriteSpoolFile(watch_, header, MakeRows(i, i == 2 ? 0 : 10)).ok());
  }
  ASSERT_TRUE(Drain().exit.ok());
  WritePage();
  const json data = DataInPage();
  std::vector<double> seconds;
  for (const json& point : data["total"]["points"]) seconds.push_back(point[1].get<double>());
  EXPECT_THAT(seconds, testing::ElementsAre(5, 15));
  EXPECT_EQ(data["gateways"]["gateways"][0][12], 35);
  // The average is over what was covered, not over the range, which begins with the first interval.
  const double sent = std::stod(Sql("SELECT sum(src_bytes) FROM vpn_traffic")) * 8 / 35 / 1e12;
  EXPECT_THAT(Open()["text"].get<std::string>(),
              HasSubstr(absl::StrFormat("%.2f\u00a0Tbit/s on average", sent)));
}

TEST_F(ReportTest, AGatewayThatSendsNothingIsNotComplete) {
  for (const char* const gateway : {"a", "b"}) {
    engine_id_ = NewEngineId().value();
    for (uint64_t i = 1; i <= 8; ++i) {
      if (gateway[0] == 'b' && i > 3 && i != 5) continue;
      SpoolHeader header = MakeHeader(i);
      header.gateway = gateway;
      // The engine has begun within the first one, which is not missing for that.
      header.covered_from_ns = header.interval_end_ns - (i == 1 ? 1 : kIntervalNs);
      header.covered_to_ns = header.interval_end_ns;
      ASSERT_TRUE(WriteSpoolFile(watch_, header, MakeRows(i, 10)).ok());
    }
  }
  ASSERT_TRUE(Drain().exit.ok());
  WritePage();
  const json data = DataInPage();
  const json& gateways = data["gateways"]["gateways"];
  ASSERT_EQ(gateways.size(), 2u);
  for (const json& gateway : gateways) EXPECT_EQ(gateway[13], gateway[0] == "a" ? 0 : 4);
  const std::string text = Open()["text"].get<std::string>();
  EXPECT_THAT(text, HasSubstr("75.0\u00a0%"));
  EXPECT_THAT(text, HasSubstr("4 missing"));
  // Of a range in which it has sent nothing at all.
  const std::string from =
      Sql("SELECT to_char(max(time) - interval '45 s', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM "
          "traffic_intervals");
  WritePage({"-from=" + from});
  EXPECT_THAT(Open()["text"].get<std::string>(), HasSubstr("3 missing"));
  // The other gateway's intervals are not needed for that.
  WritePage({"-from=" + from, "-gateway=b"});
  EXPECT_EQ(DataInPage()["gateways"]["gateways"][0][13], 3);
  json seen = Open();
  EXPECT_THAT(seen["notice"].get<std::string>(), HasSubstr("Silent: b."));
  EXPECT_EQ(seen["tables"]["gateways"]["sums"][4], 0);
  EXPECT_EQ(seen["tables"]["gateways"]["sums"][5], 3);
  // Without -to: the page is made now, and the newest interval is years old.
  WritePage({"-gateway=a"});
  EXPECT_THAT(Open()["text"].get<std::string>(),
              AllOf(HasSubstr("1 silent"), HasSubstr("of 1; newest interval")));
  // Intervals without traffic have been seen.
  engine_id_ = NewEngineId().value();
  SpoolHeader header = MakeHeader(9);
  header.gateway = "a";
  header.covered_from_ns = header.interval_end_ns - kIntervalNs;
  header.covered_to_ns = header.interval_end_ns;
  ASSERT_TRUE(WriteSpoolFile(watch_, header, {}).ok());
  ASSERT_TRUE(Drain().exit.ok());
  WritePage({"-gateway=a"});
  EXPECT_EQ(DataInPage()["gateways"]["gateways"][0][7], 9);
  EXPECT_EQ(DataInPage()["gateways"]["gateways"][0][13], 0);
}

TEST_F(ReportTest, CheckSaysWhatIsMissingWhereAndSinceWhen) {
  Finished run = Report({"-check"});
  EXPECT_EQ(run.exit.ToString(), "exit status 1");
  EXPECT_THAT(run.out, HasSubstr("No gateway has sent an interval"));
  const auto send = [&](const std::string& gateway, std::vector<uint64_t> intervals,
                        Completeness completeness = Completeness::kComplete) {
    engine_id_ = NewEngineId().value();
    for (const uint64_t i : intervals) {
      SpoolHeader header = MakeHeader(i);
      header.gateway = gateway;
      header.completeness = completeness;
      header.covered_from_ns = header.interval_end_ns - kIntervalNs;
      header.covered_to_ns = header.interval_end_ns;
      ASSERT_TRUE(WriteSpoolFile(watch_, header, {}).ok());
    }
  };
  send("a", {1, 2, 3, 4, 5, 6, 7, 8});
  ASSERT_TRUE(Drain().exit.ok());
  const auto time = [&](uint64_t i) {
    return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ",
                            absl::FromUnixNanos(MakeHeader(i).interval_end_ns),
                            absl::UTCTimeZone());
  };
  const auto check = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"-check", "-from=" + time(0), "-to=" + time(8)});
    return Report(arguments);
  };
  run = check({});
  EXPECT_EQ(run.exit.ToString(), "exit status 0") << run.out << run.err;
  EXPECT_THAT(run.out, testing::StartsWith("a: complete, 8 intervals; newest "));
  EXPECT_EQ(Lines(run.out), 1u) << run.out;
  // A hole, and silence since then.
  send("b", {1, 2, 5, 6});
  ASSERT_TRUE(Drain().exit.ok());
  run = check({});
  EXPECT_EQ(run.exit.ToString(), "exit status 1");
  const auto stretch = [&](uint64_t from, uint64_t to, const char* text) {
    return Sql(absl::StrFormat(
        "SET timezone = 'UTC'; SELECT format('    %%s to %%s: %s', timestamptz '%s', "
        "timestamptz '%s')",
        text, time(from), time(to)));
  };
  EXPECT_THAT(run.out, AllOf(HasSubstr("b: silent since "), HasSubstr("4 of 8 intervals missing"),
                             HasSubstr(stretch(2, 4, "no intervals (2)")),
                             HasSubstr(stretch(6, 8, "no intervals (2)"))));
  EXPECT_EQ(Lines(run.out), 4u) << run.out;
  // As in the page's table, and its shades.
  EXPECT_EQ(
      Report({"-table=gaps", "-timezone=UTC", "-from=" + time(0), "-to=" + time(8)}).out,
      "gateway,began,ended,text\n" +
          Sql(absl::StrFormat(
              "SET timezone = 'UTC'; SELECT concat_ws(',', 'b', timestamptz '%s', timestamptz "
              "'%s', 'no intervals (2)') || E'\\n' || concat_ws(',', 'b', timestamptz '%s', "
              "timestamptz '%s', 'no intervals (2)')",
              time(2), time(4), time(6), time(8))) +
          "\n");
  // By the function that dashboards use.
  EXPECT_EQ(Sql(absl::StrFormat("SELECT gateway, expected, intervals, missing, silent_from = '%s', "
                                "array_length(holes, 1) FROM traffic_expected('%s', '%s')",
                                time(6), time(0), time(8))),
            "a|8|8|0||\nb|8|4|4|t|2");
  EXPECT_EQ(check({"-gateway=a"}).exit.ToString(), "exit status 0");
  EXPECT_EQ(check({"-gateway=b"}).exit.ToString(), "exit status 1");
  // Who is asked for by name, and unknown.
  run = check({"-gateway=a,nobody"});
  EXPECT_EQ(run.exit.ToString(), "exit status 1");
  EXPECT_THAT(run.out, HasSubstr("nobody: no interval known"));
  // What is there but not complete.
  send("c", {1, 2, 3, 4, 5, 6, 7}, Completeness::kComplete);
  send("c", {8}, Completeness::kPartial);
  ASSERT_TRUE(Drain().exit.ok());
  run = check({"-gateway=c"});
  EXPECT_EQ(run.exit.ToString(), "exit status 1");
  EXPECT_THAT(run.out, HasSubstr("c: 1 partial; newest "));
  // Two engines shared an interval, and the file of one of them is missing.
  for (const uint64_t i : {1, 2, 3, 4}) {
    SpoolHeader header = MakeHeader(i);
    header.gateway = "d";
    header.covered_from_ns = header.interval_end_ns - (i == 3 ? kIntervalNs * 4 / 15 : kIntervalNs);
    header.covered_to_ns = header.interval_end_ns;
    ASSERT_TRUE(WriteSpoolFile(watch_, header, {}).ok());
  }
  ASSERT_TRUE(Drain().exit.ok());
  run = Report({"-check", "-gateway=d", "-from=" + time(0), "-to=" + time(4)});
  EXPECT_EQ(run.exit.ToString(), "exit status 1");
  EXPECT_THAT(run.out,
              AllOf(HasSubstr("d: 1 partial; newest "),
                    HasSubstr(" s of an interval not observed: a file is missing, or no")));
  EXPECT_EQ(Lines(run.out), 2u) << run.out;
  // Two engines of one name.
  send("e", {1, 2, 3});
  send("e", {2, 3});
  ASSERT_TRUE(Drain().exit.ok());
  run = Report({"-check", "-gateway=e", "-from=" + time(0), "-to=" + time(3)});
  EXPECT_EQ(run.exit.ToString(), "exit status 1");
  EXPECT_THAT(run.out, AllOf(HasSubstr("e: 2 partial; newest "),
                             HasSubstr(" observed twice: two engines ")));
  // An end within an interval asks for nothing after it.
  run = Report({"-check", "-gateway=a", "-from=" + time(0),
                "-to=" + absl::FormatTime(
                             "%Y-%m-%dT%H:%M:%SZ",
                             absl::FromUnixNanos(MakeHeader(8).interval_end_ns) + absl::Seconds(1),
                             absl::UTCTimeZone())});
  EXPECT_EQ(run.exit.ToString(), "exit status 0") << run.out;
  // Up to now, and a gateway that has not sent for more than a week is expected only by its name.
  run = Report({"-check"});
  EXPECT_THAT(run.out, AllOf(HasSubstr("No gateway has sent"), HasSubstr("a: not expected")));
  EXPECT_EQ(run.exit.ToString(), "exit status 1");
  run = Report({"-check", "-gateway=a"});
  EXPECT_THAT(run.out, HasSubstr("a: silent since 2020-09-13 12:"));
  EXPECT_EQ(run.exit.ToString(), "exit status 1");
  // Errors are one line, and no answer.
  ExpectReportFails(Report({"-check", "-conninfo=host=" + folder_}), 1, "connect");
}

TEST_F(ReportTest, TablesAreThoseOfThePage) {
  LoadSample("0.2");
  const auto query = [&](const std::string& key, int limit, const std::string& condition) {
    return Sql(absl::StrFormat(
        "SELECT string_agg(line, '\n') FROM (SELECT concat_ws(',', %s, sum(src_bytes + dst_bytes), "
        "sum(src_bytes), sum(dst_bytes), sum(src_packets), sum(dst_packets), sum(connection_count), "
        "sum(connection_times), sum(flow_count), sum(unanswered_count), 0, 'f') AS line FROM "
        "vpn_traffic WHERE %s GROUP BY %s ORDER BY sum(src_bytes + dst_bytes) DESC, %s LIMIT %d) "
        "AS lines",
        key, condition, key, key, limit));
  };
  // Without the times, which come first.
  const auto table = [&](std::vector<std::string> arguments) {
    const Finished run = Report(arguments);
    EXPECT_TRUE(run.exit.ok()) << run.err;
    std::vector<std::string> lines;
    for (const absl::string_view line : absl::StrSplit(run.out, '\n', absl::SkipEmpty())) {
      lines.push_back(
          std::vector<std::string>(absl::StrSplit(line, absl::MaxSplits(',', 2))).back());
    }
    return lines;
  };
  const std::string counters =
      ",bytes,src_bytes,dst_bytes,src_packets,dst_packets,connection_count,connection_times,"
      "flow_count,unanswered_count,unlisted_bytes,coarse";
  const std::string other = "proto = 'tcp' AND gateway = 'gw-north'";
  for (const auto& [name, columns, key] : std::vector<std::array<std::string, 3>>{
           {"origins", "origin", "host(src)"},
           {"destinations", "destination", "host(dst)"},
           {"ports", "proto,port", "proto, port"},
           {"pairs", "origin,destination", "host(src), host(dst)"}}) {
    std::vector<std::string> lines = table({"-table=" + name, "-top=100000"});
    EXPECT_EQ(lines[0], columns + counters);
    lines.erase(lines.begin());
    EXPECT_EQ(absl::StrJoin(lines, "\n"), query(key, 100'000, "true")) << name;
    lines = table({"-format=csv", "-table=" + name, "-top=2", "-proto=tcp", "-gateway=gw-north"});
    ASSERT_EQ(lines.size(), 4u) << name;
    EXPECT_EQ(lines[1] + "\n" + lines[2], query(key, 2, other)) << name;
    EXPECT_THAT(lines[3], testing::StartsWith("(others),")) << name;
  }
  // The rows themselves, of a minute.
  const Finished rows = Report({"-table=rows", "-from=2026-11-21T12:03", "-to=2026-11-21T12:04"});
  EXPECT_EQ(absl::StrCat(Lines(rows.out) - 1),
            Sql("SELECT count(*) FROM vpn_traffic WHERE time > '2026-11-21 12:03Z' AND time <= "
                "'2026-11-21 12:04Z'"));
  const std::string src = Sql("SELECT host(min(src)) FROM vpn_traffic WHERE proto = 'tcp'");
  EXPECT_EQ(
      absl::StrCat(Lines(Report({"-table=rows", "-from=2026-11-21T12:00", "-src=" + src}).out) - 1),
      Sql("SELECT count(*) FROM vpn_traffic WHERE src = '" + src + "'"));
  // What retention has dropped is no empty table.
  Sql("UPDATE traffic_tiers SET kept_from = '2026-11-21 12:02Z' WHERE tier = 'rows'");
  ExpectReportFails(Report({"-table=rows", "-from=2026-11-21T12:01"}), 1,
                    "rows before 2026-11-21T12:02:00Z are not kept any longer");
  EXPECT_GT(Lines(Report({"-table=rows", "-from=2026-11-21T12:02"}).out), 1u);
  Sql("UPDATE traffic_tiers SET kept_from = '-infinity' WHERE tier = 'rows'");
  // All tables as JSON; of a name with everything that CSV must quote.
  const std::string hostile = "=\"a\" 'b' \\ <\xe2\x82\xac>";
  Sql("INSERT INTO traffic_names SELECT DISTINCT gateway, '" + src + "/24'::cidr, $q$" + hostile +
      "$q$, 'file', tstzrange(NULL, NULL), now() FROM vpn_traffic");
  const std::string quoted = "\"" + absl::StrReplaceAll(hostile, {{"\"", "\"\""}}) + "\"";
  const json document =
      json::parse(Report({"-format=json", "-names", "-src-name=" + quoted}).out, nullptr, false);
  ASSERT_TRUE(document.is_object());
  for (const char* const name : {"total", "origins", "destinations", "ports", "pairs", "unanswered",
                                 "services", "gateways", "gaps"}) {
    EXPECT_TRUE(document[name].is_array()) << name;
  }
  EXPECT_FALSE(document.contains("rows"));
  ASSERT_EQ(document["origins"].size(), 1u);
  EXPECT_EQ(document["origins"][0]["origin"], hostile);
  EXPECT_EQ(document["origins"][0]["addresses"], src);
  EXPECT_EQ(absl::StrCat(document["origins"][0]["bytes"].get<int64_t>()),
            Sql("SELECT sum(src_bytes + dst_bytes) FROM vpn_traffic WHERE src = '" + src + "'"));
  int64_t total = 0;
  for (const json& point : document["total"]) {
    total += point["src_bytes"].get<int64_t>() + point["dst_bytes"].get<int64_t>();
  }
  EXPECT_EQ(total, document["origins"][0]["bytes"]);
  EXPECT_THAT(Report({"-table=origins", "-names", "-src-name=" + quoted}).out,
              HasSubstr(absl::StrCat(quoted, ",", src, ",")));
  // A file is written as a page is.
  ASSERT_TRUE(Report({"-table=ports", "-output=" + folder_ + "/ports.csv"}).exit.ok());
  EXPECT_EQ(Contents(folder_ + "/ports.csv"), Report({"-table=ports"}).out);
}

TEST_F(ReportTest, MonthsAndDaysAreThoseOfTheTimeZone) {
  // A row each half hour; the clock is set back on 25 October in Berlin.
  Sql("CREATE TABLE made AS SELECT time, 1::bigint AS src_packets, (1000 + number)::bigint AS src_bytes, 2::bigint AS "
      "dst_packets, 5::bigint AS dst_bytes, 0::bigint AS connection_times, 0 AS connection_count, 0 AS open_connections, "
      "443 AS port, ('10.32.' || number % 3 || '.0')::inet AS src, '10.33.0.0'::inet AS dst, 'tcp' AS proto "
      "FROM (SELECT timestamptz '2025-09-28 00:00Z' + number * interval '30 min' AS time, number "
      "      FROM generate_series(1, 37 * 48) AS number) AS numbers");
  Sql("SELECT traffic_adopt('made', 'gw')");
  const std::string october =
      "(time - interval '1 us') AT TIME ZONE 'Europe/Berlin' >= '2025-10-01' AND (time - interval '1 us') AT "
      "TIME ZONE 'Europe/Berlin' < '2025-11-01'";
  const Finished invoice = Report({"-month=2025-10", "-timezone=Europe/Berlin", "-table=origins"});
  ASSERT_TRUE(invoice.exit.ok()) << invoice.err;
  EXPECT_EQ(
      invoice.out.substr(invoice.out.find('\n') + 1),
      Sql("SELECT string_agg(concat_ws(',', '2025-10-01 00:00:00+02,2025-11-01 00:00:00+01', src, bytes, "
          "sent, received, n, 2 * n, 0, 0, 0, 0, 0, 'f'), '\n' ORDER BY bytes DESC) FROM (SELECT host(src) AS src, "
          "sum(src_bytes + dst_bytes) AS bytes, sum(src_bytes) AS sent, sum(dst_bytes) AS received, "
          "count(*) AS n FROM vpn_traffic WHERE " +
          october + " GROUP BY 1) AS sums") +
          "\n");
  // No table of a month has hours of another one, also where midnight is not at a whole hour: each
  // hour is in one month.
  const auto sum = [&](const std::string& flag, const char* table, const char* zone) {
    const json document = json::parse(Report({flag, absl::StrCat("-table=", table), "-format=json",
                                              absl::StrCat("-timezone=", zone)})
                                          .out,
                                      nullptr, false);
    int64_t bytes = 0;
    for (const json& line : document[table]) bytes += line["src_bytes"].get<int64_t>();
    return bytes;
  };
  for (const char* const zone : {"Europe/Berlin", "Asia/Kolkata"}) {
    const std::string expected = Sql(absl::StrFormat(
        "SELECT sum(src_bytes) FROM vpn_traffic WHERE (time - interval '1 us') AT TIME ZONE '%1$s' >= '2025-10-01' AND "
        "(time - interval '1 us') AT TIME ZONE '%1$s' < '2025-11-01'",
        zone));
    for (const char* const table :
         {"total", "origins", "destinations", "ports", "pairs", "gateways"}) {
      EXPECT_EQ(absl::StrCat(sum("-month=2025-10", table, zone)), expected)
          << table << ", " << zone;
    }
    EXPECT_EQ(sum("-month=2025-09", "origins", zone) + std::stoll(expected) +
                  sum("-month=2025-11", "origins", zone),
              std::stoll(Sql("SELECT sum(src_bytes) FROM vpn_traffic")));
  }
  // The same in SQL, as the documentation has it.
  EXPECT_EQ(
      Sql("SET timezone = 'Europe/Berlin'; SELECT sum(src_bytes)::bigint FROM traffic('2025-10-01', "
          "'2025-11-01', '1 month', '{src}')"),
      Sql("SELECT sum(src_bytes) FROM vpn_traffic WHERE " + october));
  // Days in a chart of a year: each is whole, and named by its beginning.
  const Finished days =
      Report({"-from=2025-01-01", "-to=2025-12-31", "-timezone=Europe/Berlin", "-table=total"});
  EXPECT_THAT(days.out, AllOf(HasSubstr("\n2025-10-25 00:00:00+02,2025-10-26 00:00:00+02,86400,"),
                              HasSubstr("\n2025-10-26 00:00:00+02,2025-10-27 00:00:00+01,90000,")));
  WritePage({"-from=2025-01-01", "-to=2025-12-31", "-timezone=Europe/Berlin"});
  json seen = Open({"--zone=Asia/Tokyo"});
  EXPECT_EQ(Totals(seen), TotalsInSql());
  EXPECT_THAT(seen["hovered"].get<std::string>(), AllOf(HasSubstr("00:00:00"), HasSubstr("bit/s")));
  // In the hour that comes twice.
  WritePage({"-from=2025-10-25T23:30Z", "-to=2025-10-26T01:30Z", "-timezone=Europe/Berlin"});
  EXPECT_THAT(Open()["range"].get<std::string>(),
              HasSubstr("26 Oct 2025, 01:30:00 GMT+2\u2009\u2013\u200902:30:00 GMT+1"));
  // Times of flags are of the zone, unless they say otherwise; this machine's is the default.
  const auto range = [&](std::vector<std::string> arguments) {
    arguments.push_back("-format=json");
    const json document = json::parse(Report(arguments).out, nullptr, false);
    return document["from"].get<std::string>() + " " + document["to"].get<std::string>();
  };
  EXPECT_EQ(range({"-timezone=America/New_York", "-from=2025-10-01", "-to=2025-10-02T00:00Z"}),
            "2025-10-01T04:00:00+00:00 2025-10-02T00:00:00+00:00");
  EXPECT_EQ(
      range({"-timezone=Asia/Tokyo", "-month=last"}),
      Sql("SELECT string_agg(to_char(month AT TIME ZONE 'Asia/Tokyo' AT TIME ZONE 'UTC', "
          "'YYYY-MM-DD\"T\"HH24:MI:SS\"+00:00\"'), ' ' ORDER BY month) FROM (SELECT date_trunc('month', now() AT "
          "TIME ZONE 'Asia/Tokyo') - n * interval '1 month' AS month FROM generate_series(0, 1) AS n) AS months"));
  const absl::StatusOr<std::string> machine =
      RunProcessOrError({"env", "TZ=Asia/Tokyo", DataPath("importer/report/report"), "-format=json",
                         "-from=2025-10-01", "-to=2025-10-02",
                         "-conninfo=" + postgres->Conninfo(database_, "ctacct_reader")},
                        kAtMost);
  ASSERT_TRUE(machine.ok()) << machine.status();
  EXPECT_THAT(*machine, HasSubstr("\"from\":\"2025-09-30T15:00:00+00:00\""));
}

TEST_F(ReportTest, WhoIsOverAQuota) {
  LoadSample("0.1");
  const std::string bytes =
      "SELECT %s FROM (SELECT host(src) AS src, sum(src_bytes + dst_bytes) AS bytes "
      "FROM vpn_traffic GROUP BY src ORDER BY 2 DESC LIMIT 1 OFFSET 1) AS second";
  const std::string quota = Sql(absl::StrReplaceAll(bytes, {{"%s", "bytes"}}));
  // More than the second, that is one; as much is not over it.
  Finished run = Report({"-over=" + quota});
  EXPECT_EQ(run.exit.ToString(), "exit status 1");
  EXPECT_EQ(Lines(run.out), 2u) << run.out;
  EXPECT_EQ(run.err, "");
  run = Report({"-over=" + absl::StrCat(std::stoll(quota) - 1)});
  EXPECT_EQ(Lines(run.out), 3u) << run.out;
  EXPECT_THAT(run.out, HasSubstr(Sql(absl::StrReplaceAll(bytes, {{"%s", "src"}}))));
  run = Report({"-over=1.5TB"});
  EXPECT_EQ(run.exit.ToString(), "exit status 0");
  EXPECT_EQ(run.out + run.err, "");
  EXPECT_EQ(json::parse(Report({"-over=1kB", "-format=json"}).out)["origins"].size(),
            std::stoull(Sql("SELECT count(*) FROM (SELECT FROM vpn_traffic GROUP BY src HAVING "
                            "sum(src_bytes + dst_bytes) > 1000) AS origins")));
  // By name: its networks together.
  Sql("INSERT INTO traffic_names SELECT DISTINCT gateway, cidr '10.32.0.0/16', 'all of them', 'file', "
      "tstzrange(NULL, NULL), now() FROM vpn_traffic");
  run = Report({"-names", "-over=" + Sql("SELECT sum(src_bytes + dst_bytes) - 1 FROM vpn_traffic "
                                         "WHERE src << '10.32.0.0/16'")});
  EXPECT_EQ(run.exit.ToString(), "exit status 1");
  EXPECT_EQ(Lines(run.out), 2u) << run.out;
  EXPECT_THAT(run.out, HasSubstr(",all of them,"));
}

TEST_F(ReportTest, AChangeOfGroupMasksIsSaid) {
  SpoolHeader header = MakeHeader(1);
  ASSERT_TRUE(WriteSpoolFile(watch_, header, MakeRows(1, 10)).ok());
  header = MakeHeader(2);
  header.gateway = "gw2";
  ASSERT_TRUE(WriteSpoolFile(watch_, header, MakeRows(2, 10)).ok());
  ASSERT_TRUE(Drain().exit.ok());
  const char* const text = "The group masks of gw1 were changed within this range";
  WritePage();
  EXPECT_THAT(Open()["text"].get<std::string>(), Not(HasSubstr("group masks")));
  header = MakeHeader(3);
  header.src_mask = {255, 255, 255, 0};
  ASSERT_TRUE(WriteSpoolFile(watch_, header, MakeRows(3, 10)).ok());
  ASSERT_TRUE(Drain().exit.ok());
  WritePage();
  const json seen = Open();
  EXPECT_THAT(seen["text"].get<std::string>(),
              AllOf(HasSubstr(text), HasSubstr("gw1: origins /32 \u2192 /24")));
  // It is unknown which of the two an address has.
  EXPECT_THAT(seen["tables"]["origins"]["names"].dump(), Not(HasSubstr("/")));
  EXPECT_THAT(seen["tables"]["destinations"]["names"].dump(), Not(HasSubstr("/")));
}

TEST_F(ReportTest, NetworksHaveTheirMasks) {
  SpoolHeader header = MakeHeader(1);
  header.src_mask = {255, 255, 255, 0};
  header.dst_mask = {255, 239, 255, 0};
  header.src_mask6 = {255, 255, 255, 255, 255, 255, 255, 255};
  std::vector<TrafficRow> rows = MakeRows(1, 1);
  rows[0].src = {10, 32, 5, 0};
  rows[0].dst = {10, 0x21, 6, 0};
  TrafficRow ipv6 = rows[0];
  ipv6.family = AddressFamily::kIpv6;
  ipv6.src = {0x20, 0x01, 0x0d, 0xb8};
  ipv6.dst = {0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9};
  rows.push_back(ipv6);
  TrafficRow folded = rows[0];
  folded.src = folded.dst = {};
  folded.protocol = kOtherRowProtocol;
  folded.port = kPortNotListed;
  rows.push_back(folded);
  ASSERT_TRUE(WriteSpoolFile(watch_, header, rows).ok());
  ASSERT_TRUE(Drain().exit.ok());
  WritePage();
  json seen = Open();
  EXPECT_THAT(seen["tables"]["origins"]["names"],
              testing::UnorderedElementsAre("10.32.5.0/24", "2001:db8::/64", "0.0.0.0"));
  EXPECT_THAT(seen["tables"]["destinations"]["names"],
              testing::UnorderedElementsAre("10.33.6.0/255.239.255.0", "2001:db8::9", "0.0.0.0"));
  EXPECT_THAT(seen["tables"]["busiest"]["names"],
              testing::UnorderedElementsAre("10.32.5.0/24", "2001:db8::/64", "0.0.0.0"));
  EXPECT_THAT(seen["text"].get<std::string>(), Not(HasSubstr("group masks")));
  // CSV files do not say their masks.
  WriteFile(watch_ + "/traffic_2020-09-13T12_27_00.csv", CsvText(2, false));
  ASSERT_TRUE(Drain().exit.ok());
  WritePage();
  seen = Open();
  EXPECT_THAT(seen["tables"]["origins"]["names"].dump(), Not(HasSubstr("/")));
  EXPECT_THAT(seen["text"].get<std::string>(), HasSubstr("do not contain group masks"));
}

// Of an hour and of eight: the last quarter begins at a whole step.
TEST_F(ReportTest, NamesWhoScansAndWhatIsDown) {
  const auto flows = [](const TrafficRow& from, uint8_t src, uint8_t dst, int32_t port,
                        uint64_t ended, uint64_t unanswered) {
    TrafficRow row = from;
    row.protocol = 6;
    row.port = port;
    row.src = {10, 32, 0, src};
    row.dst = {10, 33, 0, dst};
    row.flow_count = ended;
    row.unanswered_count = unanswered;
    return row;
  };
  constexpr uint64_t kLast = 8 * 240;
  for (const uint64_t sequence : {uint64_t{1}, kLast - 230, kLast - 200, kLast}) {
    const TrafficRow any = MakeRows(sequence, 1)[0];
    std::vector<TrafficRow> rows;
    const bool last = sequence == kLast;
    for (uint8_t dst = 0; dst < 200; ++dst) rows.push_back(flows(any, 1, dst, 23, 3, 2));
    for (uint8_t src = 2; src < 8; ++src) rows.push_back(flows(any, src, 1, 22, 40, src));
    rows.push_back(flows(any, 9, 50, 80, 100, last ? 100 : 0));             // Is down.
    rows.push_back(flows(any, 9, 51, 80, 1000, last ? 300 : 100));          // Fell by 20 points.
    rows.push_back(flows(any, 9, 52, 80, 1000, last ? 299 : 100));          // By less.
    rows.push_back(flows(any, 9, 53, 80, last ? 19 : 100, last ? 19 : 0));  // Too few to say.
    rows.push_back(flows(any, 9, 54, 80, 100, last ? 0 : 100));             // Is up again.
    ASSERT_TRUE(WriteSpoolFile(watch_, MakeHeader(sequence), rows).ok());
  }
  ASSERT_TRUE(Drain().exit.ok());
  for (const char* const from : {"-from=-1h", "-from=-8h"}) {
    WritePage({from});
    const json data = DataInPage();
    const std::string condition = absl::StrFormat(
        "time > timestamptz 'epoch' + %d * interval '1 ms' AND time <= timestamptz 'epoch' + "
        "%d * interval '1 ms'",
        data["unanswered"]["from"].get<int64_t>(), data["unanswered"]["to"].get<int64_t>());
    EXPECT_EQ(
        data["unanswered"]["origins"],
        json::parse(
            Sql("SELECT coalesce(json_agg(json_build_array(host(src), flows, unanswered, dsts, 0) "
                "ORDER BY unanswered DESC, src), '[]')::jsonb FROM (SELECT src, sum(flow_count) "
                "AS flows, sum(unanswered_count) AS unanswered, count(DISTINCT dst) FILTER "
                "(WHERE unanswered_count > 0) AS dsts FROM vpn_traffic WHERE " +
                condition + " GROUP BY src ORDER BY 3 DESC, src LIMIT 5) AS origins")))
        << from;
    EXPECT_EQ(data["unanswered"]["count"], 8);
    const json seen = Open();
    EXPECT_EQ(seen["tables"]["unanswered"]["names"][0], "10.32.0.9");
    EXPECT_EQ(seen["tables"]["unanswered"]["names"][1], "10.32.0.1");
    EXPECT_EQ(seen["tables"]["unanswered"]["rows"], 5);
    // In two hours it is not enough for the one that fell by exactly 20 points in the last quarter
    // of an hour. Flows and unanswered flows before, and in the last quarter.
    EXPECT_EQ(data["services"]["services"].dump(),
              absl::EndsWith(from, "1h") ? R"([["10.33.0.51","tcp/80",2000,200,1000,300],)"
                                           R"(["10.33.0.50","tcp/80",200,0,100,100]])"
                                         : R"([["10.33.0.50","tcp/80",100,0,300,100]])");
    EXPECT_EQ(seen["tables"]["services"]["rows"], data["services"]["count"]);
  }
  // A filter by protocol may leave out what was folded.
  WritePage({"-proto=tcp"});
  EXPECT_THAT(Open()["text"].get<std::string>(), HasSubstr("at least 200"));
  WritePage({"-from=-15s"});
  EXPECT_THAT(Open()["text"].get<std::string>(), HasSubstr("too short for a comparison"));
}

// What -max-rows folded has a bound.
TEST_F(ReportTest, DestinationsOfAScanThatWasFoldedAreAtLeastAndAtMost) {
  std::vector<TrafficRow> rows = MakeRows(1, 2);
  for (TrafficRow& row : rows) {
    row.src = {10, 32, 0, 1};
    row.flow_count = row.unanswered_count = 10;
  }
  rows[0].dst = {10, 33, 0, 1};
  rows[1].dst = {};
  rows[1].protocol = kOtherRowProtocol;
  rows[1].port = kPortNotListed;
  rows[1].flow_count = rows[1].unanswered_count = 1'000'000;
  TrafficRow nobody = rows[1];
  nobody.src = {};
  nobody.flow_count = nobody.unanswered_count = 77;
  rows.push_back(nobody);
  ASSERT_TRUE(WriteSpoolFile(watch_, MakeHeader(1), rows).ok());
  ASSERT_TRUE(Drain().exit.ok());
  WritePage();
  const std::string text = Open()["text"].get<std::string>();
  EXPECT_THAT(text, AllOf(HasSubstr("1,000,010"), HasSubstr("1 to 1,000,001"),
                          HasSubstr("77 more unanswered flows")));
}

TEST_F(ReportTest, NothingFromTheDatabaseBreaksOut) {
  const std::string names[] = {"</script ><script>alert(1)</script >",
                               "<!--<script x",
                               "\"><img src=x onerror=alert(2)>",
                               "'; DROP TABLE x; --${alert(3)}",
                               "]]>&lt;b&gt;\xe2\x82\xac",
                               "\\u003c/script>@DATA@"};
  uint64_t sequence = 0;
  for (const std::string& name : names) {
    SpoolHeader header = MakeHeader(++sequence);
    header.gateway = name;
    header.completeness = Completeness::kPartial;
    std::vector<Gap> gaps = MakeGaps(3);
    const absl::StatusOr<std::string> written =
        WriteSpoolFile(watch_, header, MakeRows(sequence, 50), gaps);
    ASSERT_TRUE(written.ok()) << written.status();
  }
  ASSERT_TRUE(Drain().exit.ok());
  WritePage({"-gateway=" + absl::StrJoin(names, ",", [](std::string* out, const std::string& name) {
               absl::StrAppend(out, "\"", absl::StrReplaceAll(name, {{"\"", "\"\""}}), "\"");
             })});
  const json seen = Open();
  ExpectShowsSums(seen);
  EXPECT_EQ(seen["scripts"], 2);  // The data and ours; images are the range selector's handles.
  EXPECT_EQ(seen["images"], 2);
  std::vector<std::string> shown = seen["tables"]["gateways"]["names"];
  EXPECT_THAT(shown, testing::UnorderedElementsAreArray(names));
}

// Names are shown only where they are asked for, and as text whatever they are.
TEST_F(ReportTest, NamesFirstAddressesBeside) {
  LoadSample("0.2");
  const std::string src = Sql(
      "SELECT host(src) FROM vpn_traffic GROUP BY src ORDER BY sum(src_bytes + dst_bytes) DESC LIMIT 1");
  const std::string hostile = "<img src=x onerror=alert(1)> \"'\\ & co";
  Sql("INSERT INTO traffic_names SELECT DISTINCT gateway, '" + src + "/24'::cidr, $q$" + hostile +
      "$q$, 'file', tstzrange(NULL, NULL), now() FROM vpn_traffic");
  WritePage({});
  json seen = Open();
  EXPECT_EQ(SumsInData(), TotalsInSql("true"));
  EXPECT_THAT(seen["text"].get<std::string>(), testing::Not(HasSubstr(hostile)));
  WritePage({"-names"});
  seen = Open();
  EXPECT_EQ(SumsInData(), TotalsInSql("true"));
  EXPECT_EQ(seen["tables"]["origins"]["names"][0], hostile + " (" + src + ")");
  EXPECT_EQ(seen["images"], 2);
  WritePage({"-names", "-src-name=\"" + absl::StrReplaceAll(hostile, {{"\"", "\"\""}}) + "\""});
  seen = Open();
  EXPECT_EQ(SumsInData(), TotalsInSql("src = '" + src + "'"));
  EXPECT_THAT(seen["text"].get<std::string>(), HasSubstr("origin named: " + hostile));
}

TEST_F(ReportTest, AnEmptyDatabaseIsSaid) {
  WritePage();
  const json seen = Open();
  EXPECT_THAT(seen["notice"].get<std::string>(), HasSubstr("No traffic yet"));
  EXPECT_EQ(seen["canvases"], json::object());

  Sql("CREATE SCHEMA empty; ALTER ROLE ctacct_reader IN DATABASE " + database_ +
      " SET search_path = empty");
  ExpectReportFails(Report({"-output=" + page_ + ".not"}), 1, "has no tables of ctacct");
  EXPECT_FALSE(std::filesystem::exists(page_ + ".not"));
}

TEST_F(ReportTest, RefusesWhereOthersMayMakeFunctions) {
  Sql("GRANT CREATE ON SCHEMA public TO PUBLIC");
  ExpectReportFails(Report({"-output=" + page_}), 1, "REVOKE CREATE ON SCHEMA public FROM PUBLIC");
  EXPECT_FALSE(std::filesystem::exists(page_));
}

TEST_F(ReportTest, ReplacesFilesAndNothingElse) {
  WriteSpool(1);
  ASSERT_TRUE(Drain().exit.ok());
  WriteFile(page_, "before");
  // What fails leaves the old page alone, and nothing beside it.
  const Finished failed = Report({"-conninfo=host=" + folder_, "-output=" + page_});
  EXPECT_EQ(failed.exit.ToString(), "exit status 1");
  EXPECT_EQ(Contents(page_), "before");
  WritePage();
  const std::string page = Contents(page_);
  EXPECT_TRUE(absl::StartsWith(page, "<!DOCTYPE html>"));
  EXPECT_TRUE(absl::EndsWith(page, "</html>\n"));
  // Charts and license are in it; nothing is elsewhere.
  for (const char* const text : {"Dan Vanderkam", "Permission is hereby granted",
                                 "Dygraph=", "default-src 'none'; script-src 'sha256-"}) {
    EXPECT_TRUE(absl::StrContains(page, text)) << text;
  }
  for (const char* const text : {"<script src", "href=", "sourceMappingURL", "@import"}) {
    EXPECT_FALSE(absl::StrContains(page, text)) << text;
  }
  EXPECT_EQ(Names(folder_), (std::set<std::string>{"done", "report.html", "watch"}));
  struct stat info {};
  ASSERT_EQ(stat(page_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0007, 0u);  // Who talked to whom is not for everybody.
  // Unless it is said, for a web server.
  WritePage({"-mode=644"});
  ASSERT_EQ(stat(page_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0644u);

  const Finished to_stdout = Report({"-output", "-"});
  EXPECT_TRUE(to_stdout.exit.ok());
  EXPECT_EQ(to_stdout.out.size(), page.size());

  ASSERT_EQ(mkfifo((folder_ + "/fifo").c_str(), 0600), 0);
  ExpectReportFails(Report({"-output=" + folder_ + "/fifo"}), 1, "no regular file");
  ExpectReportFails(Report({"-output=" + watch_}), 1, "no regular file");
  ExpectReportFails(Report({"-output=" + folder_ + "/nowhere/a.html"}), 1, "nowhere");
  std::filesystem::create_symlink(page_, folder_ + "/link.html");
  ExpectReportFails(Report({"-output=" + folder_ + "/link.html"}), 1, "no regular file");
}

TEST_F(ReportTest, WrongFlagsAreOneLine) {
  ExpectReportFails(Report({"-from=1970-01-01", "-to=5000-01-01", "-output=" + page_}), 2,
                    "flag -to");
  for (const auto& [flag, message] : std::vector<std::pair<std::string, std::string>>{
           {"-nonsense", "unknown flag '-nonsense'"},
           {"-from=yesterday", "flag -from: a time such as"},
           {"-from=-8x", "flag -from: a time such as"},
           {"-to=2026-13-01", "flag -to: a time such as"},
           {"-to=-0h", "flag -to: a time such as"},
           {"-src=10.32.5.7/24",
            "flag -src: bad value '10.32.5.7/24': 10.32.5.7/24 has bits set below its prefix; the "
            "network is 10.32.5.0/24"},
           {"-dst=2001:db8::1/32", "the network is 2001:db8::/32"},
           {"-src=10.0.0.0/33", "flag -src: bad value '10.0.0.0/33': not a network"},
           {"-dst=10.0.0.1,", "flag -dst: bad value ''"},
           {"-src-name=a,\"b", "flag -src-name: a quote is not closed"},
           {"-proto=tcpp", "flag -proto: bad value 'tcpp'"},
           {"-port=65536", "flag -port: bad value '65536'"},
           {"-top=0", "flag -top: 1 to 50"},
           {"-format=xml", "flag -format: html, csv or json"},
           {"-format=csv", "flag -format: csv needs -table"},
           {"-table=nothing", "flag -table: one of total, origins"},
           {"-table=rows", "flag -table: rows needs -from"},
           {"-mode=888", "flag -mode: an octal mode such as 644"},
           {"-mode=4755", "flag -mode: an octal mode such as 644"},
           {"-month=2026-13", "flag -month: this, last, or a month"},
           {"-month=2026", "flag -month: this, last, or a month"},
           {"-timezone=Mars/Olympus", "flag -timezone: no such time zone: 'Mars/Olympus'"},
           {"-over=1GiB", "flag -over: a number of bytes such as 100GB, not '1GiB'"},
           {"-gateway=a\nb", "flag -gateway: bad value 'a\\x0ab'"},
           {"-output=", "flag -output: a file's name"},
           {"file.html", "not a flag: 'file.html'"},
           {"-conninfo=nonsense", "flag -conninfo: not a connection string"}}) {
    ExpectReportFails(Report({flag}), 2, message);
  }
  ExpectReportFails(Report({"-from=2026-11-02", "-to=2026-11-01"}), 2,
                    "flag -from: not before -to");
  ExpectReportFails(Report({"-from=2026-11-02", "-month=this"}), 2, "flag -month: stands for");
  const Finished help = Report({"--help"});
  EXPECT_TRUE(help.exit.ok());
  EXPECT_THAT(help.out,
              AllOf(HasSubstr("usage: report"), HasSubstr("-conninfo"), HasSubstr("-top")));
}

}  // namespace
}  // namespace ctacct
