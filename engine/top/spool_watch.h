// The last interval of each gateway that writes into a spool folder, as files appear there: spool
// files, or CSV files named traffic_*.csv.
//
// An importer may delete a file within milliseconds of its creation. So inotify reports each file,
// and it is opened at once: an open file can be read to its end even after it was deleted. A file
// that was deleted before that is counted as missed. Without inotify the folder is scanned each
// time, and most files that somebody deletes are missed.
//
// Nothing in the folder is ever changed. A file counts once its last checksum has been checked; one
// that is damaged, not readable, or larger than kTopRowsMax rows is skipped and reported.
// Memory: one interval of each gateway. Thread-compatible.
#ifndef CTACCT_ENGINE_TOP_SPOOL_WATCH_H_
#define CTACCT_ENGINE_TOP_SPOOL_WATCH_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/spool/engine_id.h"
#include "engine/system/unique_fd.h"
#include "engine/top/traffic.h"

namespace ctacct {

// Four times the engine's own default limit (-max-rows); some 400 MB.
inline constexpr size_t kTopRowsMax = 4'000'000;

class TopFolder {
 public:
  // Reads the files that exist. `csv_length_ns` is the interval of CSV files, which do not contain
  // it.
  [[nodiscard]] static absl::StatusOr<TopFolder> Open(const std::string& folder,
                                                      int64_t csv_length_ns);

  [[nodiscard]] const std::string& path() const { return folder_; }

  // Readable when something may have happened; -1 without inotify.
  [[nodiscard]] int fd() const { return inotify_fd_.get(); }

  // Reads the files that are new. True: intervals() has changed. An error: the folder does not
  // exist, or cannot be read; the intervals stay, and a later call looks for the folder again.
  [[nodiscard]] absl::StatusOr<bool> Update();

  // One of each gateway, by its name. They do not change; Update makes new ones.
  [[nodiscard]] std::vector<std::shared_ptr<const TopInterval>> intervals() const;

  [[nodiscard]] uint64_t skipped() const { return skipped_; }
  [[nodiscard]] const std::string& skipped_why() const { return skipped_why_; }  // The last one's.
  [[nodiscard]] uint64_t missed() const { return missed_; }

 private:
  // The newest interval of a gateway, and the engine that wrote it.
  struct Newest {
    std::shared_ptr<const TopInterval> interval;
    EngineId engine_id{};
    uint64_t sequence = 0;
  };

  TopFolder(std::string folder, int64_t csv_length_ns)
      : folder_(std::move(folder)), csv_length_ns_(csv_length_ns) {}
  // Opens folder and inotify, and reads what is there.
  [[nodiscard]] absl::StatusOr<bool> OpenAndScan();
  // Reads those files of the folder that may be the newest of a gateway.
  [[nodiscard]] absl::StatusOr<bool> Scan();
  // These return true if the file is now (part of) its gateway's newest interval. Unless `sure`, it
  // may still be incomplete, so that an error in it is not reported.
  bool TakeFile(const std::string& name, bool sure);
  [[nodiscard]] absl::StatusOr<bool> TakeSpool(int fd, const std::string& path,
                                               const std::string& name);
  [[nodiscard]] absl::StatusOr<bool> TakeCsv(int fd, const std::string& path,
                                             const std::string& name);
  [[nodiscard]] absl::StatusOr<bool> TakeInterval(TopInterval interval, const std::string& path,
                                                  const EngineId& engine_id, uint64_t sequence);
  // False if it would not become (part of) its gateway's newest interval.
  [[nodiscard]] bool Wanted(const std::string& gateway, const EngineId& engine_id,
                            uint64_t sequence, int64_t end_ns) const;
  void Skip(const std::string& name, absl::string_view why);
  // False if it was noted before.
  bool NoteBad(const std::string& name);

  std::string folder_;
  int64_t csv_length_ns_;
  UniqueFd folder_fd_;  // Invalid: the folder does not exist.
  UniqueFd inotify_fd_;
  std::map<std::string, Newest> newest_;
  std::set<std::string> bad_;  // Names of what was skipped or missed.
  uint64_t skipped_ = 0;
  std::string skipped_why_;
  uint64_t missed_ = 0;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_TOP_SPOOL_WATCH_H_
