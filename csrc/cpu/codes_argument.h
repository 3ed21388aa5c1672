// Tensors of codes (supermask/codes.h) as arguments of operators, on any device.
#pragma once

#include <limits>

#include "supermask/codes.h"
#include "tensors.h"

namespace supermask {

// The format of a matrix product with codes, or of what is decoded from them.
inline Dtype check_decoded(ScalarType type, const char* what) {
  switch (type) {
    case ScalarType::Float: return Dtype::float32;
    case ScalarType::BFloat16: return Dtype::bfloat16;
    case ScalarType::Half: return Dtype::float16;
    default: check(false, what, " must be of float32, bfloat16 or float16");
  }
  return Dtype::float32;
}

inline CodedMatrix check_codes(const Tensor& codes, int64_t outputs, int64_t inputs) {
  constexpr int64_t kMost = std::numeric_limits<int>::max() - kTileInputs;
  check(outputs >= 0 && outputs <= kMost, "outputs must lie in [0, ", kMost, "], but is ", outputs);
  check(inputs >= 0 && inputs <= kMost, "inputs must lie in [0, ", kMost, "], but is ", inputs);
  const int64_t output_tiles = (outputs + kTileOutputs - 1) / kTileOutputs;
  const int64_t input_tiles = (inputs + kTileInputs - 1) / kTileInputs;
  check(codes.scalar_type() == ScalarType::Int && codes.is_contiguous() && codes.dim() == 4 &&
            codes.size(0) == output_tiles && codes.size(1) == input_tiles && codes.size(2) == kLanes &&
            codes.size(3) == 4,
        "codes of ", outputs, " outputs and ", inputs, " inputs must be a contiguous int32 tensor of shape (",
        output_tiles, ", ", input_tiles, ", 32, 4), not of shape ", shape_of(codes));
  check(output_tiles * input_tiles < (int64_t{1} << 32) / kLanes, "codes must be of fewer than 2^38 weights");
  check(reinterpret_cast<uintptr_t>(codes.const_data_ptr()) % 16 == 0,
        "codes must start at a multiple of 16 bytes; clone the tensor");
  return coded_matrix(codes.const_data_ptr(), static_cast<int>(outputs), static_cast<int>(inputs));
}

}  // namespace supermask
