// Traffic of the last intervals, summed by pair, origin, destination or port, and sorted.
//
// Sums are exact; rates are sums divided by the time that their interval covers, so gateways with
// different intervals may be in one table. Pure functions and plain values; thread-compatible.
#ifndef CTACCT_ENGINE_TOP_TRAFFIC_H_
#define CTACCT_ENGINE_TOP_TRAFFIC_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/rows/gap.h"
#include "engine/rows/traffic_row.h"
#include "engine/spool/spool_header.h"
#include "netlink/ipv4.h"
#include "netlink/ipv6.h"

namespace ctacct {

// The group masks of a file's header.
struct GroupMasks {
  Mask4 src = kMask4All;
  Mask4 dst = kMask4All;
  Mask6 src6 = kMask6All;
  Mask6 dst6 = kMask6All;

  friend bool operator==(const GroupMasks&, const GroupMasks&) = default;
};

// One interval of one gateway.
struct TopInterval {
  std::string gateway;  // Empty: unknown (CSV).
  int64_t end_ns = 0;   // Since the Unix epoch.
  int64_t length_ns = 0;
  int64_t covered_ns = 0;                    // How much of it was observed; 0: unknown (CSV).
  std::optional<Completeness> completeness;  // Nothing: unknown (CSV).
  uint64_t events_dropped = 0;
  bool track_open = false;
  std::optional<GroupMasks> masks;  // Nothing: unknown (CSV), or changed within the interval.
  bool masks_changed = false;       // In it, or since the interval before.
  std::vector<Gap> gaps;
  std::vector<TrafficRow> rows;
  // More than one if the engine was restarted within the interval.
  std::vector<std::string> files;

  // What rates are over.
  [[nodiscard]] int64_t observed_ns() const { return covered_ns > 0 ? covered_ns : length_ns; }
};

// A service is a port of a destination.
enum class TopView { kPairs, kOrigins, kDestinations, kPorts, kServices };
inline constexpr int kTopViews = 5;
constexpr bool HasOrigin(TopView view) {
  return view == TopView::kPairs || view == TopView::kOrigins;
}
constexpr bool HasDestination(TopView view) {
  return view != TopView::kOrigins && view != TopView::kPorts;
}
constexpr bool HasPort(TopView view) {
  return view == TopView::kPorts || view == TopView::kServices;
}
enum class TopSort { kBytes, kPackets, kConnections, kTime, kOpen, kUnanswered, kName };
inline constexpr int kTopSorts = 7;

// As flags spell them; nothing for any other word.
[[nodiscard]] const char* TopViewName(TopView view);
[[nodiscard]] std::optional<TopView> ParseTopView(absl::string_view name);
[[nodiscard]] const char* TopSortName(TopSort sort);
[[nodiscard]] std::optional<TopSort> ParseTopSort(absl::string_view name);

// Selects rows by the address of either end: one that begins with a text ("10.32.1."), or is in a
// network ("10.32.0.0/11", "2001:db8::/32"). An empty filter selects all rows.
class AddressFilter {
 public:
  AddressFilter() = default;
  // InvalidArgument: no address can begin with this text.
  [[nodiscard]] static absl::StatusOr<AddressFilter> Parse(const std::string& text);

  [[nodiscard]] bool Matches(const TrafficRow& row) const;
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  std::string text_;
  std::optional<Ipv4Cidr> network_;
  std::optional<Ipv6Cidr> ipv6_network_;
};

struct TopSums {
  uint64_t packets_src = 0;  // Original direction.
  uint64_t packets_dst = 0;  // Replies.
  uint64_t bytes_src = 0;
  uint64_t bytes_dst = 0;
  uint64_t connections = 0;  // Closed.
  uint64_t connection_time_ms = 0;
  uint64_t open = 0;
  uint64_t flows = 0;       // That ended.
  uint64_t unanswered = 0;  // Of these, those without a reply packet.
  // Per second.
  double bits_src_rate = 0;
  double bits_dst_rate = 0;
  double packets_src_rate = 0;
  double packets_dst_rate = 0;
  double connections_rate = 0;

  // Of the connections closed; 0 if none was.
  [[nodiscard]] double MeanSeconds() const;
};

// Identifies a line of a table. Fields that the view does not have are zero.
struct TopKey {
  AddressFamily family = AddressFamily::kIpv4;
  uint8_t protocol = 0;
  int32_t port = 0;
  AddressBytes src{};
  AddressBytes dst{};

  friend auto operator<=>(const TopKey&, const TopKey&) = default;

  template <typename H>
  friend H AbslHashValue(H h, const TopKey& key) {
    return H::combine(std::move(h), key.family, key.protocol, key.port, key.src, key.dst);
  }
};

struct TopEntry {
  TopKey key;
  TopSums sums;
  // Of who holds the key's networks; empty: nobody, or names were not asked for.
  std::string src_name = {};
  std::string dst_name = {};
};

struct TopTable {
  std::vector<TopEntry> entries;
  TopSums total;  // Of all entries.
  uint64_t rows = 0;
  bool has_open = false;  // Some of the intervals tracked open connections.
  bool has_names = false;
  GroupMasks masks;  // Of all intervals; those of hosts if they differ or are unknown.
};

// Largest first (names: in order), or the reverse; equal entries are in the order of their keys.
[[nodiscard]] TopTable MakeTopTable(const std::vector<const TopInterval*>& intervals, TopView view,
                                    TopSort sort, bool reverse, const AddressFilter& filter);

// Of intervals, one for each gateway, the newest and those that ended less than an interval before
// it: the old traffic of a silent gateway is not added to the others' present traffic.
[[nodiscard]] std::vector<const TopInterval*> PresentIntervals(
    const std::vector<const TopInterval*>& intervals);

// An address as in CSV.
[[nodiscard]] std::string AddressText(AddressFamily family, const AddressBytes& address);

// Whether an entry is a row into which -max-rows sums up small ones: it has no destination and no
// port, and the sum of the smallest origins has no origin either.
[[nodiscard]] bool IsOtherEntry(TopView view, const TopKey& key);

// The network of an entry's key: "10.32.5.0/24", or the address alone if it is a host's; "(other)"
// for one that such a row does not have.
[[nodiscard]] std::string OriginName(TopView view, const TopKey& key, const GroupMasks& masks);
[[nodiscard]] std::string DestinationName(TopView view, const TopKey& key, const GroupMasks& masks);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_TOP_TRAFFIC_H_
