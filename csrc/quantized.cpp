// torch makes quantised tensors for a list of devices that leaves this one out. Their operators are
// in portable_mps/ops/quantized.py.
#include "quantized.h"

#include <ATen/quantized/QTensorImpl.h>
#include <ATen/quantized/Quantizer.h>
#include <torch/library.h>

namespace portable_mps {
namespace {

using at::Tensor;

// The integers (uint8, int8, int32) as a quantised tensor; the memory is shared.
Tensor quantized(const Tensor& integers, const at::QuantizerPtr& quantizer) {
  auto impl = c10::make_intrusive<at::QTensorImpl>(
      c10::Storage(integers.storage()), c10::DispatchKeySet(c10::DispatchKey::QuantizedMPS),
      c10::scalarTypeToTypeMeta(quantizer->scalar_type()), quantizer);
  impl->set_sizes_and_strides(integers.sizes(), integers.strides(), integers.storage_offset());
  return Tensor(std::move(impl));
}

Tensor per_tensor(const Tensor& integers, double scale, int64_t zero_point) {
  const auto dtype = c10::toQIntType(integers.scalar_type());
  return quantized(integers, at::make_per_tensor_affine_quantizer(scale, zero_point, dtype));
}

Tensor per_channel(const Tensor& integers, const Tensor& scales, const Tensor& zero_points,
                   int64_t axis) {
  const auto dtype = c10::toQIntType(integers.scalar_type());
  return quantized(integers,
                   at::make_per_channel_affine_quantizer(scales, zero_points, axis, dtype));
}

Tensor like(const Tensor& integers, const Tensor& other) {
  return quantized(integers, at::get_qtensorimpl(other)->quantizer());
}

// A quantised tensor's memory, of any device, as integers.
Tensor integers(const Tensor& self) {
  const auto key = self.is_cpu() ? c10::DispatchKey::CPU : c10::DispatchKey::MPS;
  auto impl = c10::make_intrusive<c10::TensorImpl>(
      c10::Storage(self.storage()), c10::DispatchKeySet(key),
      c10::scalarTypeToTypeMeta(c10::toUnderlying(self.scalar_type())));
  impl->set_sizes_and_strides(self.sizes(), self.strides(), self.storage_offset());
  return Tensor(std::move(impl));
}

void take_quantizer(const Tensor& self, const Tensor& from) {
  at::set_quantizer_(self, at::get_qtensorimpl(from)->quantizer());
}

}  // namespace

void bind_quantized(py::module_& module) {
  module.def("quantized_per_tensor", &per_tensor);
  module.def("quantized_per_channel", &per_channel);
  module.def("quantized_like", &like);
  module.def("quantized_integers", &integers);
  module.def("take_quantizer", &take_quantizer);
}

}  // namespace portable_mps
