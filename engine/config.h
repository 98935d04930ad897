// What an engine is asked to do: its flags, checked. A plain value; thread-compatible.
#ifndef CTACCT_ENGINE_CONFIG_H_
#define CTACCT_ENGINE_CONFIG_H_

#include <cstddef>
#include <optional>
#include <string>

#include "engine/accounting/row_limit.h"
#include "engine/accounting/worker.h"
#include "engine/system/privileges.h"

namespace ctacct {

struct Config {
  bool check_only = false;  // -check-flags
  AccountingRules rules;
  size_t workers = 1;
  size_t rows_max = RowLimit::kDefault;
  bool light = false;     // -mode=light
  bool reliable = false;  // See EventSocket::SetReliable.
  size_t receive_buffer_bytes = 0;
  std::string gateway;              // Never empty.
  std::optional<UserAccount> user;  // To become; nothing: stays the caller.
  // Paths; empty: none.
  std::string ports;
  std::string output;
  std::string state;  // Folder of the checkpoint and the lock; live, with `output`.
  std::string pipe;
  std::string metrics_file;
  std::string replay;  // Instead of the kernel.
  std::string record;
  bool csv_files = false;     // In `output`, instead of spool files.
  bool influx_lines = false;  // In `pipe`, instead of CSV.

  bool live() const { return replay.empty(); }
  bool writes_standard_output() const { return output.empty() && pipe.empty(); }
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_CONFIG_H_
