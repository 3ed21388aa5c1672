// One thread's view of a GPU, for programs written against the `Gpu` of packed_mma.h; csrc/tests/emulated_gpu.h has
// the same on a CPU.
#pragma once

#include <cstdint>
#include <type_traits>

#include "supermask/codes.h"
#include "supermask/dtype.h"

namespace supermask::cuda {

struct RealGpu {
  __device__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ int block_x() const { return static_cast<int>(blockIdx.x); }
  __device__ int block_y() const { return static_cast<int>(blockIdx.y); }

  // Aligned as swizzled operands of wgmma must be.
  __device__ void* shared() const {
    extern __shared__ __align__(1024) char memory[];
    return memory;
  }

  // The sums of another block of the cluster, as an address that ordinary loads take.
  __device__ const float* shared_of(int rank) const {
    const float* own = static_cast<const float*>(shared());
#if __CUDA_ARCH__ >= 900
    uint64_t address;
    asm("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(own), "r"(rank));
    return reinterpret_cast<const float*>(address);
#else
    return own;
#endif
  }

  __device__ void sync() const { __syncthreads(); }

  __device__ void sync_cluster() const {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
  }

  // Read once by this kernel, hence not kept in the first cache.
  __device__ Words load_weights(const Words* from) const {
    Words words;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.word[0]), "=r"(words.word[1]), "=r"(words.word[2]), "=r"(words.word[3])
                 : "l"(from));
    return words;
  }

  template <class X>
  __device__ void mma(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) const {
    if constexpr (std::is_same_v<X, Float16>) {
      asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
          "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
      asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
          "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
  }
};

}  // namespace supermask::cuda
