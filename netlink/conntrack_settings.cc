#include "netlink/conntrack_settings.h"

#include <errno.h>
#include <string.h>

#include <fstream>

#include "absl/strings/str_cat.h"

namespace ctacct {
namespace {

constexpr char kFolder[] = "/proc/sys/net/netfilter/";

constexpr ConntrackSetting kSettings[] = {
    {"nf_conntrack_acct", 1, true, true, "conntrack counts no packets and bytes"},
    {"nf_conntrack_timestamp", 1, false, true,
     "connection times are those of reading, not the kernel's"},
    // With 2, the default, a flow that began while nobody listened never gets a DESTROY event.
    {"nf_conntrack_events", 1, false, true, "the ends of some flows are never reported"},
};

void ReadTimeout(const char* state, uint32_t* seconds) {
  std::ifstream file(absl::StrCat(kFolder, "nf_conntrack_tcp_timeout_", state));
  uint32_t value = 0;
  if (file >> value) *seconds = value;
}

}  // namespace

absl::Span<const ConntrackSetting> ConntrackSettings() { return kSettings; }

absl::Status PrepareConntrack(bool light, const std::function<void(const std::string&)>& log) {
  for (const ConntrackSetting& setting : kSettings) {
    const bool needed = light ? setting.needed_in_light : setting.needed;
    const std::string path = absl::StrCat(kFolder, setting.name);
    int value = -1;
    if (!(std::ifstream(path) >> value)) {
      if (!needed) {
        log(absl::StrCat(setting.name, " cannot be read: ", setting.without));
        continue;
      }
      return absl::UnavailableError(
          absl::StrCat("conntrack is not there: ", path, ": ", strerror(errno)));
    }
    if (value == setting.wanted) continue;
    std::ofstream file(path);
    if (file << setting.wanted << std::endl) {
      log(absl::StrCat(setting.name, " was ", value, ", set to ", setting.wanted,
                       setting.needed ? "; flows that are older stay without counters" : ""));
      continue;
    }
    const std::string why = absl::StrCat(setting.name, " is ", value, " and cannot be set to ",
                                         setting.wanted, ": ", strerror(errno));
    if (needed) return absl::PermissionDeniedError(absl::StrCat(why, "; ", setting.without));
    log(absl::StrCat(why, "; ", setting.without));
  }
  return absl::OkStatus();
}

bool ConntrackIsOn() {
  for (const ConntrackSetting& setting : kSettings) {
    int value = 0;
    if (std::ifstream(absl::StrCat(kFolder, setting.name)) >> value && value == 0) return false;
  }
  return true;
}

bool KeepConntrackOn(const std::function<void(const std::string&)>& log) {
  bool all_on = true;
  for (const ConntrackSetting& setting : kSettings) {
    const std::string path = absl::StrCat(kFolder, setting.name);
    int value = 0;
    if (!(std::ifstream(path) >> value) || value == setting.wanted) continue;
    all_on = all_on && value != 0;
    std::ofstream file(path);
    const bool set = static_cast<bool>(file << setting.wanted << std::endl);
    log(absl::StrCat(
        "somebody has set ", setting.name, " to ", value, ": ", setting.without, "; ",
        set ? absl::StrCat("it is ", setting.wanted, " again")
            : absl::StrCat("it cannot be set to ", setting.wanted, ": ", strerror(errno))));
  }
  return all_on;
}

bool TimestampsAreOn() {
  int value = 0;
  return std::ifstream(absl::StrCat(kFolder, "nf_conntrack_timestamp")) >> value && value == 1;
}

uint64_t ConntrackBuckets() {
  uint64_t buckets = 0;
  std::ifstream(absl::StrCat(kFolder, "nf_conntrack_buckets")) >> buckets;
  return buckets;
}

TcpTimeouts ReadTcpTimeouts() {
  TcpTimeouts timeouts;
  ReadTimeout("close_wait", &timeouts.close_wait_seconds);
  ReadTimeout("last_ack", &timeouts.last_ack_seconds);
  ReadTimeout("time_wait", &timeouts.time_wait_seconds);
  ReadTimeout("close", &timeouts.close_seconds);
  return timeouts;
}

}  // namespace ctacct
