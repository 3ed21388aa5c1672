// The transpose of a matrix of floats, which lists want of their inputs and give of their sums; see kernels.h. Included
// by kernels.cpp alone.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels.h"

namespace supermask {
namespace {

#if defined(__AVX2__)
inline void transpose_eight(const float* from, int64_t apart, float* to, int64_t to_apart) {
  __m256 rows[8], pairs[8];
  for (int i = 0; i < 8; ++i) rows[i] = _mm256_loadu_ps(from + i * apart);
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; ++j) {
      rows[i + 2 * j] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0x44);
      rows[i + 2 * j + 1] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0xEE);
    }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(to + i * to_apart, _mm256_permute2f128_ps(rows[i], rows[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * to_apart, _mm256_permute2f128_ps(rows[i], rows[i + 4], 0x31));
  }
}
#endif

void transpose(const float* from, int64_t rows, int64_t columns, int64_t apart, float* to, int64_t to_apart) {
  int64_t row = 0;
#if defined(__AVX2__)
  for (; row + 8 <= rows; row += 8) {
    int64_t column = 0;
    if (row + 16 <= rows)  // the next rows, which often lie too far off for the processor to foresee them
      for (int64_t i = row + 8; i < row + 16; ++i)
        for (int64_t at = 0; at < columns; at += 16) __builtin_prefetch(from + i * apart + at);
    for (; column + 8 <= columns; column += 8)
      transpose_eight(from + row * apart + column, apart, to + column * to_apart + row, to_apart);
    for (; column < columns; ++column)
      for (int64_t i = row; i < row + 8; ++i) to[column * to_apart + i] = from[i * apart + column];
  }
#endif
  for (; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) to[column * to_apart + row] = from[row * apart + column];
}

}  // namespace
}  // namespace supermask
