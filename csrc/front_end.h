// Slang's compiler, called without Python: source to SPIR-V, or to another language.
#pragma once

#include "slang.h"

#include <array>
#include <memory>
#include <string>
#include <vector>

namespace portable_mps {

// What slangpy's session is made with, too: both give the same code.
struct FrontEndOptions {
  uintptr_t create_global_session;  // Slang's function of that name
  std::string include;              // folder
  std::string profile;              // "sm_6_0"
  int floating_point_mode;
  int format = slang::SLANG_SPIRV;
  // Of Slang's functions that say how many threads a workgroup has; 0 where nobody asks.
  uintptr_t entry_point_by_index = 0;
  uintptr_t thread_group_size = 0;
};

template <typename Interface>
struct Release {
  void operator()(Interface* object) const { object->release(); }
};
template <typename Interface>
using Owned = std::unique_ptr<Interface, Release<Interface>>;

// One thread's. The first call takes a quarter of a second to read Slang's own library, and so does
// the first module of each session.
class FrontEnd {
 public:
  explicit FrontEnd(FrontEndOptions options) : options_(std::move(options)) {}

  // The code of entry point `entry`, which is called "main" in SPIR-V. std::runtime_error with the
  // compiler's words where there is none.
  std::string compile(const std::string& text, const std::string& entry);

  // Of what was compiled last: Metal's text does not say it.
  const std::array<uint64_t, 3>& workgroup() const { return workgroup_; }

 private:
  void open_session();

  FrontEndOptions options_;
  Owned<slang::IGlobalSession> global_;
  Owned<slang::ISession> session_;
  size_t modules_ = 0;
  std::array<uint64_t, 3> workgroup_{};
};

}  // namespace portable_mps
