#include "tape.h"

#include "allocator.h"
#include "capture.h"
#include "generator.h"
#include "signature.h"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace portable_mps {
namespace {

using Place = Tape::Place;
using Event = Tape::Event;
using Output = Tape::Output;

thread_local Recording* current_recording = nullptr;
std::atomic<bool> errors_armed{false};

bool holds(const at::Tensor& tensor, uint64_t address) {
  const auto base = reinterpret_cast<uint64_t>(tensor.storage().data());
  return address >= base && address - base < tensor.storage().nbytes();
}

uint64_t word_at(c10::ArrayRef<uint8_t> parameters, uint32_t offset) {
  uint64_t word = 0;
  std::memcpy(&word, parameters.data() + offset, sizeof(word));
  return word;
}

// All that a call could change of an argument but its elements.
std::vector<int64_t> shape_of(const at::Tensor& tensor) {
  std::vector<int64_t> shape = tensor.sizes().vec();
  shape.insert(shape.end(), tensor.strides().begin(), tensor.strides().end());
  shape.insert(shape.end(), {reinterpret_cast<int64_t>(tensor.const_data_ptr()),
                             static_cast<int64_t>(tensor.storage().nbytes())});
  return shape;
}

// Whether `addresses` has an address in each of `tensors`, and no other parameter looks like one.
bool are_declared(c10::ArrayRef<uint8_t> parameters, c10::ArrayRef<uint32_t> addresses,
                  c10::ArrayRef<at::Tensor> tensors) {
  std::vector<bool> are_named(tensors.size());
  for (uint32_t offset = 0; offset + sizeof(uint64_t) <= parameters.size(); offset += 8) {
    const uint64_t word = word_at(parameters, offset);
    const bool is_named = std::find(addresses.begin(), addresses.end(), offset) != addresses.end();
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (holds(tensors[i], word)) {
        are_named[i] = true;
        if (!is_named) {
          return false;
        }
      }
    }
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!are_named[i] && tensors[i].numel() != 0) {
      return false;
    }
  }
  return true;
}

bool is_plain(const at::Tensor& tensor) {
  return tensor.layout() == c10::kStrided && !tensor.is_quantized() && !tensor.is_conj() &&
         !tensor.is_neg() && tensor.numel() != 0;
}

at::Tensor tensor_in(c10::Storage storage, const Output& output) {
  at::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::MPS), output.dtype);
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(output.sizes, output.strides, output.offset);
  return tensor;
}

}  // namespace

Recording::Recording(const std::vector<at::Tensor>& arguments, std::vector<uint64_t> drawn)
    : drawn_(std::move(drawn)) {
  for (const at::Tensor& argument : arguments) {
    const c10::StorageImpl* const storage = argument.storage().unsafeGetStorageImpl();
    arguments_.push_back({decltype(Argument::tensor)(argument.getIntrusivePtr()), storage,
                          reinterpret_cast<uint64_t>(argument.const_data_ptr()),
                          reinterpret_cast<uint64_t>(storage->data()), storage->nbytes(),
                          shape_of(argument)});
  }
}

void Recording::allocated(uint64_t address, size_t bytes) {
  const auto index = static_cast<uint32_t>(tape_.temporaries.size());
  tape_.temporaries.push_back(bytes);
  live_[address] = index;
  tape_.events.push_back({Event::Kind::kAllocate, index});
}

void Recording::released(uint64_t address) {
  const auto found = live_.find(address);
  if (found != live_.end()) {
    tape_.events.push_back({Event::Kind::kRelease, found->second});
    live_.erase(found);
    return;
  }
  for (size_t i = 0; i < arguments_.size(); ++i) {
    if (arguments_[i].base == address && !arguments_[i].released) {
      arguments_[i].released = true;
      tape_.events.push_back({Event::Kind::kForget, static_cast<uint32_t>(i)});
    }
  }
  // What is neither is older than the call: nobody addresses it here any more.
}

void Recording::drew(uint64_t seed, uint64_t counter, uint64_t counters) {
  tape_.events.push_back({Event::Kind::kDraw, static_cast<uint32_t>(draws_.size())});
  tape_.draws.push_back(counters);
  tape_.is_repeatable = false;
  draws_.push_back({seed, counter});
}

