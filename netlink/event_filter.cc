#include "netlink/event_filter.h"

#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include <bit>
#include <cassert>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "netlink/flow_event.h"

namespace ctacct {
namespace {

constexpr uint32_t kProtocolIcmp = 1;

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

bool IsEverything(const Ipv4Cidr& cidr) {
  return cidr.mask == kIpv4Everything.mask && cidr.network == kIpv4Everything.network;
}

// Where kernels put the attributes of TCP and UDP flows without a zone: offset of the header, and
// what it says.
struct UsualAttribute {
  uint32_t offset;
  uint16_t length;
  uint16_t type;
  constexpr uint32_t payload() const { return offset + kAttributeHeaderBytes; }
};
constexpr UsualAttribute kUsualTuple = {kFirstAttribute, 52, CTA_TUPLE_ORIG | NLA_F_NESTED};
constexpr UsualAttribute kUsualIp = {kUsualTuple.payload(), 20, CTA_TUPLE_IP | NLA_F_NESTED};
constexpr UsualAttribute kUsualSrc = {kUsualIp.payload(), 8, CTA_IP_V4_SRC};
constexpr UsualAttribute kUsualDst = {kUsualSrc.offset + 8, 8, CTA_IP_V4_DST};
constexpr UsualAttribute kUsualProto = {kUsualDst.offset + 8, 28, CTA_TUPLE_PROTO | NLA_F_NESTED};
constexpr UsualAttribute kUsualNumber = {kUsualProto.payload(), 5, CTA_PROTO_NUM};
constexpr UsualAttribute kUsualReply = {kUsualTuple.offset + 52, 52,
                                        CTA_TUPLE_REPLY | NLA_F_NESTED};
constexpr UsualAttribute kUsualId = {kUsualReply.offset + 52, 8, CTA_ID};
constexpr UsualAttribute kUsualStatus = {kUsualId.offset + 8, 8, CTA_STATUS};
// In UPDATEs of TCP:
constexpr UsualAttribute kUsualTimeout = {kUsualStatus.offset + 8, 8, CTA_TIMEOUT};
constexpr UsualAttribute kUsualProtoInfo = {kUsualTimeout.offset + 8, 48,
                                            CTA_PROTOINFO | NLA_F_NESTED};
constexpr UsualAttribute kUsualTcp = {kUsualProtoInfo.payload(), 44,
                                      CTA_PROTOINFO_TCP | NLA_F_NESTED};
constexpr UsualAttribute kUsualState = {kUsualTcp.payload(), 5, CTA_PROTOINFO_TCP_STATE};
constexpr uint32_t kUsualBytesMin = kUsualStatus.offset;
constexpr uint32_t kUsualUpdateBytesMin = kUsualProtoInfo.offset + 48;

// Every rule is there twice. The kernel's helpers find an attribute wherever it stands, but each
// search is two calls, which is most of what a program costs. So first the message is taken to be
// of the layout that most have: loads at fixed offsets, after a look at the headers that must stand
// there. Where one of them does not, the message is judged from the start by searching.
//
// The order of the rules is that of cost per rejected event. First the share: with several workers
// most events are another's, and one load or search tells. Then UPDATEs, of which most close
// nothing; others pay one jump. The tuple last: it costs most, and who sets no src, dst or exclude
// hardly rejects any flow by it.
class EventFilterBuilder {
 public:
  explicit EventFilterBuilder(const EventFilterRules& rules) : rules_(rules) {}

