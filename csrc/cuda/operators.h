// The operators that register.cpp hands to the dispatcher; schemas are in supermask/ops/library.py, meanings in ops/functional.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tensors.h"

namespace supermask::cuda::op {

using Tensors = std::vector<Tensor>;
using Counts = std::vector<int64_t>;

void fill_philox(Tensor out, int64_t key, int64_t start);
void fill_random(Tensor out, int64_t key, int64_t start, std::string scheme, double scale);

Tensors select(Tensors scores, Counts keep);
void select_into(Tensors masks, Tensors scores, Counts keep, Tensor cuts);
Tensors select_global(Tensors scores, int64_t keep);
void rank_into(Tensors masks, Tensors scores, Counts keep, Tensor cuts, bool raw, bool floor);
Tensors select_n_of_m(Tensors scores, int64_t n, int64_t m, bool raw);
void select_n_of_m_into(Tensors masks, Tensors scores, int64_t n, int64_t m, bool raw, Tensor cuts);

Tensors straight_through(Tensors grads, Tensors weights, Tensors scores);
void write_masked(Tensors out, Tensors weights, Tensors masks);
void edge_popup_sgd(Tensors out, Tensors masks, Tensors scores, Tensors velocities, Tensors grads,
                    Tensors weights, Counts keep, Tensor cuts, double lr, double momentum, double dampening,
                    double weight_decay, bool nesterov, std::optional<Tensor> rate, std::optional<Tensor> units);

Tensor pack_mask(Tensor mask);
Tensor unpack_mask(Tensor packed, int64_t numel);

Tensor linear_from_codes(Tensor x, Tensor codes, int64_t outputs, double scale, std::optional<Tensor> bias);
Tensor linear_from_codes_wgmma(Tensor x, Tensor codes, int64_t outputs, double scale, std::optional<Tensor> bias);
Tensor decode_codes(Tensor codes, int64_t outputs, int64_t inputs, double scale, ScalarType dtype);

}  // namespace supermask::cuda::op
