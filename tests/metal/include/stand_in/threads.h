// Workgroups ("threadgroups"), their memory and barriers, and simdgroups of 32 threads (specification, 4.4, 6.9).
#pragma once

namespace metal {

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4, mem_threadgroup_imageblock = 8 };
inline mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }

}  // namespace metal

extern "C" {
// Let the others run until all of the workgroup, or of the simdgroup, have come to the barrier of that line.
void metal_workgroup_barrier(int line, int flags);
void metal_simdgroup_barrier(int line);
// 16 bytes of each thread of the simdgroup, for the others to read; `lane` is the caller's own.
extern uint metal_lane;
void* metal_exchange(uint lane);
// Counts the workgroups that have begun.
extern ulong metal_workgroup;
// That the workgroup has this memory.
void metal_has_workgroup_memory(void* address, long bytes);
}

namespace metal {

inline void threadgroup_barrier(mem_flags flags, int line = __builtin_LINE()) {
  metal_workgroup_barrier(line, int(flags));
}
inline void simdgroup_barrier(mem_flags, int line = __builtin_LINE()) { metal_simdgroup_barrier(line); }

// A variable in workgroup memory. Metal does not initialise it: every workgroup finds NaNs, or -1 of an integer.
template <typename T>
struct Threadgroup {
  alignas(16) unsigned char bytes[sizeof(T)];
  ulong workgroup;
  __attribute__((no_sanitize("thread"))) T& get() {
    if (workgroup != metal_workgroup) {
      workgroup = metal_workgroup;
      __builtin_memset(bytes, 0xff, sizeof(T));
      metal_has_workgroup_memory(bytes, sizeof(T));
    }
    return *reinterpret_cast<T*>(bytes);
  }
};

// The caller's place in the simdgroup. What the simdgroup exchanges is not the kernel's memory: a watch leaves it alone.
__attribute__((no_sanitize("thread"))) inline uint simd_lane() { return metal_lane; }

// What thread `lane` of the simdgroup passes for `value`; a lane that is not there gives what is left in its place.
template <typename T>
__attribute__((no_sanitize("thread"))) inline T simd_shuffle(T value, ushort lane, int line = __builtin_LINE()) {
  static_assert(sizeof(T) <= 16, "an exchange has 16 bytes");
  __builtin_memcpy(metal_exchange(metal_lane), &value, sizeof(T));
  metal_simdgroup_barrier(line);
  T result;
  __builtin_memcpy(&result, metal_exchange(lane & 31u), sizeof(T));
  metal_simdgroup_barrier(line);
  return result;
}
template <typename T>
inline T simd_shuffle_xor(T value, ushort mask, int line = __builtin_LINE()) {
  return simd_shuffle(value, ushort(simd_lane() ^ mask), line);
}
template <typename T>
inline T simd_broadcast(T value, ushort lane, int line = __builtin_LINE()) { return simd_shuffle(value, lane, line); }

}  // namespace metal
