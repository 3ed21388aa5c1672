// packed_wgmma.h on a real GPU: Hopper, whose wgmma later generations do not have.
#include <stdexcept>

#include "packed_launch.h"
#include "packed_linear.h"
#include "real_gpu.h"
#include "supermask/packed_wgmma.h"

namespace supermask::cuda {
namespace {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// clang-format off
#define SUPERMASK_SUMS_4(i) "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3])
#define SUPERMASK_SUMS_16(i) \
  SUPERMASK_SUMS_4(i), SUPERMASK_SUMS_4(i + 4), SUPERMASK_SUMS_4(i + 8), SUPERMASK_SUMS_4(i + 12)
#define SUPERMASK_SUMS_32(i) SUPERMASK_SUMS_16(i), SUPERMASK_SUMS_16(i + 16)

#define SUPERMASK_FIRST_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SUPERMASK_NEXT_32 \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// `operands` are the places of a and b behind those of the sums, `registers`.
#define SUPERMASK_WGMMA(samples, type, registers, operands, ...) \
  asm volatile( \
      "{.reg .pred add; setp.ne.b32 add, 1, 0; " \
      "wgmma.mma_async.sync.aligned.m64n" samples "k16.f32." type "." type " {" registers "}, " operands \
      ", add, 1, 1, 0;}" \
      : __VA_ARGS__ \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define SUPERMASK_WGMMA_64(type) \
  SUPERMASK_WGMMA("64", type, SUPERMASK_FIRST_32, "{%32, %33, %34, %35}, %36", SUPERMASK_SUMS_32(0))
#define SUPERMASK_WGMMA_128(type) \
  SUPERMASK_WGMMA("128", type, SUPERMASK_FIRST_32 ", " SUPERMASK_NEXT_32, "{%64, %65, %66, %67}, %68", \
                  SUPERMASK_SUMS_32(0), SUPERMASK_SUMS_32(32))
// clang-format on

struct WgmmaGpu : RealGpu {
  __device__ uint32_t shared_address() const { return static_cast<uint32_t>(__cvta_generic_to_shared(shared())); }

  // Four matrices of eight rows of 16 bytes; word t of row r of matrix i is words.word[i] of lane 4 r + t, and goes
  // to the place that lane 8 i + r names.
  __device__ void store_matrices(int place, const Words& words) const {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address() + place),
                 "r"(words.word[0]), "r"(words.word[1]), "r"(words.word[2]), "r"(words.word[3])
                 : "memory");
  }

  // Lets wgmma see what this thread stored, once a barrier is behind both.
  __device__ void show_stores() const { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

  // Before products whose registers have been written since the last ones.
  __device__ void begin_wgmma() const { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

  template <class X, int kSums>
  __device__ void wgmma(float (&sums)[kSums], const uint32_t (&a)[4], uint64_t b) const {
    if constexpr (kSums == 64) {
      if constexpr (std::is_same_v<X, Float16>) SUPERMASK_WGMMA_128("f16");
      else SUPERMASK_WGMMA_128("bf16");
    } else {
      if constexpr (std::is_same_v<X, Float16>) SUPERMASK_WGMMA_64("f16");
      else SUPERMASK_WGMMA_64("bf16");
    }
  }

  __device__ void commit_wgmma() const { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

  // Until all but the last `kGroups` commits are done.
  template <int kGroups>
  __device__ void wait_wgmma() const {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
  }
};

#endif

template <class X, int kBatch>
__global__ void __launch_bounds__(512, 1) packed_wgmma_kernel(const __grid_constant__ PackedLinear task) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  WgmmaGpu gpu;
  packed_linear_wgmma<WgmmaShape<X, kBatch>>(gpu, task);
#endif
}

template <class X, int kBatch>
void launch(const PackedLinear& task, int device, cudaStream_t stream) {
  using Shape = WgmmaShape<X, kBatch>;
  constexpr int bytes = wgmma_shared_bytes<Shape>();
  const auto kernel = packed_wgmma_kernel<X, kBatch>;
  static Prepared prepared;
  const Machine& machine = prepared.on(device, kernel, Shape::threads, bytes);
  if (machine.code != 90)
    throw std::runtime_error("linear_from_codes_wgmma needs a GPU of compute capability 9.0 and a library built for "
                             "sm_90a; elsewhere take linear_from_codes, or decode_codes and a dense product");
  // A block fills a multiprocessor; doubling from half of them on would make more blocks than fit at once.
  launch_packed<Shape>(kernel, task, machine, 2, machine.multiprocessors / 2 + 1, [](int) { return bytes; }, stream);
}

}  // namespace

void linear_from_codes_wgmma(const PackedLinear& task, Dtype x_dtype, int device, cudaStream_t stream) {
  if (task.batch == 0 || task.matrix.outputs == 0) return;
  const bool wide = task.batch > 64;
  if (x_dtype == Dtype::float16)
    return wide ? launch<Float16, 128>(task, device, stream) : launch<Float16, 64>(task, device, stream);
  return wide ? launch<BFloat16, 128>(task, device, stream) : launch<BFloat16, 64>(task, device, stream);
}

}  // namespace supermask::cuda
