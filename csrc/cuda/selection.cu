// The selection, within single tensors from hints and over several without: kernels around the phases of
// segment.h and ranking.h.
#include <algorithm>

#include "launch.h"
#include "selection.h"
#include "supermask/chunk.h"
#include "supermask/group.h"

namespace supermask::cuda {
namespace {

constexpr int kSettlingThreads = 1024;

// --- within tensors

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
  settle_segment(group, shared, selected.item, selected.segment, memory.tiles, memory.slots, selected.hint);
}

template <class Item, class Rule>
void run(const std::vector<Selected<Item>>& tensors, const Rule& rule, TileMemory memory, cudaStream_t stream) {
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
      });
}

// --- over several tensors

int64_t stretches(const Ranked& tensor) { return (tensor.numel + kStretch - 1) / kStretch; }

template <class Float>
__global__ void __launch_bounds__(kThreads)
    start_kernel(const __grid_constant__ Chunk<Counted> chunk, Ranking<Float>* rankings) {
  const Counted& segment = chunk.items[blockIdx.x];
  start_ranking(BlockGroup{kThreads}, rankings[blockIdx.x], segment.keep, segment.numel);
}

struct Stretch {
  int64_t begin;
  int count;
};

__device__ Stretch stretch_of(const Chunk<Ranked>& chunk, int i) {
  const int64_t begin = int64_t{blockIdx.x - chunk.first_block[i]} * kStretch;
  const int64_t rest = chunk.items[i].numel - begin;
  return {begin, static_cast<int>(rest < kStretch ? rest : kStretch)};
}

template <class Float>
__global__ void __launch_bounds__(kThreads)
    count_kernel(const __grid_constant__ Chunk<Ranked> chunk, Ranking<Float>* rankings, bool first) {
  __shared__ Histogram histogram;
  const int i = chunk.item_of(blockIdx.x);
  const Ranked& tensor = chunk.items[i];
  const Stretch stretch = stretch_of(chunk, i);
  count_digits(BlockGroup{kThreads}, histogram, rankings[tensor.segment], tensor.scores, stretch.begin,
               stretch.count, tensor.base, first);
}

template <class Float>
__global__ void __launch_bounds__(kThreads) end_pass_kernel(Ranking<Float>* rankings) {
  __shared__ Histogram histogram;
  end_pass(BlockGroup{kThreads}, histogram, rankings[blockIdx.x]);
}

template <class Float>
__global__ void __launch_bounds__(kThreads)
    write_mask_kernel(const __grid_constant__ Chunk<Ranked> chunk, const Ranking<Float>* rankings) {
  const int i = chunk.item_of(blockIdx.x);
  const Ranked& tensor = chunk.items[i];
  const Stretch stretch = stretch_of(chunk, i);
  write_mask(BlockGroup{kThreads}, rankings[tensor.segment], tensor.scores, tensor.mask, stretch.begin,
             stretch.count, tensor.base);
}

template <class Float>
__global__ void mark_hints_kernel(const Ranking<Float>* rankings, int segments, Hint* hints) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < segments && rankings[i].infinite) hints[i] = {kNotFinite, 0};
}

}  // namespace

void select_within(const std::vector<Selected<ScoreItem>>& tensors, TileMemory memory, cudaStream_t stream) {
  run(tensors, NoRule{}, memory, stream);
}

void step_within(const std::vector<Selected<StepItem>>& tensors, const Sgd& rule, TileMemory memory,
                 cudaStream_t stream) {
  run(tensors, rule, memory, stream);
}

template <class Float>
void rank(const std::vector<Ranked>& tensors, const std::vector<Counted>& segments, Ranking<Float>* rankings,
          cudaStream_t stream) {
  const unsigned count = static_cast<unsigned>(segments.size());
  if (count == 0) return;
  Ranking<Float>* next = rankings;
  for_chunks(
      segments, [](const Counted&) { return 1; },
      [&](const Chunk<Counted>& chunk, unsigned blocks) {
        start_kernel<Float><<<blocks, kThreads, 0, stream>>>(chunk, next);
        check_launch("the start of a ranking");
        next += blocks;
      });
  for (int pass = 0; pass < kPasses<Float>; ++pass) {
    for_chunks(tensors, stretches, [&](const Chunk<Ranked>& chunk, unsigned blocks) {
      count_kernel<Float><<<blocks, kThreads, 0, stream>>>(chunk, rankings, pass == 0);
      check_launch("a count of digits");
    });
    end_pass_kernel<Float><<<count, kThreads, 0, stream>>>(rankings);
    check_launch("the end of a pass");
  }
  for_chunks(tensors, stretches, [&](const Chunk<Ranked>& chunk, unsigned blocks) {
    write_mask_kernel<Float><<<blocks, kThreads, 0, stream>>>(chunk, rankings);
    check_launch("the writing of masks");
  });
}

template <class Float>
void mark_hints(const Ranking<Float>* rankings, int segments, Hint* hints, cudaStream_t stream) {
  if (segments == 0) return;
  mark_hints_kernel<<<blocks_for(segments, kThreads), kThreads, 0, stream>>>(rankings, segments, hints);
  check_launch("the marking of hints");
}

template <class Float>
bool met_infinite(const Ranking<Float>* rankings, int segments, cudaStream_t stream) {
  if (segments == 0) return false;
  std::vector<unsigned> flags(segments);
  check_cuda(cudaMemcpy2DAsync(flags.data(), sizeof(unsigned), &rankings->infinite, sizeof(Ranking<Float>),
                               sizeof(unsigned), segments, cudaMemcpyDeviceToHost, stream),
             "copy what a selection met");
  check_cuda(cudaStreamSynchronize(stream), "finish a selection");
  return std::any_of(flags.begin(), flags.end(), [](unsigned flag) { return flag != 0; });
}

template void rank(const std::vector<Ranked>&, const std::vector<Counted>&, Ranking<float>*, cudaStream_t);
template void rank(const std::vector<Ranked>&, const std::vector<Counted>&, Ranking<double>*, cudaStream_t);
template void mark_hints(const Ranking<float>*, int, Hint*, cudaStream_t);
template void mark_hints(const Ranking<double>*, int, Hint*, cudaStream_t);
template bool met_infinite(const Ranking<float>*, int, cudaStream_t);
template bool met_infinite(const Ranking<double>*, int, cudaStream_t);

}  // namespace supermask::cuda
