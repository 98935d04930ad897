// report: one HTML page that shows what moved through the gateways, out of the database, complete
// in itself: opened from a file it loads nothing.
//
// The database makes the JSON that the page shows; here it is only asked, in one read-only
// transaction, so that all figures are of the same moment. Everything is summed by traffic(), which
// answers from rollups.
#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/gateway_name.h"
#include "engine/rows/protocol_names.h"
#include "engine/system/command_line.h"
#include "engine/system/durable_file.h"
#include "importer/postgres/connection_flags.h"
#include "importer/postgres/pg_connection.h"

ABSL_FLAG(std::string, output, "-",
          "file for the page; replaced as a whole if it is there; -: standard output");
ABSL_FLAG(std::string, from, "",
          "beginning: a time (2026-11-25T14:00, in UTC if it does not say otherwise) or how long "
          "before the end (-8h, -30m, -7d); default: 24 hours before the end, or where the data "
          "begins");
ABSL_FLAG(std::string, to, "",
          "end: a time, or how long before now (-1h); default: the newest interval");
ABSL_FLAG(std::string, gateway, "", "only of these gateways (comma separated)");
ABSL_FLAG(std::string, src, "", "only of these origins, as rows have them: masked");
ABSL_FLAG(std::string, dst, "", "only of these destinations, as rows have them: masked");
ABSL_FLAG(std::string, proto, "", "only of these protocols (tcp,udp,99)");
ABSL_FLAG(std::string, port, "", "only of these destination ports (443,-1; -1: not on the list)");
ABSL_FLAG(int, top, 10, "so many of the busiest are shown by name, all others are summed");

