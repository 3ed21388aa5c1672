// Sums of the rows of a panel that a list names; see kernels.h. Included by kernels.cpp alone.
//
// Every addition loads a vector of the panel from the first cache, and that is the limit: a Zen 4 core at 3.7 GHz
// loads and adds at most 3.7 G vectors of 64 bytes a second. These loops add 3.0 to 3.3 G of them, and 2.0 G where
// a row is a single vector.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels.h"
#include "kernels_bits.h"
#include "kernels_packed.h"

namespace supermask {
namespace {

// Two chains of sums, as many as hide an addition's latency at most widths, and the same at every width, so that no
// sum depends on what is computed beside it. Sixteen registers of four floats hold only one. Weighted rows need a
// register more, for the weight.
constexpr int kListedChains = kLaneCount > 4 ? 2 : 1, kWeightedChains = kLaneCount > 8 ? 2 : 1;

template <class Value>
inline Floats in_every_lane(const Value* value) {
  return to_float(*value) - Floats{};  // nothing is subtracted: the compiler leaves a broadcast
}

#if defined(__AVX2__)
// One lane's value in every lane.
inline Floats spread(Floats values, int lane) {
#if defined(__AVX512F__)
  return (Floats)_mm512_permutexvar_ps(_mm512_set1_epi32(lane), (__m512)values);
#else
  return (Floats)_mm256_permutevar8x32_ps((__m256)values, _mm256_set1_epi32(lane));
#endif
}
#endif

// a · b + c, where a vector instruction does it in one.
inline Floats add_product(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

alignas(64) constexpr float kZeros[64] = {};

// kWidth times 16 columns side by side.
template <int kWidth, int kChains>
struct Sums {
  static constexpr int kVectors = kWidth * kParts;

  Floats chains[kChains][kVectors] = {};

  template <bool kPlus>
  void add(int chain, const float* values) {
    for (int v = 0; v < kVectors; ++v) {
      const Floats value = load_vector<Floats>(values + kLaneCount * v);
      chains[chain][v] = kPlus ? chains[chain][v] + value : chains[chain][v] - value;
    }
  }

  // The panel's row that an entry names: an address in a register, or every load would add up its own.
  static const float* row_of(const float* panel, uint8_t entry) {
    const float* row = panel + int64_t{16 * kWidth} * entry;
    asm("" : "+r"(row));
    return row;
  }

  // Add or subtract the panel's rows entries[from : to].
  template <bool kPlus>
  void add_run(const float* panel, const uint8_t* entries, int32_t from, int32_t to) {
    constexpr int64_t kFloats = 16 * kWidth;
    for (; from + kChains <= to; from += kChains)
      for (int c = 0; c < kChains; ++c) add<kPlus>(c, row_of(panel, entries[from + c]));
#if defined(__AVX512F__)
    // Masks instead of a loop, whose end no branch predictor foresees; what they leave out is entry 0.
    for (int c = 0; c + 1 < kChains; ++c) {
      const int32_t here = (from + c - to) >> 31;  // all ones or zero; a condition would become a branch
      const __mmask16 mask = static_cast<__mmask16>(here);
      const float* values = panel + kFloats * entries[(from + c) & here];
      for (int v = 0; v < kVectors; ++v) {
        const __m512 sum = (__m512)chains[c][v], value = _mm512_loadu_ps(values + kLaneCount * v);
        chains[c][v] = (Floats)(kPlus ? _mm512_mask_add_ps(sum, mask, sum, value)
                                      : _mm512_mask_sub_ps(sum, mask, sum, value));
      }
    }
#elif defined(__AVX2__)
    // Without masks, rows of zeros.
    for (int c = 0; c + 1 < kChains; ++c) {
      const int64_t here = (from + c - to) >> 31;
      const intptr_t zeros = reinterpret_cast<intptr_t>(kZeros);
      const intptr_t row = reinterpret_cast<intptr_t>(panel + kFloats * entries[(from + c) & here]);
      add<kPlus>(c, reinterpret_cast<const float*>(zeros + ((row - zeros) & here)));
    }
#else
    for (; from < to; ++from) add<kPlus>(0, row_of(panel, entries[from]));
#endif
  }

  // The same up to `end`, where the list is mostly as long as the one before, so that its end is foreseen.
  template <bool kPlus>
  void add_foreseen(const float* panel, const uint8_t* entry, const uint8_t* end) {
    for (; entry + kChains <= end; entry += kChains)
      for (int c = 0; c < kChains; ++c) add<kPlus>(c, row_of(panel, entry[c]));
    for (int c = 0; c + 1 < kChains; ++c, ++entry)
      if (entry < end) add<kPlus>(c, row_of(panel, *entry));
  }

  template <class Value>
  void add_weighted(int chain, const Value* weight, const float* row) {
    const Floats factor = in_every_lane(weight);
    for (int v = 0; v < kVectors; ++v)
      chains[chain][v] = add_product(factor, load_vector<Floats>(row + kLaneCount * v), chains[chain][v]);
  }

  // Add the panel's rows entries[from : to], each times its weight.
  template <class Value>
  void add_weighted_run(const float* panel, const uint8_t* entries, const Value* weights, int32_t from, int32_t to) {
    constexpr int64_t kFloats = 16 * kWidth;
    for (; from + kChains <= to; from += kChains)
      for (int c = 0; c < kChains; ++c) add_weighted(c, weights + from + c, panel + kFloats * entries[from + c]);
#if defined(__AVX512F__)
    for (int c = 0; c + 1 < kChains; ++c) {  // masks, as above
      const int32_t here = (from + c - to) >> 31;
      const __mmask16 mask = static_cast<__mmask16>(here);
      const float* row = panel + kFloats * entries[(from + c) & here];
      const __m512 factor = (__m512)in_every_lane(weights + ((from + c) & here));
      for (int v = 0; v < kVectors; ++v)
        chains[c][v] = (Floats)_mm512_mask3_fmadd_ps(factor, _mm512_loadu_ps(row + kLaneCount * v),
                                                     (__m512)chains[c][v], mask);
    }
#else
    for (; from < to; ++from) add_weighted(0, weights + from, panel + kFloats * entries[from]);
#endif
  }

  void add_row(int chain, Floats factor, const float* panel, int32_t bytes) {
    const float* row = reinterpret_cast<const float*>(reinterpret_cast<const char*>(panel) + bytes);
    for (int v = 0; v < kVectors; ++v)
      chains[chain][v] = add_product(factor, load_vector<Floats>(row + kLaneCount * v), chains[chain][v]);
  }

  // Add the rows that entries name, each times its value. A vector of entries is loaded at once and its values spread
  // from there: another load for each would compete with those of rows.
  void add_entries(const float* panel, const Entry* entry, const Entry* end) {
#if defined(__AVX2__)
    for (constexpr int kMany = kLaneCount / 2; entry + kMany <= end; entry += kMany) {
      const Floats several = load_vector<Floats>(&entry->value);
#pragma GCC unroll 8
      for (int i = 0; i < kMany; ++i) add_row(i % kChains, spread(several, 2 * i), panel, entry[i].bytes);
    }
#endif
    for (; entry + kChains <= end; entry += kChains)
      for (int c = 0; c < kChains; ++c) add_row(c, in_every_lane(&entry[c].value), panel, entry[c].bytes);
    for (; entry < end; ++entry) add_row(0, in_every_lane(&entry->value), panel, entry->bytes);
  }

  void store(float* sums) {
    for (int c = 1; c < kChains; ++c)
      for (int v = 0; v < kVectors; ++v) chains[0][v] += chains[c][v];
    for (int v = 0; v < kVectors; ++v) store_vector(sums + kLaneCount * v, chains[0][v]);
  }
};

template <int kWidth>
void add_listed(const float* panel, const uint8_t* entries, const int32_t* starts, int64_t rows, float* sums) {
  for (int64_t row = 0; row < rows; ++row, starts += 2, sums += 16 * kWidth) {
    Sums<kWidth, kListedChains> sum;
    sum.template add<true>(0, sums);
    sum.template add_run<true>(panel, entries, starts[0], starts[1]);
    sum.template add_run<false>(panel, entries, starts[1], starts[2]);
    sum.store(sums);
  }
}

// Sums lie here and there, so that they are asked for ahead.
template <int kWidth>
void add_ordered(const float* panel, const uint8_t* entries, const int32_t* starts, const int16_t* order, int64_t rows,
                 float* sums) {
  const uint8_t* entry = entries + *starts;
  for (int64_t row = 0; row < rows; ++row, starts += 2) {
    const float* next = sums + 16 * kWidth * order[row + 2 < rows ? row + 2 : row];
    for (int line = 0; line < kWidth; ++line) __builtin_prefetch(next + 16 * line, 1);
    float* own = sums + 16 * kWidth * order[row];
    const uint8_t *minus = entries + starts[1], *end = entries + starts[2];
    Sums<kWidth, kListedChains> sum;
    sum.template add<true>(0, own);
    sum.template add_foreseen<true>(panel, entry, minus);
    sum.template add_foreseen<false>(panel, minus, end);
    sum.store(own);
    entry = end;
  }
}

void pair_rows(const float* inputs, int64_t pairs, int64_t width, float* panel) {
  for (int64_t pair = 0; pair < pairs; ++pair, inputs += width, panel += 3 * width)
    for (int64_t i = 0; i < width; i += kLaneCount, inputs += kLaneCount, panel += kLaneCount) {
      const Floats a = load_vector<Floats>(inputs), b = load_vector<Floats>(inputs + width);
      store_vector(panel, a);
      store_vector(panel + width, b);
      store_vector(panel + 2 * width, a + b);
      store_vector(panel + 3 * width, a - b);
    }
}

template <int kWidth, class Value>
void add_weighted(const float* panel, const uint8_t* entries, const Value* weights, const int32_t* starts,
                  int64_t rows, float* sums) {
  for (int64_t row = 0; row < rows; ++row, ++starts, sums += 16 * kWidth) {
    Sums<kWidth, kWeightedChains> sum;
    sum.template add<true>(0, sums);
    sum.add_weighted_run(panel, entries, weights, starts[0], starts[1]);
    sum.store(sums);
  }
}

// The value of an entry lies beside its place: on Zen 3 that takes less time than two arrays.
int64_t list_entries(const float* values, int64_t count, int32_t bytes, Entry* entries) {
  int64_t found = 0, i = 0;
#if defined(__AVX2__)
  const __m256i apart = _mm256_set1_epi32(8 * bytes);
  __m256i places = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(bytes));
  for (; i + 8 <= count; i += 8, places = _mm256_add_epi32(places, apart)) {
    const __m256 some = _mm256_loadu_ps(values + i);
    const int mask = _mm256_movemask_ps(_mm256_cmp_ps(some, _mm256_setzero_ps(), _CMP_NEQ_UQ));
    const __m256i moved =
        _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(kPlacesOfByte.places[mask])));
    const __m256 kept = _mm256_permutevar8x32_ps(some, moved);
    const __m256 where = (__m256)_mm256_permutevar8x32_epi32(places, moved);
    const __m256 low = _mm256_unpacklo_ps(kept, where), high = _mm256_unpackhi_ps(kept, where);
    float* to = &entries[found].value;
    _mm256_storeu_ps(to, _mm256_permute2f128_ps(low, high, 0x20));
    _mm256_storeu_ps(to + 8, _mm256_permute2f128_ps(low, high, 0x31));
    found += __builtin_popcount(mask);
  }
#endif
  for (; i < count; ++i) {
    entries[found] = {values[i], static_cast<int32_t>(i * bytes)};
    found += values[i] != 0;
  }
  return found;
}

// A list is added up by itself before the rest joins, so that errors do not grow with all that a sum has seen. Narrow
// rows take two chains, which hide an addition's latency. Sums are asked for two rows ahead: they may lie far apart.
template <int kWidth, bool kAdd>
void sum_entries(const float* panel, const Entry* entries, const int32_t* starts, int64_t rows, float* sums,
                 int64_t apart, const float* next, int64_t lines) {
  for (int64_t row = 0; row < rows; ++row, ++starts, sums += apart) {
    for (int64_t line = 0; line < lines; ++line, next += 16) __builtin_prefetch(next, 0, 2);
    for (int line = 0; line < kWidth; ++line) __builtin_prefetch(sums + 2 * apart + 16 * line, 1);
    Sums<kWidth, (kWidth * kParts <= 4 ? 2 : 1)> sum;
    sum.add_entries(panel, entries + starts[0], entries + starts[1]);
    if constexpr (kAdd) sum.template add<true>(0, sums);
    sum.store(sums);
  }
}

}  // namespace
}  // namespace supermask
