#include "allocator.h"

#include "capture.h"
#include "python.h"
#include "runtime.h"
#include "tape.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_set>
#include <vector>

namespace portable_mps {
namespace {

using c10::CachingAllocator::Stat;
using c10::CachingAllocator::StatArray;
using c10::CachingAllocator::StatType;
using c10::CachingDeviceAllocator::DeviceStats;

constexpr size_t kGranularity = 512;  // vector loads and texture-sized alignments all divide it
constexpr size_t kSmallestSlab = 32 << 20;
constexpr size_t kLargestSlab = size_t{1}
                                << 30;  // llvmpipe refuses 2 GiB; larger tensors get their own slab
constexpr size_t kSlabRounding = 2 << 20;
constexpr size_t kMostWaste = 2;           // times what is asked for, of a pool's block
constexpr size_t kLargeRequest = 1 << 20;  // what torch.accelerator counts as the large pool

size_t round_up(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Not with a stream: some toolchains link the C++ library's half into us, whose streams crash on a
// floating-point number beside torch's.
std::string mebibytes(size_t bytes) {
  std::array<char, 40> text{};
  std::snprintf(text.data(), text.size(), "%.2f MiB", static_cast<double>(bytes) / (1 << 20));
  return text.data();
}

struct Pool;

// A run of bytes inside a slab; the blocks of a slab form a list in address order.
struct Block {
  uint64_t address;
  size_t size;
  Block* previous;
  Block* next;
  bool free;
  size_t requested = 0;
  Pool* pool = nullptr;  // whose alone it is

  bool is_whole_slab() const { return previous == nullptr && next == nullptr; }
};

struct SmallestFirst {
  bool operator()(const Block* a, const Block* b) const {
    return a->size != b->size ? a->size < b->size : a->address < b->address;
  }
};

// What captured graphs hold on to.
struct Pool {
  std::set<Block*, SmallestFirst> free;
  std::unordered_set<Block*> used;  // by tensors
  int graphs = 0;
};

// Every tensor of this device comes by here before an operator can see it: the first one has the
// operators registered, so that `import torch` need not wait for them.
void load_operators() {
  static std::atomic<bool> loaded{false};
  if (!loaded.load(std::memory_order_acquire)) {
    in_python([] { py::module_::import("portable_mps.ops"); });
    loaded.store(true, std::memory_order_release);
  }
}

// Apply `change` to a figure's total and to its part for small or large requests.
template <typename Change>
void count(StatArray& figure, bool large, const Change& change) {
  change(figure[static_cast<size_t>(StatType::AGGREGATE)]);
  change(figure[static_cast<size_t>(large ? StatType::LARGE_POOL : StatType::SMALL_POOL)]);
}

void increase(StatArray& figure, size_t amount, bool large) {
  count(figure, large, [&](Stat& stat) { stat.increase(amount); });
}

void decrease(StatArray& figure, size_t amount, bool large) {
  count(figure, large, [&](Stat& stat) { stat.decrease(amount); });
}

size_t current(const StatArray& figure) {
  return static_cast<size_t>(figure[static_cast<size_t>(StatType::AGGREGATE)].current);
}

// One pool of slabs serves all sizes. Requests are counted as small or large by torch's bound;
// slabs and what is free in them always as large.
class CachingAllocator final : public c10::DeviceAllocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    load_operators();
    if (bytes == 0) {
      return {nullptr, runtime::mps_device()};
    }
    const size_t size = round_up(bytes, kGranularity);
    Block* block = take(size, bytes);
    if (block == nullptr) {
      block = grow_and_take(size, bytes);
    }
    if (Recording* noted = recording()) {
      noted->allocated(block->address, bytes);
    }
    void* address = reinterpret_cast<void*>(block->address);
    return {address, block, &CachingAllocator::release, runtime::mps_device()};
  }

  void copy_data(void* destination, const void* source, std::size_t bytes) const override {
    runtime::copy(reinterpret_cast<uint64_t>(destination), reinterpret_cast<uint64_t>(source),
                  bytes);
  }

  // Statistics and the cache can be asked about before the device is open: they are empty.
  bool initialized() override { return true; }

  void recordStream(const c10::DataPtr&, c10::Stream) override {}  // there is one stream

