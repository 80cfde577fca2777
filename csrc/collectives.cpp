// torch.distributed's collectives of our tensors: bytes go to the host, the CPU's kernel of the
// same operator carries them (gloo), and what it has written comes back.
//
// Whoever calls does not wait: copies to the host are recorded at once, and one thread
// (portable_mps/runtime/collectives.py) waits for each in the order of the calls, which must be the
// same in all processes, and hands it over. Results are uploaded by the thread that gloo ends in,
// or by whoever waits for a message.
#include "python.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/Types.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <thread>

namespace portable_mps {
namespace {

using at::Tensor;

// What an operator of c10d does with its tensors, which its schema does not say: whether it writes
// its first argument, reads that too, computes with numbers or moves bytes, is a message.
struct Meaning {
  const char* name;
  bool writes;
  bool reads_written;
  bool computes;
  bool is_message;
};

constexpr std::array<Meaning, 20> kMeanings{{
    {"allreduce_", true, true, true, false},
    {"allreduce_coalesced_", true, true, true, false},
    {"reduce_", true, true, true, false},
    {"reduce_scatter_", true, false, true, false},
    {"_reduce_scatter_base_", true, false, true, false},
    {"reduce_scatter_tensor_coalesced_", true, false, true, false},
    {"broadcast_", true, true, false, false},
    {"allgather_", true, false, false, false},
    {"_allgather_base_", true, false, false, false},
    {"allgather_coalesced_", true, false, false, false},
    {"allgather_into_tensor_coalesced_", true, false, false, false},
    {"gather_", true, false, false, false},
    {"scatter_", true, false, false, false},
    {"alltoall_", true, false, false, false},
    {"alltoall_base_", true, false, false, false},
    {"recv_", true, false, false, true},
    {"recv_any_source_", true, false, false, true},
    {"send", false, false, false, true},
    {"barrier", false, false, false, false},
    {"monitored_barrier_", false, false, false, false},
}};

const Meaning& meaning_of(const c10::OperatorHandle& op) {
  const std::string& qualified = op.operator_name().name;
  const std::string name = qualified.substr(qualified.find("::") + 2);
  for (const Meaning& meaning : kMeanings) {
    if (name == meaning.name) {
      return meaning;
    }
  }
  TORCH_CHECK_NOT_IMPLEMENTED(false, "'", qualified, "' has no kernel for the MPS device");
}

// A dtype that gloo has, for those that it lacks: what it computes in, or bytes.
std::optional<at::ScalarType> carrier_of(at::ScalarType type, bool computes, bool is_sparse) {
  if (is_sparse && at::isReducedFloatingType(type)) {
    return at::kFloat;  // the CPU adds no sparse tensors of half types up
  }
  switch (type) {
    case at::kFloat:
    case at::kDouble:
    case at::kHalf:
    case at::kBFloat16:
    case at::kChar:
    case at::kByte:
    case at::kBool:
    case at::kInt:
    case at::kLong:
      return std::nullopt;
    default:
      break;
  }
  if (!computes) {
    return at::kByte;
  }
  if (at::isFloat8Type(type)) {
    return at::kFloat;
  }
  return type == at::kShort || type == at::kUInt16 ? at::kInt : at::kLong;
}

// One of our tensors while it is away. `host` has its values in rows, `carried` is what gloo gets:
// the same memory, perhaps as bytes, or a copy in another dtype. The passage
// (portable_mps/runtime/collectives.py) is a reference that whoever ends it lets go of.
struct Passenger {
  Tensor device;
  Tensor host;
  Tensor carried;
  bool is_written;
  py::handle passage;
  bool is_converted = false;  // `carried` is a copy
};

py::object python_side() { return py::module_::import("portable_mps.runtime.collectives"); }

class Journey;

// Ends when the results are on the device, or rather recorded to be.
class DeviceWork final : public c10d::Work {
 public:
  DeviceWork(std::vector<Passenger> passengers, bool is_message)
      : passengers_(std::move(passengers)), is_message_(is_message) {
    future_ = c10::make_intrusive<c10::ivalue::Future>(
        c10::ListType::create(c10::TensorType::get()),
        std::vector<c10::Device>{c10::Device(c10::DeviceType::MPS, 0)});
  }

  // What the CPU's kernel has answered; null where it answers nothing.
  void issued(c10::intrusive_ptr<c10d::Work> inner) {
    {
      const std::lock_guard<std::mutex> held(mutex_);
      inner_ = std::move(inner);
      is_issued_ = true;
    }
    cv_.notify_all();
    if (inner_ == nullptr) {
      return bring_back();
    }
    if (is_message_) {
      return;  // whoever waits for it does the rest
    }
    const auto future = future_of(*inner_);
    if (future == nullptr) {
      return apart([](DeviceWork& self) { self.await(kNoTimeout); });
    }
    future->addCallback([self = this->self(),
                         handing_over = std::this_thread::get_id()](c10::ivalue::Future& future) {
      const std::exception_ptr error = future.hasError() ? future.exception_ptr() : nullptr;
      const auto end_as_it_did = [error](DeviceWork& self) {
        error ? self.fail(error) : self.bring_back();
      };
      // Called at once where it is over already, but callbacks of whoever waits for us (PowerSGD's)
      // may wait for the next collective, and the thread that hands over must not.
      if (std::this_thread::get_id() == handing_over) {
        self->apart(end_as_it_did);
      } else {
        end_as_it_did(*self);
      }
    });
  }

