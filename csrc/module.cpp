// Python's view of the C++ side: `portable_mps._C`.
#include "allocator.h"
#include "functionality.h"
#include "generator.h"
#include "hooks.h"
#include "pointwise.h"
#include "quantized.h"
#include "recorder.h"

#include <c10/core/Allocator.h>
#include <torch/extension.h>

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  using namespace portable_mps;

  // Without this, storages that torch makes by device (torch.load, UntypedStorage) find no
  // allocator.
  c10::SetAllocator(c10::DeviceType::MPS, allocator());
  become_the_accelerator();

  bind_recorder(module);
  bind_pointwise(module);
  bind_functionality(module);
  bind_quantized(module);

  module.def("memory_stats", [] {
    const MemoryStats stats = memory_stats();
    py::dict result;
    result["allocated"] = stats.allocated;
    result["peak_allocated"] = stats.peak_allocated;
    result["driver"] = stats.driver;
    result["allocations"] = stats.allocations;
    result["slabs"] = stats.slabs;
    return result;
  });
  // For torch.UntypedStorage(..., allocator=): torch itself knows no allocator of this device off
  // the Mac.
  module.def("allocator_address", [] { return reinterpret_cast<uintptr_t>(allocator()); });
  module.def("empty_cache", &empty_cache, py::call_guard<py::gil_scoped_release>());
  module.def("set_memory_ratio", &set_memory_ratio);

  module.def("default_generator", [] { return default_generator(); });
  module.def("reserve_philox", &reserve_philox);
}
