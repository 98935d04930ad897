// What root does before it becomes another user:
//  - checks that the user can use the paths that the program needs;
//  - makes the missing ones that the user could not make, owned by the user;
//  - gives the user FIFOs and empty folders that belong to root.
//
// Not thread-safe: for main, while there is only one thread. The effective ids are the user's for a
// moment.
#ifndef CTACCT_ENGINE_SYSTEM_HANDOVER_H_
#define CTACCT_ENGINE_SYSTEM_HANDOVER_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/system/privileges.h"

namespace ctacct {

struct NeededPath {
  enum class Kind {
    kInput,   // A file that is read. Never made.
    kFolder,  // A folder in which files are made.
    kFifo,
  };
  const char* what;  // What errors call it: "output folder".
  std::string path;  // Empty: none is needed.
  Kind kind;
  mode_t mode = 0;  // Of what is made.
};

// PermissionDenied: the user cannot use one of them; the message names it and the remedy, and
// nothing was made or given away. Other errors: one could not be made.
[[nodiscard]] absl::Status HandOver(const UserAccount& user, const std::vector<NeededPath>& needed);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SYSTEM_HANDOVER_H_
