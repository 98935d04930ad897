// The whole way on the real thing: a kernel gateway in network namespaces, the engine, spool files,
// FIFO, a recording and its replay, the importer, PostgreSQL. The oracle is the generator's own
// count of what it sent.
#include <signal.h>
#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/csv.h"
#include "engine/rows/protocol_names.h"
#include "engine/spool/spool_reader.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/gateway.h"
#include "tests/support/private_postgres.h"
#include "tests/support/spool_rows.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint32_t kMask = 0xffefff00;  // 255.239.255.0
const GroupOptions kGrouped = {.src_mask = kMask, .dst_mask = kMask, .ports = {}};

struct Rows {
  Traffic traffic;
  // By the interval's end, nanoseconds since the Unix epoch.
  std::map<int64_t, uint64_t> open_connections;
  uint64_t connection_time_ms = 0;  // In all.
};

uint32_t HostOrder(const AddressBytes& bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
}

Rows ReadCsv(const std::string& csv) {
  Rows rows;
  for (absl::string_view line : absl::StrSplit(csv, '\n', absl::SkipEmpty())) {
    TrafficRow row;
    bool has_open = false;
    const absl::Status status = ParseCsvLine(line, &row, &has_open);
    EXPECT_TRUE(status.ok()) << status;
    TrafficTotals sums;
    sums.packets_src = row.packets_src;
    sums.packets_dst = row.packets_dst;
    sums.bytes_src = row.bytes_src;
    sums.bytes_dst = row.bytes_dst;
    sums.connection_count = row.connection_count;
    rows.open_connections[row.time_ns] += row.open_connections;
    rows.connection_time_ms += row.connection_time_ms;
    // A row of open connections alone is none of traffic.
    if (sums == TrafficTotals()) continue;
    const TrafficKey key = {std::string(ProtocolName(row.protocol)), HostOrder(row.src),
                            HostOrder(row.dst), row.port};
    rows.traffic[key] += sums;
  }
  return rows;
}

// What the engine counts of it once all flows are destroyed: every TCP connection has closed then.
Traffic AllClosed(Traffic traffic) {
  for (auto& [key, sums] : traffic) {
    sums.connection_count += sums.open_connections;
    sums.open_connections = 0;
  }
  return traffic;
}

