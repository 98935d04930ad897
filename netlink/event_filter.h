// Programs of classic BPF that select the events of a conntrack event socket: by the rules of
// accounting, and by the worker that owns the flow. Rejected events are never queued and take no
// receive buffer. A program runs in the packet path of the gateway, for each event and socket.
//
// A program decides about a whole datagram by its first message. A datagram of events has only one;
// a socket that reads dumps must not have a filter.
//
// Pure functions and plain values; thread-compatible.
#ifndef CTACCT_NETLINK_EVENT_FILTER_H_
#define CTACCT_NETLINK_EVENT_FILTER_H_

#include <linux/filter.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "netlink/networks.h"

namespace ctacct {

// Which conntrack events a socket wants; the kernel drops others before they are queued (they take
// no receive buffer).
struct EventFilterRules {
  AddressRules<Ipv4Address> ipv4 = {};
  AddressRules<Ipv6Address> ipv6 = {};
  bool include_icmp = false;  // ICMP of IPv4, ICMPv6 of IPv6.
  uint32_t worker = 0;        // This socket's share of flows: CTA_ID % workers == worker.
  uint32_t workers = 1;
};

// Rejects flows outside the rules, UPDATEs that close no TCP connection, and flows
// of other workers. Messages that are not about flows, or of another family, pass for every worker.
// A flow without the attribute that a rule is about passes that rule: user space decides.
//
// An attribute that is too short is not noticed: the bytes after it are read instead, or, after the
// last one, the kernel drops the message. Of an attribute that occurs twice the first counts (the
// parser takes the last). The kernel sends neither.
[[nodiscard]] std::vector<sock_filter> BuildEventFilter(const EventFilterRules& rules);

// The worker that owns a flow, by CTA_ID as FlowIdentity::id has it (big-endian load). A flow
// without CTA_ID counts as id 0.
constexpr uint32_t OwnerOfFlow(uint32_t id, uint32_t workers) { return id % workers; }

// Puts a program of classic BPF together and turns labels into jump offsets. Jumps go forward only.
// BPF's conditional ones reach 255 instructions: where that is too short, another jump is added.
class FilterAssembler {
 public:
  // A place in the program, of the assembler that made it.
  class Label {
   private:
    friend class FilterAssembler;
    explicit Label(size_t index) : index_(index) {}
    size_t index_;
  };

  Label NewLabel();
  // The label stands for the instruction that is added next.
  void Bind(Label label);

  // Any instruction that is not a jump.
  void Add(uint16_t code, uint32_t k);
  // `test` is BPF_JEQ, BPF_JGT, BPF_JGE or BPF_JSET, of the accumulator with `k`. Where it does not
  // jump, the next instruction follows.
  void JumpIf(uint16_t test, uint32_t k, Label target);
  void JumpUnless(uint16_t test, uint32_t k, Label target);
  void Jump(Label target);

  // Fails if a jump has no target or goes backwards, or if the program is longer than the kernel
  // accepts (BPF_MAXINSNS).
  [[nodiscard]] absl::StatusOr<std::vector<sock_filter>> Assemble() const;

 private:
  struct Instruction {
    sock_filter code;
    std::optional<size_t> target = {};  // Of a jump: index of its label.
    bool jumps_if = false;              // The test holds; else where it does not.
    bool far = false;                   // A jump of its own follows it.
  };

  // The instruction that a jump goes to.
  absl::StatusOr<size_t> TargetOf(size_t from) const;

  std::vector<Instruction> program_;
  std::vector<std::optional<size_t>> labels_;  // Index of the instruction, once bound.
};

}  // namespace ctacct

#endif  // CTACCT_NETLINK_EVENT_FILTER_H_
