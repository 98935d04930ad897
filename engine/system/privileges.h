// Gives up what the process may do and does not need, for good: on libcap-ng.
//
// A live engine needs CAP_NET_ADMIN alone, for its sockets and for each dump, and conntrack's
// settings take it too; a replay needs nothing. All else goes before anything is opened: files are
// from then on found and made with the rights of a plain user, and root's override of file modes is
// gone. With no_new_privs and no inheritable, ambient or bounding capability, nothing that is ever
// executed gets any back.
//
// Capabilities and no_new_privs belong to a thread and are inherited by those it starts: to be
// called while there is one thread only.
#ifndef CTACCT_ENGINE_SYSTEM_PRIVILEGES_H_
#define CTACCT_ENGINE_SYSTEM_PRIVILEGES_H_

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ctacct {

struct UserAccount {
  std::string name;
  uid_t uid = 0;
  gid_t gid = 0;
};

// NotFound: there is no user of that name.
[[nodiscard]] absl::StatusOr<UserAccount> FindUserAccount(const std::string& name);

class Privileges {
 public:
  struct Options {
    // Keeps CAP_NET_ADMIN, where the process has it; a process without it goes on without, and the
    // first thing that needs it says so.
    bool keep_net_admin = false;
    // Becomes this user, with the user's groups; nullptr: stays who it is. A process that is this
    // user already keeps the groups that it was given.
    const UserAccount* user = nullptr;
  };
  // PermissionDenied: it may not become that user. Internal: the kernel kept what was to go.
  [[nodiscard]] static absl::StatusOr<Privileges> Drop(const Options& options);

  // The status; where it is PermissionDenied, with a few words on what was given up, if that may be
  // why: root is not used to being refused.
  [[nodiscard]] absl::Status Explain(const absl::Status& status) const;

 private:
  std::string given_up_;  // Empty: no right to open files.
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SYSTEM_PRIVILEGES_H_
