// What a listing of firewall rules says of conntrack: of nft's text, with handles ("nft -a list
// ruleset"), and of iptables-save's. Pure functions of text; thread-safe.
//
// Text, because nft's JSON of Debian 12 leaves out a flowtable's `counter` and the rules that
// iptables-nft has made.
#ifndef CTACCT_IMPORTER_DOCTOR_RULESET_H_
#define CTACCT_IMPORTER_DOCTOR_RULESET_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace ctacct {

struct RuleSource {
  std::string what;    // "ip raw prerouting: udp dport 53 notrack"
  std::string remedy;  // The command that takes it away, or puts it right.
};

struct RulesetFindings {
  std::vector<RuleSource> untracking;  // Rules that keep packets from conntrack.
  std::vector<RuleSource> masking;     // Rules that keep the kernel from reporting ends.
  std::vector<RuleSource> hiding;      // Other ones that keep it from reporting births.
  // Rules of iptables' target CT of which nft does not say what they do: a mask, a zone, a helper.
  std::vector<RuleSource> ct_targets;
  std::vector<RuleSource> uncounted_offload;  // Flowtables without `counter`.
  size_t flowtables = 0;
  // The first rule that makes the kernel turn conntrack on in the namespace; empty: none.
  std::string tracking;
};

// Adds to *findings.
void ReadNftRuleset(absl::string_view listing, RulesetFindings* findings);
// `save` is the program's name, as in "iptables-legacy-save"; its remedies are of
// "iptables-legacy".
void ReadIptablesSave(absl::string_view listing, absl::string_view save, RulesetFindings* findings);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_DOCTOR_RULESET_H_
