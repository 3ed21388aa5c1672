// One weight's share of a search step. The order and the rounding of every operation are those of the torch
// expressions in ops/references.py, so that the fused step leaves the same bits.
#pragma once

#include "supermask/macros.h"

namespace supermask {

// a·b + c as torch's own kernels compute it: fused where the instruction set has it.
SUPERMASK_HD float multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

template <class Float>
SUPERMASK_HD Float sign_of(Float value) {
  return static_cast<Float>(value > 0) - static_cast<Float>(value < 0);
}

// dL/ds = sign(s) · W · dL/dW_eff: the straight-through rule of edge-popup.
template <class Float>
SUPERMASK_HD Float straight_through(Float grad, Float weight, Float score) {
  return grad * weight * sign_of(score);
}

// W as a signed supermask turns it: the negative of it where the score is.
SUPERMASK_HD float signed_weight(float weight, float score) { return score < 0 ? -weight : weight; }

// W ⊙ M for one weight, `kept` being 0 or 1. Adding zero makes +0 of the -0 that a negative weight times 0 is.
template <class Float>
SUPERMASK_HD Float masked_weight(Float weight, int kept) {
  return weight * static_cast<Float>(kept) + Float(0);
}

// The options of torch.optim.SGD, each rounded to float32 as torch does it.
struct Sgd {
  float negative_lr;
  float momentum;
  float gain;  // 1 - dampening
  float weight_decay;
  bool nesterov;
  const float* lr = nullptr;  // where the rate is to be read when the step runs, if anywhere
};

// The options of a step that begins now.
SUPERMASK_HD Sgd current(Sgd rule) {
  if (rule.lr) rule.negative_lr = -*rule.lr;
  return rule;
}

// Moves `score`, and `velocity` if kMomentum, by the gradient of the score.
template <bool kMomentum, bool kNesterov, bool kDecay>
SUPERMASK_HD void sgd_step(const Sgd& rule, float gradient, float& score, float& velocity) {
  if (kDecay) gradient = multiply_add(score, rule.weight_decay, gradient);
  if (kMomentum) {
    velocity = multiply_add(gradient, rule.gain, velocity * rule.momentum);
    gradient = kNesterov ? multiply_add(velocity, rule.momentum, gradient) : velocity;
  }
  score = multiply_add(gradient, rule.negative_lr, score);
}

}  // namespace supermask
