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

// The rows of `cuts`, one hint per segment.
inline Hint* hints_of(const Tensor& cuts, size_t segments) {
  check(cuts.is_cpu() && cuts.scalar_type() == ScalarType::Long && cuts.is_contiguous() && cuts.dim() == 2 &&
            cuts.size(0) == static_cast<int64_t>(segments) && cuts.size(1) == 2,
        "cuts must be a contiguous int64 tensor of shape (", segments, ", 2) on the CPU");
  static_assert(sizeof(Hint) == 2 * sizeof(int64_t));
  return reinterpret_cast<Hint*>(cuts.mutable_data_ptr());
}

}  // namespace supermask
