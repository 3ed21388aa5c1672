// y = x · Wᵀ + b on tensor cores, for few inputs and a matrix W of codes (codes.h). One thread's program, in
// terms of a `Gpu` that supplies its place in the grid, shared memory, barriers and mma.sync: csrc/cuda has
// the real one, csrc/tests one that runs on a CPU.
//
// The weights are operand A: they go from memory to registers, are decoded by a shift and an and, and never
// see shared memory. Inputs are operand B: a block brings its share of them into shared memory in the order
// of the fragments, converted and padded with zeros, where every warp finds them without bank conflicts.
//
// A block computes Shape::outputs rows of W. Its warps split them and the inputs; blocks of a cluster split
// the inputs further. All partial sums are added in a fixed order, so equal calls give equal bits.
#pragma once

#include <cstdint>

#include "supermask/codes.h"
#include "supermask/macros.h"
#include "supermask/packed_task.h"

namespace supermask {

// How a block divides its work. Registers hold tiles · depth loads of weights in flight per lane, the sums of
// tiles · columns products, and the operands of one step; two blocks fit a multiprocessor without spills.
template <class Element, int kBatch>
struct PackedShape {
  using X = Element;
  static constexpr bool is_float = sizeof(X) == 4;
  static constexpr int batch = kBatch;                      // inputs that one pass over the weights serves
  static constexpr int columns = batch / 8;                 // fragments of operand B side by side
  static constexpr int parts = is_float ? 3 : 1;            // terms of an input value
  static constexpr int warps = 8, threads = 32 * warps;
  static constexpr int output_warps = batch / 8;            // 1, 2, 4 of the warps side by side
  static constexpr int input_warps = warps / output_warps;  // and the others split the inputs
  static constexpr int tiles = batch == 32 ? 2 : 4;         // output tiles of a warp
  static constexpr int depth = batch == 32 && !is_float ? 2 : 1;  // input tiles that a warp loads at once
  static constexpr int warp_outputs = kTileOutputs * tiles;
  static constexpr int outputs = warp_outputs * output_warps;
  static constexpr int chunk = (is_float ? 128 : 256) / batch;  // input tiles in shared memory at a time
  // Loads of inputs that a thread has under way; more would spill.
  static constexpr int staged_at_once = batch == 32 ? 1 : (batch == 8 ? 4 : 2) / (is_float ? 2 : 1);
  static constexpr int tile_words = 4 * columns * parts * kLanes;
  static constexpr int stride = warp_outputs + 4;  // of sums: a warp's stores meet every bank once
  static constexpr int warp_sums = batch * stride;
  static_assert(chunk % (input_warps * depth) == 0, "a warp's loads must not straddle two chunks");

