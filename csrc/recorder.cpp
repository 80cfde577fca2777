#include "recorder.h"

#include "capture.h"
#include "python.h"
#include "runtime.h"
#include "tape.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <atomic>

namespace portable_mps {
namespace {

// Bytes of parameters that are written at once: what vkCmdUpdateBuffer may.
constexpr uint32_t kMostUploaded = 65536;

std::atomic<Recorder*> current_recorder{nullptr};

std::vector<Range> ranges_of(const std::vector<at::Tensor>& tensors) {
  std::vector<Range> ranges;
  ranges.reserve(tensors.size());
  for (const auto& tensor : tensors) {
    TORCH_CHECK(
        tensor.device().type() == c10::DeviceType::MPS,
        "Expected all tensors to be on the same device, but found at least two devices, mps:0 and ",
        tensor.device(), "!");
    if (tensor.numel() != 0) {
      ranges.push_back(byte_range(tensor));
    }
  }
  return ranges;
}

// The last line of defence: threads would race for an element that has several places.
std::vector<Range> written_ranges_of(const std::vector<at::Tensor>& tensors) {
  for (const auto& tensor : tensors) {
    at::assert_no_internal_overlap(tensor);
  }
  return ranges_of(tensors);
}

std::vector<Range> ranges_of(const std::vector<std::pair<uint64_t, uint64_t>>& pairs) {
  std::vector<Range> ranges;
  ranges.reserve(pairs.size());
  for (const auto& [begin, end] : pairs) {
    ranges.push_back({begin, end});
  }
  return ranges;
}

c10::ArrayRef<uint8_t> bytes_of(const py::bytes& bytes) {
  return {reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(bytes.ptr())),
          static_cast<size_t>(PyBytes_GET_SIZE(bytes.ptr()))};
}

void note_launch(Recording& recording, const Kernel& kernel, c10::ArrayRef<uint8_t> parameters,
                 const Groups& groups, const std::vector<Range>& read,
                 const std::vector<Range>& written, std::vector<at::Tensor> tensors,
                 const std::vector<at::Tensor>& more, const std::vector<uint32_t>& addresses,
                 const std::vector<uint32_t>& draws) {
  tensors.insert(tensors.end(), more.begin(), more.end());
  recording.dispatched(kernel.shared_from_this(), parameters, addresses, draws, groups, read,
                       written, tensors);
}

}  // namespace

void StreamLock::lock() {
  if (mutex_.try_lock()) {
    return;
  }
  if (PyGILState_Check() != 0) {
    py::gil_scoped_release released;
    mutex_.lock();
  } else {
    mutex_.lock();
  }
}

Kernel::~Kernel() {
  if (Py_IsInitialized() == 0) {
    python.release();  // tapes of replays live as long as torch's operators
    return;
  }
  const py::gil_scoped_acquire gil;
  python = py::object();
}

void Batch::add(const Kernel& kernel, c10::ArrayRef<uint8_t> parameters, const Groups& groups,
                bool barrier, uint32_t alignment) {
  // The packed block may end in padding that the shader's struct does not have.
  const auto bytes = std::min(static_cast<uint32_t>(parameters.size()), kernel.parameter_bytes);
  auto& all = kernel.in_buffer ? blocks_ : parameters_;
  if (kernel.in_buffer) {
    all.resize((all.size() + alignment - 1) / alignment * alignment);
  }
  dispatches_.push_back({kernel.compilation, kernel.layout, kernel.in_buffer,
                         static_cast<uint32_t>(all.size()), bytes, groups, barrier});
  all.insert(all.end(), parameters.begin(), parameters.begin() + bytes);
}

uint8_t* Batch::parameters(size_t dispatch) {
  const Dispatch& found = dispatches_[dispatch];
  return (found.in_buffer ? blocks_ : parameters_).data() + found.first_byte;
}

