// Inner loops of convolutions with packed signed-constant weights; see kernels.h and packed_conv.cpp. Included
// by kernels.cpp alone.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

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

void scale_rows(float* sums, int64_t rows, int64_t width, float scale, const float* bias) {
  for (int64_t row = 0; row < rows; ++row, sums += width) {
    const float shift = bias ? bias[row] : 0.0f;
    for (int64_t i = 0; i < width; ++i) sums[i] = sums[i] * scale + shift;
  }
}

}  // namespace
}  // namespace supermask
