// Operators that make or reshape a tensor without running a kernel: on every script's hot path, and
// libtorch already has their bodies.
#include "allocator.h"
#include "runtime.h"

#include <ATen/EmptyTensor.h>
#include <ATen/InferSize.h>
#include <ATen/native/Resize.h>
#include <ATen/native/ResizeCommon.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <torch/library.h>

#include <atomic>

namespace portable_mps {
namespace {

using at::Tensor;
using OptionalDtype = std::optional<at::ScalarType>;
using OptionalLayout = std::optional<at::Layout>;
using OptionalDevice = std::optional<at::Device>;

constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::MPS);

void check_pinned(std::optional<bool> pin_memory) {
  TORCH_CHECK(!pin_memory.value_or(false), "Only dense CPU tensors can be pinned");
}

// What a Mac says of dtypes that its GPU has not; here adapters differ.
c10::ScalarType supported(OptionalDtype requested) {
  const c10::ScalarType dtype = c10::dtype_or_default(requested);
  // An initialised static would lock, and another thread may hold the GIL.
  static std::atomic<bool> has_float64{false};
  if (c10::toRealValueType(dtype) == at::kDouble && !has_float64) {
    has_float64 = runtime::has_float64();
    TORCH_CHECK_TYPE(has_float64 || dtype != at::kDouble,
                     "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't "
                     "support float64. Please use float32 instead.");
    TORCH_CHECK_TYPE(has_float64, "Trying to convert ", dtype,
                     " to the MPS backend but it does not have support for that dtype.");
  }
  return dtype;
}

bool fills_memory() {
  const at::Context& context = at::globalContext();
  return context.deterministicAlgorithms() && context.deterministicFillUninitializedMemory();
}

// torch.utils.deterministic.fill_uninitialized_memory
Tensor filled(Tensor tensor) {
  return fills_memory() ? at::native::fill_empty_deterministic_(tensor) : tensor;
}

Tensor empty(c10::IntArrayRef size, OptionalDtype dtype, OptionalLayout, OptionalDevice device,
             std::optional<bool> pin_memory, std::optional<at::MemoryFormat> format) {
  runtime::check_index(device ? device->index() : 0);
  check_pinned(pin_memory);
  return filled(at::detail::empty_generic(size, allocator(), kKeys, supported(dtype), format));
}

Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, OptionalDtype dtype,
                     OptionalLayout, OptionalDevice device, std::optional<bool> pin_memory) {
  runtime::check_index(device ? device->index() : 0);
  check_pinned(pin_memory);
  return filled(
      at::detail::empty_strided_generic(size, stride, allocator(), kKeys, supported(dtype)));
}

// Zeros without memory, which autograd makes and the ZeroTensor key's kernels see to.
Tensor zeros_without_memory(c10::IntArrayRef size, OptionalDtype dtype, OptionalLayout,
                            OptionalDevice, std::optional<bool>) {
  at::native::ZeroTensorAllocator nothing(runtime::mps_device());
  const auto keys = kKeys | c10::DispatchKeySet(c10::DispatchKey::ZeroTensor);
  return at::detail::empty_generic(size, &nothing, keys, c10::dtype_or_default(dtype),
                                   std::nullopt);
}

// Grow a storage in place, as torch does on the CPU: contents kept, never shrunk.
void grow_storage(at::TensorImpl* self, size_t bytes) {
  const at::Storage& storage = self->unsafe_storage();
  if (bytes > storage.nbytes()) {
    resize_storage(storage, bytes);
  }
}

size_t needed_bytes(at::TensorImpl* self) {
  const size_t bytes = at::detail::computeStorageNbytes(
      self->sizes(), self->strides(), self->dtype().itemsize(), self->storage_offset());
  return self->numel() == 0 ? 0 : bytes;
}

const Tensor& resize_(const Tensor& self, c10::IntArrayRef size,
                      std::optional<at::MemoryFormat> format) {
  at::TensorImpl* impl = self.unsafeGetTensorImpl();
  const auto old_bytes = static_cast<int64_t>(impl->unsafe_storage().nbytes());
  if (self.sizes() != size) {
    impl->set_sizes_contiguous(size);
    grow_storage(impl, needed_bytes(impl));
  }
  if (format.has_value()) {
    TORCH_CHECK(*format != at::MemoryFormat::Preserve, "Unsupported memory format", *format);
    impl->empty_tensor_restride(*format);
  }
  if (fills_memory()) {
    at::native::fill_resize_deterministic_(self, old_bytes);
  }
  return self;
}

Tensor& set_storage(Tensor& self, at::Storage source, int64_t offset, c10::IntArrayRef size,
                    c10::IntArrayRef stride) {
  at::native::checkSetStorage(self, std::move(source), offset, size, stride);
  at::TensorImpl* impl = self.unsafeGetTensorImpl();
  impl->set_storage_offset(offset);
  if (stride.data() != nullptr) {
    impl->set_sizes_and_strides(size, stride);
  } else {
    impl->set_sizes_contiguous(size);
  }
  grow_storage(impl, needed_bytes(impl));
  return self;
}

Tensor& set_whole_storage(Tensor& self, at::Storage source) {
  const int64_t length = static_cast<int64_t>(source.nbytes() / self.dtype().itemsize());
  return set_storage(self, std::move(source), 0, {length}, {});
}

Tensor& set_tensor(Tensor& self, const Tensor& source) {
  if (self.is_same(source)) {
    return self;
  }
  return set_storage(self, source.storage(), source.storage_offset(), source.sizes(),
                     source.strides());
}

Tensor& set_empty(Tensor& self) {
  at::Storage storage(at::Storage::use_byte_size_t(), 0, allocator(), /*resizable=*/true);
  return set_storage(self, std::move(storage), 0, {0}, {});
}

Tensor reshape_alias(const Tensor& self, c10::IntArrayRef size, c10::IntArrayRef stride) {
  return at::native::as_strided_tensorimpl(self, size, stride, self.storage_offset());
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, MPS, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_efficientzerotensor", &zeros_without_memory);
  library.impl("as_strided", &at::native::as_strided_tensorimpl);
  library.impl("view", &at::native::view);
  library.impl("_reshape_alias", &reshape_alias);
  library.impl("unfold", &at::native::unfold);
  library.impl("view_as_real", &at::native::view_as_real);
  library.impl("view_as_complex", &at::native::view_as_complex);
  library.impl("resize_", &resize_);
  library.impl("set_.source_Storage", &set_whole_storage);
  library.impl("set_.source_Storage_storage_offset", &set_storage);
  library.impl("set_.source_Tensor", &set_tensor);
  library.impl("set_", &set_empty);
}

}  // namespace portable_mps
