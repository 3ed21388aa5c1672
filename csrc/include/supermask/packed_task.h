// y = x · Wᵀ + b for a matrix W of codes: what the kernels for few inputs (packed_mma.h) and for many
// (packed_wgmma.h) share.
#pragma once

#include <cstdint>

#include "supermask/bf16_parts.h"
#include "supermask/codes.h"
#include "supermask/dtype.h"
#include "supermask/group.h"
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

// How many clusters of 1, 2, 4 and 8 blocks a device runs at once.
struct ClustersAtOnce {
  int of[4];
};

// How many blocks should split the inputs: 1, 2, 4 or 8, doubled until there are `enough` blocks, as long as each
// keeps `least_tiles` input tiles and all `blocks` clusters run at once. Those that do not fit, as when a part of
// the device is a few multiprocessors short, would run after all others and take as long again.
SUPERMASK_HD int choose_ranks(int64_t blocks, int input_tiles, int least_tiles, int enough,
                              const ClustersAtOnce& at_once) {
  int ranks = 1;
  for (int i = 1; i < 4; ++i) {
    if (blocks * ranks >= enough || 2 * ranks * least_tiles > input_tiles || blocks > at_once.of[i]) break;
    ranks *= 2;
  }
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

// Eight neighbouring inputs of a sample as they lie in memory.
template <class X>
struct Eight {
  Words words[sizeof(X) / 2];

  SUPERMASK_MEMBER void put(int i, uint32_t bits) {
    if constexpr (sizeof(X) == 2) put_half(words[0], i, static_cast<uint16_t>(bits));
    else words[i / 4].word[i % 4] = bits;
  }
};

// Zeros beyond the end of the row, and for samples beyond the last.
template <class X>
SUPERMASK_HD Eight<X> load_eight(const PackedLinear& task, int sample, int input) {
  Eight<X> eight = {};
  if (sample >= task.batch) return eight;
  const X* row = static_cast<const X*>(task.x) + static_cast<int64_t>(sample) * task.matrix.inputs;
  if (task.aligned && input + 8 <= task.matrix.inputs) {
    const Words* from = reinterpret_cast<const Words*>(row + input);
    eight.words[0] = from[0];
    if constexpr (sizeof(X) == 4) eight.words[1] = from[1];
    return eight;
  }
  SUPERMASK_UNROLL
  for (int i = 0; i < 8; ++i)
    if (input + i < task.matrix.inputs) eight.put(i, raw_bits(row[input + i]));
  return eight;
}

// The same as pairs of 16-bit floats: 16-bit inputs are their own, float32 is the sum of three terms.
template <class X>
SUPERMASK_HD void terms_of(const Eight<X>& eight, Words (&terms)[1]) {
  terms[0] = eight.words[0];
}

template <class X>
SUPERMASK_HD void terms_of(const Eight<X>& eight, Words (&terms)[3]) {
  terms[0] = terms[1] = terms[2] = {};
  SUPERMASK_UNROLL
  for (int i = 0; i < 8; ++i) {
    uint16_t halves[3];
    split_float(float_of(eight.words[i / 4].word[i % 4]), halves);
    SUPERMASK_UNROLL
    for (int term = 0; term < 3; ++term) put_half(terms[term], i, halves[term]);
  }
}

// Adds the totals of the cluster's kRanks blocks and writes this block's share of the results. What lies in other
// blocks takes long to come, so that several sums are under way together.
template <class Shape, int kRanks, class Gpu>
SUPERMASK_HD void write_share(Gpu& gpu, const PackedLinear& task, int first_output, int rank) {
  using X = typename Shape::X;
  constexpr int share = Shape::outputs / kRanks;
  struct Parts {
    float of[kRanks], bias;
  };
  const auto read = [&](int64_t i) {
    const int local = rank * share + static_cast<int>(i) % share, output = first_output + local;
    const int place = Shape::place_of_sum(static_cast<int>(i) / share, local);
    Parts parts;
    SUPERMASK_UNROLL
    for (int other = 0; other < kRanks; ++other) parts.of[other] = gpu.shared_of(other)[place];
    parts.bias = task.bias && output < task.matrix.outputs ? load_float(task.bias, task.bias_dtype, output) : 0;
    return parts;
  };
  const auto write = [&](int64_t i, const Parts& parts) {
    const int sample = gpu.block_y() * Shape::batch + static_cast<int>(i) / share;
    const int output = first_output + rank * share + static_cast<int>(i) % share;
    if (sample >= task.batch || output >= task.matrix.outputs) return;
    float total = parts.of[0];
    SUPERMASK_UNROLL
    for (int other = 1; other < kRanks; ++other) total += parts.of[other];
    total *= task.factor;
    if (task.bias) total += parts.bias;
    from_float(total, static_cast<X*>(task.y)[static_cast<int64_t>(sample) * task.matrix.outputs + output]);
  };
  in_batches(gpu.thread(), Shape::threads, Shape::batch * share, read, write);
}

template <class Shape, class Gpu>
SUPERMASK_HD void write_results(Gpu& gpu, const PackedLinear& task, int first_output, int rank) {
  switch (task.ranks) {
    case 1: return write_share<Shape, 1>(gpu, task, first_output, 0);  // its sums are its own
    case 2: return write_share<Shape, 2>(gpu, task, first_output, rank);
    case 4: return write_share<Shape, 4>(gpu, task, first_output, rank);
    default: return write_share<Shape, 8>(gpu, task, first_output, rank);
  }
}

}  // namespace supermask
