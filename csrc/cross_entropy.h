#pragma once

#include <torch/extension.h>

namespace portable_mps {

void bind_cross_entropy(py::module_& module);

}  // namespace portable_mps
