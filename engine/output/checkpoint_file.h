// The files of a checkpoint: names, lock and bytes. When they are written, and what a restart does
// with them, is in checkpoint.h.
//
// In the state folder, which belongs to one engine at a time:
//
//   lock                            held by that engine; contains the state's id
//   checkpoint                      a header, then blocks: a family, a number of records, and that
//                                   many FlowRecords or Ipv6FlowRecords, one for each flow
//   checkpoint.new                  the next checkpoint, being written
//
// In the output folder, since a rename cannot leave a file system:
//
//   .STATE.ENGINE.SEQUENCE.NAME     a prepared file of rows. STATE is the state's id, so engines
//                                   that share an output folder leave each other's files alone
//
// The state folder is opened once. If its path is given to another folder later, nothing here
// touches that one.
//
// A header has a checksum of itself and one of the records. Integers are in the machine's byte
// order: the file is useless on another machine, and after a boot.
//
// Thread-compatible.
#ifndef CTACCT_ENGINE_OUTPUT_CHECKPOINT_FILE_H_
#define CTACCT_ENGINE_OUTPUT_CHECKPOINT_FILE_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/accounting/flow_snapshot.h"
#include "engine/rows/gateway_name.h"
#include "engine/spool/engine_id.h"
#include "engine/system/unique_fd.h"
#include "xxhash.h"

namespace ctacct {

// For its owner only: the flows in it are not grouped.
inline constexpr mode_t kStateFolderMode = 0700;

// The kernel that the flows belong to. Under another kernel a checkpoint only says when it was
// made.
struct KernelIdentity {
  char boot_id[40] = {};  // /proc/sys/kernel/random/boot_id, zero-filled.
  uint64_t network_namespace = 0;

  friend bool operator==(const KernelIdentity&, const KernelIdentity&) = default;
};
[[nodiscard]] absl::StatusOr<KernelIdentity> ThisKernel();

// What a checkpoint says besides its flows.
struct CheckpointInfo {
  KernelIdentity kernel;
  EngineId engine_id{};
  char gateway[kGatewayBytesMax + 1] = {};  // Zero-filled; empty: unknown.
  uint64_t last_sequence = 0;  // Of this engine's files: those up to it are to be revealed.
  uint64_t rules = 0;          // A checksum of what was accounted: other flows are not in it.
  int64_t taken_ns = 0;        // Everything up to then was accounted; since the Unix epoch.
  int64_t known_since_ns = 0;  // See FlowTable.
  uint64_t flow_count = 0;
  bool flows_known = true;  // False: void, or damaged. Of the rest, only taken_ns is sure then.
  bool clean = false;       // The engine ended with it, and had read all events.

  void set_gateway(absl::string_view name);
};

struct XxhStateDeleter {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};
using XxhState = std::unique_ptr<XXH3_state_t, XxhStateDeleter>;

// A file in an open folder. `path` is what errors call it.
struct FileIn {
  int folder_fd = -1;
  std::string name;
  std::string path;
};

// Writes a checkpoint. The header is written last: without it the file is not a checkpoint.
class CheckpointWriter {
 public:
  [[nodiscard]] static absl::StatusOr<CheckpointWriter> Create(const FileIn& file);
  // A block of each family that has any.
  [[nodiscard]] absl::Status Append(const SnapshotChunk& chunk);
  [[nodiscard]] absl::Status WriteHeader(const CheckpointInfo& info);

 private:
  CheckpointWriter(std::string path, UniqueFd file);

  std::string path_;
  UniqueFd file_;
  absl::Status AppendBytes(const void* data, size_t bytes);

  uint64_t bytes_ = 0;  // Behind the header.
  XxhState hash_;
};

// Reads and checks a checkpoint. After an error (NotFound), `info` still contains what is known:
// when the file was written.
[[nodiscard]] absl::StatusOr<UniqueFd> ReadCheckpoint(const FileIn& file, CheckpointInfo* info);
// Calls a function for each flow; false if they cannot be read.
[[nodiscard]] bool ForEachFlow(const UniqueFd& file, uint64_t flow_count,
                               const std::function<void(const FlowRecord&)>& ipv4,
                               const std::function<void(const Ipv6FlowRecord&)>& ipv6);
// Leaves a header that says `flows_known = false`, or no file. In place: a full disk has no room
// for another.
[[nodiscard]] absl::Status VoidCheckpoint(const FileIn& file, CheckpointInfo info);
// Sets `clean`.
[[nodiscard]] absl::Status MarkCheckpointClean(const FileIn& file);

// Makes the state folder (for its owner only) if it is missing, and opens it. Its parent must
// exist.
[[nodiscard]] absl::StatusOr<UniqueFd> OpenStateFolder(const std::string& path);

// The lock of a state folder; it ends with the process.
class StateLock {
 public:
  // Unavailable: another engine has it, and has kept it for `attempts` times 10 ms.
  [[nodiscard]] static absl::StatusOr<StateLock> Take(const FileIn& file, int attempts);

  // FailedPrecondition: the path names no file, or another one than the one that is locked. So
  // another engine may have the lock of what is there now.
  [[nodiscard]] absl::Status Check() const;

  // 16 hexadecimal digits, random, the same for as long as the lock file exists.
  const std::string& state_id() const { return state_id_; }
  // When it was taken before, since the Unix epoch; 0: never.
  int64_t taken_before_ns() const { return taken_before_ns_; }

 private:
  StateLock(std::string path, UniqueFd lock) : path_(std::move(path)), lock_(std::move(lock)) {}
  absl::Status ReadOrMakeId(const FileIn& file);

  std::string path_;
  UniqueFd lock_;
  std::string state_id_;
  int64_t taken_before_ns_ = 0;
};

// A prepared file of rows. `name`: the one it will have.
struct PreparedName {
  std::string state_id;
  std::string engine_id;
  uint64_t sequence = 0;
  std::string name;

  std::string HiddenName() const;
  // False if `hidden_name` is no such name.
  bool Parse(absl::string_view hidden_name);
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_OUTPUT_CHECKPOINT_FILE_H_
