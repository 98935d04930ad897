// Reads a spool file block by block, and checks the checksum of each block before using it.
//
// Errors name the file and a byte offset:
//  - DataLoss: torn (the file ends before its end block) or corrupt (anything else), and the
//    message says which
//  - Unimplemented: sound, but of a newer version than this program
//  - others: the file cannot be opened or read; it is not a regular file
// Rows are returned before the end block confirms the whole file: a caller that must not act on
// part of a file has to be able to undo its work until ReadBlock has returned false.
//
// Memory: one block (kBlockPayloadBytesMax) and kGapsMax gaps, whatever the file claims.
// Thread-compatible.
#ifndef CTACCT_ENGINE_SPOOL_SPOOL_READER_H_
#define CTACCT_ENGINE_SPOOL_SPOOL_READER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/rows/bounds.h"
#include "engine/rows/gap.h"
#include "engine/rows/traffic_row.h"
#include "engine/spool/spool_format.h"
#include "engine/spool/spool_header.h"
#include "engine/system/unique_fd.h"

struct XXH3_state_s;

namespace ctacct {

// The totals of the whole file, from its end block.
using SpoolTotals = spool_format::End;

class SpoolReader {
 public:
  // Opens a path; symbolic links and all but regular files are rejected. Reads the header.
  [[nodiscard]] static absl::StatusOr<SpoolReader> Open(const std::string& path);

  // Reads a file that is open already, from its beginning; does not move the descriptor's offset
  // and does not close it.
  [[nodiscard]] static absl::StatusOr<SpoolReader> FromFd(int fd, const std::string& path);

  SpoolReader(SpoolReader&&) = default;
  ~SpoolReader() = default;

  // After the gaps were read, its completeness is the worst of the header's and theirs.
  [[nodiscard]] const SpoolHeader& header() const { return header_; }

  // Replaces *rows by the next row block's; false, and no rows, once the end block has confirmed
  // all of them.
  [[nodiscard]] absl::StatusOr<bool> ReadBlock(std::vector<TrafficRow>* rows);

  // Valid after ReadBlock has returned false.
  [[nodiscard]] const SpoolTotals& totals() const { return totals_; }

  // The gaps read so far; all of them, and confirmed, after ReadBlock has returned false.
  [[nodiscard]] const std::vector<Gap>& gaps() const { return gaps_; }

 private:
  struct HashStateDeleter {
    void operator()(XXH3_state_s* state) const;
  };

  SpoolReader(UniqueFd owned_fd, int fd, const std::string& path);
  [[nodiscard]] absl::Status ReadHeader();
  // The next block, header and payload, into block_; its checksum holds.
  [[nodiscard]] absl::Status FetchBlock();
  [[nodiscard]] absl::Status TakeRows(std::vector<TrafficRow>* rows);
  [[nodiscard]] absl::Status TakeGaps();
  [[nodiscard]] absl::Status TakeEnd();
  // Exactly `size` bytes at offset_, which moves on; DataLoss "torn" at the end of the file.
  [[nodiscard]] absl::Status ReadExactly(char* to, size_t size);
  [[nodiscard]] absl::Status Corrupt(int64_t offset, absl::string_view why) const;

  UniqueFd owned_fd_;
  int fd_;
  std::string path_;
  int64_t offset_ = 0;
  std::unique_ptr<XXH3_state_s, HashStateDeleter> file_hash_;
  SpoolHeader header_;
  SpoolTotals seen_;    // Summed up from the rows so far.
  RowSums sums_;        // The same, of every counter.
  SpoolTotals totals_;  // From the end block.
  std::vector<Gap> gaps_;
  bool ended_ = false;
  // The block fetched last: where it begins, its header, and all of its bytes.
  int64_t block_offset_ = 0;
  spool_format::BlockHeader head_{};
  std::vector<char> block_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SPOOL_SPOOL_READER_H_
