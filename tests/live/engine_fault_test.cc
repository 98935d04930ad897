// Faults under a live engine, of files and descriptors: kill -9 at every step of a commit, a full
// disk, failing fsync, folders that go and come, FIFOs, port lists of rubbish, hostile flags. Each
// is done for real (signals, tmpfs, strace's fault injection, rlimits) to an engine that accounts a
// kernel's gateway. The oracle is the generator's own count: once the fault is over, the rows of
// all visible spool files are what was sent, to the packet and byte. How the engine names and
// writes what is hidden is its own affair.
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_output.h"
#include "tests/support/engine_test.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// A tmpfs over a folder, in a mount namespace that dies with the test.
class SmallDisk {
 public:
  static std::unique_ptr<SmallDisk> Mount(const std::string& folder, const std::string& options) {
    auto disk = std::unique_ptr<SmallDisk>(new SmallDisk);
    auto holder = Subprocess::Start(
        {"unshare", "--mount", "--propagation=private", "sh", "-c",
         R"(mount -t tmpfs -o "$2" ctacct "$1" && echo mounted && exec sleep 3600)", "sh", folder,
         options});
    if (!holder.ok() || !(*holder)->WaitForOutput("mounted", kPatience).ok()) return nullptr;
    disk->holder_ = *std::move(holder);
    disk->folder_ = folder;
    return disk;
  }

  // How a program gets there.
  std::vector<std::string> Enter() const { return {"nsenter", "--mount=" + Proc("ns/mnt"), "--"}; }
  // Where the folder is seen from outside.
  std::string path() const { return Proc("root") + folder_; }

  absl::Status Remount(const std::string& options) const {
    std::vector<std::string> argv = Enter();
    for (const std::string& word :
         {std::string("mount"), std::string("-o"), "remount," + options, folder_}) {
      argv.push_back(word);
    }
    return RunProcessOrError(argv, kPatience).status();
  }

 private:
  SmallDisk() = default;
  std::string Proc(const std::string& what) const {
    return absl::StrCat("/proc/", holder_->pid(), "/", what);
  }

  std::unique_ptr<Subprocess> holder_;
  std::string folder_;
};

class EngineFaultTest : public EngineTest {
 protected:
  EngineFaultTest() : EngineTest("fault") {}

  // The spool folder as the test sees it.
  std::string SeenSpool() const { return disk_ == nullptr ? spool() : disk_->path(); }

  static std::vector<std::string> EngineArgv() {
    return Joined(
        {{std::filesystem::absolute(DataPath("engine/engine")), "-include-icmp", "-user=root"},
         kGroupFlags});
  }

  void MountSpool(const std::string& options) {
    disk_ = SmallDisk::Mount(spool(), options);
    ASSERT_NE(disk_, nullptr) << "no tmpfs can be mounted";
  }

  // The path of the file that takes all the room that was left.
  std::string FillDisk() const {
    const std::string ballast = SeenSpool() + "/ballast";
    std::ofstream file(ballast, std::ios::binary);
    while (file << std::string(4096, 'x') << std::flush) {
    }
    return ballast;
  }

  void StartEngine(const std::vector<std::string>& flags) {
    EngineTest::StartEngine(Joined({disk_ != nullptr ? disk_->Enter() : std::vector<std::string>(),
                                    EngineArgv(),
                                    {"-output=" + spool()},
                                    flags}));
  }

  // Has strace inject a fault into the running engine, until RemoveFault. strace counts the calls
  // of each thread separately. Of write it counts only the main thread's calls, which write files:
  // other threads write only to wake each other.
  void Inject(const std::string& calls, const std::string& fault) {
    trace_ = folder_ + "/trace";
    std::vector<std::string> argv = {
        "strace",
        "-y",
        "-o",
        trace_,
        absl::StrCat("--trace=fsync,fdatasync,rename,renameat,renameat2,linkat,", calls),
        absl::StrCat("--inject=", calls, ":", fault),
        "-p",
        absl::StrCat(engine_->pid())};
    if (calls != "write") argv.push_back("-f");
    auto strace = Subprocess::Start(argv);
    ASSERT_TRUE(strace.ok()) << strace.status();
    strace_ = *std::move(strace);
    const absl::Status attached = strace_->WaitForOutput("attached", kPatience);
    ASSERT_TRUE(attached.ok()) << attached;
  }
  void RemoveFault() {
    ASSERT_TRUE(strace_->Signal(SIGINT).ok());
    ASSERT_TRUE(strace_->Wait(kPatience).ok());
    strace_.reset();
  }

