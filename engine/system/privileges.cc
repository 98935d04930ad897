#include "engine/system/privileges.h"

#include <cap-ng.h>
#include <errno.h>
#include <linux/capability.h>
#include <pwd.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <vector>

#include "absl/strings/str_cat.h"

namespace ctacct {
namespace {

// More than any entry of a user database has; getpwnam_r says ERANGE where it is not.
constexpr size_t kUserEntryBytesMax = size_t{1} << 16;

bool Has(capng_type_t set, unsigned int capability) {
  return capng_have_capability(set, capability) != 0;
}

bool IsAlready(const UserAccount& user) {
  uid_t real = 0;
  uid_t effective = 0;
  uid_t saved = 0;
  return getresuid(&real, &effective, &saved) == 0 && real == user.uid && effective == user.uid &&
         saved == user.uid && getegid() == user.gid;
}

// Whether the kernel has done what was asked: capabilities that stay behind unseen would be worse
// than an engine that does not start.
absl::Status Check(bool net_admin, const UserAccount* user) {
  if (capng_get_caps_process() != 0) {
    return absl::InternalError("capabilities: the kernel does not report which remain");
  }
  for (unsigned int capability = 0; capability <= CAP_LAST_CAP; ++capability) {
    const bool kept = net_admin && capability == CAP_NET_ADMIN;
    if (Has(CAPNG_EFFECTIVE, capability) != kept || Has(CAPNG_PERMITTED, capability) != kept ||
        Has(CAPNG_INHERITABLE, capability) || Has(CAPNG_AMBIENT, capability)) {
      return absl::InternalError(absl::StrCat(
          "capabilities: ", capng_capability_to_name(capability), " is not as it should be"));
    }
  }
  if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) {
    return absl::InternalError("no_new_privs is not set");
  }
  if (user != nullptr && !IsAlready(*user)) {
    return absl::InternalError(absl::StrCat("user ", user->name, ": could not become it wholly"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<UserAccount> FindUserAccount(const std::string& name) {
  std::vector<char> buffer(kUserEntryBytesMax);
  passwd entry{};
  passwd* found = nullptr;
  const int error = getpwnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
  if (found == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("no such user", error == 0 ? "" : absl::StrCat(": ", strerror(error))));
  }
  return UserAccount{name, found->pw_uid, found->pw_gid};
}

absl::StatusOr<UserAccount> UnprivilegedUser() {
  absl::StatusOr<UserAccount> user = FindUserAccount("ctacct");
  return user.ok() ? user : FindUserAccount("nobody");
}

absl::StatusOr<Privileges> Privileges::Drop(const Options& options) {
  if (capng_get_caps_process() != 0) {
    return absl::InternalError("capabilities: the kernel does not report them");
  }
  const bool net_admin = options.keep_net_admin && Has(CAPNG_PERMITTED, CAP_NET_ADMIN);
  const bool override_goes = Has(CAPNG_EFFECTIVE, CAP_DAC_OVERRIDE);
  // The bounding set takes CAP_SETPCAP. Without it no_new_privs alone keeps what is executed from
  // gaining anything.
  const bool bounds = Has(CAPNG_EFFECTIVE, CAP_SETPCAP);
  const UserAccount* const user =
      options.user == nullptr || IsAlready(*options.user) ? nullptr : options.user;

  capng_clear(CAPNG_SELECT_ALL);
  if (net_admin) {
    capng_updatev(CAPNG_ADD, static_cast<capng_type_t>(CAPNG_EFFECTIVE | CAPNG_PERMITTED),
                  CAP_NET_ADMIN, -1);
  }
  if (user != nullptr) {
    int flags = CAPNG_INIT_SUPP_GRP | CAPNG_CLEAR_AMBIENT;
    if (bounds) flags |= CAPNG_CLEAR_BOUNDING;
    const int failed = capng_change_id(static_cast<int>(user->uid), static_cast<int>(user->gid),
                                       static_cast<capng_flags_t>(flags));
    if (failed != 0) {
      return absl::PermissionDeniedError(absl::StrCat(
          "user ", user->name, ": cannot become it",
          errno == 0 ? "" : absl::StrCat(": ", strerror(errno)),
          " (needs CAP_SETUID, CAP_SETGID and CAP_SETPCAP, as root has; -user=root stays "
          "root)"));
    }
  } else {
    int sets = CAPNG_SELECT_CAPS | CAPNG_SELECT_AMBIENT;
    if (bounds) sets |= CAPNG_SELECT_BOUNDS;
    const int failed = capng_apply(static_cast<capng_select_t>(sets));
    if (failed != 0) {
      return absl::InternalError(absl::StrCat("capabilities cannot be given up: ", failed));
    }
  }
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return absl::InternalError(absl::StrCat("no_new_privs: ", strerror(errno)));
  }
  if (absl::Status status = Check(net_admin, options.user); !status.ok()) return status;

  Privileges privileges;
  if (user != nullptr) {
    privileges.given_up_ = absl::StrCat("the program is user ", user->name,
                                        " now and has given up root's override of file modes");
  } else if (override_goes) {
    privileges.given_up_ =
        "the program has given up root's override of file modes; see -user, or give it access";
  }
  return privileges;
}

absl::Status Privileges::Explain(const absl::Status& status) const {
  if (given_up_.empty() || !absl::IsPermissionDenied(status)) return status;
  return absl::PermissionDeniedError(
      absl::StrCat(std::string(status.message()), " (", given_up_, ")"));
}

}  // namespace ctacct
