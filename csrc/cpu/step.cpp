// The search step: straight-through gradients, masked writes, and edge-popup or signed supermasks with SGD in one pass.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>

#include "floor.h"
#include "operators.h"
#include "selection.h"
#include "select_arguments.h"
#include "view.h"

namespace supermask::op {
namespace {

// Calls body(begin, count) for the tiles of [0, numel), over threads.
template <class Body>
void for_tiles(int64_t numel, Body body) {
  const int64_t tiles = (numel + kTile - 1) / kTile;
  torch::stable::parallel_for(0, tiles, 16, [&](int64_t from, int64_t to) {
    for (int64_t tile = from; tile < to; ++tile) body(tile * kTile, std::min(kTile, numel - tile * kTile));
  });
}

template <class Float>
void straight_through_as(const View& grad, const View& weight, const View& score, const View& out) {
  for_tiles(out.numel(), [&](int64_t begin, int64_t count) {
    alignas(64) Float g[kTile], w[kTile], s[kTile];
    kernels_for<Float>().straight_through(grad.read(begin, count, g), weight.read(begin, count, w),
                                          score.read(begin, count, s), count, out.data<Float>(begin));
  });
}

template <class Float>
void write_masked_as(const View& out, const View& weight, const bool* mask) {
  for_tiles(out.numel(), [&](int64_t begin, int64_t count) {
    alignas(64) Float w[kTile], effective[kTile];
    Float* place = out.data<Float>(begin);
    Float* target = place ? place : effective;
    kernels_for<Float>().masked_weights(weight.read(begin, count, w), mask + begin, count, target);
    if (!place) out.write(begin, count, target);
  });
}

// One tensor of a fused step; the velocity is null without momentum, the unit of its gradient where that is 1.
struct Layer {
  View out, weight, grad;
  float *score, *velocity;
  bool* mask;
  const float* unit;
};

// A layer is not divided by less: its square is still a float that is not denormal.
constexpr float kSmallest = 1e-18f;

enum class Search { edge_popup, signed_supermask };

class SgdStep final : public SelectionWork<float> {
 public:
  SgdStep(const std::vector<Layer>& layers, const Sgd& rule, Search search)
      : layers_(layers), rule_(rule), signed_(search == Search::signed_supermask) {}

  // Moves all scores ahead of the selection, which then finds them finite. The signs of a signed supermask's weights are
  // those of its scores: once these have moved, weights that a failed step has overwritten could not be put back.
  void move_signed() {
    std::atomic<bool> finite{true};
    for (const Layer& layer : layers_)
      for_tiles(layer.out.numel(), [&](int64_t begin, int64_t count) {
        move(kernels().signed_supermask_sgd, layer, begin, count);
        if (!kernels().all_finite(layer.score + begin, count)) finite = false;
      });
    check(finite, "scores are not finite");
  }

  const float* scores(int tensor, int64_t begin, int64_t count, bool first, float*) override {
    const Layer& layer = layers_[tensor];
    if (first && !signed_) move(kernels().edge_popup_sgd, layer, begin, count);
    return layer.score + begin;
  }
  bool* mask(int tensor) override { return layers_[tensor].mask; }

  void settle(int tensor, int64_t begin, int64_t count) override {
    const Layer& layer = layers_[tensor];
    const float* weight = layer.weight.data<float>(begin);
    alignas(64) float turned[kTile];
    if (signed_) {
      kernels().signed_weights(weight, layer.score + begin, count, turned);
      weight = turned;
    }
    if (float* place = layer.out.data<float>(begin))
      return kernels().refresh_masked(weight, layer.mask + begin, count, place);
    alignas(64) float effective[kTile];
    kernels().float32.masked_weights(weight, layer.mask + begin, count, effective);
    layer.out.write(begin, count, effective);
  }
  void keep(int tensor, int64_t position) override {
    const Layer& layer = layers_[tensor];
    const float weight = *layer.weight.data<float>(position);
    layer.out.write_one(position, masked_weight(signed_ ? signed_weight(weight, layer.score[position]) : weight, true));
  }

