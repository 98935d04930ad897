#include "importer/tables/row_order.h"

#include <algorithm>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace ctacct {
namespace {

TEST(RowOrderTest, BySourceAndElseAsTheyCame) {
  std::mt19937 random(1);
  std::vector<TrafficRow> rows(5000);
  for (TrafficRow& row : rows) {
    // Every byte that counts decides at times, and some sources are equal.
    row.src = {static_cast<uint8_t>(random() % 3 * 100), 7, 0, static_cast<uint8_t>(random())};
    if (random() % 2 == 0) {
      row.family = AddressFamily::kIpv6;
      row.src = {0x20, 1, static_cast<uint8_t>(random() % 2),      0, 0,
                 0,    0, static_cast<uint8_t>(random() % 3 * 100)};
    }
  }
  std::vector<uint32_t> expected(rows.size());
  for (uint32_t i = 0; i < expected.size(); ++i) expected[i] = i;
  std::stable_sort(expected.begin(), expected.end(), [&](uint32_t a, uint32_t b) {
    return rows[a].family != rows[b].family ? rows[a].family < rows[b].family
                                            : rows[a].src < rows[b].src;
  });
  RowOrder order;
  EXPECT_TRUE(order.Sort({}).empty());
  const absl::Span<const uint32_t> sorted = order.Sort(rows);
  EXPECT_EQ(std::vector<uint32_t>(sorted.begin(), sorted.end()), expected);
  EXPECT_EQ(order.Sort({rows.data(), 1}), std::vector<uint32_t>{0});
}

}  // namespace
}  // namespace ctacct
