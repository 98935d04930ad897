// The spool folder, as `names` writes into it: one file for each snapshot, and the newest one as
// current.names. One `names` at a time. Thread-compatible.
#ifndef CTACCT_ENGINE_NAMES_SPOOL_H_
#define CTACCT_ENGINE_NAMES_SPOOL_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/spool/engine_id.h"
#include "engine/spool/names_file.h"
#include "engine/system/unique_fd.h"

namespace ctacct {

class NamesSpool {
 public:
  // Makes the folder if it is missing. FailedPrecondition: another `names` writes there.
  [[nodiscard]] static absl::StatusOr<NamesSpool> Open(const std::string& folder,
                                                       const std::string& gateway);

  // Durable once it returns. After an error the snapshot may be there all the same; the next one
  // has another sequence number in any case.
  [[nodiscard]] absl::Status Write(std::vector<NamesEntry> entries, int64_t time_ns);

 private:
  NamesSpool(std::string folder, UniqueFd lock, NamesSnapshot next)
      : folder_(std::move(folder)), lock_(std::move(lock)), next_(std::move(next)) {}

  std::string folder_;
  UniqueFd lock_;  // The folder, locked.
  NamesSnapshot next_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_NAMES_SPOOL_H_
