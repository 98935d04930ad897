// Who holds the addresses that top shows, from the current.names that `names` keeps in the spool
// folder. Plain values; thread-compatible.
#ifndef CTACCT_ENGINE_TOP_TOP_NAMES_H_
#define CTACCT_ENGINE_TOP_TOP_NAMES_H_

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "engine/rows/traffic_row.h"
#include "engine/spool/names_file.h"
#include "engine/top/traffic.h"

namespace ctacct {

class TopNames {
 public:
  // Those that hold a network at `now_ns`.
  TopNames(const NamesSnapshot& snapshot, int64_t now_ns);

  // The holder of the longest network that contains all addresses with this prefix; empty if there
  // is none. Names of parts of it are not guessed at.
  [[nodiscard]] absl::string_view Find(AddressFamily family, const AddressBytes& address,
                                       uint8_t prefix_length) const;
  const std::string& gateway() const { return gateway_; }
  // When the first of them ends, and the snapshot gives others.
  int64_t until_ns() const { return until_ns_; }

 private:
  struct Key {
    AddressFamily family;
    uint8_t prefix_length;
    AddressBytes address;

    friend bool operator==(const Key&, const Key&) = default;
    template <typename H>
    friend H AbslHashValue(H h, const Key& key) {
      return H::combine(std::move(h), key.family, key.prefix_length, key.address);
    }
  };

  std::string gateway_;
  int64_t until_ns_ = std::numeric_limits<int64_t>::max();
  absl::flat_hash_map<Key, std::string> names_;
  std::vector<uint8_t> lengths_;  // Those that there are, the longest first.
};

// Fills in the names of the table's entries. Not if the intervals are of another gateway than the
// names.
void NameEntries(const TopNames& names, const std::vector<const TopInterval*>& intervals,
                 TopTable* table);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_TOP_TOP_NAMES_H_
