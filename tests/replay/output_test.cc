// Where rows go: spool files, CSV files, FIFO, standard output.
#include <filesystem>
#include <regex>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/replay/replay_test_base.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAreArray;

// All files of a folder, one after the other.
std::string FolderText(const std::string& folder) {
  std::string text;
  for (const std::string& name : NamesIn(folder)) text += ReadFile(folder + "/" + name);
  return text;
}

// The capture of README.md's example line.
Script ContractExample() {
  Script script;
  Flow closing = TcpFlow({.src = "10.48.251.17", .dst = "10.32.250.80", .id = 1});
  closing.start_ns = At(2000 - 65'021);
  script.Dump(1000, {script.Entry(closing, {100, 10'000}, {100, 10'000})});
  std::vector<TestMessage> open;
  for (uint32_t i = 0; i < 3; ++i) {
    Flow flow =
        TcpFlow({.src = absl::StrCat("10.32.251.", i + 1), .dst = "10.32.250.80", .id = i + 2});
    script.New(1500, flow);
    open.push_back(script.Entry(flow, {1, 40}, {0, 0}));
  }
  script.Destroy(2000, closing, {113, 13'100}, {113, 11'884});
  // Outside the networks, and excluded: nothing of it may appear.
  Flow outside = TcpFlow({.src = "10.64.0.1", .dst = "10.32.250.80", .id = 7});
  Flow excluded = TcpFlow({.src = "10.32.251.9", .dst = "10.32.250.1", .id = 8});
  for (Flow* flow : {&outside, &excluded}) {
    script.New(2000, *flow);
    script.Destroy(2500, *flow, {1, 40}, {0, 0});
  }
  script.Dump(5010, open);
  // The three end after: the capture's last interval has something to say of them.
  for (TestMessage message : open) {
    message.kind = TestMessage::Kind::kDestroy;
    message.stop_ns = At(6500);
    script.Add(6500, message);
  }
  return script;
}

TEST_F(ReplayTest, TheGoToolsCommandLine) {
  const std::string capture = WriteFile("capture.pcap", ContractExample().bytes());
  const std::string fifo = Path("x");
  const Fifo reader(fifo);
  const Finished finished =
      Engine({"-src=10.32.0.0/11", "-src-group-mask=255.239.255.0", "-dst=10.32.0.0/11",
              "-dst-group-mask=255.239.255.0", "-exclude-ip=10.32.250.1", "-pipe=" + fifo,
              "-track-open", "-interval=15", "-replay=" + capture});
  EXPECT_EQ(finished.exit.ToString(), "exit status 0") << finished.err;
  EXPECT_EQ(finished.out, "");  // Only to the pipe.
  EXPECT_EQ(reader.Read(),
            "1600000005000000000,tcp,10.32.251.0,10.32.250.0,443,16,13,3220,1884,1,65021,3\n"
            "1600000020000000000,tcp,10.32.251.0,10.32.250.0,443,0,0,0,0,3,15000,0\n");
}

TEST_F(ReplayTest, SpoolFolder) {
  const Script script = Mixture();
  for (const Lines& flags : {Lines{}, Lines{"--track-open"}}) {
    const Lines expected = Replay(script, flags);
    const std::string output = MakeFolder(absl::StrCat("spool", flags.size()));
    EXPECT_THAT(Replay(script, Joined({flags, {"--output=" + output}})), IsEmpty());
    const Lines files = VisibleFilesIn(output);
    EXPECT_GE(files.size(), 4u);  // One for each interval with rows.
    const Finished dumped = Spooldump(files);
    EXPECT_EQ(dumped.exit.ToString(), "exit status 0") << dumped.err;
    const Lines lines = SplitLines(dumped.out);
    EXPECT_THAT(lines, UnorderedElementsAreArray(expected));
    ExpectSoundOutput(lines, 5);
  }
}

TEST_F(ReplayTest, SpooldumpOfWhatIsNotASpoolFile) {
  ExpectError(Spooldump({WriteFile("text", "not a spool file\n")}), 1, Path("text"));
  ExpectError(Spooldump({WriteFile("empty", "")}), 1, Path("empty"));
  ExpectError(Spooldump({Path("absent")}), 1, Path("absent"));
  ExpectError(Spooldump({folder_}), 1, folder_);
  ExpectError(Spooldump({"--bogus"}), 2, "bogus");
  const Finished none = Spooldump({});
  ExpectError(none, 2, "");
}

TEST_F(ReplayTest, SpooldumpFindsAnyFlippedBit) {  // Faults 8 and 9
  Script script;
  script.Life(1000, 2000, UdpFlow(), {1, 100});
  const std::string output = MakeFolder("spool");
  Replay(script, {"--output=" + output});
  const Lines names = VisibleNamesIn(output);
  ASSERT_THAT(names, SizeIs(1));
  const std::string& name = names[0];
  const std::string good = ReadFile(output + "/" + name);
  ASSERT_EQ(Spooldump({output + "/" + name}).out, UdpLine(5, "1,0,100,0,0,0\n"));
  for (size_t i = 0; i < good.size(); i += good.size() / 40 + 1) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << (i % 8)));
    SCOPED_TRACE(absl::StrCat("bit of byte ", i, " of ", good.size()));
    ExpectError(Spooldump({WriteFile(name, bad)}), 1, Path(name));
    ExpectError(Spooldump({WriteFile(name, good.substr(0, i))}), 1, Path(name));
  }
}

