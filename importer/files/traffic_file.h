// One file to import: a spool file or a CSV file (also one of the Go tool's), read as a stream of
// rows, or a names file.
//
// A file is read twice: first to find out what it is and whether it is sound, before anything is
// sent to the database, then to load it. Both passes return what they have read, so that a file
// that changed in between is noticed.
//
// Errors of reading name the file and a byte offset:
//  - DataLoss: torn, corrupt, malformed or beyond the bounds of engine/rows/bounds.h (a CSV file
//    may hold many intervals: its sums are those of each day), and not being written to
//  - Unimplemented: a spool file of a newer version
//  - Aborted: it is being written to, or may be, or was changed meanwhile
//  - others: the file system
// Memory: one block of rows and one read buffer. Thread-compatible.
#ifndef CTACCT_IMPORTER_FILES_TRAFFIC_FILE_H_
#define CTACCT_IMPORTER_FILES_TRAFFIC_FILE_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/rows/gap.h"
#include "engine/rows/traffic_row.h"
#include "engine/spool/names_file.h"
#include "engine/spool/spool_header.h"
#include "engine/system/unique_fd.h"

namespace ctacct {

// A file within an open folder.
struct FilePlace {
  int folder_fd = -1;  // Or AT_FDCWD. The folder stays open as long as this is used.
  std::string folder;  // What messages call the folder.
  std::string name;    // One path component; with AT_FDCWD a path.
  std::string path;    // What messages call the file.
};

struct FileSummary {
  // The ledger's key. For CSV files: a UUID of version 8 made of the XXH3-128 of the gateway's name
  // and the contents, and sequence 0. So a copy under another name is the same file; a file of
  // another gateway is not, though quiet gateways write equal lines; and the key cannot be that of
  // an engine (version 7).
  EngineId engine_id{};
  uint64_t sequence = 0;
  uint64_t checksum = 0;
  uint64_t row_count = 0;
  std::optional<SpoolHeader> spool;  // CSV files have none.
  std::vector<Gap> gaps;             // CSV files have none.
  std::vector<int32_t> days;         // Of its rows' times, since the epoch; in order, each once.

  friend bool operator==(const FileSummary&, const FileSummary&) = default;
};

// Which file a name meant when it was opened, and in what state.
struct FileIdentity {
  dev_t device = 0;
  ino_t inode = 0;
  off_t size = 0;
  int64_t modified_ns = 0;

  static FileIdentity Of(const struct stat& info);
  [[nodiscard]] bool SameFile(const FileIdentity& other) const {
    return device == other.device && inode == other.inode;
  }
  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
};

// If the kernel does not say whether a file has a writer: it has none once it has not changed for
// this long.
inline constexpr absl::Duration kQuietTime = absl::Seconds(10);

// In one file. Each day is a partition of some tables, and a transaction locks them all: a server
// has room for some thousand locks.
inline constexpr size_t kDaysMax = 100;

// Whether a file of this name is a names file to import. The newest snapshot under the name that
// stays is for readers on the gateway.
[[nodiscard]] bool IsNamesFileName(absl::string_view name);

using TakeRows = absl::FunctionRef<absl::Status(absl::Span<const TrafficRow>)>;

class TrafficFile {
 public:
  // Names ending in ".csv" are CSV files, those of IsNamesFileName names files, all others spool
  // files. `csv_gateway` is the gateway of the rows of a CSV file, which do not name one. NotFound
  // if the file is gone; FailedPrecondition if it is not a regular file.
  [[nodiscard]] static absl::StatusOr<TrafficFile> Open(const FilePlace& place,
                                                        const std::string& csv_gateway = "");
  TrafficFile(TrafficFile&&) = default;

  // One pass over the whole file. `take` gets all rows, in blocks; its error ends the pass and is
  // returned.
  [[nodiscard]] absl::StatusOr<FileSummary> Read(TakeRows take) const;

  // The snapshot of a names file. All of it is in memory.
  [[nodiscard]] absl::StatusOr<NamesSnapshot> ReadNames() const;

  // The caller has seen this very state of the file for kQuietTime, whatever its time stamp says.
  void AssumeAtRest() { at_rest_ = true; }

  [[nodiscard]] const FileIdentity& identity() const { return identity_; }
  [[nodiscard]] const FilePlace& place() const { return place_; }
  [[nodiscard]] const std::string& name() const { return place_.name; }
  [[nodiscard]] const std::string& csv_gateway() const { return csv_gateway_; }
  [[nodiscard]] bool is_csv() const { return csv_; }
  [[nodiscard]] bool is_names() const { return IsNamesFileName(place_.name); }

 private:
  TrafficFile() = default;
  [[nodiscard]] absl::StatusOr<FileSummary> ReadSpool(TakeRows take) const;
  [[nodiscard]] absl::StatusOr<FileSummary> ReadCsv(TakeRows take) const;
  // Aborted if the file is being written to, or may be, or has changed since Open.
  [[nodiscard]] absl::Status CheckWriter() const;

  UniqueFd fd_;
  FilePlace place_;
  std::string csv_gateway_;
  bool csv_ = false;
  bool at_rest_ = false;
  FileIdentity identity_;
};

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_FILES_TRAFFIC_FILE_H_
