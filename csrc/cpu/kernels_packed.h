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

// Sums of three inputs under all weights -1, 0 and +1, up to the sign: entry i, below 14, of a triple's table
// of 16 is d0 x0 + d1 x1 + d2 x2, where d are the digits of i in balanced ternary.
void triple_sums(const float* inputs, int64_t triples, float* tables) {
  for (int part = 0; part < kParts; ++part) {
    Floats digits[3];
    for (int lane = 0; lane < kLaneCount; ++lane) {
      int number = part * kLaneCount + lane;
      for (Floats& digit : digits) {
        const int remainder = (number + 1) % 3 - 1;
        digit[lane] = static_cast<float>(remainder);
        number = (number - remainder) / 3;
      }
    }
    for (int64_t t = 0; t < triples; ++t) {
      const float* x = inputs + 3 * t;
      const Floats sums = digits[0] * x[0] + digits[1] * x[1] + digits[2] * x[2];
      store_vector(tables + 16 * t + part * kLaneCount, sums);
    }
  }
}

// A table in registers. A code says which entry in its lowest four bits, and in the next one the sign.
#if defined(__AVX512F__)
struct Table {
  Floats positive, negative;
};

inline Table load_table(const float* from) {
  const Floats positive = load_vector<Floats>(from);
  return {positive, -positive};
}

inline Floats pick(const Table& table, Words32 codes) {
  return (Floats)_mm512_permutex2var_ps((__m512)table.positive, (__m512i)codes, (__m512)table.negative);
}
#elif defined(__AVX2__)
struct Table {
  Floats low, high;
};

inline Table load_table(const float* from) {
  return {load_vector<Floats>(from), load_vector<Floats>(from + 8)};
}

inline Floats pick(const Table& table, Words32 codes) {
  const __m256 low = _mm256_permutevar8x32_ps((__m256)table.low, (__m256i)codes);
  const __m256 high = _mm256_permutevar8x32_ps((__m256)table.high, (__m256i)codes);
  const __m256 entry = _mm256_blendv_ps(low, high, (__m256)(codes << 28));
  return (Floats)_mm256_xor_ps(entry, (__m256)((codes << 27) & 0x80000000u));
}
#else
struct Table {
  const float* entries;
};

inline Table load_table(const float* from) { return {from}; }

inline Floats pick(const Table& table, Words32 codes) {
  Floats picked;
  for (int lane = 0; lane < kLaneCount; ++lane) {
    const float entry = table.entries[codes[lane] & 15u];
    picked[lane] = codes[lane] & 16u ? -entry : entry;
  }
  return picked;
}
#endif

// Down by kBits within the lower half of each word; the upper half holds anything.
template <int kBits>
inline Words32 shift_half(Words32 words) {
#if defined(__AVX512F__)
  // Zen 4 shifts in the two units that permute, which are busiest here, but multiplies in others.
  if constexpr (kBits > 0) {
    const __m512i factor = _mm512_set1_epi16(static_cast<short>(1 << (16 - kBits)));
    return (Words32)_mm512_mulhi_epu16((__m512i)words, factor);
  }
#endif
  return words >> kBits;
}

// Keeps the compiler from gathering look-ups ahead of the additions, for which registers do not suffice.
inline void settle([[maybe_unused]] Floats& sum) {
#if defined(__AVX2__)
  asm volatile("" : "+v"(sum));
#endif
}

template <int kCode, int kVectors, int kBatch>
inline void look_up_code(const Words32 (&fields)[kVectors], const float* tables, int64_t tables_apart,
                         Floats (&sums)[kVectors][kBatch]) {
  Words32 codes[kVectors];
  for (int v = 0; v < kVectors; ++v) codes[v] = shift_half<5 * (kCode % 3)>(fields[v]);
  for (int b = 0; b < kBatch; ++b) {
    const Table table = load_table(tables + b * tables_apart + 16 * kCode);
    for (int v = 0; v < kVectors; ++v) {
      sums[v][b] += pick(table, codes[v]);
      settle(sums[v][b]);
    }
  }
}

// Words to prefetch ahead of those in use, 8 KB, into the second cache: what the first one waits for at once is too
// little for the time that memory takes to answer.
constexpr int64_t kAhead = 2048;

inline void prefetch_ahead(const void* from) { __builtin_prefetch(from, 0, 2); }

// kVectors registers of outputs for kBatch inputs. A lane is an output; its word holds 18 weights.
template <int kVectors, int kBatch>
inline void look_up_part(const uint32_t* codes, int64_t words, int64_t stride, const float* tables,
                         float* out, int64_t out_apart) {
  Floats sums[kVectors][kBatch] = {};
  const int64_t apart = 96 * words;
  for (int64_t word = 0; word < words; ++word, codes += stride, tables += 96) {
    Words32 fields[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      fields[v] = load_vector<Words32>(codes + kLaneCount * v);
      prefetch_ahead(codes + kLaneCount * v + kAhead);
    }
    look_up_code<0>(fields, tables, apart, sums);
    look_up_code<1>(fields, tables, apart, sums);
    look_up_code<2>(fields, tables, apart, sums);
    for (int v = 0; v < kVectors; ++v) fields[v] >>= 16;
    look_up_code<3>(fields, tables, apart, sums);
    look_up_code<4>(fields, tables, apart, sums);
    look_up_code<5>(fields, tables, apart, sums);
  }
  for (int b = 0; b < kBatch; ++b)
    for (int v = 0; v < kVectors; ++v) store_vector(out + b * out_apart + kLaneCount * v, sums[v][b]);
}

template <int kGroups, int kBatch>
void look_up_groups(const uint32_t* codes, int64_t words, const float* tables, float* out) {
  constexpr int64_t kStride = 16 * kGroups;
  if constexpr (kParts == 1)
    return look_up_part<kGroups, kBatch>(codes, words, kStride, tables, out, kStride);
  // 16 registers hold the sums of one group and input, or of half a group and four.
  constexpr int kVectors = kBatch == 1 ? 2 : 1;
  for (int64_t lane = 0; lane < kStride; lane += kVectors * kLaneCount)
    look_up_part<kVectors, kBatch>(codes + lane, words, kStride, tables, out + lane, kStride);
}

template <int kBatch>
void look_up(const uint32_t* codes, int64_t words, int64_t groups, const float* tables, float* out) {
  switch (groups) {
    case 1: return look_up_groups<1, kBatch>(codes, words, tables, out);
    case 2: return look_up_groups<2, kBatch>(codes, words, tables, out);
    case 3: return look_up_groups<3, kBatch>(codes, words, tables, out);
    default: return look_up_groups<4, kBatch>(codes, words, tables, out);
  }
}

}  // namespace
}  // namespace supermask
