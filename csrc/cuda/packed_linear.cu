// The kernels for packed layers: packed_mma.h on a real GPU, and the decoder for large batches.
#include "packed_linear.h"

#include "launch.h"
#include "packed_launch.h"
#include "real_gpu.h"
#include "supermask/packed_mma.h"

namespace supermask::cuda {
namespace {

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

template <class X, int kBatch>
void launch(const PackedLinear& task, int device, cudaStream_t stream) {
  using Shape = PackedShape<X, kBatch>;
  const auto kernel = packed_linear_kernel<X, kBatch>;
  static Prepared prepared;
  const Machine& machine = prepared.on(device, kernel, Shape::threads, shared_bytes<Shape>(Shape::chunk));
  const auto bytes = [](int tiles) { return shared_bytes<Shape>(tiles); };
  // Two blocks for every multiprocessor, and a load for every warp.
  launch_packed<Shape>(kernel, task, machine, Shape::input_warps, 2 * machine.multiprocessors, bytes, stream);
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

void linear_from_codes(const PackedLinear& task, Dtype x_dtype, int device, cudaStream_t stream) {
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
