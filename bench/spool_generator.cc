// Writes spool files with rows as a real gateway makes them, one interval each. -workload:
//   game      every pair of a number of client and server networks, on several ports, TCP and UDP
//   provider  clients of a VPN: each talks to 20 to 60 addresses, of which 30 % appear only once
//   scan      an address scan: each row has a destination of its own
// The same flags make the same rows; one interval is in memory at a time. Prints a line for each
// file: name, rows, packets sent, bytes sent, bytes received. A caller checks by these sums whether
// all rows arrived.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/traffic_row.h"
#include "engine/spool/engine_id.h"
#include "engine/spool/spool_writer.h"
#include "engine/system/command_line.h"

ABSL_FLAG(std::string, output, "", "folder for the files");
ABSL_FLAG(std::string, workload, "game", "game, provider or scan");
ABSL_FLAG(int, files, 10, "number of files; one interval each");
ABSL_FLAG(int, rows, 100'000,
          "game, scan: rows in each file; at most 200,000 of a game, 16,000,000 of a scan");
ABSL_FLAG(
    int, keys, 0,
    "game: number of keys in use, of 200,000; each interval has about -rows of them; 0: the first "
    "-rows keys, in every interval");
ABSL_FLAG(int, clients, 5000, "provider: number of clients; each has about 30 rows in a file");
ABSL_FLAG(int64_t, first, 1'600'000'005, "end of the first interval, seconds since the epoch");
ABSL_FLAG(int, interval, 15, "length of an interval in seconds");
ABSL_FLAG(int, pace, 0, "milliseconds from one file to the next; 0: as fast as possible");
ABSL_FLAG(uint32_t, seed, 1,
          "of the random numbers; providers of different seeds have different clients");
ABSL_FLAG(std::string, gateway, "vpn1", "name of the gateway");

namespace ctacct {
namespace {

constexpr char kProgram[] = "spool_generator";
constexpr uint8_t kTcp = 6;
constexpr uint8_t kUdp = 17;

using Random = std::mt19937_64;

class Workload {
 public:
  virtual ~Workload() = default;
  // Adds the rows of the next interval.
  virtual void Make(int64_t time_ns, std::vector<TrafficRow>* rows) = 0;
};

AddressBytes Ipv4(uint32_t address) {
  return {static_cast<uint8_t>(address >> 24), static_cast<uint8_t>(address >> 16),
          static_cast<uint8_t>(address >> 8), static_cast<uint8_t>(address)};
}

class Game : public Workload {
 public:
  static constexpr int kNetworks = 100;
  static constexpr int kRowsMax = kNetworks * kNetworks * 10 * 2;

  Game(int rows, int keys, uint32_t seed)
      : random_(seed), rows_(static_cast<uint64_t>(rows)), indexes_(kRowsMax) {
    std::iota(indexes_.begin(), indexes_.end(), 0);
    if (keys != rows) std::shuffle(indexes_.begin(), indexes_.end(), random_);
    indexes_.resize(static_cast<size_t>(keys));
    std::sort(indexes_.begin(), indexes_.end());
  }

  void Make(int64_t time_ns, std::vector<TrafficRow>* rows) override {
    const uint64_t keys = indexes_.size();
    for (const int index : indexes_) {
      if (keys == rows_ || random_() % keys < rows_) rows->push_back(MakeRow(index, time_ns));
    }
  }

 private:
  static constexpr int32_t kPorts[] = {22, 25, 53, 80, 123, 443, 993, 3306, 5432, kPortNotListed};

  TrafficRow MakeRow(int index, int64_t time_ns) {
    TrafficRow row;
    row.time_ns = time_ns;
    row.protocol = index % 2 == 0 ? kTcp : kUdp;
    row.port = kPorts[index / 2 % 10];
    row.src = {10, 32, static_cast<uint8_t>(index / 20 % kNetworks), 0};
    row.dst = {10, 33, static_cast<uint8_t>(index / 20 / kNetworks), 0};
    row.packets_src = 1 + random_() % 2000;
    row.packets_dst = random_() % 3000;
    row.bytes_src = row.packets_src * (60 + random_() % 500);
    row.bytes_dst = row.packets_dst * (60 + random_() % 1400);
    if (row.protocol == kTcp) {
      row.connection_count = random_() % 20;
      row.connection_time_ms = row.connection_count * (random_() % 30'000);
      row.open_connections = random_() % 10;
    }
    return row;
  }

  Random random_;
  const uint64_t rows_;
  std::vector<int> indexes_;
};

// TCP connections that nobody answered.
class Scan : public Workload {
 public:
  static constexpr int kRowsMax = 16'000'000;

  explicit Scan(int rows) : rows_(rows) {}

  void Make(int64_t time_ns, std::vector<TrafficRow>* rows) override {
    constexpr int32_t kPorts[] = {22, 25, 53, 80, 123, 443, 993, 3306, 5432};
    for (int index = 0; index < rows_; ++index) {
      TrafficRow& row = rows->emplace_back();
      row.time_ns = time_ns;
      row.protocol = kTcp;
      row.port = kPorts[index % 9];
      row.src = {10, 32, static_cast<uint8_t>(index % 100), 0};
      row.dst = Ipv4(uint32_t{11} << 24 | static_cast<uint32_t>(index));
      row.packets_src = 1;
      row.bytes_src = 60;
    }
  }

 private:
  const int rows_;
};

// Three of four clients are active in an interval, each with 20 to 60 destinations. 70 % of these
// are from a set of popular addresses by Zipf's law (the k-th is chosen in proportion to 1 / k),
// the others appear once. Bytes of a row have a Pareto distribution: one row in a hundred carries
// most of them. Rows are in random order, as an engine's are.
class Provider : public Workload {
 public:
  static constexpr int kClientsMax = 65'536;

  Provider(int clients, uint32_t seed) : random_(seed), seed_(seed), clients_(clients) {
    double sum = 0;
    for (int k = 1; k <= kPopular; ++k) popular_.push_back(sum += 1.0 / k);
    for (double& each : popular_) each /= sum;
  }

  void Make(int64_t time_ns, std::vector<TrafficRow>* rows) override {
    for (int client = 0; client < clients_; ++client) {
      if (random_() % 4 == 0) continue;
      const AddressBytes src =
          Ipv4(kClientNetwork | (seed_ % 64) << 16 | static_cast<uint32_t>(client));
      std::vector<uint32_t> destinations(20 + random_() % 41);
      for (auto it = destinations.begin(); it != destinations.end(); ++it) {
        do {
          *it = Uniform() < 0.7 ? PopularAddress() : NewAddress();
        } while (std::find(destinations.begin(), it, *it) != it);
        rows->push_back(MakeRow(time_ns, src, *it));
      }
    }
    std::shuffle(rows->begin(), rows->end(), random_);
  }

 private:
  static constexpr int kPopular = 20'000;
  static constexpr uint32_t kClientNetwork = uint32_t{10} << 24 | uint32_t{64} << 16;
  static constexpr double kBytesMin = 1'500;
  static constexpr double kBytesMax = 2e9;  // A gigabit a second.
  static constexpr double kParetoExponent = 1.05;

  struct Service {
    int percent;
    uint8_t protocol;
    int32_t port;  // 0: any.
  };
  static constexpr Service kServices[] = {{56, kTcp, 443}, {20, kUdp, 443}, {7, kTcp, 80},
                                          {6, kUdp, 53},   {2, kUdp, 123},  {3, kUdp, 3478},
                                          {1, kTcp, 5228}, {1, kTcp, 993},  {1, kTcp, 22},
                                          {1, kTcp, 8080}, {1, kUdp, 0},    {1, kTcp, 0}};

  // From 0 up to 1, without 1.
  double Uniform() { return static_cast<double>(random_() >> 11) * 0x1p-53; }

  // Different for every number, and seldom near to that of the next; not in 10.0.0.0/8.
  static uint32_t Address(uint32_t number) {
    constexpr uint32_t kSpace = 0xdf000000 - 0x0b000000;  // From 11.0.0.0 up to 223.0.0.0.
    return 0x0b000000 + static_cast<uint32_t>(uint64_t{number % kSpace} * 2'654'435'761 % kSpace);
  }

  uint32_t PopularAddress() {
    const auto found = std::upper_bound(popular_.begin(), popular_.end(), Uniform());
    return Address(
        static_cast<uint32_t>(std::min<int64_t>(found - popular_.begin(), kPopular - 1)));
  }
  // Another gateway's are elsewhere.
  uint32_t NewAddress() { return Address(kPopular + seed_ % 8 * 400'000'000 + new_addresses_++); }

  TrafficRow MakeRow(int64_t time_ns, const AddressBytes& src, uint32_t destination) {
    TrafficRow row;
    row.time_ns = time_ns;
    row.src = src;
    row.dst = Ipv4(destination);
    // Of a client at a destination nearly always the same.
    uint64_t choice =
        (uint64_t{src[2]} << 40 | uint64_t{src[3]} << 32 | destination) * 0x9e3779b97f4a7c15;
    choice = Uniform() < 0.05 ? random_() : choice ^ choice >> 32;
    auto percent = static_cast<int>(choice % 100);
    const Service* service = kServices;
    while (percent >= service->percent) percent -= service++->percent;
    row.protocol = service->protocol;
    row.port =
        service->port != 0 ? service->port : 1024 + static_cast<int32_t>(choice / 100 % 64'512);

    const double bytes =
        row.port == 53 || row.port == 123
            ? 300
            : std::min(kBytesMax, kBytesMin / std::pow(1 - Uniform(), 1 / kParetoExponent));
    row.bytes_dst = static_cast<uint64_t>(bytes * (0.5 + 0.45 * Uniform()));
    row.packets_dst = 1 + row.bytes_dst / 1200;
    row.packets_src = 1 + row.packets_dst / 2;
    row.bytes_src = row.packets_src * (60 + random_() % 100);
    row.flow_count = random_() % 3;
    if (row.protocol == kTcp) {
      row.connection_count = row.flow_count;
      row.connection_time_ms = row.connection_count * (random_() % 60'000);
      row.open_connections = random_() % 4;
    }
    return row;
  }

  Random random_;
  const uint32_t seed_;
  const int clients_;
  std::vector<double> popular_;  // The chance of each or of one before it.
  uint32_t new_addresses_ = 0;
};

absl::StatusOr<std::unique_ptr<Workload>> WorkloadFromFlags() {
  const std::string name = absl::GetFlag(FLAGS_workload);
  const uint32_t seed = absl::GetFlag(FLAGS_seed);
  if (name == "provider") {
    const int clients = absl::GetFlag(FLAGS_clients);
    if (clients < 0 || clients > Provider::kClientsMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("give -clients from 0 to ", Provider::kClientsMax));
    }
    return std::make_unique<Provider>(clients, seed);
  }
  if (name != "game" && name != "scan") {
    return absl::InvalidArgumentError("give -workload=game, provider or scan");
  }
  const int rows = absl::GetFlag(FLAGS_rows);
  const int keys = absl::GetFlag(FLAGS_keys) == 0 ? rows : absl::GetFlag(FLAGS_keys);
  const int rows_max = name == "scan" ? Scan::kRowsMax : Game::kRowsMax;
  if (rows < 0 || keys < rows || keys > rows_max) {
    return absl::InvalidArgumentError(
        absl::StrCat("give -rows, and -keys from -rows to ", rows_max));
  }
  if (name == "scan") return std::make_unique<Scan>(rows);
  return std::make_unique<Game>(rows, keys, seed);
}

int Main(int argc, char** argv) {
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  if (!line.ok()) {
    PrintError(kProgram, line.status());
    return kExitUsageError;
  }
  if (line->help) {
    std::cout << FlagsHelp("usage: spool_generator -output=FOLDER [FLAGS]");
    return kExitOk;
  }
  absl::StatusOr<std::unique_ptr<Workload>> workload = WorkloadFromFlags();
  if (workload.ok() && absl::GetFlag(FLAGS_output).empty()) {
    workload = absl::InvalidArgumentError("give -output");
  }
  if (!workload.ok()) {
    PrintError(kProgram, workload.status());
    return kExitUsageError;
  }
  SpoolHeader header;
  header.engine_id = NewEngineId().value();
  const int64_t interval_ns = absl::GetFlag(FLAGS_interval) * int64_t{1'000'000'000};
  header.interval_length_ns = interval_ns;
  header.track_open = true;
  header.gateway = absl::GetFlag(FLAGS_gateway);
  std::vector<TrafficRow> rows;
  for (int file = 0; file < absl::GetFlag(FLAGS_files); ++file) {
    header.sequence = static_cast<uint64_t>(file) + 1;
    header.interval_end_ns = absl::GetFlag(FLAGS_first) * 1'000'000'000 + file * interval_ns;
    header.created_ns = header.interval_end_ns;
    header.covered_from_ns = header.interval_end_ns - interval_ns;
    header.covered_to_ns = header.interval_end_ns;
    rows.clear();
    (*workload)->Make(header.interval_end_ns, &rows);
    uint64_t packets_src = 0, bytes_src = 0, bytes_dst = 0;
    for (const TrafficRow& row : rows) {
      packets_src += row.packets_src;
      bytes_src += row.bytes_src;
      bytes_dst += row.bytes_dst;
    }
    if (file != 0 && absl::GetFlag(FLAGS_pace) != 0) {
      absl::SleepFor(absl::Milliseconds(absl::GetFlag(FLAGS_pace)));
    }
    const absl::StatusOr<std::string> name =
        WriteSpoolFile(absl::GetFlag(FLAGS_output), header, rows);
    if (!name.ok()) {
      PrintError(kProgram, name.status());
      return kExitOperatingError;
    }
    std::cout << *name << ' ' << rows.size() << ' ' << packets_src << ' ' << bytes_src << ' '
              << bytes_dst << std::endl;
  }
  return kExitOk;
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::Main(argc, argv); }
