// Tensors of the stable ABI as the CUDA operators see them: where they are, and on which stream to work.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "tensors.h"

namespace supermask::cuda {

// The device of an operator's tensors, current until the end of the scope, and torch's current stream on it.
class Scope {
 public:
  explicit Scope(const Tensor& tensor) : index_(tensor.get_device_index()), guard_(index_) {
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

  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

inline Dtype check_float(const Scope& scope, const Tensor& tensor, const char* what) {
  scope.check_here(tensor, what);
  const std::optional<Dtype> dtype = float_dtype(tensor);
  check(dtype.has_value(), what, " must be a float32, float64, bfloat16 or float16 tensor");
  return *dtype;
}

}  // namespace supermask::cuda
