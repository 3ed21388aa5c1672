// A float tensor of any type and strides as the CUDA kernels see it: its elements by row-major index.
#pragma once

#include <array>
#include <cstdint>

#include "supermask/dtype.h"
#include "supermask/macros.h"

namespace supermask {

// Division by a number that is known beforehand, as a product (Granlund and Montgomery, "Division by invariant
// integers using multiplication", PLDI 1994, figure 4.1): a GPU's own division takes four times as long.
struct Divisor {
  uint32_t number, magic;
  uint8_t first_shift, second_shift;
};

inline Divisor divisor_of(uint32_t number) {
  int bits = 0;  // ⌈log2 number⌉
  while (bits < 32 && uint64_t{1} << bits < number) ++bits;
  const uint64_t magic = ((uint64_t{1} << bits) - number) * (uint64_t{1} << 32) / number + 1;
  return {number, static_cast<uint32_t>(magic), static_cast<uint8_t>(bits > 0),
          static_cast<uint8_t>(bits > 0 ? bits - 1 : 0)};
}

// The quotient, rounded down; exact for every value.
SUPERMASK_HD uint32_t quotient_of(uint32_t value, const Divisor& divisor) {
#if defined(__CUDA_ARCH__)
  const uint32_t high = __umulhi(value, divisor.magic);
#else
  const uint32_t high = static_cast<uint32_t>(uint64_t{value} * divisor.magic >> 32);
#endif
  return (high + ((value - high) >> divisor.first_shift)) >> divisor.second_shift;
}

// Where the element of a row-major index lies. Dimensions that lie in memory like one are merged, so that the
// usual memory formats take three dimensions or fewer.
struct Layout {
  static constexpr int kDims = 4;

  int dims;
  Divisor size[kDims];  // of dimension 0 nothing is read
  int64_t stride[kDims];
};

// The layout of a tensor with these sizes and strides; false if it needs more than Layout::kDims dimensions.
template <class Sizes>
inline bool make_layout(const Sizes& sizes, const Sizes& strides, Layout& layout) {
  const Divisor one = divisor_of(1);
  layout = {1, {one, one, one, one}, {1, 1, 1, 1}};
  int64_t size[Layout::kDims];
  int dims = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == 0) return true;
    if (sizes[i] == 1) continue;
    if (dims > 0 && layout.stride[dims - 1] == sizes[i] * strides[i]) {
      size[dims - 1] *= sizes[i];
    } else {
      if (dims == Layout::kDims) return false;
      size[dims++] = sizes[i];
    }
    layout.stride[dims - 1] = strides[i];
  }
  for (int i = 1; i < dims; ++i) {
    if (size[i] > int64_t{UINT32_MAX}) return false;
    layout.size[i] = divisor_of(static_cast<uint32_t>(size[i]));
  }
  layout.dims = dims > 1 ? dims : 1;
  return true;
}

// The offset of an index, which takes no 64-bit division where it has 32 bits.
SUPERMASK_HD int64_t offset_of(const Layout& layout, uint32_t index) {
  if (layout.dims == 1) return index * layout.stride[0];
  int64_t offset = 0;
  SUPERMASK_UNROLL
  for (int d = Layout::kDims - 1; d > 0; --d) {
    if (d >= layout.dims) continue;
    const uint32_t quotient = quotient_of(index, layout.size[d]);
    offset += static_cast<int64_t>(index - quotient * layout.size[d].number) * layout.stride[d];
    index = quotient;
  }
  return offset + static_cast<int64_t>(index) * layout.stride[0];
}

SUPERMASK_HD int64_t offset_of(const Layout& layout, int64_t index) {
  if (layout.dims == 1) return index * layout.stride[0];
  if (index <= int64_t{UINT32_MAX}) return offset_of(layout, static_cast<uint32_t>(index));
  int64_t offset = 0;
  for (int d = layout.dims - 1; d > 0; --d) {
    const int64_t size = layout.size[d].number;
    offset += index % size * layout.stride[d];
    index /= size;
  }
  return offset + index * layout.stride[0];
}

inline bool operator==(const Layout& one, const Layout& other) {
  bool equal = one.dims == other.dims;
  for (int d = 0; d < one.dims; ++d)
    equal = equal && one.stride[d] == other.stride[d] && (d == 0 || one.size[d].number == other.size[d].number);
  return equal;
}

struct Array {
  void* data;
  Dtype dtype;
  Layout layout;
};

inline Array contiguous_array(void* data, Dtype dtype, int64_t numel) {
  Array array = {data, dtype, {}};
  const std::array<int64_t, 1> size = {numel}, stride = {1};
  make_layout(size, stride, array.layout);
  return array;
}

// What lies at an offset. To and from 16 bits by way of float32, as torch does it.
template <class Float>
SUPERMASK_HD Float load_at(const Array& array, int64_t at) {
  switch (array.dtype) {
    case Dtype::float32:
      return static_cast<Float>(static_cast<const float*>(array.data)[at]);
    case Dtype::bfloat16:
      return static_cast<Float>(to_float(static_cast<const BFloat16*>(array.data)[at]));
    case Dtype::float16:
      return static_cast<Float>(to_float(static_cast<const Float16*>(array.data)[at]));
    case Dtype::float64:
      break;
  }
  return static_cast<Float>(static_cast<const double*>(array.data)[at]);
}

template <class Float, class Index>
SUPERMASK_HD Float load(const Array& array, Index index) {
  return load_at<Float>(array, offset_of(array.layout, index));
}

template <class Float>
SUPERMASK_HD void store_at(const Array& array, int64_t at, Float value) {
  switch (array.dtype) {
    case Dtype::float32:
      static_cast<float*>(array.data)[at] = static_cast<float>(value);
      return;
    case Dtype::bfloat16:
      from_float(static_cast<float>(value), static_cast<BFloat16*>(array.data)[at]);
      return;
    case Dtype::float16:
      from_float(static_cast<float>(value), static_cast<Float16*>(array.data)[at]);
      return;
    case Dtype::float64:
      static_cast<double*>(array.data)[at] = value;
      return;
  }
}

template <class Index, class Float>
SUPERMASK_HD void store(const Array& array, Index index, Float value) {
  store_at(array, offset_of(array.layout, index), value);
}

}  // namespace supermask
