#include "netlink/event_filter.h"

#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include <bit>
#include <cassert>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "netlink/flow_event.h"

namespace ctacct {
namespace {

constexpr uint32_t kTypeOffset = offsetof(nlmsghdr, nlmsg_type);
constexpr uint32_t kFamilyOffset = sizeof(nlmsghdr) + offsetof(nfgenmsg, nfgen_family);
constexpr uint32_t kFirstAttribute = sizeof(nlmsghdr) + sizeof(nfgenmsg);
constexpr uint32_t kAttributeHeaderBytes = sizeof(nlattr);

constexpr uint32_t kDrop = 0;
constexpr uint32_t kAccept = 0xffffffff;  // How many bytes of the message to keep.

// A word of two numbers in host byte order, as a BPF load gives it: such loads are big-endian, so
// the bytes of each come swapped. (The payloads of attributes are big-endian themselves.)
constexpr uint32_t HostPair(uint16_t first, uint16_t second) {
  return uint32_t{__builtin_bswap16(first)} << 16 | __builtin_bswap16(second);
}

// The word at nlmsg_type, which nlmsg_flags follows.
static_assert(offsetof(nlmsghdr, nlmsg_flags) == kTypeOffset + 2);
constexpr uint32_t TypeAndFlags(uint16_t type, uint16_t flags) { return HostPair(type, flags); }

// Both types of message that are about flows have the type of a NEW, but for the one bit that makes
// a DELETE.
constexpr uint16_t kNewType = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW;
constexpr uint16_t kDeleteBit = IPCTNL_MSG_CT_DELETE;
static_assert(IPCTNL_MSG_CT_NEW == 0 && std::has_single_bit(kDeleteBit));

// A flow message with one of these is no UPDATE, but a DELETE, a NEW or a line of a dump.
constexpr uint32_t kNoUpdateBits = TypeAndFlags(kDeleteBit, NLM_F_CREATE | NLM_F_MULTI);

// Where kernels put the attributes of TCP and UDP flows without a zone: offset of the header, and
// what it says.
struct UsualAttribute {
  uint32_t offset;
  uint16_t length;
  uint16_t type;
  constexpr uint32_t payload() const { return offset + kAttributeHeaderBytes; }
};

template <typename Address>
struct FamilyNumbers;
template <>
struct FamilyNumbers<Ipv4Address> {
  static constexpr uint16_t kSrc = CTA_IP_V4_SRC;
  static constexpr uint16_t kDst = CTA_IP_V4_DST;
  static constexpr uint32_t kIcmp = 1;
};
template <>
struct FamilyNumbers<Ipv6Address> {
  static constexpr uint16_t kSrc = CTA_IP_V6_SRC;
  static constexpr uint16_t kDst = CTA_IP_V6_DST;
  static constexpr uint32_t kIcmp = 58;
};

template <typename Address>
struct Usual {
  static constexpr uint16_t kAddressBytes = kAttributeHeaderBytes + sizeof(Address);
  static constexpr uint16_t kIpBytes = kAttributeHeaderBytes + 2 * kAddressBytes;
  static constexpr uint16_t kTupleBytes = kAttributeHeaderBytes + kIpBytes + 28;
  static constexpr UsualAttribute kTuple = {kFirstAttribute, kTupleBytes,
                                            CTA_TUPLE_ORIG | NLA_F_NESTED};
  static constexpr UsualAttribute kIp = {kTuple.payload(), kIpBytes, CTA_TUPLE_IP | NLA_F_NESTED};
  static constexpr UsualAttribute kSrc = {kIp.payload(), kAddressBytes,
                                          FamilyNumbers<Address>::kSrc};
  static constexpr UsualAttribute kDst = {kSrc.offset + kAddressBytes, kAddressBytes,
                                          FamilyNumbers<Address>::kDst};
  static constexpr UsualAttribute kProto = {kDst.offset + kAddressBytes, 28,
                                            CTA_TUPLE_PROTO | NLA_F_NESTED};
  static constexpr UsualAttribute kNumber = {kProto.payload(), 5, CTA_PROTO_NUM};
  static constexpr UsualAttribute kReply = {kTuple.offset + kTupleBytes, kTupleBytes,
                                            CTA_TUPLE_REPLY | NLA_F_NESTED};
  static constexpr UsualAttribute kId = {kReply.offset + kTupleBytes, 8, CTA_ID};
  static constexpr UsualAttribute kStatus = {kId.offset + 8, 8, CTA_STATUS};
  // In UPDATEs of TCP:
  static constexpr UsualAttribute kTimeout = {kStatus.offset + 8, 8, CTA_TIMEOUT};
  static constexpr UsualAttribute kProtoInfo = {kTimeout.offset + 8, 48,
                                                CTA_PROTOINFO | NLA_F_NESTED};
  static constexpr UsualAttribute kTcp = {kProtoInfo.payload(), 44,
                                          CTA_PROTOINFO_TCP | NLA_F_NESTED};
  static constexpr UsualAttribute kState = {kTcp.payload(), 5, CTA_PROTOINFO_TCP_STATE};
  static constexpr uint32_t kBytesMin = kStatus.offset;
  static constexpr uint32_t kUpdateBytesMin = kProtoInfo.offset + 48;
};

// Every rule is there twice. The kernel's helpers find an attribute anywhere, but each search takes
// two calls, which is most of a program's cost. So the message is first assumed to have the usual
// layout: loads at fixed offsets, after a check of the headers that must be there. If one of them
// is not there, the message is judged from the start by searching.
//
// The order of the rules is that of cost per rejected event. First the share: with several workers
// most events are another worker's, and one load or search decides. Then UPDATEs, most of which
// close nothing; other events pay one jump. The tuple last: it costs most, and without src, dst or
// exclude it rejects hardly any flow.
class EventFilterBuilder {
 public:
  explicit EventFilterBuilder(const EventFilterRules& rules) : rules_(rules) {}

