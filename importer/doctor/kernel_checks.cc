// The doctor's checks of the kernel: settings, rights, rules, listeners.
#include <cap-ng.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/system/unique_fd.h"
#include "importer/doctor/checks.h"
#include "importer/doctor/child.h"
#include "importer/doctor/nft.h"
#include "netlink/conntrack_settings.h"

namespace ctacct {
namespace {

constexpr char kSettingsFolder[] = "/proc/sys/net/netfilter/";
// Lost events are counted by SO_MEMINFO, which came with 4.12.
constexpr int kKernelMajorMin = 5;
// A table that grows into its limit drops the packets that would begin new flows.
constexpr uint64_t kTablePercentWarn = 75;
constexpr uint64_t kTablePercentFail = 90;
// The kernel's own choice before 5.15 was 4, since then 1. Every packet walks a chain of them.
constexpr uint64_t kEntriesPerBucketMax = 4;
// Groups of /proc/net/netlink, in their order.
constexpr const char* kEventGroups[] = {"NEW", "UPDATE", "DESTROY"};
constexpr uint64_t kEventGroupsMask = 7;
constexpr absl::Duration kSaveMax = absl::Seconds(10);
constexpr int kYearMin = 2025;  // A clock without battery begins in 1970.

std::optional<uint64_t> ReadNumber(const std::string& path) {
  uint64_t value = 0;
  if (std::ifstream(path) >> value) return value;
  return std::nullopt;
}

std::optional<uint64_t> Setting(absl::string_view name) {
  return ReadNumber(absl::StrCat(kSettingsFolder, name));
}

bool ConntrackIsThere() { return Setting("nf_conntrack_acct").has_value(); }

// Whether a module is loaded or built in; true if that cannot be found out.
bool MayBeLoaded(const std::string& module) {
  std::ifstream modules("/proc/modules");
  if (!modules) return true;
  std::string builtin_path = "/lib/modules/";
  utsname name{};
  if (uname(&name) == 0) absl::StrAppend(&builtin_path, name.release, "/modules.builtin");
  for (std::string line; std::getline(modules, line);) {
    if (absl::StartsWith(line, module + " ")) return true;
  }
  std::ifstream builtin(builtin_path);
  if (!builtin) return true;
  for (std::string line; std::getline(builtin, line);) {
    if (absl::EndsWith(line, absl::StrCat("/", module, ".ko"))) return true;
  }
  return false;
}

Finding CheckSetting(const DoctorOptions& options, absl::string_view name) {
  for (const ConntrackSetting& setting : ConntrackSettings()) {
    if (setting.name != name) continue;
    const std::optional<uint64_t> value = Setting(name);
    if (!value.has_value()) {
      if (!ConntrackIsThere()) return Skip("conntrack is not there, see kernel");
      return Fail(absl::StrCat(name, " cannot be read: ", setting.without), {});
    }
    const std::string shown = absl::StrCat(name, " is ", *value);
    if (*value == static_cast<uint64_t>(setting.wanted)) return Ok(shown);
    const std::string text = absl::StrCat(shown, ": ", setting.without);
    const std::vector<std::string> remedies = {
        absl::StrCat("sysctl -w net.netfilter.", name, "=", setting.wanted)};
    const bool needed = options.light ? setting.needed_in_light : setting.needed;
    // No events at all is more than what `without` says.
    if (name == "nf_conntrack_events" && *value == 0) {
      return Fail(absl::StrCat(shown, ": the kernel does not report the ends of flows"), remedies);
    }
    return needed ? Fail(text, remedies) : Warn(text, remedies);
  }
  return Skip("this engine does not ask for it");
}

// How to get the capability that a check, or the engine, does not have.
std::vector<std::string> CapabilityRemedies(const DoctorOptions& options) {
  if (geteuid() == 0) return {"capsh --print   # CAP_NET_ADMIN must be among Current and Bounding"};
  std::vector<std::string> remedies = {absl::StrCat("sudo ", options.doctor_program)};
  if (!options.engine_program.empty()) {
    remedies.push_back(absl::StrCat("setcap cap_net_admin+ep ", ShellQuoted(options.engine_program),
                                    "   # any user's engine may"));
  }
  return remedies;
}

// Then the engine has it, whichever user starts it.
bool EngineFileHasNetAdmin(const DoctorOptions& options) {
  const UniqueFd file(open(options.engine_program.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid() || capng_get_caps_fd(file.get()) != 0) return false;
  return capng_have_capability(CAPNG_PERMITTED, CAP_NET_ADMIN) != 0 &&
         capng_have_capability(CAPNG_EFFECTIVE, CAP_NET_ADMIN) != 0;
}

// The engine runs as a user that this caller is not and cannot become.
bool EngineIsOfAnotherUser(const DoctorOptions& options) {
  return geteuid() != 0 && options.engine_user.has_value() && options.engine_user->uid != geteuid();
}

const Examination::Rules& Rules(Examination& examination) {
  if (examination.rules.has_value()) return *examination.rules;
  Examination::Rules& rules = examination.rules.emplace();
  if (!HasCapability(CAP_NET_ADMIN)) {
    rules.unseen = "the rules (needs root)";
    return rules;
  }
  // To ask would load the module.
  if (MayBeLoaded("nf_tables")) {
    const absl::StatusOr<std::string> listing = RunNft("list ruleset");
    if (listing.ok()) {
      ReadNftRuleset(*listing, &rules.findings);
      rules.hooks = RunNft("list hooks ip").value_or("");
    } else {
      rules.unseen = std::string(listing.status().message());
    }
  }
  const auto read_save = [](const char* program, RulesetFindings* findings) {
    const absl::StatusOr<std::unique_ptr<Child>> save = Child::Start({program});
    if (!save.ok() || (*save)->Wait(kSaveMax) != 0) return false;
    ReadIptablesSave((*save)->Output(), program, findings);
    return true;
  };
  if (!rules.findings.ct_targets.empty()) {
    RulesetFindings saved;  // All rules: of these nft has shown what else there is.
    const bool read = read_save("iptables-nft-save", &saved);
    std::vector<RuleSource>& found = read ? saved.masking : rules.findings.ct_targets;
    std::vector<RuleSource>& kind = read ? rules.findings.masking : rules.findings.untracking;
    kind.insert(kind.end(), found.begin(), found.end());
    rules.findings.hiding.insert(rules.findings.hiding.end(), saved.hiding.begin(),
                                 saved.hiding.end());
  }
  // Tables of the older iptables, which nft does not see.
  std::ifstream names("/proc/net/ip_tables_names");
  if (std::string first; names >> first) {
    if (!read_save("iptables-legacy-save", &rules.findings)) {
      absl::StrAppend(&rules.unseen, rules.unseen.empty() ? "" : "; ",
                      "rules of iptables-legacy (no iptables-legacy-save)");
    }
  }
  return rules;
}

// The processes that have each socket open, by the socket's inode.
std::map<uint64_t, std::set<pid_t>> SocketOwners() {
  std::map<uint64_t, std::set<pid_t>> owners;
  std::error_code ignored;
  for (const auto& process : std::filesystem::directory_iterator("/proc", ignored)) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(process.path().filename().string(), &pid)) continue;
    std::error_code gone;  // The process has ended, or is another user's.
    std::filesystem::directory_iterator files(process.path() / "fd", gone);
    for (; !gone && files != std::filesystem::directory_iterator(); files.increment(gone)) {
      std::error_code closed;
      const std::string target = std::filesystem::read_symlink(files->path(), closed);
      uint64_t inode = 0;
      if (absl::StartsWith(target, "socket:[") &&
          absl::SimpleAtoi(target.substr(8, target.size() - 9), &inode)) {
        owners[inode].insert(pid);
      }
    }
  }
  return owners;
}

std::string ProcessName(pid_t pid) {
  std::string name;
  std::getline(std::ifstream(absl::StrCat("/proc/", pid, "/comm")), name);
  return name;
}

bool IsOurEngine(pid_t pid, const DoctorOptions& options) {
  std::error_code ignored;
  const std::filesystem::path program =
      std::filesystem::read_symlink(absl::StrCat("/proc/", pid, "/exe"), ignored);
  return program.filename() == "ctacct-engine" || ProcessName(pid) == "ctacct-engine" ||
         (!options.engine_program.empty() &&
          std::filesystem::equivalent(program, options.engine_program, ignored));
}

struct Listener {
  uint64_t inode = 0;
  uint64_t groups = 0;
  uint64_t drops = 0;
};

// Sockets of this network namespace.
std::vector<Listener> Listeners() {
  std::vector<Listener> listeners;
  std::ifstream table("/proc/thread-self/net/netlink");
  std::string line;
  std::getline(table, line);
  while (std::getline(table, line)) {
    std::string socket, groups, rmem, wmem, dump, locks;
    int protocol = 0;
    int64_t port = 0;
    Listener listener;
    std::istringstream fields(line);
    if (!(fields >> socket >> protocol >> port >> groups >> rmem >> wmem >> dump >> locks >>
          listener.drops >> listener.inode)) {
      continue;
    }
    listener.groups = std::strtoull(groups.c_str(), nullptr, 16) & kEventGroupsMask;
    if (protocol == NETLINK_NETFILTER && listener.groups != 0) listeners.push_back(listener);
  }
  return listeners;
}

std::string GroupNames(uint64_t groups) {
  std::vector<std::string> names;
  for (size_t i = 0; i < std::size(kEventGroups); ++i) {
    if ((groups >> i & 1) != 0) names.push_back(kEventGroups[i]);
  }
  return absl::StrJoin(names, ", ");
}

// A text names at most this number of rules, and says how many more there are.
constexpr size_t kShownMax = 3;

std::string FirstFew(const std::vector<RuleSource>& sources) {
  std::vector<std::string> shown;
  for (size_t i = 0; i < std::min(sources.size(), kShownMax); ++i) shown.push_back(sources[i].what);
  if (sources.size() > kShownMax) {
    shown.push_back(absl::StrCat(sources.size() - kShownMax, " more"));
  }
  return absl::StrJoin(shown, "; ");
}

std::vector<std::string> Remedies(const std::vector<RuleSource>& sources) {
  std::vector<std::string> remedies;
  for (size_t i = 0; i < std::min(sources.size(), kShownMax); ++i) {
    remedies.push_back(sources[i].remedy);
  }
  return remedies;
}

}  // namespace

