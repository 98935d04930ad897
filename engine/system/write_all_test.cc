#include "engine/system/write_all.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <thread>

#include "engine/system/unique_fd.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

TEST(WriteAllTest, ContinuesShortWrites) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const UniqueFd in(ends[0]);
  UniqueFd out(ends[1]);
  const std::string bytes(1 << 20, 'x');  // Larger than a pipe.
  std::string got;
  std::thread reader([&] {
    char buffer[1000];
    for (ssize_t size; (size = read(in.get(), buffer, sizeof(buffer))) > 0;) {
      got.append(buffer, static_cast<size_t>(size));
    }
  });
  EXPECT_EQ(WriteAll(out.get(), bytes), 0);
  out = UniqueFd();
  reader.join();
  EXPECT_EQ(got, bytes);
}

TEST(WriteAllTest, WritesAtAnOffset) {
  const std::string path = testing::TempDir() + "/write_all";
  const UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  EXPECT_EQ(WriteAll(fd.get(), "0123456789"), 0);
  EXPECT_EQ(WriteAllAt(fd.get(), "abc", 4), 0);
  char text[11] = {};
  EXPECT_EQ(pread(fd.get(), text, 10, 0), 10);
  EXPECT_STREQ(text, "0123abc789");
}

TEST(WriteAllTest, ReturnsTheErrorNumber) {
  EXPECT_EQ(WriteAll(-1, "x"), EBADF);
  EXPECT_EQ(WriteAllAt(-1, "x", 0), EBADF);
  EXPECT_EQ(WriteAll(-1, ""), 0);
  const UniqueFd full(open("/dev/full", O_WRONLY | O_CLOEXEC));
  EXPECT_EQ(WriteAll(full.get(), "x"), ENOSPC);
}

}  // namespace
}  // namespace ctacct
