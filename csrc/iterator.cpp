#include "iterator.h"

#include <ATen/TensorIterator.h>

#include <array>

namespace portable_mps {
namespace {

constexpr int64_t kThreads = 256;  // a workgroup, as in dispatch/pointwise.py
// The vectorised variants, of which dispatch/pointwise.py has the other half: elements of a vector,
// and of one where an operand has elements of 8 bytes, so that none is wider than a load.
constexpr int64_t kVector = 4, kVectorOfWide = 2;
constexpr int64_t kMany = 1 << 14;   // elements that are worth a variant of their own
constexpr int64_t kLarge = 1 << 22;  // elements from which a thread reads several before it stores
constexpr int64_t kSeveral = 4;      // or two vectors
constexpr int64_t kEnough = 16;      // bytes of a vector's operands from which it takes only one
constexpr std::array<int, 10> kRankClasses = {1, 2, 3, 4, 5, 6, 8, 12, 16, 64};

int rank_class(int rank) {
  for (int candidate : kRankClasses) {
    if (rank <= candidate) {
      return candidate;
    }
  }
  TORCH_CHECK(false, "tensors of more than 64 dimensions are not supported");
}

// Bytes of the kernel's parameter block, with C's alignment rules.
class Packer {
 public:
  template <typename T>
  void put(T value) {
    align(sizeof(T));
    const auto* first = reinterpret_cast<const uint8_t*>(&value);
    bytes_.insert(bytes_.end(), first, first + sizeof(T));
  }

  // The offset of an address that is put.
  uint32_t put_address(const void* address) {
    put(reinterpret_cast<uint64_t>(address));
    return static_cast<uint32_t>(bytes_.size() - sizeof(uint64_t));
  }

  void put_index(int64_t value, bool wide) {
    wide ? put<int64_t>(value) : put<int32_t>(static_cast<int32_t>(value));
  }

  Parameters finish() {
    align(8);
    return std::move(bytes_);
  }

 private:
  void align(size_t to) { bytes_.resize((bytes_.size() + to - 1) / to * to); }

