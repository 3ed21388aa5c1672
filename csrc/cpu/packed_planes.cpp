// Linear layers with weights +σ, -σ and 0 from planes of bits; see supermask/layouts.py.
//
// An input's sums over the weights are taken in one order, whatever the batch and the number of threads.
#include <algorithm>

#include "batch.h"
#include "operators.h"

namespace supermask::op {
namespace {

constexpr int64_t kWordInputs = 30, kWordTables = 80;  // floats in the tables of ten triples
constexpr int64_t kWordsAtOnce = 16;                   // their tables, for four inputs, fit the first cache

// Tables for one input; triples beyond its end hold zeros.
void fill_tables(const float* x, int64_t features, int64_t words, float* tables) {
  const int64_t whole = features / 3, rest = features - 3 * whole;
  kernels().subset_sums(x, whole, tables);
  float last[kWordInputs] = {};
  std::copy_n(x + 3 * whole, rest, last);
  kernels().subset_sums(last, 10 * words - whole, tables + 8 * whole);
}

}  // namespace

Tensor linear_from_planes(Tensor x, Tensor planes, int64_t outputs, double scale, std::optional<Tensor> bias) {
  const Batch batch(x, outputs, scale, bias);
  const int64_t groups = divide_up(outputs, 16), words = divide_up(batch.features(), kWordInputs);
  check(planes.is_cpu() && planes.scalar_type() == ScalarType::Int && planes.is_contiguous() &&
            planes.numel() == groups * words * 32,
        "planes must be a contiguous int32 tensor of ", groups * words * 32, " words on the CPU");
  const uint32_t* packed = static_cast<const uint32_t*>(planes.data_ptr());
  // A unit is a panel of outputs for up to four inputs; a thread makes the tables of the inputs it meets.
  const int64_t count = batch.count(), panels = divide_up(groups, 4), units = divide_up(count, 4) * panels;
  const int64_t work = words * kWordInputs * kPanel * std::min<int64_t>(count, 4), apart = words * kWordTables;
  torch::stable::parallel_for(0, units, grain(work), [&](int64_t from, int64_t to) {
    thread_local Scratch scratch;
    float* tables = scratch.floats(4 * apart);
    alignas(64) float sums[4 * kPanel];
    int64_t tables_of = -1;
    for (int64_t unit = from; unit < to; ++unit) {
      const int64_t first = unit / panels * 4, panel = unit % panels;
      const int64_t inputs = std::min<int64_t>(4, count - first);
      if (tables_of != first)
        for (int64_t i = 0; i < inputs; ++i)
          fill_tables(batch.row(first + i), batch.features(), words, tables + i * apart);
      tables_of = first;
      const int64_t wide = std::min<int64_t>(4, groups - 4 * panel);
      const int64_t rows = std::min(kPanel, outputs - kPanel * panel);
      std::fill(sums, sums + 4 * kPanel, 0.0f);
      for (int64_t word = 0; word < words; word += kWordsAtOnce) {
        const uint32_t* start = packed + 2 * (panel * words * kPanel + word * 16 * wide);
        const float* here = tables + word * kWordTables;
        const int64_t some = std::min(kWordsAtOnce, words - word);
        if (inputs == 4) {
          kernels().add_planes_4(start, some, wide, here, apart, sums);
        } else {
          for (int64_t i = 0; i < inputs; ++i)
            kernels().add_planes_1(start, some, wide, here + i * apart, apart, sums + i * 16 * wide);
        }
      }
      for (int64_t i = 0; i < inputs; ++i) batch.write(first + i, kPanel * panel, rows, sums + i * 16 * wide);
    }
  });
  return batch.result();
}

}  // namespace supermask::op