  std::vector<sock_filter> Build() {
    PassOtherMessages();
    JudgeUsualLayout();
    code_.Add(BPF_RET | BPF_K, kAccept);
    code_.Bind(search_);
    JudgeBySearch();
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

  // Flow messages of IPv4 go on; IPv6 is dropped, all else accepted.
  void PassOtherMessages() {
    // A load past the end would drop what is too short to be a flow.
    code_.Add(BPF_LD | BPF_W | BPF_LEN, 0);
    code_.JumpUnless(BPF_JGE, kFirstAttribute, accept_);
    code_.Add(BPF_LD | BPF_W | BPF_ABS, kTypeOffset);
    code_.Add(BPF_ALU | BPF_AND | BPF_K, TypeAndFlags(static_cast<uint16_t>(~kDeleteBit), 0));
    code_.JumpUnless(BPF_JEQ, TypeAndFlags(kNewType, 0), accept_);
    code_.Add(BPF_LD | BPF_B | BPF_ABS, kFamilyOffset);
    code_.JumpIf(BPF_JEQ, AF_INET6, drop_);
    code_.JumpUnless(BPF_JEQ, AF_INET, accept_);
  }

  bool JudgesSrc() const { return !IsEverything(rules_.src) || rules_.exclude.has_value(); }
  bool JudgesDst() const { return !IsEverything(rules_.dst) || rules_.exclude.has_value(); }

  void JudgeUsualLayout() {
    const Label is_no_update = code_.NewLabel();
    code_.Add(BPF_LD | BPF_W | BPF_LEN, 0);
    code_.JumpUnless(BPF_JGE, kUsualBytesMin, search_);
    // Attributes before another one: their lengths say where that is.
    Expect(kUsualTuple);
    Expect(kUsualReply);
    Expect(kUsualId);
    if (rules_.workers > 1) {
      code_.Add(BPF_LD | BPF_W | BPF_ABS, kUsualId.payload());
      KeepOwnShare();
    }
    code_.Add(BPF_LD | BPF_W | BPF_ABS, kTypeOffset);
    code_.JumpIf(BPF_JSET, kNoUpdateBits, is_no_update);
    code_.Add(BPF_LD | BPF_W | BPF_LEN, 0);
    code_.JumpUnless(BPF_JGE, kUsualUpdateBytesMin, search_);
    Expect(kUsualStatus);
    Expect(kUsualTimeout);
    Expect(kUsualProtoInfo);
    Expect(kUsualTcp);
    Expect(kUsualState);
    code_.Add(BPF_LD | BPF_B | BPF_ABS, kUsualState.payload());
    KeepClosingState(is_no_update);
    code_.Bind(is_no_update);
    const bool addresses = JudgesSrc() || JudgesDst();
    if (addresses || !rules_.include_icmp) Expect(kUsualIp);
    if (addresses) {
      Expect(kUsualSrc);
      if (JudgesSrc()) {
        code_.Add(BPF_LD | BPF_W | BPF_ABS, kUsualSrc.payload());
        KeepAddress(rules_.src);
      }
      if (JudgesDst()) {
        Expect(kUsualDst);
        code_.Add(BPF_LD | BPF_W | BPF_ABS, kUsualDst.payload());
        KeepAddress(rules_.dst);
      }
    }
    if (!rules_.include_icmp) {
      Expect(kUsualProto);
      Expect(kUsualNumber);
      code_.Add(BPF_LD | BPF_B | BPF_ABS, kUsualNumber.payload());
      code_.JumpIf(BPF_JEQ, kProtocolIcmp, drop_);
    }
  }

  void JudgeBySearch() {
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
    const bool addresses = JudgesSrc() || JudgesDst();
    if (!addresses && rules_.include_icmp) return;
    Find(CTA_TUPLE_ORIG);
    code_.JumpIf(BPF_JEQ, 0, accept_);
    if (addresses && !rules_.include_icmp) code_.Add(BPF_ST, kTupleSlot);
    if (addresses) {
      FindInNest(CTA_TUPLE_IP);
      code_.JumpIf(BPF_JEQ, 0, accept_);
      const bool both = JudgesSrc() && JudgesDst();
      if (both) code_.Add(BPF_ST, kAddressesSlot);
      if (JudgesSrc()) SearchAddress(CTA_IP_V4_SRC, rules_.src);
      if (both) code_.Add(BPF_LD | BPF_MEM, kAddressesSlot);
      if (JudgesDst()) SearchAddress(CTA_IP_V4_DST, rules_.dst);
    }
    if (!rules_.include_icmp) {
      if (addresses) code_.Add(BPF_LD | BPF_MEM, kTupleSlot);
      FindInNest(CTA_TUPLE_PROTO);
      code_.JumpIf(BPF_JEQ, 0, accept_);
      FindInNest(CTA_PROTO_NUM);
      LoadPayload(BPF_B);  // Without a number that is a byte of the message's type: 0 or 2.
      code_.JumpIf(BPF_JEQ, kProtocolIcmp, drop_);
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

  // The address A must be of `cidr` and not excluded.
  void KeepAddress(const Ipv4Cidr& cidr) {
    if (rules_.exclude.has_value()) {
      code_.JumpIf(BPF_JEQ, rules_.exclude->ToHostOrder(), drop_);
    }
    if (IsEverything(cidr)) return;
    if (cidr.mask != kIpv4MaskAll) {
      code_.Add(BPF_ALU | BPF_AND | BPF_K, cidr.mask.ToHostOrder());
    }
    code_.JumpUnless(BPF_JEQ, cidr.network.ToHostOrder(), drop_);
  }

  // The same for the attribute `type` of the nest at A.
  void SearchAddress(uint16_t type, const Ipv4Cidr& cidr) {
    FindInNest(type);
    code_.JumpIf(BPF_JEQ, 0, accept_);
    LoadPayload(BPF_W);
    KeepAddress(cidr);
  }

  // The attribute stands where it usually does.
  void Expect(const UsualAttribute& attribute) {
    code_.Add(BPF_LD | BPF_W | BPF_ABS, attribute.offset);
    code_.JumpUnless(BPF_JEQ, HostPair(attribute.length, attribute.type), search_);
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
  const Label search_ = code_.NewLabel();
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
  program_.push_back({.code = BPF_STMT(code, k), .if_true = {}, .if_false = {}});
}

void FilterAssembler::JumpIf(uint16_t test, uint32_t k, Label target) {
  const auto code = static_cast<uint16_t>(BPF_JMP | test | BPF_K);
  program_.push_back({.code = BPF_STMT(code, k), .if_true = target.index_, .if_false = {}});
}

void FilterAssembler::JumpUnless(uint16_t test, uint32_t k, Label target) {
  const auto code = static_cast<uint16_t>(BPF_JMP | test | BPF_K);
  program_.push_back({.code = BPF_STMT(code, k), .if_true = {}, .if_false = target.index_});
}

absl::StatusOr<std::vector<sock_filter>> FilterAssembler::Assemble() const {
  if (program_.size() > BPF_MAXINSNS) {
    return absl::OutOfRangeError(
        absl::StrCat("BPF program of ", program_.size(), " instructions, at most ", BPF_MAXINSNS));
  }
  std::vector<sock_filter> assembled;
  assembled.reserve(program_.size());
  for (size_t i = 0; i < program_.size(); ++i) {
    const absl::StatusOr<uint8_t> if_true = Offset(i, program_[i].if_true);
    if (!if_true.ok()) return if_true.status();
    const absl::StatusOr<uint8_t> if_false = Offset(i, program_[i].if_false);
    if (!if_false.ok()) return if_false.status();
    sock_filter code = program_[i].code;
    code.jt = *if_true;
    code.jf = *if_false;
    assembled.push_back(code);
  }
  return assembled;
}

absl::StatusOr<uint8_t> FilterAssembler::Offset(size_t from, std::optional<size_t> label) const {
  if (!label.has_value()) return uint8_t{0};  // The next instruction.
  const std::optional<size_t> to = labels_[*label];
  if (!to.has_value() || *to >= program_.size()) {
    return absl::FailedPreconditionError(absl::StrCat("BPF jump at ", from, " to nowhere"));
  }
  if (*to <= from) {
    return absl::OutOfRangeError(absl::StrCat("BPF jump at ", from, " backwards, to ", *to));
  }
  const size_t offset = *to - from - 1;
  if (offset > UINT8_MAX) {
    return absl::OutOfRangeError(absl::StrCat("BPF jump at ", from, " to ", *to, ": too far"));
  }
  return static_cast<uint8_t>(offset);
}

}  // namespace ctacct
