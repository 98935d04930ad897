#include "importer/report/flags.h"

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/civil_time.h"
#include "absl/time/clock.h"
#include "engine/rows/gateway_name.h"
#include "engine/rows/protocol_names.h"
#include "engine/spool/names_file.h"
#include "engine/system/text.h"
#include "importer/postgres/connection_flags.h"
#include "netlink/ip_text.h"

ABSL_FLAG(std::string, output, "-", "file to write, replaced if it exists; -: standard output");
ABSL_FLAG(
    std::string, mode, "",
    "mode of the -output file: 644 lets everybody read it, a web server for instance; default: "
    "640 less the umask");
ABSL_FLAG(std::string, format, "", "html, csv or json; default: html, or csv with -table or -over");
ABSL_FLAG(
    std::string, table, "",
    "only this table, as CSV or JSON: total, origins, destinations, ports, pairs, unanswered, "
    "services, gateways, gaps, or rows (not sums; needs -from)");
ABSL_FLAG(std::string, over, "",
          "only origins with more bytes than this in the range, both ways (500000, 100GB, 1.5TB); "
          "exit status 1 if there is one");
ABSL_FLAG(
    std::string, from, "",
    "start: a time (2026-11-25T14:00; in -timezone unless it says otherwise) or a duration before "
    "the end (-8h, -30m, -7d); default: 24 hours before the end, or where the data begins");
ABSL_FLAG(std::string, to, "",
          "end: a time, or a duration before now (-1h); default: now, or the newest interval if "
          "that is older than a day");
ABSL_FLAG(std::string, month, "",
          "instead of -from and -to: this, last, or a month such as 2026-10");
ABSL_FLAG(std::string, timezone, "",
          "time zone of times, days and months (Europe/Berlin); default: that of this machine");
ABSL_FLAG(std::string, gateway, "", "only these gateways (comma separated)");
ABSL_FLAG(std::string, src, "",
          "only origins in these networks of either family (10.32.5.0/24,2001:db8:5::/48); "
          "addresses as in rows, after the group mask");
ABSL_FLAG(std::string, dst, "", "only destinations in these networks, as -src");
ABSL_FLAG(std::string, proto, "", "only these protocols (tcp,udp,99)");
ABSL_FLAG(std::string, port, "", "only these destination ports (443,-1; -1: not on the list)");
ABSL_FLAG(bool, names, false, "show names of origins and destinations, addresses beside");
ABSL_FLAG(
    std::string, src_name, "",
    "only origins of these names (comma separated; a name in double quotes may contain commas: "
    "'\"Smith, John\",bob')");
ABSL_FLAG(std::string, dst_name, "", "only destinations of these names, as -src-name");
ABSL_FLAG(bool, check, false,
          "only print whether intervals are missing or incomplete, of which gateways and since "
          "when; by default in the last 24 hours");
ABSL_FLAG(
    int, top, 10,
    "number of top entries listed by name, at most 50, in CSV and JSON 1000000; all others are "
    "summed");

