// Hands the CUDA kernels to PyTorch's dispatcher, under the schemas that supermask/ops/library.py declares.
// Nothing here touches a device, so the library loads on a machine without one.
#include "operators.h"

STABLE_TORCH_LIBRARY_IMPL(supermask, CUDA, m) {
  namespace op = supermask::cuda::op;
  m.impl("fill_philox", TORCH_BOX(&op::fill_philox));
  m.impl("fill_random", TORCH_BOX(&op::fill_random));
  m.impl("select", TORCH_BOX(&op::select));
  m.impl("select_into", TORCH_BOX(&op::select_into));
  m.impl("select_global", TORCH_BOX(&op::select_global));
  m.impl("rank_into", TORCH_BOX(&op::rank_into));
  m.impl("select_n_of_m", TORCH_BOX(&op::select_n_of_m));
  m.impl("select_n_of_m_into", TORCH_BOX(&op::select_n_of_m_into));
  m.impl("straight_through", TORCH_BOX(&op::straight_through));
  m.impl("write_masked", TORCH_BOX(&op::write_masked));
  m.impl("edge_popup_sgd", TORCH_BOX(&op::edge_popup_sgd));
  m.impl("pack_mask", TORCH_BOX(&op::pack_mask));
  m.impl("unpack_mask", TORCH_BOX(&op::unpack_mask));
  m.impl("linear_from_codes", TORCH_BOX(&op::linear_from_codes));
  m.impl("linear_from_codes_wgmma", TORCH_BOX(&op::linear_from_codes_wgmma));
  m.impl("decode_codes", TORCH_BOX(&op::decode_codes));
}
