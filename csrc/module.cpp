// Python's view of the C++ side: `portable_mps._C`.
#include "allocator.h"
#include "capture.h"
#include "compiler.h"
#include "cross_entropy.h"
#include "functionality.h"
#include "generator.h"
#include "graph_kernel.h"
#include "hooks.h"
#include "lists.h"
#include "pinned.h"
#include "pointwise.h"
#include "quantized.h"
#include "recorder.h"
#include "replay.h"
#include "worker.h"

#include <c10/core/Allocator.h>
#include <torch/extension.h>

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  using namespace portable_mps;

  // Without this, storages that torch makes by device (torch.load, UntypedStorage) find no
  // allocator.
  c10::SetAllocator(c10::DeviceType::MPS, allocator());
  register_pinned_allocator();
  become_the_accelerator();

  bind_compiler(module);
  bind_recorder(module);
  bind_capture(module);
  bind_pointwise(module);
  bind_functionality(module);
  bind_quantized(module);
  bind_replay(module);
  bind_cross_entropy(module);
  bind_graph_kernel(module);
  bind_lists(module);
  bind_worker(module);

  module.def("allocated_memory", &allocated_memory);
  module.def("driver_memory", &driver_memory);
  // For torch.UntypedStorage(..., allocator=): torch itself knows no allocator of this device off
  // the Mac.
  module.def("allocator_address", [] { return reinterpret_cast<uintptr_t>(allocator()); });
  module.def(
      "empty_cache", [] { allocator()->emptyCache(); }, py::call_guard<py::gil_scoped_release>());
  module.def("resize_storage", &resize_storage);
  module.def("set_memory_ratio", &set_memory_ratio);
  module.def("set_default_memory_ratio", &set_default_memory_ratio);

  module.def("default_generator", [] { return default_generator(); });
  module.def("reserve_philox", &reserve_philox);
  module.def("drawn_numbers", [](uint64_t seed, uint64_t counter) {
    return std::pair(drawn_number({seed, counter, false}), drawn_number({seed, counter, true}));
  });
}