  // Plays flows and destroys them; their sums belong to what is expected from then on.
  void Play(const std::vector<std::string>& flags = {"--tcp=100", "--udp=100"},
            const GroupOptions& grouped = kGrouped) {
    sent_ += AllClosed(Group(EngineTest::Play(flags), grouped));
    FlushConntrack();
  }

  size_t HiddenFiles() const {
    return NamesIn(SeenSpool()).size() - VisibleNamesIn(SeenSpool()).size();
  }

  // Of all visible files; that one is torn is a failure, whenever it is looked for.
  Traffic Written() const { return ReadCsv(Spooldump(SeenSpool())).traffic; }

  void ExpectAllWritten() {
    EXPECT_TRUE(Eventually([&] { return Written() == sent_; })) << engine_->Stderr();
    EXPECT_EQ(Difference(sent_, Written()), "");
  }
  void ExpectStoppedWithAllWritten() {
    ASSERT_NO_FATAL_FAILURE(StopEngine());
    EXPECT_EQ(Difference(sent_, Written()), "");
    EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("overrun")));
  }
  std::string trace_;
  std::unique_ptr<SmallDisk> disk_;
  std::unique_ptr<Subprocess> strace_;
  Traffic sent_;
};

// Fault 2. The engine dies at its first, second, ... call of each kind that writes a file, makes it
// durable or gives it its name, until it has none left to die at. Its interval is long, so that all
// rows go into one commit, at the end.
TEST_F(EngineFaultTest, KilledAtEveryStepOfACommit) {
  constexpr int kStepsMax = 30;  // More would mean that it never gets through.
  int killed = 0;
  for (const std::string call :
       {"write", "fsync", "fdatasync", "rename", "renameat", "renameat2", "linkat", "unlinkat"}) {
    bool survived = false;
    for (int step = 1; !survived; ++step) {
      ASSERT_LE(step, kStepsMax) << call;
      SCOPED_TRACE(absl::StrCat("killed at ", call, " number ", step));
      std::filesystem::remove_all(spool());
      std::filesystem::create_directory(spool());
      sent_.clear();
      ASSERT_NO_FATAL_FAILURE(StartEngine({"-interval=86400"}));
      ASSERT_NO_FATAL_FAILURE(Inject(call, absl::StrCat("signal=KILL:when=", step)));
      ASSERT_NO_FATAL_FAILURE(Play({"--tcp=20", "--udp=20"}));
      ASSERT_TRUE(engine_->Signal(SIGTERM).ok());
      const auto exit = engine_->Wait(kPatience);
      ASSERT_TRUE(exit.ok()) << exit.status();
      survived = exit->ok();
      ASSERT_TRUE(survived || exit->signal == SIGKILL) << exit->ToString() << engine_->Stderr();
      killed += !survived;
      // The rows or none of them.
      if (survived || !SpoolFilesIn(SeenSpool()).empty()) {
        EXPECT_EQ(Difference(sent_, Written()), "");
      }
      // Its leftovers do no harm, and nothing is written twice.
      ASSERT_NO_FATAL_FAILURE(StartEngine({"-interval=86400"}));
      ASSERT_NO_FATAL_FAILURE(StopEngine());
      // If there are no rows, a file without rows contains the gap.
      const Traffic rows = Written();
      if (survived || !rows.empty()) {
        EXPECT_EQ(Difference(sent_, rows), "");
      } else {
        EXPECT_FALSE(SpoolFilesIn(SeenSpool()).empty());
      }
    }
  }
  EXPECT_GE(killed,
            6);  // At the least: writes of header, rows and end; the file, its name, its folder.
}

