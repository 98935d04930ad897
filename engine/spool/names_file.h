// Names files: who held which network on one gateway, at one moment and, where it is known, from
// when to when. The format is in docs/names.md. `names` writes them into the spool folder, the
// importer loads them, and `top` reads the newest, current.names.
//
// Plain values and pure functions; thread-compatible.
#ifndef CTACCT_ENGINE_SPOOL_NAMES_FILE_H_
#define CTACCT_ENGINE_SPOOL_NAMES_FILE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/rows/network.h"
#include "engine/spool/engine_id.h"

namespace ctacct {

inline constexpr absl::string_view kNamesFileEnd = ".names";
// The newest snapshot under a name that stays, for readers on the gateway.
inline constexpr absl::string_view kCurrentNamesFile = "current.names";

// More than a gateway can have of peers.
inline constexpr size_t kNamesEntriesMax = 100'000;
// Room for this number of entries with names of average length. The importer holds a file and its
// entries in memory, of which it may use 256 MB.
inline constexpr size_t kNamesFileBytesMax = size_t{24} << 20;
inline constexpr size_t kHolderBytesMax = 255;

enum class NameSource : uint8_t { kFile, kWireguard, kOpenvpn };
[[nodiscard]] absl::string_view NameSourceText(NameSource source);

// One holder of a network. Nanoseconds since the Unix epoch, within the bounds of bounds.h.
struct NamesEntry {
  Network network;
  std::string name;
  NameSource source = NameSource::kFile;
  // Holds in [from, to). Without from: from the snapshot's time on, or longer, if the snapshot
  // before names the same holder. Without to: until a later snapshot says otherwise.
  std::optional<int64_t> from_ns;
  std::optional<int64_t> to_ns;

  friend bool operator==(const NamesEntry&, const NamesEntry&) = default;
};

// All that were known at one moment. Entries are in the order of (network, from), and no two ranges
// of one network overlap.
struct NamesSnapshot {
  std::string gateway;
  EngineId writer{};      // Identifies the run of `names`.
  uint64_t sequence = 0;  // From 1 in each run.
  int64_t time_ns = 0;    // When the snapshot was true.
  std::vector<NamesEntry> entries;

  friend bool operator==(const NamesSnapshot&, const NamesSnapshot&) = default;
};

// A holder's name: 1 to kHolderBytesMax bytes of UTF-8, each character printable
// (PrintableCharacterBytes). InvalidArgument says what is wrong, without the name.
[[nodiscard]] absl::Status CheckHolderName(absl::string_view name);

// "WRITER-SEQUENCE.names", the sequence in ten digits: names sort in the order of writing.
[[nodiscard]] std::string NamesFileName(const EngineId& writer, uint64_t sequence);

// The whole file. InvalidArgument: the snapshot does not fit the format.
[[nodiscard]] absl::StatusOr<std::string> EncodeNames(const NamesSnapshot& snapshot);

// What EncodeNames made; encoded again it is the same bytes. Errors name the path and a line, but
// no name and no network:
//  - DataLoss: torn (the file ends before its checksum) or corrupt (anything else), and the message
//    says which
//  - Unimplemented: sound, but of a newer version than this program
[[nodiscard]] absl::StatusOr<NamesSnapshot> ParseNames(absl::string_view bytes,
                                                       const std::string& path);

// Reads a file that is open, from its beginning; does not move the descriptor's offset and does not
// close it. Errors are those of ParseNames and of reading.
[[nodiscard]] absl::StatusOr<NamesSnapshot> ReadNamesFile(int fd, const std::string& path);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SPOOL_NAMES_FILE_H_
