// Selection within single tensors, from hints: kernels around the phases of segment.h.
#include <cooperative_groups.h>

#include <algorithm>

#include "launch.h"
#include "selection.h"
#include "supermask/chunk.h"
#include "supermask/group.h"

namespace supermask::cuda {
namespace {

template <class Item, class Rule>
__global__ void __launch_bounds__(kThreads)
    classify_kernel(const __grid_constant__ Chunk<Selected<Item>> chunk, const Rule rule, TileMemory memory) {
  __shared__ Tile tile;
  const BlockGroup group = {kThreads};
  const int i = chunk.item_of(blockIdx.x);
  const Selected<Item>& selected = chunk.items[i];
  const int64_t number = blockIdx.x - chunk.first_block[i], begin = number * kTileElements;
  const int64_t rest = selected.segment.numel - begin, at = selected.segment.first_tile + number;
  classify_tile(group, tile, selected.item, rule, first_window(selected.segment, *selected.hint), begin,
                static_cast<int>(rest < kTileElements ? rest : kTileElements), memory.slots + at * kSlots,
                memory.tiles + at);
}

template <class Item>
__global__ void __launch_bounds__(kSettlingThreads, 1)
    settle_kernel(const __grid_constant__ Chunk<Selected<Item>> chunk, TileMemory memory) {
  __shared__ Settling shared;
  const BlockGroup group = {kSettlingThreads};
  const Selected<Item>& selected = chunk.items[blockIdx.x];
  settle_segment(group, shared, selected.item, selected.segment, memory.tiles, memory.slots, selected.hint,
                 selected.segment.numel >= kLargeSegment ? memory.missed + blockIdx.x : nullptr);
}

// All blocks of a cooperative launch.
struct BlockGrid {
  int groups;

  template <class Body>
  SUPERMASK_MEMBER void each_group(Body body) const {
#if defined(__CUDA_ARCH__)
    body(BlockGroup{kThreads}, static_cast<int>(blockIdx.x));
    cooperative_groups::this_grid().sync();
#endif
  }
};

template <class Item>
__global__ void __launch_bounds__(kThreads, 4)
    rank_missed_kernel(const __grid_constant__ Chunk<Selected<Item>> chunk, TileMemory memory) {
  __shared__ Histogram histogram;
  const BlockGrid grid = {static_cast<int>(gridDim.x)};
  for (int i = 0; i < chunk.count; ++i) {
    const Selected<Item>& selected = chunk.items[i];
    if (selected.segment.numel < kLargeSegment || !memory.missed[i]) continue;  // alike in all blocks
    rank_segment(grid, histogram, *memory.ranked, selected.item, selected.segment, selected.hint);
  }
}

// As many blocks as the device surely runs side by side, which is what waiting for each other takes.
template <class Item>
unsigned blocks_together() {
  int device = 0, multiprocessors = 0, each = 0;
  check_cuda(cudaGetDevice(&device), "tell the current device");
  check_cuda(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
             "count multiprocessors");
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, rank_missed_kernel<Item>, kThreads, 0),
             "tell how many blocks fit");
  return static_cast<unsigned>(multiprocessors * std::clamp(each, 1, 4));
}

template <class Item, class Rule>
void run(const std::vector<Selected<Item>>& tensors, const Rule& rule, TileMemory memory,
         cudaStream_t stream) {
  using Tensors = Chunk<Selected<Item>>;
  for_chunks(
      tensors, [](const Selected<Item>& tensor) { return tensor.segment.tiles(); },
      [&](const Tensors& chunk, unsigned blocks) {
        classify_kernel<Item, Rule><<<blocks, kThreads, 0, stream>>>(chunk, rule, memory);
        check_launch("the classification of scores");
      });
  for_chunks(
      tensors, [](const Selected<Item>&) { return 1; },
      [&](const Tensors& chunk, unsigned blocks) {
        settle_kernel<Item><<<blocks, kSettlingThreads, 0, stream>>>(chunk, memory);
        check_launch("the settling of masks");
        int64_t largest = 0;
        for (int i = 0; i < chunk.count; ++i) largest = std::max(largest, chunk.items[i].segment.numel);
        if (largest < kLargeSegment) return;
        void* arguments[] = {const_cast<Tensors*>(&chunk), &memory};
        check_cuda(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(rank_missed_kernel<Item>),
                                               dim3(blocks_together<Item>()), dim3(kThreads), arguments, 0, stream),
                   "launch the ranking of what windows missed");
      });
}

}  // namespace

void select_within(const std::vector<Selected<ScoreItem>>& tensors, TileMemory memory, cudaStream_t stream) {
  run(tensors, NoRule{}, memory, stream);
}

void step_within(const std::vector<Selected<StepItem>>& tensors, const Sgd& rule, TileMemory memory,
                 cudaStream_t stream) {
  run(tensors, rule, memory, stream);
}

}  // namespace supermask::cuda