// Fault 3. Everything that the kernel reported before the signal is written, however far behind the
// engine is.
TEST_F(EngineFaultTest, TerminatedWhileFarBehind) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-interval=1"}));
  ASSERT_TRUE(engine_->Signal(SIGSTOP).ok());
  ASSERT_NO_FATAL_FAILURE(Play({"--tcp=10000", "--udp=10000"}));
  ASSERT_TRUE(engine_->Signal(SIGTERM).ok());
  ASSERT_TRUE(engine_->Signal(SIGCONT).ok());
  const auto exit = engine_->Wait(kPatience);
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_TRUE(exit->ok()) << exit->ToString() << engine_->Stderr();
  EXPECT_EQ(Difference(sent_, Written()), "");
  EXPECT_THAT(engine_->Stderr(), Not(HasSubstr("overrun")));
}

// The same while more traffic comes: at least what was sent before the signal, at most all.
TEST_F(EngineFaultTest, TerminatedUnderLoad) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-interval=1"}));
  ASSERT_NO_FATAL_FAILURE(Play({"--tcp=5000", "--udp=5000"}));
  const auto load = StartPlay({"--tcp=100000"});
  ASSERT_NE(load, nullptr);
  // Once rows of it are written it is under way.
  ASSERT_TRUE(Eventually([&] { return Total(Written()).packets_src > Total(sent_).packets_src; }));
  ASSERT_TRUE(load->Running());
  ASSERT_NO_FATAL_FAILURE(StopEngine());
  ASSERT_NO_FATAL_FAILURE(WaitForPlay(*load));
  Traffic all = sent_;
  all += AllClosed(Group(Sent(), kGrouped));
  Traffic rows = Written();
  for (const auto& [key, sums] : sent_) {
    EXPECT_GE(rows[key].packets_src, sums.packets_src);
    EXPECT_GE(rows[key].bytes_dst, sums.bytes_dst);
    EXPECT_GE(rows[key].connection_count, sums.connection_count);
  }
  for (const auto& [key, sums] : rows) {
    EXPECT_LE(sums.packets_src, all[key].packets_src);
    EXPECT_LE(sums.bytes_dst, all[key].bytes_dst);
    EXPECT_LE(sums.connection_count, all[key].connection_count);
  }
}

// Fault 4. Rows wait in memory over several intervals; what did not fit is gone.
TEST_F(EngineFaultTest, FullDisk) {
  ASSERT_NO_FATAL_FAILURE(MountSpool("size=1m"));
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-interval=1"}));
  ASSERT_NO_FATAL_FAILURE(Play());
  ASSERT_NO_FATAL_FAILURE(ExpectAllWritten());
  const size_t hidden = HiddenFiles();
  const std::string ballast = FillDisk();
  const size_t written = SpoolFilesIn(SeenSpool()).size();
  for (int i = 0; i < 3; ++i) {
    ASSERT_NO_FATAL_FAILURE(Play());
    ASSERT_NO_FATAL_FAILURE(WaitForEngine("No space left on device"));
    absl::SleepFor(absl::Seconds(1));  // Another interval.
  }
  EXPECT_TRUE(engine_->Running());
  EXPECT_EQ(SpoolFilesIn(SeenSpool()).size(), written);
  // It tries every second; between attempts there is nothing of them.
  EXPECT_TRUE(Eventually([&] { return HiddenFiles() <= hidden; }));
  std::filesystem::remove(ballast);
  ASSERT_NO_FATAL_FAILURE(ExpectAllWritten());
  ASSERT_NO_FATAL_FAILURE(ExpectStoppedWithAllWritten());
}

// The disk is full to the end: the engine says that rows are lost, by message and status.
TEST_F(EngineFaultTest, FullDiskAtTheEnd) {
  ASSERT_NO_FATAL_FAILURE(MountSpool("size=1m"));
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-interval=1"}));
  FillDisk();
  ASSERT_NO_FATAL_FAILURE(Play());
  ASSERT_TRUE(engine_->Signal(SIGTERM).ok());
  const auto exit = engine_->Wait(kPatience);
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(*exit, (ExitStatus{.code = 1}));
  EXPECT_THAT(engine_->Stderr(), HasSubstr("No space left on device"));
  EXPECT_TRUE(SpoolFilesIn(SeenSpool()).empty());
}