namespace ctacct {
namespace {

constexpr char kProgram[] = "report";
constexpr char kUsage[] =
    "usage: report [FLAGS] -output=FILE\n"
    "Writes one HTML page that shows the traffic of a range of time: throughput, busiest origins,\n"
    "destinations and pairs, ports, connections, gaps. It is complete in itself and loads "
    "nothing.\n"
    "The rights of ctacct_reader (configs/postgres/roles.sql) are enough.\n"
    "Without -host, -db, -user, -pass and -conninfo libpq's own settings apply: PGHOST,\n"
    "PGDATABASE, PGSERVICE, ~/.pgpass.";

constexpr char kPage[] =
#include "importer/report/report_page.inc"
    ;  // NOLINT(whitespace/semicolon)
constexpr absl::string_view kDataPlace = "@DATA@";

// More than a page can show, or a reader take in.
constexpr int kTopMax = 50;
constexpr size_t kFilterValuesMax = 1000;
constexpr absl::Duration kRangeDefault = absl::Hours(24);
// timestamptz ends in the year 294276; nobody's data is older than the epoch.
// The year 2999's end: a range of more than a million days is too long for traffic().
constexpr absl::Time kTimeMax = absl::FromUnixSeconds(32'503'679'999);
// No more points than a wide chart has pixels, and fewer of those that come for each of the
// busiest.
constexpr int kPointsMax = 600;
constexpr int kPointsOfManyMax = 240;
// Longer than any question has taken in a season of 100 million rows; the role's own, shorter one
// is meant for dashboards that ask many at once.
constexpr char kBegin[] =
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '2min'";

// In order: from, to, gateways, srcs, dsts, protos, ports, top, seconds of a point.
constexpr char kArguments[] =
    "WITH asked AS (SELECT $1::timestamptz AS lower, $2::timestamptz AS upper, $3::text[] AS "
    "gateways, "
    "  $4::inet[] AS srcs, $5::inet[] AS dsts, $6::text[] AS protos, $7::integer[] AS ports, "
    "  $8::integer AS top, make_interval(secs => $9::double precision) AS step) ";
// A point in time as the page counts: milliseconds since the epoch.
constexpr char kMilliseconds[] = "round(extract(epoch FROM $0) * 1000)";

constexpr char kRangeSql[] =
    "SELECT round(extract(epoch FROM ends.first - coalesce("
    "  (SELECT max(interval_length) FROM import_ledger WHERE interval_end = ends.first), '15 s')) "
    "* 1000), "
    "  round(extract(epoch FROM ends.last) * 1000) "
    "FROM (SELECT min(time) AS first, max(time) AS last FROM traffic_total) AS ends";

constexpr char kAskedSql[] =
    "SELECT json_build_object('from', MS(lower), 'to', MS(upper), 'gateways', gateways, "
    "  'srcs', (SELECT json_agg(host(src)) FROM unnest(srcs) AS src), "
    "  'dsts', (SELECT json_agg(host(dst)) FROM unnest(dsts) AS dst), 'protos', protos, "
    "  'ports', ports, 'top', top, 'server', current_setting('server_version')) FROM asked";

// The whole: throughput and connections over time.
constexpr char kTotalSql[] =
    ", plan AS (SELECT plan.* FROM asked, traffic_make_plan(asked.lower, asked.upper, step, '{}', "
    "FILTERS) AS plan), "
    "points AS (SELECT point.* FROM asked, traffic(asked.lower, asked.upper, step, '{}', FILTERS) "
    "AS point), "
    "opened AS (SELECT time, open_connections FROM asked, "
    "  traffic_open_connections(asked.lower, asked.upper, step, '{}', FILTERS)) "
    "SELECT json_build_object('from', MS(plan.lower), 'to', MS(plan.upper), "
    "  'width', MS(plan.width), "
    "  'open', (SELECT coalesce(max(open_connections), 0) > 0 FROM opened), "
    "  'points', coalesce((SELECT json_agg(json_build_array(MS(time), seconds, src_bytes, "
    "dst_bytes, "
    "    src_packets, dst_packets, connection_count, connection_times, "
    "round(open_connections::numeric, 1)) "
    "    ORDER BY time) FROM points LEFT JOIN opened USING (time)), '[]')) FROM plan";

// By one thing, KEY of COLUMNS: the busiest over time, all others as one.
constexpr char kBySql[] =
    ", plan AS (SELECT plan.* FROM asked, traffic_make_plan(asked.lower, asked.upper, step, "
    "'COLUMNS', FILTERS) AS plan), "
    "points AS MATERIALIZED (SELECT KEY AS key, point.* FROM asked, "
    "  traffic(asked.lower, asked.upper, step, 'COLUMNS', FILTERS) AS point), "
    "ranked AS (SELECT key, row_number() OVER (ORDER BY sum(src_bytes + dst_bytes) DESC, key) AS "
    "place "
    "  FROM points GROUP BY key), "
    "folded AS (SELECT time, least(place, top + 1) AS place, max(seconds) AS seconds, "
    "sum(src_bytes) AS src_bytes, "
    "  sum(dst_bytes) AS dst_bytes, sum(src_packets) AS src_packets, sum(dst_packets) AS "
    "dst_packets, "
    "  sum(connection_count) AS connection_count, sum(connection_times) AS connection_times "
    "  FROM points JOIN ranked USING (key), asked GROUP BY 1, 2) "
    "SELECT json_build_object('from', MS(plan.lower), 'to', MS(plan.upper), "
    "  'width', MS(plan.width), "
    "  'keys', coalesce((SELECT json_agg(key ORDER BY place) FROM ranked WHERE place <= top), "
    "'[]'), "
    "  'others', (SELECT count(*) FROM ranked WHERE place > top), "
    "  'points', coalesce((SELECT json_agg(json_build_array(MS(time), seconds, place - 1, "
    "src_bytes, dst_bytes, "
    "    src_packets, dst_packets, connection_count, connection_times) ORDER BY time, place) FROM "
    "folded), '[]')) "
    "FROM plan, asked";

constexpr char kPairsSql[] =
    ", plan AS (SELECT plan.* FROM asked, traffic_make_plan(asked.lower, asked.upper, NULL, "
    "'{src,dst}', FILTERS) AS plan), "
    "pairs AS MATERIALIZED (SELECT host(src) AS origin, host(dst) AS destination, src_bytes, "
    "dst_bytes, "
    "  src_packets, dst_packets, connection_count, connection_times "
    "  FROM asked, traffic(asked.lower, asked.upper, NULL, '{src,dst}', FILTERS)), "
    "origins AS (SELECT origin, row_number() OVER (ORDER BY sum(src_bytes + dst_bytes) DESC, "
    "origin) AS line "
    "  FROM pairs GROUP BY 1), "
    "destinations AS (SELECT destination, row_number() OVER (ORDER BY sum(src_bytes + dst_bytes) "
    "DESC, destination) "
    "  AS col FROM pairs GROUP BY 1), "
    "cells AS (SELECT least(line, top + 1) AS line, least(col, top + 1) AS col, sum(src_bytes) AS "
    "src_bytes, "
    "  sum(dst_bytes) AS dst_bytes FROM pairs JOIN origins USING (origin) JOIN destinations USING "
    "(destination), asked "
    "  GROUP BY 1, 2), "
    "busiest AS (SELECT * FROM pairs ORDER BY src_bytes + dst_bytes DESC, origin, destination "
    "  LIMIT (SELECT top FROM asked)) "
    "SELECT json_build_object('from', MS(plan.lower), 'to', MS(plan.upper), "
    "  'origins', coalesce((SELECT json_agg(origin ORDER BY line) FROM origins WHERE line <= top), "
    "'[]'), "
    "  'destinations', coalesce((SELECT json_agg(destination ORDER BY col) FROM destinations WHERE "
    "col <= top), '[]'), "
    "  'other_origins', (SELECT count(*) FROM origins WHERE line > top), "
    "  'other_destinations', (SELECT count(*) FROM destinations WHERE col > top), "
    "  'count', (SELECT count(*) FROM pairs), "
    "  'cells', coalesce((SELECT json_agg(json_build_array(line - 1, col - 1, src_bytes, "
    "dst_bytes)) FROM cells), '[]'), "
    "  'busiest', coalesce((SELECT json_agg(json_build_array(origin, destination, src_bytes, "
    "dst_bytes, src_packets, "
    "    dst_packets, connection_count, connection_times) ORDER BY src_bytes + dst_bytes DESC, "
    "origin, destination) "
    "    FROM busiest), '[]')) "
    "FROM plan, asked";

// Each gateway: what moved, and how far that is to be believed. Intervals are not of the filters.
constexpr char kGatewaysSql[] =
    ", plan AS (SELECT plan.* FROM asked, traffic_make_plan(asked.lower, asked.upper, NULL, "
    "'{gateway}', FILTERS) AS plan), "
    "sums AS (SELECT point.* FROM asked, traffic(asked.lower, asked.upper, NULL, '{gateway}', "
    "FILTERS) AS point), "
    "intervals AS (SELECT gateway, count(*) AS intervals, count(*) FILTER (WHERE completeness = "
    "'resynced') AS resynced, "
    "  count(*) FILTER (WHERE completeness = 'partial') AS partial, sum(events_dropped) AS "
    "events_dropped, "
    "  sum(flows_lost) AS flows_lost FROM plan, asked, traffic_intervals AS told "
    "  WHERE told.time > plan.lower AND told.time <= plan.upper "
    "    AND (gateways IS NULL OR gateway = ANY (gateways)) GROUP BY gateway) "
    "SELECT json_build_object('from', MS(plan.lower), 'to', MS(plan.upper), 'gateways', "
    "coalesce((SELECT json_agg("
    "  json_build_array(gateway, coalesce(src_bytes, 0), coalesce(dst_bytes, 0), "
    "coalesce(src_packets, 0), "
    "    coalesce(dst_packets, 0), coalesce(connection_count, 0), coalesce(connection_times, 0), "
    "    coalesce(intervals, 0), coalesce(resynced, 0), coalesce(partial, 0), "
    "coalesce(events_dropped, 0), "
    "    coalesce(flows_lost, 0)) ORDER BY src_bytes + dst_bytes DESC NULLS LAST, gateway) "
    "  FROM sums FULL JOIN intervals USING (gateway)), '[]')) FROM plan";

constexpr char kGapsSql[] =
    ", plan AS (SELECT plan.* FROM asked, traffic_make_plan(asked.lower, asked.upper, NULL, "
    "'{gateway}', FILTERS) AS plan), "
    "found AS (SELECT DISTINCT gap.gateway, began, ended, text FROM plan, asked, "
    "traffic_gap_regions AS gap WHERE ended >= plan.lower AND began <= plan.upper "
    "    AND (gateways IS NULL OR gateway = ANY (gateways))), "
    "newest AS (SELECT * FROM found ORDER BY ended DESC, began DESC, gateway, text LIMIT 500) "
    "SELECT json_build_object('count', (SELECT count(*) FROM found), 'gaps', coalesce((SELECT "
    "json_agg("
    "  json_build_array(gateway, MS(began), MS(ended), text) ORDER BY began, ended, gateway, text) "
    "FROM newest), '[]'))";

constexpr char kPortKey[] =
    "CASE WHEN proto = '0' AND port = -1 THEN '(folded by -max-rows)' WHEN port = -1 THEN proto || "
    "'/other' "
    "WHEN port = 0 THEN proto ELSE proto || '/' || port END";

// A moment, or a distance from one.
struct Bound {
  std::optional<absl::Time> time;
  absl::Duration before;
};

struct Options {
  PgOptions database;
  std::string output;
  std::optional<Bound> from;
  std::optional<Bound> to;
  // Array literals of SQL; none: everything.
  std::optional<std::string> gateways, srcs, dsts, protos, ports;
  int top = 0;
};

absl::StatusOr<Bound> ParseBound(const std::string& text) {
  Bound bound;
  if (absl::StartsWith(text, "-")) {
    absl::string_view number = absl::string_view(text).substr(1);
    int64_t days = 0;
    if (absl::ConsumeSuffix(&number, "d") && absl::SimpleAtoi(number, &days) && days > 0) {
      bound.before = absl::Hours(24) * days;
      return bound;
    }
    if (absl::ParseDuration(text.substr(1), &bound.before) && bound.before > absl::ZeroDuration() &&
        bound.before < absl::InfiniteDuration()) {
      return bound;
    }
  }
  for (const char* const format :
       {absl::RFC3339_full, "%Y-%m-%d%ET%H:%M%Ez", "%Y-%m-%d%ET%H:%M:%E*S", "%Y-%m-%d%ET%H:%M",
        "%Y-%m-%d %H:%M:%E*S", "%Y-%m-%d %H:%M", "%Y-%m-%d"}) {
    absl::Time time;
    std::string why;
    if (absl::ParseTime(format, text, absl::UTCTimeZone(), &time, &why) &&
        time >= absl::UnixEpoch() && time <= kTimeMax) {
      bound.time = time;
      return bound;
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("a time such as 2026-11-25T14:00 or -8h, not ", QuotedForLog(text)));
}

// An SQL array of what `parse` makes of each value of a list.
template <typename Parse>
absl::StatusOr<std::optional<std::string>> ParseList(const char* flag, const std::string& text,
                                                     const Parse& parse) {
  if (text.empty()) return std::nullopt;
  std::vector<std::string> quoted;
  for (const absl::string_view value : absl::StrSplit(text, ',')) {
    const std::optional<std::string> parsed = parse(std::string(value));
    if (!parsed.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("flag -", flag, ": bad value ", QuotedForLog(value)));
    }
    quoted.push_back(
        absl::StrCat("\"", absl::StrReplaceAll(*parsed, {{"\\", "\\\\"}, {"\"", "\\\""}}), "\""));
  }
  if (quoted.size() > kFilterValuesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("flag -", flag, ": more than ", kFilterValuesMax, " values"));
  }
  return absl::StrCat("{", absl::StrJoin(quoted, ","), "}");
}

std::optional<std::string> ParseAddress(const std::string& text) {
  in6_addr address;
  const int family = absl::StrContains(text, ':') ? AF_INET6 : AF_INET;
  if (inet_pton(family, text.c_str(), &address) != 1) return std::nullopt;
  return text;
}

std::optional<std::string> ParseProtocolName(const std::string& text) {
  const std::optional<uint8_t> protocol = ParseProtocol(text);
  if (!protocol.has_value()) return std::nullopt;
  return std::string(ProtocolName(*protocol));
}

std::optional<std::string> ParsePort(const std::string& text) {
  int port = 0;
  if (!absl::SimpleAtoi(text, &port) || port < -1 || port > 65'535) return std::nullopt;
  return absl::StrCat(port);
}

// The server would refuse other text only later.
std::optional<std::string> ParseGateway(const std::string& text) {
  return CheckGatewayName(text).ok() ? std::optional<std::string>(text) : std::nullopt;
}

absl::StatusOr<Options> MakeOptions(const CommandLine& line) {
  Options options;
  if (!line.arguments.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("not a flag: ", QuotedForLog(line.arguments[0]), "; --help lists all"));
  }
  absl::StatusOr<PgOptions> database = ConnectionOptionsFromFlags();
  if (!database.ok()) return database.status();
  options.database = *std::move(database);
  options.database.program = "ctacct-report";
  options.output = absl::GetFlag(FLAGS_output);
  if (options.output.empty()) {
    return absl::InvalidArgumentError("flag -output: a file's name, or - for standard output");
  }
  if (options.output == "-" && isatty(STDOUT_FILENO) != 0) {
    return absl::InvalidArgumentError(
        "the page is no text for a terminal: give -output=FILE, or redirect standard output");
  }
  for (const auto& [flag, value, bound] :
       {std::tuple("from", absl::GetFlag(FLAGS_from), &options.from),
        std::tuple("to", absl::GetFlag(FLAGS_to), &options.to)}) {
    if (value.empty()) continue;
    const absl::StatusOr<Bound> parsed = ParseBound(value);
    if (!parsed.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("flag -", flag, ": ", parsed.status().message()));
    }
    *bound = *parsed;
  }
  if (options.from.has_value() && options.to.has_value() && options.from->time.has_value() &&
      options.to->time.has_value() && *options.from->time >= *options.to->time) {
    return absl::InvalidArgumentError("flag -from: not before -to");
  }
  using Parser = std::optional<std::string> (*)(const std::string&);
  for (const auto& [flag, value, parser, list] :
       {std::tuple("gateway", absl::GetFlag(FLAGS_gateway), Parser{ParseGateway},
                   &options.gateways),
        std::tuple("src", absl::GetFlag(FLAGS_src), Parser{ParseAddress}, &options.srcs),
        std::tuple("dst", absl::GetFlag(FLAGS_dst), Parser{ParseAddress}, &options.dsts),
        std::tuple("proto", absl::GetFlag(FLAGS_proto), Parser{ParseProtocolName}, &options.protos),
        std::tuple("port", absl::GetFlag(FLAGS_port), Parser{ParsePort}, &options.ports)}) {
    absl::StatusOr<std::optional<std::string>> parsed = ParseList(flag, value, parser);
    if (!parsed.ok()) return parsed.status();
    *list = *std::move(parsed);
  }
  options.top = absl::GetFlag(FLAGS_top);
  if (options.top < 1 || options.top > kTopMax) {
    return absl::InvalidArgumentError(absl::StrCat("flag -top: 1 to ", kTopMax));
  }
  return options;
}

struct Range {
  absl::Time from;
  absl::Time to;
};

// The database's own range in milliseconds; none without any data.
struct Held {
  std::string first;
  std::string last;
};

Range MakeRange(const Options& options, const std::optional<Held>& held) {
  absl::Time first = absl::InfiniteFuture();
  absl::Time last = absl::Now();
  int64_t milliseconds = 0;
  if (held.has_value() && absl::SimpleAtoi(held->first, &milliseconds)) {
    first = absl::FromUnixMillis(milliseconds);
  }
  if (held.has_value() && absl::SimpleAtoi(held->last, &milliseconds)) {
    last = absl::FromUnixMillis(milliseconds);
  }
  Range range;
  range.to =
      !options.to.has_value() ? last : options.to->time.value_or(absl::Now() - options.to->before);
  if (options.from.has_value()) {
    range.from = options.from->time.value_or(range.to - options.from->before);
  } else {
    range.from = range.to - kRangeDefault;
    if (first < range.to) range.from = std::max(range.from, first);
  }
  range.from = std::clamp(range.from, absl::UnixEpoch(), kTimeMax);
  range.to = std::clamp(range.to, absl::UnixEpoch(), kTimeMax);
  return range;
}

// Seconds of a point: a round number that makes at most so many of the range.
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

std::string ExpandedSql(absl::string_view sql) {
  std::string text = absl::StrReplaceAll(sql, {{"FILTERS", "gateways, srcs, dsts, protos, ports"}});
  for (size_t at = text.find("MS("); at != std::string::npos; at = text.find("MS(", at)) {
    const size_t end = text.find(')', at);
    const std::string expression = text.substr(at + 3, end - at - 3);
    text.replace(at, end + 1 - at, absl::StrReplaceAll(kMilliseconds, {{"$0", expression}}));
  }
  return text;
}

absl::StatusOr<std::string> Ask(PgConnection& connection, absl::string_view sql,
                                const std::vector<const char*>& arguments) {
  absl::StatusOr<PgResult> result =
      connection.Query(ExpandedSql(absl::StrCat(kArguments, sql)).c_str(), arguments);
  if (!result.ok()) return result.status();
  if (PQntuples(result->get()) != 1 || PQnfields(result->get()) != 1) {
    return absl::FailedPreconditionError("the database's tables are not as this report knows them");
  }
  return std::string(PQgetvalue(result->get(), 0, 0));
}

// What the page shows, as JSON.
absl::StatusOr<std::string> CollectData(const Options& options) {
  absl::StatusOr<PgConnection> connection = PgConnection::Open(options.database);
  if (!connection.ok()) return connection.status();
  if (absl::Status status = connection->Execute(kBegin); !status.ok()) return status;
  absl::StatusOr<PgResult> present =
      connection->Query("SELECT to_regclass('ctacct_schema'), to_regclass('traffic_rollups')", {});
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
  absl::StatusOr<PgResult> ends = connection->Query(kRangeSql, {});
  if (!ends.ok()) return ends.status();
  std::optional<Held> held;
  if (PQgetisnull(ends->get(), 0, 0) == 0) {
    held = Held{PQgetvalue(ends->get(), 0, 0), PQgetvalue(ends->get(), 0, 1)};
  }

  const Range range = MakeRange(options, held);
  if (range.from >= range.to) {
    return absl::InvalidArgumentError("the range is empty: -from is not before its end");
  }
  const std::string from = absl::FormatTime(absl::RFC3339_full, range.from, absl::UTCTimeZone());
  const std::string to = absl::FormatTime(absl::RFC3339_full, range.to, absl::UTCTimeZone());
  const std::string top = absl::StrCat(options.top);
  const std::string few_seconds = PointSeconds(range, kPointsMax);
  const std::string many_seconds = PointSeconds(range, kPointsOfManyMax);
  const auto literal = [](const std::optional<std::string>& list) {
    return list.has_value() ? list->c_str() : nullptr;
  };

  std::string data = absl::StrCat("{\"generated\":", absl::ToUnixMillis(absl::Now()));
  if (held.has_value()) {
    absl::StrAppend(&data, ",\"held\":[", held->first, ",", held->last, "]");
  }
  const auto by = [](absl::string_view key, absl::string_view columns) {
    return absl::StrReplaceAll(kBySql, {{"KEY", key}, {"COLUMNS", columns}});
  };
  const std::pair<const char*, std::string> questions[] = {
      {"asked", kAskedSql},
      {"total", kTotalSql},
      {"origins", by("host(src)", "{src}")},
      {"destinations", by("host(dst)", "{dst}")},
      {"ports", by(kPortKey, "{proto,port}")},
      {"pairs", kPairsSql},
      {"gateways", kGatewaysSql},
      {"gaps", kGapsSql}};
  for (const auto& [name, sql] : questions) {
    const std::vector<const char*> arguments = {
        from.c_str(),
        to.c_str(),
        literal(options.gateways),
        literal(options.srcs),
        literal(options.dsts),
        literal(options.protos),
        literal(options.ports),
        top.c_str(),
        absl::StrContains(sql, "ranked") ? many_seconds.c_str() : few_seconds.c_str()};
    const absl::StatusOr<std::string> answer = Ask(*connection, sql, arguments);
    if (!answer.ok()) return answer.status();
    absl::StrAppend(&data, ",\n\"", name, "\":", EscapedForPage(*answer));
  }
  data += "}";
  return data;
}

absl::Status WriteToStdout(absl::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(STDOUT_FILENO, text.data(), text.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return FileError("write", "standard output", errno);
    }
    text.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

// The parts of a path: its folder, and the name in it.
std::pair<std::string, std::string> FolderAndName(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return {".", path};
  return {slash == 0 ? "/" : path.substr(0, slash), path.substr(slash + 1)};
}

// Known before the database is asked: a folder that is not ours to write to; a device or FIFO,
// which is not to be replaced.
absl::Status CheckOutput(const std::string& path) {
  struct stat info {};
  if (lstat(path.c_str(), &info) == 0) {
    if (!S_ISREG(info.st_mode)) {
      return absl::FailedPreconditionError(
          absl::StrCat(path, ": is there and is no regular file; it is not replaced"));
    }
  } else if (errno != ENOENT) {
    return FileError("write", path, errno);
  }
  const std::string folder = FolderAndName(path).first;
  if (faccessat(AT_FDCWD, folder.c_str(), W_OK | X_OK, AT_EACCESS) != 0) {
    return FileError("make files in folder", folder, errno);
  }
  return absl::OkStatus();
}

absl::Status Write(const Options& options) {
  const bool to_file = options.output != "-";
  if (to_file) {
    if (absl::Status status = CheckOutput(options.output); !status.ok()) return status;
  }
  const absl::StatusOr<std::string> data = CollectData(options);
  if (!data.ok()) return data.status();
  const absl::string_view page = kPage;
  const size_t place = page.find(kDataPlace);
  const std::string text =
      absl::StrCat(page.substr(0, place), *data, page.substr(place + kDataPlace.size()));
  if (!to_file) return WriteToStdout(text);
  const auto [folder, name] = FolderAndName(options.output);
  absl::StatusOr<DurableFile> file = DurableFile::Create(folder, name);
  if (!file.ok()) return file.status();
  if (absl::Status status = file->Append(text); !status.ok()) return status;
  return file->Replace();
}

int Main(int argc, char** argv) {
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  HideSecrets(argc, argv);
  if (!line.ok()) {
    PrintError(kProgram, line.status());
    return kExitUsageError;
  }
  std::signal(SIGPIPE, SIG_IGN);  // Whoever reads us may stop; we say so and end.
  if (line->help) return WriteToStdout(FlagsHelp(kUsage)).ok() ? kExitOk : kExitOperatingError;
  const absl::StatusOr<Options> options = MakeOptions(*line);
  if (!options.ok()) {
    PrintError(kProgram, options.status());
    return kExitUsageError;
  }
  if (const absl::Status status = Write(*options); !status.ok()) {
    PrintError(kProgram, status);
    return kExitOperatingError;
  }
  return kExitOk;
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::Main(argc, argv); }
