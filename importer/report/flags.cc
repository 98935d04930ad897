#include "importer/report/flags.h"

#include <arpa/inet.h>
#include <unistd.h>

#include <tuple>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "engine/rows/gateway_name.h"
#include "engine/rows/protocol_names.h"
#include "importer/postgres/connection_flags.h"

ABSL_FLAG(std::string, output, "-", "file for the page, replaced if it exists; -: standard output");
ABSL_FLAG(std::string, from, "",
          "start: a time (2026-11-25T14:00; UTC unless it says otherwise) or a duration before the "
          "end (-8h, -30m, -7d); default: 24 hours before the end, or where the data begins");
ABSL_FLAG(std::string, to, "",
          "end: a time, or a duration before now (-1h); default: the newest interval");
ABSL_FLAG(std::string, gateway, "", "only these gateways (comma separated)");
ABSL_FLAG(std::string, src, "", "only these origins, masked as in rows");
ABSL_FLAG(std::string, dst, "", "only these destinations, masked as in rows");
ABSL_FLAG(std::string, proto, "", "only these protocols (tcp,udp,99)");
ABSL_FLAG(std::string, port, "", "only these destination ports (443,-1; -1: not on the list)");
ABSL_FLAG(int, top, 10, "number of top entries listed by name; all others are summed");

namespace ctacct {

const char kReportUsage[] =
    "usage: report [FLAGS] -output=FILE\n"
    "Writes one HTML page that shows the traffic of a range of time: throughput, busiest origins,\n"
    "destinations and pairs, ports, connections, gaps. It is complete in itself: opened from a\n"
    "file it loads nothing.\n"
    "The rights of ctacct_reader (configs/postgres/roles.sql) are enough.\n"
    "Without -host, -db, -user, -pass and -conninfo libpq's own settings apply: PGHOST,\n"
    "PGDATABASE, PGSERVICE, ~/.pgpass.";

namespace {

// More than a page can show, or a reader take in.
constexpr int kTopMax = 50;
constexpr size_t kFilterValuesMax = 1000;

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
        time >= absl::UnixEpoch() && time <= kReportTimeMax) {
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

}  // namespace

absl::StatusOr<ReportConfig> ReportConfigFromFlags(const CommandLine& line) {
  ReportConfig config;
  if (absl::Status status = CheckArguments(line.arguments); !status.ok()) return status;
  if (!line.arguments.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("not a flag: ", QuotedForLog(line.arguments[0]), "; --help lists all"));
  }
  absl::StatusOr<PgOptions> database = ConnectionOptionsFromFlags();
  if (!database.ok()) return database.status();
  config.database = *std::move(database);
  config.database.program = "ctacct-report";
  config.output = absl::GetFlag(FLAGS_output);
  if (config.output.empty()) {
    return absl::InvalidArgumentError("flag -output: a file's name, or - for standard output");
  }
  if (config.output == "-" && isatty(STDOUT_FILENO) != 0) {
    return absl::InvalidArgumentError(
        "the page is no text for a terminal: give -output=FILE, or redirect standard output");
  }
  for (const auto& [flag, value, bound] :
       {std::tuple("from", absl::GetFlag(FLAGS_from), &config.from),
        std::tuple("to", absl::GetFlag(FLAGS_to), &config.to)}) {
    if (value.empty()) continue;
    const absl::StatusOr<Bound> parsed = ParseBound(value);
    if (!parsed.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("flag -", flag, ": ", parsed.status().message()));
    }
    *bound = *parsed;
  }
  if (config.from.has_value() && config.to.has_value() && config.from->time.has_value() &&
      config.to->time.has_value() && *config.from->time >= *config.to->time) {
    return absl::InvalidArgumentError("flag -from: not before -to");
  }
  using Parser = std::optional<std::string> (*)(const std::string&);
  for (const auto& [flag, value, parser, list] :
       {std::tuple("gateway", absl::GetFlag(FLAGS_gateway), Parser{ParseGateway}, &config.gateways),
        std::tuple("src", absl::GetFlag(FLAGS_src), Parser{ParseAddress}, &config.srcs),
        std::tuple("dst", absl::GetFlag(FLAGS_dst), Parser{ParseAddress}, &config.dsts),
        std::tuple("proto", absl::GetFlag(FLAGS_proto), Parser{ParseProtocolName}, &config.protos),
        std::tuple("port", absl::GetFlag(FLAGS_port), Parser{ParsePort}, &config.ports)}) {
    absl::StatusOr<std::optional<std::string>> parsed = ParseList(flag, value, parser);
    if (!parsed.ok()) return parsed.status();
    *list = *std::move(parsed);
  }
  config.top = absl::GetFlag(FLAGS_top);
  if (config.top < 1 || config.top > kTopMax) {
    return absl::InvalidArgumentError(absl::StrCat("flag -top: 1 to ", kTopMax));
  }
  return config;
}

}  // namespace ctacct