 private:
  void move(Kernels::MoveScores kernel, const Layer& layer, int64_t begin, int64_t count) const {
    alignas(64) float tile[kTile];
    const float* grad = layer.grad.read(begin, count, tile);
    if (layer.unit) {
      kernels().scale(grad, *layer.unit, count, tile);
      grad = tile;
    }
    kernel(rule_, grad, layer.weight.data<float>(begin), count, layer.score + begin,
           layer.velocity ? layer.velocity + begin : nullptr);
  }

  const std::vector<Layer>& layers_;
  const Sgd rule_;
  const bool signed_;
};

float* check_state(const Tensor& tensor, const char* what, const Tensor& score) {
  check(tensor.is_cpu() && tensor.scalar_type() == ScalarType::Float && tensor.is_contiguous(), what,
        " must be contiguous float32 tensors on the CPU");
  check_same_shape(tensor, what, score, "scores");
  return static_cast<float*>(tensor.data_ptr());
}

float* check_floats(const Tensor& tensor, const char* what, size_t count) {
  check(tensor.is_cpu() && tensor.scalar_type() == ScalarType::Float && tensor.is_contiguous() &&
            tensor.numel() == static_cast<int64_t>(count),
        what, " must be a contiguous float32 tensor on the CPU, of as many values as ", count);
  return static_cast<float*>(tensor.data_ptr());
}

// In any order, and the same for any number of threads.
double sum_of_squares(const View& values) {
  std::vector<double> sums((values.numel() + kTile - 1) / kTile);
  for_tiles(values.numel(), [&](int64_t begin, int64_t count) {
    alignas(64) float tile[kTile];
    sums[begin / kTile] = kernels().sum_of_squares(values.read(begin, count, tile), count);
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

void sgd_step_of(Search search, const Tensors& out, const Tensors& masks, const Tensors& scores,
                 const Tensors& velocities, const Tensors& grads, const Tensors& weights, const Counts& keep,
                 const Tensor& cuts, Sgd rule, const std::optional<Tensor>& rate, const std::optional<Tensor>& units) {
  check_keep_or_total(scores, keep);
  check_same_length(out.size(), "tensors to write", scores.size(), "scores");
  check_same_length(grads.size(), "grads", scores.size(), "scores");
  check_same_length(weights.size(), "weights", scores.size(), "scores");
  const bool moves = rule.momentum != 0;
  if (moves) check_same_length(velocities.size(), "velocities", scores.size(), "scores");
  check_masks_to_write(masks, scores);
  const float* unit = units ? check_floats(*units, "units", scores.size()) : nullptr;
  std::vector<Layer> layers;
  for (size_t i = 0; i < scores.size(); ++i) {
    check_same_shape(out[i], "out", scores[i], "scores");
    check_same_shape(grads[i], "grads", scores[i], "scores");
    check_state(weights[i], "weights", scores[i]);
    layers.push_back({View(out[i], "out"), View(weights[i], "weights"), View(grads[i], "grads"),
                      check_state(scores[i], "scores", scores[i]),
                      moves ? check_state(velocities[i], "velocities", scores[i]) : nullptr,
                      masks[i].mutable_data_ptr<bool>(), unit ? unit + i : nullptr});
  }
  if (rate) rule.negative_lr = -*check_floats(*rate, "rate", 1);
  std::vector<int64_t> numels;
  for (const Tensor& score : scores) numels.push_back(score.numel());
  SgdStep work(layers, rule, search);
  if (search == Search::signed_supermask) work.move_signed();
  Selection<float>(numels, keep, hints_of(cuts, keep.size())).run(work);
  if (ranks_together(keep, scores.size())) keep_one_each(work, numels, keep[0], Ranking::magnitude);
}

Sgd sgd_of(double lr, double momentum, double dampening, double weight_decay, bool nesterov) {
  return {static_cast<float>(-lr), static_cast<float>(momentum), static_cast<float>(1 - dampening),
          static_cast<float>(weight_decay), nesterov};
}

}  // namespace

Tensors straight_through(Tensors grads, Tensors weights, Tensors scores) {
  check_same_length(grads.size(), "grads", scores.size(), "scores");
  check_same_length(weights.size(), "weights", scores.size(), "scores");
  Tensors results;
  for (size_t i = 0; i < scores.size(); ++i) {
    check_same_shape(grads[i], "grads", scores[i], "scores");
    check_same_shape(weights[i], "weights", scores[i], "scores");
    const View grad(grads[i], "grads"), weight(weights[i], "weights"), score(scores[i], "scores");
    const bool wide = score.dtype() == Dtype::float64;
    check((wide || score.dtype() == Dtype::float32) && weight.dtype() == score.dtype(),
          "scores and weights must both be float32 or both be float64");
    results.push_back(torch::stable::empty(scores[i].sizes(), scores[i].scalar_type()));
    const View out(results.back(), "out");
    wide ? straight_through_as<double>(grad, weight, score, out)
         : straight_through_as<float>(grad, weight, score, out);
  }
  return results;
}

void write_masked(Tensors out, Tensors weights, Tensors masks) {
  check_same_length(weights.size(), "weights", out.size(), "tensors to write");
  check_same_length(masks.size(), "masks", out.size(), "tensors to write");
  for (size_t i = 0; i < out.size(); ++i) {
    check_same_shape(weights[i], "weights", out[i], "out");
    check_same_shape(masks[i], "masks", out[i], "out");
    const View target(out[i], "out"), weight(weights[i], "weights");
    const Tensor mask = check_mask(masks[i]);
    const bool* bits = mask.const_data_ptr<bool>();
    weight.dtype() == Dtype::float64 ? write_masked_as<double>(target, weight, bits)
                                     : write_masked_as<float>(target, weight, bits);
  }
}

void clear_where(Tensor values, Tensor where) {
  check(values.is_cpu() && values.scalar_type() == ScalarType::Float && values.is_contiguous(),
        "values must be a contiguous float32 tensor on the CPU");
  check(where.is_cpu() && where.scalar_type() == ScalarType::Bool && where.is_contiguous() &&
            where.numel() == values.numel(),
        "where must be a contiguous bool tensor of ", values.numel(), " values on the CPU");
  float* const targets = static_cast<float*>(values.mutable_data_ptr());
  const bool* const flags = where.const_data_ptr<bool>();
  for_tiles(values.numel(), [&](int64_t begin, int64_t count) {
    kernels().clear_where(flags + begin, count, targets + begin);
  });
}

// `sizes` of a layer: of its first scores, of its weights, the running mean of squared gradients, the sum of its
// coefficients; see supermask/search/relative_steps.py.
Tensor units_of_layers(Tensors grads, Tensors sizes, double decay) {
  check_same_length(sizes.size(), "sizes", grads.size(), "grads");
  const Tensor units = torch::stable::empty({static_cast<int64_t>(grads.size())}, ScalarType::Float);
  float* const unit = units.mutable_data_ptr<float>();
  const float kept = static_cast<float>(decay), gain = static_cast<float>(1 - decay);
  for (size_t i = 0; i < grads.size(); ++i) {
    float* const known = check_floats(sizes[i], "sizes", 4);
    const View grad(grads[i], "grads", Order::of_memory);
    const float norm = static_cast<float>(std::sqrt(sum_of_squares(grad))) * known[1];
    known[2] = known[2] * kept + norm * norm / std::max<int64_t>(grad.numel(), 1) * gain;
    known[3] = known[3] * kept + gain;
    const float root = std::sqrt(known[2] / known[3]);
    unit[i] = known[0] / (root < kSmallest ? kSmallest : root);
  }
  return units;
}

void edge_popup_sgd(Tensors out, Tensors masks, Tensors scores, Tensors velocities, Tensors grads,
                    Tensors weights, Counts keep, Tensor cuts, double lr, double momentum, double dampening,
                    double weight_decay, bool nesterov, std::optional<Tensor> rate, std::optional<Tensor> units) {
  sgd_step_of(Search::edge_popup, out, masks, scores, velocities, grads, weights, keep, cuts,
              sgd_of(lr, momentum, dampening, weight_decay, nesterov), rate, units);
}

void signed_supermask_sgd(Tensors out, Tensors masks, Tensors scores, Tensors velocities, Tensors grads,
                          Tensors weights, Counts keep, Tensor cuts, double lr, double momentum, double dampening,
                          double weight_decay, bool nesterov, std::optional<Tensor> rate, std::optional<Tensor> units) {
  sgd_step_of(Search::signed_supermask, out, masks, scores, velocities, grads, weights, keep, cuts,
              sgd_of(lr, momentum, dampening, weight_decay, nesterov), rate, units);
}

}  // namespace supermask::op
