#include "compiler.h"

#include "files.h"

#include <pybind11/stl.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <system_error>

namespace portable_mps {
namespace {

constexpr size_t kCacheHeader = 32;  // bytes of a pipeline cache without any pipeline

void check(int32_t result, const char* function) {
  if (result != vk::VK_SUCCESS) {
    throw std::runtime_error(std::string(function) + " failed with VkResult " +
                             std::to_string(result));
  }
}

// The file of that name in a folder; "" without a folder.
std::string file_in(const std::string& folder, const std::string& name) {
  return folder.empty() ? "" : (std::filesystem::path(folder) / name).string();
}

// Adds the seconds of its life.
class Timer {
 public:
  explicit Timer(double& seconds) : seconds_(seconds) {}
  ~Timer() { seconds_ += std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  double& seconds_;
  Clock::time_point start_ = Clock::now();
};

// Compile for a folder of what is shipped.
void keep(FrontEnd& front_end, const std::string& text, const std::string& entry,
          const std::string& file) {
  const std::string code = front_end.compile(text, entry);
  files::write(file, code.data(), code.size());
}

}  // namespace

Compiler::Compiler(uintptr_t device, const std::map<std::string, uintptr_t>& functions,
                   FrontEndOptions options, std::string kept, std::string shipped, size_t threads)
    : device_(reinterpret_cast<vk::VkDevice>(device)),
      options_(std::move(options)),
      kept_(std::move(kept)),
      shipped_(std::move(shipped)),
      most_threads_(threads) {
  vk::load(create_module_, functions, "vkCreateShaderModule");
  vk::load(destroy_module_, functions, "vkDestroyShaderModule");
  vk::load(create_cache_, functions, "vkCreatePipelineCache");
  vk::load(cache_data_, functions, "vkGetPipelineCacheData");
  vk::load(destroy_cache_, functions, "vkDestroyPipelineCache");
  vk::load(create_pipelines_, functions, "vkCreateComputePipelines");
}

Compilation* Compiler::start(std::string name, std::string text, std::string entry, std::string key,
                             vk::VkPipelineLayout layout) {
  auto* const result = new Compilation();
  Job job{std::move(name), std::move(text), std::move(entry), std::move(key), layout, result};
  ++unfinished_;
  const std::unique_lock<std::mutex> held(mutex_);
  if (stopped_) {
    finish(job, 0, "the process is ending");
    return result;
  }
  jobs_.push_back(std::move(job));
  if (idle_ < jobs_.size() && threads_.size() < most_threads_) {
    try {
      threads_.emplace_back([this] { work(); });
    } catch (const std::system_error& failure) {  // the process has too many
      if (threads_.empty()) {
        finish(jobs_.back(), 0, failure.what());
        jobs_.pop_back();
        return result;
      }
    }
  }
  queued_.notify_one();
  return result;
}

void Compiler::finish(const Job& job, vk::VkPipeline pipeline, std::string error) {
  if (pipeline != 0) {
    job.result->pipeline_.store(pipeline, std::memory_order_release);
  } else {
    job.result->error_ = job.name + ": " + error;
    job.result->failed_.store(true, std::memory_order_release);
  }
  --unfinished_;
}

void Compiler::wait(const Compilation& compilation) {
  std::unique_lock<std::mutex> held(mutex_);
  finished_.wait(held, [&] { return compilation.is_finished(); });
}

std::vector<CompileTimes> Compiler::times() {
  const std::unique_lock<std::mutex> held(mutex_);
  return times_;
}

void Compiler::stop() {
  {
    const std::unique_lock<std::mutex> held(mutex_);
    stopped_ = true;
    for (const Job& job : jobs_) {
      finish(job, 0, "the process is ending");
    }
    jobs_.clear();
    queued_.notify_all();
    finished_.notify_all();
  }
  for (auto& thread : threads_) {
    thread.join();
  }
  threads_.clear();
}

void Compiler::work() {
  FrontEnd front_end(options_);
  std::unique_lock<std::mutex> held(mutex_);
  for (;;) {
    ++idle_;
    queued_.wait(held, [&] { return stopped_ || !jobs_.empty(); });
    --idle_;
    if (stopped_) {
      return;
    }
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    held.unlock();
    vk::VkPipeline pipeline = 0;
    std::string error;
    CompileTimes times{job.name};
    try {
      pipeline = make(job, front_end, times);
    } catch (const std::exception& failure) {
      error = failure.what();
    } catch (...) {
      error = "the compiler failed";
    }
    held.lock();
    if (pipeline != 0) {
      times_.push_back(std::move(times));
    }
    finish(job, pipeline, std::move(error));
    finished_.notify_all();
  }
}

vk::VkPipeline Compiler::make(const Job& job, FrontEnd& front_end, CompileTimes& times) const {
  const auto created = [&](const std::string& code) {
    const Timer timer(times.driver);
    return create(job, code);
  };
  const std::string name = job.key + ".spv";
  const std::string kept = file_in(kept_, name);
  for (const std::string& file : {kept, file_in(shipped_, name)}) {
    if (const auto bytes = files::read(file)) {
      return created(*bytes);
    }
  }
  std::string code;
  {
    const Timer timer(times.front_end);
    code = front_end.compile(job.text, job.entry);
  }
  const vk::VkPipeline pipeline = created(code);
  // Not before: what crashes a driver shall not be kept.
  files::write(kept, code.data(), code.size());
  return pipeline;
}

// A cache for each pipeline: files of one pipeline are never merged, so processes do not wait for
// each other.
vk::VkPipeline Compiler::create(const Job& job, const std::string& code) const {
  std::vector<uint32_t> words(code.size() / sizeof(uint32_t));  // aligned, as a string need not be
  std::memcpy(words.data(), code.data(), words.size() * sizeof(uint32_t));
  vk::VkShaderModuleCreateInfo of_module{};
  of_module.sType = vk::VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO;
  of_module.codeSize = words.size() * sizeof(uint32_t);
  of_module.pCode = words.data();
  vk::VkShaderModule module = 0;
  check(create_module_(device_, &of_module, nullptr, &module), "vkCreateShaderModule");

  const std::string kept = file_in(kept_, job.key + ".pipeline");
  const std::optional<std::string> data = files::read(kept);
  vk::VkPipelineCacheCreateInfo of_cache{};
  of_cache.sType = vk::VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO;
  of_cache.initialDataSize = data ? data->size() : 0;
  of_cache.pInitialData = data ? data->data() : nullptr;
  vk::VkPipelineCache cache = 0;
  if (create_cache_(device_, &of_cache, nullptr, &cache) != vk::VK_SUCCESS) {
    cache = 0;  // it is done without
  }

  vk::VkComputePipelineCreateInfo info{};
  info.sType = vk::VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO;
  info.stage.sType = vk::VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
  info.stage.stage = vk::VK_SHADER_STAGE_COMPUTE_BIT;
  info.stage.module = module;
  info.stage.pName = "main";
  info.layout = job.layout;
  vk::VkPipeline pipeline = 0;
  const int32_t result = create_pipelines_(device_, cache, 1, &info, nullptr, &pipeline);
  destroy_module_(device_, module, nullptr);
  if (cache != 0) {
    size_t size = 0;
    if (result == vk::VK_SUCCESS && !kept.empty() &&
        cache_data_(device_, cache, &size, nullptr) == vk::VK_SUCCESS && size > kCacheHeader &&
        (!data || data->size() != size)) {
      std::string now(size, '\0');
      if (cache_data_(device_, cache, &size, now.data()) == vk::VK_SUCCESS) {
        files::write(kept, now.data(), size);
      }
    }
    destroy_cache_(device_, cache, nullptr);
  }
  check(result, "vkCreateComputePipelines");
  return pipeline;
}

void bind_compiler(py::module_& module) {
  py::class_<FrontEndOptions>(module, "FrontEndOptions")
      .def(py::init<uintptr_t, std::string, std::string, int, int, uintptr_t, uintptr_t>(),
           py::arg("create_global_session"), py::arg("include"), py::arg("profile"),
           py::arg("floating_point_mode"), py::arg("format"), py::arg("entry_point_by_index") = 0,
           py::arg("thread_group_size") = 0);
  py::class_<FrontEnd>(module, "FrontEnd")
      .def(py::init<FrontEndOptions>())
      .def("compile",
           [](FrontEnd& self, const std::string& text, const std::string& entry) {
             std::string code;
             {
               const py::gil_scoped_release released;
               code = self.compile(text, entry);
             }
             return py::bytes(code);
           })
      .def_property_readonly("workgroup", &FrontEnd::workgroup)
      .def("keep", &keep, py::call_guard<py::gil_scoped_release>());
  py::class_<Compiler, std::shared_ptr<Compiler>>(module, "Compiler")
      .def(py::init([](uintptr_t device, const std::map<std::string, uintptr_t>& functions,
                       const FrontEndOptions& options, const std::string& kept,
                       const std::string& shipped, size_t threads) {
        return std::make_shared<Compiler>(device, functions, options, kept, shipped, threads);
      }))
      .def("times",
           [](Compiler& self) {
             py::list all;
             for (const CompileTimes& times : self.times()) {
               all.append(py::make_tuple(times.name, times.front_end, times.driver));
             }
             return all;
           })
      .def_property_readonly("unfinished", &Compiler::unfinished)
      .def("stop", &Compiler::stop, py::call_guard<py::gil_scoped_release>());
}

}  // namespace portable_mps
