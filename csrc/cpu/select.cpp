// Masks of the first scores in rank: select, select_global, rank_into and select_n_of_m.
#include <atomic>

#include "floor.h"
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
void select_as(const std::vector<View>& scores, const Counts& keep, Hint* hints, Ranking ranking,
               const Tensors& masks, bool floor) {
  SelectWork<Float> work(scores, masks);
  Selection<Float>(numels_of(scores), keep, hints, ranking).run(work);
  if (floor && ranks_together(keep, scores.size())) keep_one_each(work, numels_of(scores), keep[0], ranking);
}

void select_any(const Tensors& masks, const Tensors& scores, const Counts& keep, Hint* hints,
                Ranking ranking = Ranking::magnitude, bool floor = false) {
  const std::vector<View> views = views_of(scores, "scores");
  // float64 holds the order of every other type, so one tensor of it decides for all.
  const bool wide = std::any_of(views.begin(), views.end(),
                                [](const View& view) { return view.dtype() == Dtype::float64; });
  wide ? select_as<double>(views, keep, hints, ranking, masks, floor)
       : select_as<float>(views, keep, hints, ranking, masks, floor);
}

Ranking ranking_of(bool raw) { return raw ? Ranking::raw : Ranking::magnitude; }

// N:M over one tensor, as a matrix of `outputs` rows with `inputs` x `inner` scores each. Groups that are all
// whole follow each other in memory from one row to the next, and count as one row.
template <class Float>
bool n_of_m_as(const View& scores, int64_t outputs, int64_t inputs, int64_t inner, int64_t n, int64_t m,
               Ranking ranking, bool* mask) {
  if (inputs % m == 0) {
    inputs *= outputs;
    outputs = 1;
  }
  const int64_t whole = inputs / m, rest = inputs % m, slab = m * inner;
  const int64_t at_once = std::max<int64_t>(1, 8 * kTile / slab);  // what a kernel sets up pays for several tiles
  const int64_t parts = std::max<int64_t>(1, (whole + at_once - 1) / at_once);
  const RankKernels<Float>& table = rank_kernels<Float>(ranking);
  std::atomic<bool> finite = true;
  torch::stable::parallel_for(0, outputs * parts, 2, [&](int64_t from, int64_t to) {
    std::vector<Float> tile(std::max(at_once * slab, rest * inner));
    const auto run = [&](int64_t begin, int64_t slabs, int64_t rows) {
      const Float* stretch = scores.read(begin, slabs * rows * inner, tile.data());
      if (!table.n_of_m(stretch, slabs, rows, inner, kept_of_group(rows, n, m), mask + begin)) finite = false;
    };
    for (int64_t i = from; i < to; ++i) {
      const int64_t row = i / parts * inputs * inner, first = i % parts * at_once;
      if (whole) run(row + first * slab, std::min(at_once, whole - first), m);
      if (rest && i % parts == parts - 1) run(row + whole * slab, 1, rest);
    }
  });
  return finite;
}

void n_of_m(const Tensors& masks, const Tensors& scores, int64_t n, int64_t m, Ranking ranking) {
  static_assert(kLargestGroup <= kTile);
  check(1 <= n && n <= m && m <= kLargestGroup, "n:m needs 1 <= n <= m <= ", kLargestGroup, ", not ", n, ":",
        m);
  for (size_t i = 0; i < scores.size(); ++i) {
    const auto shape = scores[i].sizes();
    check(shape.size() >= 2, "scores need an input dimension, the second, not shape ", shape_of(scores[i]));
    const View view(scores[i], "scores");
    if (view.numel() == 0) continue;
    const int64_t inner = view.numel() / (shape[0] * shape[1]);
    bool* mask = masks[i].mutable_data_ptr<bool>();
    const bool finite =
        view.dtype() == Dtype::float64
            ? n_of_m_as<double>(view, shape[0], shape[1], inner, n, m, ranking, mask)
            : n_of_m_as<float>(view, shape[0], shape[1], inner, n, m, ranking, mask);
    check(finite, "scores are not finite");
  }
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
  check_total(scores, keep);
  const Tensors masks = new_masks(scores);
  select_any(masks, scores, {keep}, nullptr);
  return masks;
}

void rank_into(Tensors masks, Tensors scores, Counts keep, Tensor cuts, bool raw, bool floor) {
  check_keep_or_total(scores, keep);
  check_masks_to_write(masks, scores);
  select_any(masks, scores, keep, hints_of(cuts, keep.size()), ranking_of(raw), floor);
}

Tensors select_n_of_m(Tensors scores, int64_t n, int64_t m, bool raw) {
  const Tensors masks = new_masks(scores);
  n_of_m(masks, scores, n, m, ranking_of(raw));
  return masks;
}

// Nothing is written into `cuts`: a score that is not finite raises the error here and now.
void select_n_of_m_into(Tensors masks, Tensors scores, int64_t n, int64_t m, bool raw, Tensor cuts) {
  check_masks_to_write(masks, scores);
  hints_of(cuts, scores.size());
  n_of_m(masks, scores, n, m, ranking_of(raw));
}

}  // namespace supermask::op
