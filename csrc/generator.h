// Counter-based random numbers: a generator is a Philox seed and the offset of the next unused
// counter.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <utility>

namespace portable_mps {

struct PhiloxGenerator final : c10::GeneratorImpl {
  PhiloxGenerator();

  void set_current_seed(uint64_t seed) override;
  void set_offset(uint64_t offset) override;
  uint64_t get_offset() const override;
  uint64_t current_seed() const override;
  uint64_t seed() override;
  // State: 16 bytes on the CPU, the seed and the offset as native 64-bit integers.
  void set_state(const c10::TensorImpl& state) override;
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override;

  static c10::DeviceType device_type() { return c10::DeviceType::MPS; }

 private:
  PhiloxGenerator* clone_impl() const override;

  uint64_t seed_;
  uint64_t offset_ = 0;
};

const at::Generator& default_generator();

// The (seed, offset) for an operator that draws `counters` Philox blocks of each of its threads.
std::pair<uint64_t, uint64_t> reserve_philox(std::optional<at::Generator> generator,
                                             uint64_t counters);

// Write a seed and its counter where a kernel takes them.
void put_draw(uint8_t* parameters, const std::pair<uint64_t, uint64_t>& draw);

// What an operator drew, as it goes to its backward pass: the seed or the counter as a whole number
// on the CPU, which replays know from others.
struct Drawn {
  uint64_t seed, counter;
  bool is_counter;  // of the two
};
at::Tensor drawn_number(const Drawn& drawn);
const Drawn* drawn_of(const at::Tensor& tensor);  // null where it is any other tensor

}  // namespace portable_mps
