// The inner loops, compiled once per instruction set. All work on contiguous tiles that fit the first-level
// cache; who cuts tensors into tiles and spreads them over threads does not care which table it got.
#pragma once

#include <cstdint>

#include "supermask/dtype.h"
#include "supermask/select.h"
#include "supermask/step.h"

namespace supermask {

constexpr int64_t kTile = 2048;  // elements that one call below handles at most, the generator's excepted

struct TileCounts {
  int64_t above;       // keys from the window's upper end on
  int64_t candidates;  // keys within the window
  bool finite;
};

// Selection under one ranking.
template <class Float>
struct RankKernels {
  using Key = typename Keys<Float>::Key;

  // mask[i] = key at or above the window. For candidates, base + i and the key are appended to `where` and
  // `keys`, which need room for `count` entries.
  TileCounts (*classify)(const Float* scores, int64_t count, Window<Key> window, bool* mask, int base,
                         uint16_t* where, Key* keys);
  // bins[(key - low) >> shift] += 1 for every key in the window.
  void (*histogram)(const Float* scores, int64_t count, Window<Key> window, int shift, int64_t* bins);
  // `slabs` matrices of rows x inner scores, one after the other: of each column, the `keep` first in rank.
  // Whether all scores are finite. rows <= kTile.
  bool (*n_of_m)(const Float* scores, int64_t slabs, int64_t rows, int64_t inner, int64_t keep, bool* mask);
};

template <class Float>
struct SelectKernels {
  RankKernels<Float> magnitude, raw;
  void (*straight_through)(const Float* grad, const Float* weight, const Float* score, int64_t count,
                           Float* out);
  void (*masked_weights)(const Float* weight, const bool* mask, int64_t count, Float* out);
  // Conversion of a contiguous tile; to and from 16 bits by way of float32, as torch does it.
  void (*load)(Dtype from, const void* values, int64_t count, Float* out);
  void (*store)(Dtype to, const Float* values, int64_t count, void* out);
};

// At most 16 floats that lie `from` floats after the start of their source and `to` after that of their row.
struct Run {
  int64_t from;
  int64_t count;
  int64_t to;
};

// A value that is not 0, and the distance in bytes from a panel's start to the row that it is multiplied by.
struct Entry {
  float value;
  int32_t bytes;
};

// Products of the kept weights of one output with one input and with four, see kernels_values.h; and with the
// positions of a convolution, kernels_lists.h.
template <class Value>
struct ValueKernels {
  using Dot = void (*)(const uint32_t* masks, int64_t words, const Value* values, const Value* end,
                       const float* inputs, int64_t apart, float* sums);
  Dot dot_1, dot_4;
  // The same from places instead of masks: of one input, and of eight as inputs[feature][8].
  using DotPlaces = void (*)(const uint16_t* places, const Value* values, int64_t count, const float* inputs, float* sums);
  DotPlaces dot_places_1, dot_places_8;
  // sums[row] += listed rows of the panel, each times its weight; 16, 32, 48 and 64 columns. There must be an
  // entry and a weight, listed or not.
  void (*add_weighted[4])(const float* panel, const uint8_t* entries, const Value* weights, const int32_t* starts,
                          int64_t rows, float* sums);
};

// A row of inputs is scale · rounded inputs; `sum` is theirs.
struct RoundedRow {
  float scale;
  int32_t sum;
};

// Products of rounded inputs, kernels_int8.h; the layout of the weights is `fields_of_signs` of supermask/layouts.py.
struct Int8Kernels {
  // sums[input][group][16] of 1 to 4 inputs and up to four groups of 16 outputs. The inputs lie as
  // [block][quarter][input][4], padded to whole blocks of 16 with zeros.
  void (*multiply[4])(const uint8_t* fields, int64_t blocks, int64_t groups, const int8_t* inputs,
                      const int32_t* sum_of_inputs, float* sums);
  // Inputs as integers from -127 to 127, ties to even, times their largest magnitude / 127; all 0 times NaN if
  // one of them is not finite.
  RoundedRow (*round)(const float* inputs, int64_t count, int8_t* rounded);
};

// For each row the places of the bits in its two words of `plus`, then in those of `minus`, of the second word plus 64,
// from `next` on; starts[0] and starts[1] of the row tell where each of both ends, counted from `listed`. Returns where
// all end. Up to `end` anything may be written.
using ListRows = uint8_t* (*)(const uint64_t* const* plus, const uint64_t* const* minus, int64_t rows, uint8_t* listed,
                              uint8_t* next, const uint8_t* end, int32_t* starts);

struct Kernels {
  const char* name;

