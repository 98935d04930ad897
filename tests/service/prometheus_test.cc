// What monitoring makes of both programs' metrics files, by Prometheus' own tools: the files of a
// live engine and its importer are sound, every PromQL of the dashboards finds something in them,
// and the alarms use only metrics that exist, and fire when they should and only then
// (alerts_test.yml).

#include <arpa/inet.h>
#include <sys/socket.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <memory>
#include <regex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/system/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/engine_test.h"
#include "tests/support/private_postgres.h"

namespace ctacct {
namespace {

using ::nlohmann::json;
using ::testing::IsSubsetOf;

// Every metric of ours that a text speaks of: all begin alike, and no label or function does.
std::set<std::string> MetricsIn(const std::string& text) {
  std::set<std::string> names;
  const auto in_name = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_';
  };
  for (size_t at = text.find("ctacct_"); at != std::string::npos; at = text.find("ctacct_", at)) {
    size_t end = at;
    while (end < text.size() && in_name(text[end])) ++end;
    if (at == 0 || !in_name(text[at - 1])) names.insert(text.substr(at, end - at));
    at = end;
  }
  return names;
}

struct Alarm {
  std::string name;
  std::string expression;
};

// The file's own style: an expression is one line.
std::vector<Alarm> Alarms() {
  std::vector<Alarm> alarms;
  for (absl::string_view line :
       absl::StrSplit(ReadFile(DataPath("configs/prometheus/alerts.yml")), '\n')) {
    line = absl::StripLeadingAsciiWhitespace(line);
    if (absl::ConsumePrefix(&line, "- alert: ")) alarms.push_back({std::string(line), ""});
    if (absl::ConsumePrefix(&line, "expr: ")) alarms.back().expression = std::string(line);
  }
  return alarms;
}

std::vector<std::string> PanelExpressions() {
  std::vector<std::string> expressions;
  for (const char* const name : {"traffic.json", "health.json"}) {
    const json dashboard =
        json::parse(ReadFile(DataPath(absl::StrCat("configs/grafana/dashboards/", name))), nullptr,
                    /*allow_exceptions=*/false);
    EXPECT_FALSE(dashboard.is_discarded()) << name;
    for (const json& panel : dashboard["panels"]) {
      if (panel["type"] == "row" || panel["datasource"]["type"] != "prometheus") continue;
      for (const json& target : panel["targets"]) expressions.push_back(target["expr"]);
    }
  }
  return expressions;
}

class PrometheusTest : public EngineTest {
 protected:
  PrometheusTest() : EngineTest("prometheus") {}

  void SetUp() override { RequireProgramOrSkip("promtool", "--version", "prometheus"); }

