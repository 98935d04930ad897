// The importer's metrics file as a monitoring sees it: how a run has ended, and how things are
// while there is no database, while the database does not answer, and while there is nothing to do.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/importer_fixture.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

class ImporterMetricsTest : public ImporterTest {
 protected:
  std::string path() const { return folder_ + "/importer.prom"; }
  std::string flag() const { return "-metrics-file=" + path(); }

  // By their names without "ctacct_importer_".
  std::map<std::string, double> Read() const {
    std::map<std::string, double> metrics;
    char host[256] = "";
    gethostname(host, sizeof(host) - 1);
    const std::string label = absl::StrCat("{gateway=\"", host, "\"}");
    for (const absl::string_view line : absl::StrSplit(
             absl::StrReplaceAll(Contents(path()), {{label, ""}}), '\n', absl::SkipEmpty())) {
      if (line[0] == '#') continue;
      const std::vector<std::string> parts = absl::StrSplit(line, ' ');
      const std::string prefix = "ctacct_importer_";
      double value = 0;
      EXPECT_TRUE(parts.size() == 2 && absl::SimpleAtod(parts[1], &value) &&
                  parts[0].substr(0, prefix.size()) == prefix)
          << line;
      metrics[parts[0].substr(prefix.size())] = value;
    }
    return metrics;
  }
  double Get(const std::string& name) const {
    const std::map<std::string, double> metrics = Read();
    const auto it = metrics.find(name);
    return it == metrics.end() ? -1 : it->second;
  }
  // The file is rewritten even if nothing happens.
  bool StaysFresh() {
    const double before = Get("updated_timestamp_seconds");
    return Eventually([&] { return Get("updated_timestamp_seconds") >= before + 1; });
  }
};

