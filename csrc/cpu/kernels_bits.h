// Where the weights of a matrix are +scale and -scale; see kernels.h. Included by kernels.cpp alone.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels.h"

namespace supermask {
namespace {

// Sixteen weights that equal `value` as bits, the first lowest.
#if defined(__AVX512F__)
inline uint64_t sixteen_equal(const float* weights, float value) {
  return _mm512_cmp_ps_mask(_mm512_loadu_ps(weights), _mm512_set1_ps(value), _CMP_EQ_OQ);
}
#elif defined(__AVX2__)
inline uint64_t sixteen_equal(const float* weights, float value) {
  const __m256 wanted = _mm256_set1_ps(value);
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(weights), wanted, _CMP_EQ_OQ));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(weights + 8), wanted, _CMP_EQ_OQ));
  return static_cast<uint64_t>(low | high << 8);
}
#else
inline uint64_t sixteen_equal(const float* weights, float value) {
  uint64_t bits = 0;
  for (int i = 0; i < 16; ++i) bits |= static_cast<uint64_t>(weights[i] == value) << i;
  return bits;
}
#endif

inline uint64_t equal_bits(const float* weights, int64_t count, float value) {
  uint64_t bits = 0;
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) bits |= sixteen_equal(weights + i, value) << i;
  for (; i < count; ++i) bits |= static_cast<uint64_t>(weights[i] == value) << i;
  return bits;
}

bool sign_bits(const float* weights, int64_t count, float scale, uint64_t* plus, uint64_t* minus) {
  *plus = equal_bits(weights, count, scale);
  *minus = equal_bits(weights, count, -scale);
  const uint64_t all = count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
  return (*plus | *minus | equal_bits(weights, count, 0.0f)) == all;
}

// By exchanging ever smaller squares.
void transpose_bits(uint64_t* words) {
  uint64_t mask = 0x00000000FFFFFFFFu;
  for (int size = 32; size > 0; size /= 2, mask ^= mask << size)
    for (int i = 0; i < 64; i = (i + size + 1) & ~size) {
      const uint64_t moved = ((words[i] >> size) ^ words[i + size]) & mask;
      words[i] ^= moved << size;
      words[i + size] ^= moved;
    }
}

#if !defined(__AVX512VBMI2__)
// Byte k of an entry is the place of the k-th bit that is set in the entry's index.
struct PlacesOfByte {
  uint64_t places[256] = {};

  constexpr PlacesOfByte() {
    for (int byte = 0; byte < 256; ++byte)
      for (int bit = 0, found = 0; bit < 8; ++bit)
        if (byte >> bit & 1) places[byte] |= static_cast<uint64_t>(bit) << (8 * found++);
  }
};

constexpr PlacesOfByte kPlacesOfByte;
#endif

inline uint8_t* places_of_bits(uint64_t bits, int base, uint8_t* to, const uint8_t* end) {
#if defined(__AVX512VBMI2__)
  uint64_t iota[8];
  for (uint64_t i = 0; i < 8; ++i)
    iota[i] = 0x0706050403020100u + 0x0101010101010101u * (8 * i + static_cast<uint64_t>(base));
  const __m512i places = _mm512_maskz_compress_epi8(bits, _mm512_loadu_si512(iota));
  const int count = __builtin_popcountll(bits);
  if (end - to >= 64)
    _mm512_storeu_si512(to, places);
  else
    _mm512_mask_storeu_epi8(to, _bzhi_u64(~uint64_t{0}, static_cast<unsigned>(count)), places);
  return to + count;
#else
  // Eight places at a time, however many count, and all bytes, however many bits are left: no branch waits for the bits.
  if (end - to >= 64) {
#pragma GCC unroll 8
    for (int byte = 0; byte < 8; ++byte, bits >>= 8, base += 8) {
      const uint64_t places = kPlacesOfByte.places[bits & 255] + 0x0101010101010101u * static_cast<uint64_t>(base);
      __builtin_memcpy(to, &places, sizeof places);
      to += __builtin_popcountll(bits & 255);
    }
    return to;
  }
  for (; bits; bits &= bits - 1) *to++ = static_cast<uint8_t>(base + __builtin_ctzll(bits));
  return to;
#endif
}

uint8_t* list_rows(const uint64_t* const* plus, const uint64_t* const* minus, int64_t rows, uint8_t* listed,
                   uint8_t* next, const uint8_t* end, int32_t* starts) {
  for (int64_t row = 0; row < rows; ++row, starts += 2) {
    for (int half = 0; half < 2; ++half) next = places_of_bits(plus[half][row], 64 * half, next, end);
    starts[0] = static_cast<int32_t>(next - listed);
    for (int half = 0; half < 2; ++half) next = places_of_bits(minus[half][row], 64 * half, next, end);
    starts[1] = static_cast<int32_t>(next - listed);
  }
  return next;
}

int64_t count_bits(const uint64_t* words, int64_t count) {
  int64_t bits = 0;
  for (int64_t i = 0; i < count; ++i) bits += __builtin_popcountll(words[i]);
  return bits;
}

}  // namespace
}  // namespace supermask
