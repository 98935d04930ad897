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
    {"nf_conntrack_events", 1, false, true, "the ends of some flows are never told"},
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

bool TimestampsAreOn() {
  int value = 0;
  return std::ifstream(absl::StrCat(kFolder, "nf_conntrack_timestamp")) >> value && value == 1;
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
