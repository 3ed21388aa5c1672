// Inner loop of layers with any packed weights: bits of the mask, and the values that it keeps one after the
// other. See kernels.h. Included by kernels.cpp alone.
//
// Values go to the lanes of a register of 16 by an instruction of AVX-512, from a register: on Zen 4 it takes many times
// as long from memory. Without it they go to those of a register of eight by a table of places.
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
inline float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
// The inputs at eight places.
inline Octet gather(const float* inputs, const uint16_t* places) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(places)));
  return _mm256_i32gather_ps(inputs, wide, 4);
}
#else
typedef float Octet __attribute__((vector_size(32)));

inline Octet load_octet(const float* from) { return load_vector<Octet>(from); }
inline Octet load_octet(const BFloat16* from) {
  Octet values;
  for (int lane = 0; lane < 8; ++lane) values[lane] = to_float(from[lane]);
  return values;
}
inline Octet multiply_add(Octet a, Octet b, Octet c) { return a * b + c; }
inline float multiply_add(float a, float b, float c) { return a * b + c; }
inline Octet gather(const float* inputs, const uint16_t* places) {
  Octet values;
  for (int lane = 0; lane < 8; ++lane) values[lane] = inputs[places[lane]];
  return values;
}
#endif

#if defined(__AVX512F__)
constexpr int kExpanded = 16;
typedef __m512 Expanded;

inline Expanded expand(Expanded values, uint32_t bits) {
  // Zeros to put values among: with a mask that clears, Zen 4 waits for what the register held before.
  Expanded zeros = {};
  asm("" : "+v"(zeros), "+v"(values));  // and values from a register
  return _mm512_mask_expand_ps(zeros, static_cast<__mmask16>(bits), values);
}
inline Expanded expanded(const float* values, uint32_t bits) { return expand(_mm512_loadu_ps(values), bits); }
inline Expanded expanded(const BFloat16* values, uint32_t bits) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
  return expand((Expanded)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16), bits);
}
inline Expanded load_inputs(const float* from) { return _mm512_loadu_ps(from); }
inline Expanded multiply_add(Expanded a, Expanded b, Expanded c) { return _mm512_fmadd_ps(a, b, c); }
inline float sum_of(Expanded lanes) { return _mm512_reduce_add_ps(lanes); }
#else
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

constexpr int kExpanded = 8;
typedef Octet Expanded;

template <class Value>
inline Expanded expanded(const Value* values, uint32_t bits) {
  return expand(load_octet(values), bits);
}
inline Expanded load_inputs(const float* from) { return load_octet(from); }
inline float sum_of(Expanded lanes) {
  float sum = 0;
  for (int lane = 0; lane < kExpanded; ++lane) sum += lanes[lane];
  return sum;
}
#endif

// sums[i] = the kept weights of one output times input i; inputs are padded to whole words and lie `apart`
// from one another. Nothing beyond end[32] is read, whatever the masks.
template <class Value, int kBatch>
void dot_kept(const uint32_t* masks, int64_t words, const Value* values, const Value* end,
              const float* inputs, int64_t apart, float* sums) {
  Expanded totals[kBatch][2] = {};
  for (int64_t word = 0; word < words; ++word, inputs += 32) {
    const uint32_t mask = masks[word];
    if (values > end) values = end;
    // A word takes two lines of floats at most.
    prefetch_ahead(values + kAhead);
    if constexpr (sizeof(Value) == 4) prefetch_ahead(values + kAhead + 16);
#pragma GCC unroll 4
    for (int part = 0; part < 32 / kExpanded; ++part) {
      const int from = kExpanded * part, before = __builtin_popcount(mask & ((1u << from) - 1));
      const Expanded weights = expanded(values + before, (mask >> from) & ((1u << kExpanded) - 1));
      for (int b = 0; b < kBatch; ++b)
        totals[b][part % 2] = multiply_add(weights, load_inputs(inputs + b * apart + from), totals[b][part % 2]);
    }
    values += __builtin_popcount(mask);
  }
  for (int b = 0; b < kBatch; ++b) sums[b] = sum_of(totals[b][0] + totals[b][1]);
}

// The kept weights of one output, `count` of them at places, times one input. Lane i takes every eighth of them from the
// i-th on; lanes are added in order.
template <class Value>
void dot_places_1(const uint16_t* places, const Value* values, int64_t count, const float* inputs, float* sum) {
  Octet lanes = {};
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    prefetch_ahead(values + i + kAhead);
    prefetch_ahead(places + i + kAhead);
    lanes = multiply_add(load_octet(values + i), gather(inputs, places + i), lanes);
  }
  float each[8];
  __builtin_memcpy(each, &lanes, sizeof each);
  for (int lane = 0; i < count; ++i, ++lane)
    each[lane] = multiply_add(to_float(values[i]), inputs[places[i]], each[lane]);
  *sum = each[0];
  for (int lane = 1; lane < 8; ++lane) *sum += each[lane];
}

// The same of eight inputs side by side, inputs[feature][8].
template <class Value>
void dot_places_8(const uint16_t* places, const Value* values, int64_t count, const float* inputs, float* sums) {
  Octet lanes[8] = {};
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    prefetch_ahead(values + i + kAhead);
    prefetch_ahead(places + i + kAhead);
#pragma GCC unroll 8
    for (int lane = 0; lane < 8; ++lane) {
      const Octet weight = to_float(values[i + lane]) - Octet{};
      lanes[lane] = multiply_add(weight, load_octet(inputs + 8 * int64_t{places[i + lane]}), lanes[lane]);
    }
  }
  Octet each[8];
  __builtin_memcpy(each, lanes, sizeof each);
  for (int lane = 0; i < count; ++i, ++lane)
    each[lane] = multiply_add(to_float(values[i]) - Octet{}, load_octet(inputs + 8 * int64_t{places[i]}), each[lane]);
  for (int lane = 1; lane < 8; ++lane) each[0] += each[lane];
  __builtin_memcpy(sums, each, sizeof each[0]);
}

}  // namespace
}  // namespace supermask
