// Products of inputs rounded to int8 with weights -1, 0 and +1; see kernels.h. Included by kernels.cpp and, for the
// instructions that it adds, by kernels_vnni.cpp.
//
// A weight w is the code w + 1, so that codes are unsigned and inputs signed, as the instructions want them; the sum
// of the inputs is subtracted at the end. All sums are exact: a pair of products is at most 2 · 2 · 127, so 64 pairs
// fit 16 bits, and 32 bits hold more inputs than a layer has.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels.h"

namespace supermask {
namespace {

constexpr int64_t kBytesAhead = 4096;  // to prefetch ahead of those in use
constexpr int kQuarters = 4;  // fields of two bits in a byte, each for the next four inputs

#if defined(__AVX512BW__)
struct Bytes {
  static constexpr int kLanes = 16;  // outputs, each with four inputs
  using Vector = __m512i;
  static Vector load(const void* from) { return _mm512_loadu_si512(from); }
  static Vector in_every_lane(int32_t value) { return _mm512_set1_epi32(value); }
  static Vector add16(Vector a, Vector b) { return _mm512_add_epi16(a, b); }
  static Vector add32(Vector a, Vector b) { return _mm512_add_epi32(a, b); }
  static Vector pairs(Vector codes, Vector x) { return _mm512_maddubs_epi16(codes, x); }
  static Vector pairs16(Vector a) { return _mm512_madd_epi16(a, _mm512_set1_epi16(1)); }
  template <int kQuarter>
  static Vector field(Vector bytes) {
    return _mm512_and_si512(_mm512_srli_epi16(bytes, 2 * kQuarter), _mm512_set1_epi8(3));
  }
};
#elif defined(__AVX2__)
struct Bytes {
  static constexpr int kLanes = 8;
  using Vector = __m256i;
  static Vector load(const void* from) { return _mm256_loadu_si256(static_cast<const Vector*>(from)); }
  static Vector in_every_lane(int32_t value) { return _mm256_set1_epi32(value); }
  static Vector add16(Vector a, Vector b) { return _mm256_add_epi16(a, b); }
  static Vector add32(Vector a, Vector b) { return _mm256_add_epi32(a, b); }
  static Vector pairs(Vector codes, Vector x) { return _mm256_maddubs_epi16(codes, x); }
  static Vector pairs16(Vector a) { return _mm256_madd_epi16(a, _mm256_set1_epi16(1)); }
  template <int kQuarter>
  static Vector field(Vector bytes) {
    return _mm256_and_si256(_mm256_srli_epi16(bytes, 2 * kQuarter), _mm256_set1_epi8(3));
  }
};
#endif

inline int32_t four_bytes(const int8_t* from) {
  int32_t value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

#if defined(__AVX2__)
inline void store_as_floats(float* to, Bytes::Vector sums) {
  typedef int32_t Integers __attribute__((vector_size(4 * Bytes::kLanes)));
  typedef float Numbers __attribute__((vector_size(4 * Bytes::kLanes)));
  const Numbers values = __builtin_convertvector((Integers)sums, Numbers);
  __builtin_memcpy(to, &values, sizeof values);
}

// Keeps the compiler from adding up products in an order for which registers do not suffice.
inline void settle_bytes(Bytes::Vector& sum) { asm volatile("" : "+v"(sum)); }

#if defined(__AVX512VNNI__)
constexpr int64_t kMostBlocks = INT64_MAX;
#else
constexpr int64_t kMostBlocks = 16;  // of 16 inputs: 64 pairs
#endif

// kVectors registers of outputs for kBatch inputs: sums of 32 bits with VNNI, else of 16.
template <int kQuarter, int kVectors, int kBatch>
inline void add_quarter(const Bytes::Vector (&bytes)[kVectors], const int8_t* inputs,
                        Bytes::Vector (&sums)[kVectors][kBatch]) {
  Bytes::Vector codes[kVectors];
  for (int v = 0; v < kVectors; ++v) codes[v] = Bytes::field<kQuarter>(bytes[v]);
  for (int b = 0; b < kBatch; ++b) {
    const Bytes::Vector x = Bytes::in_every_lane(four_bytes(inputs + 4 * (kQuarter * kBatch + b)));
    for (int v = 0; v < kVectors; ++v) {
#if defined(__AVX512VNNI__)
      sums[v][b] = _mm512_dpbusd_epi32(sums[v][b], codes[v], x);
#else
      sums[v][b] = Bytes::add16(sums[v][b], Bytes::pairs(codes[v], x));
#endif
      settle_bytes(sums[v][b]);
    }
  }
}

// Adds the products with `blocks`, at most kMostBlocks, of 16 inputs.
template <int kVectors, int kBatch>
inline void add_blocks(const uint8_t* fields, int64_t stride, int64_t blocks, const int8_t* inputs,
                       Bytes::Vector (&wide)[kVectors][kBatch]) {
#if defined(__AVX512VNNI__)
  auto& sums = wide;
#else
  Bytes::Vector sums[kVectors][kBatch] = {};
#endif
  for (int64_t block = 0; block < blocks; ++block, fields += stride, inputs += 16 * kBatch) {
    Bytes::Vector bytes[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      bytes[v] = Bytes::load(fields + 4 * Bytes::kLanes * v);
      __builtin_prefetch(fields + 4 * Bytes::kLanes * v + kBytesAhead);
    }
    add_quarter<0>(bytes, inputs, sums);
    add_quarter<1>(bytes, inputs, sums);
    add_quarter<2>(bytes, inputs, sums);
    add_quarter<3>(bytes, inputs, sums);
  }
#if !defined(__AVX512VNNI__)
  for (int v = 0; v < kVectors; ++v)
    for (int b = 0; b < kBatch; ++b) wide[v][b] = Bytes::add32(wide[v][b], Bytes::pairs16(sums[v][b]));
#endif
}

template <int kVectors, int kBatch>
void multiply_part(const uint8_t* fields, int64_t stride, int64_t blocks, const int8_t* inputs,
                   const int32_t* sum_of_inputs, float* sums, int64_t apart) {
  Bytes::Vector wide[kVectors][kBatch];
  for (int v = 0; v < kVectors; ++v)
    for (int b = 0; b < kBatch; ++b) wide[v][b] = Bytes::in_every_lane(-sum_of_inputs[b]);
  while (blocks > 0) {
    const int64_t some = blocks < kMostBlocks ? blocks : kMostBlocks;
    add_blocks(fields, stride, some, inputs, wide);
    fields += some * stride, inputs += some * 16 * kBatch, blocks -= some;
  }
  for (int b = 0; b < kBatch; ++b)
    for (int v = 0; v < kVectors; ++v) store_as_floats(sums + b * apart + Bytes::kLanes * v, wide[v][b]);
}

template <int kGroups, int kBatch>
void multiply_groups(const uint8_t* fields, int64_t blocks, const int8_t* inputs, const int32_t* sum_of_inputs,
                     float* sums) {
  constexpr int kAll = 16 * kGroups / Bytes::kLanes;
  // What the registers hold: 32 of them, or 16.
  constexpr int kMost = (Bytes::kLanes == 16 ? 16 : 8) / (kBatch == 3 ? 4 : kBatch);
  constexpr int kVectors = kAll < kMost ? kAll : kMost;
  int v = 0;
  for (; v + kVectors <= kAll; v += kVectors)
    multiply_part<kVectors, kBatch>(fields + 4 * Bytes::kLanes * v, 64 * kGroups, blocks, inputs, sum_of_inputs,
                                    sums + Bytes::kLanes * v, 16 * kGroups);
  if constexpr (kAll % kVectors != 0)
    multiply_part<kAll % kVectors, kBatch>(fields + 4 * Bytes::kLanes * v, 64 * kGroups, blocks, inputs,
                                           sum_of_inputs, sums + Bytes::kLanes * v, 16 * kGroups);
}
#else
template <int kGroups, int kBatch>
void multiply_groups(const uint8_t* fields, int64_t blocks, const int8_t* inputs, const int32_t* sum_of_inputs,
                     float* sums) {
  constexpr int kOutputs = 16 * kGroups;
  for (int b = 0; b < kBatch; ++b) {
    int32_t all[kOutputs];
    for (int o = 0; o < kOutputs; ++o) all[o] = -sum_of_inputs[b];
    for (int64_t block = 0; block < blocks; ++block)
      for (int quarter = 0; quarter < kQuarters; ++quarter) {
        const int8_t* x = inputs + 4 * ((block * kQuarters + quarter) * kBatch + b);
        const uint8_t* bytes = fields + block * 4 * kOutputs;
        for (int o = 0; o < kOutputs; ++o)
          for (int i = 0; i < 4; ++i) all[o] += (bytes[4 * o + i] >> (2 * quarter) & 3) * x[i];
      }
    for (int o = 0; o < kOutputs; ++o) sums[b * kOutputs + o] = static_cast<float>(all[o]);
  }
}
#endif

template <int kBatch>
void multiply_int8(const uint8_t* fields, int64_t blocks, int64_t groups, const int8_t* inputs,
                   const int32_t* sum_of_inputs, float* sums) {
  switch (groups) {
    case 1: return multiply_groups<1, kBatch>(fields, blocks, inputs, sum_of_inputs, sums);
    case 2: return multiply_groups<2, kBatch>(fields, blocks, inputs, sum_of_inputs, sums);
    case 3: return multiply_groups<3, kBatch>(fields, blocks, inputs, sum_of_inputs, sums);
    default: return multiply_groups<4, kBatch>(fields, blocks, inputs, sum_of_inputs, sums);
  }
}

// Rounds half to even, for magnitudes far below 2^22: the sum has no bits left for fractions.
inline float rounded(float value) {
  constexpr float kShift = 12582912.0f;  // 1.5 · 2^23
  return (value + kShift) - kShift;
}

RoundedRow round_to_int8(const float* inputs, int64_t count, int8_t* rounded_inputs) {
  constexpr int32_t kInfinity = 0x7F800000;
  int32_t largest = 0;  // bits of magnitudes are in the order of the magnitudes, NaN last
  for (int64_t i = 0; i < count; ++i) {
    int32_t bits;
    __builtin_memcpy(&bits, inputs + i, sizeof bits);
    bits &= INT32_MAX;
    largest = bits > largest ? bits : largest;
  }
  float magnitude;
  __builtin_memcpy(&magnitude, &largest, sizeof magnitude);
  RoundedRow row = {magnitude / 127.0f, 0};
  if (largest >= kInfinity) row.scale = __builtin_nanf("");
  if (!(row.scale > 0)) {
    for (int64_t i = 0; i < count; ++i) rounded_inputs[i] = 0;
    return row;
  }
  for (int64_t i = 0; i < count; ++i) {
    float value = inputs[i] / row.scale;  // beyond 127 where the scale is denormal
    value = value > 127.0f ? 127.0f : value;
    value = value < -127.0f ? -127.0f : value;
    const int32_t integer = static_cast<int32_t>(rounded(value));
    rounded_inputs[i] = static_cast<int8_t>(integer);
    row.sum += integer;
  }
  return row;
}

}  // namespace
}  // namespace supermask
