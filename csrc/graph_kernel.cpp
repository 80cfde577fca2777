#include "graph_kernel.h"

#include "iterator.h"
#include "recorder.h"
#include "tape.h"

#include <torch/csrc/autograd/python_variable.h>

#include <cstring>
#include <string>

namespace portable_mps {
namespace {

class GraphKernel {
 public:
  // access: "r" or "w" for each tensor. numbers: what follows these among the arguments, "q" for an
  // int64, "d" and "f" for floats. behind: parameters that are the same in all calls.
  GraphKernel(std::shared_ptr<Kernel> kernel, std::string access, std::string numbers,
              const py::bytes& behind, bool may_report, int64_t most_turns, std::string name)
      : kernel_(std::move(kernel)),
        access_(std::move(access)),
        numbers_(std::move(numbers)),
        behind_(behind),
        may_report_(may_report),
        most_turns_(most_turns),
        name_(std::move(name)) {}

  // The tensors, the numbers, the workgroups, and the turns of a thread through its loop.
  void operator()(const py::args& arguments) const {
    const size_t count = access_.size() + numbers_.size();
    TORCH_CHECK(arguments.size() == count + 2, name_, " takes ", count + 2, " arguments, but got ",
                arguments.size());
    const int64_t workgroups = integer(arguments, count);
    if (workgroups == 0) {
      return;
    }
    const int64_t turns = integer(arguments, count + 1);
    TORCH_CHECK(turns <= most_turns_, name_, ": a thread would take ", turns,
                " turns through its loop, and this software driver ends them after ", most_turns_,
                ": the result would be wrong. Take smaller sizes, or a GPU");
    Parameters parameters;
    std::vector<Range> reads, writes;
    std::vector<at::Tensor> tensors;  // where the call is recorded
    Recording* const noted = recording();
    for (size_t i = 0; i < access_.size(); ++i) {
      PyObject* const argument = PyTuple_GET_ITEM(arguments.ptr(), i);
      TORCH_CHECK_TYPE(THPVariable_Check(argument), name_, ": argument ", i, " is no tensor");
      const at::Tensor& tensor = THPVariable_Unpack(argument);
      TORCH_CHECK(tensor.device().type() == c10::DeviceType::MPS, name_, ": argument ", i,
                  " is on ", tensor.device(), " where the graph was compiled for mps");
      append(parameters, reinterpret_cast<uint64_t>(tensor.const_data_ptr()));
      if (noted != nullptr) {
        tensors.push_back(tensor);
      }
      if (tensor.numel() != 0) {
        (access_[i] == 'w' ? writes : reads).push_back(byte_range(tensor));
      }
    }
    for (size_t i = 0; i < numbers_.size(); ++i) {
      if (numbers_[i] == 'q') {
        append(parameters, integer(arguments, access_.size() + i));
      } else if (numbers_[i] == 'd') {
        append(parameters, arguments[access_.size() + i].cast<double>());
      } else {
        append(parameters, arguments[access_.size() + i].cast<float>());
      }
    }
    while (!behind_.empty() && parameters.size() % sizeof(uint64_t) != 0) {
      parameters.push_back(0);  // what follows starts with an address
    }
    parameters.append(behind_.begin(), behind_.end());
    while (parameters.size() % sizeof(uint64_t) != 0) {
      parameters.push_back(0);
    }
    if (may_report_) {
      arm_errors();
    }
    const Groups groups = grid_of(workgroups);
    if (noted != nullptr) {
      std::vector<uint32_t> addresses;  // in front, a word each
      for (size_t i = 0; i < access_.size(); ++i) {
        addresses.push_back(static_cast<uint32_t>(i * sizeof(uint64_t)));
      }
      noted->dispatched(kernel_, parameters, addresses, {}, groups, reads, writes, tensors);
    }
    recorder().launch(*kernel_, parameters, groups, reads, writes);
  }

 private:
  static int64_t integer(const py::args& arguments, size_t i) {
    const long long value = PyLong_AsLongLong(PyTuple_GET_ITEM(arguments.ptr(), i));
    if (value == -1 && PyErr_Occurred() != nullptr) {
      throw python_error();
    }
    return value;
  }

  template <typename Number>
  static void append(Parameters& parameters, Number number) {
    const size_t at = (parameters.size() + sizeof(Number) - 1) / sizeof(Number) * sizeof(Number);
    parameters.resize(at + sizeof(Number));
    std::memcpy(parameters.data() + at, &number, sizeof(Number));
  }

  std::shared_ptr<Kernel> kernel_;
  std::string access_, numbers_, behind_;
  bool may_report_;
  int64_t most_turns_;
  std::string name_;
};

}  // namespace

void bind_graph_kernel(py::module_& module) {
  py::class_<GraphKernel>(module, "GraphKernel")
      .def(py::init<std::shared_ptr<Kernel>, std::string, std::string, const py::bytes&, bool,
                    int64_t, std::string>())
      .def("__call__", torch::wrap_pybind_function(&GraphKernel::operator()))
      // What wrappers of torch 2.11 call, for a library of Metal.
      .def("generated_kernel", torch::wrap_pybind_function(&GraphKernel::operator()));
}

}  // namespace portable_mps