  // Where the sum of all warps stands in shared memory, in floats.
  SUPERMASK_MEMBER static int place_of_sum(int sample, int output) {
    const int warp = output / warp_outputs * input_warps;
    return warp * warp_sums + sample * stride + output % warp_outputs;
  }
};

// Bytes of shared memory for `share` input tiles per block: the inputs, and after them, in the same place,
// the sums.
template <class Shape>
SUPERMASK_HD int shared_bytes(int share) {
  const int staged = (share < Shape::chunk ? share : Shape::chunk) * Shape::tile_words * 16;
  const int sums = Shape::warps * Shape::warp_sums * 4;
  return staged > sums ? staged : sums;
}

// --- inputs ----------------------------------------------------------------------------------------------

// Input tiles [from, to) of this block's samples into shared memory, as
// [tile][32 inputs of it][fragment][part][lane]: what one lane needs for two steps of mma lies in 16 bytes.
template <class Shape, class Gpu>
SUPERMASK_HD void stage_inputs(Gpu& gpu, const PackedLinear& task, int from, int to) {
  using X = typename Shape::X;
  Words* staged = static_cast<Words*>(gpu.shared());
  const int eights = (to - from) * (kTileInputs / 8);
  const auto read = [&](int64_t item) {
    const int sample = static_cast<int>(item) / eights, eight = static_cast<int>(item) % eights;
    return load_eight<X>(task, gpu.block_y() * Shape::batch + sample, from * kTileInputs + 8 * eight);
  };
  const auto store = [&](int64_t item, const Eight<X>& inputs) {
    const int sample = static_cast<int>(item) / eights, eight = static_cast<int>(item) % eights;
    const int fragment = eight / 4 * Shape::columns + sample / 8, lane = 4 * (sample % 8) + eight % 4;
    Words terms[Shape::parts];
    terms_of<X>(inputs, terms);
    SUPERMASK_UNROLL
    for (int part = 0; part < Shape::parts; ++part)
      staged[(fragment * Shape::parts + part) * kLanes + lane] = terms[part];
  };
  in_batches<Shape::staged_at_once>(gpu.thread(), Shape::threads, eights * Shape::batch, read, store);
}

// --- products --------------------------------------------------------------------------------------------

// One lane's share of a warp's sums.
template <class Shape>
struct Sums {
  float value[Shape::tiles][Shape::columns][4];
};

// Adds the products of the weights of one input tile with its staged inputs.
template <class Shape, class Gpu>
SUPERMASK_HD void multiply_tile(Gpu& gpu, const Words (&weights)[Shape::tiles], const Words* staged,
                                Sums<Shape>& sums) {
  using X = typename Shape::X;
  SUPERMASK_UNROLL
  for (int j = 0; j < 4; ++j) {
    Words inputs[Shape::columns][Shape::parts];
    SUPERMASK_UNROLL
    for (int column = 0; column < Shape::columns; ++column)
      SUPERMASK_UNROLL
      for (int part = 0; part < Shape::parts; ++part)
        inputs[column][part] = staged[((j * Shape::columns + column) * Shape::parts + part) * kLanes];
    SUPERMASK_UNROLL
    for (int tile = 0; tile < Shape::tiles; ++tile)
      SUPERMASK_UNROLL
      for (int step = 0; step < 2; ++step) {
        uint32_t a[4];
        SUPERMASK_UNROLL
        for (int i = 0; i < 4; ++i) a[i] = decode_pair(weights[tile].word[j], 4 * step + i);
        SUPERMASK_UNROLL
        for (int column = 0; column < Shape::columns; ++column)
          SUPERMASK_UNROLL
          for (int part = Shape::parts - 1; part >= 0; --part)  // the smallest terms first
            gpu.template mma<X>(sums.value[tile][column], a, inputs[column][part].word[2 * step],
                                inputs[column][part].word[2 * step + 1]);
      }
  }
}

// The warp's part of the product: input tiles begin + warp, + input_warps, … below `end`.
template <class Shape, class Gpu>
SUPERMASK_HD void multiply(Gpu& gpu, const PackedLinear& task, int first_tile, int begin, int end,
                           Sums<Shape>& sums) {
  const int lane = gpu.thread() % 32, warp = gpu.thread() / 32 % Shape::input_warps;
  uint32_t rows[Shape::tiles];  // where each row of tiles begins; 32 bits save a register each
  SUPERMASK_UNROLL
  for (int tile = 0; tile < Shape::tiles; ++tile) {
    // Beyond the last tile its weights are read again; nobody reads those sums.
    const int row = first_tile + tile < task.matrix.output_tiles ? first_tile + tile : task.matrix.output_tiles - 1;
    rows[tile] = static_cast<uint32_t>(row) * task.matrix.input_tiles * kLanes + lane;
  }
  Words next[Shape::depth][Shape::tiles];
  const auto load = [&](int place) {
    SUPERMASK_UNROLL
    for (int i = 0; i < Shape::depth; ++i) {
      const int tile = place + i * Shape::input_warps < end ? place + i * Shape::input_warps : end - 1;
      SUPERMASK_UNROLL
      for (int row = 0; row < Shape::tiles; ++row)
        next[i][row] = gpu.load_weights(task.matrix.codes + (rows[row] + tile * kLanes));
    }
  };
  int place = begin + warp;
  if (place < end) load(place);  // before the inputs, whose staging hides the time it takes
  for (int from = begin; from < end; from += Shape::chunk) {
    const int to = from + Shape::chunk < end ? from + Shape::chunk : end;
    if (from > begin) gpu.sync();
    stage_inputs<Shape>(gpu, task, from, to);
    gpu.sync();
    const Words* staged = static_cast<const Words*>(gpu.shared()) + lane;
    for (; place < to; place += Shape::depth * Shape::input_warps) {
      Words now[Shape::depth][Shape::tiles];
      SUPERMASK_UNROLL
      for (int i = 0; i < Shape::depth; ++i)
        SUPERMASK_UNROLL
        for (int row = 0; row < Shape::tiles; ++row) now[i][row] = next[i][row];
      if (place + Shape::depth * Shape::input_warps < end) load(place + Shape::depth * Shape::input_warps);
      SUPERMASK_UNROLL
      for (int i = 0; i < Shape::depth; ++i) {
        const int tile = place + i * Shape::input_warps;
        if (tile < to) multiply_tile<Shape>(gpu, now[i], staged + (tile - from) * Shape::tile_words, sums);
      }
    }
  }
}

// --- sums ------------------------------------------------------------------------------------------------

// Every lane's sums into shared memory: [warp][sample][output].
template <class Shape, class Gpu>
SUPERMASK_HD void store_sums(Gpu& gpu, const Sums<Shape>& sums) {
  const int lane = gpu.thread() % 32, warp = gpu.thread() / 32;
  float* mine = static_cast<float*>(gpu.shared()) + warp * Shape::warp_sums;
  SUPERMASK_UNROLL
  for (int tile = 0; tile < Shape::tiles; ++tile)
    SUPERMASK_UNROLL
    for (int column = 0; column < Shape::columns; ++column)
      SUPERMASK_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int sample = 8 * column + 2 * (lane % 4) + i % 2;
        const int output = kTileOutputs * tile + lane / 4 + 8 * (i / 2);
        mine[sample * Shape::stride + output] = sums.value[tile][column][i];
      }
}

