// The dashboards, as far as that goes without Grafana: every SQL of every panel, variable and
// annotation, expanded as Grafana would, asked by Grafana's role of a real PostgreSQL that the
// importer has loaded, against plain SQL over the rows; and what must hold of the files. What a
// dashboard asks and nobody here knows the answer to is a failure. Their PromQL:
// prometheus_test.cc.

#include <libpq-fe.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iterator>
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
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/substitute.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/traffic_row.h"
#include "engine/spool/spool_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/documented_points.h"
#include "tests/support/grafana_query.h"
#include "tests/support/importer_fixture.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::nlohmann::json;
using ::testing::HasSubstr;

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
      : connection_(PQconnectdb((conninfo + " options='-c client_min_messages=warning'").c_str()),
                    [](PGconn* c) { PQfinish(c); }) {
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
  std::string by;  // As the panel groups: with the filters, it decides how wide points are.
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

std::string MostUnanswered(const std::string& columns, const std::string& key) {
  return absl::Substitute(
      "SELECT $0, sum(unanswered_count), sum(flow_count) FROM whole GROUP BY $1 "
      "HAVING sum(unanswered_count) > 0 ORDER BY sum(unanswered_count) DESC, $1 LIMIT 10",
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
      {"Unanswered flows per origin", {"src", MostUnanswered("host(src)", "src")}},
      {"Unanswered flows per service",
       {"dst,proto,port", MostUnanswered("host(dst), proto, port", "dst, proto, port")}},
  };
}

// Of names.json; `facts` and `whole` have the names as columns.
std::map<std::string, Expectation> NamesExpectations() {
  std::map<std::string, Expectation> expectations;
  for (const auto& [title, columns, by] : std::vector<std::array<std::string, 3>>{
           {"Top names", "src_name", "src"},
           {"Top destinations by name", "dst_name", "dst"},
           {"Who talked to whom", "src_name, dst_name", "src,dst"}}) {
    // Rows of all times are kept: nothing is coarse.
    expectations[title] = {
        by, absl::StrCat("SELECT *, NULL::text FROM (", TopTable(columns, columns), ") AS top")};
  }
  expectations["Totals"] = TrafficExpectations().at("Totals");
  expectations["Throughput"] = TrafficExpectations().at("Throughput, bytes");
  expectations["Bandwidth per name"] = {"src", TopLines("src_name", "src_name", "8")};
  expectations["Bandwidth per destination by name"] = {"dst",
                                                       TopLines("dst_name", "dst_name", "8")};
  expectations["Who held which network"] = {
      "",
      "SELECT gateway, network::text, name, source, lower(valid), upper(valid) FROM traffic_names "
      "WHERE (upper(valid) <= FROM_TIME) IS NOT TRUE AND NOT lower(valid) > TO_TIME AND GATEWAYS "
      "AND NAMES ORDER BY gateway, traffic_names.network, lower(valid)"};
  return expectations;
}

// Names that change at an interval's end and in the middle of one, and nest.
constexpr char kNames[] =
    "INSERT INTO traffic_names SELECT gateway, network::cidr, name, 'file', "
    "tstzrange(began::timestamptz, ended::timestamptz), '2023-10-01' FROM (VALUES "
    "('10.32.0.0/16', 'everybody', '2023-10-01', NULL), "
    "('10.32.1.0/24', 'team 1', '2023-10-01', '2023-11-14 21:03:07Z'), "
    "('10.32.1.0/24', 'it''s team 2', '2023-11-14 21:03:07Z', NULL), "
    "('10.32.2.0/24', 'it''s team 2', '2023-10-01', '2023-11-14 22:10:00Z'), "
    "('10.32.2.0/24', 'team 1', '2023-11-14 22:10:00Z', NULL), "
    "('10.32.3.0/24', 'team 3', '2023-11-14 22:01:30Z', '2023-11-14 22:09:01Z'), "
    "('10.33.1.0/24', 'shop', '2023-11-01', '2023-11-14 22:05:07Z'), "
    "('10.33.1.0/24', 'mail', '2023-11-14 22:05:07Z', NULL), "
    "('10.33.2.0/23', 'mail', '2023-10-01', NULL)) AS held (network, name, began, ended), "
    "(VALUES ('gw1'), ('west''s gate')) AS gateways (gateway)";

// The rows with their names, said another way. One gateway had a mask of /24 for a while.
constexpr char kNamedRows[] =
    "SELECT held.*, coalesce((SELECT name FROM traffic_names AS names WHERE names.gateway = "
    "held.gateway AND network >>= src AND valid @> time ORDER BY masklen(network) DESC LIMIT 1), "
    "host(src) || CASE WHEN grouped AND src <> '0.0.0.0' THEN '/24' ELSE '' END) AS src_name, "
    "coalesce((SELECT name FROM traffic_names AS names WHERE names.gateway = held.gateway AND "
    "network >>= dst AND valid @> time ORDER BY masklen(network) DESC LIMIT 1), host(dst)) AS "
    "dst_name FROM (SELECT traffic.*, masks.src_mask = '255.255.255.0' AS grouped FROM vpn_traffic "
    "AS traffic JOIN import_ledger AS masks ON masks.gateway = traffic.gateway AND "
    "interval_end = time) AS held";

// A number as it is, anything else as text; rows of two results compare by this.
void ExpectEqual(Table actual, Table expected, bool keep_order) {
  ASSERT_EQ(actual.columns.size(), expected.columns.size());
  ASSERT_EQ(actual.rows.size(), expected.rows.size());
  const auto sort = [](Table& table) {
    // By time and label, not by sums: these may differ in their last bit.
    const auto key = [&](const std::vector<std::optional<std::string>>& row) {
      std::pair<double, std::vector<std::optional<std::string>>> key;
      if (table.IsNumber(0)) (void)absl::SimpleAtod(row[0].value_or(""), &key.first);
      for (size_t i = 0; i < row.size(); ++i) {
        if (!table.IsNumber(i)) key.second.push_back(row[i]);
      }
      return key;
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

std::string Text(const std::string& path) {
  std::ifstream file(DataPath(path));
  std::string text{std::istreambuf_iterator<char>(file), {}};
  EXPECT_NE(text, "") << path;
  return text;
}

json Load(const std::string& name) {
  json dashboard = json::parse(Text("configs/grafana/dashboards/" + name), nullptr,
                               /*allow_exceptions=*/false);
  EXPECT_FALSE(dashboard.is_discarded()) << name;
  return dashboard;
}

std::string Moment(absl::Time time) {
  return absl::StrCat("'", absl::FormatTime(absl::RFC3339_full, time, absl::UTCTimeZone()),
                      "'::timestamptz");
}

// What is chosen of a variable, as an array in SQL; NULL: All.
std::string ChosenArray(const GrafanaView& view, const char* name, const char* type) {
  const auto variable = view.variables.find(name);
  if (variable == view.variables.end() || !variable->second.chosen.has_value()) return "NULL";
  std::string text;
  for (const std::string& value : *variable->second.chosen) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", "'", absl::StrReplaceAll(value, {{"'", "''"}}),
                    "'");
  }
  return absl::StrCat("ARRAY[", text, "]::", type, "[]");
}

// A view's range and choices in SQL, as traffic() takes them.
struct SqlView {
  SqlView(const GrafanaView& view, bool of_names)
      : from(Moment(view.from)),
        to(Moment(view.to)),
        by_name(of_names),
        gateways(ChosenArray(view, "gateway", "text")),
        srcs(ChosenArray(view, "origin", by_name ? "text" : "inet")),
        dsts(ChosenArray(view, "destination", by_name ? "text" : "inet")),
        protos(ChosenArray(view, "protocol", "text")),
        ports(ChosenArray(view, "port", "int")) {}

  // True for the rows that pass the choices.
  std::string Filters() const {
    std::string filters = "true";
    const auto filter = [&](const char* column, const std::string& values) {
      if (values != "NULL") absl::StrAppend(&filters, " AND ", column, " = ANY (", values, ")");
    };
    filter("gateway", gateways);
    filter(by_name ? "src_name" : "src", srcs);
    filter(by_name ? "dst_name" : "dst", dsts);
    filter("proto", protos);
    filter("port", ports);
    return filters;
  }

  std::string from, to;
  bool by_name;
  std::string gateways, srcs, dsts, protos, ports;
};

// As docs/database.md has it. `step`: none for one point of all the range.
void FindPoints(const GrafanaView& view, const std::string& by,
                const std::optional<absl::Duration>& step, Points* points) {
  static const absl::StatusOr<std::vector<DocumentedRollups>> rollups =
      ReadDocumentedRollups(Text("docs/database.md"));
  ASSERT_TRUE(rollups.ok()) << rollups.status();
  Question question{view.from, view.to, step, absl::StrSplit(by, ',', absl::SkipEmpty()),
                    /*interval=*/absl::Seconds(15)};
  const std::pair<const char*, const char*> filters[] = {
      {"origin", "src"}, {"destination", "dst"}, {"protocol", "proto"}, {"port", "port"}};
  for (const auto& [variable, column] : filters) {
    const auto chosen = view.variables.find(variable);
    if (chosen != view.variables.end() && chosen->second.chosen.has_value()) {
      question.columns.insert(column);
    }
  }
  const absl::StatusOr<Points> found = DocumentedPoints(*rollups, question);
  ASSERT_TRUE(found.ok()) << found.status();
  *points = *found;
}

// In SQL: true for the rows that belong to any.
std::string Within(const Points& points) {
  return absl::Substitute("time > $0 AND time <= $1", Moment(points.lower), Moment(points.upper));
}

// In SQL: the end of a row's point.
std::string PointOf(const Points& points) {
  if (points.upper - points.lower == points.width) return Moment(points.upper);
  return absl::Substitute("to_timestamp(ceil(extract(epoch FROM time) / $0) * $0)",
                          absl::ToInt64Seconds(points.width));
}

// In place of the one that the view before has left.
void CreateTable(Connection& owner, const std::string& name, const std::string& select) {
  for (const std::string& sql : {absl::StrCat("DROP TABLE IF EXISTS ", name),
                                 absl::StrCat("CREATE TEMP TABLE ", name, " AS ", select)}) {
    const absl::StatusOr<Table> done = owner.Query(sql);
    ASSERT_TRUE(done.ok()) << done.status() << sql;
  }
}

// The rows that pass the filters, each with its point, and how long that is: it ends at the newest
// row if that comes first.
void CreateFacts(Connection& owner, const std::string& name, const std::string& rows,
                 const Points& points, const std::string& filters) {
  CreateTable(
      owner, name,
      absl::Substitute(
          "SELECT extract(epoch FROM least(point, newest) - point + interval '$0 s')::float8 AS "
          "seconds, held.* FROM (SELECT $1 AS point, * FROM $4 WHERE $2 AND $3) AS held, "
          "(SELECT max(time) AS newest FROM $4 WHERE $2) AS newest",
          absl::ToInt64Seconds(points.width), PointOf(points), Within(points), filters, rows));
}

using Selection = std::map<std::string, std::vector<std::string>>;

std::vector<GrafanaView> Views(const json& dashboard, const std::vector<Selection>& selections) {
  // What Grafana makes of a panel about 1,000 pixels wide, of at least 15 s.
  const std::pair<absl::Duration, absl::Duration> ranges[] = {
      {absl::Minutes(15), absl::Seconds(15)},
      {absl::Hours(1), absl::Seconds(15)},
      {absl::Hours(8), absl::Seconds(30)},
      {absl::Hours(30 * 24), absl::Minutes(30)}};
  std::vector<GrafanaView> views;
  for (const auto& [range, interval] : ranges) {
    for (const Selection& selection : selections) {
      GrafanaView view;
      view.to = absl::FromUnixSeconds(1'700'000'107);
      // Others end where the data does: this one has data after its end.
      if (range == absl::Hours(1)) view.to -= absl::Minutes(10);
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

// Its range, and what passes the filter for gateways.
std::string WithView(const std::string& sql, const GrafanaView& view) {
  std::string gateways = "true";
  if (const auto& chosen = view.variables.at("gateway").chosen; chosen.has_value()) {
    gateways = "false";
    for (const std::string& name : *chosen) {
      absl::StrAppend(&gateways, " OR gateway = $$", name, "$$");
    }
  }
  std::string names = "false";
  for (const char* const variable : {"origin", "destination"}) {
    const auto chosen = view.variables.find(variable);
    if (chosen == view.variables.end() || !chosen->second.chosen.has_value()) continue;
    for (const std::string& name : *chosen->second.chosen) {
      absl::StrAppend(&names, " OR name = $$", name, "$$");
    }
  }
  if (names == "false") names = "true";
  return absl::StrReplaceAll(sql, {{"FROM_TIME", Moment(view.from)},
                                   {"TO_TIME", Moment(view.to)},
                                   {"GATEWAYS", "(" + gateways + ")"},
                                   {"NAMES", "(" + names + ")"},
                                   {"WIDTH", absl::StrCat(absl::ToInt64Seconds(view.interval))}});
}

class GrafanaTest : public ImporterTest {
 protected:
  // One database for all tests: none of them changes it.
  void SetUp() override {
    ImporterTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    static auto* const loaded = new std::string;
    if (loaded->empty()) {
      LoadTraffic();
      *loaded = database_;
    }
    database_ = *loaded;
  }

  // Two gateways; dense within the last half hour, sparser before, thirty days in all.
  void LoadTraffic() {
    ASSERT_TRUE(Run({"-watch=" + done_, "-once"}).exit.ok());
    Sql(Text("configs/postgres/roles.sql"));
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
        if (gateway[0] == 'w' && age_s > 300) header.src_mask[3] = 0;  // Changed.
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
          row.flow_count = random() % 10;
          row.unanswered_count = random() % (row.flow_count + 1);
        }
        rows[0].src = rows[0].dst = {0, 0, 0, 0};
        rows[0].protocol = kOtherRowProtocol;
        rows[0].port = -1;
        const std::vector<Gap> gaps = GapsOf(&header);
        const absl::StatusOr<std::string> name = WriteSpoolFile(watch_, header, rows, gaps);
        ASSERT_TRUE(name.ok()) << name.status();
      }
    }
    const absl::StatusOr<Finished> run =
        RunProcess(Command({"-conninfo=" + postgres->Conninfo(database_, "ctacct_importer"),
                            "-watch=" + watch_, "-once"},
                           /*connect=*/false),
                   kAtMost);
    ASSERT_TRUE(run.ok()) << run.status();
    ASSERT_TRUE(run->exit.ok()) << run->err;
    Sql(kNames);
    Sql("ANALYZE");
  }

  // Every seventh file has gaps, and every eleventh is not complete and does not say why.
  static std::vector<Gap> GapsOf(SpoolHeader* header) {
    if (header->sequence % 11 == 0) {
      header->completeness = Completeness::kResynced;
      header->events_dropped = header->sequence % 100;
    }
    if (header->sequence % 7 != 0 && header->interval_end_ns != kEdgeNs) return {};
    header->completeness = Completeness::kPartial;
    std::vector<Gap> gaps;
    for (uint64_t i = 0; i < 1 + header->sequence % 3; ++i) {
      const int64_t began_ns =
          header->interval_end_ns - kIntervalNs + static_cast<int64_t>(i) * 1'000'000'000;
      gaps.push_back({began_ns, began_ns + 10'000'000'000, static_cast<GapCause>(1 + i),
                      Completeness::kPartial, header->sequence + i, 2 * i});
      header->events_dropped += header->sequence + i;
    }
    return gaps;
  }

  // Fills facts, whole and intervals.
  void MakeFacts(Connection& owner, const GrafanaView& view, const std::string& by,
                 bool by_name = false) {
    const SqlView sql(view, by_name);
    const std::string rows = by_name ? "named" : "vpn_traffic";
    Points steps, whole;
    ASSERT_NO_FATAL_FAILURE(FindPoints(view, by, view.interval, &steps));
    ASSERT_NO_FATAL_FAILURE(CreateFacts(owner, "facts", rows, steps, sql.Filters()));
    ASSERT_NO_FATAL_FAILURE(CreateTable(
        owner, "intervals",
        absl::Substitute("SELECT $0 AS point, gateway, count(DISTINCT time)::float8 AS n "
                         "FROM vpn_traffic WHERE $1 GROUP BY 1, 2",
                         PointOf(steps), Within(steps))));
    ASSERT_NO_FATAL_FAILURE(FindPoints(view, by, std::nullopt, &whole));
    ASSERT_NO_FATAL_FAILURE(CreateFacts(owner, "whole", rows, whole, sql.Filters()));
  }

  // As Grafana needs a time series.
  static void CheckSeries(const Table& table) {
    constexpr Oid kTimestamptz = 1184, kText = 25;
    ASSERT_GE(table.columns.size(), 2u);
    ASSERT_EQ(table.columns[0].name, "time");
    // Numbers are seconds since the epoch.
    ASSERT_TRUE(table.columns[0].type == kTimestamptz || table.IsNumber(0));
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

  // Asks a query as Grafana would, and compares with the other one's answer.
  void Check(Connection& owner, Connection& reader, const GrafanaView& view, const std::string& sql,
             const json& panel, const std::string& expected_sql) {
    const absl::StatusOr<std::string> expanded = ExpandGrafanaSql(sql, view);
    ASSERT_TRUE(expanded.ok()) << expanded.status() << "\n" << sql;
    SCOPED_TRACE(*expanded);
    const absl::StatusOr<Table> actual = reader.Query(*expanded);
    ASSERT_TRUE(actual.ok()) << actual.status();
    const absl::StatusOr<Table> expected = owner.Query(expected_sql);
    ASSERT_TRUE(expected.ok()) << expected.status() << "\n" << expected_sql;
    const bool series = panel.value("type", "") == "timeseries";
    if (series) CheckSeries(*actual);
    if (HasFatalFailure()) return;
    ExpectEqual(*actual, *expected, /*keep_order=*/!series);
    if (HasFatalFailure()) return;
    if (!actual->rows.empty()) ++filled_;
    if (!panel.contains("fieldConfig")) return;
    // What is set for one column is for one that is there.
    for (const json& override : panel["fieldConfig"]["overrides"]) {
      ASSERT_EQ(override["matcher"]["id"], "byName");
      const std::string name = override["matcher"]["options"];
      ASSERT_TRUE(std::any_of(actual->columns.begin(), actual->columns.end(),
                              [&](const Table::Column& column) { return column.name == name; }))
          << name;
    }
  }

  // Every panel of a dashboard, at these selections: the last one is of nobody.
  void CheckEveryPanel(const char* name, bool by_name,
                       const std::map<std::string, Expectation>& expectations,
                       const std::vector<Selection>& selections) {
    Connection owner(postgres->Conninfo(database_));
    Connection reader(postgres->Conninfo(database_, "ctacct_reader"));
    const json dashboard = Load(name);
    if (by_name) CreateTable(owner, "named", kNamedRows);
    if (HasFatalFailure()) return;
    // By what they group by: panels that do alike have the same points.
    std::map<std::string, std::vector<const json*>> panels_by;
    for (const json& panel : dashboard["panels"]) {
      if (panel["type"] == "row") continue;
      const auto expectation = expectations.find(panel["title"]);
      ASSERT_NE(expectation, expectations.end()) << panel["title"];
      panels_by[expectation->second.by].push_back(&panel);
    }
    for (const GrafanaView& view : Views(dashboard, selections)) {
      for (const auto& [by, panels] : panels_by) {
        MakeFacts(owner, view, by, by_name);
        if (HasFatalFailure()) return;
        for (const json* panel : panels) {
          const std::string title = (*panel)["title"];
          SCOPED_TRACE(title);
          Check(owner, reader, view, (*panel)["targets"][0]["rawSql"], *panel,
                WithView(expectations.at(title).sql, view));
          if (HasFatalFailure()) return;
        }
      }
    }
    // All but those of nobody, and of a time and selection that meet no row.
    EXPECT_GE(filled_, expectations.size() * 4 * (selections.size() - 2));
  }

  static constexpr int64_t kNewestNs = 1'700'000'100'000'000'000;
  // A range of Views begins within this interval's gap.
  static constexpr int64_t kEdgeNs = kNewestNs - 885'000'000'000;
  size_t filled_ = 0;  // Queries that had an answer.
};

constexpr char kExpectedGaps[] =
    "SELECT began, ended, gateway || ': ' || cause || ', ' || completeness || ': ' || "
    "events_dropped || ' events dropped' || coalesce(', at least ' || nullif(flows_lost, 0) || "
    "' flows lost', ''), gateway "
    "FROM traffic_gaps WHERE NOT (ended < FROM_TIME OR began > TO_TIME) AND GATEWAYS "
    "UNION ALL SELECT interval_end - interval '15 s', interval_end, "
    "gateway || ': resynced: ' || events_dropped || ' events dropped', gateway FROM import_ledger "
    "WHERE completeness = 'resynced' AND interval_end >= FROM_TIME AND "
    "interval_end - interval '15 s' <= TO_TIME AND GATEWAYS ORDER BY 1, 4, 3";

TEST_F(GrafanaTest, EveryPanelShowsWhatTheRowsSay) {
  const std::vector<Selection> selections = {
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
  CheckEveryPanel("traffic.json", /*by_name=*/false, TrafficExpectations(), selections);
}

TEST_F(GrafanaTest, EveryPanelByNameShowsWhoHeldTheAddress) {
  CheckEveryPanel("names.json", /*by_name=*/true, NamesExpectations(),
                  {{},
                   {{"origin", {"team 1"}}},
                   {{"origin", {"team 1", "it's team 2", "10.32.3.0/24"}}, {"protocol", {"tcp"}}},
                   {{"gateway", {"west's gate"}}, {"destination", {"mail"}}},
                   {{"origin", {"everybody"}}, {"destination", {"shop", "10.33.7.0"}}},
                   {{"origin", {"nobody"}}}});
}

TEST_F(GrafanaTest, EveryPanelOfTheDatabasesHealthShowsWhatTheTablesSay) {
  const std::string of_range =
      "FROM import_ledger WHERE interval_end >= FROM_TIME AND interval_end <= TO_TIME AND "
      "GATEWAYS ";
  const std::string point = "div(extract(epoch FROM interval_end), WIDTH) * WIDTH AS point";
  const std::map<std::string, std::string> expectations = {
      // In the week before each range both gateways have sent something, or they have come later.
      {"Gateways",
       "WITH held AS (SELECT *, count(*) FILTER (WHERE interval_end <= FROM_TIME) OVER gate AS "
       "older, greatest(FROM_TIME, lag(interval_end) OVER gate) AS before "
       "FROM import_ledger WHERE interval_end > FROM_TIME - interval '7 days' AND "
       "interval_end <= TO_TIME AND GATEWAYS WINDOW gate AS (PARTITION BY gateway ORDER BY "
       "interval_end)), sums AS (SELECT gateway, max(interval_end) AS newest, count(*) AS there, "
       "div(extract(epoch FROM TO_TIME - max(interval_end)), 15) + sum(CASE WHEN older > 0 OR "
       "before > FROM_TIME THEN div(extract(epoch FROM interval_end - before) - 15, 15) ELSE 0 "
       "END) AS missing, count(nullif(completeness, 'complete')) AS incomplete, "
       "sum(events_dropped) AS dropped, sum(flows_lost) AS lost, count(DISTINCT host(src_mask)) "
       "AS masks FROM held WHERE interval_end > FROM_TIME GROUP BY gateway) "
       "SELECT gateway, newest, extract(epoch FROM TO_TIME) - extract(epoch FROM newest), "
       "there + missing, there, missing, incomplete, (SELECT count(*) FROM vpn_traffic "
       "WHERE vpn_traffic.gateway = sums.gateway AND time > FROM_TIME AND time <= TO_TIME), "
       "dropped, lost, masks FROM sums ORDER BY gateway"},
      {"Import lag", "SELECT " + point +
                         ", gateway, extract(epoch FROM max(imported_at - interval_end)) " +
                         of_range + "GROUP BY 1, 2"},
      {"Rows per interval",
       "SELECT " + point + ", gateway, max(row_count) " + of_range + "GROUP BY 1, 2"},
      {"Incomplete intervals", "SELECT " + point + ", completeness, count(*) " + of_range +
                                   "AND completeness <> 'complete' GROUP BY 1, 2"},
      {"Events dropped and flows lost",
       "SELECT " + point + ", sum(events_dropped), sum(flows_lost) " + of_range + "GROUP BY 1"},
      {"Gaps",
       "SELECT gateway, began, ended, extract(epoch FROM ended) - extract(epoch FROM began), "
       "cause, completeness, events_dropped, flows_lost FROM traffic_gaps WHERE "
       "NOT (ended < FROM_TIME OR began > TO_TIME) AND GATEWAYS "
       "ORDER BY began DESC, gateway, number LIMIT 100"},
  };
  Connection owner(postgres->Conninfo(database_));
  Connection reader(postgres->Conninfo(database_, "ctacct_reader"));
  const json dashboard = Load("health.json");
  const std::vector<Selection> selections = {
      {}, {{"gateway", {"west's gate"}}}, {{"gateway", {"gw1", "west's gate"}}}};
  for (const GrafanaView& view : Views(dashboard, selections)) {
    size_t asked = 0;
    for (const json& panel : dashboard["panels"]) {
      if (panel["type"] == "row" || panel["datasource"]["type"] != "postgres") continue;
      const std::string title = panel["title"];
      SCOPED_TRACE(title);
      ASSERT_EQ(expectations.count(title), 1u);
      Check(owner, reader, view, panel["targets"][0]["rawSql"], panel,
            WithView(expectations.at(title), view));
      if (HasFatalFailure()) return;
      ++asked;
    }
    ASSERT_EQ(asked, expectations.size());
  }
  EXPECT_EQ(filled_, expectations.size() * 4 * selections.size());
}

// After the traffic's end the panel still lists who is silent, as `report -check` does.
TEST_F(GrafanaTest, AGatewayThatIsSilentIsListed) {
  Connection reader(postgres->Conninfo(database_, "ctacct_reader"));
  const json dashboard = Load("health.json");
  for (const auto& [days, rows] : {std::pair{1, size_t{2}}, {8, size_t{0}}}) {
    GrafanaView view = Views(dashboard, {{}})[0];
    view.from += absl::Hours(24 * days);
    view.to = view.from + absl::Minutes(15);
    for (const json& panel : dashboard["panels"]) {
      if (panel["id"] != 13) continue;
      const absl::StatusOr<std::string> sql =
          ExpandGrafanaSql(panel["targets"][0]["rawSql"].get<std::string>(), view);
      ASSERT_TRUE(sql.ok()) << sql.status();
      const absl::StatusOr<Table> table = reader.Query(*sql);
      ASSERT_TRUE(table.ok()) << table.status();
      ASSERT_EQ(table->rows.size(), rows);
      if (rows == 0) continue;
      EXPECT_EQ(table->columns[3].name, "expected");
      EXPECT_EQ(table->rows[0][3], "60");
      EXPECT_EQ(table->rows[0][4], "0");
      EXPECT_EQ(table->columns[5].name, "missing");
      EXPECT_EQ(table->rows[0][5], "60");
    }
  }
}

TEST_F(GrafanaTest, GapsAreShaded) {
  Connection owner(postgres->Conninfo(database_));
  Connection reader(postgres->Conninfo(database_, "ctacct_reader"));
  for (const char* const name : {"traffic.json", "names.json", "health.json"}) {
    SCOPED_TRACE(name);
    const json dashboard = Load(name);
    ASSERT_EQ(dashboard["annotations"]["list"].size(), 1u);
    const json& annotation = dashboard["annotations"]["list"][0];
    EXPECT_EQ(annotation["enable"], true);
    for (const GrafanaView& view : Views(dashboard, {{}, {{"gateway", {"west's gate"}}}})) {
      Check(owner, reader, view, annotation["rawQuery"], json::object(),
            WithView(kExpectedGaps, view));
      if (HasFatalFailure()) return;
    }
    // The names that Grafana looks for.
    const absl::StatusOr<std::string> sql =
        ExpandGrafanaSql(annotation["rawQuery"], Views(dashboard, {{}})[0]);
    ASSERT_TRUE(sql.ok());
    const absl::StatusOr<Table> table = reader.Query(*sql);
    ASSERT_TRUE(table.ok());
    const char* const names[] = {"time", "timeend", "text", "tags"};
    ASSERT_EQ(table->columns.size(), std::size(names));
    for (size_t i = 0; i < std::size(names); ++i) EXPECT_EQ(table->columns[i].name, names[i]);
  }
  EXPECT_EQ(filled_, 3u * 4 * 2);
}

TEST_F(GrafanaTest, VariablesOfferWhatTheRangeHolds) {
  const std::map<std::string, std::pair<std::string, std::string>> columns = {
      {"gateway", {"gateway", "gateway"}},
      {"origin", {"host(src)", "src"}},
      {"destination", {"host(dst)", "dst"}},
      {"protocol", {"proto", "proto"}},
      {"port", {"port::text", "port"}}};
  Connection owner(postgres->Conninfo(database_));
  Connection reader(postgres->Conninfo(database_, "ctacct_reader"));
  ASSERT_NO_FATAL_FAILURE(CreateTable(owner, "named", kNamedRows));
  for (const std::string name : {"traffic.json", "names.json", "health.json"}) {
    const json dashboard = Load(name);
    const bool by_name = name == "names.json";
    for (const json& variable : dashboard["templating"]["list"]) {
      SCOPED_TRACE(absl::StrCat(name, " ", variable.value("name", "")));
      // All is no list of everything there is: it may be long, and asks for a larger rollup.
      EXPECT_TRUE(variable["multi"] == true && variable["includeAll"] == true);
      EXPECT_NE(variable.value("allValue", ""), "");
      EXPECT_EQ(variable["current"]["value"], json::array({"$__all"}));
      EXPECT_EQ(variable["refresh"], 2) << "must follow the time range";
      if (variable["datasource"]["type"] != "postgres") continue;
      EXPECT_EQ(variable["query"], variable["definition"]);
      const auto& [shown, column] = columns.at(variable["name"]);
      for (const GrafanaView& view : Views(dashboard, {{}})) {
        MakeFacts(owner, view, column, by_name);
        if (HasFatalFailure()) return;
        Check(
            owner, reader, view, variable["query"], json::object(),
            by_name && (column == "src" || column == "dst")
                ? absl::Substitute("SELECT $0_name FROM whole GROUP BY $0_name ORDER BY $0_name",
                                   column)
                : absl::Substitute("SELECT $0 FROM whole GROUP BY $1 ORDER BY $1", shown, column));
        if (HasFatalFailure()) return;
      }
    }
  }
  EXPECT_EQ(filled_, 11u * 4);
}

// In the style of the Go tool's dashboards: on the table itself, quoted ports and all.
TEST_F(GrafanaTest, OldDashboardsStillWork) {
  const std::string filter =
      "WHERE $__timeFilter(time) AND src IN ('10.32.1.0', '10.32.2.0') AND proto IN ('tcp', "
      "'sctp') AND port IN ('80','443') ";
  const std::string same =
      "WHERE time >= FROM_TIME AND time <= TO_TIME AND src <<= '10.32.0.0/16' AND "
      "host(src) IN ('10.32.1.0', '10.32.2.0') AND proto IN ('sctp', 'tcp') AND "
      "(port = 80 OR port = 443) ";
  const std::pair<std::string, std::string> queries[] = {
      {"SELECT $__timeGroup(time,'15s'), sum(src_bytes) AS src, sum(dst_bytes) AS dst FROM "
       "vpn_traffic " +
           filter + "GROUP BY 1 ORDER BY 1",
       "SELECT extract(epoch FROM date_bin('15 s', time, 'epoch')), sum(src_bytes), "
       "sum(dst_bytes) FROM vpn_traffic " +
           same + "GROUP BY 1 ORDER BY 1"},
      {"SELECT $__timeGroupAlias(time,$__interval), src AS metric, 8 * sum(src_bytes) / 15 AS bits "
       "FROM vpn_traffic " +
           filter + "GROUP BY 1, 2 ORDER BY 1, 2",
       "SELECT extract(epoch FROM date_bin('WIDTH s', time, 'epoch')), src, "
       "sum(src_bytes) * 8 / 15 FROM vpn_traffic " +
           same + "GROUP BY 1, 2 ORDER BY 1, 2"},
      {"SELECT src, sum(src_packets + dst_packets) AS packets FROM vpn_traffic " + filter +
           "GROUP BY src ORDER BY 2 DESC LIMIT 10",
       "SELECT src, sum(src_packets) + sum(dst_packets) FROM vpn_traffic " + same +
           "GROUP BY src ORDER BY 2 DESC"},
      {"SELECT $__time(time), sum(connection_times) / sum(connection_count) / 1000.0 AS average, "
       "sum(open_connections) AS open FROM vpn_traffic " +
           filter +
           "AND connection_count > 0 "
           "GROUP BY time ORDER BY time",
       "SELECT time, sum(connection_times) / (sum(connection_count) * 1000), "
       "sum(open_connections) FROM vpn_traffic " +
           same + "AND connection_count > 0 GROUP BY time ORDER BY time"},
      {"SELECT DISTINCT src FROM vpn_traffic ORDER BY 1",
       "SELECT src FROM vpn_traffic GROUP BY src ORDER BY 1"},
      {"SELECT DISTINCT port FROM vpn_traffic WHERE proto = 'tcp' ORDER BY 1",
       "SELECT port FROM vpn_traffic WHERE proto = 'tcp' GROUP BY port ORDER BY 1"},
  };
  Connection owner(postgres->Conninfo(database_));
  Connection reader(postgres->Conninfo(database_, "ctacct_reader"));
  for (const GrafanaView& view : Views(Load("traffic.json"), {{}})) {
    for (const auto& [old, other] : queries) {
      Check(owner, reader, view, old, json::object(), WithView(other, view));
      if (HasFatalFailure()) return;
    }
  }
  EXPECT_EQ(filled_, 4 * std::size(queries));
}

// traffic() itself at the edges of the document's rule, against sums over the rows in the test.
class PointsTest : public ImporterTest {
 protected:
  struct Row {
    absl::Time time;
    std::map<std::string, bool> first;  // Whether it has the column's first value.
    int64_t bytes = 0;
    int64_t open = 0;
  };
  // Columns to group by, and columns to filter by, each for its first value.
  struct Columns {
    std::string by;
    std::vector<std::string> filters;
  };

  void SetUp() override {
    ImporterTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    const absl::StatusOr<std::vector<DocumentedRollups>> rollups =
        ReadDocumentedRollups(Text("docs/database.md"));
    ASSERT_TRUE(rollups.ok()) << rollups.status();
    rollups_ = *rollups;
  }

  // With one of two values in each column. It is expected in the database.
  TrafficRow MakeRow(absl::Time time) {
    const bool src = random_() % 2 == 0, dst = random_() % 2 == 0, proto = random_() % 2 == 0,
               port = random_() % 2 == 0;
    TrafficRow row;
    row.time_ns = absl::ToUnixNanos(time);
    row.src = {10, 32, static_cast<uint8_t>(src ? 1 : 2), 0};
    row.dst = {10, 33, static_cast<uint8_t>(dst ? 1 : 2), 0};
    row.protocol = proto ? 6 : 17;
    row.port = port ? 80 : 443;
    row.packets_src = 1;
    row.bytes_src = random_() % (uint64_t{1} << 32);
    row.open_connections = random_() % 100;
    rows_.push_back({time,
                     {{"src", src}, {"dst", dst}, {"proto", proto}, {"port", port}},
                     static_cast<int64_t>(row.bytes_src),
                     static_cast<int64_t>(row.open_connections)});
    return row;
  }

  // A row at each moment, of a CSV file.
  void Load(const std::set<absl::Time>& times) {
    std::string text;
    for (const absl::Time time : times) AppendCsvLine(MakeRow(time), true, &text);
    WriteFile(watch_ + "/traffic_1.csv", text);
    const Finished run = Run({"-watch=" + watch_, "-once", "-gateway=gw1"});
    ASSERT_TRUE(run.exit.ok()) << run.err;
  }

  // Each point: its end, in microseconds, the bytes, and the seconds that a rate is over.
  std::string Expected(const Question& question, const Columns& columns) {
    const absl::StatusOr<Points> points = DocumentedPoints(rollups_, question);
    EXPECT_TRUE(points.ok()) << points.status();
    if (!points.ok()) return "";
    absl::Time newest = absl::InfinitePast();
    std::map<absl::Time, int64_t> bytes;
    for (const Row& row : rows_) {
      if (row.time <= points->lower || row.time > points->upper) continue;
      newest = std::max(newest, row.time);
      if (!std::all_of(columns.filters.begin(), columns.filters.end(),
                       [&](const std::string& column) { return row.first.at(column); })) {
        continue;
      }
      const absl::Time end =
          question.step.has_value()
              ? absl::UnixEpoch() + absl::Ceil(row.time - absl::UnixEpoch(), points->width)
              : points->upper;
      bytes[end] += row.bytes;
    }
    std::string text;
    for (const auto& [end, sum] : bytes) {
      const absl::Duration length = std::min(end, newest) - (end - points->width);
      absl::StrAppend(&text, text.empty() ? "" : "\n", absl::ToUnixMicros(end), "|", sum, "|",
                      absl::ToInt64Microseconds(length), "|1");
    }
    return text;
  }

  std::string Said(const Question& question, const Columns& columns) {
    std::string filters;
    for (const std::string& column : columns.filters) {
      absl::StrAppend(&filters, ", ", column, "s => '{", kFirst.at(column), "}'");
    }
    return Sql(absl::Substitute(
        "SELECT (extract(epoch FROM time) * 1000000)::bigint, sum(src_bytes)::bigint, "
        "round(max(seconds) * 1000000)::bigint, count(DISTINCT seconds) "
        "FROM traffic($0, $1, $2, '{$3}'$4) GROUP BY time ORDER BY time",
        Moment(question.from), Moment(question.to),
        question.step.has_value() ? absl::StrCat("'", absl::ToInt64Seconds(*question.step), " s'")
                                  : "NULL",
        columns.by, filters));
  }

  void Compare(Question question, const Columns& columns) {
    question.columns = absl::StrSplit(columns.by, ',', absl::SkipEmpty());
    question.columns.insert(columns.filters.begin(), columns.filters.end());
    const std::string said = Said(question, columns);
    ASSERT_EQ(said, Expected(question, columns))
        << absl::FormatTime(question.from, absl::UTCTimeZone()) << ", "
        << question.to - question.from << ", step " << question.step.value_or(absl::ZeroDuration())
        << ", by " << columns.by << ", filters " << absl::StrJoin(columns.filters, ",");
    if (!said.empty()) ++compared_;
  }

  // The open connections of all rows, of one gateway: on average over the intervals of the range.
  void CompareOpen(const Question& question) {
    const absl::StatusOr<Points> points = DocumentedPoints(rollups_, question);
    ASSERT_TRUE(points.ok()) << points.status();
    double open = 0, intervals = 0;
    for (const Row& row : rows_) {
      if (row.time <= points->lower || row.time > points->upper) continue;
      open += row.open;
      ++intervals;
    }
    ASSERT_GT(intervals, 0);
    double said = 0;
    ASSERT_TRUE(absl::SimpleAtod(
        Sql(absl::Substitute("SELECT open_connections FROM traffic_open_connections($0, $1)",
                             Moment(question.from), Moment(question.to))),
        &said));
    ASSERT_NEAR(said, open / intervals, 1e-9) << question.to - question.from;
  }

  const std::map<std::string, std::string> kFirst = {
      {"src", "10.32.1.0"}, {"dst", "10.33.1.0"}, {"proto", "tcp"}, {"port", "80"}};
  const std::vector<Columns> kColumns = {{"", {}},
                                         {"gateway", {}},
                                         {"src", {}},
                                         {"", {"src"}},
                                         {"dst", {}},
                                         {"proto", {}},
                                         {"", {"port"}},
                                         {"src,dst", {}},
                                         {"src", {"dst"}},
                                         {"src", {"port"}},
                                         {"dst,proto", {}},
                                         {"src,dst", {"proto"}},
                                         {"src,dst,port", {}},
                                         {"dst", {"src", "proto"}}};
  std::vector<DocumentedRollups> rollups_;
  std::vector<Row> rows_;
  std::mt19937_64 random_{3};
  size_t compared_ = 0;  // Questions that had an answer.
};

TEST_F(PointsTest, TheDocumentHasEveryRollup) {
  ASSERT_TRUE(Run({"-watch=" + watch_, "-once"}).exit.ok());
  std::set<std::string> documented;
  for (const DocumentedRollups& line : rollups_) {
    // Sorted, as they are in `columns`.
    for (const auto& [step, range_max] : line.range_max) {
      documented.insert(absl::StrCat(
          absl::StrJoin(line.columns, ","), "|",
          step == kIntervalStep ? 1 : absl::ToInt64Microseconds(step), "|",
          range_max == absl::InfiniteDuration() ? 1'000'000 * 24 : absl::ToInt64Hours(range_max)));
    }
  }
  const std::string held =
      Sql("SELECT (SELECT string_agg(name, ',' ORDER BY name COLLATE \"C\") "
          "FROM unnest(grouping_columns) AS name), (extract(epoch FROM step) * 1000000)::bigint, "
          "(extract(epoch FROM range_max) / 3600)::bigint FROM traffic_rollups");
  EXPECT_THAT(documented, ::testing::UnorderedElementsAreArray(
                              std::vector<std::string>(absl::StrSplit(held, '\n'))));
}

TEST_F(PointsTest, AreAsDocumented) {
  const absl::Duration second = absl::Seconds(1), minute = absl::Minutes(1), hour = absl::Hours(1);
  // A whole hour, and a moment within an interval.
  const absl::Time ends[] = {absl::FromUnixSeconds(1'699'999'200),
                             absl::FromUnixSeconds(1'699'999'207)};
  // The longest ranges of the rollups, and ranges of which a 48th is a step; each a second on.
  std::vector<absl::Duration> ranges;
  for (const absl::Duration range :
       {48 * minute, 3 * hour, 8 * hour, 16 * hour, 48 * hour, 14 * 24 * hour, 30 * 24 * hour}) {
    ranges.push_back(range - second);
    ranges.push_back(range);
    ranges.push_back(range + second);
  }
  const std::vector<std::optional<absl::Duration>> steps = {
      std::nullopt, 15 * second, 20 * second, 60 * second, 61 * second,
      10 * minute,  29 * minute, 30 * minute, hour,        90 * minute};
  // Rows on both sides of, and at, whatever may be an edge.
  std::set<absl::Time> times;
  for (const absl::Time end : ends) {
    for (const absl::Duration range : ranges) {
      for (const absl::Time edge : {end - range, end}) {
        for (const absl::Duration width : {15 * second, 30 * second, minute, 2 * minute,
                                           10 * minute, 30 * minute, hour, 90 * minute, 2 * hour}) {
          const absl::Time at = absl::UnixEpoch() + absl::Floor(edge - absl::UnixEpoch(), width);
          for (const absl::Time step : {at - width, at, at + width}) {
            for (const int64_t shift_us : {-1, 0, 1}) {
              times.insert(step + absl::Microseconds(shift_us));
            }
          }
        }
      }
    }
  }
  ASSERT_NO_FATAL_FAILURE(Load(times));
  // All of them take minutes: some, not always of the same columns.
  size_t number = 0;
  for (const absl::Time end : ends) {
    for (const absl::Duration range : ranges) {
      ASSERT_NO_FATAL_FAILURE(
          CompareOpen({end - range, end, std::nullopt, {}, /*interval=*/15 * second}));
      for (const auto& step : steps) {
        for (const Columns& columns : kColumns) {
          if (number++ % 9 != 0) continue;
          Question question{end - range, end, step, {}, /*interval=*/15 * second};
          ASSERT_NO_FATAL_FAILURE(Compare(question, columns));
        }
      }
    }
  }
  EXPECT_GT(compared_, number / 10);
}

TEST_F(PointsTest, AreCoarserWhereRetentionHasDroppedTheFineOnes) {
  const absl::Time midnight = absl::FromUnixSeconds(1'699'920'000);
  std::set<absl::Time> times;
  for (int64_t i = -200; i <= 200; ++i) times.insert(midnight + i * absl::Seconds(55));
  ASSERT_NO_FATAL_FAILURE(Load(times));
  Question question;
  question.interval = absl::Seconds(15);
  for (const std::string tier : {"fine", "10m"}) {
    while (!Sql(absl::StrCat("SELECT * FROM traffic_drop_partition('", tier, "', ",
                             Moment(midnight), ")"))
                .empty()) {
    }
    (tier == "fine" ? question.fine_from : question.ten_minutes_from) = midnight;
    for (const absl::Duration from : {-absl::Hours(1), -absl::Seconds(1), absl::ZeroDuration(),
                                      absl::Seconds(1), absl::Hours(1)}) {
      question.from = midnight + from;
      question.to = question.from + absl::Hours(2);
      for (const auto& step : std::vector<std::optional<absl::Duration>>{
               std::nullopt, absl::Seconds(15), absl::Minutes(1), absl::Minutes(30)}) {
        question.step = step;
        for (const Columns& columns : kColumns) ASSERT_NO_FATAL_FAILURE(Compare(question, columns));
      }
    }
  }
  EXPECT_GT(compared_, 400u);
}

TEST_F(PointsTest, AreNotShorterThanTheLongestInterval) {
  // Of one gateway each 15 s, more than the newest that count; before, of another one, minutes.
  const absl::Time newest = absl::FromUnixSeconds(1'700'000'085);
  std::map<absl::Time, absl::Duration> intervals;  // Their lengths, by their ends.
  for (int64_t i = 0; i < 210; ++i) {
    intervals[newest - i * absl::Seconds(15)] = absl::Seconds(15);
  }
  const absl::Time older = absl::UnixEpoch() + absl::Floor(intervals.begin()->first -
                                                               absl::Seconds(1) - absl::UnixEpoch(),
                                                           absl::Minutes(1));
  for (int64_t i = 0; i < 20; ++i) intervals[older - i * absl::Minutes(1)] = absl::Minutes(1);
  uint64_t sequence = 0;
  for (const auto& [end, length] : intervals) {
    SpoolHeader header = MakeHeader(++sequence);
    header.gateway = length == absl::Minutes(1) ? "gw2" : "gw1";
    header.interval_end_ns = header.created_ns = absl::ToUnixNanos(end);
    header.interval_length_ns = absl::ToInt64Nanoseconds(length);
    ASSERT_TRUE(WriteSpoolFile(watch_, header, {MakeRow(end)}).ok());
  }
  const Finished run = Drain();
  ASSERT_TRUE(run.exit.ok()) << run.err;
  std::set<absl::Duration> longest;
  for (const absl::Duration age :
       {-absl::Minutes(1), absl::ZeroDuration(), absl::Seconds(15) * 9, absl::Seconds(15) * 10,
        absl::Seconds(15) * 11, absl::Minutes(30), absl::Minutes(52), absl::Minutes(60)}) {
    for (const absl::Duration range :
         {absl::Seconds(15) * 200, absl::Minutes(50) + absl::Seconds(59), absl::Hours(1),
          absl::Hours(2)}) {
      for (const auto& step : std::vector<std::optional<absl::Duration>>{
               std::nullopt, absl::Seconds(15), absl::Seconds(90)}) {
        Question question{newest - age - range, newest - age, step, {}, absl::Seconds(15)};
        size_t files = 0;
        for (auto file = intervals.rbegin(); file != intervals.rend() && files < 200; ++file) {
          if (file->first <= question.from || file->first > question.to) continue;
          ++files;
          question.interval = std::max(question.interval, file->second);
        }
        longest.insert(question.interval);
        ASSERT_NO_FATAL_FAILURE(Compare(question, {"", {}}));
        ASSERT_NO_FATAL_FAILURE(Compare(question, {"src", {}}));
      }
    }
  }
  EXPECT_EQ(longest.size(), 2u);
}

class DashboardTest : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(All, DashboardTest,
                         ::testing::Values("traffic.json", "names.json", "health.json"));

TEST_P(DashboardTest, IsInOrder) {
  const json dashboard = Load(GetParam());
  const std::string sources = Text("configs/grafana/provisioning/datasources/ctacct.yaml");
  EXPECT_THAT(dashboard.value("uid", ""), ::testing::StartsWith("ctacct-"));
  EXPECT_NE(dashboard.value("description", ""), "");
  EXPECT_TRUE(dashboard["id"].is_null()) << "that of somebody's own Grafana";
  const auto check_source = [&](const json& source) {
    const std::string uid = source.value("uid", "none");
    EXPECT_THAT(sources, HasSubstr(absl::StrCat(
                             "uid: ", uid, "\n    type: ", source.value("type", "none"), "\n")));
  };
  const std::set<std::string> units = {"short", "decbytes", "Bps", "bps",        "pps",
                                       "cps",   "ms",       "s",   "percentunit"};
  std::set<int> ids;
  std::set<std::string> titles;
  std::set<std::pair<int, int>> cells;
  for (const json& panel : dashboard["panels"]) {
    const std::string title = panel.value("title", "");
    SCOPED_TRACE(title);
    EXPECT_TRUE(titles.insert(title).second);
    EXPECT_TRUE(ids.insert(panel.value("id", 0)).second);
    const json& at = panel["gridPos"];
    EXPECT_LE(at.value("x", 0) + at.value("w", 0), 24);
    for (int x = at.value("x", 0); x < at.value("x", 0) + at.value("w", 0); ++x) {
      for (int y = at.value("y", 0); y < at.value("y", 0) + at.value("h", 0); ++y) {
        ASSERT_TRUE(cells.emplace(x, y).second) << "covers another panel";
      }
    }
    const std::string type = panel.value("type", "");
    if (type == "row") continue;
    EXPECT_TRUE(type == "timeseries" || type == "stat" || type == "table") << type;
    EXPECT_GT(panel.value("description", "").size(), 20u);
    EXPECT_EQ(units.count(panel["fieldConfig"]["defaults"].value("unit", "")), 1u);
    check_source(panel["datasource"]);
    const bool sql = panel["datasource"]["type"] == "postgres";
    // Of SQL one query a panel: the tests hold its result against one other.
    ASSERT_TRUE(sql ? panel["targets"].size() == 1 : !panel["targets"].empty());
    std::set<std::string> references;
    for (const json& target : panel["targets"]) {
      EXPECT_EQ(target["datasource"], panel["datasource"]);
      EXPECT_TRUE(references.insert(target.value("refId", "")).second);
      if (!sql) continue;
      EXPECT_EQ(target["rawQuery"], true);
      EXPECT_EQ(target["format"], type == "timeseries" ? "time_series" : "table");
      // The rows are for questions that no rollup answers, and none of a dashboard is.
      EXPECT_THAT(target.value("rawSql", ""), ::testing::Not(HasSubstr("vpn_traffic")));
    }
  }
  EXPECT_GE(titles.size(), 8u);
  for (const json& variable : dashboard["templating"]["list"]) check_source(variable["datasource"]);
  for (const json& annotation : dashboard["annotations"]["list"]) {
    check_source(annotation["datasource"]);
  }
}

TEST(GrafanaQueryTest, ExpandsAsDocumented) {
  GrafanaView view;
  view.from = absl::FromUnixSeconds(1'700'000'000);
  view.to = absl::FromUnixMillis(1'700'000'100'250);
  view.interval = absl::Minutes(2);
  view.variables["all"] = {"NULL", std::nullopt};
  view.variables["two"] = {"NULL", std::vector<std::string>{"a", "it's"}};
  const std::pair<const char*, const char*> cases[] = {
      {"ARRAY[${all:sqlstring}]", "ARRAY[NULL]"},
      {"ARRAY[${two:sqlstring}]", "ARRAY['a','it''s']"},
      {"$__interval $__interval_ms", "2m 120000"},
      {"$__timeFrom() $__timeTo()", "'2023-11-14T22:13:20Z' '2023-11-14T22:15:00.25Z'"},
      {"$__timeFilter(a.b)", "a.b BETWEEN '2023-11-14T22:13:20Z' AND '2023-11-14T22:15:00.25Z'"},
      {"$__timeGroup(t, $__interval)", "floor(extract(epoch from t)/120)*120"},
      {"$__timeGroup(t,'15s'), x", "floor(extract(epoch from t)/15)*15 AS \"time\", x"},
      {"$__timeGroupAlias(t,'1h')", "floor(extract(epoch from t)/3600)*3600 AS \"time\""},
      {"$__time(t)", "t AS \"time\""},
  };
  for (const auto& [sql, expanded] : cases) {
    const absl::StatusOr<std::string> is = ExpandGrafanaSql(sql, view);
    ASSERT_TRUE(is.ok()) << is.status();
    EXPECT_EQ(*is, expanded);
  }
  for (const char* const bad : {"$unknown", "${unknown:sqlstring}", "${two}", "$two", "${two:csv}",
                                "[[two]]", "$__unknown(t)", "$__unknown", "$__timeFilter()",
                                "$__timeGroup(t)", "$__timeGroup(t, 'often')"}) {
    EXPECT_FALSE(ExpandGrafanaSql(bad, view).ok()) << bad;
  }
}

// The two alarms of docs/database.md, as they stand there.
class AlarmTest : public ImporterTest {
 protected:
  void SetUp() override {
    ImporterTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    const std::string document = Text("docs/database.md");
    const size_t section = document.find("## Who scans, and what is down");
    ASSERT_NE(section, std::string::npos);
    const std::string fence = "```sql\n";
    const size_t begin = document.find(fence, section) + fence.size();
    const std::vector<std::string> statements =
        absl::StrSplit(document.substr(begin, document.find("```", begin) - begin), ";\n");
    ASSERT_EQ(statements.size(), 3U);  // Nothing follows the second.
    scans_ = statements[0];
    is_down_ = statements[1];
  }

  // An interval that has just ended, in which these flows ended.
  void Load(const std::vector<std::array<uint64_t, 4>>& src_dst_flows_unanswered) {
    const TrafficRow any = MakeRows(1, 1)[0];
    SpoolHeader header = MakeHeader(1);
    header.interval_end_ns = absl::ToUnixNanos(absl::Now()) / kIntervalNs * kIntervalNs;
    header.created_ns = header.interval_end_ns;
    std::vector<TrafficRow> rows;
    for (const auto& [src, dst, flows, unanswered] : src_dst_flows_unanswered) {
      TrafficRow row = any;
      row.time_ns = header.interval_end_ns;
      row.protocol = 6;
      row.port = 80;
      row.src = {10, 32, 0, static_cast<uint8_t>(src)};
      row.dst = {10, 33, 0, static_cast<uint8_t>(dst)};
      row.flow_count = flows;
      row.unanswered_count = unanswered;
      rows.push_back(row);
    }
    ASSERT_TRUE(WriteSpoolFile(watch_, header, rows).ok());
    ASSERT_TRUE(Drain().exit.ok());
  }

  std::string scans_, is_down_;
};

TEST_F(AlarmTest, SoundTrafficRaisesNone) {
  Load({{1, 1, 5000, 999}, {2, 2, 19, 19}, {3, 3, 100, 50}});
  EXPECT_EQ(Sql(scans_), "");
  EXPECT_EQ(Sql(is_down_), "");
}

TEST_F(AlarmTest, AScanAndAServiceThatIsDownAreNamed) {
  Load({{1, 1, 5000, 999}, {1, 2, 1, 1}, {2, 3, 20, 11}, {3, 3, 3, 2}});
  EXPECT_EQ(Sql(scans_), "10.32.0.1|1000");
  EXPECT_EQ(Sql(is_down_), "10.33.0.3|tcp/80|13");
  // Grafana takes a table with one column of numbers; the others are labels.
  for (const std::string& alarm : {scans_, is_down_}) {
    Sql("DROP VIEW IF EXISTS alarm; CREATE VIEW alarm AS " + alarm);
    EXPECT_EQ(Sql("SELECT count(*) FROM information_schema.columns WHERE table_name = 'alarm' AND "
                  "data_type <> 'text'"),
              "1");
  }
}

}  // namespace
}  // namespace ctacct
