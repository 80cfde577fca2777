// Kernels compiled side by side, in threads that never take the GIL: source to SPIR-V to pipeline,
// each kept on disk.
//
// A dispatch may be recorded before its kernel is there; whoever makes a command buffer of it
// waits.
#pragma once

#include "front_end.h"
#include "vulkan.h"

#include <torch/csrc/utils/pybind.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace portable_mps {

// A kernel's pipeline, now or later.
class Compilation {
 public:
  Compilation() = default;
  explicit Compilation(vk::VkPipeline pipeline) : pipeline_(pipeline) {}

  vk::VkPipeline pipeline() const { return pipeline_.load(std::memory_order_acquire); }
  // Whether `error` says why there will be no pipeline.
  bool has_failed() const { return failed_.load(std::memory_order_acquire); }
  bool is_finished() const { return pipeline() != 0 || has_failed(); }
  const std::string& error() const { return error_; }

 private:
  friend class Compiler;
  std::atomic<vk::VkPipeline> pipeline_{0};
  std::atomic<bool> failed_{false};
  std::string error_;
};

// What a kernel cost: seconds in Slang, 0 where SPIR-V was there, and in the driver.
struct CompileTimes {
  std::string name;
  double front_end = 0;
  double driver = 0;
};

class Compiler {
 public:
  // functions: addresses of Vulkan functions by name. kept, shipped: folders of what was made
  // before, here and where we were built; "" for none. threads: at most so many.
  Compiler(uintptr_t device, const std::map<std::string, uintptr_t>& functions,
           FrontEndOptions options, std::string kept, std::string shipped, size_t threads);
  ~Compiler() { stop(); }

  // Begin; what is returned is never destroyed. name: for the error. key: stands for all that the
  // results follow from; their files are called so.
  Compilation* start(std::string name, std::string text, std::string entry, std::string key,
                     vk::VkPipelineLayout layout);

  // Until it has finished. Call it without the GIL.
  void wait(const Compilation& compilation);

  // How many have not finished.
  size_t unfinished() const { return unfinished_.load(std::memory_order_acquire); }

  // Of each kernel that has its pipeline, in the order in which they were finished.
  std::vector<CompileTimes> times();

  // End the threads; what has not begun fails.
  void stop();

 private:
  struct Job {
    std::string name, text, entry, key;
    vk::VkPipelineLayout layout;
    Compilation* result;
  };

  void work();
  void finish(const Job& job, vk::VkPipeline pipeline, std::string error);
  vk::VkPipeline make(const Job& job, FrontEnd& front_end, CompileTimes& times) const;
  vk::VkPipeline create(const Job& job, const std::string& code) const;

  vk::VkDevice device_;
  vk::PFN_vkCreateShaderModule create_module_ = nullptr;
  vk::PFN_vkDestroyShaderModule destroy_module_ = nullptr;
  vk::PFN_vkCreatePipelineCache create_cache_ = nullptr;
  vk::PFN_vkGetPipelineCacheData cache_data_ = nullptr;
  vk::PFN_vkDestroyPipelineCache destroy_cache_ = nullptr;
  vk::PFN_vkCreateComputePipelines create_pipelines_ = nullptr;
  FrontEndOptions options_;
  std::string kept_, shipped_;
  size_t most_threads_;

  std::mutex mutex_;
  std::condition_variable queued_, finished_;
  std::deque<Job> jobs_;
  std::vector<std::thread> threads_;
  std::vector<CompileTimes> times_;
  size_t idle_ = 0;
  bool stopped_ = false;
  std::atomic<size_t> unfinished_{0};
};

void bind_compiler(py::module_& module);

}  // namespace portable_mps