class LiveTest : public testing::Test {
 protected:
  void SetUp() override {
    RequireRootOrSkip();
    if (IsSkipped() || HasFatalFailure()) return;
    std::string folder = "/tmp/ctacct-live.XXXXXX";
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    std::filesystem::create_directory(spool());
  }
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }

  std::string spool() const { return folder_ + "/spool"; }
  std::string recording() const { return folder_ + "/recording.pcap"; }

  static std::vector<std::string> EngineFlags() {
    return {DataPath("engine/engine"),
            "-src=10.32.0.0/11",
            "-dst=10.32.0.0/11",
            "-src-group-mask=255.239.255.0",
            "-dst-group-mask=255.239.255.0",
            "-include-icmp"};
  }

  void StartEngine(const Gateway& gateway, const std::vector<std::string>& flags) {
    std::vector<std::string> argv = EngineFlags();
    argv.push_back("-output=" + spool());
    argv.insert(argv.end(), flags.begin(), flags.end());
    auto engine = gateway.Start(argv);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
    const absl::Status started = engine_->WaitForOutput("accounting live", absl::Seconds(10));
    ASSERT_TRUE(started.ok()) << started;
  }

  void StopEngine() {
    ASSERT_TRUE(engine_->Running()) << engine_->Stderr();
    ASSERT_TRUE(engine_->Signal(SIGTERM).ok());
    const auto exit = engine_->Wait(absl::Seconds(30));
    ASSERT_TRUE(exit.ok()) << exit.status();
    EXPECT_TRUE(exit->ok()) << exit->ToString() << engine_->Stderr();
  }

  std::string Spooldump() const {
    std::vector<std::string> argv = {DataPath("engine/spool/spooldump")};
    for (const auto& entry : std::filesystem::directory_iterator(spool())) {
      if (entry.path().filename() == ".ctacct") continue;
      argv.push_back(entry.path());
    }
    const auto csv = RunProcessOrError(argv, absl::Seconds(30));
    EXPECT_TRUE(csv.ok()) << csv.status();
    return csv.ok() ? *csv : "";
  }

  std::string ReplayedCsv(const std::string& interval) const {
    std::vector<std::string> argv = EngineFlags();
    argv.insert(argv.end(), {"-replay=" + recording(), interval, "-track-open"});
    const auto csv = RunProcessOrError(argv, absl::Seconds(60));
    EXPECT_TRUE(csv.ok()) << csv.status();
    return csv.ok() ? *csv : "";
  }

  // What the headers of the spool files say: events dropped in all, and the intervals with a gap.
  void ReadGaps(uint64_t* dropped, std::map<int64_t, Completeness>* gaps) const {
    *dropped = 0;
    for (const auto& entry : std::filesystem::directory_iterator(spool())) {
      if (entry.path().filename() == ".ctacct") continue;
      const auto reader = SpoolReader::Open(entry.path());
      ASSERT_TRUE(reader.ok()) << reader.status();
      const SpoolHeader& header = reader->header();
      *dropped += header.events_dropped;
      if (header.completeness != Completeness::kComplete) {
        (*gaps)[header.interval_end_ns] = header.completeness;
      }
    }
  }

  // Imports the spool and returns what is in the database.
  void Import(Traffic* traffic) const {
    auto postgres = PrivatePostgres::Start();
    ASSERT_TRUE(postgres.ok()) << postgres.status();
    const auto out =
        RunProcessOrError({DataPath("importer/importer"), "-conninfo=" + (*postgres)->Conninfo(),
                           "-watch=" + spool(), "-once"},
                          absl::Seconds(60));
    ASSERT_TRUE(out.ok()) << out.status();
    EXPECT_TRUE(NothingVisible(spool()));
    const auto rows = (*postgres)->Sql(
        "postgres",
        "SELECT proto, host(src), host(dst), port, sum(src_packets), sum(dst_packets),"
        " sum(src_bytes), sum(dst_bytes), sum(connection_count) FROM vpn_traffic"
        " GROUP BY 1, 2, 3, 4 HAVING sum(src_packets + dst_packets + connection_count) > 0");
    ASSERT_TRUE(rows.ok()) << rows.status();
    for (absl::string_view line : absl::StrSplit(*rows, '\n', absl::SkipEmpty())) {
      const std::vector<std::string> fields = absl::StrSplit(line, '|');
      ASSERT_EQ(fields.size(), 9u);
      TrafficKey key;
      key.protocol = fields[0];
      key.src = ParseAddress(fields[1]).value();
      key.dst = ParseAddress(fields[2]).value();
      ASSERT_TRUE(absl::SimpleAtoi(fields[3], &key.port));
      TrafficTotals sums;
      uint64_t* const columns[] = {&sums.packets_src, &sums.packets_dst, &sums.bytes_src,
                                   &sums.bytes_dst, &sums.connection_count};
      for (size_t i = 0; i < 5; ++i) ASSERT_TRUE(absl::SimpleAtoi(fields[4 + i], columns[i]));
      (*traffic)[key] += sums;
    }
  }

  // Plays, destroys all flows at once, and compares every output of the engine with what was sent.
  void PlayAndCompareEverything(const std::vector<std::string>& play) {
    auto gateway = Gateway::Up();
    ASSERT_TRUE(gateway.ok()) << gateway.status();
    const std::string fifo = folder_ + "/fifo";
    StartEngine(**gateway,
                {"-interval=2", "-track-open", "-record=" + recording(), "-pipe=" + fifo});
    auto reader = Subprocess::Start({"cat", fifo});
    ASSERT_TRUE(reader.ok()) << reader.status();
    const auto sent = (*gateway)->Play(play);
    ASSERT_TRUE(sent.ok()) << sent.status();
    ASSERT_TRUE((*gateway)->FlushConntrack().ok());
    StopEngine();
    ASSERT_TRUE((*reader)->Wait(absl::Seconds(10)).ok());
    EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("overrun")));

    const Traffic expected = AllClosed(Group(*sent, kGrouped));
    const std::string from_spool = Spooldump();
    const std::string from_fifo = (*reader)->Stdout();
    const std::string from_replay = ReplayedCsv("-interval=2");
    EXPECT_EQ(Difference(expected, ReadCsv(from_spool).traffic), "");
    EXPECT_EQ(Difference(expected, ReadCsv(from_fifo).traffic), "");
    EXPECT_EQ(Difference(expected, ReadCsv(from_replay).traffic), "");
    EXPECT_EQ(ReadCsv(from_spool).open_connections, ReadCsv(from_replay).open_connections);
    Traffic in_database;
    ASSERT_NO_FATAL_FAILURE(Import(&in_database));
    EXPECT_EQ(Difference(expected, in_database), "");
    std::cout << "sent " << Total(expected).ToString() << " under " << expected.size()
              << " keys: equal in spool, FIFO, replay and PostgreSQL\n"
              << engine_->Stderr();
  }

  std::string folder_;
  std::unique_ptr<Subprocess> engine_;
};

