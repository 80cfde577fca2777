#include "pointwise.h"

#include "python.h"
#include "tape.h"

#include <ATen/Dispatch_v2.h>
#include <ATen/ScalarOps.h>
#include <ATen/native/BinaryOps.h>
#include <ATen/native/TypeProperties.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

namespace portable_mps {
namespace {

at::Scalar scalar_of(py::handle number) {
  if (PyBool_Check(number.ptr())) {
    return number.cast<bool>();
  }
  if (PyLong_Check(number.ptr())) {
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
    if (overflow == 0) {
      return static_cast<int64_t>(value);
    }
    return overflow > 0 ? at::Scalar(number.cast<uint64_t>()) : at::Scalar(number.cast<int64_t>());
  }
  if (PyComplex_Check(number.ptr())) {
    const Py_complex value = PyComplex_AsCComplex(number.ptr());
    return c10::complex<double>(value.real, value.imag);
  }
  TORCH_CHECK_TYPE(PyFloat_Check(number.ptr()), "expected a tensor or a number, got ",
                   std::string(py::str(py::type::of(number))));
  return number.cast<double>();
}

at::Tensor wrapped(const at::Scalar& number) {
  at::Tensor tensor = at::scalar_to_tensor(number);
  tensor.unsafeGetTensorImpl()->set_wrapped_number(true);
  return tensor;
}

at::Tensor tensor_of(py::handle object) {
  if (object.is_none()) {
    return {};
  }
  return THPVariable_Check(object.ptr()) ? THPVariable_Unpack(object.ptr())
                                         : wrapped(scalar_of(object));
}

// Positions of a schema's arguments: which are outputs (-1: allocated), inputs and scalars.
struct Arguments {
  std::vector<int> outputs, inputs, scalars;
};

// The dispatcher's kernel for one overload.
class Caller final : public c10::OperatorKernel {
 public:
  Caller(std::shared_ptr<PointwiseKernels> kernels, Arguments arguments)
      : kernels_(std::move(kernels)), arguments_(std::move(arguments)) {}

  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet,
                  torch::jit::Stack* stack) const {
    const size_t count = op.schema().arguments().size();
    const auto values = torch::jit::last(*stack, count);
    std::vector<at::Tensor> outputs, inputs;
    std::vector<at::Scalar> scalars;
    for (const int i : arguments_.outputs) {
      outputs.push_back(i < 0 ? at::Tensor() : values[i].toTensor());
    }
    for (const int i : arguments_.inputs) {
      inputs.push_back(values[i].isTensor() ? values[i].toTensor() : wrapped(values[i].toScalar()));
    }
    for (const int i : arguments_.scalars) {
      scalars.push_back(values[i].toScalar());
    }
    std::vector<at::Tensor> results = kernels_->run(outputs, inputs, scalars);
    torch::jit::drop(*stack, count);
    for (auto& result : results) {
      stack->emplace_back(std::move(result));
    }
  }

 private:
  std::shared_ptr<PointwiseKernels> kernels_;
  Arguments arguments_;
};

torch::Library& library() {
  // Never destroyed: torch's dispatcher may be gone by then.
  static auto* const aten =
      new torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::MPS, __FILE__, __LINE__);
  return *aten;
}

}  // namespace

// Integers are not divided by zero. A divisor on the device is looked at there, and raises at the
// next synchronisation.
void check_divisor(const at::Tensor& dividend, const at::Tensor& divisor) {
  const at::ScalarType dtype = at::result_type(dividend, divisor);
  TORCH_CHECK_NOT_IMPLEMENTED(dtype != at::kBool, "\"div\" not implemented for 'Bool'");
  if (!at::isIntegralType(dtype, /*includeBool=*/false)) {
    return;
  }
  if (divisor.is_cpu()) {
    TORCH_CHECK(divisor.dim() != 0 || divisor.item().toLong() != 0, "ZeroDivisionError");
    return;
  }
  in_python(
      [&] { py::module_::import("portable_mps.dispatch.checks").attr("refuse_zeros")(divisor); });
}

namespace {

// The error of the CPU's kernels, which convert numbers in the same way.
void check_number(at::ScalarType dtype, const at::Scalar& number) {
  if (!at::isComplexType(dtype)) {
    AT_DISPATCH_V2(dtype, "number", AT_WRAP([&] { (void)number.to<scalar_t>(); }),
                   AT_EXPAND(AT_ALL_TYPES), AT_EXPAND(AT_BAREBONES_UNSIGNED_TYPES), at::kBool,
                   at::kHalf, at::kBFloat16);
  }
}

}  // namespace

