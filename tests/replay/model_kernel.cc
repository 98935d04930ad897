#include "tests/replay/model_kernel.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace ctacct {

ModelKernel::ModelKernel(const Options& options) : options_(options), random_(options.seed) {
  for (int i = 0; i < options_.flows_max; ++i) slots_.push_back(MakeSlot(i));
}

void ModelKernel::Run() {
  now_ = At(-100'000);
  for (Slot& slot : slots_) {
    if (Chance(0.4)) Begin(slot, /*old=*/true), Grow(slot, 1000);
  }
  // The capture begins a while before the first dump: what starts after its first packet is new.
  now_ = At(400);
  Record("");
  now_ = At(500);
  Dump(/*baseline=*/true, /*last=*/false);
  for (int interval = 1; interval <= options_.intervals; ++interval) {
    const int64_t end = At(interval * 5000);
    const int steps = options_.steps / options_.intervals;
    for (int i = 0; i < steps; ++i) {
      now_ += std::max<int64_t>(1000, (end - now_) / (steps - i));
      Step();
    }
    now_ = std::max(now_, end + Up(3 * kMillisecond));
    Dump(/*baseline=*/false, /*last=*/interval == options_.intervals);
    interval_end_ = At((interval + 1) * 5000);
  }
}

std::map<std::string, ModelKernel::Counters> ModelKernel::Growth() const {
  auto growth = gone_;
  for (const Slot& slot : slots_) {
    if (slot.alive) AddGrowth(slot, growth);
  }
  return growth;
}

bool ModelKernel::IsConnection(const Slot& slot) {
  const uint8_t p = slot.tuple.protocol;
  return p == 6 || p == 33 || p == 132;
}

// kEngineFlags, done by hand: the filters, the masks, the port list.
ModelKernel::Slot ModelKernel::MakeSlot(int i) {
  static constexpr std::array<std::pair<int, const char*>, 9> kProtocols = {{{6, "tcp"},
                                                                             {6, "tcp"},
                                                                             {6, "tcp"},
                                                                             {17, "udp"},
                                                                             {17, "udp"},
                                                                             {132, "sctp"},
                                                                             {33, "dccp"},
                                                                             {47, "gre"},
                                                                             {1, "icmp"}}};
  const auto [protocol, name] = kProtocols[Below(kProtocols.size())];
  const int net = 28 + static_cast<int>(Below(40));  // Some are outside 10.32.0.0/11.
  const int src_host = static_cast<int>(Below(4)) + 1;
  const int dst_net = static_cast<int>(Below(3)) + 1;
  const bool excluded = Chance(0.03);
  static constexpr uint16_t kPorts[] = {443, 80, 53, 8080};
  Slot slot;
  TestMessage& t = slot.tuple;
  t.protocol = static_cast<uint8_t>(protocol);
  t.src = absl::StrCat("10.", net, ".7.", src_host);
  t.dst = excluded ? "192.0.2.99" : absl::StrCat("192.0.", dst_net, ".", i % 5);
  t.src_port = static_cast<uint16_t>(1000 + i);
  t.dst_port = kPorts[Below(4)];
  if (Chance(0.2)) t.zone = static_cast<uint16_t>(Below(3) + 1);
  if (Chance(0.3)) t.reply_dst = "198.51.100.1";
  // Some of these are outside of 2001:db8:40::/42.
  const bool ipv6 = Chance(0.2);
  if (ipv6) {
    t.src = absl::StrCat("2001:db8:", net, "::", src_host);
    t.dst = excluded ? "fd00::99" : absl::StrCat("fd00:", dst_net, "::", i % 5);
    if (t.reply_dst.has_value()) t.reply_dst = "fd01::1";
    if (protocol == 1) t.protocol = 58;
  }
  // A hash of the tuple: stays the same whenever the tuple comes back, and collides a little.
  t.id = static_cast<uint32_t>(i / 2 * 2654435761u);
  // The number of an IPv6 network is in hexadecimal.
  const bool inside = ipv6 ? net >= 40 && net <= 79 : net >= 32 && net <= 63;
  if (inside && !excluded) {
    std::string port = std::to_string(t.dst_port);
    if (protocol == 47 || protocol == 1) {
      port = "0";
    } else if (!(protocol == 6 && (t.dst_port == 443 || t.dst_port == 80)) &&
               !(protocol == 17 && t.dst_port == 53)) {
      port = "-1";
    }
    slot.key = ipv6 ? absl::StrCat(protocol == 1 ? "ipv6-icmp" : name, ",2001:db8:", net,
                                   "::,fd00:", dst_net, "::,", port)
                    : absl::StrCat(name, ",10.", net & 0xef, ".7.0,192.0.", dst_net, ".0,", port);
  }
  return slot;
}

void ModelKernel::Account(Slot& slot, const Counters& counters) {
  if (slot.key.empty()) return;
  for (size_t i = 0; i < 4; ++i) {
    if (counters[i] > slot.accounted[i]) {
      rows_[{interval_end_, slot.key}][i] += counters[i] - slot.accounted[i];
      slot.accounted[i] = counters[i];
    }
  }
}

void ModelKernel::Close(Slot& slot) {
  if (slot.closed || !IsConnection(slot)) return;
  slot.closed = true;
  if (slot.key.empty()) return;
  auto& row = rows_[{interval_end_, slot.key}];
  row[4] += 1;
  row[5] += static_cast<uint64_t>((now_ - slot.start) / kMillisecond);
}

void ModelKernel::AddGrowth(const Slot& slot, std::map<std::string, Counters>& growth) const {
  if (slot.key.empty()) return;
  for (size_t i = 0; i < 4; ++i) {
    if (slot.counters[i] > slot.baseline[i]) {
      growth[slot.key][i] += slot.counters[i] - slot.baseline[i];
    }
  }
}

// Read a moment after it was sent.
void ModelKernel::Record(const std::string& datagram) {
  last_packet_ = std::max(last_packet_ + 1, now_ + 2000 + Up(50'000));
  capture_.Add(last_packet_, datagram);
}

void ModelKernel::Event(const TestMessage& message) {
  const std::string bytes = BuildMessage(message);
  for (int i = 0; i < options_.copies; ++i) Record(bytes);
}

void ModelKernel::StampEvent(TestMessage& message) {
  // A moment after the flow's own stamps.
  if (options_.stamps == Stamps::kEvents) message.event_ns = now_ + Up(900);
}

void ModelKernel::Begin(Slot& slot, bool old) {
  slot.alive = true;
  slot.closed = false;
  slot.start = now_;
  slot.incarnation = ++incarnations_;
  slot.begun_in = sequence_;
  slot.baseline = slot.accounted = {};
  slot.counters = {1, 0, 60, 0};
  slot.state = slot.tuple.protocol == 6 ? kTestTcpSynSent : 0;
  if (old) {
    slot.start = now_ - Up(50 * kSecond);
    if (slot.state != 0) slot.state = Chance(0.8) ? kTestTcpEstablished : kTestTcpTimeWait;
    slot.closed = slot.state == kTestTcpTimeWait;
    return;
  }
  if (!options_.new_events) return;
  TestMessage message = slot.tuple;
  message.kind = TestMessage::Kind::kNew;
  if (slot.state != 0) message.tcp_state = slot.state;
  StampEvent(message);
  Event(message);
}

void ModelKernel::Grow(Slot& slot, int64_t packets_most) {
  for (const size_t direction : {0, 1}) {
    const uint64_t packets = static_cast<uint64_t>(Up(packets_most));
    slot.counters[direction] += packets;
    slot.counters[direction + 2] += packets * 40 + static_cast<uint64_t>(Up(1400)) * packets;
  }
}

void ModelKernel::Advance(Slot& slot) {
  static const std::map<uint8_t, std::vector<uint8_t>> kNext = {
      {1, {2}}, {2, {3, 8}}, {3, {4, 5, 8}}, {4, {5, 6, 8}}, {5, {6, 8}}, {6, {7}}};
  const auto next = kNext.find(slot.state);
  if (next == kNext.end()) return;
  slot.state = next->second[Below(next->second.size())];
  TestMessage message = slot.tuple;
  message.kind = TestMessage::Kind::kUpdate;
  message.tcp_state = slot.state;
  StampEvent(message);
  Event(message);
  if (slot.state == 5 || slot.state == 6 || slot.state == 8) Close(slot);
}

void ModelKernel::End(Slot& slot) {
  TestMessage message = slot.tuple;
  message.kind = TestMessage::Kind::kDestroy;
  message.original = {slot.counters[0], slot.counters[2]};
  message.reply = {slot.counters[1], slot.counters[3]};
  if (options_.stamps != Stamps::kNone) {
    message.start_ns = slot.start;
    message.stop_ns = now_;
  }
  StampEvent(message);
  Event(message);
  Account(slot, slot.counters);
  Close(slot);
  AddGrowth(slot, gone_);
  slot.alive = false;
  // Sent again: directly, or, where a timestamp says whose it is, later.
  if (Chance(0.05)) {
    if (options_.stamps == Stamps::kNone || Chance(0.3)) {
      Record(BuildMessage(message));
    } else {
      late_.push_back(BuildMessage(message));
    }
  }
}

void ModelKernel::Noise() {
  TestMessage victim = slots_[Below(slots_.size())].tuple;
  victim.kind = TestMessage::Kind::kDestroy;
  victim.original = victim.reply = {{1'000'000, 1'000'000}};
  switch (Below(4)) {
    case 0:  // A request.
      victim.flags = 0x0005;
      Record(BuildMessage(victim));
      break;
    case 1: {  // Cut.
      const std::string bytes = BuildMessage(victim);
      Record(bytes.substr(0, Below(bytes.size())));
      break;
    }
    case 2:  // Another netlink family.
      last_packet_ = std::max(last_packet_ + 1, now_);
      capture_.Add(last_packet_, BuildMessage(victim), 0);
      break;
    default: {
      std::string bytes(Below(300), '\0');
      // No random bytes of the first 8: they might make a message, once in a thousand years.
      for (size_t i = 8; i < bytes.size(); ++i) bytes[i] = static_cast<char>(Below(256));
      Record(bytes);
    }
  }
}

void ModelKernel::Step() {
  Slot& slot = slots_[Below(slots_.size())];
  if (Chance(0.01)) Noise();
  if (!late_.empty() && Chance(0.02)) {
    Record(late_.back());
    late_.pop_back();
  }
  if (!slot.alive) {
    if (Chance(0.5)) Begin(slot, /*old=*/false);
    return;
  }
  const double what = std::uniform_real_distribution<double>(0, 1)(random_);
  if (what < 0.6) {
    Grow(slot, 100);
  } else if (in_baseline_ && slot.start < At(0)) {
    // What is not yet baselined: for the directed tests.
  } else if (what < 0.85) {
    Advance(slot);
  } else {
    End(slot);
    if (Chance(0.3)) {  // The same tuple and id at once again.
      now_ += 1500 + Up(2000);
      Begin(slot, /*old=*/false);
    }
  }
}

std::vector<ModelKernel::DumpEntry> ModelKernel::ReadPiece(size_t* next, bool baseline, bool last) {
  std::vector<DumpEntry> piece;
  const size_t end = std::min(slots_.size(), *next + 20 + Below(40));
  for (; *next < end; ++*next) {
    Slot& slot = slots_[*next];
    if (!slot.alive) continue;
    // Without timestamps it is unknown whether this life or the previous one is shown: an engine
    // that never counts twice has to wait for the next dump.
    if (options_.stamps == Stamps::kNone && slot.begun_in == sequence_) continue;
    // Missed; never twice in a row (see OldFlowThatSeveralDumpsMiss).
    if (!baseline && !last && !slot.missed && Chance(0.03)) {
      slot.missed = true;
      continue;
    }
    slot.missed = false;
    TestMessage entry = slot.tuple;
    entry.kind = TestMessage::Kind::kDump;
    entry.sequence = sequence_;
    entry.port_id = 77;
    entry.original = {slot.counters[0], slot.counters[2]};
    entry.reply = {slot.counters[1], slot.counters[3]};
    if (slot.state != 0) entry.tcp_state = slot.state;
    if (options_.stamps != Stamps::kNone) entry.start_ns = slot.start;
    for (int copies = Chance(0.03) ? 2 : 1; copies > 0; --copies) {  // Repeated.
      piece.push_back({&slot, slot.incarnation, slot.counters, entry});
    }
  }
  return piece;
}

void ModelKernel::RecordPiece(const std::vector<DumpEntry>& piece, bool baseline) {
  std::string datagram;
  for (const DumpEntry& read : piece) {
    Slot& slot = *read.slot;
    const bool current = slot.alive && slot.incarnation == read.incarnation;
    // Only a timestamp shows that the entry is of a flow that has ended since and come back.
    if (!current && slot.alive && options_.stamps == Stamps::kNone) continue;
    datagram += BuildMessage(read.message);
    if (!current) continue;
    if (baseline && slot.start < At(0)) {
      if (slot.accounted == Counters{}) slot.baseline = slot.accounted = read.counters;
    } else {
      Account(slot, read.counters);
    }
  }
  if (!datagram.empty()) Record(datagram);
}

// The table is read in pieces; what happens while a piece is under way comes before it.
void ModelKernel::Dump(bool baseline, bool last) {
  in_baseline_ = baseline;
  ++sequence_;
  for (size_t next = 0; next < slots_.size();) {
    const std::vector<DumpEntry> piece = ReadPiece(&next, baseline, last);
    if (!last) {
      for (int64_t events = Up(15); events > 0; --events) {
        now_ += 3000 + Up(20'000);
        Step();
      }
    }
    RecordPiece(piece, baseline);
  }
  now_ += 10'000;
  Record(BuildMessage({.kind = TestMessage::Kind::kDone, .sequence = sequence_, .port_id = 77}));
  now_ = std::max(now_, last_packet_);
  in_baseline_ = false;
  if (baseline) return;
  for (const Slot& slot : slots_) {
    if (slot.alive && !slot.closed && IsConnection(slot) && !slot.key.empty()) {
      rows_[{interval_end_, slot.key}][6] += 1;
    }
  }
}

}  // namespace ctacct
