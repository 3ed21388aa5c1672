// The packed linear layer for tensor cores, run thread by thread on an emulated GPU: integers give the bits of
// a plain matrix product, so that every index of layout, fragments, staging and epilogue is right.
#include <cmath>
#include <limits>
#include <vector>

#include "check.h"
#include "emulated_gpu.h"
#include "supermask/packed_mma.h"
#include "supermask/packed_wgmma.h"
#include "supermask/philox.h"

using namespace supermask;

namespace {

int random_integer(uint64_t seed, uint64_t index, int limit) {
  return static_cast<int>(philox(seed, index).word[0] % (2 * limit + 1)) - limit;
}

// A buffer of exactly `count` elements that starts at a multiple of 16 bytes plus `offset` elements.
template <class T>
struct Buffer {
  Buffer(int64_t count, int offset, unsigned char fill)
      : block(static_cast<char*>(::operator new[]((count + offset) * sizeof(T), std::align_val_t{16}))),
        data(reinterpret_cast<T*>(block) + offset) {
    std::memset(block, fill, (count + offset) * sizeof(T));
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { ::operator delete[](block, std::align_val_t{16}); }

  char* block;
  T* data;
};

struct Case {
  int batch, outputs, inputs, ranks;
};

// Signs of a plain matrix and their codes, tile by tile through `place_of_code`.
struct Weights {
  explicit Weights(const Case& c)
      : output_tiles(divide_up(c.outputs, kTileOutputs)),
        input_tiles(divide_up(c.inputs, kTileInputs)),
        signs(static_cast<size_t>(c.outputs) * c.inputs),
        codes(output_tiles * input_tiles * kLanes, 0, 0) {
    for (int output = 0; output < c.outputs; ++output)
      for (int input = 0; input < c.inputs; ++input) {
        const int sign = random_integer(123456, output * c.inputs + input, 1);
        signs[output * c.inputs + input] = sign;
        const CodePlace place = place_of_code(output % kTileOutputs, input % kTileInputs);
        const int tile = output / kTileOutputs * input_tiles + input / kTileInputs;
        const uint32_t code = sign > 0 ? 1u : sign < 0 ? 3u : 0u;
        codes.data[tile * kLanes + place.lane].word[place.word] |= code << place.bit;
      }
  }

