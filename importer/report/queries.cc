#include "importer/report/queries.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "importer/postgres/pg_connection.h"
#include "importer/tables/schema_rights.h"

namespace ctacct {
namespace {

#include "importer/report/queries.inc"

constexpr absl::Duration kRangeDefault = absl::Hours(24);
// No more points than a wide chart has pixels, and fewer if each of the busiest has its own.
constexpr int kPointsMax = 600;
constexpr int kPointsOfManyMax = 240;
// The page's filters: (top + 1)^3 cells at most for each point, which make a page of a day half as
// large again.
constexpr int kPointsOfCrossMax = 12;
constexpr char kCross[] = "cross";
// It reads all keys of the largest rollup: these take some seconds.
constexpr char kCrossKeysMax[] = "700000";
// Longer than any question has taken in a season of 100 million rows; the role's own, shorter one
// is meant for dashboards that ask many at once.
constexpr char kBegin[] =
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '2min'; "
    "SET LOCAL datestyle = 'ISO'";

struct Query {
  const char* name;                        // In the page's data.
  const char* sql;                         // Follows common.sql; its answer is one JSON value.
  const char* columns;                     // What it groups by, as an array literal of SQL.
  int points_max;                          // Over time; 0: one sum of the whole range.
  const char* columns_of_names = nullptr;  // With -names, instead.
  const char* before = "";                 // Stands between common.sql and `sql`.
};

constexpr Query kQueries[] = {
    {"asked", kAskedSql, "{}", 0, "{src_name,dst_name}"},
    {"total", kTotalSql, "{}", kPointsMax},
    {"origins", kBusiestSql, "{src}", kPointsOfManyMax, "{src_name,src}"},
    {"destinations", kBusiestSql, "{dst}", kPointsOfManyMax, "{dst_name,dst}"},
    {"ports", kBusiestSql, "{proto,port}", kPointsOfManyMax},
    {"pairs", kPairsSql, "{src,dst}", 0, "{src_name,dst_name}"},
    {"masks", kMasksSql, "{src,dst}", 0},
    {"unanswered", kUnansweredSql, "{src,dst}", 0},
    {"services", kServicesSql, "{dst,proto,port}", 0},
    {"gateways", kGatewaysSql, "{gateway}", 0, nullptr, kExpectedSql},
    {"gaps", kGapsSql, "{gateway}", 0, nullptr, kExpectedSql},
    {kCross, kCrossSql, "{src,dst,proto,port}", kPointsOfCrossMax,
     "{src_name,dst_name,proto,port}"},
};
// What the page lists, and so can be filtered by.
constexpr absl::string_view kListed[] = {"origins", "destinations", "ports"};

// A table for other programs: what is asked for the page, or sums, with a name for each column.
struct Table {
  const char* name;
  Query query;
  // Of the page's queries: an array in the answer, and what is where in its elements.
  const char* array = nullptr;
  const char* columns = nullptr;
  // Of sums: expressions and names of their keys, the names of all others, and where an address is.
  const char* keys = nullptr;
  const char* names = nullptr;
  const char* others = nullptr;
  const char* address = nullptr;
};

constexpr Table kTables[] = {
    {"total",
     {"total", kTotalSql, "{}", kPointsMax},
     "points",
     "9 time began, 0 time ended, 1 number seconds, 2 count src_bytes, 3 count dst_bytes, 4 count src_packets, "
     "5 count dst_packets, 6 count connection_count, 7 count connection_times, 8 number open_connections, "
     "10 count unlisted_bytes"},
    {"origins",
     {"origins", kSumsSql, "{src}", 0, "{src_name,src}"},
     nullptr,
     nullptr,
     "coalesce(src_name, host(src)) AS origin",
     "origin",
     "'(others)'",
     "host(src)"},
    {"destinations",
     {"destinations", kSumsSql, "{dst}", 0, "{dst_name,dst}"},
     nullptr,
     nullptr,
     "coalesce(dst_name, host(dst)) AS destination",
     "destination",
     "'(others)'",
     "host(dst)"},
    {"ports",
     {"ports", kSumsSql, "{proto,port}", 0},
     nullptr,
     nullptr,
     "proto, port",
     "proto, port",
     "'(others)', NULL::integer"},
    {"pairs",
     {"pairs", kSumsSql, "{src,dst}", 0, "{src_name,dst_name}"},
     nullptr,
     nullptr,
     "coalesce(src_name, host(src)) AS origin, coalesce(dst_name, host(dst)) AS destination",
     "origin, destination",
     "'(others)', NULL"},
    {"unanswered",
     {"unanswered", kUnansweredSql, "{src,dst}", 0},
     "origins",
     "0 text origin, 1 count flow_count, 2 count unanswered_count, 3 count destinations"},
    {"services",
     {"services", kServicesSql, "{dst,proto,port}", 0},
     "services",
     "0 text destination, 1 text service, 2 count flows_before, 3 count unanswered_before, "
     "4 count flows_last, 5 count unanswered_last"},
    {"gateways",
     {"gateways", kGatewaysSql, "{gateway}", 0, nullptr, kExpectedSql},
     "gateways",
     "0 text gateway, 1 count src_bytes, 2 count dst_bytes, 3 count src_packets, 4 count dst_packets, "
     "7 count intervals, 16 count intervals_expected, 8 count resynced, 9 count partial, 10 count events_dropped, "
     "11 count flows_lost, 12 number seconds, 14 time newest, 15 time silent_since, 17 count unlisted_bytes"},
    {"gaps",
     {"gaps", kGapsSql, "{gateway}", 0, nullptr, kExpectedSql},
     "gaps",
     "0 text gateway, 1 time began, 2 time ended, 3 text text"},
    {kRowsTable, {"rows", kRowsSql, "{src,dst}", 0}},
};

constexpr int kRowsMax = 1'000'000;  // As many as rows.sql returns, but one.

struct Range {
  absl::Time from;
  absl::Time to;
};

// `held`: the range that the database has data of; none without any data. The end of the default
// range is the present, so that silence is seen; of what is older than a day, its end.
Range MakeRange(const ReportConfig& config, const std::optional<Range>& held) {
  const absl::Time now = absl::Now();
  Range range;
  if (config.to.has_value()) {
    range.to = config.to->time.value_or(now - config.to->before);
  } else {
    const bool old = held.has_value() && (held->to < now - kRangeDefault || held->to > now);
    range.to = old && !config.check ? held->to : now;
  }
  if (config.from.has_value()) {
    range.from = config.from->time.value_or(range.to - config.from->before);
  } else {
    range.from = range.to - kRangeDefault;
    // Silence is part of the answer.
    if (held.has_value() && held->from < range.to && !config.check) {
      range.from = std::max(range.from, held->from);
    }
  }
  range.from = std::clamp(range.from, absl::UnixEpoch(), kReportTimeMax);
  range.to = std::clamp(range.to, absl::UnixEpoch(), kReportTimeMax);
  return range;
}

bool IsMidnight(absl::Time time, const absl::TimeZone& zone) {
  const absl::CivilSecond local = absl::ToCivilSecond(time, zone);
  return local == absl::CivilSecond(absl::CivilDay(local));
}

// Width of a point: a round one, so that the range has at most `points_max` points. Points are
// whole where that is possible with twice as many points, or with days: then they do not pass the
// range.
std::string PointWidth(const Range& range, int points_max, const absl::TimeZone& zone) {
  constexpr int64_t kSeconds[] = {1,   5,    15,   30,   60,     120,    300,
                                  600, 1800, 3600, 7200, 14'400, 21'600, 43'200};
  // Of the time zone.
  constexpr std::pair<int64_t, const char*> kCalendar[] = {
      {86'400, "1 day"}, {604'800, "7 days"}, {2'592'000, "1 month"}, {7'776'000, "3 months"}};
  const int64_t wanted = absl::ToInt64Seconds(range.to - range.from) / points_max;
  const auto is_whole = [&](int64_t seconds) {
    return absl::ToUnixMillis(range.from) % (seconds * 1000) == 0 &&
           absl::ToUnixMillis(range.to) % (seconds * 1000) == 0;
  };
  int64_t whole = 0;
  for (const int64_t seconds : kSeconds) {
    if (2 * seconds >= wanted && is_whole(seconds)) whole = seconds;
    if (seconds < wanted) continue;
    if (whole == 0 && IsMidnight(range.from, zone) && IsMidnight(range.to, zone)) return "1 day";
    return absl::StrCat(whole == 0 ? seconds : whole, " s");
  }
  for (const auto& [seconds, step] : kCalendar) {
    if (seconds >= wanted) return step;
  }
  return "1 year";
}

// The database wrote JSON; within a page it must not end the element that holds it.
std::string EscapedForPage(absl::string_view json) {
  return absl::StrReplaceAll(json, {{"<", "\\u003c"}, {">", "\\u003e"}, {"&", "\\u0026"}});
}

absl::Status CheckTables(PgConnection& connection) {
  const absl::StatusOr<PgResult> present =
      connection.Query("SELECT to_regclass('ctacct_schema'), to_regclass('traffic_rollups')", {});
  if (!present.ok()) return present.status();
  if (PQgetisnull(present->get(), 0, 0) != 0) {
    return absl::FailedPreconditionError(
        "the database has no tables of ctacct (in this user's search_path): the importer makes "
        "them");
  }
  if (PQgetisnull(present->get(), 0, 1) != 0) {
    return absl::FailedPreconditionError(
        "the database's tables are of an older version: a newer importer brings them up to date");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<Range>> AskHeld(PgConnection& connection) {
  const absl::StatusOr<PgResult> ends = connection.Query(kHeldSql, {});
  if (!ends.ok()) return ends.status();
  int64_t first = 0;
  int64_t last = 0;
  if (!absl::SimpleAtoi(PQgetvalue(ends->get(), 0, 0), &first) ||
      !absl::SimpleAtoi(PQgetvalue(ends->get(), 0, 1), &last)) {
    return std::nullopt;  // NULL.
  }
  return Range{absl::FromUnixMillis(first), absl::FromUnixMillis(last)};
}

std::string Rfc3339(absl::Time time) {
  return absl::FormatTime(absl::RFC3339_full, time, absl::UTCTimeZone());
}

// The text of a table's query.
std::string TableSql(const Table& table, const ReportConfig& config) {
  std::string sql = absl::StrCat(kCommonSql, table.query.before, table.query.sql);
  if (table.array != nullptr) {
    const std::string select = absl::StrJoin(
        absl::StrSplit(table.columns, ", "), ", ", [](std::string* out, absl::string_view column) {
          const std::vector<absl::string_view> parts = absl::StrSplit(column, ' ');
          const std::string value = absl::StrCat("e ->> ", parts[0]);
          absl::StrAppend(out,
                          parts[1] == "time"
                              ? absl::StrCat("to_timestamp((", value, ")::float8 / 1000)")
                          : parts[1] == "count"  ? absl::StrCat("(", value, ")::float8::bigint")
                          : parts[1] == "number" ? absl::StrCat("(", value, ")::float8")
                                                 : value,
                          " AS ", parts[2]);
        });
    return absl::StrCat("SELECT ", select, " FROM (", sql,
                        ") AS answer (document), json_array_elements(document -> '", table.array,
                        "') AS e");
  }
  if (table.keys == nullptr) return sql;
  const bool addresses = config.names && table.address != nullptr;
  return absl::StrReplaceAll(
      sql,
      {{"@KEYS@", table.keys},
       {"@GROUPED@", absl::StrContains(table.names, ',') ? "1, 2" : "1"},
       {"@NAMES@", table.names},
       {"@OTHERS@", table.others},
       {"@OVER@", absl::StrCat(config.over)},
       {"@ADDRESSES@",
        addresses ? absl::StrCat("string_agg(DISTINCT ", table.address, ", ' ')") : "NULL::text"},
       {"@ADDRESS_COLUMN@", addresses ? "addresses," : ""}});
}

absl::StatusOr<PgResult> Ask(PgConnection& connection, const std::string& sql, const Query& query,
                             const ReportConfig& config, const Range& range,
                             const char* listed = nullptr) {
  const std::string from = Rfc3339(range.from);
  const std::string to = Rfc3339(range.to);
  const std::string top = absl::StrCat(config.top);
  const std::string step =
      query.points_max == 0 ? "" : PointWidth(range, query.points_max, config.zone);
  const auto or_null = [](const std::optional<std::string>& list) {
    return list.has_value() ? list->c_str() : nullptr;
  };
  return connection.Query(
      sql.c_str(),
      {from.c_str(), to.c_str(), or_null(config.gateways), or_null(config.srcs),
       or_null(config.dsts), or_null(config.protos), or_null(config.ports), top.c_str(),
       step.empty() ? nullptr : step.c_str(),
       config.names && query.columns_of_names != nullptr ? query.columns_of_names : query.columns,
       or_null(config.src_names), or_null(config.dst_names), listed});
}

absl::StatusOr<PgResult> Ask(PgConnection& connection, const Query& query,
                             const ReportConfig& config, const Range& range,
                             const char* listed = nullptr) {
  return Ask(connection, absl::StrCat(kCommonSql, query.before, query.sql), query, config, range,
             listed);
}

// As RFC 4180, with \n.
std::string CsvField(absl::string_view value) {
  if (value.find_first_of(",\"\r\n") == absl::string_view::npos) return std::string(value);
  return absl::StrCat("\"", absl::StrReplaceAll(value, {{"\"", "\"\""}}), "\"");
}

std::string CsvText(const PGresult* result) {
  std::string text;
  for (int row = -1; row < PQntuples(result); ++row) {
    for (int column = 0; column < PQnfields(result); ++column) {
      if (column > 0) text += ',';
      text += CsvField(row < 0 ? PQfname(result, column) : PQgetvalue(result, row, column));
    }
    text += '\n';
  }
  return text;
}

// A transaction of one moment.
struct Session {
  PgConnection connection;
  std::optional<Range> held;
  Range range;
};

absl::StatusOr<Session> OpenSession(const ReportConfig& config) {
  absl::StatusOr<PgConnection> connection = PgConnection::Open(config.database);
  if (!connection.ok()) return connection.status();
  if (absl::Status status = CheckSchemaRights(*connection); !status.ok()) return status;
  if (absl::Status status = connection->Execute(kBegin); !status.ok()) return status;
  const absl::StatusOr<PgResult> zone =
      connection->Query("SELECT set_config('timezone', $1, true)", {config.zone.name().c_str()});
  if (!zone.ok()) return zone.status();
  if (absl::Status status = CheckTables(*connection); !status.ok()) return status;
  const absl::StatusOr<std::optional<Range>> held = AskHeld(*connection);
  if (!held.ok()) return held.status();
  const Range range = MakeRange(config, *held);
  if (range.from >= range.to) {
    return absl::InvalidArgumentError("the range is empty: -from is not before its end");
  }
  return Session{*std::move(connection), *held, range};
}

// Otherwise a pooler would have to close its connection to the server.
absl::Status CloseSession(Session& session) { return session.connection.Execute("COMMIT"); }

absl::StatusOr<bool> HasTooManyKeys(Session& session) {
  const std::string from = Rfc3339(session.range.from);
  const std::string to = Rfc3339(session.range.to);
  const absl::StatusOr<PgResult> count =
      session.connection.Query(kKeysSql, {from.c_str(), to.c_str(), kCrossKeysMax});
  if (!count.ok()) return count.status();
  return absl::string_view(PQgetvalue(count->get(), 0, 0)) == kCrossKeysMax;
}

// A filter by destination that finds too little would miss who is over.
absl::Status CheckQuota(Session& session, const ReportConfig& config) {
  if (!config.dsts.has_value() && !config.dst_names.has_value()) return absl::OkStatus();
  const std::string from = Rfc3339(session.range.from);
  const std::string to = Rfc3339(session.range.to);
  const absl::StatusOr<PgResult> unlisted = session.connection.Query(
      "SELECT FROM traffic_unlisted JOIN traffic_rollups ON name = rollup WHERE '{src,dst}' <@ "
      "grouping_columns AND time > $1 AND time < $2::timestamptz + step AND one_key_bytes > 0 AND "
      "($3::text[] IS NULL OR gateway = ANY ($3)) LIMIT 1",
      {from.c_str(), to.c_str(), config.gateways.has_value() ? config.gateways->c_str() : nullptr});
  if (!unlisted.ok()) return unlisted.status();
  if (PQntuples(unlisted->get()) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "-over with a filter by destination: the rollups of this range do not list all destinations, "
      "so sums would be too small; ask vpn_traffic in SQL (docs/database.md, \"Destinations that do "
      "not come back\")");
}

// An empty table would say that nothing moved.
absl::Status CheckRowsAreKept(Session& session) {
  const absl::StatusOr<PgResult> kept = session.connection.Query(
      "SELECT to_char(kept_from AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM "
      "traffic_tiers WHERE tier = 'rows' AND kept_from > $1",
      {Rfc3339(session.range.from).c_str()});
  if (!kept.ok()) return kept.status();
  if (PQntuples(kept->get()) == 0) return absl::OkStatus();
  const char* const from = PQgetvalue(kept->get(), 0, 0);
  return absl::FailedPreconditionError(absl::StrCat(
      "rows before ", from, " are not kept any longer (-retention-rows): use -from=", from,
      " or later, or another table, which rollups answer"));
}

}  // namespace

absl::StatusOr<std::string> AskPage(const ReportConfig& config) {
  absl::StatusOr<Session> session = OpenSession(config);
  if (!session.ok()) return session.status();
  std::string data = absl::StrCat("{\"generated\":", absl::ToUnixMillis(absl::Now()),
                                  ",\"open\":", config.to.has_value() ? "false" : "true");
  if (session->held.has_value()) {
    absl::StrAppend(&data, ",\"held\":[", absl::ToUnixMillis(session->held->from), ",",
                    absl::ToUnixMillis(session->held->to), "]");
  }
  std::vector<std::string> listed;
  for (const Query& query : kQueries) {
    std::string keys;
    if (absl::string_view(query.name) == kCross) {
      const absl::StatusOr<bool> too_many = HasTooManyKeys(*session);
      if (!too_many.ok()) return too_many.status();
      if (*too_many) continue;
      keys = absl::StrCat("{", absl::StrJoin(listed, ","), "}");
    }
    const absl::StatusOr<PgResult> answer = Ask(session->connection, query, config, session->range,
                                                keys.empty() ? nullptr : keys.c_str());
    if (!answer.ok()) return answer.status();
    if (PQntuples(answer->get()) != 1 || PQnfields(answer->get()) != 1) {
      return absl::FailedPreconditionError(
          "the database's tables are not as this report knows them");
    }
    absl::StrAppend(&data, ",\n\"", query.name,
                    "\":", EscapedForPage(PQgetvalue(answer->get(), 0, 0)));
    if (std::find(std::begin(kListed), std::end(kListed), query.name) != std::end(kListed)) {
      listed.push_back(absl::StrCat("\"", query.name, "\":", PQgetvalue(answer->get(), 0, 0)));
    }
  }
  data += "}";
  if (absl::Status status = CloseSession(*session); !status.ok()) return status;
  return data;
}

bool IsTable(absl::string_view name) {
  return std::any_of(std::begin(kTables), std::end(kTables),
                     [&](const Table& table) { return name == table.name; });
}

std::string TableNames() {
  return absl::StrJoin(kTables, ", ", [](std::string* out, const Table& table) {
    absl::StrAppend(out, table.name);
  });
}

absl::StatusOr<Answer> AskTables(const ReportConfig& config) {
  absl::StatusOr<Session> session = OpenSession(config);
  if (!session.ok()) return session.status();
  Answer answer;
  if (config.format == Format::kJson) {
    answer.text = absl::StrCat("{\"from\":\"", Rfc3339(session->range.from), "\",\"to\":\"",
                               Rfc3339(session->range.to), "\"");
  }
  if (config.over >= 0) {
    if (absl::Status status = CheckQuota(*session, config); !status.ok()) return status;
  }
  if (config.table == kRowsTable) {
    if (absl::Status status = CheckRowsAreKept(*session); !status.ok()) return status;
  }
  for (const Table& table : kTables) {
    // Rows are for those who ask for them: they may be millions.
    if (config.table.empty() ? absl::string_view(table.name) == kRowsTable
                             : config.table != table.name) {
      continue;
    }
    std::string sql = TableSql(table, config);
    if (config.format == Format::kJson) {
      sql = absl::StrCat("SELECT count(*), coalesce(json_agg(answer), '[]') FROM (", sql,
                         ") AS answer");
    }
    const absl::StatusOr<PgResult> result =
        Ask(session->connection, sql, table.query, config, session->range);
    if (!result.ok()) return result.status();
    int64_t count = PQntuples(result->get());
    if (config.format == Format::kJson &&
        !absl::SimpleAtoi(PQgetvalue(result->get(), 0, 0), &count)) {
      return absl::InternalError("count(*) is no number");
    }
    if (count > kRowsMax) {
      return absl::OutOfRangeError(
          absl::StrCat("more than ", kRowsMax, " rows: choose a shorter range, or an origin"));
    }
    answer.found |= config.over >= 0 && count > 0;
    if (config.format == Format::kJson) {
      absl::StrAppend(&answer.text, ",\n\"", table.name, "\":", PQgetvalue(result->get(), 0, 1));
    } else if (config.over < 0 || count > 0) {  // So that cron sends no mail.
      answer.text += CsvText(result->get());
    }
  }
  if (config.format == Format::kJson) answer.text += "}\n";
  if (absl::Status status = CloseSession(*session); !status.ok()) return status;
  return answer;
}

absl::StatusOr<Answer> AskCheck(const ReportConfig& config) {
  absl::StatusOr<Session> session = OpenSession(config);
  if (!session.ok()) return session.status();
  // Not of the range that sums are of: what ends after -to is not missing.
  const std::string expected = absl::StrReplaceAll(
      kExpectedSql, {{"plan.lower", "asked.lower"}, {"plan.upper", "asked.upper"}});
  const absl::StatusOr<PgResult> lines =
      Ask(session->connection, {"check", kCheckSql, "{gateway}", 0, nullptr, expected.c_str()},
          config, session->range);
  if (!lines.ok()) return lines.status();
  Answer answer;
  for (int line = 0; line < PQntuples(lines->get()); ++line) {
    for (const char* byte = PQgetvalue(lines->get(), line, 0); *byte != '\0'; ++byte) {
      answer.text += absl::ascii_iscntrl(static_cast<unsigned char>(*byte)) ? '?' : *byte;
    }
    answer.text += '\n';
    answer.found |= *PQgetvalue(lines->get(), line, 1) == 't';
  }
  if (absl::Status status = CloseSession(*session); !status.ok()) return status;
  return answer;
}

}  // namespace ctacct
