// The files of a checkpoint: names, lock and bytes. When they are written, and what a restart does
// with them, is in checkpoint.h.
//
// They lie in the folder .ctacct within the output folder. TAG is a checksum of the gateway's name,
// since engines of several gateways may share an output folder:
//
//   TAG.lock                      held by the engine that uses the other ones
//   TAG.checkpoint                a header, then one FlowRecord for each flow
//   TAG.new                       the next checkpoint, being written
//   TAG.ENGINE.SEQUENCE.NAME      a prepared file of rows
//
// A header has a checksum of itself and one of the records. Integers are as the machine has them:
// the file is of no use to another machine, or after a boot.
//
// Thread-compatible.
#ifndef CTACCT_ENGINE_OUTPUT_CHECKPOINT_FILE_H_
#define CTACCT_ENGINE_OUTPUT_CHECKPOINT_FILE_H_

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
#include "engine/spool/engine_id.h"
#include "engine/system/unique_fd.h"
#include "xxhash.h"

namespace ctacct {

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
  uint64_t last_sequence = 0;  // Of this engine's files: those up to it are to be revealed.
  uint64_t rules = 0;          // A checksum of what was accounted: other flows are not in it.
  int64_t taken_ns = 0;        // Everything up to then was accounted; since the Unix epoch.
  int64_t known_since_ns = 0;  // See FlowTable.
  uint64_t flow_count = 0;
  bool flows_known = true;  // False: void, or damaged. Of the rest, only taken_ns is sure then.
  bool clean = false;       // The engine ended with it, and had read all events.
};

struct XxhStateDeleter {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};
using XxhState = std::unique_ptr<XXH3_state_t, XxhStateDeleter>;

// Writes a checkpoint. Without a header, which comes last, the file is none.
class CheckpointWriter {
 public:
  [[nodiscard]] static absl::StatusOr<CheckpointWriter> Create(const std::string& path);
  [[nodiscard]] absl::Status Append(const std::vector<FlowRecord>& records);
  [[nodiscard]] absl::Status WriteHeader(const CheckpointInfo& info);

 private:
  CheckpointWriter(std::string path, UniqueFd file);

  std::string path_;
  UniqueFd file_;
  uint64_t count_ = 0;
  XxhState hash_;
};

// Reads and checks a checkpoint. After an error (NotFound), `info` contains what is known all the
// same: when the file was written.
[[nodiscard]] absl::StatusOr<UniqueFd> ReadCheckpoint(const std::string& path,
                                                      CheckpointInfo* info);
// Calls `function` for pieces of the flows; false if they cannot be read.
[[nodiscard]] bool ForEachFlow(const UniqueFd& file, uint64_t flow_count,
                               const std::function<void(const FlowRecord*, size_t)>& function);
// Leaves a header that says `flows_known = false`, or no file. In place: a full disk has no room
// for another.
[[nodiscard]] absl::Status VoidCheckpoint(const std::string& path, CheckpointInfo info);
// Sets `clean`.
[[nodiscard]] absl::Status MarkCheckpointClean(const std::string& path);

// Takes a lock that ends with the process. Unavailable: somebody else has it, and has kept it for
// `attempts` times 10 ms.
[[nodiscard]] absl::StatusOr<UniqueFd> LockFile(const std::string& path, int attempts);
// When a file was modified, since the Unix epoch; 0: there is none.
[[nodiscard]] int64_t ModifiedNs(const std::string& path);

std::string GatewayTag(absl::string_view gateway);

// A prepared file of rows. `name`: the one it will have.
struct PreparedName {
  std::string tag;
  std::string engine_id;
  uint64_t sequence = 0;
  std::string name;

  std::string HiddenName() const;
  // False if `hidden_name` is no such name.
  bool Parse(absl::string_view hidden_name);
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_OUTPUT_CHECKPOINT_FILE_H_