void Recording::dispatched(const std::shared_ptr<const Kernel>& kernel,
                           c10::ArrayRef<uint8_t> parameters, c10::ArrayRef<uint32_t> addresses,
                           c10::ArrayRef<uint32_t> draws, const Groups& groups,
                           const std::vector<Range>& reads, const std::vector<Range>& writes,
                           c10::ArrayRef<at::Tensor> tensors) {
  Tape::Dispatch dispatch{kernel, parameters.vec(), {}, {}, groups, {}, {}};
  for (const uint32_t offset : addresses) {
    if (const uint64_t address = word_at(parameters, offset); address != 0) {
      dispatch.addresses.emplace_back(offset, place_of(address, tensors));
    }
  }
  for (const uint32_t offset : draws) {
    if (const auto draw = draw_of(parameters, offset)) {
      dispatch.draws.push_back(*draw);
    }
  }
  if (!are_declared(parameters, addresses, tensors)) {
    undeclared_ = true;
    fail("a kernel takes addresses that its launch does not name");  // a replay would take these
  }
  for (const Range& range : reads) {
    dispatch.reads.push_back({place_of(range.begin, tensors), range.end - range.begin});
    note_access(dispatch.reads.back().begin, read_);
  }
  for (const Range& range : writes) {
    dispatch.writes.push_back({place_of(range.begin, tensors), range.end - range.begin});
    note_access(dispatch.writes.back().begin, written_);
  }
  tape_.events.push_back({Event::Kind::kDispatch, static_cast<uint32_t>(tape_.dispatches.size())});
  tape_.dispatches.push_back(std::move(dispatch));
}

std::shared_ptr<const Tape> Recording::finish(c10::ArrayRef<c10::IValue> results, bool strict) {
  TORCH_CHECK(!strict || !undeclared_, failure_);
  std::unordered_set<uint32_t> given;  // temporaries that live on
  std::unordered_map<const c10::TensorImpl*, uint32_t> seen;
  for (const c10::IValue& result : results) {
    const bool is_tensor = result.isTensor() && result.toTensor().defined();
    if (is_tensor && result.toTensor().device().type() == c10::DeviceType::MPS) {
      // One tensor that is two results: who changes one in place changes the other's version.
      const auto index = static_cast<uint32_t>(tape_.outputs.size());
      const auto [first, is_new] = seen.emplace(result.toTensor().unsafeGetTensorImpl(), index);
      if (is_new) {
        add_output(result.toTensor(), given);
      } else {
        tape_.outputs.push_back({Output::Kind::kSame, first->second, 0, {}, {}, {}, {}});
      }
    } else if (const Drawn* const number = is_tensor ? drawn_of(result.toTensor()) : nullptr) {
      const auto draw = own_draw(number->seed, number->counter);
      if (!draw) {
        fail("a seed is a result that is not drawn here");
      }
      tape_.outputs.push_back({number->is_counter ? Output::Kind::kCounter : Output::Kind::kSeed,
                               draw.value_or(0),
                               0,
                               {},
                               {},
                               {},
                               {}});
    } else if (is_tensor && !is_zero(result.toTensor())) {
      fail("a result is on another device");
    } else {
      tape_.outputs.push_back({Output::Kind::kValue, 0, 0, {}, {}, {}, result});
    }
  }
  for (const Argument& argument : arguments_) {
    const auto tensor = argument.tensor.lock();
    if (tensor.defined() && shape_of(at::Tensor(tensor)) != argument.shape) {
      fail("an argument is resized");
    }
  }
  for (const auto& [address, index] : live_) {
    if (given.count(index) == 0) {
      // Such as a table that Python has made: the next call will find it there.
      fail("memory is kept that is no result");
    }
  }
  for (const OwnDraw& draw : draws_) {
    if (!draw.used) {
      fail("random numbers are drawn by a kernel that does not say so");
    }
  }
  for (const c10::StorageImpl* storage : written_) {
    // A kernel that works in place may be told of as writing alone.
    const auto uses = std::count_if(arguments_.begin(), arguments_.end(),
                                    [&](const auto& other) { return other.storage == storage; });
    tape_.is_repeatable &= uses == 1 && read_.count(storage) == 0;
  }
  return failure_ != nullptr ? nullptr : std::make_shared<const Tape>(std::move(tape_));
}

