// The choice that scaled_dot_product_attention makes. torch's own asks a DispatchStub, which has no
// room for `mps` off the Mac and fails an internal assertion there.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>
#include <ATen/ops/_safe_softmax.h>
#include <ATen/ops/_scaled_dot_product_attention_math.h>
#include <ATen/ops/_scaled_dot_product_fused_attention_overrideable.h>
#include <ATen/ops/_scaled_dot_product_fused_attention_overrideable_backward_ops.h>
#include <ATen/ops/scaled_dot_product_attention_native.h>
#include <torch/library.h>

#include <cmath>
#include <limits>

#include "composite.h"

namespace portable_mps {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

void check_arguments(const Tensor& query, const Tensor& key, const Tensor& value,
                     const OptionalTensor& mask) {
  TORCH_CHECK(
      query.dtype() == key.dtype() && query.dtype() == value.dtype(),
      "Expected query, key, and value to have the same dtype, but got query.dtype: ", query.dtype(),
      " key.dtype: ", key.dtype(), " and value.dtype: ", value.dtype(), " instead.");
  TORCH_CHECK(query.device() == key.device() && query.device() == value.device(),
              "Expected query, key, and value to have the same device type, but got query.device: ",
              query.device(), " key.device: ", key.device(), " and value.device: ", value.device(),
              " instead.");
  TORCH_CHECK(
      query.dim() >= 2 && key.dim() >= 2 && value.dim() >= 2,
      "Expected query, key, and value to all be  at least 2 dimensional, but got query.dim: ",
      query.dim(), " key.dim: ", key.dim(), " and value.dim: ", value.dim(), " instead.");
  if (mask) {
    const auto dtype = mask->scalar_type();
    TORCH_CHECK(dtype == at::kBool || dtype == at::kFloat || dtype == query.scalar_type(),
                "Expected attn_mask dtype to be bool or float or to match query dtype, but got "
                "attn_mask.dtype: ",
                mask->dtype(), " and  query.dtype: ", query.dtype(), " instead.");
  }
}

// A mask of what to keep as one to be added.
OptionalTensor as_bias(const OptionalTensor& mask, at::ScalarType dtype) {
  if (!mask || mask->scalar_type() != at::kBool) {
    return mask;
  }
  return at::zeros_like(*mask, mask->options().dtype(dtype))
      .masked_fill(mask->logical_not(), -std::numeric_limits<double>::infinity());
}

// (rows, columns): -inf where a query comes before a key.
Tensor causal_bias(const Tensor& query, const Tensor& key, at::ScalarType dtype) {
  const auto shape = {query.sym_size(-2), key.sym_size(-2)};
  return *as_bias(at::ones_symint(shape, query.options().dtype(at::kBool)).tril(), dtype);
}

// Whether a transform needs more derivatives than the fused kernels have, or sees more dimensions.
bool is_transformed(const Tensor& tensor) {
  constexpr c10::DispatchKeySet kWrappers(
      {c10::DispatchKey::FuncTorchBatched, c10::DispatchKey::FuncTorchGradWrapper});
  return tensor.key_set().has_any(kWrappers) || tensor._fw_grad(/*level=*/0).defined();
}

bool broadcasts(const Tensor& mask, const Tensor& query, const Tensor& key) {
  const std::array<c10::SymInt, 4> scores{query.sym_size(0), query.sym_size(1), query.sym_size(2),
                                          key.sym_size(2)};
  if (mask.dim() > 4) {
    return false;
  }
  for (int64_t i = 1; i <= mask.dim(); ++i) {
    if (mask.sym_size(-i) != 1 && mask.sym_size(-i) != scores[4 - i]) {
      return false;
    }
  }
  return true;
}

// Whether the fused kernels take these arguments; torch's composition of other operators takes all.
bool is_fused(const Tensor& query, const Tensor& key, const Tensor& value,
              const OptionalTensor& mask, double dropout_p, bool is_causal) {
  if (query.dim() != 4 || key.dim() != 4 || value.dim() != 4 || dropout_p != 0.0 ||
      !query.is_floating_point()) {
    return false;
  }
  for (const Tensor& tensor : {query, key, value}) {
    if (tensor.sym_size(0) != query.sym_size(0) || tensor.sym_size(1) != query.sym_size(1) ||
        tensor.sym_numel() == 0 || tensor.device() != query.device() || is_transformed(tensor)) {
      return false;
    }
  }
  if (query.sym_size(3) != key.sym_size(3) || key.sym_size(2) != value.sym_size(2)) {
    return false;
  }
  return !mask || (!is_causal && !mask->requires_grad() && mask->device() == query.device() &&
                   !is_transformed(*mask) && broadcasts(*mask, query, key));
}

Tensor attention(const Tensor& query, const Tensor& key, const Tensor& value,
                 const OptionalTensor& mask, double dropout_p, bool is_causal,
                 std::optional<double> scale, bool enable_gqa) {
  if (!query.device().is_mps()) {
    return at::native::scaled_dot_product_attention(query, key, value, mask, dropout_p, is_causal,
                                                    scale, enable_gqa);
  }
  check_arguments(query, key, value, mask);
  OptionalTensor bias = as_bias(mask, query.scalar_type());
  const bool empty = query.sym_numel() == 0 || key.sym_numel() == 0 || value.sym_numel() == 0;
  if (empty) {  // torch returns zeros then, whatever else is asked for
    bias.reset();
    is_causal = false;
    enable_gqa = enable_gqa && query.dim() > 2;
  } else if (bias && is_causal && query.dim() == 4 && query.is_floating_point() &&
             dropout_p == 0.0 && bias->dim() % 2 == 0 && !bias->requires_grad() &&
             broadcasts(*bias, query, key)) {
    // Both at once: the CPU's kernel for these takes them, torch's composition does not.
    bias = *bias + causal_bias(query, key, query.scalar_type());
    is_causal = false;
  }
  if (is_fused(query, key, value, bias, dropout_p, is_causal)) {
    return std::get<0>(at::_scaled_dot_product_fused_attention_overrideable(
        query, key, value, bias, dropout_p, is_causal, /*return_debug_mask=*/false, scale));
  }
  return std::get<0>(at::_scaled_dot_product_attention_math(
      query, key, value, bias, dropout_p, is_causal, /*dropout_mask=*/{}, scale, enable_gqa));
}

// The number of the backend that scaled_dot_product_attention takes.
int64_t choice(const Tensor& query, const Tensor& key, const Tensor& value,
               const OptionalTensor& mask, double dropout_p, bool is_causal,
               std::optional<double> /*scale*/, bool /*enable_gqa*/) {
  const bool fused = is_fused(query, key, value, mask, dropout_p, is_causal);
  return static_cast<int64_t>(fused ? sdp::SDPBackend::overrideable : sdp::SDPBackend::math);
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// The gradients as operators that have derivatives themselves.
Gradients composed_backward(const Tensor& grad, const Tensor& query, const Tensor& key,
                            const Tensor& value, const Tensor& bias, bool is_causal,
                            std::optional<double> scale) {
  const auto dtype = query.scalar_type();
  const auto wide = dtype == at::kDouble ? at::kDouble : at::kFloat;
  const Tensor q = query.to(wide), k = key.to(wide), v = value.to(wide), g = grad.to(wide);
  const double factor = scale.value_or(1 / std::sqrt(static_cast<double>(query.size(3))));
  Tensor scores = q.matmul(k.mT()) * factor;
  if (is_causal) {
    scores = scores + causal_bias(q, k, wide);
  }
  if (bias.defined()) {
    scores = scores + bias;
  }
  const Tensor weights = at::_safe_softmax(scores, -1);
  const Tensor slopes = g.matmul(v.mT());
  const Tensor of_scores = weights * (slopes - (weights * slopes).sum(-1, /*keepdim=*/true));
  return {(of_scores.matmul(k) * factor).to(dtype), (of_scores.mT().matmul(q) * factor).to(dtype),
          weights.mT().matmul(g).to(dtype), Tensor()};
}

Gradients backward(c10::DispatchKeySet keys, const Tensor& grad, const Tensor& query,
                   const Tensor& key, const Tensor& value, const Tensor& bias,
                   std::array<bool, 4> wanted, const Tensor& output, const Tensor& logsumexp,
                   const Tensor& cum_seq_q, const Tensor& cum_seq_k, c10::SymInt max_q,
                   c10::SymInt max_k, double dropout_p, bool is_causal, const Tensor& philox_seed,
                   const Tensor& philox_offset, std::optional<double> scale) {
  if (at::GradMode::is_enabled() && (grad.requires_grad() || query.requires_grad() ||
                                     key.requires_grad() || value.requires_grad())) {
    return composed_backward(grad, query, key, value, bias, is_causal, scale);
  }
  const at::AutoDispatchBelowAutograd below;
  return at::_ops::_scaled_dot_product_fused_attention_overrideable_backward::redispatch(
      keys & c10::after_autograd_keyset, grad, query, key, value, bias, wanted, output, logsumexp,
      cum_seq_q, cum_seq_k, std::move(max_q), std::move(max_k), dropout_p, is_causal, philox_seed,
      philox_offset, scale);
}

TORCH_LIBRARY_IMPL(aten, MPS, library) { library.impl("_fused_sdp_choice", TORCH_FN(choice)); }

TORCH_LIBRARY_IMPL(aten, AutogradMPS, library) {
  library.impl("_scaled_dot_product_fused_attention_overrideable_backward", TORCH_FN(backward));
}

const bool kReplaced = replace_composite("scaled_dot_product_attention", TORCH_FN(attention));

}  // namespace
}  // namespace portable_mps
