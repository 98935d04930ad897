// Relacy, a model checker for C++'s memory model, made ready for code that is written for
// std::atomic. It runs a test's threads on one, under every interleaving of their atomic
// operations, lets loads see older values where the memory orders allow it, and finds data races,
// lost wake-ups (deadlock), endless loops and failed assertions.
//
// To be included after all headers under test: those must not see Relacy's operator new.
//
// What is left out: a load sees the newest value or the one before it (with enough operations in a
// test that is no limit in practice, but it is one), and no load sees a store that comes later in
// its own thread's order. Waiting is modelled as the standard describes it, not as libstdc++ does
// it.
//
// Thread-compatible: one check at a time.
#ifndef CTACCT_TESTS_MODEL_MODEL_CHECKER_H_
#define CTACCT_TESTS_MODEL_MODEL_CHECKER_H_

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <ostream>
#include <string>

#include "relacy/relacy.hpp"
// Its macros are for tests written in its own dialect.
#undef assert
#undef calloc
#undef delete
#undef errno
#undef free
#undef malloc
#undef memory_order_acq_rel
#undef memory_order_acquire
#undef memory_order_consume
#undef memory_order_relaxed
#undef memory_order_release
#undef memory_order_seq_cst
#undef new
#undef realloc

namespace ctacct {

enum class AtomicOperation { kLoad, kStore, kExchange, kWait };
inline constexpr int kAtomicOperations = 4;
inline constexpr int kAtomicsMax = 4;

// A mistake put into the code under test, which the checker must find.
struct Mutation {
  enum class Kind {
    kNone,
    kRelaxed,      // `operation` of that atomic is relaxed, whatever the code says.
    kNoNotify,     // Nobody is woken when it changes.
    kStoreEarly,   // What is deferred (see Deferred) is done only after the next store to it.
    kTestMisuses,  // The test itself breaks a rule of the interface.
  };
  Kind kind = Kind::kNone;
  int atomic = 0;  // By the order of construction.
  AtomicOperation operation = AtomicOperation::kLoad;
};

// Of the check that runs.
struct ModelState {
  Mutation mutation;
  int atomics = 0;                // Constructed so far in this run.
  bool is_set[kAtomicsMax] = {};  // Their newest values are not zero.
  // Which operations asked for an order that synchronizes.
  bool synchronizes[kAtomicsMax][kAtomicOperations] = {};
  // Puts off a step of the code under test until after its next store, which so comes too early.
  void (*deferred)(void*) = nullptr;
  void* deferred_for = nullptr;
};
inline ModelState model;

// The atomics constructed after it are 0, 1, ...
struct NumberAtomics {
  NumberAtomics() { model.atomics = 0; }
};

// As std::atomic.
template <typename T>
class ModelAtomic {
 public:
  ModelAtomic(T value) : number_(model.atomics++), value_(value) {  // NOLINT: as std::atomic's.
    model.is_set[number_] = value != T();
  }

  T load(std::memory_order order) const {
    return value_.load(Order(AtomicOperation::kLoad, order), RL_INFO);
  }
  void store(T value, std::memory_order order) {
    value_.store(value, Order(AtomicOperation::kStore, order), RL_INFO);
    model.is_set[number_] = value != T();
    if (model.deferred != nullptr && model.mutation.atomic == number_) {
      rl::ctx().sched();
      void (*const step)(void*) = model.deferred;
      model.deferred = nullptr;
      step(model.deferred_for);
    }
  }
  T exchange(T value, std::memory_order order) {
    const T old = value_.exchange(value, Order(AtomicOperation::kExchange, order), RL_INFO);
    model.is_set[number_] = value != T();
    return old;
  }
  void wait(T old, std::memory_order order) const {
    const rl::memory_order model_order = Order(AtomicOperation::kWait, order);
    while (value_.load(model_order, RL_INFO) == old) {
      if (value_.debug_value() != old) {  // It saw an older value, and would not sleep.
        rl::ctx().yield(1, RL_INFO);
        continue;
      }
      // Not Relacy's own wait: that makes the wake-up synchronize, which the standard does not.
      waiter_ = rl::ctx().current_thread();
      rl::ctx().park_current_thread(false, false, false, RL_INFO);
    }
  }
  void notify_one() {
    rl::ctx().sched();
    if (waiter_ < 0) return;
    if (model.mutation.kind == Mutation::Kind::kNoNotify && model.mutation.atomic == number_) {
      return;
    }
    const rl::thread_id_t woken = waiter_;
    waiter_ = -1;
    rl::ctx().unpark_thread(woken, false, RL_INFO);
  }

 private:
  rl::memory_order Order(AtomicOperation operation, std::memory_order order) const {
    if (order != std::memory_order_relaxed) {
      model.synchronizes[number_][static_cast<int>(operation)] = true;
    }
    if (model.mutation.kind == Mutation::Kind::kRelaxed && model.mutation.atomic == number_ &&
        model.mutation.operation == operation) {
      return rl::mo_relaxed;
    }
    switch (order) {
      case std::memory_order_relaxed:
        return rl::mo_relaxed;
      case std::memory_order_consume:
      case std::memory_order_acquire:
        return rl::mo_acquire;
      case std::memory_order_release:
        return rl::mo_release;
      case std::memory_order_acq_rel:
        return rl::mo_acq_rel;
      case std::memory_order_seq_cst:
        break;
    }
    return rl::mo_seq_cst;
  }

  const int number_;
  rl::atomic<T> value_;
  mutable rl::thread_id_t waiter_ = -1;  // One thread waits, at most.
};

// A variable without an atomic's protection: a data race on it is found.
template <typename T>
class ModelVariable {
 public:
  explicit ModelVariable(T value) : value_(value) {}
  T Get() const { return value_(RL_INFO).load(); }
  void Set(T value) { value_(RL_INFO).store(value); }

 private:
  rl::var<T> value_;
};

inline void ModelAssert(bool holds, const char* what) {
  if (!holds) rl::ctx().fail_test(what, rl::test_result_user_assert_failed, RL_INFO);
}

// What was found; rl::test_result_success if nothing. `Suite`: a rl::test_suite with kSwitches, how
// often each thread may be made to stop within a run. 0: all interleavings are tried.
template <typename Suite>
rl::test_result_e Check(const Mutation& mutation = {}) {
  model = ModelState{.mutation = mutation};
  static std::ostream nowhere(nullptr);
  rl::test_params params;
  params.search_type = Suite::kSwitches == 0 ? rl::sched_full : rl::sched_bound;
  params.context_bound = Suite::kSwitches;
  params.progress_stream = &nowhere;
  // The history of a failure that is wanted is of no interest.
  params.output_stream = mutation.kind == Mutation::Kind::kNone ? &std::cout : &nowhere;
  rl::simulate<Suite>(params);
  return params.test_result;
}

}  // namespace ctacct

// An assertion of the code under test is one of the model's.
extern "C" [[noreturn]] inline void __assert_fail(const char* what, const char* file, unsigned line,
                                                  const char* function) noexcept {
  if (rl::is_ctx()) {
    rl::ctx().fail_test(what, rl::test_result_user_assert_failed,
                        rl::debug_info(function, file, line));
  }
  std::abort();
}

#endif  // CTACCT_TESTS_MODEL_MODEL_CHECKER_H_
