#include "runtime.h"

#include "python.h"

#include <pybind11/stl.h>

namespace portable_mps::runtime {
namespace {

template <typename Result, typename... Args>
Result call(const char* function, Args... args) {
  return in_python([&] {
    // Looked up at each call: these are rare, and a reference kept past the interpreter's end would
    // crash.
    py::object result = py::module_::import("portable_mps.runtime.bridge").attr(function)(args...);
    if constexpr (!std::is_void_v<Result>) {
      return result.cast<Result>();
    }
  });
}

}  // namespace

void check_index(c10::DeviceIndex index) {
  TORCH_CHECK(index == 0 || index == -1, "MPS device index ", static_cast<int>(index),
              " is out of range: a process has one MPS device, with index 0");
}

void open() { call<void>("open_device"); }
uint64_t create_slab(size_t bytes) { return call<uint64_t>("create_slab", bytes); }
void destroy_slab(uint64_t address) { call<void>("destroy_slab", address); }
void free_host_buffers() { call<void>("free_host_buffers"); }
size_t device_memory() { return call<size_t>("device_memory"); }
size_t free_memory() { return call<size_t>("free_memory"); }
std::pair<size_t, size_t> allocation_limits() {
  return call<std::pair<size_t, size_t>>("allocation_limits");
}
bool has_float64() { return call<bool>("has_float64"); }
void copy(uint64_t destination, uint64_t source, size_t bytes) {
  call<void>("copy", destination, source, bytes);
}
void synchronize() { call<void>("synchronize"); }
void commit() { call<void>("commit"); }
uint64_t record_event(bool timed) { return call<uint64_t>("record_event", timed); }
bool query_event(uint64_t event) { return call<bool>("query_event", event); }
void synchronize_event(uint64_t event) { call<void>("synchronize_event", event); }
double elapsed_milliseconds(uint64_t start, uint64_t end) {
  return call<double>("elapsed_milliseconds", start, end);
}
int adapter_count() noexcept {
  try {
    return call<int>("adapter_count");
  } catch (...) {
    return 0;
  }
}

}  // namespace portable_mps::runtime
