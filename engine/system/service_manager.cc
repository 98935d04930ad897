#include "engine/system/service_manager.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
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
// A manager that ends the service is there to read.
constexpr timeval kStoppingWait = {.tv_sec = 1, .tv_usec = 0};

// sd_notify waits while the manager's queue is full, for ever if nobody reads it; accounting must
// not. `at_most` {0, 0}: does not wait at all.
void NotifyWithin(const timeval& at_most, const std::string& message) {
  const char* const path = getenv("NOTIFY_SOCKET");
  sockaddr_un address{};
  if (path == nullptr || strlen(path) >= sizeof(address.sun_path)) return;
  const UniqueFd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return;
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path, strlen(path));
  if (path[0] == '@') address.sun_path[0] = '\0';  // An abstract name.
  const bool waits = at_most.tv_sec != 0 || at_most.tv_usec != 0;
  if (waits) setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &at_most, sizeof(at_most));
  // Best effort: a later message repeats it, or nobody listens.
  (void)sendto(fd.get(), message.data(), message.size(), MSG_NOSIGNAL | (waits ? 0 : MSG_DONTWAIT),
               reinterpret_cast<const sockaddr*>(&address),
               static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + strlen(path)));
}

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
  // By default systemd watches it, and lets go of a socket that reports an error: an
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
  // systemd's watchdog would stay active during the last writes, which may have to wait for a disk.
  NotifyWithin(kStoppingWait, "STOPPING=1\nWATCHDOG_USEC=0");
}

bool ServiceManager::AliveIsDue() const {
  return alive_period_ns_ != 0 && MonotonicNs() >= next_alive_ns_;
}

void ServiceManager::TellAlive() {
  if (!AliveIsDue()) return;
  next_alive_ns_ = MonotonicNs() + alive_period_ns_;
  NotifyWithin({}, "WATCHDOG=1");
}

void ServiceManager::TellStatus(const std::string& status) {
  if (status == last_status_) return;
  last_status_ = status;
  NotifyWithin({}, absl::StrCat("STATUS=", status));
}

}  // namespace ctacct