namespace ctacct {

const char kReportUsage[] =
    "usage: report [FLAGS] -output=FILE         a page\n"
    "       report [FLAGS] -table=TABLE         a table as CSV; -format=json: one or all as JSON\n"
    "       report [FLAGS] -over=BYTES          origins over a quota\n"
    "       report [FLAGS] -check               is anything missing, where, since when?\n"
    "Without -output=FILE it writes to standard output, a page not to a terminal.\n"
    "The page shows the traffic of a range of time: throughput, busiest origins, destinations and\n"
    "pairs, ports, connections, gaps. It is complete in itself: opened from a file it loads\n"
    "nothing. Columns of tables are named as those of the function traffic().\n"
    "Exit status 0: well; with -check nothing is missing, with -over nobody is over it. 1: something\n"
    "is missing, somebody is over it, or an error (one line on standard error). 2: invalid flags.\n"
    "The rights of ctacct_reader (configs/postgres/roles.sql) are enough.\n"
    "Without -host, -db, -user, -pass and -conninfo libpq's own settings apply: PGHOST,\n"
    "PGDATABASE, PGSERVICE, ~/.pgpass.";

namespace {

// More than a page can show, or a reader take in.
constexpr int kTopMax = 50;
constexpr int kTopMaxOfTables = 1'000'000;
constexpr size_t kFilterValuesMax = 1000;

constexpr FlagRule kFlagRules[] = {
    {"mode", FlagRule::Kind::kNeeds, "output"},
    {"src dst proto port src-name dst-name", FlagRule::Kind::kRefuses, "check table=gaps"},
    {"top", FlagRule::Kind::kRefuses,
     "check over table=total table=unanswered table=gateways table=gaps table=rows"},
    {"names", FlagRule::Kind::kRefuses,
     "check table=total table=ports table=unanswered table=services table=gateways table=gaps "
     "table=rows"},
};

absl::StatusOr<Bound> ParseBound(const std::string& text, const absl::TimeZone& zone) {
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
    if (absl::ParseTime(format, text, zone, &time, &why) && time >= absl::UnixEpoch() &&
        time <= kReportTimeMax) {
      bound.time = time;
      return bound;
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("a time such as 2026-11-25T14:00 or -8h, not ", QuotedForLog(text)));
}

// The name of this machine's zone, as the C library finds it; UTC if it has none that PostgreSQL
// could know.
std::string MachineZone() {
  if (const char* const variable = getenv("TZ"); variable != nullptr && *variable != '\0') {
    return std::string(absl::StripPrefix(variable, ":"));
  }
  std::error_code error;
  const std::string link = std::filesystem::read_symlink("/etc/localtime", error).string();
  const size_t at = link.find("/zoneinfo/");
  return error || at == std::string::npos ? "UTC" : link.substr(at + strlen("/zoneinfo/"));
}

absl::Status ParseZone(ReportConfig& config) {
  const std::string asked = absl::GetFlag(FLAGS_timezone);
  const std::string name = asked.empty() ? MachineZone() : asked;
  // A file's path would be known here, and not to the server.
  if (!absl::StartsWith(name, "/") && name != "localtime" &&
      absl::LoadTimeZone(name, &config.zone)) {
    return absl::OkStatus();
  }
  if (asked.empty()) {
    config.zone = absl::UTCTimeZone();
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("flag -timezone: no such time zone: ", QuotedForLog(asked)));
}

absl::Status ParseMonth(ReportConfig& config) {
  const std::string month = absl::GetFlag(FLAGS_month);
  if (month.empty()) return absl::OkStatus();
  if (config.from.has_value() || config.to.has_value()) {
    return absl::InvalidArgumentError("flag -month: stands for -from and -to");
  }
  absl::CivilMonth first(absl::ToCivilMonth(absl::Now(), config.zone));
  if (month == "last") {
    --first;
  } else if (month != "this" && (month.size() != 7 || !absl::ParseCivilTime(month, &first) ||
                                 first.year() < 1970 || first.year() > 2998)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "flag -month: this, last, or a month such as 2026-10, not ", QuotedForLog(month)));
  }
  config.from = Bound{absl::FromCivil(first, config.zone), {}};
  config.to = Bound{absl::FromCivil(first + 1, config.zone), {}};
  return absl::OkStatus();
}

// An SQL array of what `parse` makes of each value of a list.
template <typename Parse>
absl::StatusOr<std::optional<std::string>> ParseList(const char* flag, const std::string& text,
                                                     const Parse& parse) {
  if (text.empty()) return std::nullopt;
  const std::optional<std::vector<std::string>> values = SplitCsv(text);
  if (!values.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("flag -", flag, ": a quote is not closed, or not around a whole value"));
  }
  std::vector<std::string> quoted;
  for (const std::string& value : *values) {
    const absl::StatusOr<std::string> parsed = parse(value);
    if (!parsed.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "flag -", flag, ": bad value ", QuotedForLog(value), ": ", parsed.status().message()));
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

