// Products with weights +1, -1 and 0 from two planes of bits; see kernels.h. Included by kernels.cpp alone.
//
// Three bits of a plane name the inputs of a triple that are added (first plane) or subtracted (second), and look up
// their sum among the eight there are. A table fills one register of eight floats, and a look-up is one instruction
// that takes the lowest three bits of a lane as they stand; tables of signed sums (kernels_packed.h) need sixteen.
#pragma once

#include "kernels.h"
#include "kernels_packed.h"

namespace supermask {
namespace {

constexpr int kPlaneTriples = 10;  // in a word, its lowest bits first; two bits are left

void subset_sums(const float* inputs, int64_t triples, float* tables) {
  typedef float Eight __attribute__((vector_size(32)));
  constexpr Eight kDigits[3] = {{0, 1, 0, 1, 0, 1, 0, 1}, {0, 0, 1, 1, 0, 0, 1, 1}, {0, 0, 0, 0, 1, 1, 1, 1}};
  for (int64_t t = 0; t < triples; ++t, inputs += 3) {
    const Eight sums = kDigits[0] * inputs[0] + kDigits[1] * inputs[1] + kDigits[2] * inputs[2];
    __builtin_memcpy(tables + 8 * t, &sums, sizeof sums);
  }
}

#if defined(__AVX512F__)
inline Floats load_sums(const float* table) { return (Floats)_mm512_broadcast_f32x8(_mm256_loadu_ps(table)); }

inline Floats pick_sums(Floats table, Words32 bits) {
  return (Floats)_mm512_permutexvar_ps((__m512i)bits, (__m512)table);
}
#elif defined(__AVX2__)
inline Floats load_sums(const float* table) { return load_vector<Floats>(table); }

inline Floats pick_sums(Floats table, Words32 bits) {
  return (Floats)_mm256_permutevar8x32_ps((__m256)table, (__m256i)bits);
}
#else
inline const float* load_sums(const float* table) { return table; }

inline Floats pick_sums(const float* table, Words32 bits) {
  Floats picked;
  for (int lane = 0; lane < kLaneCount; ++lane) picked[lane] = table[bits[lane] & 7u];
  return picked;
}
#endif

// kVectors registers of outputs for kBatch inputs, whose tables and sums lie `apart` and `out_apart` from each other.
template <int kVectors, int kBatch>
inline void add_planes_part(const uint32_t* planes, int64_t words, int64_t stride, const float* tables,
                            int64_t apart, float* out, int64_t out_apart) {
  Floats sums[kVectors][kBatch];
  for (int v = 0; v < kVectors; ++v)
    for (int b = 0; b < kBatch; ++b) sums[v][b] = load_vector<Floats>(out + b * out_apart + kLaneCount * v);
  for (int64_t word = 0; word < words; ++word, planes += 2 * stride) {
    Words32 plus[kVectors], minus[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      plus[v] = load_vector<Words32>(planes + kLaneCount * v);
      minus[v] = load_vector<Words32>(planes + stride + kLaneCount * v);
      prefetch_ahead(planes + kLaneCount * v + kAhead);
      prefetch_ahead(planes + stride + kLaneCount * v + kAhead);
    }
#pragma GCC unroll 10
    for (int triple = 0; triple < kPlaneTriples; ++triple, tables += 8) {
      for (int b = 0; b < kBatch; ++b) {
        const auto table = load_sums(tables + b * apart);
        for (int v = 0; v < kVectors; ++v) {
          sums[v][b] += pick_sums(table, plus[v]);
          settle(sums[v][b]);
          sums[v][b] -= pick_sums(table, minus[v]);
          settle(sums[v][b]);
        }
      }
      for (int v = 0; v < kVectors; ++v) plus[v] >>= 3, minus[v] >>= 3;
    }
  }
  for (int b = 0; b < kBatch; ++b)
    for (int v = 0; v < kVectors; ++v) store_vector(out + b * out_apart + kLaneCount * v, sums[v][b]);
}

template <int kGroups, int kBatch>
void add_planes_groups(const uint32_t* planes, int64_t words, const float* tables, int64_t apart, float* out) {
  constexpr int64_t kStride = 16 * kGroups;
  constexpr int kAll = kGroups * kParts;
  constexpr int kMost = kLaneCount == 16 ? 4 : kBatch == 1 ? 4 : 2;  // what the registers hold
  constexpr int kVectors = kAll < kMost ? kAll : kMost;
  int v = 0;
  for (; v + kVectors <= kAll; v += kVectors)
    add_planes_part<kVectors, kBatch>(planes + kLaneCount * v, words, kStride, tables, apart, out + kLaneCount * v,
                                      kStride);
  if constexpr (kAll % kVectors != 0)
    add_planes_part<kAll % kVectors, kBatch>(planes + kLaneCount * v, words, kStride, tables, apart,
                                             out + kLaneCount * v, kStride);
}

template <int kBatch>
void add_planes(const uint32_t* planes, int64_t words, int64_t groups, const float* tables, int64_t apart,
                float* out) {
  switch (groups) {
    case 1: return add_planes_groups<1, kBatch>(planes, words, tables, apart, out);
    case 2: return add_planes_groups<2, kBatch>(planes, words, tables, apart, out);
    case 3: return add_planes_groups<3, kBatch>(planes, words, tables, apart, out);
    default: return add_planes_groups<4, kBatch>(planes, words, tables, apart, out);
  }
}

}  // namespace
}  // namespace supermask
