// Sums of a transaction's rows for the rollups: at coarser steps, and for fewer columns. The list
// of rollups in rollup.cc must equal the schema's traffic_rollups.
//
// Rows are added as they are encoded for COPY. Flush upserts the sums within the caller's
// transaction, so a rollup cannot disagree with its rows. Only four of the sums are made from every
// row, the others from those four.
//
// Memory: see kKeysMax; the caller asks full() after every few thousand rows, and flushes. A sum
// that does not fit into its column (int8) stays at the column's maximum, so that no file is
// refused because of others. Thread-compatible.
#ifndef CTACCT_IMPORTER_TABLES_ROLLUP_H_
#define CTACCT_IMPORTER_TABLES_ROLLUP_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/rows/traffic_row.h"
#include "importer/postgres/pg_connection.h"

namespace ctacct {

struct RollupDefinition;

class Rollup {
 public:
  // Before they are flushed. About 400 bytes each, with what is made of them while flushing; an
  // hour of a game has 250,000.
  static constexpr size_t kKeysMax = 300'000;
  // Of one sum, before its table would double: several tables are as large while flushing.
  static constexpr size_t kKeysMaxOfOne = 220'000;

  Rollup();

  // Rows of one gateway, whose counters fit into int8.
  void Add(absl::Span<const TrafficRow> rows, const std::string& gateway);

  [[nodiscard]] bool full() const;

  // Adds all sums to the database and forgets them. Errors of the connection.
  [[nodiscard]] absl::Status Flush(PgConnection& connection);
  // The number of rows in all sums that were flushed.
  [[nodiscard]] uint64_t flushed_rows() const { return flushed_rows_; }

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
  static constexpr size_t kCounters = 10;  // The nine of a row, and the number of rows.
  using Counters = std::array<int64_t, kCounters>;
  using Sums = absl::flat_hash_map<Key, Counters, KeyHash>;

  static constexpr size_t kBytesSrc = 1;
  static constexpr size_t kBytesDst = 3;
  // A sum that is sent.
  struct Sum {
    const Sums::value_type* entry;
    double unlisted_bytes;  // Of the largest of those that are summed here without their names.
  };

  static Key KeyOf(const Key& key, const RollupDefinition& rollup);
  static void AddCounters(const Counters& counters, Counters* sums);
  static double Bytes(const Counters& counters);  // Of both directions.
  void AddTo(size_t rollup, const Key& key, const Counters& counters);
  struct Step {
    int64_t time_ns;
    uint16_t gateway;
    int64_t keys;
    [[nodiscard]] bool Has(const Key& key) const {
      return key.time_ns == time_ns && key.gateway == gateway;
    }
  };
  [[nodiscard]] absl::StatusOr<std::vector<size_t>> WorthSending(
      PgConnection& connection, const RollupDefinition& rollup,
      const std::vector<Step>& steps) const;
  // In the order in which they are sent. Of a rollup with limited room the largest of each step and
  // gateway; what is left is summed into `others`, without destinations.
  [[nodiscard]] absl::StatusOr<std::vector<Sum>> Sorted(PgConnection& connection,
                                                        const RollupDefinition& rollup,
                                                        const Sums& sums,
                                                        std::deque<Sums>* others) const;
  [[nodiscard]] absl::Status Send(PgConnection& connection, const RollupDefinition& rollup,
                                  const Sums& sums) const;

  std::vector<std::string> gateways_;
  std::vector<Sums> sums_;  // In the order of the definitions.
  uint64_t flushed_rows_ = 0;
};

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_TABLES_ROLLUP_H_