  std::vector<sock_filter> Build() {
    const Label ipv6 = code_.NewLabel();
    PassOtherMessages(ipv6);
    Judge(rules_.ipv4);
    code_.Bind(ipv6);
    Judge(rules_.ipv6);
    code_.Bind(accept_);
    code_.Add(BPF_RET | BPF_K, kAccept);
    code_.Bind(drop_);
    code_.Add(BPF_RET | BPF_K, kDrop);
    return code_.Assemble().value();  // The tests assemble all shapes there are.
  }

 private:
  // A is the accumulator, X the index register, M[n] the scratch memory.
  using Label = FilterAssembler::Label;
  enum ScratchSlot : uint32_t { kTupleSlot, kAddressesSlot };

  // Flow messages of IPv4 continue here, those of IPv6 elsewhere; all else is accepted.
  void PassOtherMessages(Label ipv6) {
    // A load past the end would drop what is too short to be a flow.
    code_.Add(BPF_LD | BPF_W | BPF_LEN, 0);
    code_.JumpUnless(BPF_JGE, kFirstAttribute, accept_);
    code_.Add(BPF_LD | BPF_W | BPF_ABS, kTypeOffset);
    code_.Add(BPF_ALU | BPF_AND | BPF_K, TypeAndFlags(static_cast<uint16_t>(~kDeleteBit), 0));
    code_.JumpUnless(BPF_JEQ, TypeAndFlags(kNewType, 0), accept_);
    code_.Add(BPF_LD | BPF_B | BPF_ABS, kFamilyOffset);
    code_.JumpIf(BPF_JEQ, AF_INET6, ipv6);
    code_.JumpUnless(BPF_JEQ, AF_INET, accept_);
  }

  // Flow messages of one family. No path continues behind it.
  template <typename Address>
  void Judge(const AddressRules<Address>& rules) {
    if (rules.src.networks().empty() || rules.dst.networks().empty()) {
      code_.Add(BPF_RET | BPF_K, kDrop);
      return;
    }
    const Label search = code_.NewLabel();
    JudgeUsualLayout(rules, search);
    code_.Add(BPF_RET | BPF_K, kAccept);
    code_.Bind(search);
    JudgeBySearch(rules);
    code_.Add(BPF_RET | BPF_K, kAccept);
  }

  template <typename Address>
  static bool JudgesSrc(const AddressRules<Address>& rules) {
    return !rules.src.IsEverything() || !rules.exclude.empty();
  }
  template <typename Address>
  static bool JudgesDst(const AddressRules<Address>& rules) {
    return !rules.dst.IsEverything() || !rules.exclude.empty();
  }

