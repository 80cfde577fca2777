// One device and one in-order stream: switching is a no-op, and an event is a position in the
// stream.
#include "runtime.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace portable_mps {
namespace {

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::DeviceType::MPS; }
  c10::Device getDevice() const override { return runtime::mps_device(); }
  c10::Device exchangeDevice(c10::Device device) const override {
    runtime::check_index(device.index());
    return getDevice();
  }
  void setDevice(c10::Device device) const override { runtime::check_index(device.index()); }
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }

#if __has_include(<c10/core/DeviceCapability.h>)
  c10::DeviceCapability getDeviceCapability(c10::Device) const override {
    c10::DeviceCapability capability;
    capability.capability_data.capability_bits = 0;
    auto& has = capability.capability_data.supported_scalar_types;
    has.has_Bool = has.has_Byte = has.has_Char = has.has_Short = has.has_Int = has.has_Long = true;
    has.has_UInt16 = has.has_UInt32 = has.has_UInt64 = true;
    has.has_Half = has.has_BFloat16 = has.has_Float = true;
    has.has_ComplexHalf = has.has_ComplexFloat = true;
    has.has_Double = has.has_ComplexDouble = runtime::has_float64();
    has.has_Float8_e5m2 = has.has_Float8_e4m3fn = true;
    has.has_Float8_e5m2fnuz = has.has_Float8_e4m3fnuz = has.has_Float8_e8m0fnu = true;
    has.has_QInt8 = has.has_QUInt8 = has.has_QInt32 = true;
    return capability;
  }
#endif

  c10::Stream getStream(c10::Device) const override {
    return c10::Stream(c10::Stream::DEFAULT, runtime::mps_device());
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return getStream(device);
  }
  c10::Stream getNewStream(c10::Device device, int) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream) const override { return getStream(getDevice()); }
  bool queryStream(const c10::Stream&) const override {
    return runtime::query_event(runtime::record_event(false));
  }
  void synchronizeStream(const c10::Stream&) const override { runtime::synchronize(); }
  void synchronizeDevice(const c10::DeviceIndex) const override { runtime::synchronize(); }

  // torch owns the void*: it holds the event's number itself, so there is nothing to destroy.
  void record(void** event, const c10::Stream&, const c10::DeviceIndex,
              const c10::EventFlag flag) const override {
    const bool timed = flag == c10::EventFlag::BACKEND_DEFAULT;
    *event = reinterpret_cast<void*>(runtime::record_event(timed));
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void* event) const override {
    return event == nullptr || runtime::query_event(reinterpret_cast<uint64_t>(event));
  }
  void synchronizeEvent(void* event) const override {
    if (event != nullptr) {
      runtime::synchronize_event(reinterpret_cast<uint64_t>(event));
    }
  }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  double elapsedTime(void* start, void* end, const c10::DeviceIndex) const override {
    return runtime::elapsed_milliseconds(reinterpret_cast<uint64_t>(start),
                                         reinterpret_cast<uint64_t>(end));
  }
};

}  // namespace

C10_REGISTER_GUARD_IMPL(MPS, Guard)

}  // namespace portable_mps
