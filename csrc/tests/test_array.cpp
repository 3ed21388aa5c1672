// How kernels for GPUs find an element of a tensor: divisions as products, and the offsets of an index.
#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <vector>

#include "check.h"
#include "supermask/array.h"

using namespace supermask;

namespace {

void test_divisors() {
  std::vector<uint32_t> numbers = {1, 2, 3, 5, 7, 9, 25, 49, 641, 4096, 65535, 65536, 65537, 6700417};
  for (int bits = 30; bits <= 32; ++bits)
    for (int64_t near = -2; near <= 2; ++near)
      if (const int64_t number = (int64_t{1} << bits) + near; number <= UINT32_MAX)
        numbers.push_back(static_cast<uint32_t>(number));
  uint64_t state = 1;
  for (int i = 0; i < 200; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    numbers.push_back(static_cast<uint32_t>(state >> (32 + i % 31)) | 1);
  }
  for (const uint32_t number : numbers) {
    const Divisor divisor = divisor_of(number);
    for (const uint32_t multiple : {0u, 1u, 2u, 3u, UINT32_MAX / number / 2, UINT32_MAX / number})
      for (int64_t near = -1; near <= 1; ++near) {
        const int64_t value = int64_t{multiple} * number + near;
        if (value < 0 || value > UINT32_MAX) continue;
        expect(quotient_of(static_cast<uint32_t>(value), divisor) == value / number, "a quotient");
      }
    expect(quotient_of(UINT32_MAX, divisor) == UINT32_MAX / number, "the largest quotient");
  }
}

void test_layout() {
  const int64_t sizes[] = {3, 1, 4, 5, 2};
  std::array<int, 5> order = {0, 1, 2, 3, 4};
  do {
    std::vector<int64_t> size(std::begin(sizes), std::end(sizes)), stride(5);
    int64_t step = 1;
    for (const int d : order) stride[d] = step, step *= size[d] + (d == 2);  // dimension 2 is padded
    Layout layout;
    if (!make_layout(size, stride, layout)) continue;
    for (int64_t index = 0; index < 120; ++index) {
      int64_t rest = index, offset = 0;
      for (int d = 4; d >= 0; --d) offset += rest % size[d] * stride[d], rest /= size[d];
      expect(offset_of(layout, index) == offset, "offset of an index");
    }
  } while (std::next_permutation(order.begin(), order.end()));
  Layout layout;
  const auto dims_of = [&](std::vector<int64_t> size, std::vector<int64_t> stride) {
    return make_layout(size, stride, layout) ? layout.dims : 0;
  };
  expect(dims_of({8, 3, 5, 5}, {75, 25, 5, 1}) == 1, "contiguous tensors have one dimension");
  expect(dims_of({8, 3, 5, 5}, {75, 1, 15, 3}) == 3, "channels_last has three");
  expect(dims_of({2, 2, 2, 2, 2}, {1, 2, 4, 8, 16}) == 0, "five dimensions are too many");
  expect(dims_of({}, {}) == 1 && offset_of(layout, int64_t{0}) == 0, "a scalar");
  expect(dims_of({int64_t{1} << 20, 4096, 3}, {1, int64_t{1} << 20, int64_t{1} << 32}) == 3,
         "a large tensor");
  const int64_t index = (int64_t{1} << 33) + 5;
  expect(offset_of(layout, index) == index / 12288 + (index / 3 % 4096 << 20) + (index % 3 << 32), "64 bits");
}

}  // namespace

int main() {
  test_divisors();
  test_layout();
  return finish();
}