// Also intervals without traffic: a missing file means that no engine ran.
TEST_F(ReplayTest, EveryIntervalHasASpoolFileAndOnlyRowsHaveACsvFile) {
  Script script(Stamps::kNone);
  Flow first = UdpFlow({.src_port = 1, .id = 1});
  Flow second = UdpFlow({.src_port = 2, .id = 2});
  script.Life(1000, 2000, first, {1, 100});
  script.Life(31'000, 32'000, second, {2, 200});
  const std::string spool = MakeFolder("spool");
  Replay(script, {"--output=" + spool, "--src-group-mask=/24"});
  const Lines names = VisibleNamesIn(spool);
  ASSERT_THAT(names, SizeIs(7));
  for (size_t i = 0; i < names.size(); ++i) {
    // Sequences have no gaps, so a file that was lost would be missed.
    EXPECT_THAT(names[i], HasSubstr(absl::StrCat("-000000000", i + 1, ".spool")));
    const Finished dump = Spooldump({spool + "/" + names[i]});
    EXPECT_TRUE(dump.exit.ok()) << dump.err;
    EXPECT_EQ(CountLines(dump.out), i == 0 || i == 6 ? 1u : 0u) << i;
    // The first begins and the last ends within its interval.
    EXPECT_EQ(dump.err.find("covers") != std::string::npos, i == 0 || i == 6) << dump.err;
  }
  const std::string csv = MakeFolder("csv");
  Replay(script, {"--output=" + csv, "--output-format=csv"});
  EXPECT_THAT(VisibleNamesIn(csv), SizeIs(2));
}

TEST_F(ReplayTest, CsvFolder) {
  const Script script = Mixture();
  const Lines expected = Replay(script, {"--track-open"});
  const std::string output = MakeFolder("csv");
  EXPECT_THAT(Replay(script, {"--track-open", "--output=" + output, "--output-format=csv"}),
              IsEmpty());
  Lines all;
  for (const std::string& name : VisibleNamesIn(output)) {
    static const std::regex* const kName =
        new std::regex("traffic_2020-09-1[34]T[0-9]{2}_[0-9]{2}_[0-9]{2}\\.csv");
    EXPECT_TRUE(std::regex_match(name, *kName)) << name;
    const Lines lines = SplitLines(ReadFile(output + "/" + name));
    EXPECT_THAT(lines, testing::Not(IsEmpty())) << name;
    all.insert(all.end(), lines.begin(), lines.end());
  }
  EXPECT_EQ(Sorted(all), expected);
}

