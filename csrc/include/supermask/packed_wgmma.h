// y = x · Wᵀ + b on Hopper's tensor cores, for many inputs of 16 bits and a matrix W of codes (codes.h). One
// thread's program, in terms of a `Gpu` as packed_mma.h has one, which here also supplies wgmma and stmatrix.
//
// The weights are operand A, decoded in registers; wgmma takes them from there. Inputs are operand B, in shared
// memory. A tile of weights holds its inputs in an order of its own, so inputs are brought into that order on
// their way: a quad of lanes loads 32 neighbouring inputs of a sample, 8 a lane, and stmatrix spreads each pair
// of them to where the fragments of operand A have their weights.
//
// wgmma runs beside the threads. While the products of 32 inputs are under way, the warp decodes the next 32;
// inputs go to a ring of three stages, a stage being read, one being read still by warpgroups that are behind,
// and one being written.
#pragma once

#include <cstdint>

#include "supermask/codes.h"
#include "supermask/macros.h"
#include "supermask/packed_task.h"

namespace supermask {

template <class Element, int kBatch>
struct WgmmaShape {
  using X = Element;
  static_assert(sizeof(X) == 2);
  static constexpr int batch = kBatch;            // samples that one pass over the weights serves
  static constexpr int warps = 16, threads = 32 * warps;  // four warpgroups, one above the other
  static constexpr int outputs = kTileOutputs * warps;
  static constexpr int half_bytes = batch * 128;  // of a stage: 64 inputs of every sample
  static constexpr int stage_bytes = 2 * half_bytes, stages = 3;
  static constexpr int loads = stage_bytes / 16 / threads;  // of 16 bytes, for each thread and stage
  static constexpr int stride = outputs + 4;                // of sums: a warp's stores meet every bank once

