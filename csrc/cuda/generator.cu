// The generator: a thread draws four neighbouring elements and stores them at once where it can.
#include "generator.h"
#include "launch.h"

namespace supermask::cuda {
namespace {

template <class To>
struct alignas(4 * sizeof(To)) Vector {
  To value[4];
};

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
  if (aligned && first + 4 <= count) {
    *reinterpret_cast<Vector<To>*>(out + first) = four;
    return;
  }
  SUPERMASK_UNROLL
  for (int i = 0; i < 4; ++i)
    if (first + i >= 0 && first + i < count) out[first + i] = four.value[i];
}

template <Scheme kScheme>
void fill(uint64_t key, uint64_t start, int64_t count, float scale, Dtype dtype, void* out,
          cudaStream_t stream) {
  const int64_t quads = static_cast<int64_t>((start + count + 3) / 4 - start / 4);
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
    case Scheme::sign: return fill<Scheme::sign>(key, start, count, scale, dtype, out, stream);
    case Scheme::uniform: return fill<Scheme::uniform>(key, start, count, scale, dtype, out, stream);
    case Scheme::normal: return fill<Scheme::normal>(key, start, count, scale, dtype, out, stream);
  }
}

}  // namespace supermask::cuda
