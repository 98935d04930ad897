// A hash table for a thread that must never stop for long: it grows, shrinks and is cleared a small
// part at a time, whatever its size, and takes hashes that were computed beforehand, so that the
// memory of a whole batch of keys can be fetched at once.
//
// Thread-compatible: one owner at a time, no lock. Entries move when others of their part are added
// or erased by Erase; pointers to entries live until then. ForEach's order is unspecified and
// differs from run to run.
//
//   table  = shard[kShards]     by the top bits of the hash
//   shard  = tags, entries      a mapping of whole pages; only one is moved when it must grow
//   group  = 15 tags, 1 count   and their 15 entries; entries of 64 bytes are cache lines
//
// Each tag is a byte of its entry's hash, 0 where the entry is free. An entry is in its home group,
// or in the first one after it that had room; a group's count says how many entries had to go past
// it. So a lookup ends at the first group that no entry went past, and erasing leaves no
// tombstones: a table whose entries come and go for months is as fast as a new one.
//
// Shards grow by half, and reach their sizes at different populations (see RungAbove): the load of
// the whole stays within a few percent of 0.7 instead of falling to 0.44 at each doubling. Where
// they grow by less, it is higher: 0.81 by an eighth.
//
// Each shard in use takes a page at least, and may count as one of the process' mappings
// (vm.max_map_count, 65,530): this is for a few large tables, not for many small ones.
#ifndef CTACCT_ENGINE_ACCOUNTING_STAGGERED_MAP_H_
#define CTACCT_ENGINE_ACCOUNTING_STAGGERED_MAP_H_

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "absl/hash/hash.h"

namespace ctacct {

// What StaggeredMap and the flow table share. `Traits` describes its entries:
//   using Key, Entry;                               Entry is moved by memcpy
//   static size_t Hash(const Key&);                 all 64 bits must be good
//   static size_t HashOf(const Entry&);             the same, of an entry's key
//   static bool Matches(const Entry&, const Key&);
//   static void Construct(Entry*, const Key&);      a new one, into uninitialised memory
// kGrowthPercent: by how much a full shard grows. Less saves memory, and moves each entry more
// often while the table grows.
template <typename Traits, size_t kShards, int kGrowthPercent = 50>
class StaggeredTable {
 public:
  using Key = typename Traits::Key;
  using Entry = typename Traits::Entry;
  static_assert(std::has_single_bit(kShards) && kShards > 1);
  static_assert(std::is_trivially_copy_constructible_v<Entry> &&
                std::is_trivially_destructible_v<Entry>);

 private:
  static constexpr size_t kGroupSlots = 15;
  static constexpr size_t kTagBytes = 16;  // Of a group: its tags, then its count.
  static constexpr size_t kOverflow = 15;  // Where the count is.
  // Average number of entries in a group when its shard grows: 87 %. Beyond that, lookups begin to
  // visit more groups.
  static constexpr size_t kGroupFull = 13;
  static constexpr uint8_t kOverflowUnknown = 255;  // A count that was once this high stays so.
  static constexpr size_t kCacheLine = 64;
  static constexpr size_t kPage = 4096;
  // A shard's block begins 0 to kColors - 1 cache lines after the start of a page, and shards
  // differ in this number. If all blocks began at the start of a page, their tags would share a few
  // sets of each cache.
  static constexpr size_t kColors = 16;

  struct Shard {
    uint8_t* block;   // Within pages of its own.
    uint32_t groups;  // 0: no block.
    uint32_t size;    // Entries in use.

    uint8_t* Tags(size_t group) const { return block + group * kTagBytes; }
    Entry* Entries(size_t group) const {
      return reinterpret_cast<Entry*>(block + EntriesOffset(groups)) + group * kGroupSlots;
    }
  };

 public:
  StaggeredTable() : shards_(static_cast<Shard*>(calloc(kShards, sizeof(Shard)))) {
    if (shards_ == nullptr) throw std::bad_alloc();
  }
  StaggeredTable(StaggeredTable&& other) : StaggeredTable() { swap(other); }
  StaggeredTable& operator=(StaggeredTable&& other) {
    swap(other);
    return *this;
  }
  ~StaggeredTable() {
    for (size_t i = 0; i < kShards; ++i) Free(i);
    free(shards_);
  }

  void swap(StaggeredTable& other) {
    std::swap(shards_, other.shards_);
    std::swap(size_, other.size_);
    std::swap(moved_, other.moved_);
  }

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  static size_t Hash(const Key& key) { return Traits::Hash(key); }

