// What a call dispatches, written down once and repeated with other addresses.
//
// What most operators dispatch follows from their arguments' metadata alone, and so does what a
// compiled graph does. A call is recorded as allocations, releases, random numbers drawn and
// dispatches, with every address as a place in an argument, a temporary or a constant; `replay`
// repeats that with the addresses of another call. One that does anything else (a copy by the
// driver, a read by the host) is never replayed.
#pragma once

#include "recorder.h"

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace portable_mps {

// A recorded call.
struct Tape {
  // Where an address points: `offset` bytes into what `kind` and `index` name; a constant's is all
  // of the address.
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
    enum class Kind : uint8_t { kAllocate, kRelease, kForget, kDraw, kDispatch } kind;
    uint32_t index = 0;  // of the temporary, the argument (kForget), the draw or the dispatch
  };

  // Where a seed and its counter are in the parameters, and which: of the call's own draws, or the
  // place of a seed among what is drawn of its arguments.
  struct Draw {
    uint32_t offset;
    bool is_argument;
    uint32_t index;
  };

  struct Dispatch {
    std::shared_ptr<const Kernel> kernel;
    std::vector<uint8_t> parameters;
    std::vector<std::pair<uint32_t, Place>> addresses;  // by their offset in the parameters
    std::vector<Draw> draws;
    Groups groups;
    std::vector<Extent> reads, writes;
  };

  struct Output {
    enum class Kind : uint8_t { kValue, kArgument, kView, kNew, kSame, kSeed, kCounter } kind;
    uint32_t index = 0;  // of the argument, the temporary, the earlier output, or the draw
    int64_t offset = 0;  // in elements
    caffe2::TypeMeta dtype;
    std::vector<int64_t> sizes, strides;
    c10::IValue value;  // a number, no tensor, or a number as a tensor on the CPU
  };

  std::vector<size_t> temporaries;  // their bytes
  std::vector<uint64_t> draws;      // counters that each takes of the default generator
  std::vector<Event> events;
  std::vector<Dispatch> dispatches;
  std::vector<Output> outputs;
  std::vector<c10::Storage> constants;  // kept alive
  bool is_repeatable = true;            // a second run at once would give the same
  bool may_report = false;              // a kernel checks indices
};

// A call that is being recorded. Keeps none of its arguments: what is freed within is noted.
class Recording {
 public:
  // drawn: seeds and counters among the arguments, as a Signature has them.
  Recording(const std::vector<at::Tensor>& arguments, std::vector<uint64_t> drawn);

  void allocated(uint64_t address, size_t bytes);
  void released(uint64_t address);
  void drew(uint64_t seed, uint64_t counter, uint64_t counters);
  // addresses: offsets in `parameters` of 8-byte words that are addresses, or zero. draws: those of
  // a seed with a counter behind it. tensors: those whose memory is touched; what is in none of the
  // arguments is a constant, and kept alive.
  void dispatched(const std::shared_ptr<const Kernel>& kernel, c10::ArrayRef<uint8_t> parameters,
                  c10::ArrayRef<uint32_t> addresses, c10::ArrayRef<uint32_t> draws,
                  const Groups& groups, const std::vector<Range>& reads,
                  const std::vector<Range>& writes, c10::ArrayRef<at::Tensor> tensors);
  void may_report() { tape_.may_report = true; }
  // Something that cannot be replayed. The first reason is kept.
  void fail(const char* reason) { failure_ = failure_ == nullptr ? reason : failure_; }

  // The tape of a call with these results; null where it cannot be replayed, and `failure` says
  // why. strict: for tests, an error where a kernel takes addresses that its launch does not name.
  std::shared_ptr<const Tape> finish(c10::ArrayRef<c10::IValue> results, bool strict = false);
  const char* failure() const { return failure_; }

 private:
  struct Argument {
    c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl> tensor;
    const c10::StorageImpl* storage;
    uint64_t own, base, bytes;  // its address; its memory's, and how much that is
    std::vector<int64_t> shape;
    bool released = false;
  };
  struct OwnDraw {
    uint64_t seed, counter;
    bool used = false;
  };

  Tape::Place place_of(uint64_t address, c10::ArrayRef<at::Tensor> tensors);
  void note_access(const Tape::Place& place, std::unordered_set<const c10::StorageImpl*>& storages);
  void add_output(const at::Tensor& tensor, std::unordered_set<uint32_t>& given);
  std::optional<Tape::Draw> draw_of(c10::ArrayRef<uint8_t> parameters, uint32_t offset);
  std::optional<uint32_t> own_draw(uint64_t seed, uint64_t counter) const;

  std::vector<Argument> arguments_;
  std::vector<OwnDraw> draws_;
  std::vector<uint64_t> drawn_;  // of the arguments
  Tape tape_;
  std::unordered_map<uint64_t, uint32_t> live_;                 // temporaries by their address
  std::unordered_set<const c10::StorageImpl*> read_, written_;  // of arguments
  const char* failure_ = nullptr;
  bool undeclared_ = false;
};

// What is being recorded on this thread, or null. Not owned.
Recording* recording();

// Has everything on this thread noted to a recording while it lives.
class Noted {
 public:
  explicit Noted(Recording* recording);
  ~Noted();
  Noted(const Noted&) = delete;
  Noted& operator=(const Noted&) = delete;
};

// What a call is told that cannot be replayed because of `reason`.
void note_other(const char* reason);

// A kernel is about to run that may report an error.
void arm_errors();
// Whether one may have, since the last question.
bool disarm_errors();

// Repeat a call; an argument is let go of where the recorded one was.
std::vector<c10::IValue> replay(const Tape& tape, std::vector<at::Tensor> arguments,
                                const std::vector<uint64_t>& drawn);

}  // namespace portable_mps
