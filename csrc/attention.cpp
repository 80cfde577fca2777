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

#include <algorithm>
#include <cmath>
#include <limits>

#include "composite.h"
#include "generator.h"

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

constexpr int64_t kWidest = 256;  // head that the fused kernels take

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

// A mask and causality at once: where the CPU's kernel for them takes both, as torch's composition
// does not.
bool takes_both(const Tensor& query, const Tensor& mask, double dropout_p) {
  return query.dim() == 4 && query.is_floating_point() && dropout_p == 0.0 && mask.dim() % 2 == 0 &&
         !mask.requires_grad();
}

// Whether the fused kernels take these arguments; torch's composition of other operators takes all.
bool is_fused(const Tensor& query, const Tensor& key, const Tensor& value,
              const OptionalTensor& mask, bool enable_gqa) {
  const auto dtype = query.scalar_type();
  if (query.dim() != 4 || key.dim() != 4 || value.dim() != 4 ||
      (dtype != at::kFloat && dtype != at::kHalf && dtype != at::kBFloat16)) {
    return false;
  }
  for (const Tensor& tensor : {query, key, value}) {
    if (tensor.sym_size(0) != query.sym_size(0) || tensor.sym_numel() == 0 ||
        tensor.sym_size(3) > kWidest || tensor.device() != query.device() ||
        is_transformed(tensor)) {
      return false;
    }
  }
  if (query.sym_size(3) != key.sym_size(3) || key.sym_size(2) != value.sym_size(2) ||
      key.sym_size(1) != value.sym_size(1) ||
      (query.sym_size(1) != key.sym_size(1) &&
       !(enable_gqa && query.sym_size(1) % key.sym_size(1) == 0))) {
    return false;
  }
  return !mask || (mask->device() == query.device() && !is_transformed(*mask) &&
                   broadcasts(*mask, query, key));
}

// Heads of width zero have rows: all of their scores are zero.
bool lacks_rows(const Tensor& tensor) {
  const auto sizes = tensor.sym_sizes().slice(0, tensor.dim() - 1);
  return std::any_of(sizes.begin(), sizes.end(), [](const c10::SymInt& size) { return size == 0; });
}

Tensor attention(const Tensor& query, const Tensor& key, const Tensor& value,
                 const OptionalTensor& mask, double dropout_p, bool is_causal,
                 std::optional<double> scale, bool enable_gqa) {
  if (!query.device().is_mps()) {
    return at::native::scaled_dot_product_attention(query, key, value, mask, dropout_p, is_causal,
                                                    scale, enable_gqa);
  }
  check_arguments(query, key, value, mask);
  const bool together = mask && is_causal;  // which torch's composition refuses
  if ((!together || takes_both(query, *mask, dropout_p)) &&
      is_fused(query, key, value, mask, enable_gqa)) {
    return std::get<0>(at::_scaled_dot_product_fused_attention_overrideable(
        query, key, value, mask, dropout_p, is_causal, /*return_debug_mask=*/false, scale));
  }
  OptionalTensor bias = as_bias(mask, query.scalar_type());
  const bool empty = lacks_rows(query) || lacks_rows(key) || value.sym_numel() == 0;
  if (empty) {  // torch returns zeros then, whatever else is asked for
    bias.reset();
    is_causal = false;
    enable_gqa = enable_gqa && query.dim() > 2;
  } else if (together && takes_both(query, *mask, dropout_p) && broadcasts(*mask, query, key)) {
    bias = *bias + causal_bias(query, key, query.scalar_type());
    is_causal = false;
  }
  return std::get<0>(at::_scaled_dot_product_attention_math(
      query, key, value, bias, dropout_p, is_causal, /*dropout_mask=*/{}, scale, enable_gqa));
}

