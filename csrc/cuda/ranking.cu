// Selection without hints, within tensors, over several and within groups: kernels around ranking.h and
// groups.h.
#include <algorithm>

#include "launch.h"
#include "selection.h"
#include "supermask/chunk.h"
#include "supermask/group.h"

namespace supermask::cuda {
namespace {

int64_t stretches(const Ranked& tensor) { return tensor.stretches(); }

struct Stretch {
  int64_t begin;
  int count;
};

__device__ Stretch stretch_of(const Chunk<Ranked>& chunk, int i) {
  const int64_t begin = int64_t{blockIdx.x - chunk.first_block[i]} * kStretch;
  const int64_t rest = chunk.items[i].numel - begin;
  return {begin, static_cast<int>(rest < kStretch ? rest : kStretch)};
}

// What is ranked together has indices of 32 bits.
template <class Float>
__device__ __forceinline__ Float score_at(const Ranked& tensor, int64_t index) {
  return load<Float>(tensor.scores, static_cast<uint32_t>(index));
}

template <class Float>
__global__ void __launch_bounds__(kThreads)
    start_kernel(const __grid_constant__ Chunk<Counted> chunk, RankedSegment<Float>* segments) {
  const Counted& count = chunk.items[blockIdx.x];
  start_ranking(BlockGroup{kThreads}, segments[blockIdx.x], count.keep, count.numel);
}

template <class Float>
__global__ void __launch_bounds__(kThreads)
    count_kernel(const __grid_constant__ Chunk<Ranked> chunk, Ranking ranking, RankedSegment<Float>* segments,
                 bool first) {
  __shared__ Histogram histogram;
  const int i = chunk.item_of(blockIdx.x);
  const Ranked& tensor = chunk.items[i];
  const Stretch stretch = stretch_of(chunk, i);
  count_digits(
      BlockGroup{kThreads}, histogram, segments[tensor.segment],
      [&](int64_t at) { return score_at<Float>(tensor, stretch.begin + at); }, ranking, stretch.count,
      tensor.base + static_cast<uint32_t>(stretch.begin), first);
}

template <class Float>
__global__ void __launch_bounds__(kThreads)
    end_pass_kernel(RankedSegment<Float>* segments, Bests<Float> bests, int count) {
  __shared__ Histogram histogram;
  end_pass(BlockGroup{kThreads}, histogram, segments[blockIdx.x], bests.of_tensor, count);
}

// The best of every stretch, and then of every tensor.
template <class Float>
__global__ void __launch_bounds__(kThreads)
    best_of_stretch_kernel(const __grid_constant__ Chunk<Ranked> chunk, Ranking ranking, Bests<Float> bests) {
  using Place = typename Places<Float>::Place;
  __shared__ Place shared[kThreads];
  const int i = chunk.item_of(blockIdx.x);
  const Ranked& tensor = chunk.items[i];
  const Stretch stretch = stretch_of(chunk, i);
  const auto place_at = [&](int64_t at) {
    const auto key = key_of(score_at<Float>(tensor, stretch.begin + at), ranking);
    return place_of(key, tensor.base + static_cast<uint32_t>(stretch.begin + at));
  };
  find_highest(BlockGroup{kThreads}, shared, stretch.count, place_at,
               bests.of_stretch + tensor.first_stretch + stretch.begin / kStretch);
}

template <class Float>
__global__ void __launch_bounds__(kThreads)
    best_of_tensor_kernel(const __grid_constant__ Chunk<Ranked> chunk, Bests<Float> bests) {
  using Place = typename Places<Float>::Place;
  __shared__ Place shared[kThreads];
  const Ranked& tensor = chunk.items[blockIdx.x];
  const Place* places = bests.of_stretch + tensor.first_stretch;
  find_highest(BlockGroup{kThreads}, shared, tensor.stretches(), [&](int64_t at) { return places[at]; },
               bests.of_tensor + tensor.number);
}

template <class Float>
__global__ void __launch_bounds__(kThreads)
    write_mask_kernel(const __grid_constant__ Chunk<Ranked> chunk, Ranking ranking,
                      const RankedSegment<Float>* segments, Bests<Float> bests) {
  const int i = chunk.item_of(blockIdx.x);
  const Ranked& tensor = chunk.items[i];
  const Stretch stretch = stretch_of(chunk, i);
  write_mask(
      BlockGroup{kThreads}, segments[tensor.segment],
      [&](int64_t at) { return score_at<Float>(tensor, stretch.begin + at); }, ranking, stretch.count,
      tensor.base + static_cast<uint32_t>(stretch.begin),
      bests.of_tensor ? bests.of_tensor + tensor.number : nullptr,
      [&](int64_t at, bool kept) { tensor.mask[stretch.begin + at] = kept; });
}

template <class Float>
__global__ void mark_hints_kernel(const RankedSegment<Float>* segments, int count, Hint* hints) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count && segments[i].infinite) hints[i] = {kNotFinite, 0};
}

__global__ void clear_kernel(unsigned* flag) { *flag = 0; }

