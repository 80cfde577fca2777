// Tables on the device of lists of tensors, for kernels over all the tensors of a list.
#pragma once

#include <torch/csrc/utils/pybind.h>

namespace portable_mps {

void bind_lists(py::module_& module);

}  // namespace portable_mps