  // Where a sum stands in shared memory, in floats.
  SUPERMASK_MEMBER static int place_of_sum(int sample, int output) { return sample * stride + output; }
};

// Bytes of shared memory: the stages, and after them, in the same place, the sums.
template <class Shape>
constexpr int wgmma_shared_bytes() {
  constexpr int staged = Shape::stages * Shape::stage_bytes, sums = Shape::batch * Shape::stride * 4;
  return staged > sums ? staged : sums;
}

// The descriptor of operand B for wgmma (PTX ISA, "Matrix Descriptor Format"): 16 inputs from `address` on in
// shared memory, of samples that lie 128 bytes apart and in groups of eight 1024 bytes apart, swizzled.
SUPERMASK_HD uint64_t wgmma_descriptor(uint32_t address) {
  constexpr uint64_t leading = 1, stride = 1024 / 16, swizzle_128_bytes = 1;  // the first is not used
  return (address / 16 & 0x3FFF) | leading << 16 | stride << 32 | swizzle_128_bytes << 62;
}

// Where 16 bytes of a stage stand in it: chunk 0 … 7 of the 128 bytes that `sample` has in one half, swizzled by
// the sample so that no two of eight samples meet in a bank.
template <class Shape>
SUPERMASK_HD int place_in_stage(int half, int sample, int chunk) {
  return half * Shape::half_bytes + sample * 128 + (chunk ^ sample % 8) * 16;
}

// --- inputs ----------------------------------------------------------------------------------------------

// A warp's load i covers the 8 samples from 8 (warp / 4) + 32 i on, and the 32 inputs that word warp % 4 of a tile's
// codes meets.
SUPERMASK_HD int first_sample_of(int warp, int i) { return warp / 4 * 8 + 32 * i; }

template <class Shape, class Gpu>
SUPERMASK_HD void load_inputs(Gpu& gpu, const PackedLinear& task, int tile, Words (&inputs)[Shape::loads]) {
  const int lane = gpu.thread() % 32, warp = gpu.thread() / 32;
  const int sample = gpu.block_y() * Shape::batch + lane / 4;
  const int input = tile * kTileInputs + 32 * (warp % 4) + 8 * (lane % 4);
  SUPERMASK_UNROLL
  for (int i = 0; i < Shape::loads; ++i)
    inputs[i] = load_eight<typename Shape::X>(task, sample + first_sample_of(warp, i), input).words[0];
}

// Into shared memory from `stage` on. Pair p of every lane of a quad makes chunk p, in the order of the lanes: of
// step s, columns 2 t, 2 t + 1 of the fragments are pair 2 s of lane t, and 8 + 2 t, … its pair 2 s + 1.
template <class Shape, class Gpu>
SUPERMASK_HD void store_inputs(Gpu& gpu, int stage, const Words (&inputs)[Shape::loads]) {
  const int lane = gpu.thread() % 32, warp = gpu.thread() / 32;
  const int half = warp % 4 / 2, chunk = 4 * (warp % 2) + lane / 8;  // of pair lane / 8
  SUPERMASK_UNROLL
  for (int i = 0; i < Shape::loads; ++i) {
    // stmatrix takes the address of row r of matrix p from lane 8 p + r.
    const int sample = first_sample_of(warp, i) + lane % 8;
    gpu.store_matrices(stage + place_in_stage<Shape>(half, sample, chunk), inputs[i]);
  }
}

// --- products --------------------------------------------------------------------------------------------

// The 32 inputs that one word of the codes meets, as operand A of two products.
SUPERMASK_HD void decode_word(uint32_t word, uint32_t (&a)[2][4]) {
  SUPERMASK_UNROLL
  for (int step = 0; step < 2; ++step)
    SUPERMASK_UNROLL
    for (int i = 0; i < 4; ++i) a[step][i] = decode_pair(word, 4 * step + i);
}

// The products of input tiles [begin, end) with the 16 outputs of a warp's row of tiles.
template <class Shape, class Gpu>
SUPERMASK_HD void multiply_wgmma(Gpu& gpu, const PackedLinear& task, int row, int begin, int end,
                                 float (&sums)[Shape::batch / 2]) {
  if (begin >= end) return;
  const CodedMatrix& matrix = task.matrix;
  // Beyond the last tile its weights are read again; nobody reads those sums.
  const int last_row = matrix.output_tiles - 1;
  const uint32_t first =
      static_cast<uint32_t>(row < last_row ? row : last_row) * matrix.input_tiles * kLanes + gpu.thread() % 32;
  const auto load_codes = [&](int tile) { return gpu.load_weights(matrix.codes + (first + tile * kLanes)); };

  Words inputs[Shape::loads], codes = load_codes(begin);
  uint32_t a[2][2][4];  // of the products under way, and of the next
  load_inputs<Shape>(gpu, task, begin, inputs);
  store_inputs<Shape>(gpu, 0, inputs);
  if (begin + 1 < end) load_inputs<Shape>(gpu, task, begin + 1, inputs);
  decode_word(codes.word[0], a[0]);
  gpu.show_stores();
  gpu.sync();
  int stage = 0;
  for (int tile = begin; tile < end; ++tile) {
    constexpr int stages_bytes = Shape::stages * Shape::stage_bytes;
    const int next_stage = stage + Shape::stage_bytes < stages_bytes ? stage + Shape::stage_bytes : 0;
    const bool more = tile + 1 < end;
    const Words next = more ? load_codes(tile + 1) : Words{};
    SUPERMASK_UNROLL
    for (int word = 0; word < 4; ++word) {
      const uint32_t from = gpu.shared_address() + stage + word / 2 * Shape::half_bytes + word % 2 * 64;
      gpu.begin_wgmma();
      SUPERMASK_UNROLL
      for (int step = 0; step < 2; ++step)
        gpu.template wgmma<typename Shape::X>(sums, a[word % 2][step], wgmma_descriptor(from + 32 * step));
      gpu.commit_wgmma();
      if (word == 0 && more) {
        // The stage of two tiles ago. All warpgroups are done with it: they have waited for the products of that
        // tile in the last one, before its barrier.
        store_inputs<Shape>(gpu, next_stage, inputs);
        if (tile + 2 < end) load_inputs<Shape>(gpu, task, tile + 2, inputs);
      }
      gpu.template wait_wgmma<1>();  // the other half of `a` is free
      if (word < 3 || more) decode_word(word < 3 ? codes.word[(word + 1) % 4] : next.word[0], a[(word + 1) % 2]);
    }
    codes = next;
    stage = next_stage;
    gpu.show_stores();
    gpu.sync();
  }
  gpu.template wait_wgmma<0>();
}

// Every lane's sums into shared memory: [sample][output].
template <class Shape, class Gpu>
SUPERMASK_HD void store_wgmma_sums(Gpu& gpu, const float (&sums)[Shape::batch / 2]) {
  const int lane = gpu.thread() % 32, warp = gpu.thread() / 32;
  float* to = static_cast<float*>(gpu.shared());
  SUPERMASK_UNROLL
  for (int i = 0; i < Shape::batch / 2; ++i) {
    const int sample = i / 4 * 8 + 2 * (lane % 4) + i % 2;
    const int output = kTileOutputs * warp + lane / 4 + 8 * (i / 2 % 2);
    to[Shape::place_of_sum(sample, output)] = sums[i];
  }
}

// The whole program of a thread, in a grid as packed_linear's of packed_mma.h.
template <class Shape, class Gpu>
SUPERMASK_HD void packed_linear_wgmma(Gpu& gpu, const PackedLinear& task) {
  const int group = gpu.block_x() / task.ranks, rank = gpu.block_x() % task.ranks;
  const auto [begin, end] = tiles_of_rank(task, rank);
  const int first_output = group * Shape::outputs;
  float sums[Shape::batch / 2] = {};
  multiply_wgmma<Shape>(gpu, task, first_output / kTileOutputs + gpu.thread() / 32, begin, end, sums);
  gpu.sync();  // every warpgroup has read its last stage
  store_wgmma_sums<Shape>(gpu, sums);
  gpu.sync();
  if (task.ranks > 1) gpu.sync_cluster();
  write_results<Shape>(gpu, task, first_output, rank);
  if (task.ranks > 1) gpu.sync_cluster();  // shared memory lives until the last neighbour has read it
}

}  // namespace supermask
