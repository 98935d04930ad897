// What tests of the importer's own binary share: a real PostgreSQL with a database for each test,
// folders, files with known rows, and the sums that must come out of the database.
//
// Thread-compatible. One server for all tests of a process.
#ifndef CTACCT_TESTS_SUPPORT_IMPORTER_FIXTURE_H_
#define CTACCT_TESTS_SUPPORT_IMPORTER_FIXTURE_H_

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/csv.h"
#include "engine/rows/gap.h"
#include "engine/spool/engine_id.h"
#include "engine/spool/spool_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/conditions.h"
#include "tests/support/files.h"
#include "tests/support/private_postgres.h"
#include "tests/support/subprocess.h"

namespace ctacct {

namespace fs = std::filesystem;

// Nothing takes longer. CTACCT_PATIENCE=N: with a slower server (CTACCT_POSTGRES_SCRIPT), N
// seconds.
inline const absl::Duration kAtMost =
    absl::Seconds(static_cast<int64_t>(NumberFromEnvironment("CTACCT_PATIENCE", 40)));
inline constexpr int64_t kFirstEndNs = 1'600'000'005'000'000'000;
inline constexpr int64_t kIntervalNs = 15'000'000'000;

inline PrivatePostgres* postgres = nullptr;

// What the database must contain: the numbers of rows and gaps, and the sums of all their counters,
// in the order of kSumsSql.
struct Sums {
  uint64_t rows = 0;
  std::array<uint64_t, 9> counters{};
  uint64_t gaps = 0;
  uint64_t events_dropped = 0;
  uint64_t flows_lost = 0;

