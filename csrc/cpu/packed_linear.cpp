// Linear layers with weights +σ, -σ and 0, from codes of triples or from lists. supermask/ops/layouts.py says how
// each stores them.
//
// An input's sums over the weights are taken in one order, whatever the batch and the number of threads.
#include <algorithm>

#include "batch.h"
#include "lists.h"
#include "operators.h"

namespace supermask::op {
namespace {

constexpr int64_t kBlockInputs = 128;  // inputs that lists count in one byte

// Tables for one input; triples beyond its end hold zeros.
void fill_tables(const float* x, int64_t features, int64_t words, float* tables) {
  const int64_t whole = features / 3, rest = features - 3 * whole;
  kernels().triple_sums(x, whole, tables);
  float last[18] = {};
  std::copy_n(x + 3 * whole, rest, last);
  kernels().triple_sums(last, 6 * words - whole, tables + 16 * whole);
}

// Look-ups take four inputs at once, rows of tables 16; fewer than kRowsFrom of them are no more than look-ups, nor do
// tables pay for few outputs.
constexpr int64_t kSideBySide = 16, kRowsFrom = 12, kRowsFromOutputs = 128;
constexpr int64_t kWordsOfRows = 2;  // whose tables fit the first cache

// The panels [from, to) of outputs for the `take` inputs from `first` on, at most 16.
void add_side_by_side(const Batch& batch, const uint32_t* codes, int64_t outputs, int64_t first, int64_t take,
                      int64_t from, int64_t to) {
  const int64_t features = batch.features(), words = divide_up(features, 18), groups = divide_up(outputs, 16);
  constexpr int64_t kPanelSums = kPanel * kSideBySide, kTables = kWordsOfRows * 6 * 512;
  thread_local Scratch scratch;
  float* tables = scratch.floats(kTables + kWordsOfRows * 18 * kSideBySide + (to - from) * kPanelSums);
  float *inputs = tables + kTables, *sums = inputs + kWordsOfRows * 18 * kSideBySide;
  std::fill_n(sums, (to - from) * kPanelSums, 0.0f);
  for (int64_t word = 0; word < words; word += kWordsOfRows) {
    const int64_t some = std::min(kWordsOfRows, words - word), here = std::min(18 * some, features - 18 * word);
    if (here < 18 * some || take < kSideBySide) std::fill_n(inputs, 18 * some * kSideBySide, 0.0f);
    kernels().transpose(batch.row(first) + 18 * word, take, here, features, inputs, kSideBySide);
    kernels().triple_rows(inputs, 6 * some, tables);
    for (int64_t panel = from; panel < to; ++panel) {
      const int64_t wide = std::min<int64_t>(4, groups - 4 * panel);
      kernels().add_rows(codes + panel * words * kPanel + word * 16 * wide, some, wide, tables,
                         sums + (panel - from) * kPanelSums, words * kPanel);
    }
  }
  alignas(64) float turned[kPanelSums];
  for (int64_t panel = from; panel < to; ++panel) {
    const int64_t rows = std::min(kPanel, outputs - kPanel * panel);
    kernels().transpose(sums + (panel - from) * kPanelSums, rows, take, kSideBySide, turned, kPanel);
    for (int64_t i = 0; i < take; ++i) batch.write(first + i, kPanel * panel, rows, turned + kPanel * i);
  }
}

// The first `count` inputs; a thread takes at most so many panels that their sums fit the second cache.
void add_all_side_by_side(const Batch& batch, const uint32_t* codes, int64_t outputs, int64_t count) {
  const int64_t panels = divide_up(outputs, kPanel), units = divide_up(count, kSideBySide) * panels;
  torch::stable::parallel_for(0, units, grain(batch.features() * kPanel * kSideBySide), [&](int64_t from, int64_t to) {
    for (int64_t unit = from; unit < to;) {
      const int64_t first = unit / panels * kSideBySide, panel = unit % panels;
      const int64_t some = std::min({to - unit, panels - panel, kPanel});
      add_side_by_side(batch, codes, outputs, first, std::min(kSideBySide, count - first), panel, panel + some);
      unit += some;
    }
  });
}

}  // namespace

Tensor linear_from_triples(Tensor x, Tensor codes, int64_t outputs, double scale,
                           std::optional<Tensor> bias) {
  const Batch batch(x, outputs, scale, bias);
  const int64_t groups = divide_up(outputs, 16), words = divide_up(batch.features(), 18);
  check(codes.is_cpu() && codes.scalar_type() == ScalarType::Int && codes.is_contiguous() &&
            codes.numel() == groups * words * 16,
        "codes must be a contiguous int32 tensor of ", groups * words * 16, " words on the CPU");
  const uint32_t* packed = static_cast<const uint32_t*>(codes.data_ptr());
  const int64_t all = batch.count(), rest = all % kSideBySide;
  const int64_t begin = outputs < kRowsFromOutputs ? 0 : rest < kRowsFrom ? all - rest : all;
  if (begin > 0) add_all_side_by_side(batch, packed, outputs, begin);
  // A unit is a panel of outputs for up to four inputs; a thread makes the tables of the inputs it meets.
  const int64_t count = all - begin, panels = divide_up(groups, 4), units = divide_up(count, 4) * panels;
  const int64_t work = words * 18 * kPanel * std::min<int64_t>(count, 4);
  torch::stable::parallel_for(0, units, grain(work), [&](int64_t from, int64_t to) {
    thread_local Scratch scratch;
    float* tables = scratch.floats(4 * words * 96);
    alignas(64) float sums[4 * kPanel];
    int64_t tables_of = -1;
    for (int64_t unit = from; unit < to; ++unit) {
      const int64_t first = begin + unit / panels * 4, panel = unit % panels;
      const int64_t inputs = std::min<int64_t>(4, all - first);
      if (tables_of != first)
        for (int64_t i = 0; i < inputs; ++i)
          fill_tables(batch.row(first + i), batch.features(), words, tables + i * words * 96);
      tables_of = first;
      const uint32_t* start = packed + panel * words * kPanel;
      const int64_t wide = std::min<int64_t>(4, groups - 4 * panel);
      const int64_t rows = std::min(kPanel, outputs - kPanel * panel);
      if (inputs == 4) kernels().look_up_4(start, words, wide, tables, sums);
      for (int64_t i = 0; i < inputs; ++i) {
        float* own = sums + i * 16 * wide;
        if (inputs < 4) kernels().look_up_1(start, words, wide, tables + i * words * 96, own);
        batch.write(first + i, kPanel * panel, rows, own);
      }
    }
  });
  return batch.result();
}

namespace {

// The `count` inputs from `first` on, side by side: packed[feature][width], zeros where there is none.
void pack_inputs(const Batch& batch, int64_t first, int64_t count, int64_t width, float* packed) {
  const int64_t features = batch.features(), pieces = divide_up(features, kBlockInputs) * kBlockInputs / 64;
  torch::stable::parallel_for(0, pieces, 4, [&](int64_t from, int64_t to) {
    for (int64_t feature = 64 * from; feature < 64 * to; feature += 64) {
      float* piece = packed + feature * width;
      const int64_t here = std::clamp<int64_t>(features - feature, 0, 64);
      if (here < 64 || count < width) std::fill_n(piece, 64 * width, 0.0f);
      if (here > 0) kernels().transpose(batch.row(first) + feature, count, here, features, piece, width);
    }
  });
}

}  // namespace

Tensor linear_from_lists(Tensor x, Tensor starts, Tensor entries, int64_t outputs, double scale,
                         std::optional<Tensor> bias) {
  const Batch batch(x, outputs, scale, bias);
  const int64_t count = batch.count(), blocks = divide_up(batch.features(), kBlockInputs);
  const ByteLists lists = check_lists(starts, entries, 2 * blocks * outputs);
  thread_local Scratch scratch;
  for (int64_t done = 0; done < count;) {
    const int64_t take = std::min<int64_t>(64, count - done), width = 16 * divide_up(take, 16);
    // One block more than there are, so that no entry, however wrong, points outside.
    float* packed = scratch.floats((blocks + 1) * kBlockInputs * width);
    std::fill_n(packed + blocks * kBlockInputs * width, kBlockInputs * width, 0.0f);
    pack_inputs(batch, done, take, width, packed);
    const auto add = kernels().add_listed[width / 16 - 1];
    torch::stable::parallel_for(0, divide_up(outputs, kPanel), 1, [&](int64_t from, int64_t to) {
      const int64_t begin = kPanel * from, rows = std::min(kPanel * to, outputs) - begin;
      thread_local Scratch own;
      float* sums = own.floats(rows * width);
      std::fill_n(sums, rows * width, 0.0f);
      for (int64_t block = 0; block < blocks; ++block)
        add(packed + block * kBlockInputs * width, lists.entries, lists.starts + 2 * (block * outputs + begin), rows,
            sums);
      alignas(64) float turned[64 * kPanel];
      for (int64_t row = 0; row < rows; row += kPanel) {
        const int64_t wide = std::min(kPanel, rows - row);
        kernels().transpose(sums + row * width, wide, take, width, turned, kPanel);
        for (int64_t i = 0; i < take; ++i) batch.write(done + i, begin + row, wide, turned + kPanel * i);
      }
    });
    done += take;
  }
  return batch.result();
}

}  // namespace supermask::op