  // Two passes over a batch of hashes before the lookups: the first fetches where the tags are, the
  // second reads them and fetches the entry that will be wanted.
  void Prefetch(size_t hash) const {
    const Shard& shard = shards_[ShardOf(hash)];
    if (shard.groups != 0) Fetch(shard.Tags(Home(shard, hash)));
  }
  void PrefetchEntry(size_t hash) const {
    const Shard& shard = shards_[ShardOf(hash)];
    if (shard.groups == 0) return;
    const size_t home = Home(shard, hash);
    const uint8_t* tags = shard.Tags(home);
    uint32_t wanted = Match(tags, TagOf(hash));
    if (wanted == 0) wanted = Match(tags, 0);
    if (wanted != 0) Fetch(shard.Entries(home) + std::countr_zero(wanted));
  }

  // The entry, or nullptr. `hash` must be the key's.
  Entry* FindEntry(const Key& key, size_t hash) const {
    const Shard& shard = shards_[ShardOf(hash)];
    size_t group = shard.groups == 0 ? 0 : Home(shard, hash);
    const uint8_t tag = TagOf(hash);
    for (uint32_t left = shard.groups; left != 0; --left) {
      const uint8_t* tags = shard.Tags(group);
      for (uint32_t found = Match(tags, tag); found != 0; found &= found - 1) {
        Entry* entry = shard.Entries(group) + std::countr_zero(found);
        if (Traits::Matches(*entry, key)) [[likely]]
          return entry;
      }
      if (tags[kOverflow] == 0) [[likely]]
        return nullptr;
      if (++group == shard.groups) group = 0;
    }
    return nullptr;
  }

  // The entry, and whether it was added.
  std::pair<Entry*, bool> FindOrAddEntry(const Key& key, size_t hash) {
    if (Entry* entry = FindEntry(key, hash); entry != nullptr) return {entry, false};
    Entry* const entry = Add(hash);
    Traits::Construct(entry, key);
    return {entry, true};
  }

  // `entry` must be in the table, and `hash` its key's. A shard that has become sparse gives memory
  // back: its entries move.
  void EraseEntry(Entry* entry, size_t hash) {
    const size_t index = ShardOf(hash);
    Remove(entry, hash, &shards_[index]);
    ShrinkIfSparse(index);
  }

  // Part by part: calls `erase` for each entry of one shard, and erases those for which it returns
  // true. `erase` must not use the table. If the shard has become sparse, the others move.
  template <typename Function>
  void EraseIfInShard(size_t index, Function erase) {
    Shard& shard = shards_[index];
    for (size_t group = 0; group < shard.groups; ++group) {
      for (uint32_t left = Used(shard.Tags(group)); left != 0; left &= left - 1) {
        Entry* entry = shard.Entries(group) + std::countr_zero(left);
        if (erase(entry)) Remove(entry, Traits::HashOf(*entry), &shard);
      }
    }
    ShrinkIfSparse(index);
  }
  template <typename Function>
  void ForEachInShard(size_t index, Function function) const {
    const Shard& shard = shards_[index];
    for (size_t group = 0; group < shard.groups; ++group) {
      for (uint32_t left = Used(shard.Tags(group)); left != 0; left &= left - 1) {
        function(*(shard.Entries(group) + std::countr_zero(left)));
      }
    }
  }
  template <typename Function>
  void ForEach(Function function) const {
    for (size_t i = 0; i < kShards; ++i) ForEachInShard(i, function);
  }
  static constexpr size_t shards() { return kShards; }
  static size_t ShardOf(size_t hash) { return hash >> (64 - std::countr_zero(kShards)); }
  size_t SizeOfShard(size_t index) const { return shards_[index].size; }
  size_t SlotsOfShard(size_t index) const { return shards_[index].groups * kGroupSlots; }

  // Forgets a shard's entries. Keeps their memory if they had used a good part of it.
  void ClearShard(size_t index) { ClearShard(index, shards_[index].size); }
  // Keeps the memory if the entries expected next use a large part of it.
  void ClearShard(size_t index, size_t expected) {
    Shard& shard = shards_[index];
    if (shard.groups == 0) return;
    size_ -= shard.size;
    shard.size = 0;
    std::memset(shard.block, 0, shard.groups * kTagBytes);
    if (expected == 0) {
      Free(index);
    } else {
      ShrinkIfSparse(index, expected);
    }
  }
  void Clear() {
    for (size_t i = 0; i < kShards; ++i) ClearShard(i);
  }

  size_t MemoryBytes() const {
    size_t bytes = kShards * sizeof(Shard) + moved_.capacity();
    for (size_t i = 0; i < kShards; ++i) {
      if (shards_[i].groups != 0) bytes += MappedBytes(i, shards_[i].groups);
    }
    return bytes;
  }

