// y = x · Wᵀ + b for a matrix W of codes: what the kernels for few inputs (packed_mma.h) and for many
// (packed_wgmma.h) share.
#pragma once

#include <cstdint>

#include "supermask/bf16_parts.h"
#include "supermask/codes.h"
#include "supermask/dtype.h"
#include "supermask/macros.h"

namespace supermask {

struct PackedLinear {
  CodedMatrix matrix;
  const void* x;     // (batch, inputs), of the shape's type
  const void* bias;  // one per output, or null
  void* y;           // (batch, outputs), of the type of x
  Dtype bias_dtype;
  float factor;  // σ / 2
  int batch;
  int ranks;     // blocks of a cluster: each takes a share of the input tiles
  bool aligned;  // every eight inputs of x start at a multiple of 16 bytes
};

// How many blocks should split the inputs: 1, 2, 4 or 8, doubled until there are `enough` blocks, as long as each
// keeps `least_tiles` input tiles.
SUPERMASK_HD int choose_ranks(int64_t blocks, int input_tiles, int least_tiles, int enough) {
  int ranks = 1;
  while (ranks < 8 && blocks * ranks < enough && 2 * ranks * least_tiles <= input_tiles) ranks *= 2;
  return ranks;
}

// The input tiles [begin, end) of one of the blocks that share them.
struct TileRange {
  int begin, end;
};

SUPERMASK_HD TileRange tiles_of_rank(const PackedLinear& task, int rank) {
  const int tiles = task.matrix.input_tiles, share = divide_up(tiles, task.ranks);
  const int begin = rank * share < tiles ? rank * share : tiles;
  return {begin, begin + share < tiles ? begin + share : tiles};
}

SUPERMASK_HD float load_float(const void* data, Dtype dtype, int64_t index) {
  switch (dtype) {
    case Dtype::bfloat16: return to_float(static_cast<const BFloat16*>(data)[index]);
    case Dtype::float16: return to_float(static_cast<const Float16*>(data)[index]);
    default: return static_cast<const float*>(data)[index];
  }
}

SUPERMASK_HD void put_half(Words& words, int i, uint16_t bits) {
  words.word[i / 2] |= static_cast<uint32_t>(bits) << (16 * (i % 2));
}

// Eight neighbouring inputs as pairs of 16-bit floats, zeros beyond the end of the row: for 16-bit inputs
// the values themselves, for float32 three terms of each.
template <class X>
SUPERMASK_HD void load_eight(const PackedLinear& task, int sample, int input, Words (&parts)[1]) {
  parts[0] = {};
  if (sample >= task.batch) return;
  const X* row = static_cast<const X*>(task.x) + static_cast<int64_t>(sample) * task.matrix.inputs;
  if (task.aligned && input + 8 <= task.matrix.inputs) {
    parts[0] = *reinterpret_cast<const Words*>(row + input);
    return;
  }
  SUPERMASK_UNROLL
  for (int i = 0; i < 8; ++i)
    if (input + i < task.matrix.inputs) put_half(parts[0], i, row[input + i].bits);
}

template <class X>
SUPERMASK_HD void load_eight(const PackedLinear& task, int sample, int input, Words (&parts)[3]) {
  parts[0] = parts[1] = parts[2] = {};
  if (sample >= task.batch) return;
  const X* row = static_cast<const X*>(task.x) + static_cast<int64_t>(sample) * task.matrix.inputs;
  Words halves[2] = {};
  if (task.aligned && input + 8 <= task.matrix.inputs) {
    halves[0] = *reinterpret_cast<const Words*>(row + input);
    halves[1] = *reinterpret_cast<const Words*>(row + input + 4);
  } else {
    SUPERMASK_UNROLL
    for (int i = 0; i < 8; ++i)
      if (input + i < task.matrix.inputs) halves[i / 4].word[i % 4] = bits_of(row[input + i]);
  }
  SUPERMASK_UNROLL
  for (int i = 0; i < 8; ++i) {
    uint16_t terms[3];
    split_float(float_of(halves[i / 4].word[i % 4]), terms);
    SUPERMASK_UNROLL
    for (int part = 0; part < 3; ++part) put_half(parts[part], i, terms[part]);
  }
}

// Adds the totals of the cluster's blocks and writes this block's share of the results.
template <class Shape, class Gpu>
SUPERMASK_HD void write_results(Gpu& gpu, const PackedLinear& task, int first_output, int rank) {
  using X = typename Shape::X;
  const int share = Shape::outputs / task.ranks;
  for (int i = gpu.thread(); i < Shape::batch * share; i += Shape::threads) {
    const int sample = gpu.block_y() * Shape::batch + i / share;
    const int local = rank * share + i % share, output = first_output + local;
    if (sample >= task.batch || output >= task.matrix.outputs) continue;
    const int place = Shape::place_of_sum(i / share, local);
    float total = gpu.shared_of(0)[place];
    for (int other = 1; other < task.ranks; ++other) total += gpu.shared_of(other)[place];
    total *= task.factor;
    if (task.bias) total += load_float(task.bias, task.bias_dtype, output);
    from_float(total, static_cast<X*>(task.y)[static_cast<int64_t>(sample) * task.matrix.outputs + output]);
  }
}

}  // namespace supermask