// Adds the warps' sums; the total stands where the first of them had its own.
template <class Shape, class Gpu>
SUPERMASK_HD void add_warps(Gpu& gpu) {
  float* sums = static_cast<float*>(gpu.shared());
  for (int i = gpu.thread(); i < Shape::batch * Shape::outputs; i += Shape::threads) {
    float* first = sums + Shape::place_of_sum(i / Shape::outputs, i % Shape::outputs);
    float total = *first;
    SUPERMASK_UNROLL
    for (int warp = 1; warp < Shape::input_warps; ++warp) total += first[warp * Shape::warp_sums];
    *first = total;
  }
}

// The whole program of a thread. Blocks (group · ranks + rank, batch part), Shape::threads threads each,
// `ranks` neighbours a cluster.
template <class Shape, class Gpu>
SUPERMASK_HD void packed_linear(Gpu& gpu, const PackedLinear& task) {
  const int group = gpu.block_x() / task.ranks, rank = gpu.block_x() % task.ranks;
  const auto [begin, end] = tiles_of_rank(task, rank);
  const int first_output = group * Shape::outputs;
  const int output_warp = gpu.thread() / 32 / Shape::input_warps;
  Sums<Shape> sums = {};
  multiply<Shape>(gpu, task, first_output / kTileOutputs + output_warp * Shape::tiles, begin, end, sums);
  gpu.sync();
  store_sums<Shape>(gpu, sums);
  gpu.sync();
  add_warps<Shape>(gpu);
  // A block on its own needs no barrier here: each thread writes the totals that it added itself.
  if (task.ranks > 1) gpu.sync_cluster();
  write_results<Shape>(gpu, task, first_output, rank);
  if (task.ranks > 1) gpu.sync_cluster();  // shared memory lives until the last neighbour has read it
}

}  // namespace supermask