  // Where the call itself has failed, in the thread that hands over.
  void fail_apart(std::exception_ptr error) {
    apart([error = std::move(error)](DeviceWork& self) { self.fail(error); });
  }

  void fail(std::exception_ptr error) {
    if (is_ended_.exchange(true)) {
      return;
    }
    end(/*has_arrived=*/false);
    finish(error);
    future_->setError(std::move(error));
  }

  bool isCompleted() override {
    if (is_message_ && is_issued() && !is_ended_ && inner_->isCompleted()) {
      wait(kNoTimeout);
    }
    return Work::isCompleted();
  }

  bool wait(std::chrono::milliseconds timeout) override {
    std::optional<py::gil_scoped_release> released;
    if (PyGILState_Check() != 0) {
      released.emplace();
    }
    const auto is_over = [this] { return completed_ || (is_message_ && is_issued_); };
    std::unique_lock<std::mutex> held(mutex_);
    if (timeout == kNoTimeout) {
      cv_.wait(held, is_over);
    } else {
      TORCH_CHECK_WITH(DistBackendError, cv_.wait_for(held, timeout, is_over),
                       "a collective took longer than ", timeout.count(), " ms");
    }
    if (!completed_) {
      held.unlock();
      await(timeout);
      held.lock();
      cv_.wait(held, [this] { return completed_; });  // another thread may be at it
    }
    held.unlock();
    if (const std::exception_ptr error = exception()) {
      std::rethrow_exception(error);
    }
    return true;
  }

  std::vector<Tensor> result() override { return outputs_; }

  int sourceRank() const override {
    TORCH_CHECK(inner_ != nullptr, "sourceRank() before wait()");
    return inner_->sourceRank();
  }

  void abort() override {
    if (is_issued() && inner_ != nullptr) {
      inner_->abort();
    }
  }

  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    return is_message_ ? Work::getFuture() : future_;
  }

 private:
  c10::intrusive_ptr<DeviceWork> self() {
    return c10::intrusive_ptr<DeviceWork>::unsafe_reclaim_from_nonowning(this);
  }

  // In another thread, which may wait for other processes.
  void apart(std::function<void(DeviceWork&)> call) {
    in_python([&] {
      python_side().attr("await_apart")(py::cpp_function([self = self(), call = std::move(call)] {
        const py::gil_scoped_release released;
        call(*self);
      }));
    });
  }

  bool is_issued() {
    const std::lock_guard<std::mutex> held(mutex_);
    return is_issued_;
  }

  // Null for what gloo makes of several others.
  static c10::intrusive_ptr<c10::ivalue::Future> future_of(c10d::Work& work) {
    try {
      return work.getFuture();
    } catch (const c10::Error&) {
      return nullptr;
    }
  }

  void await(std::chrono::milliseconds timeout) {
    try {
      inner_->wait(timeout);
    } catch (...) {
      return fail(std::current_exception());
    }
    bring_back();
  }

  void bring_back() {
    if (is_ended_.exchange(true)) {
      return;
    }
    const std::exception_ptr error = end(/*has_arrived=*/true);
    finish(error);
    if (error) {
      future_->setError(error);
    } else {
      future_->markCompleted(c10::IValue(outputs_));
    }
  }

  // The first error of those that recording the copies back raises.
  std::exception_ptr end(bool has_arrived) {
    const at::NoGradGuard no_grad;
    std::exception_ptr error;
    for (const Passenger& passenger : passengers_) {
      const bool returns = has_arrived && passenger.is_written;
      if (returns) {
        outputs_.push_back(passenger.device);
        if (passenger.is_converted) {
          passenger.host.copy_(passenger.carried);
        }
      }
      try {
        in_python([&] {
          const auto passage = py::reinterpret_steal<py::object>(passenger.passage);
          has_arrived ? passage.attr("end")(returns) : passage.attr("abandon")();
        });
      } catch (...) {
        error = error ? error : std::current_exception();
      }
    }
    passengers_.clear();
    return error;
  }

  friend class Journey;
  std::vector<Passenger> passengers_;
  const bool is_message_;
  bool is_issued_ = false;
  std::atomic<bool> is_ended_{false};
  c10::intrusive_ptr<c10d::Work> inner_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
  std::vector<Tensor> outputs_;
};

// A call with its tensors on the host.
class Journey {
 public:
  Journey(const c10::OperatorHandle& op, const Meaning& meaning, torch::jit::Stack arguments)
      : op_(op), meaning_(meaning), arguments_(std::move(arguments)) {
    try {
      for (size_t i = 0; i < arguments_.size(); ++i) {
        const bool is_written = i == 0 && meaning.writes;
        arguments_[i] = on_host(arguments_[i], is_written, !is_written || meaning.reads_written);
      }
    } catch (...) {  // those before the one that cannot travel
      in_python([this] {
        for (const Passenger& passenger : passengers_) {
          py::reinterpret_steal<py::object>(passenger.passage).attr("end")(false);
        }
      });
      throw;
    }
    work_ = c10::make_intrusive<DeviceWork>(std::move(passengers_), meaning.is_message);
  }

