// Launches of the kernels for packed layers: no torch here, only the CUDA runtime.
#pragma once

#include <cuda_runtime_api.h>

#include "supermask/packed_mma.h"

namespace supermask {

// What computes (batch, inputs) · Wᵀ; `x_dtype` is float32, bfloat16 or float16. Fills in `ranks`.
cudaError_t launch_packed_linear(PackedLinear task, Dtype x_dtype, int device, cudaStream_t stream);

struct DecodeCodes {
  const Words* codes;
  void* out;  // (outputs, inputs)
  float scale;
  int outputs, inputs, output_tiles, input_tiles;
};

// Writes the matrix of weights +scale, -scale and +0, in float32, bfloat16 or float16.
cudaError_t launch_decode_codes(const DecodeCodes& task, Dtype dtype, cudaStream_t stream);

}  // namespace supermask
