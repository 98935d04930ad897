// The operator's own files: who holds which network, and whose WireGuard key is which.
//
// Pure functions; thread-safe.
#ifndef CTACCT_ENGINE_NAMES_NAME_LIST_H_
#define CTACCT_ENGINE_NAMES_NAME_LIST_H_

#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "engine/names/source_text.h"

namespace ctacct {

// CSV: network,name[,from[,to]]. Times are RFC 3339 or seconds since the epoch. Lines that begin
// with '#', empty lines, and a first line that begins with "network" say nothing. Ranges of one
// network must not overlap.
[[nodiscard]] SourceNames ParseNameList(absl::string_view text);

// Names by public key, as WireGuard writes it (base64).
using KeyNames = std::map<std::string, std::string>;
struct KeyNameList {
  KeyNames names;
  std::vector<LineProblem> problems;
};

// CSV: publickey,name, in a file like the one above.
[[nodiscard]] KeyNameList ParseKeyNameList(absl::string_view text);

// A configuration of wg-quick, in which tools write a peer's name as a comment in its section or
// just above it:
//   # Name = x       # friendly_name = x       ### begin x ###       ### Client x       #
//   BEGIN_PEER x
// Nothing else of it is kept: it contains private keys.
[[nodiscard]] KeyNameList ParseWireguardConfig(absl::string_view text);

// "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
[[nodiscard]] bool IsWireguardKey(absl::string_view text);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_NAMES_NAME_LIST_H_
