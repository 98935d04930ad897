#include "engine/system/service_manager.h"

#include <stdlib.h>
#include <systemd/sd-daemon.h>

#include "absl/strings/str_cat.h"
#include "engine/system/clock.h"

namespace ctacct {
namespace {

constexpr int kThisProcess = 0;
constexpr int kKeepEnvironment = 0;
constexpr int kClearEnvironment = 1;
constexpr int64_t kNanosPerMicro = 1000;
// In a watchdog's period: one may be late, and one be lost.
constexpr int64_t kSignsOfLife = 4;

}  // namespace

ServiceManager::ServiceManager() {
  uint64_t watchdog_us = 0;
  if (sd_watchdog_enabled(kKeepEnvironment, &watchdog_us) <= 0) return;
  alive_period_ns_ = static_cast<int64_t>(watchdog_us) * kNanosPerMicro / kSignsOfLife;
}

std::vector<ServiceManager::Descriptor> ServiceManager::TakeHandedBack() {
  char** names = nullptr;
  const int count = sd_listen_fds_with_names(kClearEnvironment, &names);
  std::vector<Descriptor> descriptors;
  for (int i = 0; i < count; ++i) {
    descriptors.push_back({names[i], UniqueFd(SD_LISTEN_FDS_START + i)});
    free(names[i]);
  }
  if (count > 0) free(names);
  return descriptors;
}

void ServiceManager::Store(const std::string& name, int fd) const {
  // Unless told not to, systemd watches it, and lets go of a socket that reports an error: an
  // overrun is one.
  const std::string message = absl::StrCat("FDSTORE=1\nFDNAME=", name, "\nFDPOLL=0");
  sd_pid_notify_with_fds(kThisProcess, kKeepEnvironment, message.c_str(), &fd, 1);
}

void ServiceManager::Remove(const std::string& name) const {
  const std::string message = absl::StrCat("FDSTOREREMOVE=1\nFDNAME=", name);
  sd_notify(kKeepEnvironment, message.c_str());
}

void ServiceManager::TellReady() const { sd_notify(kKeepEnvironment, "READY=1"); }

void ServiceManager::TellStopping() const {
  // systemd's watchdog would go on through the last writes, which may have to wait for a disk.
  sd_notify(kKeepEnvironment, "STOPPING=1\nWATCHDOG_USEC=0");
}

bool ServiceManager::AliveIsDue() const {
  return alive_period_ns_ != 0 && MonotonicNs() >= next_alive_ns_;
}

void ServiceManager::TellAlive() {
  if (!AliveIsDue()) return;
  next_alive_ns_ = MonotonicNs() + alive_period_ns_;
  sd_notify(kKeepEnvironment, "WATCHDOG=1");
}

void ServiceManager::TellStatus(const std::string& status) {
  if (status == last_status_) return;
  last_status_ = status;
  sd_notify(kKeepEnvironment, absl::StrCat("STATUS=", status).c_str());
}

}  // namespace ctacct
