#include "importer/report/queries.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
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
// Longer than any question has taken in a season of 100 million rows; the role's own, shorter one
// is meant for dashboards that ask many at once.
constexpr char kBegin[] =
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '2min'";

struct Query {
  const char* name;     // In the page's data.
  const char* sql;      // Goes on where common.sql ends; its answer is one JSON value.
  const char* columns;  // What it groups by, as an array literal of SQL.
  int points_max;       // Over time; 0: one sum of the whole range.
};

constexpr Query kQueries[] = {
    {"asked", kAskedSql, "{}", 0},
    {"total", kTotalSql, "{}", kPointsMax},
    {"origins", kBusiestSql, "{src}", kPointsOfManyMax},
    {"destinations", kBusiestSql, "{dst}", kPointsOfManyMax},
    {"ports", kBusiestSql, "{proto,port}", kPointsOfManyMax},
    {"pairs", kPairsSql, "{src,dst}", 0},
    {"gateways", kGatewaysSql, "{gateway}", 0},
    {"gaps", kGapsSql, "{gateway}", 0},
};

struct Range {
  absl::Time from;
  absl::Time to;
};

// `held`: the range that the database has data of; none without any data.
Range MakeRange(const ReportConfig& config, const std::optional<Range>& held) {
  const absl::Time now = absl::Now();
  Range range;
  if (config.to.has_value()) {
    range.to = config.to->time.value_or(now - config.to->before);
  } else {
    range.to = held.has_value() ? held->to : now;
  }
  if (config.from.has_value()) {
    range.from = config.from->time.value_or(range.to - config.from->before);
  } else {
    range.from = range.to - kRangeDefault;
    if (held.has_value() && held->from < range.to) range.from = std::max(range.from, held->from);
  }
  range.from = std::clamp(range.from, absl::UnixEpoch(), kReportTimeMax);
  range.to = std::clamp(range.to, absl::UnixEpoch(), kReportTimeMax);
  return range;
}

// Seconds of a point: a round number, so that the range has at most `points_max` points.
std::string PointSeconds(const Range& range, int points_max) {
  constexpr int64_t kRound[] = {1,    5,    15,   30,     60,     120,    300,     600,
                                1800, 3600, 7200, 21'600, 43'200, 86'400, 604'800, 2'592'000};
  const int64_t wanted = absl::ToInt64Seconds(range.to - range.from) / points_max;
  for (const int64_t seconds : kRound) {
    if (seconds >= wanted) return absl::StrCat(seconds);
  }
  return absl::StrCat(wanted);
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

absl::StatusOr<std::string> Ask(PgConnection& connection, const Query& query,
                                const ReportConfig& config, const Range& range) {
  const std::string from = absl::FormatTime(absl::RFC3339_full, range.from, absl::UTCTimeZone());
  const std::string to = absl::FormatTime(absl::RFC3339_full, range.to, absl::UTCTimeZone());
  const std::string top = absl::StrCat(config.top);
  const std::string step = query.points_max == 0 ? "" : PointSeconds(range, query.points_max);
  const auto or_null = [](const std::optional<std::string>& list) {
    return list.has_value() ? list->c_str() : nullptr;
  };
  const absl::StatusOr<PgResult> result =
      connection.Query(absl::StrCat(kCommonSql, query.sql).c_str(),
                       {from.c_str(), to.c_str(), or_null(config.gateways), or_null(config.srcs),
                        or_null(config.dsts), or_null(config.protos), or_null(config.ports),
                        top.c_str(), step.empty() ? nullptr : step.c_str(), query.columns});
  if (!result.ok()) return result.status();
  if (PQntuples(result->get()) != 1 || PQnfields(result->get()) != 1) {
    return absl::FailedPreconditionError("the database's tables are not as this report knows them");
  }
  return EscapedForPage(PQgetvalue(result->get(), 0, 0));
}

}  // namespace

absl::StatusOr<std::string> AskDatabase(const ReportConfig& config) {
  absl::StatusOr<PgConnection> connection = PgConnection::Open(config.database);
  if (!connection.ok()) return connection.status();
  if (absl::Status status = CheckSchemaRights(*connection); !status.ok()) return status;
  if (absl::Status status = connection->Execute(kBegin); !status.ok()) return status;
  if (absl::Status status = CheckTables(*connection); !status.ok()) return status;
  const absl::StatusOr<std::optional<Range>> held = AskHeld(*connection);
  if (!held.ok()) return held.status();
  const Range range = MakeRange(config, *held);
  if (range.from >= range.to) {
    return absl::InvalidArgumentError("the range is empty: -from is not before its end");
  }
  std::string data = absl::StrCat("{\"generated\":", absl::ToUnixMillis(absl::Now()));
  if (held->has_value()) {
    absl::StrAppend(&data, ",\"held\":[", absl::ToUnixMillis((*held)->from), ",",
                    absl::ToUnixMillis((*held)->to), "]");
  }
  for (const Query& query : kQueries) {
    const absl::StatusOr<std::string> answer = Ask(*connection, query, config, range);
    if (!answer.ok()) return answer.status();
    absl::StrAppend(&data, ",\n\"", query.name, "\":", *answer);
  }
  data += "}";
  // Otherwise a pooler would have to close its connection to the server.
  if (absl::Status status = connection->Execute("COMMIT"); !status.ok()) return status;
  return data;
}

}  // namespace ctacct
