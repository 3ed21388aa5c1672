// Inner loops of layers with packed signed-constant weights; see kernels.h. Included by kernels.cpp alone.
//
// A weight is +σ, -σ or 0, so a product with it is an addition, a subtraction or nothing, and σ is applied
// once at the end.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels.h"

namespace supermask {
namespace {

// As many floats as a register holds; kParts registers make 16.
#if defined(__AVX512F__)
constexpr int kLaneCount = 16;
#elif defined(__AVX2__)
constexpr int kLaneCount = 8;
#else
constexpr int kLaneCount = 4;
#endif
constexpr int kParts = 16 / kLaneCount;

typedef float Floats __attribute__((vector_size(4 * kLaneCount)));
typedef uint32_t Words32 __attribute__((vector_size(4 * kLaneCount)));
typedef int32_t Lanes __attribute__((vector_size(4 * kLaneCount)));

template <class Vector>
inline Vector load_vector(const void* from) {
  Vector value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

inline void store_vector(float* to, Floats value) { __builtin_memcpy(to, &value, sizeof value); }

// table[lowest four bits of each word]
inline Floats pick(const float* table, Words32 words) {
#if defined(__AVX512F__)
  return (Floats)_mm512_permutexvar_ps((__m512i)words, _mm512_loadu_ps(table));
#elif defined(__AVX2__)
  const __m256i index = (__m256i)words;
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index);
  const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), index);
  return (Floats)_mm256_blendv_ps(low, high, (__m256)_mm256_slli_epi32(index, 28));
#else
  Floats picked;
  for (int lane = 0; lane < kLaneCount; ++lane) picked[lane] = table[words[lane] & 15u];
  return picked;
#endif
}

// For every four inputs the sums of all 16 subsets; bit i of a subset's number stands for input i.
void subset_sums(const float* inputs, int64_t quads, float* tables) {
  const Floats zero = {};
  for (int part = 0; part < kParts; ++part) {
    Lanes subset;
    for (int lane = 0; lane < kLaneCount; ++lane) subset[lane] = part * kLaneCount + lane;
    for (int64_t q = 0; q < quads; ++q) {
      const float* x = inputs + 4 * q;
      const Floats low = ((subset & 1) ? zero + x[0] : zero) + ((subset & 2) ? zero + x[1] : zero);
      const Floats high = ((subset & 4) ? zero + x[2] : zero) + ((subset & 8) ? zero + x[3] : zero);
      store_vector(tables + 16 * q + part * kLaneCount, low + high);
    }
  }
}

// kGroups times 16 outputs for kBatch inputs: a word holds 32 weights of one output, a lane is an output,
// and four bits of a word at a time pick one of the 16 sums.
template <int kGroups, int kBatch>
inline void look_up_part(const uint32_t* planes, int64_t words, const float* tables, float* out) {
  Floats plus[kGroups][kBatch] = {}, minus[kGroups][kBatch] = {};
  for (int64_t word = 0; word < words; ++word) {
    Words32 kept[kGroups], negative[kGroups];
    for (int g = 0; g < kGroups; ++g) {
      const uint32_t* pair = planes + 32 * (g * words + word);
      kept[g] = load_vector<Words32>(pair);
      negative[g] = load_vector<Words32>(pair + 16);
    }
#pragma GCC unroll 8
    for (int quad = 0; quad < 8; ++quad)
      for (int b = 0; b < kBatch; ++b) {
        const float* table = tables + 128 * (b * words + word) + 16 * quad;
        for (int g = 0; g < kGroups; ++g) {
          plus[g][b] += pick(table, kept[g] >> (4 * quad));
          minus[g][b] += pick(table, negative[g] >> (4 * quad));
        }
      }
  }
  for (int g = 0; g < kGroups; ++g)
    for (int b = 0; b < kBatch; ++b) store_vector(out + 16 * (g * kBatch + b), plus[g][b] - minus[g][b]);
}

template <int kGroups, int kBatch>
void look_up(const uint32_t* planes, int64_t words, const float* tables, float* out) {
  // With 16 registers only one group and one input at a time keep their sums in them.
  if constexpr (kParts == 1) return look_up_part<kGroups, kBatch>(planes, words, tables, out);
  for (int g = 0; g < kGroups; ++g)
    for (int b = 0; b < kBatch; ++b)
      for (int lane = 0; lane < 16; lane += kLaneCount)
        look_up_part<1, 1>(planes + 32 * g * words + lane, words, tables + 128 * b * words,
                           out + 16 * (g * kBatch + b) + lane);
}

// Adds and subtracts the listed rows of a block of inputs, kWidth times 16 of them side by side.
template <int kWidth>
void add_listed(const float* inputs, const uint8_t* entries, const int32_t* starts, int64_t rows, float* sums) {
  constexpr int kVectors = kWidth * kParts;
  for (int64_t row = 0; row < rows; ++row, starts += 2, sums += 16 * kWidth) {
    Floats sum[kVectors];
    for (int v = 0; v < kVectors; ++v) sum[v] = load_vector<Floats>(sums + kLaneCount * v);
    for (int32_t i = starts[0]; i < starts[1]; ++i)
      for (int v = 0; v < kVectors; ++v)
        sum[v] += load_vector<Floats>(inputs + 16 * kWidth * entries[i] + kLaneCount * v);
    for (int32_t i = starts[1]; i < starts[2]; ++i)
      for (int v = 0; v < kVectors; ++v)
        sum[v] -= load_vector<Floats>(inputs + 16 * kWidth * entries[i] + kLaneCount * v);
    for (int v = 0; v < kVectors; ++v) store_vector(sums + kLaneCount * v, sum[v]);
  }
}

}  // namespace
}  // namespace supermask