Place Recording::place_of(uint64_t address, c10::ArrayRef<at::Tensor> tensors) {
  for (const auto& [base, index] : live_) {
    if (address >= base && address - base < tape_.temporaries[index]) {
      return {Place::Kind::kTemporary, index, static_cast<int64_t>(address - base)};
    }
  }
  for (size_t i = 0; i < arguments_.size(); ++i) {
    const Argument& argument = arguments_[i];
    if (!argument.released && address >= argument.base &&
        address - argument.base < argument.bytes) {
      return {Place::Kind::kArgument, static_cast<uint32_t>(i),
              static_cast<int64_t>(address - argument.own)};
    }
  }
  for (const at::Tensor& tensor : tensors) {
    if (holds(tensor, address)) {
      tape_.constants.push_back(tensor.storage());
      return {Place::Kind::kConstant, 0, static_cast<int64_t>(address)};
    }
  }
  fail("a kernel touches memory that is no argument's");
  return {Place::Kind::kConstant, 0, 0};
}

void Recording::note_access(const Place& place,
                            std::unordered_set<const c10::StorageImpl*>& storages) {
  if (place.kind == Place::Kind::kArgument) {
    storages.insert(arguments_[place.index].storage);
  }
}

std::optional<uint32_t> Recording::own_draw(uint64_t seed, uint64_t counter) const {
  std::optional<uint32_t> found;
  for (size_t i = 0; i < draws_.size(); ++i) {
    if (draws_[i].seed == seed && draws_[i].counter == counter) {
      if (found) {
        return std::nullopt;  // seeded anew within
      }
      found = static_cast<uint32_t>(i);
    }
  }
  return found;
}

std::optional<Tape::Draw> Recording::draw_of(c10::ArrayRef<uint8_t> parameters, uint32_t offset) {
  const uint64_t seed = word_at(parameters, offset);
  const uint64_t counter = word_at(parameters, offset + sizeof(seed));
  const auto own = own_draw(seed, counter);
  std::optional<uint32_t> given;
  for (uint32_t i = 0; i + 1 < drawn_.size(); ++i) {
    if (drawn_[i] == seed && drawn_[i + 1] == counter) {
      if (own || given) {
        fail("random numbers may be of two origins");
      }
      given = i;
    }
  }
  if (own && !given) {
    draws_[*own].used = true;
    return Tape::Draw{offset, false, *own};
  }
  if (given) {
    return Tape::Draw{offset, true, *given};
  }
  fail("random numbers are not drawn anew");
  return std::nullopt;
}

void Recording::add_output(const at::Tensor& tensor, std::unordered_set<uint32_t>& given) {
  Output output{Output::Kind::kArgument, 0, 0, {}, {}, {}, {}};
  const auto find = [&](const auto& matches) {
    const auto found = std::find_if(arguments_.begin(), arguments_.end(), matches);
    output.index = static_cast<uint32_t>(found - arguments_.begin());
    return found != arguments_.end();
  };
  if (!find([&](const Argument& argument) {
        return argument.tensor._unsafe_get_target() == tensor.unsafeGetTensorImpl();
      })) {
    if (!is_plain(tensor)) {
      fail("a result is no plain tensor");
      return;
    }
    const c10::StorageImpl* const storage = tensor.storage().unsafeGetStorageImpl();
    const auto temporary = live_.find(reinterpret_cast<uint64_t>(storage->data()));
    if (temporary != live_.end()) {
      output.kind = Output::Kind::kNew;
      output.index = temporary->second;
      given.insert(output.index);
    } else if (find([&](const Argument& argument) {
                 return argument.storage == storage && !argument.released;
               })) {
      output.kind = Output::Kind::kView;
    } else {
      fail("a result is neither new nor an argument's");
      return;
    }
    output.offset = tensor.storage_offset();
    output.dtype = tensor.dtype();
    output.sizes = tensor.sizes().vec();
    output.strides = tensor.strides().vec();
  }
  tape_.outputs.push_back(std::move(output));
}

Recording* recording() { return current_recording; }

Noted::Noted(Recording* recording) { current_recording = recording; }
Noted::~Noted() { current_recording = nullptr; }

void note_other(const char* reason) {
  if (current_recording != nullptr) {
    current_recording->fail(reason);
  }
}

void arm_errors() {
  errors_armed = true;
  if (current_recording != nullptr) {
    current_recording->may_report();
  }
  if (Capture* const capture = capturing()) {
    capture->may_report();
  }
}

