// See packing.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace supermask::cuda {

// `count` mask bytes to ceil(count / 8) bytes of bits, and back.
void pack_mask(const bool* mask, int64_t count, uint8_t* packed, cudaStream_t stream);
void unpack_mask(const uint8_t* packed, int64_t count, bool* mask, cudaStream_t stream);

}  // namespace supermask::cuda
