// Where an interval's rows go: spool files, CSV files or standard output.
//
// Thread-compatible: belongs to the flusher's thread.
#ifndef CTACCT_ENGINE_OUTPUT_ROW_SINK_H_
#define CTACCT_ENGINE_OUTPUT_ROW_SINK_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "engine/output/interval_merge.h"
#include "engine/spool/spool_header.h"

namespace ctacct {

class RowSink {
 public:
  virtual ~RowSink() = default;

  // False: this interval leaves nothing, and is not to be written.
  virtual bool Takes(const IntervalRows& interval) const;

  // Writes an interval's rows; durably, if to a file. After an error the same interval is written
  // again.
  // `hidden_name`: the file is only prepared, under this name: see checkpoint.h. Empty: it is
  // written under its own name.
  [[nodiscard]] virtual absl::Status Write(const IntervalRows& interval,
                                           const std::string& hidden_name) = 0;

  // The name of the interval's file; empty: it is not a file.
  virtual std::string FileName(const IntervalRows&) const { return ""; }
};

// Spool files in `folder`, one for every interval: one without rows says that nothing moved, as no
// file at all would not. `header` contains what all files of this run share.
class SpoolSink : public RowSink {
 public:
  SpoolSink(std::string folder, SpoolHeader header)
      : folder_(std::move(folder)), header_(std::move(header)) {}
  bool Takes(const IntervalRows&) const override { return true; }
  absl::Status Write(const IntervalRows& interval, const std::string& hidden_name) override;
  std::string FileName(const IntervalRows& interval) const override;

 private:
  const std::string folder_;
  SpoolHeader header_;
};

// Files traffic_2006-01-02T15_04_05.csv in `folder`, named by the interval's end, UTC. An interval
// without rows gets no file. Where a name is taken, `_1` is added, or the next number.
class CsvSink : public RowSink {
 public:
  CsvSink(std::string folder, bool track_open)
      : folder_(std::move(folder)), track_open_(track_open) {}
  absl::Status Write(const IntervalRows& interval, const std::string& hidden_name) override;
  std::string FileName(const IntervalRows& interval) const override;

  // The `copy`-th name like `name`, which is copy 0: two engines of one folder, or a restart within
  // an interval, write files of one name. More than kSameNameMax are a mistake elsewhere.
  static std::string NameOfCopy(const std::string& name, int copy);
  static constexpr int kSameNameMax = 1000;

 private:
  const std::string folder_;
  const bool track_open_;
};

// CSV on standard output. Gives up when `cancel_fd` becomes readable while nobody reads. After an
// error part of the rows may have been written: it must not be called again.
class StandardOutputSink : public RowSink {
 public:
  StandardOutputSink(bool track_open, int cancel_fd)
      : track_open_(track_open), cancel_fd_(cancel_fd) {}
  absl::Status Write(const IntervalRows& interval, const std::string& hidden_name) override;

 private:
  const bool track_open_;
  const int cancel_fd_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_OUTPUT_ROW_SINK_H_
