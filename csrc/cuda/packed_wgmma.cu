// packed_wgmma.h on a real GPU: Hopper, whose wgmma later generations do not have.
#include <stdexcept>
#include <string>

#include "packed_launch.h"
#include "packed_linear.h"
#include "real_gpu.h"
#include "supermask/packed_wgmma.h"

namespace supermask::cuda {
namespace {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// clang-format off
#define SUPERMASK_WGMMA_64(type) \
  asm volatile( \
      "{.reg .pred add; setp.ne.b32 add, 1, 0; " \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31" \
      "}, {%32, %33, %34, %35}, %36, add, 1, 1, 0;}" \
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]), \
        "+f"(sums[4]), "+f"(sums[5]), "+f"(sums[6]), "+f"(sums[7]), \
        "+f"(sums[8]), "+f"(sums[9]), "+f"(sums[10]), "+f"(sums[11]), \
        "+f"(sums[12]), "+f"(sums[13]), "+f"(sums[14]), "+f"(sums[15]), \
        "+f"(sums[16]), "+f"(sums[17]), "+f"(sums[18]), "+f"(sums[19]), \
        "+f"(sums[20]), "+f"(sums[21]), "+f"(sums[22]), "+f"(sums[23]), \
        "+f"(sums[24]), "+f"(sums[25]), "+f"(sums[26]), "+f"(sums[27]), \
        "+f"(sums[28]), "+f"(sums[29]), "+f"(sums[30]), "+f"(sums[31]) \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

#define SUPERMASK_WGMMA_128(type) \
  asm volatile( \
      "{.reg .pred add; setp.ne.b32 add, 1, 0; " \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63" \
      "}, {%64, %65, %66, %67}, %68, add, 1, 1, 0;}" \
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]), \
        "+f"(sums[4]), "+f"(sums[5]), "+f"(sums[6]), "+f"(sums[7]), \
        "+f"(sums[8]), "+f"(sums[9]), "+f"(sums[10]), "+f"(sums[11]), \
        "+f"(sums[12]), "+f"(sums[13]), "+f"(sums[14]), "+f"(sums[15]), \
        "+f"(sums[16]), "+f"(sums[17]), "+f"(sums[18]), "+f"(sums[19]), \
        "+f"(sums[20]), "+f"(sums[21]), "+f"(sums[22]), "+f"(sums[23]), \
        "+f"(sums[24]), "+f"(sums[25]), "+f"(sums[26]), "+f"(sums[27]), \
        "+f"(sums[28]), "+f"(sums[29]), "+f"(sums[30]), "+f"(sums[31]), \
        "+f"(sums[32]), "+f"(sums[33]), "+f"(sums[34]), "+f"(sums[35]), \
        "+f"(sums[36]), "+f"(sums[37]), "+f"(sums[38]), "+f"(sums[39]), \
        "+f"(sums[40]), "+f"(sums[41]), "+f"(sums[42]), "+f"(sums[43]), \
        "+f"(sums[44]), "+f"(sums[45]), "+f"(sums[46]), "+f"(sums[47]), \
        "+f"(sums[48]), "+f"(sums[49]), "+f"(sums[50]), "+f"(sums[51]), \
        "+f"(sums[52]), "+f"(sums[53]), "+f"(sums[54]), "+f"(sums[55]), \
        "+f"(sums[56]), "+f"(sums[57]), "+f"(sums[58]), "+f"(sums[59]), \
        "+f"(sums[60]), "+f"(sums[61]), "+f"(sums[62]), "+f"(sums[63]) \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
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
  const Machine machine = prepare(kernel, bytes, device);
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
