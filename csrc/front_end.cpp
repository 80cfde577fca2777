#include "front_end.h"

#include <stdexcept>

namespace portable_mps {
namespace {

using slang::CompilerOptionEntry;
using slang::CompilerOptionName;

// A session keeps every module that it has loaded, several megabytes each.
constexpr size_t kModulesPerSession = 128;

CompilerOptionEntry option(CompilerOptionName name, int value) { return {name, {0, value}}; }

CompilerOptionEntry option(CompilerOptionName name, const char* value) {
  return {name, {1, 0, 0, value}};
}

// Receives an object of Slang's; what it says of a failure, in `check`.
template <typename Interface>
class Out {
 public:
  explicit Out(Owned<Interface>& owner) : owner_(owner) {}
  ~Out() { owner_.reset(object_); }
  operator Interface**() { return &object_; }

 private:
  Owned<Interface>& owner_;
  Interface* object_ = nullptr;
};

void check(bool succeeded, const Owned<slang::ISlangBlob>& diagnostics, const char* otherwise) {
  if (!succeeded) {
    throw std::runtime_error(
        diagnostics == nullptr
            ? std::string(otherwise)
            : std::string(static_cast<const char*>(diagnostics->getBufferPointer()),
                          diagnostics->getBufferSize()));
  }
}

}  // namespace

void FrontEnd::open_session() {
  if (global_ == nullptr) {
    const auto create =
        reinterpret_cast<slang::CreateGlobalSession>(options_.create_global_session);
    const slang::GlobalSessionDesc description;
    const int32_t result = create(&description, Out(global_));
    check(result >= 0, nullptr, "Slang's compiler did not start");
  }
  const CompilerOptionEntry of_target[] = {
      option(CompilerOptionName::FloatingPointMode, options_.floating_point_mode),
      option(CompilerOptionName::GLSLForceScalarLayout, 1),
  };
  slang::TargetDesc target;
  target.format = options_.format;
  if (target.format != slang::SLANG_SPIRV) {
    target.flags = 0;
  }
  target.profile = global_->findProfile(options_.profile.c_str());
  target.floatingPointMode = static_cast<uint32_t>(options_.floating_point_mode);
  target.compilerOptionEntries = of_target;
  target.compilerOptionEntryCount = std::size(of_target);
  const CompilerOptionEntry of_session[] = {
      option(CompilerOptionName::MatrixLayoutRow, 1),
      option(CompilerOptionName::DisableWarning, "30856"),
      option(CompilerOptionName::DebugInformation, 0),
      option(CompilerOptionName::Optimization, 1),
      option(CompilerOptionName::LoopInversion, 1),
      option(CompilerOptionName::Include, options_.include.c_str()),
  };
  slang::SessionDesc description;
  description.targets = &target;
  description.targetCount = 1;
  description.compilerOptionEntries = of_session;
  description.compilerOptionEntryCount = std::size(of_session);
  session_.reset();
  const int32_t result = global_->createSession(description, Out(session_));
  check(result >= 0, nullptr, "Slang's compiler gave no session");
  modules_ = 0;
}

std::string FrontEnd::compile(const std::string& text, const std::string& entry) {
  if (session_ == nullptr || modules_ == kModulesPerSession) {
    open_session();
  }
  ++modules_;
  Owned<slang::ISlangBlob> said;
  // A session takes no text twice, and no name.
  const std::string number = std::to_string(modules_);
  auto* const module = session_->loadModuleFromSourceString(
      ("kernel" + number).c_str(), nullptr, ("// " + number + "\n" + text).c_str(), Out(said));
  check(module != nullptr, said, "Slang's compiler took no module");
  Owned<slang::IComponentType> point, program, linked;
  int32_t result = module->findEntryPointByName(entry.c_str(), Out(point));
  check(result >= 0, nullptr, "there is no entry point of that name");
  slang::IComponentType* const parts[] = {module, point.get()};
  result = session_->createCompositeComponentType(parts, 2, Out(program), Out(said));
  check(result >= 0, said, "Slang's compiler made no program");
  result = program->link(Out(linked), Out(said));
  check(result >= 0, said, "Slang's compiler did not link the program");
  if (options_.thread_group_size != 0) {
    void* const layout = linked->getLayout(0, nullptr);
    void* const reflected =
        reinterpret_cast<slang::EntryPointByIndex>(options_.entry_point_by_index)(layout, 0);
    reinterpret_cast<slang::ThreadGroupSize>(options_.thread_group_size)(reflected, 3,
                                                                         workgroup_.data());
  }
  Owned<slang::ISlangBlob> code;
  result = linked->getEntryPointCode(0, 0, Out(code), Out(said));
  check(result >= 0 && code != nullptr, said, "Slang's compiler gave no code");
  return {static_cast<const char*>(code->getBufferPointer()), code->getBufferSize()};
}

}  // namespace portable_mps
