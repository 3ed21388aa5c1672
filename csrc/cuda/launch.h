// How kernels are launched: on the caller's stream, with errors of the launch itself as exceptions.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "supermask/dtype.h"

namespace supermask::cuda {

inline void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // else the next launch would be blamed for it
  throw std::runtime_error(std::string("CUDA could not ") + what + ": " + cudaGetErrorString(status));
}

inline void check_launch(const char* kernel) {
  check_cuda(cudaGetLastError(), (std::string("launch ") + kernel).c_str());
}

constexpr int kThreads = 256;

inline unsigned blocks_for(int64_t items, int64_t items_per_block) {
  return static_cast<unsigned>((items + items_per_block - 1) / items_per_block);
}

// Calls body with a value of the type that `dtype` names.
template <class Body>
void with_type(Dtype dtype, Body body) {
  switch (dtype) {
    case Dtype::float32:
      return body(float{});
    case Dtype::float64:
      return body(double{});
    case Dtype::bfloat16:
      return body(BFloat16{});
    case Dtype::float16:
      return body(Float16{});
  }
}

}  // namespace supermask::cuda
