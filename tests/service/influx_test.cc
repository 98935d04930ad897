// Rows by way of the FIFO in Influx line protocol: the engine's lines go, byte for byte, into a
// real InfluxDB 1.6 and a real VictoriaMetrics, and what these answer must be the rows of the spool
// that the same run wrote. And the Telegraf configurations: what they make of the CSV must be the
// very same lines. Telegraf itself is not run: Debian does not have it.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/influx_line.h"
#include "engine/rows/protocol_names.h"
#include "engine/rows/traffic_row.h"
#include "engine/spool/spool_reader.h"
#include "engine/system/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/conditions.h"
#include "tests/support/files.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::nlohmann::json;
using ::testing::HasSubstr;

using Lines = std::vector<std::string>;
using Tags = std::map<std::string, std::string>;
using Fields = std::map<std::string, uint64_t>;
// By tags and time in nanoseconds.
using Points = std::map<std::pair<Tags, int64_t>, Fields>;
// By gateway and protocol.
using Sums = std::map<std::pair<std::string, std::string>, Fields>;

constexpr int64_t kSecond = 1'000'000'000;
// All characters that a tag's value may contain; see CheckInfluxGateway.
constexpr char kOddGateway[] = R"(gw 1,eu=north "x" 'y' #a\b  Zürich)";
constexpr const char* kFieldNames[] = {
    "src_packets",      "dst_packets",      "src_bytes",  "dst_bytes",        "connection_count",
    "connection_times", "open_connections", "flow_count", "unanswered_count",
};

// ---- HTTP, as much as a test needs ----

std::string UrlEncoded(const std::string& text) {
  std::string encoded;
  for (const char c : text) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c))) {
      encoded.push_back(c);
    } else {
      absl::StrAppend(&encoded, "%", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
    }
  }
  return encoded;
}

UniqueFd Connected(int port) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const timeval patience{60, 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    return UniqueFd();
  }
  return fd;
}

struct Response {
  int status = 0;
  std::string body;
};

// HTTP/1.0: the answer ends where the connection does, and comes in one piece.
Response Http(int port, const std::string& method, const std::string& path,
              const std::string& body = "") {
  const UniqueFd fd = Connected(port);
  EXPECT_TRUE(fd.valid()) << "port " << port;
  const std::string request = absl::StrCat(
      method, " ", path, " HTTP/1.0\r\nContent-Length: ", body.size(), "\r\n\r\n", body);
  for (size_t sent = 0; sent < request.size();) {
    const ssize_t n = send(fd.get(), request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) {
      ADD_FAILURE() << method << " " << path << ": not taken";
      return {};
    }
    sent += static_cast<size_t>(n);
  }
  std::string answer;
  char buffer[65536];
  for (ssize_t n; (n = recv(fd.get(), buffer, sizeof(buffer), 0)) > 0;) {
    answer.append(buffer, static_cast<size_t>(n));
  }
  Response response;
  const size_t blank = answer.find("\r\n\r\n");
  const std::vector<std::string> words = absl::StrSplit(answer.substr(0, 100), ' ');
  if (blank == std::string::npos || words.size() < 2 ||
      !absl::SimpleAtoi(words[1], &response.status)) {
    ADD_FAILURE() << method << " " << path << ": no HTTP answer";
    return {};
  }
  response.body = answer.substr(blank + 4);
  return response;
}

json JsonOf(const Response& response) {
  EXPECT_EQ(response.status, 200) << response.body;
  const json parsed = json::parse(response.body, nullptr, false);
  EXPECT_FALSE(parsed.is_discarded()) << response.body;
  return parsed;
}

// ---- The databases ----

std::string WhereIs(const std::string& program) {
  for (const char* const folder : {"/usr/bin/", "/usr/sbin/", "/usr/local/bin/"}) {
    if (access((folder + program).c_str(), X_OK) == 0) return folder + program;
  }
  return "";
}

class InfluxTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const auto& [program, package] :
         {std::pair("influxd", "influxdb"), {"victoria-metrics", "victoria-metrics"}}) {
      if (!WhereIs(program).empty()) continue;
      return CannotRun(absl::StrCat("there is no ", program, " (package ", package, ")"));
    }
  }
  void StartInfluxDb() {
    const std::string config = folder_ + "/influxdb.conf";
    std::ofstream(config) << "reporting-disabled = true\n"
                             "bind-address = \"127.0.0.1:0\"\n"
                             "[meta]\n  dir = \""
                          << folder_
                          << "/influx/meta\"\n"
                             "[data]\n  dir = \""
                          << folder_ << "/influx/data\"\n  wal-dir = \"" << folder_
                          << "/influx/wal\"\n"
                             "[monitor]\n  store-enabled = false\n"
                             "[http]\n  bind-address = \"127.0.0.1:0\"\n";
    auto started = Subprocess::Start({WhereIs("influxd"), "-config", config});
    ASSERT_TRUE(started.ok()) << started.status();
    influx_ = *std::move(started);
    // It listens on a free port and logs which one.
    const absl::Status listens = influx_->WaitForOutput("Listening for signals", kPatience);
    ASSERT_TRUE(listens.ok()) << listens;
    const std::string said = influx_->Stderr() + influx_->Stdout();
    const size_t line = said.find("Listening on HTTP");
    const std::string before_port = "addr=127.0.0.1:";
    const size_t at = said.find(before_port, line);
    ASSERT_TRUE(line != std::string::npos && at != std::string::npos) << said;
    influx_port_ = atoi(said.c_str() + at + before_port.size());
    ASSERT_GT(influx_port_, 0) << said;
    Influx("CREATE DATABASE ctacct");
  }

  void StartVictoriaMetrics() {
    // It does not report which port it was given, so the kernel is asked for a free one. If another
    // program takes that meanwhile, another port is tried.
    for (int attempt = 0; attempt < 5; ++attempt) {
      victoria_port_ = FreePort();
      ASSERT_GT(victoria_port_, 0);
      auto started = Subprocess::Start({WhereIs("victoria-metrics"),
                                        "-storageDataPath=" + folder_ + "/victoria",
                                        absl::StrCat("-httpListenAddr=127.0.0.1:", victoria_port_),
                                        "-retentionPeriod=100y", "-memory.allowedBytes=64MB"});
      ASSERT_TRUE(started.ok()) << started.status();
      victoria_ = *std::move(started);
      if (Eventually([&] { return !victoria_->Running() || Connected(victoria_port_).valid(); }) &&
          victoria_->Running()) {
        break;
      }
    }
    ASSERT_TRUE(victoria_->Running()) << victoria_->Stderr();
    ASSERT_EQ(Http(victoria_port_, "GET", "/health").status, 200);
  }

  static int FreePort() {
    const UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      return 0;
    }
    return ntohs(address.sin_port);
  }

  // Into both. A whole lot of lines is taken or refused.
  void Load(const std::string& lines) const {
    const Response influx = Http(influx_port_, "POST", "/write?db=ctacct", lines);
    ASSERT_EQ(influx.status, 204) << influx.body;
    const Response victoria = Http(victoria_port_, "POST", "/write", lines);
    ASSERT_EQ(victoria.status, 204) << victoria.body;
    // What is written is seen only after a while, unless asked.
    ASSERT_EQ(Http(victoria_port_, "GET", "/internal/force_flush").status, 200);
    // It ignores lines that it cannot read, and counts them.
    const std::string metrics = Http(victoria_port_, "GET", "/metrics").body;
    EXPECT_THAT(metrics, HasSubstr("vm_rows_invalid_total{type=\"influx\"} 0\n"));
  }

  // The series of the only statement's answer.
  json Influx(const std::string& query) const {
    const json answer =
        JsonOf(Http(influx_port_, "POST", "/query?db=ctacct&epoch=ns&q=" + UrlEncoded(query)));
    const json& result = answer.at("results").at(0);
    EXPECT_FALSE(result.contains("error")) << query << ": " << result.dump();
    return result.value("series", json::array());
  }

  // Of an instant query.
  json Victoria(const std::string& query, int64_t time_ns) const {
    const json answer = JsonOf(
        Http(victoria_port_, "GET",
             absl::StrCat("/api/v1/query?time=", time_ns / kSecond, "&query=", UrlEncoded(query))));
    EXPECT_EQ(answer.at("status"), "success") << answer.dump();
    return answer.at("data").at("result");
  }

  Points InfluxPoints() const {
    Points points;
    for (const json& series : Influx("SELECT * FROM traffic GROUP BY *")) {
      const Tags tags = series.at("tags").get<Tags>();
      for (const json& values : series.at("values")) {
        Fields& fields = points[{tags, values.at(0).get<int64_t>()}];
        for (size_t i = 1; i < values.size(); ++i) {
          if (!values.at(i).is_null()) {
            fields[series.at("columns").at(i)] = values.at(i).get<uint64_t>();
          }
        }
      }
    }
    return points;
  }

  Points VictoriaPoints() const {
    Points points;
    for (const char* const name : kFieldNames) {
      const Response answer =
          Http(victoria_port_, "GET", absl::StrCat("/api/v1/export?match[]=traffic_", name));
      EXPECT_EQ(answer.status, 200) << answer.body;
      for (const auto& line : absl::StrSplit(answer.body, '\n', absl::SkipEmpty())) {
        const json series = json::parse(line.begin(), line.end());
        Tags tags = series.at("metric").get<Tags>();
        tags.erase("__name__");
        for (size_t i = 0; i < series.at("values").size(); ++i) {
          const int64_t millis = series.at("timestamps").at(i);
          points[{tags, millis * 1'000'000}][name] =
              static_cast<uint64_t>(series.at("values").at(i).get<double>());
        }
      }
    }
    return points;
  }

  // Runs the engine over the shipped capture: what it wrote into the FIFO, and the spool's rows.
  struct Replayed {
    std::string lines;
    std::vector<TrafficRow> rows;
    bool has_open = false;
  };
  void Replay(const Lines& flags, Replayed* replayed) {
    const std::string fifo = folder_ + "/fifo";
    const std::string spool = folder_ + "/spool";
    ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
    std::filesystem::create_directory(spool);
    auto reader = Subprocess::Start({"cat", fifo});
    ASSERT_TRUE(reader.ok()) << reader.status();
    const auto engine = RunProcess(
        Joined({{DataPath("engine/engine"), "-interval=5", "-pipe=" + fifo,
                 "-replay=" + DataPath("tests/captures/gateway.pcap"), "-output=" + spool},
                flags}),
        kPatience);
    ASSERT_TRUE(engine.ok()) << engine.status();
    ASSERT_TRUE(engine->exit.ok()) << engine->err;
    ASSERT_THAT(engine->err, HasSubstr(" 0 dropped"));
    ASSERT_TRUE((*reader)->Wait(kPatience).ok());
    replayed->lines = (*reader)->Stdout();

    for (const std::string& path : VisibleFilesIn(spool)) {
      auto file = SpoolReader::Open(path);
      ASSERT_TRUE(file.ok()) << file.status();
      std::vector<TrafficRow> block;
      for (;;) {
        const auto more = file->ReadBlock(&block);
        ASSERT_TRUE(more.ok()) << more.status();
        if (!*more) break;
        replayed->rows.insert(replayed->rows.end(), block.begin(), block.end());
      }
      replayed->has_open = file->header().track_open;
    }
    std::filesystem::remove_all(spool);
    std::filesystem::remove(fifo);
  }

  const TestFolder temporary_{"influx"};
  const std::string folder_ = temporary_.path();
  std::unique_ptr<Subprocess> influx_;
  int influx_port_ = 0;
  std::unique_ptr<Subprocess> victoria_;
  int victoria_port_ = 0;
};