  DeviceStats getDeviceStats(c10::DeviceIndex index) override {
    runtime::check_index(index);
    const std::lock_guard<std::mutex> lock(mutex_);
    return stats_;
  }

  void resetAccumulatedStats(c10::DeviceIndex index) override {
    runtime::check_index(index);
    const std::lock_guard<std::mutex> lock(mutex_);
    for (StatArray* figure : figures()) {
      std::for_each(figure->begin(), figure->end(), [](Stat& stat) { stat.reset_accumulated(); });
    }
    stats_.num_alloc_retries = stats_.num_ooms = 0;
    stats_.num_device_alloc = stats_.num_device_free = 0;
  }

  void resetPeakStats(c10::DeviceIndex index) override {
    runtime::check_index(index);
    const std::lock_guard<std::mutex> lock(mutex_);
    for (StatArray* figure : figures()) {
      std::for_each(figure->begin(), figure->end(), [](Stat& stat) { stat.reset_peak(); });
    }
  }

  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex index) override {
    runtime::check_index(index);
    return {runtime::free_memory(), runtime::device_memory()};
  }

  // Return slabs without a live tensor to the driver.
  void emptyCache(c10::MempoolId_t = {0, 0}) override {
    if (capturing() != nullptr) {
      return;  // nothing may be waited for
    }
    std::vector<uint64_t> unused;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (auto block = free_.begin(); block != free_.end();) {
        Block* candidate = *block;
        if (candidate->is_whole_slab()) {
          unused.push_back(candidate->address);
          decrease(stats_.reserved_bytes, candidate->size, true);
          decrease(stats_.segment, 1, true);
          ++stats_.num_device_free;
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

  c10::MempoolId_t open_pool(c10::MempoolId_t id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (id == c10::MempoolId_t{0, 0}) {
      id = {0, ++pools_made_};
    }
    std::unique_ptr<Pool>& pool = pools_[id];
    if (pool == nullptr) {
      pool = std::make_unique<Pool>();
    }
    ++pool->graphs;
    capturing_ = pool.get();
    return id;
  }

  void close_pool() {
    const std::lock_guard<std::mutex> lock(mutex_);
    capturing_ = nullptr;
  }

  // Memory that tensors still use is freed with them, as ever.
  void drop_pool(c10::MempoolId_t id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = pools_.find(id);
    if (found == pools_.end() || --found->second->graphs > 0) {
      return;
    }
    for (Block* block : found->second->used) {
      block->pool = nullptr;
    }
    for (Block* block : found->second->free) {
      block->pool = nullptr;
      insert_free_among_neighbours(block);
    }
    pools_.erase(found);
  }

  size_t allocated() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return current(stats_.allocated_bytes);
  }

  size_t reserved() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return current(stats_.reserved_bytes);
  }

  void set_ratio(double ratio) {
    ratio_is_set_ = true;
    ratio_ = ratio;
  }

  void set_default_ratio(double ratio) {
    if (!ratio_is_set_) {
      ratio_ = ratio;
    }
  }

 private:
  static void release(void* context) { instance().put_back(static_cast<Block*>(context)); }

  static CachingAllocator& instance() {
    return *static_cast<CachingAllocator*>(portable_mps::allocator());
  }

  std::vector<StatArray*> figures() {
    return {&stats_.allocation,     &stats_.segment,         &stats_.active,
            &stats_.inactive_split, &stats_.allocated_bytes, &stats_.reserved_bytes,
            &stats_.active_bytes,   &stats_.requested_bytes, &stats_.inactive_split_bytes};
  }

  void insert_free(Block* block) {
    block->free = true;
    free_.insert(block);
    if (!block->is_whole_slab()) {
      increase(stats_.inactive_split, 1, true);
      increase(stats_.inactive_split_bytes, block->size, true);
    }
  }

  void insert_free_among_neighbours(Block* block) {
    if (Block* next = block->next; next != nullptr && next->free) {
      remove_free(next);
      absorb(block, next);
    }
    if (Block* previous = block->previous; previous != nullptr && previous->free) {
      remove_free(previous);
      absorb(previous, block);
      block = previous;
    }
    insert_free(block);
  }

  void remove_free(Block* block) {
    free_.erase(block);
    block->free = false;
    if (!block->is_whole_slab()) {
      decrease(stats_.inactive_split, 1, true);
      decrease(stats_.inactive_split_bytes, block->size, true);
    }
  }

  // Best fit, split when the rest is worth keeping. nullptr when no free block is large enough.
  Block* take_of_all(size_t size) {
    Block wanted{0, size, nullptr, nullptr, true};
    const auto found = free_.lower_bound(&wanted);
    if (found == free_.end()) {
      return nullptr;
    }
    Block* const block = *found;
    remove_free(block);
    if (block->size - size >= kGranularity) {
      auto* rest = new Block{block->address + size, block->size - size, block, block->next, true};
      if (rest->next != nullptr) {
        rest->next->previous = rest;
      }
      block->next = rest;
      block->size = size;
      insert_free(rest);
    }
    return block;
  }

  // The same from a pool, whose blocks are never split; it grows by blocks that are free of all.
  Block* take_of(Pool& pool, size_t size) {
    Block wanted{0, size, nullptr, nullptr, true};
    const auto found = pool.free.lower_bound(&wanted);
    const bool fits = found != pool.free.end() && (*found)->size <= kMostWaste * size;
    Block* const block = fits ? *found : take_of_all(size);
    if (block != nullptr) {
      if (fits) {
        pool.free.erase(found);
      }
      block->pool = &pool;
      pool.used.insert(block);
    }
    return block;
  }

  Block* take(size_t size, size_t requested) {
    Block* block = nullptr;
    size_t allocated = 0, reserved = 0;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const bool is_captured = capturing_ != nullptr && capturing() != nullptr;
      block = is_captured ? take_of(*capturing_, size) : take_of_all(size);
      if (block == nullptr) {
        return nullptr;
      }
      block->requested = requested;
      const bool large = requested >= kLargeRequest;
      for (StatArray* figure : {&stats_.allocation, &stats_.active}) {
        increase(*figure, 1, large);
      }
      for (StatArray* figure : {&stats_.allocated_bytes, &stats_.active_bytes}) {
        increase(*figure, block->size, large);
      }
      increase(stats_.requested_bytes, requested, large);
      allocated = current(stats_.allocated_bytes);
      reserved = current(stats_.reserved_bytes);
    }
    report(block->address, static_cast<int64_t>(size), allocated, reserved);
    return block;
  }

