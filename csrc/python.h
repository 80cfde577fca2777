// Calling Python from threads that may not hold the GIL.
#pragma once

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

namespace portable_mps {

// function() with the GIL held. A Python exception goes on as torch's own wrapper, which keeps its
// type through any thread and needs no GIL to be thrown.
template <typename Function>
auto in_python(const Function& function) {
  const py::gil_scoped_acquire gil;
  try {
    return function();
  } catch (py::error_already_set& error) {
    error.restore();
    python_error persistent;
    persistent.persist();
    throw persistent;
  }
}

}  // namespace portable_mps