  // `count` Philox blocks from `block` on: 128 signs per block, or 4 uniform or normal values, times scale.
  void (*sign)(uint64_t key, uint64_t block, int64_t count, float scale, float* out);
  void (*uniform)(uint64_t key, uint64_t block, int64_t count, float scale, float* out);
  void (*normal)(uint64_t key, uint64_t block, int64_t count, float scale, float* out);
  // The blocks' own words, four each.
  void (*words)(uint64_t key, uint64_t block, int64_t count, int64_t* out);

  SelectKernels<float> float32;
  SelectKernels<double> float64;

  // Gradient of the scores, by edge-popup's rule or that of signed supermasks, and SGD update of a tile; `velocity` is
  // null without momentum.
  using MoveScores = void (*)(const Sgd& rule, const float* grad, const float* weight, int64_t count, float* score,
                              float* velocity);
  MoveScores edge_popup_sgd, signed_supermask_sgd;

  // Of at most a tile: the same bits by every instruction set, as the squares are exact.
  double (*sum_of_squares)(const float* values, int64_t count);
  // out[i] = values[i] · factor; they may be the same place.
  void (*scale)(const float* values, float factor, int64_t count, float* out);

  bool (*all_finite)(const float* values, int64_t count);
  // out[i] = -weight[i] where the score is negative, else weight[i].
  void (*signed_weights)(const float* weight, const float* score, int64_t count, float* out);

  // What `masked_weights` writes, stored only where it changes something.
  void (*refresh_masked)(const float* weight, const bool* mask, int64_t count, float* out);

  // values[i] = 0 where the flag is set.
  void (*clear_where)(const bool* where, int64_t count, float* values);

  // `count` bytes of 8 mask bits each.
  void (*pack)(const bool* mask, int64_t count, uint8_t* packed);
  void (*unpack)(const uint8_t* packed, int64_t count, bool* mask);