  template <typename Address>
  void JudgeUsualLayout(const AddressRules<Address>& rules, Label search) {
    using Layout = Usual<Address>;
    // The attribute stands where it usually does.
    const auto expect = [&](const UsualAttribute& attribute) {
      code_.Add(BPF_LD | BPF_W | BPF_ABS, attribute.offset);
      code_.JumpUnless(BPF_JEQ, HostPair(attribute.length, attribute.type), search);
    };
    const Label is_no_update = code_.NewLabel();
    code_.Add(BPF_LD | BPF_W | BPF_LEN, 0);
    code_.JumpUnless(BPF_JGE, Layout::kBytesMin, search);
    // Attributes before another one: their lengths say where that is.
    expect(Layout::kTuple);
    expect(Layout::kReply);
    expect(Layout::kId);
    if (rules_.workers > 1) {
      code_.Add(BPF_LD | BPF_W | BPF_ABS, Layout::kId.payload());
      KeepOwnShare();
    }
    code_.Add(BPF_LD | BPF_W | BPF_ABS, kTypeOffset);
    code_.JumpIf(BPF_JSET, kNoUpdateBits, is_no_update);
    code_.Add(BPF_LD | BPF_W | BPF_LEN, 0);
    code_.JumpUnless(BPF_JGE, Layout::kUpdateBytesMin, search);
    expect(Layout::kStatus);
    expect(Layout::kTimeout);
    expect(Layout::kProtoInfo);
    expect(Layout::kTcp);
    expect(Layout::kState);
    code_.Add(BPF_LD | BPF_B | BPF_ABS, Layout::kState.payload());
    KeepClosingState(is_no_update);
    code_.Bind(is_no_update);
    const bool addresses = JudgesSrc(rules) || JudgesDst(rules);
    if (addresses || !rules_.include_icmp) expect(Layout::kIp);
    if (addresses) {
      expect(Layout::kSrc);
      if (JudgesSrc(rules)) {
        KeepAddress(rules.src, rules.exclude, [&](uint32_t word) {
          code_.Add(BPF_LD | BPF_W | BPF_ABS, Layout::kSrc.payload() + word);
        });
      }
      if (JudgesDst(rules)) {
        expect(Layout::kDst);
        KeepAddress(rules.dst, rules.exclude, [&](uint32_t word) {
          code_.Add(BPF_LD | BPF_W | BPF_ABS, Layout::kDst.payload() + word);
        });
      }
    }
    if (!rules_.include_icmp) {
      expect(Layout::kProto);
      expect(Layout::kNumber);
      code_.Add(BPF_LD | BPF_B | BPF_ABS, Layout::kNumber.payload());
      code_.JumpIf(BPF_JEQ, FamilyNumbers<Address>::kIcmp, drop_);
    }
  }

  template <typename Address>
  void JudgeBySearch(const AddressRules<Address>& rules) {
    if (rules_.workers > 1) {
      const Label has_id = code_.NewLabel();
      Find(CTA_ID);
      code_.JumpIf(BPF_JEQ, 0, has_id);  // No CTA_ID: A is 0, and so is the id.
      LoadPayload(BPF_W);
      code_.Bind(has_id);
      KeepOwnShare();
    }
    const Label is_no_update = code_.NewLabel();
    code_.Add(BPF_LD | BPF_W | BPF_ABS, kTypeOffset);
    code_.JumpIf(BPF_JSET, kNoUpdateBits, is_no_update);
    // An UPDATE without a TCP state closes nothing.
    Find(CTA_PROTOINFO);
    code_.JumpIf(BPF_JEQ, 0, drop_);
    FindInNest(CTA_PROTOINFO_TCP);
    code_.JumpIf(BPF_JEQ, 0, drop_);
    FindInNest(CTA_PROTOINFO_TCP_STATE);
    LoadPayload(BPF_B);  // Without a state that is a byte of the message's type, 0: no such state.
    KeepClosingState(is_no_update);
    code_.Bind(is_no_update);
    const bool addresses = JudgesSrc(rules) || JudgesDst(rules);
    if (!addresses && rules_.include_icmp) return;
    Find(CTA_TUPLE_ORIG);
    code_.JumpIf(BPF_JEQ, 0, accept_);
    if (addresses && !rules_.include_icmp) code_.Add(BPF_ST, kTupleSlot);
    if (addresses) {
      FindInNest(CTA_TUPLE_IP);
      code_.JumpIf(BPF_JEQ, 0, accept_);
      const bool both = JudgesSrc(rules) && JudgesDst(rules);
      if (both) code_.Add(BPF_ST, kAddressesSlot);
      if (JudgesSrc(rules)) SearchAddress(FamilyNumbers<Address>::kSrc, rules.src, rules.exclude);
      if (both) code_.Add(BPF_LD | BPF_MEM, kAddressesSlot);
      if (JudgesDst(rules)) SearchAddress(FamilyNumbers<Address>::kDst, rules.dst, rules.exclude);
    }
    if (!rules_.include_icmp) {
      if (addresses) code_.Add(BPF_LD | BPF_MEM, kTupleSlot);
      FindInNest(CTA_TUPLE_PROTO);
      code_.JumpIf(BPF_JEQ, 0, accept_);
      FindInNest(CTA_PROTO_NUM);
      LoadPayload(BPF_B);  // Without a number that is a byte of the message's type: 0 or 2.
      code_.JumpIf(BPF_JEQ, FamilyNumbers<Address>::kIcmp, drop_);
    }
  }