// A network of either family, an address too: without bits below the prefix, as the engine's -src.
absl::StatusOr<std::string> ParseNetworkText(const std::string& text) {
  const absl::StatusOr<NetworkLists> network = ParseNetworkLists(text);
  if (!network.ok()) return network.status();
  if (text.empty()) return absl::InvalidArgumentError("not a network");
  int length = 0;
  // PostgreSQL takes no /08.
  if (const size_t slash = text.find('/');
      slash != std::string::npos && absl::SimpleAtoi(text.substr(slash + 1), &length)) {
    return absl::StrCat(text.substr(0, slash), "/", length);
  }
  return text;
}

absl::StatusOr<std::string> ParseProtocolName(const std::string& text) {
  const std::optional<uint8_t> protocol = ParseProtocol(text);
  if (!protocol.has_value()) return absl::InvalidArgumentError("not a protocol");
  return std::string(ProtocolName(*protocol));
}

absl::StatusOr<std::string> ParsePort(const std::string& text) {
  int port = 0;
  if (!absl::SimpleAtoi(text, &port) || port < -1 || port > 65'535) {
    return absl::InvalidArgumentError("ports are -1 to 65535");
  }
  return absl::StrCat(port);
}

absl::StatusOr<std::string> ParseHolder(const std::string& text) {
  if (absl::Status status = CheckHolderName(text); !status.ok()) return status;
  return text;
}

// The server would refuse other text only later.
absl::StatusOr<std::string> ParseGateway(const std::string& text) {
  if (absl::Status status = CheckGatewayName(text); !status.ok()) return status;
  return text;
}

// SI: 1 kB is 1000 bytes.
std::optional<double> ParseBytes(absl::string_view text) {
  double factor = 1;
  absl::ConsumeSuffix(&text, "B");
  for (const char* const prefix : {"k", "M", "G", "T", "P"}) {
    factor *= 1000;
    if (!absl::ConsumeSuffix(&text, prefix)) continue;
    double number = 0;
    if (!absl::SimpleAtod(text, &number) || !(number >= 0 && number < 1e6)) return std::nullopt;
    return number * factor;
  }
  int64_t number = 0;
  if (!absl::SimpleAtoi(text, &number) || number < 0) return std::nullopt;
  return static_cast<double>(number);
}