  // Packed layers; the layouts are those of supermask/ops/layouts.py.
  // Tables of 16 sums of three inputs each.
  void (*triple_sums)(const float* inputs, int64_t triples, float* tables);
  // out[input][group][16] of up to four groups of 16 outputs, for one input and for four.
  void (*look_up_1)(const uint32_t* codes, int64_t words, int64_t groups, const float* tables, float* out);
  void (*look_up_4)(const uint32_t* codes, int64_t words, int64_t groups, const float* tables, float* out);
  // Tables of 32 rows of 16 inputs side by side for triples of features, kernels_rows.h; and sums[group][16 outputs]
  // [16 inputs] += the rows that codes name, of up to four groups. Codes that lie `next` words ahead are asked for.
  void (*triple_rows)(const float* inputs, int64_t triples, float* tables);
  void (*add_rows)(const uint32_t* codes, int64_t words, int64_t groups, const float* tables, float* sums,
                   int64_t next);
  // Tables of the 8 sums of some of three inputs each.
  void (*subset_sums)(const float* inputs, int64_t triples, float* tables);
  // out[input][group][16] += the sums that planes of bits name, of one input or four, whose tables are `apart`.
  void (*add_planes_1)(const uint32_t* planes, int64_t words, int64_t groups, const float* tables, int64_t apart,
                       float* out);
  void (*add_planes_4)(const uint32_t* planes, int64_t words, int64_t groups, const float* tables, int64_t apart,
                       float* out);
  // sums[row] += listed rows of the panel, -= others listed; 16, 32, 48 and 64 columns. There must be an entry,
  // listed or not.
  void (*add_listed[4])(const float* panel, const uint8_t* entries, const int32_t* starts, int64_t rows,
                        float* sums);
  // The same for sums[order[row]], in an order in which few lists are longer or shorter than the one before.
  void (*add_ordered[4])(const float* panel, const uint8_t* entries, const int32_t* starts, const int16_t* order,
                         int64_t rows, float* sums);
  // panel[pair][4][width] = the inputs a and b of a pair, inputs[pair][2][width], a + b and a - b; width is a multiple
  // of 16.
  void (*pair_rows)(const float* inputs, int64_t pairs, int64_t width, float* panel);
  // The values that are not 0, NaN included, as entries of rows that lie `bytes` apart; returns how many. There must be
  // room for `count` and 8 more.
  int64_t (*list_entries)(const float* values, int64_t count, int32_t bytes, Entry* entries);
  // sums[row · apart] = or, in the second four, += the rows that entries[starts[row] : starts[row + 1]] name, each times
  // its value; of 16, 32, 48 and 64 columns. Every row asks for so many lines of memory from `next` on, the panel of the
  // call after this one.
  void (*sum_entries[2][4])(const float* panel, const Entry* entries, const int32_t* starts, int64_t rows, float* sums,
                            int64_t apart, const float* next, int64_t lines);
  ValueKernels<float> values_float32;
  ValueKernels<BFloat16> values_bfloat16;
  Int8Kernels int8;

  // Lists of weights, packed_lists.cpp. Which of at most 64 weights are +scale and -scale, as bits, the first lowest;
  // whether the rest are 0.
  bool (*sign_bits)(const float* weights, int64_t count, float scale, uint64_t* plus, uint64_t* minus);
  // Bit j of word i goes to bit i of word j, for 64 words.
  void (*transpose_bits)(uint64_t* words);
  int64_t (*count_bits)(const uint64_t* words, int64_t count);
  ListRows list_rows;
  // to[column · to_apart + row] = from[row · apart + column].
  void (*transpose)(const float* from, int64_t rows, int64_t columns, int64_t apart, float* to, int64_t to_apart);

  // Packed convolutions, packed_conv.cpp. to[i] = row[i · step + first], or 0 where the row has no such value.
  void (*pad_row)(const float* row, int64_t width, int64_t first, int64_t step, int64_t count, float* to);
  // Row r of the panel, `width` floats long, gets the runs of
  // inputs + offsets[r]; the panel needs room for 16 floats after its last row.
  void (*pack_panel)(const float* inputs, const int64_t* offsets, int64_t rows, const Run* runs, int64_t count,
                     int64_t width, float* panel);
  // sums[row] = sums[row] · scale + bias[row]; bias may be null.
  void (*scale_rows)(float* sums, int64_t rows, int64_t width, float scale, const float* bias);
};

// The best table for this machine. ATEN_CPU_CAPABILITY (avx512, avx2 or default), which limits torch's own
// kernels, limits ours too, so that both round alike.
const Kernels& kernels();

// Those of the table, or faster ones where the machine has instructions beyond the table's.
const Int8Kernels& int8_kernels();
ListRows list_rows_kernel();

template <class Float>
inline const SelectKernels<Float>& kernels_for();

template <>
inline const SelectKernels<float>& kernels_for<float>() {
  return kernels().float32;
}

template <>
inline const SelectKernels<double>& kernels_for<double>() {
  return kernels().float64;
}

template <class Float>
inline const RankKernels<Float>& rank_kernels(Ranking ranking) {
  return ranking == Ranking::raw ? kernels_for<Float>().raw : kernels_for<Float>().magnitude;
}

}  // namespace supermask
