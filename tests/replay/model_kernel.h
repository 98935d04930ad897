// The oracle of replays: a small kernel with a table of flows that begin, grow, change state and
// end. It makes the capture of the events and dumps that it would send, and the rows that
// docs/accounting.md asks for. It shares neither code nor method with the engine's flow table: it
// knows the truth and does not have to infer it.
//
// Deterministic by its seed. Among what it does to the messages: repeated and late events, dumps in
// pieces with events in between, dumps that miss or repeat an entry, tuples that come back at once
// with the id they had, other programs' messages, and messages that are cut.
#ifndef CTACCT_TESTS_REPLAY_MODEL_KERNEL_H_
#define CTACCT_TESTS_REPLAY_MODEL_KERNEL_H_

#include <array>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "netlink/test_messages.h"
#include "tests/replay/script.h"
#include "tests/support/capture_builder.h"

namespace ctacct {

class ModelKernel {
 public:
  struct Options {
    uint64_t seed = 1;
    Stamps stamps = Stamps::kEvents;
    int copies = 1;          // Of each event: 2 as nlmon with two listeners.
    bool new_events = true;  // Without: only DESTROY and dumps, as an engine in light mode.
    int intervals = 6;
    int steps = 9000;
    int flows_max = 400;
  };
  // The interval's end, and "proto,src,dst,port".
  using Key = std::pair<int64_t, std::string>;
  // As the columns: packets both ways, then bytes.
  using Counters = std::array<uint64_t, 4>;

  // What the engine must be given for the same rows, with a port list of tcp:443, tcp:80, udp:53.
  static constexpr const char* kEngineFlags[] = {"--src=10.32.0.0/11,2001:db8:40::/42",
                                                 "--src-group-mask=255.239.255.0",
                                                 "--dst-group-mask=/24",
                                                 "--src-group-mask6=/48",
                                                 "--dst-group-mask6=ffff:ffff::",
                                                 "--exclude-ip=192.0.2.99,fd00::99",
                                                 "--include-icmp",
                                                 "--track-open"};

  explicit ModelKernel(const Options& options);

  void Run();

  const std::string& capture() const { return capture_.bytes(); }
  // All seven fields; connection_time exact to a millisecond a connection.
  const std::map<Key, std::array<uint64_t, 7>>& rows() const { return rows_; }
  // Their traffic once more, straight from the table: counters at the end less those at the start.
  std::map<std::string, Counters> Growth() const;

 private:
  struct Slot {
    TestMessage tuple;
    std::string key;  // Empty: filtered out.
    bool alive = false;
    bool closed = false;
    uint8_t state = 0;
    int64_t start = 0;
    Counters counters{};
    Counters baseline{};   // At the start of the capture.
    Counters accounted{};  // What messages have reported so far.
    uint64_t incarnation = 0;
    uint32_t begun_in = 0;  // The dump that ran then, or the last one.
    bool missed = false;    // By the last dump.
  };
  // An entry of a dump as it was when the table was read.
  struct DumpEntry {
    Slot* slot;
    uint64_t incarnation;
    Counters counters;
    TestMessage message;
  };

  bool Chance(double p) { return std::bernoulli_distribution(p)(random_); }
  int64_t Up(int64_t most) { return std::uniform_int_distribution<int64_t>(0, most)(random_); }
  int64_t Below(int64_t n) { return Up(n - 1); }
  static bool IsConnection(const Slot& slot);

  Slot MakeSlot(int i);
  void Account(Slot& slot, const Counters& counters);
  void Close(Slot& slot);
  void AddGrowth(const Slot& slot, std::map<std::string, Counters>& growth) const;

  void Record(const std::string& datagram);
  void Event(const TestMessage& message);
  void StampEvent(TestMessage& message);

  void Step();
  void Begin(Slot& slot, bool old);
  void Grow(Slot& slot, int64_t packets_most);
  void Advance(Slot& slot);
  void End(Slot& slot);
  void Noise();

  void Dump(bool baseline, bool last);
  std::vector<DumpEntry> ReadPiece(size_t* next, bool baseline, bool last);
  void RecordPiece(const std::vector<DumpEntry>& piece, bool baseline);

  const Options options_;
  std::mt19937_64 random_;
  CaptureBuilder capture_;
  std::vector<Slot> slots_;
  std::vector<std::string> late_;
  std::map<Key, std::array<uint64_t, 7>> rows_;
  std::map<std::string, Counters> gone_;
  int64_t now_ = 0;
  int64_t last_packet_ = 0;
  int64_t interval_end_ = At(5000);
  uint64_t incarnations_ = 0;
  uint32_t sequence_ = 100;
  bool in_baseline_ = false;
};

}  // namespace ctacct

#endif  // CTACCT_TESTS_REPLAY_MODEL_KERNEL_H_
