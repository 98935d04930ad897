#include "tests/replay/replay_test_base.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <regex>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace ctacct {
namespace {

// Absolute, since programs run in the test's folder.
std::string Program(const std::string& name) {
  return std::filesystem::absolute(DataPath(name)).string();
}

}  // namespace

std::string Line(int64_t seconds, const std::string& rest) {
  return absl::StrCat(At(seconds * 1000), ",", rest);
}

std::string TcpLine(int64_t seconds, const std::string& counters) {
  return Line(seconds, "tcp,10.1.0.1,10.2.0.1,443," + counters);
}

std::string UdpLine(int64_t seconds, const std::string& counters) {
  return Line(seconds, "udp,10.1.0.1,10.2.0.1,443," + counters);
}

Lines SplitLines(const std::string& text) {
  Lines lines = absl::StrSplit(text, '\n');
  EXPECT_EQ(lines.back(), "") << "the last line has no end: " << lines.back();
  lines.pop_back();
  return lines;
}

Lines Sorted(Lines lines) {
  std::sort(lines.begin(), lines.end());
  return lines;
}

bool ParseRow(const std::string& line, Row* row) {
  static const std::regex* const kLine = new std::regex(
      "([1-9][0-9]*),([a-z0-9-]+,[0-9a-f.:]+,[0-9a-f.:]+,(?:-1|0|[1-9][0-9]{0,4}))((?:,(?:0|[1-9][0-9]*))"
      "{6,7})");
  std::smatch match;
  if (!std::regex_match(line, match, *kLine)) return false;
  const Lines numbers = absl::StrSplit(match[3].str().substr(1), ',');
  bool ok = absl::SimpleAtoi(match[1].str(), &row->time);
  row->key = match[2].str();
  for (size_t i = 0; i < numbers.size(); ++i) {
    ok = ok && absl::SimpleAtoi(numbers[i], &row->fields[i]);
  }
  return ok;
}

void ExpectSoundOutput(const Lines& lines, int64_t interval_seconds, bool in_order) {
  std::set<std::pair<int64_t, std::string>> seen;
  int64_t last = 0;
  for (const std::string& line : lines) {
    Row row;
    ASSERT_TRUE(ParseRow(line, &row)) << line;
    EXPECT_EQ(row.time % (interval_seconds * kSecond), 0) << line;
    EXPECT_TRUE(!in_order || row.time >= last) << "an earlier interval after a later one: " << line;
    last = row.time;
    EXPECT_TRUE(seen.emplace(row.time, row.key).second) << "a second row of the key: " << line;
    EXPECT_THAT(row.fields, testing::Contains(testing::Ne(0u))) << "nothing in it: " << line;
  }
}

std::map<std::string, Fields> Sums(const Lines& lines) {
  std::map<std::string, Fields> sums;
  for (const std::string& line : lines) {
    Row row;
    EXPECT_TRUE(ParseRow(line, &row)) << "not a row: " << line;
    auto& sum = sums[row.key];
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += row.fields[i];
  }
  return sums;
}

std::string ReplayTest::WriteFile(const std::string& name, const std::string& bytes) const {
  ctacct::WriteFile(Path(name), bytes);
  return Path(name);
}

std::string ReplayTest::MakeFolder(const std::string& name) const {
  EXPECT_EQ(mkdir(Path(name).c_str(), 0700), 0) << Path(name);
  return Path(name);
}

Finished ReplayTest::Run(const std::string& program, Lines arguments,
                         const SubprocessOptions& options) const {
  arguments.insert(arguments.begin(), Program(program));
  SubprocessOptions in_folder = options;
  in_folder.working_directory = folder_;
  auto finished = RunProcess(arguments, kReplayMax, in_folder);
  EXPECT_TRUE(finished.ok()) << absl::StrJoin(arguments, " ") << ": " << finished.status();
  return finished.ok() ? *std::move(finished) : Finished();
}

Finished ReplayTest::Shell(const std::string& command) {
  auto finished =
      RunProcess({"sh", "-c", "engine=" + Program("engine/engine") + "; " + command}, kReplayMax);
  EXPECT_TRUE(finished.ok()) << finished.status();
  return finished.ok() ? *std::move(finished) : Finished();
}

Lines ReplayTest::Replay(const std::string& capture, const Lines& flags, bool in_order) const {
  const Finished finished =
      Engine(Joined({{"--interval=5", "--replay=" + WriteFile("capture.pcap", capture)}, flags}));
  EXPECT_EQ(finished.exit.ToString(), "exit status 0") << finished.err;
  const Lines lines = SplitLines(finished.out);
  ExpectSoundOutput(lines, 5, in_order);
  return Sorted(lines);
}

void ReplayTest::ExpectError(const Finished& finished, int status, const std::string& names) {
  EXPECT_EQ(finished.exit.ToString(), absl::StrCat("exit status ", status)) << finished.err;
  EXPECT_EQ(CountLines(finished.err), 1u) << finished.err;
  EXPECT_TRUE(finished.err.ends_with('\n')) << finished.err;
  EXPECT_THAT(finished.err, testing::HasSubstr(names));
  // What an operator's terminal or journal would take for something else.
  for (const char c : finished.err) {
    EXPECT_TRUE(c == '\n' || static_cast<unsigned char>(c) >= 0x20) << "control character";
  }
}

ReplayTest::Fifo::Fifo(const std::string& path) {
  EXPECT_EQ(mkfifo(path.c_str(), 0600), 0) << path;
  reader_ = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  EXPECT_GE(reader_, 0) << path;
}

ReplayTest::Fifo::~Fifo() { close(reader_); }

std::string ReplayTest::Fifo::Read() const {
  std::string text;
  std::string block(65536, '\0');
  for (ssize_t n; (n = read(reader_, block.data(), block.size())) > 0;) {
    text.append(block, 0, static_cast<size_t>(n));
  }
  return text;
}

}  // namespace ctacct