absl::Status ParseFormat(ReportConfig& config) {
  config.table = absl::GetFlag(FLAGS_table);
  if (!config.table.empty() && !IsTable(config.table)) {
    return absl::InvalidArgumentError(
        absl::StrCat("flag -table: one of ", TableNames(), "; not ", QuotedForLog(config.table)));
  }
  if (const std::string over = absl::GetFlag(FLAGS_over); !over.empty()) {
    const std::optional<double> bytes = ParseBytes(over);
    if (!bytes.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("flag -over: a number of bytes such as 100GB, not ", QuotedForLog(over)));
    }
    config.over = static_cast<int64_t>(*bytes);
    if (config.table.empty()) config.table = "origins";
    if (config.table != "origins") {
      return absl::InvalidArgumentError("flag -over: is of the table origins");
    }
  }
  std::string format = absl::GetFlag(FLAGS_format);
  if (format.empty()) format = config.table.empty() ? "html" : "csv";
  if (format == "csv") {
    config.format = Format::kCsv;
    if (config.table.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("flag -format: csv needs -table, one of ", TableNames()));
    }
  } else if (format == "json") {
    config.format = Format::kJson;
  } else if (format != "html") {
    return absl::InvalidArgumentError("flag -format: html, csv or json");
  } else if (!config.table.empty()) {
    return absl::InvalidArgumentError("flag -table: is for -format=csv and -format=json");
  }
  if (config.check && (config.format != Format::kPage || !config.table.empty())) {
    return absl::InvalidArgumentError("flag -check: has no -format, -table and -over");
  }
  if (config.table == kRowsTable && absl::GetFlag(FLAGS_from).empty()) {
    return absl::InvalidArgumentError("flag -table: rows needs -from");
  }
  return absl::OkStatus();
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
  if (const std::string mode = absl::GetFlag(FLAGS_mode); !mode.empty()) {
    char* end = nullptr;
    const unsigned long bits = std::strtoul(mode.c_str(), &end, 8);
    if (*end != '\0' || bits > 0777 || !absl::ascii_isdigit(static_cast<unsigned char>(mode[0]))) {
      return absl::InvalidArgumentError(
          absl::StrCat("flag -mode: an octal mode such as 644, not ", QuotedForLog(mode)));
    }
    config.mode = static_cast<mode_t>(bits);
  }
  config.check = absl::GetFlag(FLAGS_check);
  if (absl::Status status = ParseFormat(config); !status.ok()) return status;
  if (absl::Status status = CheckFlagRules(kFlagRules); !status.ok()) return status;
  if (!config.check && config.format == Format::kPage && config.output == "-" &&
      isatty(STDOUT_FILENO) != 0) {
    return absl::InvalidArgumentError(
        "the page is no text for a terminal: give -output=FILE, or redirect standard output");
  }
  if (absl::Status status = ParseZone(config); !status.ok()) return status;
  for (const auto& [flag, value, bound] :
       {std::tuple("from", absl::GetFlag(FLAGS_from), &config.from),
        std::tuple("to", absl::GetFlag(FLAGS_to), &config.to)}) {
    if (value.empty()) continue;
    const absl::StatusOr<Bound> parsed = ParseBound(value, config.zone);
    if (!parsed.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("flag -", flag, ": ", parsed.status().message()));
    }
    *bound = *parsed;
  }
  if (absl::Status status = ParseMonth(config); !status.ok()) return status;
  if (config.from.has_value() && config.to.has_value() && config.from->time.has_value() &&
      config.to->time.has_value() && *config.from->time >= *config.to->time) {
    return absl::InvalidArgumentError("flag -from: not before -to");
  }
  using Parser = absl::StatusOr<std::string> (*)(const std::string&);
  for (const auto& [flag, value, parser, list] :
       {std::tuple("gateway", absl::GetFlag(FLAGS_gateway), Parser{ParseGateway}, &config.gateways),
        std::tuple("src", absl::GetFlag(FLAGS_src), Parser{ParseNetworkText}, &config.srcs),
        std::tuple("dst", absl::GetFlag(FLAGS_dst), Parser{ParseNetworkText}, &config.dsts),
        std::tuple("proto", absl::GetFlag(FLAGS_proto), Parser{ParseProtocolName}, &config.protos),
        std::tuple("port", absl::GetFlag(FLAGS_port), Parser{ParsePort}, &config.ports),
        std::tuple("src-name", absl::GetFlag(FLAGS_src_name), Parser{ParseHolder},
                   &config.src_names),
        std::tuple("dst-name", absl::GetFlag(FLAGS_dst_name), Parser{ParseHolder},
                   &config.dst_names)}) {
    absl::StatusOr<std::optional<std::string>> parsed = ParseList(flag, value, parser);
    if (!parsed.ok()) return parsed.status();
    *list = *std::move(parsed);
  }
  config.names = absl::GetFlag(FLAGS_names);
  config.top = absl::GetFlag(FLAGS_top);
  const int top_max = config.format == Format::kPage ? kTopMax : kTopMaxOfTables;
  if (config.top < 1 || config.top > top_max) {
    return absl::InvalidArgumentError(absl::StrCat("flag -top: 1 to ", top_max));
  }
  if (config.over >= 0) config.top = kTopMaxOfTables;
  return config;
}

}  // namespace ctacct
