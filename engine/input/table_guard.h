// Watches how full conntrack's table is while events are delivered reliably: what cannot be
// delivered stays in the table, and a full table drops new connections. Before that comes to pass
// accounting gives way: it is told to leave the mode, and to take it up again once there is room.
//
// A thread of its own, which waits for nobody: those that read events may be what is too slow.
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
// Nothing where conntrack does not tell.
[[nodiscard]] std::optional<TableFill> ReadTableFill();

class TableGuard {
 public:
  // Leave at this share, take up again below that one: far enough apart that it does not flap.
  static constexpr uint64_t kLeavePercent = 85;
  static constexpr uint64_t kReturnPercent = 70;

  // Whether there is room, given how it was before.
  static bool HasRoom(const TableFill& fill, bool had_room);

  // From the constructor to the destructor `changed` is called, on a thread of the guard's, when
  // there is no room any more (false) and when there is again (true). At first there is taken to
  // be.
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
