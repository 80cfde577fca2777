// Quantised tensors: integers with a scale and a zero point.
#pragma once

#include "python.h"

namespace portable_mps {

void bind_quantized(py::module_& module);

}  // namespace portable_mps
