// The composites of quantiles. torch's look at the fractions on the CPU alone; elsewhere what lies
// outside [0, 1] becomes an index that nobody meant.
#include <ATen/ATen.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/ops/nanquantile_native.h>
#include <ATen/ops/quantile_native.h>
#include <torch/library.h>

#include "composite.h"

namespace portable_mps {
namespace {

using at::Tensor;
using Quantile = Tensor (*)(const Tensor&, const Tensor&, std::optional<int64_t>, bool,
                            c10::string_view);

// The error comes with the next synchronisation: the host does not wait for the fractions.
template <Quantile kNative>
Tensor checked(const Tensor& self, const Tensor& q, std::optional<int64_t> dim, bool keepdim,
               c10::string_view interpolation) {
  if (q.device().is_mps() && q.numel() > 0 && !at::areAnyTensorSubclassLike({self, q})) {
    at::_assert_async(q.ge(0).logical_and(q.le(1)).all(),
                      "quantile() q values must be in the range [0, 1]");
  }
  return kNative(self, q, dim, keepdim, interpolation);
}

const bool kReplaced =
    replace_composite("quantile", TORCH_FN((checked<&at::native::quantile>))) &&
    replace_composite("nanquantile", TORCH_FN((checked<&at::native::nanquantile>)));

}  // namespace
}  // namespace portable_mps
