// A group of threads that share memory and wait for each other: a CUDA block, or a loop on the host. What
// kernels do is written once, as phases over a group; the host tests run the same phases one thread after the
// other. Results must not depend on the order of the threads within a phase.
#pragma once

#include <cstdint>

#include "supermask/macros.h"

namespace supermask {

#if defined(__CUDACC__)
// The threads of the running block.
struct BlockGroup {
  int threads;

  // Calls body(thread) in every thread, and waits until all have returned.
  template <class Body>
  SUPERMASK_MEMBER void each_thread(Body body) const {
#if defined(__CUDA_ARCH__)
    body(static_cast<int>(threadIdx.x));
    __syncthreads();
#endif
  }

  // Adds to shared or global memory; returns the value before.
  SUPERMASK_MEMBER unsigned add(unsigned* place, unsigned value) const {
#if defined(__CUDA_ARCH__)
    return atomicAdd(place, value);
#else
    return *place + value;
#endif
  }
};
#endif

// The same on the host. The order of the threads can be turned round, to show that it does not matter.
struct SerialGroup {
  int threads;
  bool reversed = false;

  template <class Body>
  void each_thread(Body body) const {
    for (int i = 0; i < threads; ++i) body(reversed ? threads - 1 - i : i);
  }

  unsigned add(unsigned* place, unsigned value) const {
    const unsigned before = *place;
    *place += value;
    return before;
  }
};

// Several groups that work in turns and share no memory but the device's, on the host one after the other.
struct SerialGrid {
  int groups;
  SerialGroup group;

  template <class Body>
  void each_group(Body body) const {
    for (int i = 0; i < groups; ++i) body(group, group.reversed ? groups - 1 - i : i);
  }
};

// One thread's share of [0, count): calls use(i, read(i)) for every `threads`-th i from `thread` on. A batch
// is read before the first of it is used, so that the reads are under way together.
template <int kBatch = 4, class Read, class Use>
SUPERMASK_HD void in_batches(int thread, int threads, int64_t count, Read read, Use use) {
  for (int64_t from = thread; from < count; from += kBatch * threads) {
    decltype(read(from)) values[kBatch];
    SUPERMASK_UNROLL
    for (int i = 0; i < kBatch; ++i)
      if (from + i * threads < count) values[i] = read(from + i * threads);
    SUPERMASK_UNROLL
    for (int i = 0; i < kBatch; ++i)
      if (from + i * threads < count) use(from + i * threads, values[i]);
  }
}

}  // namespace supermask