TEST_F(LiveTest, MassDestroyOf100000TcpConnections) {
  PlayAndCompareEverything({"--tcp=100000", "--icmp=1000"});
}

TEST_F(LiveTest, MassDestroyOf200000UdpFlows) { PlayAndCompareEverything({"--udp=200000"}); }

// Each worker has its own socket, filter and tables; together they are one engine.
TEST_F(LiveTest, MassDestroyUnderThreeWorkers) {
  auto gateway = Gateway::Up();
  ASSERT_TRUE(gateway.ok()) << gateway.status();
  StartEngine(**gateway, {"-interval=1", "-workers=3", "-track-open"});
  const auto sent = (*gateway)->Play(
      {"--tcp=60000", "--udp=60000", "--icmp=1000", "--open-tcp=2000", "--rounds=3"});
  ASSERT_TRUE(sent.ok()) << sent.status();
  ASSERT_TRUE((*gateway)->FlushConntrack().ok());
  StopEngine();
  EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("overrun")));
  const std::string csv = Spooldump();
  EXPECT_EQ(Difference(AllClosed(Group(*sent, kGrouped)), ReadCsv(csv).traffic), "");
  std::set<std::string> keys;
  for (absl::string_view line : absl::StrSplit(csv, '\n', absl::SkipEmpty())) {
    const std::vector<absl::string_view> fields = absl::StrSplit(line, ',');
    const std::string key = absl::StrJoin(fields.begin(), fields.begin() + 5, ",");
    EXPECT_TRUE(keys.insert(key).second) << key << " twice in an interval";
  }
}

