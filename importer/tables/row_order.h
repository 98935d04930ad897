// The order in which the rows of an interval go into vpn_traffic: by source. So the rows of a
// source lie together, and the index finds those of some minutes without reading all.
//
// Thread-compatible.
#ifndef CTACCT_IMPORTER_TABLES_ROW_ORDER_H_
#define CTACCT_IMPORTER_TABLES_ROW_ORDER_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/rows/traffic_row.h"

namespace ctacct {

class RowOrder {
 public:
  // The rows' indexes by source: IPv4, then IPv6, of which the first eight bytes count. Rows of
  // equal sources stay in their order. Fewer than 2^32 rows; valid until the next call.
  absl::Span<const uint32_t> Sort(absl::Span<const TrafficRow> rows);

 private:
  struct Key {
    uint64_t source;
    uint32_t index;
  };

  std::vector<Key> keys_, sorted_;
  std::vector<uint32_t> indexes_;
};

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_TABLES_ROW_ORDER_H_
