#include "replay.h"

#include "allocator.h"
#include "functionality.h"
#include "python.h"
#include "runtime.h"
#include "signature.h"

#include <ATen/Context.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

namespace portable_mps {
namespace {

constexpr size_t kRemembered = 4096;  // signatures of an operator
constexpr int kAttempts = 3;          // recordings of calls alike: a table may be made in one

// Where an address points: `offset` bytes into what `kind` and `index` name; a constant's is all of
// the address.
struct Place {
  enum class Kind : uint8_t { kArgument, kTemporary, kConstant } kind;
  uint32_t index;
  int64_t offset;
};

struct Extent {
  Place begin;
  uint64_t bytes;
};

struct Event {
  enum class Kind : uint8_t { kAllocate, kRelease, kDispatch } kind;
  uint32_t index = 0;  // of the temporary, or the dispatch
};

struct Dispatch {
  std::shared_ptr<const Kernel> kernel;
  std::vector<uint8_t> parameters;
  std::vector<std::pair<uint32_t, Place>> addresses;  // by their offset in the parameters
  Groups groups;
  std::vector<Extent> reads, writes;
};

struct Output {
  enum class Kind : uint8_t { kValue, kArgument, kNew } kind;
  uint32_t index = 0;  // of the argument or the temporary
  int64_t offset = 0;  // in elements
  caffe2::TypeMeta dtype;
  std::vector<int64_t> sizes, strides;
  c10::IValue value;  // a number, no tensor, or a number as a tensor on the CPU
};

}  // namespace

// A recorded call.
struct Tape {
  std::vector<size_t> temporaries;  // their bytes
  std::vector<Event> events;
  std::vector<Dispatch> dispatches;
  std::vector<Output> outputs;
  std::vector<c10::Storage> constants;  // kept alive
  bool is_repeatable = true;            // no argument is both read and written
  bool may_report = false;              // a kernel checks indices
};

namespace {

// Whether calls are recorded and replayed; `kAtOnce`, for tests: recorded the first time, and
// replayed there and then.
enum class Mode : int { kOff = 0, kOn = 1, kAtOnce = 2 };
std::atomic<Mode> mode{Mode::kOn};

}  // namespace

class Recording {
 public:
  explicit Recording(const std::vector<at::Tensor>& arguments) : arguments_(arguments) {
    for (const at::Tensor& argument : arguments) {
      shapes_.push_back(shape_of(argument));
    }
  }

  void allocated(uint64_t address, size_t bytes) {
    const auto index = static_cast<uint32_t>(tape_.temporaries.size());
    tape_.temporaries.push_back(bytes);
    live_[address] = index;
    tape_.events.push_back({Event::Kind::kAllocate, index});
  }

  void released(uint64_t address) {
    const auto found = live_.find(address);
    if (found == live_.end()) {
      return;  // older than the recording: nobody addresses it here any more
    }
    tape_.events.push_back({Event::Kind::kRelease, found->second});
    live_.erase(found);
  }

  void fail() { failed_ = true; }
  void arm() { tape_.may_report = true; }

  void dispatched(const std::shared_ptr<const Kernel>& kernel, c10::ArrayRef<uint8_t> parameters,
                  c10::ArrayRef<uint32_t> addresses, const Groups& groups,
                  const std::vector<Range>& reads, const std::vector<Range>& writes,
                  c10::ArrayRef<at::Tensor> tensors) {
    Dispatch dispatch{kernel, parameters.vec(), {}, groups, {}, {}};
    for (const uint32_t offset : addresses) {
      uint64_t address = 0;
      std::memcpy(&address, parameters.data() + offset, sizeof(address));
      if (address != 0) {
        dispatch.addresses.emplace_back(offset, place_of(address, tensors));
      }
    }
    if (!are_declared(parameters, addresses, tensors)) {
      TORCH_CHECK(mode != Mode::kAtOnce, "a kernel takes addresses that its launch does not name");
      failed_ = true;  // a replay would take this call's
    }
    for (const Range& range : reads) {
      dispatch.reads.push_back({place_of(range.begin, tensors), range.end - range.begin});
      note_access(dispatch.reads.back().begin, read_);
    }
    for (const Range& range : writes) {
      dispatch.writes.push_back({place_of(range.begin, tensors), range.end - range.begin});
      note_access(dispatch.writes.back().begin, written_);
    }
    const auto index = static_cast<uint32_t>(tape_.dispatches.size());
    tape_.dispatches.push_back(std::move(dispatch));
    tape_.events.push_back({Event::Kind::kDispatch, index});
  }

