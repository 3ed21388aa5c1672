// Selection without hints over tensors of the stable ABI, shared by the operators that select.
#pragma once

#include "arguments.h"
#include "selection.h"

namespace supermask::cuda {

// Whether a CUDA graph is being captured on the scope's stream, where nothing may wait.
bool capturing(const Scope& scope);

// float64 holds the order of every other type, so one tensor of it decides for all.
bool any_wide(const std::vector<Array>& arrays);

// Writes `masks`. With `floor`, every tensor of one ranking keeps its first at least. With hints, one for each
// count, a score that is not finite marks its segment's; without, this waits for the device and throws, unless
// a graph is being captured.
void rank_tensors(const Scope& scope, const std::vector<Array>& arrays, const std::vector<Tensor>& scores,
                  const std::vector<Tensor>& masks, const std::vector<int64_t>& keep, Ranking ranking,
                  Hint* hints, bool floor = false);

}  // namespace supermask::cuda
