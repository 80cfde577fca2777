// What torch asks of the `mps` backend as a whole: the hooks that `MPSHooksRegistry` would hold on
// a Mac.
#include "hooks.h"

#include "allocator.h"
#include "generator.h"
#include "pinned.h"
#include "runtime.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/detail/MPSHooksInterface.h>
#include <ATen/detail/XPUHooksInterface.h>

namespace portable_mps {
namespace {

struct Hooks final : at::MPSHooksInterface {
  // torch 2.11 passes MPSHooksArgs here, later versions nothing.
  template <typename... Args>
  explicit Hooks(Args&&...) {}

  void init() const override {}
  bool hasMPS() const override { return true; }
  // Where another backend's hooks were in use before ours came, claiming this too would make torch
  // raise.
  bool isBuilt() const override {
    return !at::detail::getCUDAHooks().isBuilt() && !at::detail::getXPUHooks().isBuilt();
  }
  bool isAvailable() const override { return runtime::adapter_count() > 0; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  bool isOnMacOSorNewer(unsigned, unsigned) const override {
    return true;  // scripts ask this to learn whether newer operators exist; they do
  }
  at::Device getDeviceFromPtr(void*) const override { return runtime::mps_device(); }

  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return default_generator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::make_generator<PhiloxGenerator>();
  }

  at::Allocator* getPinnedMemoryAllocator() const override { return pinned_allocator(); }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }

  at::Allocator* getMPSDeviceAllocator() const override { return allocator(); }
  void emptyCache() const override { allocator()->emptyCache(); }
  size_t getCurrentAllocatedMemory() const override { return allocated_memory(); }
  size_t getDriverAllocatedMemory() const override { return driver_memory(); }
  size_t getRecommendedMaxMemory() const override { return runtime::device_memory(); }
  void setMemoryFraction(double ratio) const override { set_memory_ratio(ratio); }

  void deviceSynchronize() const override { runtime::synchronize(); }
  void commitStream() const override { runtime::commit(); }
};

// torch allows one accelerator to be built, available or not, and keeps each backend's hooks once
// it has asked them something. Of a CUDA build without a CUDA device, as pip installs it on every
// Linux machine, the object in use becomes one of its base class, which has no data and says that
// nothing is built.
template <typename Interface>
void disown(const Interface& hooks) {
  if (hooks.isBuilt()) {
    static_assert(sizeof(Interface) == sizeof(void*), "nothing but a virtual table");
    new (const_cast<Interface*>(&hooks)) Interface();
  }
}

}  // namespace

void become_the_accelerator() {
  disown(at::detail::getCUDAHooks());
  disown(at::detail::getXPUHooks());
}

}  // namespace portable_mps

namespace at {
using PortableMPSHooks = portable_mps::Hooks;
C10_REGISTER_TYPED_CLASS(MPSHooksRegistry, "MPSHooks", PortableMPSHooks)
}  // namespace at
