// Passes tables from one worker to one flusher and back, without a lock and without an atomic
// operation per event.
//
// The owner swaps. There are two tables. The worker fills the live one; the flusher has the other,
// or it is in `spare_`. Between two batches the worker may Publish: it takes the spare, puts the
// live one into `full_` and continues with the spare. The flusher takes the full one, merges it,
// clears it and gives it back as the spare. If there is no spare (the flusher is slow), Publish
// does nothing, the worker keeps adding to its live table, and nothing is lost. The flusher never
// touches a table that it did not find in `full_`: the worker may still hold any other.
//
//   worker:   s = spare_.exchange(null, acquire); full_.store(live, release); live = s
//   flusher:  t = full_.exchange(null, acquire); ...; t->Clear(); spare_.store(t, release)
//
// Thread safety: live() and Publish only by the worker; Take and GiveBack only by the flusher.
// Invariants: at every moment each table has exactly one owner (worker, flusher, full_ or spare_);
// full_ and spare_ are never both set; for every key, what was flushed + sealed + live = what was
// produced. tests/model/handoff_model_test.cc checks this under all interleavings, with atomics of
// a model checker.
#ifndef CTACCT_ENGINE_ACCOUNTING_TABLE_HANDOFF_H_
#define CTACCT_ENGINE_ACCOUNTING_TABLE_HANDOFF_H_

#include <atomic>

#include "engine/system/check.h"

namespace ctacct {

template <typename Table, template <typename> class Atomic = std::atomic>
class TableHandoff {
 public:
  TableHandoff() : live_(&tables_[0]), spare_(&tables_[1]) {}

  TableHandoff(const TableHandoff&) = delete;
  TableHandoff& operator=(const TableHandoff&) = delete;

  // The table to add to.
  Table& live() { return *live_; }

  // True if Publish would succeed. Once true, it stays true until the worker publishes.
  bool HasSpare() const { return spare_.load(std::memory_order_relaxed) != nullptr; }

  // Blocks until there is a spare.
  void WaitForSpare() const { spare_.wait(nullptr, std::memory_order_relaxed); }

  // Seals the live table and continues with the spare. False, and nothing happens, if there is
  // none.
  [[nodiscard]] bool Publish() {
    // Acquire: the flusher's Clear is seen before the first new row goes in.
    Table* const spare = spare_.exchange(nullptr, std::memory_order_acquire);
    if (spare == nullptr) return false;
    CTACCT_CHECK(full_.load(std::memory_order_relaxed) == nullptr);
    // Release: every row of the table is seen by the flusher that finds it.
    full_.store(live_, std::memory_order_release);
    live_ = spare;
    return true;
  }

  // The sealed table, or nullptr. The flusher owns it until GiveBack.
  [[nodiscard]] Table* Take() { return full_.exchange(nullptr, std::memory_order_acquire); }

  // Clears the table and returns it.
  void GiveBack(Table* table) {
    table->Clear();
    spare_.store(table, std::memory_order_release);
    spare_.notify_one();
  }

 private:
  Table tables_[2];
  Table* live_;  // The worker's own.
  Atomic<Table*> spare_;
  Atomic<Table*> full_{nullptr};
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_TABLE_HANDOFF_H_