void PointwiseKernels::check(const std::vector<at::Tensor>& inputs,
                             const std::vector<at::Scalar>& scalars) const {
  if (check_ == Check::kSubtraction) {
    at::native::sub_check(inputs[0], inputs[1]);
  }
  const at::ScalarType dtype = at::result_type(inputs[0], inputs[1]);
  at::native::alpha_check(dtype, scalars[0]);
  check_number(dtype, scalars[0]);
}

void PointwiseKernels::check_numbers(const std::vector<at::Tensor>& inputs,
                                     const std::vector<at::Scalar>& scalars,
                                     at::ScalarType common) const {
  for (size_t i = 0; i < scalars.size(); ++i) {
    if (formats_[i] == 's') {
      check_number(common, scalars[i]);
    } else if (formats_[i] == 'o') {
      check_number(at::isReducedFloatingType(common) ? at::kFloat : common, scalars[i]);
    }
  }
  const bool is_exponent = check_ == Check::kExponent;
  if ((check_ == Check::kNumber || is_exponent) &&
      inputs[1].unsafeGetTensorImpl()->is_wrapped_number() &&
      !(is_exponent && (common == at::kFloat || common == at::kDouble))) {
    check_number(common, inputs[1].item());
  }
}

const Kernel& PointwiseKernels::kernel_for(const Plan& plan) {
  {
    const std::lock_guard<std::mutex> held(mutex_);
    const auto found = kernels_.find(plan.signature);
    if (found != kernels_.end()) {
      return *found->second;
    }
  }
  const auto compiled = in_python([&] {
    const auto& [dtypes, common, shape] = plan.signature;
    return compile_(dtypes, common, shape, plan.parameters.size()).cast<std::shared_ptr<Kernel>>();
  });
  const std::lock_guard<std::mutex> held(mutex_);
  return *kernels_.emplace(plan.signature, compiled).first->second;
}

std::vector<at::Tensor> PointwiseKernels::run(const std::vector<at::Tensor>& outputs,
                                              const std::vector<at::Tensor>& inputs,
                                              const std::vector<at::Scalar>& scalars) {
  if (check_ == Check::kAlpha || check_ == Check::kSubtraction) {
    check(inputs, scalars);
  }
  Plan plan = plan_pointwise(outputs, inputs, scalars, formats_, promotion_, unroll_);
  if (plan.groups[0] != 0) {
    const Kernel& kernel = kernel_for(plan);
    check_numbers(inputs, scalars, static_cast<at::ScalarType>(plan.signature[1]));
    if (check_ == Check::kDivisor) {
      check_divisor(inputs[0], inputs[1]);
    }
    if (Recording* noted = recording()) {
      noted->dispatched(kernel.shared_from_this(), plan.parameters, plan.addresses, {}, plan.groups,
                        plan.reads, plan.writes, {});
    }
    recorder().launch(kernel, plan.parameters, plan.groups, plan.reads, plan.writes);
  } else {
    in_python([&] { check_empty_(plan.signature[0], plan.signature[1]); });
  }
  return std::move(plan.outputs);
}

void bind_pointwise(py::module_& module) {
  py::class_<PointwiseKernels, std::shared_ptr<PointwiseKernels>>(module, "PointwiseKernels")
      .def(py::init<std::string, int, int, bool, py::object, py::object>())
      .def("run",
           torch::wrap_pybind_function([](PointwiseKernels& self, const py::tuple& outputs,
                                          const py::tuple& inputs, const py::tuple& scalars) {
             std::vector<at::Tensor> outs, ins;
             std::vector<at::Scalar> numbers;
             for (const auto output : outputs) {
               outs.push_back(tensor_of(output));
             }
             for (const auto input : inputs) {
               ins.push_back(tensor_of(input));
             }
             for (const auto scalar : scalars) {
               numbers.push_back(scalar_of(scalar));
             }
             return self.run(outs, ins, numbers);
           }));

  module.def("register_pointwise",
             [](const std::string& name, std::shared_ptr<PointwiseKernels> kernels,
                std::vector<int> outputs, std::vector<int> inputs, std::vector<int> scalars) {
               library().impl(
                   name.c_str(),
                   torch::CppFunction::makeFromBoxedFunctor(std::make_unique<Caller>(
                       std::move(kernels),
                       Arguments{std::move(outputs), std::move(inputs), std::move(scalars)})));
             });
}

}  // namespace portable_mps
