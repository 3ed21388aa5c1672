// Products of rounded inputs against sums in 64 bits, and rounding against double. Buffers end where they must.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "check.h"
#include "kernels.h"

using namespace supermask;

namespace {

enum class Inputs { random, largest };

int weight_at(Inputs kind, uint64_t i) {
  return kind == Inputs::largest ? 1 : static_cast<int>(random_word(i + 77777) % 3) - 1;
}

int input_at(Inputs kind, uint64_t i) {
  if (kind == Inputs::largest) return i / 64 % 2 ? -127 : 127;  // pairs and runs that would saturate or overflow
  return static_cast<int>(random_word(i) % 255) - 127;
}

void test_multiply(const Int8Kernels& kernel, int64_t groups, int64_t blocks, int batch, Inputs kind) {
  const int64_t outputs = 16 * groups, features = 16 * blocks;
  std::vector<uint8_t> fields(64 * groups * blocks);
  for (int64_t o = 0; o < outputs; ++o)
    for (int64_t f = 0; f < features; ++f) {
      const int64_t byte = (f / 16 * outputs + o) * 4 + f % 4;
      fields[byte] |= static_cast<uint8_t>((weight_at(kind, o * features + f) + 1) << (2 * (f % 16 / 4)));
    }
  std::vector<int8_t> inputs(batch * features);
  std::vector<int32_t> sum_of_inputs(batch);
  for (int b = 0; b < batch; ++b)
    for (int64_t f = 0; f < features; ++f) {
      const int value = input_at(kind, b * features + f);
      inputs[(f / 4 * batch + b) * 4 + f % 4] = static_cast<int8_t>(value);
      sum_of_inputs[b] += value;
    }
  std::vector<float> sums(batch * outputs, NAN);
  kernel.multiply[batch - 1](fields.data(), blocks, groups, inputs.data(), sum_of_inputs.data(), sums.data());
  for (int b = 0; b < batch; ++b)
    for (int64_t o = 0; o < outputs; ++o) {
      int64_t sum = 0;
      for (int64_t f = 0; f < features; ++f)
        sum += weight_at(kind, o * features + f) * input_at(kind, b * features + f);
      expect(sums[b * outputs + o] == static_cast<float>(sum), "a product of rounded inputs");
    }
}

void test_round(const Int8Kernels& kernel, int64_t count, float factor) {
  std::vector<float> inputs(count);
  for (int64_t i = 0; i < count; ++i)
    inputs[i] = (static_cast<float>(random_word(i) % 2001) - 1000) / 250 * factor;
  std::vector<int8_t> integers(count, 99);
  const RoundedRow row = kernel.round(inputs.data(), count, integers.data());
  float largest = 0;
  int32_t sum = 0;
  for (const float value : inputs) largest = std::max(largest, std::abs(value));
  expect(row.scale == largest / 127.0f, "the scale of a row");
  for (int64_t i = 0; i < count; ++i) {
    const float quotient = row.scale > 0 ? inputs[i] / row.scale : 0.0f;
    const double nearest = std::nearbyint(std::clamp<double>(quotient, -127, 127));
    expect(integers[i] == nearest, "an input rounded to an integer");
    sum += integers[i];
  }
  expect(row.sum == sum, "the sum of a row");
}

void test_rows_that_are_not_finite(const Int8Kernels& kernel) {
  for (const float bad : {INFINITY, -INFINITY, NAN, -NAN}) {
    std::vector<float> inputs(19, 1.0f);
    inputs[18] = bad;
    std::vector<int8_t> integers(19, 99);
    const RoundedRow row = kernel.round(inputs.data(), 19, integers.data());
    expect(std::isnan(row.scale) && row.sum == 0, "a row that is not finite");
    expect(std::count(integers.begin(), integers.end(), 0) == 19, "its integers");
  }
}

void test(const Int8Kernels& kernel) {
  for (int batch = 1; batch <= 4; ++batch)
    for (int64_t groups = 1; groups <= 4; ++groups)
      for (const int64_t blocks : {0, 1, 2, 15, 16, 17, 33, 100}) {
        test_multiply(kernel, groups, blocks, batch, Inputs::random);
        test_multiply(kernel, groups, blocks, batch, Inputs::largest);
      }
  for (const int64_t count : {0, 1, 7, 8, 15, 16, 17, 100, 1000})
    for (const float factor : {0.0f, 1.0f, 1e30f, 1e-30f, 1e-44f, std::numeric_limits<float>::max() / 4})
      test_round(kernel, count, factor);
  test_rows_that_are_not_finite(kernel);
}

}  // namespace

int main() {
  std::printf("%s%s\n", kernels().name, &int8_kernels() == &kernels().int8 ? "" : " and instructions beyond");
  test(kernels().int8);
  if (&int8_kernels() != &kernels().int8) test(int8_kernels());
  return finish();
}
