// Launches of the parts of a step; see step.cu.
#pragma once

#include <cuda_runtime.h>

#include <vector>

#include "supermask/items.h"

namespace supermask::cuda {

// `wide`: the arithmetic is in float64 instead of float32.
void straight_through(const std::vector<StraightItem>& tensors, bool wide, cudaStream_t stream);
void write_masked(const std::vector<MaskedItem>& tensors, bool wide, cudaStream_t stream);

void move_scores(const std::vector<MoveItem>& tensors, cudaStream_t stream);

}  // namespace supermask::cuda
