// TableHandoff, the only lock-free path between threads, under all interleavings of small scenarios
// and the memory orders that the headers ask for. The headers are the engine's; only their atomics
// and memory are the checker's. The checks themselves are tested: it must find each weakened memory
// order, each missing wake-up and each pair of swapped steps.

// The code's assertions are part of what is checked, in every build: a failed one is a finding of
// the model checker (its __assert_fail), not the end of the process.
#undef NDEBUG
#include <cassert>

#include "engine/system/check.h"
#undef CTACCT_CHECK
#define CTACCT_CHECK(condition) assert(condition)

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "engine/accounting/table_handoff.h"
#include "gtest/gtest.h"
// After all others.
#include "tests/model/model_checker.h"

namespace ctacct {
namespace {

using Kind = Mutation::Kind;
using Operation = AtomicOperation;

// The check of the code as it is, made once.
struct Baseline {
  rl::test_result_e result;
  ModelState used;
};
template <typename Suite>
const Baseline& Unchanged() {
  static const Baseline baseline = [] {
    const rl::test_result_e result = Check<Suite>();
    return Baseline{result, model};
  }();
  return baseline;
}

struct AtomicUse {
  int atomic;
  Operation operation;
  friend bool operator==(const AtomicUse&, const AtomicUse&) = default;
};
// Every memory order that the scenarios use must matter in one of them, but for those in `spare`.
template <typename... Suites>
void ExpectEachOrderToMatter(const std::vector<AtomicUse>& spare = {}) {
  for (int atomic = 0; atomic < kAtomicsMax; ++atomic) {
    for (int i = 0; i < kAtomicOperations; ++i) {
      if (!(Unchanged<Suites>().used.synchronizes[atomic][i] || ...)) continue;
      const AtomicUse use = {atomic, static_cast<Operation>(i)};
      if (std::find(spare.begin(), spare.end(), use) != spare.end()) continue;
      const Mutation mutation = {Kind::kRelaxed, use.atomic, use.operation};
      EXPECT_TRUE(((Check<Suites>(mutation) != rl::test_result_success) || ...))
          << "atomic " << atomic << ", operation " << i << ": nobody misses its memory order";
    }
  }
}

// ---- TableHandoff ----

// By the order of construction.
constexpr int kSpare = 0;
constexpr int kFull = 1;

// Event i adds 1 to digit i of its key's sum: what is lost or doubled shows.
constexpr int kDigitBits = 4;
constexpr int kKeys = 2;
constexpr uint64_t Event(int i) { return uint64_t{1} << (i * kDigitBits); }

struct ModelTable {
  ModelVariable<uint64_t> sums[kKeys]{ModelVariable<uint64_t>(0), ModelVariable<uint64_t>(0)};

  void Add(int event) {
    ModelVariable<uint64_t>& sum = sums[event % kKeys];
    sum.Set(sum.Get() + Event(event));
  }
  void MoveTo(uint64_t* totals) const {
    for (int key = 0; key < kKeys; ++key) totals[key] += sums[key].Get();
  }
  void Clear() {
    if (model.mutation.kind == Kind::kStoreEarly) {
      model.deferred = [](void* table) { static_cast<ModelTable*>(table)->ClearNow(); };
      model.deferred_for = this;
      return;
    }
    ClearNow();
  }
  void ClearNow() {
    for (ModelVariable<uint64_t>& sum : sums) sum.Set(0);
  }
};

template <typename Derived, int kEvents>
struct HandoffSuite : rl::test_suite<Derived, 2> {
  static constexpr unsigned kSwitches = 0;  // No limit.

  NumberAtomics number_atomics;  // First.
  TableHandoff<ModelTable, ModelAtomic> handoff;
  uint64_t flushed[kKeys] = {};  // The flusher's.

  bool FlushOne() {
    ModelTable* const table = handoff.Take();
    if (table == nullptr) return false;
    if (model.mutation.kind == Kind::kTestMisuses) {  // Reads what it has given back.
      handoff.GiveBack(table);
      table->MoveTo(flushed);
      return true;
    }
    table->MoveTo(flushed);
    handoff.GiveBack(table);
    return true;
  }

  void invariant() {
    ModelAssert(!(model.is_set[kSpare] && model.is_set[kFull]), "full_ and spare_ both set");
  }
  // For every key: flushed + sealed + live = produced.
  void after() {
    while (FlushOne()) {
    }
    handoff.live().MoveTo(flushed);
    uint64_t produced[kKeys] = {};
    for (int i = 0; i < kEvents; ++i) produced[i % kKeys] += Event(i);
    for (int key = 0; key < kKeys; ++key) {
      ModelAssert(flushed[key] == produced[key], "flushed + sealed + live = produced");
    }
    ModelAssert(handoff.HasSpare(), "a spare table at the end");
  }
};

// A live gateway: the worker never waits; if there is no spare, it continues adding.
struct LiveHandoff : HandoffSuite<LiveHandoff, 4> {
  void thread(unsigned index) {
    if (index == 0) {
      for (int i = 0; i < 4; ++i) {
        handoff.live().Add(i);
        if (i % 2 == 1) {
          (void)handoff.Publish();
          continue;
        }
        // What HasSpare has said stays true.
        if (handoff.HasSpare()) ModelAssert(handoff.Publish(), "the spare is gone");
      }
    } else {
      for (int i = 0; i < 3; ++i) FlushOne();
    }
  }
};

// A replay: the worker waits for a spare, so each interval gets a table of its own, and wakes the
// flusher by other means (an eventfd), which here do not synchronize.
struct ReplayHandoff : HandoffSuite<ReplayHandoff, 3> {
  ModelAtomic<int> sealed{0};

  void thread(unsigned index) {
    if (index == 0) {
      for (int i = 0; i < 3; ++i) {
        handoff.live().Add(i);
        handoff.WaitForSpare();
        ModelAssert(handoff.Publish(), "no spare after WaitForSpare");
        sealed.store(i + 1, std::memory_order_relaxed);
        sealed.notify_one();
      }
    } else {
      for (int taken = 0; taken < 3; ++taken) {
        sealed.wait(taken, std::memory_order_relaxed);
        ModelAssert(FlushOne(), "nothing to take");
      }
    }
  }
};

TEST(TableHandoffModelTest, NothingIsLostWhereTheWorkerNeverWaits) {
  EXPECT_EQ(Unchanged<LiveHandoff>().result, rl::test_result_success);
}

TEST(TableHandoffModelTest, NothingIsLostWhereTheWorkerWaits) {
  EXPECT_EQ(Unchanged<ReplayHandoff>().result, rl::test_result_success);
}

TEST(TableHandoffModelTest, EachMemoryOrderMatters) {
  ExpectEachOrderToMatter<LiveHandoff, ReplayHandoff>();
}

TEST(TableHandoffModelTest, SwappedStepsAreFound) {
  // The table goes back before it is cleared.
  EXPECT_NE(Check<LiveHandoff>({Kind::kStoreEarly, kSpare}), rl::test_result_success);
  EXPECT_NE(Check<ReplayHandoff>({Kind::kStoreEarly, kSpare}), rl::test_result_success);
  // The flusher continues to use a table that belongs to the worker again.
  EXPECT_NE(Check<LiveHandoff>({Kind::kTestMisuses}), rl::test_result_success);
}

TEST(TableHandoffModelTest, AMissingWakeUpIsFound) {
  EXPECT_EQ(Check<ReplayHandoff>({Kind::kNoNotify, kSpare}), rl::test_result_deadlock);
}

}  // namespace
}  // namespace ctacct