// Fault 5. Whatever fsync fails: the rows come in another file, once.
TEST_F(EngineFaultTest, FsyncFails) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-interval=1"}));
  std::set<std::string> failed;
  for (const char* which : {"when=1..3", "when=2", "when=3", "when=4", "when=5"}) {
    SCOPED_TRACE(which);
    ASSERT_NO_FATAL_FAILURE(Inject("fsync,fdatasync", absl::StrCat("error=EIO:", which)));
    // Until it has happened.
    ASSERT_TRUE(Eventually([&] {
      Play({"--tcp=20", "--udp=20"});
      return HasFatalFailure() || absl::StrContains(ReadFile(trace_), "INJECTED");
    }));
    ASSERT_NO_FATAL_FAILURE(ExpectAllWritten());
    ASSERT_NO_FATAL_FAILURE(RemoveFault());
    // Of "7 fsync(5</folder/name>) = ..." and "7 renameat2(4</folder>, "name", ..." the names.
    std::ifstream file(trace_);
    for (std::string line; std::getline(file, line);) {
      for (const std::string& name : failed) {
        EXPECT_THAT(line, Not(HasSubstr(name))) << "used again after it failed";
      }
      const size_t close = line.find(">)");
      const size_t slash = line.rfind('/', close);
      if (!absl::StrContains(line, "INJECTED") || close == std::string::npos) continue;
      const std::string name = line.substr(slash + 1, close - slash - 1);
      if (name != "spool") failed.insert(name);  // A folder may be synced again.
    }
  }
  EXPECT_GE(failed.size(), 3u);
  ASSERT_NO_FATAL_FAILURE(ExpectStoppedWithAllWritten());
}

// Fault 6. The folder goes, with its files, and comes back empty; then it is read-only for a while.
// Its state is elsewhere: without that an engine must end.
TEST_F(EngineFaultTest, SpoolFolderGoesAndComesBack) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-interval=1", "-state=" + folder_ + "/state"}));
  ASSERT_NO_FATAL_FAILURE(Play());
  ASSERT_NO_FATAL_FAILURE(ExpectAllWritten());
  std::filesystem::remove_all(spool());
  sent_.clear();
  ASSERT_NO_FATAL_FAILURE(Play());
  ASSERT_NO_FATAL_FAILURE(WaitForEngine("No such file or directory"));
  ASSERT_NO_FATAL_FAILURE(Play());
  EXPECT_TRUE(engine_->Running());
  std::filesystem::create_directory(spool());
  ASSERT_NO_FATAL_FAILURE(ExpectAllWritten());
  ASSERT_NO_FATAL_FAILURE(ExpectStoppedWithAllWritten());
}

TEST_F(EngineFaultTest, SpoolFolderReadOnlyForAWhile) {
  ASSERT_NO_FATAL_FAILURE(MountSpool("size=1m"));
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-interval=1"}));
  ASSERT_NO_FATAL_FAILURE(Play());
  ASSERT_NO_FATAL_FAILURE(ExpectAllWritten());
  // While a file is open for writing it is refused.
  ASSERT_TRUE(Eventually([&] { return disk_->Remount("ro").ok(); }));
  ASSERT_NO_FATAL_FAILURE(Play());
  ASSERT_NO_FATAL_FAILURE(WaitForEngine("Read-only file system"));
  ASSERT_NO_FATAL_FAILURE(Play());
  const absl::Status writable = disk_->Remount("rw");
  ASSERT_TRUE(writable.ok()) << writable;
  ASSERT_NO_FATAL_FAILURE(ExpectAllWritten());
  ASSERT_NO_FATAL_FAILURE(ExpectStoppedWithAllWritten());
}

// Fault 7.
TEST_F(EngineFaultTest, OutOfInodes) {
  ASSERT_NO_FATAL_FAILURE(MountSpool("size=4m,nr_inodes=64"));
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-interval=1"}));
  ASSERT_NO_FATAL_FAILURE(Play());
  ASSERT_NO_FATAL_FAILURE(ExpectAllWritten());
  std::filesystem::create_directory(SeenSpool() + "/ballast");
  for (int i = 0; std::ofstream(absl::StrCat(SeenSpool(), "/ballast/", i)); ++i) {
    ASSERT_LT(i, 1000);
  }
  ASSERT_NO_FATAL_FAILURE(Play());
  ASSERT_NO_FATAL_FAILURE(WaitForEngine("No space left on device"));
  ASSERT_NO_FATAL_FAILURE(Play());
  std::filesystem::remove_all(SeenSpool() + "/ballast");
  ASSERT_NO_FATAL_FAILURE(ExpectAllWritten());
  ASSERT_NO_FATAL_FAILURE(ExpectStoppedWithAllWritten());
}

