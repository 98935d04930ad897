// Sums of a transaction's rows, for the tables that dashboards read: at coarser steps, and for
// fewer columns. Which rollups there are is the schema's traffic_rollups; this list must be equal.
//
// Rows are added as they are encoded for COPY; Flush upserts the sums within the caller's
// transaction, so a rollup can never disagree with its rows. Sums of sums: only four of the
// sums below look at every row, the others are made of those.
//
// Memory: about 250 bytes for each key, at most kKeysMax keys and what one Add brings if the caller
// flushes once full() says so. Thread-compatible.
#ifndef CTACCT_IMPORTER_TABLES_ROLLUP_H_
#define CTACCT_IMPORTER_TABLES_ROLLUP_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/rows/traffic_row.h"
#include "importer/postgres/pg_connection.h"

namespace ctacct {

// What a rollup groups by, besides time and gateway.
enum RollupColumns : uint8_t {
  kNoColumns = 0,
  kSrc = 1,
  kDst = 2,
  kProtoPort = 4,
};

struct RollupDefinition {
  const char* name;  // Of traffic_rollups; nullptr: a step on the way to others.
  uint8_t columns;   // Of RollupColumns.
  int64_t step_ns;   // 0: the interval as it was measured.
  int source;        // Index of the rollup that it is made of, which comes before it; -1: the rows.
};

// All of them, in the order of flushing.
[[nodiscard]] absl::Span<const RollupDefinition> RollupDefinitions();

class Rollup {
 public:
  // A game's hour on the finest grouping: 200,000 keys.
  static constexpr size_t kKeysMax = 500'000;

  Rollup();

  // Rows of one gateway. InvalidArgument if a sum does not fit into its column (int8).
  [[nodiscard]] absl::Status Add(absl::Span<const TrafficRow> rows, const std::string& gateway);

  [[nodiscard]] bool full() const;

  // Adds all sums to the database and forgets them. Errors of the connection.
  [[nodiscard]] absl::Status Flush(PgConnection& connection);

 private:
  // No padding: hashed and compared as bytes.
  struct Key {
    int64_t time_ns;
    AddressBytes src;
    AddressBytes dst;
    int32_t port;
    uint16_t gateway;  // Index into gateways_.
    uint8_t protocol;
    uint8_t family;  // 0 where there is no address.

    friend bool operator==(const Key&, const Key&) = default;
  };
  static_assert(sizeof(Key) == 48);
  struct KeyHash {
    size_t operator()(const Key& key) const;
  };
  static constexpr size_t kCounters = 8;  // The seven of a row, and the number of rows.
  using Counters = std::array<int64_t, kCounters>;
  using Sums = absl::flat_hash_map<Key, Counters, KeyHash>;

  static Key KeyOf(const Key& key, const RollupDefinition& rollup);
  [[nodiscard]] bool AddTo(size_t rollup, const Key& key, const Counters& counters);
  [[nodiscard]] absl::Status Send(PgConnection& connection, const RollupDefinition& rollup,
                                  const Sums& sums) const;

  std::vector<std::string> gateways_;
  std::vector<Sums> sums_;  // As RollupDefinitions.
};

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_TABLES_ROLLUP_H_