void Batch::note(const std::vector<Range>& reads, const std::vector<Range>& writes) {
  ranges_.resize(dispatches_.size());
  ranges_.back() = {reads, writes};
}

std::shared_ptr<Batch> Batch::part(size_t begin, size_t end) const {
  auto result = std::make_shared<Batch>(*this);  // with all parameters: places in them stay
  result->dispatches_.assign(dispatches_.begin() + begin, dispatches_.begin() + end);
  result->ranges_.clear();
  return result;
}

Recorder::Recorder(py::object stream, uintptr_t device,
                   const std::map<std::string, uintptr_t>& functions)
    : stream_(std::move(stream)), device_(reinterpret_cast<vk::VkDevice>(device)) {
  if (functions.empty()) {
    return;
  }
  vk::load(create_layout_, functions, "vkCreatePipelineLayout");
  vk::load(bind_pipeline_, functions, "vkCmdBindPipeline");
  vk::load(push_constants_, functions, "vkCmdPushConstants");
  vk::load(update_buffer_, functions, "vkCmdUpdateBuffer");
  vk::load(bind_sets_, functions, "vkCmdBindDescriptorSets");
  vk::load(dispatch_, functions, "vkCmdDispatch");
  vk::load(pipeline_barrier_, functions, "vkCmdPipelineBarrier");
}

std::shared_ptr<Kernel> Recorder::kernel(py::object python, uint64_t pipeline,
                                         uint32_t push_bytes) {
  auto kernel = std::make_shared<Kernel>();
  kernel->python = std::move(python);
  if (dispatch_ != nullptr && pipeline != 0) {
    kernel->compilation = new Compilation(pipeline);  // as long as the process, as others are
    kernel->layout = layout_for(push_bytes, false);
    kernel->parameter_bytes = push_bytes;
  }
  return kernel;
}

std::shared_ptr<Kernel> Recorder::compile(py::object python,
                                          const std::shared_ptr<Compiler>& compiler,
                                          std::string name, std::string text, std::string entry,
                                          std::string key, uint32_t parameter_bytes,
                                          bool in_buffer) {
  auto kernel = std::make_shared<Kernel>();
  kernel->python = std::move(python);
  kernel->layout = layout_for(parameter_bytes, in_buffer);
  kernel->parameter_bytes = parameter_bytes;
  kernel->in_buffer = in_buffer;
  compiler_ = compiler;
  kernel->compilation = compiler->start(std::move(name), std::move(text), std::move(entry),
                                        std::move(key), kernel->layout);
  return kernel;
}

// What pipelines are made with here. With those of slang-rhi, which declares one range for all
// stages, it is compatible as far as push constants go, which is all that is used.
vk::VkPipelineLayout Recorder::layout_for(uint32_t parameter_bytes, bool in_buffer) {
  vk::VkPipelineLayout& layout = in_buffer ? layout_in_buffer_ : layouts_[parameter_bytes];
  if (layout == 0) {
    const vk::VkPushConstantRange range{vk::VK_SHADER_STAGE_ALL, 0, parameter_bytes};
    vk::VkPipelineLayoutCreateInfo info{};
    info.sType = vk::VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO;
    info.setLayoutCount = in_buffer ? 1 : 0;
    info.pSetLayouts = &parameter_buffer_.set_layout;
    info.pushConstantRangeCount = in_buffer || parameter_bytes == 0 ? 0 : 1;
    info.pPushConstantRanges = &range;
    const int32_t result = create_layout_(device_, &info, nullptr, &layout);
    TORCH_CHECK(result == vk::VK_SUCCESS, "vkCreatePipelineLayout failed with VkResult ", result);
  }
  return layout;
}

py::tuple Recorder::for_python(const Kernel& kernel, c10::ArrayRef<uint8_t> parameters,
                               const Groups& groups, bool barrier) {
  const py::array_t<uint8_t> bytes(static_cast<py::ssize_t>(parameters.size()), parameters.data());
  return py::make_tuple(kernel.python, bytes, py::make_tuple(groups[0], groups[1], groups[2]),
                        barrier);
}