TEST_F(EngineFaultTest, OutOfDescriptors) {
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-interval=1"}));
  ASSERT_NO_FATAL_FAILURE(Play());
  ASSERT_NO_FATAL_FAILURE(ExpectAllWritten());
  rlimit before{};
  rlimit none{};
  ASSERT_EQ(prlimit(engine_->pid(), RLIMIT_NOFILE, nullptr, &before), 0);
  none.rlim_max = before.rlim_max;  // What is open stays open.
  ASSERT_EQ(prlimit(engine_->pid(), RLIMIT_NOFILE, &none, nullptr), 0);
  ASSERT_NO_FATAL_FAILURE(Play());
  ASSERT_NO_FATAL_FAILURE(WaitForEngine("Too many open files"));
  ASSERT_NO_FATAL_FAILURE(Play());
  EXPECT_TRUE(engine_->Running());
  ASSERT_EQ(prlimit(engine_->pid(), RLIMIT_NOFILE, &before, nullptr), 0);
  ASSERT_NO_FATAL_FAILURE(ExpectAllWritten());
  ASSERT_NO_FATAL_FAILURE(ExpectStoppedWithAllWritten());
}

// Fault 27. Nobody reads the FIFO; somebody reads and dies; somebody reads to the end. The spool
// never notices, and each line was read whole or counted as dropped.
TEST_F(EngineFaultTest, FifoReadersComeAndDie) {
  const std::string fifo = folder_ + "/fifo";
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-interval=1", "-pipe=" + fifo}));
  for (int i = 0; i < 2; ++i) {  // An interval's lines are dropped when the next one's come.
    ASSERT_NO_FATAL_FAILURE(Play());
    ASSERT_NO_FATAL_FAILURE(ExpectAllWritten());
  }
  {
    auto reader = Subprocess::Start({"dd", "if=" + fifo, "bs=100", "count=1"});
    ASSERT_TRUE(reader.ok()) << reader.status();
    ASSERT_NO_FATAL_FAILURE(Play());
    ASSERT_TRUE((*reader)->Wait(kPatience).ok());
  }
  ASSERT_NO_FATAL_FAILURE(Play());
  ASSERT_NO_FATAL_FAILURE(ExpectAllWritten());
  auto reader = Subprocess::Start({"cat", fifo});
  ASSERT_TRUE(reader.ok()) << reader.status();
  ASSERT_NO_FATAL_FAILURE(Play());
  ASSERT_NO_FATAL_FAILURE(ExpectStoppedWithAllWritten());
  ASSERT_TRUE((*reader)->Wait(kPatience).ok());
  const std::string read = (*reader)->Stdout();
  EXPECT_GT(CountLines(read), 0u);
  // Whole lines, and the spool has the same rows.
  const std::string rows = Spooldump(spool());
  const std::set<std::string> known = absl::StrSplit(rows, '\n');
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(read, '\n'))) {
    EXPECT_EQ(known.count(line), 1u);
  }
  // "pipe: 12 lines written, 34 dropped"
  const std::string said = engine_->Stderr();
  const size_t pipe = said.find("pipe: ");
  ASSERT_NE(pipe, std::string::npos) << said;
  const std::vector<std::string> words = absl::StrSplit(said.substr(pipe), absl::ByAnyChar(" \n"));
  ASSERT_GE(words.size(), 5u);
  uint64_t lines_written = 0;
  uint64_t lines_dropped = 0;
  ASSERT_TRUE(absl::SimpleAtoi(words[1], &lines_written)) << said;
  ASSERT_TRUE(absl::SimpleAtoi(words[4], &lines_dropped)) << said;
  EXPECT_EQ(lines_written + lines_dropped, CountLines(rows));
  EXPECT_GE(lines_written, CountLines(read));
  EXPECT_GT(lines_dropped, 0u);
}