bool disarm_errors() { return errors_armed.exchange(false); }

std::vector<c10::IValue> replay(const Tape& tape, std::vector<at::Tensor> arguments,
                                const std::vector<uint64_t>& drawn) {
  if (tape.may_report) {
    arm_errors();
  }
  Recorder& target = recorder();
  c10::Allocator* const memory = allocator();
  std::vector<c10::DataPtr> temporaries(tape.temporaries.size());
  std::vector<uint64_t> addresses(temporaries.size());
  std::vector<std::pair<uint64_t, uint64_t>> draws(tape.draws.size());
  const auto address_of = [&](const Place& place) {
    switch (place.kind) {
      case Place::Kind::kArgument:
        return reinterpret_cast<uint64_t>(arguments[place.index].const_data_ptr()) + place.offset;
      case Place::Kind::kTemporary:
        return addresses[place.index] + place.offset;
      default:
        return static_cast<uint64_t>(place.offset);
    }
  };
  std::vector<Range> reads, writes;
  const auto fill = [&](std::vector<Range>& ranges, const std::vector<Tape::Extent>& extents) {
    ranges.clear();
    for (const Tape::Extent& extent : extents) {
      const uint64_t begin = address_of(extent.begin);
      ranges.push_back({begin, begin + extent.bytes});
    }
  };
  std::vector<uint8_t> parameters;
  std::vector<uint32_t> draw_offsets;
  for (const Event& event : tape.events) {
    switch (event.kind) {
      case Event::Kind::kAllocate:
        temporaries[event.index] = memory->allocate(tape.temporaries[event.index]);
        addresses[event.index] = reinterpret_cast<uint64_t>(temporaries[event.index].get());
        break;
      case Event::Kind::kRelease:
        temporaries[event.index].clear();
        break;
      case Event::Kind::kForget:
        arguments[event.index].reset();
        break;
      case Event::Kind::kDraw:
        draws[event.index] = reserve_philox(std::nullopt, tape.draws[event.index]);
        break;
      case Event::Kind::kDispatch: {
        const Tape::Dispatch& dispatch = tape.dispatches[event.index];
        parameters = dispatch.parameters;
        for (const auto& [offset, place] : dispatch.addresses) {
          const uint64_t address = address_of(place);
          std::memcpy(parameters.data() + offset, &address, sizeof(address));
        }
        draw_offsets.clear();
        for (const auto& [offset, is_argument, index] : dispatch.draws) {
          draw_offsets.push_back(offset);
          put_draw(parameters.data() + offset,
                   is_argument ? std::pair(drawn[index], drawn[index + 1]) : draws[index]);
        }
        fill(reads, dispatch.reads);
        fill(writes, dispatch.writes);
        target.launch(*dispatch.kernel, parameters, dispatch.groups, reads, writes, draw_offsets);
        break;
      }
    }
  }
  std::vector<c10::Storage> made(temporaries.size());
  std::vector<c10::IValue> results;
  for (const Output& output : tape.outputs) {
    if (output.kind == Output::Kind::kValue) {
      const bool is_zero = output.value.isTensor() && output.value.toTensor().defined();
      results.push_back(is_zero ? output.value.toTensor().clone() : output.value);
    } else if (output.kind == Output::Kind::kSeed || output.kind == Output::Kind::kCounter) {
      const auto [seed, counter] = draws[output.index];
      results.emplace_back(drawn_number({seed, counter, output.kind == Output::Kind::kCounter}));
    } else if (output.kind == Output::Kind::kArgument) {
      results.emplace_back(arguments[output.index]);
    } else if (output.kind == Output::Kind::kSame) {
      results.push_back(results[output.index]);
    } else if (output.kind == Output::Kind::kView) {
      results.emplace_back(tensor_in(arguments[output.index].storage(), output));
    } else {
      c10::Storage& storage = made[output.index];
      if (!storage) {
        storage = c10::make_intrusive<c10::StorageImpl>(
            c10::StorageImpl::use_byte_size_t(), tape.temporaries[output.index],
            std::move(temporaries[output.index]), memory, /*resizable=*/true);
      }
      results.emplace_back(tensor_in(storage, output));
    }
  }
  return results;
}

}  // namespace portable_mps
