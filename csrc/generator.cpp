#include "generator.h"

#include "capture.h"
#include "runtime.h"
#include "tape.h"

#include <ATen/Functions.h>
#include <ATen/Utils.h>

#include <cstring>

namespace portable_mps {

// Without a dispatch key: the tensors decide which kernel runs, and it says that the generator is
// of another device.
PhiloxGenerator::PhiloxGenerator()
    : GeneratorImpl(runtime::mps_device(), c10::DispatchKeySet()),
      seed_(c10::default_rng_seed_val) {}

void PhiloxGenerator::set_current_seed(uint64_t seed) {
  seed_ = seed;
  offset_ = 0;
}

void PhiloxGenerator::set_offset(uint64_t offset) { offset_ = offset; }

uint64_t PhiloxGenerator::get_offset() const { return offset_; }

uint64_t PhiloxGenerator::current_seed() const { return seed_; }

uint64_t PhiloxGenerator::seed() {
  set_current_seed(c10::detail::getNonDeterministicRandom());
  return seed_;
}

void PhiloxGenerator::set_state(const c10::TensorImpl& state) {
  at::detail::check_rng_state(state);
  constexpr int64_t kBytes = 2 * sizeof(uint64_t);
  TORCH_CHECK(state.numel() == kBytes, "RNG state is wrong size: expected ", kBytes, " bytes, got ",
              state.numel());
  const auto* words = static_cast<const uint8_t*>(state.data());
  std::memcpy(&seed_, words, sizeof(seed_));
  std::memcpy(&offset_, words + sizeof(seed_), sizeof(offset_));
}

c10::intrusive_ptr<c10::TensorImpl> PhiloxGenerator::get_state() const {
  at::Tensor state = at::detail::empty_cpu({2 * sizeof(uint64_t)}, at::kByte, {}, {}, {}, {});
  auto* words = state.data_ptr<uint8_t>();
  std::memcpy(words, &seed_, sizeof(seed_));
  std::memcpy(words + sizeof(seed_), &offset_, sizeof(offset_));
  return state.getIntrusivePtr();
}

PhiloxGenerator* PhiloxGenerator::clone_impl() const {
  auto* copy = new PhiloxGenerator();
  copy->seed_ = seed_;
  copy->offset_ = offset_;
  return copy;
}

const at::Generator& default_generator() {
  static const auto* generator = new at::Generator(c10::make_intrusive<PhiloxGenerator>());
  return *generator;
}

std::pair<uint64_t, uint64_t> reserve_philox(std::optional<at::Generator> generator,
                                             uint64_t counters) {
  auto* philox = at::get_generator_or_default<PhiloxGenerator>(generator, default_generator());
  const bool is_default = philox == default_generator().get<PhiloxGenerator>();
  if (Capture* const capture = capturing()) {
    TORCH_CHECK(is_default,
                "A graph that is captured draws random numbers of the default generator alone");
    const std::lock_guard<std::mutex> lock(philox->mutex_);
    return capture->draw(philox->current_seed(), counters);
  }
  uint64_t seed = 0, offset = 0;
  {
    const std::lock_guard<std::mutex> lock(philox->mutex_);
    seed = philox->current_seed();
    offset = philox->get_offset();
    philox->set_offset(offset + counters);
  }
  if (Recording* noted = recording()) {
    if (is_default) {
      noted->drew(seed, offset, counters);
    } else {
      noted->fail("random numbers are of a generator of their own");
    }
  }
  return {seed, offset};
}

void put_draw(uint8_t* parameters, const std::pair<uint64_t, uint64_t>& draw) {
  std::memcpy(parameters, &draw.first, sizeof(draw.first));
  std::memcpy(parameters + sizeof(draw.first), &draw.second, sizeof(draw.second));
}

namespace {

struct DrawnMemory {
  int64_t value;
  Drawn drawn;
};

void release_drawn(void* memory) { delete static_cast<DrawnMemory*>(memory); }

}  // namespace

at::Tensor drawn_number(const Drawn& drawn) {
  const uint64_t value = drawn.is_counter ? drawn.counter : drawn.seed;
  auto* const memory = new DrawnMemory{static_cast<int64_t>(value), drawn};
  auto storage = c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), sizeof(memory->value),
      c10::DataPtr(&memory->value, memory, &release_drawn, c10::kCPU), nullptr,
      /*resizable=*/false);
  at::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(std::move(storage)), c10::DispatchKeySet(c10::DispatchKey::CPU),
      caffe2::TypeMeta::Make<int64_t>());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(c10::IntArrayRef(), c10::IntArrayRef());
  return tensor;
}

const Drawn* drawn_of(const at::Tensor& tensor) {
  if (!tensor.is_cpu() || tensor.layout() != c10::kStrided || !tensor.has_storage() ||
      tensor.dim() != 0 || tensor.storage().data_ptr().get_deleter() != &release_drawn) {
    return nullptr;
  }
  return &static_cast<const DrawnMemory*>(tensor.storage().data_ptr().get_context())->drawn;
}

}  // namespace portable_mps
