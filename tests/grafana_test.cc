// Every SQL of every dashboard, expanded as Grafana would and run on a real PostgreSQL that the
// importer has loaded, against plain SQL over the rows: other sums over the same points. What a
// dashboard asks and nobody here knows the answer to is a failure.

#include <libpq-fe.h>

#include <cmath>
#include <cstdint>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/substitute.h"
#include "absl/time/time.h"
#include "engine/spool_writer.h"
#include "engine/traffic_row.h"
#include "nlohmann/json.hpp"
#include "tests/grafana_query.h"
#include "tests/importer_fixture.h"

namespace ctacct {
namespace {

using ::nlohmann::json;

// A result as Grafana gets it.
struct Table {
  struct Column {
    std::string name;
    Oid type = 0;
  };
  std::vector<Column> columns;
  std::vector<std::vector<std::optional<std::string>>> rows;

  bool IsNumber(size_t column) const {
    constexpr Oid kInt8 = 20, kInt4 = 23, kFloat8 = 701, kNumeric = 1700;
    const Oid type = columns[column].type;
    return type == kInt8 || type == kInt4 || type == kFloat8 || type == kNumeric;
  }
  std::string RowText(size_t row) const {
    std::string text;
    for (const auto& field : rows[row]) absl::StrAppend(&text, field.value_or("NULL"), " | ");
    return text;
  }
};

class Connection {
 public:
  explicit Connection(const std::string& conninfo)
      : connection_(PQconnectdb(conninfo.c_str()), [](PGconn* c) { PQfinish(c); }) {
    EXPECT_EQ(PQstatus(connection_.get()), CONNECTION_OK) << PQerrorMessage(connection_.get());
  }
  absl::StatusOr<Table> Query(const std::string& sql) {
    const std::unique_ptr<PGresult, void (*)(PGresult*)> result(
        PQexec(connection_.get(), sql.c_str()), [](PGresult* r) { PQclear(r); });
    const ExecStatusType state = PQresultStatus(result.get());
    if (state != PGRES_TUPLES_OK && state != PGRES_COMMAND_OK) {
      return absl::InternalError(PQerrorMessage(connection_.get()));
    }
    Table table;
    for (int column = 0; column < PQnfields(result.get()); ++column) {
      table.columns.push_back({PQfname(result.get(), column), PQftype(result.get(), column)});
    }
    for (int row = 0; row < PQntuples(result.get()); ++row) {
      auto& fields = table.rows.emplace_back();
      for (int column = 0; column < PQnfields(result.get()); ++column) {
        if (PQgetisnull(result.get(), row, column)) {
          fields.emplace_back(std::nullopt);
        } else {
          fields.emplace_back(PQgetvalue(result.get(), row, column));
        }
      }
    }
    return table;
  }

