// The two ways between threads, TableHandoff and FrameQueue, under all interleavings of small
// scenarios and the memory orders that the headers ask for. The headers are those of the engine;
// only their atomics and memory are the checker's. That the checks can fail is checked too: each
// memory order weakened, each wake-up left out, steps swapped, and it must find every one.

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

#include "engine/accounting/frame_queue.h"
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

// A live gateway: the worker never waits, and goes on adding where there is no spare.
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
  // The flusher goes on with a table that is the worker's again.
  EXPECT_NE(Check<LiveHandoff>({Kind::kTestMisuses}), rl::test_result_success);
}

TEST(TableHandoffModelTest, AMissingWakeUpIsFound) {
  EXPECT_EQ(Check<ReplayHandoff>({Kind::kNoNotify, kSpare}), rl::test_result_deadlock);
}

// ---- FrameQueue ----

constexpr int kWritten = 0;
constexpr int kRead = 1;

// Each unit of a frame is a variable on which a race is found.
template <size_t kBytes>
class ModelRing {
 public:
  void Write(size_t position, const void* from, size_t bytes) {
    for (size_t at = position; at < position + bytes; at += sizeof(Frame)) {
      units_[at / sizeof(Frame)].Set(1);
    }
    std::memcpy(bytes_ + position, from, bytes);
  }
  void Read(size_t position, void* to, size_t bytes) const {
    Touch(position, bytes);
    std::memcpy(to, bytes_ + position, bytes);
  }
  const uint8_t* At(size_t position) const {
    newest = this;
    return bytes_ + position;
  }
  // As the consumer reads a frame's data.
  static uint8_t ReadData(const Frame& frame) {
    newest->Touch(static_cast<size_t>(frame.data - newest->bytes_), frame.bytes);
    for (uint32_t i = 1; i < frame.bytes; ++i) {
      ModelAssert(frame.data[i] == frame.data[0], "torn data");
    }
    return frame.data[0];
  }

 private:
  struct Unit : ModelVariable<int> {
    Unit() : ModelVariable<int>(0) {}
  };
  void Touch(size_t position, size_t bytes) const {
    for (size_t at = position; at < position + bytes; at += sizeof(Frame)) {
      (void)units_[at / sizeof(Frame)].Get();
    }
  }

  inline static const ModelRing* newest = nullptr;
  Unit units_[kBytes / sizeof(Frame)];
  uint8_t bytes_[kBytes] = {};
};

template <typename Derived, size_t kBytes>
struct QueueSuite : rl::test_suite<Derived, 2> {
  static constexpr unsigned kSwitches = 0;  // No limit.

  using Queue = BasicFrameQueue<kBytes, ModelAtomic, ModelRing>;

  NumberAtomics number_atomics;  // First.
  // Aligned as it asks to be, which Relacy does not see to.
  const std::unique_ptr<Queue> queue = std::make_unique<Queue>();

  void Push(int number, uint32_t bytes, FrameKind kind = FrameKind::kDatagram) {
    uint8_t data[kBytes];
    std::memset(data, number, sizeof(data));
    Frame frame;
    frame.kind = kind;
    frame.number = static_cast<uint64_t>(number);
    frame.bytes = bytes;
    frame.data = data;
    queue->Push(frame);
  }
  void PushLast(int number, uint32_t bytes) {
    Push(number, bytes, FrameKind::kFinish);
    queue->Publish();
  }

  // In order, whole, none twice, none missing. `batch`: so many frames come together.
  void ConsumeToFinish(int expected, int batch) {
    int next = 0;
    for (bool finished = false; !finished;) {
      queue->WaitNotEmpty();
      const uint64_t snapshot = queue->Snapshot();
      int together = 0;
      for (Frame frame; queue->Next(snapshot, &frame);) {
        ModelAssert(!finished, "a frame after the last");
        finished = frame.kind == FrameKind::kFinish;
        ModelAssert(finished || frame.kind == FrameKind::kDatagram, "no frame of ours");
        ModelAssert(frame.number == static_cast<uint64_t>(next), "out of order");
        if (frame.bytes != 0) {
          ModelAssert(ModelRing<kBytes>::ReadData(frame) == next, "another frame's data");
        }
        consumed.Set(consumed.Get() + 1);
        ++next;
        ++together;
      }
      ModelAssert(together % batch == 0, "part of a batch");
    }
    ModelAssert(next == expected, "frames are missing");
  }

