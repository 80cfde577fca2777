// Kernels for tensors of another functionality than one dense array (sparse, compressed, quantised,
// nested): torch.library has no name for some of their keys.
#pragma once

#include "python.h"

#include <torch/library.h>

#include <string>

namespace portable_mps {

// torch's library of aten's kernels for a functionality, "" for dense arrays; it never ends.
torch::Library& library_of(const std::string& functionality);

// A kernel that is a Python function of the schema's arguments.
class PythonFunction : public c10::OperatorKernel {
 public:
  explicit PythonFunction(py::object function) : function_(function.release().ptr()) {}

  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack);

 private:
  PyObject* function_;  // never let go of: the dispatcher outlives the interpreter
};

void bind_functionality(py::module_& module);

}  // namespace portable_mps
