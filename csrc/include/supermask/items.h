// Tensors that are worked on together, and what happens to one element of each. The first two are read and
// written element by element; selection works on the others (see segment.h), whose indices have 32 bits.
#pragma once

#include <cstdint>

#include "supermask/array.h"
#include "supermask/step.h"

namespace supermask {

// dL/ds of straight-through; `out` is contiguous, of type Float like weight and score.
struct StraightItem {
  Array grad, weight, score;
  void* out;
  int64_t numel;

  template <class Float>
  SUPERMASK_MEMBER Float read(int64_t index) const {
    const Float moved = load<Float>(grad, index), frozen = load<Float>(weight, index);
    return straight_through(moved, frozen, load<Float>(score, index));
  }
  template <class Float>
  SUPERMASK_MEMBER void put(int64_t index, Float value) const {
    static_cast<Float*>(out)[index] = value;
  }
};

// W ⊙ M.
struct MaskedItem {
  Array out, weight;
  const bool* mask;
  int64_t numel;

  template <class Float>
  SUPERMASK_MEMBER Float read(int64_t index) const {
    return masked_weight(load<Float>(weight, index), mask[index]);
  }
  template <class Float>
  SUPERMASK_MEMBER void put(int64_t index, Float value) const {
    store(out, index, value);
  }
};

struct NoRule {};

SUPERMASK_HD NoRule current(NoRule rule) { return rule; }

// Scores with their mask.
struct ScoreItem {
  Array scores;
  bool* mask;

  using Inputs = float;

  SUPERMASK_MEMBER Inputs read(int64_t index) const { return score(index); }
  SUPERMASK_MEMBER float move(const NoRule&, Inputs score, int64_t) const { return score; }
  SUPERMASK_MEMBER void put(Inputs, int64_t index, bool kept) const { mask[index] = kept; }
  SUPERMASK_MEMBER float score(int64_t index) const { return load<float>(scores, static_cast<uint32_t>(index)); }
  SUPERMASK_MEMBER void put(int64_t index, bool kept) const { mask[index] = kept; }
};

// A tensor of a fused step; the velocity is null without momentum.
struct StepItem {
  Array out, grad;
  const float* weight;
  float *scores, *velocity;
  bool* mask;
  bool alike = false;  // out and grad have one layout, as gradients of autograd do

  struct Inputs {
    float grad, weight, score, velocity;
    int64_t place;  // offset in out
  };

  SUPERMASK_MEMBER Inputs read(int64_t index) const {
    const uint32_t at = static_cast<uint32_t>(index);
    const int64_t place = offset_of(out.layout, at);
    return {load_at<float>(grad, alike ? place : offset_of(grad.layout, at)), weight[at], scores[at],
            velocity ? velocity[at] : 0.0f, place};
  }

  // An option that is off skips its operation, as torch does: even adding 0 can change the sign of a zero.
  SUPERMASK_MEMBER float move(const Sgd& rule, Inputs inputs, int64_t index) const {
    const float gradient = straight_through(inputs.grad, inputs.weight, inputs.score);
    if (!velocity) {
      rule.weight_decay != 0 ? sgd_step<false, false, true>(rule, gradient, inputs.score, inputs.velocity)
                             : sgd_step<false, false, false>(rule, gradient, inputs.score, inputs.velocity);
    } else if (rule.nesterov) {
      rule.weight_decay != 0 ? sgd_step<true, true, true>(rule, gradient, inputs.score, inputs.velocity)
                             : sgd_step<true, true, false>(rule, gradient, inputs.score, inputs.velocity);
    } else {
      rule.weight_decay != 0 ? sgd_step<true, false, true>(rule, gradient, inputs.score, inputs.velocity)
                             : sgd_step<true, false, false>(rule, gradient, inputs.score, inputs.velocity);
    }
    scores[index] = inputs.score;
    if (velocity) velocity[index] = inputs.velocity;
    return inputs.score;
  }

  SUPERMASK_MEMBER void put(const Inputs& inputs, int64_t index, bool kept) const {
    mask[index] = kept;
    store_at(out, inputs.place, masked_weight(inputs.weight, kept));
  }

  SUPERMASK_MEMBER float score(int64_t index) const { return scores[index]; }

  SUPERMASK_MEMBER void put(int64_t index, bool kept) const {
    mask[index] = kept;
    store(out, index, masked_weight(weight[index], kept));
  }
};

// The first part of a StepItem alone: its scores move.
struct MoveItem {
  StepItem step;
  Sgd rule;
  int64_t numel;

  template <class Float>
  SUPERMASK_MEMBER StepItem::Inputs read(int64_t index) const {
    return step.read(index);
  }
  SUPERMASK_MEMBER void put(int64_t index, const StepItem::Inputs& inputs) const {
    step.move(current(rule), inputs, index);
  }
};

}  // namespace supermask
