// Inner loop of layers with any packed weights: bits of the mask, and the values that it keeps one after the
// other. See kernels.h. Included by kernels.cpp alone.
//
// Eight weights at a time and by a table of places, also where registers hold 16 and an instruction expands
// them: on Zen 4 it takes more than twice the time.
#pragma once

#include "kernels_packed.h"

namespace supermask {
namespace {

#if defined(__AVX2__)
typedef __m256 Octet;

inline Octet load_octet(const float* from) { return _mm256_loadu_ps(from); }
inline Octet load_octet(const BFloat16* from) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return (Octet)_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16);
}
inline Octet multiply_add(Octet a, Octet b, Octet c) { return _mm256_fmadd_ps(a, b, c); }
#else
typedef float Octet __attribute__((vector_size(32)));

inline Octet load_octet(const float* from) { return load_vector<Octet>(from); }
inline Octet load_octet(const BFloat16* from) {
  Octet values;
  for (int lane = 0; lane < 8; ++lane) values[lane] = to_float(from[lane]);
  return values;
}
inline Octet multiply_add(Octet a, Octet b, Octet c) { return a * b + c; }
#endif

// The first values go, in order, to the lanes whose bit is set, and zeros to the others.
#if defined(__AVX2__)
// For every eight bits and lane the place of its value; -128 marks lanes that take one.
struct Places {
  int8_t of[256][8] = {};

  constexpr Places() {
    for (int bits = 0; bits < 256; ++bits)
      for (int lane = 0, next = 0; lane < 8; ++lane)
        if ((bits >> lane) & 1) of[bits][lane] = static_cast<int8_t>(next++ - 128);
  }
};
constexpr Places kPlaces;

inline Octet expand(Octet values, uint32_t bits) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPlaces.of[bits]));
  const __m256i places = _mm256_cvtepi8_epi32(bytes);
  const __m256 moved = _mm256_permutevar8x32_ps(values, places);
  return _mm256_and_ps(moved, (__m256)_mm256_srai_epi32(places, 31));
}
#else
inline Octet expand(Octet values, uint32_t bits) {
  Octet expanded = {};
  for (int lane = 0, next = 0; lane < 8; ++lane)
    if ((bits >> lane) & 1u) expanded[lane] = values[next++];
  return expanded;
}
#endif

// sums[i] = the kept weights of one output times input i; inputs are padded to whole words and lie `apart`
// from one another. Nothing beyond end[32] is read, whatever the masks.
template <class Value, int kBatch>
void dot_kept(const uint32_t* masks, int64_t words, const Value* values, const Value* end,
              const float* inputs, int64_t apart, float* sums) {
  Octet totals[kBatch][2] = {};
  for (int64_t word = 0; word < words; ++word, inputs += 32) {
    const uint32_t mask = masks[word];
    if (values > end) values = end;
    // A word takes two lines of floats at most.
    __builtin_prefetch(values + kAhead);
    if constexpr (sizeof(Value) == 4) __builtin_prefetch(values + kAhead + 16);
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) {
      const int before = __builtin_popcount(mask & ((1u << 8 * part) - 1));
      const Octet weights = expand(load_octet(values + before), (mask >> 8 * part) & 255u);
      for (int b = 0; b < kBatch; ++b)
        totals[b][part % 2] =
            multiply_add(weights, load_octet(inputs + b * apart + 8 * part), totals[b][part % 2]);
    }
    values += __builtin_popcount(mask);
  }
  for (int b = 0; b < kBatch; ++b) {
    const Octet both = totals[b][0] + totals[b][1];
    float sum = 0;
    for (int lane = 0; lane < 8; ++lane) sum += both[lane];
    sums[b] = sum;
  }
}

}  // namespace
}  // namespace supermask