bool HasCapability(unsigned int capability) {
  return capng_get_caps_process() == 0 && capng_have_capability(CAPNG_EFFECTIVE, capability) != 0;
}

Finding CheckKernel(Examination&) {
  utsname name{};
  uname(&name);
  const std::string shown = absl::StrCat("Linux ", name.release);
  if (!ConntrackIsThere()) {
    return Fail(absl::StrCat(shown, ": conntrack is not loaded"),
                {"modprobe -a nf_conntrack nf_conntrack_netlink"});
  }
  if (!MayBeLoaded("nf_conntrack_netlink")) {
    return Warn(absl::StrCat(shown,
                             ": nf_conntrack_netlink is not loaded, and an engine that "
                             "may not load it receives no events"),
                {"modprobe nf_conntrack_netlink"});
  }
  int major = 0;
  if (absl::SimpleAtoi(
          absl::string_view(name.release).substr(0, std::strspn(name.release, "0123456789")),
          &major) &&
      major < kKernelMajorMin) {
    return Warn(absl::StrCat(shown, ": older than any that ctacct was tried on"),
                {"apt-get install linux-image-amd64"});
  }
  return Ok(absl::StrCat(shown, " has conntrack and its netlink"));
}

Finding CheckAcct(Examination& examination) {
  return CheckSetting(examination.options, "nf_conntrack_acct");
}
Finding CheckTimestamp(Examination& examination) {
  return CheckSetting(examination.options, "nf_conntrack_timestamp");
}
Finding CheckEvents(Examination& examination) {
  return CheckSetting(examination.options, "nf_conntrack_events");
}

