#include "replay.h"

#include "functionality.h"
#include "signature.h"
#include "tape.h"

#include <ATen/Context.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/jit/python/pybind_utils.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <unordered_map>

namespace portable_mps {
namespace {

constexpr size_t kRemembered = 4096;     // signatures of an operator
constexpr size_t kRememberedSizes = 64;  // of a graph, whose tapes are long
constexpr int kAttempts = 3;             // recordings of calls alike: a table may be made in one

// Whether calls are recorded and replayed; `kAtOnce`, for tests: recorded the first time, and
// replayed there and then.
enum class Mode : int { kOff = 0, kOn = 1, kAtOnce = 2 };
std::atomic<Mode> mode{Mode::kOn};

std::atomic<uint64_t> generation{0};  // a number up for each time that all tapes are forgotten

// Whether calls are to be made as ever. Where results must be deterministic, some warn each time.
bool is_off() {
  return mode.load(std::memory_order_relaxed) == Mode::kOff || torch::jit::tracer::isTracing() ||
         at::globalContext().deterministicAlgorithms();
}

// The tapes of one function, by the signature of its arguments.
class Tapes {
 public:
  struct Entry {
    int calls = 0;  // so far, up to one more than are recorded
    std::shared_ptr<const Tape> tape;

    bool is_due() const { return tape == nullptr && calls > 0 && calls <= kAttempts; }
    bool is_last_attempt() const { return calls == kAttempts; }
  };

  explicit Tapes(size_t most) : most_(most) {}

  // The entry as it was before this call, which is counted.
  Entry look_up(const std::vector<int64_t>& words) {
    Entries dropped;  // behind the lock: what ends with them may call Python
    Entry before;
    {
      const std::lock_guard<std::mutex> held(mutex_);
      if (generation_ != generation || entries_.size() >= most_) {
        dropped.swap(entries_);
        generation_ = generation;
      }
      Entry& entry = entries_[words];
      if (entry.calls == 0 && mode == Mode::kAtOnce) {
        entry.calls = 1;
      }
      before = entry;
      entry.calls = std::min(entry.calls + 1, kAttempts + 1);
    }
    return before;
  }

  void keep(const std::vector<int64_t>& words, std::shared_ptr<const Tape> tape) {
    const std::lock_guard<std::mutex> held(mutex_);
    entries_[words].tape = std::move(tape);
  }

 private:
  using Entries = std::unordered_map<std::vector<int64_t>, Entry, Signature::Hash>;

  size_t most_;
  std::mutex mutex_;  // guards what follows; never held while Python is called
  Entries entries_;
  uint64_t generation_ = 0;
};

// The dispatcher's kernel of an operator that a Python function implements.
class Replayed : public c10::OperatorKernel {
 public:
  explicit Replayed(py::object function) : function_(std::move(function)) {}

  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                  torch::jit::Stack* stack) {
    if (is_off()) {
      return call(op, keys, stack);
    }
    const size_t count = op.schema().arguments().size();
    Signature signature(torch::jit::last(*stack, count));
    if (!signature.is_whole()) {
      return call(op, keys, stack);
    }
    const Tapes::Entry entry = tapes_.look_up(signature.words);
    if (entry.tape != nullptr && recording() == nullptr) {
      torch::jit::drop(*stack, count);
      return push(replay(*entry.tape, std::move(signature.tensors), signature.drawn), stack);
    }
    if (!entry.is_due() || recording() != nullptr) {
      return call(op, keys, stack);
    }
    const size_t below = stack->size() - count;
    Recording recorded(signature.tensors, signature.drawn);
    {
      const Noted noted(&recorded);
      call(op, keys, stack);
    }
    const bool at_once = mode == Mode::kAtOnce;
    const auto results = c10::ArrayRef<c10::IValue>(*stack).slice(below);
    const std::shared_ptr<const Tape> tape = recorded.finish(results, /*strict=*/at_once);
    if (tape == nullptr) {
      return;
    }
    tapes_.keep(signature.words, tape);
    if (at_once && tape->is_repeatable) {
      torch::jit::drop(*stack, results.size());
      push(replay(*tape, std::move(signature.tensors), signature.drawn), stack);
    }
  }

 private:
  void call(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
    function_(op, keys, stack);
  }

  static void push(std::vector<c10::IValue> results, torch::jit::Stack* stack) {
    for (auto& result : results) {
      stack->push_back(std::move(result));
    }
  }