void Recorder::launch(const Kernel& kernel, c10::ArrayRef<uint8_t> parameters, const Groups& groups,
                      const std::vector<Range>& reads, const std::vector<Range>& writes,
                      c10::ArrayRef<uint32_t> draws) {
  if (kernel.is_direct() && kernel.compilation->has_failed()) {
    throw std::runtime_error(kernel.compilation->error());
  }
  const std::lock_guard<StreamLock> held(mutex);
  if (Capture* const capture = capturing()) {
    return capture->add(kernel, parameters, groups, reads, writes, draws);
  }
  const bool barrier = hazards.access(reads, writes);
  ++dispatched;
  if (direct && kernel.is_direct()) {
    batch_->add(kernel, parameters, groups, barrier, parameter_buffer_.alignment);
    if (watched) {
      batch_->note(reads, writes);
    }
  } else if (kernel.is_direct()) {
    const auto alone = std::make_shared<Batch>();
    alone->add(kernel, parameters, groups, barrier, parameter_buffer_.alignment);
    in_python([&] { stream_.attr("record_alone")(alone, kernel.python, groups); });
  } else {
    in_python([&] { stream_.attr("record")(*for_python(kernel, parameters, groups, barrier)); });
  }
  if (dispatched % kPollEvery == 0) {
    in_python([&] { stream_.attr("poll")(); });
  }
}

std::shared_ptr<Batch> Recorder::take() {
  return batch_->empty() ? nullptr : std::exchange(batch_, std::make_shared<Batch>());
}

std::string Recorder::prepare(const Batch& batch) const {
  const py::gil_scoped_release released;
  std::string error;
  for (const auto& dispatch : batch.dispatches_) {
    if (!dispatch.compilation->is_finished()) {
      compiler_->wait(*dispatch.compilation);
    }
    if (error.empty() && dispatch.compilation->has_failed()) {
      error = dispatch.compilation->error();
    }
  }
  return error;
}

// Have blocks from byte `begin` of a batch's on in the parameter buffer; where they end. Dispatches
// before may still read those that are there.
uint32_t Recorder::upload(const Batch& batch, uint32_t begin, vk::VkCommandBuffer commands) const {
  const auto left = static_cast<uint32_t>(batch.blocks_.size()) - begin;
  const uint32_t bytes = std::min(left, kMostUploaded);
  vk::VkMemoryBarrier barrier{};
  barrier.sType = vk::VK_STRUCTURE_TYPE_MEMORY_BARRIER;
  pipeline_barrier_(commands, vk::VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT,
                    vk::VK_PIPELINE_STAGE_TRANSFER_BIT, 0, 1, &barrier, 0, nullptr, 0, nullptr);
  update_buffer_(commands, parameter_buffer_.buffer, 0, bytes, batch.blocks_.data() + begin);
  barrier.srcAccessMask = vk::VK_ACCESS_TRANSFER_WRITE_BIT;
  barrier.dstAccessMask = vk::VK_ACCESS_UNIFORM_READ_BIT;
  pipeline_barrier_(commands, vk::VK_PIPELINE_STAGE_TRANSFER_BIT,
                    vk::VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, 0, 1, &barrier, 0, nullptr, 0,
                    nullptr);
  return begin + bytes;
}