std::string Dotted(const AddressBytes& address) {
  return absl::StrCat(address[0], ".", address[1], ".", address[2], ".", address[3]);
}

// The points that rows must be.
Points PointsOf(const std::vector<TrafficRow>& rows, bool has_open, const std::string& gateway) {
  Points points;
  for (const TrafficRow& row : rows) {
    const Tags tags = {{"gateway", gateway},
                       {"proto", std::string(ProtocolName(row.protocol))},
                       {"src", Dotted(row.src)},
                       {"dst", Dotted(row.dst)},
                       {"port", absl::StrCat(row.port)}};
    Fields fields = {{"src_packets", row.packets_src},
                     {"dst_packets", row.packets_dst},
                     {"src_bytes", row.bytes_src},
                     {"dst_bytes", row.bytes_dst},
                     {"connection_count", row.connection_count},
                     {"connection_times", row.connection_time_ms},
                     {"flow_count", row.flow_count},
                     {"unanswered_count", row.unanswered_count}};
    if (has_open) fields["open_connections"] = row.open_connections;
    EXPECT_TRUE(points.emplace(std::pair(tags, row.time_ns), fields).second);
  }
  return points;
}

Sums SumsOf(const Points& points) {
  Sums sums;
  for (const auto& [key, fields] : points) {
    Fields& of_key = sums[{key.first.at("gateway"), key.first.at("proto")}];
    for (const auto& [name, value] : fields) of_key[name] += value;
  }
  return sums;
}

