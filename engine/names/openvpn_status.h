// OpenVPN's status file, versions 1, 2 and 3: who has which address, and since when.
//
// Pure functions; thread-safe.
#ifndef CTACCT_ENGINE_NAMES_OPENVPN_STATUS_H_
#define CTACCT_ENGINE_NAMES_OPENVPN_STATUS_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/names/source_text.h"

namespace ctacct {

// The clients' virtual addresses, of both families, and the networks routed to them (--iroute), by
// common name, each from the moment when the client connected. Version 1 says that in the server's
// time zone, `zone`.
//
// A client whose name cannot be one is a problem and has no entry; the others do.
//
// InvalidArgument: not a status file, or not whole: OpenVPN rewrites it in place.
[[nodiscard]] absl::StatusOr<SourceNames> ParseOpenvpnStatus(absl::string_view text,
                                                             absl::TimeZone zone);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_NAMES_OPENVPN_STATUS_H_
