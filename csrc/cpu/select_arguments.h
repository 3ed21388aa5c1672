// Arguments that the selecting operators share.
#pragma once

#include <vector>

#include "selection.h"
#include "tensors.h"
#include "view.h"

namespace supermask {

inline std::vector<int64_t> numels_of(const std::vector<View>& views) {
  std::vector<int64_t> numels;
  for (const View& view : views) numels.push_back(view.numel());
  return numels;
}

inline void check_total(const std::vector<Tensor>& scores, int64_t keep) {
  int64_t numel = 0;
  for (const Tensor& score : scores) numel += score.numel();
  check(0 <= keep && keep <= numel, "keep must lie in [0, ", numel, "], the size of the scores, not ", keep);
}

inline void check_keep(const std::vector<Tensor>& scores, const std::vector<int64_t>& keep) {
  check(scores.size() == keep.size(), scores.size(), " score tensors but ", keep.size(), " counts to keep");
  for (size_t i = 0; i < keep.size(); ++i)
    check(0 <= keep[i] && keep[i] <= scores[i].numel(), "keep must lie in [0, ", scores[i].numel(),
          "], the size of the scores, not ", keep[i]);
}

inline bool ranks_together(const std::vector<int64_t>& keep, size_t tensors) {
  return keep.size() == 1 && tensors != 1;
}

// One count per tensor, or one for all of them ranked together.
inline void check_keep_or_total(const std::vector<Tensor>& scores, const std::vector<int64_t>& keep) {
  keep.size() == 1 ? check_total(scores, keep[0]) : check_keep(scores, keep);
}

// The rows of `cuts`, one hint per segment.
inline Hint* hints_of(const Tensor& cuts, size_t segments) {
  check(cuts.is_cpu() && cuts.scalar_type() == ScalarType::Long && cuts.is_contiguous() && cuts.dim() == 2 &&
            cuts.size(0) == static_cast<int64_t>(segments) && cuts.size(1) == 2,
        "cuts must be a contiguous int64 tensor of shape (", segments, ", 2) on the CPU");
  static_assert(sizeof(Hint) == 2 * sizeof(int64_t));
  return reinterpret_cast<Hint*>(cuts.mutable_data_ptr());
}

}  // namespace supermask
