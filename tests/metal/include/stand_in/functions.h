// Common, integer and mathematical functions (specification, chapter 6). float is IEEE 754's here, denormals included.
#pragma once

namespace metal {

// min and max: where one argument is a NaN, the other; of equal ones (+0 and -0), the first.
inline float fmax(float x, float y) { return x != x ? y : (x < y ? y : x); }
inline float fmin(float x, float y) { return x != x ? y : (y < x ? y : x); }
inline half fmax(half x, half y) { return x != x ? y : (x < y ? y : x); }
inline half fmin(half x, half y) { return x != x ? y : (y < x ? y : x); }

#define METAL_FLOATING(T)                                                        \
  inline T max(T x, T y) { return fmax(x, y); }                                  \
  inline T min(T x, T y) { return fmin(x, y); }                                  \
  inline T clamp(T x, T low, T high) { return fmin(fmax(x, low), high); }        \
  inline T fabs(T x) { return T(__builtin_fabsf(float(x))); }                    \
  inline T abs(T x) { return fabs(x); }                                          \
  inline T rint(T x) { return T(__builtin_rintf(float(x))); }                    \
  inline T round(T x) { return T(__builtin_roundf(float(x))); }                  \
  inline T floor(T x) { return T(__builtin_floorf(float(x))); }                  \
  inline T ceil(T x) { return T(__builtin_ceilf(float(x))); }                    \
  inline T trunc(T x) { return T(__builtin_truncf(float(x))); }                  \
  inline T sqrt(T x) { return T(__builtin_sqrtf(float(x))); }                    \
  inline T rsqrt(T x) { return T(1.0f / __builtin_sqrtf(float(x))); }            \
  inline T fmod(T x, T y) { return T(__builtin_fmodf(float(x), float(y))); }     \
  inline T copysign(T x, T y) { return T(__builtin_copysignf(float(x), float(y))); } \
  inline T exp(T x) { return T(__builtin_expf(float(x))); }                      \
  inline T exp2(T x) { return T(__builtin_exp2f(float(x))); }                    \
  inline T log(T x) { return T(__builtin_logf(float(x))); }                      \
  inline T log2(T x) { return T(__builtin_log2f(float(x))); }                    \
  inline T sin(T x) { return T(__builtin_sinf(float(x))); }                      \
  inline T cos(T x) { return T(__builtin_cosf(float(x))); }                      \
  inline T tanh(T x) { return T(__builtin_tanhf(float(x))); }                    \
  inline T pow(T x, T y) { return T(__builtin_powf(float(x), float(y))); }       \
  inline bool isnan(T x) { return x != x; }                                      \
  inline bool isinf(T x) { return __builtin_isinf(float(x)); }                   \
  inline bool isfinite(T x) { return __builtin_isfinite(float(x)); }             \
  inline bool signbit(T x) { return __builtin_signbit(float(x)); }
METAL_FLOATING(float)
METAL_FLOATING(half)
#undef METAL_FLOATING

// One rounding. A product of halves is exact in float, and double has room for the sum of that and a half.
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline half fma(half a, half b, half c) { return half(double(float(a) * float(b)) + double(c)); }

#define METAL_INTEGER(T)                                                         \
  inline T max(T x, T y) { return x < y ? y : x; }                               \
  inline T min(T x, T y) { return y < x ? y : x; }                               \
  inline T clamp(T x, T low, T high) { return min(max(x, low), high); }
METAL_INTEGER(char)
METAL_INTEGER(signed char)
METAL_INTEGER(uchar)
METAL_INTEGER(short)
METAL_INTEGER(ushort)
METAL_INTEGER(int)
METAL_INTEGER(uint)
METAL_INTEGER(long)
METAL_INTEGER(ulong)
#undef METAL_INTEGER
// `9LL` is a long in Metal, which has no long long; here it is another type.
inline long max(long x, long long y) { return max(x, long(y)); }
inline long min(long x, long long y) { return min(x, long(y)); }
inline long max(long long x, long y) { return max(long(x), y); }
inline long min(long long x, long y) { return min(long(x), y); }
inline ulong max(ulong x, unsigned long long y) { return max(x, ulong(y)); }
inline ulong min(ulong x, unsigned long long y) { return min(x, ulong(y)); }
inline long clamp(long x, long long low, long long high) { return clamp(x, long(low), long(high)); }
inline long clamp(long x, long long low, long high) { return clamp(x, long(low), high); }
inline long clamp(long x, long low, long long high) { return clamp(x, low, long(high)); }

// The most negative number has no absolute value: it stays, as an unsigned one.
inline int abs(int x) { return x < 0 ? int(0u - uint(x)) : x; }
inline long abs(long x) { return x < 0 ? long(0ul - ulong(x)) : x; }

// Leading and trailing zeros: of zero, as many as there are bits.
inline uint clz(uint x) { return x == 0 ? 32 : uint(__builtin_clz(x)); }
inline int clz(int x) { return int(clz(uint(x))); }
inline ulong clz(ulong x) { return x == 0 ? 64 : ulong(__builtin_clzl(x)); }
inline long clz(long x) { return long(clz(ulong(x))); }
inline ushort clz(ushort x) { return x == 0 ? 16 : ushort(__builtin_clz(x) - 16); }
inline uchar clz(uchar x) { return x == 0 ? 8 : uchar(__builtin_clz(x) - 24); }
inline uint ctz(uint x) { return x == 0 ? 32 : uint(__builtin_ctz(x)); }
inline int ctz(int x) { return int(ctz(uint(x))); }
inline ulong ctz(ulong x) { return x == 0 ? 64 : ulong(__builtin_ctzl(x)); }
inline uint popcount(uint x) { return uint(__builtin_popcount(x)); }
inline int popcount(int x) { return __builtin_popcount(uint(x)); }
inline ulong popcount(ulong x) { return ulong(__builtin_popcountl(x)); }
inline uint mulhi(uint a, uint b) { return uint(ulong(a) * b >> 32); }
inline int mulhi(int a, int b) { return int(long(a) * b >> 32); }
inline uint reverse_bits(uint x) {
  uint result = 0;
  for (int i = 0; i < 32; ++i) result |= (x >> i & 1u) << (31 - i);
  return result;
}

#define METAL_BY_COMPONENT_1(NAME)                                               \
  template <typename T, int N>                                                   \
  inline vec<T, N> NAME(const vec<T, N>& x) {                                    \
    vec<T, N> result;                                                            \
    for (int i = 0; i < N; ++i) result.v[i] = NAME(x.v[i]);                      \
    return result;                                                               \
  }
#define METAL_BY_COMPONENT_2(NAME)                                               \
  template <typename T, int N>                                                   \
  inline vec<T, N> NAME(const vec<T, N>& x, const vec<T, N>& y) {                \
    vec<T, N> result;                                                            \
    for (int i = 0; i < N; ++i) result.v[i] = NAME(x.v[i], y.v[i]);              \
    return result;                                                               \
  }
#define METAL_BY_COMPONENT_3(NAME)                                               \
  template <typename T, int N>                                                   \
  inline vec<T, N> NAME(const vec<T, N>& x, const vec<T, N>& y, const vec<T, N>& z) { \
    vec<T, N> result;                                                            \
    for (int i = 0; i < N; ++i) result.v[i] = NAME(x.v[i], y.v[i], z.v[i]);      \
    return result;                                                               \
  }
METAL_BY_COMPONENT_1(abs)
METAL_BY_COMPONENT_1(floor)
METAL_BY_COMPONENT_1(rint)
METAL_BY_COMPONENT_1(sqrt)
METAL_BY_COMPONENT_2(min)
METAL_BY_COMPONENT_2(max)
METAL_BY_COMPONENT_3(fma)
METAL_BY_COMPONENT_3(clamp)
#undef METAL_BY_COMPONENT_1
#undef METAL_BY_COMPONENT_2
#undef METAL_BY_COMPONENT_3

}  // namespace metal
