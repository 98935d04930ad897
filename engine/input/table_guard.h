// Watches how full conntrack's table is while events are delivered reliably: events that cannot be
// delivered stay in the table, and a full table drops new connections. Before that happens,
// accounting gives way: the caller turns the mode off, and on again when there is room.
//
// Runs on its own thread and waits for no other: the threads that read events may be too slow.
// Thread-compatible.
#ifndef CTACCT_ENGINE_INPUT_TABLE_GUARD_H_
#define CTACCT_ENGINE_INPUT_TABLE_GUARD_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <thread>

#include "engine/system/unique_fd.h"

namespace ctacct {

// Flows in the caller's network namespace, dying ones too, and the most there may be.
struct TableFill {
  uint64_t flows = 0;
  uint64_t flows_max = 0;
};
// Nothing if conntrack does not report it.
[[nodiscard]] std::optional<TableFill> ReadTableFill();

class TableGuard {
 public:
  // Off at the first share, on again below the second: far enough apart not to flap.
  static constexpr uint64_t kLeavePercent = 85;
  static constexpr uint64_t kReturnPercent = 70;

  // Whether there is room, given how it was before.
  static bool HasRoom(const TableFill& fill, bool had_room);

  // From the constructor to the destructor, `changed` is called on the guard's thread when there is
  // no room any more (false) and when there is room again (true). At first, room is assumed.
  explicit TableGuard(std::function<void(bool room, const TableFill& fill)> changed);
  TableGuard(const TableGuard&) = delete;
  TableGuard& operator=(const TableGuard&) = delete;
  ~TableGuard();

 private:
  void Run();

  const std::function<void(bool, const TableFill&)> changed_;
  const UniqueFd stop_fd_;
  std::thread thread_;  // Last: it uses the others.
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_INPUT_TABLE_GUARD_H_