// Whether a reboot keeps the settings. The engine sets them when it starts, but flows that began
// before that have no counters.
Finding CheckReboot(Examination& examination) {
  std::set<std::string> kept;
  const auto read = [&kept](const std::filesystem::path& path) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
      const std::string name(absl::StripAsciiWhitespace(line.substr(0, line.find('='))));
      kept.insert(absl::StrReplaceAll(absl::StripPrefix(name, "-"), {{"/", "."}}));
    }
  };
  for (const char* const folder : {"/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d",
                                   "/usr/lib/sysctl.d", "/lib/sysctl.d"}) {
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(folder, none)) {
      if (entry.path().extension() == ".conf") read(entry.path());
    }
  }
  read("/etc/sysctl.conf");
  std::vector<std::string> lost, remedies;
  for (const ConntrackSetting& setting : ConntrackSettings()) {
    const bool needed = examination.options.light ? setting.needed_in_light : setting.needed;
    const std::string name = absl::StrCat("net.netfilter.", setting.name);
    if (!needed || kept.count(name) != 0) continue;
    lost.emplace_back(setting.name);
    remedies.push_back(
        absl::StrCat("echo ", name, "=", setting.wanted, " >> /etc/sysctl.d/60-ctacct.conf"));
  }
  if (lost.empty()) return Ok("sysctl.d keeps the settings");
  return Warn(
      absl::StrCat("sysctl.d does not set ", absl::StrJoin(lost, ", "), ": a reboot resets it"),
      remedies);
}

