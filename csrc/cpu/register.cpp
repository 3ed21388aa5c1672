// Hands the CPU kernels to PyTorch's dispatcher, under the schemas that supermask/ops/library.py declares.
#include "kernels.h"
#include "operators.h"

STABLE_TORCH_LIBRARY_IMPL(supermask, CPU, m) {
  namespace op = supermask::op;
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
  m.impl("clear_where", TORCH_BOX(&op::clear_where));
  m.impl("units_of_layers", TORCH_BOX(&op::units_of_layers));
  m.impl("edge_popup_sgd", TORCH_BOX(&op::edge_popup_sgd));
  m.impl("signed_supermask_sgd", TORCH_BOX(&op::signed_supermask_sgd));
  m.impl("conv_from_lists", TORCH_BOX(&op::conv_from_lists));
  m.impl("conv_from_values", TORCH_BOX(&op::conv_from_values));
  m.impl("sparse_conv", TORCH_BOX(&op::sparse_conv));
  m.impl("sparse_conv_input_gradient", TORCH_BOX(&op::sparse_conv_input_gradient));
  m.impl("conv_weight_gradient", TORCH_BOX(&op::conv_weight_gradient));
  m.impl("linear_from_triples", TORCH_BOX(&op::linear_from_triples));
  m.impl("linear_from_lists", TORCH_BOX(&op::linear_from_lists));
  m.impl("linear_from_pairs", TORCH_BOX(&op::linear_from_pairs));
  m.impl("linear_from_values", TORCH_BOX(&op::linear_from_values));
  m.impl("linear_from_places", TORCH_BOX(&op::linear_from_places));
  m.impl("lists_of_weights_into", TORCH_BOX(&op::lists_of_weights_into));
  m.impl("weight_gradient", TORCH_BOX(&op::weight_gradient));
  m.impl("sparse_linear", TORCH_BOX(&op::sparse_linear));
  m.impl("linear_from_planes", TORCH_BOX(&op::linear_from_planes));
  m.impl("linear_int8", TORCH_BOX(&op::linear_int8));
  m.impl("decode_codes", TORCH_BOX(&op::decode_codes));
  m.impl("pack_mask", TORCH_BOX(&op::pack_mask));
  m.impl("unpack_mask", TORCH_BOX(&op::unpack_mask));
  m.impl("encode_mask", TORCH_BOX(&op::encode_mask));
  m.impl("decode_mask", TORCH_BOX(&op::decode_mask));
}

// What `python -m supermask.info` asks through ctypes: it needs no tensor and no dispatcher.
extern "C" __attribute__((visibility("default"))) const char* supermask_instruction_set() {
  return supermask::kernels().name;
}
