// Which cross entropies are ours (portable_mps/ops/cross_entropy.py): asked here, so that all
// others stay in C++.
#include "cross_entropy.h"

#include "composite.h"
#include "python.h"

#include <ATen/ATen.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/ops/cross_entropy_loss_native.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/extension.h>

#include <limits>

namespace portable_mps {
namespace {

using at::Tensor;

constexpr int64_t kLeastClasses = 512;  // from which a workgroup a row pays

PyObject* fused = nullptr;  // of Python, for the life of the process

// Whether nothing but autograd looks on: no mode, no transform, no trace, no forward-mode gradient.
bool is_plain(const Tensor& tensor) {
  return tensor.device().type() == c10::DeviceType::MPS && !at::isTensorSubclassLike(tensor) &&
         !tensor._fw_grad(/*level=*/0).defined();
}

bool is_ours(const Tensor& scores, const Tensor& target, const std::optional<Tensor>& weight,
             double label_smoothing) {
  if (fused == nullptr || label_smoothing != 0.0 || (weight && weight->defined()) ||
      torch::jit::tracer::isTracing() || !is_plain(scores) || !is_plain(target)) {
    return false;
  }
  const at::ScalarType dtype = scores.scalar_type();
  const bool has_dtype = dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16;
  return has_dtype && target.scalar_type() == at::kLong && scores.dim() == 2 && target.dim() == 1 &&
         scores.size(0) == target.size(0) && scores.size(0) > 0 &&
         scores.size(0) <= std::numeric_limits<int32_t>::max() && scores.stride(1) == 1 &&
         scores.size(1) >= kLeastClasses && !scores.is_neg() && !target.is_neg();
}

Tensor cross_entropy(const Tensor& scores, const Tensor& target,
                     const std::optional<Tensor>& weight, int64_t reduction,
                     c10::SymInt ignore_index, double label_smoothing) {
  if (!is_ours(scores, target, weight, label_smoothing)) {
    return at::native::cross_entropy_loss_symint(scores, target, weight, reduction,
                                                 std::move(ignore_index), label_smoothing);
  }
  return in_python([&] {
    const auto function = py::reinterpret_borrow<py::function>(fused);
    return function(scores, target, reduction, ignore_index.expect_int()).cast<Tensor>();
  });
}

const bool kReplaced = replace_composite("cross_entropy_loss", TORCH_FN(cross_entropy));

}  // namespace

void bind_cross_entropy(py::module_& module) {
  module.def("set_cross_entropy", [](py::object function) { fused = function.release().ptr(); });
}

}  // namespace portable_mps
