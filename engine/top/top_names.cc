#include "engine/top/top_names.h"

#include <algorithm>
#include <array>
#include <functional>

namespace ctacct {
namespace {

// Of a mask with holes, the part before the first one: addresses of one group share no more.
template <size_t kBytes>
uint8_t PrefixLength(const std::array<uint8_t, kBytes>& mask) {
  uint8_t length = 0;
  while (length < 8 * kBytes && (mask[length / 8] >> (7 - length % 8) & 1) != 0) ++length;
  return length;
}

}  // namespace

TopNames::TopNames(const NamesSnapshot& snapshot, int64_t now_ns) : gateway_(snapshot.gateway) {
  for (const NamesEntry& entry : snapshot.entries) {
    if (entry.from_ns.value_or(now_ns) > now_ns || entry.to_ns.value_or(now_ns + 1) <= now_ns) {
      continue;
    }
    until_ns_ = std::min(until_ns_, entry.to_ns.value_or(until_ns_));
    const Network& network = entry.network;
    names_[{network.family, network.prefix_length, network.address}] = entry.name;
    lengths_.push_back(network.prefix_length);
  }
  std::sort(lengths_.begin(), lengths_.end(), std::greater<>());
  lengths_.erase(std::unique(lengths_.begin(), lengths_.end()), lengths_.end());
}

absl::string_view TopNames::Find(AddressFamily family, const AddressBytes& address,
                                 uint8_t prefix_length) const {
  for (const uint8_t length : lengths_) {
    if (length > prefix_length) continue;
    const auto found = names_.find(Key{family, length, MaskedTo(address, length)});
    if (found != names_.end()) return found->second;
  }
  return "";
}

void NameEntries(const TopNames& names, const std::vector<const TopInterval*>& intervals,
                 TopTable* table) {
  for (const TopInterval* interval : intervals) {
    if (interval->gateway != names.gateway()) return;
  }
  table->has_names = true;
  const uint8_t src4 = PrefixLength(table->masks.src);
  const uint8_t dst4 = PrefixLength(table->masks.dst);
  const uint8_t src6 = PrefixLength(table->masks.src6);
  const uint8_t dst6 = PrefixLength(table->masks.dst6);
  for (TopEntry& entry : table->entries) {
    const TopKey& key = entry.key;
    const bool is_ipv4 = key.family == AddressFamily::kIpv4;
    entry.src_name = std::string(names.Find(key.family, key.src, is_ipv4 ? src4 : src6));
    entry.dst_name = std::string(names.Find(key.family, key.dst, is_ipv4 ? dst4 : dst6));
  }
}

}  // namespace ctacct
