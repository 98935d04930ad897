#include "tests/support/spool_rows.h"

#include <algorithm>
#include <filesystem>

#include "engine/rows/protocol_names.h"
#include "engine/spool/spool_reader.h"

namespace ctacct {
namespace {

uint32_t HostOrder(const AddressBytes& bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
}

}  // namespace

absl::StatusOr<SpoolRows> ReadSpool(const std::string& folder) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".spool") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  SpoolRows all;
  std::vector<TrafficRow> block;
  for (const std::string& path : paths) {
    auto reader = SpoolReader::Open(path);
    if (!reader.ok()) return reader.status();
    for (;;) {
      const auto more = reader->ReadBlock(&block);
      if (!more.ok()) return more.status();
      if (!*more) break;
      for (const TrafficRow& row : block) {
        TrafficTotals& sums = all.traffic[{std::string(ProtocolName(row.protocol)),
                                           HostOrder(row.src), HostOrder(row.dst), row.port}];
        sums.packets_src += row.packets_src;
        sums.packets_dst += row.packets_dst;
        sums.bytes_src += row.bytes_src;
        sums.bytes_dst += row.bytes_dst;
        sums.connection_count += row.connection_count;
      }
    }
    all.gaps.insert(all.gaps.end(), reader->gaps().begin(), reader->gaps().end());
    all.headers.push_back(reader->header());
    all.events_dropped += reader->header().events_dropped;
  }
  return all;
}

bool NothingVisible(const std::string& folder) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().filename().string()[0] != '.') return false;
  }
  return true;
}

Traffic WithoutConnections(Traffic traffic) {
  for (auto& [key, sums] : traffic) sums.connection_count = sums.open_connections = 0;
  return traffic;
}

}  // namespace ctacct
