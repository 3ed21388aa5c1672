// Inner loops of convolutions with packed signed-constant weights; see kernels.h and packed_conv.cpp. Included
// by kernels.cpp alone, after kernels_packed.h.
#pragma once

#include "kernels.h"
#include "kernels_packed.h"

namespace supermask {
namespace {

// Stores at most kLaneCount values past `to` + count, for which the panel has room.
inline void copy_run(const float* from, int64_t count, float* to) {
  if (count == 4 && kLaneCount > 4) {
    __builtin_memcpy(to, from, 16);
    return;
  }
  if (count == 8 && kLaneCount > 8) {
    __builtin_memcpy(to, from, 32);
    return;
  }
  int64_t i = 0;
  for (; i + kLaneCount <= count; i += kLaneCount) store_vector(to + i, load_vector<Floats>(from + i));
#if defined(__AVX512F__)
  if (i < count) {
    const __mmask16 rest = static_cast<__mmask16>((1u << (count - i)) - 1);
    store_vector(to + i, (Floats)_mm512_maskz_loadu_ps(rest, from + i));
  }
#else
  for (; i < count; ++i) to[i] = from[i];
#endif
}

void pack_panel(const float* inputs, const int64_t* offsets, int64_t rows, const Run* runs, int64_t count,
                int64_t width, float* panel) {
  // In ascending order, so that what a store leaves past its run is overwritten by what belongs there.
  for (int64_t row = 0; row < rows; ++row, panel += width)
    for (int64_t run = 0; run < count; ++run)
      copy_run(inputs + offsets[row] + runs[run].from, runs[run].count, panel + runs[run].to);
}

// Sums of 16 · kWidth positions side by side. Several chains of additions, as many as hide their latency.
template <int kWidth>
void add_panel(const float* panel, const uint8_t* entries, const int32_t* starts, int64_t rows, float* sums) {
  constexpr int kVectors = kWidth * kParts, kChains = kVectors >= 8 ? 1 : kVectors >= 3 ? 2 : 4;
  const auto at = [panel](uint8_t entry, int v) {
    return load_vector<Floats>(panel + 16 * kWidth * entry + kLaneCount * v);
  };
  for (int64_t row = 0; row < rows; ++row, starts += 2, sums += 16 * kWidth) {
    Floats sum[kChains][kVectors] = {};
    for (int v = 0; v < kVectors; ++v) sum[0][v] = load_vector<Floats>(sums + kLaneCount * v);
    int32_t i = starts[0];
    for (; i + kChains <= starts[1]; i += kChains)
      for (int c = 0; c < kChains; ++c)
        for (int v = 0; v < kVectors; ++v) sum[c][v] += at(entries[i + c], v);
    for (; i < starts[1]; ++i)
      for (int v = 0; v < kVectors; ++v) sum[0][v] += at(entries[i], v);
    for (; i + kChains <= starts[2]; i += kChains)
      for (int c = 0; c < kChains; ++c)
        for (int v = 0; v < kVectors; ++v) sum[c][v] -= at(entries[i + c], v);
    for (; i < starts[2]; ++i)
      for (int v = 0; v < kVectors; ++v) sum[0][v] -= at(entries[i], v);
    for (int c = 1; c < kChains; ++c)
      for (int v = 0; v < kVectors; ++v) sum[0][v] += sum[c][v];
    for (int v = 0; v < kVectors; ++v) store_vector(sums + kLaneCount * v, sum[0][v]);
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
