// at::TensorIterator for kernels that are launched from Python: broadcasting, promotion, overlap
// checks and the collapsing of dimensions are torch's own; what is added is the packing of the
// kernel's parameters.
#pragma once

#include "hazards.h"

#include <torch/extension.h>

namespace portable_mps {

// How operand dtypes relate; the values are shared with portable_mps/dispatch/promotion.py.
enum class Promotion : int {
  kNone = 0,     // every operand keeps its dtype (copy, where): no common dtype is computed
  kDefault = 1,  // torch.result_type of the inputs, cast to the outputs
  kFloat = 2,    // kDefault, with integers promoted to the default float dtype
  kBool = 3,     // inputs promoted, outputs are bool or whatever out= says
  kSame = 4,     // all operands must have one dtype
};

// Plan one elementwise launch.
//
// outputs: tensors or None (allocated). inputs: tensors; CPU ones with one element travel as
// scalars. scalars: Python numbers; formats: one character each, 'c' compute type of the common
// dtype (two numbers for a complex one), 'f' float32, 'd' float64, 'i' int32, 'l' int64. Returns
// (outputs, signature, parameters, group_x, group_y, barrier): signature is the compile key's
// variable part (see portable_mps/dispatch/pointwise.py), parameters a numpy byte array; group_x is
// 0 where there is nothing to launch.
py::tuple plan_pointwise(HazardTracker& hazards, const py::tuple& outputs, const py::tuple& inputs,
                         const py::tuple& scalars, const std::string& formats, int promotion);

// Byte range that a tensor's elements lie in; empty for a tensor without elements.
Range byte_range(const at::TensorBase& tensor);

}  // namespace portable_mps
