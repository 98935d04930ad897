// Permanently drops all privileges that the process does not need. On libcap-ng.
//
// A live engine needs only CAP_NET_ADMIN: for its sockets, for each dump, and for conntrack's
// settings; a replay needs nothing. Everything else is dropped before anything is opened, so files
// are opened and created with the rights of a plain user, without root's override of file modes.
// no_new_privs, and no inheritable, ambient or bounding capability: an executed program cannot get
// any back.
//
// Capabilities and no_new_privs belong to a thread, and the threads it starts inherit them: call
// this while there is only one thread.
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
// The user that an engine becomes that root started without -user: `ctacct`, which the package
// makes, else `nobody`. NotFound: neither exists.
[[nodiscard]] absl::StatusOr<UserAccount> UnprivilegedUser();

class Privileges {
 public:
  struct Options {
    // Keeps CAP_NET_ADMIN, if the process has it. If not, the first operation that needs it fails.
    bool keep_net_admin = false;
    // Becomes this user, with the user's groups; nullptr: keeps the current one. A process that is
    // this user already keeps its groups.
    const UserAccount* user = nullptr;
  };
  // PermissionDenied: it may not become that user. Internal: the kernel kept a privilege.
  [[nodiscard]] static absl::StatusOr<Privileges> Drop(const Options& options);

  // The status. If it is PermissionDenied, and dropped privileges may be the reason, the message
  // says which: root does not expect to be refused.
  [[nodiscard]] absl::Status Explain(const absl::Status& status) const;

 private:
  std::string given_up_;  // Empty: no right to open files.
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SYSTEM_PRIVILEGES_H_
