// The kernels for packed layers: packed_mma.h on a real GPU, and the decoder for large batches.
#include <atomic>
#include <type_traits>

#include "packed_kernels.h"

namespace supermask {
namespace {

// One thread's view of the machine; csrc/tests/emulated_gpu.h has the same on a CPU.
struct RealGpu {
  __device__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ int block_x() const { return static_cast<int>(blockIdx.x); }
  __device__ int block_y() const { return static_cast<int>(blockIdx.y); }

  __device__ void* shared() const {
    extern __shared__ __align__(16) char memory[];
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

template <class X, int kBatch>
__global__ void __launch_bounds__(256, 2) packed_linear_kernel(const __grid_constant__ PackedLinear task) {
  RealGpu gpu;
  packed_linear<PackedShape<X, kBatch>>(gpu, task);
}

// What never changes about a kernel on a device, asked for once: multiprocessors, and 0 or 1 for whether its
// code (not only the device) knows clusters.
struct Machine {
  int multiprocessors, clusters;
};

template <class Kernel>
cudaError_t ask_machine(Kernel* kernel, int device, Machine& machine) {
  constexpr int kDevices = 64;
  static std::atomic<int> known[kDevices];  // 2 · multiprocessors + clusters, 0 for not yet
  int answer = device < kDevices ? known[device].load(std::memory_order_relaxed) : 0;
  if (answer == 0) {
    cudaFuncAttributes attributes;
    int multiprocessors;
    if (const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel)) return error;
    if (const cudaError_t error =
            cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device))
      return error;
    answer = 2 * multiprocessors + (attributes.ptxVersion >= 90);
    if (device < kDevices) known[device].store(answer, std::memory_order_relaxed);
  }
  machine = {answer / 2, answer % 2};
  return cudaSuccess;
}

template <class X, int kBatch>
cudaError_t launch_shape(PackedLinear task, int device, cudaStream_t stream) {
  using Shape = PackedShape<X, kBatch>;
  const auto kernel = packed_linear_kernel<X, kBatch>;
  Machine machine;
  if (const cudaError_t error = ask_machine(kernel, device, machine)) return error;
  const int groups = divide_up(task.outputs, Shape::outputs), passes = divide_up(task.batch, Shape::batch);
  task.ranks = machine.clusters ? choose_ranks(groups * passes, task.input_tiles, Shape::input_warps,
                                               machine.multiprocessors)
                                : 1;
  const int bytes = shared_bytes<Shape>(divide_up(task.input_tiles, task.ranks));
  if (const cudaError_t error =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes))
    return error;
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(task.ranks), 1, 1};
  cudaLaunchConfig_t launch = {};
  launch.gridDim = dim3(groups * task.ranks, passes);
  launch.blockDim = dim3(Shape::threads);
  launch.dynamicSmemBytes = bytes;
  launch.stream = stream;
  launch.attrs = &cluster;
  launch.numAttrs = task.ranks > 1;
  return cudaLaunchKernelEx(&launch, kernel, task);
}

template <class X>
cudaError_t launch_type(const PackedLinear& task, int device, cudaStream_t stream) {
  if (task.batch <= 8) return launch_shape<X, 8>(task, device, stream);
  if (task.batch <= 16) return launch_shape<X, 16>(task, device, stream);
  return launch_shape<X, 32>(task, device, stream);
}

// One lane's share of a tile: 32 inputs each of the outputs g and g + 8.
template <class Value>
__global__ void __launch_bounds__(256) decode_codes_kernel(const __grid_constant__ DecodeCodes task) {
  const int64_t place = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t tile = place / kLanes;
  if (tile >= static_cast<int64_t>(task.output_tiles) * task.input_tiles) return;
  Value scale;
  from_float(task.scale, scale);
  decode_lane(task.codes[place], static_cast<int>(place % kLanes), tile, scale, task.outputs, task.inputs,
              task.input_tiles, static_cast<Value*>(task.out));
}

template <class Value>
cudaError_t launch_decode(const DecodeCodes& task, cudaStream_t stream) {
  const int64_t lanes = static_cast<int64_t>(task.output_tiles) * task.input_tiles * kLanes;
  decode_codes_kernel<Value><<<static_cast<unsigned>((lanes + 255) / 256), 256, 0, stream>>>(task);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_packed_linear(PackedLinear task, Dtype x_dtype, int device, cudaStream_t stream) {
  switch (x_dtype) {
    case Dtype::bfloat16: return launch_type<BFloat16>(task, device, stream);
    case Dtype::float16: return launch_type<Float16>(task, device, stream);
    default: return launch_type<float>(task, device, stream);
  }
}

cudaError_t launch_decode_codes(const DecodeCodes& task, Dtype dtype, cudaStream_t stream) {
  switch (dtype) {
    case Dtype::bfloat16: return launch_decode<BFloat16>(task, stream);
    case Dtype::float16: return launch_decode<Float16>(task, stream);
    default: return launch_decode<float>(task, stream);
  }
}

}  // namespace supermask