  PythonFunction function_;
  Tapes tapes_{kRemembered};
};

// A number or a tensor; nothing for what no tape knows.
std::optional<c10::IValue> value_of(py::handle object) {
  if (THPVariable_Check(object.ptr())) {
    return c10::IValue(THPVariable_Unpack(object.ptr()));
  }
  if (object.is_none()) {
    return c10::IValue();
  }
  if (PyBool_Check(object.ptr())) {
    return c10::IValue(object.ptr() == Py_True);
  }
  if (PyLong_CheckExact(object.ptr())) {
    return c10::IValue(object.cast<int64_t>());
  }
  if (PyFloat_CheckExact(object.ptr())) {
    return c10::IValue(object.cast<double>());
  }
  return std::nullopt;
}

std::optional<std::vector<c10::IValue>> values_of(py::handle sequence) {
  std::vector<c10::IValue> values;
  for (const py::handle item : sequence) {
    auto value = value_of(item);
    if (!value) {
      return std::nullopt;
    }
    values.push_back(*std::move(value));
  }
  return values;
}

// A compiled graph: a function of a list of tensors and numbers, which it empties.
class ReplayedGraph {
 public:
  // refused: called once with the reason where calls turn out not to be replayed.
  ReplayedGraph(py::object function, py::object refused)
      : function_(std::move(function)), refused_(std::move(refused)) {}

  py::object operator()(const py::list& inputs) {
    if (is_off() || recording() != nullptr) {
      return function_(inputs);
    }
    std::vector<int64_t> words;
    std::vector<at::Tensor> tensors;
    std::vector<uint64_t> drawn;
    const char* refusal = nullptr;
    {
      const auto values = values_of(inputs);
      if (!values) {
        return refuse("an argument of an unusual type", inputs);
      }
      Signature signature(*values);
      refusal = signature.refusal();
      words = std::move(signature.words);
      tensors = std::move(signature.tensors);
      drawn = std::move(signature.drawn);
    }
    if (words.empty()) {
      return refuse(refusal, inputs);
    }
    const Tapes::Entry entry = tapes_.look_up(words);
    if (entry.tape != nullptr) {
      inputs.attr("clear")();
      std::vector<c10::IValue> results;
      {
        const py::gil_scoped_release released;
        results = replay(*entry.tape, std::move(tensors), drawn);
      }
      return wrapped(results);
    }
    if (!entry.is_due()) {
      tensors.clear();
      return function_(inputs);
    }
    Recording recorded(tensors, std::move(drawn));
    tensors.clear();
    py::object outputs;
    {
      const Noted noted(&recorded);
      outputs = function_(inputs);
    }
    const auto results = values_of(outputs);
    const std::shared_ptr<const Tape> tape = results ? recorded.finish(*results) : nullptr;
    if (tape != nullptr) {
      tapes_.keep(words, tape);
    } else if (entry.is_last_attempt()) {
      say(results ? recorded.failure() : "a result is neither a tensor nor a number");
    }
    return outputs;
  }

 private:
  void say(const char* reason) {
    if (refused_) {
      std::exchange(refused_, py::object())(reason);
    }
  }

  py::object refuse(const char* reason, const py::list& inputs) {
    if (++refusals_ == kAttempts) {  // one may be of a call under a mode of torch's
      say(reason);
    }
    return function_(inputs);
  }

  static py::object wrapped(const std::vector<c10::IValue>& results) {
    py::tuple outputs(results.size());
    for (size_t i = 0; i < results.size(); ++i) {
      outputs[i] = torch::jit::toPyObject(results[i]);
    }
    return outputs;
  }

  py::object function_, refused_;
  int refusals_ = 0;
  Tapes tapes_{kRememberedSizes};
};

}  // namespace

void bind_replay(py::module_& module) {
  module.def("implement_replayed", [](const std::string& name, py::object function) {
    auto kernel = std::make_unique<Replayed>(std::move(function));
    library_of("").impl(name.c_str(), torch::CppFunction::makeFromBoxedFunctor(std::move(kernel)));
  });
  py::class_<ReplayedGraph>(module, "ReplayedGraph")
      .def(py::init<py::object, py::object>())
      .def("__call__", torch::wrap_pybind_function(&ReplayedGraph::operator()));
  module.def("arm_errors", &arm_errors);
  module.def("disarm_errors", &disarm_errors);
  module.def("forget_replays", [] { ++generation; });
  module.def("set_replay_mode", [](int chosen) { mode = static_cast<Mode>(chosen); });
}

}  // namespace portable_mps
