// Fingerprints of the flow incarnations that were destroyed lately, so that a stale dump entry or a
// repeated DESTROY is recognised and not counted again. There are two generations: the present one,
// which grows, and the previous one. The owner says when a generation ends.
//
// Thread-compatible. No call takes long: the memory grows and is given back in parts.
#ifndef CTACCT_ENGINE_ACCOUNTING_DESTROYED_MEMORY_H_
#define CTACCT_ENGINE_ACCOUNTING_DESTROYED_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <utility>

#include "engine/accounting/staggered_map.h"

namespace ctacct {

class DestroyedMemory {
 public:
  // For batches: Prefetch all, then PrefetchEntry all, then the lookups.
  void Prefetch(uint64_t fingerprint) const {
    for (const Generation& generation : generations_) generation.marks.Prefetch(fingerprint);
  }
  void PrefetchEntry(uint64_t fingerprint) const {
    generations_[number_ % 2].marks.PrefetchEntry(fingerprint);
  }

  bool Contains(uint64_t fingerprint) const {
    return ContainedIn(number_, fingerprint) || ContainedIn(number_ - 1, fingerprint);
  }

  // False if it was there already. It is then in the present generation.
  bool Add(uint64_t fingerprint) {
    if (present_ >= kMax) EndGeneration();
    const bool repeated = ContainedIn(number_ - 1, fingerprint);
    Generation& generation = generations_[number_ % 2];
    const size_t shard = generation.marks.ShardOf(fingerprint);
    if (generation.number_of[shard] != number_) {
      generation.marks.ClearShard(shard);
      generation.number_of[shard] = number_;
    }
    const bool added = generation.marks.FindOrAddEntry(fingerprint, fingerprint).second;
    present_ += added;
    return added && !repeated;
  }

  // The present generation becomes the previous one, and the previous one is forgotten. Takes no
  // time: a part is cleared by ForgetSome, or when it is next added to.
  void EndGeneration() {
    ++number_;
    before_ = std::exchange(present_, 0);
    forget_next_ = 0;
  }

  // Clears some parts of what was forgotten, and gives back memory that a generation as large as
  // the last one does not need. True if there is more to clear.
  bool ForgetSome() {
    Generation& generation = generations_[number_ % 2];
    const Generation& last = generations_[(number_ - 1) % 2];
    for (size_t slots = 0; forget_next_ < kShards && slots < kForgetSlots; ++forget_next_) {
      const size_t shard = forget_next_;
      if (generation.number_of[shard] == number_) continue;
      slots += generation.marks.SlotsOfShard(shard);
      generation.marks.ClearShard(
          shard, last.number_of[shard] == number_ - 1 ? last.marks.SizeOfShard(shard) : 0);
      generation.number_of[shard] = number_;
    }
    return forget_next_ < kShards;
  }

  // Large enough to be worth ending.
  bool IsLarge() const { return present_ >= kKept || before_ >= kKept; }

  size_t MemoryBytes() const {
    return generations_[0].marks.MemoryBytes() + generations_[1].marks.MemoryBytes();
  }

  // A generation with fewer than this need not be ended: 0.5 MB.
  static constexpr size_t kKept = 1 << 15;

  // Of one generation; about 50 MB. Beyond it the generation ends early: what is remembered is
  // still far longer than a dump takes.
  static constexpr size_t kMax = 4 << 20;

 private:
  struct Traits {
    using Key = uint64_t;
    using Entry = uint64_t;
    static size_t Hash(uint64_t fingerprint) { return fingerprint; }
    static size_t HashOf(uint64_t fingerprint) { return fingerprint; }
    static bool Matches(uint64_t entry, uint64_t fingerprint) { return entry == fingerprint; }
    static void Construct(uint64_t* entry, uint64_t fingerprint) { *entry = fingerprint; }
  };
  static constexpr size_t kShards = 256;
  static constexpr size_t kForgetSlots = 8192;  // Tens of microseconds.

  struct Generation {
    StaggeredTable<Traits, kShards> marks;
    // The generation of a shard's fingerprints. Generations before the last two do not count.
    uint32_t number_of[kShards] = {};
  };

  bool ContainedIn(uint32_t number, uint64_t fingerprint) const {
    const Generation& generation = generations_[number % 2];
    return generation.number_of[generation.marks.ShardOf(fingerprint)] == number &&
           generation.marks.FindEntry(fingerprint, fingerprint) != nullptr;
  }

  Generation generations_[2];  // By the parity of their numbers.
  uint32_t number_ = 1;
  size_t present_ = 0;            // Fingerprints of the present generation,
  size_t before_ = 0;             // and of the one before.
  size_t forget_next_ = kShards;  // The shard that ForgetSome clears next.
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_DESTROYED_MEMORY_H_
