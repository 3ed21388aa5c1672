// The parts of a step over many tensors at once: straight-through gradients and masked writes.
#include "launch.h"
#include "step.h"
#include "supermask/chunk.h"
#include "supermask/group.h"

namespace supermask::cuda {
namespace {

constexpr int64_t kPerBlock = 2048;

template <class Float, class Item>
__global__ void __launch_bounds__(kThreads, 4) elements_kernel(const __grid_constant__ Chunk<Item> chunk) {
  const int i = chunk.item_of(blockIdx.x);
  const Item& item = chunk.items[i];
  const int64_t begin = int64_t{blockIdx.x - chunk.first_block[i]} * kPerBlock, rest = item.numel - begin;
  in_batches(
      static_cast<int>(threadIdx.x), kThreads, rest < kPerBlock ? rest : kPerBlock,
      [&](int64_t at) { return item.template read<Float>(begin + at); },
      [&](int64_t at, const auto& value) { item.put(begin + at, value); });
}

template <class Item>
void launch(const std::vector<Item>& tensors, bool wide, const char* what, cudaStream_t stream) {
  for_chunks(
      tensors, [](const Item& item) { return (item.numel + kPerBlock - 1) / kPerBlock; },
      [&](const Chunk<Item>& chunk, unsigned blocks) {
        wide ? elements_kernel<double><<<blocks, kThreads, 0, stream>>>(chunk)
             : elements_kernel<float><<<blocks, kThreads, 0, stream>>>(chunk);
        check_launch(what);
      });
}

}  // namespace

void straight_through(const std::vector<StraightItem>& tensors, bool wide, cudaStream_t stream) {
  launch(tensors, wide, "straight_through", stream);
}

void write_masked(const std::vector<MaskedItem>& tensors, bool wide, cudaStream_t stream) {
  launch(tensors, wide, "write_masked", stream);
}

void move_scores(const std::vector<MoveItem>& tensors, cudaStream_t stream) {
  launch(tensors, false, "the moving of scores", stream);
}

}  // namespace supermask::cuda
