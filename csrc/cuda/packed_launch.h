// What the launches of packed linear layers have in common.
#pragma once

#include <atomic>

#include "launch.h"
#include "supermask/packed_task.h"

namespace supermask::cuda {

// What a kernel's launch depends on.
struct Machine {
  int multiprocessors;
  int code;  // what the kernel's code was compiled for, times ten: PTX of 8.0 runs on every later GPU

  bool clusters() const { return code >= 90; }
};

// Makes the kernel ready for the most shared memory that it uses, and says what it runs on: once per kernel and
// device, since each question takes microseconds.
template <class Kernel>
Machine prepare(Kernel* kernel, int most_shared_bytes, int device) {
  constexpr int kDevices = 64, kCodes = 1000;
  static std::atomic<int> known[kDevices];  // kCodes · multiprocessors + code; 0 is not known
  int answer = device < kDevices ? known[device].load(std::memory_order_relaxed) : 0;
  if (answer == 0) {
    cudaFuncAttributes attributes;
    int multiprocessors;
    check_cuda(cudaFuncGetAttributes(&attributes, kernel), "find the kernel of a packed layer for this device");
    check_cuda(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
               "describe the device");
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared_bytes),
               "give the kernel of a packed layer its shared memory");
    answer = kCodes * multiprocessors + attributes.ptxVersion;
    if (device < kDevices) known[device].store(answer, std::memory_order_relaxed);
  }
  return {answer / kCodes, answer % kCodes};
}

// Launches a kernel of Shape over all outputs and samples, the inputs split as choose_ranks says. `shared_bytes`
// is a function of a block's input tiles.
template <class Shape, class Kernel, class Bytes>
void launch_packed(Kernel* kernel, PackedLinear task, Machine machine, int least_tiles, int enough_blocks,
                   Bytes shared_bytes, cudaStream_t stream) {
  const int groups = divide_up(task.matrix.outputs, Shape::outputs), passes = divide_up(task.batch, Shape::batch);
  const int tiles = task.matrix.input_tiles;
  const int64_t blocks = static_cast<int64_t>(groups) * passes;
  task.ranks = machine.clusters() ? choose_ranks(blocks, tiles, least_tiles, enough_blocks) : 1;
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = static_cast<unsigned>(task.ranks);
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(groups * task.ranks, passes);
  config.blockDim = dim3(Shape::threads);
  config.dynamicSmemBytes = shared_bytes(divide_up(tiles, task.ranks));
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = task.ranks > 1 ? 1 : 0;
  check_cuda(cudaLaunchKernelEx(&config, kernel, task), "launch the kernel of a packed layer");
}

}  // namespace supermask::cuda
