// Autograd's worker thread of the device, at the end of the process. runtime/workers.py says why.
#pragma once

#include <torch/csrc/utils/pybind.h>

namespace portable_mps {

void bind_worker(py::module_& module);

}  // namespace portable_mps
