// Scalars, vectors, packed vectors and arrays (specification, chapter 2).
#pragma once

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
typedef unsigned long size_t;
typedef _Float16 half;  // -fexcess-precision=16 has every operation rounded

// Says what a kernel did wrong; the run goes on, and the dispatch fails with the first such message.
extern "C" void metal_fault(const char* message, long value, long limit);

template <typename To, typename From>
inline To as_type(From value) {
  static_assert(sizeof(To) == sizeof(From), "as_type keeps the size");
  To result;
  __builtin_memcpy(&result, &value, sizeof(To));
  return result;
}

// A float's upper half, rounded to the nearest even (2.1); operators go through float.
struct bfloat {
  ushort word;
  bfloat() = default;
  template <typename Number>
  explicit bfloat(Number number) {
    const float value = static_cast<float>(number);
    const uint bits = as_type<uint>(value);
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    word = is_nan ? ushort(bits >> 16 | 0x40u) : ushort((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
  operator float() const { return as_type<float>(uint(word) << 16); }
};

namespace metal {

// An index past the end reads and writes the first element, and is reported.
template <typename T, int N>
struct array {
  T elements[N];
  T& operator[](long i) { return elements[checked(i)]; }
  const T& operator[](long i) const { return elements[checked(i)]; }
  static long checked(long i) {
    if (__builtin_expect(ulong(i) >= ulong(N), 0)) {
      metal_fault("an index outside of an array", i, N);
      return 0;
    }
    return i;
  }
};

// Components by name, for each number of them.
template <typename T, int N>
struct components;
template <typename T>
struct components<T, 2> {
  union {
    T v[2];
    struct { T x, y; };
    struct { T r, g; };
  };
};
template <typename T>
struct components<T, 3> {
  union {
    T v[3];
    struct { T x, y, z; };
    struct { T r, g, b; };
  };
};
template <typename T>
struct components<T, 4> {
  union {
    T v[4];
    struct { T x, y, z, w; };
    struct { T r, g, b, a; };
  };
};

template <bool Condition>
struct enable;
template <>
struct enable<true> { typedef int type; };

// A vector of three is as large as one of four (2.2); a packed one is no larger than its components, and aligned as one.
template <typename T, int N, bool Packed>
struct alignas(Packed ? alignof(T) : (N == 3 ? 4 : N) * sizeof(T)) vector : components<T, N> {
  using components<T, N>::v;
  vector() = default;
  explicit vector(T all) {
    for (int i = 0; i < N; ++i) v[i] = all;
  }
  template <typename... Each, typename enable<sizeof...(Each) == N>::type = 0>
  vector(Each... each) : components<T, N>{{{static_cast<T>(each)...}}} {}
  // Between packed and not, implicitly; between types of components, when asked.
  template <bool Other, typename enable<Other != Packed>::type = 0>
  vector(const vector<T, N, Other>& other) {
    for (int i = 0; i < N; ++i) v[i] = other.v[i];
  }
  template <typename U, bool Other>
  explicit vector(const vector<U, N, Other>& other);
  T& operator[](long i) { return v[array<T, N>::checked(i)]; }
  const T& operator[](long i) const { return v[array<T, N>::checked(i)]; }
};

template <typename T, int N>
using vec = vector<T, N, false>;

#define METAL_VECTORS(T)           \
  typedef vector<T, 2, false> T##2; \
  typedef vector<T, 3, false> T##3; \
  typedef vector<T, 4, false> T##4; \
  typedef vector<T, 2, true> packed_##T##2; \
  typedef vector<T, 3, true> packed_##T##3; \
  typedef vector<T, 4, true> packed_##T##4;
METAL_VECTORS(float)
METAL_VECTORS(half)
METAL_VECTORS(bfloat)
METAL_VECTORS(int)
METAL_VECTORS(uint)
METAL_VECTORS(short)
METAL_VECTORS(ushort)
METAL_VECTORS(char)
METAL_VECTORS(uchar)
METAL_VECTORS(long)
METAL_VECTORS(ulong)
METAL_VECTORS(bool)
#undef METAL_VECTORS

#define METAL_OPERATOR(SYMBOL)                                                               \
  template <typename T, int N, bool P, bool Q>                                                \
  inline vec<T, N> operator SYMBOL(const vector<T, N, P>& a, const vector<T, N, Q>& b) {      \
    vec<T, N> result;                                                                         \
    for (int i = 0; i < N; ++i) result.v[i] = static_cast<T>(a.v[i] SYMBOL b.v[i]);           \
    return result;                                                                            \
  }                                                                                           \
  template <typename T, int N, bool P>                                                        \
  inline vec<T, N> operator SYMBOL(const vector<T, N, P>& a, T b) {                           \
    return a SYMBOL vec<T, N>(b);                                                             \
  }                                                                                           \
  template <typename T, int N, bool P>                                                        \
  inline vec<T, N> operator SYMBOL(T a, const vector<T, N, P>& b) {                           \
    return vec<T, N>(a) SYMBOL b;                                                             \
  }                                                                                           \
  template <typename T, int N, bool P, typename U>                                            \
  inline vector<T, N, P>& operator SYMBOL##=(vector<T, N, P>& a, const U& b) {                \
    return a = a SYMBOL b;                                                                    \
  }
METAL_OPERATOR(+)
METAL_OPERATOR(-)
METAL_OPERATOR(*)
METAL_OPERATOR(/)
METAL_OPERATOR(%)
METAL_OPERATOR(&)
METAL_OPERATOR(|)
METAL_OPERATOR(^)
METAL_OPERATOR(<<)
METAL_OPERATOR(>>)
#undef METAL_OPERATOR

#define METAL_COMPARISON(SYMBOL)                                                              \
  template <typename T, int N, bool P, bool Q>                                                \
  inline vec<bool, N> operator SYMBOL(const vector<T, N, P>& a, const vector<T, N, Q>& b) {   \
    vec<bool, N> result;                                                                      \
    for (int i = 0; i < N; ++i) result.v[i] = a.v[i] SYMBOL b.v[i];                           \
    return result;                                                                            \
  }
METAL_COMPARISON(==)
METAL_COMPARISON(!=)
METAL_COMPARISON(<)
METAL_COMPARISON(<=)
METAL_COMPARISON(>)
METAL_COMPARISON(>=)
#undef METAL_COMPARISON

#define METAL_UNARY(SYMBOL)                                                                   \
  template <typename T, int N, bool P>                                                        \
  inline vec<T, N> operator SYMBOL(const vector<T, N, P>& a) {                                \
    vec<T, N> result;                                                                         \
    for (int i = 0; i < N; ++i) result.v[i] = static_cast<T>(SYMBOL a.v[i]);                  \
    return result;                                                                            \
  }
METAL_UNARY(-)
METAL_UNARY(~)
METAL_UNARY(!)
#undef METAL_UNARY

template <int N>
inline bool all(const vec<bool, N>& a) {
  for (int i = 0; i < N; ++i)
    if (!a.v[i]) return false;
  return true;
}
template <int N>
inline bool any(const vec<bool, N>& a) { return !all(!a); }
template <typename T, int N>
inline vec<T, N> select(const vec<T, N>& otherwise, const vec<T, N>& chosen, const vec<bool, N>& c) {
  vec<T, N> result;
  for (int i = 0; i < N; ++i) result.v[i] = c.v[i] ? chosen.v[i] : otherwise.v[i];
  return result;
}
template <typename T>
inline T select(T otherwise, T chosen, bool c) { return c ? chosen : otherwise; }

}  // namespace metal
