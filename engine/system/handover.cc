#include "engine/system/handover.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/system/unique_fd.h"

namespace ctacct {
namespace {

using Kind = NeededPath::Kind;

// Has the user's effective ids and groups, and with them none of root's capabilities in effect.
class ActingAs {
 public:
  explicit ActingAs(const UserAccount& user) : groups_(std::max(getgroups(0, nullptr), 0)) {
    acts_ = getgroups(static_cast<int>(groups_.size()), groups_.data()) >= 0 &&
            initgroups(user.name.c_str(), user.gid) == 0 && setegid(user.gid) == 0 &&
            seteuid(user.uid) == 0;
  }
  ActingAs(const ActingAs&) = delete;
  ActingAs& operator=(const ActingAs&) = delete;
  ~ActingAs() {
    // It cannot fail after a success: the real and the saved ids are still root's.
    const bool restored =
        seteuid(uid_) == 0 && setegid(gid_) == 0 && setgroups(groups_.size(), groups_.data()) == 0;
    if (acts_ && !restored) std::abort();
  }
  bool acts() const { return acts_; }

 private:
  const uid_t uid_ = geteuid();
  const gid_t gid_ = getegid();
  std::vector<gid_t> groups_;
  bool acts_ = false;
};

bool MayUse(const std::string& path, int how) {
  return faccessat(AT_FDCWD, path.c_str(), how, AT_EACCESS) == 0;
}

std::string FolderOf(const std::string& path) {
  const size_t end = path.find_last_not_of('/');
  const size_t slash = end == std::string::npos ? end : path.rfind('/', end);
  if (slash == std::string::npos) return path.empty() || path[0] != '/' ? "." : "/";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// The first folder on the way to `path` that may not be entered; empty: there is none.
std::string ClosedFolder(const std::string& path) {
  for (size_t slash = path.find('/'); slash != std::string::npos;
       slash = path.find('/', slash + 1)) {
    const std::string folder = path.substr(0, std::max<size_t>(slash, 1));
    if (!MayUse(folder, X_OK) && errno == EACCES) return folder;
  }
  return "";
}

absl::Status Denied(const UserAccount& user, const NeededPath& needed) {
  const std::string closed = ClosedFolder(needed.path);
  const std::string remedy =
      !closed.empty() ? absl::StrCat("may not enter ", closed, "; name another place")
      : needed.kind == Kind::kInput
          ? absl::StrCat("may not read it; chmod o+r ", needed.path)
          : absl::StrCat("may not write to it; name a folder of its own, or chown -R ", user.name,
                         " ", needed.path);
  return absl::PermissionDeniedError(absl::StrCat(needed.what, " ", needed.path,
                                                  ": Permission denied: user ", user.name, " ",
                                                  remedy, ", or see -user in --help"));
}

// Gives the user what root has just made. By a descriptor: in a folder of somebody else's the name
// may be another file's by now.
int Give(const std::string& path, mode_t type, const UserAccount& user) {
  const UniqueFd fd(open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  struct stat info {};
  if (!fd.valid() || fstat(fd.get(), &info) != 0) return errno;
  if ((info.st_mode & S_IFMT) != type || info.st_uid != geteuid()) return EEXIST;
  return fchownat(fd.get(), "", user.uid, user.gid, AT_EMPTY_PATH) == 0 ? 0 : errno;
}

// `path` may end with slashes.
bool IsPath(const std::string& folder, const std::string& path) {
  return !folder.empty() && folder == path.substr(0, path.find_last_not_of('/') + 1);
}

bool IsEmptyFolder(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_empty(path, error) && !error;
}

mode_t TypeOf(const NeededPath& needed) { return needed.kind == Kind::kFolder ? S_IFDIR : S_IFIFO; }

int Make(const NeededPath& needed, const UserAccount& user) {
  const char* const path = needed.path.c_str();
  const int made =
      needed.kind == Kind::kFolder ? mkdir(path, needed.mode) : mkfifo(path, needed.mode);
  return made != 0 ? errno : Give(needed.path, TypeOf(needed), user);
}

}  // namespace

absl::Status HandOver(const UserAccount& user, const std::vector<NeededPath>& needed) {
  std::vector<const NeededPath*> missing;  // And for root to make.
  std::vector<const NeededPath*> closed;   // There, and the user may not use it.
  std::vector<std::string> new_folders;
  {
    const ActingAs acting(user);
    if (!acting.acts()) {
      return absl::PermissionDeniedError(
          absl::StrCat("user ", user.name, ": cannot become it: ", strerror(errno),
                       " (needs CAP_SETUID and CAP_SETGID, as root has; -user=root stays root)"));
    }
    for (const NeededPath& one : needed) {
      if (one.path.empty()) continue;
      const int how = one.kind == Kind::kInput    ? R_OK
                      : one.kind == Kind::kFolder ? W_OK | X_OK
                                                  : W_OK;
      if (MayUse(one.path, how)) continue;
      if (errno == EACCES) {
        const std::string folder = ClosedFolder(one.path);
        // In one that will be the user's, the program makes it.
        if (std::any_of(closed.begin(), closed.end(),
                        [&](const NeededPath* other) { return IsPath(folder, other->path); })) {
          continue;
        }
        const bool by_itself = folder.empty() || IsPath(folder, one.path);
        if (!by_itself || one.kind == Kind::kInput) return Denied(user, one);
        struct stat info {};
        // Something else, and not to be given away: that shows where the path is opened.
        if (stat(one.path.c_str(), &info) == 0 && (info.st_mode & S_IFMT) != TypeOf(one)) continue;
        closed.push_back(&one);
        continue;
      }
      // What else is wrong shows where the path is opened.
      if (errno != ENOENT || one.kind == Kind::kInput) continue;
      const std::string folder = FolderOf(one.path);
      const bool in_new_folder =
          std::find(new_folders.begin(), new_folders.end(), folder) != new_folders.end();
      if (!in_new_folder && !MayUse(folder, F_OK)) {
        return absl::NotFoundError(
            absl::StrCat(one.what, " ", one.path, ": there is no folder ", folder));
      }
      if (one.kind == Kind::kFolder) new_folders.push_back(one.path);
      // What the user can make, the program makes later.
      if (in_new_folder || MayUse(folder, W_OK | X_OK)) continue;
      missing.push_back(&one);
    }
  }
  // First all checks: nothing is given away if one fails.
  for (const NeededPath* const one : closed) {
    if (one->kind == Kind::kFolder && !IsEmptyFolder(one->path)) return Denied(user, *one);
  }
  for (const NeededPath* const one : closed) {
    if (Give(one->path, TypeOf(*one), user) != 0) return Denied(user, *one);
  }
  for (const NeededPath* const one : missing) {
    if (const int error = Make(*one, user); error != 0) {
      return absl::ErrnoToStatus(error, absl::StrCat(one->what, " ", one->path));
    }
  }
  return absl::OkStatus();
}

}  // namespace ctacct
