// Sparse tensors in compressed form (CSR, CSC, BSR, BSC): torch makes them for the devices that it
// lists, which leaves this one out.
#include "runtime.h"

#include <ATen/Context.h>
#include <ATen/SparseCsrTensorImpl.h>
#include <ATen/ops/_validate_sparse_compressed_tensor_args_native.h>
#include <torch/library.h>

#include <string_view>

namespace portable_mps {
namespace {

// torch's constructor takes no key of this device, so this one starts as the CPU's.
struct CompressedTensorImpl : at::SparseCsrTensorImpl {
  CompressedTensorImpl(at::Layout layout, caffe2::TypeMeta dtype)
      : SparseCsrTensorImpl(c10::DispatchKeySet(c10::DispatchKey::SparseCsrCPU), at::kCPU, layout,
                            dtype) {
    key_set_ = key_set_.remove_backend(c10::BackendComponent::CPUBit)
                   .remove(c10::DispatchKey::AutocastCPU)
                   .add(c10::DispatchKey::AutocastMPS) |
               c10::DispatchKeySet(c10::BackendComponent::MPSBit);
    device_opt_ = runtime::mps_device();
  }

  template <typename Version>
  c10::intrusive_ptr<TensorImpl> copy(Version&& version, bool allow_metadata_change) const {
    // A dispatch mode or a tensor of Python sees the copy as an operator.
    const bool seen_by_python = (c10::impl::TorchDispatchModeTLS::stack_len() > 0 ||
                                 key_set_.has(c10::DispatchKey::Python)) &&
                                !c10::impl::tls_is_dispatch_key_excluded(c10::DispatchKey::Python);
    if (seen_by_python) {
      return shallow_copy_and_detach_core(std::forward<Version>(version), allow_metadata_change);
    }
    auto result = c10::make_intrusive<CompressedTensorImpl>(layout_, dtype());
    TensorImpl::copy_tensor_metadata(this, result.get(), std::forward<Version>(version),
                                     allow_metadata_change);
    result->crow_indices_ = crow_indices_;
    result->col_indices_ = col_indices_;
    result->values_ = values_;
    result->refresh_numel();
    return result;
  }

  c10::intrusive_ptr<TensorImpl> shallow_copy_and_detach(
      const c10::VariableVersion& version, bool allow_metadata_change) const override {
    return copy(version, allow_metadata_change);
  }
  c10::intrusive_ptr<TensorImpl> shallow_copy_and_detach(
      c10::VariableVersion&& version, bool allow_metadata_change) const override {
    return copy(std::move(version), allow_metadata_change);
  }
};

using at::Tensor;
using OptionalDtype = std::optional<at::ScalarType>;
using OptionalLayout = std::optional<at::Layout>;
using OptionalDevice = std::optional<at::Device>;

// torch's checks, the last of which is a list of devices that leaves this one out.
void validate(const Tensor& compressed_indices, const Tensor& plain_indices, const Tensor& values,
              at::IntArrayRef size, at::Layout layout, std::optional<bool> check_pinning) {
  try {
    at::native::_validate_sparse_compressed_tensor_args(compressed_indices, plain_indices, values,
                                                        size, layout, check_pinning);
  } catch (const c10::Error& error) {
    if (std::string_view(error.what_without_backtrace()).rfind("device type of values", 0) != 0) {
      throw;
    }
  }
}

template <at::Layout layout>
void validate_in(const Tensor& compressed_indices, const Tensor& plain_indices,
                 const Tensor& values, at::IntArrayRef size, std::optional<bool> check_pinning) {
  validate(compressed_indices, plain_indices, values, size, layout, check_pinning);
}

Tensor tensor_of(const Tensor& compressed_indices, const Tensor& plain_indices,
                 const Tensor& values, c10::SymIntArrayRef size, OptionalDtype dtype,
                 OptionalLayout layout, OptionalDevice, std::optional<bool>) {
  TORCH_CHECK(layout.has_value(),
              "sparse_compressed_tensor_unsafe expected sparse compressed tensor layout but got "
              "none");
  if (at::globalContext().checkSparseTensorInvariants()) {
    validate(compressed_indices, plain_indices, values, C10_AS_INTARRAYREF_SLOW(size), *layout,
             std::nullopt);
  }
  auto impl = c10::make_intrusive<CompressedTensorImpl>(
      *layout, dtype ? c10::scalarTypeToTypeMeta(*dtype) : values.dtype());
  impl->set_member_tensors(compressed_indices, plain_indices, values, size);
  return Tensor(std::move(impl));
}

template <at::Layout layout>
Tensor tensor_in(const Tensor& compressed_indices, const Tensor& plain_indices,
                 const Tensor& values, c10::IntArrayRef size, OptionalDtype dtype, OptionalLayout,
                 OptionalDevice device, std::optional<bool> pin_memory) {
  return tensor_of(compressed_indices, plain_indices, values, c10::fromIntArrayRefSlow(size), dtype,
                   layout, device, pin_memory);
}

// Compositions of torch that know their devices by a list.
#define PORTABLE_MPS_COMPOSITIONS(X)                               \
  X(_validate_sparse_compressed_tensor_args, validate)             \
  X(_validate_sparse_csr_tensor_args, validate_in<at::kSparseCsr>) \
  X(_validate_sparse_csc_tensor_args, validate_in<at::kSparseCsc>) \
  X(_validate_sparse_bsr_tensor_args, validate_in<at::kSparseBsr>) \
  X(_validate_sparse_bsc_tensor_args, validate_in<at::kSparseBsc>) \
  X(_sparse_compressed_tensor_unsafe, tensor_of)                   \
  X(_sparse_csr_tensor_unsafe, tensor_in<at::kSparseCsr>)          \
  X(_sparse_csc_tensor_unsafe, tensor_in<at::kSparseCsc>)          \
  X(_sparse_bsr_tensor_unsafe, tensor_in<at::kSparseBsr>)          \
  X(_sparse_bsc_tensor_unsafe, tensor_in<at::kSparseBsc>)

// By the layout asked for, or by that of the parts.
#define X(name, function) library.impl(#name, TORCH_FN((function)));
TORCH_LIBRARY_IMPL(aten, SparseCsrMPS, library) { PORTABLE_MPS_COMPOSITIONS(X); }
TORCH_LIBRARY_IMPL(aten, MPS, library) { PORTABLE_MPS_COMPOSITIONS(X); }
#undef X

#define X(name, function) library.impl(#name, torch::CppFunction::makeFallthrough());
TORCH_LIBRARY_IMPL(aten, AutogradMPS, library) { PORTABLE_MPS_COMPOSITIONS(X); }
#undef X

}  // namespace
}  // namespace portable_mps
