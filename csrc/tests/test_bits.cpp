// Bits of signs, their transpose, lists of their places and the transpose of floats, each against a plain loop. Buffers end where they must.
#include <algorithm>
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

// Bits of two words for some rows, each with a share of `ones` in 16.
std::vector<uint64_t> some_words(int64_t rows, uint32_t ones, uint64_t seed) {
  std::vector<uint64_t> words(rows);
  for (int64_t row = 0; row < rows; ++row)
    for (int bit = 0; bit < 64; ++bit)
      if (random_word(seed + 64 * row + bit) % 16 < ones) words[row] |= uint64_t{1} << bit;
  return words;
}

void test_lists(ListRows list_rows, int64_t rows, uint32_t ones) {
  const std::vector<uint64_t> words[4] = {some_words(rows, ones, 0), some_words(rows, ones, 77777),
                                          some_words(rows, ones, 5), some_words(rows, 16 - ones, 999)};
  std::vector<uint8_t> expected;
  std::vector<int32_t> ends, starts(2 * rows);
  for (int64_t row = 0; row < rows; ++row)
    for (int sign = 0; sign < 2; ++sign) {
      for (int i = 0; i < 128; ++i)
        if (words[2 * sign + i / 64][row] >> (i % 64) & 1) expected.push_back(static_cast<uint8_t>(i));
      ends.push_back(static_cast<int32_t>(3 + expected.size()));
    }
  int64_t bits = 0;
  for (const std::vector<uint64_t>& part : words) bits += kernels().count_bits(part.data(), rows);
  expect(bits == static_cast<int64_t>(expected.size()), "how many bits there are");
  const uint64_t *plus[2] = {words[0].data(), words[1].data()}, *minus[2] = {words[2].data(), words[3].data()};
  for (const size_t room : {size_t{0}, size_t{1}, size_t{200}}) {  // an exact end, past which a sanitizer looks
    std::vector<uint8_t> listed(3 + expected.size() + room, 99);
    uint8_t *first = listed.data(), *end = first + listed.size();
    expect(list_rows(plus, minus, rows, first, first + 3, end, starts.data()) == end - room, "where lists end");
    expect(std::equal(expected.begin(), expected.end(), first + 3), "the places of bits");
    expect(std::count(first, first + 3, 99) == 3, "nothing ahead of the lists");
    expect(starts == ends, "where each list ends");
  }
}

void test_matrix(int64_t rows, int64_t columns) {
  const int64_t apart = columns + 3, to_apart = rows + 2;
  std::vector<float> from(rows ? (rows - 1) * apart + columns : 0), to(columns ? (columns - 1) * to_apart + rows : 0, -1);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<float>(i);
  kernels().transpose(from.data(), rows, columns, apart, to.data(), to_apart);
  for (size_t i = 0; i < to.size(); ++i) {
    const int64_t column = static_cast<int64_t>(i) / to_apart, row = static_cast<int64_t>(i) % to_apart;
    expect(to[i] == (row < rows ? static_cast<float>(row * apart + column) : -1), "the transpose of a matrix");
  }
}

}  // namespace

int main() {
  std::printf("%s\n", kernels().name);
  for (int64_t count = 0; count <= 64; ++count) test_sign_bits(count);
  test_transpose();
  for (const ListRows list_rows : {kernels().list_rows, list_rows_kernel()})
    for (const int64_t rows : {0, 1, 7, 64})
      for (const uint32_t ones : {0u, 2u, 8u, 16u}) test_lists(list_rows, rows, ones);
  for (const int64_t rows : {0, 1, 7, 8, 9, 64})
    for (const int64_t columns : {0, 1, 8, 15, 16, 64}) test_matrix(rows, columns);
  return finish();
}
