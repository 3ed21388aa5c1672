// See packed_linear.cu.
#pragma once

#include <cuda_runtime.h>

#include "supermask/codes.h"
#include "supermask/packed_mma.h"

namespace supermask::cuda {

// (batch, inputs) · Wᵀ + b for x of float32, bfloat16 or float16. How many blocks share the inputs, `ranks`, is
// chosen here.
void linear_from_codes(PackedLinear task, Dtype x_dtype, int device, cudaStream_t stream);

// The matrix of weights +scale, -scale and +0, in float32, bfloat16 or float16.
void decode_codes(const CodedMatrix& matrix, float scale, Dtype dtype, void* out, cudaStream_t stream);

}  // namespace supermask::cuda
