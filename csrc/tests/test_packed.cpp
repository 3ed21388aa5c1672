// The inner loops of packed linear layers and of the gradients of their weights, on integers, whose sums are exact in any
// order. Buffers are allocated to the element, so that the sanitizers see every step over an end.
#include <algorithm>
#include <cmath>
#include <vector>

#include "check.h"
#include "kernels.h"

using namespace supermask;

namespace {

int small_input(uint64_t i) { return static_cast<int>(random_word(i) % 19) - 9; }
int small_sign(uint64_t i) { return static_cast<int>(random_word(i + 77777) % 3) - 1; }

// `groups` of 16 outputs, `words` of 18 inputs, one input and four.
void test_look_up(int64_t groups, int64_t words) {
  const int64_t outputs = 16 * groups, features = 18 * words;
  std::vector<uint32_t> codes(outputs * words);
  for (int64_t row = 0; row < outputs; ++row)
    for (int64_t triple = 0; triple < 6 * words; ++triple) {
      const uint64_t at = row * features + 3 * triple;
      const int number = small_sign(at) + 3 * small_sign(at + 1) + 9 * small_sign(at + 2);
      const uint32_t code = number < 0 ? 16 - number : number;
      const int64_t place = triple % 6;
      codes[triple / 6 * outputs + row] |= code << (5 * (place % 3) + 16 * (place / 3));
    }
  std::vector<float> inputs(4 * features), tables(4 * words * 96), one(outputs), four(4 * outputs);
  for (int64_t i = 0; i < 4 * features; ++i) inputs[i] = static_cast<float>(small_input(i));
  kernels().triple_sums(inputs.data(), 4 * words * 6, tables.data());
  kernels().look_up_1(codes.data(), words, groups, tables.data(), one.data());
  kernels().look_up_4(codes.data(), words, groups, tables.data(), four.data());
  for (int64_t input = 0; input < 4; ++input)
    for (int64_t row = 0; row < outputs; ++row) {
      int sum = 0;
      for (int64_t f = 0; f < features; ++f)
        sum += small_sign(row * features + f) * small_input(input * features + f);
      expect(four[input * outputs + row] == static_cast<float>(sum), "four inputs looked up");
      if (input == 0) expect(one[row] == static_cast<float>(sum), "one input looked up");
    }
  // Four inputs among 16 side by side, the others 0, in two goes where there are two words or more.
  const int64_t half = words / 2;
  std::vector<float> turned(16 * features), rows(6 * words * 512, NAN), sums(16 * outputs, 2.0f);
  for (int64_t f = 0; f < features; ++f)
    for (int64_t input = 0; input < 4; ++input) turned[16 * f + 4 * input] = inputs[input * features + f];
  kernels().triple_rows(turned.data(), 6 * words, rows.data());
  kernels().add_rows(codes.data(), half, groups, rows.data(), sums.data(), 0);
  kernels().add_rows(codes.data() + outputs * half, words - half, groups, rows.data() + 6 * half * 512, sums.data(), 0);
  for (int64_t row = 0; row < outputs; ++row)
    for (int64_t input = 0; input < 16; ++input) {
      const float sum = input % 4 ? 0 : four[input / 4 * outputs + row];
      expect(sums[16 * row + input] == 2 + sum, "inputs side by side");
    }
}

// The same from planes of bits, in two goes where there are two words or more.
void test_planes(int64_t groups, int64_t words) {
  const int64_t outputs = 16 * groups, features = 30 * words, apart = 80 * words, half = words / 2;
  std::vector<uint32_t> planes(2 * outputs * words);
  for (int64_t row = 0; row < outputs; ++row)
    for (int64_t f = 0; f < features; ++f)
      for (int plane = 0; plane < 2; ++plane)
        if (small_sign(row * features + f) == 1 - 2 * plane)
          planes[(f / 30 * 2 + plane) * outputs + row] |= 1u << (f % 30);
  std::vector<float> inputs(4 * features), tables(4 * apart), one(outputs, 2.0f), four(4 * outputs, 2.0f);
  for (int64_t i = 0; i < 4 * features; ++i) inputs[i] = static_cast<float>(small_input(i));
  kernels().subset_sums(inputs.data(), 4 * words * 10, tables.data());
  for (const int64_t from : {int64_t{0}, half}) {
    const int64_t some = from ? words - half : half ? half : words;
    const uint32_t* start = planes.data() + 2 * outputs * from;
    kernels().add_planes_1(start, some, groups, tables.data() + 80 * from, apart, one.data());
    kernels().add_planes_4(start, some, groups, tables.data() + 80 * from, apart, four.data());
    if (half == 0) break;
  }
  for (int64_t input = 0; input < 4; ++input)
    for (int64_t row = 0; row < outputs; ++row) {
      int sum = 2;
      for (int64_t f = 0; f < features; ++f)
        sum += small_sign(row * features + f) * small_input(input * features + f);
      expect(four[input * outputs + row] == static_cast<float>(sum), "four inputs by planes");
      if (input == 0) expect(one[row] == static_cast<float>(sum), "one input by planes");
    }
}

// One output of 32 · words weights, of which all or those with small_sign != 0 are kept.
template <class Value>
void test_kept_values(const ValueKernels<Value>& kernel, int64_t words, bool full) {
  const int64_t features = 32 * words;
  std::vector<uint32_t> masks(words);
  std::vector<Value> values;
  std::vector<float> inputs(4 * features);
  for (int64_t i = 0; i < 4 * features; ++i) inputs[i] = static_cast<float>(small_input(i));
  int expected[4] = {};
  for (int64_t f = 0; f < features; ++f) {
    if (!full && small_sign(f) == 0) continue;
    const int weight = small_input(f + 9999);
    masks[f / 32] |= 1u << (f % 32);
    values.emplace_back();
    from_float(static_cast<float>(weight), values.back());
    for (int i = 0; i < 4; ++i) expected[i] += weight * small_input(i * features + f);
  }
  const int64_t kept = static_cast<int64_t>(values.size());
  values.resize(kept + 32);
  values.shrink_to_fit();
  float one, four[4];
  kernel.dot_1(masks.data(), words, values.data(), values.data() + kept, inputs.data(), 0, &one);
  kernel.dot_4(masks.data(), words, values.data(), values.data() + kept, inputs.data(), features, four);
  expect(one == static_cast<float>(expected[0]), "kept values times one input");
  for (int i = 0; i < 4; ++i)
    expect(four[i] == static_cast<float>(expected[i]), "kept values times four inputs");
  // The same by places, of one input and of four among eight side by side.
  std::vector<uint16_t> places;
  for (int64_t f = 0; f < features; ++f)
    if ((masks[f / 32] >> (f % 32)) & 1u) places.push_back(static_cast<uint16_t>(f));
  places.shrink_to_fit();
  const std::vector<Value> alone(values.begin(), values.begin() + kept);
  std::vector<float> turned(8 * features);
  for (int64_t f = 0; f < features; ++f)
    for (int i = 0; i < 4; ++i) turned[8 * f + 2 * i] = inputs[i * features + f];
  float eight[8];
  kernel.dot_places_1(places.data(), alone.data(), kept, inputs.data(), &one);
  kernel.dot_places_8(places.data(), alone.data(), kept, turned.data(), eight);
  expect(one == static_cast<float>(expected[0]), "values at places times one input");
  for (int i = 0; i < 8; ++i)
    expect(eight[i] == (i % 2 ? 0.0f : static_cast<float>(expected[i / 2])), "values at places times several inputs");
  // Masks that promise more values than there are.
  std::fill(masks.begin(), masks.end(), ~0u);
  kernel.dot_1(masks.data(), words, values.data() + kept, values.data() + kept, inputs.data(), 0, &one);
  expect(one == 0, "nothing beyond the end");
}

}  // namespace

int main() {
  std::printf("%s\n", kernels().name);

  for (int64_t groups = 1; groups <= 4; ++groups)
    for (const int64_t words : {0, 1, 2, 7}) {
      test_look_up(groups, words);
      test_planes(groups, words);
    }
  for (const int64_t words : {0, 1, 2, 9})
    for (const bool full : {false, true}) {
      test_kept_values(kernels().values_float32, words, full);
      test_kept_values(kernels().values_bfloat16, words, full);
    }
  return finish();
}