// The number of the backend that scaled_dot_product_attention takes.
int64_t choice(const Tensor& query, const Tensor& key, const Tensor& value,
               const OptionalTensor& mask, double /*dropout_p*/, bool /*is_causal*/,
               std::optional<double> /*scale*/, bool enable_gqa) {
  const bool fused = is_fused(query, key, value, mask, enable_gqa);
  return static_cast<int64_t>(fused ? sdp::SDPBackend::overrideable : sdp::SDPBackend::math);
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// What the weights are multiplied with: the kernels' random numbers are those of bernoulli_.
Tensor dropout_factors(const Tensor& scores, double dropout_p, const Tensor& seed,
                       const Tensor& offset) {
  auto generator = at::make_generator<PhiloxGenerator>();
  generator.set_current_seed(static_cast<uint64_t>(seed.item<int64_t>()));
  generator.set_offset(static_cast<uint64_t>(offset.item<int64_t>()));
  const int64_t columns = scores.size(3);
  Tensor kept = at::empty({scores.size(0), scores.size(1), scores.size(2), (columns + 3) / 4 * 4},
                          scores.options());
  kept.bernoulli_(1 - dropout_p, generator);
  return kept.narrow(3, 0, columns) * (dropout_p < 1 ? 1 / (1 - dropout_p) : 0.0);
}

// The gradients as operators that have derivatives themselves.
Gradients composed_backward(const Tensor& grad, const Tensor& query, const Tensor& key,
                            const Tensor& value, const Tensor& mask, bool of_mask, double dropout_p,
                            bool is_causal, const Tensor& seed, const Tensor& offset,
                            std::optional<double> scale) {
  const auto dtype = query.scalar_type();
  const int64_t group = query.size(1) / key.size(1);
  const Tensor q = query.to(at::kFloat), g = grad.to(at::kFloat);
  const Tensor k = key.to(at::kFloat).repeat_interleave(group, 1);
  const Tensor v = value.to(at::kFloat).repeat_interleave(group, 1);
  const double factor = scale.value_or(1 / std::sqrt(static_cast<double>(query.size(3))));
  Tensor scores = q.matmul(k.mT()) * factor;
  if (is_causal) {
    scores = scores + causal_bias(q, k, at::kFloat);
  }
  if (mask.defined()) {
    scores = scores + *as_bias(mask, at::kFloat);
  }
  const Tensor weights = at::_safe_softmax(scores, -1);
  Tensor slopes = g.matmul(v.mT());
  Tensor used = weights;
  if (dropout_p > 0) {
    const Tensor factors = dropout_factors(scores, dropout_p, seed, offset);
    slopes = slopes * factors;
    used = weights * factors;
  }
  const Tensor of_scores = weights * (slopes - (weights * slopes).sum(-1, /*keepdim=*/true));
  const auto shared = [&](const Tensor& each, const Tensor& like) {
    const Tensor summed = each.unflatten(1, {key.size(1), group}).sum(2);
    return summed.to(like.scalar_type());
  };
  return {(of_scores.matmul(k) * factor).to(dtype), shared(of_scores.mT().matmul(q) * factor, key),
          shared(used.mT().matmul(g), value),
          of_mask ? of_scores.sum_to_size(mask.sizes()).to(mask.scalar_type()) : Tensor()};
}

Gradients backward(c10::DispatchKeySet keys, const Tensor& grad, const Tensor& query,
                   const Tensor& key, const Tensor& value, const Tensor& bias,
                   std::array<bool, 4> wanted, const Tensor& output, const Tensor& logsumexp,
                   const Tensor& cum_seq_q, const Tensor& cum_seq_k, c10::SymInt max_q,
                   c10::SymInt max_k, double dropout_p, bool is_causal, const Tensor& philox_seed,
                   const Tensor& philox_offset, std::optional<double> scale) {
  if (at::GradMode::is_enabled() &&
      (grad.requires_grad() || query.requires_grad() || key.requires_grad() ||
       value.requires_grad() || (bias.defined() && bias.requires_grad()))) {
    return composed_backward(grad, query, key, value, bias, wanted[3], dropout_p, is_causal,
                             philox_seed, philox_offset, scale);
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
