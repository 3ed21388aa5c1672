// The operators that register.cpp hands to the dispatcher; schemas are in supermask/operators.py, meanings in ops.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensors.h"

namespace supermask::cuda::op {

using Tensors = std::vector<Tensor>;
using Counts = std::vector<int64_t>;

void fill_random(Tensor out, int64_t key, int64_t start, std::string scheme, double scale);

Tensor pack_mask(Tensor mask);
Tensor unpack_mask(Tensor packed, int64_t numel);

}  // namespace supermask::cuda::op
