// A fused kernel of a compiled graph, as its wrapper calls it: no Python between the call and the
// recorded dispatch.
#pragma once

#include <torch/extension.h>

namespace portable_mps {

void bind_graph_kernel(py::module_& module);

}  // namespace portable_mps