// The same packets, bytes and connections; durations to the second.
TEST_F(LiveTest, LightIsAsExactAsPrecise) {
  for (const Timeouts timeouts : {Timeouts::kLong, Timeouts::kShort}) {
    auto gateway = Gateway::Up({.nat = false, .timeouts = timeouts});
    ASSERT_TRUE(gateway.ok()) << gateway.status();
    StartEngine(**gateway, {"-interval=1", "-mode=light", "-track-open"});
    std::vector<std::string> argv = EngineFlags();
    argv.insert(argv.end(), {"-interval=1", "-track-open"});
    auto precise = (*gateway)->Start(argv);
    ASSERT_TRUE(precise.ok()) << precise.status();
    ASSERT_TRUE((*precise)->WaitForOutput("accounting live", absl::Seconds(10)).ok());
    const auto sent =
        (*gateway)->Play({"--tcp=5000", "--udp=5000", "--icmp=500", "--open-tcp=1000", "--rounds=6",
                          "--round-seconds=1", "--tcp-refused-percent=5"});
    ASSERT_TRUE(sent.ok()) << sent.status();
    // What was closed last is seen so by a dump, or expires.
    absl::SleepFor(absl::Seconds(4));
    ASSERT_TRUE((*gateway)->FlushConntrack().ok());
    StopEngine();
    ASSERT_TRUE((*precise)->Signal(SIGTERM).ok());
    ASSERT_TRUE((*precise)->Wait(absl::Seconds(30)).ok());
    const Rows light = ReadCsv(Spooldump());
    const Rows exact = ReadCsv((*precise)->Stdout());
    const Traffic expected = AllClosed(Group(*sent, kGrouped));
    EXPECT_EQ(Difference(expected, exact.traffic), "");
    EXPECT_EQ(Difference(expected, light.traffic), "");
    const uint64_t connections = Total(expected).connection_count;
    EXPECT_LE(light.connection_time_ms, exact.connection_time_ms + connections * 1000);
    EXPECT_LE(exact.connection_time_ms, light.connection_time_ms + connections * 1000);
    // A thousand were open for six seconds.
    uint64_t most_open = 0;
    for (const auto& [time_ns, open] : light.open_connections) {
      most_open = std::max(most_open, open);
    }
    EXPECT_GE(most_open, 1000u);
    EXPECT_EQ(light.open_connections.rbegin()->second, 0u);
    std::cout << connections << " connections, " << exact.connection_time_ms << " ms precise, "
              << light.connection_time_ms << " ms light\n";
    std::filesystem::remove_all(spool());
    std::filesystem::create_directory(spool());
  }
}

TEST_F(LiveTest, ConnectionsOpenOverFiveIntervals) {
  auto gateway = Gateway::Up();
  ASSERT_TRUE(gateway.ok()) << gateway.status();
  StartEngine(**gateway, {"-interval=1", "-track-open", "-record=" + recording()});
  const auto sent =
      (*gateway)->Play({"--open-tcp=3000", "--tcp=500", "--rounds=7", "--round-seconds=1"});
  ASSERT_TRUE(sent.ok()) << sent.status();
  StopEngine();
  const Traffic expected = AllClosed(Group(*sent, kGrouped));
  const Rows rows = ReadCsv(Spooldump());
  EXPECT_EQ(Difference(expected, rows.traffic), "");
  int intervals_with_all_open = 0;
  for (const auto& [time_ns, open] : rows.open_connections) intervals_with_all_open += open == 3000;
  EXPECT_GE(intervals_with_all_open, 5);
  EXPECT_EQ(rows.open_connections.rbegin()->second, 0u);
  EXPECT_EQ(Difference(expected, ReadCsv(ReplayedCsv("-interval=1")).traffic), "");
}

TEST_F(LiveTest, TranslatedFlowsAreTheirOpeners) {
  auto gateway = Gateway::Up({.nat = true, .timeouts = Timeouts::kLong});
  ASSERT_TRUE(gateway.ok()) << gateway.status();
  StartEngine(**gateway, {"-interval=1"});
  const auto sent = (*gateway)->Play({"--tcp=2000", "--udp=2000", "--icmp=200"});
  ASSERT_TRUE(sent.ok()) << sent.status();
  StopEngine();
  EXPECT_EQ(Difference(AllClosed(Group(*sent, kGrouped)), ReadCsv(Spooldump()).traffic), "");
}

