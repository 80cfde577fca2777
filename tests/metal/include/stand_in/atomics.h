// Atomic functions (specification, 6.15). Threads run in turn and change only at barriers, so plain accesses are atomic
// here. Until Metal 3.2 there is no order but relaxed, and no compare-and-exchange but the weak one, which may fail
// although it finds what it expects: here one in eight does.
#pragma once

enum memory_order { memory_order_relaxed };

// Whether this weak exchange fails for no reason.
extern "C" bool metal_fails_spuriously();
// That an atomic access to these bytes is being made (tests/metal/watch.cpp).
extern "C" void metal_atomic_access(const void* address, long bytes);

#define METAL_UNWATCHED __attribute__((no_sanitize("thread")))

namespace metal {

template <typename T>
struct _atomic { T value; };
typedef _atomic<uint> atomic_uint;
typedef _atomic<int> atomic_int;
typedef _atomic<float> atomic_float;
typedef _atomic<bool> atomic_bool;

template <typename T>
METAL_UNWATCHED inline T& atomic_place(const volatile _atomic<T>* object) {
  metal_atomic_access(const_cast<_atomic<T>*>(object), sizeof(T));
  return const_cast<_atomic<T>*>(object)->value;
}

template <typename T>
METAL_UNWATCHED inline T atomic_load_explicit(const volatile _atomic<T>* object, memory_order) {
  return atomic_place(object);
}
template <typename T, typename U>
METAL_UNWATCHED inline void atomic_store_explicit(volatile _atomic<T>* object, U desired, memory_order) {
  atomic_place(object) = T(desired);
}
template <typename T, typename U>
METAL_UNWATCHED inline bool atomic_compare_exchange_weak_explicit(volatile _atomic<T>* object, T* expected, U desired,
                                                                  memory_order, memory_order) {
  T& place = atomic_place(object);
  if (__builtin_memcmp(&place, expected, sizeof(T)) != 0) {
    *expected = place;
    return false;
  }
  if (metal_fails_spuriously()) return false;
  place = T(desired);
  return true;
}

#define METAL_ATOMIC(NAME, RESULT)                                                                       \
  template <typename T, typename U>                                                                      \
  METAL_UNWATCHED inline T atomic_##NAME##_explicit(volatile _atomic<T>* object, U operand, memory_order) { \
    T& place = atomic_place(object);                                                                     \
    const T old = place, value = T(operand);                                                             \
    place = RESULT;                                                                                      \
    return old;                                                                                          \
  }
METAL_ATOMIC(exchange, value)
METAL_ATOMIC(fetch_add, T(old + value))
METAL_ATOMIC(fetch_sub, T(old - value))
METAL_ATOMIC(fetch_and, T(old & value))
METAL_ATOMIC(fetch_or, T(old | value))
METAL_ATOMIC(fetch_xor, T(old ^ value))
METAL_ATOMIC(fetch_min, value < old ? value : old)
METAL_ATOMIC(fetch_max, old < value ? value : old)
#undef METAL_ATOMIC

}  // namespace metal
