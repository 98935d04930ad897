#include "importer/tables/rollup.h"

#include <vector>

#include "gtest/gtest.h"

namespace ctacct {
namespace {

// Rows of one step: so many pairs with a port each, of 256 destinations and 100 sources.
std::vector<TrafficRow> RowsOfPairs(size_t pairs) {
  std::vector<TrafficRow> rows(pairs);
  for (size_t i = 0; i < pairs; ++i) {
    rows[i].time_ns = 1'700'000'010'000'000'000;
    rows[i].protocol = 6;
    rows[i].dst = {20, 0, 0, static_cast<uint8_t>(i)};
    rows[i].src = {10, 0, 0, static_cast<uint8_t>(i / 256 % 100)};
    rows[i].port = static_cast<int32_t>(i / 25600);
  }
  return rows;
}

// A table that doubles is there twice for a moment, and an importer has 256 MB.
TEST(RollupSumsTest, AreFullBeforeTheLargestTableDoubles) {
  static_assert(Rollup::kKeysMaxOfOne < Rollup::kKeysMax - 1000);  // Else the other limit is met.
  Rollup rollup;
  rollup.Add(RowsOfPairs(Rollup::kKeysMaxOfOne - 1), "gw");
  EXPECT_FALSE(rollup.full());
  rollup.Add(RowsOfPairs(Rollup::kKeysMaxOfOne), "gw");
  EXPECT_TRUE(rollup.full());
}

// The same pairs of several gateways are different keys.
TEST(RollupSumsTest, AreFullOfAllTablesTogether) {
  Rollup rollup;
  for (const char* const gateway : {"a", "b", "c"}) {
    EXPECT_FALSE(rollup.full()) << gateway;
    std::vector<TrafficRow> rows = RowsOfPairs(50'000);
    // Each is a destination of its own too, and both are keys.
    for (size_t i = 0; i < rows.size(); ++i) {
      rows[i].dst = {20, 0, static_cast<uint8_t>(i >> 8), static_cast<uint8_t>(i)};
    }
    rollup.Add(rows, gateway);
  }
  EXPECT_TRUE(rollup.full());
}

}  // namespace
}  // namespace ctacct
