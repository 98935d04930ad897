#include "importer/metrics.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kSecond = 1'000'000'000;

TEST(ImporterMetricsTest, SayWhatIs) {
  ImporterMetrics metrics;
  metrics.written_ns = 1'600'000'100 * kSecond;
  metrics.rows = 7;
  std::string text = MetricsText(metrics);
  EXPECT_THAT(text, HasSubstr("\nctacct_importer_rows_total 7\n"));
  EXPECT_THAT(text,
              HasSubstr("\nctacct_importer_updated_timestamp_seconds 1600000100.000000000\n"));
  EXPECT_THAT(text, HasSubstr("\nctacct_importer_lag_seconds 0.000000000\n"));
  EXPECT_THAT(text, HasSubstr("\nctacct_importer_database_up 0\n"));
  EXPECT_THAT(text, HasSubstr("\nctacct_importer_watching 0\n"));
  metrics.waiting.oldest_ns = metrics.written_ns - 30 * kSecond;
  metrics.database_up = true;
  metrics.watching = true;
  metrics.last_import_ns = kSecond / 4;
  text = MetricsText(metrics);
  EXPECT_THAT(text, HasSubstr("\nctacct_importer_lag_seconds 30.000000000\n"));
  EXPECT_THAT(text, HasSubstr("\nctacct_importer_database_up 1\n"));
  EXPECT_THAT(text, HasSubstr("\nctacct_importer_watching 1\n"));
  EXPECT_THAT(text, HasSubstr("\nctacct_importer_last_import_seconds 0.250000000\n"));
  // The clock was set back.
  metrics.waiting.oldest_ns = metrics.written_ns + kSecond;
  EXPECT_THAT(MetricsText(metrics), HasSubstr("\nctacct_importer_lag_seconds 0.000000000\n"));
}

}  // namespace
}  // namespace ctacct