  const c10::intrusive_ptr<DeviceWork>& work() const { return work_; }

  // In the thread that hands over; with the GIL.
  void go() {
    try {
      for (const Passenger& passenger : work_->passengers_) {
        passenger.passage.attr("arrive")();
      }
      const py::gil_scoped_release released;
      for (const Passenger& passenger : work_->passengers_) {
        if (passenger.is_converted) {
          passenger.carried.copy_(passenger.host);
        }
      }
      op_.callBoxed(&arguments_);
      const bool answers = !arguments_.empty() && arguments_.back().isCustomClass();
      work_->issued(answers ? arguments_.back().toCustomClass<c10d::Work>() : nullptr);
    } catch (py::error_already_set& error) {
      work_->fail_apart(std::make_exception_ptr(std::runtime_error(error.what())));
    } catch (...) {
      work_->fail_apart(std::current_exception());
    }
    arguments_.clear();
  }

 private:
  c10::IValue on_host(const c10::IValue& value, bool is_written, bool is_read) {
    if (value.isTensor()) {
      return on_host(value.toTensor(), is_written, is_read);
    }
    if (value.isTensorList()) {
      c10::List<Tensor> tensors;
      for (const Tensor& tensor : value.toTensorVector()) {
        tensors.push_back(on_host(tensor, is_written, is_read));
      }
      return tensors;
    }
    if (value.isList() && value.toListRef().size() != 0 && value.toListRef()[0].isTensorList()) {
      c10::List<c10::List<Tensor>> lists;
      for (const c10::IValue& list : value.toListRef()) {
        lists.push_back(on_host(list, is_written, is_read).toTensorList());
      }
      return lists;
    }
    return value;
  }

  Tensor on_host(const Tensor& tensor, bool is_written, bool is_read) {
    if (!tensor.defined() || tensor.device().type() != c10::DeviceType::MPS) {
      return tensor;
    }
    TORCH_CHECK_NOT_IMPLEMENTED(tensor.layout() == at::kStrided || tensor.is_sparse(),
                                op_.operator_name().name, " takes no tensors of the layout ",
                                tensor.layout(), " on mps");
    // A sparse tensor gets other arrays, which an alias of it would not see.
    Passenger passenger{tensor.is_sparse() ? tensor : tensor.detach(), {}, {}, is_written, {}};
    in_python([&] {
      const char* kind = tensor.is_sparse() ? "SparsePassage" : "Passage";
      py::object passage = python_side().attr(kind)(passenger.device, is_read);
      passenger.host = passage.attr("host").cast<Tensor>();
      passenger.passage = passage.release();
    });
    const auto carrier = carrier_of(tensor.scalar_type(), meaning_.computes, tensor.is_sparse());
    if (!carrier) {
      passenger.carried = passenger.host;
    } else if (meaning_.computes) {
      passenger.is_converted = true;
      const auto options = passenger.host.options().dtype(*carrier);
      passenger.carried =
          tensor.is_sparse() ? passenger.host.to(*carrier) : at::empty(tensor.sizes(), options);
    } else {  // by a dimension of its own: sizes along the first one may have a meaning
      passenger.carried = passenger.host.unsqueeze(-1).view(*carrier);
    }
    passengers_.push_back(std::move(passenger));
    return passengers_.back().carried;
  }

  c10::OperatorHandle op_;
  const Meaning& meaning_;
  torch::jit::Stack arguments_;
  std::vector<Passenger> passengers_;
  c10::intrusive_ptr<DeviceWork> work_;
};

void collective(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const Meaning& meaning = meaning_of(op);
  const at::NoGradGuard no_grad;
  auto arguments = torch::jit::pop(*stack, op.schema().arguments().size());
  const c10::IValue first = arguments.front();
  const auto journey = std::make_shared<Journey>(op, meaning, std::move(arguments));
  in_python(
      [&] { python_side().attr("hand_over")(py::cpp_function([journey] { journey->go(); })); });
  const auto& returns = op.schema().returns();
  if (returns.empty()) {  // who calls expects that it is done
    journey->work()->wait(kNoTimeout);
    return;
  }
  if (returns.size() == 2) {
    stack->push_back(first);
  }
  stack->emplace_back(c10::intrusive_ptr<c10d::Work>(journey->work()));
}

// What gloo has for sparse tensors, in coordinate form: their sum.
TORCH_LIBRARY_IMPL(c10d, SparseMPS, library) {
  library.impl("allreduce_", torch::CppFunction::makeFromBoxedFunction<&collective>());
}

TORCH_LIBRARY_IMPL(c10d, MPS, library) {
  for (const Meaning& meaning : kMeanings) {
    library.impl(meaning.name, torch::CppFunction::makeFromBoxedFunction<&collective>());
  }
}

}  // namespace
}  // namespace portable_mps
