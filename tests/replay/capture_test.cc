// Capture files: every format, cut off, damaged, and files that are not captures.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/replay/replay_test_base.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST_F(ReplayTest, TruncatedCapture) {
  Script script;
  Flow b = UdpFlow({.src_port = 2, .id = 2});
  script.Life(1000, 1500, UdpFlow({.id = 1}), {1, 100});
  const size_t good = script.bytes().size();
  script.Destroy(2500, b, {2, 200}, {0, 0});
  for (const size_t cut :
       {good + 1, good + 8, good + 16, good + 17, good + 40, script.bytes().size() - 1}) {
    SCOPED_TRACE(absl::StrCat("cut at ", cut, ", good to ", good));
    const std::string path = WriteFile("capture.pcap", script.bytes().substr(0, cut));
    const Finished finished = Engine({"--interval=5", "--replay=" + path});
    ExpectError(finished, 1, path);
    EXPECT_EQ(finished.out, UdpLine(5, "1,0,100,0,0,0\n"));
  }
}

TEST_F(ReplayTest, PacketHeaderOfRubbishInTheMiddle) {
  Script script;
  script.Life(1000, 1500, UdpFlow({.id = 1}), {1, 100});
  const std::string path = WriteFile("capture.pcap", script.bytes() + std::string(400, '\xee'));
  const Finished finished = Engine({"--interval=5", "--replay=" + path});
  ExpectError(finished, 1, path);
  EXPECT_EQ(finished.out, UdpLine(5, "1,0,100,0,0,0\n"));
}

TEST_F(ReplayTest, EmptyCaptureHasNoRows) {
  EXPECT_THAT(Replay(Script()), IsEmpty());
  EXPECT_THAT(Replay(Script(), {"--track-open"}), IsEmpty());
}

TEST_F(ReplayTest, NotACapture) {
  Script script;
  Flow flow = UdpFlow();
  script.New(1000, flow);
  const std::string whole = script.bytes();
  CaptureFormat ethernet;
  ethernet.link_type = 1;
  const std::vector<std::pair<std::string, std::string>> files = {
      {"empty file", ""},
      {"half a header", whole.substr(0, 12)},
      {"text", "time,proto,src\nthis is no capture at all, but long enough for a header\n"},
      {"ethernet", Script(Stamps::kNone, ethernet).bytes()},
      {"other version",
       [&] {
         std::string bytes = whole;
         bytes[4] = 9;
         return bytes;
       }()},
  };
  for (const auto& [name, bytes] : files) {
    SCOPED_TRACE(name);
    const std::string path = WriteFile("capture.pcap", bytes);
    const Finished finished = Engine({"--replay=" + path});
    ExpectError(finished, 1, path);
    EXPECT_EQ(finished.out, "");
  }
  ExpectError(Engine({"--replay=" + Path("absent.pcap")}), 1, Path("absent.pcap"));
  ExpectError(Engine({"--replay=" + folder_}), 1, folder_);
}

TEST_F(ReplayTest, PacketsTooShortForTheirHeaderAreSkipped) {
  CaptureBuilder capture;
  Script script;
  Flow flow = UdpFlow();
  for (size_t size = 0; size < 16; ++size) capture.AddRaw(At(900), std::string(size, '\0'));
  capture.Add(At(1000), BuildMessage(script.NewMessage(1000, flow)));
  capture.Add(At(2000), BuildMessage(script.DestroyMessage(2000, flow, {1, 100}, {0, 0})));
  EXPECT_THAT(Replay(capture.bytes()), ElementsAre(UdpLine(5, "1,0,100,0,0,0")));
}

TEST_F(ReplayTest, EveryCaptureFormatGivesTheSameRows) {
  Lines first;
  for (const bool nanoseconds : {true, false}) {
    for (const bool big_endian : {false, true}) {
      CaptureFormat format;
      format.nanoseconds = nanoseconds;
      format.big_endian = big_endian;
      const Lines lines = Replay(Mixture(format), {"--track-open"});
      ASSERT_GT(lines.size(), 50u);
      if (first.empty()) first = lines;
      EXPECT_EQ(lines, first) << "nanoseconds " << nanoseconds << ", big-endian " << big_endian;
    }
  }
}

TEST_F(ReplayTest, TwiceTheSame) {
  const Script script = Mixture();
  const Lines once = Replay(script, {"--track-open"});
  EXPECT_EQ(Replay(script, {"--track-open"}), once);
}

TEST_F(ReplayTest, CaptureFromStandardInput) {
  // Input that cannot be rewound, as with `zcat x.pcap.gz | engine --replay=/dev/stdin`.
  const Script script = Mixture();
  const std::string path = WriteFile("capture.pcap", script.bytes());
  const Finished piped = Shell("cat " + path + " | $engine --interval=5 --replay=/dev/stdin");
  // A replay may need to read the file twice: then it says so.
  if (piped.exit.code != 0) {
    ExpectError(piped, 1, "/dev/stdin");
  } else {
    EXPECT_EQ(Sorted(SplitLines(piped.out)), Replay(script));
  }
}

}  // namespace
}  // namespace ctacct
