// Which dispatches need a barrier before them.
//
// Kernels reach memory through raw addresses, so neither the driver nor slangpy can know what
// depends on what. The tracker holds the byte ranges that dispatches since the last barrier read
// and wrote.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace portable_mps {

struct Range {
  uint64_t begin;
  uint64_t end;

  bool overlaps(const Range& other) const { return begin < other.end && other.begin < end; }
};

class HazardTracker {
 public:
  // Whether a dispatch with these accesses must wait for earlier ones; remembers the accesses.
  // A true answer obliges the caller to record a barrier first.
  bool access(const std::vector<Range>& reads, const std::vector<Range>& writes);

  // Everything recorded so far is behind a barrier.
  void reset();

 private:
  // Past this many ranges a barrier is cheaper than the search.
  static constexpr size_t kMaxRanges = 64;

  std::vector<Range> reads_;
  std::vector<Range> writes_;
};

}  // namespace portable_mps
