// What the dispatches of an operator's call follow from: replays are found by it.
#pragma once

#include <ATen/ATen.h>

#include <vector>

namespace portable_mps {

// A whole number on the CPU, zero: attention's seeds where nothing is random. Others are never met
// twice, so that it does not pay to tell them apart.
bool is_zero(const at::Tensor& tensor);

// Metadata of all arguments, and the settings of torch and ours that kernels depend on.
class Signature {
 public:
  // Words, of which those of an argument start with its kind; none where a call like it is not to
  // be replayed.
  std::vector<int64_t> words;
  std::vector<at::Tensor> tensors;  // of this device, in order
  std::vector<uint64_t> drawn;      // seeds and counters that are among the arguments

  explicit Signature(c10::ArrayRef<c10::IValue> arguments);
  bool is_whole() const { return !words.empty(); }
  // What stands in the way where it is not.
  const char* refusal() const { return refusal_; }

  struct Hash {
    size_t operator()(const std::vector<int64_t>& words) const;
  };

 private:
  bool add(const c10::IValue& value);
  bool add_tensor(const at::Tensor& tensor);

  const char* refusal_ = "an argument of an unusual type";
};

}  // namespace portable_mps