  void put_back(Block* block) {
    const uint64_t address = block->address;
    if (Recording* noted = recording()) {
      noted->released(address);
    }
    const auto size = static_cast<int64_t>(block->size);
    size_t allocated = 0, reserved = 0;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const bool large = block->requested >= kLargeRequest;
      for (StatArray* figure : {&stats_.allocation, &stats_.active}) {
        decrease(*figure, 1, large);
      }
      for (StatArray* figure : {&stats_.allocated_bytes, &stats_.active_bytes}) {
        decrease(*figure, block->size, large);
      }
      decrease(stats_.requested_bytes, block->requested, large);
      if (block->pool != nullptr) {
        block->pool->used.erase(block);
        block->pool->free.insert(block);
      } else {
        insert_free_among_neighbours(block);
      }
      allocated = current(stats_.allocated_bytes);
      reserved = current(stats_.reserved_bytes);
    }
    report(address, -size, allocated, reserved);
  }

  // For torch.profiler(profile_memory=True).
  static void report(uint64_t address, int64_t size, size_t allocated, size_t reserved) {
    c10::reportMemoryUsageToProfiler(reinterpret_cast<void*>(address), size, allocated, reserved,
                                     runtime::mps_device());
  }

  static void absorb(Block* block, Block* next) {
    block->size += next->size;
    block->next = next->next;
    if (block->next != nullptr) {
      block->next->previous = block;
    }
    delete next;
  }

  Block* grow_and_take(size_t size, size_t requested) {
    const size_t exact = round_up(size, kSlabRounding);
    // Slabs grow with the process, so that a large model needs few and a small script takes little.
    size_t preferred = std::clamp(reserved() / 2, kSmallestSlab, kLargestSlab);
    preferred = std::max(exact, round_up(preferred, kSlabRounding));
    for (size_t attempt : {preferred, exact}) {
      if (add_slab(attempt)) {
        return take_after_growth(size, requested);
      }
    }
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ++stats_.num_alloc_retries;
    }
    emptyCache();
    if (Block* block = take(size, requested)) {
      return block;
    }
    if (add_slab(exact)) {
      return take_after_growth(size, requested);
    }
    size_t allocated = 0, reserved = 0;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ++stats_.num_ooms;
      allocated = current(stats_.allocated_bytes);
      reserved = current(stats_.reserved_bytes);
    }
    c10::reportOutOfMemoryToProfiler(static_cast<int64_t>(size), allocated, reserved,
                                     runtime::mps_device());
    const auto [sure, most] = runtime::allocation_limits();
    TORCH_CHECK_WITH(OutOfMemoryError, size <= most,
                     "MPS backend out of memory. Tried to allocate ", mebibytes(size),
                     " on the GPU, whose driver allows at most ", mebibytes(most),
                     " in one allocation (maxBufferSize), however much memory is free. Split the "
                     "tensor, or use a smaller batch.");
    TORCH_CHECK_WITH(
        OutOfMemoryError, false, "MPS backend out of memory (MPS allocated: ", mebibytes(allocated),
        ", cached in partly used slabs: ", mebibytes(reserved - allocated),
        ", max allowed: ", limit() == 0 ? "no limit" : mebibytes(limit()), "). Tried to allocate ",
        mebibytes(size),
        " on the GPU. Free tensors, use a smaller batch, or set "
        "PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to lift the limit (the driver may then fail).",
        size <= sure ? std::string()
                     : " The driver promises no single allocation above " + mebibytes(sure) +
                           " (maxMemoryAllocationSize).");
  }

  // Another thread may have taken from the slab just added; then add one more.
  Block* take_after_growth(size_t size, size_t requested) {
    Block* block = take(size, requested);
    return block != nullptr ? block : grow_and_take(size, requested);
  }

  bool add_slab(size_t size) {
    if (limit() != 0 && reserved() + size > limit()) {
      return false;
    }
    const uint64_t address = runtime::create_slab(size);
    if (address == 0) {
      return false;
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    insert_free(new Block{address, size, nullptr, nullptr, true});
    increase(stats_.reserved_bytes, size, true);
    increase(stats_.segment, 1, true);
    ++stats_.num_device_alloc;
    return true;
  }

  size_t limit() {
    const auto memory = static_cast<double>(runtime::device_memory());  // opening sets the ratio
    return static_cast<size_t>(ratio_ * memory);
  }

  std::mutex mutex_;
  std::set<Block*, SmallestFirst> free_;
  std::map<c10::MempoolId_t, std::unique_ptr<Pool>> pools_;
  uint64_t pools_made_ = 0;
  Pool* capturing_ = nullptr;  // whose memory is allocated
  DeviceStats stats_;
  std::atomic<double> ratio_{1.0};
  std::atomic<bool> ratio_is_set_{false};
};

CachingAllocator& instance() {
  static auto* const made = new CachingAllocator();
  return *made;
}

}  // namespace

c10::DeviceAllocator* allocator() { return &instance(); }

c10::MempoolId_t open_pool(c10::MempoolId_t pool) { return instance().open_pool(pool); }

void close_pool() { instance().close_pool(); }

void drop_pool(c10::MempoolId_t pool) { instance().drop_pool(pool); }

size_t allocated_memory() { return instance().allocated(); }

size_t driver_memory() { return instance().reserved(); }

void set_memory_ratio(double ratio) { instance().set_ratio(ratio); }

void set_default_memory_ratio(double ratio) { instance().set_default_ratio(ratio); }

void resize_storage(const at::Storage& storage, size_t bytes) {
  at::StorageImpl* impl = storage.unsafeGetStorageImpl();
  TORCH_CHECK(impl->resizable(), "Trying to resize storage that is not resizable");
  at::DataPtr data = allocator()->allocate(bytes);
  if (const size_t kept = std::min(impl->nbytes(), bytes)) {
    allocator()->copy_data(data.get(), impl->data(), kept);
  }
  impl->set_data_ptr_noswap(std::move(data));
  impl->set_nbytes(bytes);
}

}  // namespace portable_mps
