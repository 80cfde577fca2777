#include "signature.h"

#include "generator.h"

#include <ATen/Context.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/grad_mode.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>

namespace portable_mps {
namespace {

constexpr int64_t kAlignment = 256;  // no kernel asks for more

// PORTABLE_MPS_MATRIX, which scripts may set between calls.
int64_t engine() {
  const char* const chosen = std::getenv("PORTABLE_MPS_MATRIX");
  return chosen == nullptr ? 0 : static_cast<int64_t>(std::hash<std::string>()(chosen));
}

}  // namespace

// A whole number on the CPU, zero: attention's seeds where nothing is random. Others are never met
// twice, so that it does not pay to tell them apart.
bool is_zero(const at::Tensor& tensor) {
  return tensor.is_cpu() && tensor.dim() == 0 && tensor.scalar_type() == at::kLong &&
         tensor.layout() == c10::kStrided && !at::isTensorSubclassLike(tensor) &&
         *tensor.const_data_ptr<int64_t>() == 0;
}

Signature::Signature(c10::ArrayRef<c10::IValue> arguments)
    : words{static_cast<int64_t>(at::globalContext().float32MatmulPrecision()),
            static_cast<int64_t>(c10::get_default_dtype_as_scalartype()),
            int64_t{c10::GradMode::is_enabled()}, engine()} {
  for (const c10::IValue& argument : arguments) {
    if (!add(argument)) {
      words.clear();
      return;
    }
  }
}

size_t Signature::Hash::operator()(const std::vector<int64_t>& words) const {
  uint64_t hash = words.size();
  for (const int64_t word : words) {
    hash = (hash ^ static_cast<uint64_t>(word)) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
  }
  return hash;
}

bool Signature::add(const c10::IValue& value) {
  if (value.isTensor()) {
    words.push_back('t');
    return add_tensor(value.toTensor());
  }
  if (value.isNone()) {
    words.push_back('n');
  } else if (value.isBool()) {
    words.insert(words.end(), {'b', int64_t{value.toBool()}});
  } else if (value.isInt()) {
    words.insert(words.end(), {'i', value.toInt()});
  } else if (value.isDouble()) {
    int64_t bits = 0;
    const double number = value.toDouble();
    std::memcpy(&bits, &number, sizeof(bits));
    words.insert(words.end(), {'d', bits});
  } else if (value.isIntList()) {
    const std::vector<int64_t> list = value.toIntVector();
    words.insert(words.end(), {'l', static_cast<int64_t>(list.size())});
    words.insert(words.end(), list.begin(), list.end());
  } else if (value.isBoolList()) {
    const auto list = value.toBoolList();
    words.insert(words.end(), {'m', static_cast<int64_t>(list.size())});
    for (const bool item : list) {
      words.push_back(int64_t{item});
    }
  } else if (value.isString()) {
    const std::string& text = value.toStringRef();
    words.insert(words.end(), {'z', static_cast<int64_t>(text.size())});
    words.insert(words.end(), text.begin(), text.end());
  } else if (value.isOptionalTensorList()) {
    const auto list = value.toOptionalTensorVector();
    words.insert(words.end(), {'o', static_cast<int64_t>(list.size())});
    for (const auto& item : list) {
      if (!add_tensor(item.value_or(at::Tensor()))) {
        return false;
      }
    }
  } else if (value.isTensorList()) {
    const std::vector<at::Tensor> list = value.toTensorVector();
    words.insert(words.end(), {'s', static_cast<int64_t>(list.size())});
    for (const at::Tensor& item : list) {
      if (!add_tensor(item)) {
        return false;
      }
    }
  } else {
    return false;
  }
  return true;
}

bool Signature::add_tensor(const at::Tensor& tensor) {
  if (!tensor.defined()) {
    words.push_back(-1);
    return true;
  }
  if (const Drawn* const number = drawn_of(tensor)) {
    words.push_back(number->is_counter ? -4 : -3);
    drawn.push_back(number->is_counter ? number->counter : number->seed);
    return true;
  }
  if (is_zero(tensor)) {
    words.push_back(-2);
    return true;
  }
  if (tensor.device().type() != c10::DeviceType::MPS) {
    refusal_ = "a tensor on another device";
    return false;
  }
  if (tensor.numel() == 0) {
    refusal_ = "a tensor without elements";
    return false;
  }
  if (tensor.layout() != c10::kStrided || tensor.is_quantized() || tensor.is_conj() ||
      tensor.is_neg() || !tensor.has_storage() || tensor._is_zerotensor() ||
      at::isTensorSubclassLike(tensor)) {
    refusal_ = "a tensor that is more than its elements";
    return false;
  }
  const auto address = reinterpret_cast<int64_t>(tensor.const_data_ptr());
  words.insert(words.end(),
               {tensor.dim(), static_cast<int64_t>(tensor.scalar_type()), address % kAlignment,
                int64_t{tensor.requires_grad()}, static_cast<int64_t>(tensor.storage().nbytes()),
                tensor.storage_offset()});
  words.insert(words.end(), tensor.sizes().begin(), tensor.sizes().end());
  words.insert(words.end(), tensor.strides().begin(), tensor.strides().end());
  // Which of the earlier ones it shares memory with, where it lies from there, and which it is.
  int64_t shared = -1, distance = 0, same = -1;
  for (size_t i = tensors.size(); i-- > 0;) {
    if (tensors[i].storage().is_alias_of(tensor.storage())) {
      shared = static_cast<int64_t>(i);
      distance = address - reinterpret_cast<int64_t>(tensors[i].const_data_ptr());
      same = tensors[i].is_same(tensor) ? shared : same;
    }
  }
  words.insert(words.end(), {shared, distance, same});
  tensors.push_back(tensor);
  return true;
}

}  // namespace portable_mps
