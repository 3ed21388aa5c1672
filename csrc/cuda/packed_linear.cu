// The kernels for packed layers: packed_mma.h on a real GPU, and the decoder for large batches.
#include "packed_linear.h"

#include <atomic>
#include <type_traits>

#include "launch.h"

namespace supermask::cuda {
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

// Calls body with a value of the type that `dtype` names; the operators refuse float64.
template <class Body>
void with_x_type(Dtype dtype, Body body) {
  switch (dtype) {
    case Dtype::bfloat16: return body(BFloat16{});
    case Dtype::float16: return body(Float16{});
    default: return body(float{});
  }
}

// What a kernel's launch depends on.
struct Machine {
  int multiprocessors;
  bool clusters;  // known to the kernel's code, not only to the device: PTX of 8.0 runs on every later one
};

// Makes the kernel ready for the most shared memory that it uses, and says what it runs on: once per kernel and
// device, since each question takes microseconds.
template <class Kernel>
Machine prepare(Kernel* kernel, int most_shared_bytes, int device) {
  constexpr int kDevices = 64;
  static std::atomic<int> known[kDevices];  // 2 · multiprocessors + clusters; 0 is not known
  int answer = device < kDevices ? known[device].load(std::memory_order_relaxed) : 0;
  if (answer == 0) {
    cudaFuncAttributes attributes;
    check_cuda(cudaFuncGetAttributes(&attributes, kernel), "find the kernel of linear_from_codes for this device");
    check_cuda(cudaDeviceGetAttribute(&answer, cudaDevAttrMultiProcessorCount, device), "describe the device");
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared_bytes),
               "give linear_from_codes its shared memory");
    answer = 2 * answer + (attributes.ptxVersion >= 90);
    if (device < kDevices) known[device].store(answer, std::memory_order_relaxed);
  }
  return {answer / 2, answer % 2 == 1};
}

template <class X, int kBatch>
void launch(PackedLinear task, int device, cudaStream_t stream) {
  using Shape = PackedShape<X, kBatch>;
  const auto kernel = packed_linear_kernel<X, kBatch>;
  const Machine machine = prepare(kernel, shared_bytes<Shape>(Shape::chunk), device);
  const int groups = divide_up(task.matrix.outputs, Shape::outputs), passes = divide_up(task.batch, Shape::batch);
  const int tiles = task.matrix.input_tiles;
  const int64_t blocks = static_cast<int64_t>(groups) * passes;
  task.ranks =
      machine.clusters ? choose_ranks(blocks, tiles, Shape::input_warps, machine.multiprocessors) : 1;
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = static_cast<unsigned>(task.ranks);
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(groups * task.ranks, passes);
  config.blockDim = dim3(Shape::threads);
  config.dynamicSmemBytes = shared_bytes<Shape>(divide_up(tiles, task.ranks));
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = task.ranks > 1 ? 1 : 0;
  check_cuda(cudaLaunchKernelEx(&config, kernel, task), "launch linear_from_codes");
}

// One lane's share of a tile: 32 inputs each of the outputs g and g + 8.
template <class Value>
__global__ void __launch_bounds__(kThreads)
    decode_kernel(const __grid_constant__ CodedMatrix matrix, float scale, Value* out) {
  const int64_t place = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (place >= static_cast<int64_t>(matrix.output_tiles) * matrix.input_tiles * kLanes) return;
  Value rounded;
  from_float(scale, rounded);
  decode_lane(matrix, place, rounded, out);
}

}  // namespace

void linear_from_codes(PackedLinear task, Dtype x_dtype, int device, cudaStream_t stream) {
  if (task.batch == 0 || task.matrix.outputs == 0) return;
  with_x_type(x_dtype, [&](auto x) {
    using X = decltype(x);
    if (task.batch <= 8) return launch<X, 8>(task, device, stream);
    if (task.batch <= 16) return launch<X, 16>(task, device, stream);
    return launch<X, 32>(task, device, stream);
  });
}

void decode_codes(const CodedMatrix& matrix, float scale, Dtype dtype, void* out, cudaStream_t stream) {
  const int64_t lanes = static_cast<int64_t>(matrix.output_tiles) * matrix.input_tiles * kLanes;
  if (lanes == 0) return;
  with_x_type(dtype, [&](auto value) {
    using Value = decltype(value);
    decode_kernel<Value><<<blocks_for(lanes, kThreads), kThreads, 0, stream>>>(matrix, scale,
                                                                               static_cast<Value*>(out));
  });
  check_launch("decode_codes");
}

}  // namespace supermask::cuda