  void Add(const TrafficRow& row) {
    ++rows;
    const uint64_t values[] = {row.packets_src,      row.packets_dst,      row.bytes_src,
                               row.bytes_dst,        row.connection_count, row.connection_time_ms,
                               row.open_connections, row.flow_count,       row.unanswered_count};
    for (size_t i = 0; i < counters.size(); ++i) counters[i] += values[i];
  }
  void Add(const Gap& gap) {
    ++gaps;
    events_dropped += gap.events_dropped;
    flows_lost += gap.flows_lost;
  }
  std::string ToString() const {
    std::string text = absl::StrCat(rows);
    for (const uint64_t counter : counters) absl::StrAppend(&text, "|", counter);
    absl::StrAppend(&text, "|", gaps, "|", events_dropped, "|", flows_lost, "|", flows_lost);
    return text;
  }
};

inline constexpr char kSumsSql[] =
    "SELECT * FROM (SELECT count(*), coalesce(sum(src_packets), 0), coalesce(sum(dst_packets), 0), "
    "coalesce(sum(src_bytes), 0), coalesce(sum(dst_bytes), 0), "
    "coalesce(sum(connection_count), 0), coalesce(sum(connection_times), 0), "
    "coalesce(sum(open_connections), 0), coalesce(sum(flow_count), 0), "
    "coalesce(sum(unanswered_count), 0) FROM vpn_traffic) AS traffic, "
    "(SELECT count(*), coalesce(sum(events_dropped), 0), coalesce(sum(flows_lost), 0) "
    "FROM traffic_gaps) AS gaps, "
    "(SELECT coalesce(sum(flows_lost), 0) FROM import_ledger) AS files";

class ImporterTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    absl::StatusOr<std::unique_ptr<PrivatePostgres>> started = PrivatePostgres::Start();
    if (started.ok()) {
      postgres = started->release();
    } else {
      unavailable_ = std::string(started.status().message());
      missing_ = absl::IsUnavailable(started.status());
    }
  }
  static void TearDownTestSuite() {
    delete postgres;
    postgres = nullptr;
  }

  void SetUp() override {
    if (postgres == nullptr) {
      // In CI a missing server is a broken CI, not a reason to look away.
      if (!missing_) FAIL() << unavailable_;
      return CannotRun(unavailable_);
    }
    fs::create_directory(watch_);
    fs::create_directory(done_);
    static int number = 0;
    database_ = absl::StrCat("test", ++number);
    ASSERT_EQ(Sql("SELECT 1", "postgres"), "1");
    const absl::Status made = postgres->MakeDatabase(database_);
    ASSERT_TRUE(made.ok()) << made;
    engine_id_ = NewEngineId().value();
  }
  std::string Sql(const std::string& sql, const std::string& database = "") {
    const absl::StatusOr<std::string> text =
        postgres->Sql(database.empty() ? database_ : database, sql);
    EXPECT_TRUE(text.ok()) << text.status();
    return text.value_or("");
  }
  // Empty until the tables are there.
  std::string TrySql(const std::string& sql) { return postgres->Sql(database_, sql).value_or(""); }

  std::vector<TrafficRow> MakeRows(uint64_t seed, size_t count) {
    std::mt19937_64 random(seed);
    std::vector<TrafficRow> rows(count);
    for (TrafficRow& row : rows) {
      row.time_ns = kFirstEndNs + static_cast<int64_t>(seed) * kIntervalNs;
      row.protocol = std::array<uint8_t, 4>{6, 17, 136, 99}[random() % 4];
      row.port = std::array<int32_t, 6>{kPortNotListed, 0, 22, 80, 443, 65535}[random() % 6];
      row.src = {10, 32, static_cast<uint8_t>(random() % 16), 0};
      row.dst = {10, 33, static_cast<uint8_t>(random() % 16), 0};
      row.packets_src = random() % 100'000;
      row.packets_dst = random() % 100'000;
      row.bytes_src = random() % (uint64_t{1} << 40);
      row.bytes_dst = random() % (uint64_t{1} << 40);
      row.connection_count = random() % 1000;
      row.connection_time_ms = random() % (uint64_t{1} << 33);
      row.open_connections = random() % 1000;
      row.flow_count = row.connection_count + random() % 1000;
      row.unanswered_count = random() % (row.flow_count + 1);
    }
    return rows;
  }
  SpoolHeader MakeHeader(uint64_t sequence) {
    SpoolHeader header;
    header.engine_id = engine_id_;
    header.sequence = sequence;
    header.interval_end_ns = kFirstEndNs + static_cast<int64_t>(sequence) * kIntervalNs;
    header.interval_length_ns = kIntervalNs;
    header.created_ns = header.interval_end_ns;
    header.track_open = true;
    header.gateway = "gw1";
    return header;
  }
  // Every third file has some: whatever is tested is tested with gaps.
  static std::vector<Gap> MakeGaps(uint64_t sequence) {
    std::vector<Gap> gaps;
    if (sequence % 3 != 0) return gaps;
    const int64_t end_ns = kFirstEndNs + static_cast<int64_t>(sequence) * kIntervalNs;
    for (uint64_t i = 0; i <= sequence % 4; ++i) {
      gaps.push_back({end_ns - kIntervalNs + static_cast<int64_t>(i) * 1'000'000,
                      end_ns - kIntervalNs + static_cast<int64_t>(i) * 1'000'000 + 500'000,
                      static_cast<GapCause>(1 + i % 3), Completeness::kPartial, sequence + i, i});
    }
    return gaps;
  }
  // Writes a spool file into the watched folder; its rows and gaps are expected in the database
  // unless `expect` is false.
  std::string WriteSpool(uint64_t sequence, size_t rows = 100, bool expect = true) {
    const std::vector<TrafficRow> made = MakeRows(sequence, rows);
    const std::vector<Gap> gaps = MakeGaps(sequence);
    SpoolHeader header = MakeHeader(sequence);
    if (!gaps.empty()) header.completeness = Completeness::kPartial;
    const absl::StatusOr<std::string> name = WriteSpoolFile(watch_, header, made, gaps);
    EXPECT_TRUE(name.ok()) << name.status();
    if (expect) {
      for (const Gap& gap : gaps) expected_.Add(gap);
      for (const TrafficRow& row : made) expected_.Add(row);
    }
    return name.value_or("");
  }
  std::string CsvText(uint64_t seed, bool track_open, size_t rows = 100, bool expect = true) {
    std::string text;
    for (TrafficRow& row : MakeRows(seed, rows)) {
      if (!track_open) row.open_connections = 0;
      row.flow_count = row.unanswered_count = 0;  // CSV has no columns for them.
      AppendCsvLine(row, track_open, &text);
      if (expect) expected_.Add(row);
    }
    return text;
  }
  static std::string Contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  static std::set<std::string> Names(const std::string& folder) {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename());
    return names;
  }

  std::vector<std::string> Command(std::vector<std::string> arguments, bool connect = true) {
    if (connect) {
      arguments.insert(arguments.begin(), "-conninfo=" + postgres->Conninfo(database_));
    }
    arguments.insert(arguments.begin(), DataPath("importer/importer"));
    return arguments;
  }
  Finished Run(std::vector<std::string> arguments, bool connect = true) {
    absl::StatusOr<Finished> finished = RunProcess(Command(arguments, connect), kAtMost);
    EXPECT_TRUE(finished.ok()) << finished.status();
    return finished.value_or(Finished{});
  }
  Finished Drain() { return Run({"-watch=" + watch_, "-once"}); }
  // As the user that the server runs as, who may connect but is not root. Root only.
  std::vector<std::string> CommandAsAnother(std::vector<std::string> arguments) {
    struct stat server;
    EXPECT_EQ(stat(postgres->folder().c_str(), &server), 0);
    another_ = server.st_uid;
    fs::permissions(folder_, fs::perms(0755));
    // Bazel's folders may be closed to others.
    std::vector<std::string> command = Command(std::move(arguments));
    const std::string copy = folder_ + "/importer";
    fs::copy_file(command[0], copy, fs::copy_options::overwrite_existing);
    command[0] = copy;
    const std::string uid = absl::StrCat(another_);
    command.insert(command.begin(),
                   {"setpriv", "--reuid=" + uid, "--regid=" + uid, "--clear-groups", "--"});
    return command;
  }
  // From here on a COMMIT of a file takes long enough to do something meanwhile. Makes the tables.
  void SlowDownCommits() {
    EXPECT_TRUE(Run({"-watch=" + done_, "-once"}).exit.ok());
    Sql("CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_sleep(2); RETURN NULL; END'; "
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON import_ledger DEFERRABLE "
        "INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()");
  }
  bool WaitForCommit() {
    return Eventually([&] {
      return Sql("SELECT count(*) FROM pg_stat_activity WHERE query = 'COMMIT' AND "
                 "wait_event = 'PgSleep' AND datname = current_database()") == "1";
    });
  }
  std::unique_ptr<Subprocess> StartImporter(const std::vector<std::string>& arguments,
                                            bool connect = true) {
    absl::StatusOr<std::unique_ptr<Subprocess>> started =
        Subprocess::Start(Command(arguments, connect));
    EXPECT_TRUE(started.ok()) << started.status();
    return *std::move(started);
  }
  // Polls until it is so: for events that nobody announces.
  static bool Eventually(const std::function<bool()>& is_so) {
    return ctacct::Eventually(is_so, kAtMost);
  }
  // Both end without a signal, with status 0.
  static void ExpectBothEnd(Subprocess* one, Subprocess* two) {
    for (Subprocess* const each : {one, two}) {
      const absl::StatusOr<ExitStatus> exit = each->Wait(kAtMost);
      ASSERT_TRUE(exit.ok());
      EXPECT_TRUE(exit->ok()) << each->Stderr();
    }
  }
  void ExpectSums() {
    EXPECT_EQ(Sql(kSumsSql), expected_.ToString());
    ExpectRollupsEqualRows();
  }
  void ExpectRollupsEqualRows() {
    EXPECT_EQ(Sql("SELECT * FROM traffic_check('1970-01-01', '2100-01-01')"), "");
    EXPECT_EQ(Sql("SELECT count(*), sum(src_bytes) FROM vpn_traffic"),
              Sql("SELECT coalesce(sum(row_count), 0), sum(src_bytes) FROM traffic_total"));
  }
  // Without the one that a watcher begins with.
  static size_t Lines(const std::string& text) {
    const bool begun = text.find("importer: connected to the database; ") != std::string::npos;
    return CountLines(text) - (begun ? 1 : 0);
  }
  void ExpectFails(const Finished& run, int code, const std::string& message) {
    EXPECT_EQ(run.exit.ToString(), absl::StrCat("exit status ", code)) << run.err;
    EXPECT_THAT(run.err, ::testing::StartsWith("importer: "));
    EXPECT_THAT(run.err, ::testing::HasSubstr(message));
    EXPECT_EQ(Lines(run.err), 1u) << run.err;
    EXPECT_EQ(run.out, "");
  }

  static inline std::string unavailable_;
  static inline bool missing_ = false;
  const TestFolder temporary_{"importer"};
  const std::string folder_ = temporary_.path();
  std::string watch_ = folder_ + "/watch", done_ = folder_ + "/done";
  std::string database_;
  uid_t another_ = 0;
  EngineId engine_id_{};
  Sums expected_;
};

}  // namespace ctacct

#endif  // CTACCT_TESTS_SUPPORT_IMPORTER_FIXTURE_H_