 private:
  // Below this average of entries to a group, a shard with more groups than this is made smaller.
  static constexpr size_t kGroupSparse = 3;
  static constexpr uint32_t kGroupsKept = 4;
  void ShrinkIfSparse(size_t index) { ShrinkIfSparse(index, shards_[index].size); }
  void ShrinkIfSparse(size_t index, size_t used) {
    const Shard& shard = shards_[index];
    if (shard.groups > kGroupsKept && used < shard.groups * kGroupSparse) [[unlikely]] {
      Resize(index, RungAbove(index, GroupsFor(used + used / 2)));
    }
  }

  static_assert(sizeof(size_t) == 8, "the bits of a hash are dealt out below");
  static uint8_t TagOf(size_t hash) {
    const uint8_t tag = static_cast<uint8_t>(hash);
    return tag == 0 ? 1 : tag;
  }
  static size_t Home(const Shard& shard, size_t hash) {
    return uint64_t{static_cast<uint32_t>(hash >> 8)} * shard.groups >> 32;
  }

  static void Fetch(const void* address) {
    __builtin_prefetch(address);
    // GCC takes a function that only prefetches for one without effect, and drops the calls of it.
    asm volatile("");
  }

  // The group's entries with this tag, one bit each; 0: the free ones.
  static uint32_t Match(const uint8_t* tags, uint8_t tag) {
#if defined(__SSE2__)
    const __m128i group = _mm_loadu_si128(reinterpret_cast<const __m128i*>(tags));
    const __m128i equal = _mm_cmpeq_epi8(group, _mm_set1_epi8(static_cast<char>(tag)));
    return static_cast<uint32_t>(_mm_movemask_epi8(equal)) & ((1u << kGroupSlots) - 1);
#else
    uint32_t found = 0;
    for (size_t i = 0; i < kGroupSlots; ++i) found |= uint32_t{tags[i] == tag} << i;
    return found;
#endif
  }
  static uint32_t Used(const uint8_t* tags) { return ~Match(tags, 0) & ((1u << kGroupSlots) - 1); }

  // The sizes that a shard takes: all of them up to kFirstRung, then kStep times more each,
  // beginning at another size for each shard.
  static uint32_t RungAbove(size_t index, size_t groups) {
    constexpr size_t kFirstRung = 4;
    constexpr double kStep = 1 + kGrowthPercent / 100.0;
    if (groups < kFirstRung) return static_cast<uint32_t>(groups + 1);
    double rung = kFirstRung * std::pow(kStep, static_cast<double>(index) / kShards);
    while (std::ceil(rung) <= static_cast<double>(groups)) rung *= kStep;
    return static_cast<uint32_t>(std::ceil(rung));
  }
  static size_t GroupsFor(size_t entries) { return entries / kGroupFull; }

  static size_t EntriesOffset(size_t groups) {
    return (groups * kTagBytes + kCacheLine - 1) & ~(kCacheLine - 1);
  }
  static size_t BlockBytes(size_t groups) {
    return EntriesOffset(groups) + groups * kGroupSlots * sizeof(Entry);
  }
  static size_t Color(size_t index) { return index % kColors * kCacheLine; }
  static size_t MappedBytes(size_t index, size_t groups) {
    return (Color(index) + BlockBytes(groups) + kPage - 1) & ~(kPage - 1);
  }

  // Number of groups that the pages of a block of `groups` hold.
  static uint32_t RoundUp(size_t index, uint32_t groups) {
    const size_t bytes = MappedBytes(index, groups);
    while (MappedBytes(index, groups + 1) == bytes) ++groups;
    return groups;
  }

  // Gives the shard an empty block of this number of groups (rounded up). Blocks are not taken
  // from the heap: what one shard gives up, another, which needs more, could not use, and holes
  // would be left.
  void Map(size_t index, uint32_t groups) {
    Shard& shard = shards_[index];
    const size_t bytes = MappedBytes(index, groups);
    const size_t before = shard.groups == 0 ? 0 : MappedBytes(index, shard.groups);
    void* base;
    // Populated: page by page it would take several times as long.
    if (before == 0) {
      base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    } else {
      // The pages that it has move without being copied, freed and zeroed.
      base = mremap(shard.block - Color(index), before, bytes, MREMAP_MAYMOVE);
    }
    if (base == MAP_FAILED) throw std::bad_alloc();
    if (before != 0 && before < bytes) {
      // Fails on kernels before 5.14; they fill the pages in one by one.
      madvise(static_cast<char*>(base) + before, bytes - before, MADV_POPULATE_WRITE);
    }
    shard = {static_cast<uint8_t*>(base) + Color(index), groups, 0};
    if (before != 0) std::memset(shard.block, 0, groups * kTagBytes);
  }
  void Free(size_t index) {
    Shard& shard = shards_[index];
    if (shard.groups != 0) munmap(shard.block - Color(index), MappedBytes(index, shard.groups));
    shard = Shard{};
  }

