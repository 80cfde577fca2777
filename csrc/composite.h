// torch's composites that ours stand in for, wherever torch decomposes them: in eager mode, under
// functorch, in tracing and in export.
#pragma once

#include <c10/util/Exception.h>
#include <torch/library.h>

namespace portable_mps {

// torch warns of a kernel that replaces another: here it is meant, and ours serves other devices by
// the replaced one.
class Silence final : public c10::WarningHandler {
  void process(const c10::Warning& /*warning*/) override {}
};

// Registers `kernel` for the composite `name` of aten, for the life of the process.
template <typename Kernel>
bool replace_composite(const char* name, Kernel kernel) {
  static auto* const everywhere =
      new torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::CompositeImplicitAutograd,
                         __FILE__, __LINE__);
  static auto* const under_vmap = new torch::Library(
      torch::Library::IMPL, "aten", c10::DispatchKey::FuncTorchVmapMode, __FILE__, __LINE__);
  Silence silence;
  const c10::WarningUtils::WarningHandlerGuard guard(&silence);
  everywhere->impl(name, kernel);
  under_vmap->impl(name, kernel);
  return true;
}

}  // namespace portable_mps