// Fault 28. Whatever happens to the port list, the last good one stays in force and rows are
// written.
TEST_F(EngineFaultTest, PortListOfRubbish) {
  const std::string ports = folder_ + "/ports";
  const auto replace = [&](const std::string& text) {
    std::ofstream(ports + ".new") << text;
    std::filesystem::rename(ports + ".new", ports);
  };
  replace("tcp:443\nudp:53\n");
  ASSERT_NO_FATAL_FAILURE(StartEngine({"-interval=1", "-ports=" + ports}));
  GroupOptions listed = kGrouped;
  listed.ports = {{"tcp", 443}, {"udp", 53}};
  const auto play = [&] { Play({"--tcp=50", "--udp=50"}, listed); };
  ASSERT_NO_FATAL_FAILURE(play());
  ASSERT_NO_FATAL_FAILURE(ExpectAllWritten());
  struct Fault {
    std::function<void()> make;
    std::string said;
  };
  const std::vector<Fault> faults = {
      {[&] { replace("tcp:443\n\x01\xff rubbish\n"); }, "ports:2: not 'protocol:port'"},
      {[&] { replace("tcp:99999999999999999999\n"); }, "ports:1: not 'protocol:port'"},
      {[&] { std::filesystem::remove(ports); }, "No such file or directory"},
      {[&] { std::filesystem::create_directory(ports); }, "not a regular file"},
      {[&] {
         std::filesystem::remove(ports);
         std::filesystem::create_symlink(ports, ports);
       },
       "Too many levels of symbolic links"},
      // Said as of the folder.
      {[&] {
         std::filesystem::remove(ports);
         ASSERT_EQ(mkfifo(ports.c_str(), 0600), 0);
       },
       "not a regular file"},
      {[&] {
         std::filesystem::remove(ports);
         std::filesystem::create_symlink("/dev/zero", ports);
       },
       "not a regular file"},
  };
  for (const Fault& fault : faults) {
    SCOPED_TRACE(fault.said);
    fault.make();
    ASSERT_NO_FATAL_FAILURE(WaitForEngine(fault.said));
    ASSERT_NO_FATAL_FAILURE(play());
  }
  ASSERT_NO_FATAL_FAILURE(ExpectAllWritten());
  std::filesystem::remove(ports);
  replace("tcp:80\n");
  ASSERT_NO_FATAL_FAILURE(WaitForEngine("port list re-read: 1 ports"));
  listed.ports = {{"tcp", 80}};
  ASSERT_NO_FATAL_FAILURE(play());
  ASSERT_NO_FATAL_FAILURE(ExpectStoppedWithAllWritten());
}

