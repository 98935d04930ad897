// Base of tests that replay a capture through the real engine and look at the CSV rows that come
// out. Every output is held to what any output must be: see ExpectSoundOutput.
#ifndef CTACCT_TESTS_REPLAY_REPLAY_TEST_BASE_H_
#define CTACCT_TESTS_REPLAY_REPLAY_TEST_BASE_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "netlink/test_messages.h"
#include "tests/replay/script.h"
#include "tests/support/capture_builder.h"
#include "tests/support/files.h"
#include "tests/support/subprocess.h"

namespace ctacct {

using Lines = std::vector<std::string>;

// A replay takes less than a second; this is for an overloaded machine.
inline constexpr absl::Duration kReplayMax = absl::Seconds(20);

// The row of the interval that ends `seconds` after kEpoch: "tcp,10.1.0.1,10.2.0.1,443,4,3,..."
// after its time. The columns are packets, bytes (both: sent, received), connections closed, their
// time in milliseconds, and open connections with -track-open.
[[nodiscard]] std::string Line(int64_t seconds, const std::string& rest);

// The same of a TcpFlow() or UdpFlow() as it is: "4,3,400,300,1,1500" after their key.
[[nodiscard]] std::string TcpLine(int64_t seconds, const std::string& counters);
[[nodiscard]] std::string UdpLine(int64_t seconds, const std::string& counters);

[[nodiscard]] Lines SplitLines(const std::string& text);

// Rows may come in any order within an interval. Times are of one length: intervals stay in order.
[[nodiscard]] Lines Sorted(Lines lines);

// One CSV line as numbers.
struct Row {
  int64_t time = 0;
  std::string key;                   // "proto,src,dst,port"
  std::array<uint64_t, 7> fields{};  // As Line; open_connections 0 where the line has none.
};
// False if it is not a number that CSV may contain.
[[nodiscard]] bool ParseRow(const std::string& line, Row* row);

// What holds for every output: the shape of a line, intervals in order, one row for each key, no
// row of zeros, ends of intervals where they belong.
void ExpectSoundOutput(const Lines& lines, int64_t interval_seconds, bool in_order = true);

using Fields = std::array<uint64_t, 6>;

// Of all lines with a key: the fields' sums.
[[nodiscard]] std::map<std::string, Fields> Sums(const Lines& lines);

class ReplayTest : public testing::Test {
 protected:
  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  // Writes into the test's folder, and returns the path.
  std::string WriteFile(const std::string& name, const std::string& bytes) const;
  std::string MakeFolder(const std::string& name) const;
  // A FIFO that a test reads from without waiting.
  class Fifo;

  Finished Run(const std::string& program, Lines arguments,
               const SubprocessOptions& options = {}) const;
  Finished Engine(const Lines& arguments, const SubprocessOptions& options = {}) const {
    return Run("engine/engine", arguments, options);
  }
  Finished Spooldump(const Lines& arguments) const {
    return Run("engine/spool/spooldump", arguments);
  }
  // A shell command in which $engine is the engine.
  static Finished Shell(const std::string& command);

  // The rows on standard output of a replay that ends well, sorted; in 5 s intervals.
  Lines Replay(const std::string& capture, const Lines& flags = {}, bool in_order = true) const;
  Lines Replay(const Script& script, const Lines& flags = {}, bool in_order = true) const {
    return Replay(script.bytes(), flags, in_order);
  }

  // One clear line that contains `names`, and the exit status.
  static void ExpectError(const Finished& finished, int status, const std::string& names);

 private:
  const TestFolder temporary_{"replay"};

 protected:
  const std::string folder_ = temporary_.path();
};

// Reads what is there, and makes no engine wait.
class ReplayTest::Fifo {
 public:
  explicit Fifo(const std::string& path);
  ~Fifo();
  Fifo(const Fifo&) = delete;
  Fifo& operator=(const Fifo&) = delete;
  // All that the pipe holds.
  std::string Read() const;

 private:
  int reader_ = -1;
};

}  // namespace ctacct

#endif  // CTACCT_TESTS_REPLAY_REPLAY_TEST_BASE_H_
