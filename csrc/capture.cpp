#include "capture.h"

#include "allocator.h"
#include "generator.h"
#include "python.h"
#include "tape.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <sstream>

#if __has_include(<ATen/core/GraphImplInterface.h>)
#include <ATen/core/GraphImplInterface.h>
#define HAS_GRAPHS 1
#endif

namespace portable_mps {
namespace {

std::atomic<Capture*> current_capture{nullptr};
thread_local bool is_paused = false;

}  // namespace

void Capture::add(const Kernel& kernel, c10::ArrayRef<uint8_t> parameters, const Groups& groups,
                  const std::vector<Range>& reads, const std::vector<Range>& writes,
                  c10::ArrayRef<uint32_t> draws) {
  const bool barrier = hazards_.access(reads, writes);
  lines_.push_back({kernel.shared_from_this(), groups, barrier});
  const bool is_direct = kernel.is_direct();
  size_t dispatch = 0;
  if (is_direct) {
    if (steps_.empty() || steps_.back().batch == nullptr) {
      steps_.push_back({std::make_shared<Batch>(), nullptr, {}});
    }
    Batch& batch = *steps_.back().batch;
    dispatch = batch.size();
    batch.add(kernel, parameters, groups, barrier, recorder().parameter_buffer().alignment);
  } else {
    steps_.push_back({nullptr, kernel.shared_from_this(), parameters.vec(), groups, barrier});
  }
  for (const uint32_t offset : draws) {
    uint64_t counter = 0;
    std::memcpy(&counter, parameters.data() + offset + sizeof(counter), sizeof(counter));
    draws_.push_back({steps_.size() - 1, dispatch, offset, counter});
  }
}

std::pair<uint64_t, uint64_t> Capture::draw(uint64_t seed, uint64_t counters) {
  drawn_.push_back(counters_);
  counters_ += counters;
  return {seed, drawn_.back()};
}

void Capture::check() const {
  for (const uint64_t counter : drawn_) {
    const bool is_named = std::any_of(draws_.begin(), draws_.end(),
                                      [&](const Draw& draw) { return draw.counter == counter; });
    TORCH_CHECK(is_named,
                "An operator that was captured draws random numbers that its replays would repeat; "
                "call it outside of the graph");
  }
}

void Capture::replay(Recorder& recorder) {
  if (may_report_) {
    arm_errors();
  }
  std::vector<Step> steps = steps_;
  if (!draws_.empty()) {
    const auto [seed, start] = reserve_philox(std::nullopt, counters_);
    std::vector<bool> are_own(steps.size());
    for (const Draw& draw : draws_) {
      Step& step = steps[draw.step];
      if (step.batch != nullptr && !are_own[draw.step]) {  // an earlier replay may still hold it
        step.batch = std::make_shared<Batch>(*step.batch);
        are_own[draw.step] = true;
      }
      uint8_t* const parameters =
          step.batch != nullptr ? step.batch->parameters(draw.dispatch) : step.parameters.data();
      put_draw(parameters + draw.first_byte, {seed, start + draw.counter});
    }
  }
  in_python([&] {
    py::list recorded;
    for (const Step& step : steps) {
      if (step.batch != nullptr) {
        recorded.append(step.batch);
      } else {
        recorded.append(
            Recorder::for_python(*step.kernel, step.parameters, step.groups, step.barrier));
      }
    }
    recorder.stream().attr("replay")(recorded);
  });
}

std::string Capture::text() const {
  return in_python([&] {
    std::ostringstream text;
    for (const Line& line : lines_) {
      text << (line.barrier ? "barrier, then " : "")
           << line.kernel->python.attr("name").cast<std::string>() << " in " << line.groups[0]
           << " x " << line.groups[1] << " x " << line.groups[2] << " workgroups\n";
    }
    return text.str();
  });
}

Capture* capturing() {
  return is_paused ? nullptr : current_capture.load(std::memory_order_acquire);
}

#ifdef HAS_GRAPHS

// torch.accelerator.Graph. `keep_graph` and `instantiate` mean nothing here: what is captured is
// ready. Every mode is "global": there is one stream.
class Graph final : public at::GraphImplInterface {
 public:
  explicit Graph(const at::GraphImplArgs&) {}
  ~Graph() override { reset(); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void capture_begin(at::MempoolId_t pool, at::GraphCaptureMode) override {
    TORCH_CHECK(capture_ == nullptr,
                "This graph has been captured already. Call reset() before it is captured again");
    recorder();  // opens the device
    auto made = std::make_unique<Capture>();
    Capture* none = nullptr;
    TORCH_CHECK(current_capture.compare_exchange_strong(none, made.get()),
                "Another graph is being captured: capture one at a time");
    capture_ = std::move(made);
    pool_ = open_pool(pool);
  }

  void capture_end() override {
    TORCH_CHECK(is_capturing(), "capture_end() without a capture_begin()");
    current_capture = nullptr;
    close_pool();
    try {
      capture_->check();
    } catch (...) {
      reset();
      throw;
    }
  }

  void instantiate() override { check_captured(); }

  void replay() override {
    check_captured();
    TORCH_CHECK(capturing() == nullptr, "A graph cannot be replayed while another is captured");
    capture_->replay(recorder());
  }

  void reset() override {
    if (capture_ == nullptr) {
      return;
    }
    if (is_capturing()) {
      current_capture = nullptr;
      close_pool();
    }
    drop_pool(pool_);
    capture_.reset();
  }

  at::MempoolId_t pool() const override {
    TORCH_CHECK(capture_ != nullptr, "A graph has a memory pool from capture_begin() on");
    return pool_;
  }

  void enable_debug_mode() override {}

  void debug_dump(const std::string& path) override {
    check_captured();
    std::ofstream file(path);
    file << capture_->text();
    TORCH_CHECK(file.flush(), "cannot write ", path);
  }

 private:
  bool is_capturing() const { return capture_ != nullptr && capturing() == capture_.get(); }

  void check_captured() const {
    TORCH_CHECK(capture_ != nullptr && !is_capturing(),
                "This graph has not been captured: call capture_begin(), the operators, and "
                "capture_end() first");
  }

  std::unique_ptr<Capture> capture_;
  at::MempoolId_t pool_{0, 0};
};

#endif

void bind_capture(py::module_& module) {
  module.def("is_capturing", [] { return capturing() != nullptr; });
  module.def("pause_capture", [](bool paused) { is_paused = paused; });
  module.def("keep_in_capture", [](at::Tensor tensor) {
    if (Capture* const capture = capturing()) {
      capture->keep(std::move(tensor));
    }
  });
}

}  // namespace portable_mps

#ifdef HAS_GRAPHS
namespace at {
C10_REGISTER_CLASS(GraphImplRegistry, MPS, portable_mps::Graph);
}
#endif
