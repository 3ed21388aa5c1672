// See generator.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "supermask/draws.h"
#include "supermask/dtype.h"

namespace supermask::cuda {

// Elements [start, start + count) of the stream of `key`, times scale, into contiguous `out`.
void fill_random(Scheme scheme, uint64_t key, uint64_t start, int64_t count, float scale, Dtype dtype,
                 void* out, cudaStream_t stream);

// Words [start, start + count) of the stream, as int64.
void fill_philox(uint64_t key, uint64_t start, int64_t count, int64_t* out, cudaStream_t stream);

}  // namespace supermask::cuda