  static void Expect(const std::vector<std::string>& command, const std::string& says) {
    const auto checked = RunProcess(command, kPatience);
    ASSERT_TRUE(checked.ok()) << checked.status();
    EXPECT_TRUE(checked->exit.ok()) << checked->out << checked->err;
    EXPECT_THAT(checked->out, testing::HasSubstr(says));
  }
};

TEST_F(PrometheusTest, AlarmsRingWhenTheyShould) {
  const std::vector<Alarm> alarms = Alarms();
  ASSERT_GT(alarms.size(), 10u);
  Expect({"promtool", "check", "rules", DataPath("configs/prometheus/alerts.yml")},
         absl::StrCat("SUCCESS: ", alarms.size(), " rules found"));
  Expect({"promtool", "test", "rules", DataPath("tests/service/alerts_test.yml")}, "SUCCESS");
  // Each alarm is tried. The same tests check that it is silent otherwise: they name all alarms
  // that fire.
  const std::string tests = ReadFile(DataPath("tests/service/alerts_test.yml"));
  for (const Alarm& alarm : alarms) {
    EXPECT_THAT(tests, testing::HasSubstr(absl::StrCat("alertname=\"", alarm.name, "\"")));
    EXPECT_NE(alarm.expression, "") << alarm.name;
  }
}

// A port that nobody listens at now.
int FreePort() {
  const UniqueFd any(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof(address);
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  EXPECT_EQ(bind(any.get(), generic, bytes), 0);
  EXPECT_EQ(getsockname(any.get(), generic, &bytes), 0);
  return ntohs(address.sin_port);
}

// node_exporter takes a series once, and else nothing of any file. It follows links, by which the
// documentation brings our files into its folder.
TEST_F(PrometheusTest, TwoEnginesShareATextfileFolder) {
  RequireProgramOrSkip("prometheus-node-exporter", "--version", "prometheus-node-exporter");
  if (IsSkipped() || HasFatalFailure()) return;
  const std::string textfiles = folder_ + "/textfiles";
  std::filesystem::create_directory(textfiles);
  for (const std::string gateway : {"east", "we\\st \"1\""}) {
    const std::string name = gateway.substr(0, 2);
    const std::string file = folder_ + "/" + name + ".prom";
    const auto replayed = RunProcessOrError(
        {DataPath("engine/engine"), "-replay=" + DataPath("tests/captures/gateway.pcap"),
         "-output=" + folder_ + "/" + name, "-gateway=" + gateway, "-metrics-file=" + file},
        kPatience);
    ASSERT_TRUE(replayed.ok()) << replayed.status();
    std::filesystem::create_symlink(file, textfiles + "/" + name + ".prom");
  }
  const std::string address = absl::StrCat("127.0.0.1:", FreePort());
  auto exporter = Subprocess::Start(
      {"prometheus-node-exporter", "--collector.disable-defaults", "--collector.textfile",
       "--collector.textfile.directory=" + textfiles, "--web.listen-address=" + address});
  ASSERT_TRUE(exporter.ok()) << exporter.status();
  std::string scraped;
  ASSERT_TRUE(Eventually([&] {
    const auto got = RunProcessOrError(
        {"python3", "-c",
         "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())",
         "http://" + address + "/metrics"},
        kPatience);
    if (got.ok()) scraped = *got;
    return got.ok();
  })) << (*exporter)->Stderr();
  EXPECT_THAT(scraped, testing::HasSubstr("\nnode_textfile_scrape_error 0\n"));
  for (const char* const gateway : {"east", R"(we\\st \"1\")"}) {
    EXPECT_THAT(scraped,
                testing::HasSubstr(absl::StrCat("\nctacct_flows{gateway=\"", gateway, "\"} ")));
  }
  EXPECT_THAT((*exporter)->Stderr(), testing::Not(testing::HasSubstr("level=error")));
}

// A live gateway with a value for every metric.
class LivePrometheusTest : public PrometheusTest {
 protected:
  void SetUp() override {
    PrometheusTest::SetUp();
    if (!IsSkipped() && !HasFatalFailure()) EngineTest::SetUp();
  }

  std::string engine_path() const { return folder_ + "/engine.prom"; }
  std::string importer_path() const { return folder_ + "/importer.prom"; }

  static void WaitFor(const std::string& path, const std::string& name,
                      const std::string& not_value) {
    const auto has_another = [&] {
      if (!std::filesystem::exists(path)) return false;
      // Without the label that every sample has.
      const std::string text = std::regex_replace(
          ReadFile(path), std::regex(R"re(\{gateway="(?:\\.|[^"\\])*"(?:,|(\})))re"), "{$1");
      for (absl::string_view line : absl::StrSplit(text, '\n')) {
        if (absl::ConsumePrefix(&line, name) &&
            (absl::ConsumePrefix(&line, "{} ") || absl::ConsumePrefix(&line, " ")) &&
            line != not_value) {
          return true;
        }
      }
      return false;
    };
    ASSERT_TRUE(Eventually(has_another)) << name << " stays " << not_value << " in\n"
                                         << ReadFile(path);
  }

  void RunBoth() {
    auto server = PrivatePostgres::Start();
    if (!server.ok()) {
      if (!absl::IsUnavailable(server.status())) FAIL() << server.status();
      return CannotRun(server.status().ToString());
    }
    ASSERT_TRUE((*server)->MakeDatabase("traffic").ok());
    ASSERT_NO_FATAL_FAILURE(StartEngine({DataPath("engine/engine"), "-interval=1", "-workers=2",
                                         "-output=" + spool(), "-pipe=" + folder_ + "/fifo",
                                         "-gateway=gw \"1\"", "-metrics-file=" + engine_path()}));
    Play({"--tcp=200", "--udp=200"});
    ASSERT_NO_FATAL_FAILURE(WaitFor(engine_path(), "ctacct_spool_files", "0"));
    ASSERT_NO_FATAL_FAILURE(WaitFor(engine_path(), "ctacct_conntrack_entries", "0"));
    ASSERT_NO_FATAL_FAILURE(WaitFor(engine_path(), "ctacct_worker_naps_total", "0"));
    ASSERT_NO_FATAL_FAILURE(WaitFor(engine_path(), "ctacct_receive_buffer_bytes", "0"));
    ASSERT_NO_FATAL_FAILURE(WaitFor(engine_path(), "ctacct_last_dump_seconds", "0.000000000"));
    ASSERT_NO_FATAL_FAILURE(WaitFor(engine_path(), "ctacct_last_flush_seconds", "0.000000000"));

    auto importer = Subprocess::Start({DataPath("importer/importer"),
                                       "-conninfo=" + (*server)->Conninfo("traffic"),
                                       "-watch=" + spool(), "-metrics-file=" + importer_path()});
    ASSERT_TRUE(importer.ok()) << importer.status();
    ASSERT_NO_FATAL_FAILURE(WaitFor(importer_path(), "ctacct_importer_rows_total", "0"));
    // What the one writes and the other takes away.
    FlushConntrack();
    ASSERT_NO_FATAL_FAILURE(WaitFor(engine_path(), "ctacct_events_total{kind=\"destroy\"}", "0"));
    StopEngine();
    // An importer that leaves a file behind says so with its exit status.
    ASSERT_TRUE(Eventually([this] { return VisibleFilesIn(spool()).empty(); }));
    Stop(**importer);
  }
};

TEST_F(LivePrometheusTest, FindsWhatPanelsAndAlarmsAskFor) {
  ASSERT_NO_FATAL_FAILURE(RunBoth());
  if (IsSkipped()) return;
  // As the collector reads them: side by side.
  const std::string both = ReadFile(engine_path()) + ReadFile(importer_path());
  for (const std::string& path : {engine_path(), importer_path()}) {
    const auto checked = RunProcess({"sh", "-c", "promtool check metrics < " + path}, kPatience);
    ASSERT_TRUE(checked.ok()) << checked.status();
    EXPECT_TRUE(checked->exit.ok()) << checked->exit.ToString();
    EXPECT_EQ(checked->out + checked->err, "");
  }

  // All samples, as if they grew. The gateway's name is kept as it is.
  json series = json::array();
  std::set<std::string> told;
  for (const absl::string_view sample : absl::StrSplit(both, '\n', absl::SkipEmpty())) {
    const std::string line(sample);
    if (line[0] == '#') continue;
    std::string name = line.substr(0, line.rfind(' '));
    told.insert(name.substr(0, name.find('{')));
    if (name.back() == '}') {
      name.insert(name.size() - 1, ",instance=\"gw1:9100\"");
    } else {
      name += "{instance=\"gw1:9100\"}";
    }
    series.push_back({{"series", name}, {"values", "1+1x40"}});
  }
  ASSERT_GT(told.size(), 60u);

  json tests = json::array();
  const auto ask = [&tests](const std::string& expression, bool answers) {
    json samples = json::array();
    if (answers) samples.push_back({{"labels", "{}"}, {"value", 1}});
    tests.push_back({{"expr", "count(" + expression + ") > bool 0"},
                     {"eval_time", "8m"},
                     {"exp_samples", samples}});
  };
  ask(R"(ctacct_engine_info{gateway="gw \"1\""})", true);
  const std::vector<std::string> expressions = PanelExpressions();
  EXPECT_GT(expressions.size(), 30u);
  for (const std::string& expression : expressions) {
    EXPECT_THAT(MetricsIn(expression), IsSubsetOf(told)) << expression;
    EXPECT_FALSE(MetricsIn(expression).empty()) << expression;
    for (const auto& [instance, answers] :
         {std::pair("gw1:9100", true), std::pair(".*", true), std::pair("other", false)}) {
      // What Grafana makes of a panel of the last hour and a scrape each 15 s.
      const std::string expanded = absl::StrReplaceAll(
          expression, {{"${instance:regex}", instance}, {"$__rate_interval", "1m"}});
      EXPECT_EQ(expanded.find('$'), std::string::npos) << expanded;
      EXPECT_NE(expanded, expression) << "not of the hosts that were chosen";
      ask(expanded, answers);
    }
  }
  for (const Alarm& alarm : Alarms()) {
    EXPECT_THAT(MetricsIn(alarm.expression), IsSubsetOf(told)) << alarm.name;
    EXPECT_FALSE(MetricsIn(alarm.expression).empty()) << alarm.name;
  }

  // YAML is a superset of JSON.
  const std::string file = folder_ + "/test.yml";
  WriteFile(file,
            json({{"evaluation_interval", "15s"},
                  {"tests",
                   {{{"interval", "15s"}, {"input_series", series}, {"promql_expr_test", tests}}}}})
                .dump());
  Expect({"promtool", "test", "rules", file}, "SUCCESS");
}

}  // namespace
}  // namespace ctacct
