// select, select_into and select_global: masks of the largest |scores|.
//
// With `cuts` nothing waits for the device, so that a CUDA graph can hold the call: that a score was not finite is
// written into `cuts`. Without, the call waits to raise the error itself, unless a graph is being captured.
#include "arguments.h"
#include "launch.h"
#include "operators.h"
#include "tile_memory.h"

namespace supermask::cuda::op {
namespace {

bool capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(stream, &status), "tell whether a graph is being captured");
  return status != cudaStreamCaptureStatusNone;
}

template <class Float>
void rank_as(const Scope& scope, const std::vector<Ranked>& tensors, const std::vector<Counted>& segments,
             Hint* hints) {
  const int count = static_cast<int>(segments.size());
  const Tensor memory = scope.empty({count * static_cast<int64_t>(sizeof(Ranking<Float>))}, ScalarType::Byte);
  Ranking<Float>* rankings = static_cast<Ranking<Float>*>(memory.data_ptr());
  rank(tensors, segments, rankings, scope.stream());
  if (hints) return mark_hints(rankings, count, hints, scope.stream());
  if (capturing(scope.stream())) return;
  check(!met_infinite(rankings, count, scope.stream()), "scores are not finite");
}

// One segment per tensor, or one for all of them if `keep` has a single count for several.
void rank_any(const Scope& scope, const std::vector<Array>& arrays, const Tensors& scores, const Tensors& masks,
              const Counts& keep, bool together, bool wide, Hint* hints) {
  std::vector<Ranked> tensors;
  std::vector<Counted> segments;
  int64_t base = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    const int64_t numel = scores[i].numel();
    tensors.push_back({arrays[i], check_mask_to_write(scope, masks[i], scores[i]), numel,
                       static_cast<uint32_t>(base), together ? 0 : static_cast<int>(i)});
    if (together) base += numel;
    if (!together) segments.push_back({keep[i], numel});
    check_rankable(together ? base : numel);
  }
  if (together) segments.push_back({keep[0], base});
  wide ? rank_as<double>(scope, tensors, segments, hints) : rank_as<float>(scope, tensors, segments, hints);
}

// float64 holds the order of every other type, so one tensor of it decides for all.
bool any_wide(const std::vector<Array>& arrays) {
  for (const Array& array : arrays)
    if (array.dtype == Dtype::float64) return true;
  return false;
}

std::vector<Array> arrays_of(Arrays& arrays, const Tensors& scores) {
  std::vector<Array> result;
  for (const Tensor& score : scores) result.push_back(arrays.input(score, "scores"));
  return result;
}

Tensors new_masks(const Scope& scope, const Tensors& scores) {
  Tensors masks;
  for (const Tensor& score : scores) masks.push_back(scope.empty(score.sizes(), ScalarType::Bool));
  return masks;
}

Tensors select_new(const Tensors& scores, const Counts& keep, bool together) {
  const Scope scope(scores[0]);
  Arrays arrays(scope);
  const std::vector<Array> inputs = arrays_of(arrays, scores);
  const Tensors masks = new_masks(scope, scores);
  rank_any(scope, inputs, scores, masks, keep, together, any_wide(inputs), nullptr);
  return masks;
}

}  // namespace

Tensors select(Tensors scores, Counts keep) {
  check_keep(scores, keep);
  return select_new(scores, keep, false);
}

void select_into(Tensors masks, Tensors scores, Counts keep, Tensor cuts) {
  check_keep(scores, keep);
  check_same_length(masks.size(), "masks", scores.size(), "scores");
  const Scope scope(cuts);
  Arrays arrays(scope);
  const std::vector<Array> inputs = arrays_of(arrays, scores);
  Hint* hints = hints_of(scope, cuts, scores.size());
  // Hints are of float32 keys.
  if (any_wide(inputs)) return rank_any(scope, inputs, scores, masks, keep, false, true, hints);
  std::vector<Selected<ScoreItem>> tensors;
  for (size_t i = 0; i < scores.size(); ++i) {
    check_rankable(scores[i].numel());
    tensors.push_back({{inputs[i], check_mask_to_write(scope, masks[i], scores[i])},
                       {keep[i], scores[i].numel(), 0},
                       hints + i});
  }
  const TileWorkspace<ScoreItem> workspace(scope, tensors);
  select_within(tensors, workspace.memory(), scope.stream());
}

Tensors select_global(Tensors scores, int64_t keep) {
  int64_t numel = 0;
  for (const Tensor& score : scores) numel += score.numel();
  check(0 <= keep && keep <= numel, "keep must lie in [0, ", numel, "], the size of the scores, not ", keep);
  return select_new(scores, {keep}, true);
}

}  // namespace supermask::cuda::op
