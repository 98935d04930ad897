// Where files go once the importer has finished with them. Nothing here ever replaces a file: on a
// clash of names the newcomer gets a number (a name of the maximum length gives up its end for it,
// and for ".reason"). If the name means another file by now than the one that was read, it is left
// alone. If the file is gone (another importer was faster), that is no error. If it has changed
// since it was opened, the error is Aborted and the file stays: what was added to it is not
// in the database.
//
// Thread-compatible.
#ifndef CTACCT_IMPORTER_FILES_DISPOSAL_H_
#define CTACCT_IMPORTER_FILES_DISPOSAL_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "importer/files/traffic_file.h"

namespace ctacct {

// Where bad files go, under the folder that they were in.
inline constexpr char kFailedFolder[] = "failed";
// Of the file beside a bad one that says why.
inline constexpr char kReasonSuffix[] = ".reason";

// Durably: the folder is synced.
[[nodiscard]] absl::Status RemoveFile(const TrafficFile& file);

// Into `to_folder`, also on another file system (then by a durable copy). Both folders are synced.
[[nodiscard]] absl::Status MoveFile(const TrafficFile& file, const std::string& to_folder);

// Into failed/ under the file's folder (made if missing), with `reason` in NAME.reason beside it.
// Also if the file has changed.
[[nodiscard]] absl::Status QuarantineFile(const TrafficFile& file, absl::string_view reason);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_FILES_DISPOSAL_H_
