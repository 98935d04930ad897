// What top shows, from the files: the newest intervals in a spool folder and an engine's metrics
// file, with what is wrong with either. Thread-compatible.
#ifndef CTACCT_ENGINE_TOP_SOURCE_H_
#define CTACCT_ENGINE_TOP_SOURCE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/top/health.h"
#include "engine/top/screen.h"
#include "engine/top/spool_watch.h"
#include "engine/top/top_names.h"

namespace ctacct {

class Source {
 public:
  // `metrics_path` may be empty. `interval_ns` is the interval where no file contains it. `names`:
  // also who holds the addresses.
  Source(TopFolder folder, std::string metrics_path, int64_t interval_ns, bool names)
      : folder_(std::move(folder)),
        metrics_path_(std::move(metrics_path)),
        interval_ns_(interval_ns),
        names_wanted_(names) {}

  // Readable when something may have happened; -1: look from time to time.
  [[nodiscard]] int fd() const { return folder_.fd(); }

  // Reads what is new. True if there are new intervals or names.
  bool Update();

  // Puts the intervals into the state. They stay valid until the next call.
  void FillIntervals(TopState* state);
  // Puts everything else into it, but the chosen gateway.
  void FillRest(TopState* state) const;

 private:
  void UpdateHealth();
  // True if there are other names.
  bool UpdateNames();

  TopFolder folder_;
  std::string metrics_path_;
  int64_t interval_ns_;
  std::vector<std::shared_ptr<const TopInterval>> shown_;
  std::string folder_error_;
  uint64_t files_lost_ = 0;  // Damaged, or deleted too soon.
  int64_t lost_at_ns_ = 0;   // When the last one was noticed.
  std::optional<EngineHealth> health_;
  std::optional<EngineHealth> before_;  // The metrics file's contents before these.
  std::string health_error_;
  bool names_wanted_;
  std::pair<uint64_t, int64_t> names_stamp_;  // Inode and time of the file that was read.
  std::shared_ptr<const TopNames> names_;
  std::shared_ptr<const TopNames> names_shown_;
  std::string names_error_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_TOP_SOURCE_H_