TEST_F(ImporterMetricsTest, OnceSaysHowItEnded) {
  WriteSpool(1, 10);
  WriteSpool(2, 20);
  ASSERT_TRUE(Drain().exit.ok());
  // One is done, two are new, one is bad, one stays where it is.
  WriteSpool(2, 20, /*expect=*/false);
  WriteSpool(3, 30);
  WriteSpool(4, 40);
  WriteFile(watch_ + "/bad.spool", "rubbish");
  WriteFile(watch_ + "/traffic_bad.csv", "rubbish\n");
  const Finished run = Run({"-watch=" + watch_, "-once", flag()});
  EXPECT_EQ(run.exit.code, 1) << run.err;
  EXPECT_EQ(Get("files_total"), 2);
  EXPECT_EQ(Get("rows_total"), 70);
  EXPECT_EQ(Get("files_done_before_total"), 1);
  EXPECT_EQ(Get("files_quarantined_total"), 2);
  EXPECT_EQ(Get("quarantine_files"), 2);
  EXPECT_EQ(Get("not_imported_files"), 2);
  EXPECT_EQ(Get("not_removed_files"), 0);
  EXPECT_EQ(Get("waiting_files"), 0);
  EXPECT_EQ(Get("waiting_bytes"), 0);
  EXPECT_EQ(Get("lag_seconds"), 0);
  EXPECT_EQ(Get("database_up"), 1);
  EXPECT_EQ(Get("database_retries_total"), 0);
  EXPECT_EQ(Get("watching"), 0);
  EXPECT_GE(Get("transactions_total"), 1);
  EXPECT_GT(Get("import_seconds_total"), 0);
  EXPECT_GT(Get("last_import_seconds"), 0);
  EXPECT_EQ(Get("newest_interval_end_timestamp_seconds"), (kFirstEndNs + 4 * kIntervalNs) / 1e9);
  EXPECT_GE(Get("last_import_timestamp_seconds"), Get("start_timestamp_seconds"));
  EXPECT_GE(Get("updated_timestamp_seconds"), Get("last_import_timestamp_seconds"));
  struct stat info;
  ASSERT_EQ(stat(path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0644u);
  ExpectSums();
}

TEST_F(ImporterMetricsTest, AnEndWithoutADatabaseIsReported) {
  WriteSpool(1, 10);
  const Finished run =
      Run({"-host=" + folder_, "-watch=" + watch_, "-once", flag()}, /*connect=*/false);
  EXPECT_EQ(run.exit.code, 1);
  EXPECT_EQ(Get("database_up"), 0);
  EXPECT_EQ(Get("waiting_files"), 1);
  EXPECT_EQ(Get("waiting_bytes"),
            static_cast<double>(fs::file_size(watch_ + "/" + *Names(watch_).begin())));
  EXPECT_EQ(Get("files_total"), 0);
}

// The file is for monitoring. Without it there is a log line, and all is imported.
TEST_F(ImporterMetricsTest, ABadPathIsOneLineAndImportingContinues) {
  uint64_t number = 0;
  for (const std::string& bad : {folder_ + "/absent/importer.prom", watch_,
                                 std::string("/dev/null"), std::string("/proc/importer.prom")}) {
    WriteSpool(++number, 10);
    const Finished run = Run({"-watch=" + watch_, "-once", "-metrics-file=" + bad});
    EXPECT_TRUE(run.exit.ok()) << run.err;
    const std::vector<std::string> said = absl::StrSplit(run.err, "metrics file " + bad + ": ");
    EXPECT_EQ(said.size(), 2u) << run.err;
    EXPECT_THAT(run.err, testing::HasSubstr("; importing continues without it"));
  }
  EXPECT_TRUE(Names(watch_).empty());
  ExpectSums();
}

TEST_F(ImporterMetricsTest, TheLabelIsTheGatewayThatIsGiven) {
  WriteSpool(1, 10);
  ASSERT_TRUE(Run({"-watch=" + watch_, "-once", "-gateway=a \"b\"", flag()}).exit.ok());
  int samples = 0;
  for (const absl::string_view line : absl::StrSplit(Contents(path()), '\n', absl::SkipEmpty())) {
    if (line[0] == '#') continue;
    ++samples;
    EXPECT_THAT(std::string(line), testing::HasSubstr("{gateway=\"a \\\"b\\\"\"} "));
  }
  EXPECT_GT(samples, 15);
}

TEST_F(ImporterMetricsTest, PartitionsDroppedAreCounted) {
  WriteSpool(1, 10);
  ASSERT_TRUE(Drain().exit.ok());
  ASSERT_TRUE(Run({"-watch=" + watch_, "-once", "-retention-rows=30", flag()}).exit.ok());
  EXPECT_GE(Get("partitions_dropped_total"), 1);
}

// Lag alarms hang on this.
TEST_F(ImporterMetricsTest, StaysFreshWhateverItWaitsFor) {
  auto importer = StartImporter({"-watch=" + watch_, flag()});
  ASSERT_TRUE(Eventually([&] { return Get("database_up") == 1; })) << importer->Stderr();
  EXPECT_EQ(Get("watching"), 1);
  WriteSpool(1, 10);
  ASSERT_TRUE(Eventually([&] { return Get("files_total") == 1 && Get("waiting_files") == 0; }));
  // For files.
  EXPECT_TRUE(StaysFresh());

  // For an answer of the database: somebody has locked a table.
  std::thread locker([&] {
    (void)postgres->Sql(database_, "BEGIN; LOCK TABLE import_ledger; SELECT pg_sleep(60); COMMIT");
  });
  const bool locked = Eventually([&] {
    return Sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND "
               "wait_event = 'PgSleep'") == "1";
  });
  EXPECT_TRUE(locked);
  WriteSpool(2, 20);
  EXPECT_TRUE(Eventually([&] {
    return Sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == "1";
  }));
  EXPECT_TRUE(StaysFresh());
  EXPECT_TRUE(Eventually([&] { return Get("waiting_files") == 1; }));
  EXPECT_EQ(Get("files_total"), 1);
  Sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
  locker.join();
  EXPECT_TRUE(Eventually([&] { return Get("files_total") == 2; })) << importer->Stderr();

  // For the database.
  ASSERT_TRUE(postgres->StopImmediately().ok());
  WriteSpool(3, 30);
  EXPECT_TRUE(Eventually([&] { return Get("database_up") == 0; }));
  EXPECT_TRUE(Eventually([&] {
    return Get("database_retries_total") >= 3 && Get("waiting_files") == 1 &&
           Get("lag_seconds") >= 1;
  }));
  EXPECT_TRUE(StaysFresh());
  ASSERT_TRUE(postgres->Restart().ok());
  EXPECT_TRUE(Eventually([&] {
    return Get("database_up") == 1 && Get("files_total") == 3 && Get("waiting_files") == 0 &&
           Get("lag_seconds") == 0;
  })) << importer->Stderr();

  ASSERT_TRUE(importer->Signal(SIGTERM).ok());
  const auto exit = importer->Wait(kAtMost);
  ASSERT_TRUE(exit.ok() && exit->ok()) << importer->Stderr();
  EXPECT_EQ(Get("not_imported_files"), 0);
  ExpectSums();
}

}  // namespace
}  // namespace ctacct
