// A float tensor of any type and strides as the CUDA kernels see it: its elements by row-major index.
#pragma once

#include <array>
#include <cstdint>

#include "supermask/dtype.h"
#include "supermask/macros.h"

namespace supermask {

// Where the element of a row-major index lies. Dimensions that lie in memory like one are merged, so that the
// usual memory formats take three dimensions or fewer.
struct Layout {
  static constexpr int kDims = 4;

  int dims;
  uint32_t size[kDims];  // of dimension 0 nothing is read
  int64_t stride[kDims];
};

// The layout of a tensor with these sizes and strides; false if it needs more than Layout::kDims dimensions.
template <class Sizes>
inline bool make_layout(const Sizes& sizes, const Sizes& strides, Layout& layout) {
  layout = {1, {1, 1, 1, 1}, {1, 1, 1, 1}};
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
    layout.size[i] = static_cast<uint32_t>(size[i]);
  }
  layout.dims = dims > 1 ? dims : 1;
  return true;
}

SUPERMASK_HD int64_t offset_of(const Layout& layout, int64_t index) {
  if (layout.dims == 1) return index * layout.stride[0];
  int64_t offset = 0;
  uint64_t rest = static_cast<uint64_t>(index);
  SUPERMASK_UNROLL
  for (int d = Layout::kDims - 1; d > 0; --d) {
    if (d >= layout.dims) continue;
    const uint32_t size = layout.size[d];
    // The division of 64-bit integers is several times as long.
    const uint64_t quotient = rest <= UINT32_MAX ? static_cast<uint32_t>(rest) / size : rest / size;
    offset += static_cast<int64_t>(rest - quotient * size) * layout.stride[d];
    rest = quotient;
  }
  return offset + static_cast<int64_t>(rest) * layout.stride[0];
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

// To and from 16 bits by way of float32, as torch does it.
template <class Float>
SUPERMASK_HD Float load(const Array& array, int64_t index) {
  const int64_t at = offset_of(array.layout, index);
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

template <class Float>
SUPERMASK_HD void store(const Array& array, int64_t index, Float value) {
  const int64_t at = offset_of(array.layout, index);
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

}  // namespace supermask