void Recorder::replay(const Batch& batch, uintptr_t command_buffer) const {
  auto* const commands = reinterpret_cast<vk::VkCommandBuffer>(command_buffer);
  vk::VkMemoryBarrier barrier{};
  barrier.sType = vk::VK_STRUCTURE_TYPE_MEMORY_BARRIER;
  barrier.srcAccessMask = vk::VK_ACCESS_SHADER_READ_BIT | vk::VK_ACCESS_SHADER_WRITE_BIT;
  barrier.dstAccessMask = barrier.srcAccessMask;
  vk::VkPipeline bound = 0;
  uint32_t uploaded_begin = 0;
  uint32_t uploaded_end = 0;
  for (const auto& dispatch : batch.dispatches_) {
    if (dispatch.barrier) {
      pipeline_barrier_(commands, vk::VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT,
                        vk::VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, 0, 1, &barrier, 0, nullptr, 0,
                        nullptr);
    }
    const vk::VkPipeline pipeline = dispatch.compilation->pipeline();
    if (pipeline == 0) {
      continue;
    }
    if (pipeline != bound) {
      bind_pipeline_(commands, vk::VK_PIPELINE_BIND_POINT_COMPUTE, pipeline);
      bound = pipeline;
    }
    if (dispatch.in_buffer) {
      if (dispatch.first_byte + dispatch.bytes > uploaded_end) {
        uploaded_begin = dispatch.first_byte;
        uploaded_end = upload(batch, uploaded_begin, commands);
      }
      const uint32_t offset = dispatch.first_byte - uploaded_begin;
      bind_sets_(commands, vk::VK_PIPELINE_BIND_POINT_COMPUTE, dispatch.layout, 0, 1,
                 &parameter_buffer_.set, 1, &offset);
    } else if (dispatch.bytes != 0) {
      push_constants_(commands, dispatch.layout, vk::VK_SHADER_STAGE_ALL, 0, dispatch.bytes,
                      batch.parameters_.data() + dispatch.first_byte);
    }
    dispatch_(commands, dispatch.groups[0], dispatch.groups[1], dispatch.groups[2]);
  }
}

void Recorder::barrier(uintptr_t command_buffer) const {
  vk::VkMemoryBarrier barrier{};
  barrier.sType = vk::VK_STRUCTURE_TYPE_MEMORY_BARRIER;
  barrier.srcAccessMask = vk::VK_ACCESS_MEMORY_READ_BIT | vk::VK_ACCESS_MEMORY_WRITE_BIT;
  barrier.dstAccessMask = barrier.srcAccessMask;
  pipeline_barrier_(reinterpret_cast<vk::VkCommandBuffer>(command_buffer),
                    vk::VK_PIPELINE_STAGE_ALL_COMMANDS_BIT, vk::VK_PIPELINE_STAGE_ALL_COMMANDS_BIT,
                    0, 1, &barrier, 0, nullptr, 0, nullptr);
}

Recorder& recorder() {
  Recorder* recorder = current_recorder.load(std::memory_order_acquire);
  if (recorder == nullptr) {
    runtime::open();
    recorder = current_recorder.load(std::memory_order_acquire);
    TORCH_CHECK(recorder != nullptr, "the device was opened without a recorder");
  }
  return *recorder;
}

void set_recorder(std::shared_ptr<Recorder> recorder) {
  // Never destroyed: it holds Python objects, and Python is gone before C++'s statics are.
  static auto* const kept = new std::vector<std::shared_ptr<Recorder>>();
  current_recorder.store(recorder.get(), std::memory_order_release);
  kept->push_back(std::move(recorder));
}