 private:
  std::unique_ptr<PGconn, void (*)(PGconn*)> connection_;
};

// What a panel must show, said another way. `facts` holds the rows that pass the filters, each with
// its point and the point's length, by steps; `whole` the same with one point for all the range;
// `intervals` how many intervals each gateway has in each point.
struct Expectation {
  std::string by;  // As the panel groups: it decides which rollup answers, so how wide points are.
  std::string sql;
};

constexpr char kService[] =
    "CASE WHEN proto = '0' AND port = -1 THEN '(others)' WHEN port = -1 THEN proto || '/others' "
    "WHEN port = 0 THEN proto ELSE proto || '/' || port END";

std::string TopTable(const std::string& columns, const std::string& key) {
  return absl::Substitute(
      "SELECT $0, sum(src_bytes), sum(dst_bytes), sum(src_packets) + sum(dst_packets), "
      "sum(connection_count), sum(connection_times) / nullif(sum(connection_count), 0) "
      "FROM whole GROUP BY $1 ORDER BY sum(src_bytes + dst_bytes) DESC LIMIT 10",
      columns, key);
}

std::string TopLines(const std::string& label, const std::string& key, const std::string& unit) {
  return absl::Substitute(
      "SELECT point, $0, sum(src_bytes + dst_bytes) * $2 / seconds FROM facts "
      "WHERE ($1) IN (SELECT $1 FROM whole GROUP BY $1 ORDER BY sum(src_bytes + dst_bytes) DESC "
      "LIMIT 10) GROUP BY point, seconds, $1 ORDER BY point",
      label, key, unit);
}

std::map<std::string, Expectation> TrafficExpectations() {
  return {
      {"Totals",
       {"",
        "SELECT sum(src_bytes), sum(dst_bytes), sum(src_packets) + sum(dst_packets), "
        "sum(connection_count), sum(connection_times) / nullif(sum(connection_count), 0) "
        "FROM whole HAVING count(*) > 0"}},
      {"Throughput, bytes",
       {"",
        "SELECT point, sum(src_bytes) / seconds, sum(dst_bytes) / seconds FROM facts "
        "GROUP BY point, seconds ORDER BY point"}},
      {"Throughput, packets",
       {"",
        "SELECT point, sum(src_packets) / seconds, sum(dst_packets) / seconds FROM facts "
        "GROUP BY point, seconds ORDER BY point"}},
      {"Gateways",
       {"gateway",
        "SELECT point, gateway, sum(src_bytes + dst_bytes) / seconds FROM facts "
        "GROUP BY point, seconds, gateway"}},
      {"Traffic per port", {"proto,port", TopLines(kService, "proto, port", "1")}},
      {"Top origins", {"src", TopTable("host(src)", "src")}},
      {"Top destinations", {"dst", TopTable("host(dst)", "dst")}},
      {"Top pairs", {"src,dst", TopTable("host(src), host(dst)", "src, dst")}},
      {"Bandwidth per origin", {"src", TopLines("host(src)", "src", "8")}},
      {"Bandwidth per destination", {"dst", TopLines("host(dst)", "dst", "8")}},
      {"Open connections",
       {"",
        "SELECT point, sum(open) FROM (SELECT point, gateway, sum(open_connections) / min(n) AS "
        "open FROM facts JOIN intervals USING (point, gateway) GROUP BY point, gateway) AS each "
        "GROUP BY point"}},
      {"Connection count",
       {"", "SELECT point, sum(connection_count) / seconds FROM facts GROUP BY point, seconds"}},
      {"Connection timing",
       {"",
        "SELECT point, sum(connection_times) / 1000 / seconds FROM facts "
        "GROUP BY point, seconds"}},
      {"Average connection time",
       {"proto",
        "SELECT point, proto, sum(connection_times) / sum(connection_count) FROM facts "
        "GROUP BY point, proto HAVING sum(connection_count) > 0"}},
  };
}

// A number as it is, anything else as text; rows of two results compare by this.
void ExpectEqual(Table actual, Table expected, bool keep_order) {
  ASSERT_EQ(actual.columns.size(), expected.columns.size());
  ASSERT_EQ(actual.rows.size(), expected.rows.size());
  const auto sort = [](Table& table) {
    // By what is no number: sums may differ in their last bit.
    const auto key = [&](const std::vector<std::optional<std::string>>& row) {
      std::vector<std::optional<std::string>> texts;
      for (size_t i = 0; i < row.size(); ++i) {
        if (!table.IsNumber(i)) texts.push_back(row[i]);
      }
      return texts;
    };
    std::sort(table.rows.begin(), table.rows.end(),
              [&](const auto& a, const auto& b) { return key(a) < key(b); });
  };
  if (!keep_order) {
    sort(actual);
    sort(expected);
  }
  for (size_t row = 0; row < actual.rows.size(); ++row) {
    for (size_t column = 0; column < actual.columns.size(); ++column) {
      const auto& is = actual.rows[row][column];
      const auto& should = expected.rows[row][column];
      double number = 0, other = 0;
      const bool equal =
          is == should ||
          (is.has_value() && should.has_value() && expected.IsNumber(column) &&
           absl::SimpleAtod(*is, &number) && absl::SimpleAtod(*should, &other) &&
           std::abs(number - other) <= 1e-12 * std::max(std::abs(number), std::abs(other)));
      ASSERT_TRUE(equal) << "row " << row << ", column " << actual.columns[column].name << ": "
                         << actual.RowText(row) << "instead of " << expected.RowText(row);
    }
  }
}

class GrafanaTest : public ImporterTest {
 protected:
  static json Load(const std::string& name) {
    std::ifstream file(DataPath("configs/grafana/dashboards/" + name));
    json dashboard = json::parse(file, nullptr, /*allow_exceptions=*/false);
    EXPECT_FALSE(dashboard.is_discarded()) << name;
    return dashboard;
  }

