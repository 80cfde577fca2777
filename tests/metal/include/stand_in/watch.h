// Follows the memory accesses of kernels that are compiled to tell them (`--metal-watch`: g++'s -fsanitize=thread calls
// the functions below, and its own library is left out). Two accesses of which one writes need a barrier between them,
// unless both are atomic; accesses outside of what a dispatch was told to read or write are faults, too.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

extern "C" void metal_fault(const char* message, long value, long limit);

namespace watch {

struct Range {
  uint64_t begin, end;
};

// Of a byte: who wrote and who read it last, and when. A clock counts what orders accesses of a workgroup's threads: a
// write is seen past a barrier that names its memory, and a read is over at any barrier.
struct Access {
  uint32_t workgroup = 0;  // of the process; 0: none
  uint32_t clock = 0, simdgroup_clock = 0;
  uint16_t thread = 0;
  bool atomic = false, many = false;  // threads of the workgroup, or of several
};
struct Cell {
  Access write, read;
};

constexpr uint64_t kPage = 1024;
constexpr unsigned kSimdgroups = 32;  // of a workgroup, at most

struct Page {
  Cell cells[kPage];
};

inline bool enabled = false;
inline unsigned thread_index, workgroup_clock, device_clock, any_clock, workgroup_number, first_workgroup;
inline unsigned simdgroup_clocks[kSimdgroups];
inline std::vector<Range> workgroup_ranges, reads, writes;
inline const char* stack_begin;
inline const char* stack_end;
inline std::unordered_map<uint64_t, std::unique_ptr<Page>> pages;

// Its stack lies between these.
inline void thread(unsigned index, const void* begin, const void* end) {
  thread_index = index;
  stack_begin = static_cast<const char*>(begin);
  stack_end = static_cast<const char*>(end);
}
// flags: those of mem_flags; what is not named is not ordered.
inline void barrier(int flags) {
  ++any_clock;
  workgroup_clock += (flags & 2) != 0;
  device_clock += (flags & 1) != 0;
}
inline void simdgroup_barrier(unsigned simdgroup) { ++simdgroup_clocks[simdgroup]; }
inline void workgroup() {
  ++workgroup_number;
  ++any_clock;
  ++workgroup_clock;
  ++device_clock;
}
inline void workgroup_memory(const void* address, long bytes) {
  const auto begin = reinterpret_cast<uint64_t>(address);
  for (const Range& each : workgroup_ranges) {
    if (each.begin == begin) return;
  }
  workgroup_ranges.push_back({begin, begin + bytes});
}
inline void begin_dispatch() {
  first_workgroup = workgroup_number + 1;
  workgroup_ranges.clear();
}

inline bool within(const std::vector<Range>& ranges, uint64_t begin, uint64_t end) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [&](const Range& each) { return each.begin <= begin && end <= each.end; });
}

// Whether `before` may be at the same time as an access of this thread.
inline bool races(const Access& before, unsigned clock, bool atomic, bool shared) {
  if (before.workgroup < first_workgroup || (before.atomic && atomic)) return false;
  if (before.workgroup != workgroup_number) return !shared;
  if (before.clock != clock || (before.thread == thread_index && !before.many)) return false;
  const unsigned simdgroup = thread_index / 32;
  return before.many || before.thread / 32 != simdgroup || before.simdgroup_clock == simdgroup_clocks[simdgroup];
}

inline void note(Access& access, unsigned clock, bool atomic) {
  const bool same = access.workgroup >= first_workgroup && access.clock == clock &&
                    access.workgroup == workgroup_number && access.thread != thread_index;
  access = {workgroup_number, clock, simdgroup_clocks[thread_index / 32], uint16_t(thread_index), atomic, same};
}

inline void access(const void* address, long bytes, bool is_write, bool atomic) {
  if (!enabled) return;
  const auto* const place = static_cast<const char*>(address);
  if (place >= stack_begin && place < stack_end) return;
  const auto begin = reinterpret_cast<uint64_t>(address), end = begin + bytes;
  const bool shared = within(workgroup_ranges, begin, end);
  if (!shared && !within(writes, begin, end)) {
    if (atomic && (within(writes, begin, begin + 1) || within(writes, end - 1, end))) {
      // The word around an element of one or two bytes.
    } else if (is_write) {
      metal_fault("a write outside of what the dispatch says that it writes", long(begin), bytes);
      return;
    } else if (!within(reads, begin, end)) {
      metal_fault("a read outside of what the dispatch says that it reads", long(begin), bytes);
      return;
    }
  }
  const unsigned clock = shared ? workgroup_clock : device_clock;
  for (uint64_t at = begin; at < end; ++at) {
    std::unique_ptr<Page>& page = pages[at / kPage];
    if (page == nullptr) page = std::make_unique<Page>();
    Cell& cell = page->cells[at % kPage];
    if (races(cell.write, clock, atomic, shared)) {
      metal_fault(is_write ? shared ? "two writes of workgroup memory without a barrier between them"
                                    : "two writes of device memory without a barrier between them"
                  : shared ? "a write and a read of workgroup memory without a barrier between them"
                           : "a write and a read of device memory without a barrier between them",
                  cell.write.thread, bytes);
    } else if (is_write && races(cell.read, any_clock, atomic, shared)) {
      metal_fault(shared ? "a read and a write of workgroup memory without a barrier between them"
                         : "a read and a write of device memory without a barrier between them",
                  cell.read.thread, bytes);
    }
    note(is_write ? cell.write : cell.read, is_write ? clock : any_clock, atomic);
  }
}

}  // namespace watch

extern "C" {

void metal_atomic_access(const void* address, long bytes) { watch::access(address, bytes, true, true); }

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_read_range(void* address, long bytes) { watch::access(address, bytes, false, false); }
void __tsan_write_range(void* address, long bytes) { watch::access(address, bytes, true, false); }
#define METAL_HOOKS(BYTES)                                                                             \
  void __tsan_read##BYTES(void* address) { watch::access(address, BYTES, false, false); }              \
  void __tsan_write##BYTES(void* address) { watch::access(address, BYTES, true, false); }              \
  void __tsan_unaligned_read##BYTES(void* address) { watch::access(address, BYTES, false, false); }    \
  void __tsan_unaligned_write##BYTES(void* address) { watch::access(address, BYTES, true, false); }
METAL_HOOKS(1)
METAL_HOOKS(2)
METAL_HOOKS(4)
METAL_HOOKS(8)
METAL_HOOKS(16)
#undef METAL_HOOKS

}  // extern "C"
