// nft, by its own library, in the network namespace of the calling thread. Thread-safe.
#ifndef CTACCT_IMPORTER_DOCTOR_NFT_H_
#define CTACCT_IMPORTER_DOCTOR_NFT_H_

#include <string>

#include "absl/status/statusor.h"

namespace ctacct {

// Runs what `nft COMMANDS` would and returns what it would print, with handles.
[[nodiscard]] absl::StatusOr<std::string> RunNft(const std::string& commands);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_DOCTOR_NFT_H_