  Parameters bytes_;
};

// The bits of an integer; floating-point numbers are truncated.
int64_t integer_of(const at::Scalar& scalar) {
  if (scalar.isFloatingPoint()) {
    return static_cast<int64_t>(scalar.toDouble());
  }
  return scalar.isUnsigned() ? static_cast<int64_t>(scalar.toUInt64()) : scalar.toLong();
}

// An operand on the CPU is cast to the integer type like any tensor: it wraps around.
int64_t wrapped_to(at::ScalarType type, const at::Scalar& scalar) {
  const int64_t value = integer_of(scalar);
  switch (type) {
    case at::kBool:
      return scalar.isFloatingPoint() ? scalar.toDouble() != 0 : value != 0;
    case at::kByte:
      return static_cast<uint8_t>(value);
    case at::kChar:
      return static_cast<int8_t>(value);
    case at::kShort:
      return static_cast<int16_t>(value);
    case at::kInt:
      return static_cast<int32_t>(value);
    case at::kUInt16:
      return static_cast<uint16_t>(value);
    case at::kUInt32:
      return static_cast<uint32_t>(value);
    default:
      return value;
  }
}

// A value where an operand's address would be, in the dtype's compute type: 8 bytes, 16 for a
// complex number of two doubles.
void put_operand(Packer& packer, const at::TensorBase& value, at::ScalarType compute) {
  const at::Scalar scalar = at::Tensor(value).item();
  uint64_t slot = 0;
  if (compute == at::kDouble) {
    const double number = scalar.toDouble();
    std::memcpy(&slot, &number, sizeof(number));
  } else if (compute == at::kComplexDouble) {
    const c10::complex<double> number = scalar.toComplexDouble();
    packer.put(number.real());
    return packer.put(number.imag());
  } else if (at::isComplexType(compute)) {
    const auto number = static_cast<c10::complex<float>>(scalar.toComplexDouble());
    std::memcpy(&slot, &number, sizeof(number));
  } else if (at::isFloatingType(compute)) {
    const auto number = static_cast<float>(scalar.toDouble());
    std::memcpy(&slot, &number, sizeof(number));
  } else {
    slot = static_cast<uint64_t>(wrapped_to(compute, scalar));
  }
  packer.put(slot);
}

void put_scalar(Packer& packer, const at::Scalar& number, char format, at::ScalarType common) {
  const bool is_of_dtype = format == 'c' || format == 'o' || format == 's';
  if (is_of_dtype) {
    if (at::isComplexType(common)) {
      const c10::complex<double> value = number.toComplexDouble();
      if (common == at::kComplexDouble) {
        packer.put(value.real());
        return packer.put(value.imag());
      }
      packer.put(static_cast<float>(value.real()));
      return packer.put(static_cast<float>(value.imag()));
    }
    if (common == at::kDouble) {
      format = 'd';
    } else if (at::isFloatingType(common)) {
      format = 'f';
    } else {
      const bool wide = common == at::kLong || common == at::kUInt32 || common == at::kUInt64;
      format = wide ? 'l' : 'i';  // as the compute types of dispatch/promotion.py
    }
  }
  switch (format) {
    case 'f':
      return packer.put(static_cast<float>(number.toDouble()));
    case 'd':
      return packer.put(number.toDouble());
    case 'i':
    case 'l': {
      const int64_t integer = is_of_dtype ? wrapped_to(common, number) : integer_of(number);
      return format == 'l' ? packer.put(integer) : packer.put(static_cast<int32_t>(integer));
    }
    default:
      TORCH_CHECK(false, "unknown scalar format '", format, "'");
  }
}

at::TensorIterator build(const std::vector<at::Tensor>& outputs,
                         const std::vector<at::Tensor>& inputs, Promotion promotion) {
  at::TensorIteratorConfig config;
  config.set_check_mem_overlap(true).allow_cpu_scalars(true);
  switch (promotion) {
    case Promotion::kNone:
      // Assignments: the output's shape is given and inputs are broadcast to it.
      config.check_all_same_dtype(false).resize_outputs(false);
      break;
    case Promotion::kSame:
      break;
    case Promotion::kFloat:
      config.promote_inputs_to_common_dtype(true)
          .cast_common_dtype_to_outputs(true)
          .enforce_safe_casting_to_output(true)
          .promote_integer_inputs_to_float(true);
      break;
    case Promotion::kDefault:
      config.promote_inputs_to_common_dtype(true)
          .cast_common_dtype_to_outputs(true)
          .enforce_safe_casting_to_output(true);
      break;
    case Promotion::kBool:
      config.promote_inputs_to_common_dtype(true);
      break;
  }
  bool allocates = false;
  for (const auto& output : outputs) {
    allocates = allocates || !output.defined();
    config.add_output(output);
  }
  if (allocates && promotion == Promotion::kBool) {
    config.declare_static_dtype(at::kBool);
  } else if (allocates && promotion == Promotion::kNone) {
    config.declare_static_dtype(inputs.back().scalar_type());
  }
  for (const auto& input : inputs) {
    config.add_const_input(input);
  }
  return config.build();
}

// Whether and how operands are moved in vectors along the innermost dimension.
struct Vectors {
  int64_t width = 1;
  bool twice = false;     // two vectors a thread, a workgroup's vectors apart
  uint64_t repeated = 0;  // a bit for each operand that has one element for all of a vector
};

// Contiguous operands, or ones of rows that are: each an element, or memory at multiples of
// vectors.
Vectors vectors_of(const at::TensorIteratorBase& iter, const std::vector<bool>& is_scalar,
                   bool contiguous, bool unroll) {
  Vectors found;
  int64_t width = kVector, read = 0, written = 0;
  for (int i = 0; i < iter.ntensors(); ++i) {
    if (at::isComplexType(iter.dtype(i))) {
      return found;  // a pair of floats is no element of a vector
    }
    if (!is_scalar[i]) {
      const auto item = static_cast<int64_t>(iter.element_size(i));
      width = item == 8 ? kVectorOfWide : width;
      (i < iter.noutputs() ? written : read) += item;
    }
  }
  const bool many = iter.numel() >= kMany;
  if (contiguous ? iter.numel() % width != 0 && !many : !many || iter.shape()[0] % width != 0) {
    return found;
  }
  for (int i = 0; i < iter.ntensors(); ++i) {
    if (is_scalar[i]) {
      continue;
    }
    const auto item = static_cast<int64_t>(iter.element_size(i));
    auto places = reinterpret_cast<uint64_t>(iter.data_ptr(i));
    if (!contiguous) {
      const auto strides = iter.strides(i);
      if (strides[0] == 0 && i >= iter.noutputs()) {
        found.repeated |= uint64_t{1} << i;
        continue;
      }
      if (strides[0] != item) {
        return found;
      }
      for (size_t d = 1; d < strides.size(); ++d) {
        places |= static_cast<uint64_t>(strides[d]);
      }
    }
    if (places % (item * width) != 0) {
      return found;
    }
  }
  found.width = width;
  found.twice = contiguous && unroll && iter.numel() >= kLarge &&
                (read != 0 ? read : written) * width <= kEnough;
  return found;
}

}  // namespace

Range byte_range(const at::TensorBase& tensor) {
  int64_t last = 0;
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    if (tensor.size(i) == 0) {
      return {0, 0};
    }
    last += (tensor.size(i) - 1) * tensor.stride(i);
  }
  const auto begin = reinterpret_cast<uint64_t>(tensor.const_data_ptr());
  return {begin, begin + static_cast<uint64_t>(last + 1) * tensor.element_size()};
}