// Thousands of points are not to be printed for one that is wrong.
void ExpectSame(const Points& got, const Points& expected) {
  EXPECT_EQ(got.size(), expected.size());
  for (const auto& [key, fields] : expected) {
    const auto it = got.find(key);
    ASSERT_NE(it, got.end()) << absl::StrJoin(key.first, ",", absl::PairFormatter("="));
    ASSERT_EQ(it->second, fields) << absl::StrJoin(key.first, ",", absl::PairFormatter("="));
  }
}

// Two gateways in one database: one with everything and a difficult name, one with masks and
// without open connections.
TEST_F(InfluxTest, DatabasesHaveTheRows) {
  ASSERT_NO_FATAL_FAILURE(StartInfluxDb());
  ASSERT_NO_FATAL_FAILURE(StartVictoriaMetrics());
  Points expected;
  int64_t last_ns = 0;
  for (const Lines& flags :
       {Lines{"-include-icmp", "-track-open", absl::StrCat("-gateway=", kOddGateway)},
        Lines{"-src-group-mask=255.239.255.0", "-dst-group-mask=255.239.255.0", "-gateway=vpn1"}}) {
    Replayed replayed;
    Lines arguments = flags;
    arguments.push_back("-pipe-format=influx");
    ASSERT_NO_FATAL_FAILURE(Replay(arguments, &replayed));
    ASSERT_GT(replayed.rows.size(), 100u);
    ASSERT_NO_FATAL_FAILURE(Load(replayed.lines));
    const std::string gateway = flags.back().substr(std::string("-gateway=").size());
    expected.merge(PointsOf(replayed.rows, replayed.has_open, gateway));
    for (const TrafficRow& row : replayed.rows) last_ns = std::max(last_ns, row.time_ns);
  }
  {
    SCOPED_TRACE("InfluxDB");
    ASSERT_NO_FATAL_FAILURE(ExpectSame(InfluxPoints(), expected));
  }
  {
    SCOPED_TRACE("VictoriaMetrics");
    ASSERT_NO_FATAL_FAILURE(ExpectSame(VictoriaPoints(), expected));
  }

  // As a dashboard asks.
  const Sums expected_sums = SumsOf(expected);
  EXPECT_EQ(expected_sums.size(), 5u);  // ICMP, TCP, UDP; TCP, UDP.
  Fields expected_totals;
  for (const auto& [key, fields] : expected_sums) {
    for (const auto& [name, value] : fields) expected_totals[name] += value;
  }
  Sums influx_sums, victoria_sums;
  Fields influx_totals, victoria_totals;
  for (const std::string name : kFieldNames) {
    EXPECT_GT(expected_totals[name], 0u) << name;
    const std::string sum = absl::StrCat("SELECT sum(", name, ") FROM traffic");
    for (const json& series : Influx(sum + " GROUP BY gateway, proto")) {
      influx_sums[{series.at("tags").at("gateway"), series.at("tags").at("proto")}][name] =
          series.at("values").at(0).at(1);
    }
    influx_totals[name] = Influx(sum).at(0).at("values").at(0).at(1);
    const std::string over_time = absl::StrCat("sum(sum_over_time(traffic_", name, "[1h]))");
    const auto value = [](const json& result) {
      uint64_t number = 0;
      EXPECT_TRUE(absl::SimpleAtoi(result.at("value").at(1).get<std::string>(), &number));
      return number;
    };
    for (const json& result : Victoria(over_time + " by (gateway, proto)", last_ns)) {
      victoria_sums[{result.at("metric").at("gateway"), result.at("metric").at("proto")}][name] =
          value(result);
    }
    victoria_totals[name] = value(Victoria(over_time, last_ns).at(0));
  }
  EXPECT_EQ(influx_sums, expected_sums);
  EXPECT_EQ(influx_totals, expected_totals);
  EXPECT_EQ(victoria_sums, expected_sums);
  EXPECT_EQ(victoria_totals, expected_totals);
}

