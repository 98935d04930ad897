// The last interval of each gateway that writes into a spool folder, as files appear there: spool
// files, or CSV files named traffic_*.csv.
//
// An importer may delete a file within milliseconds of its appearing. So inotify tells of it, and
// it is opened at once: an open file can be read to its end, whatever becomes of its name. A file
// that was gone before is counted as missed. Where there is no inotify, the folder is looked at
// each time, and most files that somebody deletes are missed.
//
// Nothing in the folder is ever changed. A file is believed once its last checksum has been seen;
// one that is damaged, not readable, or larger than kTopRowsMax rows is passed over and told.
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
  // Reads what is there. `csv_length_ns` is the length of the interval of CSV files, which do not
  // tell it.
  [[nodiscard]] static absl::StatusOr<TopFolder> Open(const std::string& folder,
                                                      int64_t csv_length_ns);

  [[nodiscard]] const std::string& path() const { return folder_; }

  // Readable when something may have happened; -1 where there is no inotify.
  [[nodiscard]] int fd() const { return inotify_fd_.get(); }

  // Takes in what has appeared since. True: intervals() has changed. An error: the folder is not
  // there, or cannot be read; what was read stays, and a later call looks for it again.
  [[nodiscard]] absl::StatusOr<bool> Update();

  // One of each gateway, by its name. They do not change; Update makes new ones.
  [[nodiscard]] std::vector<std::shared_ptr<const TopInterval>> intervals() const;

  [[nodiscard]] uint64_t skipped() const { return skipped_; }
  [[nodiscard]] const std::string& skipped_why() const { return skipped_why_; }  // The last one's.
  [[nodiscard]] uint64_t missed() const { return missed_; }

 private:
  // The newest interval of a gateway, and which engine told of it.
  struct Newest {
    std::shared_ptr<const TopInterval> interval;
    EngineId engine_id{};
    uint64_t sequence = 0;
  };

  TopFolder(std::string folder, int64_t csv_length_ns)
      : folder_(std::move(folder)), csv_length_ns_(csv_length_ns) {}
  // Opens folder and inotify, and reads what is there.
  [[nodiscard]] absl::StatusOr<bool> OpenAndScan();
  // Reads the files of the folder that may be somebody's newest.
  [[nodiscard]] absl::StatusOr<bool> Scan();
  // True: it is now (part of) its gateway's newest interval. `sure`: it is complete, so that an
  // error in it is one.
  bool TakeFile(const std::string& name, bool sure);
  bool TakeSpool(int fd, const std::string& path, const std::string& name, bool sure);
  bool TakeCsv(int fd, const std::string& path, const std::string& name);
  bool TakeInterval(TopInterval interval, const EngineId& engine_id, uint64_t sequence);
  // False if it would not become (part of) its gateway's newest interval.
  [[nodiscard]] bool Wanted(const std::string& gateway, const EngineId& engine_id,
                            uint64_t sequence, int64_t end_ns) const;
  void Skip(const std::string& name, absl::string_view why);
  // False if it was noted before.
  bool NoteBad(const std::string& name);

  std::string folder_;
  int64_t csv_length_ns_;
  UniqueFd folder_fd_;  // Invalid: it is not there.
  UniqueFd inotify_fd_;
  std::map<std::string, Newest> newest_;
  std::set<std::string> bad_;  // Names of what was skipped or missed.
  uint64_t skipped_ = 0;
  std::string skipped_why_;
  uint64_t missed_ = 0;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_TOP_SPOOL_WATCH_H_
