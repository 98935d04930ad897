// Writes one interval's rows and gaps as one spool file (spool_format.h, SPOOL_FORMAT.md), whole or
// not at all.
//
// Memory: one block besides the rows. Thread-safe.
#ifndef CTACCT_ENGINE_SPOOL_SPOOL_WRITER_H_
#define CTACCT_ENGINE_SPOOL_SPOOL_WRITER_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/rows/gap.h"
#include "engine/rows/traffic_row.h"
#include "engine/spool/engine_id.h"
#include "engine/spool/spool_header.h"

namespace ctacct {

// "ENGINE_ID-SEQUENCE.spool", the sequence in ten digits: names sort in the order of writing.
[[nodiscard]] std::string SpoolFileName(const EngineId& engine_id, uint64_t sequence);

// Returns the file's name within `folder`. If `hidden_name` is given, the file has that name
// instead, and is durable, until it is published (DurableFile::Prepare). Rows may be of both
// families, in any order; blocks hold one family each. Gaps: at most spool_format::kGapsMax.
//
// InvalidArgument: the header, a row or a gap does not fit the format, and nothing was written. Any
// other error comes from the file system and may be temporary: call again with the same rows, gaps
// and the SAME header, created_ns included. If an importer has seen the first file after all, both
// are equal byte for byte, and the ledger accepts one of them.
[[nodiscard]] absl::StatusOr<std::string> WriteSpoolFile(const std::string& folder,
                                                         const SpoolHeader& header,
                                                         absl::Span<const TrafficRow> rows,
                                                         absl::Span<const Gap> gaps = {},
                                                         const std::string& hidden_name = "");

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SPOOL_SPOOL_WRITER_H_
