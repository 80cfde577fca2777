// A floating-point number becomes an integer by rounding towards zero. What does not fit is saturated and NaN becomes
// zero, as Apple's GPUs do; the specification leaves it open. A cast is written as a call, so a macro can take it.
#pragma once

namespace metal {

template <typename T>
struct is_floating { static constexpr bool value = false; };
template <>
struct is_floating<float> { static constexpr bool value = true; };
template <>
struct is_floating<half> { static constexpr bool value = true; };
template <>
struct is_floating<bfloat> { static constexpr bool value = true; };

template <typename To, bool FromFloating>
struct Cast {
  template <typename From>
  static constexpr To of(From value) { return To(value); }
};
template <typename To>
struct Cast<To, true> {
  static constexpr To of(float value) {
    constexpr bool is_signed = To(-1) < To(0);
    constexpr int bits = sizeof(To) * 8 - (is_signed ? 1 : 0);
    constexpr To most = is_signed ? To(~(1ul << (sizeof(To) * 8 - 1))) : To(~0ul);
    constexpr To least = is_signed ? To(1ul << (sizeof(To) * 8 - 1)) : To(0);
    constexpr float limit = 2.0f * float(1ul << (bits - 1));
    if (value != value) return 0;
    if (value >= limit) return most;
    if (value <= (is_signed ? -limit : -1.0f)) return least;
    return To(value);
  }
};

template <typename To, typename From>
constexpr To cast(From value) { return Cast<To, is_floating<From>::value>::of(value); }
template <typename To>
constexpr To cast() { return To(); }

template <typename T, int N, bool Packed>
template <typename U, bool Other>
inline vector<T, N, Packed>::vector(const vector<U, N, Other>& other) {
  for (int i = 0; i < N; ++i) v[i] = Cast<T, is_floating<U>::value && !is_floating<T>::value>::of(other.v[i]);
}

}  // namespace metal

#define char(...) ::metal::cast<char>(__VA_ARGS__)
#define uchar(...) ::metal::cast<uchar>(__VA_ARGS__)
#define short(...) ::metal::cast<short>(__VA_ARGS__)
#define ushort(...) ::metal::cast<ushort>(__VA_ARGS__)
#define int(...) ::metal::cast<int>(__VA_ARGS__)
#define uint(...) ::metal::cast<uint>(__VA_ARGS__)
#define long(...) ::metal::cast<long>(__VA_ARGS__)
#define ulong(...) ::metal::cast<ulong>(__VA_ARGS__)
#define int8_t(...) ::metal::cast<int8_t>(__VA_ARGS__)
#define uint8_t(...) ::metal::cast<uint8_t>(__VA_ARGS__)
#define int16_t(...) ::metal::cast<int16_t>(__VA_ARGS__)
#define uint16_t(...) ::metal::cast<uint16_t>(__VA_ARGS__)
#define int32_t(...) ::metal::cast<int32_t>(__VA_ARGS__)
#define uint32_t(...) ::metal::cast<uint32_t>(__VA_ARGS__)
#define int64_t(...) ::metal::cast<int64_t>(__VA_ARGS__)
#define uint64_t(...) ::metal::cast<uint64_t>(__VA_ARGS__)
