#include "importer/doctor/nft.h"

#include <nftables/libnftables.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace ctacct {
namespace {

struct Freer {
  void operator()(nft_ctx* context) const { nft_ctx_free(context); }
};

}  // namespace

absl::StatusOr<std::string> RunNft(const std::string& commands) {
  const std::unique_ptr<nft_ctx, Freer> context(nft_ctx_new(NFT_CTX_DEFAULT));
  if (context == nullptr || nft_ctx_buffer_output(context.get()) != 0 ||
      nft_ctx_buffer_error(context.get()) != 0) {
    return absl::ResourceExhaustedError("nft: out of memory");
  }
  nft_ctx_output_set_flags(context.get(), NFT_CTX_OUTPUT_HANDLE | NFT_CTX_OUTPUT_STATELESS);
  if (nft_run_cmd_from_buffer(context.get(), commands.c_str()) != 0) {
    // The first line says what; the others point at it.
    const absl::string_view text = nft_ctx_get_error_buffer(context.get());
    return absl::UnavailableError(
        absl::StrCat("nft: ", absl::StripAsciiWhitespace(text.substr(0, text.find('\n')))));
  }
  return std::string(nft_ctx_get_output_buffer(context.get()));
}

}  // namespace ctacct
