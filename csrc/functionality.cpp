#include "functionality.h"

#include <torch/csrc/DynamicTypes.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/python/pybind_utils.h>
#include <torch/library.h>

#include <map>
#include <unordered_map>

namespace portable_mps {
namespace {

struct Keys {
  c10::DispatchKey mps;
  c10::DispatchKey cpu;
};

Keys keys_of(const std::string& functionality) {
  static const std::unordered_map<std::string, Keys> all{
      {"", {c10::DispatchKey::MPS, c10::DispatchKey::CPU}},
      {"Sparse", {c10::DispatchKey::SparseMPS, c10::DispatchKey::SparseCPU}},
      {"SparseCsr", {c10::DispatchKey::SparseCsrMPS, c10::DispatchKey::SparseCsrCPU}},
      {"Quantized", {c10::DispatchKey::QuantizedMPS, c10::DispatchKey::QuantizedCPU}},
  };
  const auto found = all.find(functionality);
  TORCH_CHECK_VALUE(found != all.end(), "unknown functionality '", functionality, "'");
  return found->second;
}

// The kernel that torch has for the CPU.
class Taken : public c10::OperatorKernel {
 public:
  explicit Taken(c10::DispatchKey key) : keys_(key) {}
  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
    op.redispatchBoxed(keys_, stack);
  }

 private:
  c10::DispatchKeySet keys_;
};

// An argument as a Python function expects it; enumerations are numbers on the stack.
py::object to_python(const c10::IValue& value, const c10::Argument& argument) {
  if (value.isInt()) {
    c10::TypePtr type = argument.real_type();
    if (const auto optional = type->cast<c10::OptionalType>()) {
      type = optional->getElementType();
    }
    switch (type->kind()) {
      case c10::TypeKind::ScalarTypeType:
        return py::cast(value.toScalarType());
      case c10::TypeKind::LayoutType:
        // torch 2.11 has no conversion to Python.
        return py::reinterpret_borrow<py::object>(
            reinterpret_cast<PyObject*>(torch::getTHPLayout(value.toLayout())));
      case c10::TypeKind::MemoryFormatType:
        return py::cast(value.toMemoryFormat());
      default:
        break;
    }
  }
  return torch::jit::toPyObject(value);
}

// Instances of subclasses, as plain tensors on the same memory while a Python function runs: what
// a subclass overrides is for who calls the operator, not for what its kernel is made of. A lazy
// module's parameter, for one, refuses to say its shape.
class Plain {
 public:
  py::object of(py::object object) {
    if (PyList_Check(object.ptr())) {
      const auto list = py::reinterpret_borrow<py::list>(object);
      for (size_t i = 0; i < list.size(); ++i) {
        list[i] = of(list[i]);
      }
    } else if (THPVariable_Check(object.ptr()) &&
               !THPVariable_CheckTypeExact(Py_TYPE(object.ptr()))) {
      const at::Tensor& tensor = THPVariable_Unpack(object.ptr());
      if (tensor.layout() == c10::kStrided && !tensor.unsafeGetTensorImpl()->is_python_dispatch()) {
        const c10::TensorImpl* const impl = tensor.unsafeGetTensorImpl();
        at::Tensor plain(impl->shallow_copy_and_detach(impl->version_counter(),
                                                       /*allow_tensor_metadata_change=*/true));
        plain.set_requires_grad(tensor.requires_grad());  // attention keeps more for a gradient
        pairs_.emplace_back(tensor, plain);
        return py::reinterpret_steal<py::object>(THPVariable_Wrap(std::move(plain)));
      }
    }
    return object;
  }

  // After the call: the instance for a result that is its plain tensor.
  c10::IValue original(c10::IValue result) const {
    if (result.isTensor()) {
      for (const auto& [tensor, plain] : pairs_) {
        if (result.toTensor().is_same(plain)) {
          return tensor;
        }
      }
    }
    return result;
  }

  // After the call: what was resized.
  void write_back() const {
    for (const auto& [tensor, plain] : pairs_) {
      if (tensor.sizes() != plain.sizes() || tensor.strides() != plain.strides() ||
          !tensor.storage().is_alias_of(plain.storage()) ||
          tensor.storage_offset() != plain.storage_offset()) {
        tensor.unsafeGetTensorImpl()->shallow_copy_from(plain.getIntrusivePtr());
      }
    }
  }

 private:
  std::vector<std::pair<at::Tensor, at::Tensor>> pairs_;
};

}  // namespace

// Libraries take back what they registered when they end: these never do.
torch::Library& library_of(const std::string& functionality) {
  static std::map<std::string, torch::Library*> all;
  torch::Library*& made = all[functionality];
  if (made == nullptr) {
    made = new torch::Library(torch::Library::IMPL, "aten", keys_of(functionality).mps, __FILE__,
                              __LINE__);
  }
  return *made;
}

void PythonFunction::operator()(const c10::OperatorHandle& op, c10::DispatchKeySet,
                                torch::jit::Stack* stack) {
  const c10::FunctionSchema& schema = op.schema();
  const auto& arguments = schema.arguments();
  std::vector<c10::IValue> values = torch::jit::pop(*stack, arguments.size());
  // What the function is made of is not for autocast to cast: it had the operator's arguments.
  const c10::impl::ExcludeDispatchKeyGuard beneath(c10::autocast_dispatch_keyset);
  in_python([&] {
    Plain plain;
    py::list positional;
    py::dict named;
    for (size_t i = 0; i < arguments.size(); ++i) {
      if (!arguments[i].kwarg_only()) {
        positional.append(plain.of(to_python(values[i], arguments[i])));
      } else if (!values[i].isNone() || !arguments[i].default_value()) {
        named[arguments[i].name().c_str()] = plain.of(to_python(values[i], arguments[i]));
      }
    }
    const py::object result =
        py::reinterpret_borrow<py::object>(function_)(*py::tuple(positional), **named);
    plain.write_back();
    const auto& returns = schema.returns();
    if (returns.size() == 1) {
      stack->push_back(plain.original(torch::jit::toIValue(result, returns[0].type())));
      return;
    }
    for (size_t i = 0; i < returns.size(); ++i) {
      const auto item = py::reinterpret_borrow<py::sequence>(result)[i];
      stack->push_back(plain.original(torch::jit::toIValue(item, returns[i].type())));
    }
  });
}

void bind_functionality(py::module_& module) {
  module.def("take_kernel", [](const std::string& functionality, const std::string& name) {
    auto kernel = std::make_unique<Taken>(keys_of(functionality).cpu);
    library_of(functionality)
        .impl(name.c_str(), torch::CppFunction::makeFromBoxedFunctor(std::move(kernel)));
  });
  module.def("implement_kernel",
             [](const std::string& functionality, const std::string& name, py::object function) {
               auto kernel = std::make_unique<PythonFunction>(std::move(function));
               library_of(functionality)
                   .impl(name.c_str(), torch::CppFunction::makeFromBoxedFunctor(std::move(kernel)));
             });
}

}  // namespace portable_mps
