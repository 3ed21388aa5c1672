// What the launches of packed linear layers have in common.
#pragma once

#include <mutex>

#include "launch.h"
#include "supermask/packed_task.h"

namespace supermask::cuda {

// What a kernel's launch depends on.
struct Machine {
  int multiprocessors;
  int code;  // what the kernel's code was compiled for, times ten: PTX of 8.0 runs on every later GPU
  ClustersAtOnce at_once;
};

inline cudaLaunchAttribute cluster_of(int blocks) {
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = static_cast<unsigned>(blocks);
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  return cluster;
}

// Makes one kernel ready for the most shared memory that it uses, and says what it runs on: once per device, since
// each question takes microseconds. Every kernel has an object of its own, a static one in the function that
// launches it. Kernels of one signature have one type, so a template over the type would make them share it.
class Prepared {
 public:
  template <class Kernel>
  const Machine& on(int device, Kernel* kernel, int threads, int most_shared_bytes) {
    if (device >= kDevices) throw std::runtime_error("packed layers know the first 64 GPUs of a machine alone");
    std::call_once(asked_[device], [&] { machines_[device] = ask(device, kernel, threads, most_shared_bytes); });
    return machines_[device];
  }

 private:
  template <class Kernel>
  static Machine ask(int device, Kernel* kernel, int threads, int most_shared_bytes) {
    cudaFuncAttributes attributes;
    Machine machine = {0, 0, {{INT32_MAX, 0, 0, 0}}};
    check_cuda(cudaFuncGetAttributes(&attributes, kernel), "find the kernel of a packed layer for this device");
    check_cuda(cudaDeviceGetAttribute(&machine.multiprocessors, cudaDevAttrMultiProcessorCount, device),
               "describe the device");
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared_bytes),
               "give the kernel of a packed layer its shared memory");
    machine.code = attributes.ptxVersion;
    for (int i = 1; i < 4 && machine.code >= 90; ++i) {
      cudaLaunchAttribute cluster = cluster_of(1 << i);
      cudaLaunchConfig_t config = {};
      config.gridDim = dim3(1 << i);
      config.blockDim = dim3(threads);
      config.dynamicSmemBytes = most_shared_bytes;
      config.attrs = &cluster;
      config.numAttrs = 1;
      check_cuda(cudaOccupancyMaxActiveClusters(&machine.at_once.of[i], kernel, &config),
                 "tell how many clusters run at once");
    }
    return machine;
  }

  static constexpr int kDevices = 64;
  std::once_flag asked_[kDevices];
  Machine machines_[kDevices] = {};
};

// Launches a kernel of Shape over all outputs and samples, the inputs split as choose_ranks says. `shared_bytes`
// is a function of a block's input tiles.
template <class Shape, class Kernel, class Bytes>
void launch_packed(Kernel* kernel, PackedLinear task, const Machine& machine, int least_tiles, int enough_blocks,
                   Bytes shared_bytes, cudaStream_t stream) {
  const int groups = divide_up(task.matrix.outputs, Shape::outputs), passes = divide_up(task.batch, Shape::batch);
  const int tiles = task.matrix.input_tiles;
  const int64_t blocks = static_cast<int64_t>(groups) * passes;
  task.ranks = choose_ranks(blocks, tiles, least_tiles, enough_blocks, machine.at_once);
  cudaLaunchAttribute cluster = cluster_of(task.ranks);
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
