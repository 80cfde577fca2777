// The composite of connectionist temporal classification. Under functorch and dispatch modes
// torch's keeps the lengths as the tensors they came as, and divides the losses by them wherever
// they are.
#include <ATen/ATen.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/ops/ctc_loss_native.h>
#include <torch/library.h>

#include "composite.h"

namespace portable_mps {
namespace {

at::Tensor ctc_loss(const at::Tensor& log_probs, const at::Tensor& targets,
                    const at::Tensor& input_lengths, const at::Tensor& target_lengths,
                    int64_t blank, int64_t reduction, bool zero_infinity) {
  at::Tensor steps = input_lengths, labels = target_lengths;
  // torch's own question of whether it may look into the lengths.
  if (log_probs.device().is_mps() &&
      at::areAnyTensorSubclassLike({log_probs, targets, input_lengths, target_lengths})) {
    steps = steps.to(log_probs.device());
    labels = labels.to(log_probs.device());
  }
  return at::native::ctc_loss(log_probs, targets, steps, labels, blank, reduction, zero_infinity);
}

const bool kReplaced = replace_composite("ctc_loss.Tensor", TORCH_FN(ctc_loss));

}  // namespace
}  // namespace portable_mps
