// Where names come from: the operator's file, WireGuard and OpenVPN. Each source has a list, which
// stays as it is while the source cannot be read. Thread-compatible.
#ifndef CTACCT_ENGINE_NAMES_SOURCES_H_
#define CTACCT_ENGINE_NAMES_SOURCES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/names/name_list.h"
#include "engine/names/wireguard.h"
#include "engine/spool/names_file.h"
#include "engine/system/followed_file.h"

namespace ctacct {

class NamesSource {
 public:
  // `what`: what the log calls it.
  explicit NamesSource(std::string what) : what_(std::move(what)) {}
  virtual ~NamesSource() = default;

  const std::string& what() const { return what_; }

  // Looks for changes.
  virtual void Update() = 0;
  // Whether it changed, and has to be asked again in FollowedFile::kSettleNs.
  [[nodiscard]] virtual bool is_settling() const = 0;

  const std::vector<NamesEntry>& entries() const { return entries_; }
  // Increases with each new list; 0: there was none yet.
  uint64_t version() const { return version_; }
  // What is wrong with the source. Its list is the last good one, or (in_part) has no wrong lines.
  const absl::Status& problem() const { return problem_; }
  bool in_part() const { return in_part_; }
  // Whether it may come to be later, which is no reason not to start.
  bool may_come() const { return absl::IsNotFound(problem_); }

 protected:
  void SetList(std::vector<NamesEntry> entries) {
    entries_ = std::move(entries);
    ++version_;
  }
  // `in_part`: the list was taken without what is wrong.
  void SetProblem(absl::Status problem, bool in_part = false) {
    problem_ = std::move(problem);
    in_part_ = in_part;
  }

 private:
  const std::string what_;
  std::vector<NamesEntry> entries_;
  uint64_t version_ = 0;
  absl::Status problem_;
  bool in_part_ = false;
};

// ParseNameList's file. A list with a problem is not taken.
[[nodiscard]] std::unique_ptr<NamesSource> MakeFileSource(const std::string& path);

// ParseOpenvpnStatus's file.
[[nodiscard]] std::unique_ptr<NamesSource> MakeOpenvpnSource(const std::string& path);

struct WireguardOptions {
  std::vector<std::string> devices;  // Empty: all.
  std::string names;                 // ParseKeyNameList's file; empty: none.
  std::vector<std::string> configs;  // ParseWireguardConfig's files.
};
// A peer without a name is called by its key's first characters.
[[nodiscard]] std::unique_ptr<NamesSource> MakeWireguardSource(const WireguardOptions& options);

// The entries of peers: pure, for tests. A peer that may send from everywhere (/0) is the way out,
// and holds nothing by that.
[[nodiscard]] std::vector<NamesEntry> WireguardEntries(const std::vector<WireguardPeer>& peers,
                                                       const KeyNames& names);

// "PATH:3: WHY; PATH:9: WHY; and 7 more lines". OK: there are none.
[[nodiscard]] absl::Status ProblemsStatus(const std::string& path,
                                          const std::vector<LineProblem>& problems);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_NAMES_SOURCES_H_
