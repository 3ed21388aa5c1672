// Convolutions computed from lists of the kept weights: +σ and -σ, or any with their values beside them.
//
// The lists are of the matrix of outputs by (channel of the group, row, column); supermask/ops/layouts.py has them, and
// conv.h what computes from them.
#include "conv.h"

namespace supermask::op {
namespace {

void check_contiguous(const Tensor& x) {
  check(x.is_cpu() && x.dim() == 4 && x.is_contiguous(),
        "x must be a contiguous tensor of four dimensions on the CPU");
}

struct Lists {
  const int32_t* starts;
  const uint8_t* entries;
};

// Lists of which every block of an output has `each`.
Lists check_lists(const Geometry& g, const Tensor& starts, const Tensor& entries, int64_t each) {
  const int64_t count = each * g.blocks() * g.outputs + 1;
  check(starts.is_cpu() && starts.scalar_type() == ScalarType::Int && starts.is_contiguous() &&
            starts.numel() == count,
        "starts must be a contiguous int32 tensor of ", count, " values on the CPU");
  check(entries.is_cpu() && entries.scalar_type() == ScalarType::Byte && entries.is_contiguous(),
        "entries must be a contiguous uint8 tensor on the CPU");
  const int32_t* first = static_cast<const int32_t*>(starts.data_ptr());
  int descents = 0;  // counted without a way out, which the compiler can vectorize
  for (int64_t i = 0; i + 1 < count; ++i) descents += first[i] > first[i + 1];
  check(first[0] == 0 && first[count - 1] == entries.numel() && descents == 0, "starts do not fit entries");
  static constexpr uint8_t kNone = 0;
  return {first, entries.numel() ? static_cast<const uint8_t*>(entries.data_ptr()) : &kNone};
}

}  // namespace

Tensor conv_from_lists(Tensor x, Tensor starts, Tensor entries, int64_t outputs, Counts kernel, Counts stride,
                       Counts padding, Counts dilation, int64_t groups, double scale,
                       std::optional<Tensor> bias) {
  check_contiguous(x);
  const Geometry g = check_geometry(x, outputs, kernel, stride, padding, dilation, groups);
  const Lists lists = check_lists(g, starts, entries, 2);
  return convolve(g, g.rows_by_channel(), x, static_cast<float>(scale), bias,
                  [&](int64_t wide, const float* panel, int64_t block, int64_t first, int64_t rows, float* sums) {
                    kernels().add_listed[wide - 1](panel, lists.entries, lists.starts + 2 * (block * outputs + first), rows, sums);
                  });
}

Tensor conv_from_values(Tensor x, Tensor starts, Tensor entries, Tensor values, int64_t outputs, Counts kernel,
                        Counts stride, Counts padding, Counts dilation, int64_t groups,
                        std::optional<Tensor> bias) {
  check_contiguous(x);
  const Geometry g = check_geometry(x, outputs, kernel, stride, padding, dilation, groups);
  const Lists lists = check_lists(g, starts, entries, 1);
  const Dtype dtype = check_float(values, "values");
  check((dtype == Dtype::float32 || dtype == Dtype::bfloat16) && values.is_contiguous() && values.dim() == 1 &&
            values.numel() == entries.numel(),
        "values must be a contiguous float32 or bfloat16 tensor with one value for each of the ", entries.numel(),
        " entries");
  const auto run = [&](const auto& kernel, const auto& none) {
    using Value = std::decay_t<decltype(none)>;
    const Value* weights = values.numel() ? static_cast<const Value*>(values.data_ptr()) : &none;
    return convolve(g, g.rows_by_channel(), x, 1.0f, bias,
                    [&](int64_t wide, const float* panel, int64_t block, int64_t first, int64_t rows, float* sums) {
                      kernel.add_weighted[wide - 1](panel, lists.entries, weights, lists.starts + block * outputs + first, rows,
                                                    sums);
                    });
  };
  return dtype == Dtype::float32 ? run(kernels().values_float32, 0.0f)
                                 : run(kernels().values_bfloat16, BFloat16{0});
}

}  // namespace supermask::op