void bind_recorder(py::module_& module) {
  py::class_<StreamLock>(module, "StreamLock")
      .def("__enter__", [](StreamLock& self) { self.lock(); })
      .def("__exit__", [](StreamLock& self, const py::args&) { self.unlock(); });

  // tests/metal runs a batch's dispatches without the driver: it knows a kernel by its compilation.
  py::class_<Kernel, std::shared_ptr<Kernel>>(module, "Kernel")
      .def_property_readonly("compilation", [](const Kernel& self) {
        return reinterpret_cast<uintptr_t>(self.compilation);
      });
  py::class_<Batch, std::shared_ptr<Batch>>(module, "Batch")
      .def("part", &Batch::part)
      .def("dispatches", [](const Batch& self) {
        py::list all;
        for (size_t i = 0; i < self.size(); ++i) {
          const auto& each = self.dispatches()[i];
          const py::bytes parameters(reinterpret_cast<const char*>(self.parameters(i)), each.bytes);
          std::vector<std::pair<uint64_t, uint64_t>> ranges[2];
          for (size_t side = 0; side < 2 && i < self.ranges().size(); ++side) {
            for (const Range& range : self.ranges()[i][side]) {
              ranges[side].emplace_back(range.begin, range.end);
            }
          }
          all.append(py::make_tuple(reinterpret_cast<uintptr_t>(each.compilation), parameters,
                                    py::make_tuple(each.groups[0], each.groups[1], each.groups[2]),
                                    ranges[0], ranges[1]));
        }
        return all;
      });

  py::class_<Recorder, std::shared_ptr<Recorder>>(module, "Recorder")
      .def(py::init<py::object, uintptr_t, const std::map<std::string, uintptr_t>&>())
      .def("kernel", &Recorder::kernel)
      .def("compile", &Recorder::compile)
      .def("use_parameter_buffer",
           [](Recorder& self, uint64_t buffer, uint64_t set_layout, uint64_t set,
              uint32_t alignment) { self.use({buffer, set_layout, set, alignment}); })
      .def("launch",
           torch::wrap_pybind_function(
               [](Recorder& self, const Kernel& kernel, const py::bytes& parameters,
                  const Groups& groups, const std::vector<at::Tensor>& reads,
                  const std::vector<at::Tensor>& writes, const std::vector<uint32_t>& addresses,
                  const std::vector<uint32_t>& draws) {
                 const auto read = ranges_of(reads), written = written_ranges_of(writes);
                 if (Recording* noted = recording()) {
                   note_launch(*noted, kernel, bytes_of(parameters), groups, read, written, reads,
                               writes, addresses, draws);
                 }
                 self.launch(kernel, bytes_of(parameters), groups, read, written, draws);
               }),
           py::arg("kernel"), py::arg("parameters"), py::arg("groups"), py::arg("reads"),
           py::arg("writes"), py::arg("addresses"), py::arg("draws") = std::vector<uint32_t>())
      .def(
          "launch_on_ranges",
          torch::wrap_pybind_function([](Recorder& self, const Kernel& kernel,
                                         const py::bytes& parameters, const Groups& groups,
                                         const std::vector<std::pair<uint64_t, uint64_t>>& reads,
                                         const std::vector<std::pair<uint64_t, uint64_t>>& writes) {
            note_other("a kernel is told of ranges of memory");
            self.launch(kernel, bytes_of(parameters), groups, ranges_of(reads), ranges_of(writes));
          }))
      .def("access",
           [](Recorder& self, const std::vector<std::pair<uint64_t, uint64_t>>& reads,
              const std::vector<std::pair<uint64_t, uint64_t>>& writes) {
             note_other("memory is copied, or read by the host");
             return self.hazards.access(ranges_of(reads), ranges_of(writes));
           })
      .def("access_tensors",
           [](Recorder& self, const std::vector<at::Tensor>& reads,
              const std::vector<at::Tensor>& writes) {
             note_other("memory is copied, or read by the host");
             return self.hazards.access(ranges_of(reads), ranges_of(writes));
           })
      .def("reset_hazards", [](Recorder& self) { self.hazards.reset(); })
      .def("take", &Recorder::take)
      .def_property_readonly("pending", &Recorder::pending)
      .def_property_readonly("is_compiling", &Recorder::is_compiling)
      .def("prepare", &Recorder::prepare)
      .def("replay", &Recorder::replay)
      .def("barrier", &Recorder::barrier)
      .def_property_readonly(
          "lock", [](Recorder& self) -> StreamLock& { return self.mutex; },
          py::return_value_policy::reference_internal)
      .def_readwrite("direct", &Recorder::direct)
      .def_readwrite("watched", &Recorder::watched)
      .def_readonly("dispatched", &Recorder::dispatched);
  module.def("set_recorder", &set_recorder);
}

}  // namespace portable_mps