  // Two gateways; dense within the last hour, sparser before, thirty days in all.
  void LoadTraffic() {
    std::mt19937_64 random(1);
    uint64_t sequence = 0;
    for (int64_t age_s = 0; age_s < 30 * 86'400;
         age_s += age_s < 1800 ? 15 : (age_s < 9 * 3600 ? 330 : 23 * 915)) {
      for (const char* const gateway : {"gw1", "west's gate"}) {
        // The second came later, and was away for a while.
        if (gateway[0] == 'w' && (age_s > 20 * 86'400 || (age_s > 600 && age_s < 900))) continue;
        SpoolHeader header = MakeHeader(++sequence);
        header.gateway = gateway;
        header.interval_end_ns = kNewestNs - age_s * 1'000'000'000;
        header.created_ns = header.interval_end_ns;
        std::vector<TrafficRow> rows(24);
        for (TrafficRow& row : rows) {
          row.time_ns = header.interval_end_ns;
          row.protocol = std::array<uint8_t, 4>{6, 17, 1, 132}[random() % 4];
          row.port = row.protocol == 1
                         ? 0
                         : std::array<int32_t, 6>{80, 443, 22, 8080, 53, -1}[random() % 6];
          row.src = {10, 32, static_cast<uint8_t>(random() % 14), 0};
          row.dst = {10, 33, static_cast<uint8_t>(random() % 12), 0};
          row.packets_src = random() % 100'000;
          row.packets_dst = random() % 100'000;
          row.bytes_src = random() % (uint64_t{1} << 34);
          row.bytes_dst = random() % (uint64_t{1} << 34);
          row.open_connections = random() % 100;
          if (row.protocol == 6 || row.protocol == 132) {
            row.connection_count = random() % 10;
            row.connection_time_ms = row.connection_count * (random() % 100'000);
          }
        }
        rows[0].src = rows[0].dst = {0, 0, 0, 0};
        rows[0].protocol = kOtherRowProtocol;
        rows[0].port = -1;
        const absl::StatusOr<std::string> name = WriteSpoolFile(watch_, header, rows);
        ASSERT_TRUE(name.ok()) << name.status();
      }
    }
    const Finished run = Drain();
    ASSERT_TRUE(run.exit.ok()) << run.err;
    Sql("ANALYZE");
  }

  // Fills facts, whole and intervals.
  void MakeFacts(Connection& owner, const GrafanaView& view, const std::string& by) {
    const auto array = [&](const char* name, const char* type) -> std::string {
      const auto& chosen = view.variables.at(name).chosen;
      if (!chosen.has_value()) return "NULL";
      std::string text;
      for (const std::string& value : *chosen) {
        absl::StrAppend(&text, text.empty() ? "" : ", ", "'",
                        absl::StrReplaceAll(value, {{"'", "''"}}), "'");
      }
      return absl::StrCat("ARRAY[", text, "]::", type, "[]");
    };
    const std::string gateways = array("gateway", "text"), srcs = array("origin", "inet"),
                      dsts = array("destination", "inet"), protos = array("protocol", "text"),
                      ports = array("port", "int");
    const auto moment = [](absl::Time time) {
      return absl::StrCat("'", absl::FormatTime(absl::RFC3339_full, time, absl::UTCTimeZone()),
                          "'::timestamptz");
    };
    const std::string from = moment(view.from), to = moment(view.to);
    std::string filters = "true";
    const auto filter = [&](const char* column, const std::string& values) {
      if (values != "NULL") absl::StrAppend(&filters, " AND ", column, " = ANY (", values, ")");
    };
    filter("gateway", gateways);
    filter("src", srcs);
    filter("dst", dsts);
    filter("proto", protos);
    filter("port", ports);
    for (const bool stepped : {true, false}) {
      const std::string table = stepped ? "facts" : "whole";
      const double interval_s = absl::ToDoubleSeconds(view.interval);
      // How wide traffic() makes its points is its own affair within the limits checked below; what
      // is in them is not.
      const absl::StatusOr<Table> width = owner.Query(absl::Substitute(
          "WITH points AS (SELECT DISTINCT time, seconds FROM traffic($0, $1, $2, '{$3}', $4, $5, "
          "$6, $7, $8)) SELECT DISTINCT seconds + extract(epoch FROM points.time - "
          "least(points.time, (SELECT max(time) FROM vpn_traffic WHERE time <= (SELECT max(time) "
          "FROM points))))::float8, extract(epoch FROM max(points.time) OVER ())::bigint "
          "FROM points",
          from, to, stepped ? absl::StrCat("'", interval_s, " s'::interval") : "NULL", by, gateways,
          srcs, dsts, protos, ports));
      ASSERT_TRUE(width.ok()) << width.status();
      ASSERT_LE(width->rows.size(), 1u) << "points of several widths";
      int64_t width_s = static_cast<int64_t>(interval_s), last_s = 0;  // Unless there are points.
      if (!width->rows.empty()) {
        ASSERT_TRUE(absl::SimpleAtoi(*width->rows[0][0], &width_s)) << *width->rows[0][0];
        ASSERT_TRUE(absl::SimpleAtoi(*width->rows[0][1], &last_s));
      }
      const int64_t from_s = absl::ToUnixSeconds(view.from), to_s = absl::ToUnixSeconds(view.to);
      int64_t lower_s, upper_s;
      if (stepped) {
        ASSERT_EQ(width_s % 15, 0);
        ASSERT_GE(width_s, interval_s);
        ASSERT_LE(width_s, std::max(interval_s + 15, interval_s <= 3600 ? 3600. : 2 * interval_s));
        lower_s = from_s / width_s * width_s;
        upper_s = (to_s + width_s - 1) / width_s * width_s;
      } else if (!width->rows.empty()) {
        upper_s = last_s;
        lower_s = last_s - width_s;
        ASSERT_LE(lower_s, from_s);
        ASSERT_GT(lower_s, from_s - 3600);
        ASSERT_GE(upper_s, to_s);
        ASSERT_LT(upper_s, to_s + 3600);
        width_s = upper_s - lower_s;
      } else {
        lower_s = from_s;
        upper_s = to_s;
        width_s = to_s - from_s;
      }
      const std::string within = absl::Substitute(
          "time > to_timestamp($0) AND time <= to_timestamp($1)", lower_s, upper_s);
      const std::string point =
          stepped
              ? absl::Substitute("to_timestamp(ceil(extract(epoch FROM time) / $0) * $0)", width_s)
              : absl::Substitute("to_timestamp($0)", upper_s);
      for (const std::string& sql :
           {absl::StrCat("DROP TABLE IF EXISTS ", table),
            absl::Substitute(
                "CREATE TEMP TABLE $0 AS SELECT extract(epoch FROM least(point, newest) - point + "
                "interval '$1 s')::float8 AS seconds, held.* FROM (SELECT $2 AS point, * FROM "
                "vpn_traffic WHERE $3 AND $4) AS held, (SELECT max(time) AS newest FROM "
                "vpn_traffic WHERE $3) AS newest",
                table, width_s, point, within, filters)}) {
        const absl::StatusOr<Table> done = owner.Query(sql);
        ASSERT_TRUE(done.ok()) << done.status() << sql;
      }
      if (!stepped) continue;
      for (const std::string& sql :
           {std::string("DROP TABLE IF EXISTS intervals"),
            absl::Substitute("CREATE TEMP TABLE intervals AS SELECT $0 AS point, gateway, "
                             "count(DISTINCT time)::float8 AS n FROM vpn_traffic WHERE $1 "
                             "GROUP BY 1, 2",
                             point, within)}) {
        const absl::StatusOr<Table> done = owner.Query(sql);
        ASSERT_TRUE(done.ok()) << done.status() << sql;
      }
    }
  }

  // As Grafana needs a time series.
  static void CheckSeries(const Table& table) {
    constexpr Oid kTimestamptz = 1184, kText = 25;
    ASSERT_GE(table.columns.size(), 2u);
    ASSERT_EQ(table.columns[0].name, "time");
    ASSERT_EQ(table.columns[0].type, kTimestamptz);
    const bool labelled = table.columns[1].type == kText;
    if (labelled) {
      ASSERT_EQ(table.columns[1].name, "metric");
      ASSERT_EQ(table.columns.size(), 3u) << "of three columns alone the label is the line's name";
    }
    std::set<std::string> seen;
    for (size_t row = 0; row < table.rows.size(); ++row) {
      const auto& fields = table.rows[row];
      for (size_t i = labelled ? 2 : 1; i < fields.size(); ++i) ASSERT_TRUE(table.IsNumber(i));
      if (row != 0) {
        ASSERT_LE(*table.rows[row - 1][0], *fields[0]) << "not in order of time";
      }
      ASSERT_TRUE(seen.insert(*fields[0] + (labelled ? fields[1].value_or("") : "")).second)
          << "two values at the same point: " << table.RowText(row);
    }
  }

  static constexpr int64_t kNewestNs = 1'700'000'100'000'000'000;
};

std::vector<GrafanaView> Views(const json& dashboard) {
  // What Grafana makes of a panel about 1,000 pixels wide, of at least 15 s.
  const std::pair<absl::Duration, absl::Duration> ranges[] = {
      {absl::Minutes(15), absl::Seconds(15)},
      {absl::Hours(1), absl::Seconds(15)},
      {absl::Hours(8), absl::Seconds(30)},
      {absl::Hours(30 * 24), absl::Minutes(30)}};
  const std::map<std::string, std::vector<std::string>> selections[] = {
      {},
      {{"origin", {"10.32.1.0"}}},
      {{"origin", {"10.32.1.0", "10.32.2.0"}}, {"protocol", {"tcp"}}, {"port", {"80", "443"}}},
      {{"gateway", {"west's gate"}}},
      {{"destination", {"10.33.3.0"}}, {"protocol", {"udp", "sctp"}}},
      {{"origin", {"10.32.3.0"}}, {"destination", {"10.33.1.0", "10.33.2.0"}}},
      {{"gateway", {"gw1", "west's gate"}},
       {"origin", {"10.32.1.0", "10.32.2.0", "10.32.3.0"}},
       {"destination", {"10.33.1.0", "10.33.2.0", "10.33.3.0"}},
       {"protocol", {"tcp", "udp"}},
       {"port", {"80", "-1", "22"}}},
      {{"origin", {"192.0.2.1"}}},  // Nobody.
  };
  std::vector<GrafanaView> views;
  for (const auto& [range, interval] : ranges) {
    for (const auto& selection : selections) {
      GrafanaView view;
      view.to = absl::FromUnixSeconds(1'700'000'107);
      view.from = view.to - range;
      view.interval = interval;
      for (const json& variable : dashboard["templating"]["list"]) {
        GrafanaVariable& made = view.variables[variable["name"]];
        made.all_value = variable.value("allValue", "");
        if (const auto chosen = selection.find(variable["name"]); chosen != selection.end()) {
          made.chosen = chosen->second;
        }
      }
      views.push_back(std::move(view));
    }
  }
  return views;
}

TEST_F(GrafanaTest, EveryPanelShowsWhatTheRowsSay) {
  LoadTraffic();
  Connection owner(postgres->Conninfo(database_));
  Connection reader(postgres->Conninfo(database_));
  const json dashboard = Load("traffic.json");
  const std::map<std::string, Expectation> expectations = TrafficExpectations();
  size_t filled = 0;
  for (const GrafanaView& view : Views(dashboard)) {
    std::string facts_of = "none";
    std::map<std::string, std::vector<const json*>> panels_by;
    for (const json& panel : dashboard["panels"]) {
      if (panel["type"] == "row") continue;
      const auto expectation = expectations.find(panel["title"]);
      ASSERT_NE(expectation, expectations.end()) << panel["title"];
      panels_by[expectation->second.by].push_back(&panel);
    }
    for (const auto& [by, panels] : panels_by) {
      MakeFacts(owner, view, by);
      if (HasFatalFailure()) return;
      for (const json* panel : panels) {
        const std::string title = (*panel)["title"];
        ASSERT_EQ((*panel)["targets"].size(), 1u);
        const json& target = (*panel)["targets"][0];
        const absl::StatusOr<std::string> sql = ExpandGrafanaSql(target["rawSql"], view);
        ASSERT_TRUE(sql.ok()) << title << ": " << sql.status();
        const bool series = target["format"] == "time_series";
        SCOPED_TRACE(absl::StrCat(title, ":\n", *sql));
        const absl::StatusOr<Table> actual = reader.Query(*sql);
        ASSERT_TRUE(actual.ok()) << actual.status();
        const absl::StatusOr<Table> expected = owner.Query(expectations.at(title).sql);
        ASSERT_TRUE(expected.ok()) << expected.status();
        if (series) CheckSeries(*actual);
        if (HasFatalFailure()) return;
        ExpectEqual(*actual, *expected, /*keep_order=*/!series);
        if (HasFatalFailure()) return;
        if (!actual->rows.empty()) ++filled;
      }
    }
  }
  // Of 14 panels, 4 ranges and 8 selections, of which one is of nobody and some meet no row.
  EXPECT_GE(filled, 14u * 4 * 6);
}

}  // namespace
}  // namespace ctacct
