#include "engine/names/sources.h"

#include <algorithm>
#include <optional>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "engine/names/openvpn_status.h"
#include "engine/system/clock.h"

namespace ctacct {
namespace {

constexpr size_t kProblemsShownMax = 5;
// Enough to find the peer in `wg show`.
constexpr size_t kKeyCharactersShown = 8;

class FileSource : public NamesSource {
 public:
  explicit FileSource(const std::string& path) : NamesSource(path), file_(path) {}

  void Update() override {
    absl::StatusOr<std::optional<std::string>> text = file_.ReadIfChanged();
    if (!text.ok()) {
      // It is the operator's, and has to be there.
      return SetProblem(absl::IsNotFound(text.status())
                            ? absl::FailedPreconditionError(text.status().message())
                            : text.status());
    }
    if (!text->has_value()) return;
    SourceNames list = ParseNameList(**text);
    SetProblem(ProblemsStatus(file_.path(), list.problems));
    if (problem().ok()) SetList(std::move(list.entries));
  }

  bool is_settling() const override { return file_.is_settling(); }

 private:
  FollowedFile file_;
};

class OpenvpnSource : public NamesSource {
 public:
  explicit OpenvpnSource(const std::string& path)
      : NamesSource(path), file_(path, /*may_be_empty=*/true) {}

  void Update() override {
    absl::StatusOr<std::optional<std::string>> text = file_.ReadIfChanged();
    if (!text.ok()) return SetProblem(text.status());
    if (!text->has_value()) return;
    absl::StatusOr<SourceNames> list = ParseOpenvpnStatus(**text, absl::LocalTimeZone());
    if (!list.ok()) {
      // The server may not have written it yet.
      return SetProblem(absl::NotFoundError(
          absl::StrCat(file_.path(), ": ", std::string(list.status().message()))));
    }
    // A clock that was set back since a client connected.
    const int64_t now_ns = WallClockNs();
    for (NamesEntry& entry : list->entries) {
      if (entry.from_ns.has_value() && *entry.from_ns > now_ns) entry.from_ns.reset();
    }
    SetProblem(ProblemsStatus(file_.path(), list->problems), /*in_part=*/true);
    SetList(std::move(list->entries));
  }

  bool is_settling() const override { return file_.is_settling(); }

 private:
  FollowedFile file_;
};

// A file of names by key, and what was good of it last.
struct KeyFile {
  FollowedFile file;
  KeyNameList (*parse)(absl::string_view text);
  KeyNames names;
  absl::Status problem;
};

class WireguardSource : public NamesSource {
 public:
  explicit WireguardSource(const WireguardOptions& options)
      : NamesSource("WireGuard"), devices_(options.devices) {
    if (!options.names.empty()) {
      key_files_.push_back({FollowedFile(options.names), ParseKeyNameList, {}, {}});
    }
    for (const std::string& config : options.configs) {
      key_files_.push_back({FollowedFile(config), ParseWireguardConfig, {}, {}});
    }
  }

  void Update() override {
    bool renamed = false;
    absl::Status problem;
    for (KeyFile& key_file : key_files_) {
      renamed |= UpdateNames(&key_file);
      problem.Update(key_file.problem);
    }
    // Without the names that there were, peers would get others.
    if (version() == 0 && (!problem.ok() || is_settling())) return SetProblem(problem);
    absl::Status missing;
    absl::StatusOr<std::vector<WireguardPeer>> peers = ReadPeers(&missing);
    if (!peers.ok()) return SetProblem(peers.status());
    problem.ok() ? SetProblem(missing, /*in_part=*/true) : SetProblem(problem);
    if (version() != 0 && !renamed && *peers == peers_) return;
    peers_ = *std::move(peers);
    KeyNames names;
    for (const KeyFile& key_file : key_files_) {
      names.insert(key_file.names.begin(), key_file.names.end());
    }
    SetList(WireguardEntries(peers_, names));
  }

  bool is_settling() const override {
    return std::any_of(key_files_.begin(), key_files_.end(),
                       [](const KeyFile& key_file) { return key_file.file.is_settling(); });
  }

 private:
  // True if there are other names.
  static bool UpdateNames(KeyFile* key_file) {
    const absl::StatusOr<std::optional<std::string>> text = key_file->file.ReadIfChanged();
    if (!text.ok()) {
      key_file->problem = absl::FailedPreconditionError(text.status().message());
      return false;
    }
    if (!text->has_value()) return false;
    KeyNameList list = key_file->parse(**text);
    key_file->problem = ProblemsStatus(key_file->file.path(), list.problems);
    if (!key_file->problem.ok()) return false;
    key_file->names = std::move(list.names);
    return true;
  }

  // A device that is missing has no peers.
  absl::StatusOr<std::vector<WireguardPeer>> ReadPeers(absl::Status* missing) {
    if (socket_ == nullptr) {
      absl::StatusOr<std::unique_ptr<WireguardSocket>> socket = WireguardSocket::Open();
      if (!socket.ok()) return socket.status();
      socket_ = *std::move(socket);
    }
    std::vector<std::string> devices = devices_;
    if (devices.empty()) {
      absl::StatusOr<std::vector<std::string>> all = socket_->ReadDevices();
      if (!all.ok()) return all.status();
      devices = *std::move(all);
    }
    std::vector<WireguardPeer> peers;
    for (const std::string& device : devices) {
      absl::StatusOr<std::vector<WireguardPeer>> some = socket_->ReadPeers(device);
      if (absl::IsNotFound(some.status())) {
        missing->Update(some.status());
        continue;
      }
      if (!some.ok()) return some.status();
      peers.insert(peers.end(), some->begin(), some->end());
    }
    return peers;
  }

  const std::vector<std::string> devices_;
  std::vector<KeyFile> key_files_;
  std::unique_ptr<WireguardSocket> socket_;
  std::vector<WireguardPeer> peers_;
};

}  // namespace

std::unique_ptr<NamesSource> MakeFileSource(const std::string& path) {
  return std::make_unique<FileSource>(path);
}

std::unique_ptr<NamesSource> MakeOpenvpnSource(const std::string& path) {
  return std::make_unique<OpenvpnSource>(path);
}

std::unique_ptr<NamesSource> MakeWireguardSource(const WireguardOptions& options) {
  return std::make_unique<WireguardSource>(options);
}

std::vector<NamesEntry> WireguardEntries(const std::vector<WireguardPeer>& peers,
                                         const KeyNames& names) {
  std::vector<NamesEntry> entries;
  for (const WireguardPeer& peer : peers) {
    const std::string key = absl::Base64Escape(absl::string_view(
        reinterpret_cast<const char*>(peer.public_key.data()), peer.public_key.size()));
    const auto name = names.find(key);
    for (const Network& network : peer.allowed) {
      if (network.prefix_length == 0) continue;
      entries.push_back({network,
                         name == names.end() ? key.substr(0, kKeyCharactersShown) : name->second,
                         NameSource::kWireguard,
                         {},
                         {}});
    }
  }
  return entries;
}

absl::Status ProblemsStatus(const std::string& path, const std::vector<LineProblem>& problems) {
  std::string text;
  for (size_t i = 0; i < std::min(problems.size(), kProblemsShownMax); ++i) {
    absl::StrAppend(&text, i == 0 ? "" : "; ", path, ":", problems[i].line, ": ", problems[i].why);
  }
  if (text.empty()) return absl::OkStatus();
  if (problems.size() > kProblemsShownMax) {
    absl::StrAppend(&text, "; and ", problems.size() - kProblemsShownMax, " more lines");
  }
  return absl::InvalidArgumentError(text);
}

}  // namespace ctacct
