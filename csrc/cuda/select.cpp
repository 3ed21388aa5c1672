// Masks of the first scores in rank: select, select_into, select_global, rank_into and select_n_of_m.
//
// With `cuts` nothing waits for the device, so that a CUDA graph can hold the call: that a score was not
// finite is written into `cuts`. Without, the call waits to raise the error itself, unless a graph is being
// captured.
#include "operators.h"
#include "ranked.h"
#include "tile_memory.h"

namespace supermask::cuda::op {
namespace {

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

Tensors select_new(const Tensors& scores, const Counts& keep) {
  const Scope scope(scores[0], "scores");
  Arrays arrays(scope);
  const std::vector<Array> inputs = arrays_of(arrays, scores);
  const Tensors masks = new_masks(scope, scores);
  rank_tensors(scope, inputs, scores, masks, keep, Ranking::magnitude, nullptr);
  return masks;
}

Ranking ranking_of(bool raw) { return raw ? Ranking::raw : Ranking::magnitude; }

// A score that is not finite marks its tensor's hint, where there are hints, and `infinite`, where there is that.
void n_of_m(const Scope& scope, const Tensors& masks, const Tensors& scores, int64_t n, int64_t m, Ranking ranking,
            Hint* hints, unsigned* infinite) {
  check(1 <= n && n <= m && m <= kLargestGroup, "n:m needs 1 <= n <= m <= ", kLargestGroup, ", not ", n, ":",
        m);
  Arrays arrays(scope);
  const std::vector<Array> inputs = arrays_of(arrays, scores);
  std::vector<GroupedItem> items;
  for (size_t i = 0; i < scores.size(); ++i) {
    const auto shape = scores[i].sizes();
    check(shape.size() >= 2, "scores need an input dimension, the second, not shape ", shape_of(scores[i]));
    bool* const mask = check_mask_to_write(scope, masks[i], scores[i]);
    if (scores[i].numel() == 0) continue;
    items.push_back({inputs[i], mask, shape[0], shape[1], scores[i].numel() / (shape[0] * shape[1]),
                     hints ? hints + i : nullptr});
  }
  select_groups(items, any_wide(inputs), n, m, ranking, infinite, scope.stream());
}

}  // namespace

Tensors select(Tensors scores, Counts keep) {
  check_keep(scores, keep);
  return select_new(scores, keep);
}

Tensors select_global(Tensors scores, int64_t keep) {
  check_total(scores, keep);
  return select_new(scores, {keep});
}

void select_into(Tensors masks, Tensors scores, Counts keep, Tensor cuts) {
  check_keep(scores, keep);
  check_same_length(masks.size(), "masks", scores.size(), "scores");
  const Scope scope(cuts, "cuts");
  Arrays arrays(scope);
  const std::vector<Array> inputs = arrays_of(arrays, scores);
  Hint* hints = hints_of(scope, cuts, scores.size());
  // Hints are of float32 keys.
  if (any_wide(inputs)) return rank_tensors(scope, inputs, scores, masks, keep, Ranking::magnitude, hints);
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

// The hints are not used, but say what was not finite.
void rank_into(Tensors masks, Tensors scores, Counts keep, Tensor cuts, bool raw, bool floor) {
  const Scope scope(cuts, "cuts");
  Arrays arrays(scope);
  Hint* hints = hints_of(scope, cuts, keep.size());
  rank_tensors(scope, arrays_of(arrays, scores), scores, masks, keep, ranking_of(raw), hints, floor);
}

Tensors select_n_of_m(Tensors scores, int64_t n, int64_t m, bool raw) {
  const Scope scope(scores[0], "scores");
  const Tensors masks = new_masks(scope, scores);
  const Tensor flag = scope.empty({1}, ScalarType::Int);
  unsigned* infinite = static_cast<unsigned*>(flag.data_ptr());
  n_of_m(scope, masks, scores, n, m, ranking_of(raw), nullptr, infinite);
  if (!capturing(scope)) check(!is_set(infinite, scope.stream()), "scores are not finite");
  return masks;
}

void select_n_of_m_into(Tensors masks, Tensors scores, int64_t n, int64_t m, bool raw, Tensor cuts) {
  check_same_length(masks.size(), "masks", scores.size(), "scores");
  const Scope scope(cuts, "cuts");
  n_of_m(scope, masks, scores, n, m, ranking_of(raw), hints_of(scope, cuts, scores.size()), nullptr);
}

}  // namespace supermask::cuda::op
