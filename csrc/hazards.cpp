#include "hazards.h"

#include <algorithm>

namespace portable_mps {
namespace {

bool any_overlap(const std::vector<Range>& a, const std::vector<Range>& b) {
  return std::any_of(a.begin(), a.end(), [&](const Range& range) {
    return std::any_of(b.begin(), b.end(),
                       [&](const Range& other) { return range.overlaps(other); });
  });
}

}  // namespace

bool HazardTracker::access(const std::vector<Range>& reads, const std::vector<Range>& writes) {
  const bool conflict = any_overlap(writes, writes_) || any_overlap(reads, writes_) ||
                        any_overlap(writes, reads_) || reads_.size() + writes_.size() > kMaxRanges;
  if (conflict) {
    reset();
  }
  reads_.insert(reads_.end(), reads.begin(), reads.end());
  writes_.insert(writes_.end(), writes.begin(), writes.end());
  return conflict;
}

void HazardTracker::reset() {
  reads_.clear();
  writes_.clear();
}

}  // namespace portable_mps
