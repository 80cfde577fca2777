// at::TensorIterator for our kernels: broadcasting, promotion, overlap
// checks and the collapsing of dimensions are torch's own; what is added is the packing of the
// kernel's parameters.
#pragma once

#include "hazards.h"

#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

namespace portable_mps {

// How operand dtypes relate; the values are shared with portable_mps/dispatch/promotion.py.
enum class Promotion : int {
  kNone = 0,     // every operand keeps its dtype (copy, where); an output that is allocated has the
                 // last input's
  kDefault = 1,  // torch.result_type of the inputs, cast to the outputs
  kFloat = 2,    // kDefault, with integers promoted to the default float dtype
  kBool = 3,     // inputs promoted, outputs are bool or whatever out= says
  kSame = 4,     // all operands must have one dtype
};

using Groups = std::array<uint32_t, 3>;

// A dispatch of so many workgroups in a row: x counts to here before y counts up, as Vulkan grants
// 65535 in each. `grid` of dispatch/launch.py.
constexpr int64_t kGroupRow = 32768;

inline Groups grid_of(int64_t groups) {
  return {static_cast<uint32_t>(std::min(groups, kGroupRow)),
          static_cast<uint32_t>((groups + kGroupRow - 1) / kGroupRow), 1};
}
using Parameters = c10::SmallVector<uint8_t, 256>;

// One elementwise launch, ready to be recorded.
struct Plan {
  std::vector<at::Tensor> outputs;  // what was passed, or allocated
  // The compile key's variable part: 6 bits of dtype an operand, outputs first; the common dtype;
  // mask of what a vector repeats, scalar mask, rank class, bits for several elements or vectors a
  // thread, for vectors and for 64-bit indices (portable_mps/dispatch/pointwise.py reads it).
  std::array<uint64_t, 3> signature{};
  Parameters parameters;
  c10::SmallVector<uint32_t, 8> addresses;  // where they are in the parameters
  Groups groups{};                          // zeros where there is nothing to launch
  std::vector<Range> reads, writes;
};

// Plan one elementwise launch. Needs no GIL.
//
// outputs: tensors, undefined ones are allocated. inputs: tensors; CPU ones with one element travel
// as scalars. formats: one character a scalar: 'c' compute type of the common dtype (two numbers
// for a complex one), 'o' and 's' the same (pointwise.h says what they must fit), 'f' float32,
// 'd' float64, 'i' int32, 'l' int64. unroll: whether a thread may take several.
Plan plan_pointwise(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs,
                    const std::vector<at::Scalar>& scalars, const std::string& formats,
                    Promotion promotion, bool unroll);

// Byte range that a tensor's elements lie in; empty for a tensor without elements.
Range byte_range(const at::TensorBase& tensor);

}  // namespace portable_mps
