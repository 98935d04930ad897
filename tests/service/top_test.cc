// top as people and scripts meet it: -once against spooldump's sums of the same files; the
// full-screen view in a real terminal emulator (tmux), as its screen shows it.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/traffic_row.h"
#include "engine/spool/spool_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/conditions.h"
#include "tests/support/files.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr int64_t kSecond = 1'000'000'000;
// Bytes, packets of both directions, connections; of CSV and of -once.
using Sums = std::array<uint64_t, 5>;

std::string TopPath() { return DataPath("engine/top/top"); }

class TopTest : public ::testing::Test {
 protected:
  TopTest() { std::filesystem::create_directory(spool()); }

  std::string spool() const { return folder_ + "/spool"; }

  void Replay(const std::string& output, const std::vector<std::string>& flags = {}) {
    const auto done = RunProcessOrError(
        Joined({{DataPath("engine/engine"), "-replay=" + DataPath("tests/captures/gateway.pcap"),
                 "-include-icmp", "-interval=5", "-src-group-mask=255.239.255.0",
                 "-dst-group-mask=255.239.255.0", "-output=" + output},
                flags}),
        kPatience);
    ASSERT_TRUE(done.ok()) << done.status();
  }

  static Finished Run(const std::vector<std::string>& flags) {
    const absl::StatusOr<Finished> done = RunProcess(Joined({{TopPath()}, flags}), kPatience);
    EXPECT_TRUE(done.ok()) << done.status();
    return done.ok() ? *done : Finished();
  }

  // Writes an interval as an engine does, one that ends at `end_s`.
  std::string WriteInterval(const std::string& gateway, uint64_t sequence, int64_t end_s,
                            uint64_t bytes) {
    TrafficRow row;
    row.time_ns = end_s * kSecond;
    row.protocol = 6;
    row.port = 443;
    row.src = {10, 1, 2, 3};
    row.dst = {10, 9, 8, 7};
    row.bytes_src = bytes;
    row.packets_src = 1;
    SpoolHeader header;
    header.engine_id.fill(static_cast<uint8_t>(gateway.back()));
    header.gateway = gateway;
    header.sequence = sequence;
    header.interval_end_ns = row.time_ns;
    header.interval_length_ns = 5 * kSecond;
    const absl::StatusOr<std::string> name = WriteSpoolFile(spool(), header, {row});
    EXPECT_TRUE(name.ok()) << name.status();
    return spool() + "/" + *name;
  }

  const TestFolder temporary_{"top"};  // tmux wants a short path for its socket.
  const std::string folder_ = temporary_.path();
};

// Lines of -once of one kind, as field by name.
std::vector<std::map<std::string, std::string>> LinesOf(const std::string& text,
                                                        const std::string& kind) {
  std::vector<std::map<std::string, std::string>> lines;
  std::vector<std::string> names;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<std::string> fields = absl::StrSplit(line, '\t');
    if (fields[0] == "#" + kind) names = fields;
    if (fields[0] != kind) continue;
    std::map<std::string, std::string> named;
    for (size_t i = 1; i < std::min(names.size(), fields.size()); ++i) named[names[i]] = fields[i];
    lines.push_back(named);
  }
  return lines;
}

Sums SumsOf(const std::map<std::string, std::string>& line) {
  Sums sums{};
  const char* const names[] = {"bytes_src", "bytes_dst", "packets_src", "packets_dst",
                               "connections"};
  for (size_t i = 0; i < sums.size(); ++i) {
    EXPECT_TRUE(absl::SimpleAtoi(line.at(names[i]), &sums[i])) << names[i];
  }
  return sums;
}

