// The operators that register.cpp hands to the dispatcher; schemas are in supermask/ops/library.py, meanings in ops/functional.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tensors.h"

namespace supermask::op {

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
void clear_where(Tensor values, Tensor where);
Tensor units_of_layers(Tensors grads, Tensors sizes, double decay);
void edge_popup_sgd(Tensors out, Tensors masks, Tensors scores, Tensors velocities, Tensors grads,
                    Tensors weights, Counts keep, Tensor cuts, double lr, double momentum, double dampening,
                    double weight_decay, bool nesterov, std::optional<Tensor> rate, std::optional<Tensor> units);
void signed_supermask_sgd(Tensors out, Tensors masks, Tensors scores, Tensors velocities, Tensors grads,
                          Tensors weights, Counts keep, Tensor cuts, double lr, double momentum, double dampening,
                          double weight_decay, bool nesterov, std::optional<Tensor> rate, std::optional<Tensor> units);

Tensor pack_mask(Tensor mask);
Tensor unpack_mask(Tensor packed, int64_t numel);
Tensor encode_mask(Tensor mask);
Tensor decode_mask(Tensor coded, int64_t numel);

Tensor linear_from_triples(Tensor x, Tensor codes, int64_t outputs, double scale,
                           std::optional<Tensor> bias);
Tensor linear_from_lists(Tensor x, Tensor starts, Tensor entries, int64_t outputs, double scale,
                         std::optional<Tensor> bias);
Tensor linear_from_pairs(Tensor x, Tensor starts, Tensor entries, Tensor order, int64_t outputs, double scale,
                         std::optional<Tensor> bias);
Tensor linear_from_values(Tensor x, Tensor masks, Tensor starts, Tensor values, int64_t outputs, double scale,
                          std::optional<Tensor> bias);
Tensor linear_from_places(Tensor x, Tensor starts, Tensor places, Tensor values, int64_t outputs, double scale,
                          std::optional<Tensor> bias);
void lists_of_weights_into(Tensor starts, Tensor entries, Tensor weights, double scale,
                           std::optional<Tensor> turned_starts, std::optional<Tensor> turned_entries);
Tensor weight_gradient(Tensor grad, Tensor x);
Tensor sparse_linear(Tensor x, Tensor weights, bool transposed, std::optional<Tensor> bias);
Tensor linear_from_planes(Tensor x, Tensor planes, int64_t outputs, double scale, std::optional<Tensor> bias);
Tensor linear_int8(Tensor x, Tensor fields, int64_t outputs, double scale, std::optional<Tensor> bias);
Tensor conv_from_lists(Tensor x, Tensor starts, Tensor entries, int64_t outputs, Counts kernel, Counts stride,
                       Counts padding, Counts dilation, int64_t groups, double scale,
                       std::optional<Tensor> bias);
Tensor conv_from_values(Tensor x, Tensor starts, Tensor entries, Tensor values, int64_t outputs, Counts kernel,
                        Counts stride, Counts padding, Counts dilation, int64_t groups,
                        std::optional<Tensor> bias);
Tensor sparse_conv(Tensor x, Tensor weights, Counts stride, Counts padding);
Tensor sparse_conv_input_gradient(Tensor grad, Tensor weights, Counts size, Counts stride, Counts padding);
Tensor conv_weight_gradient(Tensor grad, Tensor x, Counts kernel, Counts stride, Counts padding);

Tensor decode_codes(Tensor codes, int64_t outputs, int64_t inputs, double scale, ScalarType dtype);

}  // namespace supermask::op
