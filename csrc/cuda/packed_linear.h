// See packed_linear.cu and packed_wgmma.cu.
#pragma once

#include <cuda_runtime.h>

#include "supermask/codes.h"
#include "supermask/packed_task.h"

namespace supermask::cuda {

// (batch, inputs) · Wᵀ + b for x of float32, bfloat16 or float16. How many blocks share the inputs, `ranks`, is
// chosen here.
void linear_from_codes(const PackedLinear& task, Dtype x_dtype, int device, cudaStream_t stream);

// The same for x of bfloat16 or float16 on Hopper, for more inputs at a time. Throws on other GPUs.
void linear_from_codes_wgmma(const PackedLinear& task, Dtype x_dtype, int device, cudaStream_t stream);

// The matrix of weights +scale, -scale and +0, in float32, bfloat16 or float16.
void decode_codes(const CodedMatrix& matrix, float scale, Dtype dtype, void* out, cudaStream_t stream);

}  // namespace supermask::cuda