  int output_tiles, input_tiles;
  std::vector<int> signs;
  Buffer<Words> codes;
};

// How each kernel is run.
template <class Shape>
struct Kernel {
  static int bytes(int share) { return shared_bytes<Shape>(share); }
  static void run(EmulatedGpu& gpu, const PackedLinear& task) { packed_linear<Shape>(gpu, task); }
};

template <class X, int kBatch>
struct Kernel<WgmmaShape<X, kBatch>> {
  using Shape = WgmmaShape<X, kBatch>;
  static int bytes(int) { return wgmma_shared_bytes<Shape>(); }
  static void run(EmulatedGpu& gpu, const PackedLinear& task) { packed_linear_wgmma<Shape>(gpu, task); }
};

template <class Shape>
void test_product(const Case& c, int offset, bool biased, uint64_t seed) {
  using X = typename Shape::X;
  const Weights weights(c);
  // Integers that bfloat16 holds, or in float32 some that take all three terms; no sum reaches 2^24.
  constexpr bool is_float = sizeof(X) == 4;
  const int limit = is_float ? 1 : 100;
  const float unit = is_float ? 65536 + 256 + 1 : 1;
  Buffer<X> x(static_cast<int64_t>(c.batch) * c.inputs, offset, 0xFF);
  for (int i = 0; i < c.batch * c.inputs; ++i)
    from_float(static_cast<float>(random_integer(seed, i, limit)) * unit, x.data[i]);
  Buffer<BFloat16> bias(c.outputs, 0, 0xFF);
  for (int i = 0; i < c.outputs; ++i) from_float(static_cast<float>(i % 100), bias.data[i]);
  Buffer<X> y(static_cast<int64_t>(c.batch) * c.outputs, 0, 0xFF);

  const bool aligned = offset == 0 && c.inputs % 8 == 0;
  const PackedLinear task = {coded_matrix(weights.codes.data, c.outputs, c.inputs),
                             x.data,
                             biased ? bias.data : nullptr,
                             y.data,
                             Dtype::bfloat16,
                             0.5f,
                             c.batch,
                             c.ranks,
                             aligned};
  const int share = divide_up(weights.input_tiles, c.ranks);
  const bool ended = launch_emulated(
      divide_up(c.outputs, Shape::outputs) * c.ranks, divide_up(c.batch, Shape::batch), c.ranks, Shape::threads,
      Kernel<Shape>::bytes(share), seed, [&](EmulatedGpu& gpu) { Kernel<Shape>::run(gpu, task); });
  expect(ended, "every thread reaches every barrier");
  for (int sample = 0; sample < c.batch; ++sample)
    for (int output = 0; output < c.outputs; ++output) {
      double exact = 0;
      for (int input = 0; input < c.inputs; ++input)
        exact += double(to_float(x.data[sample * c.inputs + input])) * weights.signs[output * c.inputs + input];
      exact += biased ? output % 100 : 0;
      X rounded;
      from_float(static_cast<float>(exact), rounded);
      expect(raw_bits(y.data[sample * c.outputs + output]) == raw_bits(rounded), "a product of integers");
    }
}

template <class X>
void test_small_shapes() {
  const Case small[] = {{1, 1, 1, 1},   {1, 64, 128, 1},  {3, 65, 130, 1}, {8, 15, 7, 1},
                        {2, 33, 264, 2}, {5, 70, 1100, 4}, {1, 16, 1030, 8}};
  for (const Case& c : small)
    for (const int offset : {0, 1}) test_product<PackedShape<X, 8>>(c, offset, offset == 0, c.inputs);
}

template <class X>
void test_large_shapes() {
  test_product<PackedShape<X, 8>>({9, 17, 136, 1}, 0, true, 3);  // two passes over the weights
  test_product<PackedShape<X, 8>>({1, 5, 128 * 50, 1}, 0, true, 4);  // more inputs than shared memory holds
  test_product<PackedShape<X, 8>>({1, 5, 0, 1}, 0, true, 5);
  test_product<PackedShape<X, 16>>({9, 129, 650, 1}, 0, true, 6);
  test_product<PackedShape<X, 16>>({16, 100, 1160, 2}, 0, true, 7);
  test_product<PackedShape<X, 16>>({11, 16, 128 * 25, 1}, 0, false, 8);
  test_product<PackedShape<X, 32>>({17, 128, 131, 1}, 0, false, 9);
  test_product<PackedShape<X, 32>>({32, 30, 136 * 8, 2}, 0, true, 10);
  test_product<PackedShape<X, 32>>({33, 18, 128 * 5, 1}, 0, true, 11);
  test_product<PackedShape<X, 32>>({20, 16, 128 * 14, 1}, 1, true, 12);
}

template <class X>
void test_wgmma() {
  test_product<WgmmaShape<X, 64>>({1, 1, 1, 1}, 0, true, 1);
  test_product<WgmmaShape<X, 64>>({64, 256, 128, 1}, 0, false, 2);
  test_product<WgmmaShape<X, 64>>({63, 70, 131, 1}, 1, true, 3);
  test_product<WgmmaShape<X, 64>>({65, 17, 128 * 2, 1}, 0, true, 4);  // two passes over the weights
  test_product<WgmmaShape<X, 64>>({5, 300, 0, 1}, 0, true, 5);
  test_product<WgmmaShape<X, 64>>({30, 257, 128 * 7 + 8, 2}, 0, true, 6);
  test_product<WgmmaShape<X, 64>>({9, 16, 128 * 3, 4}, 0, false, 7);  // a rank without a tile
  test_product<WgmmaShape<X, 128>>({128, 256, 128 * 5, 1}, 0, true, 8);
  test_product<WgmmaShape<X, 128>>({100, 40, 1001, 1}, 1, true, 9);
  test_product<WgmmaShape<X, 128>>({129, 16, 128 * 4, 2}, 0, false, 10);
}

// Every code of a tile has a place of its own, and decoding finds it there.
void test_places() {
  std::vector<int> taken(kLanes * 128);
  for (int output = 0; output < kTileOutputs; ++output)
    for (int input = 0; input < kTileInputs; ++input) {
      const CodePlace place = place_of_code(output, input);
      taken[place.lane * 128 + place.word * 32 + place.bit]++;
      const uint32_t word = 3u << place.bit;
      float values[8];
      decode_eight(word, output / 8, 0.75f, values);
      for (int i = 0; i < 8; ++i) expect(values[i] == (i == input % 8 ? -0.75f : 0.0f), "decoded weight");
      decode_eight(word, 1 - output / 8, 0.75f, values);
      for (int i = 0; i < 8; ++i) expect(values[i] == 0 && !std::signbit(values[i]), "another output's weight");
      for (int pair = 0; pair < 8; ++pair) {
        const bool here = pair == 2 * (input % 8 / 2) + output / 8;
        const uint32_t expected = here ? 0xC000u << (16 * (input % 2)) : 0u;
        expect(decode_pair(word, pair) == expected, "decoded pair");
      }
    }
  for (size_t i = 0; i < taken.size(); ++i) expect(taken[i] == (i % 2 == 0), "one code, one place");
}

// The registers of a lane, taken as fragments of operand A, are the outputs and inputs that codes.h says: in
// step k of word j, columns 2 t, 2 t + 1 are the inputs 8 t + 4 k, + 1 and columns 8 + 2 t, … the next two.
void test_fragments() {
  for (int lane = 0; lane < kLanes; ++lane)
    for (int step = 0; step < 2; ++step)
      for (int i = 0; i < 8; ++i) {
        const Element a = fragment_a(lane, i);
        const int input = 8 * (lane % 4) + 4 * step + i % 2 + 2 * (a.column / 8);
        const CodePlace place = place_of_code(a.row, input);
        const uint32_t decoded = decode_pair(1u << place.bit, 4 * step + i / 2);
        expect(place.lane == lane && place.word == 0, "lane of a fragment");
        expect(decoded == 0x4000u << (16 * (i % 2)), "register of a fragment");
      }
}

void test_split() {
  for (uint64_t i = 0; i < 200000; ++i) {
    const float value = float_of(philox(5, i).word[0]);
    uint16_t parts[3];
    split_float(value, parts);
    double sum = 0;
    for (const uint16_t part : parts) sum += to_float(BFloat16{part});
    if (std::isnan(value)) {
      expect(std::isnan(sum), "NaN stays NaN");
    } else if (std::isinf(value) || std::abs(value) >= 0x1p-109f) {
      expect(sum == value, "three terms of a float");
    } else {
      expect(std::abs(sum - value) < 0x1p-132, "three terms of a small float");
    }
  }
  for (const float value : {0.0f, -0.0f, std::numeric_limits<float>::max(), INFINITY, -INFINITY, 1.0f}) {
    uint16_t parts[3];
    split_float(value, parts);
    expect(to_float(BFloat16{parts[0]}) + to_float(BFloat16{parts[1]}) + to_float(BFloat16{parts[2]}) == value,
           "terms of a special value");
  }
}

void test_ranks() {
  const ClustersAtOnce all = {{INT32_MAX, 132, 66, 33}}, none = {{INT32_MAX, 0, 0, 0}};
  expect(choose_ranks(64, 32, 8, 264, all) == 4, "4096 by 4096 on 132 multiprocessors");
  expect(choose_ranks(132, 32, 8, 264, all) == 2, "two blocks for each multiprocessor");
  expect(choose_ranks(400, 32, 8, 264, all) == 1, "enough blocks");
  expect(choose_ranks(1, 7, 8, 264, all) == 1, "few inputs are not split");
  expect(choose_ranks(1, 1000, 8, 264, all) == 8, "a portable cluster has at most 8 blocks");
  expect(choose_ranks(66, 32, 2, 67, all) == 2, "fewer blocks than enough");
  expect(choose_ranks(67, 32, 2, 67, all) == 1, "enough of them");
  expect(choose_ranks(33, 32, 2, 264, all) == 8 && choose_ranks(34, 32, 2, 264, all) == 4, "no more clusters either");
  expect(choose_ranks(1, 1000, 8, 264, none) == 1, "a device without clusters");
}

}  // namespace

int main() {
  test_places();
  test_fragments();
  test_split();
  test_ranks();
  test_small_shapes<BFloat16>();
  test_small_shapes<Float16>();
  test_small_shapes<float>();
  test_large_shapes<BFloat16>();
  test_large_shapes<float>();
  test_wgmma<BFloat16>();
  test_wgmma<Float16>();
  return finish();
}