  ModelVariable<int> consumed{0};  // What the consumer does with frames.
};

// Four units of 32 bytes: the ring is full again and again, wraps, and is filled up at its end.
struct FullRing : QueueSuite<FullRing, 128> {
  void thread(unsigned index) {
    if (index == 0) {
      Push(0, 32);
      Push(1, 0);
      PushLast(2, 20);  // Does not fit before the end.
    } else {
      ConsumeToFinish(3, 1);
    }
  }
};

// Likewise, but space may have been returned before the producer asks for it.
struct RoomInTime : QueueSuite<RoomInTime, 128> {
  static constexpr unsigned kSwitches = 4;  // See ReturnInPieces.

  void thread(unsigned index) {
    if (index == 0) {
      Push(0, 32);
      queue->Publish();
      Push(1, 0);
      PushLast(2, 20);
    } else {
      ConsumeToFinish(3, 1);
    }
  }
};

// Space is returned in pieces larger than one frame's.
struct ReturnInPieces : QueueSuite<ReturnInPieces, 384> {
  // Of a thread, beside those where it waits: without a limit it takes hours.
  static constexpr unsigned kSwitches = 4;

  void thread(unsigned index) {
    if (index == 0) {
      Push(0, 0);
      Push(1, 96);
      Push(2, 96);
      queue->Publish();
      PushLast(3, 96);
    } else {
      ConsumeToFinish(4, 1);
    }
  }
};

// What is published together is seen together, while there is room.
struct Batches : QueueSuite<Batches, 512> {
  void thread(unsigned index) {
    if (index == 0) {
      Push(0, 0);
      if (model.mutation.kind == Kind::kTestMisuses) queue->Publish();
      Push(1, 0);
      queue->Publish();
      Push(2, 0);
      PushLast(3, 0);
    } else {
      ConsumeToFinish(4, 2);
    }
  }
};

// Once the queue is empty, the producer sees all that the consumer did.
struct EmptyQueue : QueueSuite<EmptyQueue, 512> {
  void thread(unsigned index) {
    if (index == 0) {
      Push(0, 0);
      queue->Publish();
      while (!queue->Empty()) rl::ctx().yield(1, RL_INFO);
      ModelAssert(consumed.Get() == 1, "empty before the frame is consumed");
      PushLast(1, 0);
    } else {
      ConsumeToFinish(2, 1);
    }
  }
};

TEST(FrameQueueModelTest, FramesComeInOrderAndOnceThroughAFullRing) {
  EXPECT_EQ(Unchanged<FullRing>().result, rl::test_result_success);
  EXPECT_EQ(Unchanged<RoomInTime>().result, rl::test_result_success);
  EXPECT_EQ(Unchanged<ReturnInPieces>().result, rl::test_result_success);
}

TEST(FrameQueueModelTest, ABatchIsSeenTogether) {
  EXPECT_EQ(Unchanged<Batches>().result, rl::test_result_success);
  EXPECT_EQ(Check<Batches>({Kind::kTestMisuses}), rl::test_result_user_assert_failed);
}

TEST(FrameQueueModelTest, EmptyMeansDone) {
  EXPECT_EQ(Unchanged<EmptyQueue>().result, rl::test_result_success);
}

TEST(FrameQueueModelTest, EachMemoryOrderMatters) {
  // Not so the waits': they only end a sleep, and what they see is loaded again.
  const std::vector<AtomicUse> waits = {{kWritten, Operation::kWait}, {kRead, Operation::kWait}};
  ExpectEachOrderToMatter<Batches, RoomInTime>(waits);
  // Empty acquires by itself.
  EXPECT_NE(Check<EmptyQueue>({Kind::kRelaxed, kRead, Operation::kLoad}), rl::test_result_success);
  EXPECT_NE(Check<EmptyQueue>({Kind::kRelaxed, kRead, Operation::kStore}), rl::test_result_success);
}

TEST(FrameQueueModelTest, AMissingWakeUpIsFound) {
  EXPECT_EQ(Check<FullRing>({Kind::kNoNotify, kWritten}), rl::test_result_deadlock);
  EXPECT_EQ(Check<FullRing>({Kind::kNoNotify, kRead}), rl::test_result_deadlock);
}

}  // namespace
}  // namespace ctacct