  // OwnerOfFlow(A, workers) == worker.
  void KeepOwnShare() {
    if (std::has_single_bit(rules_.workers)) {
      code_.Add(BPF_ALU | BPF_AND | BPF_K, rules_.workers - 1);  // Spares the division.
    } else {
      code_.Add(BPF_ALU | BPF_MOD | BPF_K, rules_.workers);
    }
    code_.JumpUnless(BPF_JEQ, rules_.worker, drop_);
  }

  // The TCP state A must be one that closes a connection.
  void KeepClosingState(Label closes) {
    code_.JumpIf(BPF_JEQ, static_cast<uint32_t>(TcpState::kLastAck), closes);
    code_.JumpIf(BPF_JEQ, static_cast<uint32_t>(TcpState::kCloseWait), closes);
    code_.JumpUnless(BPF_JEQ, static_cast<uint32_t>(TcpState::kClose), drop_);
  }

  static constexpr uint32_t kWordBytes = sizeof(uint32_t);

  static uint32_t Word(const Ipv4Address& address, uint32_t) { return address.ToHostOrder(); }
  static uint32_t Word(const Ipv6Address& address, uint32_t index) {
    return __builtin_bswap32(address.words[index]);
  }

  // Continues if the address is in `network`, otherwise jumps to `unless`. `load`: a word of the
  // address, by its offset, to A; `loaded`: A has the only one.
  template <typename Address, typename Load>
  void CompareWords(const Cidr<Address>& network, Label unless, const Load& load, bool* loaded) {
    constexpr uint32_t kWords = sizeof(Address) / kWordBytes;
    for (uint32_t i = 0; i < kWords; ++i) {
      const uint32_t mask = Word(network.mask, i);
      const uint32_t wanted = Word(network.network, i);
      if (mask == 0 && wanted == 0) continue;
      if (!*loaded) load(i * kWordBytes);
      *loaded = kWords == 1 && mask == ~0u;
      if (mask != ~0u) code_.Add(BPF_ALU | BPF_AND | BPF_K, mask);
      code_.JumpUnless(BPF_JEQ, wanted, unless);
    }
  }

  // The address must be of one of `networks` and not excluded.
  template <typename Address, typename Load>
  void KeepAddress(const CidrList<Address>& networks, const AddressList<Address>& exclude,
                   const Load& load) {
    bool loaded = false;
    Address whole;
    std::memset(static_cast<void*>(&whole), 0xff, sizeof(whole));
    for (const Address& address : exclude.addresses()) {
      const Label next = code_.NewLabel();
      CompareWords(Cidr<Address>{address, whole}, next, load, &loaded);
      code_.Jump(drop_);
      code_.Bind(next);
    }
    if (networks.IsEverything()) return;
    const Label found = code_.NewLabel();
    const std::vector<Cidr<Address>>& list = networks.networks();
    for (size_t i = 0; i + 1 < list.size(); ++i) {
      const Label next = code_.NewLabel();
      CompareWords(list[i], next, load, &loaded);
      code_.Jump(found);
      code_.Bind(next);
    }
    CompareWords(list.back(), drop_, load, &loaded);
    code_.Bind(found);
  }

  // The same for the attribute `type` of the nest at A.
  template <typename Address>
  void SearchAddress(uint16_t type, const CidrList<Address>& networks,
                     const AddressList<Address>& exclude) {
    FindInNest(type);
    code_.JumpIf(BPF_JEQ, 0, accept_);
    code_.Add(BPF_MISC | BPF_TAX, 0);
    KeepAddress(networks, exclude, [&](uint32_t word) {
      code_.Add(BPF_LD | BPF_W | BPF_IND, kAttributeHeaderBytes + word);
    });
  }

  // A = offset of the header of the message's attribute `type`, or 0 if there is none.
  void Find(uint16_t type) {
    code_.Add(BPF_LDX | BPF_IMM, type);
    code_.Add(BPF_LD | BPF_IMM, kFirstAttribute);
    code_.Add(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(SKF_AD_OFF + SKF_AD_NLATTR));
  }

  // The same, within the nest whose header is at A. That must not be 0: the message's own header
  // would be taken for a nest, in which a long message may have anything.
  void FindInNest(uint16_t type) {
    code_.Add(BPF_LDX | BPF_IMM, type);
    code_.Add(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(SKF_AD_OFF + SKF_AD_NLATTR_NEST));
  }