// Databases store every name that the encoder accepts unchanged.
TEST_F(InfluxTest, DatabasesUnderstandOddNames) {
  ASSERT_NO_FATAL_FAILURE(StartInfluxDb());
  ASSERT_NO_FATAL_FAILURE(StartVictoriaMetrics());
  std::set<std::string> names = {kOddGateway,
                                 std::string(255, '='),
                                 R"(\)"
                                 "gw",
                                 R"(a\b\c)",
                                 "a,b",
                                 "a=b",
                                 " a ",
                                 ",",
                                 "#",
                                 "\"",
                                 R"("a,b")",
                                 "'",
                                 "$1",
                                 "{}",
                                 "日本"};
  std::string lines;
  TrafficRow row;
  row.protocol = 6;
  row.time_ns = absl::ToUnixSeconds(absl::Now()) * kSecond;
  for (const std::string& name : names) {
    ASSERT_TRUE(CheckInfluxGateway(name).ok()) << name;
    ++row.bytes_src;
    InfluxLineEncoder(name).Append(row, true, &lines);
  }
  ASSERT_NO_FATAL_FAILURE(Load(lines));
  const auto gateways = [](const Points& points) {
    std::set<std::string> found;
    for (const auto& [key, fields] : points) found.insert(key.first.at("gateway"));
    return found;
  };
  EXPECT_EQ(gateways(InfluxPoints()), names);
  EXPECT_EQ(gateways(VictoriaPoints()), names);
}

// A counter that a signed integer cannot hold costs neither its point nor the others of its lot.
TEST_F(InfluxTest, DatabasesTakeTheLargestCounter) {
  ASSERT_NO_FATAL_FAILURE(StartInfluxDb());
  ASSERT_NO_FATAL_FAILURE(StartVictoriaMetrics());
  TrafficRow row;
  row.protocol = 6;
  row.time_ns = absl::ToUnixSeconds(absl::Now()) * kSecond;
  row.packets_src = 1;
  row.bytes_src = std::numeric_limits<uint64_t>::max();
  std::string lines;
  InfluxLineEncoder("gw").Append(row, false, &lines);
  ASSERT_NO_FATAL_FAILURE(Load(lines));
  const Points points = InfluxPoints();
  ASSERT_EQ(points.size(), 1u);
  EXPECT_EQ(points.begin()->second.at("src_bytes"), 9223372036854775807u);
  EXPECT_EQ(points.begin()->second.at("src_packets"), 1u);
  EXPECT_EQ(VictoriaPoints().begin()->second.at("src_packets"), 1u);
}

// ---- Telegraf ----

class TelegrafTest : public InfluxTest {
 protected:
  // A file of configs/telegraf, by a parser that is not ours.
  static json Toml(const std::string& name) {
    const auto parsed = RunProcessOrError(
        {"python3", "-c",
         "import json, sys, tomllib; json.dump(tomllib.load(open(sys.argv[1], 'rb')), sys.stdout)",
         DataPath("configs/telegraf/" + name)},
        kPatience);
    EXPECT_TRUE(parsed.ok()) << name << ": " << parsed.status();
    return json::parse(parsed.value_or("{}"));
  }
  // Its only input.
  static json Tail(const std::string& name) {
    const json config = Toml(name);
    EXPECT_EQ(config.size(), 1u) << name;
    EXPECT_EQ(config.at("inputs").size(), 1u) << name;
    EXPECT_EQ(config.at("inputs").at("tail").size(), 1u) << name;
    return config.at("inputs").at("tail").at(0);
  }
};

// What Telegraf's CSV parser does with a line, as its documentation has it; the point in line
// protocol, tags in the order of their names, fields in that of the columns.
std::string CsvToPoint(const json& tail, const std::string& line) {
  const Lines names = tail.at("csv_column_names");
  const Lines types = tail.at("csv_column_types");
  const std::set<std::string> tag_columns = tail.at("csv_tag_columns");
  Tags tags = tail.at("tags");
  const Lines columns = absl::StrSplit(line, ',');
  EXPECT_LE(columns.size(), names.size());
  std::string time;
  Lines fields;
  for (size_t i = 0; i < columns.size() && i < names.size(); ++i) {
    if (tag_columns.count(names[i]) != 0) {
      tags[names[i]] = columns[i];
    } else if (names[i] == tail.at("csv_timestamp_column").get<std::string>()) {
      time = columns[i];
    } else {
      EXPECT_EQ(types[i], "int") << names[i];
      fields.push_back(absl::StrCat(names[i], "=", columns[i], "i"));
    }
  }
  return absl::StrCat(tail.at("name_override").get<std::string>(), ",",
                      absl::StrJoin(tags, ",", absl::PairFormatter("=")), " ",
                      absl::StrJoin(fields, ","), " ", time);
}

