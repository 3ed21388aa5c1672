// Tensors of the stable ABI as the kernels see them, and the checks that keep a wrong argument from
// reaching a kernel.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "supermask/dtype.h"

namespace supermask {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Raise RuntimeError in Python, with the parts joined to one message.
template <class... Parts>
void check(bool holds, const Parts&... parts) {
  if (holds) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline std::optional<Dtype> float_dtype(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Dtype::float32;
    case ScalarType::Double: return Dtype::float64;
    case ScalarType::BFloat16: return Dtype::bfloat16;
    case ScalarType::Half: return Dtype::float16;
    default: return std::nullopt;
  }
}

// The float format of `tensor`, which error messages call `what`.
inline Dtype check_float(const Tensor& tensor, const char* what) {
  check(tensor.is_cpu(), what, " must be on the CPU, like the other arguments");
  const std::optional<Dtype> dtype = float_dtype(tensor);
  check(dtype.has_value(), what, " must be a float32, float64, bfloat16 or float16 tensor");
  return *dtype;
}

inline std::string shape_of(const Tensor& tensor) {
  std::ostringstream text;
  const char* separator = "(";
  for (const int64_t size : tensor.sizes()) {
    text << separator << size;
    separator = ", ";
  }
  return text.str() + (tensor.dim() ? ")" : "()");
}

inline void check_keep(const std::vector<Tensor>& scores, const std::vector<int64_t>& keep) {
  check(scores.size() == keep.size(), scores.size(), " score tensors but ", keep.size(), " counts to keep");
  for (size_t i = 0; i < keep.size(); ++i)
    check(0 <= keep[i] && keep[i] <= scores[i].numel(), "keep must lie in [0, ", scores[i].numel(),
          "], the size of the scores, not ", keep[i]);
}

inline void check_total(const std::vector<Tensor>& scores, int64_t keep) {
  int64_t numel = 0;
  for (const Tensor& score : scores) numel += score.numel();
  check(0 <= keep && keep <= numel, "keep must lie in [0, ", numel, "], the size of the scores, not ", keep);
}

inline bool ranks_together(const std::vector<int64_t>& keep, size_t tensors) {
  return keep.size() == 1 && tensors != 1;
}

// One count for each tensor, or a single one for all of them ranked together; whether it is that.
inline bool check_keep_or_total(const std::vector<Tensor>& scores, const std::vector<int64_t>& keep) {
  const bool together = ranks_together(keep, scores.size());
  together ? check_total(scores, keep[0]) : check_keep(scores, keep);
  return together;
}

// A ranking over tensors in which each of them keeps its first.
inline void check_floor(int64_t keep, int64_t tensors) {
  check(keep >= tensors, "keep must be at least one for each of the ", tensors, " score tensors, not ", keep);
}

inline void check_same_shape(const Tensor& a, const char* what_a, const Tensor& b, const char* what_b) {
  check(a.sizes() == b.sizes(), what_a, " of shape ", shape_of(a), " do not fit ", what_b, " of shape ",
        shape_of(b));
}

inline void check_same_length(size_t a, const char* what_a, size_t b, const char* what_b) {
  check(a == b, a, " ", what_a, " but ", b, " ", what_b);
}

// The values of a packed layer's bias, or null.
inline const float* check_bias(const std::optional<Tensor>& bias, int64_t outputs) {
  if (!bias) return nullptr;
  check(bias->is_cpu() && bias->scalar_type() == ScalarType::Float && bias->is_contiguous() &&
            bias->numel() == outputs,
        "bias must be a contiguous float32 tensor of ", outputs, " values on the CPU");
  return static_cast<const float*>(bias->data_ptr());
}

// Whether four dimensions lie in memory with the second one innermost and no gaps.
inline bool is_channels_last(const Tensor& tensor) {
  if (tensor.dim() != 4) return false;
  int64_t expected = 1;
  for (const int i : {1, 3, 2, 0}) {
    if (tensor.size(i) != 1 && tensor.stride(i) != expected) return false;
    expected *= tensor.size(i);
  }
  return true;
}

inline Tensor check_mask(const Tensor& mask) {
  check(mask.is_cpu(), "masks must be on the CPU, like the other arguments");
  check(mask.scalar_type() == ScalarType::Bool, "masks must be bool tensors");
  return mask.is_contiguous() ? mask : torch::stable::contiguous(mask);
}

inline std::vector<Tensor> new_masks(const std::vector<Tensor>& like) {
  std::vector<Tensor> masks;
  masks.reserve(like.size());
  for (const Tensor& tensor : like) masks.push_back(torch::stable::empty(tensor.sizes(), ScalarType::Bool));
  return masks;
}

inline void check_masks_to_write(const std::vector<Tensor>& masks, const std::vector<Tensor>& scores) {
  check_same_length(masks.size(), "masks", scores.size(), "scores");
  for (size_t i = 0; i < masks.size(); ++i) {
    check(masks[i].is_cpu() && masks[i].scalar_type() == ScalarType::Bool && masks[i].is_contiguous(),
          "masks must be contiguous bool tensors on the CPU");
    check_same_shape(masks[i], "masks", scores[i], "scores");
  }
}

}  // namespace supermask