  // The tape of a call with these results; null where it cannot be replayed.
  std::shared_ptr<const Tape> finish(c10::ArrayRef<c10::IValue> results) {
    std::vector<uint32_t> given;  // temporaries that live on
    for (const c10::IValue& result : results) {
      const bool is_tensor = result.isTensor() && result.toTensor().defined();
      if (is_tensor && result.toTensor().device().type() == c10::DeviceType::MPS) {
        add_output(result.toTensor(), given);
      } else if (is_tensor && !is_zero(result.toTensor())) {
        return nullptr;
      } else {
        tape_.outputs.push_back({Output::Kind::kValue, 0, 0, {}, {}, {}, result});
      }
    }
    for (size_t i = 0; i < arguments_.size(); ++i) {
      failed_ |= shape_of(arguments_[i]) != shapes_[i];  // an out= that was resized
    }
    for (const auto& [address, index] : live_) {
      // Something that Python has kept, such as a table it made: the next call will find it there.
      failed_ |= std::find(given.begin(), given.end(), index) == given.end();
    }
    for (const c10::StorageImpl* storage : written_) {
      // A kernel that works in place may be told of as writing alone.
      const auto uses = std::count_if(arguments_.begin(), arguments_.end(), [&](const auto& other) {
        return other.storage().unsafeGetStorageImpl() == storage;
      });
      tape_.is_repeatable &= uses == 1 && read_.count(storage) == 0;
    }
    return failed_ ? nullptr : std::make_shared<const Tape>(std::move(tape_));
  }

 private:
  Place place_of(uint64_t address, c10::ArrayRef<at::Tensor> tensors) {
    for (const auto& [base, index] : live_) {
      if (address >= base && address - base < tape_.temporaries[index]) {
        return {Place::Kind::kTemporary, index, static_cast<int64_t>(address - base)};
      }
    }
    for (size_t i = 0; i < arguments_.size(); ++i) {
      if (holds(arguments_[i], address)) {
        const auto own = reinterpret_cast<uint64_t>(arguments_[i].const_data_ptr());
        return {Place::Kind::kArgument, static_cast<uint32_t>(i),
                static_cast<int64_t>(address - own)};
      }
    }
    for (const at::Tensor& tensor : tensors) {
      if (holds(tensor, address)) {
        tape_.constants.push_back(tensor.storage());
        return {Place::Kind::kConstant, 0, static_cast<int64_t>(address)};
      }
    }
    failed_ = true;
    return {Place::Kind::kConstant, 0, 0};
  }