  // Counts and marks a place for an entry that is not in the table.
  // Not inlined: beside it, FindOrAddEntry takes three times as long to find.
  [[gnu::noinline]] Entry* Add(size_t hash) {
    const size_t index = ShardOf(hash);
    Shard& shard = shards_[index];
    if (shard.size >= shard.groups * kGroupFull) [[unlikely]] {
      Resize(index, RungAbove(index, shard.groups));
    }
    ++size_;
    return Place(hash, &shard);
  }
  static Entry* Place(size_t hash, Shard* shard) {
    size_t group = Home(*shard, hash);
    for (;;) {
      uint8_t* tags = shard->Tags(group);
      if (const uint32_t unused = Match(tags, 0); unused != 0) {
        const int slot = std::countr_zero(unused);
        tags[slot] = TagOf(hash);
        ++shard->size;
        return shard->Entries(group) + slot;
      }
      if (tags[kOverflow] != kOverflowUnknown) ++tags[kOverflow];
      if (++group == shard->groups) group = 0;
    }
  }
  void Remove(Entry* entry, size_t hash, Shard* shard) {
    const auto slot = static_cast<size_t>(entry - shard->Entries(0));
    const size_t its_group = slot / kGroupSlots;
    for (size_t group = Home(*shard, hash); group != its_group;) {
      uint8_t* count = shard->Tags(group) + kOverflow;
      if (*count != kOverflowUnknown) --*count;
      if (++group == shard->groups) group = 0;
    }
    shard->Tags(its_group)[slot % kGroupSlots] = 0;
    --shard->size;
    --size_;
  }

  // Its entries take the way over moved_.
  void Resize(size_t index, uint32_t groups) {
    Shard& shard = shards_[index];
    groups = RoundUp(index, groups);
    if (groups == shard.groups) return;
    Shard old = shard;
    if (old.size != 0) moved_.assign(old.block, old.block + BlockBytes(old.groups));
    old.block = moved_.data();
    Map(index, groups);
    if (old.size == 0) return;
    for (size_t group = 0; group < old.groups; ++group) {
      const Entry* entries = old.Entries(group);
      for (uint32_t left = Used(old.Tags(group)); left != 0; left &= left - 1) {
        const Entry& entry = entries[std::countr_zero(left)];
        std::memcpy(static_cast<void*>(Place(Traits::HashOf(entry), &shard)), &entry,
                    sizeof(Entry));
      }
    }
  }

  Shard* shards_;
  size_t size_ = 0;
  std::vector<uint8_t> moved_;  // What is being moved; kept, as large as the largest shard.
};

template <typename KeyType, typename Value>
struct StaggeredMapTraits {
  using Key = KeyType;
  struct Entry {
    const Key first;
    Value second;
  };
  static size_t Hash(const Key& key) { return absl::HashOf(key); }
  static size_t HashOf(const Entry& entry) { return absl::HashOf(entry.first); }
  static bool Matches(const Entry& entry, const Key& key) { return entry.first == key; }
  static void Construct(Entry* entry, const Key& key) { new (entry) Entry{key, {}}; }
};

// kShards: an entry that is added may move one kShards-th of all others.
template <typename Key, typename Value, size_t kShards = 512>
class StaggeredMap : public StaggeredTable<StaggeredMapTraits<Key, Value>, kShards> {
  using Table = StaggeredTable<StaggeredMapTraits<Key, Value>, kShards>;

 public:
  using Table::Hash;

  Value* Find(const Key& key, size_t hash) const {
    auto* entry = this->FindEntry(key, hash);
    return entry == nullptr ? nullptr : &entry->second;
  }
  Value* Find(const Key& key) const { return Find(key, Hash(key)); }

  Value& FindOrAdd(const Key& key, size_t hash) {
    return this->FindOrAddEntry(key, hash).first->second;
  }
  Value& operator[](const Key& key) { return FindOrAdd(key, Hash(key)); }

  // False if it was not there.
  bool Erase(const Key& key, size_t hash) {
    auto* entry = this->FindEntry(key, hash);
    if (entry == nullptr) return false;
    this->EraseEntry(entry, hash);
    return true;
  }
  bool Erase(const Key& key) { return Erase(key, Hash(key)); }
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_STAGGERED_MAP_H_
