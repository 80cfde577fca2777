// What dispatch/lists.py launches over: whether lists of tensors lie in memory alike, and the
// table of their addresses, which is kept while the same tensors come again, as in a training loop.
#include "lists.h"

#include "capture.h"
#include "iterator.h"

#include <ATen/ATen.h>
#include <torch/extension.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <unordered_map>
#include <vector>

namespace portable_mps {
namespace {

using at::Tensor;
using TensorList = std::vector<Tensor>;
using Words = std::vector<int64_t>;

constexpr int64_t kChunk = 4096;    // elements a workgroup, as in kernels/lists.slangh
constexpr int64_t kWide = 4;        // elements that a thread may move as one
constexpr uint32_t kNobody = ~0U;   // owns the workgroups behind the last
constexpr size_t kRemembered = 64;  // tables

struct Table {
  Tensor words;
  Groups groups;

  py::tuple as_tuple(bool is_wide) const {
    return py::make_tuple(words, py::make_tuple(groups[0], groups[1], groups[2]), is_wide);
  }
};

struct Hash {
  size_t operator()(const Words& words) const {
    uint64_t hash = words.size();
    for (const int64_t word : words) {
      hash = (hash ^ static_cast<uint64_t>(word)) * 0x9E3779B97F4A7C15ULL;
      hash ^= hash >> 29;
    }
    return hash;
  }
};

// Whether elements at one place of a shape are at one place in memory in both, and both are dense.
bool is_alike(const Tensor& first, const Tensor& other) {
  if (!first.is_mps() || !other.is_mps() || first.sizes() != other.sizes()) return false;
  if (first.is_contiguous()) return other.is_contiguous();
  // In another order of dimensions, as the weights of a channels_last model.
  return first.strides() == other.strides() && first.is_contiguous(at::MemoryFormat::ChannelsLast);
}

// kernels/lists.slangh says what is where. key: the sizes of `count` tensors, the addresses,
// `count`.
Table make_table(const Words& key, int64_t count) {
  Words words(count + 1);
  std::vector<uint32_t> owners;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t groups = (key[i] + kChunk - 1) / kChunk;
    words[i + 1] = words[i] + groups;
    owners.insert(owners.end(), groups, static_cast<uint32_t>(i));
  }
  Table table;
  table.groups = grid_of(words[count]);
  owners.resize((size_t{table.groups[0]} * table.groups[1] + 1) / 2 * 2, kNobody);
  words.insert(words.end(), key.begin(), key.end() - 1);
  const size_t begin = words.size();
  words.resize(begin + owners.size() / 2);
  std::memcpy(words.data() + begin, owners.data(), owners.size() * sizeof(uint32_t));
  table.words = at::from_blob(words.data(), {static_cast<int64_t>(words.size())}, at::kLong)
                    .to(at::Device(at::kMPS));
  return table;
}

class ListTables {
 public:
  // The table, workgroups and whether vectors of four elements are aligned, of lists of one length
  // whose i-th tensors lie in memory alike, with one dtype a list; None for others. The last
  // `aside` lists are of single elements.
  py::object of(const std::vector<TensorList>& lists, size_t aside) {
    const TensorList& first = lists[0];
    Words key;
    key.reserve(first.size() * (lists.size() + 1));
    for (const Tensor& tensor : first) key.push_back(tensor.numel());
    uint64_t misaligned = 0;
    for (size_t l = 0; l < lists.size(); ++l) {
      if (lists[l].size() != first.size()) return py::none();
      for (size_t i = 0; i < first.size(); ++i) {
        const Tensor& tensor = lists[l][i];
        const bool is_aside = l + aside >= lists.size();
        const bool fits =
            is_aside ? tensor.is_mps() && tensor.numel() == 1 : is_alike(first[i], tensor);
        if (!fits || tensor.dtype() != lists[l][0].dtype()) return py::none();
        const auto address = reinterpret_cast<uint64_t>(tensor.data_ptr());
        if (!is_aside) misaligned |= address % (kWide * tensor.itemsize());
        key.push_back(static_cast<int64_t>(address));
      }
    }
    return find(std::move(key), static_cast<int64_t>(first.size())).as_tuple(misaligned == 0);
  }

  // For tensors that are joined along `dim` into `out`, all contiguous, of one dtype and apart from
  // it: what `of` gives, the rows that each has before that dimension, and the length of a row of
  // `out`. None for others, also for those that cannot be joined. Elements of 16 bytes count twice.
  py::object joining(const TensorList& parts, int64_t dim, const Tensor& out) {
    if (!out.is_mps() || !out.is_contiguous() || out.is_neg() || out.is_conj() || dim < 0 ||
        dim >= out.dim()) {
      return py::none();
    }
    const int64_t bytes = out.itemsize(), size = std::min<int64_t>(bytes, 8), each = bytes / size;
    int64_t rows = 1, width = each, length = 0;
    for (int64_t d = 0; d < out.dim(); ++d) (d < dim ? rows : width) *= out.size(d);
    const int64_t inner = out.size(dim) == 0 ? 0 : width / out.size(dim);
    const auto count = static_cast<int64_t>(parts.size());
    Words key(3 * count);
    uint64_t misaligned = 0;
    for (int64_t i = 0; i < count; ++i) {
      const Tensor& part = parts[i];
      if (!part.is_mps() || part.dtype() != out.dtype() || !part.is_contiguous() || part.is_neg() ||
          part.is_conj() || part.is_alias_of(out) || part.dim() != out.dim()) {
        return py::none();
      }
      for (int64_t d = 0; d < out.dim(); ++d) {
        if (d != dim && part.size(d) != out.size(d)) return py::none();
      }
      key[i] = part.numel() * each;
      key[count + i] = reinterpret_cast<int64_t>(part.data_ptr());
      const int64_t place = length * inner * size;
      key[2 * count + i] = reinterpret_cast<int64_t>(out.data_ptr()) + place;
      misaligned |= (key[count + i] | key[2 * count + i]) % (kWide * size);
      length += part.size(dim);
    }
    if (length != out.size(dim)) return py::none();
    const Table table = find(std::move(key), count);
    return table.as_tuple(misaligned == 0 && rows == 1) +
           py::make_tuple(std::max<int64_t>(rows, 1), width);
  }

 private:
  Table find(Words key, int64_t count) {
    key.push_back(count);
    // A graph fills its table when it runs, which may be after others, and keeps it.
    if (capturing() != nullptr) return make_table(key, count);
    if (const auto known = tables_.find(key); known != tables_.end()) return known->second;
    if (order_.size() >= kRemembered) {
      tables_.erase(order_.front());
      order_.pop_front();
    }
    order_.push_back(key);
    Table table = make_table(key, count);
    return tables_.emplace(std::move(key), std::move(table)).first->second;
  }

  std::unordered_map<Words, Table, Hash> tables_;
  std::deque<Words> order_;
};

}  // namespace

void bind_lists(py::module_& module) {
  module.def("empty_like_each", [](const TensorList& tensors) {
    TensorList results;
    results.reserve(tensors.size());
    for (const Tensor& tensor : tensors) results.push_back(at::empty_like(tensor));
    return results;
  });
  module.def("lie_alike", [](const TensorList& tensors) {
    return std::all_of(tensors.begin(), tensors.end(),
                       [&](const Tensor& tensor) { return is_alike(tensors[0], tensor); });
  });
  py::class_<ListTables>(module, "ListTables")
      .def(py::init<>())
      .def("of", &ListTables::of)
      .def("joining", &ListTables::joining);
}

}  // namespace portable_mps