TEST_F(TelegrafTest, CsvBecomesTheSamePoints) {
  const json tail = Tail("rows-csv.conf");
  EXPECT_EQ(tail.at("data_format"), "csv");
  EXPECT_EQ(tail.at("csv_timestamp_format"), "unix_ns");
  EXPECT_EQ(tail.at("csv_column_types").size(), tail.at("csv_column_names").size());
  const std::string gateway = tail.at("tags").at("gateway");
  for (const std::string track_open : {"-track-open", "-track-open=false"}) {
    SCOPED_TRACE(track_open);
    Replayed csv, influx;
    const Lines flags = {"-include-icmp", "-gateway=" + gateway, track_open};
    ASSERT_NO_FATAL_FAILURE(Replay(flags, &csv));  // The default is CSV.
    Lines influx_flags = flags;
    influx_flags.push_back("-pipe-format=influx");
    ASSERT_NO_FATAL_FAILURE(Replay(influx_flags, &influx));
    Lines points;
    for (const auto& line : absl::StrSplit(csv.lines, '\n', absl::SkipEmpty())) {
      points.push_back(CsvToPoint(tail, std::string(line)));
    }
    // CSV has no columns for flows, and no line that would only say how many ended.
    Lines expected;
    for (const auto& each : absl::StrSplit(influx.lines, '\n', absl::SkipEmpty())) {
      std::string line(each);
      const size_t flows = line.find(",flow_count=");
      ASSERT_NE(flows, std::string::npos) << line;
      line.erase(flows, line.rfind(' ') - flows);
      const std::vector<std::string> fields = absl::StrSplit(line.substr(line.find(' ')), '=');
      if (std::any_of(fields.begin() + 1, fields.end(),
                      [](const std::string& value) { return value[0] != '0'; })) {
        expected.push_back(line);
      }
    }
    EXPECT_GT(points.size(), 100u);
    std::sort(points.begin(), points.end());
    std::sort(expected.begin(), expected.end());
    EXPECT_TRUE(points == expected) << points.front() << "\n" << expected.front();
  }
}

TEST_F(TelegrafTest, BothReadTheFifoAlike) {
  json csv = Tail("rows-csv.conf");
  const json influx = Tail("rows-influx.conf");
  EXPECT_EQ(influx.at("files"), json({"/run/ctacct/rows"}));
  EXPECT_EQ(influx.at("pipe"), true);
  EXPECT_EQ(influx.at("path_tag"), "");
  EXPECT_EQ(influx.at("data_format"), "influx");
  // What one has more than the other is about CSV; the rest is said in one way.
  for (const auto& [key, value] : influx.items()) {
    if (key != "data_format") {
      EXPECT_EQ(csv.at(key), value) << key;
    }
    csv.erase(key);
  }
  for (const auto& [key, value] : csv.items()) {
    EXPECT_TRUE(key.rfind("csv_", 0) == 0 || key == "name_override" || key == "tags") << key;
  }
  // The service's own flag file also names it.
  std::ifstream file(DataPath("configs/engine.flags"));
  const std::string flags{std::istreambuf_iterator<char>(file), {}};
  EXPECT_THAT(flags, HasSubstr("\n#pipe=/run/ctacct/rows\n"));
  EXPECT_THAT(flags, HasSubstr("\n#pipe-format=influx\n"));
}

TEST_F(TelegrafTest, OutputsTakeTheRows) {
  for (const std::string name : {"influxdb.conf", "victoriametrics.conf"}) {
    const json output = Toml(name).at("outputs").at("influxdb").at(0);
    EXPECT_EQ(output.at("namepass"), json({"traffic"})) << name;
    EXPECT_EQ(output.at("urls").size(), 1u) << name;
    EXPECT_EQ(output.at("database"), "ctacct") << name;
  }
}

}  // namespace
}  // namespace ctacct