template <class Float>
__global__ void __launch_bounds__(kThreads)
    select_groups_kernel(const __grid_constant__ Chunk<GroupedItem> chunk, int64_t n, int64_t m,
                         Ranking ranking, unsigned* infinite) {
  const int i = chunk.item_of(blockIdx.x);
  const GroupedItem& item = chunk.items[i];
  const int64_t group = int64_t{blockIdx.x - chunk.first_block[i]} * kThreads + threadIdx.x;
  if (group >= item.groups(m) || select_group<Float>(item, group, n, m, ranking)) return;
  if (item.hint) *item.hint = {kNotFinite, 0};
  if (infinite) *infinite = 1;
}

}  // namespace

template <class Float>
void rank(const std::vector<Ranked>& tensors, const std::vector<Counted>& counts, Ranking ranking,
          RankedSegment<Float>* segments, Bests<Float> bests, cudaStream_t stream) {
  if (counts.empty()) return;
  const int bests_count = bests.of_tensor ? static_cast<int>(tensors.size()) : 0;
  if (bests_count) {
    for_chunks(tensors, stretches, [&](const Chunk<Ranked>& chunk, unsigned blocks) {
      best_of_stretch_kernel<Float><<<blocks, kThreads, 0, stream>>>(chunk, ranking, bests);
      check_launch("the search for the best scores");
    });
    for_chunks(
        tensors, [](const Ranked&) { return 1; },
        [&](const Chunk<Ranked>& chunk, unsigned blocks) {
          best_of_tensor_kernel<Float><<<blocks, kThreads, 0, stream>>>(chunk, bests);
          check_launch("the search for the best scores");
        });
  }
  RankedSegment<Float>* next = segments;
  for_chunks(
      counts, [](const Counted&) { return 1; },
      [&](const Chunk<Counted>& chunk, unsigned blocks) {
        start_kernel<Float><<<blocks, kThreads, 0, stream>>>(chunk, next);
        check_launch("the start of a ranking");
        next += blocks;
      });
  for (int pass = 0; pass < kPasses<Float>; ++pass) {
    for_chunks(tensors, stretches, [&](const Chunk<Ranked>& chunk, unsigned blocks) {
      count_kernel<Float><<<blocks, kThreads, 0, stream>>>(chunk, ranking, segments, pass == 0);
      check_launch("a count of digits");
    });
    end_pass_kernel<Float>
        <<<static_cast<unsigned>(counts.size()), kThreads, 0, stream>>>(segments, bests, bests_count);
    check_launch("the end of a pass");
  }
  for_chunks(tensors, stretches, [&](const Chunk<Ranked>& chunk, unsigned blocks) {
    write_mask_kernel<Float><<<blocks, kThreads, 0, stream>>>(chunk, ranking, segments, bests);
    check_launch("the writing of masks");
  });
}

template <class Float>
void mark_hints(const RankedSegment<Float>* segments, int count, Hint* hints, cudaStream_t stream) {
  if (count == 0) return;
  mark_hints_kernel<<<blocks_for(count, kThreads), kThreads, 0, stream>>>(segments, count, hints);
  check_launch("the marking of hints");
}

template <class Float>
bool met_infinite(const RankedSegment<Float>* segments, int count, cudaStream_t stream) {
  if (count == 0) return false;
  std::vector<unsigned> flags(count);
  check_cuda(
      cudaMemcpy2DAsync(flags.data(), sizeof(unsigned), &segments->infinite, sizeof(RankedSegment<Float>),
                        sizeof(unsigned), count, cudaMemcpyDeviceToHost, stream),
      "copy what a selection met");
  check_cuda(cudaStreamSynchronize(stream), "finish a selection");
  return std::any_of(flags.begin(), flags.end(), [](unsigned flag) { return flag != 0; });
}

void select_groups(const std::vector<GroupedItem>& tensors, bool wide, int64_t n, int64_t m, Ranking ranking,
                   unsigned* infinite, cudaStream_t stream) {
  if (infinite) {
    clear_kernel<<<1, 1, 0, stream>>>(infinite);
    check_launch("the start of a selection");
  }
  for_chunks(
      tensors, [&](const GroupedItem& item) { return (item.groups(m) + kThreads - 1) / kThreads; },
      [&](const Chunk<GroupedItem>& chunk, unsigned blocks) {
        wide ? select_groups_kernel<double><<<blocks, kThreads, 0, stream>>>(chunk, n, m, ranking, infinite)
             : select_groups_kernel<float><<<blocks, kThreads, 0, stream>>>(chunk, n, m, ranking, infinite);
        check_launch("the selection within groups");
      });
}

bool is_set(const unsigned* flag, cudaStream_t stream) {
  unsigned value = 0;
  check_cuda(cudaMemcpyAsync(&value, flag, sizeof value, cudaMemcpyDeviceToHost, stream),
             "copy what a selection met");
  check_cuda(cudaStreamSynchronize(stream), "finish a selection");
  return value != 0;
}

template void rank(const std::vector<Ranked>&, const std::vector<Counted>&, Ranking, RankedSegment<float>*,
                   Bests<float>, cudaStream_t);
template void rank(const std::vector<Ranked>&, const std::vector<Counted>&, Ranking, RankedSegment<double>*,
                   Bests<double>, cudaStream_t);
template void mark_hints(const RankedSegment<float>*, int, Hint*, cudaStream_t);
template void mark_hints(const RankedSegment<double>*, int, Hint*, cudaStream_t);
template bool met_infinite(const RankedSegment<float>*, int, cudaStream_t);
template bool met_infinite(const RankedSegment<double>*, int, cudaStream_t);

}  // namespace supermask::cuda
