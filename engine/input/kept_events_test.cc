#include "engine/input/kept_events.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

EventSocket::Options Settings() {
  EventSocket::Options options;
  options.receive_buffer_bytes = 1 << 16;
  options.filter = {{BPF_RET | BPF_K, 0, 0, 0xffffffff}};
  return options;
}

TEST(KeptEventsNameTest, IsTheSameForTheSameSettingsOnly) {
  const std::string name = KeptEventsName(Settings(), 0, 2);
  EXPECT_EQ(KeptEventsName(Settings(), 0, 2), name);
  std::set<std::string> names = {name, KeptEventsName(Settings(), 1, 2),
                                 KeptEventsName(Settings(), 0, 1)};
  EventSocket::Options other = Settings();
  other.destroy_only = true;
  names.insert(KeptEventsName(other, 0, 2));
  other = Settings();
  ++other.receive_buffer_bytes;
  names.insert(KeptEventsName(other, 0, 2));
  for (const sock_filter& code :
       {sock_filter{BPF_RET | BPF_A, 0, 0, 0xffffffff},
        sock_filter{BPF_RET | BPF_K, 1, 0, 0xffffffff},
        sock_filter{BPF_RET | BPF_K, 0, 1, 0xffffffff}, sock_filter{BPF_RET | BPF_K, 0, 0, 1}}) {
    other = Settings();
    other.filter = {code};
    names.insert(KeptEventsName(other, 0, 2));
  }
  EXPECT_EQ(names.size(), 9u);
}

// On real sockets, in a network namespace of its own, with the test as the service manager.
class KeptEventsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (unshare(CLONE_NEWNET) != 0) {
      const char* const ci = getenv("CI");
      if (ci != nullptr && std::string(ci) == "true") FAIL() << "needs root";
      GTEST_SKIP() << "needs root: conntrack's events, in a network namespace of its own";
    }
    manager_fd_ = UniqueFd(socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    // An abstract name: it is of this network namespace, and gone with it.
    const std::string name = "@ctacct-kept-events-test";
    name.copy(address.sun_path, name.size());
    address.sun_path[0] = '\0';
    const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
    ASSERT_EQ(bind(manager_fd_.get(), reinterpret_cast<sockaddr*>(&address), bytes), 0);
    setenv("NOTIFY_SOCKET", name.c_str(), 1);
  }

  KeptEvents Open(std::vector<ServiceManager::Descriptor> handed_back, bool usable = true,
                  bool store = true) {
    log_.clear();
    told_.clear();
    absl::StatusOr<KeptEvents> events =
        OpenEventSockets(options_, std::move(handed_back), usable, store, manager_,
                         [this](const std::string& line) { log_ += line; });
    EXPECT_TRUE(events.ok()) << events.status();
    char message[4096];
    for (;;) {
      const ssize_t bytes = recv(manager_fd_.get(), message, sizeof(message), 0);
      if (bytes < 0) break;
      const std::string text(message, static_cast<size_t>(bytes));
      const size_t name = text.find("FDNAME=") + 7;
      told_.push_back(text.substr(0, text.find('=')) + " " +
                      text.substr(name, text.find('\n', name) - name));
    }
    return events.ok() ? *std::move(events) : KeptEvents();
  }
  static UniqueFd Copy(int fd) { return UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, 0)); }
  // As a service manager hands them back: the sockets of an engine that has ended.
  static std::vector<ServiceManager::Descriptor> Stored(const KeptEvents& events) {
    std::vector<ServiceManager::Descriptor> stored;
    for (size_t i = 0; i < events.sockets.size(); ++i) {
      stored.push_back({events.names[i], Copy(events.sockets[i]->fd())});
    }
    return stored;
  }

  std::vector<EventSocket::Options> options_{Settings(), Settings()};
  ServiceManager manager_;
  UniqueFd manager_fd_;
  std::string log_;
  std::vector<std::string> told_;  // Verb and name of each message to the service manager.
};

TEST_F(KeptEventsTest, NewOnesAreStored) {
  const KeptEvents events = Open({});
  EXPECT_FALSE(events.kept);
  ASSERT_EQ(events.sockets.size(), 2u);
  EXPECT_THAT(told_, ElementsAre("FDSTORE " + events.names[0], "FDSTORE " + events.names[1]));
  EXPECT_EQ(log_, "");
}

TEST_F(KeptEventsTest, TheSameSettingsKeepTheSockets) {
  KeptEvents before = Open({});
  before.sockets[1]->NoteDropsReported(42);  // Lives as long as the socket.
  const KeptEvents events = Open(Stored(before));
  EXPECT_TRUE(events.kept);
  ASSERT_EQ(events.sockets.size(), 2u);
  EXPECT_EQ(events.sockets[0]->DropsReported(), 0u);
  EXPECT_EQ(events.sockets[1]->DropsReported(), 42u);
  EXPECT_THAT(told_, IsEmpty());
  EXPECT_EQ(log_, "");
}

TEST_F(KeptEventsTest, WhatElseIsInTheStoreIsRemoved) {
  const KeptEvents before = Open({});
  std::vector<ServiceManager::Descriptor> stored = Stored(before);
  stored.push_back({"of-another-time", Copy(before.sockets[0]->fd())});
  const KeptEvents events = Open(std::move(stored));
  EXPECT_TRUE(events.kept);
  EXPECT_THAT(told_, ElementsAre("FDSTOREREMOVE of-another-time"));
}

TEST_F(KeptEventsTest, OneMissingOrUnfitOrUnusableMakesAllNew) {
  const KeptEvents before = Open({});
  std::vector<ServiceManager::Descriptor> stored = Stored(before);
  stored.pop_back();
  EXPECT_FALSE(Open(std::move(stored)).kept);
  EXPECT_THAT(log_, HasSubstr("other settings"));

  stored = Stored(before);
  stored[1].fd = UniqueFd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  EXPECT_FALSE(Open(std::move(stored)).kept);
  EXPECT_THAT(log_, HasSubstr("not a netfilter socket"));

  EXPECT_FALSE(Open(Stored(before), /*usable=*/false).kept);
  EXPECT_THAT(log_, HasSubstr("nf_conntrack_timestamp"));
  EXPECT_THAT(told_,
              ElementsAre("FDSTOREREMOVE " + before.names[0], "FDSTOREREMOVE " + before.names[1],
                          "FDSTORE " + before.names[0], "FDSTORE " + before.names[1]));
}

// They must not outlive a crash: removed at once, and stored by the caller before a clean end.
TEST_F(KeptEventsTest, WithoutStoreNothingStaysThere) {
  const KeptEvents before = Open({});
  const KeptEvents events = Open(Stored(before), true, /*store=*/false);
  EXPECT_TRUE(events.kept);
  EXPECT_THAT(told_,
              ElementsAre("FDSTOREREMOVE " + before.names[0], "FDSTOREREMOVE " + before.names[1]));
  EXPECT_FALSE(Open({}, true, /*store=*/false).kept);
  EXPECT_THAT(told_, IsEmpty());
}

}  // namespace
}  // namespace ctacct
