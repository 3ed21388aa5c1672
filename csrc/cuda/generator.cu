// The generator: a thread draws four neighbouring elements and stores them at once where it can.
#include "generator.h"
#include "launch.h"

namespace supermask::cuda {
namespace {

template <class To>
struct alignas(4 * sizeof(To)) Vector {
  To value[4];
};

// Stores elements [first, first + 4) of `out`, as far as they lie in [0, count).
template <class To>
__device__ __forceinline__ void store_four(const Vector<To>& four, int64_t first, int64_t count, bool aligned,
                                           To* out) {
  if (aligned && first + 4 <= count) {
    *reinterpret_cast<Vector<To>*>(out + first) = four;
    return;
  }
  SUPERMASK_UNROLL
  for (int i = 0; i < 4; ++i)
    if (first + i >= 0 && first + i < count) out[first + i] = four.value[i];
}

template <Scheme kScheme, class To>
__global__ void fill_random_kernel(uint64_t key, uint64_t start, int64_t count, float scale, bool aligned,
                                   To* out) {
  const uint64_t quad = start / 4 + blockIdx.x * static_cast<uint64_t>(kThreads) + threadIdx.x;
  const int64_t first = static_cast<int64_t>(4 * quad - start);  // negative where `start` is no multiple of 4
  if (first >= count) return;
  const Four drawn = draw_four<kScheme>(key, quad, scale);
  Vector<To> four;
  SUPERMASK_UNROLL
  for (int i = 0; i < 4; ++i) from_float(drawn.value[i], four.value[i]);
  store_four(four, first, count, aligned, out);
}

__global__ void fill_philox_kernel(uint64_t key, uint64_t start, int64_t count, int64_t* out) {
  const uint64_t block = start / 4 + blockIdx.x * static_cast<uint64_t>(kThreads) + threadIdx.x;
  const int64_t first = static_cast<int64_t>(4 * block - start);
  if (first >= count) return;
  const PhiloxBlock drawn = philox(key, block);
  Vector<int64_t> four;
  SUPERMASK_UNROLL
  for (int i = 0; i < 4; ++i) four.value[i] = drawn.word[i];
  store_four(four, first, count, false, out);
}

int64_t quads_of(uint64_t start, int64_t count) {
  return static_cast<int64_t>((start + count + 3) / 4 - start / 4);
}

template <Scheme kScheme>
void fill(uint64_t key, uint64_t start, int64_t count, float scale, Dtype dtype, void* out,
          cudaStream_t stream) {
  const int64_t quads = quads_of(start, count);
  with_type(dtype, [&](auto type) {
    using To = decltype(type);
    const bool aligned = start % 4 == 0 && reinterpret_cast<uintptr_t>(out) % alignof(Vector<To>) == 0;
    fill_random_kernel<kScheme><<<blocks_for(quads, kThreads), kThreads, 0, stream>>>(
        key, start, count, scale, aligned, static_cast<To*>(out));
  });
  check_launch("fill_random");
}

}  // namespace

void fill_random(Scheme scheme, uint64_t key, uint64_t start, int64_t count, float scale, Dtype dtype,
                 void* out, cudaStream_t stream) {
  if (count == 0) return;
  switch (scheme) {
    case Scheme::sign:
      return fill<Scheme::sign>(key, start, count, scale, dtype, out, stream);
    case Scheme::uniform:
      return fill<Scheme::uniform>(key, start, count, scale, dtype, out, stream);
    case Scheme::normal:
      return fill<Scheme::normal>(key, start, count, scale, dtype, out, stream);
  }
}

void fill_philox(uint64_t key, uint64_t start, int64_t count, int64_t* out, cudaStream_t stream) {
  if (count == 0) return;
  fill_philox_kernel<<<blocks_for(quads_of(start, count), kThreads), kThreads, 0, stream>>>(key, start, count,
                                                                                            out);
  check_launch("fill_philox");
}

}  // namespace supermask::cuda
