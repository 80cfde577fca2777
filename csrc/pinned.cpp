#include "pinned.h"

#include "runtime.h"

#include <c10/macros/Macros.h>

// The header aligns to a cache line, about which g++ warns.
C10_DIAGNOSTIC_PUSH_AND_IGNORED_IF_DEFINED("-Winterference-size")
#include <ATen/core/CachingHostAllocator.h>
C10_DIAGNOSTIC_POP()
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include <array>
#include <map>
#include <mutex>

namespace portable_mps {
namespace {

class PinnedAllocator final : public at::HostAllocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* data = c10::alloc_cpu(bytes);
    if (data != nullptr) {
      const std::lock_guard<std::mutex> guard(lock_);
      sizes_[static_cast<char*>(data)] = bytes;
      for (auto* figure : {&stats_.active_requests, &stats_.allocations}) {
        figure->increase(1);
      }
      for (auto* figure : {&stats_.active_bytes, &stats_.allocated_bytes}) {
        figure->increase(bytes);
      }
      ++stats_.num_host_alloc;
    }
    return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

  // Uploads have read the memory when they return.
  bool record_event(void*, void*, c10::Stream) override { return true; }
  // Nothing of ours is cached, but buffers of collectives are.
  void empty_cache() override { runtime::free_host_buffers(); }

  at::HostStats get_stats() override {
    const std::lock_guard<std::mutex> guard(lock_);
    return stats_;
  }

  void reset_accumulated_stats() override {
    const std::lock_guard<std::mutex> guard(lock_);
    for (auto* figure : figures()) {
      figure->reset_accumulated();
    }
    stats_.num_host_alloc = stats_.num_host_free = 0;
  }

  void reset_peak_stats() override {
    const std::lock_guard<std::mutex> guard(lock_);
    for (auto* figure : figures()) {
      figure->reset_peak();
    }
  }

  bool owns(const void* data) {
    const std::lock_guard<std::mutex> guard(lock_);
    auto next = sizes_.upper_bound(const_cast<char*>(static_cast<const char*>(data)));
    if (next == sizes_.begin()) {
      return false;
    }
    const auto& [start, bytes] = *--next;
    return data < start + bytes;
  }

 private:
  static void release(void* data);

  std::array<c10::CachingAllocator::Stat*, 4> figures() {
    return {&stats_.active_requests, &stats_.active_bytes, &stats_.allocations,
            &stats_.allocated_bytes};
  }

  void forget(void* data) {
    const std::lock_guard<std::mutex> guard(lock_);
    const auto found = sizes_.find(static_cast<char*>(data));
    for (auto* figure : {&stats_.active_requests, &stats_.allocations}) {
      figure->decrease(1);
    }
    for (auto* figure : {&stats_.active_bytes, &stats_.allocated_bytes}) {
      figure->decrease(found->second);
    }
    ++stats_.num_host_free;
    sizes_.erase(found);
  }

  std::mutex lock_;
  std::map<char*, size_t> sizes_;
  at::HostStats stats_;
};

// Never destroyed, since tensors may outlive the interpreter.
PinnedAllocator& instance() {
  static auto* allocator = new PinnedAllocator;
  return *allocator;
}

void PinnedAllocator::release(void* data) {
  if (data != nullptr) {
    instance().forget(data);
    c10::free_cpu(data);
  }
}

}  // namespace

c10::Allocator* pinned_allocator() { return &instance(); }

void register_pinned_allocator() { at::setHostAllocator(c10::DeviceType::MPS, &instance()); }

bool is_pinned(const void* data) { return instance().owns(data); }

}  // namespace portable_mps