TEST_F(ReplayTest, PipeAndFolderTogether) {
  const Script script = Mixture();
  Lines expected = Replay(script);
  const std::string output = MakeFolder("csv");
  const std::string fifo = Path("fifo");
  const Fifo reader(fifo);
  EXPECT_THAT(Replay(script, {"--output=" + output, "--output-format=csv", "--pipe=" + fifo}),
              IsEmpty());
  EXPECT_EQ(Sorted(SplitLines(reader.Read())), expected);
  EXPECT_EQ(Sorted(SplitLines(FolderText(output))), expected);
}

TEST_F(ReplayTest, PipeWithoutReaderDoesNotHang) {
  const Script script = Mixture();
  EXPECT_THAT(Replay(script, {"--pipe=" + Path("made")}), IsEmpty());
  // The FIFO may or may not stay, but it must not have become anything else.
  if (std::filesystem::exists(Path("made"))) {
    EXPECT_TRUE(std::filesystem::is_fifo(Path("made")));
  }
}

// Lines that nobody read are also counted at the end: each row is written or dropped.
TEST_F(ReplayTest, WithoutAReaderOfThePipeEveryRowIsDropped) {
  Script script;
  for (int interval = 0; interval < 3; ++interval) {
    const int64_t begin_ms = 5000 * interval + 1000;
    script.Life(begin_ms, begin_ms + 1000, UdpFlow({.id = 1u + static_cast<uint32_t>(interval)}),
                {1, 100});
  }
  const std::string capture = WriteFile("capture.pcap", script.bytes());
  const Finished run = Engine({"--replay=" + capture, "--interval=5", "--pipe=" + Path("made"),
                               "--gateway=g", "--metrics-file=" + Path("metrics")});
  EXPECT_TRUE(run.exit.ok()) << run.err;
  EXPECT_THAT(run.err, HasSubstr("pipe: 0 lines written, 3 dropped"));
  EXPECT_THAT(ReadFile(Path("metrics")),
              testing::ContainsRegex("\nctacct_pipe_lines_dropped_total(\\{[^}]*\\})? 3\n"));
}

// Far more lines than a pipe holds.
Script ManyRows(int rows) {
  Script script(Stamps::kNone);
  for (int i = 0; i < rows; ++i) {
    script.Life(1000, 2000,
                UdpFlow({.src = absl::StrCat("10.", i >> 16, ".", i >> 8 & 255, ".", i & 255),
                         .id = static_cast<uint32_t>(i)}),
                {1, 100});
  }
  return script;
}

// The line of the FIFO that belongs to a line of CSV.
// Of one flow, which has ended.
std::string InfluxLine(const std::string& csv, const std::string& gateway) {
  const Lines c = absl::StrSplit(csv, ',');
  EXPECT_EQ(c.size(), 11u) << csv;
  return absl::StrCat("traffic,dst=", c[3], ",gateway=", gateway, ",port=", c[4], ",proto=", c[1],
                      ",src=", c[2], " src_packets=", c[5], "i,dst_packets=", c[6],
                      "i,src_bytes=", c[7], "i,dst_bytes=", c[8], "i,connection_count=", c[9],
                      "i,connection_times=", c[10], "i,flow_count=1i,unanswered_count=0i ", c[0]);
}

class PipeFormatTest : public ReplayTest, public testing::WithParamInterface<std::string> {};
INSTANTIATE_TEST_SUITE_P(Formats, PipeFormatTest, testing::Values("csv", "influx"));

