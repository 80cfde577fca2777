// Python's view of the C++ side: `portable_mps._C`.
#include "allocator.h"
#include "generator.h"
#include "hazards.h"
#include "hooks.h"
#include "iterator.h"

#include <c10/core/Allocator.h>
#include <torch/extension.h>

namespace portable_mps {
namespace {

std::vector<Range> ranges_of(const std::vector<at::Tensor>& tensors) {
  std::vector<Range> ranges;
  ranges.reserve(tensors.size());
  for (const auto& tensor : tensors) {
    TORCH_CHECK(
        tensor.device().type() == c10::DeviceType::MPS,
        "Expected all tensors to be on the same device, but found at least two devices, mps:0 and ",
        tensor.device(), "!");
    if (tensor.numel() != 0) {
      ranges.push_back(byte_range(tensor));
    }
  }
  return ranges;
}

}  // namespace
}  // namespace portable_mps

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  using namespace portable_mps;

  // Without this, storages that torch makes by device (torch.load, UntypedStorage) find no
  // allocator.
  c10::SetAllocator(c10::DeviceType::MPS, allocator());
  become_the_accelerator();

  py::class_<HazardTracker>(module, "HazardTracker")
      .def(py::init<>())
      .def("access",
           [](HazardTracker& self, const std::vector<at::Tensor>& reads,
              const std::vector<at::Tensor>& writes) {
             return self.access(ranges_of(reads), ranges_of(writes));
           })
      .def("access_ranges",
           [](HazardTracker& self, const std::vector<std::pair<uint64_t, uint64_t>>& reads,
              const std::vector<std::pair<uint64_t, uint64_t>>& writes) {
             const auto convert = [](const auto& pairs) {
               std::vector<Range> ranges;
               for (const auto& [begin, end] : pairs) {
                 ranges.push_back({begin, end});
               }
               return ranges;
             };
             return self.access(convert(reads), convert(writes));
           })
      .def("reset", &HazardTracker::reset);

  module.def("plan_pointwise", &plan_pointwise);

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
