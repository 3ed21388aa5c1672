// Hands the CUDA kernels to PyTorch's dispatcher, under the schemas that supermask/operators.py declares. Nothing
// here touches a device, so the library loads on a machine without one.
#include "operators.h"

STABLE_TORCH_LIBRARY_IMPL(supermask, CUDA, m) {
  namespace op = supermask::cuda::op;
  m.impl("fill_random", TORCH_BOX(&op::fill_random));
  m.impl("pack_mask", TORCH_BOX(&op::pack_mask));
  m.impl("unpack_mask", TORCH_BOX(&op::unpack_mask));
  m.impl("linear_from_codes", TORCH_BOX(&op::linear_from_codes));
  m.impl("decode_codes", TORCH_BOX(&op::decode_codes));
}
