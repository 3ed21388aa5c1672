// What lets one header serve the CPU kernels, the CUDA kernels and the C++ tests.
#pragma once

// Internal linkage keeps the copies apart: the same header is compiled once per instruction set, and the
// linker must not merge an AVX-512 copy of a function into the baseline build. Members of classes cannot have it, so
// SUPERMASK_MEMBER is for what the CPU kernels do not use.
#if defined(__CUDACC__)
#define SUPERMASK_HD static __host__ __device__ __forceinline__
#define SUPERMASK_MEMBER __host__ __device__ __forceinline__
#else
#define SUPERMASK_HD static inline __attribute__((always_inline))
#define SUPERMASK_MEMBER inline __attribute__((always_inline))
#endif

#if defined(__CUDA_ARCH__)
#define SUPERMASK_UNROLL _Pragma("unroll")
#else
#define SUPERMASK_UNROLL _Pragma("GCC unroll 16")
#endif

namespace supermask {

// The bits of a float, and the float of some bits.
SUPERMASK_HD unsigned bits_of(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  unsigned bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

SUPERMASK_HD float float_of(unsigned bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

}  // namespace supermask
