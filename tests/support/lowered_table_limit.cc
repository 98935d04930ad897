#include "tests/support/lowered_table_limit.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace ctacct {
namespace {

constexpr char kMaxPath[] = "/proc/sys/net/netfilter/nf_conntrack_max";

}  // namespace

LoweredTableLimit::LoweredTableLimit(uint64_t flows) {
  std::string old;
  std::ifstream(kMaxPath) >> old;
  int ends[2];
  EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
  alive_ = UniqueFd(ends[1]);
  keeper_ = fork();
  if (keeper_ == 0) {
    // Not of the test's group, or it would go with it.
    setsid();
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    close(ends[1]);
    char byte = 0;
    [[maybe_unused]] ssize_t ignored = read(ends[0], &byte, 1);
    const int fd = open(kMaxPath, O_WRONLY | O_CLOEXEC);
    ignored = write(fd, old.data(), old.size());
    _exit(0);
  }
  close(ends[0]);
  std::ofstream(kMaxPath) << flows << std::endl;
}

LoweredTableLimit::~LoweredTableLimit() {
  alive_ = UniqueFd();
  waitpid(keeper_, nullptr, 0);
}

}  // namespace ctacct