  // Whether `addresses` has an address in each of `tensors`, and no other parameter looks like one.
  static bool are_declared(c10::ArrayRef<uint8_t> parameters, c10::ArrayRef<uint32_t> addresses,
                           c10::ArrayRef<at::Tensor> tensors) {
    std::vector<bool> are_named(tensors.size());
    for (uint32_t offset = 0; offset + sizeof(uint64_t) <= parameters.size(); offset += 8) {
      uint64_t word = 0;
      std::memcpy(&word, parameters.data() + offset, sizeof(word));
      const bool is_named =
          std::find(addresses.begin(), addresses.end(), offset) != addresses.end();
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

  void note_access(const Place& place, std::unordered_set<const c10::StorageImpl*>& storages) {
    if (place.kind == Place::Kind::kArgument) {
      storages.insert(arguments_[place.index].storage().unsafeGetStorageImpl());
    }
  }

  static bool holds(const at::Tensor& tensor, uint64_t address) {
    const auto base = reinterpret_cast<uint64_t>(tensor.storage().data());
    return address >= base && address - base < tensor.storage().nbytes();
  }

  void add_output(const at::Tensor& tensor, std::vector<uint32_t>& given) {
    Output output{Output::Kind::kArgument, 0, 0, {}, {}, {}, {}};
    const auto same = [&](const at::Tensor& other) { return other.is_same(tensor); };
    const auto argument = std::find_if(arguments_.begin(), arguments_.end(), same);
    if (argument != arguments_.end()) {
      output.index = static_cast<uint32_t>(argument - arguments_.begin());
    } else {
      const bool is_plain = tensor.layout() == c10::kStrided && !tensor.is_quantized() &&
                            !tensor.is_conj() && !tensor.is_neg() && tensor.numel() != 0;
      const auto found =
          is_plain ? live_.find(reinterpret_cast<uint64_t>(tensor.storage().data())) : live_.end();
      if (found == live_.end() ||
          std::find(given.begin(), given.end(), found->second) != given.end()) {
        failed_ = true;  // a view of an argument, or two of one memory
        return;
      }
      given.push_back(found->second);
      output = {Output::Kind::kNew,
                found->second,
                tensor.storage_offset(),
                tensor.dtype(),
                tensor.sizes().vec(),
                tensor.strides().vec(),
                {}};
    }
    tape_.outputs.push_back(std::move(output));
  }

  // All that a call could change of an argument but its elements.
  static std::vector<int64_t> shape_of(const at::Tensor& tensor) {
    std::vector<int64_t> shape = tensor.sizes().vec();
    shape.insert(shape.end(), tensor.strides().begin(), tensor.strides().end());
    shape.insert(shape.end(), {reinterpret_cast<int64_t>(tensor.const_data_ptr()),
                               static_cast<int64_t>(tensor.storage().nbytes())});
    return shape;
  }

  const std::vector<at::Tensor>& arguments_;
  std::vector<std::vector<int64_t>> shapes_;  // of the arguments, before
  Tape tape_;
  std::unordered_map<uint64_t, uint32_t> live_;                 // temporaries by their address
  std::unordered_set<const c10::StorageImpl*> read_, written_;  // of arguments
  bool failed_ = false;
};

namespace {

thread_local Recording* current_recording = nullptr;

// Notes to `recording` while it lives.
class Noted {
 public:
  explicit Noted(Recording* recording) { current_recording = recording; }
  ~Noted() { current_recording = nullptr; }
  Noted(const Noted&) = delete;
  Noted& operator=(const Noted&) = delete;
};

std::atomic<bool> errors_armed{
    false};  // whether a kernel may have reported an error since the last look
std::atomic<uint64_t> generation{0};  // a number up for each time that all tapes are forgotten

std::vector<c10::IValue> replay(const Tape& tape, const std::vector<at::Tensor>& arguments) {
  if (tape.may_report) {
    errors_armed = true;
  }
  Recorder& target = recorder();
  c10::Allocator* const memory = allocator();
  std::vector<c10::DataPtr> temporaries(tape.temporaries.size());
  std::vector<uint64_t> addresses(temporaries.size());
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
  const auto ranges_of = [&](const std::vector<Extent>& extents) {
    std::vector<Range> ranges;
    ranges.reserve(extents.size());
    for (const Extent& extent : extents) {
      const uint64_t begin = address_of(extent.begin);
      ranges.push_back({begin, begin + extent.bytes});
    }
    return ranges;
  };
  std::vector<uint8_t> parameters;
  for (const Event& event : tape.events) {
    if (event.kind == Event::Kind::kAllocate) {
      temporaries[event.index] = memory->allocate(tape.temporaries[event.index]);
      addresses[event.index] = reinterpret_cast<uint64_t>(temporaries[event.index].get());
    } else if (event.kind == Event::Kind::kRelease) {
      temporaries[event.index].clear();
    } else {
      const Dispatch& dispatch = tape.dispatches[event.index];
      parameters = dispatch.parameters;
      for (const auto& [offset, place] : dispatch.addresses) {
        const uint64_t address = address_of(place);
        std::memcpy(parameters.data() + offset, &address, sizeof(address));
      }
      target.launch(*dispatch.kernel, parameters, dispatch.groups, ranges_of(dispatch.reads),
                    ranges_of(dispatch.writes));
    }
  }
  std::vector<c10::IValue> results;
  for (const Output& output : tape.outputs) {
    if (output.kind == Output::Kind::kValue) {
      const bool is_zero = output.value.isTensor() && output.value.toTensor().defined();
      results.push_back(is_zero ? output.value.toTensor().clone() : output.value);
    } else if (output.kind == Output::Kind::kArgument) {
      results.emplace_back(arguments[output.index]);
    } else {
      auto storage = c10::make_intrusive<c10::StorageImpl>(
          c10::StorageImpl::use_byte_size_t(), tape.temporaries[output.index],
          std::move(temporaries[output.index]), memory, /*resizable=*/true);
      at::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(
          c10::Storage(std::move(storage)), c10::DispatchKeySet(c10::DispatchKey::MPS),
          output.dtype);
      tensor.unsafeGetTensorImpl()->set_sizes_and_strides(output.sizes, output.strides,
                                                          output.offset);
      results.emplace_back(std::move(tensor));
    }
  }
  return results;
}

// The dispatcher's kernel of an operator that a Python function implements.
class Replayed : public c10::OperatorKernel {
 public:
  explicit Replayed(py::object function) : function_(std::move(function)) {}

  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                  torch::jit::Stack* stack) {
    const Mode now = mode.load(std::memory_order_relaxed);
    // Where results must be deterministic, some calls warn each time.
    if (now == Mode::kOff || torch::jit::tracer::isTracing() ||
        at::globalContext().deterministicAlgorithms()) {
      return call(op, keys, stack);
    }
    const size_t count = op.schema().arguments().size();
    Signature signature(torch::jit::last(*stack, count));
    if (!signature.is_whole()) {
      return call(op, keys, stack);
    }
    Entry entry = look_up(signature.words, now);
    if (entry.tape != nullptr && recording() == nullptr) {
      torch::jit::drop(*stack, count);
      return push(replay(*entry.tape, signature.tensors), stack);
    }
    if (entry.calls == 0 || entry.calls > kAttempts || recording() != nullptr) {
      return call(op, keys, stack);
    }
    const size_t below = stack->size() - count;
    Recording recorded(signature.tensors);
    {
      const Noted noted(&recorded);
      call(op, keys, stack);
    }
    const auto results = c10::ArrayRef<c10::IValue>(*stack).slice(below);
    entry.tape = recorded.finish(results);
    if (entry.tape != nullptr) {
      const std::lock_guard<std::mutex> held(mutex_);
      entries_[signature.words].tape = entry.tape;
    }
    if (now == Mode::kAtOnce && entry.tape != nullptr && entry.tape->is_repeatable) {
      torch::jit::drop(*stack, results.size());
      push(replay(*entry.tape, signature.tensors), stack);
    }
  }

 private:
  struct Entry {
    int calls = 0;  // so far, up to one more than are recorded
    std::shared_ptr<const Tape> tape;
  };
  using Entries = std::unordered_map<std::vector<int64_t>, Entry, Signature::Hash>;

  void call(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
    function_(op, keys, stack);
  }

  static void push(std::vector<c10::IValue> results, torch::jit::Stack* stack) {
    for (auto& result : results) {
      stack->push_back(std::move(result));
    }
  }

  // The entry as it was before this call, which is counted.
  Entry look_up(const std::vector<int64_t>& words, Mode now) {
    Entries dropped;
    Entry before;
    {
      const std::lock_guard<std::mutex> held(mutex_);
      if (generation_ != generation || entries_.size() >= kRemembered) {
        dropped.swap(entries_);
        generation_ = generation;
      }
      Entry& entry = entries_[words];
      if (entry.calls == 0 && now == Mode::kAtOnce) {
        entry.calls = 1;
      }
      before = entry;
      entry.calls = std::min(entry.calls + 1, kAttempts + 1);
    }
    return before;
  }

  PythonFunction function_;
  std::mutex mutex_;  // guards what follows; never held while Python is called
  Entries entries_;
  uint64_t generation_ = 0;
};

}  // namespace

Recording* recording() { return current_recording; }

void note_allocation(Recording& recording, uint64_t address, size_t bytes) {
  recording.allocated(address, bytes);
}

void note_release(Recording& recording, uint64_t address) { recording.released(address); }

void note_dispatch(Recording& recording, const std::shared_ptr<const Kernel>& kernel,
                   c10::ArrayRef<uint8_t> parameters, c10::ArrayRef<uint32_t> addresses,
                   const Groups& groups, const std::vector<Range>& reads,
                   const std::vector<Range>& writes, c10::ArrayRef<at::Tensor> tensors) {
  recording.dispatched(kernel, parameters, addresses, groups, reads, writes, tensors);
}

void note_other() {
  if (current_recording != nullptr) {
    current_recording->fail();
  }
}

void arm_errors() {
  errors_armed = true;
  if (current_recording != nullptr) {
    current_recording->arm();
  }
}

void bind_replay(py::module_& module) {
  module.def("implement_replayed", [](const std::string& name, py::object function) {
    auto kernel = std::make_unique<Replayed>(std::move(function));
    library_of("").impl(name.c_str(), torch::CppFunction::makeFromBoxedFunctor(std::move(kernel)));
  });
  module.def("arm_errors", &arm_errors);
  module.def("disarm_errors", [] { return errors_armed.exchange(false); });
  module.def("forget_replays", [] { ++generation; });
  module.def("set_replay_mode", [](int chosen) { mode = static_cast<Mode>(chosen); });
}

}  // namespace portable_mps
