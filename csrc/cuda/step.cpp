// The search step: straight-through gradients, masked writes, and edge-popup with SGD in one pass.
#include "step.h"

#include "arguments.h"
#include "operators.h"
#include "ranked.h"
#include "tile_memory.h"

namespace supermask::cuda::op {
namespace {

float* check_state(const Scope& scope, const Tensor& tensor, const char* what, const Tensor& score) {
  scope.check_here(tensor, what);
  check(tensor.scalar_type() == ScalarType::Float && tensor.is_contiguous(), what,
        " must be contiguous float32 tensors");
  check_same_shape(tensor, what, score, "scores");
  return static_cast<float*>(tensor.data_ptr());
}

const float* check_rate(const Scope& scope, const Tensor& rate) {
  scope.check_here(rate, "rate");
  check(rate.scalar_type() == ScalarType::Float && rate.numel() == 1,
        "rate must be a float32 tensor of one value");
  return static_cast<const float*>(rate.data_ptr());
}

// A step with one cut over all tensors: its parts one after the other.
void step_together(const Scope& scope, const std::vector<StepItem>& items, const Sgd& rule,
                   const Tensors& scores, const Tensors& masks, const Counts& keep, Hint* hint) {
  std::vector<MoveItem> moved;
  std::vector<Array> arrays;
  std::vector<MaskedItem> written;
  for (size_t i = 0; i < items.size(); ++i) {
    const StepItem& item = items[i];
    const int64_t numel = scores[i].numel();
    moved.push_back({item, rule, numel});
    arrays.push_back(contiguous_array(item.scores, Dtype::float32, numel));
    const Array weight = contiguous_array(const_cast<float*>(item.weight), Dtype::float32, numel);
    written.push_back({item.out, weight, item.mask, numel});
  }
  move_scores(moved, scope.stream());
  rank_tensors(scope, arrays, scores, masks, keep, Ranking::magnitude, hint, /*floor=*/true);
  cuda::write_masked(written, false, scope.stream());
}

}  // namespace

Tensors straight_through(Tensors grads, Tensors weights, Tensors scores) {
  check_same_length(grads.size(), "grads", scores.size(), "scores");
  check_same_length(weights.size(), "weights", scores.size(), "scores");
  const Scope scope(scores[0], "scores");
  Arrays arrays(scope);
  std::vector<StraightItem> items[2];  // in float32 and in float64
  Tensors results;
  for (size_t i = 0; i < scores.size(); ++i) {
    check_same_shape(grads[i], "grads", scores[i], "scores");
    check_same_shape(weights[i], "weights", scores[i], "scores");
    const Array grad = arrays.input(grads[i], "grads"), weight = arrays.input(weights[i], "weights"),
                score = arrays.input(scores[i], "scores");
    const bool wide = score.dtype == Dtype::float64;
    check((wide || score.dtype == Dtype::float32) && weight.dtype == score.dtype,
          "scores and weights must both be float32 or both be float64");
    results.push_back(scope.empty(scores[i].sizes(), scores[i].scalar_type()));
    items[wide].push_back({grad, weight, score, results.back().data_ptr(), scores[i].numel()});
  }
  for (const bool wide : {false, true}) cuda::straight_through(items[wide], wide, scope.stream());
  return results;
}

void write_masked(Tensors out, Tensors weights, Tensors masks) {
  check_same_length(weights.size(), "weights", out.size(), "tensors to write");
  check_same_length(masks.size(), "masks", out.size(), "tensors to write");
  const Scope scope(out[0], "out");
  Arrays arrays(scope);
  std::vector<MaskedItem> items[2];
  Tensors bits;
  for (size_t i = 0; i < out.size(); ++i) {
    check_same_shape(weights[i], "weights", out[i], "out");
    check_same_shape(masks[i], "masks", out[i], "out");
    scope.check_here(masks[i], "masks");
    check(masks[i].scalar_type() == ScalarType::Bool, "masks must be bool tensors");
    bits.push_back(masks[i].is_contiguous() ? masks[i] : torch::stable::contiguous(masks[i]));
    const Array weight = arrays.input(weights[i], "weights");
    items[weight.dtype == Dtype::float64].push_back(
        {arrays.output(out[i], "out"), weight, bits.back().const_data_ptr<bool>(), out[i].numel()});
  }
  for (const bool wide : {false, true}) cuda::write_masked(items[wide], wide, scope.stream());
  arrays.finish();
}

// Options are parameters of the launch, so a CUDA graph repeats those of its capture; `rate` is read anew.
void edge_popup_sgd(Tensors out, Tensors masks, Tensors scores, Tensors velocities, Tensors grads,
                    Tensors weights, Counts keep, Tensor cuts, double lr, double momentum, double dampening,
                    double weight_decay, bool nesterov, std::optional<Tensor> rate, std::optional<Tensor> units) {
  check(!units, "gradients are given in units of their layers on CUDA");
  const bool together = check_keep_or_total(scores, keep);
  check_same_length(out.size(), "tensors to write", scores.size(), "scores");
  check_same_length(masks.size(), "masks", scores.size(), "scores");
  check_same_length(grads.size(), "grads", scores.size(), "scores");
  check_same_length(weights.size(), "weights", scores.size(), "scores");
  if (momentum != 0) check_same_length(velocities.size(), "velocities", scores.size(), "scores");
  const Scope scope(cuts, "cuts");
  Arrays arrays(scope);
  Hint* hints = hints_of(scope, cuts, keep.size());
  std::vector<StepItem> items;
  for (size_t i = 0; i < scores.size(); ++i) {
    check_same_shape(out[i], "out", scores[i], "scores");
    check_same_shape(grads[i], "grads", scores[i], "scores");
    check_rankable(scores[i].numel());
    items.push_back({arrays.output(out[i], "out"), arrays.input(grads[i], "grads"),
                     check_state(scope, weights[i], "weights", scores[i]),
                     check_state(scope, scores[i], "scores", scores[i]),
                     momentum != 0 ? check_state(scope, velocities[i], "velocities", scores[i]) : nullptr,
                     check_mask_to_write(scope, masks[i], scores[i])});
    items.back().alike = items.back().out.layout == items.back().grad.layout;
  }
  const Sgd rule = {static_cast<float>(-lr), static_cast<float>(momentum), static_cast<float>(1 - dampening),
                    static_cast<float>(weight_decay), nesterov, rate ? check_rate(scope, *rate) : nullptr};
  if (together) {
    step_together(scope, items, rule, scores, masks, keep, hints);
  } else {
    std::vector<Selected<StepItem>> tensors;
    for (size_t i = 0; i < items.size(); ++i)
      tensors.push_back({items[i], {keep[i], scores[i].numel(), 0}, hints + i});
    const TileWorkspace<StepItem> workspace(scope, tensors);
    step_within(tensors, rule, workspace.memory(), scope.stream());
  }
  arrays.finish();
}

}  // namespace supermask::cuda::op
