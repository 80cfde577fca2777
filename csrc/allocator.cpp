#include "allocator.h"

#include "runtime.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <vector>

namespace portable_mps {
namespace {

constexpr size_t kGranularity = 512;  // vector loads and texture-sized alignments all divide it
constexpr size_t kSmallestSlab = 32 << 20;
constexpr size_t kLargestSlab = size_t{1}
                                << 30;  // llvmpipe refuses 2 GiB; larger tensors get their own slab
constexpr size_t kSlabRounding = 2 << 20;

size_t round_up(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

std::string mebibytes(size_t bytes) {
  std::ostringstream text;
  text.precision(2);
  text << std::fixed << static_cast<double>(bytes) / (1 << 20) << " MiB";
  return text.str();
}

// A run of bytes inside a slab; the blocks of a slab form a list in address order.
struct Block {
  uint64_t address;
  size_t size;
  Block* previous;
  Block* next;
  bool free;
};

struct SmallestFirst {
  bool operator()(const Block* a, const Block* b) const {
    return a->size != b->size ? a->size < b->size : a->address < b->address;
  }
};

class CachingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) {
      return {nullptr, runtime::mps_device()};
    }
    const size_t size = round_up(bytes, kGranularity);
    Block* block = take(size);
    if (block == nullptr) {
      block = grow_and_take(size);
    }
    void* address = reinterpret_cast<void*>(block->address);
    return {address, block, &CachingAllocator::release, runtime::mps_device()};
  }

  void copy_data(void* destination, const void* source, std::size_t bytes) const override {
    runtime::copy(reinterpret_cast<uint64_t>(destination), reinterpret_cast<uint64_t>(source),
                  bytes);
  }

  MemoryStats stats() {
    std::lock_guard<std::mutex> lock(mutex_);
    return stats_;
  }

  void release_unused_slabs() {
    std::vector<uint64_t> unused;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (auto block = free_.begin(); block != free_.end();) {
        Block* candidate = *block;
        if (candidate->previous == nullptr && candidate->next == nullptr) {
          unused.push_back(candidate->address);
          stats_.driver -= candidate->size;
          --stats_.slabs;
          block = free_.erase(block);
          delete candidate;
        } else {
          ++block;
        }
      }
    }
    if (unused.empty()) {
      return;
    }
    runtime::synchronize();  // dispatches that used them may not have run yet
    for (uint64_t address : unused) {
      runtime::destroy_slab(address);
    }
  }

  void set_ratio(double ratio) { ratio_ = ratio; }

 private:
  static void release(void* context) { instance().put_back(static_cast<Block*>(context)); }

  static CachingAllocator& instance() {
    return *static_cast<CachingAllocator*>(portable_mps::allocator());
  }

  // Best fit, split when the rest is worth keeping. nullptr when no free block is large enough.
  Block* take(size_t size) {
    std::lock_guard<std::mutex> lock(mutex_);
    Block wanted{0, size, nullptr, nullptr, true};
    auto found = free_.lower_bound(&wanted);
    if (found == free_.end()) {
      return nullptr;
    }
    Block* block = *found;
    free_.erase(found);
    block->free = false;
    if (block->size - size >= kGranularity) {
      auto* rest = new Block{block->address + size, block->size - size, block, block->next, true};
      if (rest->next != nullptr) {
        rest->next->previous = rest;
      }
      block->next = rest;
      block->size = size;
      free_.insert(rest);
    }
    stats_.allocated += block->size;
    stats_.peak_allocated = std::max(stats_.peak_allocated, stats_.allocated);
    ++stats_.allocations;
    return block;
  }

  void put_back(Block* block) {
    std::lock_guard<std::mutex> lock(mutex_);
    stats_.allocated -= block->size;
    block->free = true;
    if (Block* next = block->next; next != nullptr && next->free) {
      free_.erase(next);
      absorb(block, next);
    }
    if (Block* previous = block->previous; previous != nullptr && previous->free) {
      free_.erase(previous);
      absorb(previous, block);
      block = previous;
    }
    free_.insert(block);
  }

  static void absorb(Block* block, Block* next) {
    block->size += next->size;
    block->next = next->next;
    if (block->next != nullptr) {
      block->next->previous = block;
    }
    delete next;
  }

  Block* grow_and_take(size_t size) {
    const size_t exact = round_up(size, kSlabRounding);
    // Slabs grow with the process, so that a large model needs few and a small script takes little.
    size_t preferred = std::clamp(stats().driver / 2, kSmallestSlab, kLargestSlab);
    preferred = std::max(exact, round_up(preferred, kSlabRounding));
    for (size_t attempt : {preferred, exact}) {
      if (add_slab(attempt)) {
        return take_after_growth(size);
      }
    }
    release_unused_slabs();
    if (Block* block = take(size)) {
      return block;
    }
    if (add_slab(exact)) {
      return take_after_growth(size);
    }
    const MemoryStats now = stats();
    TORCH_CHECK_WITH(
        OutOfMemoryError, false,
        "MPS backend out of memory (MPS allocated: ", mebibytes(now.allocated),
        ", cached in partly used slabs: ", mebibytes(now.driver - now.allocated),
        ", max allowed: ", limit() == 0 ? "no limit" : mebibytes(limit()), "). Tried to allocate ",
        mebibytes(size),
        " on the GPU. Free tensors, use a smaller batch, or set "
        "PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to lift the limit (the driver may then fail).");
  }

  // Another thread may have taken from the slab just added; then add one more.
  Block* take_after_growth(size_t size) {
    Block* block = take(size);
    return block != nullptr ? block : grow_and_take(size);
  }

  bool add_slab(size_t size) {
    if (limit() != 0 && stats().driver + size > limit()) {
      return false;
    }
    const uint64_t address = runtime::create_slab(size);
    if (address == 0) {
      return false;
    }
    std::lock_guard<std::mutex> lock(mutex_);
    free_.insert(new Block{address, size, nullptr, nullptr, true});
    stats_.driver += size;
    ++stats_.slabs;
    return true;
  }

  size_t limit() {
    return static_cast<size_t>(ratio_ * static_cast<double>(runtime::device_memory()));
  }

  std::mutex mutex_;
  std::set<Block*, SmallestFirst> free_;
  MemoryStats stats_;
  std::atomic<double> ratio_{1.0};
};

}  // namespace

c10::Allocator* allocator() {
  static auto* instance = new CachingAllocator();
  return instance;
}

MemoryStats memory_stats() { return static_cast<CachingAllocator*>(allocator())->stats(); }

void empty_cache() { static_cast<CachingAllocator*>(allocator())->release_unused_slabs(); }

void set_memory_ratio(double ratio) {
  static_cast<CachingAllocator*>(allocator())->set_ratio(ratio);
}

}  // namespace portable_mps