  // A = the payload, of `size` BPF_W or BPF_B, of the attribute whose header is at A.
  void LoadPayload(uint16_t size) {
    code_.Add(BPF_MISC | BPF_TAX, 0);
    code_.Add(static_cast<uint16_t>(BPF_LD | size | BPF_IND), kAttributeHeaderBytes);
  }

  const EventFilterRules& rules_;
  FilterAssembler code_;
  const Label accept_ = code_.NewLabel();
  const Label drop_ = code_.NewLabel();
};

}  // namespace

std::vector<sock_filter> BuildEventFilter(const EventFilterRules& rules) {
  assert(rules.worker < rules.workers);
  return EventFilterBuilder(rules).Build();
}

FilterAssembler::Label FilterAssembler::NewLabel() {
  labels_.emplace_back();
  return Label(labels_.size() - 1);
}

void FilterAssembler::Bind(Label label) {
  assert(!labels_[label.index_].has_value());
  labels_[label.index_] = program_.size();
}

void FilterAssembler::Add(uint16_t code, uint32_t k) {
  assert(BPF_CLASS(code) != BPF_JMP);
  program_.push_back({.code = BPF_STMT(code, k)});
}

void FilterAssembler::JumpIf(uint16_t test, uint32_t k, Label target) {
  const auto code = static_cast<uint16_t>(BPF_JMP | test | BPF_K);
  program_.push_back({.code = BPF_STMT(code, k), .target = target.index_, .jumps_if = true});
}

void FilterAssembler::JumpUnless(uint16_t test, uint32_t k, Label target) {
  const auto code = static_cast<uint16_t>(BPF_JMP | test | BPF_K);
  program_.push_back({.code = BPF_STMT(code, k), .target = target.index_});
}

void FilterAssembler::Jump(Label target) {
  program_.push_back({.code = BPF_STMT(BPF_JMP | BPF_JA, 0), .target = target.index_});
}

absl::StatusOr<std::vector<sock_filter>> FilterAssembler::Assemble() const {
  std::vector<Instruction> program = program_;
  for (size_t i = 0; i < program.size(); ++i) {
    if (!program[i].target.has_value()) continue;
    if (absl::StatusOr<size_t> target = TargetOf(i); !target.ok()) return target.status();
  }
  // Where each instruction stands. Each jump that is added may make others too short.
  std::vector<size_t> at(program.size() + 1);
  const auto offset = [&](size_t from) { return at[*TargetOf(from)] - at[from] - 1; };
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = 0; i < program.size(); ++i) at[i + 1] = at[i] + (program[i].far ? 2 : 1);
    for (size_t i = 0; i < program.size(); ++i) {
      Instruction& jump = program[i];
      if (!jump.target.has_value() || BPF_OP(jump.code.code) == BPF_JA || jump.far) continue;
      jump.far = offset(i) > UINT8_MAX;
      changed = changed || jump.far;
    }
  }
  if (at.back() > BPF_MAXINSNS) {
    return absl::OutOfRangeError(
        absl::StrCat("BPF program of ", at.back(), " instructions, at most ", BPF_MAXINSNS));
  }
  std::vector<sock_filter> assembled;
  assembled.reserve(at.back());
  for (size_t i = 0; i < program.size(); ++i) {
    const Instruction& instruction = program[i];
    sock_filter code = instruction.code;
    if (!instruction.target.has_value()) {
      assembled.push_back(code);
    } else if (BPF_OP(code.code) == BPF_JA) {
      code.k = static_cast<uint32_t>(offset(i));
      assembled.push_back(code);
    } else if (!instruction.far) {
      (instruction.jumps_if ? code.jt : code.jf) = static_cast<uint8_t>(offset(i));
      assembled.push_back(code);
    } else {
      (instruction.jumps_if ? code.jf : code.jt) = 1;
      assembled.push_back(code);
      assembled.push_back(BPF_STMT(BPF_JMP | BPF_JA, static_cast<uint32_t>(offset(i) - 1)));
    }
  }
  return assembled;
}

absl::StatusOr<size_t> FilterAssembler::TargetOf(size_t from) const {
  const std::optional<size_t> to = labels_[*program_[from].target];
  if (!to.has_value() || *to >= program_.size()) {
    return absl::FailedPreconditionError(absl::StrCat("BPF jump at ", from, " to nowhere"));
  }
  if (*to <= from) {
    return absl::OutOfRangeError(absl::StrCat("BPF jump at ", from, " backwards, to ", *to));
  }
  return *to;
}

}  // namespace ctacct
