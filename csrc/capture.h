// Dispatches that are kept instead of run, and then run as often as asked: torch.accelerator.Graph.
//
// While a graph is captured, everything that any thread dispatches is the graph's, with its
// parameters as they are: memory that is allocated within stays the graph's, and its tensors are
// written anew by each replay. Random numbers are other ones in each replay.
#pragma once

#include "recorder.h"

#include <utility>
#include <vector>

namespace portable_mps {

class Capture {
 public:
  void add(const Kernel& kernel, c10::ArrayRef<uint8_t> parameters, const Groups& groups,
           const std::vector<Range>& reads, const std::vector<Range>& writes,
           c10::ArrayRef<uint32_t> draws);

  // Seed and counter for an operator that draws; the counter starts from zero.
  std::pair<uint64_t, uint64_t> draw(uint64_t seed, uint64_t counters);

  // Have a tensor live as long as the capture.
  void keep(at::Tensor tensor) { kept_.push_back(std::move(tensor)); }

  // A kernel checks indices.
  void may_report() { may_report_ = true; }

  // To be called when all is kept: RuntimeError where a replay would repeat random numbers.
  void check() const;

  // Have everything recorded by the stream, with random numbers drawn anew.
  void replay(Recorder& recorder);

  // A line for each dispatch.
  std::string text() const;

 private:
  struct Step {  // dispatches for the recorder's own path, or one that it cannot make
    std::shared_ptr<Batch> batch;
    std::shared_ptr<const Kernel> kernel;
    std::vector<uint8_t> parameters;
    Groups groups{};
    bool barrier = false;
  };
  struct Draw {
    size_t step;
    size_t dispatch;      // of the step's batch
    uint32_t first_byte;  // of the seed, in its parameters
    uint64_t counter;
  };
  struct Line {
    std::shared_ptr<const Kernel> kernel;  // also: kept alive
    Groups groups;
    bool barrier;
  };

  HazardTracker hazards_;
  std::vector<Step> steps_;
  std::vector<Draw> draws_;
  std::vector<Line> lines_;
  std::vector<at::Tensor> kept_;
  std::vector<uint64_t> drawn_;  // the counter of each operator that drew
  uint64_t counters_ = 0;
  bool may_report_ = false;
};

// What is being captured, or null: by all threads but those that have paused it for themselves.
Capture* capturing();

void bind_capture(py::module_& module);

}  // namespace portable_mps
