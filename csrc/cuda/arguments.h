// Tensors of the stable ABI as the CUDA operators see them: where they are, and on which stream to work.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "supermask/array.h"
#include "supermask/hint.h"
#include "supermask/place.h"
#include "tensors.h"

namespace supermask::cuda {

// The device of `tensor`, which error messages call `what`, current until the end of the scope; and torch's
// current stream on it.
class Scope {
 public:
  Scope(const Tensor& tensor, const char* what) : index_(index_of(tensor, what)), guard_(index_) {
    void* stream = nullptr;
    check(aoti_torch_get_current_cuda_stream(index_, &stream) == AOTI_TORCH_SUCCESS,
          "torch has no current CUDA stream on device ", index_);
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const { return stream_; }

  void check_here(const Tensor& tensor, const char* what) const {
    check(tensor.is_cuda() && tensor.get_device_index() == index_, what, " must be on cuda:", index_,
          ", like the other arguments");
  }

  // New memory from torch's allocator, which CUDA graphs know of.
  Tensor empty(torch::headeronly::IntHeaderOnlyArrayRef sizes, ScalarType dtype) const {
    return torch::stable::empty(sizes, dtype, std::nullopt, torch::stable::Device(kDevice, index_));
  }

 private:
  static constexpr auto kDevice = torch::headeronly::DeviceType::CUDA;

  static int32_t index_of(const Tensor& tensor, const char* what) {
    check(tensor.is_cuda(), what, " must be on the GPU, like the other arguments");
    return tensor.get_device_index();
  }

  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

// The float format of `tensor`, which error messages call `what`.
inline Dtype check_float(const Scope& scope, const Tensor& tensor, const char* what) {
  scope.check_here(tensor, what);
  const std::optional<Dtype> dtype = float_dtype(tensor);
  check(dtype.has_value(), what, " must be a float32, float64, bfloat16 or float16 tensor");
  return *dtype;
}

// Tensors as arrays. What no Layout describes is read from a contiguous copy, or written to one and copied
// back by `finish`; the copies live as long as this.
class Arrays {
 public:
  explicit Arrays(const Scope& scope) : scope_(scope) {}

  Array input(const Tensor& tensor, const char* what) {
    Array array = {tensor.data_ptr(), check_float(scope_, tensor, what), {}};
    if (!make_layout(tensor.sizes(), tensor.strides(), array.layout))
      array = contiguous(torch::stable::contiguous(tensor), array.dtype);
    return array;
  }

  Array output(const Tensor& tensor, const char* what) {
    Array array = {tensor.data_ptr(), check_float(scope_, tensor, what), {}};
    if (!make_layout(tensor.sizes(), tensor.strides(), array.layout)) {
      const Tensor copy = scope_.empty(tensor.sizes(), tensor.scalar_type());
      array = contiguous(copy, array.dtype);
      outputs_.push_back({tensor, copy});
    }
    return array;
  }

  void finish() {
    for (auto& [tensor, copy] : outputs_) torch::stable::copy_(tensor, copy);
  }

 private:
  struct Output {
    Tensor tensor, copy;
  };

  Array contiguous(const Tensor& copy, Dtype dtype) {
    copies_.push_back(copy);
    return contiguous_array(copy.data_ptr(), dtype, copy.numel());
  }

  const Scope& scope_;
  std::vector<Tensor> copies_;
  std::vector<Output> outputs_;
};

// Scores ranked together are numbered in 32 bits.
inline void check_rankable(int64_t numel) {
  check(numel <= kLargestSegment, "CUDA kernels rank at most ", kLargestSegment, " scores together, not ",
        numel, "; select on the CPU, or layer by layer");
}

inline bool* check_mask_to_write(const Scope& scope, const Tensor& mask, const Tensor& score) {
  scope.check_here(mask, "masks");
  check(mask.scalar_type() == ScalarType::Bool && mask.is_contiguous(),
        "masks must be contiguous bool tensors");
  check_same_shape(mask, "masks", score, "scores");
  return mask.mutable_data_ptr<bool>();
}

// The rows of `cuts`, one hint per segment.
inline Hint* hints_of(const Scope& scope, const Tensor& cuts, size_t segments) {
  scope.check_here(cuts, "cuts");
  check(cuts.scalar_type() == ScalarType::Long && cuts.is_contiguous() && cuts.dim() == 2 &&
            cuts.size(0) == static_cast<int64_t>(segments) && cuts.size(1) == 2,
        "cuts must be a contiguous int64 tensor of shape (", segments, ", 2)");
  static_assert(sizeof(Hint) == 2 * sizeof(int64_t));
  return static_cast<Hint*>(cuts.mutable_data_ptr());
}

}  // namespace supermask::cuda
