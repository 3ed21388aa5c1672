// Weights +σ, -σ and 0 as codes of two bits, in the order in which the tensor cores of a GPU take them.
//
// A code is 01 for +, 11 for - and 00 for 0: the top two bits of +2.0, -2.0 and 0.0 in bfloat16 and in
// float16. So decoding two weights at once is a shift and an and, and the product is due a factor σ / 2.
//
// A tile is 16 outputs by 128 inputs: 32 lanes of 16 bytes, so that a warp reads it with one coalesced load.
// Tiles lie as [outputs / 16][inputs / 128], the missing rows and columns of the last ones being zeros.
#pragma once

#include <cstdint>

#include "supermask/dtype.h"
#include "supermask/macros.h"

namespace supermask {

constexpr int kTileOutputs = 16, kTileInputs = 128, kLanes = 32;

// Sixteen bytes, the most that one thread loads at once, of whatever type. Of a tile, a lane's share.
struct __attribute__((may_alias, aligned(16))) Words {
  uint32_t word[4];
};

struct CodedMatrix {
  const Words* codes;  // [output_tiles][input_tiles][32], fewer than 2^32
  int outputs, inputs;
  int output_tiles, input_tiles;
};

SUPERMASK_HD int divide_up(int a, int b) { return (a + b - 1) / b; }

SUPERMASK_HD CodedMatrix coded_matrix(const void* codes, int outputs, int inputs) {
  return {static_cast<const Words*>(codes), outputs, inputs, divide_up(outputs, kTileOutputs),
          divide_up(inputs, kTileInputs)};
}

struct CodePlace {
  int lane, word, bit;
};

// Where the code of `output` (0 to 15) and `input` (0 to 127) stands in its tile. Word j of lane 4 g + t has
// the inputs 32 j + 8 t + 0 … 7 of the outputs g and g + 8.
SUPERMASK_HD CodePlace place_of_code(int output, int input) {
  const int pair = input / 2 % 4;
  return {4 * (output % 8) + input / 8 % 4, input / 32, 16 * (input % 2) + 14 - 2 * (2 * pair + output / 8)};
}

// Two neighbouring inputs of one output as a pair of bfloat16 or float16, the first in the low half: +2.0,
// -2.0 or 0. Pairs 4 k + 0 … 3 are the four registers of operand A in step k of the word.
SUPERMASK_HD uint32_t decode_pair(uint32_t word, int pair) { return (word << (2 * pair)) & 0xC000C000u; }

SUPERMASK_HD uint16_t raw_bits(BFloat16 value) { return value.bits; }
SUPERMASK_HD uint16_t raw_bits(Float16 value) { return value.bits; }
SUPERMASK_HD uint32_t raw_bits(float value) { return bits_of(value); }
SUPERMASK_HD void from_raw_bits(uint32_t bits, BFloat16& out) { out.bits = static_cast<uint16_t>(bits); }
SUPERMASK_HD void from_raw_bits(uint32_t bits, Float16& out) { out.bits = static_cast<uint16_t>(bits); }
SUPERMASK_HD void from_raw_bits(uint32_t bits, float& out) { out = float_of(bits); }

// The eight inputs of a word that belong to output g (`upper` 0) or g + 8 (`upper` 1), as weights +scale,
// -scale and +0.
template <class Value>
SUPERMASK_HD void decode_eight(uint32_t word, int upper, Value scale, Value* out) {
  const uint32_t magnitude = raw_bits(scale);
  SUPERMASK_UNROLL
  for (int i = 0; i < 8; ++i) {
    const uint32_t code = word >> (16 * (i % 2) + 14 - 2 * (i / 2 * 2 + upper));
    const uint32_t sign = (code & 2u) << (8 * sizeof(Value) - 2);
    from_raw_bits(code & 1u ? magnitude ^ sign : 0u, out[i]);
  }
}

// What the lane at `place` of the codes holds, written to its places in the dense matrix (outputs, inputs), which
// starts at a multiple of 16 bytes.
template <class Value>
SUPERMASK_HD void decode_lane(const CodedMatrix& matrix, int64_t place, Value scale, Value* dense) {
  constexpr int kStore = 16 / sizeof(Value);  // values that one store takes
  const int lane = static_cast<int>(place % kLanes);
  const int64_t tile = place / kLanes;
  const int first_output = static_cast<int>(tile / matrix.input_tiles) * kTileOutputs + lane / 4;
  const int first_input = static_cast<int>(tile % matrix.input_tiles) * kTileInputs + 8 * (lane % 4);
  const Words words = matrix.codes[place];
  SUPERMASK_UNROLL
  for (int upper = 0; upper < 2; ++upper) {
    const int output = first_output + 8 * upper;
    if (output >= matrix.outputs) break;
    SUPERMASK_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int input = first_input + 32 * j;
      alignas(16) Value values[8];
      decode_eight(words.word[j], upper, scale, values);
      Value* to = dense + static_cast<int64_t>(output) * matrix.inputs + input;
      if (matrix.inputs % 8 == 0 && input < matrix.inputs) {
        SUPERMASK_UNROLL
        for (int i = 0; i < 8; i += kStore)
          *reinterpret_cast<Words*>(to + i) = *reinterpret_cast<const Words*>(values + i);
      } else {
        SUPERMASK_UNROLL
        for (int i = 0; i < 8; ++i)
          if (input + i < matrix.inputs) to[i] = values[i];
      }
    }
  }
}

}  // namespace supermask
