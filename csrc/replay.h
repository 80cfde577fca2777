// Calls that are recorded once and replayed without Python: of operators, and of compiled graphs.
//
// The second call with the same metadata is recorded, later ones are replayed (csrc/tape.h).
#pragma once

#include "python.h"

namespace portable_mps {

void bind_replay(py::module_& module);

}  // namespace portable_mps
