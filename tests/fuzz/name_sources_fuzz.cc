// Any bytes as what names are read from; the first byte says as which. The entries of any source
// make a snapshot that can be written.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/names/holders.h"
#include "engine/names/name_list.h"
#include "engine/names/openvpn_status.h"
#include "engine/names/wireguard.h"
#include "tests/fuzz/bounds.h"

namespace {

using ctacct::Expect;

constexpr int64_t kNow = 1'600'000'005'000'000'000;

void ExpectSnapshot(const std::vector<ctacct::NamesEntry>& entries) {
  ctacct::NamesSnapshot snapshot;
  snapshot.gateway = "gw";
  snapshot.sequence = 1;
  snapshot.time_ns = kNow;
  snapshot.entries = ctacct::MergeNames({&entries}, kNow).entries;
  Expect(ctacct::EncodeNames(snapshot).ok());
}

void ExpectNames(const ctacct::KeyNameList& list) {
  for (const auto& [key, name] : list.names) Expect(ctacct::CheckHolderName(name).ok());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  if (bytes == 0) return 0;
  const absl::string_view text(reinterpret_cast<const char*>(data + 1), bytes - 1);
  switch (data[0]) {
    case 'f':
      ExpectSnapshot(ctacct::ParseNameList(text).entries);
      break;
    case 'k':
      ExpectNames(ctacct::ParseKeyNameList(text));
      break;
    case 'c':
      ExpectNames(ctacct::ParseWireguardConfig(text));
      break;
    case 'o':
      if (const auto list = ctacct::ParseOpenvpnStatus(text, absl::UTCTimeZone()); list.ok()) {
        ExpectSnapshot(list->entries);
      }
      break;
    case 'w': {
      ctacct::WireguardDump dump;
      (void)dump.Add(absl::Span<const uint8_t>(data + 1, bytes - 1));
      break;
    }
    case 'l':
      (void)ctacct::WireguardLinkName(absl::Span<const uint8_t>(data + 1, bytes - 1));
      break;
    default:
      break;
  }
  return 0;
}