Finding CheckTable(Examination&) {
  const std::optional<uint64_t> count = Setting("nf_conntrack_count");
  const std::optional<uint64_t> max = Setting("nf_conntrack_max");
  if (!count.has_value() || !max.has_value()) return Skip("conntrack is not there, see kernel");
  if (*max == 0) return Ok(absl::StrCat(*count, " flows, without a limit"));
  const uint64_t percent = *count * 100 / *max;
  const std::string shown = absl::StrCat(*count, " of at most ", *max, " flows (", percent, " %)");
  if (percent < kTablePercentWarn) return Ok(shown);
  // In the first namespace: the limit is the machine's.
  const std::vector<std::string> remedies = {
      absl::StrCat("sysctl -w net.netfilter.nf_conntrack_max=", *max * 2)};
  if (percent < kTablePercentFail) return Warn(absl::StrCat(shown, ": filling up"), remedies);
  return Fail(absl::StrCat(shown, ": when it is full, new connections are dropped"), remedies);
}

Finding CheckBuckets(Examination&) {
  const std::optional<uint64_t> buckets = Setting("nf_conntrack_buckets");
  const std::optional<uint64_t> max = Setting("nf_conntrack_max");
  if (!buckets.has_value() || !max.has_value() || *buckets == 0) {
    return Skip("conntrack is not there, see kernel");
  }
  const std::string shown = absl::StrCat(*buckets, " for at most ", *max, " flows");
  if (*max <= *buckets * kEntriesPerBucketMax) return Ok(shown);
  return Warn(absl::StrCat(shown, ": long chains slow down every packet"),
              {absl::StrCat("sysctl -w net.netfilter.nf_conntrack_buckets=", *max)});
}

Finding CheckCapability(Examination& examination) {
  const DoctorOptions& options = examination.options;
  if (HasCapability(CAP_NET_ADMIN)) {
    // The engine has it as well: it keeps it when it becomes another user.
    return Ok("CAP_NET_ADMIN is there");
  }
  if (EngineFileHasNetAdmin(options)) return Ok("the engine's file gives it CAP_NET_ADMIN");
  if (EngineIsOfAnotherUser(options)) {
    return Skip(absl::StrCat("the engine runs as ", options.engine_user->name,
                             "; only root can see its capabilities"));
  }
  return Fail("no CAP_NET_ADMIN: an engine started like this receives no events",
              CapabilityRemedies(options));
}

Finding CheckReceiveBuffer(Examination& examination) {
  const DoctorOptions& options = examination.options;
  const size_t sockets = std::max<size_t>(1, options.workers);
  const int asked = static_cast<int>(options.receive_buffer_bytes / sockets);
  // As the engine's, but subscribed to nothing: it costs the gateway no event.
  const UniqueFd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
  if (!socket.valid()) return Fail(absl::StrCat("netlink: ", strerror(errno)), {});
  const bool forced =
      setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUFFORCE, &asked, sizeof(asked)) == 0;
  if (!forced) {
    if (EngineFileHasNetAdmin(options) || EngineIsOfAnotherUser(options)) {
      return Skip("only root can ask for it as the engine does");
    }
    setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUF, &asked, sizeof(asked));
  }
  int granted = 0;
  socklen_t bytes = sizeof(granted);
  getsockopt(socket.get(), SOL_SOCKET, SO_RCVBUF, &granted, &bytes);
  // The kernel's count is twice what was asked for.
  const uint64_t usable = static_cast<uint64_t>(granted) / 2 * sockets;
  if (!forced || granted / 2 < asked) {
    return Fail(
        absl::StrCat(BytesText(options.receive_buffer_bytes), " asked for, ", BytesText(usable),
                     " granted", forced ? "" : ": without CAP_NET_ADMIN rmem_max caps it"),
        CapabilityRemedies(options));
  }
  return Ok(absl::StrCat(BytesText(usable), " granted, as asked for",
                         options.workers > 1 ? absl::StrCat(" by ", sockets, " workers") : ""));
}