// Of flows older than the engine only the growth counts, and no closed connection twice.
TEST_F(LiveTest, FlowsOlderThanTheEngineAreBaselined) {
  auto gateway = Gateway::Up();
  ASSERT_TRUE(gateway.ok()) << gateway.status();
  const std::string expectation = folder_ + "/sent.csv";
  auto play = (*gateway)->StartPlay(
      {"--tcp=500", "--open-tcp=2000", "--rounds=4", "--round-seconds=3", "--close-open=true"},
      expectation);
  ASSERT_TRUE(play.ok()) << play.status();
  // The first round is over when the counters rest.
  Traffic before;
  for (int tries = 0; tries < 20; ++tries) {
    absl::SleepFor(absl::Milliseconds(200));
    const auto now = (*gateway)->KernelCounters();
    ASSERT_TRUE(now.ok()) << now.status();
    if (!now->empty() && *now == before) break;
    before = *now;
  }
  StartEngine(**gateway, {"-interval=1"});
  const auto played = (*play)->Wait(absl::Seconds(60));
  ASSERT_TRUE(played.ok() && played->ok()) << (*play)->Stderr();
  const auto after = (*gateway)->KernelCounters();
  ASSERT_TRUE(after.ok()) << after.status();
  StopEngine();
  Traffic grown;
  for (const auto& [key, sums] : *after) {
    const TrafficTotals& old = before[key];
    TrafficTotals growth;
    growth.packets_src = sums.packets_src - old.packets_src;
    growth.packets_dst = sums.packets_dst - old.packets_dst;
    growth.bytes_src = sums.bytes_src - old.bytes_src;
    growth.bytes_dst = sums.bytes_dst - old.bytes_dst;
    if (growth != TrafficTotals()) grown[key] = growth;
  }
  Traffic actual = ReadCsv(Spooldump()).traffic;
  EXPECT_EQ(Total(actual).connection_count, 2000u);
  for (auto& [key, sums] : actual) sums.connection_count = 0;
  EXPECT_GT(Total(grown).packets_src, 4000u);
  EXPECT_EQ(Difference(Group(grown, kGrouped), actual), "");
}

// Tuples that come back at once, each with the id it had (a SYN that takes over a connection in
// TIME_WAIT), while dumps run all the time, under an engine that is stopped now and then, so that
// it is far behind the kernel. The oracle is a second engine that is left in peace: of some packets
// only the kernel knows whether it took them for part of a connection.
TEST_F(LiveTest, RecreatedTuplesUnderAnEngineThatIsBehind) {
  auto gateway = Gateway::Up();
  ASSERT_TRUE(gateway.ok()) << gateway.status();
  StartEngine(**gateway, {"-interval=1", "-receive-buffer=1073741824"});
  std::vector<std::string> argv = EngineFlags();
  argv.insert(argv.end(), {"-interval=1", "-receive-buffer=1073741824"});
  auto calm = (*gateway)->Start(argv);
  ASSERT_TRUE(calm.ok()) << calm.status();
  ASSERT_TRUE((*calm)->WaitForOutput("accounting live", absl::Seconds(10)).ok());

  // Many flows make long dumps.
  ASSERT_TRUE((*gateway)->Play({"--udp=60000"}).ok());
  ASSERT_TRUE((*gateway)->Play({"--tcp=30000", "--first-flow=1000000"}).ok());
  std::atomic<bool> done{false};
  std::thread starver([&, pid = engine_->pid()] {
    while (!done.load()) {
      kill(pid, SIGSTOP);
      absl::SleepFor(absl::Milliseconds(150));
      kill(pid, SIGCONT);
      absl::SleepFor(absl::Milliseconds(30));
    }
  });
  for (const char* payload : {"--payload-max=1400", "--payload-max=64"}) {
    const auto played = (*gateway)->Play({"--tcp=30000", "--first-flow=1000000", payload});
    EXPECT_TRUE(played.ok()) << played.status();
  }
  absl::SleepFor(absl::Seconds(1));
  done.store(true);
  starver.join();
  ASSERT_TRUE((*gateway)->FlushConntrack().ok());
  StopEngine();
  ASSERT_TRUE((*calm)->Signal(SIGTERM).ok());
  ASSERT_TRUE((*calm)->Wait(absl::Seconds(30)).ok());
  EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("overrun")));
  const Traffic expected = ReadCsv((*calm)->Stdout()).traffic;
  EXPECT_GT(Total(expected).connection_count, 60000u);
  EXPECT_EQ(Difference(expected, ReadCsv(Spooldump()).traffic), "")
      << engine_->Stderr() << (*calm)->Stderr();
}

