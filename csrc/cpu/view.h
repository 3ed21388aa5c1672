// A float tensor of any type and strides, read and written one tile at a time.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels.h"
#include "tensors.h"

namespace supermask {

// Of elements: row-major, or as they lie in memory, which is faster where it does not matter.
enum class Order { row_major, of_memory };

class View {
 public:
  // `what` names the argument in error messages.
  View(const Tensor& tensor, const char* what, Order order = Order::row_major)
      : dtype_(check_float(tensor, what)), numel_(tensor.numel()) {
    data_ = static_cast<char*>(tensor.data_ptr());
    const auto sizes = tensor.sizes(), strides = tensor.strides();
    std::vector<Dim> dims;
    for (size_t i = 0; i < sizes.size(); ++i) dims.push_back({sizes[i], strides[i]});
    if (order == Order::of_memory)
      std::stable_sort(dims.begin(), dims.end(), [](Dim a, Dim b) { return a.stride > b.stride; });
    for (const Dim dim : dims) append(dim);
    if (dims_.empty()) dims_.push_back({1, 1});
  }

  int64_t numel() const { return numel_; }
  Dtype dtype() const { return dtype_; }
  bool contiguous() const { return dims_.size() == 1 && dims_[0].stride == 1; }

  // Elements [begin, begin + count), row-major, as contiguous values: the tensor's own where it holds them so,
  // and otherwise a copy in `tile`.
  template <class Float>
  const Float* read(int64_t begin, int64_t count, Float* tile) const {
    if (contiguous()) {
      if (holds<Float>()) return reinterpret_cast<const Float*>(data_) + begin;
      kernels_for<Float>().load(dtype_, at(begin), count, tile);
      return tile;
    }
    for_each_run(begin, count, [&](int64_t offset, int64_t stride, int64_t length, int64_t done) {
      for (int64_t i = 0; i < length; ++i) tile[done + i] = read_at<Float>(offset + i * stride);
    });
    return tile;
  }

  template <class Float>
  void write(int64_t begin, int64_t count, const Float* values) const {
    if (contiguous()) return kernels_for<Float>().store(dtype_, values, count, at(begin));
    for_each_run(begin, count, [&](int64_t offset, int64_t stride, int64_t length, int64_t done) {
      for (int64_t i = 0; i < length; ++i) write_at(offset + i * stride, values[done + i]);
    });
  }

  template <class Float>
  void write_one(int64_t index, Float value) const {
    write_at(offset_of(index), value);
  }

  // The place of element `begin`, where the tensor is contiguous and of type Float; else null.
  template <class Float>
  Float* data(int64_t begin) const {
    return contiguous() && holds<Float>() ? reinterpret_cast<Float*>(data_) + begin : nullptr;
  }

 private:
  struct Dim {
    int64_t size, stride;
  };

  // Dimensions that lie in memory like one are merged, so that a run is as long as it can be.
  void append(Dim dim) {
    if (dim.size == 1) return;
    if (!dims_.empty() && dims_.back().stride == dim.size * dim.stride) {
      dims_.back() = {dims_.back().size * dim.size, dim.stride};
    } else {
      dims_.push_back(dim);
    }
  }

  template <class Float>
  bool holds() const {
    return dtype_ == (sizeof(Float) == 8 ? Dtype::float64 : Dtype::float32);
  }

  char* at(int64_t offset) const { return data_ + offset * static_cast<int64_t>(size_of(dtype_)); }

  int64_t offset_of(int64_t index) const {
    int64_t offset = 0;
    for (size_t d = dims_.size(); d-- > 0; index /= dims_[d].size)
      offset += index % dims_[d].size * dims_[d].stride;
    return offset;
  }

  // Calls body(offset, stride, length, done) for every stretch along the innermost dimension.
  template <class Body>
  void for_each_run(int64_t begin, int64_t count, Body body) const {
    const Dim& inner = dims_.back();
    for (int64_t done = 0; done < count;) {
      const int64_t length = std::min(inner.size - (begin + done) % inner.size, count - done);
      body(offset_of(begin + done), inner.stride, length, done);
      done += length;
    }
  }

  template <class Float>
  Float read_at(int64_t offset) const {
    Float value;
    kernels_for<Float>().load(dtype_, at(offset), 1, &value);
    return value;
  }

  template <class Float>
  void write_at(int64_t offset, Float value) const {
    switch (dtype_) {
      case Dtype::float32: return put(reinterpret_cast<float*>(at(offset)), value);
      case Dtype::float64: *reinterpret_cast<double*>(at(offset)) = value; return;
      case Dtype::bfloat16: return put(reinterpret_cast<BFloat16*>(at(offset)), value);
      case Dtype::float16: return put(reinterpret_cast<Float16*>(at(offset)), value);
    }
  }

  template <class To, class Float>
  static void put(To* place, Float value) {
    from_float(static_cast<float>(value), *place);
  }

  Dtype dtype_;
  int64_t numel_;
  char* data_;
  std::vector<Dim> dims_;
};

inline std::vector<View> views_of(const std::vector<Tensor>& tensors, const char* what) {
  std::vector<View> views;
  views.reserve(tensors.size());
  for (const Tensor& tensor : tensors) views.emplace_back(tensor, what);
  return views;
}

}  // namespace supermask