Finding CheckTracking(Examination& examination) {
  if (!ConntrackIsThere()) return Skip("conntrack is not there, see kernel");
  const Examination::Rules& rules = Rules(examination);
  if (absl::StrContains(rules.hooks, "conntrack_in")) {
    return Ok("conntrack's hooks are in this network namespace");
  }
  if (!rules.findings.tracking.empty()) return Ok(rules.findings.tracking);
  const uint64_t flows = Setting("nf_conntrack_count").value_or(0);
  if (flows != 0) return Ok(absl::StrCat("conntrack follows ", CountText(flows, "flow"), " here"));
  if (!rules.unseen.empty()) return Skip(absl::StrCat("no flow yet, and not seen: ", rules.unseen));
  return Fail("conntrack is off in this network namespace: no rule asks for it",
              {"nft 'table inet ctacct { chain on { type filter hook forward priority 0; "
               "ct state new; }; }'"});
}

Finding CheckUntracked(Examination& examination) {
  const Examination::Rules& rules = Rules(examination);
  const std::vector<RuleSource>& sources = rules.findings.untracking;
  if (!sources.empty()) {
    return Warn(absl::StrCat("what these match is not counted: ", FirstFew(sources)),
                Remedies(sources));
  }
  if (!rules.unseen.empty()) return Skip(absl::StrCat("not seen: ", rules.unseen));
  return Ok("no rule keeps packets from conntrack");
}

Finding CheckMaskedEnds(Examination& examination) {
  const Examination::Rules& rules = Rules(examination);
  const std::vector<RuleSource>& sources = rules.findings.masking;
  if (!sources.empty()) {
    return Fail(absl::StrCat("the kernel does not report the end of what these match, so its last "
                             "traffic is not counted: ",
                             FirstFew(sources)),
                Remedies(sources));
  }
  if (!rules.unseen.empty()) return Skip(absl::StrCat("not seen: ", rules.unseen));
  if (const std::vector<RuleSource>& hiding = rules.findings.hiding; !hiding.empty()) {
    return Warn(absl::StrCat("the kernel does not report the birth of what these match, so after a "
                             "loss of events totals cannot be proved: ",
                             FirstFew(hiding)),
                Remedies(hiding));
  }
  return Ok("no rule masks the births or ends of flows");
}

Finding CheckFlowtables(Examination& examination) {
  const Examination::Rules& rules = Rules(examination);
  const std::vector<RuleSource>& sources = rules.findings.uncounted_offload;
  if (!sources.empty()) {
    return Fail(
        absl::StrCat("no `counter`, so what they carry is not counted: ", FirstFew(sources)),
        Remedies(sources));
  }
  if (!rules.unseen.empty()) return Skip(absl::StrCat("not seen: ", rules.unseen));
  return Ok(rules.findings.flowtables == 0
                ? "no flowtables"
                : absl::StrCat(CountText(rules.findings.flowtables, "flowtable"), ", counted"));
}

Finding CheckTunnels(Examination& examination) {
  std::vector<std::string> tunnels;
  std::error_code error;
  for (const auto& device : std::filesystem::directory_iterator("/sys/class/net", error)) {
    bool is_tunnel = std::filesystem::exists(device.path() / "tun_flags", error);
    std::ifstream uevent(device.path() / "uevent");
    for (std::string line; std::getline(uevent, line);) {
      is_tunnel = is_tunnel || line == "DEVTYPE=wireguard";
    }
    if (is_tunnel) tunnels.push_back(device.path().filename());
  }
  if (tunnels.empty()) return Ok("no WireGuard or tun interface");
  std::sort(tunnels.begin(), tunnels.end());
  const std::string names = absl::StrJoin(tunnels, ", ");
  if (examination.options.skips_local) {
    return Ok(absl::StrCat("the packets that carry ", names, " are left out"));
  }
  return Warn(absl::StrCat("what goes through ", names,
                           " is counted twice: inside the tunnel, and as the tunnel's own packets"),
              {examination.options.engine_flags.empty()
                   ? "start the engine with -local=skip"
                   : absl::StrCat("echo local=skip >> ", examination.options.engine_flags)});
}

