#include "pinned.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include <map>
#include <mutex>

namespace portable_mps {
namespace {

class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* data = c10::alloc_cpu(bytes);
    if (data != nullptr) {
      const std::lock_guard<std::mutex> guard(lock_);
      sizes_[static_cast<char*>(data)] = bytes;
    }
    return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
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

  std::mutex lock_;
  std::map<char*, size_t> sizes_;
};

// Never destroyed, since tensors may outlive the interpreter.
PinnedAllocator& instance() {
  static auto* allocator = new PinnedAllocator;
  return *allocator;
}

void PinnedAllocator::release(void* data) {
  if (data != nullptr) {
    PinnedAllocator& self = instance();
    {
      const std::lock_guard<std::mutex> guard(self.lock_);
      self.sizes_.erase(static_cast<char*>(data));
    }
    c10::free_cpu(data);
  }
}

}  // namespace

c10::Allocator* pinned_allocator() { return &instance(); }

bool is_pinned(const void* data) { return instance().owns(data); }

}  // namespace portable_mps