// Fault 29. Hostile flags and environments: one clear line, at once, and nothing is touched.
TEST_F(EngineFaultTest, HostileFlags) {
  // What it changes in the kernel it says: so it has been said before.
  ASSERT_NO_FATAL_FAILURE(StartEngine({}));
  ASSERT_NO_FATAL_FAILURE(StopEngine());
  const auto files = VisibleNamesIn(spool());
  const std::string long_text(120'000, 'x');  // The kernel takes 128 KiB for an argument.
  const std::string long_file = folder_ + "/flags";
  std::ofstream(long_file) << "-gateway=" << std::string(900'000, 'y') << "\n";
  const std::string longer_file = folder_ + "/more_flags";
  std::ofstream(longer_file) << "-gateway=" << std::string(2'000'000, 'y') << "\n";
  const std::string fifo = folder_ + "/nobody";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  std::ofstream(folder_ + "/file") << "precious";
  struct Case {
    std::string flag;
    int code;
  };
  for (const Case& hostile : std::vector<Case>{
           {"-" + long_text, 2},
           {"-gateway=" + long_text, 2},
           {"-src=" + long_text, 2},
           {"-interval=99999999999999999999", 2},
           {"-interval=-1", 2},
           {"-interval=nan", 2},
           {"-interval=1e3", 2},
           {"-workers=0", 2},
           {"-receive-buffer=-5", 2},
           {"-src-group-mask=/33", 2},
           {"-dst=10.0.0.0/8/8", 2},
           {"-exclude-ip=10.0.0.1\n10.0.0.2", 2},
           {"-gateway=a\nb", 2},
           {"-gateway=\x1b[2J", 2},
           {"-gateway=\xff\xfe", 2},
           {"-flagfile=" + long_file, 2},
           {"-flagfile=" + longer_file, 2},
           {"-flagfile=" + folder_, 2},
           {"-=", 2},
           {"--", 1},
           {"%s%s%n", 2},
           {"../../etc/passwd", 2},
           {"-ports=" + fifo, 1},
           {"-ports=" + folder_, 1},
           {"-ports=" + long_text, 1},
           {"-pipe=" + folder_ + "/file", 1},
           {"-pipe=" + folder_ + "/../../../../../../nowhere/x", 1},
           {"-output=" + folder_ + "/file", 1},
           {"-output=" + folder_ + "/file/../x", 1},
           {"-output=" + long_text, 1},
           {"-state=" + folder_ + "/file", 1},
           {"-state=" + folder_ + "/nowhere/x", 1},
           {"-state=" + long_text, 1},
           {"-record=" + folder_, 1},
           {"-record=" + folder_ + "/nowhere/x", 1},
       }) {
    SCOPED_TRACE(hostile.flag.substr(0, 60));
    std::vector<std::string> argv = Joined({EngineArgv(), {hostile.flag}});
    if (absl::StartsWith(hostile.flag, "-state=")) argv.push_back("-output=" + spool());
    // It ends the flags: only the folder is wrong.
    if (hostile.flag == "--") argv = {argv[0], "-output=" + folder_ + "/nowhere/x", "--"};
    auto engine = gateway_->Start(argv);
    ASSERT_TRUE(engine.ok()) << engine.status();
    const auto exit = (*engine)->Wait(kPatience);
    ASSERT_TRUE(exit.ok()) << exit.status();
    EXPECT_EQ(*exit, (ExitStatus{.code = hostile.code})) << (*engine)->Stderr();
    const std::string said = (*engine)->Stderr();
    EXPECT_EQ(CountLines(said), 1u) << said.substr(0, 300);
    EXPECT_LE(said.size(), 4200u);
    EXPECT_THAT(said, Not(HasSubstr("\x1b")));
    EXPECT_EQ((*engine)->Stdout(), "");
  }
  EXPECT_EQ(ReadFile(folder_ + "/file"), "precious");
  EXPECT_EQ(VisibleNamesIn(spool()), files);
}

// Names that a shell, a format or SQL would trip over are names like others.
TEST_F(EngineFaultTest, HostileNamesAndEnvironment) {
  const std::string odd = folder_ + "/a b'\"; $(touch x) `y` %s%n \n\x01 --";
  std::filesystem::create_directories(odd + "/spool");
  const std::string ports = odd + "/ports";
  std::ofstream(ports) << "# \"'; DROP TABLE\ntcp:443\n";
  SubprocessOptions options;
  options.environment = {{"TZ", ":/dev/zero"},
                         {"LC_ALL", "../../../etc/passwd"},
                         {"LANG", std::string(9000, 'z')},
                         {"POSIXLY_CORRECT", "1"},
                         {"TMPDIR", "/nowhere"},
                         {"MALLOC_PERTURB_", "165"},
                         {"GATEWAY", std::string(100'000, '%')}};
  ASSERT_NO_FATAL_FAILURE(EngineTest::StartEngine(
      Joined({EngineArgv(),
              {"-interval=1", "-gateway='); DROP TABLE vpn_traffic; --",
               "-output=" + odd + "/spool/../spool", "-ports=" + ports, "-pipe=" + odd + "/fifo",
               "-record=" + odd + "/record.pcap"}}),
      options));
  GroupOptions listed = kGrouped;
  listed.ports = {{"tcp", 443}};
  Play({"--tcp=50", "--udp=50"}, listed);
  ASSERT_NO_FATAL_FAILURE(StopEngine());
  EXPECT_EQ(SpoolFilesIn(odd + "/spool"), VisibleFilesIn(odd + "/spool"));
  EXPECT_EQ(Difference(sent_, ReadCsv(Spooldump(odd + "/spool")).traffic), "");
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/x"));
}

}  // namespace
}  // namespace ctacct
