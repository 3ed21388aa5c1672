// Inner loops of convolutions with packed signed-constant weights; see kernels.h and packed_conv.cpp. Included
// by kernels.cpp alone, after kernels_packed.h.
#pragma once

#include "kernels.h"
#include "kernels_packed.h"

namespace supermask {
namespace {

// `count` of at most 16 floats; the target has room for 16.
inline void copy_run(const float* from, int64_t count, float* to) {
#if defined(__AVX512F__)
  const __mmask16 mask = static_cast<__mmask16>(_bzhi_u32(0xFFFFu, static_cast<unsigned>(count)));
  store_vector(to, (Floats)_mm512_maskz_loadu_ps(mask, from));
#else
  int64_t i = 0;
  for (; i + kLaneCount <= count; i += kLaneCount) store_vector(to + i, load_vector<Floats>(from + i));
  for (; i < count; ++i) to[i] = from[i];
#endif
}

// Runs of kCount floats each, or of their own counts where kCount is 0.
template <int kCount>
inline void pack_rows(const float* inputs, const int64_t* offsets, int64_t rows, const Run* runs, int64_t count,
                      int64_t width, float* panel) {
  // In ascending order, so that what a store leaves past its run is overwritten by what belongs there.
  for (int64_t row = 0; row < rows; ++row, panel += width) {
    const float* from = inputs + offsets[row];
#pragma GCC unroll 4
    for (int64_t run = 0; run < count; ++run)
      if constexpr (kCount)
        __builtin_memcpy(panel + runs[run].to, from + runs[run].from, 4 * kCount);
      else
        copy_run(from + runs[run].from, runs[run].count, panel + runs[run].to);
  }
}

void pack_panel(const float* inputs, const int64_t* offsets, int64_t rows, const Run* runs, int64_t count,
                int64_t width, float* panel) {
  bool all[3] = {true, true, true};
  for (int64_t run = 0; run < count; ++run)
    for (int i = 0; i < 3; ++i) all[i] &= runs[run].count == 16 >> i;
  const auto pack = all[0]   ? pack_rows<16>
                    : all[1] ? pack_rows<8>
                    : all[2] ? pack_rows<4>
                             : pack_rows<0>;
  pack(inputs, offsets, rows, runs, count, width, panel);
}

template <int64_t kStep>
inline void copy_every(const float* from, int64_t step, int64_t count, float* to) {
  if (kStep) step = kStep;  // known to the compiler, which vectorizes small steps
  for (int64_t i = 0; i < count; ++i) to[i] = from[i * step];
}

// to[i] = row[i · step + first], or 0 where the row has no such value.
void pad_row(const float* row, int64_t width, int64_t first, int64_t step, int64_t count, float* to) {
  int64_t i = 0;
  for (; i < count && first < 0; ++i, first += step) to[i] = 0;
  const int64_t here = first < width ? (width - first + step - 1) / step : 0, rest = count - i;
  const int64_t take = here < rest ? here : rest;
  if (step == 1)
    copy_every<1>(row + first, step, take, to + i);
  else if (step == 2)
    copy_every<2>(row + first, step, take, to + i);
  else
    copy_every<0>(row + first, step, take, to + i);
  for (i += take; i < count; ++i) to[i] = 0;
}

// kWidth · 16 positions side by side, as several chains of sums: enough of them to hide an addition's latency.
template <int kWidth>
struct Sums {
  static constexpr int kVectors = kWidth * kParts;
  static constexpr int kChains = kVectors >= 8 ? 1 : kVectors >= 2 ? 2 : 4;

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
  void add_listed(const float* panel, const uint8_t* entries, int32_t from, int32_t to) {
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
void add_panel(const float* panel, const uint8_t* entries, const int32_t* starts, int64_t rows, float* sums) {
  for (int64_t row = 0; row < rows; ++row, starts += 2, sums += 16 * kWidth) {
    Sums<kWidth> sum = {};
    sum.template add<true>(0, sums);
    sum.template add_listed<true>(panel, entries, starts[0], starts[1]);
    sum.template add_listed<false>(panel, entries, starts[1], starts[2]);
    for (int c = 1; c < sum.kChains; ++c)
      for (int v = 0; v < sum.kVectors; ++v) sum.chains[0][v] += sum.chains[c][v];
    for (int v = 0; v < sum.kVectors; ++v) store_vector(sums + kLaneCount * v, sum.chains[0][v]);
  }
}

void scale_rows(float* sums, int64_t rows, int64_t width, float scale, const float* bias) {
  for (int64_t row = 0; row < rows; ++row, sums += width) {
    const float shift = bias ? bias[row] : 0.0f;
    for (int64_t i = 0; i < width; ++i) sums[i] = sums[i] * scale + shift;
  }
}

}  // namespace
}  // namespace supermask
