// What every dispatch passes through: the stream's lock, its hazards, and the dispatches recorded
// since the last hand-over.
//
// slangpy's own recording costs several microseconds a dispatch. On Vulkan a dispatch is kept here
// as a few words, and written into slangpy's command buffer when that is made
// (CommandEncoder.execute_callback). Everything else goes through `Stream.record` of
// portable_mps/runtime/stream.py: users' own kernels, Metal.
#pragma once

#include "compiler.h"
#include "iterator.h"
#include "vulkan.h"

#include <torch/extension.h>

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace portable_mps {

// Holds a recursive mutex; a thread that has to wait lets go of the GIL, so a holder may take it.
class StreamLock {
 public:
  void lock();
  void unlock() { mutex_.unlock(); }

 private:
  std::recursive_mutex mutex_;
};

// A compiled kernel: portable_mps.runtime.kernel.Pipeline, and its handle where it is recorded
// here.
struct Kernel : std::enable_shared_from_this<Kernel> {
  ~Kernel();  // without the GIL, too, and after Python has ended

  bool is_direct() const { return compilation != nullptr; }

  py::object python;
  const Compilation* compilation = nullptr;  // null: recorded by Stream.record
  vk::VkPipelineLayout layout = 0;
  uint32_t parameter_bytes = 0;
  bool in_buffer = false;  // the parameters: more than push constants can be
};

// Where kernels read the parameters that are more than push constants can be
// (portable_mps/runtime/parameters.py makes it): a buffer behind a descriptor set of one uniform
// buffer with a dynamic offset.
struct ParameterBuffer {
  vk::VkBuffer buffer = 0;
  vk::VkDescriptorSetLayout set_layout = 0;
  vk::VkDescriptorSet set = 0;
  uint32_t alignment = 1;  // of a kernel's parameters, in bytes
};

// Recorded dispatches on their way into a command buffer.
class Batch {
 public:
  struct Dispatch {
    const Compilation* compilation;
    vk::VkPipelineLayout layout;
    bool in_buffer;
    uint32_t first_byte;  // in parameters_ or blocks_
    uint32_t bytes;
    Groups groups;
    bool barrier;
  };

  // alignment: of what goes to the parameter buffer.
  void add(const Kernel& kernel, c10::ArrayRef<uint8_t> parameters, const Groups& groups,
           bool barrier, uint32_t alignment);
  size_t size() const { return dispatches_.size(); }
  const std::vector<Dispatch>& dispatches() const { return dispatches_; }
  // What the dispatch that was added last reads and writes; for Recorder::watched.
  void note(const std::vector<Range>& reads, const std::vector<Range>& writes);
  const std::vector<std::array<std::vector<Range>, 2>>& ranges() const { return ranges_; }
  // Those of them from `begin` on, before `end`.
  std::shared_ptr<Batch> part(size_t begin, size_t end) const;
  bool empty() const { return dispatches_.empty(); }
  // Of the dispatch of that number.
  uint8_t* parameters(size_t dispatch);
  const uint8_t* parameters(size_t dispatch) const {
    return const_cast<Batch*>(this)->parameters(dispatch);
  }

 private:
  friend class Recorder;
  std::vector<Dispatch> dispatches_;
  std::vector<uint8_t> parameters_;                        // push constants
  std::vector<uint8_t> blocks_;                            // for the parameter buffer
  std::vector<std::array<std::vector<Range>, 2>> ranges_;  // of each dispatch, where any are noted
};

class Recorder {
 public:
  // stream: has record(kernel, parameters, groups, barrier), record_alone(batch, kernel, groups)
  // and poll(), called with the lock held.
  // functions: addresses of Vulkan functions by name; none where `record` shall do everything.
  Recorder(py::object stream, uintptr_t device, const std::map<std::string, uintptr_t>& functions);

  void use(const ParameterBuffer& buffer) { parameter_buffer_ = buffer; }
  const ParameterBuffer& parameter_buffer() const { return parameter_buffer_; }

  // Make `kernel` one of ours where it can be: a pipeline handle and bytes of push constants.
  std::shared_ptr<Kernel> kernel(py::object python, uint64_t pipeline, uint32_t push_bytes);

  // One whose pipeline `compiler` makes, in its own time; see Compiler::start. in_buffer: its
  // parameters are a constant buffer at binding 0 of set 0.
  std::shared_ptr<Kernel> compile(py::object python, const std::shared_ptr<Compiler>& compiler,
                                  std::string name, std::string text, std::string entry,
                                  std::string key, uint32_t parameter_bytes, bool in_buffer);

  // Track the accesses and record; takes the lock. May be called with or without the GIL.
  // draws: offsets of seeds in the parameters, each with its counter behind it.
  void launch(const Kernel& kernel, c10::ArrayRef<uint8_t> parameters, const Groups& groups,
              const std::vector<Range>& reads, const std::vector<Range>& writes,
              c10::ArrayRef<uint32_t> draws = {});

  // What Stream.record takes. Hold the GIL.
  static py::tuple for_python(const Kernel& kernel, c10::ArrayRef<uint8_t> parameters,
                              const Groups& groups, bool barrier);

  // What is recorded and not yet in a command buffer; null for nothing. Hold the lock.
  std::shared_ptr<Batch> take();
  size_t pending() const { return batch_->size(); }
  bool is_compiling() const { return compiler_ != nullptr && compiler_->unfinished() != 0; }

  // Wait for the kernels of a batch. What the compiler said of the first that has failed: `replay`
  // leaves those out. Hold the GIL.
  std::string prepare(const Batch& batch) const;
  void replay(const Batch& batch, uintptr_t command_buffer) const;

  // Order all that comes before, whatever it reads and writes, before all that comes after.
  // slangpy's global_barrier() leaves two writes of copies in no order.
  void barrier(uintptr_t command_buffer) const;
  const py::object& stream() const { return stream_; }

  StreamLock mutex;
  HazardTracker hazards;
  bool direct = true;       // false while each dispatch shall pass through Stream.record
  bool watched = false;     // batches shall tell what dispatches read and write (tests/metal)
  uint64_t dispatched = 0;  // all dispatches so far

 private:
  static constexpr uint64_t kPollEvery = 16;

  vk::VkPipelineLayout layout_for(uint32_t parameter_bytes, bool in_buffer);
  uint32_t upload(const Batch& batch, uint32_t begin, vk::VkCommandBuffer commands) const;

  py::object stream_;
  vk::VkDevice device_;
  vk::PFN_vkCreatePipelineLayout create_layout_ = nullptr;
  vk::PFN_vkCmdBindPipeline bind_pipeline_ = nullptr;
  vk::PFN_vkCmdPushConstants push_constants_ = nullptr;
  vk::PFN_vkCmdUpdateBuffer update_buffer_ = nullptr;
  vk::PFN_vkCmdBindDescriptorSets bind_sets_ = nullptr;
  vk::PFN_vkCmdDispatch dispatch_ = nullptr;
  vk::PFN_vkCmdPipelineBarrier pipeline_barrier_ = nullptr;
  ParameterBuffer parameter_buffer_;
  vk::VkPipelineLayout layout_in_buffer_ = 0;
  std::map<uint32_t, vk::VkPipelineLayout> layouts_;  // by bytes of push constants
  std::shared_ptr<Compiler> compiler_;
  std::shared_ptr<Batch> batch_ = std::make_shared<Batch>();
};

// The open device's recorder; opens the device where none is. Errors are those of opening it.
Recorder& recorder();
void set_recorder(std::shared_ptr<Recorder> recorder);

void bind_recorder(py::module_& module);

}  // namespace portable_mps
