// Matrices of 8x8 that a simdgroup holds, two elements a thread (specification, 2.4 and 6.7). Which thread has which is
// not said; here thread t has row t / 4, columns t % 4 * 2 and the next.
#pragma once

namespace metal {

template <typename T, int Columns, int Rows>
struct simdgroup_matrix {
  static_assert(Columns == 8 && Rows == 8, "Metal has no other shapes");
  T own[2];
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T diagonal) {
    for (uint i = 0; i < 2; ++i) own[i] = row() == column() + i ? diagonal : T(0.0f);
  }
  vec<T, 2>& thread_elements() { return *reinterpret_cast<vec<T, 2>*>(own); }
  static uint row() { return metal_lane / 4; }
  static uint column() { return metal_lane % 4 * 2; }
};

typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;

template <typename T, int Columns, int Rows>
simdgroup_matrix<T, Columns, Rows> make_filled_simdgroup_matrix(T value) {
  simdgroup_matrix<T, Columns, Rows> result;
  result.own[0] = result.own[1] = value;
  return result;
}

// matrix_origin is (column, row) in the matrix that lies in memory.
template <typename T>
inline ulong place_of(uint element, ulong elements_per_row, vec<ulong, 2> origin, bool transpose) {
  typedef simdgroup_matrix<T, 8, 8> Matrix;
  const ulong row = Matrix::row(), column = Matrix::column() + element;
  return (origin.y + (transpose ? column : row)) * elements_per_row + origin.x + (transpose ? row : column);
}

template <typename T>
inline void simdgroup_load(simdgroup_matrix<T, 8, 8>& matrix, const T* source, ulong elements_per_row = 8,
                           vec<ulong, 2> origin = vec<ulong, 2>(0ul), bool transpose = false) {
  for (uint i = 0; i < 2; ++i) matrix.own[i] = source[place_of<T>(i, elements_per_row, origin, transpose)];
}
template <typename T>
inline void simdgroup_store(const simdgroup_matrix<T, 8, 8>& matrix, T* target, ulong elements_per_row = 8,
                            vec<ulong, 2> origin = vec<ulong, 2>(0ul), bool transpose = false) {
  for (uint i = 0; i < 2; ++i) target[place_of<T>(i, elements_per_row, origin, transpose)] = matrix.own[i];
}

// d = a * b + c: all threads of the simdgroup take part. Products and sums are taken in float here, rows in order.
template <typename D, typename A, typename B, typename C>
inline void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                          const simdgroup_matrix<B, 8, 8>& b, const simdgroup_matrix<C, 8, 8>& c,
                                          int line = __builtin_LINE()) {
  const float given[4] = {float(a.own[0]), float(a.own[1]), float(b.own[0]), float(b.own[1])};
  __builtin_memcpy(metal_exchange(metal_lane), given, sizeof(given));
  metal_simdgroup_barrier(line);
  const uint row = metal_lane / 4, column = metal_lane % 4 * 2;
  float sums[2] = {float(c.own[0]), float(c.own[1])};
  for (uint k = 0; k < 8; ++k) {
    const float left = static_cast<const float*>(metal_exchange(row * 4 + k / 2))[k % 2];
    const float* const right = static_cast<const float*>(metal_exchange(k * 4 + column / 2)) + 2;
    for (uint i = 0; i < 2; ++i) sums[i] = __builtin_fmaf(left, right[i], sums[i]);
  }
  metal_simdgroup_barrier(line);
  for (uint i = 0; i < 2; ++i) d.own[i] = D(sums[i]);
}
template <typename D, typename A, typename B>
inline void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                               const simdgroup_matrix<B, 8, 8>& b, int line = __builtin_LINE()) {
  simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<float, 8, 8>(0.0f), line);
}

}  // namespace metal
