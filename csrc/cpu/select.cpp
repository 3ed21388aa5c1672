// select and select_global: masks of the largest |scores|.
#include <numeric>

#include "operators.h"
#include "selection.h"
#include "select_arguments.h"
#include "view.h"

namespace supermask::op {
namespace {

template <class Float>
class SelectWork final : public SelectionWork<Float> {
 public:
  SelectWork(const std::vector<View>& scores, const Tensors& masks) : scores_(scores) {
    for (const Tensor& mask : masks) masks_.push_back(mask.mutable_data_ptr<bool>());
  }

  const Float* scores(int tensor, int64_t begin, int64_t count, bool, Float* tile) override {
    return scores_[tensor].read(begin, count, tile);
  }
  bool* mask(int tensor) override { return masks_[tensor]; }

 private:
  const std::vector<View>& scores_;
  std::vector<bool*> masks_;
};

template <class Float>
void select_as(const std::vector<View>& scores, const Counts& keep, Hint* hints, const Tensors& masks) {
  SelectWork<Float> work(scores, masks);
  Selection<Float>(numels_of(scores), keep, hints).run(work);
}

void select_any(const Tensors& masks, const Tensors& scores, const Counts& keep, Hint* hints) {
  const std::vector<View> views = views_of(scores, "scores");
  // float64 holds the order of every other type, so one tensor of it decides for all.
  const bool wide = std::any_of(views.begin(), views.end(),
                                [](const View& view) { return view.dtype() == Dtype::float64; });
  wide ? select_as<double>(views, keep, hints, masks) : select_as<float>(views, keep, hints, masks);
}

}  // namespace

Tensors select(Tensors scores, Counts keep) {
  check_keep(scores, keep);
  const Tensors masks = new_masks(scores);
  select_any(masks, scores, keep, nullptr);
  return masks;
}

void select_into(Tensors masks, Tensors scores, Counts keep, Tensor cuts) {
  check_keep(scores, keep);
  check_masks_to_write(masks, scores);
  select_any(masks, scores, keep, hints_of(cuts, scores.size()));
}

Tensors select_global(Tensors scores, int64_t keep) {
  int64_t numel = 0;
  for (const Tensor& score : scores) numel += score.numel();
  check(0 <= keep && keep <= numel, "keep must lie in [0, ", numel, "], the size of the scores, not ", keep);
  const Tensors masks = new_masks(scores);
  select_any(masks, scores, {keep}, nullptr);
  return masks;
}

}  // namespace supermask::op