TEST_F(TopTest, OnceShowsWhatSpooldumpPrints) {
  Replay(spool(), {"-gateway=gw1", "-metrics-file=" + folder_ + "/engine.prom"});
  const std::vector<std::string> files = VisibleFilesIn(spool());
  ASSERT_GT(files.size(), 1u);
  const std::string newest = files.back();
  const auto csv = RunProcessOrError({DataPath("engine/spool/spooldump"), newest}, kPatience);
  ASSERT_TRUE(csv.ok()) << csv.status();
  // By the columns of the two ends, and by protocol and port.
  std::map<std::pair<std::string, std::string>, Sums> pairs;
  std::map<std::pair<std::string, std::string>, Sums> ports;
  std::map<std::string, Sums> origins;
  std::map<std::string, Sums> destinations;
  Sums total{};
  for (absl::string_view line : absl::StrSplit(*csv, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> f = absl::StrSplit(line, ',');
    const size_t columns[] = {7, 8, 5, 6, 9};
    for (size_t i = 0; i < total.size(); ++i) {
      uint64_t value = 0;
      ASSERT_TRUE(absl::SimpleAtoi(f[columns[i]], &value)) << line;
      for (Sums* const sums : {&total, &pairs[{f[2], f[3]}], &ports[{f[1], f[4]}], &origins[f[2]],
                               &destinations[f[3]]}) {
        (*sums)[i] += value;
      }
    }
  }
  ASSERT_GT(pairs.size(), 10u);

  const Finished once =
      Run({"-once", "-spool=" + spool(), "-limit=0", "-metrics-file=" + folder_ + "/engine.prom"});
  ASSERT_TRUE(once.exit.ok()) << once.err;
  EXPECT_EQ(once.err, "");
  const auto interval = LinesOf(once.out, "interval");
  ASSERT_EQ(interval.size(), 1u) << once.out;
  EXPECT_EQ(interval[0].at("gateway"), "gw1");
  EXPECT_EQ(interval[0].at("seconds"), "5");
  EXPECT_EQ(interval[0].at("completeness"), "complete");
  EXPECT_EQ(SumsOf(LinesOf(once.out, "total").at(0)), total);
  // Rates are over what was covered, which the field has to the millisecond.
  double covered = 0;
  double rate = 0;
  ASSERT_TRUE(absl::SimpleAtod(interval[0].at("covered_seconds"), &covered));
  ASSERT_TRUE(absl::SimpleAtod(LinesOf(once.out, "total").at(0).at("bits_src_per_s"), &rate));
  EXPECT_NEAR(rate * covered, static_cast<double>(total[0] * 8), rate * 0.001);
  const auto told_pairs = LinesOf(once.out, "pair");
  EXPECT_EQ(told_pairs.size(), pairs.size());
  for (const auto& line : told_pairs) {
    EXPECT_EQ(SumsOf(line), (pairs[{line.at("src"), line.at("dst")}])) << line.at("src");
  }
  const auto told_ports = LinesOf(once.out, "port");
  EXPECT_EQ(told_ports.size(), ports.size());
  for (const auto& line : told_ports) {
    EXPECT_EQ(SumsOf(line), (ports[{line.at("proto"), line.at("port")}])) << line.at("port");
  }
  const auto told_origins = LinesOf(once.out, "origin");
  EXPECT_EQ(told_origins.size(), origins.size());
  for (const auto& line : told_origins) EXPECT_EQ(SumsOf(line), origins[line.at("src")]);
  const auto told_destinations = LinesOf(once.out, "destination");
  EXPECT_EQ(told_destinations.size(), destinations.size());
  for (const auto& line : told_destinations) EXPECT_EQ(SumsOf(line), destinations[line.at("dst")]);
  EXPECT_THAT(once.out, HasSubstr("\nhealth\tctacct_intervals_written_total\t5\n"));
  // The capture is of another day.
  EXPECT_THAT(once.out, HasSubstr("\nproblem\tgw1: nothing since "));

  // The same traffic by an engine that writes CSV.
  std::filesystem::create_directory(folder_ + "/csv");
  Replay(folder_ + "/csv", {"-output-format=csv"});
  const Finished by_csv =
      Run({"-once", "-spool=" + folder_ + "/csv", "-interval=5", "-by=pairs", "-limit=0"});
  ASSERT_TRUE(by_csv.exit.ok()) << by_csv.err;
  // CSV does not say what was covered: its rates are over the interval.
  EXPECT_EQ(SumsOf(LinesOf(by_csv.out, "total").at(0)), total);
  EXPECT_EQ(LinesOf(by_csv.out, "total").at(0).at("bits_src_per_s"),
            absl::StrCat(total[0] * 8 / 5, ".", total[0] * 8 % 5 * 2, "00"));
  EXPECT_EQ(LinesOf(by_csv.out, "pair").size(), told_pairs.size());
  EXPECT_TRUE(LinesOf(by_csv.out, "port").empty());
}

TEST_F(TopTest, OnceTakesLimitOrderFilterAndGateway) {
  Replay(spool(), {"-gateway=gw1"});
  Replay(spool(), {"-gateway=gw2"});
  const Finished both =
      Run({"-once", "-spool", spool(), "-by=origins", "-sort=packets", "-limit=3"});
  ASSERT_TRUE(both.exit.ok()) << both.err;
  EXPECT_EQ(LinesOf(both.out, "interval").size(), 2u);
  const auto origins = LinesOf(both.out, "origin");
  ASSERT_EQ(origins.size(), 3u);
  const auto packets = [](const std::map<std::string, std::string>& line) {
    const Sums sums = SumsOf(line);
    return sums[2] + sums[3];
  };
  EXPECT_GE(packets(origins[0]), packets(origins[1]));
  EXPECT_GE(packets(origins[1]), packets(origins[2]));
  const Finished one = Run({"-once", "-spool", spool(), "-by=origins", "-gateway=gw2"});
  const auto total = [](const Finished& run) { return SumsOf(LinesOf(run.out, "total").at(0)); };
  EXPECT_EQ(total(both)[0], 2 * total(one)[0]);
  const std::string address = origins[0].at("src");
  const Finished filtered = Run({"-once", "-spool", spool(), "-by=origins", "-filter", address});
  EXPECT_EQ(total(filtered), SumsOf(origins[0]));
}

TEST_F(TopTest, OnceWaitsForAFileThatIsGoneAtOnce) {
  auto top = Subprocess::Start({TopPath(), "-once", "-spool=" + spool(), "-timeout=50"});
  ASSERT_TRUE(top.ok()) << top.status();
  ASSERT_TRUE(
      (*top)->WaitForOutput("top: waiting for an interval to end within 50 s", kPatience).ok());
  // As an importer does it, but faster than any: the one that top catches is the one that counts.
  for (uint64_t sequence = 1; (*top)->Running() && sequence < 2'000; ++sequence) {
    const std::string path = WriteInterval("gw1", sequence, 5 * static_cast<int64_t>(sequence), 7);
    absl::SleepFor(absl::Milliseconds(3));
    std::filesystem::remove(path);
  }
  const auto exit = (*top)->Wait(kPatience);
  ASSERT_TRUE(exit.ok() && exit->ok()) << (*top)->Stderr();
  EXPECT_THAT((*top)->Stdout(),
              HasSubstr("\npair\t10.1.2.3\t10.9.8.7\t7\t0\t1\t0\t0\t-\t-\t11.200\t"));
}

TEST_F(TopTest, OnceNeverHangsForEver) {
  const Finished none = Run({"-once", "-spool=" + spool(), "-timeout=1"});
  EXPECT_EQ(none.exit.code, 1);
  EXPECT_EQ(none.out, "");
  EXPECT_EQ(none.err,
            absl::StrCat("top: waiting for an interval to end within 1 s\n"
                         "top: no interval with traffic ended in ",
                         spool(), " within 1 s: does an engine write there? (-timeout)\n"));
  WriteFile(spool() + "/bad.spool", "rubbish, and longer than a header is");
  EXPECT_THAT(Run({"-once", "-spool=" + spool(), "-timeout=1"}).err,
              HasSubstr("(-timeout); 1 file passed over; the last: " + spool() + "/bad.spool: "));
}

TEST_F(TopTest, ErrorsAreOneLine) {
  for (const auto& [flag, why] :
       std::map<std::string, std::string>{{"-by=pair", "bad value 'pair'"},
                                          {"-sort=size", "bad value 'size'"},
                                          {"-timezone=Mars", "bad value 'Mars'"},
                                          {"-filter=example.com", "bad value 'example.com'"},
                                          {"-interval=0", "bad value '0'"},
                                          {"-limit=-1", "bad value '-1'"},
                                          {"-timeout=x", "bad value 'x'"},
                                          {"-spool=", "must name a folder"},
                                          {"-gateway=a\tb", "flag -gateway"},
                                          {"-nonsense", "unknown flag '-nonsense'"},
                                          {"argument", "unexpected argument 'argument'"}}) {
    const Finished run = Run({flag});
    EXPECT_EQ(run.exit.code, 2) << flag;
    EXPECT_THAT(run.err, HasSubstr(why));
    EXPECT_EQ(CountLines(run.err), 1u) << run.err;
  }
  for (const std::vector<std::string>& flags :
       {std::vector<std::string>{"-once", "-spool=" + folder_ + "/none"},
        std::vector<std::string>{"-spool=" + spool()}}) {  // Output is no terminal.
    const Finished run = Run(flags);
    EXPECT_EQ(run.exit.code, 1);
    EXPECT_EQ(CountLines(run.err), 1u) << run.err;
  }
  EXPECT_THAT(Run({"-spool=" + spool()}).err, HasSubstr("-once prints plain text"));
  EXPECT_THAT(Run({"--help"}).out, HasSubstr("usage: top"));
}

// A shell in a terminal emulator of its own.
class TopScreenTest : public TopTest {
 protected:
  void SetUp() override {
    RequireProgramOrSkip("tmux", "-V", "tmux");
    if (IsSkipped() || HasFatalFailure()) return;
    // In the foreground, so that it ends with the test, whatever happens.
    auto server = Subprocess::Start(TmuxLine({"-D"}), Options());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    absl::Status up;
    ASSERT_TRUE(Eventually([&] {
      up = Tmux({"new-session", "-d", "-x", "80", "-y", "24", "-s", "t", "sh"}).status();
      return up.ok();
    })) << up;
    Type({"PS1='ready> '; clear", "Enter"});
    WaitFor("ready>");
  }

  void TearDown() override {
    if (server_ == nullptr) return;
    // Ends all that runs in it, by hanging up.
    (void)Tmux({"kill-server"});
    (void)server_->Wait(absl::Seconds(10));
  }

  SubprocessOptions Options() const {
    return {.environment = {{"TMUX_TMPDIR", folder_},
                            {"TMUX", ""},
                            {"TERM", "screen"},
                            {"TZ", "UTC"},
                            {"SHELL", "/bin/sh"}}};
  }
  static std::vector<std::string> TmuxLine(const std::vector<std::string>& arguments) {
    return Joined({{"tmux", "-f", "/dev/null", "-L", "top"}, arguments});
  }
  absl::StatusOr<std::string> Tmux(const std::vector<std::string>& arguments) const {
    return RunProcessOrError(TmuxLine(arguments), kPatience, Options());
  }
  void Type(const std::vector<std::string>& keys) const {
    const auto typed = Tmux(Joined({{"send-keys", "-t", "t"}, keys}));
    ASSERT_TRUE(typed.ok()) << typed.status();
  }
  std::string Screen() const {
    const auto screen = Tmux({"capture-pane", "-p", "-t", "t"});
    EXPECT_TRUE(screen.ok()) << screen.status();
    return screen.ok() ? *screen : "";
  }
  void WaitFor(const std::string& text, bool there = true) const {
    ASSERT_TRUE(Eventually([&] { return absl::StrContains(Screen(), text) == there; }))
        << "'" << text << "' is " << (there ? "not" : "still") << " there:\n"
        << Screen();
  }
  // Twice, with the clock in its first line: whatever there was to read before was read.
  void WaitForRedraw() const {
    const auto top_line = [&] { return Screen().substr(0, 80); };
    for (int i = 0; i < 2; ++i) {
      const std::string before = top_line();
      ASSERT_TRUE(Eventually([&] { return top_line() != before; })) << Screen();
    }
  }
  void StartTop(const std::string& more = "") const {
    Type({absl::StrCat("clear; stty -a >", folder_, "/before; ", TopPath(), " -spool=", spool(),
                       " ", more, "; echo ended $?"),
          "Enter"});
    WaitFor("ctacct-top");
  }
  // The shell has its terminal back as it was.
  void ExpectRestored(const std::string& ending) const {
    ASSERT_NO_FATAL_FAILURE(WaitFor(ending));
    EXPECT_THAT(Screen(), Not(HasSubstr("ctacct-top ")));
    const auto flags =
        Tmux({"display-message", "-p", "-t", "t", "#{alternate_on} #{cursor_flag} #{keypad_flag}"});
    ASSERT_TRUE(flags.ok()) << flags.status();
    EXPECT_EQ(*flags, "0 1 0\n");
    Type(
        {absl::StrCat("clear; stty -a | cmp - ", folder_, "/before && echo as be''fore"), "Enter"});
    WaitFor("as before");
  }
  // Of the program that runs in the foreground of the terminal.
  pid_t TopPid() const {
    const auto tty = Tmux({"display-message", "-p", "-t", "t", "#{pane_tty}"});
    EXPECT_TRUE(tty.ok()) << tty.status();
    const auto list = RunProcessOrError(
        {"ps", "-t", std::string(absl::StripSuffix(absl::StripPrefix(*tty, "/dev/"), "\n")), "-o",
         "pid=,comm="},
        kPatience);
    EXPECT_TRUE(list.ok()) << list.status();
    for (absl::string_view line : absl::StrSplit(*list, '\n')) {
      if (!absl::EndsWith(line, " top")) continue;
      int pid = 0;
      EXPECT_TRUE(absl::SimpleAtoi(
          std::vector<std::string>(absl::StrSplit(line, ' ', absl::SkipEmpty()))[0], &pid));
      return pid;
    }
    return -1;
  }

  std::unique_ptr<Subprocess> server_;
};

TEST_F(TopScreenTest, ShowsEveryViewAndQuits) {
  Replay(spool(), {"-gateway=gw1", "-metrics-file=" + folder_ + "/engine.prom"});
  const auto csv = Run({"-once", "-spool=" + spool(), "-limit=1"});
  const std::string busiest = LinesOf(csv.out, "pair").at(0).at("src");
  const std::string destination = LinesOf(csv.out, "destination").at(0).at("dst");
  ASSERT_NO_FATAL_FAILURE(StartTop("-metrics-file=" + folder_ + "/engine.prom"));
  std::vector<std::string> lines = absl::StrSplit(Screen(), '\n');
  EXPECT_THAT(lines[0], StartsWith("ctacct-top  gw1  3.3 of 5 s until "));
  ASSERT_NO_FATAL_FAILURE(WaitFor(" DESTINATION "));
  EXPECT_THAT(Screen(), HasSubstr("\n" + busiest + "/255."));
  Type({"Tab"});
  ASSERT_NO_FATAL_FAILURE(WaitFor(" DESTINATION ", false));
  Type({"3"});
  ASSERT_NO_FATAL_FAILURE(WaitFor("\nDESTINATION  "));
  EXPECT_THAT(Screen(), HasSubstr("\n" + destination + "/255."));
  Type({"Right"});
  ASSERT_NO_FATAL_FAILURE(WaitFor("\nPORT "));
  EXPECT_THAT(Screen(), HasSubstr("\ntcp/"));
  Type({"5"});
  ASSERT_NO_FATAL_FAILURE(WaitFor(" PORT "));
  Type({"6"});
  ASSERT_NO_FATAL_FAILURE(WaitFor("\nstart_timestamp_seconds "));
  Type({"End"});
  Type({"Tab", "?"});
  ASSERT_NO_FATAL_FAILURE(WaitFor("next gateway, or all of them"));
  Type({"x", "r"});
  ASSERT_NO_FATAL_FAILURE(WaitFor("in reverse order"));
  Type({"r", "/", "no"});
  ASSERT_NO_FATAL_FAILURE(WaitFor("in network: no_"));
  Type({"Enter"});
  ASSERT_NO_FATAL_FAILURE(WaitFor("neither the beginning"));
  Type({"BSpace", "BSpace", busiest, "Enter"});
  ASSERT_NO_FATAL_FAILURE(WaitFor("only addresses that begin with " + busiest));
  EXPECT_THAT(Screen(), HasSubstr("\n" + busiest + "/255."));
  Type({"/", "Enter"});
  ASSERT_NO_FATAL_FAILURE(WaitFor("only addresses", false));
  Type({"q"});
  ExpectRestored("ended 0");
}

TEST_F(TopScreenTest, FollowsFilesThatAreGoneAtOnceAndPauses) {
  ASSERT_NO_FATAL_FAILURE(StartTop("-interval=5"));
  ASSERT_NO_FATAL_FAILURE(WaitFor("An engine with -interval=5 ends one at "));
  int64_t end_s = absl::ToUnixSeconds(absl::Now()) / 5 * 5;
  uint64_t sequence = 0;
  // Published, and a moment later deleted; so often until one of them is shown, if any ever is.
  const auto write_until = [&](uint64_t bytes, const std::string& text) {
    const absl::Time deadline = absl::Now() + kPatience;
    do {
      ASSERT_LT(absl::Now(), deadline) << Screen();
      const std::string path = WriteInterval("gw1", ++sequence, end_s, bytes);
      absl::SleepFor(absl::Milliseconds(5));
      std::filesystem::remove(path);
      end_s += 5;
    } while (!absl::StrContains(Screen(), text));
  };
  ASSERT_NO_FATAL_FAILURE(write_until(125'000, "10.1.2.3        10.9.8.7           200k"));
  Type({"p"});
  ASSERT_NO_FATAL_FAILURE(WaitFor("PAUSED"));
  std::filesystem::remove(WriteInterval("gw1", ++sequence, end_s, 250'000));
  const std::string kept = WriteInterval("gw1", ++sequence, end_s + 5, 375'000);
  ASSERT_NO_FATAL_FAILURE(WaitForRedraw());
  EXPECT_THAT(Screen(), HasSubstr(" 200k "));
  Type({"p"});
  ASSERT_NO_FATAL_FAILURE(WaitFor(" 600k "));
  std::filesystem::remove(kept);

  // Another gateway comes, and each can be looked at alone.
  WriteInterval("gw2", 1, end_s + 5, 125'000);
  ASSERT_NO_FATAL_FAILURE(WaitFor("ctacct-top  2 gateways "));
  EXPECT_THAT(Screen(), HasSubstr(" 800k "));
  Type({"g", "g"});
  ASSERT_NO_FATAL_FAILURE(WaitFor("ctacct-top  gw2 "));
  EXPECT_THAT(Screen(), HasSubstr(" 200k "));
  WriteFile(spool() + "/bad.spool", "rubbish, and longer than a header is");
  ASSERT_NO_FATAL_FAILURE(WaitFor("! 1 file passed over"));
  Type({"C-c"});
  ExpectRestored("ended 0");
}

TEST_F(TopScreenTest, TakesOnTheTerminalsSize) {
  Replay(spool(), {"-gateway=gw1"});
  ASSERT_NO_FATAL_FAILURE(StartTop());
  ASSERT_NO_FATAL_FAILURE(WaitFor("q quit"));
  EXPECT_THAT(Screen(), Not(HasSubstr("bytes >")));
  ASSERT_TRUE(Tmux({"resize-window", "-t", "t", "-x", "200", "-y", "50"}).ok());
  ASSERT_NO_FATAL_FAILURE(WaitFor("bytes >"));
  std::vector<std::string> lines = absl::StrSplit(Screen(), '\n');
  EXPECT_THAT(lines.at(49), HasSubstr("q quit"));
  ASSERT_TRUE(Tmux({"resize-window", "-t", "t", "-x", "30", "-y", "5"}).ok());
  ASSERT_NO_FATAL_FAILURE(WaitFor("of 5 s u~\nbit/s"));
  lines = absl::StrSplit(Screen(), '\n');
  EXPECT_THAT(lines.at(0), StartsWith("ctacct-top  gw1"));
  EXPECT_THAT(lines.at(4), StartsWith("Tab view"));
  ASSERT_TRUE(Tmux({"resize-window", "-t", "t", "-x", "80", "-y", "24"}).ok());
  ASSERT_NO_FATAL_FAILURE(WaitFor("q quit"));
  Type({"q"});
  ASSERT_NO_FATAL_FAILURE(WaitFor("ended 0"));
}

TEST_F(TopScreenTest, EverySignalGivesTheTerminalBack) {
  WriteInterval("gw1", 1, 5, 1);
  for (const auto& [signal_number, ending] : std::map<int, std::string>{{SIGTERM, "ended 0"},
                                                                        {SIGHUP, "ended 0"},
                                                                        {SIGQUIT, "ended 0"},
                                                                        {SIGSEGV, "ended 139"},
                                                                        {SIGABRT, "ended 134"}}) {
    SCOPED_TRACE(signal_number);
    ASSERT_NO_FATAL_FAILURE(StartTop());
    ASSERT_NO_FATAL_FAILURE(WaitFor("q quit"));
    const pid_t pid = TopPid();
    ASSERT_GT(pid, 0);
    ASSERT_EQ(kill(pid, signal_number), 0);
    ASSERT_NO_FATAL_FAILURE(ExpectRestored(ending));
  }
}

TEST_F(TopScreenTest, ATerminalThatCannotDoItIsOneLine) {
  for (const std::string term : {"dumb", "no-such-terminal", ""}) {
    Type({absl::StrCat("clear; TERM='", term, "' ", TopPath(), " -spool=", spool(),
                       "; echo \"$? of '", term, "'\""),
          "Enter"});
    ASSERT_NO_FATAL_FAILURE(WaitFor(absl::StrCat("\n1 of '", term, "'")));
    EXPECT_THAT(Screen(), HasSubstr("; -once p"));  // The line is longer than the screen.
  }
}

}  // namespace
}  // namespace ctacct
