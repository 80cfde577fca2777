// Kernels for tensors of another functionality than one dense array (sparse, compressed, quantised,
// nested): torch.library has no name for some of their keys.
#pragma once

#include "python.h"

namespace portable_mps {

void bind_functionality(py::module_& module);

}  // namespace portable_mps
