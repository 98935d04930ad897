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
  metrics.gateway = "gw1";
  metrics.written_ns = 1'600'000'100 * kSecond;
  metrics.rows = 7;
  std::string text = MetricsText(metrics);
  EXPECT_THAT(text, HasSubstr("\nctacct_importer_rows_total{gateway=\"gw1\"} 7\n"));
  EXPECT_THAT(
      text,
      HasSubstr(
          "\nctacct_importer_updated_timestamp_seconds{gateway=\"gw1\"} 1600000100.000000000\n"));
  EXPECT_THAT(text, HasSubstr("\nctacct_importer_lag_seconds{gateway=\"gw1\"} 0.000000000\n"));
  EXPECT_THAT(text, HasSubstr("\nctacct_importer_database_up{gateway=\"gw1\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("\nctacct_importer_watching{gateway=\"gw1\"} 0\n"));
  metrics.waiting.oldest_ns = metrics.written_ns - 30 * kSecond;
  metrics.database_up = true;
  metrics.watching = true;
  metrics.last_import_ns = kSecond / 4;
  text = MetricsText(metrics);
  EXPECT_THAT(text, HasSubstr("\nctacct_importer_lag_seconds{gateway=\"gw1\"} 30.000000000\n"));
  EXPECT_THAT(text, HasSubstr("\nctacct_importer_database_up{gateway=\"gw1\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("\nctacct_importer_watching{gateway=\"gw1\"} 1\n"));
  EXPECT_THAT(text,
              HasSubstr("\nctacct_importer_last_import_seconds{gateway=\"gw1\"} 0.250000000\n"));
  // The clock was set back.
  metrics.waiting.oldest_ns = metrics.written_ns + kSecond;
  EXPECT_THAT(MetricsText(metrics),
              HasSubstr("\nctacct_importer_lag_seconds{gateway=\"gw1\"} 0.000000000\n"));
}

}  // namespace
}  // namespace ctacct
