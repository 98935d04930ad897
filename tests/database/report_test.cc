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
  EXPECT_EQ(seen["gaps"].get<int>(), std::stoi(Sql("SELECT count(*) FROM traffic_gap_regions")));
  for (const char* const chart : kCharts) {
    // Lines, areas and a gap's shade, not only the grid's one colour.
    ASSERT_TRUE(seen["canvases"].contains(chart)) << chart;
    EXPECT_GT(seen["canvases"][chart]["drawn"].get<int>(), 2000) << chart;
    EXPECT_GT(seen["canvases"][chart]["colors"].get<int>(), 50) << chart;
  }
  // The ten busiest by name and the others, in the order of SQL.
  EXPECT_EQ(seen["tables"]["origins"]["rows"], 11);
  EXPECT_EQ(seen["tables"]["origins"]["names"][0],
            Sql("SELECT host(src) FROM vpn_traffic GROUP BY src ORDER BY "
                "sum(src_bytes + dst_bytes) DESC LIMIT 1"));
  const json& gateways =
      seen["tables"]["gateways"]["sums"];  // Name, sent, replies, intervals, missing ...
  EXPECT_EQ(absl::StrCat(gateways[3].get<int64_t>(), "|", gateways[4].get<int64_t>(), "|",
                         gateways[5].get<int64_t>(), "|", gateways[6].get<int64_t>(), "|",
                         gateways[7].get<int64_t>()),
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
  // The theme's button repaints the charts, too.
  EXPECT_EQ(seen["toggled"]["theme"], "dark");
  EXPECT_NE(seen["toggled"]["canvases"]["bits"]["most"], seen["canvases"]["bits"]["most"]);
  ExpectShowsSums(seen["toggled"]);

  // A phone at night, elsewhere.
  const json phone = Open({"--size=390x844", "--dark", "--zone=Asia/Tokyo"});
  EXPECT_EQ(phone["theme"], "dark");
  EXPECT_THAT(phone["range"].get<std::string>(),
              AllOf(HasSubstr("21:00:00"), HasSubstr("Asia/Tokyo"), HasSubstr("12:00:00"),
                    HasSubstr("UTC")));
  ExpectShowsSums(phone);
  EXPECT_EQ(phone["toggled"]["theme"], "light");
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

  // Within an interval the sums are those of the whole one, and so is what is told of it.
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
  EXPECT_EQ(absl::StrCat(data["gaps"]["count"].get<int64_t>()),
            Sql("SELECT count(*) FROM traffic_gap_regions WHERE ended >= '2026-11-21 12:05Z' AND "
                "began <= '2026-11-21 12:10Z'"));

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
  EXPECT_THAT(Open()["text"].get<std::string>(), HasSubstr("3, newest "));
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
  EXPECT_THAT(Open()["text"].get<std::string>(), HasSubstr(text));
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
  WritePage({"-gateway=" + absl::StrCat(names[0], ",", names[1], ",", names[2], ",", names[3], ",",
                                        names[4], ",", names[5])});
  const json seen = Open();
  ExpectShowsSums(seen);
  EXPECT_EQ(seen["scripts"], 2);  // The data and ours; images are the range selector's handles.
  EXPECT_EQ(seen["images"], 2);
  std::vector<std::string> shown = seen["tables"]["gateways"]["names"];
  EXPECT_THAT(shown, testing::UnorderedElementsAreArray(names));
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
           {"-src=10.0.0.0/8", "flag -src: bad value '10.0.0.0/8'"},
           {"-dst=10.0.0.1,", "flag -dst: bad value ''"},
           {"-proto=tcpp", "flag -proto: bad value 'tcpp'"},
           {"-port=65536", "flag -port: bad value '65536'"},
           {"-top=0", "flag -top: 1 to 50"},
           {"-gateway=a\nb", "flag -gateway: bad value 'a\\x0ab'"},
           {"-output=", "flag -output: a file's name"},
           {"file.html", "not a flag: 'file.html'"},
           {"-conninfo=nonsense", "flag -conninfo: not a connection string"}}) {
    ExpectReportFails(Report({flag}), 2, message);
  }
  ExpectReportFails(Report({"-from=2026-11-02", "-to=2026-11-01"}), 2,
                    "flag -from: not before -to");
  const Finished help = Report({"--help"});
  EXPECT_TRUE(help.exit.ok());
  EXPECT_THAT(help.out,
              AllOf(HasSubstr("usage: report"), HasSubstr("-conninfo"), HasSubstr("-top")));
}

}  // namespace
}  // namespace ctacct
