#include "worker.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/autograd.h>

namespace portable_mps {
namespace {

// A graph of tensors that Python never sees: whichever thread lets go of them last, no GIL is taken
// for it. Without elements, so that nothing of it needs the device.
struct Graph {
  at::Tensor leaf = at::empty({0}, at::device(at::kMPS)).set_requires_grad(true);
  at::Tensor root = leaf.view({0});
  at::Tensor gradient = at::empty({0}, at::device(at::kMPS));
};

// Never destroyed: that would be after the interpreter's end.
Graph* graph = nullptr;

void prepare() {
  if (graph == nullptr) {
    graph = new Graph();
  }
}

void wait() {
  if (graph != nullptr) {
    torch::autograd::grad({graph->root}, {graph->leaf}, {graph->gradient}, /*retain_graph=*/true);
  }
}

}  // namespace

void bind_worker(py::module_& module) {
  const py::call_guard<py::gil_scoped_release> without_gil;
  module.def("prepare_worker", &prepare, without_gil);
  module.def("wait_for_worker", &wait, without_gil);
}

}  // namespace portable_mps
