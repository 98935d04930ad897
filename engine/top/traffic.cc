#include "engine/top/traffic.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "netlink/ip_text.h"
#include "netlink/ipv4_text.h"

namespace ctacct {
namespace {

constexpr std::array<const char*, kTopViews> kViewNames = {"pairs", "origins", "destinations",
                                                           "ports", "services"};
constexpr std::array<const char*, kTopSorts> kSortNames = {
    "bytes", "packets", "connections", "time", "open", "unanswered", "name"};

template <typename Enum, size_t kSize>
std::optional<Enum> Find(const std::array<const char*, kSize>& names, absl::string_view name) {
  for (size_t i = 0; i < names.size(); ++i) {
    if (name == names[i]) return static_cast<Enum>(i);
  }
  return std::nullopt;
}

TopKey KeyOf(const TrafficRow& row, TopView view) {
  TopKey key;
  if (HasOrigin(view) || HasDestination(view)) key.family = row.family;
  if (HasOrigin(view)) key.src = row.src;
  if (HasDestination(view)) key.dst = row.dst;
  if (HasPort(view)) {
    key.protocol = row.protocol;
    key.port = row.port;
  } else if (IsOtherRow(row) && (view != TopView::kOrigins || key.src == AddressBytes{})) {
    // Apart from flows of a mask's 0.0.0.0. What was folded of an origin is the origin's.
    key.port = kPortNotListed;
  }
  return key;
}

void Add(const TrafficRow& row, TopSums* sums) {
  sums->packets_src += row.packets_src;
  sums->packets_dst += row.packets_dst;
  sums->bytes_src += row.bytes_src;
  sums->bytes_dst += row.bytes_dst;
  sums->connections += row.connection_count;
  sums->connection_time_ms += row.connection_time_ms;
  sums->open += row.open_connections;
  sums->flows += row.flow_count;
  sums->unanswered += row.unanswered_count;
}

// Adds what was summed over `seconds`.
void Add(const TopSums& from, double seconds, TopSums* to) {
  to->packets_src += from.packets_src;
  to->packets_dst += from.packets_dst;
  to->bytes_src += from.bytes_src;
  to->bytes_dst += from.bytes_dst;
  to->connections += from.connections;
  to->connection_time_ms += from.connection_time_ms;
  to->open += from.open;
  to->flows += from.flows;
  to->unanswered += from.unanswered;
  to->bits_src_rate += 8 * static_cast<double>(from.bytes_src) / seconds;
  to->bits_dst_rate += 8 * static_cast<double>(from.bytes_dst) / seconds;
  to->packets_src_rate += static_cast<double>(from.packets_src) / seconds;
  to->packets_dst_rate += static_cast<double>(from.packets_dst) / seconds;
  to->connections_rate += static_cast<double>(from.connections) / seconds;
}

// Rates, not sums: gateways' intervals may differ in length.
double SortValue(const TopSums& sums, TopSort sort) {
  switch (sort) {
    case TopSort::kBytes:
      return sums.bits_src_rate + sums.bits_dst_rate;
    case TopSort::kPackets:
      return sums.packets_src_rate + sums.packets_dst_rate;
    case TopSort::kConnections:
      return sums.connections_rate;
    case TopSort::kTime:
      return sums.MeanSeconds();
    case TopSort::kOpen:
      return static_cast<double>(sums.open);
    case TopSort::kUnanswered:
      return static_cast<double>(sums.unanswered);
    case TopSort::kName:
      break;
  }
  return 0;
}

// "/24"; nothing for a host's mask; a mask with holes as an address.
template <size_t kBytes>
std::string MaskSuffix(AddressFamily family, const std::array<uint8_t, kBytes>& mask) {
  size_t length = 0;
  bool ended = false;
  bool contiguous = true;
  for (size_t bit = 0; bit < 8 * kBytes; ++bit) {
    const bool is_set = (mask[bit / 8] >> (7 - bit % 8) & 1) != 0;
    contiguous &= !(ended && is_set);
    ended |= !is_set;
    length += is_set ? 1 : 0;
  }
  if (length == 8 * kBytes) return "";
  if (contiguous) return absl::StrCat("/", length);
  AddressBytes address{};
  std::copy(mask.begin(), mask.end(), address.begin());
  return absl::StrCat("/", AddressText(family, address));
}

std::string NetworkName(TopView view, const TopKey& key, const AddressBytes& address,
                        const Mask4& mask, const Mask6& mask6) {
  if (IsOtherEntry(view, key) && address == AddressBytes{}) return "(other)";
  return AddressText(key.family, address) + (key.family == AddressFamily::kIpv4
                                                 ? MaskSuffix(key.family, mask)
                                                 : MaskSuffix(key.family, mask6));
}

}  // namespace

const char* TopViewName(TopView view) { return kViewNames[static_cast<size_t>(view)]; }
std::optional<TopView> ParseTopView(absl::string_view name) {
  return Find<TopView>(kViewNames, name);
}
const char* TopSortName(TopSort sort) { return kSortNames[static_cast<size_t>(sort)]; }
std::optional<TopSort> ParseTopSort(absl::string_view name) {
  return Find<TopSort>(kSortNames, name);
}

double TopSums::MeanSeconds() const {
  return connections == 0
             ? 0
             : static_cast<double>(connection_time_ms) / 1000 / static_cast<double>(connections);
}

absl::StatusOr<AddressFilter> AddressFilter::Parse(const std::string& text) {
  AddressFilter filter;
  filter.text_ = text;
  if (absl::StrContains(text, '/')) {
    filter.network_ = ParseIpv4Cidr(text);
    filter.ipv6_network_ = ParseIpv6Cidr(text);
    if (!filter.network_.has_value() && !filter.ipv6_network_.has_value()) {
      return absl::InvalidArgumentError("not a network such as 10.32.0.0/11 or 2001:db8::/32");
    }
  } else if (text.find_first_not_of("0123456789abcdef.:") != std::string::npos) {
    return absl::InvalidArgumentError(
        "neither the beginning of an address nor a network such as 10.32.0.0/11");
  }
  return filter;
}

bool AddressFilter::Matches(const TrafficRow& row) const {
  if (text_.empty()) return true;
  if (network_.has_value()) {
    return row.family == AddressFamily::kIpv4 &&
           (network_->Contains(Ipv4Address::FromBytes(row.src.data())) ||
            network_->Contains(Ipv4Address::FromBytes(row.dst.data())));
  }
  if (ipv6_network_.has_value()) {
    return row.family == AddressFamily::kIpv6 &&
           (ipv6_network_->Contains(Ipv6Address::FromBytes(row.src.data())) ||
            ipv6_network_->Contains(Ipv6Address::FromBytes(row.dst.data())));
  }
  return absl::StartsWith(AddressText(row.family, row.src), text_) ||
         absl::StartsWith(AddressText(row.family, row.dst), text_);
}

TopTable MakeTopTable(const std::vector<const TopInterval*>& intervals, TopView view, TopSort sort,
                      bool reverse, const AddressFilter& filter) {
  TopTable table;
  if (!intervals.empty()) table.masks = intervals[0]->masks.value_or(GroupMasks());
  for (const TopInterval* interval : intervals) {
    if (interval->masks != intervals[0]->masks) table.masks = GroupMasks();
  }
  absl::flat_hash_map<TopKey, TopSums> all;
  for (const TopInterval* interval : intervals) {
    absl::flat_hash_map<TopKey, TopSums> its;
    for (const TrafficRow& row : interval->rows) {
      if (!filter.Matches(row)) continue;
      ++table.rows;
      Add(row, &its[KeyOf(row, view)]);
    }
    const double seconds = static_cast<double>(interval->observed_ns()) / 1e9;
    for (const auto& [key, sums] : its) {
      Add(sums, seconds, &all[key]);
      Add(sums, seconds, &table.total);
    }
    table.has_open |= interval->track_open;
  }
  table.entries.reserve(all.size());
  for (const auto& [key, sums] : all) table.entries.push_back({key, sums});
  std::sort(table.entries.begin(), table.entries.end(),
            [sort, reverse](const TopEntry& a, const TopEntry& b) {
              if (sort == TopSort::kName) return reverse ? b.key < a.key : a.key < b.key;
              const double left = SortValue(a.sums, sort);
              const double right = SortValue(b.sums, sort);
              if (left != right) return reverse ? left < right : left > right;
              return a.key < b.key;
            });
  return table;
}

std::vector<const TopInterval*> PresentIntervals(const std::vector<const TopInterval*>& intervals) {
  int64_t end_ns = 0;
  int64_t length_ns = 0;
  for (const TopInterval* interval : intervals) {
    if (interval->end_ns < end_ns) continue;
    end_ns = interval->end_ns;
    length_ns = interval->length_ns;
  }
  std::vector<const TopInterval*> present;
  for (const TopInterval* interval : intervals) {
    if (end_ns - interval->end_ns < std::max(length_ns, interval->length_ns)) {
      present.push_back(interval);
    }
  }
  return present;
}

std::string AddressText(AddressFamily family, const AddressBytes& address) {
  char text[INET6_ADDRSTRLEN];
  inet_ntop(family == AddressFamily::kIpv4 ? AF_INET : AF_INET6, address.data(), text,
            sizeof(text));
  return text;
}

bool IsOtherEntry(TopView view, const TopKey& key) {
  return key.port == kPortNotListed && (!HasPort(view) || key.protocol == kOtherRowProtocol);
}

std::string OriginName(TopView view, const TopKey& key, const GroupMasks& masks) {
  return NetworkName(view, key, key.src, masks.src, masks.src6);
}

std::string DestinationName(TopView view, const TopKey& key, const GroupMasks& masks) {
  return NetworkName(view, key, key.dst, masks.dst, masks.dst6);
}

}  // namespace ctacct