Plan plan_pointwise(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs,
                    const std::vector<at::Scalar>& scalars, const std::string& formats,
                    Promotion promotion, bool unroll) {
  at::TensorIterator iter = build(outputs, inputs, promotion);
  Plan plan;
  plan.outputs.reserve(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    plan.outputs.push_back(outputs[i].defined() ? outputs[i] : iter.output(static_cast<int>(i)));
  }
  const int count = iter.ntensors();
  const bool promoted = promotion != Promotion::kNone;
  const at::ScalarType common = promoted ? iter.common_dtype() : iter.dtype(count - 1);
  std::vector<bool> is_scalar(count, false);
  uint64_t scalar_mask = 0, dtypes = 0;
  for (int i = 0; i < count; ++i) {
    const at::TensorBase& operand = iter.tensor_base(i);
    at::ScalarType dtype = operand.scalar_type();
    if (i >= iter.noutputs() && operand.device().is_cpu()) {
      TORCH_CHECK(operand.numel() == 1,
                  "Expected all tensors to be on the same device, but found at least two devices, "
                  "mps:0 and cpu!");
      is_scalar[i] = true;
      scalar_mask |= uint64_t{1} << i;
      dtype = promoted ? common : dtype;
    } else {
      (i < iter.noutputs() ? plan.writes : plan.reads).push_back(byte_range(operand));
    }
    dtypes |= static_cast<uint64_t>(dtype) << (6 * i);
  }
  if (iter.numel() == 0) {
    plan.signature = {dtypes, static_cast<uint64_t>(common), 0};
    return plan;
  }

  const bool wide = !iter.can_use_32bit_indexing();
  const bool contiguous = iter.is_contiguous() || iter.numel() == 1 || [&] {
    // A CPU scalar has no stride of its own: the rest decides.
    if (iter.ndim() != 1) {
      return false;
    }
    for (int i = 0; i < count; ++i) {
      if (!is_scalar[i] && iter.strides(i)[0] != iter.element_size(i)) {
        return false;
      }
    }
    return true;
  }();
  const Vectors vectors = vectors_of(iter, is_scalar, contiguous, unroll);
  const bool vector = vectors.width > 1;
  const bool ahead = vector ? vectors.twice : unroll && iter.numel() >= kLarge;

  Packer packer;
  for (int i = 0; i < count; ++i) {
    const at::ScalarType compute = promoted ? common : iter.dtype(i);
    if (is_scalar[i]) {
      put_operand(packer, iter.tensor_base(i), compute);
    } else {
      plan.addresses.push_back(packer.put_address(iter.data_ptr(i)));
    }
  }
  const int64_t each = vectors.width * (!ahead ? 1 : vector ? 2 : kSeveral);
  const int64_t threads = (iter.numel() + each - 1) / each;
  // Contiguous elements are counted one by one, as the last vector may lack some; rows' are whole.
  packer.put_index(contiguous ? iter.numel() : iter.numel() / vectors.width, wide);
  int rank = 0;
  if (!contiguous) {
    rank = rank_class(iter.ndim());
    // Of vectors along the innermost dimension.
    const auto along = [&](int d) { return d == 0 ? vectors.width : 1; };
    for (int d = 0; d < rank; ++d) {
      packer.put_index(d < iter.ndim() ? iter.shape()[d] / along(d) : 1, wide);
    }
    for (int i = 0; i < count; ++i) {
      const int64_t item = iter.element_size(i);
      for (int d = 0; d < rank; ++d) {
        const bool moves = d < iter.ndim() && !is_scalar[i];
        packer.put_index(moves ? iter.strides(i)[d] / item * along(d) : 0, wide);
      }
    }
  }
  for (size_t i = 0; i < scalars.size(); ++i) {
    put_scalar(packer, scalars[i], formats[i], common);
  }

  plan.parameters = packer.finish();
  plan.signature = {dtypes, static_cast<uint64_t>(common),
                    vectors.repeated << 20 | scalar_mask << 10 | static_cast<uint64_t>(rank) << 3 |
                        static_cast<uint64_t>(ahead) << 2 | static_cast<uint64_t>(vector) << 1 |
                        static_cast<uint64_t>(wide)};
  plan.groups = grid_of((threads + kThreads - 1) / kThreads);
  return plan;
}

}  // namespace portable_mps
