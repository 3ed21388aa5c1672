// Sums of the rows of a panel that a list names; see kernels.h. Included by kernels.cpp alone.
//
// Every addition loads a vector of the panel from the first cache, and that is the limit: a Zen 4 core at 3.7 GHz
// loads and adds at most 3.7 G vectors of 64 bytes a second. These loops add 3.0 to 3.3 G of them, and 2.0 G where
// a row is a single vector.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "kernels.h"
#include "kernels_packed.h"

namespace supermask {
namespace {

// Two chains of sums, as many as hide an addition's latency at most widths, and the same at every width, so that no
// sum depends on what is computed beside it. Sixteen registers of four floats hold only one.
constexpr int kChains = kLaneCount > 4 ? 2 : 1;

// kWidth times 16 columns side by side.
template <int kWidth>
struct Sums {
  static constexpr int kVectors = kWidth * kParts;

  Floats chains[kChains][kVectors];

  template <bool kPlus>
  void add(int chain, const float* values) {
    for (int v = 0; v < kVectors; ++v) {
      const Floats value = load_vector<Floats>(values + kLaneCount * v);
      chains[chain][v] = kPlus ? chains[chain][v] + value : chains[chain][v] - value;
    }
  }

  // Add or subtract the panel's rows entries[from : to].
  template <bool kPlus>
  void add_run(const float* panel, const uint8_t* entries, int32_t from, int32_t to) {
    constexpr int64_t kFloats = 16 * kWidth;
    for (; from + kChains <= to; from += kChains)
      for (int c = 0; c < kChains; ++c) add<kPlus>(c, panel + kFloats * entries[from + c]);
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
#else
    for (; from < to; ++from) add<kPlus>(0, panel + kFloats * entries[from]);
#endif
  }
};

template <int kWidth>
void add_listed(const float* panel, const uint8_t* entries, const int32_t* starts, int64_t rows, float* sums) {
  for (int64_t row = 0; row < rows; ++row, starts += 2, sums += 16 * kWidth) {
    Sums<kWidth> sum = {};
    sum.template add<true>(0, sums);
    sum.template add_run<true>(panel, entries, starts[0], starts[1]);
    sum.template add_run<false>(panel, entries, starts[1], starts[2]);
    for (int c = 1; c < kChains; ++c)
      for (int v = 0; v < sum.kVectors; ++v) sum.chains[0][v] += sum.chains[c][v];
    for (int v = 0; v < sum.kVectors; ++v) store_vector(sums + kLaneCount * v, sum.chains[0][v]);
  }
}

}  // namespace
}  // namespace supermask