TEST_P(PipeFormatTest, SlowPipeReaderGetsWholeLines) {  // Fault 27
  const Script script = ManyRows(5000);
  Lines expected = Replay(script);
  EXPECT_THAT(expected, SizeIs(5000));
  if (GetParam() == "influx") {
    for (std::string& line : expected) line = InfluxLine(line, "a\\ gateway");
  }
  const std::set<std::string> known(expected.begin(), expected.end());
  const std::string fifo = Path("fifo");
  const Fifo reader(fifo);
  EXPECT_THAT(
      Replay(script, {"--pipe=" + fifo, "--pipe-format=" + GetParam(), "--gateway=a gateway"}),
      IsEmpty());  // Nobody reads meanwhile.
  const Lines lines = SplitLines(reader.Read());
  EXPECT_GT(lines.size(), 500u);
  for (const std::string& line : lines) ASSERT_TRUE(known.contains(line)) << line;
  EXPECT_EQ(std::set<std::string>(lines.begin(), lines.end()).size(), lines.size());
}

TEST_P(PipeFormatTest, PipeReaderThatDies) {  // Fault 27
  const std::string fifo = Path("fifo");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  auto reader = Subprocess::Start({"head", "-n", "1", fifo});
  ASSERT_TRUE(reader.ok()) << reader.status();
  const std::string output = MakeFolder("csv");
  const Script script = ManyRows(20'000);
  EXPECT_THAT(Replay(script, {"--pipe=" + fifo, "--pipe-format=" + GetParam(), "--output=" + output,
                              "--output-format=csv"}),
              IsEmpty());
  EXPECT_THAT(SplitLines(FolderText(output)), SizeIs(20'000));
}

TEST_F(ReplayTest, InvalidPipe) {
  const std::string capture = WriteFile("capture.pcap", Mixture().bytes());
  const std::string file = WriteFile("important", "do not touch\n");
  ExpectError(Engine({"--replay=" + capture, "--pipe=" + file}), 1, file);
  EXPECT_EQ(ReadFile(file), "do not touch\n");
  ExpectError(Engine({"--replay=" + capture, "--pipe=" + folder_}), 1, folder_);
  ExpectError(Engine({"--replay=" + capture, "--pipe=" + Path("no/such")}), 1, Path("no/such"));
}

TEST_F(ReplayTest, InvalidOutput) {
  const std::string capture = WriteFile("capture.pcap", Mixture().bytes());
  const std::string file = WriteFile("file", "do not touch\n");
  for (const std::string format : {"spool", "csv"}) {
    const auto engine = [&](const std::string& output) {
      return Engine({"--replay=" + capture, "--output-format=" + format, "--output=" + output});
    };
    // A missing folder is made, but not those above it.
    ExpectError(engine(Path("absent/spool")), 1, Path("absent/spool"));
    EXPECT_FALSE(std::filesystem::exists(Path("absent")));
    ExpectError(engine(file), 1, file);
    EXPECT_EQ(ReadFile(file), "do not touch\n");
  }
}

TEST_F(ReplayTest, FullStandardOutput) {
  for (const Script& script : {ManyRows(1), ManyRows(20'000)}) {
    const std::string capture = WriteFile("capture.pcap", script.bytes());
    const Finished finished =
        Engine({"--interval=5", "--replay=" + capture}, {.stdout_path = "/dev/full"});
    ExpectError(finished, 1, "standard output");
    EXPECT_THAT(finished.err, HasSubstr("No space left on device"));
  }
}

TEST_F(ReplayTest, ClosedStandardOutputIsNoCrash) {
  // `engine --replay=x | head -1`: an error or SIGPIPE, but no endless loop and no core.
  const std::string capture = WriteFile("capture.pcap", ManyRows(20'000).bytes());
  const Finished piped = Shell("$engine --interval=5 --replay=" + capture + " | head -n 1");
  EXPECT_THAT(SplitLines(piped.out), SizeIs(1));
  EXPECT_LE(CountLines(piped.err), 1u) << piped.err;
}

}  // namespace
}  // namespace ctacct