// A receive buffer far too small: the kernel drops most events. A dump makes the totals of living
// flows right again, and the rows say what was lost.
TEST_F(LiveTest, OverrunIsCountedAndResynced) {
  auto gateway = Gateway::Up();
  ASSERT_TRUE(gateway.ok()) << gateway.status();
  StartEngine(**gateway, {"-interval=2", "-receive-buffer=32768"});
  const auto sent = (*gateway)->Play({"--udp=50000", "--open-tcp=1000", "--close-open=false"});
  ASSERT_TRUE(sent.ok()) << sent.status();
  StopEngine();
  EXPECT_THAT(engine_->Stderr(), HasSubstr("overrun"));
  uint64_t dropped = 0;
  std::map<int64_t, Completeness> gaps;
  ReadGaps(&dropped, &gaps);
  EXPECT_GT(dropped, 0u);
  // Nothing died, so once a dump has followed the totals are right.
  ASSERT_FALSE(gaps.empty());
  EXPECT_EQ(gaps.rbegin()->second, Completeness::kResynced);
  Traffic actual = ReadCsv(Spooldump()).traffic;
  Traffic expected = Group(*sent, kGrouped);
  for (Traffic* traffic : {&actual, &expected}) {
    for (auto& [key, sums] : *traffic) sums.connection_count = sums.open_connections = 0;
  }
  EXPECT_EQ(Difference(expected, actual), "");
}

// All flows die while the buffer is too small: what died unseen is lost and said so; the engine
// lives, forgets the dead, and what comes later is exact.
TEST_F(LiveTest, OverrunAtMassDestroyIsSurvived) {
  auto gateway = Gateway::Up();
  ASSERT_TRUE(gateway.ok()) << gateway.status();
  StartEngine(**gateway, {"-interval=1", "-receive-buffer=32768", "-track-open"});
  ASSERT_TRUE((*gateway)->Play({"--udp=30000", "--open-tcp=10000", "--close-open=false"}).ok());
  ASSERT_TRUE((*gateway)->FlushConntrack().ok());
  // Ghosts go after two dumps.
  ASSERT_TRUE(engine_->WaitForOutput("overrun", absl::Seconds(10)).ok());
  absl::SleepFor(absl::Seconds(4));
  ASSERT_TRUE(engine_->Running());
  uint64_t dropped = 0;
  std::map<int64_t, Completeness> gaps;
  ReadGaps(&dropped, &gaps);
  EXPECT_GT(dropped, 0u);
  // What they moved last is not known.
  ASSERT_FALSE(gaps.empty());
  EXPECT_EQ(gaps.rbegin()->second, Completeness::kPartial);
  for (const auto& entry : std::filesystem::directory_iterator(spool())) {
    if (entry.path().filename() == ".ctacct") continue;
    std::filesystem::remove(entry.path());
  }
  const auto sent = (*gateway)->Play({"--udp=500", "--tcp=100", "--rate=500"});
  ASSERT_TRUE(sent.ok()) << sent.status();
  StopEngine();
  const Rows rows = ReadCsv(Spooldump());
  EXPECT_EQ(Difference(AllClosed(Group(*sent, kGrouped)), rows.traffic), "");
  EXPECT_EQ(rows.open_connections.rbegin()->second, 0u);
}

// The shipped capture: the rows are what its generator sent when it was recorded.
TEST(ShippedCaptureTest, ReplayEqualsWhatWasSent) {
  const auto sent = ReadExpectation(DataPath("tests/captures/gateway.sent.csv"));
  ASSERT_TRUE(sent.ok()) << sent.status();
  const auto csv = RunProcessOrError(
      {DataPath("engine/engine"), "-replay=" + DataPath("tests/captures/gateway.pcap"),
       "-include-icmp", "-interval=5", "-src-group-mask=255.239.255.0",
       "-dst-group-mask=255.239.255.0"},
      absl::Seconds(30));
  ASSERT_TRUE(csv.ok()) << csv.status();
  const Rows rows = ReadCsv(*csv);
  EXPECT_GE(rows.open_connections.size(), 4u);  // Intervals.
  EXPECT_EQ(Difference(AllClosed(Group(*sent, kGrouped)), rows.traffic), "");
}

}  // namespace
}  // namespace ctacct
