// pack_mask and unpack_mask: a thread has the eight mask bytes of one packed byte.
#include "launch.h"
#include "packing.h"
#include "supermask/bits.h"

namespace supermask::cuda {
namespace {

struct alignas(8) Flags {
  uint8_t flag[8];
};

bool aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % alignof(Flags) == 0; }

__global__ void pack_kernel(const uint8_t* mask, int64_t count, bool whole, uint8_t* packed) {
  const int64_t byte = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x, first = 8 * byte;
  if (first >= count) return;
  Flags flags = {};
  if (whole && first + 8 <= count) {
    flags = *reinterpret_cast<const Flags*>(mask + first);
  } else {
    SUPERMASK_UNROLL
    for (int i = 0; i < 8; ++i)
      if (first + i < count) flags.flag[i] = mask[first + i];
  }
  packed[byte] = pack_byte(flags.flag);
}

__global__ void unpack_kernel(const uint8_t* packed, int64_t count, bool whole, uint8_t* mask) {
  const int64_t byte = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x, first = 8 * byte;
  if (first >= count) return;
  Flags flags;
  unpack_byte(packed[byte], flags.flag);
  if (whole && first + 8 <= count) {
    *reinterpret_cast<Flags*>(mask + first) = flags;
    return;
  }
  SUPERMASK_UNROLL
  for (int i = 0; i < 8; ++i)
    if (first + i < count) mask[first + i] = flags.flag[i];
}

}  // namespace

void pack_mask(const bool* mask, int64_t count, uint8_t* packed, cudaStream_t stream) {
  if (count == 0) return;
  pack_kernel<<<blocks_for(count, 8 * kThreads), kThreads, 0, stream>>>(
      reinterpret_cast<const uint8_t*>(mask), count, aligned(mask), packed);
  check_launch("pack_mask");
}

void unpack_mask(const uint8_t* packed, int64_t count, bool* mask, cudaStream_t stream) {
  if (count == 0) return;
  unpack_kernel<<<blocks_for(count, 8 * kThreads), kThreads, 0, stream>>>(packed, count, aligned(mask),
                                                                          reinterpret_cast<uint8_t*>(mask));
  check_launch("unpack_mask");
}

}  // namespace supermask::cuda
