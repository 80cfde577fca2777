// An elementwise operator's call, from torch's dispatcher to the recorder, without Python: Python
// is asked once for each variant of the kernel (portable_mps/dispatch/pointwise.py, which owns the
// rows).
#pragma once

#include "iterator.h"
#include "recorder.h"

namespace portable_mps {

// A check that torch's meta function, or its kernel on the CPU, makes beyond TensorIterator's own.
// kNumber, kExponent: the second input, where that is a number, fits the common dtype; an exponent
// any of 32 or 64 bits.
enum class Check : int {
  kNone = 0,
  kAlpha = 1,
  kSubtraction = 2,
  kDivisor = 3,
  kNumber = 4,
  kExponent = 5
};

class PointwiseKernels {
 public:
  // compile: from the signature's three words and the parameters' size to a _C.Kernel. check_empty:
  // called with the signature's first two words where there are no elements, and so no kernel.
  // unroll: whether the kernel is short enough to be written out for many elements.
  PointwiseKernels(std::string formats, int promotion, int check, bool unroll, py::object compile,
                   py::object check_empty)
      : formats_(std::move(formats)),
        promotion_(static_cast<Promotion>(promotion)),
        check_(static_cast<Check>(check)),
        unroll_(unroll),
        compile_(std::move(compile)),
        check_empty_(std::move(check_empty)) {}

  // Plan, compile where needed, and record; undefined outputs are allocated. Needs no GIL.
  std::vector<at::Tensor> run(const std::vector<at::Tensor>& outputs,
                              const std::vector<at::Tensor>& inputs,
                              const std::vector<at::Scalar>& scalars);

 private:
  struct Hash {
    size_t operator()(const std::array<uint64_t, 3>& key) const {
      return key[0] * 0x9E3779B97F4A7C15u ^ (key[1] << 32 | key[2]);
    }
  };

  const Kernel& kernel_for(const Plan& plan);
  void check(const std::vector<at::Tensor>& inputs, const std::vector<at::Scalar>& scalars) const;
  // Once the dtypes are known to be taken: the CPU's kernels raise later for numbers. Scalars of
  // the format 's' must fit the common dtype, those of 'o' what it is computed in.
  void check_numbers(const std::vector<at::Tensor>& inputs, const std::vector<at::Scalar>& scalars,
                     at::ScalarType common) const;

  std::string formats_;
  Promotion promotion_;
  Check check_;
  bool unroll_;
  py::object compile_;
  py::object check_empty_;
  std::mutex mutex_;  // guards kernels_; never held while Python is called
  std::unordered_map<std::array<uint64_t, 3>, std::shared_ptr<Kernel>, Hash> kernels_;
};

void bind_pointwise(py::module_& module);

}  // namespace portable_mps
