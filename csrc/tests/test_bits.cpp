// Bits of signs, their transpose and their places, each against a plain loop. Buffers end where they must.
#include <cmath>
#include <vector>

#include "check.h"
#include "kernels.h"

using namespace supermask;

namespace {

void test_sign_bits(int64_t count) {
  std::vector<float> weights(count);
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t kind = random_word(i + 100 * count) % 4;
    weights[i] = kind == 0 ? 0.3f : kind == 1 ? -0.3f : kind == 2 ? -0.0f : 0.0f;
  }
  uint64_t plus = 99, minus = 99;
  expect(kernels().sign_bits(weights.data(), count, 0.3f, &plus, &minus), "weights of one magnitude");
  for (int64_t i = 0; i < 64; ++i) {
    expect((plus >> i & 1) == (i < count && weights[i] > 0), "a positive weight");
    expect((minus >> i & 1) == (i < count && weights[i] < 0), "a negative weight");
  }
  for (int64_t place = 0; place < count; ++place)
    for (const float other : {0.2f, -0.31f, NAN, INFINITY, 1e-45f}) {
      std::vector<float> changed = weights;
      changed[place] = other;
      expect(!kernels().sign_bits(changed.data(), count, 0.3f, &plus, &minus), "another weight");
    }
}

void test_transpose() {
  std::vector<uint64_t> words(64), turned(64);
  for (uint64_t i = 0; i < 64; ++i) words[i] = turned[i] = random_word(2 * i) | uint64_t{random_word(2 * i + 1)} << 32;
  kernels().transpose_bits(turned.data());
  for (int i = 0; i < 64; ++i)
    for (int j = 0; j < 64; ++j) expect((words[i] >> j & 1) == (turned[j] >> i & 1), "a transposed bit");
}

void test_places(uint64_t bits, int base) {
  std::vector<uint8_t> expected, places(static_cast<size_t>(__builtin_popcountll(bits))), roomy(200);
  for (int i = 0; i < 64; ++i)
    if (bits >> i & 1) expected.push_back(static_cast<uint8_t>(base + i));
  const uint8_t* end = places.data() + places.size();
  expect(kernels().places_of_bits(bits, base, places.data(), end) == end, "how many places");
  expect(places == expected, "the places of bits");
  kernels().places_of_bits(bits, base, roomy.data(), roomy.data() + roomy.size());
  roomy.resize(expected.size());
  expect(roomy == expected, "the places of bits, with room");
}

}  // namespace

int main() {
  std::printf("%s\n", kernels().name);
  for (int64_t count = 0; count <= 64; ++count) test_sign_bits(count);
  test_transpose();
  for (const uint64_t bits : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 63, ~uint64_t{0}, uint64_t{0x123456789ABCDEF}})
    for (const int base : {0, 64}) test_places(bits, base);
  return finish();
}