// Where `systemctl enable ctacct-engine` makes a link.
constexpr char kEngineWanted[] =
    "/etc/systemd/system/multi-user.target.wants/ctacct-engine.service";

Finding CheckListeners(Examination& examination) {
  const std::map<uint64_t, std::set<pid_t>> owners = SocketOwners();
  size_t engines = 0;
  std::set<pid_t> engine_processes;
  uint64_t engine_drops = 0;
  std::map<std::string, uint64_t> others;  // Groups by name.
  std::vector<std::string> remedies;
  std::set<pid_t> killed;
  for (const Listener& listener : Listeners()) {
    const auto found = owners.find(listener.inode);
    if (found == owners.end()) {
      others["somebody"] |= listener.groups;
      continue;
    }
    // The service manager also has the engine's sockets open.
    const std::set<pid_t>& pids = found->second;
    const auto engine = std::find_if(
        pids.begin(), pids.end(), [&](pid_t pid) { return IsOurEngine(pid, examination.options); });
    if (engine != pids.end()) {
      ++engines;
      engine_processes.insert(*engine);
      engine_drops += listener.drops;
      continue;
    }
    for (const pid_t pid : pids) {
      const std::string name = ProcessName(pid);
      others[absl::StrCat(name, " (", pid, ")")] |= listener.groups;
      if (pid != 1 && killed.insert(pid).second) {
        remedies.push_back(absl::StrCat("kill ", pid, "   # ", name));
      }
    }
  }
  if (!others.empty()) {
    if (geteuid() != 0) remedies.push_back("sudo ss -f netlink -p   # who they are");
    std::vector<std::string> shown;
    shown.reserve(others.size());
    for (const auto& [name, groups] : others) {
      shown.push_back(absl::StrCat(name, " to ", GroupNames(groups)));
    }
    return Warn(absl::StrCat("other listeners: ", absl::StrJoin(shown, "; "),
                             "; each event costs the gateway again"),
                remedies);
  }
  if (engine_drops != 0) {
    return Warn(
        absl::StrCat("the running engine's sockets have lost ", engine_drops,
                     " events since they were opened; its rows say when"),
        {absl::StrCat("echo receive-buffer=", examination.options.receive_buffer_bytes * 2, " >> ",
                      examination.options.engine_flags.empty()
                          ? "/etc/ctacct/engine.flags"
                          : ShellQuoted(examination.options.engine_flags)),
         "systemctl restart ctacct-engine"});
  }
  if (engine_processes.size() > 1) {
    return Warn(absl::StrCat(engine_processes.size(),
                             " engines run here: what more than one of them accounts counts twice"),
                {"kill PID   # one of: " + absl::StrJoin(engine_processes, ", ")});
  }
  if (engines == 0) {
    if (std::filesystem::is_symlink(kEngineWanted)) {
      return Fail("no engine runs here, although its service is enabled",
                  {"systemctl start ctacct-engine"});
    }
    return Ok("nobody listens to conntrack; no engine runs here");
  }
  return Ok(absl::StrCat("the engine alone, with ", CountText(engines, "socket")));
}

// Debian installs no NTP service by itself.
constexpr char kSynchronise[] =
    "timedatectl set-ntp true   # needs an NTP service: systemd-timesyncd";

Finding CheckClock(Examination&) {
  const absl::Time now = absl::Now();
  const std::string shown = absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", now, absl::UTCTimeZone());
  if (absl::ToCivilYear(now, absl::UTCTimeZone()).year() < kYearMin) {
    return Fail(absl::StrCat("it is not ", shown), {kSynchronise});
  }
  timex state{};
  if (adjtimex(&state) == TIME_ERROR) {
    return Warn(absl::StrCat(shown, ", not synchronised"), {kSynchronise});
  }
  return Ok(absl::StrCat(shown, ", synchronised"));
}

}  // namespace ctacct
