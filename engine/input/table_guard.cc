#include "engine/input/table_guard.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <fstream>
#include <utility>

namespace ctacct {
namespace {

// A gateway gains about 30,000 flows a second per core. Within this time they fill little of the
// room left in a table of usual size.
constexpr int kPeriodMillis = 50;

}  // namespace

std::optional<TableFill> ReadTableFill() {
  TableFill fill;
  if (std::ifstream("/proc/sys/net/netfilter/nf_conntrack_count") >> fill.flows &&
      std::ifstream("/proc/sys/net/netfilter/nf_conntrack_max") >> fill.flows_max) {
    return fill;
  }
  return std::nullopt;
}

bool TableGuard::HasRoom(const TableFill& fill, bool had_room) {
  // 0: there is no limit.
  if (fill.flows_max == 0) return true;
  return fill.flows * 100 < fill.flows_max * (had_room ? kLeavePercent : kReturnPercent);
}

TableGuard::TableGuard(std::function<void(bool, const TableFill&)> changed)
    : changed_(std::move(changed)),
      stop_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      thread_([this] { Run(); }) {}

TableGuard::~TableGuard() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t ignored = write(stop_fd_.get(), &one, sizeof(one));
  thread_.join();
}

void TableGuard::Run() {
  bool room = true;
  pollfd stop = {stop_fd_.get(), POLLIN, 0};
  do {
    const std::optional<TableFill> fill = ReadTableFill();
    // Unknown is not safe.
    const bool has_room = fill.has_value() && HasRoom(*fill, room);
    if (has_room != room) changed_(has_room, fill.value_or(TableFill()));
    room = has_room;
  } while (poll(&stop, 1, kPeriodMillis) <= 0);
}

}  // namespace ctacct
